"""Commands that wait for their answers, and are sent again on every new connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.protocol import WorkspaceMovedError

from ._errors import UnreachableError
from ._policy import Attempts
from ._wire import Committed, encode

if TYPE_CHECKING:
    from dalsegno.actors import World
    from dalsegno.protocol import CommandMessage, DalsegnoError

    from ._link import Link
    from ._policy import ClientLimits


class _Pending:
    """A command that waits for its answer."""

    __slots__ = ("answer", "answered", "link", "message")

    def __init__(self, message: str) -> None:
        self.message = message
        self.answer: Committed | DalsegnoError | None = None
        self.answered = trio.Event()
        self.link: Link | None = None
        """The connection on which it was answered."""

    def settle(self, answer: Committed | DalsegnoError, link: Link | None) -> None:
        self.answer = answer
        self.link = link
        self.answered.set()


class Sends:
    """The commands of a client that wait for their answers, in their order."""

    def __init__(self, limits: ClientLimits, world: World) -> None:
        self._limits = limits
        self._world = world
        self._room = trio.Semaphore(limits.sends_max)
        self._pending: dict[str, _Pending] = {}
        self._link: Link | None = None
        self._connected = trio.Event()
        self._error: DalsegnoError | None = None

    @property
    def waiting(self) -> int:
        """How many commands wait for their answers."""
        return len(self._pending)

    async def send(self, message: CommandMessage) -> Committed:
        """Send a command, again if it may have been lost; see `Client.send`."""
        attempts = Attempts(self._limits, self._world.random)
        async with self._room:
            while True:
                answer, link = await self._ask(message)
                if isinstance(answer, Committed):
                    return answer
                if not answer.retryable or isinstance(answer, UnreachableError):
                    raise answer
                with trio.move_on_after(attempts.after(answer)):
                    if isinstance(answer, WorkspaceMovedError):
                        await self._wait_other_than(link)
                    else:
                        await trio.sleep_forever()

    async def _wait_other_than(self, link: Link | None) -> None:
        """Wait for another connection, which may lead to the right node."""
        while self._link is link or self._link is None:
            await self._connected.wait()

    def connected(self, link: Link) -> None:
        """Send every waiting command on a new connection."""
        self._link = link
        self._connected.set()
        self._connected = trio.Event()
        for pending in self._pending.values():
            link.say(pending.message)

    def disconnected(self) -> None:
        """Wait for the next connection."""
        self._link = None

    def answered(self, request_id: str | None, answer: Committed | DalsegnoError) -> bool:
        """Hand an answer over; return False if no command waits for it."""
        pending = self._pending.get(request_id or "")
        if pending is not None:
            pending.settle(answer, self._link)
        return pending is not None

    def fail(self, error: DalsegnoError) -> None:
        """Fail all commands, present and future: there will be no further connection."""
        self._error = error
        for pending in self._pending.values():
            pending.settle(error, None)

    async def _ask(self, message: CommandMessage) -> tuple[Committed | DalsegnoError, Link | None]:
        """Send a command until it is answered; return the answer and the connection it came by."""
        if self._error is not None:
            return self._error, None
        request_id = self._world.new_id()
        said = msgspec.structs.replace(message, request_id=request_id)
        pending = self._pending[request_id] = _Pending(encode(said))
        if self._link is not None:
            self._link.say(pending.message)
        try:
            await pending.answered.wait()
        finally:
            del self._pending[request_id]
        assert pending.answer is not None, "set before `answered`"
        return pending.answer, pending.link
