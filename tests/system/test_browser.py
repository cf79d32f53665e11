"""A real browser on a page of a program's own, with the scripts that docs/protocol.md has."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from dalsegno.runtime.client import Client
from tests._asgi import hypercorn, their_own
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.system._browser import Browser, Tab, open_browser
from tests.system._page import PATH, SETUP_TOKEN, page_files, with_page
from tests.system._processes import (
    DALSEGNO,
    EMAIL,
    PASSWORD,
    Owner,
    Processes,
    Server,
    connect,
    free_port,
    write,
)
from tests.system._proxies import Place, nginx_conf, running

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

PROGRAM = (sys.executable, "-m", "tests.system._page_program")
OTHER = "other@example.org"
ALL = ("project", "stream", "source")
"""What the page follows: a project, a stream of `/ws`, and that by an EventSource."""


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")  # what there is not here is not fetched
        with open_browser(tmp_path_factory.mktemp("browser")) as browser:
            yield browser


@pytest.fixture
async def browser(one_browser: Browser) -> AsyncIterator[Browser]:
    """The browser, which knows nobody."""
    yield one_browser
    await one_browser.forget()


class Site(msgspec.Struct, frozen=True):
    """A server, and where a browser finds the page."""

    server: Server
    page: str
    arguments: tuple[str, ...] = ()

    async def start(self) -> None:
        await self.server.start(*self.arguments)


class Setting(msgspec.Struct, frozen=True):
    """What a site is made of."""

    processes: Processes
    folder: Path
    database: str
    environment: dict[str, str]

    def server(self, program: tuple[str, ...] = DALSEGNO) -> Server:
        return Server(
            self.processes,
            self.folder,
            database=self.database,
            node_id="a",
            environment=self.environment,
            program=program,
        )


@asynccontextmanager
async def of_a_program(setting: Setting) -> AsyncIterator[Site]:
    """One process has both, on our listener."""
    server = setting.server(PROGRAM)
    yield Site(server, f"{server.url}{PATH}")


@asynccontextmanager
async def of_another_origin(setting: Setting) -> AsyncIterator[Site]:
    """The page comes from elsewhere, and `dalsegno serve` is told of it."""
    server = setting.server()
    async with hypercorn(with_page(their_own)) as (host, port):
        origin = f"http://{host}:{port}"
        page = f"{origin}{PATH}?server={server.url}"
        yield Site(server, page, ("--origins", origin))


PROXY = """
server {{
    listen 127.0.0.1:{port};
    types {{ text/html html; text/javascript js; }}
    location {path} {{ alias {folder}/; }}
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
    }}
}}
"""


@asynccontextmanager
async def behind_a_proxy(setting: Setting) -> AsyncIterator[Site]:
    """A proxy has the page, and answers 502 while there is no server."""
    server, folder = setting.server(), setting.folder / "page"
    folder.mkdir()
    for name, text in page_files().items():
        (folder / name).write_text(text)
    place = Place(setting.folder, free_port(), server.port)
    conf = PROXY.format(port=place.port, upstream=place.upstream, path=PATH, folder=folder)
    async with running(nginx_conf(place, conf), place):
        yield Site(server, f"http://127.0.0.1:{place.port}{PATH}")


@pytest.fixture
def setting(
    processes: Processes, tmp_path: Path, migrated: str, environment: dict[str, str]
) -> Setting:
    return Setting(processes, tmp_path, migrated, environment)


async def set_up(server: Server) -> Owner:
    body = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
    token = {"x-setup-token": SETUP_TOKEN}
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        answer = await http.post("/api/setup/register", json=body, headers=token)
        assert answer.status_code == 201, answer.text
        cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    return Owner(answer.json()["workspace_id"], cookies, answer.json()["user_id"])


async def add_user(server: Server, owner: Owner) -> None:
    """Make a second account, which is no member of anything."""
    body = {"email": OTHER, "password": PASSWORD, "display_name": "Other", "role": "editor"}
    headers = {"cookie": owner.cookie}
    async with httpx.AsyncClient(base_url=server.url, **PLAIN, headers=headers) as http:
        csrf = (await http.get("/api/auth/session")).json()["csrf_token"]
        made = await http.post("/api/users", json=body, headers={"x-csrf-token": csrf})
    assert made.status_code == 201, made.text


class Writer:
    """Another client, which writes one note after the other, whatever becomes of the server."""

    def __init__(self, client: Client, owner: Owner) -> None:
        self._client = client
        self._owner = owner
        self.head = 0

    async def write(self, count: int) -> int:
        for _ in range(count):
            self.head = await write(self._client, self._owner, "A note")
        return self.head

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write for the length of a block, and answer to what was begun."""
        stop = trio.Event()

        async def write_on() -> None:
            while not stop.is_set():
                await self.write(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            try:
                yield
            finally:
                stop.set()


async def seen_all(tab: Tab, head: int, *names: str) -> dict[str, Any]:
    """Wait until a page has heard all up to a number, each once and in order."""
    state = await tab.wait(lambda state: all(state["heard"][name][-1:] == [head] for name in names))
    for name in names:
        assert state["heard"][name] == [*range(1, head + 1)], name
    told = Counter[str]()
    for socket in state["sockets"]:
        told[socket["path"]] += socket["types"].get("event", 0)
    assert {*told.values()} == {head}, "the scripts had no repeat to drop"
    assert state["ends"] == {}
    return state


def ends(state: dict[str, Any]) -> list[int]:
    """The codes of the sockets that have ended."""
    return [socket["end"][0] for socket in state["sockets"] if socket["end"]]


@asynccontextmanager
async def a_page(site: Site, browser: Browser) -> AsyncIterator[tuple[Tab, Owner, Writer]]:
    """A page of a site that has just been set up, and another client."""
    await site.start()
    owner = await set_up(site.server)
    tab = await browser.open(site.page)
    async with connect(site.server, owner) as client:
        yield tab, owner, Writer(client, owner)


async def log_in_and_follow(tab: Tab, owner: Owner) -> None:
    assert await tab.do("logIn", EMAIL, PASSWORD) == 200
    await tab.do("follow", owner.workspace)


@pytest.mark.parametrize("site", [of_a_program, of_another_origin])
async def test_a_page_misses_nothing_while_its_server_is_killed(
    site: Callable[[Setting], AbstractAsyncContextManager[Site]], setting: Setting, browser: Browser
) -> None:
    async with site(setting) as here, a_page(here, browser) as (tab, owner, writer):
        await log_in_and_follow(tab, owner)
        assert ends(await seen_all(tab, await writer.write(3), *ALL)) == []
        async with writer.writing():
            await here.server.kill()
            await here.start()
            before = writer.head
            await until(lambda: writer.head > before + 3)
        state = await seen_all(tab, await writer.write(3), *ALL)
        assert {*ends(state)} == {1006}
        # Nobody answered meanwhile, so it came back by itself, with its Last-Event-ID.
        assert state["sources"] == [{"is_closed": False, "opened": 2, "problems": []}]


async def test_behind_a_proxy_a_page_misses_nothing_over_a_kill_and_a_restart(
    setting: Setting, browser: Browser
) -> None:
    async with behind_a_proxy(setting) as here, a_page(here, browser) as (tab, owner, writer):
        await log_in_and_follow(tab, owner)
        async with writer.writing():
            await until(lambda: writer.head > 3)
            await here.server.kill()
            # The proxy answers instead, and EventSource gives up.
            await tab.wait(lambda state: bool(state["sources"][0]["is_closed"]))
            await here.start()
        state = await seen_all(tab, await writer.write(3), *ALL)
        assert {*ends(state)} == {1006}
        assert [source["is_closed"] for source in state["sources"][-2:]] == [True, False]

        live = [n for n, socket in enumerate(state["sockets"]) if socket["end"] is None]
        assert len(live) == 2
        assert await here.server.stop() == 0
        state = await tab.wait(lambda state: all(state["sockets"][n]["end"] for n in live))
        for socket in (state["sockets"][n] for n in live):
            assert socket["types"]["reconnect"] == 1
            code, reason = socket["end"]
            assert code == 1001
            assert reason.startswith("reconnect after ")
        await here.start()
        await seen_all(tab, await writer.write(3), *ALL)


async def test_a_page_stays_with_one_token_after_the_other(
    setting: Setting, browser: Browser
) -> None:
    setting.environment["DALSEGNO_LIMIT_ACCESS_TOKEN_S"] = "2"
    async with of_a_program(setting) as here, a_page(here, browser) as (tab, owner, writer):
        await tab.do("followWithToken", owner.workspace, EMAIL, PASSWORD)
        await seen_all(tab, await writer.write(3), "token")
        with fail_after(20):
            while (taken := await tab.do("taken", 0)) == "OK":
                await writer.write(1)
        assert taken == "TOKEN_EXPIRED"
        # Renewed twice, hence longer than a second past the first one's expiry.
        await tab.wait(lambda state: state["sockets"][0]["types"]["authenticated"] >= 3)
        state = await seen_all(tab, await writer.write(3), "token")
        assert [socket["end"] for socket in state["sockets"]] == [None]

        assert await here.server.stop() == 0
        await here.start()
        state = await seen_all(tab, await writer.write(3), "token")
        assert ends(state)[0] == 1001


async def test_a_log_out_in_another_tab_ends_what_this_one_follows(
    setting: Setting, browser: Browser
) -> None:
    async with of_another_origin(setting) as here, a_page(here, browser) as (tab, owner, writer):
        await log_in_and_follow(tab, owner)
        head = await writer.write(3)
        await seen_all(tab, head, *ALL)
        other = await browser.open(here.page)
        assert await other.do("logOut") == 204
        await writer.write(3)
        state = await tab.wait(lambda state: {*state["ends"]} == {*ALL})
        end = {"code": 4001, "reason": "the session ended"}
        assert state["ends"] == {"project": end, "stream": end, "source": 401}
        assert ends(state) == [4001, 4001]
        # It was told, came back all the same, was refused with 401, and gave up.
        told = ["AUTH_REQUIRED"]
        assert state["sources"] == [{"is_closed": True, "opened": 1, "problems": told}]
        assert state["heard"] == {name: [*range(1, head + 1)] for name in ALL}

        # Of a project it is shown why; of a refused upgrade nothing (WHATWG WebSockets, §4).
        project = f"/ws/projects/{owner.workspace}"
        assert await tab.do("end", project) == [True, 4001, "Unauthorized"]
        assert await tab.do("end", "/ws") == [False, 1006, ""]
        await add_user(here.server, owner)
        assert await other.do("logIn", OTHER, PASSWORD) == 200
        assert await tab.do("end", project) == [True, 4003, "Forbidden"]
        assert await tab.do("end", "/ws/projects/nowhere") == [True, 4004, "Not Found"]
