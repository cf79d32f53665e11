"""Clients that write, follow and acknowledge, whatever happens, and record what they see.

Each of them has one connection at a time, to one of the servers.  A connection that ends, or a
server that refuses the workspace, makes it go on to the next server, with its cursors; a command
whose answer it did not get, or that was not applied, it repeats under the same key until it has its
receipt.  What all of them sent, received and followed is one history for the checker.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from dalsegno.actors import CursorKey
from dalsegno.actors.testing import Asked, Followed, Recorder, Report
from dalsegno.runtime.client._wire import (
    Committed,
    Hidden,
    Refused,
    RemoteEvent,
    Subscribed,
    decode_said,
)
from tests._patience import until

from ._judge import judge
from ._processes import Owner
from ._socket import EndedError, RefusedError, Socket, open_socket

NOT_NOW = frozenset(
    {
        "STORE_UNAVAILABLE",
        "NOT_READY",
        "DRAINING",
        "OVERLOADED",
        "OUTCOME_UNKNOWN",
        "WORKSPACE_MOVED",
    }
)
"""Refusals after which a command is repeated."""
ORDINARY = frozenset({"VERSION_CONFLICT", "NOTE_EXISTS"})
"""Refusals that a crowd at one note gets without any fault."""
ACKS_UNWRITTEN_S = 2.0
"""A server that is killed has written the acks that are older, while its database answered."""
_ACK_EVERY = 7
_PATCH_EVERY = 4
_PAUSE_S = 0.05
_LEAVE_CHANCE = 0.2
"""How likely a member leaves a server that could not do what it was asked."""
_LOST = (OSError, EndedError, RefusedError, trio.BrokenResourceError, trio.ClosedResourceError)


class LeaveError(Exception):
    """This server does not serve the workspace."""


@dataclass(eq=False, slots=True)
class _Work:
    """A write that is not settled yet."""

    marker: str
    name: str
    payload: dict[str, object]
    stream_id: str | None = None
    is_done: bool = False


@dataclass(eq=False, slots=True)
class _Stream:
    """A stream that somebody follows, over all their connections."""

    stream_id: str
    seq: int = 0
    cursor: str | None = None
    is_asked_for: bool = False
    """Whether this connection has subscribed to it …"""
    followed: Followed | None = None
    """… and whether that was answered."""
    asked: Asked | None = None
    """The request for the stored cursor, if that is where it begins."""


class Crowd:
    """All clients of one workspace, and their history."""

    def __init__(
        self, owner: Owner, *ports: int, name: str = "", silence_s: float = math.inf
    ) -> None:
        self.owner = owner
        self.ports = ports
        self.silence_s = silence_s
        """A server that is silent for this long is left for the next."""
        self.recorder = Recorder(time.monotonic, name=name)
        self.note_id = f"hot{name}"
        """The note that all of them change."""
        self.receipts = 0
        self.codes: Counter[str] = Counter()
        """What was refused, by code."""
        self.owners: set[str | None] = set()
        """The owners that `WORKSPACE_MOVED` named."""
        self.head = 0
        """The highest number that any client was told."""
        self.is_calm = False
        """Whether writing has stopped."""
        self._name = name
        self._members: list[_Member] = []
        self._scope = trio.CancelScope()

    async def run(self, *, members: int = 6, senders: int = 3) -> None:
        """Write and follow until `settle`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for number in range(members):
                    ports = self.ports[number % len(self.ports) :] + self.ports
                    member = _Member(self, f"{self._name}m{number}", ports, senders)
                    self._members.append(member)
                    nursery.start_soon(member.run)

    async def wait(self, more: int, within_s: float = 60) -> None:
        """Wait until so many more are acknowledged."""
        goal = self.receipts + more
        await until(lambda: self.receipts >= goal, within_s)

    async def settle(self, within_s: float = 60, *, beside: int = 0) -> None:
        """Write nothing new, wait until all is answered and every client has seen all; leave.

        ``beside`` is the highest number of another writer, which has finished.
        """
        self.is_calm = True
        self.head = max(self.head, beside)
        await until(lambda: not any(member.is_busy for member in self._members), within_s)
        await until(lambda: all(member.has_seen(self.head) for member in self._members), within_s)
        self.recorder.settled()
        self._scope.cancel()

    @asynccontextmanager
    async def without_acks(self) -> AsyncIterator[None]:
        """A server is stopped, or cut off from its database: it may not write what it takes.

        Who goes to another one meanwhile may be behind their own acks there (I6).
        """
        async with trio.open_nursery() as nursery:

            async def excuse() -> None:
                while True:
                    self.recorder.crashed(acks_unwritten_s=ACKS_UNWRITTEN_S)
                    await trio.sleep(0.05)

            nursery.start_soon(excuse)
            yield
            nursery.cancel_scope.cancel()
            self.recorder.crashed(acks_unwritten_s=ACKS_UNWRITTEN_S)

    async def judge(self, dsn: str) -> Report:
        """Run the checker on all of it; return how much there was to it."""
        return await judge(self.recorder.history, dsn, self.owner.workspace)


