"""The composition root: a store, the actors on it, and the interface for a host's program."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import trio

from dalsegno.actors import Service, first_of
from dalsegno.actors.domains.built_in import built_in_domains
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    App,
    DalsegnoError,
    Domain,
    DomainError,
    Limits,
    Reject,
    UnavailableError,
    check_workspace_id,
)

from ._background import in_background
from ._collector import set_for_server
from ._node import is_node_id, node_id_in
from ._revocation import Revocation
from ._watchdog import watched
from ._workspace import Workspace
from .artifacts import FolderArtifacts
from .folders import LocalFolders
from .processes import Processes
from .seams import WORLD
from .store import DRIVERS, PostgresStore, bring_up_to_date, open_driver, open_embedded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from dalsegno.actors import Artifacts, Dumps, Folders, Statistics, Store, World
    from dalsegno.protocol.providers import Providers

    from ._account_store import AccountStore
    from .store import DriverName


class RuntimeFailedError(DalsegnoError):
    """A service that every workspace depends on failed for good; the runtime has ended."""


class NoAccountsError(DalsegnoError):
    """The runtime was opened with a store of the program's own, and with no accounts beside it."""


class Runtime:
    """Durable, totally ordered, resumable workspaces, in this process."""

    def __init__(
        self,
        service: Service,
        accounts: AccountStore | None,
        app: App,
        address: str | None = None,
    ) -> None:
        self.service = service
        self.app = app
        """What it serves."""
        self.address = address
        """Where clients reach this node, as other nodes tell them; None: they tell none."""
        self._accounts = accounts
        self.revocation = Revocation(service, accounts)
        """What ends access before its time."""

    def __repr__(self) -> str:
        return f"<Runtime {self.service!r}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: str | None = None,
        *,
        app: App | None = None,
        domains: Sequence[Domain[Any, Any, Any]] = (),
        data_dir: Path | str = ".dalsegno",
        node_id: str | None = None,
        address: str | None = None,
        limits: Limits | None = None,
        world: World = WORLD,
        store: Store | None = None,
        accounts: AccountStore | None = None,
        driver: DriverName = "psycopg",
        providers: Callable[[], AbstractAsyncContextManager[Providers]] | None = None,
        gc: Literal["server"] | None = None,
        artifacts: Path | str | Artifacts | None = None,
        folders: Folders | None = None,
    ) -> AsyncIterator[Runtime]:
        """Open the runtime for the length of an ``async with``.

        Leaving it drains: commands that were accepted are settled, for at most
        ``limits.drain_deadline_s``.

        Args:
            database: a DSN, ``postgresql://…``; None starts an embedded PostgreSQL.
            app: what it serves.
            domains: the domains of its workspaces, in addition to accounts and memberships, for an
                app that has nothing else.
            data_dir: where the embedded PostgreSQL lives; created if it is not there.
            node_id: this node's id, 1 to 64 of ``[A-Za-z0-9_.-]``.  A node that restarts under its
                id has its workspaces back at once; under another one they wait until its lease has
                run out, unless it was drained.  None: the one kept in ``data_dir`` or, with a
                ``database``, a new one.
            address: where clients reach this node; other nodes give it to clients that ask them
                for a workspace of this one.
            limits: every bound; the defaults have their reasons beside them.
            world: wall time, randomness and ids; by default the time is the store's.
            store: any other store, instead of a database.
            accounts: the sessions and credentials beside such a store; None: those that it has as
                its ``accounts``.  Where there are none, nobody can log in; see `accounts`.
            driver: what speaks to the database: ``psycopg``, or ``asyncpg`` by way of trio-asyncio,
                which the extra ``dalsegno[asyncpg]`` brings; nothing else differs.
            providers: opens whom runs ask models of (`Run.chat`), for as long as the runtime is:
                `dalsegno.runtime.providers.open_providers`, or a partial of it.  None: nobody is
                asked.
            gc: ``server`` sets Python's garbage collector for the whole process as ``dalsegno
                serve`` does, and leaves it so: what exists by now is never looked at again
                (`gc.freeze`), and young objects after every 50,000 instead of 700.  With a thousand
                commands on their way that saves about a tenth of the processor time; a pass over so
                many takes up to 40 ms.  None: the collector is the program's.
            artifacts: where runs write files: a folder, which is made, or what the program has
                instead.  None: the folder ``artifacts`` in ``data_dir``, or nowhere where there is
                a database or a store of the program's own: runs that write a file fail then.
            folders: puts files into the folders of workspaces (`Worker.folder`).  None: on the
                disks of this machine.

        Raises:
            DomainError: a domain is not complete, or cannot read what was written before.
            StoreUnavailableError: the database cannot be reached within
                ``limits.database_wait_s``, or refuses us.
            DatabaseRefusedError: a log cannot be kept in it, or not by this release.
            DriverMissingError: the driver is not installed, or not for this Python.
            RuntimeFailedError: when leaving: a service that every workspace depends on failed.

        """
        limits = limits or Limits()
        if app is not None and domains:
            raise DomainError("an app has its own domains=")
        app = app or App(domains)
        app.check(built_in_domains)
        everything = (*built_in_domains, *app.domains)
        if node_id is not None and not is_node_id(node_id):
            raise Reject("BAD_REQUEST", "a node id has 1 to 64 of [A-Za-z0-9_.-]")
        if driver not in DRIVERS:
            known = " or ".join(map(repr, DRIVERS))
            raise Reject("BAD_REQUEST", f"driver is {known}, not {driver!r}")
        if gc not in {None, "server"}:
            raise Reject("BAD_REQUEST", f"gc is 'server' or None, not {gc!r}")
        async with AsyncExitStack() as stack:
            dumps: Dumps | None = getattr(store, "dumps", None)
            if artifacts is None and store is None and database is None:
                artifacts = Path(data_dir) / "artifacts"
            if store is None:
                dsn = database
                if dsn is None:
                    dsn = (await stack.enter_async_context(open_embedded(Path(data_dir)))).dsn
                    node_id = node_id or node_id_in(Path(data_dir))
                connect = await stack.enter_async_context(open_driver(driver))
                await bring_up_to_date(dsn, wait_s=limits.database_wait_s, connect=connect)
                postgres = await stack.enter_async_context(
                    PostgresStore.open(dsn, limits=limits, connect=connect)
                )
                store, accounts, dumps = postgres, postgres.accounts, postgres.dumps
            else:
                accounts = accounts or getattr(store, "accounts", None)
            await _check_readable(store, everything)
            opened = None if providers is None else await stack.enter_async_context(providers())
            service = Service(
                store,
                everything,
                node_id=node_id or world.new_id(),
                address=address,
                world=world,
                limits=limits,
                version=version("dalsegno"),
                sweeps=[]
                if accounts is None
                else [accounts.sweep_sessions, accounts.sweep_tickets],
                roles=app.roles,
                dialects=app.dialects,
                authorize=app.authorize,
                workers=app.workers,
                reactors=app.reactors,
                processes=Processes(),
                providers=opened,
                artifacts=_artifacts(artifacts, world, limits),
                folders=LocalFolders() if folders is None else folders,
                dumps=dumps,
                app_version=app.version,
                store_time=world is WORLD,
            )
            if gc == "server":
                set_for_server()
            if app.workers and limits.blocked_s:
                await stack.enter_async_context(watched(limits.blocked_s))
            async with _running(service, limits):
                yield cls(service, accounts, app, address)

    @property
    def accounts(self) -> AccountStore:
        """Sessions and credentials.

        Raises:
            NoAccountsError: the runtime was opened with a store, and without accounts.

        """
        if self._accounts is None:
            raise NoAccountsError("pass accounts= to Runtime.open, beside store=")
        return self._accounts

    @property
    def limits(self) -> Limits:
        """Every bound of this runtime."""
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
        """Count what there is and what was done."""
        return self.service.statistics()

    async def drain(self) -> None:
        """Refuse new commands, settle those that were accepted and write acks, within a bound."""
        await _drain(self.service)

    def workspace(self, workspace_id: str) -> Workspace:
        """Return a handle of a workspace, which the first write to it creates.

        Raises:
            Reject: ``BAD_REQUEST`` unless the id has 1 to 64 of ``[A-Za-z0-9_.-]``.

        """
        return Workspace(self.service, check_workspace_id(workspace_id))


