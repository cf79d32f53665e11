"""The faults of a simulation, and how they are healed.

Each kind of fault is a method of `Faults`; it strikes at once and heals after a time that is
decided when it strikes, even if others strike in between.  At the end `Faults.heal` heals them all.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import trio

from ._failover import FailoverStore
from ._link import CALM, LAG_S, LinkState, Weather

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.actors.testing.checker import Recorder
    from dalsegno.protocol import Domain, Limits

    from ._choices import Choices
    from ._client import SimClient
    from ._link import Link
    from ._node import Process, SimNode

FAULTS = (
    "weather",
    "lag",
    "drop",
    "partition",
    "outage",
    "crash",
    "crash_within",
    "freeze",
    "freeze_within",
    "replace",
    "drain",
    "cut",
    "silence",
    "stall",
    "clock",
)
"""Everything but `failover`, after which only what was lost with the tail is excused, and `deploy`,
which needs another version of the domains."""

_SNAPSHOTS_KEPT = 4
_STEPS_MAX = (10, 50, 300)
_JUMP_S = 30.0
_OWNING = 0.8


class Faults:
    """The faults of nodes, clients and the database."""

    def __init__(
        self,
        choices: Choices,
        *,
        store: FailoverStore,
        nodes: Sequence[SimNode],
        clients: Sequence[SimClient],
        nursery: trio.Nursery,
        recorder: Recorder,
        limits: Limits,
        counts: Counter[str],
        versions: Sequence[Sequence[Domain[Any, Any, Any]]],
    ) -> None:
        self.counts = counts
        """The number of faults by kind."""
        self._choices = choices
        self._store = store
        self._nodes = nodes
        self._clients = clients
        self._nursery = nursery
        self._recorder = recorder
        self._limits = limits
        self._versions = versions
        self._snapshots: deque[dict[str, Any]] = deque(maxlen=_SNAPSHOTS_KEPT)
        self._set_by: dict[Link, object] = {}
        """What each link was set by last."""
        self._held: list[Link] = []
        """Links that no other fault may change."""

    @property
    def are_held(self) -> bool:
        """Whether there are faults that a crowd ends by itself, and needs until then."""
        return bool(self._held)

    async def strike(self, kind: str) -> None:
        """Make one fault happen."""
        self.counts[kind] += 1
        fault: Callable[[], Awaitable[None]] = getattr(self, kind)
        await fault()

    def _for_a_while(self, heal: Callable[[], object]) -> None:
        self._later(self._duration_s(), heal)

    def _later(self, seconds: float, heal: Callable[[], object]) -> None:
        self._nursery.start_soon(self._after, seconds, heal)

    def _duration_s(self) -> float:
        """Decide on a duration in seconds: mostly short, sometimes longer than a lease."""
        lease_s = self._limits.lease_s
        longest = self._choices.pick([0.2, lease_s, 3 * lease_s, 3 * lease_s])
        return self._choices.uniform(0, longest)

    def _set(self, link: Link, state: LinkState, weather: Weather = CALM) -> Callable[[], None]:
        """Set a link, and return what heals it, unless it was set once more since."""
        if link in self._held:
            return lambda: None
        mark = self._set_by[link] = object()
        link.set(state, weather)

        def heal() -> None:
            if self._set_by[link] is mark:
                link.set(LinkState.UP)

        return heal

    def _hold(self, link: Link, heal: Callable[[], object]) -> Callable[[], None]:
        """Keep a link as it is until what is returned is called, which heals it."""
        self._held.append(link)

        def end() -> None:
            self._held.remove(link)
            heal()

        return end

    @staticmethod
    async def _after(seconds: float, heal: Callable[[], object]) -> None:
        await trio.sleep(seconds)
        heal()

    def _node(self) -> SimNode:
        """Choose a node, mostly one that owns a workspace: others have little to lose."""
        choices = self._choices
        owners = self._store.owners()
        owning = [node for node in self._nodes if node.node_id in owners]
        return choices.pick(owning if owning and choices.chance(_OWNING) else self._nodes)

    def _process(self) -> Process:
        return self._node().process

    def owner_of(self, workspace_id: str) -> SimNode | None:
        """Return the node that owns a workspace, by the store."""
        owner = self._store.owner_of(workspace_id)
        return next((node for node in self._nodes if node.node_id == owner), None)

    def nodes_but(self, node: SimNode | None) -> Sequence[SimNode]:
        """Return the other nodes."""
        return [each for each in self._nodes if each is not node]

    def slow_down(self, node: SimNode) -> None:
        """Make a node's link slow for a while."""
        self._for_a_while(self._set(node.process.link, LinkState.UP, Weather(latency_s=LAG_S)))

    def cut_off(self, node: SimNode) -> Callable[[], None]:
        """Cut a node off from the database; the caller ends it by what is returned."""
        self.counts["cut off"] += 1
        state = self._choices.pick([LinkState.REFUSING, LinkState.SILENT])
        link = node.process.link
        return self._hold(link, self._set(link, state))

    def supplant(self, node: SimNode) -> Callable[[], None]:
        """Start a node's next process while this one is frozen; the caller ends that."""
        process = node.process
        self.counts["takeover"] += 1
        process.freeze()
        node.start()
        return self._hold(process.link, process.thaw)

    def seclude(self, node: SimNode) -> Callable[[], None]:
        """Freeze a node, or cut it off from the database; the caller ends it."""
        process = node.process
        self.counts["takeover"] += 1
        if self._choices.chance(0.5):
            return self.cut_off(node)
        process.freeze()
        return self._hold(process.link, process.thaw)

    # ------------------------------------------------------------------------- the database

    async def weather(self) -> None:
        """Make one node's link slow, lossy, or both."""
        choices, link = self._choices, self._process().link
        weather = Weather(
            latency_s=choices.pick([0.001, 0.05, 0.5]),
            refused=choices.pick([0.0, 0.1]),
            lost=choices.pick([0.1, 0.3, 0.6]),
            late_s=choices.pick([0.0, 0.2, 2 * self._limits.lease_s]),
            locked=choices.pick([0.0, 0.0, 0.5]),
            rejected=choices.pick([0.0, 0.0, 0.0, 0.3]),
        )
        self._for_a_while(self._set(link, LinkState.UP, weather))

    async def lag(self) -> None:
        """Make one node's link slow, and nothing else: what is short otherwise takes its time."""
        self._lag(self._process())

    async def lag_of(self, workspace_id: str) -> None:
        """Do so to the node that owns a workspace."""
        node = self.owner_of(workspace_id)
        if node is not None and node.process.link.state is LinkState.UP:
            self.counts["lag"] += 1
            self._lag(node.process)

    def _lag(self, process: Process) -> None:
        weather = Weather(latency_s=self._choices.pick([0.005, 0.03, LAG_S]))
        self._for_a_while(self._set(process.link, LinkState.UP, weather))

    async def drop(self) -> None:
        """Drop one node's connections to the database, once."""
        self._process().link.drop()

    async def partition(self) -> None:
        """Cut one node off from the database."""
        state = self._choices.pick([LinkState.REFUSING, LinkState.SILENT])
        self._for_a_while(self._set(self._process().link, state))

    async def outage(self) -> None:
        """Restart the database, or freeze it."""
        state = self._choices.pick([LinkState.REFUSING, LinkState.SILENT])
        healing = [self._set(node.process.link, state) for node in self._nodes]

        def heal() -> None:
            for one in healing:
                one()

        self._for_a_while(heal)

    def remember(self) -> None:
        """Keep a snapshot: what a standby has received so far."""
        self._snapshots.append(self._store.snapshot())

    async def failover(self) -> None:
        """Promote a standby that lacks the newest events; clients lose what was on its way."""
        if not self._snapshots:
            return
        snapshot = self._choices.pick([*self._snapshots])
        self._snapshots.clear()
        self._recorder.crashed(acks_unwritten_s=trio.current_time())
        before = self._store.logs()
        self._store.restore(snapshot)
        after = self._store.logs()
        for node in self._nodes:
            node.process.link.drop()
        for client in self._clients:
            if client.cable is not None:
                client.cable.cut()
        for workspace_id, events in before.items():
            kept = len(after.get(workspace_id, ()))
            if kept < len(events):
                self._recorder.rolled_back(workspace_id, kept)

    # ------------------------------------------------------------------------------- nodes

    async def crash(self) -> None:
        """Kill a node; it starts again later."""
        self._kill(self._node(), self._duration_s())

    async def crash_within(self) -> None:
        """Kill a node in one of its next steps, whatever it is doing then."""
        node = self._node()
        seconds = self._duration_s()
        node.process.gate.trap(self._steps(), lambda: self._kill(node, seconds))

    def _steps(self) -> int:
        return self._choices.integer(1, self._choices.pick(_STEPS_MAX))

    def _kill(self, node: SimNode, seconds: float) -> None:
        process = node.process
        process.kill()
        self._later(seconds, lambda: self._restart(node, process))

    def _restart(self, node: SimNode, process: Process) -> None:
        if node.process is process:
            node.start()

    async def freeze(self) -> None:
        """Freeze a node; it goes on later."""
        self._freeze(self._process(), self._duration_s())

    async def freeze_within(self) -> None:
        """Freeze a node in one of its next steps, whatever it is doing then."""
        process = self._process()
        seconds = self._duration_s()
        process.gate.trap(self._steps(), lambda: self._freeze(process, seconds))

    def _freeze(self, process: Process, seconds: float) -> None:
        process.freeze()
        self._later(seconds, process.thaw)

    async def replace(self) -> None:
        """Start a node's next process while the one before is only frozen."""
        node = self._node()
        old = node.process
        old.freeze()
        node.start()
        self._for_a_while(old.thaw)

    async def drain(self) -> None:
        """Shut a node down as an operator does; it starts again later."""
        node = self._node()
        self._nursery.start_soon(self._drain, node, self._duration_s())

    async def _drain(self, node: SimNode, seconds: float) -> None:
        process = node.process
        await process.drain()
        await trio.sleep(seconds)
        self._restart(node, process)

    async def deploy(self) -> None:
        """Start a node's other version of the program, as an operator does; or the first again."""
        node = self._node()
        node.domains = self._choices.pick(self._versions)
        self._nursery.start_soon(self._drain, node, self._duration_s())

    async def clock(self) -> None:
        """Make a node's wall clock jump."""
        self._choices.pick(self._nodes).clock.offset_s = self._choices.uniform(-_JUMP_S, _JUMP_S)

    # ------------------------------------------------------------------------------- clients

    async def cut(self) -> None:
        """Cut a client's connection."""
        cable = self._choices.pick(self._clients).cable
        if cable is not None:
            cable.cut()

    async def silence(self) -> None:
        """Leave a client's connection half open."""
        cable = self._choices.pick(self._clients).cable
        if cable is not None:
            cable.set_silent(is_silent=True)
            self._for_a_while(lambda: cable.set_silent(is_silent=False))

    async def stall(self) -> None:
        """Make a client read nothing for a while, and slowly from its next connection on."""
        client = self._choices.pick(self._clients)
        client.latency_s = self._choices.pick([0.0, 0.01, 0.2])
        cable = client.cable
        if cable is not None:
            cable.set_stalled(is_stalled=True)
            self._for_a_while(lambda: cable.set_stalled(is_stalled=False))

    # ------------------------------------------------------------------------------- healing

    def heal(self) -> None:
        """Heal everything, and start the nodes that are down."""
        self.thaw()
        for node in self._nodes:
            for process in node.processes:
                process.link.set(LinkState.UP)
            if node.process.ended.is_set():
                node.start()
        for client in self._clients:
            client.latency_s = 0.0
            if client.cable is not None:
                client.cable.set_silent(is_silent=False)
                client.cable.set_stalled(is_stalled=False)

    def thaw(self) -> None:
        """Thaw every process, so that it can also be ended."""
        for node in self._nodes:
            for process in node.processes:
                process.gate.disarm()
                process.thaw()
