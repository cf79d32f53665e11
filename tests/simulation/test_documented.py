"""The program in docs/testing.md is run as it is."""

import sys
from pathlib import Path

import pytest

from tests.test_docs import programs, run

TESTING = Path(__file__).parents[2] / "docs" / "testing.md"


@pytest.mark.processes
def test_the_documented_simulation_runs(tmp_path: Path) -> None:
    name, program, _ = programs(TESTING)[0]
    (tmp_path / name).write_text(program)
    assert "6 passed" in run(tmp_path, sys.executable, "-m", "pytest", "-q", name)
