"""Who logs out is told nothing more: on any connection, on any server, however far behind it is."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import httpx
import msgspec
import pytest
import trio

from tests._http import PLAIN
from tests._patience import patient, until
from tests.system._database import Database
from tests.system._processes import EMAIL, ONE_USER, PASSWORD, QUICK, Owner, Processes
from tests.system._socket import EndedError, Socket, open_socket
from tests.system.test_two_servers import end, start_pair

BEHIND_BYTES = 1024 * 1024
NOTE = "x" * 16_000
EVERYWHERE = "x-effective-everywhere-within-ms"
UNAUTHORIZED = 4001


class Reader:
    """A connection of somebody, and the last event that it was told of."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.last = 0
        self.code = 0

    async def read(self) -> None:
        """Read to the end."""
        try:
            while True:
                message = await self.socket.hear()
                if message["type"] == "event":
                    assert message["seq"] == self.last + 1
                    self.last = message["seq"]
        except EndedError as ended:
            self.code = ended.code


def http(server_url: str, owner: Owner, csrf: str = "") -> httpx.AsyncClient:
    headers = {"cookie": owner.cookie, "x-csrf-token": csrf}
    return httpx.AsyncClient(base_url=server_url, headers=headers, timeout=30, **PLAIN)


async def log_in(url: str, owner: Owner) -> tuple[Owner, str]:
    """Begin another session of the owner's."""
    body = {"email": EMAIL, "password": PASSWORD}
    async with httpx.AsyncClient(base_url=url, **PLAIN) as client:
        answer = await client.post("/api/auth/login", json=body)
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return msgspec.structs.replace(owner, cookie=cookies), answer.json()["csrf_token"]


@pytest.mark.parametrize("at", ["the same server", "another server"])
async def test_who_logs_out_is_told_nothing_more_though_megabytes_behind(
    at: str, processes: Processes, cluster: Database, owner: Owner
) -> None:
    settings = QUICK | ONE_USER
    a, b, _ = await start_pair(processes, cluster, owner, settings)
    bob, csrf = await log_in(a.url, owner)
    session = (await _get(a.url, owner, "/api/auth/session")).json()
    writer = http(a.url, owner, session["csrf_token"])
    async with writer, trio.open_nursery() as nursery:

        async def write() -> int:
            note = {"workspace_id": owner.workspace, "title": "n", "markdown": NOTE}
            answer = await writer.post("/api/notes", json=note)
            assert answer.status_code == 201, answer.text
            return await head()

        async def head() -> int:
            answer = await writer.get(f"/api/workspaces/{owner.workspace}/events?limit=1")
            return int(answer.json()["head"])

        for _ in range(2 * BEHIND_BYTES // len(NOTE)):
            last = await write()
        readers = []
        for number in range(6):
            # Half of them read nothing, and have megabytes to be told of yet.
            buffer = None if number % 2 else 8_192
            opened = open_socket(a.port, bob, client_id=f"c{number}", receive_buffer=buffer)
            socket = await nursery.start(_hold, opened)
            reader = Reader(socket)
            readers.append(reader)
            await socket.subscribe(bob)
            if number % 2:
                nursery.start_soon(reader.read)
        stays = Reader(await nursery.start(_hold, open_socket(a.port, owner, client_id="stays")))
        await stays.socket.subscribe(owner)
        nursery.start_soon(stays.read)
        polled: list[httpx.Response] = []
        nursery.start_soon(_poll, a.url, bob, last, polled)
        await until(lambda: all(each.last >= last for each in readers[1::2]))

        server = a if at == "the same server" else b
        async with http(server.url, bob, csrf) as client:
            answer = await client.post("/api/auth/logout")
        assert answer.status_code == 204, answer.text
        within_ms = int(answer.headers[EVERYWHERE])
        assert within_ms > 0
        if server is b:
            await trio.sleep(patient(1.5))
        until_here = await head()
        for _ in range(5):
            last = await write()
        for reader in readers[::2]:
            nursery.start_soon(reader.read)
        await until(lambda: all(reader.code for reader in readers))
        assert {reader.code for reader in readers[1::2]} == {UNAUTHORIZED}
        assert max(reader.last for reader in readers) <= until_here
        assert min(reader.last for reader in readers) < until_here, "and some were behind"
        await until(lambda: bool(polled))
        assert polled[0].status_code == 401
        await until(lambda: stays.last == last)
        nursery.cancel_scope.cancel()
    await end(a, b)


async def _get(url: str, who: Owner, path: str) -> httpx.Response:
    async with http(url, who) as client:
        return await client.get(path)


async def _poll(url: str, who: Owner, after: int, polled: list[httpx.Response]) -> None:
    path = f"/api/workspaces/{who.workspace}/events?after={after}&wait=30"
    polled.append(await _get(url, who, path))


async def _hold(
    opened: AbstractAsyncContextManager[Socket], task_status: trio.TaskStatus[Socket]
) -> None:
    """Keep a connection open until the test ends."""
    async with opened as socket:
        task_status.started(socket)
        await trio.sleep_forever()
