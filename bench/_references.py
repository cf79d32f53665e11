"""What the references of the fan-out have in common: they send the messages that a line asks for.

Such a process prints its port, then answers each ``COMMITS EVENTS`` with the processor time that it
took until all was handed over; the messages are made before that.  What a reference puts into
queues of its own it sends later: its time is then taken from outside.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

import trio

from ._commits import asked, commits, messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Send = Callable[[Sequence[bytes]], Awaitable[None]]
    """Sends the messages of one commit to every client."""


class Log:
    """Makes the messages that are asked for, and knows where the log ends."""

    def __init__(self) -> None:
        self._head = 0

    def ahead(self, line: str) -> list[list[bytes]]:
        """Make the messages of the commits that a line asks for."""
        count, events = asked(line)
        ready = [messages(commit) for commit in commits(self._head, count, events)]
        self._head += count * events
        return ready


async def obey_on_asyncio(port: int, send: Send) -> None:
    """Send what is asked for until the input ends."""
    log = Log()
    print(port, flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        ready = log.ahead(line.decode())
        cpu = time.process_time()
        for commit in ready:
            await send(commit)
            await asyncio.sleep(0)
        print(time.process_time() - cpu, flush=True)


async def obey_on_trio(port: int, send: Send) -> None:
    """Send what is asked for until the input ends."""
    log = Log()
    print(port, flush=True)
    async for line in trio.wrap_file(os.fdopen(0, closefd=False)):
        ready = log.ahead(line)
        cpu = time.process_time()
        for commit in ready:
            await send(commit)
        print(time.process_time() - cpu, flush=True)
