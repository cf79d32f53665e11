"""The writing half of a connection: what its streams offer, and the pages for those behind.

`Writer.offer` and `Writer.reply` are called from the step that publishes a commit: they put things
into the outbox, and `Writer.flush_nowait` writes them there and then if nothing else is being
written.  Only what does not fit starts a task, which writes, and reads pages, until there is
nothing left to do.  So an idle connection is one task, the one that reads.

A stream is *live*, or *behind* and caught up page by page, each in its turn.  It falls behind where
it missed something, and where the outbox is over its bound while the client takes its time.  While
nothing waits here and nothing is behind, its streams are in *cohorts* with those of others, and the
hub writes what is due to all of them straight to the transport (`Readers`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.delivery import read_ahead, read_page
from dalsegno.actors.ports import TransportClosedError
from dalsegno.protocol import (
    Backoff,
    Close,
    DalsegnoError,
    Frames,
    UnavailableError,
    encode,
)

from ._lifecycle import LIFECYCLE, Input, State
from ._outbox import Outbox
from ._streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dalsegno.actors.ports import Transport
    from dalsegno.protocol import Publication, Subscription, View
    from dalsegno.protocol.dialects import Dialect

    from ._context import SessionContext
    from ._streams import ActiveSubscription

_log = logging.getLogger("dalsegno.connection")


class Writer:
    """The writing half of a connection; the subscriber of its streams."""

    __slots__ = (
        "_backoff",
        "_close",
        "_context",
        "_delivery",
        "_dialect",
        "_ending",
        "_is_patient",
        "_limits",
        "_pause",
        "is_held",
        "left_with",
        "nursery",
        "outbox",
        "state",
        "streams",
        "transport",
        "user_id",
    )

    def __init__(
        self,
        transport: Transport,
        context: SessionContext,
        *,
        user_id: str,
        close: Callable[[Close, str], None],
        dialect: Dialect,
    ) -> None:
        limits = context.node.limits
        self.user_id: str | None = user_id
        self.transport = transport
        self.streams = Streams()
        self.outbox = Outbox(bytes_max=limits.outbox_bytes_max, items_max=limits.outbox_items_max)
        self.nursery: trio.Nursery | None = None
        """Where its task runs; None before the connection begins, and once it ends."""
        self.state = State.NEW
        """What the connection is at."""
        self.is_held = False
        """Whether no event is written, until `resume`."""
        self.left_with: int | None = None
        """The code with which a write found the connection closed; None: none did."""
        self._context = context
        self._limits = limits
        self._delivery = context.node.delivery
        self._close = close
        self._dialect = dialect
        """In which it is said that a stream ended."""
        self._is_patient = False
        """Whether what the client has not taken yet is nothing that it has to have."""
        self._ending: tuple[Close, str] | None = None
        """How the connection ends once all is written: its one stream has ended."""
        self._backoff: Backoff | None = None
        """While the store is away."""
        self._pause: trio.CancelScope | None = None
        """Around the wait for the store."""

    def __repr__(self) -> str:
        return f"<Writer {self.state.value}, {len(self.streams.behind)} behind, {self.outbox!r}>"

    def step(self, input_: Input) -> None:
        """Move the connection's state."""
        self.state = LIFECYCLE.step(self.state, input_)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is written."""
        return self.state is State.CLOSING or self.state is State.CLOSED

    @property
    def is_writing(self) -> bool:
        """Whether its task runs."""
        return self.state is State.WRITING or self.state is State.SENDING

    @property
    def is_sending(self) -> bool:
        """Whether it waits for the client to take something."""
        return self.state is State.SENDING

    @property
    def behind(self) -> int:
        """How many streams are to be caught up."""
        return len(self.streams.behind)

    def shut(self) -> None:
        """Write nothing from this step on."""
        self.step(Input.CLOSE)
        for stream in self.streams.values():
            stream.hub.leave_cohort(stream.subscription)
        self.outbox.clear()

    def hold(self) -> None:
        """Write no event from this step on, until `resume`: every stream stays where it is."""
        self.is_held = True
        for stream in self.streams.values():
            stream.hub.leave_cohort(stream.subscription)
            stream.subscription.fall_behind(stream.subscription.sent)
            self.streams.behind[stream.subscription.stream_id] = None
        self._drop()

    def resume(self) -> None:
        """Write events again, each stream's from where it stood."""
        self.is_held = False
        self._delivery.touch(self)

    def release(self) -> None:
        """Leave every stream, for good."""
        self.shut()
        for stream in list(self.streams.values()):
            self.unfollow(stream)
        self._close = _is_closed  # so that no cycle keeps the connection in memory

    def fail(self) -> None:
        """End the connection because of the bug being handled; nobody else is affected (I10)."""
        _log.exception("%r of %s failed", self, self.user_id)
        self._close(Close.INTERNAL, "INTERNAL_ERROR")

    # ----------------------------------------------------------------------------- the streams

    def follow(self, stream: ActiveSubscription, text: bytes | None) -> None:
        """Follow a stream: the text comes first, then what is behind the cursor."""
        self.streams.add(stream)
        self.reply(text)
        self._delivery.touch(self)  # what is behind is read also where nothing was said

    def see(self, stream: ActiveSubscription, view: View) -> None:
        """See a stream otherwise, from the next event on: what waits here stays as it is."""
        stream.hub.leave_cohort(stream.subscription)
        stream.subscription.view = view

    def unfollow(self, stream: ActiveSubscription) -> None:
        """Stop following; nothing of the stream is written after this step."""
        self._leave(stream)
        self.outbox.drop(stream.subscription)

    def _leave(self, stream: ActiveSubscription) -> None:
        self.streams.remove(stream)
        self._context.acks.close(stream.frontier)

    # ------------------------------------------------------------------------------- the hub's

    def offer(self, subscription: Subscription, item: Publication) -> None:
        """Take what is due of a published item into the outbox."""
        if self.is_closed:
            return
        try:
            before, is_writing = subscription.sent, self.is_writing
            due = subscription.offer(item)
            if due is None:
                if not subscription.live:
                    self._lag(subscription)
                return
            view = subscription.view
            assert view is not None, "chosen at subscribe"
            frames = item.frames(view) if due is item.events else encode(due, view)
            if not self.outbox.add(subscription, frames, before):
                subscription.fall_behind(before)
                self._lag(subscription)
            elif is_writing and self.outbox.is_over:
                self._drop()
            self._delivery.touch(self)
        except DalsegnoError as error:
            self.ended(subscription, error)
        except Exception:  # noqa: BLE001 - the publisher must not be affected
            self.fail()

    def say(self, subscription: Subscription, frames: Frames) -> bool:
        """Write what a run says, unless anything else waits to be written here."""
        stream = self.streams.get(subscription.stream_id)
        if stream is None or stream.subscription is not subscription:
            return False  # it was left meanwhile
        if not self.say_now(frames):
            return False
        if self.is_writing:
            stream.hub.leave_cohort(subscription)
        return True

    def say_now(self, frames: Frames) -> bool:
        """Write what is stored nowhere, unless anything else waits to be written here."""
        if self.state is not State.IDLE or self.is_held or not self.outbox.is_empty:
            return False
        try:
            if not self.transport.send_nowait((frames,)):
                self._is_patient = True
                self.write_on()
        except Exception as error:  # noqa: BLE001 - who speaks must not be affected
            self.on_write_error(error)
            return False
        return True

    def _drop(self) -> None:
        """Forget what can be read again, and read it later."""
        for dropped, before in self.outbox.drop_all().items():
            dropped.fall_behind(before)
            self._lag(dropped)

    def _lag(self, subscription: Subscription) -> None:
        if subscription.stream_id in self.streams:  # else it is being subscribed to
            self.streams.behind[subscription.stream_id] = None
            self._delivery.touch(self)

    def revoked(self, subscription: Subscription) -> None:
        """End a subscription whose barrier was reached; one that is behind gets there later."""
        if not subscription.live or self.is_closed:
            return
        if self.is_writing or not self.outbox.can_end_all:
            # What waits could be dropped yet: it is read again, and the stream ends after it.
            first = self.outbox.drop(subscription)
            subscription.fall_behind(subscription.sent if first is None else first)
            self._lag(subscription)
        else:
            self.ended(subscription, subscription.farewell())

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """End one stream, and say why behind those of its events that still go out."""
        stream = self.streams.get(subscription.stream_id)
        if self.is_closed or stream is None or stream.subscription is not subscription:
            return
        self._leave(stream)
        text = self._dialect.error(error, None, stream_id=subscription.stream_id)
        if text is not None:
            self.outbox.end(subscription, Frames((text,)))  # replies go first, so this is none
        if self._dialect.ends_with_stream:
            self._ending = end_of(error)
        self._delivery.touch(self)

    # ----------------------------------------------------------------------------------- writing

    def reply(self, text: bytes | None) -> None:
        """Put a reply into the outbox, and write it unless a commit is being published.

        None is what a dialect has no word for.
        """
        if self.is_closed or text is None:
            return
        outbox = self.outbox
        outbox.reply(text)
        if outbox.replies_bytes > self._limits.replies_bytes_max and outbox.replies > 1:
            self._close(Close.TRY_AGAIN, "replies are not read")
            return
        self._delivery.touch(self)

    def flush_nowait(self) -> None:
        """Write what is due without waiting; a task writes the rest."""
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
            except Exception as error:  # noqa: BLE001 - the publisher must not be affected
                self.on_write_error(error)
                return
        if self._has_ended() or self.is_held:
            return
        if self.streams.behind:
            self.write_on()
        elif has_events:
            self.streams.join_cohorts(self)

    def _has_ended(self) -> bool:
        """End the connection if it was about one stream, of which all is written; return that."""
        if self._ending is None or not self.outbox.is_empty:
            return False
        self._close(*self._ending)
        return True

    def on_write_error(self, error: Exception) -> None:
        """End the connection because of a write whose error is being handled."""
        if isinstance(error, TransportClosedError):
            self._client_left(error)
        else:
            self.fail()

    def _client_left(self, error: TransportClosedError) -> None:
        self.left_with = error.code
        self._close(Close.NORMAL, "the client is gone")

    def leave_cohorts(self, workspace_id: str, stream_ids: Collection[str]) -> None:
        """Be served individually: there is more to write than what is due to all."""
        self.streams.leave_cohorts(workspace_id, stream_ids)

    def left_cohort(self, subscription: Subscription) -> None:
        """Note that a stream has to join again."""
        self.streams.left_cohort(subscription)

    def write_on(self) -> None:
        """Start the task, unless it runs, or the connection ends."""
        if self.nursery is not None and self.state is State.IDLE:
            self.step(Input.WRITE)
            self.outbox.open_channel()
            self.nursery.start_soon(self._write)

    async def _write(self) -> None:
        """Write until there is nothing left to write and nothing is behind."""
        try:
            await self._flush()
            while await self._write_some():
                pass
            self._has_ended()
        except TransportClosedError as error:
            self._client_left(error)
        except trio.TooSlowError:
            self._close(Close.TRY_AGAIN, "too slow")
        except Exception:  # noqa: BLE001 - a fault here ends this connection alone
            self.fail()
        finally:
            self.outbox.close_channel()
            self.step(Input.REST)
        if not self.is_closed:
            self.streams.join_cohorts(self)

    async def _write_some(self) -> bool:
        """Write what waits, or else the next page of a stream that is behind."""
        frames = self.outbox.take()
        if frames:
            await self._send(frames)
            return True
        if not self.streams.behind or self.is_held:
            return False
        stream = self.streams.next_behind()
        if not stream.subscription.live:
            await self._catch_up(stream)
        self.streams.put_last(stream)
        return True

    async def _catch_up(self, stream: ActiveSubscription) -> None:
        subscription = stream.subscription
        frames: Frames | None = None
        before = subscription.sent
        try:
            read = await read_page(self._delivery, stream.hub, subscription)
            if read is not None:
                view = subscription.view  # now: another one holds from what follows the page on
                assert view is not None, "chosen at subscribe"
                page, due = read
                await self._read_ahead(stream)
                frames = page.frames(view) if due is page.events else encode(due, view)
        except UnavailableError:
            await self._wait_store()
            return
        except DalsegnoError as error:
            _log.error("%r: %r: %s", self, subscription, error)
            self.ended(subscription, error)
            return
        self._backoff = None
        if self.is_closed or self.streams.get(subscription.stream_id) is not stream:
            return  # unfollowed meanwhile, and perhaps followed again
        if self.is_held:
            subscription.fall_behind(before)
            return
        if frames is not None:
            await self._send([frames])
        if subscription.live and subscription.last_visible is not None:
            self.ended(subscription, subscription.farewell())

    async def _read_ahead(self, stream: ActiveSubscription) -> None:
        """Start to read the next page while this one is encoded and written."""
        if self.nursery is not None and not stream.subscription.reaches(stream.hub.head):
            self.nursery.start_soon(read_ahead, self._delivery, stream.hub, stream.subscription)
            for _ in range(2):  # the new task may be scheduled after this one the first time
                await trio.lowlevel.checkpoint()

    async def _wait_store(self) -> None:
        """Wait until the store answers again, or there is something else to write."""
        limits, node = self._limits, self._context.node
        if self._backoff is None:
            self._backoff = Backoff(limits.backoff_first_s, limits.backoff_max_s)
        delay_s = self._backoff.next_s(node.world.random())
        if not self.outbox.is_empty:
            return  # it came while the store was asked
        with trio.move_on_after(delay_s) as self._pause:
            await node.wait_store_returned()
        self._pause = None

    async def _send(self, frames: list[Frames]) -> None:
        if not self.transport.send_nowait(frames):
            await self._flush()

    async def _flush(self) -> None:
        """Wait until the client took all; any progress gives it more time for the rest.

        Of what is stored nowhere nobody dies: a client that does not take that is closed when it
        would be for the pong that it owes.
        """
        limits, deadline_s = self._limits, self._limits.write_deadline_s
        if self._is_patient:
            self._is_patient = False
            deadline_s = max(deadline_s, limits.ping_interval_s + limits.pong_deadline_s)
        deadline = trio.current_time() + deadline_s
        self.step(Input.BLOCK)
        try:
            while True:
                with trio.CancelScope(deadline=deadline):
                    await self.transport.flush()
                    return
                deadline = self.transport.last_taken + deadline_s
                if deadline <= trio.current_time():
                    raise trio.TooSlowError
        finally:
            self.step(Input.UNBLOCK)


def end_of(error: DalsegnoError) -> tuple[Close, str]:
    """Return how a connection ends that may not follow what it is about."""
    if isinstance(error, UnavailableError):
        return Close.TRY_AGAIN, error.code
    is_absent = error.code.endswith("_NOT_FOUND")
    return Close.NOT_FOUND if is_absent else Close.FORBIDDEN, error.code


def _is_closed(_code: Close, _reason: str) -> None:
    """Close what is closed already."""
