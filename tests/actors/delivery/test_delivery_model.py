"""Whatever lags, leaves, resumes or is moved: every reader gets each event once, in order.

The model is a list of events a stream.  Clients read at arbitrary times, so outboxes overflow,
pages come from the tail, from each other and from the store, and hubs end in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from dalsegno.actors import EventStream
from dalsegno.protocol import Limits, WorkspaceMovedError
from tests.actors._boxes import Put
from tests.actors._wire import Message, Wire
from tests.actors._world import Actors, FaultyStore, Wall, post_all, running

LIMITS = Limits(
    outbox_bytes_max=700,
    page_events=4,
    tail_bytes_max=6_000,
    pages_bytes_max=9_000,
    write_deadline_s=10_000,
    heartbeat_interval_s=10_000,
    client_timeout_s=100_000,
    ping_interval_s=100_000,
)
STREAMS = ("workspace:w", "box:a", "box:b")


@dataclass
class Reader:
    """A client: its connection if it has one, and how far it is in each stream."""

    name: str
    wire: Wire | None = None
    got: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    asked: set[str] = field(default_factory=set)
    """Streams that it has subscribed to without an answer yet."""
    follows: set[str] = field(default_factory=set)


class Machine:
    """Runs what Hypothesis draws, and compares."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        wall = Wall()
        self.world = wall.world()
        self.store = FaultyStore(self.world)
        self.readers = [Reader(f"c{n}") for n in range(3)]
        self.streams: dict[str, list[int]] = {name: [] for name in STREAMS}
        """The model: the ``event_seq`` of each event, by stream."""
        self.taken: list[int] = []
        """What the loop of a program took."""
        self.loop: EventStream | None = None
        self.actors: Actors

    def draw(self, strategy: st.SearchStrategy[Any], label: str) -> Any:
        return self.data.draw(strategy, label)

    async def run(self) -> None:
        async with (
            running(self.store, self.world, limits=LIMITS) as self.actors,
            trio.open_nursery() as self.connections,
        ):
            await self.publish()
            for _ in range(self.draw(st.integers(0, 40), "steps")):
                await self.step()
            for reader in self.readers:
                await self.finish(reader)
            await self.finish_loop()
            for reader in self.readers:
                await self.leave_as(reader)

    async def step(self) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [
            self.publish,
            self.publish,
            self.publish,
            self.subscribe,
            self.subscribe,
            self.read,
            self.read,
            self.loop_on,
            self.unsubscribe,
            self.leave,
            self.forget,
            self.move,
        ]
        await self.draw(st.sampled_from(steps), "step")()

    # ------------------------------------------------------------------------------- the steps

    async def publish(self) -> None:
        """Append events, those of one call in few batches."""
        boxes = self.draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=7), "boxes")
        posted = post_all(self.actors.workspace(), [Put(box, "x" * 30) for box in boxes])
        for one, box in zip(posted, boxes, strict=True):
            await one.wait()
            self.streams["workspace:w"].append(one.receipt.event_seq)
            self.streams[f"box:{box}"].append(one.receipt.event_seq)

    async def subscribe(self) -> None:
        """Follow a stream, from where it is in it."""
        await self.follow(self.any_reader(), self.draw(st.sampled_from(STREAMS), "stream"))

    async def follow(self, reader: Reader, stream_id: str) -> None:
        if stream_id in reader.asked | reader.follows or not self.streams[stream_id]:
            return
        if reader.wire is None:
            room_bytes = self.draw(st.sampled_from([300, 2_000, 100_000]), "room")
            reader.wire = Wire(
                self.actors, client_id=reader.name, role="viewer", room_bytes=room_bytes
            )
            self.connections.start_soon(reader.wire.run)
        reader.asked.add(stream_id)
        await reader.wire.say(
            "subscribe",
            stream_id=stream_id,
            workspace_id="w",
            cursor=reader.got[stream_id],
            request_id=stream_id,
        )

    async def read(self) -> None:
        """Read some of what has arrived."""
        reader = self.any_reader()
        for _ in range(self.draw(st.integers(1, 12), "messages")):
            await trio.testing.wait_all_tasks_blocked()
            if reader.wire is None or not reader.wire.client._line.to_client:
                return
            self.compare(reader, msgspec.json.decode(await reader.wire.client.receive()))

    async def unsubscribe(self) -> None:
        """Stop following a stream; what is in flight still arrives."""
        reader = self.any_reader()
        stream_id = self.draw(st.sampled_from(STREAMS), "stream")
        if reader.wire is None or stream_id not in reader.follows:
            return
        await reader.wire.say("unsubscribe", stream_id=stream_id, request_id="uns")
        while stream_id in reader.follows:
            self.compare(reader, await reader.wire.hear())

    async def leave(self) -> None:
        await self.leave_as(self.any_reader())

    async def leave_as(self, reader: Reader) -> None:
        if reader.wire is not None:
            reader.wire.client.vanish()
            await reader.wire.ended.wait()
            reader.wire = None
            reader.asked.clear()
            reader.follows.clear()

    async def forget(self) -> None:
        """Make the next page be read from the store."""
        self.actors.forget()

    async def move(self) -> None:
        """Move the workspace away and back."""
        hub = self.actors.service.directory.activate("w").hub
        hub.end(WorkspaceMovedError("elsewhere"))
        hub.open(hub.head, hub.chain)

    async def loop_on(self) -> None:
        """Take some events in the loop of a program, or leave the loop."""
        if self.draw(st.booleans(), "leaves"):
            await self.loop_off()
            return
        for _ in range(self.draw(st.integers(1, 9), "events")):
            await self.take_one(0.01)

    async def take_one(self, within_s: float) -> None:
        if self.loop is None:
            self.loop = self.actors.workspace().subscribe(after=len(self.taken))
            await self.loop.__aenter__()
        try:
            with trio.move_on_after(within_s):
                self.taken.append((await anext(self.loop)).event_seq)
        except WorkspaceMovedError:
            await self.loop_off()

    async def loop_off(self) -> None:
        if self.loop is not None:
            await self.loop.__aexit__(None, None, None)
            self.loop = None

    # ------------------------------------------------------------------------------ the end of it

    async def finish(self, reader: Reader) -> None:
        """Follow every stream to its end."""
        due = [stream_id for stream_id in STREAMS if self.streams[stream_id]]
        while any(reader.got[stream_id] < len(self.streams[stream_id]) for stream_id in due):
            for stream_id in due:
                if reader.got[stream_id] < len(self.streams[stream_id]):
                    await self.follow(reader, stream_id)
            assert reader.wire is not None
            self.compare(reader, await reader.wire.hear())
        if reader.wire is not None:
            await reader.wire.say("ping", request_id="end")
            heard: Message = {}
            while heard.get("type") != "pong":
                heard = await reader.wire.hear()
                self.compare(reader, heard)

    async def finish_loop(self) -> None:
        while len(self.taken) < len(self.streams["workspace:w"]):
            await self.take_one(60)
        assert self.taken == self.streams["workspace:w"]
        await self.loop_off()

    def any_reader(self) -> Reader:
        reader: Reader = self.draw(st.sampled_from(self.readers), "reader")
        return reader

    def compare(self, reader: Reader, heard: Message) -> None:
        """Compare one message: an event is the next of its stream, and the one the model has."""
        match heard["type"]:
            case "subscribed":
                reader.asked.remove(heard["stream_id"])
                reader.follows.add(heard["stream_id"])
            case "unsubscribed":
                reader.follows.remove(heard["stream_id"])
            case "error":
                assert heard["code"] in {"WORKSPACE_MOVED", "NOT_SUBSCRIBED"}, heard
                if heard["code"] == "WORKSPACE_MOVED":
                    # Unasked it names the stream; else it answers the subscribe.
                    stream_id = heard["request_id"] or heard["stream_id"]
                    reader.asked.discard(stream_id)
                    reader.follows.discard(stream_id)
            case "event":
                stream_id = heard["stream_id"]
                assert stream_id in reader.follows
                assert heard["seq"] == reader.got[stream_id] + 1
                reader.got[stream_id] = heard["seq"]
                assert heard["event_seq"] == self.streams[stream_id][heard["seq"] - 1]


@pytest.mark.long
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(schedule=st.random_module(), data=st.data())
def test_x_bp_2_whoever_lags_leaves_and_resumes_gets_each_event_once_in_order(
    schedule: object, data: st.DataObject
) -> None:
    del schedule  # drawn first, so that Trio's schedules differ from example to example
    trio.run(Machine(data).run, clock=trio.testing.MockClock(autojump_threshold=0))
