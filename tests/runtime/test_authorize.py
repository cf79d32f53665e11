"""A host's own `authorize`: it says no besides the roles, on every way in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from dalsegno.actors import Roles
from dalsegno.actors.domains.members import PutMember, members
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App, Event, InternalError, Principal
from dalsegno.runtime import Reject, Runtime, World
from tests.actors._wire import Wire
from tests.actors._world import Actors, Wall
from tests.runtime.test_app import code_of, reads
from tests.tasks_domain import AddTask, FinishTask, tasks

Asked = tuple[str | None, str, str, str | None]


class Policy:
    """What a host says: by default, yes."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.no: set[tuple[str | None, str | None]] = set()
        """Users and commands; no command: to read."""
        self.no_roles: set[str] = set()
        """Roles that do not read."""
        self.error: Exception | None = None
        self.answer: Any = True

    def __call__(
        self, principal: Principal, workspace_id: str, role: str, command: str | None
    ) -> bool:
        self.asked.append((principal.user_id, workspace_id, role, command))
        if self.error is not None:
            raise self.error
        if (principal.user_id, command) in self.no:
            return False
        if command is None and role in self.no_roles:
            raise Reject("NOT_TOLD", "a reason that a stranger does not learn")
        return cast("bool", self.answer)


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
async def rt(policy: Policy) -> AsyncIterator[Runtime]:
    world: World = Wall().world()
    app = App([tasks], authorize=policy)
    async with Runtime.open(app=app, store=MemoryStore(world), world=world) as rt:
        acme = rt.workspace("acme")
        await acme.send_all([PutMember("ada", "editor"), PutMember("bob", "viewer")])
        await acme.send(AddTask("t1", "One"))
        # About the program itself nothing is asked, but whether they read who were given a role.
        assert {asked[0::3] for asked in policy.asked} == {("ada", None), ("bob", None)}
        policy.asked.clear()
        yield rt


