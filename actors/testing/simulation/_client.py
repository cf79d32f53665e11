"""A simulated client: it follows streams, reconnects with its cursors, and records a history.

It behaves as a good client does.  It reconnects to any node that is up, and goes to the one that
`WORKSPACE_MOVED` names; it subscribes after what it has seen, with or without the chain of its
cursor; if the cursor belongs to another history it begins again; and it disconnects from a node
that has been silent for a few heartbeats.  It removes no duplicates and fills no gaps: whatever a
node sends is recorded as it came, and the checker decides whether that was right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.actors.ports import CursorKey, TransportClosedError
from dalsegno.protocol.runs import Transcript

from ._network import Cable

if TYPE_CHECKING:
    from dalsegno.actors.testing.checker import Asked, Followed, Recorder
    from dalsegno.protocol import Limits

    from ._choices import Noise
    from ._failover import FailoverStore
    from ._node import Process, SimNode

Message = dict[str, Any]

_BEGIN_AGAIN = ("CURSOR_AHEAD", "CURSOR_DIVERGED", "STALE_CURSOR")
"""The codes that refuse a cursor for good: begin again, here from the first event."""
_HEARTBEATS_MISSED = 2
_RETRY_S = 0.5
_FOLLOWS_REDIRECT = 0.7
"""How often it goes where it is redirected: that node may be the one that hangs."""
_CHAINED = 0.5
"""How many cursors have their chain, if nothing requires it."""


@dataclass(slots=True, eq=False)
class Wanted:
    """A stream that the client wants to follow, and its progress."""

    workspace_id: str
    stream_id: str
    cursor: int | str | None
    """The cursor to subscribe with; None for the stored one."""
    sent: int = 0
    """The last number that was delivered."""
    followed: Followed | None = None
    """Set while the subscription lasts."""
    asked: Asked | None = None
    """Set while the stored cursor is being looked up."""
    is_asking: bool = False
    refused: str | None = None
    """The code that refused the last subscribe, or ended its subscription."""
    is_honoured: bool = False
    """Whether a node has subscribed it once: its cursors are of this history since."""
    transcript: Transcript | None = None
    """What a run said; None where it is no run's stream, or not followed from the first event."""


@dataclass(slots=True, eq=False)
class Pending:
    """A message that waits for its answer."""

    done: trio.Event
    answer: Message | None = None
    """None once done: the connection was lost."""


