"""A project under review: people of every role, a folder of files, a validator and a model."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.accounts import RegisterUser
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.reviews import reviews
from dalsegno.protocol.providers import ProviderSettings
from dalsegno.runtime import Runtime
from dalsegno.runtime.seams import WORLD
from tests._files import files_below, staged_below
from tests._http import PLAIN
from tests._patience import fail_after
from tests._provider import ScriptedProvider, providers
from tests.runtime._blocks import Blocks, following
from tests.runtime._serving import Person, Site, _logged_in, serving, set_up

Json = dict[str, Any]

VALIDATOR = """
import pathlib, sys, time
wait = pathlib.Path("wait")
print("looking at", sys.argv[1], flush=True)
for path in sorted(pathlib.Path(".").rglob("*.md")):
    print(path, flush=True)
    if "TODO" in path.read_text():
        print(f"{path}: not done", file=sys.stderr, flush=True)
        sys.exit(1)
while wait.exists():
    print("waiting", flush=True)
    time.sleep(0.05)
"""
"""Passes where no file says TODO; while there is a file ``wait`` it goes on."""


def validating(script: str = VALIDATOR) -> list[str]:
    """The command of a validator."""
    return [sys.executable, "-c", script, "{proposal}"]


class One:
    """Somebody, and how they talk to the server."""

    def __init__(self, person: Person, http: httpx.AsyncClient, project: str) -> None:
        self.person = person
        self.http = http
        self.project = project

    @property
    def user_id(self) -> str:
        return self.person.user_id

    async def ask(
        self, method: str, path: str, *, expect: int | None = None, **body: Any
    ) -> httpx.Response:
        with fail_after(60):
            answer = await self.http.request(
                method,
                f"{self.person.url}{path}",
                json=body or ({} if method in {"POST", "PATCH"} else None),
                timeout=None,
            )
        if expect is not None:
            assert answer.status_code == expect, (path, answer.status_code, answer.text)
        return answer

    async def post(self, path: str, *, expect: int = 200, **body: Any) -> Json:
        answer = await self.ask("POST", path, expect=expect, **body)
        made: Json = answer.json() if answer.content else {}
        return made

    async def get(self, path: str, *, expect: int = 200) -> Json:
        found: Json = (await self.ask("GET", path, expect=expect)).json()
        return found

    async def propose(self, name: str = "Login", **more: Any) -> str:
        path = f"/api/v1/projects/{self.project}/proposals"
        made = await self.post(path, expect=201, name=name, **more)
        return str(made["id"])

    @asynccontextmanager
    async def listening(self, path: str | None = None, **query: str) -> AsyncIterator[Listener]:
        """A socket of the project's, or at another path."""
        base = self.person.url.replace("http", "ws", 1)
        target = f"{base}{path or f'/ws/projects/{self.project}'}?{urlencode(query)}"
        headers = [(b"cookie", self.person.cookie.encode())]
        async with open_websocket_url(target, extra_headers=headers) as ws:
            try:
                yield Listener(ws)
            finally:
                if ws.closed:
                    await trio.aclose_forcefully(ws._stream)


class Listener:
    """A socket, and what it has heard."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws
        self.heard: list[Json] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.ws.send_message(msgspec.json.encode({"type": kind, **fields}).decode())

    async def next(self) -> Json:
        said: Json = msgspec.json.decode(await self.ws.get_message())
        self.heard.append(said)
        return said

    async def hear(self, *kinds: str) -> Json:
        """The next message of these kinds."""
        with fail_after(30):
            while (said := await self.next())["type"] not in kinds:
                pass
        return said

    async def until(self, *kinds: str) -> list[Json]:
        """All messages up to the next of these kinds, that included."""
        with fail_after(30):
            said = [await self.next()]
            while said[-1]["type"] not in kinds:
                said.append(await self.next())
        return said

    async def end(self) -> tuple[int, str | None]:
        """How the server closes it."""
        with fail_after(30), suppress(ConnectionClosed):
            while True:
                await self.ws.get_message()
        assert self.ws.closed is not None
        return self.ws.closed.code, self.ws.closed.reason


class Reader:
    """An event stream of a proposal's, read as a socket is."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.heard: list[Json] = []

    async def next(self) -> Json:
        while True:
            block = await self.blocks.next()
            assert block is not None, "the stream has ended"
            if block.data and block.event not in {"head", "problem"}:
                self.heard.append(block.said)
                return block.said

    async def hear(self, *kinds: str) -> Json:
        return (await self.until(*kinds))[-1]

    async def until(self, *kinds: str) -> list[Json]:
        with fail_after(30):
            said = [await self.next()]
            while said[-1]["type"] not in kinds:
                said.append(await self.next())
        return said


