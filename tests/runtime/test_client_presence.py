"""The client's presence: who is there, over lost connections, refusals and other servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.notes import CreateNote
from dalsegno.protocol import DalsegnoError, Limits, Reject
from dalsegno.runtime.client import Client, Presence, PresenceView, open_client
from tests._patience import fail_after
from tests.runtime._serving import SOON, Person, Site, add_member, proxied, serving, set_up

LIMITS = Limits(presence_linger_s=0.5)


@asynccontextmanager
async def opened(person: Person, url: str | None = None) -> AsyncIterator[Client]:
    async with open_client(url or person.url, cookie=person.cookie, limits=SOON) as client:
        yield client


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    async with serving(migrated, limits=LIMITS) as site:
        yield site


async def until_it_sees(
    presence: Presence, is_so: Callable[[PresenceView], object]
) -> PresenceView:
    with fail_after(20):
        if is_so(presence.view):
            return presence.view
        async for view in presence:
            if is_so(view):
                return view
    raise AssertionError


def states_of(view: PresenceView, person: Person) -> list[Any]:
    user = view.users.get(person.user_id)
    return [] if user is None else [each.state for each in user.connections]


async def test_a_program_sees_who_is_there_and_is_seen(site: Site) -> None:
    owner = await set_up(site)
    bob = await add_member(site, owner.workspace)
    async with opened(owner) as one, opened(bob) as other:
        async with one.presence(owner.workspace, {"page": 1}) as ada:
            assert states_of(ada.view, owner) == [{"page": 1}]
            (own,) = ada.view.users[owner.user_id].connections
            assert ada.view.connection_id == own.id
            assert own.tab is not None
            assert "told, 1 users" in repr(ada)
            assert await anext(aiter(ada)) == ada.view, "the first one, too"
            with pytest.raises(trio.BusyResourceError):
                await one.presence(owner.workspace).__aenter__()
            async with other.workspace(owner.workspace).presence() as guest:
                view = await until_it_sees(ada, lambda view: bob.user_id in view.users)
                assert (view.total, states_of(view, bob)) == (2, [None])
                for number in range(100):
                    guest.say(number)
                await until_it_sees(ada, lambda view: states_of(view, bob) == [99])
                with pytest.raises(Reject) as refused:
                    guest.say("x" * 1_100)
                assert refused.value.code == "BAD_REQUEST"
                await until_it_sees(guest, lambda view: view.settled)
            with pytest.raises(trio.ClosedResourceError):
                guest.say(1)
            with pytest.raises(StopAsyncIteration):
                await anext(guest)
            view = await until_it_sees(ada, lambda view: bob.user_id not in view.users)
            assert (view.total, view.settled) == (1, True)
        for state in range(15):
            with fail_after(20):
                async with one.presence(owner.workspace, state) as ada:
                    assert states_of(ada.view, owner) == [state], "and what it left is left"


async def test_a_lost_connection_is_no_news_to_the_others(site: Site) -> None:
    owner = await set_up(site)
    bob = await add_member(site, owner.workspace)
    async with (
        proxied(site.port) as proxy,
        opened(owner) as one,
        opened(bob, proxy.url) as other,
        one.presence(owner.workspace) as ada,
        other.presence(owner.workspace, "here") as guest,
    ):
        await until_it_sees(ada, lambda view: view.settled and states_of(view, bob) == ["here"])
        await until_it_sees(guest, lambda view: view.settled)
        before = ada.view
        proxy.cut()
        view = await until_it_sees(guest, lambda view: not view.settled)
        assert view.total == 2, "what was known stands"
        await until_it_sees(guest, lambda view: view.settled)
        assert guest.view.connection_id == before.users[bob.user_id].connections[0].id
        await trio.sleep(LIMITS.presence_linger_s + 0.5)
        assert ada.view == before
        proxy.cut()
        guest.say("there")
        await until_it_sees(ada, lambda view: states_of(view, bob) == ["there"])


async def test_what_ends_it(site: Site) -> None:
    owner = await set_up(site)
    bob = await add_member(site, owner.workspace)
    async with opened(bob) as client:
        for workspace_id, code in (("nowhere", "WORKSPACE_NOT_FOUND"), ("a/b", "BAD_REQUEST")):
            with fail_after(20), pytest.raises(DalsegnoError) as refused:
                async with client.presence(workspace_id):
                    pass
            assert refused.value.code == code
        async with client.presence(bob.workspace) as guest:
            await site.runtime.workspace(owner.workspace).send(RemoveMember(bob.user_id))
            with fail_after(20), pytest.raises(DalsegnoError) as refused:
                async for _ in guest:
                    pass
            assert refused.value.code == "ROLE_FORBIDDEN"
            with pytest.raises(DalsegnoError):
                await anext(guest)


async def test_it_goes_on_at_the_server_that_has_the_workspace(migrated: str) -> None:
    async with (
        serving(migrated, limits=LIMITS, node_id="b") as b,
        serving(migrated, limits=LIMITS, node_id="a") as a,
    ):
        owner = await set_up(a)
        await a.runtime.workspace(owner.workspace).send(CreateNote("A note", "x"))
        async with (
            proxied(a.port, b.port) as proxy,
            opened(owner, proxy.url) as client,
            client.presence(owner.workspace, "s") as ada,
        ):
            await until_it_sees(ada, lambda view: view.settled)
            own = ada.view.connection_id
            await a.runtime.service.drain()
            proxy.cut()
            view = await until_it_sees(ada, lambda view: view.settled and view.connection_id != own)
            assert states_of(view, owner) == ["s"]
