"""Staying connected beyond a token: the next one is shown in time, on the same connection.

The server says how long a token is good for, so that no clock is compared (`authenticated`).  Where
that comes to an end before another token is found, it closes the connection, and where it refuses
the next one the client does: then another begins as after any end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Authenticate, DalsegnoError

from ._wire import RENEWING, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._account import Account

_SHARE = 0.8
"""How much of a token's life passes before the next is asked for …"""
_SPREAD = 0.1
"""… or so much less, so that clients that came together do not ask together."""
_PAUSE_S = 0.25
"""At least so long between two questions: a program may give the same token again and again."""


class Renewal:
    """Shows a connection's tokens, the next before the last one expires."""

    def __init__(
        self, account: Account, say: Callable[[str], None], random: Callable[[], float]
    ) -> None:
        self._account = account
        self._say = say
        self._random = random
        self._lasts_s: float | None = None
        self._heard = trio.Event()

    def heard(self, expires_in_ms: int | None) -> None:
        """Take what the server says of the token: how long it is good for; None: for good."""
        self._lasts_s = None if expires_in_ms is None else expires_in_ms / 1000
        self._heard.set()

    async def run(self) -> None:
        """Show tokens until cancelled, which the end of the connection does."""
        self._show()
        while True:
            await self._heard.wait()
            self._heard = trio.Event()
            if self._lasts_s is None:
                continue
            share = _SHARE - _SPREAD * self._random()
            await trio.sleep(max(self._lasts_s * share, _PAUSE_S))
            await self._renew(self._lasts_s * (1 - share) / 4)
            self._show()

    async def _renew(self, pause_s: float) -> None:
        """Get the next token, however often the program has to be asked."""
        while True:
            try:
                await self._account.log_in()
            except DalsegnoError:
                await trio.sleep(max(pause_s, _PAUSE_S))
            else:
                return

    def _show(self) -> None:
        self._say(encode(Authenticate(token=self._account.token, request_id=RENEWING)))
