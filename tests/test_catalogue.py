"""The table of faults in README.md names tests, and each of them exists."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", (HERE / "README.md").read_text())))


def test_every_numbered_fault_has_its_row() -> None:
    rows = re.findall(r"^\| FI-(\d+) ", (HERE / "README.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == [*range(1, 15)]
    assert len(NAMED) > 30


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_the_named_test_exists(module: str, name: str) -> None:
    tree = ast.parse((HERE / module).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}