class _Member:
    """One client of the crowd."""

    def __init__(self, crowd: Crowd, name: str, ports: Sequence[int], senders: int) -> None:
        self._crowd = crowd
        self._recorder = crowd.recorder
        self._name = name
        self._ports = itertools.cycle(ports)
        self._senders = senders
        workspace = crowd.owner.workspace
        self._whole = _Stream(f"workspace:{workspace}")
        self._hot = _Stream(f"note:{crowd.note_id}")
        self._streams = {one.stream_id: one for one in (self._whole, self._hot)}
        self._todo: list[_Work] = []
        self._under_way: dict[str, tuple[_Work, Asked, trio.Event]] = {}
        self._acks: dict[str, Asked] = {}
        self._numbers = itertools.count()
        self._connections = 0
        self._patience = trio.CancelScope()

    @property
    def is_busy(self) -> bool:
        return bool(self._todo or self._under_way)

    def has_seen(self, head: int) -> bool:
        return self._whole.seq >= head and self._whole.followed is not None

    async def run(self) -> None:
        while True:
            try:
                socket = open_socket(next(self._ports), self._crowd.owner, client_id=self._name)
                with trio.CancelScope() as self._patience:
                    self._listen_on()
                    async with socket as opened:
                        await self._converse(opened)
            except* (*_LOST, LeaveError):
                pass
            await trio.sleep(_PAUSE_S * random.random())

    async def _converse(self, socket: Socket) -> None:
        self._connections += 1
        connection = self._recorder.new_id()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, socket, connection)
                await self._subscribe(socket, self._whole)
                # What arrived meanwhile may have asked already: asked for twice, it begins once.
                if self._hot.cursor is not None and not self._hot.is_asked_for:
                    await self._subscribe(socket, self._hot)
                for _ in range(self._senders):
                    nursery.start_soon(self._send, socket)
        finally:
            self._recorder.connection_ended(connection)
            for stream in self._streams.values():
                stream.is_asked_for, stream.followed = False, None
            for asked in self._acks.values():
                asked.unknown()
            self._acks.clear()

    def _listen_on(self) -> None:
        self._patience.deadline = trio.current_time() + self._crowd.silence_s

    # ------------------------------------------------------------------------------- following

    async def _subscribe(self, socket: Socket, stream: _Stream) -> None:
        """Go on after what was seen; now and then after what was acknowledged."""
        stream.is_asked_for = True
        cursor = stream.cursor if self._connections % 3 else None
        stream.asked = self._recorder.cursor(self._key(stream)) if cursor is None else None
        await socket.say(
            "subscribe",
            stream_id=stream.stream_id,
            workspace_id=self._crowd.owner.workspace,
            cursor=cursor,
        )

    def _key(self, stream: _Stream) -> CursorKey:
        owner = self._crowd.owner
        return CursorKey(owner.user_id, self._name, owner.workspace, stream.stream_id)

    async def _hear(self, socket: Socket, connection: str) -> None:
        while True:
            text = await socket.hear_text()
            self._listen_on()
            match decode_said(text):
                case RemoteEvent() as event:
                    await self._saw(socket, event)
                case Committed() as committed:
                    self._committed(committed)
                case Subscribed() as subscribed:
                    self._begin(subscribed, connection)
                case Refused() as refused:
                    self._refused(refused)
                case Hidden():
                    raise AssertionError("the owner may see everything")
                case None:
                    self._heard(msgspec.json.decode(text))

    def _begin(self, said: Subscribed, connection: str) -> None:
        stream = self._streams[said.stream_id]
        if stream.asked is not None:
            stream.asked.stands_at(said.cursor)
        owner = self._crowd.owner
        stream.followed = self._recorder.subscription(
            connection,
            owner.workspace,
            stream.stream_id,
            cursor=said.cursor,
            user_id=owner.user_id,
        )
        stream.seq, stream.cursor = said.cursor, f"{said.cursor}-{said.chain}"

    async def _saw(self, socket: Socket, event: RemoteEvent) -> None:
        stream = self._streams[event.stream_id]
        assert stream.followed is not None, "no event before the subscription's answer"
        stream.followed.saw(
            event.seq, event_id=event.event_id, event_seq=event.event_seq, chain=event.chain
        )
        stream.seq, stream.cursor = event.seq, event.cursor
        self._crowd.head = max(self._crowd.head, event.event_seq)
        if event.entity == self._hot.stream_id and not self._hot.is_asked_for:
            await self._subscribe(socket, self._hot)
        if event.seq % _ACK_EVERY == 0:
            await self._ack(socket, stream)

    async def _ack(self, socket: Socket, stream: _Stream) -> None:
        asked = self._recorder.ack(self._key(stream), stream.seq)
        self._acks[asked.op] = asked
        await socket.say("ack", stream_id=stream.stream_id, seq=stream.seq, request_id=asked.op)
        # An ack that is taken is not answered; what comes after it is.
        await socket.say("ping", request_id=asked.op)

    def _heard(self, message: dict[str, object]) -> None:
        if message["type"] == "pong" and (
            asked := self._acks.pop(str(message["request_id"]), None)
        ):
            asked.ok()

    # --------------------------------------------------------------------------------- writing

    async def _send(self, socket: Socket) -> None:
        while work := self._next():
            try:
                await self._ask(socket, work)
            finally:
                if not work.is_done:
                    self._todo.append(work)
            if not work.is_done:
                await trio.sleep(_PAUSE_S * random.random())

    def _next(self) -> _Work | None:
        if self._todo:
            return self._todo.pop(0)
        if self._crowd.is_calm:
            return None
        number = next(self._numbers)
        marker = f"{self._name}-{number}"
        hot = self._hot
        if hot.seq and number % _PATCH_EVERY == 0:
            patch = {
                "note_id": self._crowd.note_id,
                "patch_ops": [{"insert": "x"}],
                "base_version": hot.seq,
            }
            return _Work(marker, "apply_patch", patch, hot.stream_id)
        if number == 0:  # one of them creates it; the others learn that it exists
            return _Work(marker, "create_note", {"note_id": self._crowd.note_id, "title": "hot"})
        return _Work(marker, "create_note", {"note_id": None, "title": marker})

    async def _ask(self, socket: Socket, work: _Work) -> None:
        """Ask for it once."""
        workspace = self._crowd.owner.workspace
        asked = self._recorder.command(
            self._name,
            workspace,
            marker=work.marker,
            key=work.marker,
            stream_id=work.stream_id,
            events_max=1,
        )
        answered = trio.Event()
        self._under_way[work.marker] = work, asked, answered
        try:
            await socket.say(
                "command",
                workspace_id=workspace,
                name=work.name,
                payload=work.payload,
                idempotency_key=work.marker,
                request_id=work.marker,
            )
            await answered.wait()
        finally:
            asked.unknown()  # unless it was answered
            del self._under_way[work.marker]

    def _committed(self, said: Committed) -> None:
        work, asked, answered = self._under_way[said.idempotency_key]
        asked.ok(said.event_seq, said.version, stream_id=said.entity)
        work.is_done = True
        self._crowd.receipts += 1
        self._crowd.head = max(self._crowd.head, said.event_seq)
        answered.set()

    def _refused(self, said: Refused) -> None:
        self._crowd.codes[said.code] += 1
        if said.code == "WORKSPACE_MOVED":
            self._crowd.owners.add((said.details or {}).get("owner"))
        if said.request_id in self._under_way:
            work, asked, answered = self._under_way[said.request_id]
            asked.failed(said.code, said.details)
            work.is_done = said.code not in NOT_NOW
            answered.set()
        elif said.request_id in self._acks:
            self._acks.pop(said.request_id).failed(said.code, said.details)
        elif said.stream_id in self._streams:
            followed = self._streams[said.stream_id].followed
            if followed is not None:
                followed.ended(said.code)
        is_bad = said.code in NOT_NOW and random.random() < _LEAVE_CHANCE
        if said.code == "WORKSPACE_MOVED" or said.request_id is None or is_bad:
            raise LeaveError(said.code)
