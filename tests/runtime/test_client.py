"""The Python client against a real server, over real sockets and real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TypeAlias, TypeVar, cast

import httpx
import msgspec
import pytest
import trio
import trio_websocket

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.notes import notes
from dalsegno.protocol import (
    DalsegnoError,
    DrainingError,
    NotReadyError,
    OverloadedError,
    RateLimitedError,
    Reject,
    StaleCursorError,
    StoreUnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)
from dalsegno.runtime.client import (
    Client,
    ClientClosedError,
    ClientLimits,
    DisconnectedError,
    Events,
    SequenceGapError,
    UnreachableError,
    UnsafeAddressError,
    open_client,
)
from dalsegno.runtime.client._errors import error_of
from dalsegno.runtime.client._link import Link
from dalsegno.runtime.client._policy import Ending, Retries
from dalsegno.runtime.client._wire import decode_said
from dalsegno.runtime.seams import WORLD
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._serving import (
    EMAIL,
    PASSWORD,
    SOON,
    Person,
    Site,
    add_member,
    proxied,
    register,
    serving,
    set_up,
)
from tests.runtime._unconnected import Recorder, account_at, event, following, hear, unconnected

T = TypeVar("T")
Opening: TypeAlias = AbstractAsyncContextManager[Client]


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    async with serving(migrated) as site:
        yield site


@pytest.fixture
async def owner(site: Site) -> Person:
    return await set_up(site)


@pytest.fixture
def workspace(owner: Person) -> str:
    return owner.workspace


@pytest.fixture
async def client(owner: Person) -> AsyncIterator[Client]:
    async with connect(owner) as client:
        yield client


def connect(
    owner: Person,
    *,
    url: str | None = None,
    limits: ClientLimits = SOON,
    client_id: str = "default",
) -> Opening:
    return open_client(url or owner.url, cookie=owner.cookie, limits=limits, client_id=client_id)


def log_in(url: str, *, email: str = EMAIL, password: str = PASSWORD) -> Opening:
    return open_client(url, email=email, password=password, limits=SOON)


async def write(client: Client, workspace: str, title: str, key: str | None = None) -> int:
    fields = {"note_id": None, "title": title}
    with fail_after(20):
        return (await client.send(workspace, "create_note", fields, key=key)).event_seq


async def write_many(client: Client, workspace: str, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(write, client, workspace, f"note {index}")


async def take(events: Events, count: int) -> list[int]:
    with fail_after(20):
        return [(await anext(events)).seq for _ in range(count)]


async def drain(events: Events, seen: list[int]) -> None:
    with fail_after(20):
        async for event in events:
            seen.append(event.seq)  # noqa: PERF401 - what comes before an error counts


# ------------------------------------------------------------------------------------- commands


async def test_a_receipt_tells_where_the_event_is(client: Client, workspace: str) -> None:
    fields = {"note_id": None, "title": "First", "markdown": "Hello"}
    receipt = await client.send(workspace, "create_note", fields)
    async with client.subscribe(f"workspace:{workspace}", cursor=0) as events:
        event = await anext(events)
    assert (event.seq, event.entity, event.version) == (1, receipt.entity, receipt.version)
    assert (event.event_type, event.decode(dict)["note_id"]) == ("note_created", receipt.entity_id)
    assert event.recorded_at.tzinfo is not None


async def test_a_login_in_the_middle_of_an_outage_is_tried_again(site: Site) -> None:
    workspace = await register(site.url)
    accounts = site.runtime.accounts
    find, asked = accounts.find_credential, 0

    async def be_away(user_id: str) -> str | None:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise StoreUnavailableError("the database is away")
        return await find(user_id)

    accounts.find_credential = be_away  # type: ignore[method-assign]
    async with log_in(site.url) as client:
        assert await write(client, workspace, "after it") == 1
    assert asked == 4, "twice in vain, then for the password, and again behind the session"


async def test_x_idem_1_a_key_gives_the_same_receipt_again(client: Client, workspace: str) -> None:
    first = await write(client, workspace, "once", key="k")
    await write(client, workspace, "between")
    assert await write(client, workspace, "once", key="k") == first


async def test_a_refusal_is_what_it_was_at_the_server(client: Client, workspace: str) -> None:
    receipt = await client.send(workspace, "create_note", {"note_id": None, "title": "T"})
    for title, version in (("U", 1), ("V", 1)):
        fields = {"note_id": receipt.entity_id, "title": title, "base_version": version}
        if title == "U":
            await client.send(workspace, "set_title", fields)
            continue
        with pytest.raises(Reject) as caught:
            await client.send(workspace, "set_title", fields)
    assert caught.value.code == "VERSION_CONFLICT"
    assert caught.value.details["current_version"] == 2
    with pytest.raises(Reject, match="UNKNOWN_COMMAND"):
        await client.send(workspace, "no_such_command", {})


async def test_a_cancelled_send_spoils_nothing(client: Client, workspace: str) -> None:
    for index in range(20):
        with trio.move_on_after(0.0005 * index):
            await write(client, workspace, "maybe", key=f"k{index}")
    assert client.statistics().sends_waiting == 0
    head = await write(client, workspace, "surely")
    async with client.subscribe(f"workspace:{workspace}", cursor=0) as events:
        assert await take(events, head) == list(range(1, head + 1))


async def test_commands_under_way_are_bounded(site: Site, owner: Person, workspace: str) -> None:
    few = ClientLimits(sends_max=2)
    async with connect(owner, limits=few) as client, trio.open_nursery() as nursery:
        for index in range(10):
            nursery.start_soon(write, client, workspace, f"note {index}")
        await until(lambda: client.statistics().sends_waiting > 0)
        assert client.statistics().sends_waiting <= 2
    async with connect(owner) as client:
        assert await write(client, workspace, "last") == 11


# -------------------------------------------------------------------------------------- streams


async def test_x_sub_2_replay_and_live_join_densely(client: Client, workspace: str) -> None:
    await write_many(client, workspace, 50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_many, client, workspace, 100)
        async with client.subscribe(f"workspace:{workspace}", cursor=0) as events:
            assert await take(events, 150) == list(range(1, 151))


async def test_an_entity_has_a_stream_of_its_own(client: Client, workspace: str) -> None:
    receipt = await client.send(workspace, "create_note", {"note_id": None, "title": "T"})
    await write(client, workspace, "another")
    async with client.subscribe(receipt.entity, cursor=0) as events:
        fields = {"note_id": receipt.entity_id, "title": "U", "base_version": 1}
        await client.send(workspace, "set_title", fields)
        both = [await anext(events), await anext(events)]
    assert [(event.seq, event.event_seq) for event in both] == [(1, 1), (2, 3)]


async def test_a_slow_loop_bounds_its_memory_and_hinders_nobody(
    site: Site, owner: Person, workspace: str
) -> None:
    few = ClientLimits(stream_events_max=10)
    async with connect(owner, limits=few) as slow, connect(owner) as other:
        stream = f"workspace:{workspace}"
        async with slow.subscribe(stream, cursor=0) as events:
            await write_many(other, workspace, 100)
            # It rests now.  Its own commands are answered all the same.
            assert await write(slow, workspace, "from within") == 101
            seen = []
            for _ in range(101):
                assert len(events._stream._waiting) <= 10
                seen.append((await anext(events)).seq)
            assert "live" in repr(events) or "asking" in repr(events)
            assert seen == list(range(1, 102))


async def test_a_large_event_bounds_by_bytes(site: Site, owner: Person, workspace: str) -> None:
    few = ClientLimits(stream_bytes_max=20_000)
    async with connect(owner, limits=few) as client:
        receipt = await client.send(workspace, "create_note", {"note_id": None, "title": "T"})
        async with client.subscribe(receipt.entity, cursor=0) as events:
            for version in range(1, 9):
                patch = {
                    "note_id": receipt.entity_id,
                    "base_version": version,
                    "patch_ops": [{"insert": "x" * 9_000}],
                }
                await client.send(workspace, "apply_patch", patch)
            assert events._stream._bytes < 40_000
            assert await take(events, 9) == list(range(1, 10))


async def test_a_second_loop_over_a_stream_is_refused(client: Client, workspace: str) -> None:
    stream = f"workspace:{workspace}"
    async with client.subscribe(stream):
        with pytest.raises(trio.BusyResourceError):
            await client.subscribe(stream).__aenter__()
    async with client.subscribe(stream, cursor=0):
        await write(client, workspace, "again")


@pytest.mark.parametrize(
    ("stream", "cursor", "code"),
    [
        ("workspace:nowhere", None, "WORKSPACE_NOT_FOUND"),
        ("note:none", None, "NOTE_NOT_FOUND"),
        ("workspace:$system", None, "ROLE_FORBIDDEN"),
        ("workspace:{}", 99, "CURSOR_AHEAD"),
        ("workspace:{}", "1-0123456789abcdef", "CURSOR_DIVERGED"),
        ("workspace:{}", "yesterday", "BAD_REQUEST"),
    ],
)
async def test_a_subscription_that_cannot_begin_says_why(
    client: Client, workspace: str, stream: str, cursor: int | str | None, code: str
) -> None:
    await write(client, workspace, "first")
    with pytest.raises(DalsegnoError) as caught:
        async with client.subscribe(stream.format(workspace), cursor=cursor):
            pass
    assert caught.value.code == code
    assert client.statistics().streams == 0


async def test_a_member_that_is_removed_sees_no_event_after_that(
    site: Site, workspace: str
) -> None:
    member = await add_member(site, workspace)
    stream = f"workspace:{workspace}"
    async with connect(member) as client, client.subscribe(stream, cursor=0) as events:
        removal = await site.runtime.workspace(workspace).send(RemoveMember(member.user_id))
        seen: list[int] = []
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await drain(events, seen)
        assert seen == list(range(1, removal.event_seq + 1))
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await write(client, workspace, "no more")


# ----------------------------------------------------------------------------------------- acks


async def test_x_ack_2_the_next_client_goes_on_after_the_ack(
    site: Site, owner: Person, workspace: str
) -> None:
    stream = f"workspace:{workspace}"
    async with connect(owner) as client:
        await write_many(client, workspace, 5)
        async with client.subscribe(stream) as events:
            for _ in range(3):
                events.ack(await anext(events))
            events.ack(1)  # an older one moves nothing
            assert events.acked == 3
            with pytest.raises(Reject, match="CURSOR_AHEAD"):
                events.ack(6)
    async with connect(owner) as client, client.subscribe(stream) as events:
        assert await take(events, 2) == [4, 5]
    other = connect(owner, client_id="another")
    async with other as client, client.subscribe(stream) as events:
        assert await take(events, 1) == [1]


async def test_an_ack_counts_also_where_the_stream_rests(
    site: Site, owner: Person, workspace: str
) -> None:
    stream = f"workspace:{workspace}"
    few = ClientLimits(stream_events_max=10)
    async with connect(owner, limits=few) as client:
        await write_many(client, workspace, 100)
        async with client.subscribe(stream, cursor=0) as events:
            await until(lambda: "resting" in repr(events))
            events.ack(await anext(events))
            assert "resting" in repr(events)
        async with client.subscribe(stream) as events:
            assert await take(events, 1) == [2]


async def test_who_is_behind_another_of_its_client_id_goes_on(
    site: Site, owner: Person, workspace: str
) -> None:
    stream = f"workspace:{workspace}"
    async with connect(owner) as one, connect(owner) as two:
        await write_many(one, workspace, 3)
        async with one.subscribe(stream) as first, two.subscribe(stream) as second:
            for event in [await anext(first) for _ in range(3)]:
                first.ack(event)
            while second.acked < 3:  # the server's answer to a stale ack says so
                stream_of_two = second._stream
                stream_of_two._ack_said, stream_of_two._acked = 0, 1
                stream_of_two._say_ack()
                await trio.sleep(0.01)
            assert await take(second, 3) == [1, 2, 3]


# ---------------------------------------------------------------------------------- connections


async def test_connections_that_are_cut_lose_and_double_nothing(
    site: Site, owner: Person, workspace: str
) -> None:
    async with proxied(site.port) as proxy, connect(owner, url=proxy.url) as client:
        stream = f"workspace:{workspace}"
        async with client.subscribe(stream, cursor=0) as events, trio.open_nursery() as nursery:
            nursery.start_soon(write_many, client, workspace, 300)
            seen: list[int] = []
            for cut_at in (20, 60, 61, 150, 299):
                seen += await take(events, cut_at - len(seen))
                before = client.statistics().connections
                proxy.cut()
                await until(lambda: client.statistics().connections > before)  # noqa: B023 - now
            seen += await take(events, 300 - len(seen))
        assert seen == list(range(1, 301))
        assert await write(client, workspace, "last") == 301


async def test_a_silent_connection_is_given_up(site: Site, owner: Person, workspace: str) -> None:
    impatient = ClientLimits(silence_s=0.5, close_timeout_s=0.1, backoff_first_s=0.05)
    stream = f"workspace:{workspace}"
    async with (
        proxied(site.port) as proxy,
        connect(owner, url=proxy.url, limits=impatient) as client,
        client.subscribe(stream, cursor=0) as events,
    ):
        await write(client, workspace, "one")
        proxy.silence()
        async with connect(owner) as other:
            await write(other, workspace, "two")
        await until(lambda: proxy.connections == 2)
        proxy.relent()
        assert await take(events, 2) == [1, 2]


async def test_x_sup_6_a_server_that_restarts_is_found_again(migrated: str) -> None:
    async with trio.open_nursery() as nursery:
        async with serving(migrated) as first:
            owner = await set_up(first)
            client = await enter(nursery, connect(owner))
            events = await enter(
                nursery, client.subscribe(f"workspace:{owner.workspace}", cursor=0)
            )
            await write(client, owner.workspace, "before")
            assert await take(events, 1) == [1]
        nursery.start_soon(write, client, owner.workspace, "while it is away")
        async with serving(migrated, port=first.port):
            assert await take(events, 1) == [2]
            assert client.statistics().connections == 2
        nursery.cancel_scope.cancel()


async def enter(nursery: trio.Nursery, context: AbstractAsyncContextManager[T]) -> T:
    """Enter a context for as long as the nursery lasts."""

    async def hold(task_status: trio.TaskStatus[T]) -> None:
        async with context as value:
            task_status.started(value)
            await trio.sleep_forever()

    value: T = await nursery.start(hold)
    return value


async def test_a_session_that_ends_is_begun_again(site: Site) -> None:
    workspace = await register(site.url)
    stream = f"workspace:{workspace}"
    async with log_in(site.url) as client, client.subscribe(stream, cursor=0) as events:
        await write(client, workspace, "before")
        await end_session(site.url, client._account.cookie or "")
        assert await write(client, workspace, "after") == 2
        assert await take(events, 2) == [1, 2]


async def test_without_credentials_a_session_that_ends_is_the_end(
    owner: Person, workspace: str
) -> None:
    stream = f"workspace:{workspace}"
    async with connect(owner) as client, client.subscribe(stream, cursor=0) as events:
        await write(client, workspace, "before")
        await end_session(owner.url, owner.cookie)
        with pytest.raises(DisconnectedError) as caught:
            await drain(events, [])
        assert caught.value.close_code == 4001
        with pytest.raises(DisconnectedError):
            await write(client, workspace, "after")
    async with connect(owner) as client:
        with pytest.raises(Reject, match="SESSION_REVOKED"):
            await write(client, workspace, "after")


async def end_session(url: str, cookie: str) -> None:
    headers = {"cookie": cookie}
    async with httpx.AsyncClient(base_url=url, headers=headers, **PLAIN) as http:
        token = (await http.get("/api/auth/session")).json()["csrf_token"]
        answer = await http.post("/api/auth/logout", headers={"x-csrf-token": token})
        assert answer.status_code == 204


async def test_a_server_that_stays_away_is_given_up(migrated: str) -> None:
    twice = ClientLimits(attempts_max=2, backoff_first_s=0.01)
    async with trio.open_nursery() as nursery:
        async with serving(migrated) as site:
            owner = await set_up(site)
            client = await enter(nursery, connect(owner, limits=twice))
            events = await enter(nursery, client.subscribe(f"workspace:{owner.workspace}"))
        with pytest.raises(UnreachableError):
            await anext(events)
        with pytest.raises(UnreachableError):
            await write(client, owner.workspace, "lost")
        nursery.cancel_scope.cancel()


async def test_a_proxy_with_nothing_behind_it_is_no_long_wait(migrated: str) -> None:
    async with serving(migrated) as site, proxied(site.port) as proxy:
        owner = await set_up(site)
        twice = ClientLimits(attempts_max=2, backoff_first_s=0.01)
        proxy.targets = (1,)
        with fail_after(5):
            async with connect(owner, url=proxy.url, limits=twice) as client:
                with pytest.raises(UnreachableError):
                    await write(client, "w", "lost")


async def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        async with log_in("http://127.0.0.1:1"):
            pass
    with pytest.raises(Reject, match="BAD_URL"):
        async with log_in("127.0.0.1:8000"):
            pass
    with pytest.raises(ValueError, match="cookie"):
        async with open_client("http://127.0.0.1:1"):
            pass


async def test_a_wrong_password_is_said_at_once(site: Site) -> None:
    with pytest.raises(Reject, match="INVALID_CREDENTIALS"):
        async with log_in(site.url, password="not that one"):
            pass


async def test_what_is_no_server_of_ours_is_said_so(
    site: Site, owner: Person, workspace: str
) -> None:
    with pytest.raises(Reject) as caught:
        async with log_in(f"{site.url}/elsewhere"):
            pass
    assert caught.value.code == "BAD_URL"


async def test_nothing_outlives_the_client(site: Site, owner: Person, workspace: str) -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    stream = f"workspace:{workspace}"
    async with connect(owner) as client, client.subscribe(stream):
        pass  # now the workspace's own tasks are there
    await until(lambda: "0 connections" in repr(site.runtime))
    before = tasks()
    with pytest.raises(ZeroDivisionError):  # and in no group
        async with connect(owner) as client, client.subscribe(stream):
            raise ZeroDivisionError
    await until(lambda: tasks() <= before)  # the server's side ends when it hears the close
    with pytest.raises(ClientClosedError):
        await write(client, workspace, "too late")
    with pytest.raises(ClientClosedError):
        await client.subscribe("workspace:x").__aenter__()


# -------------------------------------------------------------------------------- several nodes


async def test_behind_a_balancer_the_node_that_serves_a_workspace_is_found(migrated: str) -> None:
    async with serving(migrated) as one, serving(migrated) as two:
        owner = await set_up(one)
        async with connect(owner, url=one.url) as client:
            await write(client, owner.workspace, "here it is now")
        async with (
            proxied(two.port, two.port, one.port) as proxy,
            connect(owner, url=proxy.url) as client,
            client.subscribe(f"workspace:{owner.workspace}", cursor=0) as events,
        ):
            assert await write(client, owner.workspace, "found") == 2
            assert await take(events, 2) == [1, 2]
            assert client.statistics().connections == 3


async def test_a_send_alone_finds_the_node_too(migrated: str) -> None:
    async with serving(migrated) as one, serving(migrated) as two:
        owner = await set_up(one)
        async with connect(owner, url=one.url) as client:
            await write(client, owner.workspace, "here it is now")
        async with (
            proxied(two.port, one.port) as proxy,
            connect(owner, url=proxy.url) as client,
        ):
            assert await write(client, owner.workspace, "found") == 2


async def test_a_workspace_that_moves_takes_its_readers_along(migrated: str) -> None:
    async with serving(migrated) as two, proxied(two.port) as proxy, serving(migrated) as one:
        owner = await set_up(one)
        proxy.targets = (one.port,)
        async with (
            connect(owner, url=proxy.url) as client,
            client.subscribe(f"workspace:{owner.workspace}", cursor=0) as events,
        ):
            await write(client, owner.workspace, "one")
            assert await take(events, 1) == [1]
            proxy.targets = (two.port,)
            proxy.cut()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, client, owner.workspace, "two")
                # The other node says that this one has it, as long as it has.
                await until(lambda: client.statistics().connections > 2)
                await one.runtime.drain()
                assert await take(events, 1) == [2]


async def test_a_workspace_that_no_node_serves_is_given_up(migrated: str) -> None:
    few = ClientLimits(attempts_max=None, looks_max=3, backoff_first_s=0.01, at_once_s=0.01)
    world = replace(WORLD, random=lambda: 0.001)  # a thousandth of the lease that is left
    async with serving(migrated) as one, serving(migrated) as two:
        owner = await set_up(one)
        async with connect(owner) as client:
            await write(client, owner.workspace, "here it is now")
        async with open_client(two.url, cookie=owner.cookie, limits=few, world=world) as client:
            with pytest.raises(WorkspaceMovedError) as caught:
                await write(client, owner.workspace, "lost")
            owner_id = caught.value.details["owner"]
            assert caught.value.message.endswith(f"node '{owner_id}', which gives no address")
            with pytest.raises(WorkspaceMovedError):
                async with client.subscribe(f"workspace:{owner.workspace}"):
                    pass


async def test_the_address_that_an_owner_gives_is_followed(migrated: str) -> None:
    """… with the session, by commands and streams, and back again when it does not answer."""
    async with (
        proxied() as front,
        serving(migrated, advertise=front.url) as one,
        serving(migrated) as two,
    ):
        front.targets = (one.port,)
        owner = await set_up(one)
        async with connect(owner, url=one.url) as client:
            await write(client, owner.workspace, "here it is now")
        async with (
            connect(owner, url=two.url) as client,
            client.subscribe(f"workspace:{owner.workspace}", cursor=0) as events,
        ):
            assert client._account.url == front.url
            assert await write(client, owner.workspace, "found") == 2
            assert await take(events, 2) == [1, 2]
            assert client.statistics().connections == 2
            front.targets = (1,)  # where nobody is
            front.cut()
            await one.runtime.drain()
            assert await write(client, owner.workspace, "two has it now") == 3
            assert await take(events, 1) == [3]
            assert client._account.url == two.url


async def test_a_read_that_only_the_owner_can_answer_goes_there(migrated: str) -> None:
    """Over HTTP, and without the client's connection leaving the server that it has."""
    async with (
        proxied() as front,
        serving(migrated, advertise=front.url) as one,
        serving(migrated) as two,
    ):
        front.targets = (one.port,)
        owner = await set_up(one)
        async with connect(owner, url=one.url) as client:
            head = await write(client, owner.workspace, "here it is now")
        async with connect(owner, url=two.url) as client:
            workspace = client.workspace(owner.workspace)
            with fail_after(20):
                page = await workspace.snapshot(notes, min_seq=head)
                assert [item.title for item in page.items] == ["here it is now"]
                front.targets = (1,)  # where nobody is
                front.cut()
                with pytest.raises(UnreachableError, match=front.url):
                    await workspace.snapshot(notes, min_seq=head)
            assert client._account.url == two.url