@asynccontextmanager
async def connected(rt: Runtime, user_id: str) -> AsyncIterator[Wire]:
    wire = Wire(cast("Actors", SimpleNamespace(service=rt.service)), user_id=user_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        try:
            yield wire
        finally:
            wire.client.vanish()


async def send(wire: Wire, name: str, **payload: str) -> dict[str, Any]:
    return await wire.ask("command", workspace_id="acme", name=name, payload=payload)


async def test_each_command_and_each_read_is_asked_about(rt: Runtime, policy: Policy) -> None:
    ada = rt.workspace("acme").acting(user_id="ada")
    await ada.send(FinishTask("t1"))
    assert policy.asked == [("ada", "acme", "editor", "finish_task")]
    for read in reads(ada):
        policy.asked.clear()
        await read()
        assert set(policy.asked) == {("ada", "acme", "editor", None)}


async def test_it_refuses_what_the_role_allows_and_allows_nothing_that_it_does_not(
    rt: Runtime, policy: Policy
) -> None:
    acme = rt.workspace("acme")
    ada, bob = acme.acting(user_id="ada"), acme.acting(user_id="bob")
    policy.no = {("ada", "add_task"), ("bob", None)}
    assert await code_of(ada.send(AddTask("t2", "Two"))) == "ROLE_FORBIDDEN"
    await ada.send(FinishTask("t1"))
    assert await code_of(bob.send(FinishTask("t1"))) == "ROLE_FORBIDDEN", "a viewer's role says no"
    assert await bob.role_of("bob") is None
    for read in reads(bob):
        assert await code_of(read()) == "ROLE_FORBIDDEN"
    for read in reads(acme.acting(user_id="eve")):
        assert await code_of(read()) == "ROLE_FORBIDDEN"
    assert "eve" not in {asked[0] for asked in policy.asked}, "who has no role is not asked about"
    asserted = acme.acting(user_id="eve", role="viewer")
    policy.no = {("eve", None)}
    for read in reads(asserted):
        assert await code_of(read()) == "ROLE_FORBIDDEN"


async def test_a_refusal_of_a_command_is_told_and_of_a_read_is_not(
    rt: Runtime, policy: Policy
) -> None:
    ada = rt.workspace("acme").acting(user_id="ada")
    policy.error = Reject("OUT_OF_HOURS", "come back tomorrow", status=403)
    assert await code_of(ada.send(AddTask("t2", "Two"))) == "OUT_OF_HOURS"
    for read in reads(ada):
        assert await code_of(read()) == "ROLE_FORBIDDEN"


async def test_over_a_socket_it_is_the_same(rt: Runtime, policy: Policy) -> None:
    async with connected(rt, "ada") as wire:
        policy.no = {("ada", "add_task"), ("ada", None)}
        answer = await send(wire, "add_task", task_id="t2", title="Two")
        assert (answer["type"], answer["code"]) == ("rejected", "ROLE_FORBIDDEN")
        for stream_id in ("workspace:acme", "task:t1"):
            answer = await wire.ask("subscribe", stream_id=stream_id, workspace_id="acme")
            assert (answer["type"], answer["code"]) == ("error", "ROLE_FORBIDDEN")
        policy.no = set()
        assert (await send(wire, "finish_task", task_id="t1"))["type"] == "committed"
        answer = await wire.ask("subscribe", stream_id="workspace:acme", cursor=4)
        assert answer["type"] == "subscribed"


@pytest.mark.parametrize("wrong", ["raises", "no bool"])
async def test_what_it_raises_is_an_error_of_the_server_that_ends_nothing_else(
    rt: Runtime, policy: Policy, wrong: str
) -> None:
    acme = rt.workspace("acme")
    ada = acme.acting(user_id="ada")
    async with connected(rt, "ada") as wire, connected(rt, "bob") as other:
        await other.ask("subscribe", stream_id="workspace:acme", cursor=3)
        if wrong == "raises":
            policy.error = ZeroDivisionError("a bug of the host's")
            for read in reads(ada):
                with pytest.raises(InternalError):
                    await read()
            with pytest.raises(InternalError):
                await ada.send(AddTask("t2", "Two"))
            code = "INTERNAL_ERROR"
        else:
            policy.answer = "yes"
            assert await code_of(ada.send(AddTask("t2", "Two"))) == "ROLE_FORBIDDEN"
            code = "ROLE_FORBIDDEN"
        assert (await send(wire, "add_task", task_id="t2", title="Two"))["code"] == code
        answer = await wire.ask("subscribe", stream_id="workspace:acme")
        assert answer["code"] == code
        await acme.send(AddTask("t2", "Two"))
        assert (await other.hear())["event_type"] == "task_added"
        policy.error, policy.answer = None, True
        assert (await send(wire, "finish_task", task_id="t2"))["type"] == "committed"


async def test_a_role_that_is_not_let_read_ends_what_is_followed(
    rt: Runtime, policy: Policy
) -> None:
    """The same barrier as a removal: nothing above the event that gave the role (I8)."""
    acme = rt.workspace("acme")
    policy.no_roles = {"viewer"}
    async with connected(rt, "ada") as wire:
        await wire.ask("subscribe", stream_id="workspace:acme", cursor=3)
        await acme.send_all([AddTask("t2", "Two"), PutMember("ada", "viewer"), FinishTask("t2")])
        assert [message["seq"] for message in await wire.hear_many(2)] == [4, 5]
        ended = await wire.hear()
        assert (ended["type"], ended["code"]) == ("error", "ROLE_FORBIDDEN")


def test_an_event_whose_role_cannot_be_judged_ends_access(policy: Policy) -> None:
    policy.error = ZeroDivisionError("a bug of the host's")
    event = Event(
        workspace_id="acme",
        event_seq=1,
        stream_id="member:ada",
        stream_seq=1,
        event_id="e",
        type="member_role_updated",
        type_version=1,
        payload='{"role":"editor"}',
        actor_id=None,
        command_id="c",
        recorded_at=Wall().now,
    )
    assert Roles([members], authorize=policy).removed_by(event) == "ada"
    policy.error = None
    assert Roles([members], authorize=policy).removed_by(event) is None
