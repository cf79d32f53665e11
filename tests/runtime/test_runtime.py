"""The runtime in a host's program: the README's example, and everything around it."""

from __future__ import annotations

import gc
import inspect
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import dalsegno.actors
import dalsegno.protocol
import dalsegno.runtime
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Event
from dalsegno.runtime import (
    Context,
    DalsegnoError,
    Domain,
    DomainError,
    Limits,
    NoAccountsError,
    OutcomeUnknownError,
    Receipt,
    Reject,
    Runtime,
    RuntimeClosedError,
    RuntimeFailedError,
    Workspace,
    World,
)
from dalsegno.runtime.store import MemoryAccounts, PostgresStore
from dalsegno.runtime.web import create_app
from tests._patience import fail_after
from tests.tasks_domain import AddTask, FinishTask, Task, TaskAdded, TaskFinished, tasks

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_world() -> World:
    ids = itertools.count(1)
    return World(
        now=lambda: NOW,
        random=lambda: 0.5,
        new_id=lambda: f"00000000-0000-7000-8000-{next(ids):012x}",
        new_salt=lambda: bytes(16),
    )


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
def store(world: World) -> MemoryStore:
    return MemoryStore(world)


@asynccontextmanager
async def opened(store: MemoryStore, world: World, **how: Any) -> AsyncIterator[Runtime]:
    options: dict[str, Any] = {"domains": [tasks], "store": store, "world": world} | how
    async with Runtime.open(**options) as rt:
        yield rt


async def readme(rt: Runtime) -> list[Event]:
    """The README's program."""
    workspace = rt.workspace("acme")
    receipt = await workspace.send(AddTask("t1", "Write the README"), key="k1")
    seen = []
    async with workspace.subscribe(after=0) as events:
        async for event in events:
            seen.append(event)
            if event.event_seq == receipt.event_seq:
                break
    return seen


@pytest.mark.processes
async def test_the_readmes_example_on_an_embedded_database(short_path: Path) -> None:
    async with Runtime.open(domains=[tasks], data_dir=short_path / "data") as rt:
        seen = await readme(rt)
    assert [(event.event_seq, event.type) for event in seen] == [(1, "task_added")]
    async with Runtime.open(domains=[tasks], data_dir=short_path / "data") as rt:
        assert await readme(rt) == seen, "the key brings the original receipt"
        assert await rt.workspace("acme").get(tasks, "t1") == Task("Write the README")


async def test_the_readmes_example_on_ones_own_database(database: str) -> None:
    async with Runtime.open(database, domains=[tasks]) as rt:
        assert [event.event_seq for event in await readme(rt)] == [1]


async def test_the_api(store: MemoryStore, world: World) -> None:
    async with opened(store, world) as rt:
        workspace = rt.workspace("acme")
        assert (workspace.id, await workspace.head(), await workspace.events()) == ("acme", 0, [])
        receipt = await workspace.send(
            AddTask("t1", "One"), correlation_id="request-7", causation="cause"
        )
        assert receipt == Receipt(
            workspace_id="acme",
            event_seq=1,
            stream_id="task:t1",
            version=1,
            command_id=receipt.command_id,
        )
        assert receipt.entity_id == "t1"
        (event,) = await workspace.events()
        assert (event.correlation_id, event.causation, event.actor_id) == (
            "request-7",
            "cause",
            None,
        )
        assert event.recorded_at == NOW
        await workspace.send(FinishTask("t1"))
        again = await workspace.send(FinishTask("t1"))
        assert (again.event_seq, again.version) == (2, 2), "what changes nothing, writes nothing"
        assert await workspace.get(tasks, "t1", min_seq=2) == Task("One", done=True)
        assert await workspace.get(tasks, "t2") is None
        looked = await workspace.look(tasks, "t1")
        assert looked is not None
        assert (looked.version, looked.state) == (2, Task("One", done=True))
        assert await workspace.look(tasks, "t2") is None
        assert [item.stream_id for item in await workspace.entities(tasks)] == ["task:t1"]
        with pytest.raises(Reject) as refused:
            await workspace.send(AddTask("t1", "Again"))
        assert refused.value.code == "TASK_EXISTS"
        with pytest.raises(Reject) as absent:
            await workspace.send(FinishTask("t9"))
        assert absent.value.code == "TASK_NOT_FOUND"


async def test_one_domain_typed(store: MemoryStore, world: World) -> None:
    async with opened(store, world) as rt:
        its_tasks = rt.workspace("acme").of(tasks)
        await its_tasks.send(AddTask("t1", "One"))
        await its_tasks.send(AddTask("t2", "Two"))
        await its_tasks.send(FinishTask("t1"), key="k")
        assert await its_tasks.get("t1") == Task("One", done=True)
        async with its_tasks.subscribe("t1") as events:
            added, finished = await anext(events), await anext(events)
        assert (added.event, finished.event) == (TaskAdded("One"), TaskFinished())
        assert (finished.record.stream_seq, finished.record.event_seq) == (2, 3)


