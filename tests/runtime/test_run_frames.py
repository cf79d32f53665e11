"""Runs that stream, over real sockets and on PostgreSQL: whoever reads, however, has one text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.effects import Run
from dalsegno.protocol import App, Limits
from dalsegno.protocol.runs import RequestRun, Transcript, Worker, runs, worker
from dalsegno.runtime import Workspace
from dalsegno.runtime.client import open_client
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._serving import Person, add_member, serving, set_up
from tests.tasks_domain import AddTask, tasks


class Reader:
    """Reads a run over a WebSocket of its own, until the run has ended."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.transcript = Transcript()
        self.kinds: list[str] = []

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[WebSocketConnection]:
        address = self.person.url.replace("http", "ws") + "/ws"
        headers = [(b"cookie", self.person.cookie.encode())]
        async with open_websocket_url(address, extra_headers=headers) as socket:
            yield socket

    async def read(self, pause_s: float = 0.0) -> None:
        async with self._socket() as socket:
            asked = {"type": "subscribe", "stream_id": "run:r", "cursor": 0}
            asked["workspace_id"] = self.person.workspace
            await socket.send_message(msgspec.json.encode(asked).decode())
            while not self.transcript.is_over:
                message = msgspec.json.decode(await socket.get_message())
                self.kinds.append(message["type"])
                if message["type"] == "error":
                    return
                self.transcript.hear(message)
                await trio.sleep(pause_s)


async def polled(person: Person) -> Transcript:
    """Read the log by long polls, page by page."""
    transcript, after = Transcript(), "0"
    async with httpx.AsyncClient(**PLAIN, timeout=60) as http:
        http.headers["cookie"] = person.cookie
        while not transcript.is_over:
            answer = await http.get(
                f"{person.url}/api/workspaces/{person.workspace}/events",
                params={"after": after, "wait": "10", "limit": "3"},
            )
            page = answer.json()
            after = page["cursor"]
            for event in page["items"]:
                if event["stream_id"] == "run:r":
                    transcript.read(event["type"], event["payload"])
    return transcript


async def committed(workspace: Workspace) -> Transcript:
    transcript = Transcript()
    for event in await workspace.history(runs, "r", limit=1_000):
        transcript.read(event.type, msgspec.json.decode(event.payload))
    return transcript


def talking(count: int, *, fails: bool = False) -> Worker:
    @worker("talk")
    async def talk(run: Run) -> None:
        for number in range(count):
            await run.say(f"{run.attempt}.{number} ")
            if number % 7 == 0:
                await run.say("hm ", channel="reasoning")
            if number % 100 == 50:
                await run.send(AddTask(task_id=f"t{number}", title="x"), step=f"s{number}")
            if number % 150 == 99:
                await run.say("long " * 1_000, message_id=f"m{number}")
            if fails and run.attempt == 1 and number == count // 2:
                raise OSError("a provider")
            await trio.sleep(0.002)

    return talk


async def test_p4_readers_that_join_at_any_point_and_those_that_poll_have_the_same_text(
    migrated: str,
) -> None:
    app = App([tasks], workers=[talking(400, fails=True)])
    limits = Limits(send_buffer_bytes=4_096)
    async with serving(migrated, app=app, limits=limits) as site:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)
        readers = [Reader(person) for _ in range(12)]
        pages: list[Transcript] = []

        async def poll() -> None:
            pages.append(await polled(person))

        with fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await workspace.send(RequestRun(run_id="r", worker="talk"))
                for number, reader in enumerate(readers):
                    pause_s = 0.01 if number == 1 else 0.0
                    nursery.start_soon(reader.read, pause_s)
                    await trio.sleep(0.15)
        whole = await committed(workspace)
        assert whole.attempt == 2
        assert whole.text().count("2.399 ") == 1
        assert "1.0" not in whole.text()
        for reader in readers:
            assert reader.transcript.texts == whole.texts
        (page,) = pages
        assert page.texts == whole.texts
        assert readers[0].kinds.count("frame") > 100
        assert any("tail" in reader.kinds for reader in readers[1:])


async def test_p6_after_a_member_was_removed_no_frame_reaches_it(migrated: str) -> None:
    app = App([tasks], workers=[talking(10_000)])
    async with serving(migrated, app=app) as site:
        person = await set_up(site)
        member = await add_member(site, person.workspace)
        workspace = site.runtime.workspace(person.workspace)
        await workspace.send(RequestRun(run_id="r", worker="talk"))
        stays, leaves = Reader(person), Reader(member)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stays.read)
            nursery.start_soon(leaves.read)
            await until(lambda: "frame" in stays.kinds and "frame" in leaves.kinds)
            await workspace.send(RemoveMember(member.user_id))
            last = stays.transcript.frame_no
            await until(lambda: "error" in leaves.kinds)
            await until(lambda: stays.transcript.frame_no > last + 50)
            assert leaves.kinds[-1] == "error"
            # What was said in the step in which it was removed may be on its way to who stays.
            assert leaves.transcript.frame_no <= last + 10
            nursery.cancel_scope.cancel()


async def test_a_client_hears_what_a_run_says_where_it_asks_for_it(
    migrated: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also before the events that its loop has yet to take; what it does then is its own affair."""
    app = App([tasks], workers=[talking(200)])
    async with serving(migrated, app=app) as site:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)
        await workspace.send(RequestRun(run_id="r", worker="talk"))
        transcript, ahead = Transcript(), 0

        def hear(message: dict[str, Any]) -> None:
            nonlocal ahead
            transcript.hear(message)
            ahead = max(ahead, transcript.frame_no - transcript.written_to)
            if message["frame_no"] % 50 == 0:
                raise ZeroDivisionError

        with fail_after(30):
            async with (
                open_client(person.url, cookie=person.cookie) as client,
                client.subscribe(
                    "run:r", workspace_id=person.workspace, cursor=0, hears=hear
                ) as events,
            ):
                async for event in events:
                    transcript.read(event.event_type, event.decode(dict[str, Any]))
                    if transcript.is_over:
                        break
        assert transcript.texts == (await committed(workspace)).texts
        assert ahead > 1
        assert "what run:r says was not taken" in caplog.text


async def test_a_client_that_does_not_ask_is_not_troubled(migrated: str) -> None:
    app = App([tasks], workers=[talking(50)])
    async with serving(migrated, app=app) as site:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)
        await workspace.send(RequestRun(run_id="r", worker="talk"))
        with fail_after(30):
            async with (
                open_client(person.url, cookie=person.cookie) as client,
                client.subscribe("run:r", workspace_id=person.workspace, cursor=0) as events,
            ):
                types = []
                while "run_finished" not in types:
                    types.append((await anext(events)).event_type)
        assert types == [event.type for event in await workspace.history(runs, "r")]
