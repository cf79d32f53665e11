"""The HTTP application without a port: its users, and a clock that they can move."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from argon2 import PasswordHasher
from quart.testing.utils import sentinel

from dalsegno.actors.domains.accounts import RegisterUser, SetUp
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web._auth import COOKIE, session_hash

if TYPE_CHECKING:
    from quart_trio import QuartTrio

    from dalsegno.actors import World
    from dalsegno.actors.domains.members import GlobalRole
    from dalsegno.runtime import Runtime

PASSWORD = "correct horse battery staple"

CHEAP_HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
"""Of the same password, but cheap to verify: a hash carries its own cost."""

JSON = {"content-type": "application/json"}

_numbers = itertools.count(1)


class Clock:
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 2, 13, 12, tzinfo=UTC)

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)

    def world(self) -> World:
        return replace(WORLD, now=lambda: self.now)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        decoded: dict[str, Any] = msgspec.json.decode(self.raw)
        return decoded

    @property
    def code(self) -> str:
        """The error's code; its envelope is complete."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.body) == {"code", "message", "details", "request_id"}
        assert self.body["request_id"] == self.headers["x-request-id"]
        return str(self.body["code"])

    @property
    def cookie(self) -> str:
        """The session's id that it sets."""
        pair = self.headers["set-cookie"].split(";")[0]
        assert pair.startswith(f"{COOKIE}=")
        return pair.removeprefix(f"{COOKIE}=")


@dataclass
class Site:
    """One application."""

    app: QuartTrio
    rt: Runtime
    clock: Clock
    closed: list[bytes] = field(default_factory=list)
    """The sessions whose connections were closed."""
    closed_users: list[tuple[str, bytes | None]] = field(default_factory=list)
    """… and the users, with the session whose were not."""

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        data = raw if raw is not None else b"" if body is None else msgspec.json.encode(body)
        client = self.app.test_client(use_cookies=False)
        response = await client.open(
            path, method=method, data=data, headers={**JSON, **(headers or {})}, json=sentinel
        )
        content = await response.get_data(as_text=False)
        answered = {name.lower(): value for name, value in response.headers.items()}
        assert answered["x-request-id"]
        return Answer(response.status_code, answered, bytes(content))

    def hash_of(self, user: User) -> bytes:
        return session_hash(user.session)

    async def register(self, **more: str) -> User:
        """Set up as a client does, at a password's full cost."""
        body = {"email": "ada@example.com", "password": PASSWORD, "display_name": "Ada", **more}
        return User(self, await self.send("POST", "/api/setup/register", body))

    async def set_up(self) -> User:
        """Make the owner and the first workspace, and log in."""
        user_id = self.rt.world.new_id()
        await self.rt.accounts.put_credential(user_id, CHEAP_HASH)
        await self.rt.system.send(
            SetUp(
                user_id=user_id,
                email="ada@example.com",
                display_name="Ada",
                workspace_id=self.rt.world.new_id(),
                slug="main",
                name="Main",
            )
        )
        return await self.login("ada@example.com")

    async def login(self, email: str) -> User:
        body = {"email": email, "password": PASSWORD}
        return User(self, await self.send("POST", "/api/auth/login", body))

    async def add_user(self, role: GlobalRole = "viewer") -> User:
        """Make a user with a global role, and log them in."""
        user_id, email = self.rt.world.new_id(), f"user{next(_numbers)}@example.com"
        await self.rt.accounts.put_credential(user_id, CHEAP_HASH)
        await self.rt.system.send(
            RegisterUser(user_id=user_id, email=email, display_name="User", role=role)
        )
        return await self.login(email)

    async def add_member(self, owner: User, role: str) -> User:
        """Register a user and make them a member of the owner's workspace."""
        user = await self.add_user()
        put = await owner.put(f"{owner.space}/members/{user.id}", {"role": role})
        assert put.status == 200, put.raw
        return await self.login(user.email)


class User:
    """Somebody who is logged in."""

    def __init__(self, site: Site, answer: Answer) -> None:
        assert answer.status in {200, 201}, answer.raw
        self.site = site
        self.answer = answer
        self.identity = answer.body
        self.id: str = answer.body["user_id"]
        self.email: str = answer.body["email"]
        self.workspace_id: str = answer.body["workspace_id"]
        self.session = answer.cookie
        self.headers = {
            "cookie": f"theme=dark; {COOKIE}={self.session}",
            "x-csrf-token": answer.body["csrf_token"],
        }

    @property
    def space(self) -> str:
        return f"/api/workspaces/{self.workspace_id}"

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.site.send(method, path, body, headers={**self.headers, **named})

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.send("GET", path, **headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.send("POST", path, body, **headers)

    async def put(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.send("PUT", path, body, **headers)

    async def patch(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.send("PATCH", path, body, **headers)

    async def delete(self, path: str, **headers: str) -> Answer:
        return await self.send("DELETE", path, **headers)

    async def write(self, markdown: str = "Hello world") -> str:
        """Create a note; its id."""
        body = {"workspace_id": self.workspace_id, "title": "A note", "markdown": markdown}
        created = await self.post("/api/notes", body)
        assert created.status == 201, created.raw
        return str(created.body["note_id"])
