"""All the actors of one runtime, and what they look up of each other."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import trio

from dalsegno.actors.delivery import AckFrontiers
from dalsegno.actors.node import Directory, Lease, Supervisor, repair
from dalsegno.actors.ports import Alone
from dalsegno.actors.workspace import Committer
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    Close,
    Principal,
    Reject,
    UnavailableError,
    Views,
    check_workspace_id,
    heartbeat,
)

from .domains.accounts import system_domains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.delivery import AckStatistics, DeliveryStatistics
    from dalsegno.actors.node import (
        LeaseStatistics,
        RepairReport,
        ServiceStatistics,
        SlotStatistics,
    )
    from dalsegno.actors.ports import Bus, CursorKey, Store, World
    from dalsegno.actors.session import Connection
    from dalsegno.actors.workspace import CommitterStatistics, Domains
    from dalsegno.protocol import Domain, Limits

_log = logging.getLogger("dalsegno.service")

_TICK_S = 1.0
_SWEEP_S = 60.0
_SWEEP_ROWS = 500


def not_found(stream_id: str) -> Reject:
    """Make the answer for an entity that is not there, or not for whoever asks (C22)."""
    kind = stream_id.partition(":")[0]
    return Reject(f"{kind.upper()}_NOT_FOUND", f"no such {kind}", stream_id=stream_id)


class Sweep(Protocol):
    """Something that grows old in the store."""

    async def __call__(self, *, limit: int) -> int:
        """Forget at most ``limit`` rows, and tell how many went; raises `UnavailableError`."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A runtime at one moment."""

    connections: int
    workspaces: dict[str, SlotStatistics]
    committer: CommitterStatistics
    acks: AckStatistics
    delivery: DeliveryStatistics
    lease: LeaseStatistics
    services: list[ServiceStatistics]


