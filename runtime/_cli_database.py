"""``dalsegno migrate`` and ``dalsegno repair``: work on a database without a server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._cli_options import APP, CONFIG, app_of, limits_of, option, run_trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.actors import RepairReport
    from dalsegno.protocol import App, Limits

DATA_DIR = option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".data"),
    help="Where the embedded PostgreSQL lives; created if it is not there.",
)
DATABASE = option(
    "--database", metavar="DSN", help="A PostgreSQL of your own instead: postgresql://…"
)


@click.command(short_help="Bring the database's schema up to date.")
@CONFIG
@DATA_DIR
@DATABASE
@click.pass_context
def migrate(context: click.Context, data_dir: Path, database: str | None) -> None:
    """Bring the database's schema up to date; `serve` does so by itself."""
    applied = run_trio(_migrate, data_dir, database, limits_of(context))
    click.echo("\n".join(f"applied {name}" for name in applied) or "nothing to apply")


@click.command(short_help="Check a workspace's log, and open it again if it was halted.")
@CONFIG
@APP
@DATA_DIR
@DATABASE
@option("--actor", help="Who does it, for the audit; by default the system's user.")
@click.argument("workspace")
@click.pass_context
def repair(
    context: click.Context,
    workspace: str,
    app: str | None,
    data_dir: Path,
    database: str | None,
    actor: str | None,
) -> None:
    """Check a workspace's log from end to end, and open the workspace again if it was halted.

    The log itself is never changed.  If something is wrong with it, that is printed and the
    workspace stays halted.  The app is that of the program that wrote the log, as for `serve`.  If
    a server runs on the embedded PostgreSQL, ask that server instead.
    """
    from dalsegno.protocol import SYSTEM_WORKSPACE, Reject, check_id, check_workspace_id

    from .seams import user_name

    try:
        if workspace != SYSTEM_WORKSPACE:
            check_workspace_id(workspace)
        actor = check_id(actor or user_name(), chars_max=200, what="actor")
    except Reject as error:
        raise click.UsageError(error.message) from error
    limits = limits_of(context)
    served = app_of(context, app)
    _print(run_trio(_repair, data_dir, database, workspace, actor, served, limits))


@click.command("app-version", short_help="Allow an earlier program to own workspaces.")
@CONFIG
@DATA_DIR
@DATABASE
@option("--actor", help="Who does it, for the audit; by default the system's user.")
@click.argument("version", type=click.IntRange(0, 2**31 - 1))
@click.pass_context
def app_version(
    context: click.Context,
    version: int,
    data_dir: Path,
    database: str | None,
    actor: str | None,
) -> None:
    """Allow programs of this VERSION to own the workspaces that a later one has owned.

    Stop the later one first: it would take back what is asked of it.  Each workspace has it in its
    audit.
    """
    from dalsegno.protocol import Reject, check_id

    from .seams import user_name

    try:
        actor = check_id(actor or user_name(), chars_max=200, what="actor")
    except Reject as error:
        raise click.UsageError(error.message) from error
    count = run_trio(_lower, data_dir, database, version, actor, limits_of(context))
    click.echo(f"{count} workspaces may be owned by programs of version {version} again")


def _print(report: RepairReport) -> None:
    click.echo(
        f"{report.workspace_id}: {report.events} events of {report.entities} entities are sound"
    )
    if report.states_rewritten:
        click.echo(f"{report.states_rewritten} stored states differed and were made again from it")
    if report.halted_reason is None:
        click.echo("it was not halted")
    else:
        click.echo(f"it was halted ({report.halted_reason}) and is open again")


async def _migrate(data_dir: Path, database: str | None, limits: Limits) -> list[str]:
    from .store import bring_up_to_date

    async with database_of(data_dir, database) as dsn:
        return await bring_up_to_date(dsn, wait_s=limits.database_wait_s)


async def _repair(
    data_dir: Path,
    database: str | None,
    workspace_id: str,
    actor: str,
    app: App,
    limits: Limits,
) -> RepairReport:
    from dalsegno.actors import repair
    from dalsegno.actors.domains.built_in import built_in_domains

    from .store import PostgresStore, bring_up_to_date

    domains = {domain.name: domain for domain in (*built_in_domains, *app.domains)}
    async with database_of(data_dir, database) as dsn:
        await bring_up_to_date(dsn, wait_s=limits.database_wait_s)
        async with PostgresStore.open(dsn, limits=limits) as store:
            return await repair(store, domains, workspace_id, actor=actor, limits=limits)


async def _lower(
    data_dir: Path, database: str | None, version: int, actor: str, limits: Limits
) -> int:
    from .store import PostgresStore, bring_up_to_date

    async with database_of(data_dir, database) as dsn:
        await bring_up_to_date(dsn, wait_s=limits.database_wait_s)
        async with PostgresStore.open(dsn, limits=limits) as store:
            return await store.lower_app_version(version, actor=actor)


@asynccontextmanager
async def database_of(data_dir: Path, database: str | None) -> AsyncIterator[str]:
    """Yield the DSN; an embedded server runs for the length of the block."""
    from .store import open_embedded

    if database is not None:
        yield database
        return
    async with open_embedded(data_dir) as server:
        yield server.dsn
