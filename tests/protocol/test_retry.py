"""Delays that double below a bound, and failures that add up only within a window."""

from __future__ import annotations

from hypothesis import given, strategies as st

from dalsegno.protocol import Backoff, FailureWindow


def test_the_bound_doubles_up_to_the_largest_and_begins_anew() -> None:
    backoff = Backoff(0.05, 1.0)
    assert [backoff.next_s(1.0) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert backoff.failures == 7
    assert "7 failures" in repr(backoff)
    backoff.reset()
    assert backoff.next_s(1.0) == 0.05


@given(random=st.floats(0, 1, exclude_max=True), failures=st.integers(1, 5_000))
def test_a_delay_is_somewhere_below_the_bound(random: float, failures: int) -> None:
    backoff = Backoff(0.05, 30.0)
    backoff.failures = failures - 1
    assert 0 <= backoff.next_s(random) <= min(0.05 * 2.0 ** min(failures - 1, 50), 30.0)
    assert backoff.failures == failures


def test_failures_are_too_many_only_within_the_window() -> None:
    window = FailureWindow(2, 10.0)
    assert [window.add(at) for at in (0.0, 5.0, 10.0)] == [False, False, True]
    assert len(window) == 3
    assert [window.add(at) for at in (25.0, 30.0)] == [False, False]
    assert window.add(31.0)
    assert window.add(32.0), "and it stays so while they come"


@given(st.lists(st.floats(0, 100), max_size=30).map(sorted), st.integers(0, 5))
def test_a_window_counts_as_a_list_of_all_failures_would(times: list[float], most: int) -> None:
    window = FailureWindow(most, 10.0)
    for index, now in enumerate(times):
        recent = [at for at in times[: index + 1] if at >= now - 10.0]
        assert window.add(now) == (len(recent) > most)
