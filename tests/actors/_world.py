"""A world that stands still, a store that fails on demand, and actors that can be killed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
import pytest
import trio

from dalsegno.actors import (
    AckedCursor,
    Batch,
    EntityWrite,
    Head,
    PageBounds,
    Receipt,
    Service,
    Store,
    StoredEntity,
    StoredResult,
    World,
    make_command,
)
from dalsegno.actors.domains.accounts import account_domains
from dalsegno.actors.domains.notes import note_dialect, notes
from dalsegno.actors.ports import Appending
from dalsegno.actors.testing import MemoryStore
from dalsegno.actors.workspace import Receipts, checking
from dalsegno.protocol import (
    CHAIN_START,
    SEQ_MAX,
    DalsegnoError,
    Domain,
    Event,
    Limits,
    OutcomeUnknownError,
    StoreUnavailableError,
    chained,
    finished,
)
from dalsegno.runtime import Workspace
from tests.actors._boxes import boxes

DOMAINS: tuple[Domain[Any, Any, Any], ...] = (*account_domains, notes, boxes)


@dataclass
class Wall:
    """Wall time that moves when told, constant randomness, ids that count."""

    now: datetime = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def world(self) -> World:
        return World(
            now=lambda: self.now,
            random=lambda: 0.5,
            new_id=lambda: f"00000000-0000-7000-8000-{next(self.ids):012x}",
            new_salt=lambda: bytes(16),
        )


Append: TypeAlias = Callable[[Sequence[Batch]], Awaitable[Collection[str]]]
Fault: TypeAlias = Callable[[Append, Sequence[Batch]], Awaitable[Collection[str]]]


class FaultyStore(MemoryStore):
    """The memory store, with a fault for each of the next statements, and a gate for a read."""

    def __init__(self, world: World, *, limits: Limits | None = None) -> None:
        super().__init__(world, limits=limits)
        self.statements: list[list[Batch]] = []
        """Every append that was asked for."""
        self.faults: deque[Fault] = deque()
        """For the next appends, one each; the rest succeed."""
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        """What happens before any call of a method, by its name."""
        self.after_append: Callable[[Collection[str]], None] = lambda _: None
        self.sends_at_once = True
        """Whether a statement can be sent without waiting for anything."""

    def append_nowait(self, batches: Sequence[Batch]) -> Appending | None:
        return super().append_nowait(batches) if self.sends_at_once else None

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        self.statements.append(list(batches))
        fault = self.faults.popleft() if self.faults else None
        append = super().append
        won = await (append(batches) if fault is None else fault(append, batches))
        self.after_append(won)
        return won

    async def _before(self, method: str) -> None:
        if method in self.before:
            await self.before[method]()

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        await self._before("beat")
        return await super().beat(
            node_id, incarnation, address=address, lease_s=lease_s, first=first
        )

    async def acquire(
        self,
        workspace_id: str,
        owner: str,
        *,
        create: bool,
        incarnation: str | None = None,
        app_version: int = 0,
    ) -> Head | None:
        await self._before("acquire")
        return await super().acquire(
            workspace_id, owner, create=create, incarnation=incarnation, app_version=app_version
        )

    async def write_states(
        self, workspace_id: str, epoch: int, entities: Sequence[EntityWrite]
    ) -> bool:
        await self._before("write_states")
        return await super().write_states(workspace_id, epoch, entities)

    async def release(self, workspace_id: str, epoch: int) -> bool:
        await self._before("release")
        return await super().release(workspace_id, epoch)

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        await self._before("load_entities")
        return await super().load_entities(workspace_id, stream_ids, domain_versions)

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        await self._before("find_results")
        return await super().find_results(workspace_id, keys)

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        await self._before("read_events")
        return await super().read_events(workspace_id, bounds)

    async def read_cursors(self, keys: Collection[Any]) -> dict[Any, int]:
        found = await super().read_cursors(keys)
        await self._before("read_cursors")
        return found

    async def write_cursors(self, cursors: dict[Any, AckedCursor]) -> None:
        await self._before("write_cursors")
        await super().write_cursors(cursors)


async def applied_unknown(append: Append, batches: Sequence[Batch]) -> Collection[str]:
    """The commit happens, its answer is lost (FI-2)."""
    await append(batches)
    raise OutcomeUnknownError("the connection was lost after the commit")


async def lost_unknown(_append: Append, _batches: Sequence[Batch]) -> Collection[str]:
    """The commit does not happen, and its outcome is unknown (FI-3)."""
    await trio.lowlevel.checkpoint()
    raise OutcomeUnknownError("the connection was lost before the commit")


async def away(_append: Append, _batches: Sequence[Batch]) -> Collection[str]:
    """Nothing was sent (FI-1)."""
    await trio.lowlevel.checkpoint()
    raise StoreUnavailableError("the database is away")


async def hangs(_append: Append, _batches: Sequence[Batch]) -> Collection[str]:
    """The answer never comes."""
    await trio.sleep_forever()
    raise AssertionError


def held(gate: trio.Event) -> Fault:
    """The statement takes until the gate opens."""

    async def wait(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        await gate.wait()
        return await append(batches)

    return wait


def answered_late(appended: trio.Event, gate: trio.Event) -> Fault:
    """The statement takes effect at once, and its answer comes when the gate opens."""

    async def answer(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        done = await append(batches)
        appended.set()
        await gate.wait()
        return done

    return answer


def held_then(gate: trio.Event, fault: Fault) -> Fault:
    """The statement takes until the gate opens, and then fails."""

    async def wait(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        await gate.wait()
        return await fault(append, batches)

    return wait


def leaves_out(workspace_id: str) -> Fault:
    """Another transaction holds the head of one workspace."""

    async def leave_out(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        return await append([b for b in batches if b.workspace_id != workspace_id])

    return leave_out


@dataclass
class Actors:
    """A running service, and workspaces of it."""

    service: Service
    scope: trio.CancelScope

    def workspace(self, workspace_id: str = "w") -> Workspace:
        return Workspace(self.service, workspace_id)

    def incarnations(self, workspace_id: str = "w") -> int:
        return self.service.directory.statistics()[workspace_id].incarnations

    def forget(self, workspace_id: str = "w") -> None:
        """Forget what is in memory for readers, so that the next page is read from the store."""
        hub = self.service.directory.activate(workspace_id).hub
        self.service.node.delivery.tails.forget(hub.tail)
        hub.cache_generation = object()

    def kill(self) -> None:
        """End everything at once: nothing is drained."""
        self.scope.cancel()


@asynccontextmanager
async def running(
    store: Store,
    world: World,
    *,
    limits: Limits | None = None,
    domains: Sequence[Domain[Any, Any, Any]] = DOMAINS,
) -> AsyncIterator[Actors]:
    """Run the actors; they are killed at the end."""
    service = Service(
        store,
        domains,
        node_id="n",
        world=world,
        limits=limits or Limits(),
        dialects=[note_dialect],
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield Actors(service, nursery.cancel_scope)
        nursery.cancel_scope.cancel()


class Posted:
    """A command in the mailbox, and its answer once there is one."""

    def __init__(self, workspace: Workspace, command: Any, key: str | None = None) -> None:
        service = workspace._service
        name, domain = service.catalog.commands[type(command)]
        checked, size = finished(checking(domain, name, command, limits=service.limits))
        self.command = make_command(
            workspace.id,
            domain,
            name,
            checked,
            checked_bytes=size,
            principal=workspace.principal,
            reply=self,
            limits=service.limits,
            roles=service.catalog.roles,
            new_id=service.world.new_id,
            key=key,
        )
        self.answer: Receipt | DalsegnoError | None = None
        self._answered = trio.Event()
        if not service.directory.activate(workspace.id).admit_nowait(self.command):
            raise trio.WouldBlock

    def give(self, answer: Receipts | DalsegnoError) -> None:
        assert self.answer is None, "answered once"
        assert not isinstance(answer, tuple), "of one command"
        self.answer = answer
        self._answered.set()

    async def wait(self) -> Receipt | DalsegnoError:
        await self._answered.wait()
        assert self.answer is not None
        return self.answer

    @property
    def code(self) -> str | None:
        """The error's code; None for a receipt."""
        assert self.answer is not None, "answered"
        return self.answer.code if isinstance(self.answer, DalsegnoError) else None

    @property
    def receipt(self) -> Receipt:
        assert isinstance(self.answer, Receipt)
        return self.answer


