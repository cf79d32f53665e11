"""One call at a time, whose outcome everybody gets who asked for it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class _Flight:
    """A call that is under way."""

    __slots__ = ("error", "has_returned", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.has_returned = False
        self.error: Exception | None = None


class SingleFlight:
    """Calls a function once for any number of tasks that need it done at the same time.

    The task that came first calls; the others wait.  Where that one is cancelled in the middle, the
    next of them calls again.
    """

    def __init__(self, call: Callable[[], Awaitable[None]]) -> None:
        self._call = call
        self._flight: _Flight | None = None

    async def __call__(self) -> None:
        """Return once a call that was under way, or else a new one, has returned.

        Raises:
            Exception: what the call raised; all that waited for it get the same.

        """
        while (flight := self._flight) is not None:
            await flight.over.wait()
            if flight.error is not None:
                raise flight.error
            if flight.has_returned:
                return
        flight = self._flight = _Flight()
        try:
            await self._call()
        except Exception as error:
            flight.error = error
            raise
        else:
            flight.has_returned = True
        finally:
            self._flight = None
            flight.over.set()
