"""One cursor is valid on every transport: whoever goes from one to another misses nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.notes import CreateNote, note_dialect, note_domains
from dalsegno.protocol import App, Limits
from dalsegno.protocol.dialects import project_socket
from tests._http import PLAIN
from tests._patience import fail_after
from tests.runtime._blocks import following
from tests.runtime._serving import Person, serving, set_up

pytestmark = pytest.mark.postgres

APP = App(note_domains, dialects=[note_dialect, project_socket])
EVENTS = 300


class Read(NamedTuple):
    seq: int
    cursor: str


@asynccontextmanager
async def socket(person: Person, path: str) -> AsyncIterator[WebSocketConnection]:
    headers = [(b"cookie", person.cookie.encode())]
    url = person.url.replace("http", "ws", 1) + path
    async with open_websocket_url(url, extra_headers=headers) as ws:
        try:
            yield ws
        finally:
            await trio.aclose_forcefully(ws._stream)  # it hangs up without a word


async def by_socket(person: Person, cursor: str) -> AsyncGenerator[Read, None]:
    async with socket(person, "/ws") as ws:
        asked: dict[str, Any] = {"type": "subscribe", "cursor": cursor}
        asked["stream_id"] = f"workspace:{person.workspace}"
        await ws.send_message(msgspec.json.encode(asked).decode())
        while True:
            said = msgspec.json.decode(await ws.get_message())
            if said["type"] == "event":
                yield Read(said["seq"], f"{said['seq']}-{said['chain']}")


async def by_project_socket(person: Person, cursor: str) -> AsyncGenerator[Read, None]:
    async with socket(person, f"/ws/projects/{person.workspace}?cursor={cursor}") as ws:
        while True:
            said = msgspec.json.decode(await ws.get_message())
            if said["type"] == "event":
                yield Read(said["seq"], said["cursor"])


async def by_event_stream(person: Person, cursor: str) -> AsyncGenerator[Read, None]:
    async with following(person, last_event_id=cursor) as blocks:
        while True:
            block = await blocks.hear("note_created")
            yield Read(block.said["seq"], str(block.id))


async def by_project_event_stream(person: Person, cursor: str) -> AsyncGenerator[Read, None]:
    path = f"/api/v1/projects/{person.workspace}/events"
    async with following(person, path, cursor=cursor) as blocks:
        while True:
            block = await blocks.hear("note_created")
            yield Read(block.said["seq"], str(block.id))


async def by_long_polls(person: Person, cursor: str) -> AsyncGenerator[Read, None]:
    url = f"{person.url}/api/workspaces/{person.workspace}/events"
    async with httpx.AsyncClient(timeout=20, **PLAIN) as http:
        while True:
            params = {"after": cursor, "wait": "10", "limit": "7"}
            page = await http.get(url, params=params, headers={"cookie": person.cookie})
            for each in page.json()["items"]:
                yield Read(each["event_seq"], f"{each['event_seq']}-{each['chain']}")
            cursor = page.json()["cursor"]


TRANSPORTS = (
    by_socket,
    by_project_socket,
    by_event_stream,
    by_project_event_stream,
    by_long_polls,
)


@pytest.mark.parametrize("seed", range(3))
async def test_x_rep_1_and_5_whoever_changes_the_transport_misses_nothing(
    migrated: str, seed: int
) -> None:
    """Each stays with one for some events, while they are written, and hangs up amid the next."""
    limits = Limits(outbox_items_max=5) if seed == 0 else Limits()  # who lags is caught up
    async with serving(migrated, app=APP, limits=limits) as site, trio.open_nursery() as nursery:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)

        async def write() -> None:
            for number in range(EVENTS):
                await workspace.send(CreateNote(f"Note {number}", "x"))

        async def read(chance: random.Random) -> None:
            cursor, seen, turn = "0", list[int](), 0
            while len(seen) < EVENTS:
                transport = TRANSPORTS[(turn + chance.randint(0, 1)) % len(TRANSPORTS)]
                turn, left = turn + 1, chance.randint(1, 20)
                async with aclosing(transport(person, cursor)) as events:
                    async for each in events:
                        seen.append(each.seq)
                        cursor = each.cursor
                        left -= 1
                        if not left or len(seen) == EVENTS:
                            break
            assert seen == [*range(1, EVENTS + 1)], "each once, in order"
            assert turn > len(TRANSPORTS)

        with fail_after(60):
            nursery.start_soon(write)
            async with trio.open_nursery() as readers:
                for number in range(3):
                    readers.start_soon(read, random.Random(3 * seed + number))
