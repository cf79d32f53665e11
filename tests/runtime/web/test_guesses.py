"""Wrong guesses delay the next one: of that address, at that account."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from dalsegno.protocol import Limits, RateLimitedError
from dalsegno.runtime.web._guesses import Guesses


@pytest.fixture
def guesses() -> Guesses:
    return Guesses(Limits())


def wait_s(guesses: Guesses, *who: str) -> float:
    """How long the next guess has to wait."""
    try:
        guesses.check(*who)
    except RateLimitedError as error:
        return error.retry_after_s
    return 0.0


async def test_after_five_each_waits_twice_as_long_up_to_a_minute(
    guesses: Guesses, autojump_clock: MockClock
) -> None:
    del autojump_clock
    waited = []
    for _ in range(13):
        guesses.begin("ada", "1.2.3.4")
        delay_s = wait_s(guesses, "ada", "1.2.3.4")
        waited.append(delay_s)
        if delay_s:
            await trio.sleep(delay_s - 0.01)
            with pytest.raises(RateLimitedError) as caught:
                guesses.begin("ada", "1.2.3.4")
            assert caught.value.retry_after_s == pytest.approx(0.01)
            await trio.sleep(0.01)
    assert waited == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_other_addresses_and_other_accounts_do_not_wait(guesses: Guesses) -> None:
    for _ in range(5):
        guesses.begin("ada", "1.2.3.4")
    assert wait_s(guesses, "ada", "1.2.3.4") > 0
    assert wait_s(guesses, "ada", "5.6.7.8") == 0
    assert wait_s(guesses, "bob", "1.2.3.4") == 0
    assert wait_s(guesses, "ada1", ".2.3.4") == 0


async def test_a_refused_guess_counts_nothing(guesses: Guesses) -> None:
    for _ in range(5):
        guesses.begin("ada", "a")
    for _ in range(100):
        with pytest.raises(RateLimitedError):
            guesses.begin("ada", "a")
    assert 0 < wait_s(guesses, "ada", "a") <= 1


async def test_a_guess_counts_from_its_beginning_so_that_many_at_once_are_not_free(
    guesses: Guesses,
) -> None:
    for _ in range(5):
        guesses.begin("ada", "a")  # none of them has an outcome yet
    with pytest.raises(RateLimitedError, match="RATE_LIMITED"):
        guesses.begin("ada", "a")


async def test_a_right_guess_ends_it(guesses: Guesses) -> None:
    for _ in range(5):
        guesses.begin("ada", "a")
    guesses.forget("ada", "a")
    guesses.forget("never", "heard of")
    for _ in range(4):
        guesses.begin("ada", "a")
    assert wait_s(guesses, "ada", "a") == 0


async def test_so_does_a_quarter_of_an_hour_without_one(
    guesses: Guesses, autojump_clock: MockClock
) -> None:
    del autojump_clock
    for _ in range(4):
        guesses.begin("ada", "a")
    await trio.sleep(901)
    for _ in range(4):
        guesses.begin("ada", "a")
    assert wait_s(guesses, "ada", "a") == 0
    await trio.sleep(899)
    guesses.begin("ada", "a")
    assert 0 < wait_s(guesses, "ada", "a") <= 1


async def test_at_its_bound_the_table_forgets_the_pair_heard_of_longest_ago() -> None:
    guesses = Guesses(Limits(guesses_kept_max=3, guesses_free_max=1))
    for name in ("a", "b", "c"):
        guesses.begin(name)
    assert wait_s(guesses, "a") > 0, "which is to be heard of"
    guesses.begin("d")
    assert [wait_s(guesses, name) > 0 for name in ("a", "b", "c", "d")] == [
        True,
        False,
        True,
        True,
    ]
    assert repr(guesses) == "<Guesses: 3 pairs>"


async def test_any_text_can_be_guessed_at(guesses: Guesses) -> None:
    guesses.begin("\ud800" * 10_000, "")
