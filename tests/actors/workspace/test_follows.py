"""Entities beside a command's own: those that ``follows=`` finds, and those that it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors import Receipt, World
from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import (
    Context,
    Domain,
    DomainError,
    InternalError,
    Limits,
    On,
    Reject,
    Touched,
)
from dalsegno.runtime import Workspace
from tests.actors._boxes import Box, Expect, Fail, Put, WasBurned, WasPut, boxes
from tests.actors._world import (
    DOMAINS,
    Actors,
    Fault,
    FaultyStore,
    applied_unknown,
    away,
    check_log,
    held,
    lost_unknown,
    post_all,
    refusal,
    running,
)


class Crate(msgspec.Struct, frozen=True):
    holds: tuple[str, ...] = ()


class Pack(msgspec.Struct, frozen=True):
    crate_id: str
    box_ids: tuple[str, ...]


class Spill(msgspec.Struct, frozen=True):
    """Burns every box that another crate holds."""

    crate_id: str
    other_id: str


class Pry(msgspec.Struct, frozen=True):
    """Its ``follows=`` looks at a crate that ``touches=`` did not name."""

    crate_id: str
    other_id: str


class Split(msgspec.Struct, frozen=True):
    """Makes a box for each text, and holds them."""

    crate_id: str | None
    texts: tuple[str, ...]


class Nest(msgspec.Struct, frozen=True):
    """Makes a crate and a box of one id: the box changes twice, and the crate holds it."""

    crate_id: str


class Forge(msgspec.Struct, frozen=True):
    """Makes a box under an id that nobody gave it, beside one that was given."""

    crate_id: str
    box_id: str | None


class Packed(msgspec.Struct, frozen=True):
    box_ids: tuple[str, ...]


crates = Domain(
    "crate", state=Crate, commands=Pack | Spill | Pry | Split | Nest | Forge, events=Packed
)

Named = Sequence[tuple[Domain[Any, Any, Any], str]]
given: list[str] = []
"""The ids that `Split` was given, all of them."""


def _other(command: Spill | Pry) -> Named:
    return [(crates, command.other_id)]


def _in_the_other(_crate: Crate | None, command: Spill, touched: Touched) -> Named:
    other = touched.get(crates, command.other_id)
    return [] if other is None else [(boxes, box_id) for box_id in other.holds]


def _in_a_third(_crate: Crate | None, _command: Pry, touched: Touched) -> Named:
    touched.get(crates, "a third")
    return []


@crates.decide
def _pack(_crate: Crate | None, command: Pack) -> Packed:
    return Packed(command.box_ids)


@crates.decide(touches=_other, follows=_in_the_other)
def _spill(crate: Crate | None, command: Spill, touched: Touched) -> Sequence[On[Any]]:
    found = [box_id for _, box_id in _in_the_other(crate, command, touched)]
    there = [box_id for box_id in found if touched.get(boxes, box_id) is not None]
    emptied = On(crates, command.other_id, Packed(()))
    return [emptied, *(On(boxes, box_id, WasBurned()) for box_id in there)]


@crates.decide(touches=_other, follows=_in_a_third)
def _pry(_crate: Crate | None, _command: Pry) -> Packed:
    return Packed(())


@crates.decide
def _split(_crate: Crate | None, command: Split, context: Context) -> Sequence[Packed | On[Any]]:
    made = {context.new_id(): text for text in command.texts}
    given.extend(made)
    return [Packed(tuple(made)), *(On(boxes, each, WasPut(text)) for each, text in made.items())]


@crates.decide
def _nest(_crate: Crate | None, _command: Nest, context: Context) -> Sequence[Packed | On[Any]]:
    new = context.new_id()
    return [
        On(boxes, new, WasPut("first")),
        Packed((new,)),
        On(crates, new, Packed((new,))),
        On(boxes, new, WasPut("second")),
    ]


@crates.decide
def _forge(_crate: Crate | None, command: Forge, context: Context) -> Sequence[On[Any]]:
    new = context.new_id()
    forged = context.entity_id if command.box_id is None else command.box_id
    return [On(boxes, new, WasPut("given")), On(boxes, forged, WasPut("forged"))]


@crates.evolve
def _packed(_crate: Crate | None, event: Packed) -> Crate:
    return Crate(event.box_ids)


SERVED = [*DOMAINS, crates]


@pytest.fixture
async def actors(store: FaultyStore, world: World) -> AsyncIterator[Actors]:
    given.clear()
    async with running(store, world, domains=SERVED) as running_actors:
        yield running_actors


async def types_of(store: FaultyStore) -> list[str]:
    return [f"{event.stream_id} {event.type}" for event in await check_log(store)]


async def held_by(workspace: Workspace, crate_id: str) -> tuple[str, ...]:
    crate = await workspace.get(crates, crate_id)
    assert crate is not None
    return crate.holds


async def put_and_packed(workspace: Workspace, crate_id: str, *box_ids: str) -> None:
    for box_id in box_ids:
        await workspace.send(Put(box_id))
    await workspace.send(Pack(crate_id, box_ids))


# ------------------------------------------------------------------- follows= from touched states


async def test_entities_are_found_from_the_states_of_those_that_were_touched(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await put_and_packed(workspace, "full", "a", "b")
    await workspace.send(Put("c"))
    receipt = await workspace.send(Spill("x", "full"))
    assert (receipt.event_seq, receipt.version) == (7, 0), "its own entity is none still"
    assert (await types_of(store))[4:] == [
        "crate:full packed",
        "box:a was_burned",
        "box:b was_burned",
    ]
    assert await workspace.get(boxes, "c") is not None
    receipt = await workspace.send(Spill("x", "none"))
    assert (await types_of(store))[receipt.event_seq - 1 :] == ["crate:none packed"]


async def test_they_are_loaded_however_few_are_in_memory(store: FaultyStore, world: World) -> None:
    """The one that was touched is loaded with the command, and those that it names after that."""
    loaded: list[int] = []

    async def load() -> None:
        loaded.append(1)

    limits = Limits(entities_cached_max=1)
    async with running(store, world, domains=SERVED, limits=limits) as actors:
        workspace = actors.workspace()
        await put_and_packed(workspace, "full", "a", "b")
        await workspace.send(Put("elsewhere"))
        store.before["load_entities"] = load
        await workspace.send(Spill("x", "full"))
        assert len(loaded) == 2
        assert await held_by(workspace, "full") == ()
    assert (await types_of(store))[-2:] == ["box:a was_burned", "box:b was_burned"]


async def test_they_are_those_of_the_moment_in_which_it_is_decided(
    actors: Actors, store: FaultyStore
) -> None:
    """Of what was decided just before, and is not committed yet."""
    workspace = actors.workspace()
    await put_and_packed(workspace, "full", "a")
    gate = trio.Event()
    store.faults.append(held(gate))
    posted = post_all(
        workspace, [Put("b"), Pack("full", ("b",)), Spill("x", "full"), Spill("y", "full")]
    )
    gate.set()
    for one in posted:
        assert isinstance(await one.wait(), Receipt)
    assert (await types_of(store))[2:] == [
        "box:b was_put",
        "crate:full packed",
        "crate:full packed",
        "box:b was_burned",
        "crate:full packed",
    ]


async def test_follows_sees_no_more_than_was_touched(actors: Actors, store: FaultyStore) -> None:
    with pytest.raises(InternalError):
        await actors.workspace().send(Pry("x", "y"))
    assert await types_of(store) == []
    assert actors.incarnations() <= 1, "a fault of one command's own"


async def test_what_is_touched_and_what_is_followed_are_bounded_together(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(command_entities_max=3)
    async with running(store, world, domains=SERVED, limits=limits) as actors:
        user = actors.workspace().acting(user_id="u")
        await actors.workspace().send(PutMember("u", "owner"))
        await user.send(Pack("full", ("a", "b")))
        await user.send(Spill("x", "full"))
        await user.send(Pack("full", ("a", "b", "a")))
        await user.send(Spill("x", "full"))
        await user.send(Pack("full", ("a", "b", "c")))
        error = await refusal(user, Spill("x", "full"))
    assert (error.code, error.message) == ("BAD_REQUEST", "a command concerns at most 3 entities")


def test_follows_takes_what_was_touched_where_it_has_to_be_given() -> None:
    def with_a_default(_crate: Crate | None, _command: Spill, most: int = 3) -> Named:
        return [(boxes, str(number)) for number in range(most)]

    domain = Domain("crate", state=Crate, commands=Spill, events=Packed)

    @domain.decide(touches=_other, follows=with_a_default)
    def _spill(_crate: Crate | None, _command: Spill) -> None:
        return None

    assert not domain.decider(Spill).follows_touched
    assert crates.decider(Spill).follows_touched


def test_follows_of_what_was_touched_needs_touches() -> None:
    domain = Domain("crate", state=Crate, commands=Spill, events=Packed)
    with pytest.raises(DomainError, match="follows= of Touched without touches="):

        @domain.decide(follows=_in_the_other)
        def _spill(_crate: Crate | None, _command: Spill, _touched: Touched) -> None:
            return None


# ------------------------------------------------------------------------------ further entities


async def test_an_id_that_was_given_names_a_further_entity(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    receipt = await workspace.send(Split("x", ("one", "two")))
    assert (receipt.event_seq, receipt.entity_id, receipt.version) == (3, "x", 1)
    one, two = await held_by(workspace, "x")
    assert await types_of(store) == [
        "crate:x packed",
        f"box:{one} was_put",
        f"box:{two} was_put",
    ]
    assert await workspace.get(boxes, one) == Box("one")
    found = await workspace.look(boxes, two)
    assert found is not None
    assert (found.version, found.state) == (1, Box("two"))
    assert await store.locate(f"box:{two}") == ["w"]
    listed = await workspace.entities(boxes)
    assert {each.title for each in listed} == {"one", "two"}
    async with workspace.of(boxes).subscribe(two) as events:
        recorded = await events.__anext__()
        assert (recorded.record.stream_seq, recorded.event) == (1, WasPut("two"))
    assert (await workspace.send(Put(one, "anew", base_version=1))).version == 2


async def test_it_names_one_of_any_domain_and_may_change_more_than_once(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    receipt = await workspace.send(Nest("x"))
    assert (receipt.event_seq, receipt.version) == (4, 1)
    (new,) = await held_by(workspace, "x")
    assert await types_of(store) == [
        f"box:{new} was_put",
        "crate:x packed",
        f"crate:{new} packed",
        f"box:{new} was_put",
    ]
    assert await workspace.get(boxes, new) == Box("second", 2)
    assert await held_by(workspace, new) == (new,)


async def test_an_id_that_was_not_given_names_none(actors: Actors, store: FaultyStore) -> None:
    """Neither one of the program's, nor the command's own, nor one given to an earlier command."""
    workspace = actors.workspace()
    await workspace.send(Split("x", ("one",)))
    for forged in ("mine", "00000000-0000-7000-8000-000000000000", None, *given):
        with pytest.raises(InternalError):
            await workspace.send(Forge("y", forged))
    assert len(await types_of(store)) == 2, "and what was given is not made either"
    assert actors.incarnations() == 1


async def test_many_of_them_are_made_at_once_and_stored_with_their_states(
    store: FaultyStore, world: World
) -> None:
    given.clear()
    limits = Limits(state_lag_bytes_max=1_000, entities_cached_max=4)
    texts = tuple(f"{number} " + "x" * 1_000 for number in range(255))
    async with running(store, world, domains=SERVED, limits=limits) as actors:
        await actors.workspace().send(Split("x", texts))
        error = await refusal(actors.workspace(), Split("y", (*texts, "one more")))
        assert error.code == "BAD_REQUEST", "it has 257 events"
        await actors.workspace().send(Spill("y", "x"))
    streams = [f"box:{each}" for each in given[:255]]
    stored = await store.load_entities("w", streams, {"box": boxes.version})
    assert {each.version for each in stored.values()} == {2}
    log = await check_log(store)
    assert [event.stream_id for event in log[1:256]] == streams
    (batch,) = store.statements[0]
    stored_at_once = {entity.stream_id for entity in batch.entities if entity.state is not None}
    assert stored_at_once >= {*streams}
    assert len(log) == 2 * 256


async def test_their_states_are_paid_for_as_others_are(store: FaultyStore, world: World) -> None:
    texts = tuple("x" * 1_000 for _ in range(20))
    codes = []
    for lag in (64_000, 1_000):  # without states, and with them
        limits = Limits(state_lag_bytes_max=lag, written_bytes_per_minute=30_000)
        workspace_id = f"w{lag}"
        async with running(store, world, domains=SERVED, limits=limits) as actors:
            await actors.workspace(workspace_id).send(PutMember("u", "editor"))
            user = actors.workspace(workspace_id).acting(user_id="u")
            await user.send(Split("x", texts))
            (one,) = post_all(user, [Split("y", ("z",))])
            await one.wait()
            codes.append(one.code)
    assert codes == [None, "RATE_LIMITED"]


async def test_they_are_followed_before_their_command_is_committed(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("warm"))
    gate = trio.Event()
    store.faults.append(held(gate))
    posted = post_all(workspace, [Put("warm"), Split("x", ("one", "two")), Spill("y", "x")])
    gate.set()
    for one in posted:
        assert isinstance(await one.wait(), Receipt)
    first, second = given
    assert (await types_of(store))[2:] == [
        "crate:x packed",
        f"box:{first} was_put",
        f"box:{second} was_put",
        "crate:x packed",
        f"box:{first} was_burned",
        f"box:{second} was_burned",
    ]


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown, away])
async def test_i4_they_are_made_once_whatever_became_of_the_commit(
    actors: Actors, store: FaultyStore, fault: Fault
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("warm"))
    store.faults.append(fault)
    receipt = await workspace.send(Split("x", ("one", "two")), key="k")
    assert (receipt.event_seq, receipt.version) == (4, 1)
    again = await workspace.send(Split("x", ("one", "two")), key="k")
    assert (again.event_seq, again.repeated) == (4, True)
    made = await held_by(workspace, "x")
    assert [each.text for box_id in made if (each := await workspace.get(boxes, box_id))] == [
        "one",
        "two",
    ]
    assert len(await check_log(store)) == 4


# --------------------------------------------------------------------------------- within a group


async def test_a_group_makes_entities_and_follows_them(actors: Actors, store: FaultyStore) -> None:
    """One of its crates is not in memory, so that all of it is decided anew, with other ids."""
    workspace = actors.workspace()
    await put_and_packed(workspace, "old", "a")
    async with running(store, actors.service.world, domains=SERVED) as actors:
        workspace = actors.workspace()
        receipts = await workspace.send_all(
            [Split("x", ("one", "two")), Spill("y", "old"), Nest("z"), Spill("y", "x")]
        )
        assert [each.event_seq for each in receipts] == [5, 7, 11, 14]
        assert [each.version for each in receipts] == [1, 0, 1, 0]
        (nested,) = await held_by(workspace, "z")
        assert await workspace.get(boxes, nested) == Box("second", 2)
        assert await workspace.get(boxes, "a") is None
        assert await workspace.get(boxes, given[-1]) is None
    assert (await types_of(store))[-2:] == [
        f"box:{given[-2]} was_burned",
        f"box:{given[-1]} was_burned",
    ]


async def test_a_refused_group_makes_none(actors: Actors, store: FaultyStore) -> None:
    workspace = actors.workspace()
    commands: list[Any] = [Split("x", ("one",)), Spill("y", "x")]
    with pytest.raises(Reject) as caught:
        await workspace.send_all([*commands, Expect("none", "a text")])
    assert (caught.value.code, caught.value.details["command"]) == ("BOX_DIFFERS", 2)
    with pytest.raises(InternalError):
        await workspace.send_all([*commands, Fail("a")])
    assert await types_of(store) == []
    for each in given:
        assert await workspace.get(boxes, each) is None
    receipts = await workspace.send_all(commands)
    assert [each.event_seq for each in receipts] == [2, 4]
