"""Runs that stream, on a port of their own: what a token costs, and how soon it is there.

A worker says tokens to readers over real sockets.  The reference sends as many commands, each of
which is one event to the same number of readers.  Both go on until every reader has had its share,
so that what a slow reader misses of the frames is said again and not forgotten.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio_websocket import open_websocket_url

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import AuthRequest, Caller, Limits
from dalsegno.runtime import App, RequestRun, Run, RunState, Runtime, runs, worker
from dalsegno.runtime.serving import serve

from ._cards import Move, cards
from ._harness import Sample
from ._sink import sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dalsegno.protocol import Event
    from dalsegno.runtime import Workspace
    from dalsegno.runtime.serving import Ready

_WORKSPACE = "talk"
_USER = "reader"
_SHOWN = "reader=1"
"""What a socket shows; whoever has a socket here is the reader."""
_TOKENS = 2_000
_WORD = "toke "
_PER_S = 5_000.0
_BEGAN = 2
"""Events of a run that has begun."""


async def _authenticate(_asked: AuthRequest) -> Caller:
    return Caller(user_id=_USER)


class Talk:
    """A runtime with a worker that says what it is told to, and a port."""

    def __init__(self) -> None:
        self._said = trio.Event()
        self._began = trio.Event()
        self._say: Callable[[Run], Awaitable[None]] = _nothing
        self._count = 0
        self.port = 0
        self.workspace: Workspace

    @asynccontextmanager
    async def open(self, database: str) -> AsyncIterator[None]:
        """Open it for the length of a block."""
        app = App([cards], workers=[worker("talk")(self._talk)], authenticate=_authenticate)
        limits = Limits(sockets_per_user_max=0, api_per_minute_max=0)
        async with (
            Runtime.open(database, app=app, limits=limits) as rt,
            trio.open_nursery() as nursery,
        ):
            ready: Ready = await nursery.start(serve, rt, "127.0.0.1:0")
            self.port = ready.port
            self.workspace = rt.workspace(_WORKSPACE)
            await self.workspace.send(PutMember(f"host:{_USER}", "owner"))
            yield
            nursery.cancel_scope.cancel()

    async def _talk(self, run: Run) -> None:
        self._began.set()
        await self._say(run)

    async def _begin(self, say: Callable[[Run], Awaitable[None]]) -> str:
        """Have something said by a run; return its id once it has begun."""
        self._count += 1
        self._say, self._began = say, trio.Event()
        run_id = f"r{self._count}"
        await self.workspace.send(RequestRun(run_id=run_id, worker="talk"))
        await self._began.wait()
        return run_id

    async def _ended(self, run_id: str) -> list[Event]:
        """Wait for the end of a run; return its events."""
        state: RunState | None = None
        while state is None or state.is_open:
            await trio.sleep(0.01)
            state = await self.workspace.get(runs, run_id)
        return await self.workspace.history(runs, run_id, limit=1_000)

    async def rows(self) -> tuple[int, int]:
        """Say two thousand tokens as a model does; return the rows, and their payloads' bytes."""

        async def say(run: Run) -> None:
            began = trio.current_time()
            for number in range(_TOKENS):
                await trio.sleep_until(began + number / _PER_S)
                await run.say(_WORD)

        events = await self._ended(await self._begin(say))
        return len(events), sum(len(event.payload.encode()) for event in events)

    async def first_tokens(self, count: int) -> Sample:
        """Time a token from the worker's `say` to the reader's hands, a run each."""
        latencies: list[float] = []
        for _ in range(count):
            go, said_at = trio.Event(), 0.0

            async def say(run: Run, go: trio.Event = go) -> None:
                nonlocal said_at
                await go.wait()
                said_at = time.perf_counter()
                await run.say(_WORD)

            run_id = await self._begin(say)
            address = f"ws://127.0.0.1:{self.port}/ws"
            async with open_websocket_url(
                address, extra_headers=[(b"cookie", _SHOWN.encode())]
            ) as socket:
                await socket.send_message(_subscribe(f"run:{run_id}", _BEGAN))
                await socket.get_message()
                await trio.sleep(0.01)  # it is level with the others by then
                go.set()
                while json.loads(await socket.get_message())["type"] != "frame":
                    pass
                latencies.append(time.perf_counter() - said_at)
            await self._ended(run_id)
        return Sample(count=count, wall_s=sum(latencies), latencies_s=latencies)

    async def frames(self, folder: Path, readers: int, tokens: int) -> Sample:
        """Say tokens to readers as fast as they go, until each has had so many."""
        go, done = trio.Event(), trio.Event()

        async def say(run: Run) -> None:
            await go.wait()
            while not done.is_set():
                await run.say(_WORD)

        run_id = await self._begin(say)
        sample = await self._to_readers(
            folder, f"run:{run_id}", _BEGAN, '{"type":"frame"', readers, tokens, go
        )
        done.set()
        await self._ended(run_id)
        return sample

    async def commits(self, folder: Path, readers: int, events: int) -> Sample:
        """Send commands, each of which is an event to readers, until each has had so many."""
        go = trio.Event()

        async def send() -> None:
            await go.wait()
            while True:
                await self.workspace.send(Move("card"))

        await self.workspace.send(Move("card"))
        card = (await self.workspace.history(cards, "card", limit=1_000, after=0))[-1]
        head = card.stream_seq
        while more := await self.workspace.history(cards, "card", limit=1_000, after=head):
            head = more[-1].stream_seq
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            sample = await self._to_readers(
                folder, "card:card", head, '{"type":"event"', readers, events, go
            )
            nursery.cancel_scope.cancel()
        return sample

    async def _to_readers(
        self,
        folder: Path,
        stream_id: str,
        cursor: int,
        prefix: str,
        readers: int,
        messages: int,
        go: trio.Event,
    ) -> Sample:
        async with sink(
            folder,
            self.port,
            connections=readers,
            path="/ws",
            cookie=_SHOWN,
            first=_subscribe(stream_id, cursor),
            prefix=prefix,
            replies=1,
        ) as those:
            await those.expect(messages)
            go.set()
            seconds = await those.wait()
        return Sample(count=messages, wall_s=seconds)


async def _nothing(_run: Run) -> None:
    pass


def _subscribe(stream_id: str, cursor: int) -> str:
    asked = {"type": "subscribe", "stream_id": stream_id, "workspace_id": _WORKSPACE}
    return json.dumps({**asked, "cursor": cursor})
