"""Following a domain: a list as of one moment, every change after it, and a list anew."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import msgspec
import psycopg
import pytest
import trio

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import CreateNote, note_domains, notes
from dalsegno.protocol import App, DalsegnoError, Reject, StoreUnavailableError, Unsubscribe
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.client import (
    Client,
    ClientLimits,
    Follow,
    RemoteChange,
    RemoteSnapshot,
    UnreachableError,
    open_client,
)
from dalsegno.runtime.client._wire import UNTRACKED, encode
from dalsegno.runtime.web import TokenIssuer
from tests._patience import fail_after, until
from tests.actors._locks import DropLock, Lock, LockTaken, RenewLock, TakeLock, locks
from tests.runtime._serving import SOON, Site, serving
from tests.tasks_domain import AddTask, FinishTask, Task, TaskAdded, tasks

ISSUER, AUDIENCE = "https://id.example.org", "dalsegno"
SECRET = b"a secret of thirty-two bytes, or more"
APP = App([tasks, locks, *note_domains])


async def give() -> str:
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": time.time() + 300}
    return jwt.encode(made, SECRET, "HS256")


@asynccontextmanager
async def served(database: str, *, port: int = 0) -> AsyncIterator[Site]:
    tokens = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)
    async with serving(database, port=port, tokens=tokens, app=APP) as site:
        yield site


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    async with served(migrated) as site:
        await site.runtime.workspace("w").send(PutMember("jwt:bob", "editor"))
        yield site


@pytest.fixture
async def client(site: Site) -> AsyncIterator[Client]:
    async with open_client(site.url, token=give, app=APP, limits=SOON) as client:
        yield client


async def first_of(follow: Follow[Any, Any]) -> RemoteSnapshot[Any]:
    said = await anext(follow)
    assert isinstance(said, RemoteSnapshot)
    return said


async def change_of(follow: Follow[Any, Any]) -> RemoteChange[Any]:
    said = await anext(follow)
    assert isinstance(said, RemoteChange)
    return said


async def test_a_list_and_then_every_change_in_types(site: Site, client: Client) -> None:
    here = site.runtime.workspace("w")
    await here.send(AddTask("a", "A"))
    await here.send(TakeLock("l", "me", 3_600))
    await here.send(AddTask("b", "B"))
    with fail_after(20):
        async with client.workspace("w").follow(tasks) as following:
            snapshot = await first_of(following)
            assert [(item.entity_id, item.state) for item in snapshot.items] == [
                ("a", Task("A")),
                ("b", Task("B")),
            ]
            assert snapshot.event_seq == 4
            await here.send(TakeLock("m", "me", 3_600))  # of another domain
            await client.workspace("w").send(AddTask("c", "C"))
            change = await change_of(following)
            assert (change.entity_id, change.version, change.event_seq) == ("c", 1, 6)
            assert change.event == TaskAdded("C")
            assert change.record.actor_id == "jwt:bob"
        with pytest.raises(StopAsyncIteration):
            await anext(following)
    assert client.statistics().streams == 0


class Meddler:
    """A workspace whose list changes while it is read: between its pages, and behind them."""

    id = "w"

    def __init__(self, client: Client, here: Workspace) -> None:
        self._workspace = client.workspace("w")
        self._here = here
        self._pages = 0

    async def snapshot(self, domain: Any, *, after: str | None = None) -> RemoteSnapshot[Any]:
        page = await self._workspace.snapshot(domain, after=after, limit=4)
        self._pages += 1
        if self._pages <= 3:
            for command in (
                RenewLock(f"l{3 * self._pages:02}", "me", 7_200),
                DropLock(f"l{3 * self._pages + 1:02}"),
                TakeLock(f"l{3 * self._pages + 1:02}", "other", 3_600),
                DropLock(f"l{self._pages - 1:02}"),
                DropLock(f"l{16 - self._pages:02}"),
                TakeLock(f"k{self._pages:02}", "me", 3_600),
                TakeLock(f"m{self._pages:02}", "me", 3_600),
                AddTask(f"t{self._pages}", "not a lock"),
            ):
                await self._here.send(command)
        return page

    async def at(self, domain: Any, entity_id: str, version: int) -> Any:
        return await self._workspace.at(domain, entity_id, version)


async def test_what_is_written_while_the_list_is_read_is_in_it_once(
    site: Site, client: Client
) -> None:
    here = site.runtime.workspace("w")
    for index in range(16):
        await here.send(TakeLock(f"l{index:02}", "me", 3_600))
    with fail_after(20):
        async with Follow(client, Meddler(client, here), locks) as following:
            snapshot = await first_of(following)
            head = await here.head()
            # The moment of the last page, although more was written behind it.
            assert 17 < snapshot.event_seq <= head
            held: dict[str, Lock | None] = {item.entity_id: item.state for item in snapshot.items}
            versions = {item.entity_id: item.version for item in snapshot.items}
            assert [*held] == sorted(held)
            await here.send(TakeLock("zz", "me", 3_600))
            while "zz" not in held:
                change = await change_of(following)
                assert change.version == versions.get(change.entity_id, change.version - 1) + 1
                assert change.event is not None
                versions[change.entity_id] = change.version
                held[change.entity_id] = locks.evolve_by(held.get(change.entity_id), change.event)
    now = (await here.snapshot(locks)).items
    assert {key: lock for key, lock in held.items() if lock} == {
        item.entity_id: item.state for item in now
    }


@pytest.mark.parametrize("longer", [False, True])
async def test_a_history_that_was_replaced_is_a_new_list(migrated: str, longer: bool) -> None:
    """CURSOR_AHEAD where the new log is shorter, CURSOR_DIVERGED where it is as long."""
    async with trio.open_nursery() as nursery:
        async with served(migrated) as site:
            here = site.runtime.workspace("w")
            await here.send(PutMember("jwt:bob", "editor"))
            await here.send(AddTask("old", "Old"))
            client = await nursery.start(hold, site)
            follow = client.workspace("w").follow(tasks)
            with fail_after(20):
                await follow.__aenter__()
                assert [i.entity_id for i in (await first_of(follow)).items] == ["old"]
                seen: list[int] = []
                caught = await nursery.start(take_until_it_raises, site, seen)
                await here.send(FinishTask("old"))
                assert (await change_of(follow)).version == 2
                await until(lambda: seen == [1, 2, 3])
        with psycopg.connect(migrated) as connection:
            connection.execute(EMPTY)
        async with Runtime.open(migrated, app=APP) as rt:
            here = rt.workspace("w")
            await here.send(PutMember("jwt:bob", "editor"))
            for index in range(3 if longer else 0):
                await here.send(AddTask(f"more{index}", "More"))
            await here.send(AddTask("new", "New"))
        async with served(migrated, port=site.port) as again:
            here = again.runtime.workspace("w")
            with fail_after(40):
                snapshot = await first_of(follow)
                assert "new" in {item.entity_id for item in snapshot.items}
                assert "old" not in {item.entity_id for item in snapshot.items}
                await here.send(FinishTask("new"))
                assert (await change_of(follow)).entity_id == "new"
                await follow.__aexit__(None, None, None)
                await until(lambda: caught != [])
            # Who subscribes plainly hears of it, and decides.
            assert caught[0].code == ("CURSOR_DIVERGED" if longer else "CURSOR_AHEAD")
        nursery.cancel_scope.cancel()


EMPTY = """
do $$ begin
    execute (
        select 'truncate ' || string_agg(oid::regclass::text, ', ') || ' restart identity'
        from pg_class
        where relnamespace = 'dalsegno'::regnamespace and relkind = 'r' and relname <> 'migration'
    );
