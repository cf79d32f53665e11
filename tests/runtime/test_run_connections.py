"""Runs that end with the connection that asked for them, and those that do not."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.effects import Run
from dalsegno.actors.node import _connection_ids
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App, Close, Limits, StoreUnavailableError
from dalsegno.protocol.routes import InWorkspace, RunRoute
from dalsegno.protocol.runs import OnDisconnect, RequestRun, Retry, RunState, runs, worker
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.seams import WORLD
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.actors._wire import Wire, wired
from tests.actors._world import Actors, FaultyStore, held
from tests.runtime._serving import Person, Site, serving, set_up
from tests.system._processes import Owner
from tests.system._socket import Socket, open_socket
from tests.tasks_domain import tasks

GONE = "the connection that asked is gone"


class Work:
    """A worker that waits until it is let go, and what became of its attempts."""

    def __init__(self, on_disconnect: OnDisconnect = "cancel", **more: Any) -> None:
        self.began = trio.Event()
        self.let_go = trio.Event()
        self.stopped = trio.Event()
        """Set once an attempt's scope has ended early."""
        self.worker = worker("it", on_disconnect=on_disconnect, **more)(self._work)
        self.app = App(
            [tasks],
            workers=[self.worker],
            routes=[
                RunRoute(
                    "POST",
                    "/work/{workspace_id}/{run_id}",
                    summary="Work.",
                    at=InWorkspace(),
                    command=lambda asked: RequestRun(run_id=asked.params.run_id, worker="it"),
                )
            ],
        )

    async def _work(self, _run: Run) -> None:
        self.began.set()
        try:
            await self.let_go.wait()
        except trio.Cancelled:
            self.stopped.set()
            raise


async def state_of(workspace: Workspace, run_id: str = "r") -> RunState | None:
    return await workspace.get(runs, run_id)


async def ended(workspace: Workspace, run_id: str = "r") -> RunState:
    with fail_after(10):
        while (run := await state_of(workspace, run_id)) is None or run.is_open:
            await trio.sleep(0.005)
    return run


async def check_cancelled(workspace: Workspace, run_id: str = "r") -> None:
    run = await ended(workspace, run_id)
    assert run.status == "cancelled"
    assert run.cancelled is not None
    assert (run.cancelled.by, run.cancelled.reason) == (None, GONE)


# ----------------------------------------------------------------------------- over real sockets


async def ask(socket: Socket, person: Person, run_id: str = "r") -> None:
    """Ask for a run over a WebSocket, and wait until that is committed."""
    await say(socket, person, run_id)
    await socket.hear_type("committed")


async def say(socket: Socket, person: Person, run_id: str = "r") -> None:
    payload = {"run_id": run_id, "worker": "it"}
    await socket.say("command", workspace_id=person.workspace, name="request_run", payload=payload)


@asynccontextmanager
async def working(work: Work, database: str) -> AsyncIterator[tuple[Site, Person, Owner]]:
    async with serving(database, app=work.app) as site:
        person = await set_up(site)
        yield site, person, Owner(person.workspace, person.cookie, person.user_id)


@pytest.mark.parametrize("how", ["close frame", "hang up", "reset"])
async def test_a_run_ends_with_the_socket_that_asked_for_it(migrated: str, how: str) -> None:
    work = Work()
    async with (
        working(work, migrated) as (site, person, owner),
        open_socket(site.port, owner) as other,
    ):
        async with open_socket(site.port, owner) as socket:
            await ask(socket, person)
            await work.began.wait()
            if how == "close frame":
                await socket._send(0x8, Close.NORMAL.to_bytes(2))
            elif how == "reset":
                at_once = struct.pack("ii", 1, 0)
                socket.stream.setsockopt(SOL_SOCKET, SO_LINGER, at_once)
        with fail_after(1):
            await work.stopped.wait()
        await check_cancelled(site.runtime.workspace(person.workspace))
        await other.say("ping", request_id="p")
        await other.hear_type("pong")


async def test_another_socket_of_the_same_user_counts_for_nothing(migrated: str) -> None:
    work = Work()
    async with working(work, migrated) as (site, person, owner):
        workspace = site.runtime.workspace(person.workspace)
        async with open_socket(site.port, owner) as socket:
            async with open_socket(site.port, owner) as other:
                await ask(socket, person)
                await work.began.wait()
                # A repeat of the request is nobody else's request.
                await ask(other, person)
            await until(lambda: len(site.runtime.service.connections) == 1)
            work.let_go.set()
            assert (await ended(workspace)).status == "succeeded"


async def test_a_run_that_continues_outlives_its_socket(migrated: str) -> None:
    work = Work("continue")
    async with working(work, migrated) as (site, person, owner):
        async with open_socket(site.port, owner) as socket:
            await ask(socket, person)
            await work.began.wait()
        await until(lambda: not site.runtime.service.connections)
        work.let_go.set()
        run = await ended(site.runtime.workspace(person.workspace))
        assert (run.status, run.connection_id) == ("succeeded", None)


