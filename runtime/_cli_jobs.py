"""``dalsegno export``, ``backup`` and ``restore``: archives of a database, without a server."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from ._cli_database import DATA_DIR, DATABASE, database_of
from ._cli_options import APP, CONFIG, app_of, limits_of, run_trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from dalsegno.actors.domains.jobs import Ended, Exported
    from dalsegno.protocol import App, Limits

    from .store import PostgresStore

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command(short_help="Write a workspace's notes as markdown, a ZIP archive.")
@CONFIG
@DATA_DIR
@DATABASE
@click.argument("workspace")
@FILE
@click.pass_context
def export(
    context: click.Context, data_dir: Path, database: str | None, workspace: str, file: Path
) -> None:
    """Write the notes of a WORKSPACE to a new FILE: a ZIP archive, markdown and a manifest.

    It is of the moment of the workspace's last event, and the same for the same event.  A server
    may run on the database; one with an embedded PostgreSQL is asked over HTTP instead.
    """
    done, head = run_trio(_export, data_dir, database, limits_of(context), workspace, file)
    click.echo(f"{file}: {done.notes} notes as of {head}")


@click.command(short_help="Write everything, or one workspace, to a file.")
@CONFIG
@APP
@DATA_DIR
@DATABASE
@click.option("--workspace", help="Back up this one alone, without the accounts.")
@FILE
@click.pass_context
def backup(
    context: click.Context,
    app: str | None,
    data_dir: Path,
    database: str | None,
    workspace: str | None,
    file: Path,
) -> None:
    """Write all workspaces and accounts to a new FILE, from which `restore` makes them again.

    Each workspace is as it was at its last event.  A server may run on the database; one with an
    embedded PostgreSQL is asked over HTTP instead.
    """
    served = app_of(context, app)
    done = run_trio(_back_up, data_dir, database, served, limits_of(context), workspace, file)
    click.echo(f"{file}: {_describe(done)}")


@click.command(short_help="Fill an empty database from a backup.")
@CONFIG
@DATA_DIR
@DATABASE
@FILE
@click.pass_context
def restore(context: click.Context, data_dir: Path, database: str | None, file: Path) -> None:
    """Fill an empty database from the backup in FILE, all of it or nothing.

    The file is read to its end first; a damaged one changes nothing.  No server may run on the
    database.
    """
    size = file.stat().st_size
    done = run_trio(_restore, data_dir, database, limits_of(context), file, size)
    click.echo(f"{_describe(done)} restored")


def _describe(done: Ended) -> str:
    return f"{done.workspaces} workspaces with {done.events} events"


# ------------------------------------------------------------------------------------ a new file


class NewFile:
    """A file that is there once it is whole: until then it has another name."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def __repr__(self) -> str:
        return f"<NewFile, {self.size} bytes>"

    @classmethod
    @contextmanager
    def at(cls, path: Path) -> Iterator[Self]:
        """Write a file, for the length of a block.

        Raises:
            OSError: it is there already, or cannot be written.

        """
        if path.exists():
            raise FileExistsError(17, "it is there already", str(path))
        part = path.with_name(path.name + ".part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(part, flags, 0o600)  # it has password hashes
        try:
            yield cls(descriptor)
            os.fsync(descriptor)
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def write(self, data: bytes) -> None:
        """Write more."""
        import trio

        await trio.to_thread.run_sync(self._write, data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]


class _Bar:
    """A progress bar, as jobs are given a progress."""

    def __init__(self, bar: Any) -> None:  # noqa: ANN401 - click's
        self._bar = bar

    def __repr__(self) -> str:
        return f"<_Bar {self._bar!r}>"

    async def add(self, count: int) -> None:
        """Count so much more as done."""
        self._bar.update(count)


@contextmanager
def _bar(length: int, label: str) -> Iterator[_Bar]:
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield _Bar(bar)


# --------------------------------------------------------------------------------------- reading


@asynccontextmanager
async def open_store(
    data_dir: Path, database: str | None, limits: Limits
) -> AsyncIterator[PostgresStore]:
    """Open the store of a database, brought up to date, for the length of a block."""
    from .store import PostgresStore, bring_up_to_date

    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(database_of(data_dir, database))
        await bring_up_to_date(dsn, wait_s=limits.database_wait_s)
        yield await stack.enter_async_context(PostgresStore.open(dsn, limits=limits))


async def _export(
    data_dir: Path, database: str | None, limits: Limits, workspace_id: str, file: Path
) -> tuple[Exported, int]:
    from dalsegno.actors import AsOf
    from dalsegno.actors.domains.jobs import write_markdown
    from dalsegno.actors.domains.notes import notes
    from dalsegno.protocol import Cursor, Reject

    async with open_store(data_dir, database, limits) as store:
        head = await store.read_head(workspace_id)
        if head is None:
            raise Reject("WORKSPACE_NOT_FOUND", f"there is no workspace {workspace_id}")
        reads, at = AsOf(store, workspace_id, limits), Cursor(head.head_seq, head.chain)
        with NewFile.at(file) as out, _bar(await reads.count_at(notes, at.seq), "notes") as bar:
            return await write_markdown(reads, at, out, progress=bar), at.seq


async def _back_up(
    data_dir: Path,
    database: str | None,
    app: App,
    limits: Limits,
    workspace_id: str | None,
    file: Path,
) -> Ended:
    from dalsegno.actors import StoreDump, Turn
    from dalsegno.actors.domains.built_in import built_in_domains
    from dalsegno.actors.domains.jobs import write_backup

    domains = {domain.name: domain for domain in (*built_in_domains, *app.domains)}
    async with open_store(data_dir, database, limits) as store:
        dump = StoreDump(store, store.dumps, domains, limits)
        total = await dump.total(workspace_id)
        with NewFile.at(file) as out, _bar(total, "events") as bar:
            return await write_backup(
                dump,
                out,
                only=workspace_id,
                made_at=await store.read_time(),
                pause=Turn(limits.turn_s).pause,
                progress=bar,
            )


# ------------------------------------------------------------------------------------- restoring


async def _restore(
    data_dir: Path, database: str | None, limits: Limits, file: Path, size: int
) -> Ended:
    from ._restore import check_backup, restore_backup

    with _bar(size, "checking") as bar:
        done = await check_backup(file, progress=bar)
    async with database_of(data_dir, database) as dsn:
        with _bar(size, "restoring") as bar:
            await restore_backup(dsn, file, progress=bar, wait_s=limits.database_wait_s)
    return done