end $$
"""


async def hold(site: Site, *, task_status: trio.TaskStatus[Client]) -> None:
    async with open_client(site.url, token=give, app=APP, limits=SOON) as client:
        task_status.started(client)
        await trio.sleep_forever()


async def take_until_it_raises(
    site: Site, seen: list[int], *, task_status: trio.TaskStatus[list[DalsegnoError]]
) -> None:
    caught: list[DalsegnoError] = []
    async with open_client(site.url, token=give, app=APP, limits=SOON) as client:
        try:
            async with client.workspace("w").subscribe(after=0) as events:
                task_status.started(caught)
                async for event in events:
                    seen.append(event.seq)  # noqa: PERF401 - what comes before an error counts
        except DalsegnoError as error:
            caught.append(error)


def end_stream(client: Client, code: str) -> None:
    """Stand in for a server that follows a workspace no longer, for this reason."""
    assert client._link is not None
    client._link.say(encode(Unsubscribe(stream_id="workspace:w", request_id=UNTRACKED)))
    said = {"type": "error", "code": code, "stream_id": "workspace:w"}
    client._hear(msgspec.json.encode(said).decode())


@pytest.mark.parametrize("code", ["STALE_CURSOR", "CURSOR_AHEAD", "CURSOR_DIVERGED"])
async def test_a_stream_that_cannot_go_on_is_a_new_list(
    site: Site, client: Client, code: str
) -> None:
    here = site.runtime.workspace("w")
    await here.send(AddTask("a", "A"))
    async with client.workspace("w").follow(tasks) as following:
        with fail_after(20):
            await first_of(following)
            await here.send(AddTask("b", "B"))
            await until(lambda: "1 waiting" in repr(client._streams["workspace:w"]))
            end_stream(client, code)
            assert (await change_of(following)).entity_id == "b"  # which came before
            snapshot = await first_of(following)
            assert [item.entity_id for item in snapshot.items] == ["a", "b"]
            await here.send(AddTask("c", "C"))
            assert (await change_of(following)).entity_id == "c"


async def test_a_server_that_never_lets_it_go_on_is_given_up(site: Site) -> None:
    few = ClientLimits(attempts_max=3, backoff_first_s=0.01)
    async with (
        open_client(site.url, token=give, app=APP, limits=few) as client,
        client.workspace("w").follow(tasks) as following,
    ):
        with fail_after(20):
            for _ in range(3):
                await first_of(following)
                end_stream(client, "CURSOR_DIVERGED")
            with pytest.raises(Reject, match="CURSOR_DIVERGED"):
                await anext(following)


async def test_two_domains_of_a_workspace_share_a_subscription(site: Site, client: Client) -> None:
    here, workspace = site.runtime.workspace("w"), client.workspace("w")
    await here.send(AddTask("a", "A"))
    with fail_after(20):
        async with workspace.follow(tasks) as one:
            await first_of(one)
            await here.send(AddTask("b", "B"))
            async with workspace.follow(locks) as two:
                assert (await first_of(two)).items == []
                assert client.statistics().streams == 1
                await here.send(TakeLock("l", "me", 3_600))
                await here.send(FinishTask("a"))
                change = await change_of(two)
                assert (change.entity_id, change.event_seq) == ("l", 4)
                assert isinstance(change.event, LockTaken)
                assert [(await change_of(one)).event_seq for _ in range(2)] == [3, 5]
            await here.send(FinishTask("b"))
            assert (await change_of(one)).event_seq == 6
    assert client.statistics().streams == 0


async def test_many_that_begin_together_each_get_everything(site: Site, client: Client) -> None:
    """Whoever subscribes first, the others begin where that one did, or read their list again."""
    here, workspace = site.runtime.workspace("w"), client.workspace("w")
    done: list[int] = []

    async def follow() -> None:
        async with workspace.follow(tasks) as following:
            states = {item.entity_id: item.state for item in (await first_of(following)).items}
            while len(states) < 30:
                change = await change_of(following)
                assert change.entity_id not in states
                assert isinstance(change.event, TaskAdded)
                states[change.entity_id] = Task(change.event.title)
            done.append(len(states))

    with fail_after(30):
        async with trio.open_nursery() as nursery:
            for index in range(30):
                if index % 3 == 0:
                    nursery.start_soon(follow)
                await here.send(AddTask(f"t{index}", "T"))
    assert done == [30] * 10


async def test_acks_of_a_loop_wait_for_nobody_that_follows(site: Site, client: Client) -> None:
    here, workspace = site.runtime.workspace("w"), client.workspace("w")
    with fail_after(20):
        async with workspace.subscribe(after=0) as events, workspace.follow(tasks) as following:
            await first_of(following)
            await here.send(AddTask("a", "A"))
            event = [await anext(events), await anext(events)][-1]
            events.ack(event)
            assert client._streams["workspace:w"]._ack_said == 2


async def test_a_domain_that_shows_a_view_is_told_of_without_its_events(
    site: Site, client: Client
) -> None:
    here = site.runtime.workspace("w")
    with fail_after(20):
        async with client.workspace("w").follow(notes) as following:
            await first_of(following)
            await here.send(CreateNote(note_id="n", title="T", markdown="Text"))
            change = await change_of(following)
            assert (change.entity_id, change.version, change.event) == ("n", 1, None)
            assert change.record.event_type == "note_created"
            note = await client.workspace("w").get(notes, "n", min_seq=change.event_seq)
            assert note is not None
            assert note.title == "T"


async def test_what_ends_a_subscription_for_good_ends_this(site: Site, client: Client) -> None:
    here = site.runtime.workspace("w")
    with fail_after(20):
        async with client.workspace("w").follow(tasks) as following:
            await first_of(following)
            await here.send(RemoveMember("jwt:bob"))
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await anext(following)
        async with client.workspace("w").follow(tasks) as following:
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await anext(following)


async def test_a_list_that_is_too_long_is_refused(site: Site) -> None:
    here = site.runtime.workspace("w")
    for index in range(3):
        await here.send(AddTask(f"t{index}", "T"))
    few = ClientLimits(follow_entities_max=2)
    async with (
        open_client(site.url, token=give, app=APP, limits=few) as client,
        client.workspace("w").follow(tasks) as following,
    ):
        with fail_after(20), pytest.raises(Reject, match="LIST_TOO_LONG"):
            await anext(following)
        assert client.statistics().streams == 0


async def test_a_list_that_cannot_be_read_now_is_read_later(
    site: Site, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = client._account.get, 0

    async def be_away(path: str, query: Any) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreUnavailableError("away")
        if asked == 2:
            raise UnreachableError("away")
        return await ask(path, query)

    monkeypatch.setattr(client._account, "get", be_away)
    with fail_after(20):
        async with client.workspace("w").follow(tasks) as following:
            assert (await first_of(following)).items == []
    assert asked == 3


async def test_cancelled_anywhere_it_begins_again(site: Site, client: Client) -> None:
    here = site.runtime.workspace("w")
    await here.send(AddTask("a", "A"))
    with fail_after(30):
        async with client.workspace("w").follow(tasks) as following:
            said = None
            for index in range(1, 1_000):
                with trio.move_on_after(0.0005 * index):
                    said = await anext(following)
                    break
            assert isinstance(said, RemoteSnapshot)
            await here.send(AddTask("b", "B"))
            for _ in range(20):
                with trio.move_on_after(0):
                    await anext(following)
            assert (await change_of(following)).entity_id == "b"
        assert client.statistics().streams == 0
