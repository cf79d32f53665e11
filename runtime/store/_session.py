"""libpq's steps on Trio's waits, and a session that is opened by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import trio
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready, Wait

from ._driver import ConnectionBrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import ConnDict, PQGenConn

T = TypeVar("T")


async def until_ready(fileno: int, wanted: Wait) -> Ready:
    """Wait until a socket can be read or written, as libpq asks; return which."""
    if wanted == Wait.R:
        await trio.lowlevel.wait_readable(fileno)
        return Ready.R
    if wanted == Wait.W:
        await trio.lowlevel.wait_writable(fileno)
        return Ready.W
    # A long statement: libpq reads while it writes, or both sides might wait for each other.
    ready = 0

    async def note(wait: Callable[[int], Any], state: Ready) -> None:
        nonlocal ready
        await wait(fileno)
        ready |= state
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, trio.lowlevel.wait_readable, Ready.R)
        nursery.start_soon(note, trio.lowlevel.wait_writable, Ready.W)
    return Ready(ready)


async def open_session(address: ConnDict) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a session at one address.

    Raises:
        ConnectionBrokenError: it could not be opened; says why.
    """
    conninfo = make_conninfo("", **address)
    steps = psycopg.Connection._connect_gen(conninfo)  # noqa: SLF001 - see `_psycopg`
    try:
        return await _drive_connect(steps)
    except psycopg.OperationalError as error:
        raise ConnectionBrokenError(str(error), sent=False) from error


async def _drive_connect(steps: PQGenConn[T]) -> T:
    # Each step may use another socket.
    try:
        fileno, wanted = next(steps)
        while True:
            fileno, wanted = steps.send(await until_ready(fileno, wanted))
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()
