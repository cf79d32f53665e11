"""A connection walks every edge of its table, and no other."""

from __future__ import annotations

from operator import attrgetter

import pytest
import trio

from dalsegno.actors import Connection, World
from dalsegno.actors.session._lifecycle import LIFECYCLE, Input, State
from dalsegno.actors.session._writer import Writer
from dalsegno.actors.testing import memory_connection
from dalsegno.protocol import Close, Limits
from tests.actors._boxes import Put
from tests.actors._machines import check_step, walked
from tests.actors._wire import wired
from tests.actors._world import Actors, FaultyStore, eventually, running

STREAM = "workspace:w"


def test_every_state_is_reached_and_can_be_left() -> None:
    reached = {to for steps in LIFECYCLE.steps.values() for to in steps.values()}
    assert reached == set(State) - {State.NEW}
    for state in set(State) - {State.CLOSING, State.CLOSED}:
        assert LIFECYCLE.steps[state][Input.CLOSE] is State.CLOSING


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("input_", Input)
def test_a_step_is_in_the_table_or_a_bug(state: State, input_: Input) -> None:
    check_step(LIFECYCLE, state, input_)


async def walk_a_slow_client(actors: Actors) -> None:
    """Be written to at once, by a task, and at once again; then leave."""
    async with wired(actors, role="viewer", room_bytes=300) as wire:
        await wire.ask("subscribe", stream_id=STREAM)
        for _ in range(5):
            await actors.workspace().send(Put("a"))
        await eventually(lambda: wire.connection.statistics().state == "sending")
        await wire.hear_many(5)
        await eventually(lambda: wire.connection.statistics().state == "idle")


async def walk_an_end_while_sending(actors: Actors) -> None:
    """Close a connection whose client takes nothing, twice, and once more when it is over."""
    async with wired(actors, role="viewer", room_bytes=300) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=5)
        for _ in range(5):
            await actors.workspace().send(Put("a"))
        await eventually(lambda: wire.connection.statistics().state == "sending")
        wire.connection.close(Close.GOING_AWAY, "enough")
        wire.connection.close(Close.NORMAL, "enough")
        assert wire.connection.statistics().state == "closing"
        await wire.hear_end()
    await eventually(lambda: wire.connection.statistics().state == "closed")
    wire.connection.writer.shut()


async def walk_a_bug_while_a_page_is_read(actors: Actors, store: FaultyStore) -> None:
    """End the connection from within its own writer."""

    async def bug() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with wired(actors, role="viewer") as wire:
        actors.forget()
        store.before["read_events"] = bug
        await wire.say("subscribe", stream_id=STREAM, cursor=0)
        assert (await wire.hear_end())[1] == Close.INTERNAL
        del store.before["read_events"]


async def walk_an_end_while_a_page_is_written(actors: Actors, store: FaultyStore) -> None:
    """Close a connection whose writer waits for the store, so that it writes once more."""
    gate = trio.Event()
    async with wired(actors, role="viewer") as wire:
        actors.forget()
        store.before["read_events"] = gate.wait
        await wire.say("subscribe", stream_id=STREAM, cursor=0)
        await eventually(lambda: wire.connection.statistics().state == "writing")
        wire.connection.close(Close.NORMAL, "enough")
        gate.set()
        await wire.hear_end()
        del store.before["read_events"]


async def walk_an_end_before_the_writer_begins(actors: Actors) -> None:
    """Close a connection in the step in which there came too much to write."""
    async with wired(actors, role="viewer", room_bytes=300) as wire:
        await wire.silence()
        for _ in range(2):
            wire.connection.writer.reply(b"x" * 1_000)
        assert wire.connection.statistics().state == "writing"
        wire.connection.close(Close.NORMAL, "enough")


async def walk_an_end_before_the_beginning(actors: Actors) -> None:
    """Close a connection before it is served."""
    client = memory_connection(Limits())
    connection = Connection(client.transport, actors.service.sessions, user_id="u")
    assert connection.statistics().state == "new"
    connection.close(Close.UNAUTHORIZED, "too late")
    await connection.run()
    assert connection.statistics().state == "closed"


async def test_a_connection_walks_every_edge(
    store: FaultyStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(close_deadline_s=0.5)
    with walked(monkeypatch, Writer, "step", attrgetter("state")) as edges:
        async with running(store, world, limits=limits) as actors:
            await actors.workspace().send(Put("a"))
            await walk_a_slow_client(actors)
            await walk_an_end_while_sending(actors)
            await walk_a_bug_while_a_page_is_read(actors, store)
            await walk_an_end_while_a_page_is_written(actors, store)
            await walk_an_end_before_the_writer_begins(actors)
            await walk_an_end_before_the_beginning(actors)
    table = {(state, input_) for state, steps in LIFECYCLE.steps.items() for input_ in steps}
    assert edges == table, f"not walked: {table - edges}"