def _artifacts(
    named: Path | str | Artifacts | None, world: World, limits: Limits
) -> Artifacts | None:
    if isinstance(named, (Path, str)):
        return FolderArtifacts(Path(named), world=world, limits=limits)
    return named


@asynccontextmanager
async def _running(service: Service, limits: Limits) -> AsyncIterator[None]:
    """Run the actors in the background of a block, and drain them at its end."""
    async with in_background(service.run, starts=True, translate=_failure):
        try:
            yield
        finally:
            if not service.is_draining:  # draining once is enough
                with trio.move_on_after(limits.drain_deadline_s, shield=True):
                    await _drain(service)
            with trio.move_on_after(limits.close_deadline_s, shield=True):
                await _end_lease(service)


def _failure(group: ExceptionGroup[Exception]) -> Exception:
    """Return what a program gets where the actors failed."""
    first = first_of(group)
    if isinstance(first, UnavailableError):
        return first  # it never started
    failure = RuntimeFailedError(f"a service failed: {first}")
    failure.__cause__ = group
    return failure


async def _drain(service: Service) -> None:
    try:
        await service.drain()
    except UnavailableError:
        return  # clients repeat acks that were not written, and skip none


async def _end_lease(service: Service) -> None:
    """Give up the lease, so that other nodes can have the workspaces at once."""
    try:
        await service.lease.end()
    except UnavailableError:
        return  # the others wait until the lease has run out


async def _check_readable(store: Store, domains: Sequence[Domain[Any, Any, Any]]) -> None:
    """Refuse to start if the log has events that no domain here can fold (I11)."""
    by_name = {domain.name: domain for domain in domains}
    for name, type_, type_version in sorted(await store.event_types()):
        domain = by_name.get(name)
        if domain is not None and not domain.reads(type_, type_version):
            raise DomainError(
                f"the log has {type_} version {type_version} on {name}; this domain reads up to "
                f"version {domain.type_version(type_)}"
            )
