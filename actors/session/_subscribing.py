"""How a subscription begins: who may, from where, and what is said about it.

The order matters.  The reader is registered with the hub first, and only then its role is read: a
revocation before that step is seen by the reading, one after it becomes a barrier (I8).

What has to be looked up in the store is looked up by a bounded number at a time, in order of
arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors.delivery import check_cursor, check_not_ahead, read_length
from dalsegno.actors.ports import CursorKey
from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    RESERVED_WORKSPACES,
    Cursor,
    Reject,
    Subscription,
    check_id,
    check_workspace_id,
    not_found,
    parse_cursor,
)
from dalsegno.protocol.dialects import Begun

from ._streams import ActiveSubscription

if TYPE_CHECKING:
    from dalsegno.actors.delivery import Frontier, Hub
    from dalsegno.actors.ports import Subscriber
    from dalsegno.protocol import DalsegnoError, Frames, Principal, Publication, View
    from dalsegno.protocol.dialects import SubscribeRequest

    from ._context import SessionContext


class Subscribing:
    """Carries out one subscribe request."""

    def __init__(
        self, asked: SubscribeRequest, context: SessionContext, principal: Principal
    ) -> None:
        self.stream_id = asked.stream_id
        self._asked = asked
        self._context = context
        self._principal = principal
        chars_max = context.node.limits.id_chars_max
        check_id(self.stream_id, chars_max=chars_max + 70)
        if asked.client_id is not None:
            check_id(asked.client_id, chars_max=chars_max, what="client id")

    async def open(self, subscriber: Subscriber, *, client_id: str) -> ActiveSubscription:
        """Register, and look up what the first answer says.

        Args:
            subscriber: the holder of the subscription.
            client_id: whose cursor to begin at, unless the message names another client.

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``CURSOR_AHEAD``, ``CURSOR_DIVERGED`` or
                ``BAD_REQUEST``; nothing is left behind.
            StaleCursorError: what follows the cursor is no longer kept (C2).
            WorkspaceMovedError: another node owns the workspace.
            WorkspaceHaltedError: the log needs a repair first.
            UnavailableError: try again.

        """
        context = self._context
        delivery = context.node.delivery
        async with delivery.looking_up():
            workspace_id = await self._home()
            # A stranger neither opens a workspace, nor moves it here, nor learns which node has it.
            if not context.catalog.is_active(workspace_id):
                await self._check_member(workspace_id)
        subscription = Subscription(workspace_id, self.stream_id)
        subscription.view = self._view(subscription)
        dialect = self._asked.dialect
        if dialect.follows_frames or not subscription.is_workspace_stream:
            subscription.frame_view = dialect
        if dialect.tells_presence and subscription.is_workspace_stream:
            subscription.presence_view = dialect
        with context.directory.using(workspace_id) as active:
            await active.wait_open()
            hub = active.hub
            hub.register(subscription, subscriber)
        frontier: Frontier | None = None
        try:
            # Not while the workspace opens: one that hangs would keep others from subscribing.
            async with delivery.looking_up():
                await self._check_member(workspace_id)
                given = None if self._asked.cursor is None else parse_cursor(self._asked.cursor)
                frontier = await context.acks.open(self._key(workspace_id, client_id), hub)
                # Before the head: another connection of the client may move it up at any moment.
                acked = frontier.acked
                head = await self._head(subscription, hub, given)
                start = head if self._asked.from_now else acked
                cursor = given or Cursor(start)
                is_certain = context.node.knows_head(hub)
                check_not_ahead(self.stream_id, cursor.seq, head, is_certain=is_certain)
                chain = await check_cursor(delivery, hub, subscription, cursor)
            subscription.check_not_ended()
        except BaseException:
            hub.unregister(subscription)
            if frontier is not None:
                context.acks.close(frontier)
            raise
        subscription.begin(cursor.seq, head)
        if subscription.presence_view is not None and hub.presence is not None:
            hub.presence.follow()
        return ActiveSubscription(subscription, hub, frontier, head, chain)

    def show(self, stream: ActiveSubscription) -> bytes | None:
        """Show the first answer; the replay follows it."""
        return self._show(stream, stream.head)

    def show_again(self, stream: ActiveSubscription) -> bytes | None:
        """Show the answer to a second subscribe, which changes nothing (X-SUB-7).

        Raises:
            Reject: ``STATE_CONFLICT``: its events come in the form of another dialect.

        """
        subscription = stream.subscription
        if subscription.view is not self._view(subscription):
            raise Reject(
                "STATE_CONFLICT",
                "this connection follows the stream in another dialect: unsubscribe first",
                stream_id=self.stream_id,
            )
        head = max(stream.head, subscription.sent)
        return self._show(stream, stream.hub.head if subscription.is_workspace_stream else head)

    def _show(self, stream: ActiveSubscription, head: int) -> bytes | None:
        subscription = stream.subscription
        begun = Begun(
            workspace_id=subscription.workspace_id,
            stream_id=subscription.stream_id,
            head=head,
            cursor=subscription.start,
            chain=stream.chain,
        )
        return self._asked.dialect.subscribed(self._asked, begun)

    async def check(self) -> None:
        """Raise where there is no such stream, or it may not be followed; see `open`."""
        await self._check_member(await self._home())

    # ------------------------------------------------------------------------------- steps

    def _view(self, subscription: Subscription) -> View:
        return self._context.views.of(
            self._asked.dialect,
            is_workspace_stream=subscription.is_workspace_stream,
            passes=self._asked.passes,
        )

    async def _home(self) -> str:
        """Return the workspace that the stream belongs to."""
        named, catalog = self._asked.workspace_id, self._context.catalog
        kind, _, rest = self.stream_id.partition(":")
        if kind == "workspace":
            if named is not None and named != rest:
                raise Reject("BAD_REQUEST", "stream_id and workspace_id differ")
            if rest == AUDIT_WORKSPACE and self._asked.is_of_audit:
                return rest  # there is one as soon as something is on record
            if rest in RESERVED_WORKSPACES:
                raise Reject("ROLE_FORBIDDEN", "this log is not read from outside")
            check_workspace_id(rest)
            await catalog.check_exists(rest)
            return rest
        if kind not in catalog.domains or not rest:
            raise Reject("BAD_REQUEST", "a stream is workspace:{id} or {entity}:{id}")
        return await catalog.home_of(self.stream_id, named)

    async def _check_member(self, workspace_id: str) -> None:
        try:
            await self._context.catalog.check_member(
                workspace_id, self._principal, stream_id=self.stream_id
            )
        except Reject:
            if self._asked.workspace_id is None and not self.stream_id.startswith("workspace:"):
                raise not_found(self.stream_id, stream_id=self.stream_id) from None  # C22
            raise

    def _key(self, workspace_id: str, client_id: str) -> CursorKey:
        named = self._asked.client_id
        client_id = client_id if named is None else named
        return CursorKey(str(self._principal.user_id), client_id, workspace_id, self.stream_id)

    async def _head(self, subscription: Subscription, hub: Hub, given: Cursor | None) -> int:
        cursor = 0 if given is None else given.seq
        delivery = self._context.node.delivery
        length = await read_length(delivery, hub, subscription, cursor=cursor)
        if length is None:
            raise not_found(self.stream_id, stream_id=self.stream_id)
        return length


class _Trying:
    """A subscriber that takes nothing."""

    def __init__(self, user_id: str | None) -> None:
        self.user_id = user_id

    def offer(self, subscription: Subscription, item: Publication) -> None:
        """Take nothing."""

    def say(self, subscription: Subscription, frames: Frames) -> bool:
        """Take nothing."""
        return False

    def revoked(self, subscription: Subscription) -> None:
        """Take no notice: who really follows will be told."""

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """Take no notice, likewise."""


async def try_to_follow(
    context: SessionContext,
    asked: SubscribeRequest,
    principal: Principal,
    *,
    client_id: str,
) -> int:
    """Begin a subscription and end it at once: what is wrong with it is known before its answer is
    begun.  Return the number after which it would begin.

    Raises:
        Reject: as `Subscribing.open`, and everything else that it raises.

    """
    trying = _Trying(principal.user_id)
    stream = await Subscribing(asked, context, principal).open(trying, client_id=client_id)
    stream.hub.unregister(stream.subscription)
    context.acks.close(stream.frontier)
    return stream.subscription.start


async def check_may_follow(
    context: SessionContext, asked: SubscribeRequest, principal: Principal
) -> None:
    """Raise where somebody may not follow a stream, before they are told that they are connected.

    Raises:
        Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``BAD_REQUEST``.
        UnavailableError: it cannot be looked up now.

    """
    await Subscribing(asked, context, principal).check()
