"""Cohorts: one position for all members and one write for each, and what makes a reader leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.actors.delivery._cohorts import Readers
from dalsegno.protocol import (
    Close,
    Event,
    Frames,
    Limits,
    Reject,
    Subscription,
    View,
    WorkspaceMovedError,
)
from tests.actors._boxes import Put
from tests.actors._reading import CountingStore
from tests.actors._wire import Wire, wired
from tests.actors._world import Actors, eventually, running
from tests.protocol.test_subscription import item

STREAM = "workspace:w"
BOX = {"stream_id": "box:a", "workspace_id": "w"}
COUNT = 8


@pytest.fixture
async def store(world: World) -> CountingStore:
    return CountingStore(world)


@pytest.fixture
async def crowd(store: CountingStore, world: World) -> AsyncIterator[Crowd]:
    """A cohort of readers; while a commit is written to them other tasks run after each write."""
    async with (
        running(store, world, limits=Limits(offers_per_yield=1)) as actors,
        AsyncExitStack() as stack,
    ):
        wires = [await stack.enter_async_context(wired(actors, role="owner")) for _ in range(COUNT)]
        crowd = Crowd(actors, wires)
        await actors.workspace().send(Put("a"))
        for wire in wires:
            await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.individual == []
        yield crowd


class Crowd:
    def __init__(self, actors: Actors, wires: list[Wire]) -> None:
        self.actors = actors
        self.wires = wires

    @property
    def hub(self) -> Any:
        return self.actors.service.directory.activate("w").hub

    @property
    def individual(self) -> list[Subscription]:
        return list(self.hub._streams[STREAM].individual)

    def subscription(self, wire: Wire) -> Subscription:
        return wire.connection.writer.streams[STREAM].subscription

    def ack(self, wire: Wire, seq: int) -> None:
        stream = wire.connection.writer.streams[STREAM]
        acks = self.actors.service.acks
        acks.ack(stream.frontier, seq, sent=stream.subscription.sent)

    async def put_and_meanwhile(self, act: Callable[[], Awaitable[None]]) -> None:
        """Commit, and do something once the first reader, and not the last, was written to."""
        first, last = self.wires[0], self.wires[-1]
        assert next(iter(self.hub._streams[STREAM]))[0] is self.subscription(first)
        before = {wire: len(wire.client._line.to_client) for wire in (first, last)}

        def is_written(wire: Wire) -> bool:
            return len(wire.client._line.to_client) > before[wire]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.actors.workspace().send, Put("a"))
            with trio.fail_after(10):
                while not is_written(first):
                    await trio.lowlevel.checkpoint()
            assert not is_written(last)
            await act()

    def next_event(self) -> Event:
        """Return what the next commit would have."""
        event: Event
        (event,) = self.hub.tail.read(self.hub.head, None, limit=1, bytes_max=1)
        return msgspec.structs.replace(event, event_seq=self.hub.head + 1)


async def heard(wire: Wire, count: int) -> list[int]:
    return [message["seq"] for message in await wire.hear_many(count)]


# ---------------------------------------------------------------------- one write, one place


async def test_what_is_due_to_all_is_written_to_each_without_being_offered(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offer(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Subscription, "offer", offer)
    for seq in range(2, 5):
        await crowd.actors.workspace().send(Put("a"))
        assert [await heard(wire, 1) for wire in crowd.wires] == [[seq]] * COUNT
        assert {crowd.subscription(wire).sent for wire in crowd.wires} == {seq}
    assert repr(crowd.hub._streams[STREAM]) == f"<Readers: {COUNT}, 0 of them individual>"
    for wire in crowd.wires:
        await wire.say("ack", stream_id=STREAM, seq=4)
        await wire.silence()


@pytest.mark.parametrize("streams", [1, 40])
async def test_i9_a_command_looks_at_the_streams_it_changes_and_at_no_others(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    """Its sender followed 900, and left and joined the cohorts of all of them, a command each."""
    (wire, *_) = crowd.wires
    for number in range(streams):
        await crowd.actors.workspace().send(Put(f"n{number}"))
        await wire.hear()
        await wire.ask("subscribe", stream_id=f"box:n{number}", workspace_id="w", cursor=0)
        await wire.hear()
    await wire.silence()
    looked: list[str] = []
    for name in ("join", "leave"):
        original = getattr(Readers, name)

        def count(self: Readers, subscription: Subscription, *rest: Any, do: Any = original) -> Any:
            looked.append(subscription.stream_id)
            return do(self, subscription, *rest)

        monkeypatch.setattr(Readers, name, count)
    await wire.say("command", workspace_id="w", name="put", payload={"box_id": "n0", "text": "x"})
    answers = await wire.hear_many(3)
    assert [answer["type"] for answer in answers] == ["committed", "event", "event"]
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(looked) == sorted(["box:n0", STREAM] * 2)
    assert crowd.individual == []
    assert not crowd.hub._streams["box:n0"].individual, "they have joined again"


async def test_who_sent_it_has_answer_and_event_in_one_write(crowd: Crowd) -> None:
    sender = crowd.wires[3]
    writes: list[int] = []
    transport = sender.connection.transport
    send_nowait = transport.send_nowait

    def counted(frames: Sequence[Frames]) -> bool:
        writes.append(len(frames))
        return send_nowait(frames)

    transport.send_nowait = counted  # type: ignore[method-assign]
    for seq in range(2, 5):
        await sender.say("command", workspace_id="w", name="put", payload={"box_id": "a"})
        answer, event = await sender.hear_many(2)
        assert (answer["type"], answer["event_seq"], event["seq"]) == ("committed", seq, seq)
        assert [await heard(wire, 1) for wire in crowd.wires if wire is not sender] == [[seq]] * 7
        assert crowd.individual == [], "it is in step again"
    assert writes == [2, 2, 2]


async def test_who_sees_it_differently_or_another_stream_gets_its_own(crowd: Crowd) -> None:
    one, other = crowd.wires[:2]
    await one.ask("subscribe", **BOX, cursor=1)
    await other.ask("subscribe", **BOX, cursor=1)
    await crowd.actors.workspace().send(Put("b"))
    await crowd.actors.workspace().send(Put("a"))
    for wire in (one, other):
        messages = await wire.hear_many(3)
        assert [(m["stream_id"], m["seq"]) for m in messages] == [
            (STREAM, 2),
            ("box:a", 2),
            (STREAM, 3),
        ]
    assert [await heard(wire, 2) for wire in crowd.wires[2:]] == [[2, 3]] * 6


async def test_who_does_not_read_goes_on_by_itself_and_comes_back(
    crowd: Crowd,
) -> None:
    actors = crowd.actors
    async with wired(actors, role="viewer", room_bytes=500) as slow:
        await slow.ask("subscribe", stream_id=STREAM, cursor=1)
        for seq in range(2, 12):
            await actors.workspace().send(Put("a"))
            assert [await heard(wire, 1) for wire in crowd.wires] == [[seq]] * COUNT
        assert crowd.individual == [crowd.subscription(slow)]
        assert await heard(slow, 10) == [*range(2, 12)]
        await eventually(lambda: crowd.individual == [])
        await actors.workspace().send(Put("a"))
        assert await heard(slow, 1) == [12]


async def test_what_a_transport_did_not_take_comes_without_another_commit(crowd: Crowd) -> None:
    async with wired(crowd.actors, role="viewer", room_bytes=500) as slow:
        await slow.ask("subscribe", stream_id=STREAM, cursor=1)
        await eventually(lambda: crowd.individual == [])
        subscription = crowd.subscription(slow)
        while not crowd.individual:
            await crowd.actors.workspace().send(Put("a"))
            await trio.testing.wait_all_tasks_blocked()  # it is written to everybody
        assert (crowd.individual, slow.connection.writer.is_writing) == ([subscription], True)
        head = crowd.hub.head
        assert await heard(slow, head - 1) == [*range(2, head + 1)]
        await eventually(lambda: crowd.individual == [])


async def test_a_write_that_fails_ends_that_connection_alone(crowd: Crowd) -> None:
    gone, broken, *others = crowd.wires
    gone.client.vanish()

    def fail(frames: object) -> bool:
        raise ZeroDivisionError

    crowd.hub.leave_cohort(crowd.subscription(broken))
    broken.connection.transport.send_nowait = fail  # type: ignore[method-assign]
    crowd.hub.join_cohort(crowd.subscription(broken), broken.connection.writer)
    assert crowd.individual == []
    await crowd.actors.workspace().send(Put("a"))
    assert [await heard(wire, 1) for wire in others] == [[2]] * 6
    await gone.ended.wait()
    await broken.ended.wait()
    assert broken.connection._closing == (Close.INTERNAL, "INTERNAL_ERROR")


async def test_an_event_that_one_way_of_looking_cannot_show_ends_those_alone(
    crowd: Crowd,
) -> None:
    def fails(_: Sequence[Event]) -> list[bytes]:
        raise Reject("BAD_REQUEST", "it has no look")

    blind = crowd.wires[:3]
    for wire in blind:
        crowd.hub.leave_cohort(crowd.subscription(wire))
        crowd.subscription(wire).view = fails
        crowd.hub.join_cohort(crowd.subscription(wire), wire.connection.writer)
    assert crowd.individual == []
    await crowd.actors.workspace().send(Put("a"))
    for wire in blind:
        error = await wire.hear()
        assert (error["type"], error["message"]) == ("error", "it has no look")
        await wire.silence()
    assert [await heard(wire, 1) for wire in crowd.wires[3:]] == [[2]] * 5
    assert crowd.individual == []


# ------------------------------------------------------------- while a commit is being written


async def test_who_leaves_while_others_are_written_to_gets_no_more(crowd: Crowd) -> None:
    last = crowd.wires[-1]

    async def leave() -> None:
        last.connection.writer.unfollow(last.connection.writer.streams[STREAM])

    await crowd.put_and_meanwhile(leave)
    assert [await heard(wire, 1) for wire in crowd.wires[:-1]] == [[2]] * 7
    await last.silence()


async def test_who_leaves_and_comes_back_meanwhile_gets_everything_once(crowd: Crowd) -> None:
    last = crowd.wires[-1]

    async def leave_and_return() -> None:
        assert (await last.ask("unsubscribe", stream_id=STREAM))["type"] == "unsubscribed"
        assert (await last.ask("subscribe", stream_id=STREAM, cursor=1))["head"] == 2

    await crowd.put_and_meanwhile(leave_and_return)
    await crowd.actors.workspace().send(Put("a"))
    assert [await heard(wire, 2) for wire in crowd.wires] == [[2, 3]] * COUNT
    await eventually(lambda: crowd.individual == [])


async def test_a_new_reader_meanwhile_gets_everything_once(crowd: Crowd) -> None:
    async with wired(crowd.actors, role="viewer") as late:

        async def come() -> None:
            assert (await late.ask("subscribe", stream_id=STREAM, cursor=1))["head"] == 2

        await crowd.put_and_meanwhile(come)
        await crowd.actors.workspace().send(Put("a"))
        assert await heard(late, 2) == [2, 3]
        assert [await heard(wire, 2) for wire in crowd.wires] == [[2, 3]] * COUNT


async def test_a_connection_that_closes_meanwhile_hears_nothing_but_the_close(
    crowd: Crowd,
) -> None:
    last = crowd.wires[-1]

    async def close() -> None:
        subscription = crowd.subscription(last)
        last.connection.close(Close.UNAUTHORIZED, "the session has ended")
        assert crowd.individual == [subscription], "from this very step on"

    await crowd.put_and_meanwhile(close)
    assert [await heard(wire, 1) for wire in crowd.wires[:-1]] == [[2]] * 7
    rest, _ = await last.hear_end()
    assert rest == []


async def test_the_end_of_the_hub_meanwhile_waits_for_the_commit(crowd: Crowd) -> None:
    hub = crowd.hub

    async def end() -> None:
        hub.end(WorkspaceMovedError("b"))
        hub.end(WorkspaceMovedError("c"))
        assert hub.is_open, "until every reader was written to"
        with pytest.raises(AssertionError):
            hub.open(2, hub.chain)
        await hub.wait_published()
        hub.open(2, hub.chain)

    await crowd.put_and_meanwhile(end)
    for wire in crowd.wires:
        assert await heard(wire, 1) == [2]
        assert (await wire.hear())["owner"] == "b", "the first reason"
        await wire.silence()


async def test_a_commit_that_is_published_meanwhile_waits_for_the_one_before(crowd: Crowd) -> None:
    """Two that overlapped gave every reader the later one first."""
    hub, answered = crowd.hub, []

    async def publish() -> None:
        event = crowd.next_event()
        with trio.move_on_after(0):
            await hub.publish([event], lambda: answered.append("never"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.publish, [event], lambda: answered.append("in turn"))
            await trio.lowlevel.checkpoint()
            assert answered == []

    await crowd.put_and_meanwhile(publish)
    assert answered == ["in turn"]
    assert [await heard(wire, 2) for wire in crowd.wires] == [[2, 3]] * COUNT


async def test_a_commit_that_waits_for_its_turn_hears_of_the_end(crowd: Crowd) -> None:
    hub = crowd.hub

    async def end() -> None:
        event = crowd.next_event()
        hub.end(WorkspaceMovedError("b"))
        with pytest.raises(WorkspaceMovedError):
            await hub.publish([event], lambda: pytest.fail("nobody was told of the commit"))
        hub.open(2, hub.chain)

    await crowd.put_and_meanwhile(end)


async def test_an_ack_meanwhile_of_what_was_just_read_is_taken(crowd: Crowd) -> None:
    first = crowd.wires[0]

    async def ack() -> None:
        assert await heard(first, 1) == [2]
        await first.say("ack", stream_id=STREAM, seq=2)
        await first.silence()

    await crowd.put_and_meanwhile(ack)


async def test_an_ack_meanwhile_of_what_is_not_written_yet_is_refused(crowd: Crowd) -> None:
    last = crowd.wires[-1]

    async def ack() -> None:
        with pytest.raises(Reject, match="CURSOR_AHEAD"):
            crowd.ack(last, 2)

    await crowd.put_and_meanwhile(ack)
    assert await heard(last, 1) == [2]
    crowd.ack(last, 2)


# --------------------------------------------------------------------------------- who fits in


class Taker:
    """Takes everything that it is given."""

    user_id = None

    class Transport:
        def send_nowait(self, _: object) -> bool:
            return True

    transport: Any = Transport()

    def left_cohort(self, subscription: Subscription) -> None:
        pass


def reader(sent: int, view: View) -> Subscription:
    subscription = Subscription("w", STREAM, start=sent)
    subscription.view, subscription.live = view, True
    return subscription


def text(events: Sequence[Event]) -> list[bytes]:
    return [str(event.event_seq).encode() for event in events]


def test_who_is_elsewhere_or_behind_or_may_not_see_all_stays_individual() -> None:
    readers, taker = Readers(), Taker()
    here, also_here, behind, elsewhere, revoked, blind = (
        reader(n, text) for n in (3, 3, 3, 2, 3, 3)
    )
    behind.live = False
    revoked.revoke(5)
    blind.view = None
    for subscription in (here, also_here, behind, elsewhere, revoked, blind):
        readers.add(subscription, taker)  # type: ignore[arg-type]
        readers.join(subscription, taker)  # type: ignore[arg-type]
    assert list(readers.individual) == [behind, elsewhere, revoked, blind]
    ((cohort, frames),) = readers.advance(item(4, 5))
    assert (list(cohort.members), frames.texts) == ([here, also_here], [b"4", b"5"])
    assert (cohort.sent, here.sent) == (5, 3), "nothing is written yet"
    members = list(cohort.members.values())
    readers.leave(here)
    assert [one[0] for one in cohort.remaining(members)] == [also_here]
    assert readers.advance(item(7, 7)) == [], "a gap: each has to see for itself"
    assert also_here in readers.individual
    assert len(readers) == len([*readers]) == 6
    for subscription, _ in list(readers):
        readers.remove(subscription)
        readers.remove(subscription)
    assert not readers
