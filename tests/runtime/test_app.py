"""An app: its domains in one value, and roles of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.users import SetUserRole
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import SYSTEM_WORKSPACE
from dalsegno.runtime import (
    App,
    Domain,
    DomainError,
    Event,
    Reject,
    Role,
    Runtime,
    Workspace,
    World,
)
from tests.actors._world import Wall
from tests.tasks_domain import AddTask, FinishTask, Task, TaskAdded, tasks

ROLES = {
    "closer": Role(commands=frozenset({"finish_task"})),
    "sensor": Role(commands=frozenset({"add_task"}), reads=False),
}


@pytest.fixture
def world() -> World:
    return Wall().world()


@pytest.fixture
def store(world: World) -> MemoryStore:
    return MemoryStore(world)


@asynccontextmanager
async def opened(store: MemoryStore, world: World, **roles: Role) -> AsyncIterator[Runtime]:
    async with Runtime.open(app=App([tasks], roles=roles), store=store, world=world) as rt:
        yield rt


async def code_of(call: Awaitable[Any]) -> str:
    with pytest.raises(Reject) as refused:
        await call
    return refused.value.code


async def following(workspace: Workspace) -> None:
    async with workspace.subscribe():
        pass


def reads(of: Workspace) -> list[Callable[[], Awaitable[Any]]]:
    """Every way to read."""
    return [
        of.head,
        of.events,
        lambda: of.get(tasks, "t1"),
        lambda: of.look(tasks, "t1"),
        lambda: of.at(tasks, "t1", 1),
        lambda: of.history(tasks, "t1"),
        lambda: of.entities(tasks),
        lambda: following(of),
    ]


async def test_a_role_may_what_its_app_says(store: MemoryStore, world: World) -> None:
    async with opened(store, world, **ROLES) as rt:
        acme = rt.workspace("acme")
        await acme.send_all([PutMember("ada", "closer"), PutMember("bob", "editor")])
        ada, bob = acme.acting(user_id="ada"), acme.acting(user_id="bob")
        await bob.send(AddTask("t1", "One"))
        assert await code_of(ada.send(AddTask("t2", "Two"))) == "ROLE_FORBIDDEN"
        await ada.send(FinishTask("t1"))
        assert await ada.get(tasks, "t1") == Task("One", done=True)
        assert await ada.role_of("ada") == "closer"
        for read in reads(ada):
            await read()
        host = acme.acting(user_id="eve", role="closer")
        assert await code_of(host.send(AddTask("t2", "Two"))) == "ROLE_FORBIDDEN"
        await host.send(FinishTask("t1"))


async def test_a_role_that_does_not_read_only_sends(store: MemoryStore, world: World) -> None:
    async with opened(store, world, **ROLES) as rt:
        acme = rt.workspace("acme")
        await acme.send(PutMember("ada", "sensor"))
        numbers = itertools.count(1)
        for sensor in (acme.acting(user_id="ada"), acme.acting(user_id="eve", role="sensor")):
            await sensor.send(AddTask(f"t{next(numbers)}", "Seen"))
            assert await code_of(sensor.send(FinishTask("t1"))) == "ROLE_FORBIDDEN"
            for read in reads(sensor):
                assert await code_of(read()) == "ROLE_FORBIDDEN"


async def test_i8_a_reader_whose_new_role_does_not_read_sees_nothing_more(
    store: MemoryStore, world: World
) -> None:
    async with opened(store, world, **ROLES) as rt:
        acme = rt.workspace("acme")
        await acme.send_all([PutMember("ada", "editor"), PutMember("bob", "editor")])
        seen: dict[str, list[Event]] = {"ada": [], "bob": []}

        async def follow(user_id: str, task_status: trio.TaskStatus[None]) -> None:
            async with acme.acting(user_id=user_id).subscribe(after=2) as events:
                task_status.started()
                async for event in events:
                    seen[user_id].append(event)

        async def follow_to_the_end(user_id: str, *, task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await follow(user_id, task_status)

        async with trio.open_nursery() as nursery:
            await nursery.start(follow_to_the_end, "ada")
            await nursery.start(follow_to_the_end, "bob")
            await acme.send_all(
                [
                    PutMember("bob", "closer"),
                    AddTask("t1", "One"),
                    PutMember("ada", "sensor"),
                    AddTask("t2", "Two"),
                ]
            )
            await acme.send(AddTask("t3", "Three"))
            await acme.send(PutMember("bob", "sensor"))
            await acme.send(AddTask("t4", "Four"))
        assert [event.event_seq for event in seen["ada"]] == [3, 4, 5]
        assert [event.event_seq for event in seen["bob"]] == [3, 4, 5, 6, 7, 8]


async def test_a_role_that_its_app_has_no_more_may_do_nothing(
    store: MemoryStore, world: World
) -> None:
    """It halted the workspace, at the next start."""
    async with opened(store, world, **ROLES) as rt:
        await rt.workspace("acme").send_all([PutMember("ada", "closer"), AddTask("t1", "One")])
    async with opened(store, world) as rt:
        acme = rt.workspace("acme")
        ada = acme.acting(user_id="ada")
        assert await code_of(ada.send(FinishTask("t1"))) == "ROLE_FORBIDDEN"
        for read in reads(ada):
            assert await code_of(read()) == "ROLE_FORBIDDEN"
        assert await code_of(acme.send(PutMember("bob", "closer"))) == "BAD_REQUEST"
        await acme.send(PutMember("ada", "viewer"))
        assert await ada.get(tasks, "t1") == Task("One")


async def test_a_built_in_role_may_be_given_more_or_less(store: MemoryStore, world: World) -> None:
    more = {
        "viewer": Role(commands=frozenset({"finish_task"})),
        "admin": Role(commands=frozenset()),
    }
    async with opened(store, world, **more) as rt:
        acme = rt.workspace("acme")
        await acme.send_all([PutMember("ada", "viewer"), PutMember("bob", "admin")])
        await acme.send(AddTask("t1", "One"))
        await acme.acting(user_id="ada").send(FinishTask("t1"))
        bob = acme.acting(user_id="bob")
        assert await code_of(bob.send(AddTask("t2", "Two"))) == "ROLE_FORBIDDEN"
        # What admins of everything may is not an app's to say.
        system = Workspace(rt.service, SYSTEM_WORKSPACE).acting(user_id="root", role="admin")
        assert await code_of(system.send(SetUserRole("nobody", "viewer"))) == "USER_NOT_FOUND"


class Ring(msgspec.Struct, frozen=True):
    bell_id: str


def test_what_is_no_app() -> None:
    bells = Domain("bell", state=Task, commands=Ring, events=TaskAdded)
    for wrong, said in (
        ({"roles": {"Closer": Role()}}, "no name for a role: 'Closer'"),
        ({"roles": {"system": Role()}}, "no name for a role: 'system'"),
        ({"roles": {"owner": Role(reads=False)}}, "an owner reads"),
        ({"roles": {"closer": Role(commands=frozenset({"fly"}))}}, "may send 'fly', which no"),
        ({"domains": [bells]}, "no decider for ring"),
    ):
        options: dict[str, Any] = {"domains": [tasks], **wrong}
        with pytest.raises(DomainError, match=said):
            App(**options).check()
    App([tasks, tasks], roles=ROLES).check()
    assert repr(App([tasks])) == "<App of task>"


async def test_an_app_has_its_own_domains(store: MemoryStore, world: World) -> None:
    with pytest.raises(DomainError, match="an app has its own domains="):
        async with Runtime.open(app=App([tasks]), domains=[tasks], store=store, world=world):
            pass
