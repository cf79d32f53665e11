"""The client, typed by the app that the server serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import App, DomainError, Reject
from dalsegno.runtime import Runtime
from dalsegno.runtime._server import Ready, ServeConfig, serve
from dalsegno.runtime.client import Client, UnreachableError, open_client
from tests._patience import fail_after
from tests.actors._locks import Lock, TakeLock, locks
from tests.runtime._serving import SOON, Person, Site, set_up
from tests.tasks_domain import AddTask, FinishTask, Task, tasks

APP = App([tasks, locks])


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    stop = trio.Event()
    config = ServeConfig(port=0, database=migrated, data_dir=Path("unused"), app=APP)
    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(partial(serve, config, stop=stop))
        yield Site(f"http://127.0.0.1:{ready.port}", ready.port, ready.runtime)
        stop.set()


@pytest.fixture
async def owner(site: Site) -> Person:
    return await set_up(site)


@pytest.fixture
async def client(site: Site, owner: Person) -> AsyncIterator[Client]:
    async with open_client(site.url, cookie=owner.cookie, app=APP, limits=SOON) as client:
        yield client


async def test_commands_entities_and_events_are_typed(client: Client, owner: Person) -> None:
    workspace = client.workspace(owner.workspace)
    with fail_after(10):
        sent = await workspace.send(AddTask("t/1", "One"), key="k")
        again = await workspace.send(AddTask("t/1", "One"), key="k")
        assert (again.event_seq, again.repeated) == (sent.event_seq, True)
        task = await workspace.get(tasks, "t/1", min_seq=sent.event_seq)
        assert task == Task("One")
        assert await workspace.get(tasks, "t2") is None
        await workspace.send(FinishTask("t/1"))
        entity = await workspace.look(tasks, "t/1")
        assert entity is not None
        assert (entity.version, entity.event_seq, entity.state.done) == (2, 2, True)
        async with workspace.subscribe_to(tasks, "t/1", after=1) as events:
            assert (await anext(events)).event_type == "task_finished"


async def test_a_snapshot_is_followed_by_what_changed_since(client: Client, owner: Person) -> None:
    workspace = client.workspace(owner.workspace)
    with fail_after(10):
        for name in ("a", "b", "c"):
            await workspace.send(TakeLock(name, "me", 3_600))
        page = await workspace.snapshot(locks, key="held", limit=2)
        assert [item.entity_id for item in page.items] == ["a", "b"]
        assert isinstance(page.items[0].state, Lock)
        rest = await workspace.snapshot(locks, key="held", after=page.next)
        assert [item.entity_id for item in rest.items] == ["c"]
        assert (page.event_seq, rest.event_seq, rest.next) == (3, 3, None)
        await workspace.send(TakeLock("d", "me", 3_600))
        async with workspace.subscribe(after=page.event_seq) as events:
            assert (await anext(events)).entity == "lock:d"


async def test_what_the_app_does_not_know_is_told_at_once(client: Client, owner: Person) -> None:
    with pytest.raises(DomainError, match="no domain of this client's app knows PutMember"):
        await client.workspace(owner.workspace).send(PutMember("u", "viewer"))


async def test_a_refusal_over_http_is_the_servers(client: Client, owner: Person) -> None:
    for workspace_id, code in [("nowhere", "WORKSPACE_NOT_FOUND"), ("../x", "BAD_REQUEST")]:
        with pytest.raises(Reject) as raised:
            await client.workspace(workspace_id).get(tasks, "t")
        assert raised.value.code == code
    with pytest.raises(Reject) as raised:
        await client.workspace(owner.workspace).snapshot(tasks, after="no place")
    assert raised.value.code == "BAD_REQUEST"


async def test_a_session_that_ended_is_refused(site: Site, client: Client, owner: Person) -> None:
    await site.runtime.accounts.revoke_sessions_of(owner.user_id)
    with fail_after(10), pytest.raises(Reject) as raised:
        await client.workspace(owner.workspace).get(tasks, "t")
    assert raised.value.code == "SESSION_REVOKED"


async def test_a_server_that_is_away_is_unreachable() -> None:
    async with open_client("http://127.0.0.1:9", cookie="x=y", app=APP) as client:
        with fail_after(10), pytest.raises(UnreachableError):
            await client.workspace("w").get(tasks, "t")


async def test_an_app_that_is_embedded_has_the_same_words(migrated: str) -> None:
    """What is said of a workspace in the program is said of a remote one, but for `await`s."""
    async with Runtime.open(migrated, app=APP) as rt:
        here = rt.workspace("w")
        await here.send(AddTask("t", "One"))
        assert await here.get(tasks, "t") == Task("One")
        assert [item.state for item in (await here.snapshot(tasks)).items] == [Task("One")]
