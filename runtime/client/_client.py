"""A client: one connection at a time, and what outlives it.

Commands that wait for their answer and streams that are followed belong to the client, not to the
connection.  On a new connection the commands are said again in their order, under their keys, so
that each takes effect once (I5), and each stream goes on after its last event.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import trio

from dalsegno.protocol import CommandMessage, DalsegnoError, Reject, UnavailableError
from dalsegno.runtime._beside import beside
from dalsegno.runtime._seams import WORLD

from ._account import Account
from ._errors import ClientClosedError, UnreachableError, error_of
from ._events import Events
from ._link import Link, converse
from ._policy import ABNORMAL, ClientLimits, Ending, Retries
from ._wire import (
    UNTRACKED,
    Committed,
    Hidden,
    Refused,
    RemoteEvent,
    Subscribed,
    decode_said,
    encode,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from dalsegno.actors import World

_log = logging.getLogger("dalsegno.client")


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client is doing."""

    is_connected: bool
    connections: int
    """So far."""
    sends_waiting: int
    streams: int


class _Pending:
    """A command that waits for its answer."""

    __slots__ = ("answer", "answered", "message")

    def __init__(self, message: str) -> None:
        self.message = message
        self.answer: Committed | DalsegnoError | None = None
        self.answered = trio.Event()

    def settle(self, answer: Committed | DalsegnoError) -> None:
        self.answer = answer
        self.answered.set()