@asynccontextmanager
async def hearing(one: One, proposal: str, how: str) -> AsyncIterator[Listener | Reader]:
    """Hear of a proposal, by a socket that views it or by its event stream."""
    if how == "websocket":
        async with one.listening(proposal_id=proposal) as listener:
            await listener.hear("connected")
            yield listener
    else:
        path = f"/api/v1/proposals/{proposal}/events"
        async with following(one.person, path) as blocks:
            assert blocks.status == 200
            await blocks.hear("head")
            yield Reader(blocks)


class Team:
    """The people of a project, and its files."""

    def __init__(self, site: Site, root: Path, people: dict[str, One], project: str) -> None:
        self.site = site
        self.root = root
        self.folder = root / project
        self.people = people
        self.project = project
        self.admin, self.reviewer = people["admin"], people["reviewer"]
        self.author, self.viewer = people["author"], people["viewer"]

    @property
    def runtime(self) -> Runtime:
        return self.site.runtime

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()

    def files(self) -> dict[str, str]:
        """What is in the project's folder."""
        there = files_below(self.folder)
        return {str(each.relative_to(self.folder)): each.read_text() for each in there}

    def staged(self) -> list[Path]:
        """What waits beside it."""
        return staged_below(self.root)


async def member(site: Site, project: str, role: str) -> Person:
    """Make an account that has a role in a project."""
    rt = site.runtime
    user_id = WORLD.new_id()
    command = RegisterUser(
        user_id=user_id,
        email=f"{user_id}@example.org",
        display_name=role.capitalize(),
        role="viewer",
    )
    await rt.system.send(command)
    await rt.workspace(project).send(PutMember(user_id, role))
    return await _logged_in(site, user_id, project)


@asynccontextmanager
async def team(
    database: str,
    root: Path,
    *,
    validate: list[str] | None = None,
    provider: ScriptedProvider | None = None,
    models: list[ProviderSettings] | None = None,
    **given: Any,
) -> AsyncIterator[Team]:
    """Serve reviews, with people of every role."""
    async with AsyncExitStack() as stack:
        opened = None
        if provider is not None:
            opened = await stack.enter_async_context(providers(provider))
            models = [provider.settings()] if models is None else models
        app = reviews(
            root=str(root),
            validate=validating() if validate is None else validate,
            models=models or (),
        )
        if opened is not None:
            given["providers"] = lambda: nullcontext(opened)
        site = await stack.enter_async_context(serving(database, app=app, **given))
        founder = await set_up(site)
        project = founder.workspace
        persons = {"admin": founder}
        for role in ("reviewer", "author", "viewer"):
            persons[role] = await member(site, project, role)
        people = {}
        for role, person in persons.items():
            http = await stack.enter_async_context(httpx.AsyncClient(**PLAIN))
            people[role] = await logged_in(http, person, project)
        yield Team(site, root, people, project)


async def logged_in(http: httpx.AsyncClient, person: Person, project: str) -> One:
    http.headers["cookie"] = person.cookie
    session = await http.get(f"{person.url}/api/auth/session")
    http.headers["x-csrf-token"] = session.json()["csrf_token"]
    return One(person, http, project)


def answer(**files: str) -> list[str]:
    """The words of a model that changes files: ``a_md="text"`` is ``a.md``."""
    parts = ["I have changed it.\n"]
    for name, text in files.items():
        path = name.replace("__", "/").replace("_", ".")
        parts += [f"<<<<<< {path}\n", f"{text}\n", ">>>>>>\n"]
    return parts
