"""What a run says, to those who follow: who gets a frame, who a tail, and who nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.actors.delivery import TAIL_S, Hub, Live
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import Frame, Frames, Limits, TailFrame
from dalsegno.protocol.dialects import GENERIC
from dalsegno.protocol.runs import Transcript
from tests.actors._boxes import Put
from tests.actors._wire import Message, Wire, wired
from tests.actors._world import Actors, FaultyStore, eventually, held, running

BOX = "box:a"
BOTH = {"stream_id": BOX, "workspace_id": "w"}


@dataclass
class Speaker:
    """Says frames, which are nowhere written unless it is told that they are."""

    actors: Actors
    is_serving: bool = True
    committed_to: int = 0
    said: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live = Live(self.hub, BOX, self, offers_per_yield=2, may_say=lambda: self.is_serving)

    @property
    def hub(self) -> Hub:
        return self.actors.service.directory.activate("w").hub

    def tails(self) -> Sequence[TailFrame]:
        left = self.said[self.committed_to :]
        if not left:
            return []
        return [
            TailFrame(
                workspace_id="w",
                stream_id=BOX,
                attempt=1,
                message_id="m",
                channel="text",
                committed_to=self.committed_to,
                frame_no=len(self.said),
                text="".join(each.text for each in left),
            )
        ]

    async def say(self, *texts: str) -> None:
        for text in texts:
            frame = Frame(
                workspace_id="w",
                stream_id=BOX,
                attempt=1,
                message_id="m",
                channel="text",
                frame_no=len(self.said) + 1,
                text=text,
            )
            self.said.append(frame)
            await trio.lowlevel.checkpoint()
            await self.live.say(frame)

    async def commit(self) -> None:
        """Make what was said durable, as far as readers can tell: a commit is published."""
        await self.actors.workspace().send(Put("a"))
        self.committed_to = len(self.said)


@pytest.fixture
async def speaker(actors: Actors) -> Speaker:
    await actors.workspace().send(Put("a"))
    return Speaker(actors)


@asynccontextmanager
async def reading(actors: Actors, cursor: int = 1, **more: Any) -> AsyncIterator[Wire]:
    async with wired(actors, role="viewer", **more) as wire:
        await wire.ask("subscribe", **BOTH, cursor=cursor)
        await trio.testing.wait_all_tasks_blocked()
        yield wire


async def heard(wire: Wire, count: int) -> list[tuple[str, str]]:
    return [shown(message) for message in await wire.hear_many(count)]


def shown(message: Message) -> tuple[str, str]:
    kind = str(message["type"])
    return kind, message["text"] if kind in {"frame", "tail"} else ""


# --------------------------------------------------------------------------------- who gets what


async def test_who_follows_hears_each_frame_as_it_is_said(speaker: Speaker) -> None:
    async with reading(speaker.actors) as one, reading(speaker.actors) as other:
        await speaker.say("da ", "capo")
        for wire in (one, other):
            message = await wire.hear()
            assert message == {
                "type": "frame",
                "stream_id": BOX,
                "attempt": 1,
                "message_id": "m",
                "channel": "text",
                "frame_no": 1,
                "text": "da ",
            }
            assert shown(await wire.hear()) == ("frame", "capo")
            await wire.silence()
        assert repr(speaker.live) == f"<Live {BOX}, 2 readers have all>"


async def test_who_joins_gets_the_tail_and_then_frames(speaker: Speaker) -> None:
    await speaker.say("a", "b")
    async with reading(speaker.actors) as wire:
        await speaker.say("c", "d")
        message = await wire.hear()
        assert (message["type"], message["text"]) == ("tail", "abc")
        assert (message["committed_to"], message["frame_no"]) == (0, 3)
        assert await heard(wire, 1) == [("frame", "d")]
        await wire.silence()


async def test_who_joins_when_nothing_more_is_said_is_brought_the_tail(speaker: Speaker) -> None:
    await speaker.say("a", "b")
    async with reading(speaker.actors) as wire:
        await speaker.live.catch_up()
        assert await heard(wire, 1) == [("tail", "ab")]
        await speaker.live.catch_up()
        await speaker.say("c")
        assert await heard(wire, 1) == [("frame", "c")]
        await wire.silence()


async def test_what_is_durable_is_in_no_tail(speaker: Speaker) -> None:
    await speaker.say("a", "b")
    await speaker.commit()
    async with reading(speaker.actors, cursor=2) as wire:
        await speaker.live.catch_up()
        await wire.silence()
        await speaker.say("c", "d")
        assert await heard(wire, 2) == [("tail", "c"), ("frame", "d")]


async def test_a_reader_is_given_a_tail_four_times_a_second_at_most(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(speaker.actors) as wire:
        writer = wire.connection.writer
        say = type(writer).say
        lost = {2, 4}

        def losing(self: Any, subscription: Any, frames: Frames) -> bool:
            return len(speaker.said) not in lost and say(self, subscription, frames)

        monkeypatch.setattr(type(writer), "say", losing)
        await speaker.say("1", "2", "3", "4", "5", "6")
        assert await heard(wire, 2) == [("frame", "1"), ("tail", "123")]
        await wire.silence()
        await trio.sleep(TAIL_S)
        await speaker.live.catch_up()
        await speaker.say("7")
        assert await heard(wire, 2) == [("tail", "123456"), ("frame", "7")]
        lost |= {8, 10}
        await speaker.say("8", "9")
        await speaker.commit()
        assert (await wire.hear())["type"] == "event"
        await speaker.say("10", "11")
        await wire.silence()
        await speaker.commit()
        assert (await wire.hear())["type"] == "event"
        await speaker.say("12")
        assert await heard(wire, 1) == [("frame", "12")], "a rollup is as good as a tail"


async def test_a_slow_reader_loses_frames_and_keeps_its_connection(speaker: Speaker) -> None:
    actors = speaker.actors
    async with reading(actors, room_bytes=400) as slow, reading(actors) as quick:
        transcript = Transcript()
        for number in range(500):
            await speaker.say(f"{number} ")
            if number % 100 == 50:
                await speaker.commit()
                assert (await quick.hear_many(number % 100 + 2))[-1]["type"] == "event"
                await quick.hear_many(0)
            if number % 100 == 99:
                await quick.hear_many(49)
        writer = slow.connection.writer
        assert writer.outbox.size < 4_000, "frames wait nowhere"
        got: list[Message] = []
        while not got or got[-1]["type"] != "tail":
            got.append(await slow.hear())
            await trio.sleep(TAIL_S)
            await speaker.live.catch_up()
        assert len([each for each in got if each["type"] == "frame"]) < 20
        transcript.hear(got[-1])
        whole = "".join(each.text for each in speaker.said)
        assert whole.endswith(transcript.text())
        await speaker.say("end")
        assert await heard(slow, 1) == [("frame", "end")]
        assert await heard(quick, 1) == [("frame", "end")]


async def test_frames_of_a_workspace_go_to_those_whose_dialect_asks_for_them(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wired(speaker.actors, role="viewer") as wire:
        await wire.ask("subscribe", stream_id="workspace:w", cursor=1)
        await speaker.say("a")
        await wire.silence()
    monkeypatch.setattr(GENERIC, "follows_frames", True, raising=False)
    async with wired(speaker.actors, role="viewer") as wire:
        await wire.ask("subscribe", stream_id="workspace:w", cursor=1)
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("b")
        assert await heard(wire, 1) == [("tail", "ab")]
    async with wired(speaker.actors, role="viewer") as wire:
        await wire.ask("subscribe_workspace", workspace_id="w", cursor=1)
        await speaker.say("c")
        await wire.silence()


async def test_a_frame_is_encoded_once_for_all(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    frame_of = GENERIC.frame

    def frame(said: Frame) -> bytes:
        encoded.append(said.frame_no)
        return frame_of(said)

    monkeypatch.setattr(GENERIC, "frame", frame)
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(reading(speaker.actors)) for _ in range(5)]
        await speaker.say("a", "b")
        for wire in wires:
            assert await heard(wire, 2) == [("frame", "a"), ("frame", "b")]
    assert encoded == [1, 2]


async def test_i10_a_dialect_that_fails_shows_nothing_and_harms_nobody(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_said: object) -> bytes:
        raise ZeroDivisionError

    async with reading(speaker.actors) as wire:
        with monkeypatch.context() as patch:
            patch.setattr(GENERIC, "frame", fail)
            await speaker.say("a")
        await speaker.say("b")
        assert await heard(wire, 1) == [("tail", "ab")]


async def test_i10_a_write_that_fails_ends_that_connection_alone(speaker: Speaker) -> None:
    async with reading(speaker.actors) as gone, reading(speaker.actors) as other:
        gone.client.vanish()
        await speaker.say("a", "b")
        assert await heard(other, 2) == [("frame", "a"), ("frame", "b")]
        await gone.ended.wait()


# ------------------------------------------------------------------------------ who gets nothing


async def test_p6_i8_after_a_member_was_removed_no_frame_reaches_it(actors: Actors) -> None:
    workspace = actors.workspace()
    await workspace.send(PutMember("u", "viewer"))
    await workspace.send(PutMember("owner", "owner"))
    await workspace.send(Put("a"))
    speaker = Speaker(actors)
    async with (
        wired(actors, user_id="u") as wire,
        wired(actors, user_id="owner") as owner,
        trio.open_nursery() as nursery,
    ):
        for each in (wire, owner):
            await each.ask("subscribe", **BOTH, cursor=1)
        await trio.testing.wait_all_tasks_blocked()

        async def chatter() -> None:
            while True:
                await speaker.say("x")
                await trio.sleep(0.001)

        nursery.start_soon(chatter)
        assert (await wire.hear())["type"] == "frame"
        receipt = await workspace.send(RemoveMember("u"))
        assert receipt.event_seq
        said = len(speaker.said)
        await eventually(lambda: len(speaker.said) > said + 20)
        nursery.cancel_scope.cancel()
        last = 0
        while (message := await wire.hear())["type"] == "frame":
            last = message["frame_no"]
        assert (message["type"], message["code"]) == ("error", "ROLE_FORBIDDEN")
        assert last <= said
        await wire.silence()


async def test_i8_none_reaches_a_reader_whose_barrier_is_set(speaker: Speaker) -> None:
    async with reading(speaker.actors) as wire:
        wire.connection.writer.streams[BOX].subscription.revoke(1)
        await speaker.say("a")
        await speaker.live.catch_up()
        await wire.silence()


async def test_a_held_connection_gets_none(speaker: Speaker) -> None:
    async with reading(speaker.actors) as wire:
        wire.connection.writer.hold()
        await speaker.say("a")
        await wire.silence()
        wire.connection.writer.resume()
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("b")
        assert await heard(wire, 1) == [("tail", "ab")]


async def test_who_has_left_gets_none_and_who_comes_back_the_tail(speaker: Speaker) -> None:
    async with reading(speaker.actors) as wire:
        await speaker.say("a")
        await wire.hear()
        await wire.ask("unsubscribe", stream_id=BOX)
        await speaker.say("b")
        await wire.silence()
        await wire.ask("subscribe", **BOTH, cursor=1)
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("c")
        assert await heard(wire, 1) == [("tail", "abc")]


async def test_a_reader_that_is_behind_gets_its_events_first(speaker: Speaker) -> None:
    actors = speaker.actors
    for _ in range(20):
        await actors.workspace().send(Put("a"))
    async with wired(actors, role="viewer", room_bytes=500) as wire:
        await wire.ask("subscribe", **BOTH, cursor=0)
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("a")
        assert [message["type"] for message in await wire.hear_many(21)] == ["event"] * 21
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("b")
        assert await heard(wire, 1) == [("tail", "ab")]


async def test_nothing_is_said_without_the_lease_or_after_the_end(speaker: Speaker) -> None:
    async with reading(speaker.actors) as wire:
        speaker.is_serving = False
        await speaker.say("a")
        await speaker.live.catch_up()
        await wire.silence()
        speaker.is_serving = True
        await speaker.say("b")
        assert await heard(wire, 1) == [("tail", "ab")]
        speaker.live.is_over = True
        await speaker.say("c")
        await trio.sleep(TAIL_S)
        await speaker.live.catch_up()
        await wire.silence()


@contextmanager
def ending_at(speaker: Speaker, count: int) -> Iterator[None]:
    """The attempt ends in the step that publishes a commit, as where it is told of its end."""
    hub = speaker.hub
    publish = hub._publish

    def ended(*args: Any) -> Any:
        due = publish(*args)
        if hub.head >= count:
            speaker.live.is_over = True
        return due

    hub._publish = ended  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        hub._publish = publish  # type: ignore[method-assign]


async def test_no_frame_comes_between_the_writes_of_a_commit_or_after_the_last_one(
    speaker: Speaker,
) -> None:
    """Readers are written to in turns: a frame waits for the turns of the commit, and back."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(reading(speaker.actors)) for _ in range(7)]
        head = speaker.hub.head

        async def chatter() -> None:
            for number in range(400):
                await speaker.say(f"{number} ")

        with ending_at(speaker, head + 4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chatter)
                for _ in range(4):
                    for _ in range(20):
                        await trio.lowlevel.checkpoint()
                    assert len(speaker.said) < 300
                    await speaker.actors.workspace().send(Put("a"))
        for wire in wires:
            transcript = Transcript()
            events = 0
            while events < 4:
                message = await wire.hear()
                events += message["type"] == "event"
                transcript.hear({**message, "event_type": ""})
            await wire.silence()
            assert "".join(each.text for each in speaker.said).startswith(transcript.text())


