"""Accepting connections, also in a process that is out of descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from dalsegno.protocol import Backoff
from dalsegno.runtime.resources import EXHAUSTED, SpareDescriptor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = structlog.get_logger("dalsegno.listener")

_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0
_REFUSING_S = 0.25
"""How long the spare descriptor may serve one client: others wait for it."""


async def accept_from(
    listener: trio.abc.Listener[trio.SocketStream],
    admit: Callable[[trio.SocketStream], Awaitable[None]],
    turn_away: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    """Hand each connection of a listener to ``admit``, until cancelled; close the listener.

    Out of descriptors, it goes on after a wait, and meanwhile hands those that come to
    ``turn_away``, one after the other, on the descriptor that was kept for it.
    """
    backoff, spare = Backoff(_BACKOFF_FIRST_S, _BACKOFF_MAX_S), SpareDescriptor()
    try:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in EXHAUSTED:
                        raise
                    retry_s = backoff.next_s(1.0)  # one listener: there is no herd to spread
                    _log.warning("accept_failed", error=str(error), retry_s=retry_s)
                    until = trio.current_time() + retry_s
                    if spare.free():
                        await _refuse_until(until, listener, turn_away)
                    await trio.sleep_until(until)
                    spare.keep()
                else:
                    backoff.reset()
                    await admit(stream)
    finally:
        spare.free()


async def _refuse_until(
    until: float,
    listener: trio.abc.Listener[trio.SocketStream],
    turn_away: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    """Accept and refuse for so long, or until something else took the descriptor."""
    while True:
        stream = None
        try:
            with trio.move_on_at(until):
                stream = await listener.accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
        if stream is None:
            return
        with trio.move_on_after(_REFUSING_S):
            await turn_away(stream)
