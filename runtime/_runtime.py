"""The composition root: a store, the actors on it, and the way in for a host's program."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.actors import Service, first_of
from dalsegno.actors.domains.accounts import account_domains
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    DalsegnoError,
    Domain,
    DomainError,
    Limits,
    Reject,
    StoreUnavailableError,
    UnavailableError,
    check_workspace_id,
)

from ._background import in_background
from ._node import is_node_id, node_id_in
from ._workspace import Workspace
from .seams import WORLD
from .store import ConnectionBrokenError, PostgresStore, connect, migrate
from .store._embedded import open_embedded
from .store._memory_accounts import MemoryAccounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dalsegno.actors import Statistics, Store, World

    from ._account_store import AccountStore


class RuntimeFailedError(DalsegnoError):
    """A part that every workspace stands on failed for good; the runtime has ended."""


class Runtime:
    """Durable, totally ordered, resumable workspaces, in this process."""

    def __init__(self, service: Service, accounts: AccountStore) -> None:
        self.service = service
        self.accounts = accounts

    def __repr__(self) -> str:
        return f"<Runtime {self.service!r}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: str | None = None,
        *,
        domains: Sequence[Domain[Any, Any, Any]] = (),
        data_dir: Path | str = ".dalsegno",
        node_id: str | None = None,
        address: str | None = None,
        limits: Limits | None = None,
        world: World = WORLD,
        store: Store | None = None,
    ) -> AsyncIterator[Runtime]:
        """Open the runtime for the length of an ``async with``.

        Leaving it drains: what was accepted is settled, bounded by ``limits.drain_deadline_s``.

        Args:
            database: a DSN, ``postgresql://…``; None starts an embedded PostgreSQL.
            domains: what the workspaces are about; accounts and memberships are always there.
            data_dir: where the embedded PostgreSQL lives; made if it is not there.
            node_id: which node this is, 1 to 64 of ``[A-Za-z0-9_.-]``.  A node that comes back
                under its id has its workspaces back at once; under another one they wait until its
                lease has run out, unless it was drained.  None: the one kept in ``data_dir``, or,
                with a database of one's own, a new one.
            address: where others find this node; told to those who ask here for what it owns.
            limits: every bound; the defaults have their reasons beside them.
            world: wall time, randomness and ids.
            store: any other store, instead of a database.

        Raises:
            DomainError: a domain is not complete, or cannot read what was written before.
            StoreUnavailableError: the database cannot be reached.
            RuntimeFailedError: on the way out: a part that all stand on failed for good.

        """
        limits = limits or Limits()
        everything = (*account_domains, *domains)
        _check(everything)
        if node_id is not None and not is_node_id(node_id):
            raise Reject("BAD_REQUEST", "a node id has 1 to 64 of [A-Za-z0-9_.-]")
        async with AsyncExitStack() as stack:
            accounts: AccountStore
            if store is None:
                dsn = database
                if dsn is None:
                    dsn = (await stack.enter_async_context(open_embedded(Path(data_dir)))).dsn
                    node_id = node_id or node_id_in(Path(data_dir))
                await _migrate(dsn)
                postgres = await stack.enter_async_context(PostgresStore.open(dsn, limits=limits))
                store, accounts = postgres, postgres.accounts
            else:
                accounts = MemoryAccounts(world)
            await _check_readable(store, everything)
            service = Service(
                store,
                everything,
                node_id=node_id or world.new_id(),
                address=address,
                world=world,
                limits=limits,
                version=version("dalsegno"),
                sweeps=[accounts.sweep_sessions],
            )
            async with _running(service, limits):
                yield cls(service, accounts)

    @property
    def limits(self) -> Limits:
        """The bounds."""
        return self.service.limits

    @property
    def world(self) -> World:
        """Wall time, randomness and ids."""
        return self.service.world

    @property
    def store(self) -> Store:
        """The log."""
        return self.service.store

    @property
    def system(self) -> Workspace:
        """The reserved workspace of users and workspaces."""
        return Workspace(self.service, SYSTEM_WORKSPACE)

    def statistics(self) -> Statistics:
        """Tell how everything stands."""
        return self.service.statistics()

    async def drain(self) -> None:
        """Refuse new commands, settle what was taken, write what was acked; bound it."""
        await _drain(self.service)

    def workspace(self, workspace_id: str) -> Workspace:
        """Get hold of a workspace; it is made by the first write to it.

        Raises:
            Reject: ``BAD_REQUEST`` unless the id has 1 to 64 of ``[A-Za-z0-9_.-]``.

        """
        return Workspace(self.service, check_workspace_id(workspace_id))


async def _migrate(dsn: str) -> None:
    try:
        connection = await connect(dsn)
        try:
            await migrate(connection)
        finally:
            await connection.aclose()
    except ConnectionBrokenError as error:
        raise StoreUnavailableError(f"the database is away: {error.message}") from error


@asynccontextmanager
async def _running(service: Service, limits: Limits) -> AsyncIterator[None]:
    """Run the actors in the background of a block, and drain them at its end."""
    async with in_background(service.run, starts=True, translate=_failure):
        try:
            yield
        finally:
            if not service.is_draining:  # what was drained once has had its time
                with trio.move_on_after(limits.drain_deadline_s, shield=True):
                    await _drain(service)
            with trio.move_on_after(limits.close_deadline_s, shield=True):
                await _leave(service)


def _failure(group: ExceptionGroup[Exception]) -> Exception:
    """Return what a program gets where the actors failed."""
    first = first_of(group)
    if isinstance(first, UnavailableError):
        return first  # it never began
    failure = RuntimeFailedError(f"a service failed: {first}")
    failure.__cause__ = group
    return failure


async def _drain(service: Service) -> None:
    try:
        await service.drain()
    except UnavailableError:
        return  # acks are repeated, never skipped: those that could not be written come again


async def _leave(service: Service) -> None:
    """Let others have the workspaces at once, also after a drain that was cut short."""
    try:
        await service.lease.end()
    except UnavailableError:
        return  # they wait until the lease has run out


def _check(domains: Sequence[Domain[Any, Any, Any]]) -> None:
    names: dict[str, Domain[Any, Any, Any]] = {}
    commands: dict[str, Domain[Any, Any, Any]] = {}
    for domain in domains:
        domain.check()
        if names.setdefault(domain.name, domain) is not domain:
            raise DomainError(f"two domains are named {domain.name!r}")
        for command in domain.commands:
            if commands.setdefault(command, domain) is not domain:
                raise DomainError(f"{domain.name} and {commands[command].name} share {command!r}")


async def _check_readable(store: Store, domains: Sequence[Domain[Any, Any, Any]]) -> None:
    """Refuse to start where the log has what no domain here can fold (I11)."""
    by_name = {domain.name: domain for domain in domains}
    for name, type_, type_version in sorted(await store.event_types()):
        domain = by_name.get(name)
        if domain is not None and not domain.reads(type_, type_version):
            raise DomainError(
                f"the log has {type_} version {type_version} on {name}; this domain reads up to "
                f"version {domain.type_version(type_)}"
            )
