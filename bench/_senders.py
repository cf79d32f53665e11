"""Everything that sends to many readers: our delivery path, and all that it is compared with.

Each is a process on the subject's core; its readers are a `sink` on the other one.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from ._brokers import Broker, nats_server, nginx_with_nchan, open_nats, open_nchan
from ._commits import PREFIX, WORKSPACE
from ._harness import Sample
from ._processes import OTHER_CORE, SUBJECT_CORE, Child, child, cpu_s, pinned, python
from ._references import Log
from ._sink import Sink, compiler, sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_NATS_FIRST = 'CONNECT {"verbose":false}\r\nSUB w 1\r\nPING\r\n'
_SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"
_SOCKETIO_CONNECT = "40"
_SOCKETIO_EVENT = '42["event"'


class Sender(Protocol):
    """Sends commits to its readers."""

    @property
    def readers(self) -> int:
        """How many."""

    async def send(self, commits: int, events: int) -> Sample:
        """Send commits of so many events, and wait until every reader has them."""


@dataclass(slots=True)
class Process:
    """A process that makes the messages by itself and is asked for so many commits."""

    child: Child
    sink: Sink
    is_queueing: bool
    """Its own tasks send after it has answered, so its time is taken from outside."""

    @property
    def readers(self) -> int:
        """How many."""
        return self.sink.connections

    async def send(self, commits: int, events: int) -> Sample:
        """Send commits of so many events, and wait until every reader has them."""
        await self.sink.expect(commits * events)
        before = self.child.cpu_s()
        cpu = float(await self.child.ask(f"{commits} {events}"))
        wall = await self.sink.wait()
        if self.is_queueing:
            cpu = self.child.cpu_s() - before
        count = commits * events * self.readers
        return Sample(count=count, wall_s=wall, cpu_s=cpu, commits=commits)


@dataclass(slots=True)
class Brokered:
    """A broker that is handed the messages."""

    broker: Broker
    sink: Sink
    log: Log

    @property
    def readers(self) -> int:
        """How many."""
        return self.sink.connections

    async def send(self, commits: int, events: int) -> Sample:
        """Send commits of so many events, and wait until every reader has them."""
        messages = [m for commit in self.log.ahead(f"{commits} {events}") for m in commit]
        await self.sink.expect(len(messages))
        before = cpu_s(self.broker.process.pid, tree=True)
        # Not from the first byte that a reader gets: a broker may be half done by then.
        began = time.perf_counter()
        with pinned(OTHER_CORE):
            await self.broker.publish(messages)
            await self.sink.wait()
        wall = time.perf_counter() - began
        cpu = cpu_s(self.broker.process.pid, tree=True) - before
        count = len(messages) * self.readers
        return Sample(count=count, wall_s=wall, cpu_s=cpu, commits=commits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A way to send, by the id that its ratios have."""

    key: str
    name: str
    module: str = ""
    """A module of ours, with its arguments."""
    library: str = ""
    """What it needs that may not be installed."""
    path: str = "/"
    first: str = ""
    prefix: str = PREFIX
    replies: int = 0
    is_queueing: bool = False
    joins: bool = False
    """Whether a commit's messages are sent as one, so that a commit cannot be split."""

    def missing(self) -> str:
        """Return what is not installed, if anything."""
        if self.key == "nats":
            found = nats_server() is not None and compiler() is not None
            return "" if found else "no nats-server, or no C compiler, on the PATH"
        if self.key == "nchan":
            return "" if nginx_with_nchan() else "no nginx with Nchan on the PATH"
        is_here = not self.library or find_spec(self.library) is not None
        return "" if is_here else f"{self.library} is not installed"

    @asynccontextmanager
    async def open(self, folder: Path, readers: int) -> AsyncIterator[Sender]:
        """Start it, and connect so many readers."""
        if self.module:
            command = python(*self.module.split())
            async with child(self.name, command, core=SUBJECT_CORE) as process:
                port = int(await process.hear())
                async with self._readers(folder, port, readers) as clients:
                    yield Process(process, clients, self.is_queueing)
            return
        async with (
            self._broker(folder) as broker,
            self._readers(folder, broker.port, readers) as clients,
        ):
            yield Brokered(broker, clients, Log())

    @asynccontextmanager
    async def _broker(self, folder: Path) -> AsyncIterator[Broker]:
        if self.key == "nats":
            program = nats_server()
            assert program is not None
            async with open_nats(folder, program) as broker:
                yield broker
            return
        found = nginx_with_nchan()
        assert found is not None
        async with open_nchan(folder, *found) as broker:
            yield broker

    @asynccontextmanager
    async def _readers(self, folder: Path, port: int, readers: int) -> AsyncIterator[Sink]:
        async with sink(
            folder,
            port,
            connections=readers,
            path=self.path,
            first=self.first,
            prefix=self.prefix,
            replies=self.replies,
        ) as clients:
            yield clients


def subscribe(workspace: str, cursor: int) -> str:
    """Return the first message of a reader to our server."""
    return json.dumps(
        {"type": "subscribe", "stream_id": f"workspace:{workspace}", "cursor": cursor}
    )


OURS = Kind(
    key="ours",
    name="hub to sockets",
    module="bench._delivery",
    path="/ws",
    first=subscribe(WORKSPACE, 0),
    replies=1,
    joins=True,
)

BY_ASGI = (
    Kind(
        key="asgi",
        name="hub to Hypercorn",
        module="bench._delivery asgi",
        path="/ws",
        first=subscribe(WORKSPACE, 0),
        replies=1,
        joins=True,
        is_queueing=True,
    ),
    Kind(
        key="batches",
        name="hub to Hypercorn, in batches",
        module="bench._delivery asgi",
        path="/ws?batch=1",
        first=subscribe(WORKSPACE, 0),
        prefix=f"*{PREFIX}",
        replies=1,
        joins=True,
        is_queueing=True,
    ),
    Kind(
        key="sse",
        name="hub to event streams",
        module="bench._delivery",
        path="/events",
        prefix=f"*{PREFIX}",
        replies=1,
        joins=True,
        is_queueing=True,
    ),
)
"""Ours where each message is a call of a web server's."""

REFERENCES = (
    Kind(key="bare", name="bare send()", module="bench._bare", joins=True),
    Kind(
        key="websockets",
        name="websockets.broadcast",
        module="bench._on_asyncio websockets",
    ),
    Kind(key="picows", name="picows", module="bench._on_asyncio picows", library="picows"),
    Kind(
        key="socketio",
        name="python-socketio",
        module="bench._on_asyncio socketio",
        library="socketio",
        path=_SOCKETIO_PATH,
        first=_SOCKETIO_CONNECT,
        prefix=_SOCKETIO_EVENT,
        replies=2,
        is_queueing=True,
    ),
    Kind(
        key="trio-websocket",
        name="trio-websocket",
        module="bench._on_trio trio-websocket",
        is_queueing=True,
    ),
    Kind(
        key="quart-trio",
        name="Quart-Trio",
        module="bench._on_trio quart-trio",
        is_queueing=True,
    ),
    Kind(key="nats", name="NATS", path="", first=_NATS_FIRST, replies=2),
    Kind(key="nchan", name="nginx with Nchan", path="/sub"),
)