async def test_several_commands_at_once(store: MemoryStore, world: World) -> None:
    async with opened(store, world) as rt:
        workspace = rt.workspace("acme")
        added, finished = await workspace.send_all(
            [AddTask("t1", "One"), FinishTask("t1")], key="k", correlation_id="c", causation="e"
        )
        assert (added.version, finished.version) == (1, 2)
        assert {(e.correlation_id, e.causation) for e in await workspace.events()} == {("c", "e")}
        with pytest.raises(Reject) as refused:
            await workspace.send_all([AddTask("t2", "Two"), AddTask("t1", "Again")])
        assert (refused.value.code, refused.value.details) == ("TASK_EXISTS", {"command": 1})
        assert await workspace.get(tasks, "t2") is None


async def test_commands_by_name_are_checked_as_a_clients_are(
    store: MemoryStore, world: World
) -> None:
    async with opened(store, world) as rt:
        workspace = rt.workspace("acme")
        fields = {"task_id": "t1", "title": "One"}
        receipt = await workspace.send_json("add_task", fields, key="k", correlation_id="c")
        assert receipt.version == 1
        again = await workspace.send_json("add_task", msgspec.json.encode(fields), key="k")
        assert (again.repeated, again.event_seq) == (True, 1)
        for name, payload, code in (
            ("no_such", {}, "UNKNOWN_COMMAND"),
            ("add_task", {"task_id": "t2"}, "BAD_REQUEST"),
            ("add_task", b"{", "BAD_REQUEST"),
            ("add_task", {"task_id": "t2", "title": 5}, "BAD_REQUEST"),
            ("add_task", {"task_id": "t2", "title": "\ud800"}, "BAD_REQUEST"),
            ("add_task", {"task_id": "t2", "title": object()}, "BAD_REQUEST"),
        ):
            with pytest.raises(Reject) as refused:
                await workspace.send_json(name, payload)
            assert refused.value.code == code
        assert await workspace.head() == 1


async def test_what_an_entity_was(store: MemoryStore, world: World) -> None:
    async with opened(store, world) as rt:
        workspace = rt.workspace("acme")
        await workspace.send_all([AddTask("t1", "One"), AddTask("t2", "Two"), FinishTask("t1")])
        assert await workspace.at(tasks, "t1", 1) == Task("One")
        assert await workspace.of(tasks).at("t1", 2) == Task("One", done=True)
        for version in (-1, 0, 3, 2**63):
            with pytest.raises(Reject, match="VERSION_NOT_FOUND"):
                await workspace.at(tasks, "t1", version)
        with pytest.raises(Reject, match="VERSION_NOT_FOUND"):
            await workspace.at(tasks, "t3", 1)
        history = await workspace.history(tasks, "t1")
        assert [(event.event_seq, event.stream_seq) for event in history] == [(1, 1), (3, 2)]
        assert await workspace.history(tasks, "t1", after=1, limit=5) == history[1:]
        assert await workspace.history(tasks, "t1", limit=1) == history[:1]
        assert await workspace.history(tasks, "t3") == []
        stranger = workspace.acting(user_id="stranger")
        for reading in (stranger.at(tasks, "t1", 1), stranger.history(tasks, "t1")):
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await reading


async def test_a_loop_goes_on_after_a_position(store: MemoryStore, world: World) -> None:
    async with opened(store, world) as rt:
        workspace = rt.workspace("acme")
        await workspace.send_all([AddTask("t1", "One"), AddTask("t2", "Two"), FinishTask("t1")])
        events = await workspace.events()
        async with workspace.subscribe(after=events[1].position) as following:
            assert (await anext(following)).event_seq == 3
        async with workspace.subscribe(after=events[2].position) as following:
            await workspace.send(FinishTask("t2"))
            assert (await anext(following)).event_seq == 4
        its_tasks = workspace.of(tasks)
        async with its_tasks.subscribe("t1", after=events[0].entity_position) as its_events:
            assert (await anext(its_events)).event == TaskFinished()
        for after, code in (
            (f"2-{1:016x}", "CURSOR_DIVERGED"),
            (f"9-{1:016x}", "CURSOR_AHEAD"),
            ("2-x", "BAD_REQUEST"),
        ):
            with pytest.raises(Reject, match=code):
                async with workspace.subscribe(after=after):
                    pass


