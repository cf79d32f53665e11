"""Access that ends while a request is under way: waits end, and reads tell nothing more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from dalsegno.actors.domains.accounts import DisableUser
from dalsegno.actors.testing import MemoryStore
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, until

from .conftest import open_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dalsegno.actors import PageBounds
    from dalsegno.protocol import Event

    from ._client import Answer, Site, User

EVERYWHERE = "x-effective-everywhere-within-ms"


class Gated(MemoryStore):
    """A store whose pages of a log can be made to wait."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.gate = trio.Event()
        self.gate.set()
        self.waits = 0

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        events = await super().read_events(workspace_id, bounds)
        self.waits += 1
        await self.gate.wait()
        self.waits -= 1
        return events


@pytest.fixture
def store() -> Gated:
    return Gated()


@pytest.fixture
async def site(store: Gated) -> AsyncIterator[Site]:
    async with open_site(store=store) as site:
        yield site


async def log_out(site: Site, owner: User, user: User) -> Answer:
    del site, owner
    return await user.post("/api/auth/logout")


async def disable(site: Site, owner: User, user: User) -> Answer:
    del site
    return await owner.post(f"/api/users/{user.id}/disable")


async def end_elsewhere(site: Site, owner: User, user: User) -> None:
    """What another node has done is heard of by a look."""
    del owner
    await site.rt.accounts.revoke_session(site.hash_of(user))
    await site.rt.revocation._look(0, everything=False)


async def end_by_the_program(site: Site, owner: User, user: User) -> None:
    """A program that sends the command itself ends no session."""
    del owner
    await site.rt.revocation._skip_system()
    await site.rt.system.send(DisableUser(user.id))
    await site.rt.revocation._look(0, everything=False)


ENDINGS = [log_out, disable, end_elsewhere, end_by_the_program]


@pytest.mark.parametrize("end", ENDINGS)
async def test_a_long_poll_ends_at_once_with_nothing_to_tell(
    site: Site, end: Callable[[Site, User, User], Awaitable[Answer | None]]
) -> None:
    owner = await site.set_up()
    user = await site.add_member(owner, "viewer")
    bystander = await site.add_member(owner, "viewer")
    answers: list[Answer] = []
    head = (await owner.get(f"{owner.space}/events")).body["head"]
    path = f"{owner.space}/events?after={head}&wait=30"

    async def poll(who: User) -> None:
        answers.append(await who.get(path))

    with fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll, user)
            await trio.testing.wait_all_tasks_blocked()
            await end(site, owner, user)
            await until(lambda: len(answers) == 1)
            nursery.start_soon(poll, bystander)
            await trio.testing.wait_all_tasks_blocked()
            await owner.write()
    assert (answers[0].status, answers[0].code) == (401, "SESSION_REVOKED")
    assert (answers[1].status, len(answers[1].body["items"])) == (200, 1)


@pytest.mark.parametrize("end", ENDINGS)
async def test_a_read_under_way_tells_nothing_of_what_it_has_found(
    site: Site, store: Gated, end: Callable[[Site, User, User], Awaitable[Answer | None]]
) -> None:
    owner = await site.set_up()
    user = await site.add_member(owner, "viewer")
    await owner.write("secret")
    answers: list[Answer] = []

    async def read() -> None:
        answers.append(await user.get(f"{owner.space}/events"))

    with fail_after(20):
        async with trio.open_nursery() as nursery:
            store.gate = trio.Event()
            nursery.start_soon(read)
            await until(lambda: store.waits == 1)
            gate, store.gate = store.gate, trio.Event()
            store.gate.set()
            await end(site, owner, user)
            gate.set()
    assert (answers[0].status, answers[0].code) == (401, "SESSION_REVOKED")


async def test_a_change_under_way_is_answered_for_it_was_made(site: Site) -> None:
    owner = await site.set_up()
    answer = await owner.post("/api/auth/logout")
    assert answer.status == 204
    assert (await owner.get("/api/auth/session")).status == 401


async def test_the_answer_says_how_long_other_nodes_may_take(site: Site) -> None:
    owner = await site.set_up()
    user = await site.add_member(owner, "viewer")
    lease_ms = str(math.ceil(site.rt.limits.lease_s * 1000))
    removed = await owner.delete(f"{owner.space}/members/{user.id}")
    assert removed.headers[EVERYWHERE] == "0", "a log decides that, wherever it is read"
    assert (await user.post("/api/auth/logout")).headers[EVERYWHERE] == lease_ms
    disabled = await owner.post(f"/api/users/{user.id}/disable")
    assert disabled.headers[EVERYWHERE] == lease_ms
    assert EVERYWHERE not in (await owner.get("/api/auth/session")).headers


async def test_who_is_known_only_after_it_ended_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked up, and ends before that is noted."""
    owner = await site.set_up()
    user = await site.add_member(owner, "viewer")
    find = site.rt.accounts.find_session

    async def find_and_wait(id_hash: bytes) -> object:
        found = await find(id_hash)
        if id_hash == site.hash_of(user):
            await site.rt.revocation.end_session(id_hash)
        return found

    monkeypatch.setattr(site.rt.accounts, "find_session", find_and_wait)
    answer = await user.get(f"{owner.space}/events")
    assert (answer.status, answer.code) == (401, "SESSION_REVOKED")
    assert (await owner.get(f"{owner.space}/events")).status == 200


async def test_one_of_several_ports_watches_and_another_takes_over(
    site: Site, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    looks = 0

    async def look(within_s: float) -> list[bytes]:
        nonlocal looks
        assert within_s >= 60
        looks += 1
        return []

    monkeypatch.setattr(site.rt.accounts, "find_revoked", look)
    revocation = site.rt.revocation
    with revocation.asking() as asking:
        asking.identified("user", b"session")
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def watch_for_a_while() -> None:
                with first:
                    await revocation.watch()

            nursery.start_soon(watch_for_a_while)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(revocation.watch)
            await trio.sleep(10.5)
            assert looks == 10
            first.cancel()
            await trio.sleep(10.5)
            assert looks == 20
            nursery.cancel_scope.cancel()
