"""How a subscription begins: who may, from where, and what is said about it.

The order matters.  The reader is registered with the hub first, and only then its role is read: a
revocation before that step is seen by the reading, one after it becomes a barrier (I8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dalsegno.protocol import (
    CHAIN_START,
    SEQ_MAX,
    SYSTEM_WORKSPACE,
    Cursor,
    Reject,
    StaleCursorError,
    Subscribe,
    SubscribeNote,
    Subscription,
    chain_text,
    check_id,
    check_workspace_id,
    message,
    parse_cursor,
    workspace_stream,
)

from ._service import not_found
from ._store import CursorKey

if TYPE_CHECKING:
    from dalsegno.protocol import Event, SubscribeWorkspace

    from ._acks import Frontier
    from ._connection import Connection
    from ._hub import Hub
    from ._service import Service


@dataclass(slots=True, eq=False)
class Follow:
    """A stream that a connection follows."""

    subscription: Subscription
    hub: Hub
    frontier: Frontier
    head: int
    """The stream's last number when it began."""
    chain: int
    """The chain at the cursor it began after."""


class Subscribing:
    """One subscribe message on its way."""

    def __init__(
        self, said: SubscribeNote | SubscribeWorkspace | Subscribe, service: Service
    ) -> None:
        self._said = said
        self._service = service
        self._generic = isinstance(said, Subscribe)
        self.stream_id = _stream_of(said)
        check_id(self.stream_id, chars_max=service.limits.id_chars_max + 70)
        check_id(said.client_id, chars_max=service.limits.id_chars_max, what="client id")

    async def open(self, connection: Connection) -> Follow:
        """Register and look up what the first answer says.

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``CURSOR_AHEAD``, ``CURSOR_DIVERGED`` or
                ``BAD_REQUEST``; nothing is left behind.
            StaleCursorError: what follows the cursor is not kept any more (§1.2.5 b).
            UnavailableError: try again.

        """
        user_id = str(connection.user_id)
        workspace_id = await self._workspace_id()
        slot = self._service.directory.slot(workspace_id)
        await slot.wait_open()
        subscription = Subscription(workspace_id, self.stream_id)
        subscription.view = self._service.views.of(subscription, generic=self._generic)
        slot.hub.register(subscription, connection)
        frontier: Frontier | None = None
        try:
            await self._check_role(workspace_id, user_id, connection.role)
            head = await self._head(subscription, slot.hub)
            key = CursorKey(user_id, self._client_id(connection), workspace_id, self.stream_id)
            frontier = await self._service.acks.open(key)
            cursor = self._cursor(frontier)
            chain = await self._check_cursor(subscription, cursor, head)
        except BaseException:
            slot.hub.unregister(subscription)
            if frontier is not None:
                self._service.acks.close(frontier)
            raise
        subscription.begin(cursor.seq)
        return Follow(subscription, slot.hub, frontier, head, chain)

    def show(self, follow: Follow) -> bytes:
        """Show the first answer; the replay follows it."""
        return self._show(follow, follow.subscription.start, follow.head, follow.chain)

    def show_again(self, follow: Follow) -> bytes:
        """Show the answer to a second subscribe, which changes nothing (X-SUB-7)."""
        subscription = follow.subscription
        head = follow.hub.head if subscription.whole else max(follow.head, subscription.sent)
        return self._show(follow, subscription.start, head, follow.chain)

    def _show(self, follow: Follow, cursor: int, head: int, chain: int) -> bytes:
        said = self._said
        stream_id = follow.subscription.stream_id
        if self._generic:
            return message(
                "subscribed",
                said.request_id,
                stream_id=stream_id,
                workspace_id=follow.subscription.workspace_id,
                head=head,
                cursor=cursor,
                chain=chain_text(chain),
            )
        return message(
            "subscribed",
            said.request_id,
            stream_id=stream_id,
            current_version=head,
            replay_cursor=cursor,
        )

    # ------------------------------------------------------------------------------- steps

    async def _workspace_id(self) -> str:
        named = self._said.workspace_id
        kind, _, rest = self.stream_id.partition(":")
        if kind == "workspace":
            if named is not None and named != rest:
                raise Reject("BAD_REQUEST", "stream_id and workspace_id differ")
            if rest == SYSTEM_WORKSPACE:
                raise Reject("ROLE_FORBIDDEN", "this log is not read from outside")
            check_workspace_id(rest)
            await self._service.check_exists(rest)
            return rest
        if kind not in self._service.domains or not rest:
            raise Reject("BAD_REQUEST", "a stream is workspace:{id} or {entity}:{id}")
        return await self._service.place(self.stream_id, named)

    async def _check_role(self, workspace_id: str, user_id: str, asserted: str | None) -> None:
        if asserted is not None or await self._service.role_of(workspace_id, user_id) is not None:
            return
        if self._said.workspace_id is None and not self.stream_id.startswith("workspace:"):
            raise not_found(self.stream_id)
        raise Reject("ROLE_FORBIDDEN", "not a member", stream_id=self.stream_id)

    def _client_id(self, connection: Connection) -> str:
        return connection.client_id if self._said.client_id == "default" else self._said.client_id

    def _cursor(self, frontier: Frontier) -> Cursor:
        given = self._said.cursor
        return Cursor(frontier.acked) if given is None else parse_cursor(given)

    async def _head(self, subscription: Subscription, hub: Hub) -> int:
        if subscription.whole:
            return hub.head
        versions = await self._service.store.read_versions(
            subscription.workspace_id, [subscription.stream_id]
        )
        if subscription.stream_id not in versions:
            kind = subscription.stream_id.partition(":")[0]
            raise Reject(f"{kind.upper()}_NOT_FOUND", f"no such {kind}", stream_id=self.stream_id)
        return versions[subscription.stream_id]

    async def _check_cursor(self, subscription: Subscription, cursor: Cursor, head: int) -> int:
        """Check that the cursor is of this history; tell the chain there."""
        if cursor.seq > head:
            raise Reject(
                "CURSOR_AHEAD",
                "the stream is not that long",
                stream_id=self.stream_id,
                event_seq=cursor.seq,
                latest_seq=head,
            )
        if cursor.seq == 0:
            chain = CHAIN_START
        else:
            event = await self._event_at(subscription, cursor.seq)
            chain = event.chain
        if cursor.chain is not None and cursor.chain != chain:
            raise Reject(
                "CURSOR_DIVERGED",
                "this cursor is of another history: start again from the state",
                stream_id=self.stream_id,
                cursor=str(cursor),
            )
        return chain

    async def _event_at(self, subscription: Subscription, seq: int) -> Event:
        store = self._service.store
        workspace_id = subscription.workspace_id
        if subscription.whole:
            found = await store.read_events(workspace_id, seq, to_seq=seq, limit=1, bytes_max=1)
        else:
            found = await store.read_stream(
                workspace_id,
                self.stream_id,
                seq,
                to_event_seq=SEQ_MAX,
                limit=1,
                bytes_max=1,
            )
        if not found:
            raise StaleCursorError(
                "what follows this cursor is not kept any more",
                stream_id=self.stream_id,
                requested_cursor=seq,
                recovery="resubscribe_full",
            )
        return found[0]


def _stream_of(said: SubscribeNote | SubscribeWorkspace | Subscribe) -> str:
    if isinstance(said, Subscribe):
        return said.stream_id
    if isinstance(said, SubscribeNote):
        return f"note:{said.note_id}"
    return workspace_stream(said.workspace_id)