async def test_users_act_with_the_role_that_log_or_host_gives_them(
    store: MemoryStore, world: World
) -> None:
    async with opened(store, world) as rt:
        workspace = rt.workspace("acme")
        await workspace.send(PutMember("u", "editor"))
        user = workspace.acting(user_id="u")
        await user.send(AddTask("t1", "One"))
        assert (await workspace.events())[-1].actor_id == "u"
        assert await workspace.role_of("u") == "editor"
        for stranger in (
            workspace.acting(user_id="v"),
            workspace.acting(user_id="v", role="viewer"),
        ):
            with pytest.raises(Reject) as refused:
                await stranger.send(AddTask("t2", "Two"))
            assert refused.value.code == "ROLE_FORBIDDEN"
        await workspace.acting(user_id="v", role="editor").send(AddTask("t2", "Two"))


async def test_a_command_of_no_domain_here_is_refused(store: MemoryStore, world: World) -> None:
    async with opened(store, world, domains=[]) as rt:
        with pytest.raises(Reject) as refused:
            await rt.workspace("acme").send(AddTask("t1", "One"))
        assert refused.value.code == "UNKNOWN_COMMAND"


@pytest.mark.parametrize("workspace_id", ["", "a b", "ü", "x" * 65, "$system"])
async def test_what_is_no_workspace_id(store: MemoryStore, world: World, workspace_id: str) -> None:
    async with opened(store, world) as rt:
        with pytest.raises(Reject):
            rt.workspace(workspace_id)


async def test_the_bodys_own_exception_comes_out_as_it_is(store: MemoryStore, world: World) -> None:
    mine = KeyError("mine")

    async def body() -> None:
        async with opened(store, world) as rt:
            await rt.workspace("acme").send(AddTask("t1", "One"))
            raise mine

    with pytest.raises(KeyError) as caught:
        await body()
    assert caught.value is mine


