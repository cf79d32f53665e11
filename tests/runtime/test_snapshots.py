"""Lists with their states, and the number after which a subscription misses nothing."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors import BEGINNING, EntityPage, Place
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.runtime import (
    App,
    Domain,
    Index,
    InternalError,
    Limits,
    Reject,
    Runtime,
    Snapshot,
    UnavailableError,
    Workspace,
    World,
)
from tests.actors._world import Wall


class Card(msgspec.Struct, frozen=True):
    column: str
    rank: str | None
    moves: int = 0


class Put(msgspec.Struct, frozen=True):
    card_id: str
    column: str
    rank: str | None = None


class WasPut(msgspec.Struct, frozen=True):
    column: str
    rank: str | None


def card_domain(version: int = 1, *, index: Any = None) -> Domain[Card, Put, WasPut]:
    cards = Domain("card", state=Card, commands=Put, events=WasPut, version=version)

    @cards.decide
    def put(_card: Card | None, command: Put) -> WasPut:
        return WasPut(command.column, command.rank)

    @cards.evolve
    def was_put(card: Card | None, event: WasPut) -> Card:
        return Card(event.column, event.rank, 0 if card is None else card.moves + 1)

    cards.index(index or (lambda card: Index(keys=(f"in {card.column}",), sort=card.rank)))
    return cards


@pytest.fixture
def world() -> World:
    return Wall().world()


@pytest.fixture
def store(world: World) -> MemoryStore:
    return MemoryStore(world)


@asynccontextmanager
async def opened(
    store: MemoryStore,
    world: World,
    cards: Domain[Card, Put, WasPut],
    *,
    node_id: str = "n",
    **limits: Any,
) -> AsyncIterator[Runtime]:
    async with Runtime.open(
        app=App([cards]), store=store, world=world, node_id=node_id, limits=Limits(**limits)
    ) as rt:
        yield rt


def seen(snapshot: Snapshot[Card]) -> list[tuple[str, int]]:
    return [(item.entity_id, item.state.moves) for item in snapshot.items]


async def test_a_snapshot_and_what_follows_it_are_everything_once(
    store: MemoryStore, world: World
) -> None:
    cards = card_domain()
    async with opened(store, world, cards) as rt:
        acme = rt.workspace("acme")
        for number in range(5):
            await acme.send(Put(f"{number % 3}", "todo", f"{number}"))
        snapshot = await acme.snapshot(cards, key="in todo")
        assert (snapshot.event_seq, snapshot.next) == (5, None)
        assert seen(snapshot) == [("2", 0), ("0", 1), ("1", 1)], "by rank"
        assert [item.sort for item in snapshot.items] == ["2", "3", "4"]
        assert snapshot.items[0].keys == ("in todo",)
        await acme.send(Put("2", "done", "9"))
        async with acme.subscribe(after=snapshot.event_seq) as events:
            async for event in events:
                assert (event.event_seq, event.stream_id) == (6, "card:2")
                break
        assert seen(await acme.snapshot(cards, key="in todo")) == [("0", 1), ("1", 1)]
        assert seen(await acme.snapshot(cards)) == [("0", 1), ("1", 1), ("2", 1)]
        assert seen(await acme.snapshot(cards, key="")) == [("0", 1), ("1", 1), ("2", 1)]


async def test_a_number_read_between_commit_and_publish_is_waited_for(
    store: MemoryStore, world: World
) -> None:
    cards = card_domain()
    async with opened(store, world, cards) as rt:
        acme = rt.workspace("acme")
        await acme.send(Put("1", "todo"))
        hub = rt.service.directory.activate("acme").hub
        publish, gate, asked = hub.publish, trio.Event(), trio.Event()

        async def wait(*args: Any) -> None:
            asked.set()
            await gate.wait()
            await publish(*args)

        hub.publish = wait  # type: ignore[method-assign,assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acme.send, Put("2", "todo"))
            await asked.wait()
            snapshot = await acme.snapshot(cards)
            assert snapshot.event_seq == 2
            assert hub.head == 1
            nursery.start_soon(open_soon, gate)
            async with acme.subscribe(after=snapshot.event_seq):
                assert hub.head == 2


async def open_soon(gate: trio.Event) -> None:
    await trio.lowlevel.checkpoint()
    gate.set()


async def test_pages_are_the_whole_list(store: MemoryStore, world: World) -> None:
    cards = card_domain()
    async with opened(store, world, cards, list_bytes_max=1) as rt:
        acme = rt.workspace("acme")
        for number in range(7):
            await acme.send(Put(f"{number}", "todo", f"{number // 2}" if number else None))
        for key, limit in itertools.product((None, "", "in todo"), (1, 3, 100)):
            found: list[str] = []
            after: Place | None = BEGINNING
            while after is not None:
                page = await acme.snapshot(cards, key=key, after=after, limit=limit)
                assert len(page.items) == 1, "each has more than a byte"
                found += [item.entity_id for item in page.items]
                after = page.next
            assert found == [f"{number}" for number in range(1 if key == "" else 0, 7)]


async def test_who_was_removed_meanwhile_gets_nothing(store: MemoryStore, world: World) -> None:
    cards = card_domain()
    async with opened(store, world, cards) as rt:
        acme = rt.workspace("acme")
        await acme.send_all([PutMember("ada", "viewer"), Put("1", "todo")])
        ada = acme.acting(user_id="ada")
        assert seen(await ada.snapshot(cards)) == [("1", 0)]
        listing = store.list_entities

        async def remove_first(*args: Any, **more: Any) -> EntityPage:
            page = await listing(*args, **more)
            await acme.send(RemoveMember("ada"))
            return page

        store.list_entities = remove_first  # type: ignore[method-assign]
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await ada.snapshot(cards)
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await ada.snapshot(cards)


@pytest.mark.parametrize("key", ["k" * 10_000, "\0", "é" * 1_024, "a\nb"])
async def test_what_cannot_be_a_key_is_refused(store: MemoryStore, world: World, key: str) -> None:
    cards = card_domain(index=lambda card: Index(keys=(card.column,)))
    async with opened(store, world, cards) as rt:
        acme = rt.workspace("acme")
        if len(key) != 1_024:
            with pytest.raises(Reject, match="BAD_REQUEST"):
                await acme.snapshot(cards, key=key)
        with pytest.raises(Reject, match="BAD_REQUEST"):
            await acme.send(Put("1", key))
        assert seen(await acme.snapshot(cards)) == []


@pytest.mark.parametrize(
    "index",
    [
        Index(keys=tuple(f"{number}" for number in range(513))),
        Index(sort="s" * 257),
        Index(sort="é" * 200),
        Index(title="t" * 1_025),
        Index(keys=("",)),
    ],
)
async def test_an_index_that_its_columns_cannot_hold_is_refused(
    store: MemoryStore, world: World, index: Index
) -> None:
    cards = card_domain(index=lambda _card: index)
    async with opened(store, world, cards) as rt:
        with pytest.raises(Reject, match="BAD_REQUEST"):
            await rt.workspace("acme").send(Put("1", "todo"))
        assert await rt.workspace("acme").head() == 0


async def test_an_index_that_raises_fails_its_command_alone(
    store: MemoryStore, world: World
) -> None:
    cards = card_domain(index=lambda card: Index(keys=(card.column[0],)))
    async with opened(store, world, cards) as rt:
        acme = rt.workspace("acme")
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(acme.send, Put(f"{number}", "todo"))
            with pytest.raises(InternalError):
                await acme.send(Put("bad", ""))
        assert len((await acme.snapshot(cards, key="t")).items) == 5


# ------------------------------------------------------------------------------ other versions


async def test_what_an_earlier_version_listed_is_listed_anew_before_it_is_relied_on(
    store: MemoryStore, world: World
) -> None:
    early = card_domain()
    late = card_domain(2, index=lambda card: Index(keys=(card.column.upper(),), sort=card.rank))
    async with opened(store, world, early) as rt:
        for number in range(250):  # more than are listed anew at once
            await rt.workspace("acme").send(Put(f"{number:03}", "todo", "r"))
    async with opened(store, world, late) as rt:
        acme = rt.workspace("acme")
        assert len(await acme.entities(late, limit=1_000)) == 250, "by id nothing is asked of them"
        snapshot = await acme.snapshot(late, key="TODO", limit=1_000)
        assert seen(snapshot) == [(f"{number:03}", 0) for number in range(250)]
        assert snapshot.event_seq == 250, "no event was written"
        assert seen(await acme.snapshot(late, key="in todo")) == []
        await acme.send(Put("000", "done"))
        assert len((await acme.snapshot(late, key="TODO", limit=1_000)).items) == 249


async def test_listing_anew_keeps_what_is_decided_meanwhile(
    store: MemoryStore, world: World
) -> None:
    early = card_domain()
    late = card_domain(2, index=lambda card: Index(keys=(card.column.upper(),)))
    async with opened(store, world, early) as rt:
        for number in range(20):
            await rt.workspace("acme").send(Put(f"{number:02}", "todo"))
    async with opened(store, world, late) as rt:
        acme = rt.workspace("acme")
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(acme.send, Put(f"{number:02}", f"{number % 2}"))
                nursery.start_soon(acme.entities, late)
                nursery.start_soon(acme.snapshot, late)
                if number % 5 == 0:
                    nursery.start_soon(list_by_key, acme, late)
        assert len((await acme.snapshot(late, key="0")).items) == 10
        assert len((await acme.snapshot(late, key="1")).items) == 10
        for item in (await acme.snapshot(late)).items:
            assert item.state.moves == 1
            assert item.keys == (item.state.column,)


async def list_by_key(workspace: Workspace, cards: Domain[Card, Put, WasPut]) -> None:
    await workspace.snapshot(cards, key="TODO")


async def test_two_versions_on_one_store_list_what_each_has_written(
    store: MemoryStore, world: World
) -> None:
    """The owner is asked; the other says who that is."""
    early = card_domain()
    late = card_domain(2, index=lambda card: Index(keys=(card.column.upper(),)))
    async with (
        opened(store, world, early, node_id="a") as a,
        opened(store, world, late, node_id="b") as b,
    ):
        await a.workspace("acme").send(Put("1", "todo"))
        await b.workspace("other").send(Put("1", "todo"))
        with pytest.raises(UnavailableError, match="WORKSPACE_MOVED"):
            await b.workspace("acme").snapshot(late, key="TODO")
        assert len((await b.workspace("acme").snapshot(late)).items) == 1
        assert len((await a.workspace("acme").snapshot(early, key="in todo")).items) == 1
        assert len((await b.workspace("other").snapshot(late, key="TODO")).items) == 1


@pytest.mark.parametrize("is_released", [False, True])
async def test_an_earlier_program_does_not_own_what_a_later_one_has(
    store: MemoryStore, world: World, is_released: bool
) -> None:
    cards = card_domain()
    for version in (0, 1, 3):
        async with Runtime.open(
            app=App([cards], version=version), store=store, world=world, node_id="n"
        ) as rt:
            await rt.workspace("acme").send(Put(f"{version}", "todo"))
    if is_released:
        head = await store.read_head("acme")
        assert head is not None
        assert await store.release("acme", head.epoch)
    async with Runtime.open(
        app=App([cards], version=2), store=store, world=world, node_id="n"
    ) as rt:
        with pytest.raises(UnavailableError, match="CODE_TOO_OLD") as refused:
            await rt.workspace("acme").send(Put("2", "todo"))
        assert refused.value.details == {"needed": 3, "running": 2}
        with pytest.raises(UnavailableError, match="CODE_TOO_OLD"):
            async with rt.workspace("acme").subscribe():
                pass
        await rt.workspace("another").send(Put("2", "todo"))
        assert await store.lower_app_version(2, actor="an operator") == 1
        with trio.fail_after(60):
            await rt.workspace("acme").send(Put("2", "todo"))
        (entry,) = await rt.workspace("acme").records()
        assert (entry.actor_id, entry.action) == ("an operator", "app_version")
