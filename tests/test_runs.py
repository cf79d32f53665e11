"""How a run is put together: budgets, deadlines, and skips where nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests._budgets import Budgets
from tests._patience import patient, slowness
from tests._workers import unit_of

ROOT = Path(__file__).parents[1]
BUDGETS = Budgets.read()


@pytest.mark.parametrize("name", BUDGETS.seconds)
def test_a_file_with_a_budget_exists(name: str) -> None:
    assert (ROOT / name).is_file()


def took(node_id: str, seconds: float) -> pytest.TestReport:
    return pytest.TestReport(
        node_id, ("", 0, ""), {}, "passed", None, "call", duration=seconds * slowness()
    )


def test_a_file_over_its_budget_is_named() -> None:
    budgets = Budgets({"tests/a.py": 3})
    reports = [took("tests/a.py::one", 2), took("tests/a.py::two", 2), took("tests/b.py::one", 0.9)]
    (line,) = budgets.exceeded(reports)
    assert line.startswith("tests/a.py took ")
    assert budgets.exceeded(reports[:1]) == []


def test_the_tests_of_the_system_run_one_at_a_time() -> None:
    first, second = "tests/system/test_a.py::one", "tests/system/test_b.py::one"
    assert unit_of(first) == unit_of(second)
    assert unit_of("tests/wire/test_a.py::one") == "tests/wire/test_a.py"
    assert unit_of("tests/system/test_tail.py::one") == "tests/system/test_tail.py"
    budgets = Budgets({"tests/system/test_a.py": 3, "tests/system/test_b.py": 4})
    assert budgets.of_unit(first) == 7


def test_a_deadline_is_never_shorter_than_on_the_reference_machine() -> None:
    assert patient(3) >= 3


# ------------------------------------------------------------------------- runs within the run


def run(folder: Path, test: str, **environment: str) -> tuple[int, str]:
    """Run a test of its own under our rules; return the exit code and what was printed."""
    (folder / "test_it.py").write_text(test)
    without = {name: value for name, value in os.environ.items() if name != "DALSEGNO_TEST_ALL"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest", folder],
        cwd=ROOT,
        env=without | environment,
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    return ended.returncode, ended.stdout


@pytest.mark.processes
def test_a_skip_is_named_and_a_failure_where_everything_has_to_run(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.skipif(True, reason='no curl')\ndef test_it(): pass\n"
    code, printed = run(tmp_path, test)
    assert code == 0
    assert "no curl" in printed
    code, printed = run(tmp_path, test, DALSEGNO_TEST_ALL="1")
    assert code == 1
    assert "no curl" in printed


@pytest.mark.processes
def test_only_marked_tests_start_processes(tmp_path: Path) -> None:
    test = "import subprocess\ndef test_it(): subprocess.run(['true'])\n"
    code, printed = run(tmp_path, test)
    assert code == 1
    assert "marked with `processes`" in printed
    marked = test.replace("def", "import pytest\n@pytest.mark.processes\ndef")
    assert run(tmp_path, marked)[0] == 0
