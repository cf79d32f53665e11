"""One row a question for two Pythons, and what the second one is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench._beside import Beside, arguments, row
from bench._harness import Options
from bench._questions import Question, questions

ACKS = Question("acks")


def answered(*ratios: float | None, ratio_id: str = "over-pings") -> dict[str, Any]:
    """Write an answer as a question's JSON file has it."""
    return {"ratios": [{"id": ratio_id, "says": "  acks / pings", "ratios": list(ratios)}]}


def last_line(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Return the words of a table's only row."""
    beside = Beside("python3.13", "3.13.0", [row(ACKS, here, there)])
    return beside.table().splitlines()[-1].split()


def test_a_row_has_the_headline_of_both_with_its_span() -> None:
    words = last_line(answered(2.0, 4.0, 3.0), answered(5.0, 1.0, 6.0))
    assert words == [
        "acks.over-pings",
        "acks",
        "/",
        "pings",
        "3.00",
        "2.00…4.00",
        "5.00",
        "1.00…6.00",
    ]


def test_what_was_not_measured_there_is_left_empty() -> None:
    expected = ["acks.over-pings", "acks", "/", "pings", "3.00", "3.00…3.00"]
    assert last_line(answered(3.0), answered(1.0, ratio_id="another")) == expected
    assert last_line(answered(3.0), {"ratios": []}) == expected


def test_a_round_without_a_ratio_leaves_no_median() -> None:
    made = row(ACKS, answered(3.0, 3.0), answered(1.0, None))
    assert made.as_json()["there"] == [1.0, None]
    assert made.cells()[4:] == ["", ""]


@pytest.mark.parametrize("size", ["quick", "full"])
def test_the_other_python_is_asked_with_the_same_options(size: str) -> None:
    options = Options(rounds=3, seconds=0.2, seed=7, into=Path("there"), **{size: True})
    line = ["-m", "bench", "acks", "--into", "there", "--rounds", "3", "--seconds", "0.2"]
    assert arguments("acks", options) == [*line, "--seed", "7", f"--{size}"]


def test_every_question_has_a_headline() -> None:
    assert [name for name, question in questions().items() if not question.headline] == []
