"""Users, notes and sockets of one server, as a client sees them."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from dalsegno.runtime import Runtime
from tests._http import PLAIN
from tests._patience import fail_after, patient

PASSWORD = "correct horse battery staple"
PATIENCE_S = 20.0

JSON = {"content-type": "application/json"}

_numbers = itertools.count(1)

Json = dict[str, Any]


class Socket:
    """A WebSocket that keeps what it has received."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws
        self.seen: list[Json] = []

    async def send(self, type_: str, **fields: Any) -> None:
        await self.ws.send_message(msgspec.json.encode({"type": type_, **fields}).decode())

    async def send_raw(self, text: str | bytes) -> None:
        await self.ws.send_message(text)

    async def next(self) -> Json:
        """The next message that is not a heartbeat."""
        with fail_after(PATIENCE_S):
            while True:
                message: Json = msgspec.json.decode(await self.ws.get_message())
                if message["type"] != "heartbeat":
                    self.seen.append(message)
                    return message

    async def until(self, type_: str, **fields: Any) -> Json:
        """Read on to a message of this type and with these fields."""
        while True:
            message = await self.next()
            if message["type"] == type_ and all(message.get(k) == v for k, v in fields.items()):
                return message

    async def take(self, count: int) -> list[Json]:
        return [await self.next() for _ in range(count)]

    async def ask(self, type_: str, **fields: Any) -> Json:
        """Send a message and read on to its answer, by its request id."""
        request_id = f"r{next(_numbers)}"
        await self.send(type_, request_id=request_id, **fields)
        while True:
            message = await self.next()
            if message.get("request_id") == request_id:
                return message

    async def silent(self) -> list[Json]:
        """What comes before the answer to a ping: everything that was in flight."""
        before = len(self.seen)
        await self.ask("ping")
        return self.seen[before:-1]

    async def closed(self) -> int:
        """Read to the end; return the close code."""
        with fail_after(PATIENCE_S), pytest.raises(ConnectionClosed):
            await self.until("the end")
        reason = self.ws.closed
        assert reason is not None
        return int(reason.code)


class User:
    """Somebody who is logged in."""

    def __init__(self, site: "Site", identity: Json, cookie: str) -> None:
        self.site = site
        self.identity = identity
        self.id: str = identity["user_id"]
        self.email: str = identity["email"]
        self.workspace_id: str = identity["workspace_id"]
        self.csrf: str = identity["csrf_token"]
        self.cookie = cookie

    async def http(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        return await self.site.http(
            method,
            path,
            body,
            **{"cookie": f"dalsegno_session={self.cookie}", "x-csrf-token": self.csrf, **headers},
        )

    @asynccontextmanager
    async def socket(self, query: str = "") -> AsyncIterator[Socket]:
        url = f"ws://{self.site.address}/ws{query}"
        headers = [(b"cookie", f"dalsegno_session={self.cookie}".encode())]
        async with open_websocket_url(url, extra_headers=headers) as ws:
            try:
                yield Socket(ws)
            finally:
                if ws.closed:  # by the server: the library then leaves its own end open
                    await trio.aclose_forcefully(ws._stream)

    async def create_note(self, markdown: str = "Hello world", title: str = "A note") -> str:
        body = {"workspace_id": self.workspace_id, "title": title, "markdown": markdown}
        response = await self.http("POST", "/api/notes", body)
        assert response.status_code == 201, response.text
        assert response.json()["version"] == 1
        return str(response.json()["note_id"])

    async def note(self, note_id: str) -> Json:
        response = await self.http("GET", f"/api/notes/{note_id}")
        assert response.status_code == 200, response.text
        note: Json = response.json()
        return note

    async def events(self, after: int = 0) -> list[Json]:
        """The whole log, page by page."""
        items: list[Json] = []
        cursor: int | None = after
        while cursor is not None:
            path = f"/api/workspaces/{self.workspace_id}/events?after={cursor}&limit=500"
            page = (await self.http("GET", path)).json()
            items += page["items"]
            cursor = page["next"]
        return items


class Site:
    """One server."""

    def __init__(self, address: str, rt: Runtime, setup_token: str | None = None) -> None:
        self.address = address
        self.rt = rt
        self._setup_token = setup_token
        self._client = httpx.AsyncClient(
            base_url=f"http://{address}", timeout=patient(PATIENCE_S), **PLAIN
        )
        self.owner: User

    async def aclose(self) -> None:
        await self._client.aclose()

    async def http(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        self._client.cookies.clear()
        content = None if body is None else msgspec.json.encode(body)
        return await self._client.request(
            method, path, content=content, headers={**JSON, **headers}
        )

    async def post(self, path: str, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
        """Send a body as it is, announced or in pieces."""
        self._client.cookies.clear()
        return await self._client.post(path, content=content, headers=JSON)

    async def set_up(self) -> User:
        body = {"email": "owner@example.com", "password": PASSWORD, "display_name": "Owner"}
        if self._setup_token is not None:
            body["setup_token"] = self._setup_token
        response = await self.http("POST", "/api/setup/register", body)
        assert response.status_code == 201, response.text
        self.owner = User(self, response.json(), response.cookies["dalsegno_session"])
        return self.owner

    async def login(self, email: str = "owner@example.com") -> User:
        body = {"email": email, "password": PASSWORD}
        response = await self.http("POST", "/api/auth/login", body)
        assert response.status_code == 200, response.text
        return User(self, response.json(), response.cookies["dalsegno_session"])

    async def add_user(self, role: str | None = "editor") -> User:
        """Make a user, and a member of the owner's workspace where a role is given."""
        email = f"user{next(_numbers)}@example.com"
        body = {"email": email, "password": PASSWORD, "display_name": "User", "role": "editor"}
        response = await self.owner.http("POST", "/api/users", body)
        assert response.status_code == 201, response.text
        user_id = response.json()["user_id"]
        if role is not None:
            path = f"/api/workspaces/{self.owner.workspace_id}/members/{user_id}"
            response = await self.owner.http("PUT", path, {"role": role})
            assert response.status_code == 200, response.text
        return await self.login(email)

    async def add_workspace(self) -> str:
        slug = f"w{next(_numbers)}"
        body = {"slug": slug, "name": slug}
        response = await self.owner.http("POST", "/api/workspaces", body)
        assert response.status_code == 201, response.text
        return str(response.json()["workspace_id"])
