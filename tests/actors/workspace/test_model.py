"""Model M1 on the real actors: clients, faults and restarts in any order.

The model is a list of events.  A subscription gets ``events[cursor:]``; an ack is stale, ahead, or
raises the cursor.  Whatever the actors deliver and refuse is compared with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from dalsegno.protocol import Limits, chain_text
from tests.actors._boxes import Put
from tests.actors._wire import Message, Wire
from tests.actors._world import (
    Actors,
    Fault,
    FaultyStore,
    Wall,
    applied_unknown,
    away,
    check_log,
    lost_unknown,
    post_all,
    running,
)

# Small bounds, so that few events overflow something.
LIMITS = Limits(
    outbox_bytes_max=600,
    page_events=3,
    tail_bytes_max=4_000,
    batch_commands_max=4,
    entities_cached_max=2,
    ack_flush_s=1,
)
FAULTS: dict[str, Fault] = {
    "away": away,
    "applied": applied_unknown,
    "lost": lost_unknown,
}
CLIENTS = ("c0", "c1", "c2", "c3")
STREAMS = ("workspace:w", "box:a", "box:b")


@dataclass
class Following:
    """What the model knows of one subscription."""

    cursor: int
    got: int
    """The number of the last event that was compared."""


@dataclass
class Client:
    """What the model knows of one client, and its connection if it has one."""

    wire: Wire | None = None
    following: dict[str, Following] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)
    """The stored cursors; they outlive connections and, once written, restarts."""


class Machine:
    """Runs what Hypothesis draws, and compares."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.wall = Wall()
        self.store = FaultyStore(self.wall.world(), limits=LIMITS)
        self.clients = {name: Client() for name in CLIENTS}
        self.streams: dict[str, list[int]] = {name: [] for name in STREAMS}
        """The model: the ``event_seq`` of each event, by stream."""
        self.actors: Actors

    def draw(self, strategy: st.SearchStrategy[Any], label: str) -> Any:
        return self.data.draw(strategy, label)

    async def run(self) -> None:
        for _ in range(self.draw(st.integers(1, 3), "lives")):
            async with (
                running(self.store, self.wall.world(), limits=LIMITS) as self.actors,
                trio.open_nursery() as self.connections,
            ):
                await self.patch()
                for _ in range(self.draw(st.integers(0, 14), "steps")):
                    await self.step()
                for client in self.clients.values():
                    await self.compare_all(client)
                if self.draw(st.booleans(), "drained"):
                    await self.actors.service.drain()
                else:
                    await trio.sleep(2 * LIMITS.ack_flush_s)
                for client in self.clients.values():
                    await self.disconnect(client)
        await check_log(self.store)

    async def step(self) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [
            self.patch,
            self.patch,
            self.subscribe,
            self.subscribe,
            self.unsubscribe,
            self.ack,
            self.ack,
            self.compare_one,
            self.leave,
        ]
        await self.draw(st.sampled_from(steps), "step")()

    # ------------------------------------------------------------------------------- the steps

    async def patch(self) -> None:
        """Append events, some of them in one batch, perhaps while the store fails."""
        boxes = self.draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=6), "boxes")
        faults = self.draw(st.lists(st.sampled_from(sorted(FAULTS)), max_size=2), "faults")
        self.store.faults.extend(FAULTS[fault] for fault in faults)
        posted = post_all(self.actors.workspace(), [Put(box, "x" * 40) for box in boxes])
        for one, box in zip(posted, boxes, strict=True):
            await one.wait()
            whole, entity = self.streams["workspace:w"], self.streams[f"box:{box}"]
            assert one.receipt.event_seq == len(whole) + 1
            assert one.receipt.version == len(entity) + 1
            whole.append(one.receipt.event_seq)
            entity.append(one.receipt.event_seq)
        self.store.faults.clear()

    async def subscribe(self) -> None:
        client, stream_id = self.any_client(), self.any_stream()
        wire = await self.connected(client)
        length = len(self.streams[stream_id])
        cursor = self.draw(st.none() | st.integers(0, length + 1), "cursor")
        said: Message = {"stream_id": stream_id, "workspace_id": "w", "request_id": "sub"}
        with_chain = bool(cursor) and self.draw(st.booleans(), "with chain")
        if with_chain and cursor is not None and cursor <= length:
            said["cursor"] = f"{cursor}-{await self.chain_at(stream_id, cursor)}"
        elif cursor is not None:
            said["cursor"] = cursor
        await wire.say("subscribe", **said)
        answer = await self.answer(client, "sub")
        known = client.following.get(stream_id)
        if known is not None:
            assert (answer["type"], answer["cursor"]) == ("subscribed", known.cursor)
        elif stream_id != "workspace:w" and length == 0:
            assert answer["code"] == "BOX_NOT_FOUND"
        elif cursor is not None and cursor > length:
            assert (answer["code"], answer["latest_seq"]) == ("CURSOR_AHEAD", length)
        else:
            start = client.acked.get(stream_id, 0) if cursor is None else cursor
            assert (answer["cursor"], answer["head"]) == (start, length)
            assert answer["chain"] == await self.chain_at(stream_id, start)
            client.following[stream_id] = Following(start, start)

    async def unsubscribe(self) -> None:
        client, stream_id = self.any_client(), self.any_stream()
        wire = await self.connected(client)
        await wire.say("unsubscribe", stream_id=stream_id, request_id="uns")
        answer = await self.answer(client, "uns")
        known = client.following.pop(stream_id, None)
        expected = "NOT_SUBSCRIBED" if known is None else None
        assert answer.get("code") == expected

    async def ack(self) -> None:
        client, stream_id = self.any_client(), self.any_stream()
        wire = await self.connected(client)
        seq = self.draw(st.integers(0, len(self.streams[stream_id]) + 1), "seq")
        # All that can be sent was sent, so that "last sent" is the end of the stream.
        await self.compare_all(client)
        await wire.say("ack", stream_id=stream_id, seq=seq, request_id="ack")
        await wire.say("ping", request_id="pong")
        answer = await self.answer(client, "ack", "pong")
        acked = client.acked.get(stream_id, 0)
        known = client.following.get(stream_id)
        if known is None:
            assert answer["code"] == "NOT_SUBSCRIBED"
        elif seq < acked:
            assert (answer["code"], answer["current_cursor"]) == ("STALE_CURSOR", acked)
        elif seq > max(known.got, known.cursor):
            assert answer["code"] == "CURSOR_AHEAD"
        else:
            assert answer["type"] == "pong"
            client.acked[stream_id] = seq
            return
        await self.answer(client, "pong")

    async def compare_one(self) -> None:
        await self.compare_all(self.any_client())

    async def leave(self) -> None:
        await self.disconnect(self.any_client())

    # ---------------------------------------------------------------------------- what they need

    def any_client(self) -> Client:
        client: Client = self.clients[self.draw(st.sampled_from(CLIENTS), "client")]
        return client

    def any_stream(self) -> str:
        stream_id: str = self.draw(st.sampled_from(STREAMS), "stream")
        return stream_id

    async def chain_at(self, stream_id: str, cursor: int) -> str:
        if cursor == 0:
            return "0" * 16
        log = self.store._logs["w"]
        return chain_text(log.events[self.streams[stream_id][cursor - 1] - 1].chain)

    async def connected(self, client: Client) -> Wire:
        if client.wire is None:
            name = next(name for name, one in self.clients.items() if one is client)
            client.wire = Wire(self.actors, client_id=name, role="viewer", room_bytes=900)
            self.connections.start_soon(client.wire.run)
        return client.wire

    async def disconnect(self, client: Client) -> None:
        if client.wire is not None:
            client.wire.client.vanish()
            await client.wire.ended.wait()
            client.wire = None
            client.following.clear()

    async def answer(self, client: Client, *request_ids: str) -> Message:
        """Wait for an answer; compare the events that come before it."""
        assert client.wire is not None
        while True:
            heard = await client.wire.hear()
            if heard.get("request_id") in request_ids:
                return heard
            self.compare(client, heard)

    async def compare_all(self, client: Client) -> None:
        """Receive everything that is due."""
        if client.wire is None:
            return
        while any(
            known.got < len(self.streams[stream_id])
            for stream_id, known in client.following.items()
        ):
            self.compare(client, await client.wire.hear())

    def compare(self, client: Client, heard: Message) -> None:
        """Compare one event: the next of its stream, and the one that the model has."""
        assert heard["type"] == "event", heard
        known = client.following[heard["stream_id"]]
        known.got += 1
        assert heard["seq"] == known.got
        assert heard["event_seq"] == self.streams[heard["stream_id"]][known.got - 1]


@pytest.mark.long
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(schedule=st.random_module(), data=st.data())
def test_m1_whatever_happens_every_client_sees_the_model(
    schedule: object, data: st.DataObject
) -> None:
    del schedule  # drawn first, so that Trio's schedules differ from example to example
    trio.run(Machine(data).run, clock=trio.testing.MockClock(autojump_threshold=0))
