"""What is on record at a server, followed and exported: for ``dalsegno audit``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.protocol import DalsegnoError, Reject, UnavailableError, WorkspaceMovedError

from ._account import Account, checked_url
from ._errors import UnreachableError, error_of
from ._policy import Attempts, ClientLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dalsegno.actors import World

_log = logging.getLogger("dalsegno.client")


class _Problem(msgspec.Struct):
    code: str
    message: str = ""
    details: dict[str, object] | None = None


class AuditReader:
    """A server's record, for an account of a global owner or admin."""

    def __init__(
        self, url: str, *, email: str, password: str, limits: ClientLimits, world: World
    ) -> None:
        """Make it; nothing is asked yet.

        Raises:
            Reject: ``BAD_URL``.

        """
        server = checked_url(url)
        if server is None:
            raise Reject("BAD_URL", f"{url!r} is not http://HOST:PORT or https://HOST")
        self._account = Account(
            server,
            email=email,
            password=password,
            cookie=None,
            ssl_context=None,
            limits=limits,
        )
        self._attempts = Attempts(limits, world.random)

    def __repr__(self) -> str:
        return f"<AuditReader {self._account!r}>"

    async def export(
        self, query: Mapping[str, str], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Write everything that a query asks for, as it comes.

        Raises:
            Reject: refused, with the server's code.
            UnavailableError: not now.
            UnreachableError: the server does not answer, or has stopped amid it.

        """
        async with self._account.stream("/api/audit/export", query) as response:
            async for data in response.aiter_bytes():
                await write(data)

    async def follow(
        self,
        query: Mapping[str, str],
        show: Callable[[bytes], Awaitable[None]],
        *,
        after: str | None,
    ) -> None:
        """Show each record as the server has it, a JSON document, until cancelled.

        It goes on from the exact record, whatever becomes of the connection.

        Args:
            query: what is asked for.
            show: called with each.
            after: the cursor to begin after; None: the account's last ack; ``head``: from now on.

        Raises:
            DalsegnoError: the server refuses it, or was not reached so often.

        """
        given = query if after is None else {**query, "cursor": after}
        reading = _Reading(show)
        while True:
            try:
                headers = {} if reading.last_id is None else {"last-event-id": reading.last_id}
                async with self._account.stream(
                    "/api/v1/audit/events", given, headers=headers
                ) as response:
                    async for line in response.aiter_lines():
                        await reading.take(line)
                        if reading.has_shown:
                            self._attempts.reset()
                            reading.has_shown = False
                failure: DalsegnoError = UnreachableError("the stream has ended")
            except WorkspaceMovedError as moved:
                self._account.follow(moved.details.get("address"))
                failure = moved
            except (UnavailableError, UnreachableError) as error:
                failure = error
            _log.info("following again: %s", failure)
            await trio.sleep(self._attempts.after(failure))


class _Reading:
    """The lines of an event stream, which the server ends with LF and gives one field each."""

    def __init__(self, show: Callable[[bytes], Awaitable[None]]) -> None:
        self._show = show
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self.last_id: str | None = None
        """Where the reader is: everything up to there was shown, or is not for it."""
        self.has_shown = False

    async def take(self, line: str) -> None:
        """Take a line.

        Raises:
            DalsegnoError: why the server ends the stream.

        """
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif not line:
            await self._end_block()

    async def _end_block(self) -> None:
        event, data = self._event, "\n".join(self._data).encode()
        self._event, self._data = "", []
        if event == "audit_event":
            await self._show(data)
        elif event == "problem":
            said = msgspec.json.decode(data, type=_Problem)
            raise error_of(said.code, said.message, said.details)
        self.has_shown = self.has_shown or self._id is not None
        self.last_id, self._id = self._id or self.last_id, None
