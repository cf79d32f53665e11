"""``dalsegno files compact``, ``check`` and ``repair``: the upkeep of a folder of sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._cli_options import run_trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .files import Diagnosis, FileEventStore, Repaired

SESSIONS = click.option(
    "--session", "sessions", multiple=True, metavar="ID", help="Only these; without it all."
)
FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))

_DAYS_MAX = 36_500


def store_in(folder: Path) -> FileEventStore:
    """Return the store of a folder.

    Raises:
        click.UsageError: there is no such folder.

    """
    from .files import FileEventStore

    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder}")
    return FileEventStore(folder)


# ----------------------------------------------------------------------------------- compaction


@click.command(short_help="Remove the oldest events of a folder's sessions.")
@click.option(
    "--keep-events", type=click.IntRange(min=1), metavar="N", help="Keep the last N of each."
)
@click.option(
    "--keep-days",
    type=click.IntRange(1, _DAYS_MAX),
    metavar="D",
    help="Keep those that were stored within D days.",
)
@SESSIONS
@FOLDER
def compact(
    keep_events: int | None, keep_days: int | None, sessions: tuple[str, ...], folder: Path
) -> int:
    """Remove the oldest events of the sessions in a FOLDER, for good.

    The last event of a session always stays, and its numbers go on.  Programs may be running on the
    folder; a session is held meanwhile.
    """
    if (keep_events is None) is (keep_days is None):
        raise click.UsageError("either --keep-events or --keep-days is needed")
    return run_trio(_compact, store_in(folder), sessions, keep_events, keep_days)


async def _compact(
    store: FileEventStore,
    sessions: tuple[str, ...],
    keep_events: int | None,
    keep_days: int | None,
) -> int:
    from datetime import timedelta

    from .files import EventStoreError, first_of_last, first_since, session_ids_of
    from .seams import WORLD

    status = 0
    for session_id in sessions or await session_ids_of(store):
        try:
            if keep_events is not None:
                first = await first_of_last(store, session_id, keep_events)
            else:
                assert keep_days is not None, "one of the two is given"
                since = WORLD.now() - timedelta(days=keep_days)
                first = await first_since(store, session_id, since)
            removed = await store.compact(session_id, first)
        except EventStoreError as error:
            click.echo(f"dalsegno: {_plain(session_id)}: {_plain(error.message)}", err=True)
            status = 1
        else:
            click.echo(f"{session_id}: {_count(removed, 'event')} removed")
    return status


# ------------------------------------------------------------------------------ check and repair


@click.command(short_help="Say what is wrong with the files of a folder's sessions.")
@SESSIONS
@FOLDER
def check(sessions: tuple[str, ...], folder: Path) -> int:
    """List what is wrong with the files of the sessions in a FOLDER, a line each.

    Nothing is changed.  The status is 1 if anything is wrong, or a session is halted.
    """
    return run_trio(_check, store_in(folder), sessions)


async def _check(store: FileEventStore, sessions: tuple[str, ...]) -> int:
    from .files import EventStoreError, check, ids_to_check

    status = 0
    for session_id in sessions or await ids_to_check(store):
        try:
            found = await check(store, session_id)
        except EventStoreError as error:
            click.echo(f"dalsegno: {_plain(session_id)}: {_plain(error.message)}", err=True)
            status = 1
        else:
            click.echo(_described(found))
            status = status if found.is_sound else 1
    return status


@click.command(short_help="Keep what can be read of a damaged session, and say what was lost.")
@click.option("--by", required=True, metavar="NAME", help="Who repairs it, for the record.")
@click.option("--reason", required=True, metavar="TEXT", help="And why.")
@click.option("--dry-run", is_flag=True, help="Only say what is wrong.")
@FOLDER
@click.argument("session")
def repair(by: str, reason: str, dry_run: bool, folder: Path, session: str) -> None:
    """Keep what can be read of a damaged SESSION in a FOLDER, and clear its halt.

    The damaged log is copied to the folder's .repairs first, where it is also on record who
    repaired what, and why.  If events were lost, an event of the session says so.
    """
    from .files import EventStoreStateError, check_repairer

    try:
        check_repairer(by=by, reason=reason)
    except EventStoreStateError as error:
        raise click.UsageError(error.message) from error
    found = run_trio(_repair, store_in(folder), session, by, reason, dry_run)
    click.echo(_described(found))
    if dry_run:
        click.echo("nothing was changed")
    elif found.done is None:
        click.echo("there was nothing to do")
    else:
        click.echo("; ".join(_done(found.done)))


async def _repair(
    store: FileEventStore, session_id: str, by: str, reason: str, is_dry: bool
) -> Diagnosis:
    from .files import SchemaVersionMismatchError, check, repair

    if not is_dry:
        return await repair(store, session_id, by=by, reason=reason)
    found = await check(store, session_id)
    if found.other_version is not None:
        raise SchemaVersionMismatchError(found.other_version)
    return found


def _described(found: Diagnosis) -> str:
    wrong = "; ".join(_wrong(found)) or "nothing is wrong"
    rows = _count(found.rows, "event")
    return f"{found.session_id}: {rows} up to {found.last_seq}; {_plain(wrong)}"


def _wrong(found: Diagnosis) -> Iterator[str]:
    if found.is_gone:
        yield "the log is gone"
    if found.is_short:
        yield "the log ends before what was durable"
    if found.bad_lines:
        shown = ", ".join(map(str, found.bad_line_numbers))
        more = ", …" if found.bad_lines > len(found.bad_line_numbers) else ""
        yield f"{_count(found.bad_lines, 'bad line')} ({shown}{more})"
    if found.lines_lost:
        yield f"at least {_count(found.lines_lost, 'line')} lost"
    if found.other_version is not None:
        yield f"rows of schema version {found.other_version}, which are another program's"
    for error in (found.owner_error, found.head_error, found.compacted_error):
        if error is not None:
            yield error
    if found.halted is not None:
        yield f"halted: {found.halted}"


def _done(done: Repaired) -> Iterator[str]:
    if done.set_aside is not None:
        yield f"the damaged log is kept as {done.set_aside}"
    if done.is_log_written:
        yield "the log was written anew"
    if done.seq is not None:
        yield f"event {done.seq} says what was lost"
    if done.owner is not None:
        yield f"the last number given is {done.owner}"
    if done.compacted is not None:
        yield f"events up to {done.compacted} count as removed"
    if done.is_head_written:
        yield "the head was written anew"
    if done.is_halt_cleared:
        yield "the halt was cleared"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _plain(text: str) -> str:
    """Return a text that is one line of a terminal, whatever was in a file."""
    return "".join(char if char.isprintable() else " " for char in text)
