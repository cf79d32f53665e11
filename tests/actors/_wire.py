"""A client on an in-memory connection, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from dalsegno.actors import Connection, TransportClosedError
from dalsegno.actors.testing import memory_connection
from tests.actors._world import Actors

Message = dict[str, Any]


class Wire:
    """One client: sends and receives whole messages."""

    def __init__(self, actors: Actors, *, room_bytes: int = 128 * 1024, **who: Any) -> None:
        self.client = memory_connection(actors.service.limits, room_bytes=room_bytes)
        who = {"user_id": "u"} | who
        self.connection = Connection(self.client.transport, actors.service.sessions, **who)
        self.ended = trio.Event()

    async def run(self) -> None:
        try:
            await self.connection.run()
        finally:
            self.ended.set()

    async def say(self, type_: str, **fields: Any) -> None:
        await self.client.send(msgspec.json.encode({"type": type_, **fields}).decode())

    async def hear(self) -> Message:
        """Return the next message that is not a heartbeat."""
        with trio.fail_after(60):
            while True:
                message: Message = msgspec.json.decode(await self.client.receive())
                if message["type"] != "heartbeat":
                    return message

    async def hear_many(self, count: int) -> list[Message]:
        return [await self.hear() for _ in range(count)]

    async def ask(self, type_: str, **fields: Any) -> Message:
        """Send a message and return the next one."""
        await self.say(type_, **fields)
        return await self.hear()

    async def silence(self) -> None:
        """Check that nothing more comes before the answer to a ping."""
        assert await self.ask("ping", request_id="silence") == {
            "type": "pong",
            "request_id": "silence",
            "server_ts": "2030-01-02T03:04:05.678901Z",
        }

    async def hear_end(self) -> tuple[list[Message], int]:
        """Return the remaining messages, and the close code."""
        rest: list[Message] = []
        with trio.fail_after(300):
            while True:
                try:
                    rest.append(msgspec.json.decode(await self.client.receive()))
                except TransportClosedError as error:
                    await self.ended.wait()
                    return rest, error.code


@asynccontextmanager
async def wired(actors: Actors, **who: Any) -> AsyncIterator[Wire]:
    """Open one connection; it vanishes at the end."""
    wire = Wire(actors, **who)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        try:
            yield wire
        finally:
            wire.client.vanish()
