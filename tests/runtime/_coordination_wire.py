"""A tenant of coordination over real sockets: HTTP with a key, and the source's WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from tests._coordination import API, Answered, Json, Tenant
from tests._patience import fail_after


class KeyHolder(Tenant):
    """A program with a key of a tenant."""

    def __init__(self, url: str, key: str, tenant_id: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self.key = key
        self.id = tenant_id
        self._http = http

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answered:
        answer = await self._http.request(
            method,
            f"{self.url}{API}{path}",
            content=None if body is None else msgspec.json.encode(body),
            headers={
                "x-api-key": self.key,
                "content-type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        return Answered(answer.status_code, {**answer.headers}, answer.content)

    @asynccontextmanager
    async def listening(self, query: str = "") -> AsyncIterator[Listener]:
        """Follow the tenant's events; what was first said has been heard."""
        async with connected(self.url, query, {"x-api-key": self.key}) as listener:
            assert await listener.hear() == {"type": "Connected", "tenant_id": self.id}
            yield listener


class Listener:
    """The client's end of the source's socket."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws

    async def hear(self) -> Json:
        with fail_after(20):
            heard: Json = msgspec.json.decode(await self.ws.get_message())
            return heard

    async def hear_type(self, type_: str) -> Json:
        while (heard := await self.hear())["type"] != type_:
            pass
        return heard

    async def say(self, **said: object) -> None:
        await self.ws.send_message(msgspec.json.encode(said).decode())


@asynccontextmanager
async def connected(
    url: str, query: str, headers: dict[str, str], *, offers: list[str] | None = None
) -> AsyncIterator[Listener]:
    """Connect to the source's socket."""
    address = f"{url.replace('http', 'ws', 1)}{API}/ws{query}"
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    async with open_websocket_url(address, extra_headers=sent, subprotocols=offers) as ws:
        try:
            yield Listener(ws)
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def make_key(
    http: httpx.AsyncClient, url: str, tenant_id: str, headers: dict[str, str], role: str = "editor"
) -> str:
    """Make a key of a tenant, as one of its owners."""
    answer = await http.post(
        f"{url}/api/workspaces/{tenant_id}/keys",
        json={"name": "agent", "role": role},
        headers=headers,
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])
