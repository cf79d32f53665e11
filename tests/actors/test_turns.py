"""How many turns a command takes: each resumes a task whose memory has become cold.

Counted over connections and a store in memory, where they are the same in every run.  What else has
a turn (readers of the memory transport, clocks) is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.runtime import Workspace
from tests.actors._boxes import Put
from tests.actors._wire import Wire, wired
from tests.actors._world import Actors, FaultyStore, running

DECIDES, COMMITS = "Incarnation._decide", "Incarnation._commit"
SENDS, TELLS = "Committer._serve", "_tell_in_turns"
CALLS = "call"
COUNTED = {DECIDES, COMMITS, SENDS, TELLS, CALLS}


class Turns(trio.abc.Instrument):
    """Counts the steps of tasks by what they do."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        does = task.coro.__qualname__
        if does in COUNTED:
            self.counts[does] += 1


@contextmanager
def counted() -> Iterator[Counter[str]]:
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    try:
        yield turns.counts
    finally:
        trio.lowlevel.remove_instrument(turns)


@pytest.fixture
async def actors(store: FaultyStore, world: World) -> AsyncIterator[Actors]:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
        yield actors


async def ask(wire: Wire, box_id: str) -> None:
    answer = await wire.ask("command", workspace_id="w", name="put", payload={"box_id": box_id})
    assert answer["type"] == "committed"


async def call(workspace: Workspace, times: int = 1) -> None:
    for _ in range(times):
        await workspace.send(Put("a"))


async def test_a_command_alone(actors: Actors) -> None:
    """The decider, the committer twice, whoever settles it; five with the caller or the reader."""
    with counted() as counts:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, actors.workspace(), 10)
    # The caller's first turn is not for an answer; the others wake it once each.
    assert counts == {CALLS: 1 + 10, DECIDES: 10, SENDS: 20, COMMITS: 10}


async def test_a_command_alone_over_a_connection(actors: Actors) -> None:
    """No turn more than within the process: the answer is written by whoever settles it."""
    async with wired(actors, role="owner") as wire:
        await ask(wire, "a")
        await trio.testing.wait_all_tasks_blocked()
        with counted() as counts:
            for _ in range(10):
                await ask(wire, "a")
                await trio.testing.wait_all_tasks_blocked()
        assert counts == {DECIDES: 10, SENDS: 20, COMMITS: 10}


async def test_fifty_that_wait_for_their_answers(actors: Actors) -> None:
    """All of it is done for all of them together."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wired(actors, role="owner")) for _ in range(50)]
        for number, wire in enumerate(wires):
            await ask(wire, f"b{number}")
        await trio.testing.wait_all_tasks_blocked()
        with counted() as counts:
            async with trio.open_nursery() as nursery:
                for number, wire in enumerate(wires):
                    nursery.start_soon(ask, wire, f"b{number}")
        assert counts == {DECIDES: 1, SENDS: 2, COMMITS: 1}


async def test_a_thousand_workspaces_with_a_command_each(actors: Actors) -> None:
    """Two for each workspace, and one for its caller; the committer's are shared."""
    workspaces = [actors.workspace(f"w{number}") for number in range(1_000)]
    for _ in range(2):
        with counted() as counts:
            async with trio.open_nursery() as nursery:
                for workspace in workspaces:
                    nursery.start_soon(call, workspace)
    assert (counts[CALLS], counts[DECIDES], counts[COMMITS]) == (2_000, 1_000, 1_000)
    # The first alone, since the committer rested, and then two statements: 512 and 487 workspaces,
    # told by sixteen.
    assert (counts[SENDS], counts[TELLS]) == (4, 2 * 32)
