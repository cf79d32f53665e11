"""The checker on histories made at random, and then damaged; and how much work that takes."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import assume, given, strategies as st

from dalsegno.actors.testing import (
    Answered,
    CommandSent,
    Delivered,
    Record,
    Subscribed,
    Verdict,
    Violation,
)
from tests.actors._story import Model, Story, W, head_at, relinked, replaced


@pytest.fixture
def story() -> Story:
    return Story()


# ---------------------------------------------------------------------------------------- at random


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(0, 300))
def test_a_correct_history_has_no_violation(seed: int, steps: int) -> None:
    story = Model(seed).run(steps)
    heads = {W: head_at(len(story.log), story.log[-1].chain if story.log else 0)}
    assert story.check(heads=heads, seen_within_s=0) == []


@dataclass
class Damage:
    """A change to a history or a log, and what may be found of it."""

    apply: Callable[[Story, random.Random], bool]
    found: set[Verdict]


def _pick(story: Story, chance: random.Random, kind: type, *, least: int = 1) -> list[int]:
    """Pick positions of records of a kind, next to each other in their subscription if several."""
    at = [number for number, record in enumerate(story.history) if isinstance(record, kind)]
    if kind is Delivered and least == 2:
        by: dict[str, int] = {}
        pairs = []
        for number in at:
            name = story.history[number].subscription  # type: ignore[union-attr]  # deliveries
            if name in by:
                pairs.append([by[name], number])
            by[name] = number
        return chance.choice(pairs) if pairs else []
    return [chance.choice(at)] if at else []


def _drop_delivery(story: Story, chance: random.Random) -> bool:
    at = _pick(story, chance, Delivered)
    for number in at:
        del story.history[number]
    return bool(at)


def _repeat_delivery(story: Story, chance: random.Random) -> bool:
    at = _pick(story, chance, Delivered)
    for number in at:
        story.history.insert(number, story.history[number])
    return bool(at)


def _swap_deliveries(story: Story, chance: random.Random) -> bool:
    at = _pick(story, chance, Delivered, least=2)
    if at:
        one, other = at
        story.history[one], story.history[other] = story.history[other], story.history[one]
    return bool(at)


def _change_delivery(story: Story, chance: random.Random) -> bool:
    at = _pick(story, chance, Delivered)
    for number in at:
        story.history[number] = _with(story.history[number], payload="another")
    return bool(at)


def _lose_event(story: Story, chance: random.Random) -> bool:
    if len(story.log) < 2:
        return False
    del story.log[chance.randrange(len(story.log) - 1)]  # the last may be one that no client saw
    return True


def _repeat_event(story: Story, chance: random.Random) -> bool:
    if not story.log:
        return False
    event = chance.choice(story.log)
    versions = sum(one.stream_id == event.stream_id for one in story.log)
    story.log.append(
        replaced(
            event,
            event_seq=len(story.log) + 1,
            stream_seq=versions + 1,
            event_id="again",
            command_id="again",
            recorded_at=story.log[-1].recorded_at,
        )
    )
    story.log[:] = relinked(story.log)
    return True


def _lie_about_answer(
    outcome: str, new: dict[str, object]
) -> Callable[[Story, random.Random], bool]:
    def apply(story: Story, chance: random.Random) -> bool:
        sent = {record.op for record in story.history if isinstance(record, CommandSent)}
        at = [
            number
            for number, record in enumerate(story.history)
            if isinstance(record, Answered) and record.outcome == outcome and record.op in sent
        ]
        if at:
            number = chance.choice(at)
            story.history[number] = _with(story.history[number], **new)
        return bool(at)

    return apply


def _with(record: Record, **fields: object) -> Record:
    return msgspec.structs.replace(record, **fields)


DAMAGES = {
    "a delivery is dropped": Damage(_drop_delivery, {Verdict.GAP, Verdict.UNSEEN}),
    "a delivery is repeated": Damage(_repeat_delivery, {Verdict.STEP_BACK}),
    "two deliveries are swapped": Damage(_swap_deliveries, {Verdict.GAP}),
    "a delivery is changed": Damage(_change_delivery, {Verdict.INCONSISTENT_OFFSET}),
    "an event is lost": Damage(
        _lose_event, {Verdict.LOG_GAP, Verdict.LOST_WRITE, Verdict.ABORTED_READ}
    ),
    "an event is there again": Damage(_repeat_event, {Verdict.DUPLICATE}),
    "a receipt is wrong": Damage(
        _lie_about_answer("ok", {"event_seq": 10**6}), {Verdict.WRONG_RECEIPT}
    ),
    "a failure was none": Damage(
        _lie_about_answer("fail", {"outcome": "ok"}), {Verdict.LOST_WRITE}
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
@given(SEEDS)
def test_a_damaged_history_is_found_out(name: str, seed: int) -> None:
    story = Model(seed).run(120)
    damage = DAMAGES[name]
    # The loss of the last delivery to a client that left cannot be detected.
    last = {
        record.subscription: record for record in story.history if isinstance(record, Delivered)
    }
    before = list(story.history)
    assume(damage.apply(story, random.Random(seed)))
    gone = [record for record in before if record not in story.history]
    assume(not any(record is last.get(getattr(record, "subscription", "")) for record in gone))
    assert damage.found & set(story.verdicts()), name


# ------------------------------------------------------------------------------------------- linear


def _calls(story: Story) -> int:
    """Count the calls that a check takes: a measure of work that does not depend on the machine."""
    count = 0

    def tell(_frame: object, kind: str, _argument: object) -> None:
        nonlocal count
        count += kind in {"call", "c_call"}

    sys.setprofile(tell)
    try:
        found: list[Violation] = story.check(seen_within_s=0)
    finally:
        sys.setprofile(None)
    assert found == []
    return count


def test_the_work_grows_as_the_history_does() -> None:
    small, large = Model(1).run(400), Model(1).run(4_000)
    records = [len(story.history) + len(story.log) for story in (small, large)]
    calls = [_calls(story) for story in (small, large)]
    assert records[1] > 8 * records[0]
    assert calls[1] / calls[0] < 1.3 * records[1] / records[0]


def test_findings_come_in_an_order_that_is_always_the_same() -> None:
    story = Model(5).run(300)
    del story.log[::3]
    first, again = story.check(), story.check()
    assert first == again
    assert len(first) > 10
    assert any(isinstance(record, Subscribed) for one in first for record in one.exhibits)
