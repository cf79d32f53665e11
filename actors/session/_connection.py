"""One client: its commands, its subscriptions, its acks, and its end.

The reading task takes one message after the other.  Commands are handed to their workspaces and
answered by callback, so a client may have many under way; everything else is done before the next
message is read.  What is written, and when, is the `Writer`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import TransportClosedError
from dalsegno.protocol import (
    Ack,
    ApplyPatch,
    Close,
    CommandMessage,
    DalsegnoError,
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

from ._submit import Submission
from ._subscribing import Subscribing
from ._writer import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from dalsegno.actors._service import Service
    from dalsegno.actors.ports import Transport
    from dalsegno.actors.workspace import Command, Receipt
    from dalsegno.protocol import AnyMessage

    from ._subscribing import Follow

_COMMANDS = (CommandMessage, ApplyPatch)


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """A connection at one moment."""

    subscriptions: int
    behind: int
    """Subscriptions that are being caught up."""
    pending: int
    """Commands that wait for their answer."""
    replies_bytes: int
    """Replies still to be written …"""
    events_bytes: int
    """… and events, those included that nobody can read again."""
    is_sending: bool
    """Whether it waits for the client to take something."""


class Connection:
    """One client's connection, over any transport."""

    __slots__ = (
        "_closing",
        "_expires_at",
        "_follows",
        "_last_beat",
        "_limits",
        "_nursery",
        "_pending",
        "_pinged_at",
        "_principal",
        "_room",
        "_service",
        "client_id",
        "role",
        "session_id",
        "transport",
        "user_id",
        "writer",
    )

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
        self.user_id = user_id
        self.session_id = session_id
        """Whose end closes this connection; empty where there is none."""
        self.client_id = client_id
        self.role = role
        """Asserted by the host; None where the workspaces' logs tell it."""
        self.transport = transport
        self._principal = service.principal(user_id, role)
        self.writer = Writer(transport, service, user_id=user_id, close=self.close)
        self._expires_at = expires_at
        self._last_beat = trio.current_time()
        self._pinged_at: float | None = None
        self._service = service
        self._limits = service.limits
        self._follows: dict[str, Follow] = self.writer.follows
        self._pending = 0
        self._room: trio.Event | None = None
        """Set once fewer answers are pending; there is one while the reading task waits for it."""
        self._closing: tuple[Close, str] | None = None
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        state = "closing" if self._closing else "writing" if self.writer.is_writing else "idle"
        return (
            f"<Connection of {self.user_id} {state}, {len(self._follows)} subscriptions, "
            f"{self.writer.outbox.size} bytes to write>"
        )

    def statistics(self) -> ConnectionStatistics:
        """Tell how it stands."""
        outbox = self.writer.outbox
        return ConnectionStatistics(
            subscriptions=len(self._follows),
            behind=self.writer.behind,
            pending=self._pending,
            replies_bytes=outbox.replies_bytes,
            events_bytes=outbox.events_bytes + outbox.last_bytes,
            is_sending=self.writer.is_sending,
        )

    # -------------------------------------------------------------------------------- life

    async def run(self, check: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve the client until either side ends it.

        Args:
            check: raises a `DalsegnoError` where the client's session has ended.  It is asked once
                `Service.close_session` finds this connection, so no end slips in between.

        """
        writer = self.writer
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = writer.nursery = nursery
                self._service.connections[self] = None
                if self._closing is not None:
                    nursery.cancel_scope.cancel(reason="closed before it began")
                try:
                    await self._read_on(check)
                except TransportClosedError:
                    pass
                except Exception:  # noqa: BLE001 - a fault here ends this connection alone
                    writer.fail()
                finally:
                    # Not a step later: a nursery takes no task any more while its block is left,
                    # and whoever publishes in that moment must not be the one to hear of it.
                    self._nursery = writer.nursery = None
                    nursery.cancel_scope.cancel(reason="the connection ends")
        finally:
            self._service.connections.pop(self, None)
            self._closing = self._closing or (Close.NORMAL, "")
            writer.release()
            await self._say_goodbye()

    def close(self, code: Close, reason: str) -> None:
        """End the connection: from this step on, nothing more is written but the close."""
        if self._closing is None:
            self._closing = (code, reason)
            self.writer.shut()
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel(reason=reason)

    async def _say_goodbye(self) -> None:
        code, reason = self._closing or (Close.NORMAL, "")
        with trio.move_on_after(self._limits.close_deadline_s, shield=True) as scope:
            await self._keep_acks()
            await self.transport.aclose(code, reason)
        if scope.cancelled_caught:
            self.transport.abort()

    async def _keep_acks(self) -> None:
        """Write what was acked before the client hears of the end, and perhaps asks elsewhere."""
        if not self._service.acks.has_unwritten:
            return
        with trio.move_on_after(self._limits.close_deadline_s / 2):
            try:
                await self._service.acks.flush()
            except UnavailableError:
                return  # they are tried again, and until then their events come again

    # ----------------------------------------------------------------------------- reading

    async def _read_on(self, check: Callable[[], Awaitable[None]] | None) -> None:
        if check is not None:
            try:
                await check()
            except DalsegnoError as error:
                self.close(Close.UNAUTHORIZED, error.code)
                return
        read, transport, chunk = 0, self.transport, self._limits.offers_per_yield
        while self._closing is None:
            received = transport.receive_nowait()
            if received is None:
                received = await transport.receive()
            read += 1
            if read % chunk == 0:
                await trio.lowlevel.checkpoint()  # a transport hands out what came at once at once
            while self._pending >= self._limits.replies_pending_max:
                self._room = trio.Event()
                await self._room.wait()
            if isinstance(received, bytes):
                refusal = Reject("BAD_REQUEST", "binary payloads are unsupported")
                self.writer.reply(error_message(refusal, None))
                continue
            try:
                said = decode_message(received, self._limits)
            except DalsegnoError as error:
                self.writer.reply(error_message(error, request_id_of(received)))
                continue
            if isinstance(said, _COMMANDS):
                rest = self._submit(Submission(said, self._service, self._principal))
                if rest is not None:
                    await rest
                continue
            try:
                await self._act(said)
            except DalsegnoError as error:
                self.writer.reply(error_message(error, said.request_id))

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
                self.writer.reply(
                    message("pong", said.request_id, server_ts=self._service.world.now())
                )

    def _submit(self, submission: Submission) -> Awaitable[None] | None:
        """Hand a command over, or say why not; to be awaited where that has to wait.

        Most go to an active workspace with room: to await nothing saves a thirtieth of each.
        """
        reply = self._answered(submission)
        try:
            command = submission.make_nowait(reply)
            if command is None:
                return self._submit_later(submission, reply)
            slot = self._service.directory.slot(command.workspace_id)
            if not slot.admit_nowait(command):
                return self._admit(submission, command)
            self._pending += 1
        except DalsegnoError as error:
            self.writer.reply(submission.show(error))
        return None

    async def _submit_later(
        self, submission: Submission, reply: Callable[[Receipt | DalsegnoError], None]
    ) -> None:
        """Hand over a command whose place has to be found."""
        try:
            command = await submission.make(reply)
        except DalsegnoError as error:
            self.writer.reply(submission.show(error))
        else:
            await self._admit(submission, command)

    async def _admit(self, submission: Submission, command: Command) -> None:
        """Wait for room in the mailbox."""
        self._pending += 1
        try:
            await self._service.directory.slot(command.workspace_id).admit(command)
        except DalsegnoError as error:
            self._pending -= 1
            self.writer.reply(submission.show(error))
        except BaseException:
            self._pending -= 1
            raise

    def _answered(self, submission: Submission) -> Callable[[Receipt | DalsegnoError], None]:
        def reply(answer: Receipt | DalsegnoError) -> None:
            self._pending -= 1
            if self._room is not None:
                self._room.set()
                self._room = None
            try:
                self.writer.reply(submission.show(answer))
            except Exception:  # noqa: BLE001 - details that are no JSON, say
                self.writer.fail()

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
            self.writer.reply(subscribing.show_again(known))
            return
        if len(self._follows) >= self._limits.subscriptions_max:
            raise Reject("BAD_REQUEST", f"at most {self._limits.subscriptions_max} subscriptions")
        follow = await subscribing.open(self.writer, client_id=self.client_id, role=self.role)
        self.writer.follow(follow, subscribing.show(follow))

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
        self.writer.unfollow(follow)
        self.writer.reply(message("unsubscribed", said.request_id, stream_id=stream_id))

    # ------------------------------------------------------------------------------ timers

    def tick(self, now: float, beat: bytes) -> None:
        """Do what is due by the clock: a heartbeat, a ping, or the end of a silent client."""
        limits, transport, writer = self._limits, self.transport, self.writer
        if self._expires_at is not None and self._service.world.now() >= self._expires_at:
            self.close(Close.UNAUTHORIZED, "the session has expired")
            return
        # While something is being sent, the write deadline watches over the client; what it took
        # is a sign of life, and a ping would have to wait behind the rest.
        heard = max(transport.last_heard, transport.last_taken)
        if now - heard > limits.client_timeout_s and not writer.is_sending:
            self.close(Close.NORMAL, "silent")
            return
        if self._pinged_at is not None and transport.last_pong >= self._pinged_at:
            self._pinged_at = None
        if self._pinged_at is not None and now - self._pinged_at > limits.pong_deadline_s:
            self.close(Close.NORMAL, "no pong")
            return
        if now - self._last_beat >= limits.heartbeat_interval_s:
            self._last_beat = now
            # One that has something to take needs no sign of life.
            if not writer.is_sending:
                writer.reply(beat)
        is_due = now - transport.last_pong >= limits.ping_interval_s
        if is_due and self._pinged_at is None and not writer.is_sending:
            self._pinged_at = now
            transport.ping_nowait()
