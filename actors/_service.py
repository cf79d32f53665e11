"""All the actors of one runtime, and what they look up of each other."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    Close,
    Frames,
    Principal,
    Reject,
    UnavailableError,
    Views,
    check_workspace_id,
    heartbeat,
)

from ._acks import AckFrontiers
from ._committer import Committer
from ._directory import Directory
from .domains.accounts import system_domains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Domain, Limits

    from ._command import Domains
    from ._connection import Connection
    from ._seams import World
    from ._store import Store

_log = logging.getLogger("dalsegno.service")

_TICK_S = 1.0
_SWEEP_S = 60.0
_SWEEP_ROWS = 500


def not_found(stream_id: str) -> Reject:
    """Make the answer for an entity that is not there, or not for whoever asks (C22)."""
    kind = stream_id.partition(":")[0]
    return Reject(f"{kind.upper()}_NOT_FOUND", f"no such {kind}", stream_id=stream_id)


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
    ) -> None:
        self.store = store
        self.world = world
        self.limits = limits
        self.domains: Domains = {domain.name: domain for domain in domains}
        self.views = Views(self.domains)
        self.committer = Committer(store, world=world, limits=limits)
        self.acks = AckFrontiers(store, limits=limits)
        self.directory = Directory(
            store,
            committer=self.committer,
            domains=self.domains,
            node_id=node_id,
            world=world,
            limits=limits,
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

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the actors until cancelled: services first, and last to go."""
        async with trio.open_nursery() as services:
            services.start_soon(self.committer.run)
            services.start_soon(self.acks.run)
            services.start_soon(self._beat)
            services.start_soon(self._sweep)
            try:
                await services.start(self.directory.run)
                task_status.started()
                await trio.sleep_forever()
            finally:
                # It was drained before, within its bound; a frozen database gets no second one.
                self.committer.give_up()
                services.cancel_scope.cancel(reason="the runtime ends")

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was begun."""
        return self.directory.is_draining

    async def drain(self) -> None:
        """Settle what was taken and write what was acked; the caller bounds it."""
        await self.directory.drain()
        await self.acks.flush()

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

    async def _beat(self) -> None:
        """One timer for all connections: heartbeats, pings and their deadlines."""
        while True:
            await trio.sleep(min(_TICK_S, self.limits.heartbeat_interval_s / 4))
            now = trio.current_time()
            beat = Frames((heartbeat(self.world.now()),))
            for connection in list(self.connections):
                connection.tick(now, beat)

    async def _sweep(self) -> None:
        """Remove expired answers of idempotency keys, a few at a time."""
        while True:
            await trio.sleep(_SWEEP_S)
            swept = _SWEEP_ROWS
            try:
                while swept == _SWEEP_ROWS:
                    swept = await self.store.sweep_results(limit=_SWEEP_ROWS)
                    await trio.sleep(self.limits.ack_flush_s)
            except UnavailableError as error:
                _log.warning("expired answers were not swept: %s", error)
