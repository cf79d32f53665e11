"""One client: its commands, its subscriptions, its acks, and its end.

The reading task takes one message after the other.  Commands are handed to their workspaces and
answered by callback, so a client may have many under way; everything else is done before the next
message is read.  What is written, and when, is the `Writer`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import TransportClosedError
from dalsegno.actors.workspace import in_turns
from dalsegno.protocol import (
    SLICE_BYTES,
    Close,
    DalsegnoError,
    Frames,
    Principal,
    RateBudget,
    Reject,
    StoreUnavailableError,
    UnavailableError,
)
from dalsegno.protocol.dialects import (
    NOWHERE,
    Ack,
    Addressed,
    AttendRequest,
    Authenticate,
    CommandRequest,
    LeaveRequest,
    Ping,
    StateRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    ViewRequest,
    address_of,
)

from ._attending import Attending, is_lost
from ._lifecycle import Input, ended_by
from ._recalling import Recalling
from ._signs_of_life import SignsOfLife
from ._submission import Submission
from ._subscribing import Subscribing
from ._writer import Writer, end_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from dalsegno.actors.ports import Transport
    from dalsegno.actors.workspace import Command
    from dalsegno.protocol import View
    from dalsegno.protocol.dialects import AnyRequest, Language

    from ._context import SessionContext
    from ._proof import Renewing
    from ._streams import ActiveSubscription

_log = logging.getLogger("dalsegno.connection")


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """A connection at one moment."""

    state: str
    """``new``, ``idle``, ``writing``, ``sending``, ``closing`` or ``closed``."""
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
        "_attending",
        "_closing",
        "_context",
        "_is_doubtful",
        "_language",
        "_limits",
        "_nursery",
        "_pending",
        "_principal",
        "_renew",
        "_room",
        "_signs",
        "_unreadable",
        "client_id",
        "id",
        "session_id",
        "tab",
        "transport",
        "user_id",
        "writer",
    )

    def __init__(
        self,
        transport: Transport,
        context: SessionContext,
        *,
        user_id: str,
        session_id: bytes = b"",
        client_id: str = "default",
        tab: str | None = None,
        role: str | None = None,
        address: str | None = None,
        expires_at: datetime | None = None,
        renew: Renewing | None = None,
        language: Language | None = None,
    ) -> None:
        """Make it; `run` serves it.

        Args:
            transport: the client's.
            context: what it shares with the other sessions here.
            user_id: the client's user.
            session_id: whose end closes this connection; empty where there is none.
            client_id: whose acks these are, unless a message names another client.
            tab: which of the client's tabs it is, where it is present; None: it does not say.
            role: asserted by the host; None where the workspaces' logs decide it.
            address: where the client is, for what is put on record.
            expires_at: when the session or token ends, UTC; None: never.
            renew: checks another token, with which the client may stay longer.  Where the client
                came with one that expires, it has `Limits.renewal_grace_s` to show the next;
                meanwhile it is given no event, and nothing is taken of it.  None: it came with a
                session, and the connection ends with that.
            language: what is said here, on a path with a language of its own.

        """
        self.id = context.node.world.new_id()
        self.user_id = user_id
        self.session_id = session_id
        self.client_id = client_id
        self.tab = tab
        self.transport = transport
        self._language = context.language if language is None else language
        self.writer = Writer(
            transport,
            context,
            user_id=user_id,
            close=self.close,
            dialect=self._language.default,
        )
        self._principal = Principal(user_id, role, address, self.id)
        self._context = context
        self._limits = context.node.limits
        self._signs = SignsOfLife(self._limits, expires_at, is_renewable=renew is not None)
        self._renew = renew
        self._pending = 0
        self._room: trio.Event | None = None
        """Set once fewer answers are pending; there is one while the reading task waits for it."""
        self._unreadable = RateBudget(self._limits.unreadable_per_s)
        self._closing: tuple[Close, str] | None = None
        self._is_doubtful = False
        """Whether its session may have ended, which nobody can tell now."""
        self._attending: Attending | None = None
        """Where it is present; None before it is somewhere."""
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        writer = self.writer
        return (
            f"<Connection of {self.user_id} {writer.state.value}, "
            f"{len(writer.streams)} subscriptions, {writer.outbox.size} bytes to write>"
        )

    def statistics(self) -> ConnectionStatistics:
        """Return how it stands."""
        writer, outbox = self.writer, self.writer.outbox
        return ConnectionStatistics(
            state=writer.state.value,
            subscriptions=len(writer.streams),
            behind=writer.behind,
            pending=self._pending,
            replies_bytes=outbox.replies_bytes,
            events_bytes=outbox.events_bytes + outbox.last_bytes,
            is_sending=writer.is_sending,
        )

    @property
    def owes_pong(self) -> bool:
        """Whether its client was pinged a while ago and has not answered: it may be gone."""
        return self._signs.owes_pong(trio.current_time(), self.transport)

    # -------------------------------------------------------------------------------- life

    async def run(
        self, check: Callable[[], Awaitable[object]] | None = None, *, greeting: bytes = b""
    ) -> None:
        """Serve the client until either side ends it.

        Args:
            check: raises a `DalsegnoError` where the client's session has ended.  It is asked once
                `Connections.close_session` finds this connection, so no end slips in between.
            greeting: the first message to the client; empty: none.

        """
        writer, connections = self.writer, self._context.connections
        ids = self._context.node.connection_ids
        writer.step(Input.RUN)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = writer.nursery = nursery
                connections.add(self)
                ids.add(self.id)
                if writer.is_closed:
                    nursery.cancel_scope.cancel(reason="closed before it began")
                try:
                    if await self._check(check):
                        if greeting:
                            writer.reply(greeting)
                        await self._read_on()
                except TransportClosedError as error:
                    writer.left_with = error.code
                except trio.Cancelled as cancelled:
                    self._closing = self._closing or ended_by(cancelled)
                    raise
                except Exception:  # noqa: BLE001 - a fault here ends this connection alone
                    writer.fail()
                finally:
                    # Not a step later: a nursery takes no more tasks while its block is left, and
                    # a publisher in that moment must not be affected.
                    self._nursery = writer.nursery = None
                    nursery.cancel_scope.cancel(reason="the connection ends")
        finally:
            connections.discard(self)
            ids.discard(self.id)  # not behind the last words: nobody listens from here on
            self._closing = self._closing or (Close.NORMAL, "")
            writer.release()
            self._be_absent(self._closing[0])
            await self._say_goodbye(*self._closing)

    def close(self, code: Close, reason: str) -> None:
        """End the connection: from this step on, nothing more is written but the close."""
        if self._closing is None:
            self._closing = (code, reason)
            self.writer.shut()
            self._be_absent(code)
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel(reason=reason)

    def _be_absent(self, code: Close) -> None:
        """Be present nowhere, the connection being closed with a code."""
        if self._attending is not None:
            self._attending.end(is_lost=is_lost(code, left_with=self.writer.left_with))

    async def _say_goodbye(self, code: Close, reason: str) -> None:
        with trio.move_on_after(self._limits.close_deadline_s, shield=True) as scope:
            await self._keep_acks()
            self._say_last(code, reason)
            await self.transport.aclose(code, reason)
        if scope.cancelled_caught:
            self.transport.abort()
        self.writer.step(Input.END)

    def _say_last(self, code: Close, reason: str) -> None:
        """Send the last message of the path's language, if the client can still receive it."""
        try:
            text = self._language.farewell(code, reason)
            if text is not None:
                self.transport.send_nowait([Frames((text,))])
        except TransportClosedError:
            return
        except Exception:  # noqa: BLE001 - a dialect's fault must not keep the connection open
            _log.exception("%r: its last words failed", self)

    async def _keep_acks(self) -> None:
        """Write what was acked before the client sees the end, and perhaps connects elsewhere."""
        acks = self._context.acks
        if not acks.has_unwritten:
            return
        with trio.move_on_after(self._limits.close_deadline_s / 2):
            try:
                await acks.flush()
            except UnavailableError:
                return  # they are tried again, and until then their events come again

    # ----------------------------------------------------------------------------- reading

    async def _check(self, check: Callable[[], Awaitable[object]] | None) -> bool:
        """Return whether the client's session is still there; close the connection if not."""
        if check is not None:
            try:
                await check()
            except DalsegnoError as error:
                # A database that is away says nothing about the session.
                has_ended = isinstance(error, Reject)
                self.close(Close.UNAUTHORIZED if has_ended else Close.INTERNAL, error.code)
                return False
        return True

    async def _read_on(self) -> None:
        await self._begin()
        transport, limits = self.transport, self._limits
        read = read_bytes = 0
        while self._closing is None:
            received = transport.receive_nowait()
            if received is None:
                received = await transport.receive()
            read += 1
            read_bytes += len(received)
            if read > limits.read_frames_max or (read > 1 and read_bytes > limits.read_bytes_max):
                await trio.lowlevel.checkpoint()  # what has arrived is handed out without one
                read, read_bytes = 1, len(received)
            while self._pending >= limits.replies_pending_max:
                self._room = trio.Event()
                await self._room.wait()
            try:
                if isinstance(received, bytes) or len(received) <= SLICE_BYTES:
                    asked = self._language.decode(received, limits)
                else:
                    asked = await in_turns(self._language.decoding(received, limits))
            except DalsegnoError as error:
                if len(received) > SLICE_BYTES:
                    await trio.lowlevel.checkpoint()
                address = address_of(received) if isinstance(received, str) else NOWHERE
                self._refuse_unreadable(error, address)
                continue
            if asked is None:
                continue
            if isinstance(asked, CommandRequest):
                if self.writer.is_held:
                    self.writer.reply(asked.dialect.rejected(asked, self._held_by()))
                    continue
                rest = self._submit(Submission(asked, self._context, self._principal, self))
                if rest is not None:
                    await rest
                continue
            try:
                await self._act(asked)
            except DalsegnoError as error:
                self._language.take_back()
                self._refuse(error, asked.request_id)

    async def _begin(self) -> None:
        """Send the first messages of the path's language, and subscribe to its streams."""
        beginning = self._language.beginning
        for text in beginning.says:
            self.writer.reply(text)
        for asked in beginning.follows:
            try:
                await self._subscribe(asked)
            except DalsegnoError as error:
                self._refuse(error, asked.request_id)
                self.writer.flush_nowait()
                self.close(*end_of(error))
                return

    def _refuse(self, error: DalsegnoError, request_id: str | None) -> None:
        self._context.note_refused(error, self._principal, "message", None)
        self.writer.reply(self._language.default.error(error, request_id))

    def _refuse_unreadable(self, error: DalsegnoError, address: Addressed) -> None:
        """Answer what is no message; close a connection that sends many such in a second."""
        if self._unreadable.spend(trio.current_time()):
            key = address.idempotency_key
            context = {} if key is None else {"idempotency_key": key}
            said = self._language.default.error(error, address.request_id, **context)
            self.writer.reply(said)
        else:
            self.close(Close.POLICY, "too many messages that cannot be read")

    async def _act(self, asked: AnyRequest) -> None:
        """Carry out a message that is not a command."""
        if self.writer.is_held and not isinstance(asked, Ping | Authenticate):
            raise self._held_by()
        match asked:
            case Authenticate():
                await self._authenticate(asked)
            case Ack():
                self._ack(asked)
            case SubscribeRequest():
                await self._subscribe(asked)
            case UnsubscribeRequest():
                self._unsubscribe(asked)
            case ViewRequest():
                await self._view(asked)
            case AttendRequest():
                await self._attends.begin(asked)
            case StateRequest():
                self._attends.say(asked)
            case LeaveRequest():
                self._attends.leave(asked)
            case Ping():
                now = self._context.node.world.now()
                self.writer.reply(self._language.default.pong(asked, now))

    def _submit(self, submission: Submission) -> Awaitable[None] | None:
        """Hand a command over, or say why not; to be awaited where that has to wait.

        Most go to an active workspace with space: to await nothing saves a thirtieth of each.
        """
        try:
            command = submission.make_nowait()
            if command is None:
                return self._submit_later(submission)
            if not self._context.directory.activate(command.workspace_id).admit_nowait(command):
                return self._admit(submission, command)
            self._pending += 1
        except DalsegnoError as error:
            self.writer.reply(submission.show(error))
        return None

    async def _submit_later(self, submission: Submission) -> None:
        """Hand over a command whose workspace has to be looked up."""
        try:
            command = await submission.make()
        except DalsegnoError as error:
            self.writer.reply(submission.show(error))
        else:
            await self._admit(submission, command)

    async def _admit(self, submission: Submission, command: Command) -> None:
        """Wait for space in the mailbox."""
        self._pending += 1
        try:
            await self._context.directory.activate(command.workspace_id).admit(command)
        except DalsegnoError as error:
            self._pending -= 1
            self.writer.reply(submission.show(error))
        except BaseException:
            self._pending -= 1
            raise

    def answered(self) -> None:
        """Count one command less that waits for its answer."""
        self._pending -= 1
        if self._room is not None:
            self._room.set()
            self._room = None

    def _ack(self, asked: Ack) -> None:
        seq = asked.number
        stream = self._stream(asked.stream_id, "ack what this connection follows", event_seq=seq)
        self._context.acks.ack(stream.frontier, seq, sent=stream.subscription.sent)

    async def _subscribe(self, asked: SubscribeRequest) -> None:
        writer, subscriptions_max = self.writer, self._limits.subscriptions_max
        subscribing = Subscribing(asked, self._context, self._principal)
        known = writer.streams.get(subscribing.stream_id)
        if known is not None:
            writer.reply(subscribing.show_again(known))
            return
        if len(writer.streams) >= subscriptions_max:
            raise Reject("BAD_REQUEST", f"at most {subscriptions_max} subscriptions")
        stream = await subscribing.open(writer, client_id=self.client_id)
        if writer.is_held:
            stream.hub.unregister(stream.subscription)
            self._context.acks.close(stream.frontier)
            raise self._held_by()
        writer.follow(stream, subscribing.show(stream))

    def _unsubscribe(self, asked: UnsubscribeRequest) -> None:
        stream = self._stream(asked.stream_id, "this connection does not follow it")
        self.writer.unfollow(stream)
        self.writer.reply(asked.dialect.unsubscribed(asked))

    async def _view(self, asked: ViewRequest) -> None:
        stream = self._stream(asked.stream_id, "this connection does not follow it")
        view = self._context.views.of(
            asked.dialect,
            is_workspace_stream=stream.subscription.is_workspace_stream,
            passes=asked.passes,
        )
        if asked.looks_at is None:
            self._see(asked, stream, view)
            return
        # Until it holds nothing is written, so that what is shown of before ends where it begins.
        self.writer.hold()
        try:
            recalling = Recalling(self._context, self._principal, self.writer, stream)
            await recalling.show(asked, self._check_trusted)
            self._see(asked, stream, view)
        finally:
            self._resume()

    def _see(self, asked: ViewRequest, stream: ActiveSubscription, view: View) -> None:
        self.writer.reply(asked.dialect.viewed(asked, stream.subscription.sent))
        self.writer.see(stream, view)

    def _check_trusted(self) -> None:
        """Raise where nothing more is shown, whatever else holds the connection."""
        if self._is_doubtful or self._signs.has_expired(self._context.node.world.now):
            raise self._held_by()

    @property
    def _attends(self) -> Attending:
        """Where it is present, from now on."""
        if self._attending is None:
            self._attending = Attending(
                self.writer,
                self._context,
                self._principal,
                client_id=self.client_id,
                tab=self.tab,
            )
        return self._attending

    def _stream(self, stream_id: str, text: str, **details: int) -> ActiveSubscription:
        stream = self.writer.streams.get(stream_id)
        if stream is None:
            raise Reject("NOT_SUBSCRIBED", text, stream_id=stream_id, **details)
        return stream

    def tell_reconnect(self, after_ms: int) -> None:
        """Announce the shutdown, and after how many milliseconds to reconnect."""
        self.writer.reply(self._language.default.reconnect(after_ms))

    # ------------------------------------------------------------------------------ renewal

    async def _authenticate(self, asked: Authenticate) -> None:
        """Stay as long as another token of the same user is good."""
        if self._renew is None:
            raise Reject("STATE_CONFLICT", "this socket has a session, and ends with it")
        proof = await self._renew(asked.token)
        if proof.user_id != self.user_id:
            self.close(Close.FORBIDDEN, "the token is of another user")
            return
        now = self._context.node.world.now()
        if proof.expires_at is not None and proof.expires_at <= now:
            raise _token_expired()  # a clock's leeway is for who comes in, not for who stays
        if proof.session_id != self.session_id:
            self.session_id = proof.session_id
            if not await self._check(partial(self._renew, asked.token)):  # as in `run`
                return
        self._signs.expires_at = proof.expires_at
        self._context.connections.look_at(self)
        self.writer.reply(self._language.default.authenticated(asked, proof.expires_in_ms(now)))
        self._resume()

    # -------------------------------------------------------------------------------- doubt

    def doubt(self) -> None:
        """Write no event and take nothing, until `trust`: its session may have ended."""
        self._is_doubtful = True
        if not (self.writer.is_held or self.writer.is_closed):
            self.writer.hold()

    def trust(self) -> None:
        """Go on: its session has not ended."""
        self._is_doubtful = False
        self._resume()
        self.writer.flush_nowait()

    def _resume(self) -> None:
        """Write events again, where nothing speaks against it any more."""
        writer, now = self.writer, self._context.node.world.now
        if writer.is_held and not (self._is_doubtful or self._signs.has_expired(now)):
            writer.resume()

    def _held_by(self) -> DalsegnoError:
        if self._is_doubtful:
            return StoreUnavailableError("whether your session has ended cannot be told now")
        return _token_expired()

    # ------------------------------------------------------------------------------ timers

    def tick(self, now: float) -> float:
        """Do what is due by the clock: a heartbeat, a ping, or the end of a silent client.

        Returns when something may be due next.
        """
        signs, transport, writer = self._signs, self.transport, self.writer
        wall_now = self._context.node.world.now
        ending = signs.ending(now, wall_now, transport, is_sending=writer.is_sending)
        if ending is not None:
            self.close(*ending)
        else:
            if not writer.is_held and signs.has_expired(wall_now):
                writer.hold()
            # A client that has something to take needs no sign of life.
            if signs.beat(now) and not writer.is_sending:
                self._beat(wall_now())
            if not writer.is_sending and signs.ping(now, transport):
                transport.ping_nowait()
        return signs.due(now, wall_now, transport)

    def _beat(self, now: datetime) -> None:
        """Give a sign of life, with where each stream is if the language tells that."""
        dialect, reply = self._language.default, self.writer.reply
        reply(dialect.heartbeat(now))
        if self.writer.is_held:
            return
        for stream in self.writer.streams.values():
            subscription = stream.subscription
            sent = subscription.sent
            head = stream.hub.head if subscription.is_workspace_stream else max(stream.head, sent)
            said = dialect.standing(subscription.stream_id, head, sent, now)
            if said is None:
                return  # of a thousand streams none is asked for
            reply(said)


def _token_expired() -> Reject:
    return Reject("TOKEN_EXPIRED", "the token has expired: authenticate with another")
