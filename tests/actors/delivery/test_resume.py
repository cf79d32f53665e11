"""A cursor that the log has and that is not published yet: it was read in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from dalsegno.protocol import NotReadyError, Reject
from tests.actors._boxes import Put, boxes
from tests.actors._wire import wired
from tests.actors._world import Actors, FaultyStore, answered_late, post_all

STREAMS = pytest.mark.parametrize(("stream_id", "cursor"), [("workspace:w", 4), ("box:a", 3)])


@asynccontextmanager
async def unpublished(actors: Actors, store: FaultyStore) -> AsyncIterator[trio.Event]:
    """A commit that the store has, and this node has not heard of until the gate is opened."""
    await actors.workspace().send(Put("a"))
    await actors.workspace().send(Put("b"))
    gate, appended = trio.Event(), trio.Event()
    store.faults.append(answered_late(appended, gate))
    post_all(actors.workspace(), [Put("a"), Put("a")])
    await appended.wait()
    yield gate
    gate.set()


@STREAMS
async def test_it_is_waited_for(
    actors: Actors, store: FaultyStore, stream_id: str, cursor: int
) -> None:
    async with unpublished(actors, store) as gate, wired(actors, role="viewer") as wire:
        await wire.say("subscribe", stream_id=stream_id, workspace_id="w", cursor=cursor)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        begun = await wire.hear()
        assert (begun["type"], begun["cursor"], begun["head"]) == ("subscribed", cursor, cursor)
        await wire.silence()
        await actors.workspace().send(Put("a"))
        assert (await wire.hear())["seq"] == cursor + 1


@STREAMS
async def test_one_beyond_the_log_is_refused_at_once(
    actors: Actors, store: FaultyStore, stream_id: str, cursor: int
) -> None:
    async with unpublished(actors, store), wired(actors, role="viewer") as wire:
        subscribe = {"stream_id": stream_id, "workspace_id": "w", "cursor": cursor + 1}
        began = trio.current_time()
        assert (await wire.ask("subscribe", **subscribe))["code"] == "CURSOR_AHEAD"
        assert trio.current_time() == began


@STREAMS
async def test_the_wait_is_bounded(
    actors: Actors, store: FaultyStore, stream_id: str, cursor: int
) -> None:
    async with unpublished(actors, store), wired(actors, role="viewer") as wire:
        subscribe = {"stream_id": stream_id, "workspace_id": "w", "cursor": cursor}
        answer = await wire.ask("subscribe", **subscribe)
        assert answer["code"] == "NOT_READY", "it is there, so it is not refused"


async def test_a_programs_own_loop_and_pages_wait_too(actors: Actors, store: FaultyStore) -> None:
    workspace = actors.workspace()

    async def follow() -> Any:
        async with workspace.subscribe(after=4) as events:
            return (await anext(events)).event_seq

    async def follow_box() -> Any:
        async with workspace.of(boxes).subscribe("a", after=3) as events:
            return (await anext(events)).record.event_seq

    async def page() -> Any:
        return [event.event_seq for event in await workspace.events(after=2)]

    async def head() -> Any:
        return await workspace.head(cursor=4)

    answers: dict[str, Any] = {}

    async def ask(read: Callable[[], Awaitable[Any]]) -> None:
        answers[read.__name__] = await read()

    async with unpublished(actors, store) as gate, trio.open_nursery() as nursery:
        for read in (follow, follow_box, head):
            nursery.start_soon(ask, read)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == {}
        assert await page() == [], "what is published, and a cursor that is"
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await page() == [3, 4]
        await workspace.send(Put("a"))
    assert answers == {"follow": 5, "follow_box": 5, "head": 4}


async def test_a_program_is_told_too_that_it_is_beyond_or_that_it_takes_too_long(
    actors: Actors, store: FaultyStore
) -> None:
    async with unpublished(actors, store):  # the answer is late, and comes in the end
        for after, error in ((5, Reject), (4, NotReadyError)):
            with pytest.raises(error):
                async with actors.workspace().subscribe(after=after):
                    pass
