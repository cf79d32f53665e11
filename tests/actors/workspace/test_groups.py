"""What concerns several entities: commands in a group, all or none, and ``follows=``."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Receipt, World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import (
    Context,
    Domain,
    DomainError,
    InternalError,
    Limits,
    On,
    OutcomeUnknownError,
    Reject,
    Touched,
)
from tests.actors._boxes import Box, Expect, Fail, Fill, Move, Put, Restore, WasBurned, boxes
from tests.actors._world import (
    DOMAINS,
    Actors,
    Fault,
    FaultyStore,
    applied_unknown,
    away,
    check_log,
    eventually,
    held,
    log_of,
    lost_unknown,
    post_all,
    running,
)


class Basket(msgspec.Struct, frozen=True):
    holds: tuple[str, ...]


class Hold(msgspec.Struct, frozen=True):
    basket_id: str | None
    box_ids: tuple[str, ...]


class EmptyOut(msgspec.Struct, frozen=True):
    """Burns every box that the basket holds; another box may be named that is burned too."""

    basket_id: str


class Peek(msgspec.Struct, frozen=True):
    """Reads a box that it did not name."""

    basket_id: str


class Chase(msgspec.Struct, frozen=True):
    """Its ``follows=`` never names the same twice: impure, and without an end."""

    basket_id: str


class Lose(msgspec.Struct, frozen=True):
    """Its ``follows=`` raises."""

    basket_id: str


class Held(msgspec.Struct, frozen=True):
    box_ids: tuple[str, ...]


class Emptied(msgspec.Struct, frozen=True):
    by: str


baskets = Domain(
    "basket",
    state=Basket,
    commands=Hold | EmptyOut | Peek | Chase | Lose,
    events=Held | Emptied,
)
_chased = itertools.count()

Named = Sequence[tuple[Domain[Any, Any, Any], str]]


def _held_by(basket: Basket | None, _command: object) -> Named:
    return [] if basket is None else [(boxes, box_id) for box_id in basket.holds]


def _never_the_same(_basket: Basket, _command: object) -> Named:
    return [(boxes, f"chased-{next(_chased)}")]


def _mistaken(_basket: Basket, _command: object) -> Named:
    raise ZeroDivisionError("a bug in follows=")


@baskets.decide
def _hold(_basket: Basket | None, command: Hold) -> Held:
    return Held(command.box_ids)


@baskets.decide(follows=_held_by)
def _empty_out(
    basket: Basket, _command: EmptyOut, touched: Touched, context: Context
) -> Sequence[Emptied | On[Any]]:
    there = [box_id for box_id in basket.holds if touched.get(boxes, box_id) is not None]
    return [Emptied(context.entity_id), *(On(boxes, box_id, WasBurned()) for box_id in there)]


@baskets.decide(follows=_held_by)
def _peek(_basket: Basket, _command: Peek, touched: Touched) -> None:
    touched.get(boxes, "elsewhere")


@baskets.decide(follows=_never_the_same)
def _chase(_basket: Basket, _command: Chase) -> Emptied:
    return Emptied("never")


@baskets.decide(follows=_mistaken)
def _lose(_basket: Basket, _command: Lose) -> Emptied:
    return Emptied("never")


@baskets.evolve
def _held(_basket: Basket | None, event: Held) -> Basket:
    return Basket(event.box_ids)


@baskets.evolve
def _emptied(_basket: Basket, _event: Emptied) -> Basket:
    return Basket(())


@pytest.fixture
async def actors(store: FaultyStore, world: World) -> AsyncIterator[Actors]:
    async with running(store, world, domains=[*DOMAINS, baskets]) as running_actors:
        yield running_actors


async def types_of(store: FaultyStore) -> list[str]:
    return [f"{event.stream_id} {event.type}" for event in await check_log(store)]


async def refused(actors: Actors, commands: Sequence[Any], **how: Any) -> Reject:
    with pytest.raises(Reject) as caught:
        await actors.workspace().send_all(commands, **how)
    return caught.value


# ------------------------------------------------------------------------------------- follows=


async def test_a_command_changes_entities_that_its_state_names(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    for box_id in "abc":
        await workspace.send(Put(box_id))
    await workspace.send(Hold("x", ("a", "c", "not there")))
    receipt = await workspace.send(EmptyOut("x"))
    assert (receipt.event_seq, receipt.version) == (7, 2)
    assert (await types_of(store))[4:] == [
        "basket:x emptied",
        "box:a was_burned",
        "box:c was_burned",
    ]
    assert await workspace.get(boxes, "a") is None
    assert await workspace.get(boxes, "b") is not None
    assert (await log_of(store))[4].payload == '{"by":"x"}'


async def test_they_are_loaded_where_they_are_not_in_memory(
    store: FaultyStore, world: World
) -> None:
    domains = [*DOMAINS, baskets]
    async with running(store, world, domains=domains) as actors:
        await actors.workspace().send(Put("a"))
        await actors.workspace().send(Hold("x", ("a",)))
    async with running(store, world, domains=domains) as actors:
        await actors.workspace().send(EmptyOut("x"))
        assert await actors.workspace().get(boxes, "a") is None
    await check_log(store)


async def test_nothing_is_decided_between_the_look_up_and_the_decision(
    actors: Actors, store: FaultyStore
) -> None:
    """What is sent while it loads comes after it, also where the load takes long."""
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    await workspace.send(Hold("x", ("a", "b")))
    gate = trio.Event()
    store.before["load_entities"] = gate.wait
    posted = post_all(workspace, [EmptyOut("x"), Put("a", "after"), Put("warm")])
    await trio.testing.wait_all_tasks_blocked()
    gate.set()
    for one in posted:
        assert isinstance(await one.wait(), Receipt)
    assert (await types_of(store))[2:] == [
        "basket:x emptied",
        "box:a was_burned",
        "box:a was_put",
        "box:warm was_put",
    ]


async def test_what_was_not_named_is_not_seen(actors: Actors, store: FaultyStore) -> None:
    workspace = actors.workspace()
    await workspace.send(Hold("x", ("a",)))
    for wrong in (Peek("x"), Lose("x"), Chase("x")):
        with pytest.raises(InternalError):
            await workspace.send(wrong)
    assert await types_of(store) == ["basket:x held"]
    assert actors.incarnations() == 1, "a fault of one command's own"


async def test_a_command_follows_a_bounded_number(actors: Actors, store: FaultyStore) -> None:
    workspace, most = actors.workspace(), actors.service.limits.command_entities_max
    ids = tuple(f"b{number}" for number in range(most + 1))
    await workspace.send(Hold("x", ids[:-1]))
    await workspace.send(EmptyOut("x"))
    await workspace.send(Hold("x", ids))
    with pytest.raises(Reject, match="at most 256 entities"):
        await workspace.send(EmptyOut("x"))
    assert len(await types_of(store)) == 3


def test_touched_needs_a_declaration() -> None:
    domain = Domain("basket", state=Basket, commands=EmptyOut, events=Held | Emptied)
    with pytest.raises(DomainError, match="without touches= or follows="):

        @domain.decide()
        def _empty(_basket: Basket, _command: EmptyOut, _touched: Touched) -> None:
            return None


# -------------------------------------------------------------------------------------- send_all


async def test_a_group_is_decided_in_order_each_on_what_those_before_it_made(
    actors: Actors, store: FaultyStore
) -> None:
    receipts = await actors.workspace().send_all(
        [
            Put("a", "1"),
            Put("a", "2", base_version=1),
            Expect("a", "2"),
            Move("a", "b"),
            Hold(None, ("b",)),
        ]
    )
    assert [(one.event_seq, one.stream_id, one.version) for one in receipts[:4]] == [
        (1, "box:a", 1),
        (2, "box:a", 2),
        (2, "box:a", 2),
        (4, "box:a", 3),
    ]
    assert receipts[4].event_seq == 5
    assert len({one.command_id for one in receipts}) == 5
    assert (await types_of(store))[:4] == [
        "box:a was_put",
        "box:a was_put",
        "box:a was_burned",
        "box:b was_put",
    ]
    assert len(store.statements) == 1


async def test_a_group_is_all_or_none(actors: Actors, store: FaultyStore) -> None:
    await actors.workspace().send(Put("a"))
    error = await refused(actors, [Put("a", "x"), Put("b"), Expect("b", "other"), Put("c")])
    assert (error.code, error.details) == ("BOX_DIFFERS", {"found": "", "command": 2})
    error = await refused(actors, [Put("a", "x"), Put("a", "y", base_version=1)])
    assert error.code == "VERSION_CONFLICT"
    assert (error.details["command"], error.details["current_version"]) == (1, 2)
    with pytest.raises(InternalError):
        await actors.workspace().send_all([Put("a", "x"), Fail("a")])
    assert await types_of(store) == ["box:a was_put"]
    assert (await actors.workspace().send(Put("a"))).version == 2


async def test_a_group_takes_effect_under_the_role_that_it_gives(
    actors: Actors, store: FaultyStore
) -> None:
    await actors.workspace().send_all([PutMember("u1", "owner"), PutMember("u2", "viewer")])
    owner = actors.workspace().acting(user_id="u1")
    viewer = actors.workspace().acting(user_id="u2")
    with pytest.raises(Reject) as caught:
        await viewer.send_all([Put("a"), Put("b")])
    assert (caught.value.code, caught.value.details["command"]) == ("ROLE_FORBIDDEN", 0)
    with pytest.raises(Reject) as caught:
        await owner.send_all([PutMember("u3", "owner"), RemoveMember("u1"), Put("a")])
    assert (caught.value.code, caught.value.details["command"]) == ("ROLE_FORBIDDEN", 2)
    receipts = await owner.send_all([Put("a"), PutMember("u2", "editor"), Put("b")])
    assert [one.version for one in receipts] == [1, 2, 1]


async def test_a_group_follows_what_it_made_itself(actors: Actors, store: FaultyStore) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("old"))
    await workspace.send_all([Put("new"), Hold("x", ("new", "old", "gone")), EmptyOut("x")])
    assert await workspace.get(boxes, "new") is None
    assert await workspace.get(boxes, "old") is None
    assert (await types_of(store))[1:] == [
        "box:new was_put",
        "basket:x held",
        "basket:x emptied",
        "box:new was_burned",
        "box:old was_burned",
    ]


async def test_a_past_version_in_a_group_is_one_from_before_it(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "old"))
    await workspace.send_all([Put("a", "new"), Restore("a", 1)])
    assert await workspace.get(boxes, "a") == Box("old", 3)
    assert (await refused(actors, [Put("b", "new"), Restore("b", 1)])).code == "BOX_NOT_FOUND"
    await check_log(store)


async def test_i5_a_groups_key_is_answered_with_all_of_its_receipts(
    store: FaultyStore, world: World
) -> None:
    commands = [Put("a", "1"), Expect("a", "1"), Put("b", "2")]
    async with running(store, world) as actors:
        first = await actors.workspace().send_all(commands, key="k")
        again = await actors.workspace().send_all(commands, key="k")
        assert [msgspec.structs.replace(one, repeated=False) for one in again] == first
        assert all(one.repeated for one in again)
    async with running(store, world) as actors:
        assert await actors.workspace().send_all(commands, key="k") == again
        for other in (commands[:2], [*commands, Put("c")], [Put("a", "x"), *commands[1:]]):
            assert (await refused(actors, other, key="k")).code == "STATE_CONFLICT"
        assert (await actors.workspace().send(Put("a", "alone"), key="k")).event_seq == 3
    assert len(await check_log(store)) == 3


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown, away])
async def test_i4_a_group_whose_outcome_was_unknown_is_answered_and_not_applied_twice(
    actors: Actors, store: FaultyStore, fault: Fault
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "0"))
    store.faults.append(fault)
    receipts = await workspace.send_all(
        [Expect("a", "0"), Put("a", "1"), Put("b"), Expect("b", "")]
    )
    assert [(one.event_seq, one.stream_id) for one in receipts] == [
        (1, "box:a"),
        (2, "box:a"),
        (3, "box:b"),
        (3, "box:b"),
    ]
    assert len(await check_log(store)) == 3
    assert actors.incarnations() == 2


async def test_a_group_that_has_to_load_while_batches_commit_is_decided_anew(
    actors: Actors, store: FaultyStore
) -> None:
    """Earlier commands settle, or are refused, while it waits; it sees them, and comes once."""
    workspace = actors.workspace()
    await workspace.send(Hold("x", ("a", "b")))
    gate, loaded = trio.Event(), trio.Event()
    store.faults.append(held(gate))

    async def load() -> None:
        if gate.is_set():
            return
        gate.set()
        await loaded.wait()

    async with trio.open_nursery() as nursery:
        posted = post_all(workspace, [Put("a", "1"), Put("a", "2")])
        await trio.testing.wait_all_tasks_blocked()
        store.before["load_entities"] = load
        nursery.start_soon(workspace.send_all, [Hold("y", ()), EmptyOut("x"), Put("a", "3")])
        await eventually(lambda: all(one.answer for one in posted))
        loaded.set()
    assert (await types_of(store))[1:] == [
        "box:a was_put",
        "box:a was_put",
        "basket:y held",
        "basket:x emptied",
        "box:a was_burned",
        "box:a was_put",
    ]


async def test_a_group_is_bounded(actors: Actors, store: FaultyStore) -> None:
    workspace, limits = actors.workspace(), actors.service.limits
    assert await workspace.send_all([]) == []
    many = [Put(f"b{number}") for number in range(limits.group_commands_max)]
    assert len(await workspace.send_all(many)) == 100
    assert (await refused(actors, [*many, Put("one more")])).code == "BAD_REQUEST"
    fills = [Fill("a", 128), Fill("a", 128)]
    assert (await workspace.send_all(fills))[1].version == 256
    error = await refused(actors, [*fills, Put("a")])
    assert (error.code, error.details) == ("BAD_REQUEST", {"command": 2})
    long = "x" * (1_000 * 1_024)
    assert (await refused(actors, [Put("a", long), Put("a", long), Put("a", long)])).code == (
        "BAD_REQUEST"
    )
    assert (await refused(actors, [Put("a", "\ud800")])).code == "BAD_REQUEST"
    assert (await refused(actors, [Put("a"), Put("b")], key="k" * 257)).code == "BAD_REQUEST"
    assert len(await check_log(store)) == 356


async def test_a_cancelled_caller_finds_its_group_by_the_key(
    actors: Actors, store: FaultyStore
) -> None:
    gate = trio.Event()
    store.faults.append(held(gate))
    commands = [Put("a"), Put("b")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: actors.workspace().send_all(commands, key="k"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    gate.set()
    receipts = await actors.workspace().send_all(commands, key="k")
    assert [one.repeated for one in receipts] == [True, True]
    assert len(await check_log(store)) == 2


async def test_a_group_that_waits_too_long_is_unknown_once(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(command_deadline_s=2.0, commit_deadline_s=60.0)
    async with running(store, world, limits=limits) as actors:
        gate = trio.Event()
        store.faults.append(held(gate))
        with pytest.raises(OutcomeUnknownError):
            await actors.workspace().send_all([Put("a"), Put("b")])
        gate.set()
        await eventually(lambda: actors.service.directory.statistics()["w"].head == 2)
