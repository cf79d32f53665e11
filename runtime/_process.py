"""``dalsegno serve``: the server as a process, its signals and its greeting."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import structlog
import trio
from psycopg.conninfo import conninfo_to_dict

from dalsegno.actors.domains.accounts import setups

from ._collector import set_for_server
from ._server import Ready, ServeConfig, serve
from .resources import raise_descriptor_limit
from .store import abandon_all

if TYPE_CHECKING:
    from .web import Tls

_log = structlog.get_logger("dalsegno.serve")


async def run_server(config: ServeConfig) -> int:
    """Serve until a signal, then drain; a second one ends the process at once.

    Returns:
        The exit status: 0, or 128 plus the signal's number where it came before the server served.

    """
    raise_descriptor_limit()
    set_for_server()
    signals = _Signals(config.tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(signals.watch)

        async def serve_here(task_status: trio.TaskStatus[Ready]) -> None:
            await serve(config, stop=signals.drain, task_status=task_status)
            nursery.cancel_scope.cancel(reason="the server has ended")

        with signals.starting:
            ready: Ready = await nursery.start(serve_here)
            signals.has_started = True
            _say(*await _introduction(config, ready))
        if signals.starting.cancelled_caught:
            nursery.cancel_scope.cancel(reason="a signal arrived during the start")
    return signals.status


class _Signals:
    """What signals do: give up the start, else drain; a second one ends the process.

    With a certificate SIGHUP has its files read again, as administrators expect; unless the
    terminal was closed that the server was started from, of which it is the sign as well, and
    `nohup` does not forbid that.
    """

    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._had_terminal = _has_terminal()
        self.drain = trio.Event()
        self.starting = trio.CancelScope()
        self.has_started = False
        self.status = 0
        """The process's exit status: 0 after a drain."""

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Handle signals until cancelled."""
        with trio.open_signal_receiver(*self._watched()) as arrived:
            task_status.started()
            async for number in arrived:
                if self._tls is not None and number == signal.SIGHUP and not self._is_left():
                    self._tls.reload()
                    continue
                if self.drain.is_set():
                    # Both are bounded, but a second signal means: now.
                    abandon_all()
                    os._exit(128 + number)
                self.drain.set()
                if self.has_started:
                    _log.info("draining", signal=signal.Signals(number).name)
                else:
                    self.status = 128 + number
                    self.starting.cancel(reason="a signal arrived")

    def _watched(self) -> list[signal.Signals]:
        """Return the signals that a server acts on; that of a closed terminal not under nohup."""
        ignores = self._outlives_terminal and self._tls is None
        return [signal.SIGTERM, signal.SIGINT, *([] if ignores else [signal.SIGHUP])]

    def _is_left(self) -> bool:
        """Return whether the terminal was closed that it ends with."""
        return not self._outlives_terminal and self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _introduction(config: ServeConfig, ready: Ready) -> list[str]:
    url = ready.url
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