async def test_a_service_that_fails_ends_the_runtime_with_a_typed_error(
    store: MemoryStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(_batches: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("not an error that a store may raise")

    monkeypatch.setattr(store, "append", bug)
    with fail_after(5), pytest.raises(RuntimeFailedError):
        async with opened(store, world) as rt:
            await rt.workspace("acme").send(AddTask("t1", "One"))


async def test_leaving_settles_what_was_taken(
    store: MemoryStore, world: World, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    answers: list[Receipt | DalsegnoError] = []

    async def send(workspace: Workspace, n: int) -> None:
        try:
            answers.append(await workspace.send(AddTask(f"t{n}", "Some")))
        except DalsegnoError as error:
            answers.append(error)

    async with trio.open_nursery() as callers, opened(store, world) as rt:
        for n in range(50):
            callers.start_soon(send, rt.workspace(f"w{n % 5}"), n)
        await trio.testing.wait_all_tasks_blocked(0)
    assert len(answers) == 50
    assert all(isinstance(answer, Receipt) for answer in answers)
    with fail_after(5), pytest.raises(RuntimeClosedError):
        await rt.workspace("w0").send(AddTask("t99", "Late"))
    with fail_after(5), pytest.raises(RuntimeClosedError):
        await rt.workspace("new").head()


async def test_leaving_is_bounded_where_the_store_hangs(
    store: MemoryStore,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    limits = Limits(drain_deadline_s=2, commit_deadline_s=5)

    async def hang(_batches: object) -> list[str]:
        await trio.sleep_forever()
        return []

    monkeypatch.setattr(store, "append", hang)
    errors: list[DalsegnoError] = []

    async def send(workspace: Workspace) -> None:
        try:
            await workspace.send(AddTask("t1", "One"))
        except DalsegnoError as error:
            errors.append(error)

    async with (
        trio.open_nursery() as callers,
        opened(store, world, limits=limits, node_id="a-node") as rt,
    ):
        callers.start_soon(send, rt.workspace("acme"))
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() <= limits.drain_deadline_s + limits.commit_deadline_s
    assert [type(error) for error in errors] == [OutcomeUnknownError]
    left = await store.find_node("a-node")
    assert left is not None
    assert left.expires_in_s <= 0, "others need not wait for a lease"


async def test_a_cancelled_runtime_closes_every_connection(migrated: str) -> None:
    async with trio.open_nursery() as nursery, Runtime.open(migrated, domains=[tasks]) as rt:
        await rt.workspace("acme").send(AddTask("t1", "One"))
        assert isinstance(rt.store, PostgresStore)
        pools = rt.store._pools
        assert pools.appending.statistics().open == 1
        nursery.cancel_scope.cancel()
    several = (pools.appending, pools.reading, pools.writing, pools.maintenance, pools.heartbeat)
    assert [pool.statistics().open for pool in several] == [0] * 5


class Thing(msgspec.Struct, frozen=True):
    pass


class MakeThing(msgspec.Struct, frozen=True):
    thing_id: str


class ThingMade(msgspec.Struct, frozen=True):
    pass


def things(*, version: int = 1, upcast: bool = False) -> Domain[Any, Any, Any]:
    domain = Domain("thing", state=Thing, commands=MakeThing, events=ThingMade, version=version)

    @domain.decide
    def make(thing: Thing | None, command: MakeThing) -> ThingMade:
        del thing, command
        return ThingMade()

    @domain.evolve
    def made(thing: Thing | None, event: ThingMade) -> Thing:
        del thing, event
        return Thing()

    if upcast:
        domain.upcast("thing_made", 1)(lambda payload: payload)
    return domain


async def test_it_refuses_to_start_where_it_could_not_fold_what_is_there(
    store: MemoryStore, world: World
) -> None:
    async with opened(store, world, domains=[things(upcast=True)]) as rt:
        await rt.workspace("acme").send(MakeThing("t"))
    with pytest.raises(DomainError, match="thing_made version 2"):
        async with opened(store, world, domains=[things()]):
            pass
    async with opened(store, world, domains=[]) as rt:
        assert await rt.workspace("acme").head() == 1, "of no concern to who has no such domain"


async def test_domains_must_be_complete_and_distinct(store: MemoryStore, world: World) -> None:
    incomplete = Domain("thing", state=Thing, commands=MakeThing, events=ThingMade)
    for domains in ([incomplete], [things(), things()], [tasks, _namesake()]):
        with pytest.raises(DomainError):
            async with opened(store, world, domains=domains):
                pass


def _namesake() -> Domain[Any, Any, Any]:
    """Another domain with a command of the same name."""

    class AddTask(msgspec.Struct, frozen=True):
        other_id: str

    class OtherAdded(msgspec.Struct, frozen=True):
        pass

    domain = Domain("other", state=Thing, commands=AddTask, events=OtherAdded)

    @domain.decide
    def add(other: Thing | None, command: AddTask) -> OtherAdded:
        del other, command
        return OtherAdded()

    @domain.evolve
    def added(other: Thing | None, event: OtherAdded) -> Thing:
        del other, event
        return Thing()

    return domain


async def test_the_seams_are_the_hosts(store: MemoryStore, world: World) -> None:
    limits = Limits(mailbox_commands_max=7)
    async with opened(store, world, limits=limits) as rt:
        assert (rt.world, rt.limits, rt.store) == (world, limits, store)
        assert rt.system.id == "$system"
        assert "Runtime" in repr(rt)
        assert repr(rt.workspace("acme")) == "<Workspace acme by the program>"
        assert repr(rt.workspace("acme").acting(user_id="u")) == "<Workspace acme by u>"


async def test_a_store_has_accounts_if_the_program_says_which(
    store: MemoryStore, world: World
) -> None:
    """They were kept in memory without a word; a runtime that nobody logs in to needs none."""

    async with opened(store, world) as rt:
        await rt.workspace("acme").send(AddTask("t1", "one"))
        with pytest.raises(NoAccountsError, match="accounts="):
            _ = rt.accounts
        with pytest.raises(NoAccountsError):
            create_app(rt, secure_cookies=False, setup_token=None)
    accounts = MemoryAccounts(world)
    async with opened(store, world, accounts=accounts) as rt:
        assert rt.accounts is accounts
        create_app(rt, secure_cookies=False, setup_token=None)


async def test_a_store_may_bring_its_accounts(store: MemoryStore, world: World) -> None:
    accounts = store.accounts = MemoryAccounts(world)  # type: ignore[attr-defined]
    async with opened(store, world) as rt:
        assert rt.accounts is accounts


def test_the_public_classes_have_signatures() -> None:
    """For editors, documentation and whoever asks `inspect`."""
    assert "limits" in inspect.signature(Context).parameters
    for module in (dalsegno.protocol, dalsegno.actors, dalsegno.runtime):
        for name in dir(module):
            public = getattr(module, name)  # one that is imported when it is asked for, too
            if inspect.isclass(public) and not name.startswith("_"):
                with suppress(ValueError):  # a built-in one's
                    inspect.signature(public)


# ------------------------------------------------------------------------ the garbage collector


async def test_the_collector_is_the_programs_unless_it_says_otherwise(world: World) -> None:
    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()
    async with Runtime.open(store=MemoryStore(world), domains=[tasks]) as rt:
        await rt.workspace("w").send(AddTask("t", "x"))
    assert (gc.get_threshold(), gc.get_freeze_count()) == (threshold, frozen)
    try:
        async with Runtime.open(store=MemoryStore(world), domains=[tasks], gc="server") as rt:
            await rt.workspace("w").send(AddTask("t", "x"))
            assert gc.get_threshold()[0] == 50_000
        assert gc.get_freeze_count() > 0, "it stays so: others may have set it meanwhile"
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()


async def test_another_collector_is_refused(world: World) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST"):
        async with Runtime.open(store=MemoryStore(world), gc="client"):  # type: ignore[arg-type]
            pass
