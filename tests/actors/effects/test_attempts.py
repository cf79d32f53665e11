"""What is known of timers that fired: bounded, and forgotten once they are not due any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dalsegno.actors.effects._attempts import Attempts
from dalsegno.actors.ports import DueEntity
from dalsegno.protocol import Limits

START = datetime(2030, 1, 1, tzinfo=UTC)


def due(number: int, seconds: float = 0) -> DueEntity:
    return DueEntity(START + timedelta(seconds=seconds), "w", f"lock:{number}")


def attempts(count_max: int = 3) -> Attempts:
    return Attempts(limits=Limits(timer_tick_s=0.5, timers_stuck_max=count_max))


def test_no_more_are_remembered_than_may_be_however_they_came() -> None:
    known = attempts()
    for number in range(9):
        known.fired(due(number), 0.0)
        known.postpone(due(10 + number), 0.0)
        assert len(known) <= 3
    assert known.may_fire(due(0), 0.0), "forgotten, so tried sooner"
    assert not known.may_fire(due(18), 0.0)


def test_what_moved_nothing_waits_twice_as_long_each_time() -> None:
    known, now = attempts(), 0.0
    for delay_s in (1.0, 2.0, 4.0, 8.0):
        known.fired(due(1), now)
        assert not known.may_fire(due(1), now + delay_s - 0.01)
        now += delay_s
        assert known.may_fire(due(1), now)
    assert known.stuck == 1
    assert known.may_fire(due(1, seconds=5), now), "it has moved"
    assert known.stuck == 0


def test_what_is_not_due_any_more_is_forgotten_and_what_fired_during_the_look_is_not() -> None:
    known = attempts()
    known.fired(due(1), 0.0)
    known.looked_at_everything()
    assert len(known) == 1, "it fired while everything was being looked at"
    known.looked_at_everything()
    assert len(known) == 0
    known.fired(due(2), 0.0)
    known.looked_at_everything()
    known.may_fire(due(2), 0.0)
    known.looked_at_everything()
    assert len(known) == 1, "it is due as before"
