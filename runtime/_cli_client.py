"""``dalsegno tail`` and ``dalsegno send``: a server's streams and commands in a shell."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ._cli_options import CommandT, option, run_trio
from ._interrupts import exit_on_interrupt, raise_on_interrupt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import trio

    from dalsegno.protocol import DalsegnoError

    from .client import Client, Events, RemoteEvent


def _server_options(command: CommandT) -> CommandT:
    for add in (
        option(
            "--attempts",
            type=click.IntRange(min=1),
            help="Give up after so many failures in a row; by default never, "
            "but after 10 where another server has the workspace.",
        ),
        option("--api-key", metavar="KEY", help="Of the workspace, instead of an account."),
        option("--password", help="Asked for where there is a terminal."),
        option("--email", help="Whose account."),
        option("--url", default="http://127.0.0.1:8000", help="Where the server is."),
    ):
        command = add(command)
    return command


@click.command(short_help="Send a command to a workspace, and print its receipt.")
@click.argument("workspace")
@click.argument("command")
@click.argument("payload", metavar="JSON")
@click.option("--key", help="Idempotency key: the same key again gives the same answer.")
@click.option("--json", "as_json", is_flag=True, help="Print a refusal as a JSON line, too.")
@_server_options
def send(
    workspace: str,
    command: str,
    payload: str,
    key: str | None,
    as_json: bool,
    attempts: int | None,
    **server: str | None,
) -> int:
    """Send a COMMAND with its fields to a WORKSPACE, and print its receipt once it is durable."""
    import msgspec

    try:
        fields = msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise click.BadParameter(f"{error}", param_hint="JSON") from error

    async def talk(client: Client) -> None:
        receipt = await client.send(workspace, command, fields, key=key)
        await write_line(msgspec.json.encode(receipt) + b"\n")

    return _run(talk, server, client_id="send", attempts=attempts, as_json=as_json)


@click.command(short_help="Print the events of a stream as they come.")
@click.argument("stream")
@click.option(
    "--after",
    metavar="N",
    help="Begin after this number, or cursor N-CHAIN; else after what was acknowledged.",
)
@click.option("--ack", "acks", is_flag=True, help="Acknowledge each event when it is printed.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print whole events, and a refusal, as JSON lines."
)
@click.option("--workspace", help="Of the stream, where its id alone does not tell.")
@option("--client-id", default="tail", help="Under which acks are kept.")
@_server_options
def tail(
    stream: str,
    after: str | None,
    acks: bool,
    as_json: bool,
    workspace: str | None,
    client_id: str,
    attempts: int | None,
    **server: str | None,
) -> int:
    """Print the events of a STREAM, workspace:ID or note:ID, as they come, until Ctrl-C.

    It survives restarts of the server and continues from the exact event.
    """
    import msgspec

    show = msgspec.json.encode if as_json else _line

    async def talk(client: Client) -> None:
        async with client.subscribe(stream, workspace_id=workspace, cursor=after) as events:
            await _print(events, show, acks=acks)

    return _run(talk, server, client_id=client_id, attempts=attempts, as_json=as_json)


def _line(event: RemoteEvent) -> bytes:
    return b"%d %s %s %s" % (
        event.seq,
        event.event_type.encode(),
        event.entity.encode(),
        bytes(event.payload),
    )


async def _print(events: Events, show: Callable[[RemoteEvent], bytes], *, acks: bool) -> None:
    """Print until the stream ends, or until stdout has no reader."""

    async def each() -> None:
        async for event in events:
            await write_line(show(event) + b"\n")
            if acks:
                events.ack(event)

    await while_read(each)


async def while_read(print_: Callable[[], Awaitable[None]]) -> None:
    """Print until there is nothing more to print, or until stdout has no reader."""
    import trio

    from ._background import in_background

    is_pipe = stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    with trio.CancelScope() as printing:
        watch = partial(_watch_reader, printing) if is_pipe else trio.sleep_forever
        async with in_background(watch):
            try:
                await print_()
            except BrokenPipeError:
                return


async def _watch_reader(printing: trio.CancelScope) -> None:
    """Stop once the pipe's reader has left, even while there is nothing to print.

    The writing end of a pipe never becomes readable, except by the error of a closed pipe.
    """
    import trio

    await trio.lowlevel.wait_readable(sys.stdout.fileno())
    printing.cancel(reason="stdout has no reader")


async def write_line(line: bytes) -> None:
    """Write past Python's buffer, in a thread, so that a slow pager does not block the client."""
    import trio

    await trio.to_thread.run_sync(_write_all, sys.stdout.fileno(), line, abandon_on_cancel=True)


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


