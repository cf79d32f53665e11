"""A whole node: the actors over a failing link, with a clock of its own, one process at a time.

What happens to a process happens to all of it: it is *killed* and does nothing more, not even clean
up; it is *frozen* in the middle of a step and goes on later as if no time had passed; it is
*drained* as by an operator.  A node that starts again is a new process under the old node id, even
while the old one is frozen, as after a process supervisor that was too quick.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from dalsegno.actors._service import Service
from dalsegno.actors.node import (
    NodeReplacedError,
    entities_of,
    first_of,
    list_entities,
    look,
    send,
    send_all,
)
from dalsegno.actors.ports import World
from dalsegno.actors.session import Connection
from dalsegno.protocol import (
    SYSTEM,
    Close,
    DalsegnoError,
    OutcomeUnknownError,
    Principal,
    StoreUnavailableError,
    UnavailableError,
)

from ._gate import Gate
from ._link import LAG_S, Link
from ._network import Cable
from ._store import SimStore

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Sequence

    import msgspec

    from dalsegno.actors.ports import EntityPage, Store
    from dalsegno.actors.testing.checker import Recorder
    from dalsegno.actors.workspace import Entity
    from dalsegno.protocol import Domain, Limits, Receipt

    from ._choices import Noise

ResultT = TypeVar("ResultT")

START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
"""The wall time at which simulations begin."""

_RESTART_S = 0.5
"""How long after its death a process that died by itself is started again."""


def salt_of(id_: str) -> bytes:
    """Return the salt that an id stands for: in a simulation nobody guesses."""
    return blake2b(id_.encode(), digest_size=16).digest()


class SimClock:
    """A node's wall clock, with an offset and a rate that may be wrong."""

    def __init__(self, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.offset_s = offset_s
        """May be set: the clock jumps."""
        self._rate = rate

    def now(self) -> datetime:
        """Return the time that it shows."""
        return START + timedelta(seconds=trio.current_time() * self._rate + self.offset_s)


class Process:
    """One process of a node, from its start to its end."""

    def __init__(
        self,
        node_id: str,
        store: Store,
        domains: Sequence[Domain[Any, Any, Any]],
        *,
        link: Link,
        clock_off_s: Callable[[], float],
        world: World,
        limits: Limits,
        make_service: Callable[..., Service],
    ) -> None:
        self.node_id = node_id
        self.gate = Gate()
        self.link = link
        self.cables: dict[Cable, None] = {}
        self.service = make_service(
            SimStore(store, link, clock_off_s=clock_off_s),
            domains,
            node_id=node_id,
            world=world,
            limits=limits,
            address=f"sim://{node_id}",
            store_time=True,
        )
        self.ended = trio.Event()
        self.failure: Exception | None = None
        """The error that it died of, if any."""
        self._limits = limits
        self._scope = trio.CancelScope()
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        self._filled = trio.Event()
        self.is_serving = False
        self.is_killed = False

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "serving" if self.is_serving else "starting"
        return f"<Process {state} {self.gate!r} {self.link!r}>"

    # --------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Run until killed, drained or failed; a failure is stored, not raised."""
        try:
            with self._scope, self.gate.inside():
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.service.run)
                    self.is_serving = True
                    nursery.start_soon(self._serve)
        except* Exception as group:  # noqa: BLE001 - a process that dies harms no other
            self.failure = first_of(group)
        finally:
            self.is_serving = False
            for cable in self.cables:
                cable.cut()
            self.ended.set()

    async def _serve(self) -> None:
        """Start jobs that come from outside behind the gate."""
        async with trio.open_nursery() as nursery:
            while True:
                while self._jobs:
                    nursery.start_soon(self._jobs.popleft())
                self._filled = trio.Event()
                await self._filled.wait()

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        """Start a job in the process."""
        self._jobs.append(job)
        self._filled.set()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it is doing."""
        self.gate.shut()
        self.link.set_frozen(is_frozen=True)

    def thaw(self) -> None:
        """Resume it."""
        self.gate.open()
        self.link.set_frozen(is_frozen=False)

    def kill(self) -> None:
        """Cut it off from everything, and end it."""
        self.is_killed = True
        self.link.kill()
        for cable in self.cables:
            cable.cut()
        self.gate.open()
        self._scope.cancel(reason="killed")

    async def drain(self) -> None:
        """Shut it down as an operator does, in bounded time."""
        done = trio.Event()

        async def shut_down() -> None:
            try:
                with trio.move_on_after(self._limits.drain_deadline_s):
                    await self.service.drain()
            except UnavailableError:
                pass
            self.service.connections.close_all(Close.GOING_AWAY, "shutting down")
            done.set()

        self.start_soon(shut_down)
        with trio.move_on_after(2 * self._limits.drain_deadline_s):
            await done.wait()
        self._scope.cancel(reason="drained")
        await self.ended.wait()

    # ------------------------------------------------------------------------------ clients

    def connect(self, cable: Cable, *, user_id: str, client_id: str) -> None:
        """Serve a client on a cable."""
        self.cables[cable] = None

        async def serve() -> None:
            try:
                connection = Connection(
                    cable.transport, self.service.sessions, user_id=user_id, client_id=client_id
                )
                await connection.run()
            finally:
                self.cables.pop(cable, None)

        self.start_soon(serve)

    async def read(
        self,
        workspace_id: str,
        domain: Domain[Any, Any, Any],
        entity_id: str,
        *,
        user_id: str,
        min_seq: int | None,
    ) -> Entity | None:
        """Read an entity as a host does over HTTP, for a user.

        Raises:
            DalsegnoError: the process's answer; `StoreUnavailableError` where it has ended.

        """

        service = self.service

        async def read() -> Entity | None:
            return await look(
                service.directory,
                service.catalog,
                workspace_id,
                service.catalog.domains[domain.name],  # its own version
                entity_id,
                principal=Principal(user_id),
                min_seq=min_seq,
            )

        return await self._inside(read)

    async def list_entities(
        self, workspace_id: str, domain: str, *, key: str | None, user_id: str
    ) -> tuple[Domain[Any, Any, Any], EntityPage, list[Entity]]:
        """List a domain's entities with their states, as a host does for a user.

        Raises:
            DalsegnoError: the process's answer; `StoreUnavailableError` where it has ended.

        """
        service = self.service

        async def read() -> tuple[Domain[Any, Any, Any], EntityPage, list[Entity]]:
            own = service.catalog.domains[domain]
            page = await list_entities(
                service.directory,
                service.catalog,
                workspace_id,
                own,
                principal=Principal(user_id),
                key=key,
                limit=service.limits.list_limit_max,
                with_states=True,
            )
            return own, page, await entities_of(page, own, service.limits.turn_s)

        return await self._inside(read)

    async def send(
        self,
        workspace_id: str,
        command: msgspec.Struct,
        *,
        user_id: str | None = None,
        key: str | None = None,
        marker: str | None = None,
    ) -> Receipt:
        """Send a command as the embedding program does, for itself or for a user.

        Raises:
            DalsegnoError: the process's answer; `OutcomeUnknownError` where it has ended.

        """
        service = self.service

        async def submit() -> Receipt:
            return await send(
                service.directory,
                service.catalog,
                workspace_id,
                command,
                principal=SYSTEM if user_id is None else Principal(user_id),
                key=key,
                correlation_id=marker,
            )

        return await self._inside(submit, ended=OutcomeUnknownError)

    async def send_all(
        self,
        workspace_id: str,
        commands: Sequence[msgspec.Struct],
        *,
        user_id: str,
        key: str | None,
        marker: str,
    ) -> Sequence[Receipt]:
        """Send commands as a host does for a user, all or none.

        Raises:
            DalsegnoError: the process's answer; `OutcomeUnknownError` where it has ended.

        """
        service = self.service

        async def submit() -> Sequence[Receipt]:
            return await send_all(
                service.directory,
                service.catalog,
                workspace_id,
                commands,
                principal=Principal(user_id),
                key=key,
                correlation_id=marker,
            )

        return await self._inside(submit, ended=OutcomeUnknownError)

    async def _inside(
        self,
        call: Callable[[], Awaitable[ResultT]],
        *,
        ended: type[DalsegnoError] = StoreUnavailableError,
    ) -> ResultT:
        """Call a function in the process, and wait for its result."""
        results: list[ResultT] = []
        errors: list[Exception] = []
        done = trio.Event()

        async def do() -> None:
            try:
                results.append(await call())
            except Exception as error:  # noqa: BLE001 - raised in the caller
                errors.append(error)
            done.set()

        self.start_soon(do)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_after, self.ended, done)
            await done.wait()
            nursery.cancel_scope.cancel()
        if results:
            return results[0]
        raise errors[0] if errors else ended("the process has ended")


async def _set_after(first: trio.Event, second: trio.Event) -> None:
    await first.wait()
    second.set()


def _is_expected(failure: Exception) -> bool:
    """Return whether a process may die of this: no store at its start, or a successor."""
    return isinstance(failure, UnavailableError) or isinstance(failure.__cause__, NodeReplacedError)


class SimNode:
    """A node: an id that stays, and its processes, one after the other."""

    def __init__(
        self,
        node_id: str,
        store: Store,
        domains: Sequence[Domain[Any, Any, Any]],
        *,
        nursery: trio.Nursery,
        noise: Noise,
        limits: Limits,
        faults: Counter[str],
        recorder: Recorder,
        make_service: Callable[..., Service] = Service,
    ) -> None:
        self.node_id = node_id
        self.clock = SimClock()
        self._recorder = recorder
        self.failures: list[Exception] = []
        """What its processes died of and should not have."""
        self._store = store
        self.domains = domains
        """What its next process serves: another version of them, once that is deployed."""
        self._nursery = nursery
        self._noise = noise
        self._limits = limits
        self._faults = faults
        self._make_service = make_service
        self._ids = count(1)
        self.processes: list[Process] = []
        """Those that have not ended."""
        self._steps = 0
        self._links: list[Link] = []
        self.process = self.start()

    def __repr__(self) -> str:
        return f"<SimNode {self.node_id} {self.process!r}>"

    @property
    def is_up(self) -> bool:
        """Whether clients can connect."""
        return self.process.is_serving

    def start(self) -> Process:
        """Start a process, even if the one before it still runs."""
        link = Link(
            self._nursery,
            self._noise,
            silence_s=self._limits.answer_deadline_s,
            faults=self._faults,
        )
        world = World(
            now=self.clock.now,
            random=self._noise.random,
            new_id=self._new_id,
            new_salt=lambda: salt_of(self._new_id()),
        )
        self.process = Process(
            self.node_id,
            self._store,
            self.domains,
            link=link,
            clock_off_s=lambda: self.clock.offset_s,
            world=world,
            limits=self._limits,
            make_service=self._make_service,
        )
        self.processes.append(self.process)
        self._links.append(link)
        self._nursery.start_soon(self._run, self.process)
        return self.process

    @property
    def steps(self) -> int:
        """The number of steps that the tasks of its processes have taken."""
        return self._steps + sum(process.gate.steps for process in self.processes)

    def acks_unwritten_since(self, now: float) -> float:
        """Return the time since which acks may be forgotten; infinite if all are written in time.

        A process may die in the step in which it writes: what it took before is lost then too.
        """
        since = min(link.unwritten_since(now) for link in self._links)
        return since - 2 * self._limits.ack_flush_s - 4 * LAG_S

    def note_unwritten(self) -> None:
        """Record which acks may be forgotten: before a question that would show it, and at a death.

        What a process took and did not write dies with it, also if nobody asks for a while.
        """
        now = trio.current_time()
        since = self.acks_unwritten_since(now)
        if since <= now:
            self._recorder.crashed(acks_unwritten_s=now - since)

    async def _run(self, process: Process) -> None:
        await process.run()
        self.processes.remove(process)
        self._steps += process.gate.steps
        self.note_unwritten()
        if process.failure is None or process.is_killed:
            return
        if not _is_expected(process.failure):
            self.failures.append(process.failure)
        await trio.sleep(_RESTART_S)
        if self.process is process:
            self.start()

    def _new_id(self) -> str:
        return f"{self.node_id:0>8.8}-0000-7000-8000-{next(self._ids):012x}"
