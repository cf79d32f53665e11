"""``dalsegno files``: ``import`` and ``export``, between a folder and a workspace, and upkeep."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._cli_database import DATA_DIR, DATABASE
from ._cli_options import APP, CONFIG, app_of, limits_of, run_trio
from ._cli_upkeep import FOLDER, SESSIONS, check, compact, repair, store_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.protocol import App, Limits

    from .files import EventStore, Transfer

WORKSPACE = click.argument("workspace")


@click.group(short_help="Move, compact, check and repair sessions in files.")
def files() -> None:
    """Move, compact, check and repair sessions whose events are in files; see docs/files.md."""


files.add_command(compact)
files.add_command(check)
files.add_command(repair)


@files.command("import", short_help="Append what a folder has more to a workspace.")
@CONFIG
@APP
@DATA_DIR
@DATABASE
@SESSIONS
@FOLDER
@WORKSPACE
@click.pass_context
def import_(
    context: click.Context,
    app: str | None,
    data_dir: Path,
    database: str | None,
    sessions: tuple[str, ...],
    folder: Path,
    workspace: str,
) -> int:
    """Append to the sessions of a WORKSPACE what those of a FOLDER have more, and compare all.

    It can be interrupted and run again.  The app is that of the program that owns the workspace,
    as for `serve`; that program may not be running on it.
    """
    store = store_in(folder)
    place = (data_dir, database, workspace, app_of(context, app), limits_of(context))
    return _told(run_trio(_transfer, *place, store, sessions, True))


@files.command(short_help="Append what a workspace has more to a folder.")
@CONFIG
@APP
@DATA_DIR
@DATABASE
@SESSIONS
@WORKSPACE
@FOLDER
@click.pass_context
def export(
    context: click.Context,
    app: str | None,
    data_dir: Path,
    database: str | None,
    sessions: tuple[str, ...],
    workspace: str,
    folder: Path,
) -> int:
    """Append to the sessions of a FOLDER what those of a WORKSPACE have more, and compare all."""
    from .files import FileEventStore

    place = (data_dir, database, workspace, app_of(context, app), limits_of(context))
    return _told(run_trio(_transfer, *place, FileEventStore(folder), sessions, False))


async def _transfer(
    data_dir: Path,
    database: str | None,
    workspace_id: str,
    app: App,
    limits: Limits,
    in_files: EventStore,
    sessions: tuple[str, ...],
    is_import: bool,
) -> Transfer:
    from .files import EventStoreError, session_ids_of, transfer

    async with _workspace_store(data_dir, database, workspace_id, app, limits) as in_workspace:
        source, target = in_files, in_workspace
        if not is_import:
            source, target = target, source
        ids = [*sessions] or await session_ids_of(source)
        total = 0
        for session_id in ids:
            try:
                total += await source.last_seq(session_id)
            except EventStoreError:  # said by the transfer
                continue
        with click.progressbar(length=total, label="events", file=sys.stderr) as bar:
            return await transfer(source, target, ids, progress=bar.update)


@asynccontextmanager
async def _workspace_store(
    data_dir: Path, database: str | None, workspace_id: str, app: App, limits: Limits
) -> AsyncIterator[EventStore]:
    from dalsegno.actors.domains.sessions import session_domains
    from dalsegno.protocol import App

    from ._runtime import Runtime
    from .files import WorkspaceEventStore

    missing = [domain for domain in session_domains if domain not in app.domains]
    served = App([*app.domains, *missing], version=app.version, roles=app.roles)
    async with Runtime.open(database, app=served, data_dir=data_dir, limits=limits) as rt:
        yield WorkspaceEventStore(rt.workspace(workspace_id), world=rt.world)


def _told(done: Transfer) -> int:
    click.echo(
        f"{done.sessions} sessions with {done.events} events are the same in both now, "
        f"{done.appended} of these were appended"
    )
    for session_id, error in done.refused.items():
        click.echo(f"dalsegno: {session_id}: {error.message}", err=True)
    return 1 if done.refused else 0
