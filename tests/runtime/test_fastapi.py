"""The documented program on FastAPI, run by uvicorn on asyncio as a user would."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests._http import PLAIN
from tests._patience import patient

EMBEDDING = Path(__file__).parents[2] / "docs" / "embedding.md"
NAMES = ("shelf", "api")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: str) -> Iterator[Any]:
    """The program's application."""
    for name in NAMES:
        pattern = rf"^```python\n(# {name}\.py\n.*?)^```$"
        (program,) = re.findall(pattern, EMBEDDING.read_text(), re.M | re.S)
        (tmp_path / f"{name}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DATABASE_URL", migrated)
    yield importlib.import_module("api").api
    for name in NAMES:
        sys.modules.pop(name, None)


@asynccontextmanager
async def serving(api: Any) -> AsyncIterator[httpx.AsyncClient]:
    config = uvicorn.Config(
        api, port=0, log_level="warning", timeout_graceful_shutdown=1, loop="asyncio", ws="none"
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())  # without its signal handlers
    try:
        while not server.started:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", **PLAIN, timeout=patient(20)
        ) as http:
            yield http
    finally:
        server.should_exit = True
        await running


async def lines_of(response: httpx.Response, count: int) -> list[str]:
    """The first events of a stream, each as one line."""
    found: list[str] = []
    event: list[str] = []
    async for line in response.aiter_lines():
        if line:
            event.append(line)
            continue
        found.append(" ".join(event))
        event.clear()
        if len(found) == count:
            break
    return found


def test_routes_send_commands_and_stream_events(api: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(patient(60)), serving(api) as http:
            key = {"idempotency-key": "k1"}
            for _ in range(2):  # once is enough
                added = await http.put("/books/b1", params={"title": "Moby-Dick"}, headers=key)
                assert added.json() == {"version": 1, "event_seq": 1}
            listed = await http.get("/books")
            assert listed.json() == {"books": {"b1": "Moby-Dick"}, "event_seq": 1}
            async with http.stream("GET", "/events") as stream:
                first = asyncio.create_task(lines_of(stream, 2))
                lent = await http.post("/books/b1/reader", params={"name": "ada"})
                assert lent.json() == {"version": 2, "event_seq": 2}
                assert await first == [
                    'id: 1 event: book_added data: {"title":"Moby-Dick"}',
                    'id: 2 event: book_lent data: {"reader":"ada"}',
                ]
            refused = await http.post("/books/b1/reader", params={"name": "bob"})
            assert refused.status_code == 409
            assert refused.json()["code"] == "BOOK_LENT"
            assert refused.json()["details"] == {"reader": "ada"}
            absent = await http.post("/books/none/reader", params={"name": "bob"})
            assert (absent.status_code, absent.json()["code"]) == (404, "BOOK_NOT_FOUND")
            # A reader that has left is followed no longer.
            bridge = api.state.rt._bridge
            while bridge._calls:
                await asyncio.sleep(0.005)
            # One that stays does not keep the program from ending.
            async with http.stream("GET", "/events", params={"after": 2}):
                while not bridge._calls:
                    await asyncio.sleep(0.005)
        assert not [each for each in threading.enumerate() if each.name == "dalsegno"]

    asyncio.run(main())
