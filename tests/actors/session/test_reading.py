"""What one client sends is read in short turns, and what cannot be read has a budget."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.protocol import SLICE_BYTES, Close, Limits
from tests.actors._wire import Wire, wired
from tests.actors._world import FaultyStore, running

PING = '{"type":"ping","x":"%s"}'


async def answers_a_turn(wire: Wire, messages: list[str]) -> list[int]:
    """Let messages arrive together; return how many are answered between two turns of others."""
    line = wire.client._line
    await trio.testing.wait_all_tasks_blocked()
    line.to_server.extend(messages)
    line.changed.set()
    answered = [0]
    while answered[-1] < len(messages):
        await trio.lowlevel.checkpoint()
        answered.append(len(line.to_client))
    return [after - before for before, after in pairwise(answered)]


@pytest.mark.parametrize(
    ("limits", "size", "most"),
    [
        (Limits(read_frames_max=4), 0, 4),
        (Limits(read_bytes_max=2_500), 1_000, 2),
        (Limits(read_bytes_max=2_500), 3_000, 1),
    ],
    ids=["by count", "by bytes", "long ones"],
)
async def test_i10_messages_that_arrive_together_are_carried_out_in_turns(
    store: FaultyStore, world: World, limits: Limits, size: int, most: int
) -> None:
    async with running(store, world, limits=limits) as actors, wired(actors) as wire:
        turns = await answers_a_turn(wire, [PING % ("x" * size)] * 24)
    assert sum(turns) == 24
    # Trio runs whoever is ready in either order: two turns may come between two looks.
    assert max(turns) <= 2 * most


@pytest.mark.parametrize("end", ["1]}", "1]"], ids=["a message", "none"])
async def test_i10_others_have_their_turns_amid_a_long_message(
    store: FaultyStore, world: World, end: str
) -> None:
    long = '{"type":"ping","x":[' + '"[",' * 250_000 + end
    async with running(store, world) as actors, wired(actors) as wire:
        turns = await answers_a_turn(wire, [long])
    assert len(turns) >= len(long) / SLICE_BYTES / 2


@pytest.mark.parametrize("message", ["{", b"\0"], ids=["no JSON", "binary"])
async def test_who_sends_what_cannot_be_read_is_closed_with_1008(
    store: FaultyStore, world: World, message: str | bytes
) -> None:
    async with (
        running(store, world, limits=Limits(unreadable_per_s=5)) as actors,
        wired(actors) as wire,
    ):
        for _ in range(3):  # a budget a second is not used up by earlier seconds
            for _ in range(5):
                await wire.client.send(message)
                assert (await wire.hear())["code"] == "BAD_REQUEST"
            await trio.sleep(1.1)
        for _ in range(6):
            await wire.client.send(message)
        rest, code = await wire.hear_end()
        assert code == Close.POLICY
        assert len(rest) <= 5


async def test_a_refusal_of_what_can_be_read_uses_up_no_budget(
    store: FaultyStore, world: World
) -> None:
    """An honest client may have many acks on their way when a stream ends."""
    async with (
        running(store, world, limits=Limits(unreadable_per_s=5)) as actors,
        wired(actors) as wire,
    ):
        for number in range(1, 50):
            error = await wire.ask("ack", stream_id="workspace:w", seq=number)
            assert error["code"] == "NOT_SUBSCRIBED"
        await wire.silence()
