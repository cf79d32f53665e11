"""Waiting for a statement that waits for a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests._patience import fail_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.runtime.store import Connection


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    with fail_after(10):
        while True:
            if await condition():
                return
            await trio.sleep(0.005)


async def wait_until_blocked(other: Connection, count: int = 1) -> None:
    async def blocked() -> bool:
        # Unlike pg_stat_activity, this is not frozen by the first look in a transaction.
        rows = await other.fetch("select distinct pid from pg_locks where not granted")
        return len(rows) == count

    await wait_until(blocked)


async def terminate_the_blocked(other: Connection) -> None:
    await other.execute(
        "select pg_terminate_backend(pid)"
        " from (select distinct pid from pg_locks where not granted) blocked"
    )
