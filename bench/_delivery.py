"""A process with our real delivery path, and commits made up for it: by itself, or ``asgi``.

    Hub.publish → Connection.offer → NativeTransport → loopback sockets
                                   → AsgiTransport → Hypercorn, as a program has it
                                   → EventStreamTransport → Quart → Hypercorn → our listener

The listener, the connections, the subscriptions and the hub are the server's.  No command is
decided and no database is asked: the log is in memory, and complete before anything is published,
so that a reader that falls behind catches up as usual.

It prints its port, then answers each ``COMMITS EVENTS`` with the processor time that it took until
all of it was handed to the sockets.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart import Response
from quart_trio import QuartTrio

from dalsegno.actors import Batch, Connection, Service
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits
from dalsegno.protocol.dialects import EventStreamLanguage, Follow
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web import (
    AsgiApplication,
    Door,
    Hosts,
    SocketTransport,
    create_admission,
    serve_port,
)
from dalsegno.runtime.web._event_stream import EventStreamBody, EventStreamTransport

from ._commits import WORKSPACE, asked, commits
from ._domain import tasks

if TYPE_CHECKING:
    from dalsegno.protocol import Event
    from dalsegno.runtime.web import UpgradeRequest
    from dalsegno.runtime.web._asgi_transport import AsgiTransport


class _WrittenAhead(MemoryStore):
    """A log that grows behind the back of the workspace's actor, which opened it empty."""

    async def write(self, events: list[Event]) -> None:
        """Append, under the epoch that the actor has."""
        head = await self.read_head(WORKSPACE)
        assert head is not None
        batch = Batch(
            workspace_id=WORKSPACE,
            epoch=head.epoch,
            old_head=events[0].event_seq - 1,
            events=tuple(events),
        )
        assert await self.append([batch])


class Delivery:
    """The server's half of the delivery path."""

    def __init__(self) -> None:
        # No beat in between: it would find what is written ahead, and publish that.
        self._limits = Limits(lease_s=7_200.0, lease_beat_s=3_600.0)
        self._store = _WrittenAhead(WORLD, limits=self._limits)
        self._service = Service(
            self._store, [tasks], node_id="bench", world=WORLD, limits=self._limits
        )

    async def run(self) -> None:
        """Serve, and publish what is asked for, until the input ends."""
        await self._store.acquire(WORKSPACE, "bench", create=True)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            await nursery.start(self._service.run)
            nursery.start_soon(self._serve, listeners)
            print(listeners[0].socket.getsockname()[1], flush=True)
            await self._obey()
            nursery.cancel_scope.cancel()

    async def run_asgi(self) -> None:
        """Do the same behind Hypercorn."""
        await self._store.acquire(WORKSPACE, "bench", create=True)
        door: Door[AsgiTransport, None] = Door(
            self._accept,
            self._handle,
            lambda _: None,
            admission=create_admission(self._limits, WORLD),
            limits=self._limits,
        )
        app = AsgiApplication(
            self._http(),
            door,
            owns=lambda path: path == "/ws",
            hosts=Hosts(),
            limits=self._limits,
            world=WORLD,
        )
        config = Config()
        config.bind, config.backlog, config.loglevel = ["127.0.0.1:0"], 1024, "ERROR"
        async with trio.open_nursery() as nursery:
            await nursery.start(self._service.run)
            url, *_ = await nursery.start(hypercorn.trio.serve, app, config)
            print(int(url.rpartition(":")[2]), flush=True)
            await self._obey()
            nursery.cancel_scope.cancel()

    def _http(self) -> QuartTrio:
        """Return an application that has event streams, made as the server makes them."""
        app = QuartTrio(__name__)

        @app.get("/events")
        async def follow() -> Response:
            transport = EventStreamTransport()
            asked = Follow(stream_id=f"workspace:{WORKSPACE}", cursor="0")
            connection = Connection(
                transport,
                self._service.sessions,
                user_id="reader",
                role="viewer",
                language=EventStreamLanguage(asked),
            )
            response = Response(EventStreamBody(transport, connection.run))
            response.timeout = None
            return response

        return app

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        await serve_port(
            listeners,
            app=self._http(),
            accept=self._accept,
            handle=self._handle,
            limits=self._limits,
            world=WORLD,
        )

    async def _accept(self, _request: UpgradeRequest) -> None:
        return None

    async def _handle(self, transport: SocketTransport, _accepted: None) -> None:
        connection = Connection(transport, self._service.sessions, user_id="reader", role="viewer")
        await connection.run()

    async def _obey(self) -> None:
        hub = self._service.directory.activate(WORKSPACE).hub
        stdin = trio.wrap_file(os.fdopen(0, closefd=False))
        async for line in stdin:
            ready = list(commits(hub.head, *asked(line)))
            for events in ready:
                await self._store.write(events)
            cpu = time.process_time()
            for events in ready:
                await hub.publish(events, _nothing)
            print(time.process_time() - cpu, flush=True)


def _nothing() -> None:
    """Answer nobody."""


async def _main() -> None:
    delivery = Delivery()
    await (delivery.run_asgi() if "asgi" in sys.argv else delivery.run())


if __name__ == "__main__":
    trio.run(_main)
