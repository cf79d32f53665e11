"""How often something may happen: so often at once, and on average in a time."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import Buckets, DomainError, Rate, Spent

MINUTE = Rate(name="m", times=60, window_s=60.0)


def test_after_a_rest_so_many_may_happen_at_once_and_then_one_after_the_other() -> None:
    buckets = Buckets(9)

    def wait_s(key: str, now: float, rate: Rate = MINUTE) -> float:
        return buckets.spend(rate, key, now).wait_s

    assert [wait_s("a", 100.0) for _ in range(60)] == [0.0] * 60
    assert wait_s("a", 100.0) == pytest.approx(1.0)
    assert wait_s("a", 100.75) == pytest.approx(0.25), "that was not counted"
    assert wait_s("a", 101.0) == 0.0
    assert wait_s("a", 101.5) > 0.0
    assert wait_s("b", 101.5) == 0.0, "each key by itself"
    assert wait_s("a", 101.5, Rate(name="n")) == 0.0, "and each rate"
    assert [wait_s("a", 300.0) for _ in range(61)].count(0.0) == 60
    assert repr(buckets) == "<Buckets, 3 of them>"


def test_it_tells_what_is_left_and_when_all_of_it_is_there_again() -> None:
    buckets = Buckets(9)
    rate = Rate(name="r", times=3, window_s=60.0)
    spent = [buckets.spend(rate, "a", 0.0) for _ in range(4)]
    assert [each.left for each in spent] == [2, 1, 0, 0]
    assert [each.full_in_s for each in spent] == [20.0, 40.0, 60.0, 60.0]
    assert [each.wait_s for each in spent] == [0.0, 0.0, 0.0, 20.0]
    assert buckets.spend(rate, "a", 45.0) == Spent(0.0, 1, 35.0)


def test_a_clock_that_steps_back_keeps_nobody_out_for_longer_than_it_would() -> None:
    buckets = Buckets(9)
    for _ in range(60):
        buckets.spend(MINUTE, "a", 10_000.0)
    assert buckets.spend(MINUTE, "a", 100.0).wait_s == pytest.approx(1.0)
    assert buckets.spend(MINUTE, "a", 101.0).wait_s == 0.0


def test_above_the_bound_the_one_that_was_counted_longest_ago_begins_anew() -> None:
    once = Rate(name="o", times=1)
    buckets = Buckets(2)
    for key in ("a", "b", "a"):
        buckets.spend(once, key, 0.0)
    buckets.spend(once, "c", 0.0)
    assert buckets.spend(once, "a", 0.0).wait_s > 0
    assert buckets.spend(once, "b", 0.0).wait_s == 0


@given(
    st.integers(1, 50),
    st.floats(0.5, 100),
    st.lists(st.floats(0, 20), min_size=1, max_size=200),
)
def test_in_no_window_more_than_twice_as_many_happen_and_who_waits_may(
    times: int, window_s: float, pauses: list[float]
) -> None:
    rate = Rate(name="r", times=times, window_s=window_s)
    now, until, happened = 0.0, None, []
    for pause in pauses:
        now += pause
        until, wait_s = rate.spend(until, now)
        if wait_s == 0:
            happened.append(now)
        else:
            assert 0 < wait_s <= window_s + 1e-6
            assert rate.spend(until, now + wait_s)[1] == 0
    for first in happened:
        assert sum(first <= each < first + window_s for each in happened) <= 2 * times


def test_what_is_no_rate_is_refused() -> None:
    for wrong in ({"times": 0}, {"window_s": 0.0}, {"name": ""}, {"name": 'a"b'}, {"name": "ä"}):
        with pytest.raises(DomainError):
            Rate(**{"name": "r", **wrong})  # type: ignore[arg-type]