def post_all(
    workspace: Workspace, commands: Sequence[Any], *, keys: Sequence[str | None] = ()
) -> list[Posted]:
    """Put commands into the mailbox, in this order, in one step."""
    keys = keys or [None] * len(commands)
    return [Posted(workspace, command, key) for command, key in zip(commands, keys, strict=True)]


async def send_all(
    workspace: Workspace, commands: Sequence[Any], *, keys: Sequence[str | None] = ()
) -> list[Posted]:
    """Put commands into the mailbox, in this order, in one step, and wait for all answers."""
    posted = post_all(workspace, commands, keys=keys)
    for one in posted:
        await one.wait()
    return posted


async def refusal(workspace: Workspace, command: Any, **how: Any) -> DalsegnoError:
    """Send a command and return why it was refused."""
    with pytest.raises(DalsegnoError) as caught:
        await workspace.send(command, **how)
    return caught.value


async def log_of(store: Store, workspace_id: str = "w") -> list[Event]:
    everything = PageBounds(from_seq=1, limit=SEQ_MAX, bytes_max=2**40)
    return await store.read_events(workspace_id, everything)


async def check_log(store: Store, workspace_id: str = "w") -> list[Event]:
    """Check I1 of a log: dense in the workspace, dense in each stream, chained, time not back."""
    events = await log_of(store, workspace_id)
    assert [event.event_seq for event in events] == [*range(1, len(events) + 1)]
    versions: dict[str, int] = {}
    link = 0
    for event in events:
        versions[event.stream_id] = versions.get(event.stream_id, 0) + 1
        assert event.stream_seq == versions[event.stream_id]
        assert event.chain == chained(link, event)
        link = event.chain
    times = [event.recorded_at for event in events]
    assert times == sorted(times)
    assert await store.read_versions(workspace_id, [*versions]) == versions
    return events


def roll_back(store: FaultyStore, kept: int) -> None:
    """Lose the end of a log, as when an asynchronous standby is promoted."""
    log = store._logs["w"]
    for event in log.events[kept:]:
        log.streams[event.stream_id].remove(event)
    del log.events[kept:]
    last = log.events[-1] if log.events else None
    log.entities = {
        stream_id: msgspec.structs.replace(row, version=len(log.streams[stream_id]))
        for stream_id, row in log.entities.items()
        if log.streams[stream_id]
    }
    log.head = msgspec.structs.replace(
        log.head, head_seq=kept, chain=last.chain if last else CHAIN_START, owner=None
    )


async def eventually(condition: Callable[[], object], *, within_s: float = 60) -> None:
    """Wait for a condition; the clock of a test usually jumps."""
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.001)