async def test_what_is_said_after_a_commit_comes_after_it_to_every_reader(
    store: FaultyStore, world: World
) -> None:
    """Who speaks has its answer before all readers were written to."""
    async with (
        running(store, world, limits=Limits(offers_per_yield=1)) as actors,
        AsyncExitStack() as stack,
    ):
        await actors.workspace().send(Put("a"))
        speaker = Speaker(actors)
        wires = [await stack.enter_async_context(reading(actors)) for _ in range(30)]
        await speaker.say("before ")
        await speaker.commit()
        await speaker.say("after")
        for wire in wires:
            assert [m["type"] for m in await wire.hear_many(3)] == ["frame", "event", "frame"]


async def test_a_frame_waits_for_the_commit_that_is_being_published(
    store: FaultyStore, speaker: Speaker
) -> None:
    gate = trio.Event()
    store.faults.append(held(gate))
    async with reading(speaker.actors) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(speaker.actors.workspace().send, Put("a"))
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("before")
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        await speaker.say("after")
        assert [message["type"] for message in await wire.hear_many(3)] == [
            "frame",
            "event",
            "frame",
        ]


async def test_loops_over_events_hear_nothing(speaker: Speaker) -> None:
    async with speaker.actors.workspace().subscribe(after=0) as events:
        await speaker.say("a")
        assert (await anext(events)).event_seq == 1
        assert not events.say(events._subscription, Frames([b"x"]))
