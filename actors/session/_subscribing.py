"""How a subscription begins: who may, from where, and what is said about it.

The order matters.  The reader is registered with the hub first, and only then its role is read: a
revocation before that step is seen by the reading, one after it becomes a barrier (I8).

What has to be looked up in the store is looked up by so many at a time, in order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dalsegno.actors._service import not_found
from dalsegno.actors.delivery import check_cursor, check_not_ahead, read_length
from dalsegno.actors.ports import CursorKey
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    Cursor,
    Reject,
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

if TYPE_CHECKING:
    from dalsegno.actors._service import Service
    from dalsegno.actors.delivery import Follower, Frontier, Hub
    from dalsegno.protocol import SubscribeWorkspace


@dataclass(slots=True, eq=False)
class Follow:
    """A stream that a connection follows."""

    subscription: Subscription
    hub: Hub
    frontier: Frontier
    head: int
    """The stream's last number when it began."""
    chain: int | None
    """The chain at the cursor it began after; None where that event is not kept any more."""


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

    async def open(self, follower: Follower, *, client_id: str, role: str | None) -> Follow:
        """Register and look up what the first answer says.

        Args:
            follower: whose subscription it will be.
            client_id: whose cursor to begin at, unless the message names another client.
            role: asserted by the host; None where the workspace's log tells it.

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``CURSOR_AHEAD``, ``CURSOR_DIVERGED`` or
                ``BAD_REQUEST``; nothing is left behind.
            StaleCursorError: what follows the cursor is not kept any more (§1.2.5 b).
            WorkspaceMovedError: another node owns the workspace.
            WorkspaceHaltedError: the log needs a repair first.
            UnavailableError: try again.

        """
        delivery = self._service.directory.delivery
        async with delivery.looking_up():
            workspace_id = await self._workspace_id()
            # A stranger neither opens a workspace, nor moves it here, nor hears where it lives.
            if not self._service.directory.is_known(workspace_id):
                await self._check_role(workspace_id, str(follower.user_id), role)
        subscription = Subscription(workspace_id, self.stream_id)
        subscription.view = self._service.views.of(subscription, generic=self._generic)
        with self._service.directory.using(workspace_id) as slot:
            await slot.wait_open()
            hub = slot.hub
            hub.register(subscription, follower)
        key = CursorKey(
            str(follower.user_id), self._client_id(client_id), workspace_id, self.stream_id
        )
        frontier: Frontier | None = None
        try:
            # Not while the workspace opens: one that hangs would keep others from subscribing.
            async with delivery.looking_up():
                await self._check_role(workspace_id, key.user_id, role)
                head = await self._head(subscription, hub)
                frontier = await self._service.acks.open(key)
                cursor = self._cursor(frontier)
                is_certain = self._service.directory.is_certain(hub)
                check_not_ahead(self.stream_id, cursor.seq, head, is_certain=is_certain)
                chain = await check_cursor(delivery, hub, subscription, cursor)
            subscription.check_not_ended()
        except BaseException:
            hub.unregister(subscription)
            if frontier is not None:
                self._service.acks.close(frontier)
            raise
        subscription.begin(cursor.seq, head)
        return Follow(subscription, hub, frontier, head, chain)

    def show(self, follow: Follow) -> bytes:
        """Show the first answer; the replay follows it."""
        return self._show(follow, follow.subscription.start, follow.head)

    def show_again(self, follow: Follow) -> bytes:
        """Show the answer to a second subscribe, which changes nothing (X-SUB-7)."""
        subscription = follow.subscription
        head = follow.hub.head if subscription.whole else max(follow.head, subscription.sent)
        return self._show(follow, subscription.start, head)

    def _show(self, follow: Follow, cursor: int, head: int) -> bytes:
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
                chain=None if follow.chain is None else chain_text(follow.chain),
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

    def _client_id(self, connections: str) -> str:
        return connections if self._said.client_id == "default" else self._said.client_id

    def _cursor(self, frontier: Frontier) -> Cursor:
        given = self._said.cursor
        return Cursor(frontier.acked) if given is None else parse_cursor(given)

    async def _head(self, subscription: Subscription, hub: Hub) -> int:
        length = await read_length(self._service.directory.delivery, hub, subscription)
        if length is None:
            kind = subscription.stream_id.partition(":")[0]
            raise Reject(f"{kind.upper()}_NOT_FOUND", f"no such {kind}", stream_id=self.stream_id)
        return length


def _stream_of(said: SubscribeNote | SubscribeWorkspace | Subscribe) -> str:
    if isinstance(said, Subscribe):
        return said.stream_id
    if isinstance(said, SubscribeNote):
        return f"note:{said.note_id}"
    return workspace_stream(said.workspace_id)
