"""A client: one connection at a time, and what outlives it.

Commands that wait for their answer and subscriptions belong to the client, not to the connection.
On a new connection the commands are sent again in their order, under their keys, so that each takes
effect once (I5), and each stream continues after its last event.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
import trio

from dalsegno.protocol import (
    CommandMessage,
    DalsegnoError,
    UnavailableError,
    WorkspaceMovedError,
)

from ._account import Account
from ._errors import ClientClosedError, NoTokenError, UnreachableError, UnsafeAddressError, error_of
from ._events import Events
from ._link import Link, converse
from ._policy import ABNORMAL, Attempts, ClientLimits, Ending, Retries
from ._presence import Presence
from ._renewal import Renewal
from ._sends import Sends
from ._stream import Stream
from ._wire import (
    RENEWING,
    UNTRACKED,
    Authenticated,
    Committed,
    Hidden,
    PresenceChanged,
    PresenceEnded,
    PresenceListed,
    Reconnect,
    Refused,
    RemoteEvent,
    Spoken,
    Subscribed,
    decode_said,
)
from ._workspace import RemoteWorkspace, names_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from dalsegno.actors import World
    from dalsegno.protocol import App

    from ._stream import Place

_log = logging.getLogger("dalsegno.client")


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """The state of a client in numbers."""

    is_connected: bool
    connections: int
    """How many there have been so far."""
    sends_waiting: int
    streams: int


class Client:
    """A server's workspaces for a remote program; opened by `open_client`."""

    def __init__(
        self,
        account: Account,
        *,
        client_id: str,
        limits: ClientLimits,
        world: World,
        ssl_context: ssl.SSLContext | None,
        app: App | None = None,
    ) -> None:
        self.limits = limits
        self._names = {} if app is None else names_of(app)
        self._account = account
        self._client_id = client_id
        # It comes back as who it was: to the server it is one tab, over all of its connections.
        self._query = urlencode({"batch": "1", "client_id": client_id, "tab": world.new_id()})
        self._world = world
        self._ssl_context = ssl_context
        self._nursery: trio.Nursery | None = None
        self._link: Link | None = None
        self._renewal: Renewal | None = None
        """What keeps the connection beyond its token; None where no token is asked for."""
        self._connections = 0
        self._retries = Retries(limits, world.random)
        # A workspace on another node is looked for at once, and then ever more slowly: each node is
        # tried soon, and a client of workspaces on several nodes does not alternate all the time.
        looks = replace(limits, backoff_first_s=limits.at_once_s)
        self._looks = Retries(looks, world.random)
        self._may_log_in = True
        self._shown = account.header
        """What the last attempt to connect showed."""
        self._sends = Sends(limits, world)
        self._streams: dict[str, Stream] = {}
        self._presences: dict[str, Presence] = {}
        self._error: DalsegnoError | None = None

    def __repr__(self) -> str:
        state = "ended" if self._error else "connected" if self._link else "disconnected"
        return (
            f"<Client of {self._account.url} {state}, {len(self._streams)} streams, "
            f"{self._sends.waiting} commands waiting>"
        )

    def statistics(self) -> ClientStatistics:
        """Count connections, commands and streams."""
        return ClientStatistics(
            self._link is not None, self._connections, self._sends.waiting, len(self._streams)
        )

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, or there will be no further connection."""
        return self._error is not None

    # ----------------------------------------------------------------------------- workspaces

    def workspace(self, workspace_id: str) -> RemoteWorkspace:
        """Return a handle of a workspace, typed by the app that the client was opened with."""
        return RemoteWorkspace(self, workspace_id, self._names)

    async def ask(self, path: str, query: Mapping[str, str]) -> bytes:
        """Read something over HTTP, as who the client is.

        Raises:
            Reject: refused, with a code.
            UnavailableError: not now.
            UnreachableError: the server does not answer.

        """
        self._check_open()
        return await self._account.get(path, query)

    # ------------------------------------------------------------------------------- commands

    async def send(
        self,
        workspace_id: str,
        name: str,
        payload: msgspec.Struct | Mapping[str, Any],
        *,
        key: str | None = None,
    ) -> Committed:
        """Send a command and wait until its change is durable, over as many connections as needed.

        Cancelled, it may have taken effect, or may yet: send it again with the same ``key``.

        Args:
            workspace_id: the workspace.
            name: the command's name, such as ``create_note``.
            payload: the command's fields.
            key: an idempotency key, 1 to 256 characters; None generates one.

        Raises:
            Reject: refused, with a code; nothing happened.
            UnavailableError: not applied, by the last attempt either.
            OutcomeUnknownError: may have been applied; repeat it with the same key to find out.
            UnreachableError: no connection; may have been applied.
            DisconnectedError: the server refuses further connections; may have been applied.

        """
        self._check_open()
        message = CommandMessage(
            workspace_id=workspace_id,
            name=name,
            payload=msgspec.Raw(msgspec.json.encode(payload)),
            idempotency_key=self._world.new_id() if key is None else key,
        )
        return await self._sends.send(message)

    # -------------------------------------------------------------------------------- streams

    def subscribe(
        self,
        stream_id: str,
        *,
        workspace_id: str | None = None,
        cursor: int | str | None = None,
        hears: Callable[[dict[str, Any]], None] | None = None,
    ) -> Events:
        """Subscribe to a stream, inside ``async with``.

        Args:
            stream_id: ``workspace:{id}`` or ``{entity}:{id}``.
            workspace_id: needed if an entity's id is not unique among workspaces.
            cursor: where to begin, after a number or an event's ``cursor``; None begins after what
                was acknowledged under this client id.
            hears: called with what a run says, the messages ``frame`` and ``tail`` as they are on
                the wire, when they arrive: before events that the loop has yet to take, which
                `Transcript.hear` allows for.  An exception of it is logged.

        """
        return Events(self._new_stream(stream_id, workspace_id, cursor, hears))

    def attach(self, stream_id: str, *, cursor: int) -> tuple[Stream, Place]:
        """Join a stream that is followed already, or follow it after a cursor; for `Follow`.

        Its acks wait for no such loop.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.has_ended:
            stream = self._new_stream(stream_id, None, cursor)
        return stream, stream.join(is_acking=False)

    def is_following(self, stream_id: str) -> bool:
        """Return whether there is a stream to join."""
        return stream_id in self._streams and not self._streams[stream_id].has_ended

    def attempts(self) -> Attempts:
        """Return a count of failures in a row, for whatever asks by itself."""
        return Attempts(self.limits, self._world.random)

    def _new_stream(
        self,
        stream_id: str,
        workspace_id: str | None,
        cursor: int | str | None,
        hears: Callable[[dict[str, Any]], None] | None = None,
    ) -> Stream:
        return Stream(
            self,
            stream_id,
            workspace_id=workspace_id,
            cursor=cursor,
            client_id=self._client_id,
            attempts=self.attempts(),
            hears=hears,
        )

    def follow(self, stream: Stream) -> None:
        """Include a stream in the connection; for `Stream`."""
        self._check_open()
        known = self._streams.get(stream.stream_id)
        if known is not None and not known.has_ended:
            message = f"this client follows {stream.stream_id} already; `share` its loop"
            raise trio.BusyResourceError(message)
        self._streams[stream.stream_id] = stream
        if self._link is not None:
            stream.connected(self._link)

    def unfollow(self, stream: Stream) -> None:
        """Remove a stream from the connection; for `Stream`."""
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]

    def new_request_id(self) -> str:
        """Return an id for a request."""
        return self._world.new_id()

    # ------------------------------------------------------------------------------- presence

    def presence(self, workspace_id: str, state: Any = None) -> Presence:  # noqa: ANN401 - JSON
        """Be present in a workspace, and see who else is, inside ``async with``.

        Args:
            workspace_id: the workspace.
            state: what this program says of itself: any JSON of ``limits.state_bytes_max``.

        Raises:
            Reject: ``BAD_REQUEST``: the state is longer.

        """
        return Presence(self, workspace_id, state, self.attempts(), self.limits)

    def attend(self, presence: Presence) -> None:
        """Be present on the connections; for `Presence`."""
        self._check_open()
        if presence.workspace_id in self._presences:
            raise trio.BusyResourceError(f"this client is present in {presence.workspace_id}")
        self._presences[presence.workspace_id] = presence
        if self._link is not None:
            presence.connected(self._link)

    def absent(self, presence: Presence) -> None:
        """Be present no longer; for `Presence`."""
        if self._presences.get(presence.workspace_id) is presence:
            del self._presences[presence.workspace_id]

    # ---------------------------------------------------------------------------- connections

    async def run(self) -> None:
        """Keep a connection until the client is closed or none is possible."""
        async with trio.open_nursery() as self._nursery:
            try:
                await self._stay_connected()
            except DalsegnoError as error:
                self._fail(error)
            self._nursery.cancel_scope.cancel(reason="the client has ended")

    async def aclose(self) -> None:
        """Fail what waits, and send what is queued; the caller bounds it."""
        self._fail(ClientClosedError("the client was closed"))
        if self._link is not None:
            await self._link.aclose()

    async def _stay_connected(self) -> None:
        while self._error is None:
            ending = await self._connect()
            if self._error is None:
                wait_s = self._consider(ending)
                if not ending.was_left:  # else why was said when it was decided
                    _log.warning("%s; again in %.1f s", ending, wait_s)
                await trio.sleep(wait_s)

    async def _connect(self) -> Ending:
        while self._account.needs_login:
            try:
                await self._account.log_in()
            except NoTokenError as error:
                return Ending(ABNORMAL, error.message, error=error)
            except (UnavailableError, UnreachableError) as error:
                return Ending(ABNORMAL, error.message)
            except DalsegnoError as error:
                if not self._account.is_away:
                    raise
                return Ending(ABNORMAL, error.message)
        self._shown = self._account.header
        try:
            ending = await converse(
                self._account,
                ssl_context=self._ssl_context,
                limits=self.limits,
                query=self._query,
                begin=self._begin,
                hear=self._hear,
            )
            if ending.was_useful and not ending.was_left:
                self._looks.reset()
            return ending
        finally:
            self._link = self._renewal = None
            self._sends.disconnected()
            for each in self._lasting():
                each.disconnected()

    def _begin(self, link: Link) -> Renewal | None:
        """Continue where the last connection ended."""
        if self._connections:
            where = f"to {self._account.url}" if self._account.is_away else "again"
            _log.info("connected %s", where)
        self._connections += 1
        self._link = link
        self._sends.connected(link)
        for each in self._lasting():
            each.connected(link)
        if self._account.is_by_token:
            self._renewal = Renewal(self._account, link.say, self._world.random)
        return self._renewal

    def _consider(self, ending: Ending) -> float:
        """Return after how many seconds to connect again.

        Raises:
            DalsegnoError: there will be no further connection, for this reason.

        """
        if ending.was_useful:
            self._retries.reset()
            self._may_log_in = True
        if ending.is_unauthorized and self._account.can_log_in and self._may_log_in:
            self._may_log_in = False
            self._account.forget(self._shown)
            return 0.0
        if not ending.was_open and self._account.is_away:
            # Perhaps it has just died.  Whoever knew its address knows best who follows.
            self._account.go_home()
            return self._looks.again()
        if ending.is_final:
            raise ending.as_error()
        if ending.slot_s is not None:
            return min(ending.slot_s, self.limits.slot_max_s)
        if ending.is_invitation:
            return self._retries.at_once()
        return self._retries.after(ending.as_error())

    def _fail(self, error: DalsegnoError) -> None:
        self._error = self._error or error
        self._sends.fail(error)
        for each in self._lasting():
            each.fail(error)

    def _lasting(self) -> list[Stream | Presence]:
        """Return what outlives the connections."""
        return [*self._streams.values(), *self._presences.values()]

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error

    # ------------------------------------------------------------------------------- messages

    def _hear(self, text: str) -> None:
        said = decode_said(text)
        if self._link is not None and not isinstance(said, Refused):
            self._link.was_useful = True
        match said:
            case RemoteEvent():
                if (stream := self._streams.get(said.stream_id)) is not None:
                    stream.take(said, len(text))
            case Committed():
                self._sends.answered(said.request_id, said)
            case Subscribed():
                if (stream := self._streams.get(said.stream_id)) is not None:
                    stream.subscribed(said)
            case Hidden():
                if (stream := self._streams.get(said.stream_id)) is not None:
                    stream.skip(said)
            case Spoken():
                if (stream := self._streams.get(said.stream_id)) is not None:
                    stream.hear(said)
            case PresenceListed() | PresenceChanged() | PresenceEnded():
                if (presence := self._presences.get(said.workspace_id)) is not None:
                    self._hear_presence(presence, said)
            case Reconnect():
                if self._link is not None:
                    self._link.slot_s = said.after_ms / 1000
            case Authenticated():
                if self._renewal is not None:
                    self._renewal.heard(said.expires_in_ms)
            case Refused():
                self._refused(said)

    def _hear_presence(
        self, presence: Presence, said: PresenceListed | PresenceChanged | PresenceEnded
    ) -> None:
        match said:
            case PresenceListed():
                presence.listed(said)
            case PresenceChanged():
                presence.changed(said)
            case PresenceEnded():
                error = error_of(said.code, said.message, said.details)
                if isinstance(error, WorkspaceMovedError):
                    error = self._look_elsewhere(error)
                self._presence_refused(presence, error)

    def _presence_refused(self, presence: Presence, error: DalsegnoError) -> None:
        delay_s = presence.refused(error)
        if delay_s is not None:
            self._begin_task(_attend_again, presence, delay_s)

    def _refused(self, said: Refused) -> None:
        error = error_of(said.code, said.message, said.details)
        if isinstance(error, WorkspaceMovedError):
            error = self._look_elsewhere(error)
        if said.request_id == UNTRACKED:
            self._ack_refused(said)
        elif said.request_id == RENEWING:
            # What does not know of renewals is stayed with until it ends.
            if self._link is not None and said.code in {"TOKEN_EXPIRED", "TOKEN_INVALID"}:
                self._link.leave()
        elif said.request_id is not None:
            if not self._sends.answered(said.request_id, error):
                self._subscribe_refused(said.request_id, error)
        elif (stream := self._streams.get(said.stream_id or "")) is not None:
            self._stream_ended(stream, error)

    def _ack_refused(self, said: Refused) -> None:
        current = (said.details or {}).get("current_cursor")
        stream = self._streams.get(said.stream_id or "")
        if stream is not None and isinstance(current, int):
            stream.ack_refused(current)

    def _subscribe_refused(self, request_id: str, error: DalsegnoError) -> None:
        for stream in self._streams.values():
            if stream.is_asking(request_id):
                try:
                    if not error.retryable:
                        raise error
                    delay_s = stream.attempts.after(error)
                except DalsegnoError as last:
                    stream.fail(last)
                else:
                    if not isinstance(error, WorkspaceMovedError):  # a new connection asks
                        self._begin_task(_ask_again, stream, request_id, delay_s)
                return
        for presence in self._presences.values():
            if presence.is_asking(request_id):
                self._presence_refused(presence, error)
                return

    def _stream_ended(self, stream: Stream, error: DalsegnoError) -> None:
        """Handle the server's end of a stream that was live."""
        if isinstance(error, WorkspaceMovedError):
            stream.moved()
        else:
            stream.fail(error)

    def _look_elsewhere(self, moved: WorkspaceMovedError) -> DalsegnoError:
        """Leave this connection, once, for the owner's address or another way to the owner.

        Returns:
            What whoever asked for the workspace gets: that its owner is elsewhere, and where.

        """
        address = moved.details.get("address")
        where = f"at {address}" if address is not None else "which gives no address"
        moved.message = f"{moved.message}: node {moved.owner!r}, {where}"
        link = self._link
        if link is None or link.is_elsewhere:
            return moved
        try:
            has_address = self._account.follow(address)
        except UnsafeAddressError as error:
            return error
        link.is_elsewhere = True
        delay_s = self._looks.again()
        what = "going there" if has_address else "asking again"
        _log.warning("%s; %s in %.1f s", moved.message, what, delay_s)
        self._begin_task(_leave, link, delay_s)
        return moved

    def _begin_task(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        assert self._nursery is not None, "messages arrive while it is open"
        self._nursery.start_soon(task, *arguments)


async def _ask_again(stream: Stream, request_id: str, delay_s: float) -> None:
    await trio.sleep(delay_s)
    stream.ask_again(request_id)


async def _attend_again(presence: Presence, delay_s: float) -> None:
    await trio.sleep(delay_s)
    presence.ask()


async def _leave(link: Link, delay_s: float) -> None:
    await trio.sleep(delay_s)
    link.leave()
