"""The actors of one runtime, composed: made together, run together, ended together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.protocol import BUILT_IN_ROLES, Views
from dalsegno.protocol.dialects import GENERIC, Language

from .delivery import AckFrontiers, Delivery, Presences
from .effects import ArtifactSweep, AuditTrail, Reactors, Runs, StageSweep, Timers
from .node import (
    Catalog,
    Directory,
    Lease,
    ServingNode,
    StoreClock,
    Supervisor,
    Sweeper,
    WorkspaceSupervisor,
    repair,
)
from .ports import Alone, Roles, Watchers
from .session import Connection, Connections, SessionContext
from .workspace import Committer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dalsegno.protocol import Authorize, Domain, Limits, Reactor, Role
    from dalsegno.protocol.dialects import Dialect
    from dalsegno.protocol.providers import Providers
    from dalsegno.protocol.runs import Worker

    from .delivery import AckStatistics, DeliveryStatistics, PresenceStatistics
    from .effects import AuditStatistics, ReactorStatistics, RunStatistics, TimerStatistics
    from .node import (
        LeaseStatistics,
        RepairReport,
        ServiceStatistics,
        Sweep,
        WorkspaceStatistics,
    )
    from .ports import Artifacts, Bus, Dumps, Folders, ProcessRunner, Store, World
    from .workspace import CommitterStatistics


@dataclass(frozen=True, slots=True)
class Statistics:
    """A runtime at one moment."""

    connections: int
    workspaces: dict[str, WorkspaceStatistics]
    committer: CommitterStatistics
    acks: AckStatistics
    delivery: DeliveryStatistics
    presence: PresenceStatistics
    lease: LeaseStatistics
    timers: TimerStatistics
    runs: RunStatistics
    reactors: ReactorStatistics
    audit: AuditStatistics
    services: list[ServiceStatistics]


class Service:
    """The actors of one runtime; see the module."""

    def __init__(
        self,
        store: Store,
        domains: Sequence[Domain[Any, Any, Any]],
        *,
        node_id: str,
        world: World,
        limits: Limits,
        address: str | None = None,
        version: str = "",
        bus: Bus | None = None,
        sweeps: Sequence[Sweep] = (),
        roles: Mapping[str, Role] = BUILT_IN_ROLES,
        authorize: Authorize | None = None,
        app_version: int = 0,
        store_time: bool = False,
        dialects: Sequence[Dialect] = (),
        workers: Mapping[str, Worker] = MappingProxyType({}),
        reactors: Sequence[Reactor] = (),
        processes: ProcessRunner | None = None,
        providers: Providers | None = None,
        artifacts: Artifacts | None = None,
        folders: Folders | None = None,
        dumps: Dumps | None = None,
    ) -> None:
        """Make them.

        Args:
            store: the log.
            domains: what the workspaces are about.
            node_id: which node this is, the same over restarts.
            world: wall time, randomness and ids.
            limits: every bound.
            address: where others find this node; told to those that ask here for what it owns.
            version: of the program; another one, or a domain's, may try a halted workspace again.
            bus: tells other nodes of commits; None where there are none.
            sweeps: what else is to be kept from growing.
            roles: what each role may do in a workspace.
            authorize: what says no besides; see `App`.
            app_version: of the program; a higher one keeps what it has owned.
            store_time: whether the time is the store's, which each beat asks for, and not the
                world's.
            dialects: what clients may say, besides the generic dialect.
            workers: who carries out runs, by their names.
            reactors: what is told of events, and asks for runs.
            processes: what starts processes for them.
            providers: whom they ask models of.
            artifacts: where they write files.
            folders: what puts files into the folders of workspaces for them.
            dumps: the store as rows, for backups.

        """
        access = Roles(domains, roles, authorize)
        active: OrderedDict[str, WorkspaceSupervisor] = OrderedDict()
        process_id = world.new_id()
        clock = StoreClock(world.now) if store_time else None
        if clock is not None:
            world = replace(world, now=clock.now)
        self.store, self.world, self.limits = store, world, limits
        self.roles = access
        self._is_draining = False
        self.committer = Committer(store, world=world, limits=limits)
        self.acks = AckFrontiers(store, limits=limits)
        self.lease = Lease(
            store,
            node_id=node_id,
            incarnation=process_id,
            address=address,
            limits=limits,
            clock=clock,
        )
        self.catalog = Catalog(
            store, domains, active=active, lease=self.lease, roles=access, limits=limits
        )
        self.node = ServingNode(
            node_id=node_id,
            process_id=process_id,
            code=_code(version, domains),
            app_version=app_version,
            store=store,
            committer=self.committer,
            delivery=Delivery(store, roles=access, limits=limits),
            bus=bus or Alone(),
            founder_of=self.catalog.founder_of,
            audit_readers=self.catalog.audit_readers,
            activating=trio.CapacityLimiter(limits.activations_max),
            world=world,
            limits=limits,
            workers=workers,
            processes=processes,
            providers=providers,
            artifacts=artifacts,
            folders=folders,
            dumps=dumps,
            lease=self.lease,
        )
        self.directory = Directory(self.node, active)
        self.audit = AuditTrail(self.directory, self.catalog)
        self.connections: Connections[Connection] = Connections(limits=limits)
        self.presences = Presences(world=world, limits=limits, serves=lambda: self.lease.is_held)
        self.sessions = SessionContext(
            node=self.node,
            directory=self.directory,
            catalog=self.catalog,
            acks=self.acks,
            presences=self.presences,
            views=Views(self.catalog.domains),
            language=Language(GENERIC, *dialects),
            connections=self.connections,
            note_refused=self.audit.note_refused,
        )
        self.timers = Timers(self.directory, self.catalog)
        self.runs = Runs(self.directory, self.catalog, workers)
        self.reactors = Reactors(self.directory, self.catalog, reactors)
        self.node.delivery.watcher = Watchers(self.reactors, self.runs, self.audit)
        self.node.put_on_record = self.audit.wake
        files = ArtifactSweep(self.directory, self.catalog)
        stages: list[Sweep] = []
        if folders is not None and any(each.folder for each in workers.values()):
            stages = [StageSweep(folders, self.catalog, store, workers)]
        self.sweeper = Sweeper(store, [*sweeps, files], first=stages, world=world, limits=limits)
        self.supervisor = Supervisor(
            self._services(),
            failures_max=limits.service_failures_max,
            window_s=limits.service_window_s,
        )

    def __repr__(self) -> str:
        return f"<Service {self.directory!r}, {len(self.connections)} connections>"

    def _services(self) -> list[tuple[str, Callable[..., Awaitable[None]]]]:
        """Return what runs, in the order in which it is started."""
        audit = [] if self.audit.refusals is None else [("audit", self.audit.run)]
        return [
            ("directory", self.directory.run),
            ("committer", self.committer.run),
            ("acks", self.acks.run),
            ("lease", self._keep_lease),
            ("beat", self.connections.run),
            ("presence", self.presences.run),
            ("sweep", self.sweeper.run),
            ("timers", self.timers.run),
            ("runs", self.runs.run),
            ("reactors", self.reactors.run),
            *audit,
        ]

    def statistics(self) -> Statistics:
        """Return how everything stands."""
        return Statistics(
            connections=len(self.connections),
            workspaces=self.directory.statistics(),
            committer=self.committer.statistics(),
            acks=self.acks.statistics(),
            delivery=self.node.delivery.statistics(),
            presence=self.presences.statistics(),
            lease=self.lease.statistics(),
            timers=self.timers.statistics(),
            runs=self.runs.statistics(),
            reactors=self.reactors.statistics(),
            audit=self.audit.statistics(),
            services=self.supervisor.statistics(),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the actors until cancelled.

        Raises:
            StoreUnavailableError: at the start: the store is away.
            ServiceFailedError: a shared service failed too often, or another process is this node.

        """
        await self.lease.take()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up_at_the_end)
            await self.supervisor.run(task_status=task_status)

    async def _give_up_at_the_end(self) -> None:
        """Release the committer once the runtime ends: it was drained before, within its bound.

        It shields its statement, and a frozen database gets no second bound.
        """
        try:
            await trio.sleep_forever()
        finally:
            self.committer.give_up()

    async def _keep_lease(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.lease.keep(self.directory.compare, self._store_returned, task_status=task_status)

    def _store_returned(self) -> None:
        self.catalog.forget_places()
        self.node.announce_store_returned()

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was begun; commands are taken until all attempts at runs have ended."""
        return self._is_draining

    async def drain(self) -> None:
        """Settle what was taken, write what was acked, leave the rest to others; bound it.

        Raises:
            UnavailableError: the store is away: acks come again, and others wait for the lease.

        """
        self._is_draining = True
        self.reactors.stop()
        await self.runs.drain()
        await self.directory.drain()
        try:
            await self.acks.flush()
            await self.reactors.write()  # last: what is not written they are told of again
            await self.audit.write()
        finally:
            await self.lease.end()

    async def repair(self, workspace_id: str, *, actor: str) -> RepairReport:
        """Check a workspace's log, and open the workspace again if it was halted; see `repair`."""
        domains = self.catalog.domains
        report = await repair(self.store, domains, workspace_id, actor=actor, limits=self.limits)
        self.directory.reopen(workspace_id)
        return report


def _code(version: str, domains: Sequence[Domain[Any, Any, Any]]) -> str:
    """Return the name of what folds a log here."""
    return " ".join([version, *sorted(f"{domain.name}:{domain.version}" for domain in domains)])
