"""The writing half of a connection: what its streams offer, and the pages for those behind.

`Writer.offer` and `Writer.reply` are called from the step that publishes a commit: they put things
into the outbox, and `Writer.flush_nowait` writes them there and then if nothing else is being
written.  Only what does not fit starts a task, which writes, and reads pages, until there is
nothing left to do.  So an idle connection is one task, the one that reads.

A stream is *live*, or *behind* and caught up page by page, each in its turn.  It falls behind where
it missed something, and where the outbox is over its bound while the client takes its time.  While
nothing waits here and nothing is behind, its streams go *in step* with those of others: the hub
writes what is due to all of them to the transport, and nothing of it comes by here (`Readers`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.delivery import read_ahead, read_page
from dalsegno.actors.ports import TransportClosedError
from dalsegno.protocol import (
    Close,
    DalsegnoError,
    Frames,
    Reject,
    UnavailableError,
    error_message,
)

from ._outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors._service import Service
    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.ports import Transport
    from dalsegno.protocol import Published, Subscription

    from ._subscribing import Follow

_log = logging.getLogger("dalsegno.connection")


class Writer:
    """The writing half of a connection; the follower of its streams."""

    __slots__ = (
        "_behind",
        "_close",
        "_delivery",
        "_failures",
        "_limits",
        "_pause",
        "_service",
        "follows",
        "is_closed",
        "is_sending",
        "is_writing",
        "nursery",
        "outbox",
        "transport",
        "user_id",
    )

    def __init__(
        self,
        transport: Transport,
        service: Service,
        *,
        user_id: str,
        close: Callable[[Close, str], None],
    ) -> None:
        self.user_id: str | None = user_id
        self.transport = transport
        self.follows: dict[str, Follow] = {}
        self.outbox = Outbox(bytes_max=service.limits.outbox_bytes_max)
        self.nursery: trio.Nursery | None = None
        """Where its task runs; None before the connection begins, and once it ends."""
        self.is_closed = False
        """Whether nothing more is written."""
        self.is_writing = False
        """Whether its task runs."""
        self.is_sending = False
        """Whether it waits for the client to take something."""
        self._service = service
        self._limits = service.limits
        self._delivery = service.directory.delivery
        self._close = close
        self._behind: dict[str, None] = {}
        """The streams to be caught up, the next first."""
        self._failures = 0
        self._pause: trio.CancelScope | None = None
        """Around the wait for a store that is away."""

    def __repr__(self) -> str:
        state = "writing" if self.is_writing else "idle"
        return f"<Writer {state}, {len(self._behind)} behind, {self.outbox!r}>"

    @property
    def behind(self) -> int:
        """How many streams are to be caught up."""
        return len(self._behind)

    def shut(self) -> None:
        """Write nothing from this step on."""
        self.is_closed = True
        for follow in self.follows.values():
            follow.hub.part(follow.subscription)
        self.outbox.clear()

    def release(self) -> None:
        """Leave every stream, for good."""
        self.shut()
        for follow in list(self.follows.values()):
            self.unfollow(follow)
        self._close = _is_closed  # so that no cycle keeps the connection in memory

    def fail(self) -> None:
        """End the connection because of the bug being handled; nobody else notices (I10)."""
        _log.exception("%r of %s failed", self, self.user_id)
        self._close(Close.INTERNAL, "INTERNAL_ERROR")

    # ----------------------------------------------------------------------------- the streams

    def follow(self, follow: Follow, text: bytes) -> None:
        """Follow a stream: the text comes first, then what is behind the cursor."""
        stream_id = follow.subscription.stream_id
        self.follows[stream_id] = follow
        self._behind[stream_id] = None
        self.reply(text)

    def unfollow(self, follow: Follow) -> None:
        """Stop following; nothing of the stream is written after this step."""
        self._leave(follow)
        self.outbox.drop(follow.subscription)

    def _leave(self, follow: Follow) -> None:
        del self.follows[follow.subscription.stream_id]
        self._behind.pop(follow.subscription.stream_id, None)
        follow.hub.unregister(follow.subscription)
        self._service.acks.close(follow.frontier)

    # ------------------------------------------------------------------------------- the hub's

    def offer(self, subscription: Subscription, item: Published) -> None:
        """Take what is due of a published item into the outbox."""
        if self.is_closed:
            return
        try:
            before = subscription.sent
            due = subscription.offer(item)
            if due is None:
                if not subscription.live:
                    self._lag(subscription)
                return
            view = subscription.view
            assert view is not None, "chosen at subscribe"
            frames = item.frames(view) if due is item.events else Frames([view(e) for e in due])
            self.outbox.add(subscription, frames, before)
            if self.is_writing and self.outbox.is_over:
                self._drop()
            self._delivery.touch(self)
        except DalsegnoError as error:
            self.ended(subscription, error)
        except Exception:  # noqa: BLE001 - whoever publishes must not notice
            self.fail()

    def _drop(self) -> None:
        """Let go of what can be read again, and read it later."""
        for dropped, before in self.outbox.drop_all().items():
            dropped.fall_behind(before)
            self._lag(dropped)

    def _lag(self, subscription: Subscription) -> None:
        if subscription.stream_id in self.follows:  # else it is being subscribed to
            self._behind[subscription.stream_id] = None
            self._delivery.touch(self)

    def revoked(self, subscription: Subscription) -> None:
        """End a subscription whose barrier was reached; one that is behind gets there later."""
        if not subscription.live or self.is_closed:
            return
        if self.is_writing:
            # What waits could be dropped yet: let it be read again, and end after it.
            first = self.outbox.drop(subscription)
            subscription.fall_behind(subscription.sent if first is None else first)
            self._lag(subscription)
        else:
            self.ended(subscription, Reject("ROLE_FORBIDDEN", "no longer a member"))

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """End one stream, and say why behind those of its events that still go out."""
        follow = self.follows.get(subscription.stream_id)
        if self.is_closed or follow is None or follow.subscription is not subscription:
            return
        self._leave(follow)
        text = error_message(error, None, stream_id=subscription.stream_id)
        self.outbox.end(subscription, Frames((text,)))  # replies go first, so this is none
        self._delivery.touch(self)

    # ----------------------------------------------------------------------------------- writing

    def reply(self, text: bytes) -> None:
        """Put a reply into the outbox, and write it unless a commit is being published."""
        if self.is_closed:
            return
        outbox = self.outbox
        outbox.reply(text)
        if outbox.replies_bytes > self._limits.replies_bytes_max and outbox.replies > 1:
            self._close(Close.TRY_AGAIN, "replies are not read")
            return
        self._delivery.touch(self)

    def flush_nowait(self) -> None:
        """Write what is due as far as that goes without waiting; a task does the rest."""
        if self.is_closed:
            return
        if self.is_writing:
            if self._pause is not None:
                self._pause.cancel(reason="there is something to write")
            return
        has_events = self.outbox.has_events
        frames = self.outbox.take()
        if frames:
            try:
                if not self.transport.send_nowait(frames):
                    self.write_on()
                    return
            except Exception as error:  # noqa: BLE001 - whoever publishes must not notice
                self.broke(error)
                return
        if self._behind:
            self.write_on()
        elif has_events:
            self._step_in()

    def broke(self, error: Exception) -> None:
        """End the connection because of a write whose error is being handled."""
        if isinstance(error, TransportClosedError):
            self._close(Close.NORMAL, "the client is gone")
        else:
            self.fail()

    def _step_in(self) -> None:
        """Go on in step with others, now that nothing waits and nobody is behind."""
        for follow in self.follows.values():
            follow.hub.join(follow.subscription, self)

    def step_out(self, hub: Hub) -> None:
        """Go on by itself at a hub: there is more to write than what others are given."""
        for follow in self.follows.values():
            if follow.hub is hub:
                hub.part(follow.subscription)

    def write_on(self) -> None:
        """Start the task, unless it runs."""
        if self.nursery is not None and not self.is_writing:
            self.is_writing = True
            self.nursery.start_soon(self._write)

    async def _write(self) -> None:
        """Write until there is nothing left to write and nobody is behind."""
        try:
            await self._flush()
            while await self._write_some():
                pass
        except TransportClosedError:
            self._close(Close.NORMAL, "the client is gone")
        except trio.TooSlowError:
            self._close(Close.TRY_AGAIN, "too slow")
        except Exception:  # noqa: BLE001 - a fault here ends this connection alone
            self.fail()
        finally:
            self.is_writing = False
        if not self.is_closed:
            self._step_in()

    async def _write_some(self) -> bool:
        """Write what waits, or else the next page of somebody who is behind."""
        frames = self.outbox.take()
        if frames:
            await self._send(frames)
            return True
        if not self._behind:
            return False
        stream_id = next(iter(self._behind))
        del self._behind[stream_id]
        follow = self.follows[stream_id]
        if not follow.subscription.live:
            await self._catch_up(follow)
        if self.follows.get(stream_id) is follow and not follow.subscription.live:
            self._behind.pop(stream_id, None)
            self._behind[stream_id] = None  # in its turn, behind the others
        return True

    async def _catch_up(self, follow: Follow) -> None:
        subscription = follow.subscription
        view = subscription.view
        assert view is not None, "chosen at subscribe"
        frames: Frames | None = None
        try:
            read = await read_page(self._delivery, follow.hub, subscription)
            if read is not None:
                page, due = read
                await self._read_ahead(follow)
                whole = due is page.events
                frames = page.frames(view) if whole else Frames([view(event) for event in due])
        except UnavailableError:
            await self._wait_store()
            return
        except DalsegnoError as error:
            _log.error("%r: %r: %s", self, subscription, error)
            self.ended(subscription, error)
            return
        self._failures = 0
        if self.follows.get(subscription.stream_id) is not follow:
            return  # unfollowed meanwhile, and perhaps followed again
        if frames is not None:
            await self._send([frames])
        if subscription.live and subscription.last_visible is not None:
            self.ended(subscription, Reject("ROLE_FORBIDDEN", "no longer a member"))

    async def _read_ahead(self, follow: Follow) -> None:
        """Let the next page be read while this one is encoded and written."""
        if self.nursery is not None and not follow.subscription.reaches(follow.hub.head):
            self.nursery.start_soon(read_ahead, self._delivery, follow.hub, follow.subscription)
            for _ in range(2):  # the new task may come after this one, but it comes before that
                await trio.lowlevel.checkpoint()

    async def _wait_store(self) -> None:
        """Wait until the store answers again, or there is something else to write."""
        limits, service = self._limits, self._service
        bound_s = min(limits.backoff_max_s, limits.backoff_first_s * 2**self._failures)
        self._failures = min(self._failures + 1, 32)
        if not self.outbox.is_empty:
            return  # it came while the store was asked
        with trio.move_on_after(bound_s * service.world.random()) as self._pause:
            await service.directory.wait_store_returned()
        self._pause = None

    async def _send(self, frames: list[Frames]) -> None:
        if not self.transport.send_nowait(frames):
            await self._flush()

    async def _flush(self) -> None:
        """Wait until the client took all; whatever it takes gives it more time for the rest."""
        deadline = trio.current_time() + self._limits.write_deadline_s
        self.is_sending = True
        try:
            while True:
                with trio.CancelScope(deadline=deadline):
                    await self.transport.flush()
                    return
                deadline = self.transport.last_taken + self._limits.write_deadline_s
                if deadline <= trio.current_time():
                    raise trio.TooSlowError
        finally:
            self.is_sending = False


def _is_closed(_code: Close, _reason: str) -> None:
    """Close what is closed already."""