class SimClient:
    """One client of a simulation, with at most one connection at a time."""

    def __init__(
        self,
        name: str,
        user_id: str,
        *,
        home: str,
        nodes: list[SimNode],
        store: FailoverStore,
        recorder: Recorder,
        complaints: list[str],
        noise: Noise,
        limits: Limits,
        with_chains: bool = False,
    ) -> None:
        self.name = name
        self.user_id = user_id
        self.home = home
        """Its own workspace: it connects where that is."""
        self.recorder = recorder
        self.complaints = complaints
        """What is wrong where no history was lost, and no history shows: an event that was not
        committed when it came, or came behind its subscription's end; a refused cursor that a node
        had given."""
        self.with_chains = with_chains
        """Whether every cursor has its chain, by which a lost history is recognised."""
        self.latency_s = 0.0
        """The latency of the next connection."""
        self.seen: dict[str, int] = {}
        """The newest ``event_seq`` that it knows of each workspace."""
        self.cable: Cable | None = None
        self.process: Process | None = None
        self.wanted: dict[str, Wanted] = {}
        self.pending: dict[str, Pending] = {}
        self._over: dict[str, None] = {}
        """The streams of this connection whose subscription a node has ended, or said so."""
        self._store = store
        self._nodes = nodes
        self._noise = noise
        self._limits = limits
        self._hint: str | None = None
        """The node that owns what it requested."""
        self._received_at = 0.0
        self._connected = trio.Event()

    def __repr__(self) -> str:
        state = "away" if self.cable is None else repr(self.cable)
        return f"<SimClient {self.name} {state}, {len(self.pending)} pending>"

    # --------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            node = self._choose()
            if node is None:
                await trio.sleep(self._noise.uniform(0, _RETRY_S))
                continue
            await self._converse(node)
            await trio.sleep(self._noise.uniform(0, _RETRY_S))

    def _choose(self) -> SimNode | None:
        up = [node for node in self._nodes if node.is_up]
        hinted = [node for node in up if node.node_id == self._hint]
        self._hint = None
        if hinted and self._noise.random() < _FOLLOWS_REDIRECT:
            return hinted[0]
        return self._noise.choice(up) if up else None

    async def _converse(self, node: SimNode) -> None:
        cable = Cable(self._limits, self._noise, latency_s=self.latency_s)
        connection = self.recorder.new_id()
        self.process = node.process
        self.process.connect(cable, user_id=self.user_id, client_id=self.name)
        self.cable, self._received_at = cable, trio.current_time()
        self._connected.set()
        code: int | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hang_up, cable)
                nursery.start_soon(self._resubscribe)
                try:
                    while True:
                        self._handle(await cable.receive(), connection)
                except TransportClosedError as error:
                    code = error.code
                nursery.cancel_scope.cancel()
        finally:
            cable.cut()
            self._disconnected(connection, code)

    def _disconnected(self, connection: str, code: int | None) -> None:
        self.cable = self.process = None
        self._connected = trio.Event()
        for pending in self.pending.values():
            pending.done.set()
        self.pending.clear()
        self._over.clear()
        for wanted in self.wanted.values():
            wanted.followed, wanted.is_asking = None, False
            if wanted.asked is not None:
                wanted.asked.unknown()
                wanted.asked = None
        self.recorder.connection_ended(connection, code)

    async def _hang_up(self, cable: Cable) -> None:
        """Cut a connection on which nothing comes."""
        patience_s = _HEARTBEATS_MISSED * self._limits.heartbeat_interval_s
        while trio.current_time() < self._received_at + patience_s:
            await trio.sleep(self._limits.heartbeat_interval_s)
            if cable.is_stalled:
                self._received_at = trio.current_time()  # it was not reading
        cable.cut()

    # -------------------------------------------------------------------------- subscribing

    def want(self, workspace_id: str, stream_id: str, cursor: int | str | None) -> None:
        """Follow a stream from now on; do nothing if that is already wanted."""
        if stream_id not in self.wanted:
            self.wanted[stream_id] = Wanted(workspace_id, stream_id, cursor)

    async def follow(self, workspace_id: str, stream_id: str, cursor: int | str | None) -> None:
        """Want a stream, and ask for it at once if there is a connection."""
        self.want(workspace_id, stream_id, cursor)
        wanted = self.wanted[stream_id]
        if self.cable is not None and wanted.followed is None and not wanted.is_asking:
            await self._subscribe(wanted)

    async def leave(self, stream_id: str) -> None:
        """Unsubscribe from a stream; do nothing if that has not begun."""
        wanted = self.wanted.get(stream_id)
        if wanted is not None and wanted.followed is not None:
            del self.wanted[stream_id]
            wanted.followed.ended()
            await self.send("unsubscribe", stream_id=stream_id)

    async def _resubscribe(self) -> None:
        """Subscribe to what is wanted and not followed, again and again."""
        while True:
            for wanted in list(self.wanted.values()):
                if wanted.followed is None and not wanted.is_asking:
                    await self._subscribe(wanted)
            await trio.sleep(self._noise.uniform(0, _RETRY_S))

    async def _subscribe(self, wanted: Wanted) -> None:
        wanted.is_asking = True
        message: Message = {"stream_id": wanted.stream_id, "workspace_id": wanted.workspace_id}
        if wanted.cursor is None:
            self.note_unwritten()
            wanted.asked = self.recorder.cursor(self.cursor_key(wanted))
        else:
            message["cursor"] = wanted.cursor
        # The stream's name is the request's: only one subscribe of it is under way.
        await self.send("subscribe", request_id=wanted.stream_id, **message)

    def cursor_key(self, wanted: Wanted) -> CursorKey:
        """Return the key of a stream's stored cursor."""
        return CursorKey(self.user_id, self.name, wanted.workspace_id, wanted.stream_id)

    def _subscribed(self, wanted: Wanted, message: Message, connection: str) -> None:
        wanted.is_asking, wanted.refused = False, None
        wanted.is_honoured = True
        wanted.sent = message["cursor"]
        wanted.cursor = self._cursor(message["cursor"], message["chain"])
        if wanted.sent == 0 and wanted.stream_id.startswith("run:"):
            wanted.transcript = Transcript()
        if wanted.asked is not None:
            wanted.asked.stands_at(message["cursor"])
            wanted.asked = None
        wanted.followed = self.recorder.subscription(
            connection,
            wanted.workspace_id,
            wanted.stream_id,
            cursor=message["cursor"],
            user_id=self.user_id,
        )

    def note_unwritten(self) -> None:
        """Record which acks may be forgotten, before a question that would show it."""
        for node in self._nodes:
            node.note_unwritten()

    def _ended(self, wanted: Wanted, message: Message) -> None:
        """Handle a subscription that was refused, or is over."""
        wanted.is_asking, wanted.refused = False, message["code"]
        if wanted.asked is not None:
            wanted.asked.failed(message["code"], message.get("details"))
            wanted.asked = None
        if wanted.followed is not None:
            wanted.followed.ended(message["code"])
            wanted.followed = None
        if message["code"] in _BEGIN_AGAIN:
            if wanted.is_honoured or wanted.cursor is None:
                self.complaints.append(f"{self!r}: {message['code']} at its own {wanted!r}")
            wanted.cursor = 0

    def _cursor(self, seq: int, chain: str) -> int | str:
        return f"{seq}-{chain}" if self.with_chains or self._noise.random() < _CHAINED else seq

    # ----------------------------------------------------------------------------- messages

    async def send(self, type_: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message, if there is a connection; it may be lost."""
        if self.cable is not None:
            try:
                await self.cable.send(type=type_, **fields)
            except TransportClosedError:
                return

    async def ask(self, request_id: str, type_: str, **fields: Any) -> Message | None:  # noqa: ANN401 - JSON
        """Send a message and wait for its answer; None if the connection is lost first."""
        while self.cable is None:
            await self._connected.wait()
        pending = self.pending[request_id] = Pending(trio.Event())
        await self.send(type_, request_id=request_id, **fields)
        await pending.done.wait()
        return pending.answer

    async def tell(self, request_id: str, type_: str, **fields: Any) -> Message | None:  # noqa: ANN401 - JSON
        """Send a message whose success is silent; return its refusal, or else the pong after it.

        None where the connection that it went to is lost before.
        """
        cable, refusal = self.cable, Pending(trio.Event())
        self.pending[request_id] = refusal
        await self.send(type_, request_id=request_id, **fields)
        if cable is None or self.cable is not cable:
            self.pending.pop(request_id, None)
            return None
        pong = await self.ask(f"pong {request_id}", "ping")
        self.pending.pop(request_id, None)
        return refusal.answer or (None if refusal.done.is_set() else pong)

    def _handle(self, message: Message, connection: str) -> None:
        self._received_at = trio.current_time()
        details = message.get("details") or {}
        concerns_home = message.get("workspace_id") in (None, self.home)
        if message.get("code") == "WORKSPACE_MOVED" and concerns_home:
            self._follow(details.get("owner"))
        request_id = message.get("request_id")
        stream_id = message.get("stream_id") or details.get("stream_id")
        if request_id in self.pending:
            pending = self.pending.pop(str(request_id))
            pending.answer = message
            pending.done.set()
            return
        self._note_end(message, str(stream_id))
        wanted = self.wanted.get(str(stream_id if request_id is None else request_id))
        if wanted is None:
            return
        match message["type"]:
            case "event":
                self._event(wanted, message)
            case "frame" | "tail":
                self._hear(wanted, message)
            case "subscribed":
                self._subscribed(wanted, message, connection)
            case "error" if request_id is not None or wanted.followed is not None:
                self._ended(wanted, message)
            case _:
                return

    def _note_end(self, message: Message, stream_id: str) -> None:
        """Note where a subscription is over; nothing of it may come then."""
        match message["type"]:
            case "event" if stream_id in self._over:
                self.complaints.append(f"{self!r}: {message} of a stream that it has left")
            case "subscribed":
                self._over.pop(stream_id, None)
            case "unsubscribed":
                self._over[stream_id] = None
            case "error" if message.get("request_id") is None:
                # A reply overtakes the last events of what has ended: more may come behind this.
                if message["code"] != "NOT_SUBSCRIBED":
                    self._over[stream_id] = None

    def _follow(self, owner: str | None) -> None:
        """Reconnect to where the workspace is, if that is no longer here."""
        here = self.process is not None and self.process.node_id == owner
        if not here and self.cable is not None:
            self._hint = owner
            self.cable.cut()

    def _hear(self, wanted: Wanted, message: Message) -> None:
        """Take what a run says: between the events with which its attempt begins and ends."""
        transcript = wanted.transcript
        if transcript is None or wanted.followed is None:
            return
        if transcript.is_over or message["attempt"] > transcript.attempt:
            self.complaints.append(f"{self!r}: {message} beside its attempt: {transcript!r}")
        transcript.hear(message)

    def _event(self, wanted: Wanted, message: Message) -> None:
        if wanted.followed is None:
            return
        if wanted.transcript is not None:
            wanted.transcript.hear(message)
        if message["seq"] > self._store.head_of(wanted.workspace_id, wanted.stream_id):
            self.complaints.append(f"{self!r}: {message} came before it was committed")
        wanted.followed.saw(
            message["seq"],
            event_id=message["event_id"],
            event_seq=message["event_seq"],
            chain=message["chain"],
        )
        wanted.sent = message["seq"]
        wanted.cursor = self._cursor(message["seq"], message["chain"])
        seen = self.seen.get(wanted.workspace_id, 0)
        self.seen[wanted.workspace_id] = max(seen, message["event_seq"])
