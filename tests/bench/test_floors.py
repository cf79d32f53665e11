"""What makes `make bench` fail, and what does not."""

from __future__ import annotations

import math

import pytest

from bench._floors import PATH, FloorsError, judge, read_floors
from bench._harness import Options, Report, Sample, p50
from bench._questions import questions


def report(*counts: int) -> Report:
    """Make a report whose subject does so much a second, and whose reference does 100."""
    made = Report("append", Options())
    subject, reference = made.add("subject", "event"), made.add("reference", "event")
    for count in counts:
        subject.samples.append(Sample(count=count, wall_s=1.0))
        reference.samples.append(Sample(count=100, wall_s=1.0))
    made.compare("subject / reference", subject, reference, ratio_id="one", at_least=1.0)
    return made


def words(made: Report, floors: str) -> dict[str, tuple[str, bool]]:
    """Judge one report."""
    verdicts = judge([made], read_floors(floors))
    return {verdict.name: (verdict.word, verdict.fails) for verdict in verdicts}


@pytest.mark.parametrize(
    ("counts", "word", "fails"),
    [
        ((150, 100, 40), "reached", False),
        ((150, 90, 40), "falls short", False),
        ((900, 49, 40), "BELOW ITS FLOOR", True),
    ],
)
def test_the_median_of_the_rounds_is_held_against_the_floor(
    counts: tuple[int, ...], word: str, fails: bool
) -> None:
    assert words(report(*counts), "[append]\none = { at_least = 0.5 }") == {
        "append.one": (word, fails)
    }


def test_where_less_is_better_the_floor_is_above() -> None:
    made = Report("append", Options())
    subject, reference = made.add("subject", "event"), made.add("reference", "event")
    subject.samples.append(Sample(count=1, wall_s=1.0, latencies_s=[0.3]))
    reference.samples.append(Sample(count=1, wall_s=1.0, latencies_s=[0.1]))
    made.compare("latency", subject, reference, ratio_id="one", of=p50, at_most=2.0)
    assert words(made, "[append]\none = { at_most = 4 }") == {"append.one": ("falls short", False)}
    assert words(made, "[append]\none = { at_most = 2.5 }") == {
        "append.one": ("BELOW ITS FLOOR", True)
    }


def test_a_ratio_without_a_floor_never_fails() -> None:
    assert words(report(1), "") == {"append.one": ("falls short", False)}


def test_a_floor_that_no_ratio_answers_to_fails() -> None:
    floors = "[append]\nmisspelt = { at_least = 0.5 }"
    assert words(report(100), floors)["append.misspelt"] == ("NOT MEASURED", True)


def test_a_floor_of_another_question_is_not_missed() -> None:
    assert "fanout.one" not in words(report(100), "[fanout]\none = { at_least = 0.5 }")


def test_what_was_skipped_with_a_reason_is_not_missed() -> None:
    made = report(100)
    made.skip("no nats-server", "nats")
    floors = "[append]\nnats = { at_least = 0.5 }"
    assert words(made, floors)["append.nats"] == ("skipped", False)
    assert "no nats-server" in made.table()


def test_a_ratio_that_is_no_number_is_below_its_floor() -> None:
    made = Report("append", Options())
    weight = made.figure("weight", "B")
    weight.rounds += [0.5, math.nan, 0.5]
    made.compare("weight / published", weight, 10_900, ratio_id="one", at_most=1.1)
    assert words(made, "[append]\none = { at_most = 2 }") == {"append.one": ("NOT MEASURED", True)}


def test_a_figure_is_compared_with_a_published_one() -> None:
    made = Report("append", Options())
    weight = made.figure("weight", "B")
    weight.rounds += [5_000, 20_000, 10_000]
    made.compare("weight / published", weight, 10_000, ratio_id="one", at_most=1.0)
    assert made.ratios[0].ratios == [0.5, 2.0, 1.0]
    assert made.ratios[0].holds


def test_two_ratios_of_one_name_are_refused() -> None:
    made = report(100)
    with pytest.raises(ValueError, match="one"):
        made.compare("again", made.series[0], made.series[1], ratio_id="one")


@pytest.mark.parametrize(
    "entry",
    ["0.5", "{ at_least = 'much' }", "{ at_least = 1, at_most = 2 }", "{ above = 1 }", "{}"],
)
def test_a_floor_that_means_nothing_is_refused(entry: str) -> None:
    with pytest.raises(FloorsError, match=r"append\.one"):
        read_floors(f"[append]\none = {entry}")


def test_every_floor_in_the_file_is_of_a_question_that_there_is() -> None:
    assert read_floors(PATH.read_text()).keys() <= questions().keys()


def test_every_question_says_what_it_asks() -> None:
    for name, question in questions().items():
        assert question.says.endswith("?"), f"{name}: {question.says}"


def test_quick_and_full_runs_have_sizes_of_their_own() -> None:
    assert Options().pick(200, quick=2, full=2_000) == 200
    assert Options(quick=True).pick(200, quick=2, full=2_000) == 2
    assert Options(full=True).pick(200, quick=2, full=2_000) == 2_000
    assert Options(full=True).pick(200, quick=2) == 200
