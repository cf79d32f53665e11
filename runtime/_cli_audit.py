"""``dalsegno audit``: what is on record, listed, exported, followed."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click
from click.core import ParameterSource

from ._cli_client import as_text, running, until_signal, while_read, who_asks, write_line
from ._cli_database import DATA_DIR, DATABASE
from ._cli_jobs import NewFile, open_store
from ._cli_keys import account_options
from ._cli_options import CONFIG, CommandT, limits_of, option, run_trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.protocol import Limits
    from dalsegno.protocol.audit import RecordFilter

    from .audit_export import ExportFormat
    from .client import AuditReader

    Write = Callable[[bytes], Awaitable[None]]

_ACCOUNT = ("url", "email", "password")


def _filters(command: CommandT) -> CommandT:
    for add in (
        click.option("--until", metavar="TIME", help="Before then: 2030-01-31T00:00:00Z."),
        click.option("--since", metavar="TIME", help="From then on."),
        click.option("--resource-id", metavar="ID", help="Of what was changed."),
        click.option("--resource-type", metavar="TYPE", help="Of what kind that is."),
        click.option("--action", help="What was done, such as MEMBER_REMOVED."),
        click.option("--user-id", metavar="ID", help="Who did it."),
    ):
        command = add(command)
    return command


def _asked(given: dict[str, str | None]) -> tuple[RecordFilter, dict[str, str]]:
    """Return the filter that the options make, and the same as a server's query.

    Raises:
        UsageError: no record can be that.

    """
    from dalsegno.protocol import Reject
    from dalsegno.protocol.audit import FILTER_FIELDS, filter_of

    query = {name: text for name in FILTER_FIELDS if (text := given[name]) is not None}
    try:
        return filter_of(query), query
    except Reject as error:
        raise click.UsageError(error.message) from error


def _account(given: dict[str, str | None]) -> dict[str, Any]:
    """Return whose account it is; see `who_asks`."""
    return who_asks(**{name: given[name] for name in _ACCOUNT})


@click.group(short_help="List, export and follow what is on record.")
def audit() -> None:
    """List, export and follow what is on record: who did what to what, when, and from where."""


@audit.command("list", short_help="List the newest records of a workspace, or of the accounts.")
@click.option("--workspace", help="Of this one; else of accounts, for global owners and admins.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@_filters
@account_options
def list_(workspace: str | None, limit: int, **given: str | None) -> int:
    """List the newest records, the newest first: when, who, what, of what."""
    from dalsegno.protocol import DalsegnoError

    from .client import ask

    _, query = _asked(given)
    if workspace is not None:
        query["workspace_id"] = workspace
    path = f"/api/audit?{urlencode({**query, 'limit': limit})}"
    who = _account(given)
    try:
        said = run_trio(partial(ask, **who, method="GET", path=path))
    except DalsegnoError as error:
        click.echo(f"dalsegno: {as_text(error)}", err=True)
        return 1
    for each in said["items"]:
        click.echo(_line(each))
    return 0


@audit.command(short_help="Write what is on record of everything, as CSV or JSON.")
@CONFIG
@click.option(
    "--format", "written", type=click.Choice(["csv", "json"]), default="csv", show_default=True
)
@DATA_DIR
@DATABASE
@_filters
@account_options
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def export(
    context: click.Context,
    /,
    written: ExportFormat,
    file: Path | None,
    data_dir: Path,
    database: str | None,
    **given: str | None,
) -> int:
    """Write what is on record of everything, oldest first, to a new FILE or to the terminal.

    With --database or --data-dir the database is read, and no account is needed; a server may run
    on it.  Else a server is asked, as a global owner or admin.
    """
    which, query = _asked(given)
    is_named = context.get_parameter_source("data_dir") is not ParameterSource.DEFAULT
    if is_named or database is not None:
        limits = limits_of(context)
        return run_trio(_to_file, file, partial(_read, data_dir, database, limits, which, written))

    async def ask(reader: AuditReader) -> None:
        await _to_file(file, partial(reader.export, {**query, "format": written}))

    return _ask(ask, given, attempts=1)


@audit.command(short_help="Print records as they come.")
@click.option("--after", metavar="CURSOR", help="Begin after this one; by default from now on.")
@click.option("--json", "as_json", is_flag=True, help="Print whole records as JSON lines.")
@option(
    "--attempts",
    type=click.IntRange(min=1),
    help="Give up after so many failures in a row; by default never.",
)
@_filters
@account_options
def follow(after: str | None, as_json: bool, attempts: int | None, **given: str | None) -> int:
    """Print what is put on record, as it comes, until Ctrl-C; for global owners and admins.

    It survives restarts of the server and continues from the exact record.
    """
    import msgspec

    _, query = _asked(given)

    async def show(document: bytes) -> None:
        line = document if as_json else _line(msgspec.json.decode(document)).encode()
        await write_line(line + b"\n")

    async def ask(reader: AuditReader) -> None:
        await while_read(partial(reader.follow, query, show, after=after or "head"))

    return _ask(ask, given, attempts=attempts)


def _line(record: dict[str, Any]) -> str:
    """Return a record in a line: when, who, what, of what, in which workspace."""
    parts = [
        record["timestamp"],
        record["user_id"] or "-",
        record["action"],
        f"{record['resource_type']} {record['resource_id']}",
    ]
    if record.get("workspace_id") is not None:
        parts.append(f"in {record['workspace_id']}")
    return "".join(char if char.isprintable() else "?" for char in "  ".join(parts))


async def _to_file(file: Path | None, talk: Callable[[Write], Awaitable[None]]) -> int:
    """Write to a file that is there once it is whole, or to the terminal."""
    if file is None:
        await while_read(partial(talk, write_line))
    else:
        with NewFile.at(file) as out:
            await talk(out.write)
    return 0


async def _read(
    data_dir: Path,
    database: str | None,
    limits: Limits,
    which: RecordFilter,
    written: ExportFormat,
    write: Write,
) -> None:
    """Write what the log of a database has: whoever reads the database may."""
    import trio

    from .audit_export import export_records

    async with open_store(data_dir, database, limits) as store:
        judge = trio.lowlevel.checkpoint
        async with aclosing(
            export_records(store, which, written, limits=limits, judge=judge)
        ) as lines:
            async for each in lines:
                await write(each)
        if await store.read_uncollected(limit=1, bytes_max=1):
            click.echo("dalsegno: there is more, which a server has yet to take in", err=True)


def _ask(
    ask: Callable[[AuditReader], Awaitable[None]],
    given: dict[str, str | None],
    *,
    attempts: int | None,
) -> int:
    """Ask a server as a user, until that is done or a signal comes; return the exit status."""
    from .client import AuditReader, ClientLimits
    from .seams import WORLD

    reader = AuditReader(
        **_account(given),
        limits=ClientLimits(attempts_max=attempts, looks_max=attempts),
        world=WORLD,
    )
    return running(partial(until_signal, partial(ask, reader)))
