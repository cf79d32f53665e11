"""One client: its subscriptions, its commands, its acks, and what is still to be written to it.

The reading task takes one message after the other.  Commands are handed to their workspaces and
answered by callback, so a client may have many under way; everything else is done before the next
message is read.

Output is of two kinds.  *Replies* cannot be read again: they keep their order, go first, and past
their bound the connection is closed.  *Events* can be read again: past the outbox's bound they are
dropped and their subscriptions fall behind, to be caught up page by page from the store.

`Connection.offer` and `Connection.reply` are called from the step that publishes a commit: they
put things into the outbox, and `Connection.flush_nowait` writes them there and then if nothing
else is being written.  Only what does not fit starts a task, which writes, and reads pages, until
there is nothing left to do.  So an idle connection is one task.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import (
    Ack,
    ApplyPatch,
    Close,
    CommandMessage,
    DalsegnoError,
    Frames,
    Ping,
    Reject,
    Subscribe,
    SubscribeNote,
    SubscribeWorkspace,
    UnavailableError,
    Unsubscribe,
    UnsubscribeNote,
    UnsubscribeWorkspace,
    decode_message,
    error_message,
    message,
    request_id_of,
)

from ._catch_up import read_page
from ._submit import Submission
from ._subscribing import Follow, Subscribing
from ._transport import TransportClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from dalsegno.protocol import AnyMessage, Published, Subscription

    from ._command import Receipt
    from ._service import Service
    from ._transport import Transport

_log = logging.getLogger("dalsegno.connection")

_COMMANDS = (CommandMessage, ApplyPatch)


class Connection:
    """One client's connection, over any transport."""

    def __init__(
        self,
        transport: Transport,
        service: Service,
        *,
        user_id: str,
        session_id: bytes = b"",
        client_id: str = "default",
        role: str | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        self.user_id: str | None = user_id
        self.session_id = session_id
        """Whose end closes this connection; empty where there is none."""
        self.client_id = client_id
        self.role = role
        """Asserted by the host; None where the workspaces' logs tell it."""
        self._expires_at = expires_at
        self._last_beat = trio.current_time()
        self._pinged_at: float | None = None
        self.transport = transport
        self._service = service
        self._limits = service.limits
        self._follows: dict[str, Follow] = {}
        self._replies: deque[bytes] = deque()
        self._replies_bytes = 0
        self._events: deque[tuple[Subscription, Frames, int]] = deque()
        self._events_bytes = 0
        self._pending = 0
        self._room = trio.lowlevel.ParkingLot()
        self._is_writing = False
        self._is_behind = False
        """Whether some subscription may have to be caught up."""
        self._closing: tuple[Close, str] | None = None
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        state = "closing" if self._closing else "writing" if self._is_writing else "idle"
        return (
            f"<Connection of {self.user_id} {state}, {len(self._follows)} subscriptions, "
            f"{self._events_bytes + self._replies_bytes} bytes to write>"
        )

    # -------------------------------------------------------------------------------- life

    async def run(self, check: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve the client until either side ends it.

        Args:
            check: raises a `DalsegnoError` where the client's session has ended.  It is asked once
                `Service.close_session` finds this connection, so no end slips in between.

        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._service.connections[self] = None
                if self._closing is not None:
                    nursery.cancel_scope.cancel(reason="closed before it began")
                try:
                    await self._read_on(check)
                except TransportClosedError:
                    pass
                except Exception:  # noqa: BLE001 - a fault here ends this connection alone
                    self._fail()
                finally:
                    # Not a step later: a nursery takes no task any more while its block is left,
                    # and whoever publishes in that moment must not be the one to hear of it.
                    self._nursery = None
                    nursery.cancel_scope.cancel(reason="the connection ends")
        finally:
            self._service.connections.pop(self, None)
            self._closing = self._closing or (Close.NORMAL, "")
            for follow in list(self._follows.values()):
                self._end(follow)
            await self._say_goodbye()

    def close(self, code: Close, reason: str) -> None:
        """End the connection: from this step on, nothing more is written but the close."""
        if self._closing is None:
            self._closing = (code, reason)
            self._replies.clear()
            self._events.clear()
            self._replies_bytes = self._events_bytes = 0
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel(reason=reason)

    def _fail(self) -> None:
        """End the connection because of the bug being handled; nobody else notices (I10)."""
        _log.exception("%r failed", self)
        self.close(Close.INTERNAL, "INTERNAL_ERROR")

    async def _say_goodbye(self) -> None:
        code, reason = self._closing or (Close.NORMAL, "")
        with trio.move_on_after(self._limits.close_deadline_s, shield=True) as scope:
            await self.transport.aclose(code, reason)
        if scope.cancelled_caught:
            self.transport.abort()

    # ----------------------------------------------------------------------------- reading

    async def _read_on(self, check: Callable[[], Awaitable[None]] | None) -> None:
        if check is not None:
            try:
                await check()
            except DalsegnoError as error:
                self.close(Close.UNAUTHORIZED, error.code)
                return
        read = 0
        while True:
            received = await self.transport.receive()
            read += 1
            if read % self._limits.offers_per_yield == 0:
                await trio.lowlevel.checkpoint()  # a transport hands out what came at once at once
            while self._pending >= self._limits.replies_pending_max:
                await self._room.park()
            if isinstance(received, bytes):
                refusal = Reject("BAD_REQUEST", "binary payloads are unsupported")
                self.reply(error_message(refusal, None))
                continue
            try:
                said = decode_message(received, self._limits)
            except DalsegnoError as error:
                self.reply(error_message(error, request_id_of(received)))
                continue
            if isinstance(said, _COMMANDS):
                await self._submit(Submission(said, self._service))
                continue
            try:
                await self._act(said)
            except DalsegnoError as error:
                self.reply(error_message(error, said.request_id))

    async def _act(self, said: AnyMessage) -> None:
        """Do what is asked, if it is no command."""
        match said:
            case Ack():
                self._ack(said)
            case SubscribeNote() | SubscribeWorkspace() | Subscribe():
                await self._subscribe(Subscribing(said, self._service))
            case UnsubscribeNote() | UnsubscribeWorkspace() | Unsubscribe():
                self._unsubscribe(said)
            case Ping():
                self.reply(message("pong", said.request_id, server_ts=self._service.world.now()))

    async def _submit(self, submission: Submission) -> None:
        try:
            command = await submission.make(
                user_id=str(self.user_id), role=self.role, reply=self._answered(submission)
            )
            slot = self._service.directory.slot(command.workspace_id)
            self._pending += 1
            try:
                await slot.admit(command)
            except BaseException:
                self._pending -= 1
                raise
        except DalsegnoError as error:
            self.reply(submission.show(error))

    def _answered(self, submission: Submission) -> Callable[[Receipt | DalsegnoError], None]:
        def reply(answer: Receipt | DalsegnoError) -> None:
            self._pending -= 1
            if self._room:
                self._room.unpark()
            try:
                self.reply(submission.show(answer))
            except Exception:  # noqa: BLE001 - details that are no JSON, say
                self._fail()

        return reply

    def _ack(self, said: Ack) -> None:
        seq = said.number
        follow = self._follows.get(said.stream_id)
        if follow is None:
            raise Reject(
                "NOT_SUBSCRIBED",
                "ack what this connection follows",
                stream_id=said.stream_id,
                event_seq=seq,
            )
        subscription = follow.subscription
        self._service.acks.ack(follow.frontier, seq, sent=subscription.sent)

    async def _subscribe(self, subscribing: Subscribing) -> None:
        known = self._follows.get(subscribing.stream_id)
        if known is not None:
            self.reply(subscribing.show_again(known))
            return
        if len(self._follows) >= self._limits.subscriptions_max:
            raise Reject("BAD_REQUEST", f"at most {self._limits.subscriptions_max} subscriptions")
        follow = await subscribing.open(self)
        self._follows[follow.subscription.stream_id] = follow
        self._is_behind = True
        self.reply(subscribing.show(follow))
        self._write_on()

    def _unsubscribe(self, said: UnsubscribeNote | UnsubscribeWorkspace | Unsubscribe) -> None:
        match said:
            case UnsubscribeNote():
                stream_id = f"note:{said.note_id}"
            case UnsubscribeWorkspace():
                stream_id = f"workspace:{said.workspace_id}"
            case Unsubscribe():
                stream_id = said.stream_id
        follow = self._follows.get(stream_id)
        if follow is None:
            raise Reject(
                "NOT_SUBSCRIBED", "this connection does not follow it", stream_id=stream_id
            )
        self._end(follow)
        self._drop_events_of(follow.subscription)
        self.reply(message("unsubscribed", said.request_id, stream_id=stream_id))

    def _end(self, follow: Follow) -> None:
        """Stop following; nothing of the stream is written after this step."""
        del self._follows[follow.subscription.stream_id]
        follow.hub.unregister(follow.subscription)
        self._service.acks.close(follow.frontier)

    def _drop_events_of(self, subscription: Subscription) -> None:
        kept = [entry for entry in self._events if entry[0] is not subscription]
        self._events_bytes = sum(frames.size for _, frames, _ in kept)
        self._events = deque(kept)

    # ------------------------------------------------------------------------------ timers

    def tick(self, now: float, beat: Frames) -> None:
        """Do what is due by the clock: a heartbeat, a ping, or the end of a silent client."""
        limits, transport = self._limits, self.transport
        if self._expires_at is not None and self._service.world.now() >= self._expires_at:
            self.close(Close.UNAUTHORIZED, "the session has expired")
            return
        # While something is being written, the write deadline watches over the client; what it
        # took is a sign of life, and a ping would have to wait behind the rest.
        heard = max(transport.last_heard, transport.last_taken)
        if now - heard > limits.client_timeout_s and not self._is_writing:
            self.close(Close.NORMAL, "silent")
            return
        if self._pinged_at is not None and transport.last_pong >= self._pinged_at:
            self._pinged_at = None
        if self._pinged_at is not None and now - self._pinged_at > limits.pong_deadline_s:
            self.close(Close.NORMAL, "no pong")
            return
        if now - self._last_beat >= limits.heartbeat_interval_s:
            self._last_beat = now
            # One that has something to write anyway needs no sign of life.
            if not self._is_writing and self._closing is None:
                self._replies += beat.texts
                self._replies_bytes += beat.size
                self.flush_nowait()
        is_due = now - transport.last_pong >= limits.ping_interval_s
        if is_due and self._pinged_at is None and not self._is_writing:
            self._pinged_at = now
            transport.ping_nowait()

    # ----------------------------------------------------------------------------- writing

    def reply(self, text: bytes) -> None:
        """Put a reply into the outbox, and write it unless a commit is being published."""
        if self._closing is not None:
            return
        self._replies.append(text)
        self._replies_bytes += len(text)
        if self._replies_bytes > self._limits.replies_bytes_max and len(self._replies) > 1:
            self.close(Close.TRY_AGAIN, "replies are not read")
            return
        self._service.directory.delivery.touch(self)

    def offer(self, subscription: Subscription, item: Published) -> None:
        """Take what is due of a published item into the outbox."""
        if self._closing is not None:
            return
        try:
            self._offer(subscription, item)
        except Exception:  # noqa: BLE001 - whoever publishes must not notice
            self._fail()

    def _offer(self, subscription: Subscription, item: Published) -> None:
        before = subscription.sent
        due = subscription.offer(item)
        if due is None:
            if not subscription.live:
                self._is_behind = True
                self._service.directory.delivery.touch(self)
            return
        view = subscription.view
        assert view is not None, "chosen at subscribe"
        try:
            frames = item.frames(view) if due is item.events else Frames([view(e) for e in due])
        except DalsegnoError as error:
            self._end_with(subscription, error)
            return
        self._events.append((subscription, frames, before))
        self._events_bytes += frames.size
        if self._events_bytes > self._limits.outbox_bytes_max and self._is_writing:
            self._fall_behind()
        self._service.directory.delivery.touch(self)

    def revoked(self, subscription: Subscription) -> None:
        """End a subscription whose barrier was reached; one that is behind gets there later."""
        if not subscription.live or self._closing is not None:
            return
        if self._is_writing:
            # What waits could be dropped yet: let it be read from the store, and end after it.
            waiting = [before for waits, _, before in self._events if waits is subscription]
            self._drop_events_of(subscription)
            subscription.fall_behind(min(waiting, default=subscription.sent))
            self._is_behind = True
        else:
            self._end_with(subscription, _revoked())

    def flush_nowait(self) -> None:
        """Write what is due as far as that goes without waiting; a task does the rest."""
        if self._is_writing or self._closing is not None:
            return
        if self._replies or self._events:
            frames = self._take()
            try:
                if not self.transport.send_nowait(frames):
                    self._write_on()
                    return
            except TransportClosedError:
                self.close(Close.NORMAL, "the client is gone")
                return
            except Exception:  # noqa: BLE001 - whoever publishes must not notice
                self._fail()
                return
        if self._is_behind:
            self._write_on()

    def _take(self) -> list[Frames]:
        """Empty the outbox: replies first, then events."""
        frames = [frames for _, frames, _ in self._events]
        if self._replies:
            frames.insert(0, Frames(tuple(self._replies)))
        self._replies.clear()
        self._events.clear()
        self._replies_bytes = self._events_bytes = 0
        return frames

    def _fall_behind(self) -> None:
        """Drop the events that wait; they are read from the store when there is room."""
        kept: deque[tuple[Subscription, Frames, int]] = deque()
        for entry in self._events:
            subscription, _, before = entry
            if subscription.stream_id in self._follows:
                subscription.fall_behind(before)
            else:
                kept.append(entry)  # that it has ended is said only once
        self._events = kept
        self._events_bytes = 0
        self._is_behind = True

    def _write_on(self) -> None:
        if not self._is_writing and self._nursery is not None and self._closing is None:
            self._is_writing = True
            self._nursery.start_soon(self._write)

    async def _write(self) -> None:
        """Write until there is nothing left to write and nobody is behind."""
        try:
            await self._flush()
            while await self._write_some():
                pass
        except TransportClosedError:
            self.close(Close.NORMAL, "the client is gone")
        except trio.TooSlowError:
            self.close(Close.TRY_AGAIN, "too slow")
        except Exception:  # noqa: BLE001 - a fault here ends this connection alone
            self._fail()
        finally:
            self._is_writing = False

    async def _write_some(self) -> bool:
        """Write what waits, or else the next page of somebody who is behind."""
        if self._replies or self._events:
            await self._send(self._take())
            return True
        for follow in self._follows.values():
            if not follow.subscription.live:
                await self._catch_up(follow)
                return True
        self._is_behind = False
        return False

    async def _catch_up(self, follow: Follow) -> None:
        subscription = follow.subscription
        view = subscription.view
        assert view is not None, "chosen at subscribe"
        try:
            page = await read_page(self._service.store, follow.hub, subscription, self._limits)
            texts = [view(event) for event in subscription.visible(page)]
        except UnavailableError:
            await trio.sleep(self._limits.backoff_first_s * (1 + self._service.world.random()))
            return
        except DalsegnoError as error:
            _log.error("%r: %r: %s", self, subscription, error)
            self._end_with(subscription, error)
            return
        if self._follows.get(subscription.stream_id) is not follow:
            return  # unfollowed meanwhile, and perhaps followed again
        if texts:
            await self._send([Frames(texts)])
        if subscription.live and subscription.last_visible is not None:
            self._end_with(subscription, _revoked())

    def _end_with(self, subscription: Subscription, error: DalsegnoError) -> None:
        """End one stream, and say why behind the events that still go out."""
        follow = self._follows.get(subscription.stream_id)
        if follow is not None and follow.subscription is subscription:
            self._end(follow)
            text = error_message(error, None, stream_id=subscription.stream_id)
            # Replies go first, so this is none of them.
            self._events.append((subscription, Frames((text,)), subscription.sent))
            self._service.directory.delivery.touch(self)

    async def _send(self, frames: list[Frames]) -> None:
        if not self.transport.send_nowait(frames):
            await self._flush()

    async def _flush(self) -> None:
        """Wait until the client took all; whatever it takes gives it more time for the rest."""
        deadline = trio.current_time() + self._limits.write_deadline_s
        while True:
            with trio.CancelScope(deadline=deadline):
                await self.transport.flush()
                return
            deadline = self.transport.last_taken + self._limits.write_deadline_s
            if deadline <= trio.current_time():
                raise trio.TooSlowError


def _revoked() -> Reject:
    return Reject("ROLE_FORBIDDEN", "no longer a member")