@pytest.mark.parametrize(
    ("home", "address", "goes_to"),
    [
        ("https://a", "https://b:8443/", "https://b:8443"),
        ("http://a", "https://b", "https://b"),
        ("http://a", "http://b", "http://b"),
        ("http://a", "http://a", None),
        ("http://a", "ftp://b", None),
        ("http://a", "http://b:port", None),
        ("http://a", 7, None),
        ("http://a", None, None),
    ],
)
def test_where_a_client_goes_for_a_workspace(
    home: str, address: object, goes_to: str | None
) -> None:
    account = account_at(home)
    assert account.follow(address) is (goes_to is not None)
    assert account.url == (goes_to or home)
    account.go_home()
    assert account.url == home


def test_a_session_that_came_over_tls_is_sent_nowhere_else() -> None:
    client, recorder = unconnected("https://a")
    events = following(client, recorder)
    moved = {"code": "WORKSPACE_MOVED", "message": "elsewhere", "stream_id": "workspace:w"}
    details = {"owner": "b", "retry_after": 1, "address": "http://b"}
    hear(client, {"type": "error", **moved, "details": details})
    assert isinstance(events._stream._error, UnsafeAddressError)
    assert "http://b, which is not https" in events._stream._error.message
    assert client._account.url == "https://a"
    account = account_at("http://a")
    assert account.follow("https://b")
    with pytest.raises(UnsafeAddressError):
        account.follow("http://c")