async def test_a_socket_that_the_server_closes_is_gone_too(migrated: str) -> None:
    work = Work()
    async with (
        working(work, migrated) as (site, person, owner),
        open_socket(site.port, owner) as socket,
    ):
        await ask(socket, person)
        await work.began.wait()
        site.runtime.service.connections.close_all(Close.UNAUTHORIZED, "the session has ended")
        with fail_after(1):
            await work.stopped.wait()
        await check_cancelled(site.runtime.workspace(person.workspace))


async def test_a_socket_that_leaves_as_it_asks(migrated: str) -> None:
    """Whatever of the request is committed ends, and nothing is carried out on and on."""
    work = Work()
    async with working(work, migrated) as (site, person, owner):
        workspace = site.runtime.workspace(person.workspace)
        for number in range(20):
            async with open_socket(site.port, owner) as socket:
                await say(socket, person, f"r{number}")
        await until(lambda: not site.runtime.service.connections)
        for number in range(20):
            if await state_of(workspace, f"r{number}") is not None:
                await check_cancelled(workspace, f"r{number}")


@asynccontextmanager
async def posting(site: Site, person: Person, **headers: str) -> AsyncIterator[trio.CancelScope]:
    """Ask for a run over HTTP, in the background; cancelled, the client hangs up."""
    url = f"{site.url}/work/{person.workspace}/r"
    user = {"cookie": person.cookie, "x-csrf-token": await csrf_token(site, person)}

    async def post(scope: trio.CancelScope) -> None:
        with scope:
            async with httpx.AsyncClient(**PLAIN, timeout=60) as http:
                await http.post(url, headers={**user, **headers})

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(post, scope)
        yield scope


async def csrf_token(site: Site, person: Person) -> str:
    async with httpx.AsyncClient(**PLAIN) as http:
        session = await http.get(f"{site.url}/api/auth/session", headers={"cookie": person.cookie})
    return str(session.json()["csrf_token"])


async def test_a_run_ends_with_the_request_that_waits_for_it(migrated: str) -> None:
    work = Work()
    async with working(work, migrated) as (site, person, _):
        async with posting(site, person, prefer="wait=30") as client:
            await work.began.wait()
            client.cancel()
            with fail_after(1):
                await work.stopped.wait()
        await check_cancelled(site.runtime.workspace(person.workspace))
        await until(lambda: not len(site.runtime.service.node.connection_ids))


async def test_a_run_that_continues_outlives_the_request_that_waits(migrated: str) -> None:
    work = Work("continue")
    async with working(work, migrated) as (site, person, _):
        ids = site.runtime.service.node.connection_ids
        async with posting(site, person, prefer="wait=30") as client:
            await work.began.wait()
            client.cancel()
            await until(lambda: not len(ids))
        work.let_go.set()
        assert (await ended(site.runtime.workspace(person.workspace))).status == "succeeded"


async def test_a_run_goes_on_once_its_request_was_answered(migrated: str) -> None:
    """With 202, after the wait or without one."""
    work = Work()
    async with serving(
        migrated, app=work.app, limits=Limits(run_wait_max_s=0.05, runs_scan_s=0.05)
    ) as site:
        person = await set_up(site)
        workspace, ids = site.runtime.workspace(person.workspace), site.runtime.service.node
        async with posting(site, person, prefer="wait=30"):
            await work.began.wait()
        run = await state_of(workspace)
        assert run is not None
        assert run.connection_id in ids.connection_ids
        work.let_go.set()
        assert (await ended(workspace)).status == "succeeded"
        await until(lambda: not len(ids.connection_ids))
        work.let_go = trio.Event()
        async with posting(site, person):
            pass
        run = await state_of(workspace)
        assert run is not None
        assert run.status == "succeeded", "the same run, asked for again"


async def test_a_server_that_shuts_down_answers_requests_that_wait(migrated: str) -> None:
    work = Work("continue")
    answers: list[httpx.Response] = []

    async def post(site: Site, person: Person, token: str) -> None:
        async with httpx.AsyncClient(**PLAIN, timeout=60) as http:
            url = f"{site.url}/work/{person.workspace}/r?wait=30"
            headers = {"cookie": person.cookie, "x-csrf-token": token}
            answers.append(await http.post(url, headers=headers))

    with fail_after(20):
        async with trio.open_nursery() as nursery, working(work, migrated) as (site, person, _):
            nursery.start_soon(post, site, person, await csrf_token(site, person))
            await work.began.wait()
    assert [(each.status_code, each.json()["run_id"]) for each in answers] == [(202, "r")]


# ------------------------------------------------------------------------- in one moment or another


@asynccontextmanager
async def one_wire(
    work: Work, store: MemoryStore | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Workspace, Wire, Runtime]]:
    """A runtime, and a client that may write; it vanishes at the end."""
    store = MemoryStore(WORLD) if store is None else store
    async with Runtime.open(app=work.app, store=store, limits=limits) as rt:
        workspace = rt.workspace("acme")
        await workspace.send(PutMember(user_id="ada", role="editor"))
        async with wired(Actors(rt.service, trio.CancelScope()), user_id="ada") as wire:
            yield workspace, wire, rt