# ----------------------------------------------------------------------------- running a command


def _run(
    talk: Callable[[Client], Awaitable[None]],
    server: dict[str, str | None],
    *,
    client_id: str,
    attempts: int | None,
    as_json: bool,
) -> int:
    """Run ``talk`` with a client until it is done or a signal comes; return the exit status."""
    who = who_asks(**server)
    return running(partial(_talk, talk, who, client_id, attempts), as_json=as_json)


def running(talk: Callable[[], Awaitable[int]], *, as_json: bool = False) -> int:
    """Run what talks to a server; return the exit status, and print why it is refused."""
    from dalsegno.protocol import DalsegnoError

    notes = logging.StreamHandler(sys.stderr)
    notes.setFormatter(logging.Formatter("dalsegno: %(message)s"))
    logger = logging.getLogger("dalsegno.client")
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        return run_trio(talk)
    except DalsegnoError as error:
        click.echo(_as_json(error) if as_json else f"dalsegno: {as_text(error)}", err=True)
        return 1


def who_asks(
    *, url: str | None, email: str | None, password: str | None, api_key: str | None = None
) -> dict[str, Any]:
    """Return what `open_client` takes of a server's options; a password may be asked for.

    Raises:
        UsageError: nothing says who asks.

    """
    url = url or ""
    if api_key is not None:
        return {"url": url, "api_key": api_key}
    if email is None:
        raise click.UsageError("--email or --api-key is needed")
    if password is None:
        if not sys.stdin.isatty():
            raise click.UsageError("--password or DALSEGNO_PASSWORD is needed")
        raise_on_interrupt()
        password = click.prompt("Password", hide_input=True, err=True)
        exit_on_interrupt()
    return {"url": url, "email": email, "password": password}


def as_text(error: DalsegnoError) -> str:
    """Return a refusal in a line: its code, its message, and its details where there are some."""
    import msgspec

    details = msgspec.json.encode(error.details).decode() if error.details else ""
    return f"{error.code}: {error.message} {details}".rstrip()


def _as_json(error: DalsegnoError) -> str:
    import msgspec

    said = {"code": error.code, "message": error.message, "details": error.details}
    return msgspec.json.encode(said).decode()


async def _talk(
    talk: Callable[[Client], Awaitable[None]],
    who: dict[str, Any],
    client_id: str,
    attempts: int | None,
) -> int:
    from .client import ClientLimits, open_client

    looks = ClientLimits().looks_max if attempts is None else attempts
    limits = ClientLimits(attempts_max=attempts, looks_max=looks)

    async def use() -> None:
        async with open_client(**who, client_id=client_id, limits=limits) as client:
            await talk(client)

    return await until_signal(use)


async def until_signal(task: Callable[[], Awaitable[None]]) -> int:
    """Run something until it is done or a signal comes; return the exit status."""
    import trio

    from ._background import in_background

    status = 0

    async def stop_on_signal(signals: AsyncIterator[int]) -> None:
        nonlocal status
        async for number in signals:
            status = 128 + number
            stopping.cancel(reason="a signal arrived")

    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        trio.CancelScope() as stopping,
    ):
        async with in_background(partial(stop_on_signal, signals)):
            await task()
    return status
