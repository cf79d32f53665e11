"""The reference: a process that sends the same messages with `websockets.broadcast`, on asyncio.

It says its port, then answers each ``COMMITS EVENTS`` with the processor time that the sending
took; the messages are made before that.
"""

from __future__ import annotations

import asyncio
import sys
import time

from websockets.asyncio.server import ServerConnection, broadcast, serve

from ._commits import asked, commits, messages


class Broadcast:
    """The clients, and where the log ends."""

    def __init__(self) -> None:
        self._clients: set[ServerConnection] = set()
        self._head = 0

    async def run(self) -> None:
        """Serve, and send what is asked for, until the input ends."""
        server = await serve(
            self._handle, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=0.1
        )
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            count, events = asked(line.decode())
            ready = [
                [message.decode() for message in messages(commit)]
                for commit in commits(self._head, count, events)
            ]
            self._head += count * events
            print(await self._send(ready), flush=True)
        server.close()

    async def _handle(self, client: ServerConnection) -> None:
        self._clients.add(client)
        await client.wait_closed()
        self._clients.discard(client)

    async def _send(self, ready: list[list[str]]) -> float:
        cpu = time.process_time()
        for commit in ready:
            for message in commit:
                broadcast(self._clients, message)
            await asyncio.sleep(0)
        return time.process_time() - cpu


if __name__ == "__main__":
    asyncio.run(Broadcast().run())