@pytest.mark.parametrize(
    "said",
    ['{"type":"heartbeat"}', '{"type":"hidden","stream_id":"","from":1,"to":1,"chain":"0"}'],
)
async def test_connections_that_are_ended_at_once_come_ever_more_rarely(
    said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was said on them: a server that accepts everybody and keeps nobody is no success."""

    async def end(request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept(subprotocol="dalsegno.v1")
        await websocket.send_message(said)
        await websocket.aclose(1013)

    limits = ClientLimits(attempts_max=5, backoff_first_s=0.1, at_once_s=0.1)
    world = replace(WORLD, random=lambda: 1.0)
    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, end, "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        with caplog.at_level("WARNING", "dalsegno.client"):
            async with open_client(
                f"http://127.0.0.1:{server.port}", cookie="c=1", limits=limits, world=world
            ) as client:
                with pytest.raises(UnreachableError):
                    await write(client, "w", "never")
        nursery.cancel_scope.cancel()
    delays = [message.rpartition("again in ")[2] for message in caplog.messages]
    assert delays == ["0.1 s", "0.2 s", "0.4 s", "0.8 s"]


async def test_x_per_9_a_halted_workspace_is_said_at_once(
    site: Site, client: Client, workspace: str
) -> None:
    await write(client, workspace, "before")
    async with client.subscribe(f"workspace:{workspace}", cursor=0) as events:
        assert await take(events, 1) == [1]
        store = site.runtime.store
        head = await store.read_head(workspace)
        assert head is not None
        await store.halt(workspace, head.epoch, "a test", code="0", actor="test")
        with pytest.raises(WorkspaceHaltedError):
            await write(client, workspace, "after")
        with pytest.raises(WorkspaceHaltedError):
            await drain(events, [])
    with pytest.raises(WorkspaceHaltedError):
        async with client.subscribe(f"workspace:{workspace}"):
            pass


# ------------------------------------------------------------------------------ without a server


async def test_x_rep_3_what_is_unknown_passes_or_is_passed_over() -> None:
    client, recorder = unconnected()
    events = following(client, recorder)
    hear(client, {"type": "going_out_of_style", "seq": "not a number"})
    hear(client, event(1, colour="blue"))
    hear(client, event(1, stream_id="workspace:not_followed"))
    hear(client, {"type": "error", "code": "ODD", "request_id": "of nobody"})
    assert (await anext(events)).event_type == "something_of_tomorrow"


async def test_repeats_are_passed_over_and_hidden_numbers_counted() -> None:
    client, recorder = unconnected()
    events = following(client, recorder)
    for seq in (1, 1, 2, 1, 2):
        hear(client, event(seq))
    told = {"type": "hidden", "stream_id": "workspace:w", "chain": "00000000000000ab"}
    hear(client, {**told, "from": 3, "to": 5})
    hear(client, {**told, "from": 4, "to": 5})
    assert "5-00000000000000ab" in repr(events), "from there it goes on"
    hear(client, event(6))
    assert await take(events, 3) == [1, 2, 6]
    events._stream.connected(cast("Link", recorder))


async def test_a_gap_before_hidden_numbers_is_an_error_too() -> None:
    client, recorder = unconnected()
    events = following(client, recorder)
    hear(client, event(1))
    told = {"type": "hidden", "stream_id": "workspace:w", "chain": "00000000000000ab"}
    hear(client, {**told, "from": 3, "to": 5})
    assert await take(events, 1) == [1]
    with pytest.raises(SequenceGapError):
        await anext(events)


async def test_a_gap_is_an_error_after_what_came_before_it() -> None:
    client, recorder = unconnected()
    events = following(client, recorder)
    hear(client, event(1))
    hear(client, event(3))
    hear(client, event(2))
    assert await take(events, 1) == [1]
    with pytest.raises(SequenceGapError, match="3 arrived instead of 2"):
        await anext(events)
    assert recorder.said[-1]["type"] == "unsubscribe"


async def test_a_stream_goes_on_after_what_waits_with_its_chain() -> None:
    client, recorder = unconnected()
    events = following(client, recorder)
    hear(client, event(1))
    hear(client, event(2))
    events.ack(1)
    events._stream.disconnected()
    again = Recorder()
    events._stream.connected(cast("Link", again))
    assert again.said[-1]["cursor"] == f"2-{2:016x}"
    assert await take(events, 2) == [1, 2]


async def test_a_stream_of_a_trimmed_log_begins_without_a_chain() -> None:
    client, recorder = unconnected()
    events = client.subscribe("workspace:w", cursor=7)
    events._place = events._stream.join()
    answer = {"type": "subscribed", "stream_id": "workspace:w", "head": 9, "cursor": 7}
    hear(client, {**answer, "chain": None, "request_id": recorder.said[-1]["request_id"]})
    events._stream.disconnected()
    again = Recorder()
    events._stream.connected(cast("Link", again))
    assert again.said[-1]["cursor"] in {7, "7"}


async def test_what_is_no_message_is_an_error() -> None:
    for text in ("{", "[]", '{"type": 1}', '{"type":"event","seq":"x"}'):
        with pytest.raises(msgspec.MsgspecError):
            decode_said(text)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("STALE_CURSOR", StaleCursorError),
        ("STORE_UNAVAILABLE", StoreUnavailableError),
        ("NOT_READY", NotReadyError),
        ("DRAINING", DrainingError),
        ("WORKSPACE_MOVED", WorkspaceMovedError),
        ("WORKSPACE_HALTED", WorkspaceHaltedError),
        ("TASK_EXISTS", Reject),
    ],
)
def test_an_error_is_of_the_kind_it_was_at_the_server(code: str, kind: type[DalsegnoError]) -> None:
    error = error_of(code, "said so", {"code": "x", "message": 1})
    assert type(error) is kind
    assert (error.code, error.message, error.details) == (
        code,
        "said so",
        {"code": "x", "message": 1},
    )


def test_delays_double_below_a_cap_with_full_jitter_and_end() -> None:
    error = StoreUnavailableError()
    limits = ClientLimits(attempts_max=8)
    most = Retries(limits, lambda: 1.0)
    assert [most.after(error) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    with pytest.raises(StoreUnavailableError):
        most.after(error)
    most.reset()
    assert most.after(error) == 1
    assert Retries(limits, lambda: 0.0).after(error) == 0
    assert Retries(limits, lambda: 0.0).after(OverloadedError(retry_after_s=3)) == 3
    # All were told the same time, so chance decides; but none asks much sooner.
    moved = WorkspaceMovedError("n", retry_after_s=8)
    assert Retries(limits, lambda: 0.0).after(moved) == 0
    assert Retries(limits, lambda: 0.5).after(moved) == 4


@pytest.mark.parametrize(
    ("ending", "final", "invited"),
    [
        (Ending(1001, was_useful=True), False, True),
        (Ending(1013, was_useful=True), False, True),
        (Ending(1013), False, False),
        (Ending(1000), False, False),
        (Ending(1006), False, False),
        (Ending(1011), False, False),
        (Ending(1008), True, False),
        (Ending(4001), True, False),
        (Ending(4003), True, False),
        (Ending(4008), True, False),
        (Ending(401, error=Reject("SESSION_EXPIRED")), True, False),
        (Ending(403, error=Reject("ORIGIN_FORBIDDEN")), True, False),
        (Ending(429, error=RateLimitedError()), False, False),
        (Ending(503, error=StoreUnavailableError()), False, False),
        (Ending(421, error=WorkspaceMovedError("n")), False, False),
        (Ending(1000, was_left=True), False, True),
    ],
)
def test_an_ending_says_whether_to_come_back(ending: Ending, final: bool, invited: bool) -> None:
    assert (ending.is_final, ending.is_invitation) == (final, invited)


async def test_a_slot_goes_before_a_delay_of_ones_own_and_after_a_no() -> None:
    client, recorder = unconnected()
    hear(client, {"type": "reconnect", "after_ms": 12_345})
    assert recorder.slot_s == 12.345
    told = Ending(1001, was_open=True, was_useful=True, slot_s=recorder.slot_s)
    assert client._consider(told) == 12.345
    assert client._consider(replace(told, code=1006)) == 12.345
    assert client._consider(replace(told, slot_s=1e9)) == client.limits.slot_max_s
    assert client._consider(replace(told, slot_s=None)) <= client.limits.at_once_s
    with pytest.raises(DisconnectedError):
        client._consider(replace(told, code=1008))


def test_an_ending_is_told_in_words() -> None:
    assert str(Ending(1013, "too slow", was_open=True)) == "connection lost: 1013 too slow"
    assert str(Ending(1006, was_open=True)) == "connection lost"
    assert str(Ending(1006, "refused")) == "no connection: refused"
    assert str(Ending(503, "away")) == "no connection: 503 away"
