"""Lists cost as many reads as they have pages, and show nobody what is no longer theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from dalsegno.actors.domains.accounts import CreateSpace, DisableUser, RegisterUser, SetUp
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.runtime import Runtime
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web._membership import members_of, memberships

from .conftest import open_site

if TYPE_CHECKING:
    from dalsegno.actors import Store


BY_THE_CLOCK = frozenset({"beat", "read_heads"})
"""What a runtime asks every other second, whatever it is asked."""


class Reads:
    """A store that counts its calls, and where something may happen behind the next of a kind.

    Nothing is collected into the audit's log: that would be counted whenever it comes about.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.behind: dict[str, Callable[[], Awaitable[object]]] = {}

    def append_nowait(self, _batches: object) -> None:
        """Have everything appended by a call that is counted."""

    async def may_collect(self, _node_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += name not in BY_THE_CLOCK
            found = await method(*args, **kwargs)
            happens = self.behind.pop(name, None)
            if happens is not None:
                await happens()
            return found

        return call


def as_store(reads: Reads) -> Store:
    return cast("Store", reads)


async def fill(memory: MemoryStore, count: int) -> None:
    """Make a user with so many workspaces, one of which has so many members."""
    async with Runtime.open(store=memory) as rt:
        await rt.system.send(
            SetUp(
                user_id="ada",
                email="ada@example.com",
                display_name="Ada",
                workspace_id="main",
                slug="main",
                name="Main",
            )
        )
        for n in range(count):
            await rt.system.send(
                RegisterUser(
                    user_id=f"u{n}", email=f"u{n}@example.com", display_name="U", role="viewer"
                )
            )
            await rt.workspace("main").send(PutMember(f"u{n}", "viewer"))
            founder = "ada" if n % 2 else "u0"
            await rt.system.send(
                CreateSpace(workspace_id=f"w{n}", slug=f"w{n}", name="W", owner_id=founder)
            )
            if founder == "u0":
                await rt.workspace(f"w{n}").send(PutMember("ada", "editor"))


async def reads_of_lists(count: int) -> dict[str, Counter[str]]:
    """The reads of each list of so many items, of a runtime that has nothing in memory."""
    memory = MemoryStore(WORLD)
    await fill(memory, count)
    told = {}
    for name in ("workspaces", "members"):
        reads = Reads(memory)
        async with Runtime.open(store=as_store(reads)) as rt:
            reads.calls.clear()
            if name == "workspaces":
                items, _ = await memberships(rt, "ada", limit=1000)
                assert [item.role for item in items].count("owner") == 1 + count // 2
            else:
                page = await members_of(rt, "main", reader_id="u0", after="", limit=1000)
                items = page[0]  # type: ignore[assignment]
                assert all(user is not None for _, _, user in page[0])
            assert len(items) == count + 1
            told[name] = reads.calls.copy()
    return told


async def test_a_page_costs_the_same_reads_however_much_is_on_it() -> None:
    few, many = await reads_of_lists(3), await reads_of_lists(40)
    assert few == many
    assert many["workspaces"] == {"list_entities": 1, "locate": 1, "load_many": 1}
    assert many["members"]["load_many"] == 1
    assert many["members"].total() <= 5, "who asks, who founded it, and the page"


async def test_so_does_a_page_of_users_and_a_log_in() -> None:
    memory = MemoryStore(WORLD)
    counts = []
    async with open_site(store=as_store(reads := Reads(memory))) as site:
        owner = await site.set_up()
        for _ in range(2):
            reads.calls.clear()
            answer = await owner.get("/api/users?limit=1000")
            assert answer.status == 200
            assert (await owner.get("/api/auth/session")).status == 200
            counts.append(dict(reads.calls))
            for _ in range(5):
                user = await site.add_user()
                await site.rt.workspace(f"w{user.id}").send(PutMember(owner.id, "viewer"))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("page", ["members", "events"])
async def test_i8_a_page_that_was_read_after_a_removal_is_not_given(page: str) -> None:
    """The reader was a member when it asked, and removed before the page was read."""
    reads = Reads(MemoryStore(WORLD))
    async with open_site(store=as_store(reads)) as site:
        owner = await site.set_up()
        member = await site.add_member(owner, "editor")
        workspace = site.rt.workspace(owner.workspace_id)

        async def remove() -> None:
            await workspace.send(RemoveMember(member.id))
            await workspace.send(PutMember("somebody", "viewer"))

        assert (await member.get(f"{owner.space}/{page}")).status == 200
        reads.behind["list_entities" if page == "members" else "read_events"] = remove
        answer = await member.get(f"{owner.space}/{page}")
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")


async def test_i8_users_are_not_listed_for_who_is_no_admin_by_then() -> None:
    reads = Reads(MemoryStore(WORLD))
    async with open_site(store=as_store(reads)) as site:
        await site.set_up()
        admin = await site.add_user("admin")

        async def disable() -> None:
            await site.rt.system.send(DisableUser(admin.id))

        reads.behind["list_entities"] = disable
        answer = await admin.get("/api/users")
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
