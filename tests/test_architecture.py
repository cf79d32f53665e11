"""docs/architecture.md is about this tree: its modules, its tests, the ids that the code cites."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PACKAGES = ("protocol", "actors", "runtime")
SOURCES = [
    path for folder in (*PACKAGES, "tests", "bench") for path in (ROOT / folder).rglob("*.py")
]
ID = re.compile(r"\b(X-[A-Z]+-\d+|WS-\d\d|KJ-[A-Z]+-?\d+|RT-\d+|C\d\d?|M[1-8])\b(?!\.)")
ROWS = re.findall(r"^\| (\S+) \| .+ \| `([^`]+)` \|$", SECTIONS["Ids in the code"], re.MULTILINE)


def test_every_id_that_the_code_cites_has_its_row() -> None:
    cited = {
        name
        for source in SOURCES
        if source != Path(__file__)
        for line in source.read_text().splitlines()
        for name in ID.findall(line)
        if not re.search(r"[\"'`\[(]" + re.escape(name) + r"[\"'`\])]", line)
    }
    assert cited - {name for name, _ in ROWS} == set()


def test_every_id_in_a_tests_name_has_its_row() -> None:
    named = {
        f"{kind}-{group}-{number}".upper()
        for source in SOURCES
        for kind, group, number in re.findall(
            r"def test_(?:\w+_)?(x|kj)_([a-z]+)_(\d+)_", source.read_text()
        )
    }
    assert named - {name for name, _ in ROWS} == set()


@cache
def functions_in(path: str) -> frozenset[str]:
    return frozenset(
        re.findall(r"^\s*(?:async )?def (\w+)\(", (ROOT / path).read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize(("name", "test"), ROWS)
def test_the_test_of_an_id_exists(name: str, test: str) -> None:
    path, _, function = test.partition("::")
    assert not function or function in functions_in(path), name


@pytest.mark.parametrize("room", ["session", "node", "workspace", "delivery", "ports"])
def test_a_room_has_the_modules_that_its_line_names(room: str) -> None:
    (line,) = re.findall(rf"^\| `{room}/` \| (.+) \|$", SECTIONS["The house"], re.MULTILINE)
    there = {path.stem for path in (ROOT / "actors" / room).glob("_*.py")} - {"__init__"}
    assert set(re.findall(r"`(_\w+)`", line)) == there


def test_the_protocol_has_the_modules_that_its_table_names() -> None:
    table = SECTIONS["The house"].partition("**`actors/`")[0]
    folder = ROOT / "protocol"
    there = {path.stem for path in [*folder.glob("_*.py"), *folder.glob("*/_*.py")]}
    assert set(re.findall(r"`(_\w+)`", table)) == there - {"__init__"}


def test_every_path_that_is_named_exists() -> None:
    rooms = [ROOT, ROOT / "actors", ROOT / "protocol"]
    for path in re.findall(r"`([a-z]+/[\w/.]+?\.(?:py|sql|md|toml))[`:]", TEXT):
        assert any((room / path).exists() for room in rooms), path


def test_every_class_and_method_that_is_named_exists() -> None:
    page = TEXT.partition("## Ids in the code")[0]
    text = "\n".join(source.read_text() for source in SOURCES if "tests" not in source.parts)
    classes = set(re.findall(r"\bclass (\w+)", text))
    members = set(re.findall(r"(?:\bdef |^    )(\w+)(?:\(|: )", text, re.MULTILINE))
    for owner, member in re.findall(r"`([A-Z]\w*[a-z]\w*)(?:\.(\w+))?`", page):
        assert owner in classes, owner
        assert not member or member in members, f"{owner}.{member}"


def test_every_invariant_has_its_row() -> None:
    rows = re.findall(r"^\| I(\d+) \|", SECTIONS["Invariants"], re.MULTILINE)
    assert [int(row) for row in rows] == [*range(1, 14)]
