"""A process with a runtime and many workspaces: ``python -m bench._tenants DSN``.

``open N`` makes N more workspaces with a task each and keeps them active, ``rest`` passivates all
of them, ``again N`` writes to all but the first N.  Each is answered with how many blocks of memory
Python's objects then take.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import trio

from dalsegno.runtime import Limits, Runtime

from ._domain import tasks
from ._writers import TaskWriter, create

if TYPE_CHECKING:
    from collections.abc import Iterator

_ACTIVE_MAX = 100_000
_LONG_S = 3_600.0
_AT_ONCE = 200


def _several(runtime: Runtime, first: int, end: int) -> Iterator[list[TaskWriter]]:
    for start in range(first, end, _AT_ONCE):
        several = range(start, min(start + _AT_ONCE, end))
        yield [TaskWriter(runtime.workspace(f"w{n}")) for n in several]


async def _open(runtime: Runtime, first: int, end: int) -> None:
    for writers in _several(runtime, first, end):
        await create(writers)


async def _write(runtime: Runtime, first: int, end: int) -> None:
    for writers in _several(runtime, first, end):
        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(writer.send)


async def _rest(runtime: Runtime) -> None:
    directory = runtime.service.directory
    while active := directory.statistics():
        for workspace_id in active:
            directory.activate(workspace_id).passivate()
        await trio.sleep(0.05)


async def main() -> None:
    """Do what is asked for, until the input ends."""
    limits = Limits(workspaces_active_max=_ACTIVE_MAX, passivate_after_s=_LONG_S)
    opened = 0
    async with Runtime.open(sys.argv[1], domains=[tasks], limits=limits) as runtime:
        print("ready", flush=True)
        async for line in trio.wrap_file(os.fdopen(0, closefd=False)):
            what, _, count = line.strip().partition(" ")
            if what == "open":
                end = opened + int(count)
                await _open(runtime, opened, end)
                opened = end
            elif what == "again":
                await _write(runtime, int(count), opened)
            else:
                await _rest(runtime)
            gc.collect()
            print(sys.getallocatedblocks(), flush=True)


if __name__ == "__main__":
    trio.run(main)
