"""A workspace's supervisor walks every edge of its table, and no other."""

from __future__ import annotations

from operator import attrgetter

import pytest
import trio

from dalsegno.actors import World
from dalsegno.actors.node._lifecycle import LIFECYCLE, Input, Known, State
from dalsegno.actors.node._workspace_supervisor import WorkspaceSupervisor
from dalsegno.actors.ports import Head
from dalsegno.protocol import (
    CorruptLogError,
    Limits,
    StoreUnavailableError,
)
from tests.actors._boxes import Put
from tests.actors._machines import check_step, walked
from tests.actors._nodes import moving_world
from tests.actors._world import Actors, FaultyStore, Posted, away, eventually, running


def test_every_state_is_reached_and_can_be_left() -> None:
    reached = {to for steps in LIFECYCLE.steps.values() for to in steps.values()}
    assert reached == set(State)
    assert set(LIFECYCLE.steps) == set(State)
    for state in set(State) - {State.CLOSED}:
        assert LIFECYCLE.steps[state][Input.STOPPED] is State.CLOSED


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("input_", Input)
def test_a_step_is_in_the_table_or_a_bug(state: State, input_: Input) -> None:
    check_step(LIFECYCLE, state, input_)


async def gone() -> None:
    await trio.lowlevel.checkpoint()
    raise StoreUnavailableError("away")


async def damaged() -> None:
    await trio.lowlevel.checkpoint()
    raise CorruptLogError("damaged")


async def stuck() -> None:
    await trio.sleep_forever()


async def rests(actors: Actors) -> None:
    supervisor = actors.service.directory.activate("w")
    await eventually(lambda: supervisor.is_running and supervisor.is_settled)
    assert supervisor.passivate()


async def walk_ordinary_life(store: FaultyStore, world: World) -> None:
    """Open, run, rest with a reader, be wanted again, rest without one, and leave."""
    async with running(store, world) as actors:
        workspace = actors.workspace()
        await workspace.send(Put("a"))
        async with workspace.subscribe():
            await rests(actors)
            await eventually(lambda: actors.service.directory.activate("w").state == "resting")
            await workspace.send(Put("a"))
        await rests(actors)
        await eventually(lambda: not actors.service.directory.statistics())


async def walk_failures(store: FaultyStore, world: World) -> None:
    """Fail while opening and while running; go on where there is work, else leave."""
    limits = Limits(mailbox_deadline_s=1_000, command_deadline_s=1_000)
    async with running(store, world, limits=limits) as actors:
        store.before["acquire"] = gone
        posted = Posted(actors.workspace(), Put("a"))
        await trio.sleep(2)
        del store.before["acquire"]
        await posted.wait()
        store.faults.append(away)
        await Posted(actors.workspace(), Put("a")).wait()
        store.before["acquire"] = gone
        actors.service.directory.activate("idle")
        await eventually(lambda: "idle" not in actors.service.directory.statistics())


async def walk_halts(store: FaultyStore, world: World) -> None:
    """Be halted while opening and while running; leave after a while."""
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
        store.before["load_entities"] = damaged
        await Posted(actors.workspace(), Put("b")).wait()
        await eventually(lambda: not actors.service.directory.statistics())
        del store.before["load_entities"]
        await Posted(actors.workspace(), Put("a")).wait()
        await eventually(lambda: not actors.service.directory.statistics())


async def walk_moves(store: FaultyStore, world: World) -> None:
    """Lose the workspace to another node while opening and while running."""
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
        assert await store.release("w", 1)
        await store.beat("other", "p", address=None, lease_s=1_000, first=True)
        await store.acquire("w", "other", create=False, incarnation="p")
        await Posted(actors.workspace(), Put("a")).wait()
        await eventually(lambda: not actors.service.directory.statistics())
        await Posted(actors.workspace(), Put("a")).wait()
        await eventually(lambda: not actors.service.directory.statistics())


async def walk_loss_while_creating(store: FaultyStore, world: World) -> None:
    """Find, at its first commit, that another node has made the workspace."""
    async with running(store, world) as actors:
        supervisor = actors.service.directory.activate("w")
        await eventually(lambda: supervisor.is_running)
        await store.beat("other", "p", address=None, lease_s=1_000, first=True)
        await store.acquire("w", "other", create=True, incarnation="p")
        await Posted(actors.workspace(), Put("a")).wait()
        await eventually(lambda: not actors.service.directory.statistics())


async def walk_stops(store: FaultyStore, world: World) -> None:
    """Be stopped in every state."""
    async with running(store, world) as actors:  # running
        await actors.workspace().send(Put("a"))
        actors.kill()
    # resting, with a reader
    async with running(store, world) as actors, actors.workspace().subscribe():
        await rests(actors)
        await eventually(lambda: actors.service.directory.activate("w").state == "resting")
        actors.kill()
        await trio.lowlevel.checkpoint()
    async with running(store, world) as actors:  # opening
        store.before["acquire"] = stuck
        actors.service.directory.activate("w")
        await trio.sleep(0.1)
        actors.kill()
    store.before["acquire"] = gone
    async with running(store, world) as actors:  # waiting
        posted = Posted(actors.workspace(), Put("a"))
        await eventually(lambda: actors.service.directory.activate("w").state == "waiting")
        actors.kill()
        await posted.wait()
    del store.before["acquire"]
    store.before["load_entities"] = damaged
    async with running(store, world) as actors:  # halted
        posted = Posted(actors.workspace(), Put("a"))
        await eventually(lambda: actors.service.directory.activate("w").state == "halted")
        actors.kill()
        await posted.wait()


async def test_a_supervisor_walks_every_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    with walked(monkeypatch, WorkspaceSupervisor, "_step", attrgetter("_state")) as edges:
        for walk in (
            walk_ordinary_life,
            walk_failures,
            walk_halts,
            walk_moves,
            walk_loss_while_creating,
            walk_stops,
        ):
            world = moving_world()
            await walk(FaultyStore(world), world)
    table = {(state, input_) for state, steps in LIFECYCLE.steps.items() for input_ in steps}
    assert edges == table, f"not walked: {table - edges}"


@pytest.mark.parametrize(
    ("owner", "epoch", "head_seq", "chain", "fits"),
    [
        ("n", 3, 7, 5, True),
        ("n", 3, 9, 1, True),
        ("n", 4, 7, 5, False),
        ("n", 3, 6, 5, False),
        ("n", 3, 7, 6, False),
        ("other", 3, 9, 1, False),
        (None, 3, 9, 1, False),
    ],
)
def test_what_is_assumed_fits_what_the_store_says_or_not(
    owner: str | None, epoch: int, head_seq: int, chain: int, fits: bool
) -> None:
    head = Head(workspace_id="w", epoch=epoch, owner=owner, head_seq=head_seq, chain=chain)
    assert Known("n", 3, 7, 5).fits(head) is fits


def test_what_was_never_owned_fits_an_owner_that_is_none() -> None:
    assert Known("n", 0, 0, 5).fits(Head(workspace_id="w", epoch=0, owner=None))
