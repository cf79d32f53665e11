"""A simulated client: it follows streams, comes back with its cursors, and keeps the history.

It behaves as a good client does.  It reconnects to any node that is there, and goes to the one
that `WORKSPACE_MOVED` names; it subscribes after what it has seen, with or without the chain of its
cursor; where that is of another history it begins again; and it hangs up on a node that has said
nothing for a few heartbeats.  It does not remove duplicates and fills no gaps: whatever a node
sends is recorded as it came, and the checker says whether that was right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.actors.ports import CursorKey, TransportClosedError

from ._network import Cable

if TYPE_CHECKING:
    from dalsegno.actors.testing.checker import Asked, Followed, Recorder
    from dalsegno.protocol import Limits

    from ._choices import Noise
    from ._node import Process, SimNode

Message = dict[str, Any]

_BEGIN_AGAIN = ("CURSOR_AHEAD", "CURSOR_DIVERGED", "STALE_CURSOR")
"""What refuses a cursor for good: start again from the state, here from the first event."""
_HEARTBEATS_MISSED = 2
_RETRY_S = 0.5
_HEEDED = 0.7
"""How often it goes where it is sent: that node may be the one that hangs."""
_CHAINED = 0.5
"""How many cursors have their chain where nothing asks for it."""


@dataclass(slots=True, eq=False)
class Wanted:
    """A stream that the client wants to follow, and how far it has come."""

    workspace_id: str
    stream_id: str
    cursor: int | str | None
    """What to subscribe with; None: after the stored cursor."""
    sent: int = 0
    """The last number that was delivered."""
    followed: Followed | None = None
    """While the subscription lasts."""
    asked: Asked | None = None
    """While the stored cursor is being asked for."""
    is_asking: bool = False
    refused: str | None = None
    """With what the last subscribe was refused, or its subscription ended."""


@dataclass(slots=True, eq=False)
class Pending:
    """A message that waits for its answer."""

    done: trio.Event
    answer: Message | None = None
    """None at the end: the connection was lost."""


class SimClient:
    """One client of a simulation, with at most one connection at a time."""

    def __init__(
        self,
        name: str,
        user_id: str,
        *,
        home: str,
        nodes: list[SimNode],
        recorder: Recorder,
        noise: Noise,
        limits: Limits,
        with_chains: bool = False,
    ) -> None:
        self.name = name
        self.user_id = user_id
        self.home = home
        """The workspace that it is about: it goes where that is."""
        self.recorder = recorder
        self.with_chains = with_chains
        """Whether each cursor goes with its chain, which tells a history from one that was lost."""
        self.latency_s = 0.0
        """Of the next connection."""
        self.seen: dict[str, int] = {}
        """The newest ``event_seq`` that it knows of each workspace."""
        self.cable: Cable | None = None
        self.process: Process | None = None
        self.wanted: dict[str, Wanted] = {}
        self.pending: dict[str, Pending] = {}
        self._nodes = nodes
        self._noise = noise
        self._limits = limits
        self._hint: str | None = None
        """The node that owns what it asked for."""
        self._heard_at = 0.0
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
        if hinted and self._noise.random() < _HEEDED:
            return hinted[0]
        return self._noise.choice(up) if up else None

    async def _converse(self, node: SimNode) -> None:
        cable = Cable(self._limits, self._noise, latency_s=self.latency_s)
        connection = self.recorder.new_id()
        self.process = node.process
        self.process.connect(cable, user_id=self.user_id, client_id=self.name)
        self.cable, self._heard_at = cable, trio.current_time()
        self._connected.set()
        code: int | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hang_up, cable)
                nursery.start_soon(self._resubscribe)
                try:
                    while True:
                        self._hear(await cable.receive(), connection)
                except TransportClosedError as error:
                    code = error.code
                nursery.cancel_scope.cancel()
        finally:
            cable.cut()
            self._lost(connection, code)

    def _lost(self, connection: str, code: int | None) -> None:
        self.cable = self.process = None
        self._connected = trio.Event()
        for pending in self.pending.values():
            pending.done.set()
        self.pending.clear()
        for wanted in self.wanted.values():
            wanted.followed, wanted.is_asking = None, False
            if wanted.asked is not None:
                wanted.asked.unknown()
                wanted.asked = None
        self.recorder.connection_ended(connection, code)

    async def _hang_up(self, cable: Cable) -> None:
        """Give up a connection on which nothing comes any more."""
        patience_s = _HEARTBEATS_MISSED * self._limits.heartbeat_interval_s
        while trio.current_time() < self._heard_at + patience_s:
            await trio.sleep(self._limits.heartbeat_interval_s)
            if cable.is_stalled:
                self._heard_at = trio.current_time()  # it did not listen
        cable.cut()

    # -------------------------------------------------------------------------- subscribing

    def want(self, workspace_id: str, stream_id: str, cursor: int | None) -> None:
        """Follow a stream from now on; nothing where that is wanted already."""
        if stream_id not in self.wanted:
            self.wanted[stream_id] = Wanted(workspace_id, stream_id, cursor)

    async def leave(self, stream_id: str) -> None:
        """Follow a stream no longer; nothing where that has not begun."""
        wanted = self.wanted.get(stream_id)
        if wanted is not None and wanted.followed is not None:
            del self.wanted[stream_id]
            wanted.followed.ended()
            await self.send("unsubscribe", stream_id=stream_id)

    async def _resubscribe(self) -> None:
        """Ask for what is wanted and not followed, now and whenever that has changed."""
        while True:
            for wanted in list(self.wanted.values()):
                if wanted.followed is None and not wanted.is_asking:
                    await self._subscribe(wanted)
            await trio.sleep(self._noise.uniform(0, _RETRY_S))

    async def _subscribe(self, wanted: Wanted) -> None:
        wanted.is_asking = True
        said: Message = {"stream_id": wanted.stream_id, "workspace_id": wanted.workspace_id}
        if wanted.cursor is None:
            self.note_unwritten()
            wanted.asked = self.recorder.cursor(self.cursor_key(wanted))
        else:
            said["cursor"] = wanted.cursor
        # The stream's name is the request's: only one subscribe of it is under way.
        await self.send("subscribe", request_id=wanted.stream_id, **said)

    def cursor_key(self, wanted: Wanted) -> CursorKey:
        """Name the stored cursor of a stream."""
        return CursorKey(self.user_id, self.name, wanted.workspace_id, wanted.stream_id)

    def _subscribed(self, wanted: Wanted, said: Message, connection: str) -> None:
        wanted.is_asking, wanted.refused = False, None
        wanted.sent = said["cursor"]
        wanted.cursor = self._cursor(said["cursor"], said["chain"])
        if wanted.asked is not None:
            wanted.asked.stands_at(said["cursor"])
            wanted.asked = None
        wanted.followed = self.recorder.subscription(
            connection,
            wanted.workspace_id,
            wanted.stream_id,
            cursor=said["cursor"],
            user_id=self.user_id,
        )

    def note_unwritten(self) -> None:
        """Note which acks may be forgotten, before a question that would show it."""
        now = trio.current_time()
        since = min(node.acks_unwritten_since(now) for node in self._nodes)
        if since < now:
            self.recorder.crashed(acks_unwritten_s=now - since)

    def _ended(self, wanted: Wanted, said: Message) -> None:
        """Take that a subscription was refused, or is over."""
        wanted.is_asking, wanted.refused = False, said["code"]
        if wanted.asked is not None:
            wanted.asked.failed(said["code"], said.get("details"))
            wanted.asked = None
        if wanted.followed is not None:
            wanted.followed.ended(said["code"])
            wanted.followed = None
        if said["code"] in _BEGIN_AGAIN:
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
        """Send a message and wait for its answer; None where the connection is lost first."""
        while self.cable is None:
            await self._connected.wait()
        pending = self.pending[request_id] = Pending(trio.Event())
        await self.send(type_, request_id=request_id, **fields)
        await pending.done.wait()
        return pending.answer

    async def tell(self, request_id: str, type_: str, **fields: Any) -> Message | None:  # noqa: ANN401 - JSON
        """Send a message whose success is silent: its refusal, or else the pong behind it."""
        refusal = self.pending[request_id] = Pending(trio.Event())
        await self.send(type_, request_id=request_id, **fields)
        pong = await self.ask(f"pong {request_id}", "ping")
        self.pending.pop(request_id, None)
        return refusal.answer or (None if refusal.done.is_set() else pong)

    def _hear(self, said: Message, connection: str) -> None:
        self._heard_at = trio.current_time()
        details = said.get("details") or {}
        if said.get("code") == "WORKSPACE_MOVED" and said.get("workspace_id") in (None, self.home):
            self._follow(details.get("owner"))
        request_id = said.get("request_id")
        stream_id = said.get("stream_id") or details.get("stream_id")
        if request_id in self.pending:
            pending = self.pending.pop(str(request_id))
            pending.answer = said
            pending.done.set()
            return
        wanted = self.wanted.get(str(stream_id if request_id is None else request_id))
        if wanted is None:
            return
        match said["type"]:
            case "event":
                self._event(wanted, said)
            case "subscribed":
                self._subscribed(wanted, said, connection)
            case "error":
                self._ended(wanted, said)
            case _:
                return

    def _follow(self, owner: str | None) -> None:
        """Go where the workspace is, if that is not here any more."""
        here = self.process is not None and self.process.node_id == owner
        if not here and self.cable is not None:
            self._hint = owner
            self.cable.cut()

    def _event(self, wanted: Wanted, said: Message) -> None:
        if wanted.followed is None:
            return
        wanted.followed.saw(
            said["seq"],
            event_id=said["event_id"],
            event_seq=said["event_seq"],
            chain=said["chain"],
        )
        wanted.sent = said["seq"]
        wanted.cursor = self._cursor(said["seq"], said["chain"])
        seen = self.seen.get(wanted.workspace_id, 0)
        self.seen[wanted.workspace_id] = max(seen, said["event_seq"])
