"""``dalsegno serve``: the server as a process, its signals and its greeting."""

from __future__ import annotations

import gc
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import structlog
import trio
from psycopg.conninfo import conninfo_to_dict

from dalsegno.actors.domains.accounts import setups

from ._server import Ready, ServeConfig, serve
from .resources import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GC_AFTER = 50_000
"""How many new containers make the garbage collector look for young cycles.

A pass over so many that are alive takes 40 ms, in one step; but at 2,000 a command under full load
costs 40 % more, since what is on its way is looked at again and again.
"""

_log = structlog.get_logger("dalsegno.serve")


async def run_server(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once."""
    raise_descriptor_limit()
    # A command is some thirty small objects that live for one commit.  By default Python would
    # look for cycles, of which there are hardly any, after every twenty commands.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_AFTER)
    stop = trio.Event()

    async def serve_here(task_status: trio.TaskStatus[Ready]) -> None:
        await serve(config, stop=stop, task_status=task_status)
        nursery.cancel_scope.cancel(reason="the server has ended")

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain_on_signal, signals, stop)
            ready: Ready = await nursery.start(serve_here)
            _say(*await _introduction(config, ready))


async def _drain_on_signal(signals: AsyncIterator[int], stop: trio.Event) -> None:
    async for number in signals:
        if stop.is_set():
            # Draining is bounded, but a second signal means: now.  An embedded PostgreSQL may be
            # left running; the next start adopts it.
            os._exit(128 + number)
        _log.info("draining", signal=signal.Signals(number).name)
        stop.set()


async def _introduction(config: ServeConfig, ready: Ready) -> list[str]:
    host = f"[{ready.host}]" if ":" in ready.host else ready.host
    url = f"http://{host}:{ready.port}"
    lines = [f"Dal Segno serves on {url}", f"  data   {_describe_data(config)}"]
    if await ready.runtime.system.get(setups, "main") is None:
        lines += [
            f"  setup  POST {url}/api/setup/register",
            '         {"email": …, "password": …, "display_name": …}',
        ]
        if ready.setup_token is not None:
            lines.append(f"         x-setup-token: {ready.setup_token}")
    return lines


def _describe_data(config: ServeConfig) -> str:
    """Return where the data are, without the password."""
    if config.database is None:
        return f"{config.data_dir.resolve()}, with an embedded PostgreSQL"
    known = conninfo_to_dict(config.database)
    database, host = known.get("dbname") or "its default", known.get("host") or "localhost"
    return f"the PostgreSQL database {database} at {host}:{known.get('port') or 5432}"


def _say(*lines: str) -> None:
    with suppress(OSError):  # stdout is closed, which is no reason not to serve
        click.echo("\n".join(lines))
