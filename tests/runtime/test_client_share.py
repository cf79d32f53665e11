"""One subscription, and any number of loops over it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from dalsegno.protocol import Reject
from dalsegno.runtime.client import Client, ClientLimits, Events, SequenceGapError, open_client
from tests._patience import fail_after, until
from tests.runtime._serving import SOON, Person, Site, serving, set_up
from tests.runtime._unconnected import Recorder, event, following, hear, unconnected


def acks(recorder: Recorder) -> list[int]:
    return [said["seq"] for said in recorder.said if said["type"] == "ack"]


def kinds(recorder: Recorder) -> list[str]:
    return [said["type"] for said in recorder.said]


async def take(events: Events, count: int) -> list[int]:
    with fail_after(20):
        return [(await anext(events)).seq for _ in range(count)]


async def test_each_loop_gets_each_event_once_and_begins_where_the_other_is() -> None:
    client, recorder = unconnected()
    first = following(client, recorder)
    for seq in (1, 2, 3):
        hear(client, event(seq))
    assert await take(first, 1) == [1]
    async with first.share() as second:
        hear(client, event(4))
        assert await take(second, 3) == [2, 3, 4]
        async with second.share() as third:
            assert await take(first, 3) == [2, 3, 4]
            hear(client, event(5))
            for loop in (first, second, third):
                assert await take(loop, 1) == [5]
        with pytest.raises(StopAsyncIteration):
            await anext(third)
    assert kinds(recorder) == ["subscribe"], "one subscription, which goes on"
    first.close()
    assert kinds(recorder) == ["subscribe", "unsubscribe"]


async def test_the_lowest_place_of_all_is_acked_and_who_leaves_holds_nothing_back() -> None:
    client, recorder = unconnected()
    one = following(client, recorder)
    two, three = one.share(), one.share()
    for seq in range(1, 6):
        hear(client, event(seq))
    one.ack(5)
    two.ack(3)
    assert acks(recorder) == [], "one loop has acknowledged nothing yet"
    three.ack(2)
    assert acks(recorder) == [2]
    three.close()
    assert acks(recorder) == [2, 3]
    with pytest.raises(Reject, match="CURSOR_AHEAD"):
        one.ack(6)
    one.close()
    one.close()
    assert acks(recorder) == [2, 3], "the slowest has what it had"
    assert (one.acked, two.acked) == (5, 3)
    two.ack(4)
    two.close()
    assert acks(recorder) == [2, 3, 4]
    assert kinds(recorder)[-1] == "unsubscribe"


async def test_the_last_that_leaves_is_not_held_back_by_those_who_left_before() -> None:
    client, recorder = unconnected()
    one = following(client, recorder)
    two = one.share()
    for seq in range(1, 4):
        hear(client, event(seq))
    one.ack(3)
    assert acks(recorder) == []
    two.close()
    assert acks(recorder) == [3]
    one.close()


async def test_a_loop_that_begins_later_has_what_the_other_has_acked() -> None:
    client, recorder = unconnected()
    one = following(client, recorder)
    for seq in range(1, 4):
        hear(client, event(seq))
    one.ack(2)
    two = one.share()
    one.ack(3)
    assert acks(recorder) == [2]
    two.ack(3)
    assert acks(recorder) == [2, 3]


async def test_the_slowest_rests_the_stream_for_all_and_what_leaves_frees_it() -> None:
    client, recorder = unconnected(limits=ClientLimits(stream_events_max=4))
    quick = following(client, recorder)
    slow = quick.share()
    for seq in range(1, 5):
        hear(client, event(seq))
    assert kinds(recorder)[-1] == "unsubscribe"
    assert await take(quick, 4) == [1, 2, 3, 4]
    assert "resting" in repr(quick)
    assert await take(slow, 1) == [1]
    assert "resting" in repr(quick)
    assert await take(slow, 1) == [2]
    assert kinds(recorder)[-1] == "subscribe", "half of it is taken"
    assert recorder.said[-1]["cursor"] == f"4-{4:016x}"
    answer(client, recorder, 4)
    for seq in (5, 6):
        hear(client, event(seq))
    assert "resting" in repr(quick)
    slow.close()
    assert kinds(recorder)[-1] == "subscribe", "what only the slow one had not taken is gone"
    answer(client, recorder, 6)
    assert await take(quick, 2) == [5, 6]


def answer(client: Client, recorder: Recorder, cursor: int) -> None:
    said = {"type": "subscribed", "stream_id": "workspace:w", "head": 9, "cursor": cursor}
    request_id = recorder.said[-1]["request_id"]
    hear(client, {**said, "chain": "0" * 16, "request_id": request_id})


async def test_what_ends_the_stream_ends_every_loop_after_its_events() -> None:
    client, recorder = unconnected()
    one = following(client, recorder)
    two = one.share()
    hear(client, event(1))
    assert await take(one, 1) == [1]
    caught: list[SequenceGapError] = []

    async def wait(loop: Events) -> None:
        with pytest.raises(SequenceGapError) as error:
            await anext(loop)
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, one)
        await trio.testing.wait_all_tasks_blocked()
        hear(client, event(3))
    assert await take(two, 1) == [1]
    await wait(two)
    assert len(caught) == 2
    async with two.share() as three:
        await wait(three)


async def test_a_loop_that_waits_ends_when_it_is_left_elsewhere() -> None:
    client, recorder = unconnected()
    one = following(client, recorder)
    two = one.share()
    seen: list[int] = []

    async def loop() -> None:
        seen.extend([event.seq async for event in two])

    with fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop)
            await trio.testing.wait_all_tasks_blocked()
            hear(client, event(1))
            await trio.testing.wait_all_tasks_blocked()
            two.close()
    assert seen == [1]
    assert await take(one, 1) == [1]


async def test_outside_of_its_block_a_loop_is_no_use() -> None:
    client, recorder = unconnected()
    events = client.subscribe("workspace:w", cursor=0)
    for use in (events.share, lambda: events.ack(0)):
        with pytest.raises(trio.ClosedResourceError):
            use()
    with pytest.raises(trio.ClosedResourceError):
        await anext(events)
    one = following(client, recorder)
    one.close()
    with pytest.raises(trio.ClosedResourceError):
        one.share()
    with pytest.raises(trio.ClosedResourceError):
        async with one:
            pass


# -------------------------------------------------------------------------------- over a server


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    async with serving(migrated) as site:
        yield site


@pytest.fixture
async def owner(site: Site) -> Person:
    return await set_up(site)


async def test_many_loops_at_their_own_pace_each_get_all(site: Site, owner: Person) -> None:
    stream, few = f"workspace:{owner.workspace}", ClientLimits(stream_events_max=10)
    done: list[list[int]] = []

    async def read(loop: Events, pause_s: float) -> None:
        seen = []
        async with loop:
            async for event in loop:
                seen.append(event.seq)
                loop.ack(event)
                await trio.sleep(pause_s)
                if event.seq == 60:
                    break
        done.append(seen)

    with fail_after(60):
        async with open_client(owner.url, cookie=owner.cookie, limits=few) as client:
            async with client.subscribe(stream, cursor=0) as events, trio.open_nursery() as nursery:
                for pause_s in (0, 0, 0.001, 0.002):
                    nursery.start_soon(read, events.share(), pause_s)
                nursery.start_soon(read, events, 0)
                for index in range(60):
                    await client.send(
                        owner.workspace, "create_note", {"note_id": None, "title": f"{index}"}
                    )
            await until(lambda: client.statistics().streams == 0)
        assert done == [[*range(1, 61)]] * 5
        again = open_client(owner.url, cookie=owner.cookie, limits=SOON)
        async with again as client, client.subscribe(stream) as events:
            await client.send(owner.workspace, "create_note", {"note_id": None, "title": "last"})
            assert await take(events, 1) == [61], "all of them had acknowledged the rest"