class Client:
    """A server's workspaces, from anywhere; made by `open_client`."""

    def __init__(
        self,
        account: Account,
        *,
        client_id: str,
        limits: ClientLimits,
        world: World,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.limits = limits
        self._account = account
        self._client_id = client_id
        self._world = world
        self._ssl_context = ssl_context
        self._nursery: trio.Nursery | None = None
        self._link: Link | None = None
        self._connections = 0
        self._retries = Retries(limits, world.random)
        self._may_log_in = True
        self._room = trio.Semaphore(limits.sends_max)
        self._pending: dict[str, _Pending] = {}
        self._streams: dict[str, Events] = {}
        self._error: DalsegnoError | None = None

    def __repr__(self) -> str:
        state = "ended" if self._error else "connected" if self._link else "away"
        return (
            f"<Client of {self._account.url} {state}, {len(self._streams)} streams, "
            f"{len(self._pending)} commands under way>"
        )

    def statistics(self) -> ClientStatistics:
        """Count what there is."""
        return ClientStatistics(
            self._link is not None, self._connections, len(self._pending), len(self._streams)
        )

    # ------------------------------------------------------------------------------- commands

    async def send(
        self,
        workspace_id: str,
        name: str,
        payload: msgspec.Struct | Mapping[str, Any],
        *,
        key: str | None = None,
    ) -> Committed:
        """Ask for a change and wait until it is durable, over as many connections as it takes.

        Cancelled, it may have taken effect, or may yet: send it again with the same ``key``.

        Args:
            workspace_id: where.
            name: the command's, as ``create_note``.
            payload: the command's fields.
            key: an idempotency key, 1 to 256 characters; made up where there is none.

        Raises:
            Reject: refused, with a code; nothing happened.
            UnavailableError: not applied, the last attempt included.
            OutcomeUnknownError: may have been applied; a repeat with the same key tells.
            UnreachableError: no connection; may have been applied.
            DisconnectedError: the server wants nobody to come back; may have been applied.

        """
        message = CommandMessage(
            workspace_id=workspace_id,
            name=name,
            payload=msgspec.Raw(msgspec.json.encode(payload)),
            idempotency_key=self._world.new_id() if key is None else key,
        )
        retries = Retries(self.limits, self._world.random)
        async with self._room:
            while True:
                answer = await self._ask(message)
                if isinstance(answer, Committed):
                    return answer
                if not answer.retryable or isinstance(answer, UnreachableError):
                    raise answer
                await trio.sleep(retries.after(answer))

    async def _ask(self, message: CommandMessage) -> Committed | DalsegnoError:
        self._check_open()
        request_id = self.new_request_id()
        said = msgspec.structs.replace(message, request_id=request_id)
        pending = self._pending[request_id] = _Pending(encode(said))
        if self._link is not None:
            self._link.say(pending.message)
        try:
            await pending.answered.wait()
        finally:
            del self._pending[request_id]
        assert pending.answer is not None, "that is what was waited for"
        return pending.answer

    # -------------------------------------------------------------------------------- streams

    def subscribe(
        self,
        stream_id: str,
        *,
        workspace_id: str | None = None,
        cursor: int | str | None = None,
    ) -> Events:
        """Follow a stream, inside ``async with``.

        Args:
            stream_id: ``workspace:{id}`` or ``{entity}:{id}``.
            workspace_id: needed where an entity's id is not unique among workspaces.
            cursor: after what to begin, a number or an event's ``cursor``; None begins after what
                was acknowledged under this client id.

        """
        return Events(
            self,
            stream_id,
            workspace_id=workspace_id,
            cursor=cursor,
            client_id=self._client_id,
            retries=Retries(self.limits, self._world.random),
        )

    def follow(self, events: Events) -> None:
        """Take part in the connection; for `Events`."""
        self._check_open()
        if self._streams.setdefault(events.stream_id, events) is not events:
            raise trio.BusyResourceError(f"this client follows {events.stream_id} already")
        if self._link is not None:
            events.connected(self._link)

    def unfollow(self, events: Events) -> None:
        """Take no part any more; for `Events`."""
        if self._streams.get(events.stream_id) is events:
            del self._streams[events.stream_id]

    def new_request_id(self) -> str:
        """Name a request."""
        return self._world.new_id()

    # ---------------------------------------------------------------------------- connections

    async def run(self) -> None:
        """Be connected, until that is not wanted or not possible any more."""
        async with trio.open_nursery() as self._nursery:
            try:
                await self._stay_connected()
            except DalsegnoError as error:
                self._fail(error)
            self._nursery.cancel_scope.cancel(reason="there is no connection any more")

    async def aclose(self) -> None:
        """Say what is still to be said, and answer whoever waits; bounded by the caller."""
        self._fail(ClientClosedError("the client was closed"))
        if self._link is not None:
            await self._link.aclose()

    async def _stay_connected(self) -> None:
        while self._error is None:
            ending = await self._connect()
            if self._error is None:
                wait_s = self._consider(ending)
                _log.warning("%s; again in %.1f s", ending, wait_s)
                await trio.sleep(wait_s)

    async def _connect(self) -> Ending:
        if self._account.cookie is None:
            try:
                await self._account.log_in()
            except (UnavailableError, UnreachableError) as error:
                return Ending(ABNORMAL, error.message)
        try:
            return await converse(
                self._account,
                ssl_context=self._ssl_context,
                limits=self.limits,
                begin=self._begin,
                hear=self._hear,
            )
        finally:
            self._link = None
            for events in self._streams.values():
                events.disconnected()

    def _begin(self, link: Link) -> None:
        """Go on where the last connection ended."""
        if self._connections:
            _log.info("connected again")
        self._connections += 1
        self._link = link
        for pending in self._pending.values():
            link.say(pending.message)
        for events in self._streams.values():
            events.connected(link)

    def _consider(self, ending: Ending) -> float:
        """Tell after how long to connect again.

        Raises:
            DalsegnoError: not at all, and this is why.

        """
        if ending.was_useful:
            self._retries.reset()
            self._may_log_in = True
        if ending.is_unauthorized and self._account.can_log_in and self._may_log_in:
            self._may_log_in = False
            self._account.cookie = None
            return 0.0
        if ending.is_final:
            raise ending.as_error()
        if ending.is_invitation:
            return self._retries.at_once()
        return self._retries.after(ending.as_error())

    def _fail(self, error: DalsegnoError) -> None:
        self._error = self._error or error
        for pending in self._pending.values():
            pending.settle(error)
        for events in list(self._streams.values()):
            events.fail(error)

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error

    # -------------------------------------------------------------------------------- hearing

    def _hear(self, text: str) -> None:
        said = decode_said(text)
        if self._link is not None and not isinstance(said, Refused):
            self._link.was_useful = True
        match said:
            case RemoteEvent():
                if (events := self._streams.get(said.stream_id)) is not None:
                    events.take(said, len(text))
            case Committed():
                self._answered(said.request_id, said)
            case Subscribed():
                if (events := self._streams.get(said.stream_id)) is not None:
                    events.subscribed(said)
            case Hidden():
                if (events := self._streams.get(said.stream_id)) is not None:
                    events.skip(said)
            case Refused():
                self._refused(said)

    def _answered(self, request_id: str | None, answer: Committed | DalsegnoError) -> bool:
        pending = self._pending.get(request_id or "")
        if pending is not None:
            pending.settle(answer)
        return pending is not None

    def _refused(self, said: Refused) -> None:
        error = error_of(said.code, said.message, said.details)
        if said.request_id == UNTRACKED:
            self._ack_refused(said)
        elif said.request_id is not None:
            if not self._answered(said.request_id, error):
                self._subscribe_refused(said.request_id, error)
        elif (events := self._streams.get(said.stream_id or "")) is not None:
            events.fail(error)

    def _ack_refused(self, said: Refused) -> None:
        current = (said.details or {}).get("current_cursor")
        events = self._streams.get(said.stream_id or "")
        if events is not None and isinstance(current, int):
            events.ack_refused(current)

    def _subscribe_refused(self, request_id: str, error: DalsegnoError) -> None:
        for events in self._streams.values():
            if events.is_asking(request_id):
                try:
                    if not error.retryable:
                        raise error
                    delay_s = events.retries.after(error)
                except DalsegnoError as last:
                    events.fail(last)
                else:
                    assert self._nursery is not None, "heard from within it"
                    self._nursery.start_soon(_ask_again, events, request_id, delay_s)
                return


async def _ask_again(events: Events, request_id: str, delay_s: float) -> None:
    await trio.sleep(delay_s)
    events.ask_again(request_id)


@asynccontextmanager
async def open_client(
    url: str,
    *,
    email: str | None = None,
    password: str | None = None,
    cookie: str | None = None,
    client_id: str = "default",
    limits: ClientLimits | None = None,
    world: World = WORLD,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """Log in, and be connected for the length of an ``async with``.

    Leaving it says what is still to be said; nothing of the client outlives it.

    Args:
        url: ``http://…`` or ``https://…``, where the server is.
        email: whose account.
        password: its password; kept, to log in again when the session ends.
        cookie: instead of both, the ``Cookie`` header of a session that exists.
        client_id: under which acks are kept: each program that follows streams for the same user
            has its own.
        limits: every bound.
        world: randomness and ids.
        ssl_context: for ``https``; None trusts what the system trusts.

    Raises:
        ValueError: neither credentials nor a cookie are given.
        Reject: ``BAD_URL``; the login is refused: ``INVALID_CREDENTIALS``.
        UnavailableError: the server cannot answer now.
        UnreachableError: it does not answer.

    """
    limits = limits or ClientLimits()
    account = Account(
        _checked(url),
        email=email,
        password=password,
        cookie=cookie,
        ssl_context=ssl_context,
        limits=limits,
    )
    if cookie is None:
        if not account.can_log_in:
            raise ValueError("email and password, or a cookie, are needed")
        await account.log_in()
    client = Client(
        account, client_id=client_id, limits=limits, world=world, ssl_context=ssl_context
    )
    async with beside(client.run):
        try:
            yield client
        finally:
            with trio.move_on_after(limits.close_timeout_s, shield=True):
                await client.aclose()


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Reject("BAD_URL", f"{url!r} is not http://HOST:PORT or https://HOST")
    return url.rstrip("/")