async def request(wire: Wire, run_id: str = "r") -> None:
    payload = {"run_id": run_id, "worker": "it"}
    await wire.say("command", workspace_id="acme", name="request_run", payload=payload)


async def test_a_connection_that_ends_while_its_request_is_committed() -> None:
    store, work, committed = FaultyStore(WORLD), Work(), trio.Event()
    async with one_wire(work, store) as (workspace, wire, _):
        store.faults.append(held(committed))
        await request(wire)
        while len(store.statements) < 2:
            await trio.sleep(0.001)
        wire.client.vanish()
        await wire.ended.wait()
        committed.set()
        await check_cancelled(workspace)
        assert not work.began.is_set()
        types = [event.type for event in await workspace.history(runs, "r")]
        assert types == ["run_requested", "run_cancel_requested", "run_started", "run_finished"]


async def test_a_run_that_waits_for_its_turn_ends_with_its_connection() -> None:
    work = Work(concurrency=1)
    async with one_wire(work) as (workspace, wire, rt):
        await workspace.send(RequestRun(run_id="first", worker="it"))
        await work.began.wait()
        await request(wire)
        assert (await wire.hear())["type"] == "committed"
        while rt.service.runs.statistics().waiting < 1:
            await trio.sleep(0.001)
        wire.client.vanish()
        await check_cancelled(workspace)
        first = await state_of(workspace, "first")
        assert first is not None
        assert first.is_open, "which the program asked for, and no connection"


async def test_what_the_program_asks_for_ends_with_no_connection() -> None:
    work = Work()
    async with one_wire(work) as (workspace, wire, _):
        await workspace.acting(user_id="ada").send(RequestRun(run_id="r", worker="it"))
        await work.began.wait()
        wire.client.vanish()
        await wire.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        work.let_go.set()
        assert (await ended(workspace)).status == "succeeded"


async def test_more_runs_than_are_remembered_end_with_their_connection() -> None:
    work = Work(concurrency=1)
    async with one_wire(work, limits=Limits(runs_waiting_max=5)) as (workspace, wire, _):
        for number in range(40):
            await request(wire, f"r{number}")
        for _ in range(40):
            assert (await wire.hear())["type"] == "committed"
        wire.client.vanish()
        for number in range(40):
            await check_cancelled(workspace, f"r{number}")


async def test_the_store_is_away_in_the_moment_in_which_a_connection_ends() -> None:
    store, work = FaultyStore(WORLD), Work()
    async with one_wire(work, store) as (workspace, wire, _):
        await request(wire)
        await work.began.wait()
        store.faults.extend([_away, _away, _away])
        wire.client.vanish()
        await check_cancelled(workspace)
        assert work.stopped.is_set()


async def _away(_append: object, _batches: object) -> Any:
    raise StoreUnavailableError("the database is away")


async def test_a_run_of_a_process_that_is_gone_ends_in_the_next_one() -> None:
    """One that was carried out, and one that waited: their connection was the old process's."""
    store, work = MemoryStore(WORLD), Work(concurrency=1)
    async with Runtime.open(app=work.app, store=store) as rt:
        workspace = rt.workspace("acme")
        lost = workspace.acting(user_id="ada", connection_id="of another process")
        await workspace.send(PutMember(user_id="ada", role="editor"))
        await lost.send(RequestRun(run_id="r", worker="it"))
        await check_cancelled(workspace)
        assert not work.began.is_set()


async def test_a_worker_that_fails_is_tried_again_though_its_runs_end_with_connections() -> None:
    attempts: list[int] = []

    async def it(run: Run) -> None:
        attempts.append(run.attempt)
        if run.attempt < 3:
            raise OSError("a provider")

    quick = Retry(first_s=0.001, max_s=0.002)
    work = Work()
    work.app = App([tasks], workers=[worker("it", on_disconnect="cancel", retry=quick)(it)])
    async with one_wire(work) as (workspace, wire, _):
        await request(wire)
        assert (await ended(workspace)).status == "succeeded"
        assert attempts == [1, 2, 3]


async def test_the_ids_of_requests_that_were_answered_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connection_ids, "_LEFT_MAX", 2)
    ids, told = _connection_ids.ConnectionIds(), list[str]()
    for name in "abc":
        ids.add(name)
        ids.watch(name, lambda name=name: told.append(name))  # type: ignore[misc]
        ids.leave(name)
    assert ("a" in ids, "b" in ids, "c" in ids, told) == (False, True, True, ["a"])
    ids.release("b")
    ids.add("socket")
    ids.release("socket")
    assert ("b" in ids, "socket" in ids, len(ids), told) == (False, True, 2, ["a"])
    assert repr(ids) == "<ConnectionIds: 2 there, 1 of them answered>"