class Service:
    """The actors of one runtime: made together, run together, ended together."""

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
    ) -> None:
        """Make them.

        Args:
            store: the log.
            domains: what the workspaces are about.
            node_id: which node this is, the same over restarts.
            world: wall time, randomness and ids.
            limits: every bound.
            address: where others find this node; told to those who ask here for what it owns.
            version: of the program; with the domains' versions it tells code that halted a
                workspace from code that may try it again.
            bus: tells other nodes of commits; None where there are none.
            sweeps: what else is to be kept from growing.

        """
        self.store = store
        self.world = world
        self.limits = limits
        self.domains: Domains = {domain.name: domain for domain in domains}
        self.views = Views(self.domains)
        self.committer = Committer(store, world=world, limits=limits)
        self.acks = AckFrontiers(store, limits=limits)
        self.lease = Lease(
            store, node_id=node_id, incarnation=world.new_id(), address=address, limits=limits
        )
        self.directory = Directory(
            store,
            committer=self.committer,
            lease=self.lease,
            domains=self.domains,
            code=_code(version, domains),
            bus=bus or Alone(),
            world=world,
            limits=limits,
        )
        self._sweeps = (store.sweep_results, *sweeps)
        self.supervisor = Supervisor(
            [
                ("directory", self.directory.run),
                ("committer", self.committer.run),
                ("acks", self.acks.run),
                ("lease", self._keep_lease),
                ("beat", self._beat),
                ("sweep", self._sweep),
            ],
            failures_max=limits.service_failures_max,
            window_s=limits.service_window_s,
        )
        self._places: OrderedDict[str, str] = OrderedDict()
        """The workspaces of entities; those in use last stay longest."""
        self.connections: dict[Connection, None] = {}
        """Those that are open, in the order they came."""
        self.commands: dict[type, tuple[str, Domain[Any, Any, Any]]] = {
            type_: (name, domain) for domain in domains for name, type_ in domain.commands.items()
        }
        """Every command's struct, with its name and its domain."""
        # What is written to $system is for the program to decide, whatever a workspace's roles say.
        self._commands = {
            name: domain
            for domain in domains
            if domain not in system_domains
            for name in domain.commands
        }

    def __repr__(self) -> str:
        return f"<Service {self.directory!r}, {len(self.connections)} connections>"

    def statistics(self) -> Statistics:
        """Tell how everything stands."""
        return Statistics(
            connections=len(self.connections),
            workspaces=self.directory.statistics(),
            committer=self.committer.statistics(),
            acks=self.acks.statistics(),
            delivery=self.directory.delivery.statistics(),
            lease=self.lease.statistics(),
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
        """Let the committer go once the runtime ends: it was drained before, within its bound.

        It shields its statement, and a frozen database gets no second bound.
        """
        try:
            await trio.sleep_forever()
        finally:
            self.committer.give_up()

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was begun."""
        return self.directory.is_draining

    async def drain(self) -> None:
        """Settle what was taken, write what was acked, leave the rest to others; bound it.

        Raises:
            UnavailableError: the store is away: acks come again, and others wait for the lease.

        """
        await self.directory.drain()
        try:
            await self.acks.flush()
        finally:
            await self.lease.end()

    async def _keep_lease(self, *, task_status: trio.TaskStatus[None]) -> None:
        directory = self.directory
        await self.lease.keep(
            directory.compare, directory.tell_store_returned, task_status=task_status
        )

    # ---------------------------------------------------------------------------- looking up

    def domain_of(self, command: str) -> Domain[Any, Any, Any]:
        """Find the domain of a command that the network may name.

        Raises:
            Reject: ``UNKNOWN_COMMAND``.

        """
        domain = self._commands.get(command)
        if domain is None:
            raise Reject("UNKNOWN_COMMAND", f"no command {command[:64]!r}")
        return domain

    @staticmethod
    def principal(user_id: str, role: str | None) -> Principal:
        """Name who acts over a connection."""
        return Principal(user_id, role)

    async def role_of(self, workspace_id: str, user_id: str) -> str | None:
        """Tell a user's role as it is committed."""
        return await self.directory.role_of(workspace_id, user_id)

    async def check_exists(self, workspace_id: str) -> None:
        """Pass a workspace that is there.

        Raises:
            Reject: ``WORKSPACE_NOT_FOUND``: over the network nobody makes one by naming it.

        """
        if not await self.directory.exists(workspace_id):
            raise Reject("WORKSPACE_NOT_FOUND", "no such workspace")

    async def place(self, stream_id: str, workspace_id: str | None) -> str:
        """Find the workspace of an entity that may be named by its id alone.

        An entity stays where it was made, so what was found once is remembered.  One in
        ``$system`` is nowhere: that log is not read from outside.

        Raises:
            Reject: ``…_NOT_FOUND`` where there is none; ``BAD_REQUEST`` where the id alone does
                not tell.

        """
        if workspace_id is not None:
            if workspace_id == SYSTEM_WORKSPACE or not self.directory.is_known(workspace_id):
                check_workspace_id(workspace_id)
                await self.check_exists(workspace_id)
            return workspace_id
        if stream_id in self._places:
            self._places.move_to_end(stream_id)
            return self._places[stream_id]
        # Of three, one may be the reserved one.
        found = await self.store.locate(stream_id, limit=3)
        places = [place for place in found if place != SYSTEM_WORKSPACE]
        if len(places) > 1:
            raise Reject("BAD_REQUEST", "several workspaces have this id: name the workspace")
        if not places:
            raise not_found(stream_id)
        self._places[stream_id] = places[0]
        if len(self._places) > self.limits.places_cached_max:
            self._places.popitem(last=False)
        return places[0]

    async def repair(self, workspace_id: str, *, actor: str) -> RepairReport:
        """Check a workspace's log, and open the workspace again if it was halted; see `repair`."""
        report = await repair(
            self.store, self.domains, workspace_id, actor=actor, limits=self.limits
        )
        self.directory.reopen(workspace_id)
        return report

    # ------------------------------------------------------------------------------ closing

    def close_session(self, session_id: bytes, code: Close, reason: str) -> None:
        """Close a session's connections: from this step on nothing more is written to them."""
        for connection in list(self.connections):
            if connection.session_id == session_id:
                connection.close(code, reason)

    def close_all(self, code: Close, reason: str) -> None:
        """Close every connection."""
        for connection in list(self.connections):
            connection.close(code, reason)

    # ------------------------------------------------------------------------------- timers

    async def _beat(self, *, task_status: trio.TaskStatus[None]) -> None:
        """One timer for all connections: heartbeats, pings and their deadlines."""
        task_status.started()
        while True:
            await trio.sleep(min(_TICK_S, self.limits.heartbeat_interval_s / 4))
            now = trio.current_time()
            beat = heartbeat(self.world.now())
            for count, connection in enumerate(list(self.connections), 1):
                connection.tick(now, beat)
                # After a pause all may be due at once, and from then on in step.
                if count % self.limits.offers_per_yield == 0:
                    await trio.lowlevel.checkpoint()

    async def _sweep(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Forget what is too old, a few rows at a time and never two nodes' worth at once."""
        task_status.started()
        cursor: CursorKey | None = None
        while True:
            await trio.sleep(_SWEEP_S * (1 + self.world.random()))
            try:
                for sweep in self._sweeps:
                    await self._sweep_all(sweep)
                cursor = await self.store.sweep_cursors(
                    cursor, limit=_SWEEP_ROWS, unused_s=self.limits.cursor_unused_s
                )
            except UnavailableError as error:
                _log.warning("what is too old was not swept: %s", error)

    async def _sweep_all(self, sweep: Sweep) -> None:
        swept = _SWEEP_ROWS
        while swept == _SWEEP_ROWS:
            swept = await sweep(limit=_SWEEP_ROWS)
            await trio.sleep(self.limits.ack_flush_s)


def _code(version: str, domains: Sequence[Domain[Any, Any, Any]]) -> str:
    """Name what folds a log here."""
    return " ".join([version, *sorted(f"{domain.name}:{domain.version}" for domain in domains)])
