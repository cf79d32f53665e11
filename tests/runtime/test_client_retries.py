"""P14: when a client connects again, and when it does not, by the clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from dalsegno.protocol import Close
from dalsegno.runtime.client import (
    ClientLimits,
    DisconnectedError,
    UnreachableError,
    _client,
    open_client,
)
from dalsegno.runtime.client._link import Link
from dalsegno.runtime.client._policy import Ending
from dalsegno.runtime.seams import WORLD

AWAY = Ending(1006, "refused")
DOUBLING = [0, 1, 3, 7, 15, 31, 61, 91, 121, 151]
"""1, 2, 4, 8, 16 seconds apart, and then 30."""


class Endings:
    """Stands in for connections: each ends at once, in turn and the last way for ever."""

    def __init__(self, *endings: Ending) -> None:
        self.at: list[float] = []
        self._left = list(endings)

    async def converse(
        self, _account: object, *, begin: Callable[[Link], None], **_more: object
    ) -> Ending:
        self.at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


async def connect_until_it_gives_up(
    monkeypatch: pytest.MonkeyPatch,
    endings: Endings,
    *,
    random: float = 1.0,
    limits: ClientLimits | None = None,
    token: Callable[[], Awaitable[str]] | None = None,
) -> BaseException:
    monkeypatch.setattr(_client, "converse", endings.converse)
    world = replace(WORLD, random=lambda: random)
    how: dict[str, Any] = {"cookie": "c=1"} if token is None else {"token": token}
    async with open_client("http://test", **how, world=world, limits=limits) as client:
        with pytest.raises((UnreachableError, DisconnectedError)) as caught:
            await client.send("w", "create_note", {})
    return caught.value


@pytest.mark.parametrize(
    ("random", "at"),
    [
        (1.0, DOUBLING),
        (0.5, [moment / 2 for moment in DOUBLING]),
        (0.0, [0] * 10),
    ],
)
async def test_p14_ten_attempts_with_delays_that_double_up_to_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, random: float, at: list[float]
) -> None:
    """The delay is a random part of that bound: chance keeps clients from coming together."""
    endings = Endings(AWAY)
    error = await connect_until_it_gives_up(monkeypatch, endings, random=random)
    assert isinstance(error, UnreachableError)
    assert endings.at == pytest.approx(at)


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1012, 1013])
async def test_p14_what_may_pass_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, code: int
) -> None:
    """Also where the server sent nothing before, so that nothing says that it will work."""
    endings = Endings(Ending(code, was_open=True))
    error = await connect_until_it_gives_up(monkeypatch, endings)
    assert isinstance(error, UnreachableError)
    assert endings.at == pytest.approx(DOUBLING)


@pytest.mark.parametrize("attempts_max", [1, 2, 4])
async def test_p14_how_many_attempts_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, attempts_max: int
) -> None:
    endings = Endings(AWAY)
    limits = ClientLimits(attempts_max=attempts_max)
    await connect_until_it_gives_up(monkeypatch, endings, limits=limits)
    assert endings.at == pytest.approx(DOUBLING[:attempts_max])


async def test_p14_a_connection_that_worked_starts_the_delays_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    worked = Ending(1011, was_open=True, was_useful=True)
    endings = Endings(AWAY, AWAY, AWAY, worked, AWAY)
    await connect_until_it_gives_up(monkeypatch, endings)
    again = [7 + moment for moment in DOUBLING]
    assert endings.at == pytest.approx([0, 1, 3, *again])


@pytest.mark.parametrize("was_useful", [False, True])
@pytest.mark.parametrize("code", [Close.POLICY, Close.UNAUTHORIZED, Close.FORBIDDEN, 4008])
async def test_p14_after_a_no_there_is_no_other_attempt(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, code: int, was_useful: bool
) -> None:
    endings = Endings(Ending(code, was_open=True, was_useful=was_useful))
    error = await connect_until_it_gives_up(monkeypatch, endings)
    assert isinstance(error, DisconnectedError)
    assert error.close_code == code
    assert endings.at == [0]


@pytest.mark.parametrize("code", [Close.POLICY, Close.FORBIDDEN, 4008])
async def test_p14_a_fresh_token_helps_against_no_other_code(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, code: int
) -> None:
    endings = Endings(Ending(code, was_open=True))
    await connect_until_it_gives_up(monkeypatch, endings, token=give)
    assert endings.at == [0]


async def test_p14_4001_is_worth_one_fresh_token_and_no_more(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    calls = 0

    async def count() -> str:
        nonlocal calls
        calls += 1
        return f"token{calls}"

    endings = Endings(Ending(Close.UNAUTHORIZED, was_open=True))
    error = await connect_until_it_gives_up(monkeypatch, endings, token=count)
    assert isinstance(error, DisconnectedError)
    assert error.close_code == Close.UNAUTHORIZED
    assert (endings.at, calls) == ([0, 0], 2)


async def test_p14_a_token_that_worked_may_be_renewed_once_more(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """As often as tokens expire: each connection that worked earns another one."""
    expired = Ending(Close.UNAUTHORIZED, was_open=True, was_useful=True)
    refused = Ending(Close.UNAUTHORIZED, was_open=True)
    endings = Endings(expired, expired, expired, refused)
    await connect_until_it_gives_up(monkeypatch, endings, token=give)
    assert endings.at == [0, 0, 0, 0]


async def give() -> str:
    return "token"
