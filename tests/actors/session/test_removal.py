"""A member who is removed gets everything up to the removal, however much is unsent (I6, I8)."""

from __future__ import annotations

import pytest
import trio

from dalsegno.actors import World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import ApplyPatch, CreateNote
from dalsegno.protocol import Limits, PatchOp
from tests.actors._boxes import Put
from tests.actors._wire import Message, Wire, wired
from tests.actors._world import Actors, FaultyStore, Posted, eventually, held, running

STREAMS = {"workspace:w": 3, "box:a": 1, "box:b": 1}
"""What the member follows, each from its head: a membership, and a creation each."""


async def follow_all(wire: Wire, streams: dict[str, int] = STREAMS) -> None:
    for stream_id, cursor in streams.items():
        await wire.ask("subscribe", stream_id=stream_id, cursor=cursor)


async def heard_to_the_end(
    wire: Wire, streams: dict[str, int] = STREAMS
) -> dict[str, list[Message]]:
    """Everything that comes of the streams, up to the error that ends each."""
    heard: dict[str, list[Message]] = {stream_id: [] for stream_id in streams}
    open_streams = set(streams)
    while open_streams:
        message = await wire.hear()
        heard[message["stream_id"]].append(message)
        if message["type"] == "error":
            assert message["code"] == "ROLE_FORBIDDEN"
            open_streams.remove(message["stream_id"])
    await wire.silence()
    return heard


def seqs(messages: list[Message]) -> list[int]:
    """The numbers of the events before the end."""
    return [message["seq"] for message in messages if message["type"] == "event"]


async def put_and_remove(actors: Actors, puts: int, text: str) -> int:
    """Change both boxes, remove the member, and change them again."""
    workspace = actors.workspace()
    for _ in range(puts):
        for box in "ab":
            await workspace.send(Put(box, text))
    removal = await workspace.send(RemoveMember("u"))
    for box in "ab":
        await workspace.send(Put(box, text))
    return removal.event_seq


async def write_and_remove(actors: Actors, writes: int, text: str) -> int:
    """Write to two notes, remove the member, and write again."""
    workspace = actors.workspace()
    for version in range(1, writes + 1):
        for note in "ab":
            await workspace.send(ApplyPatch(note, (PatchOp(insert=text),), version))
    removal = await workspace.send(RemoveMember("u"))
    for note in "ab":
        await workspace.send(ApplyPatch(note, (PatchOp(insert=text),), writes + 1))
    return removal.event_seq


async def test_a_member_removed_with_more_than_a_mebibyte_unsent_gets_all_of_it(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(PutMember("u", "viewer"))
        for note in "ab":
            await actors.workspace().send(CreateNote(note, note_id=note))
        streams = {"workspace:w": 3, "note:a": 1, "note:b": 1}
        async with wired(actors, room_bytes=64 * 1024) as wire:
            await follow_all(wire, streams)
            removal = await write_and_remove(actors, 12, "x" * 60_000)
            heard = await heard_to_the_end(wire, streams)
        for stream_id, messages in heard.items():
            last = removal if stream_id == "workspace:w" else 13
            assert seqs(messages) == [*range(streams[stream_id] + 1, last + 1)], stream_id


async def unsent_at_the_removal(world: World) -> int:
    """How many bytes wait in the outbox when the member of the next test is removed."""
    async with running(FaultyStore(world), world) as actors:
        await actors.workspace().send(PutMember("u", "viewer"))
        async with wired(actors, room_bytes=300) as wire:
            await follow_all_made(actors, wire)
            for box in "abab":
                await actors.workspace().send(Put(box, "x" * 50))
            return wire.connection.statistics().events_bytes


async def follow_all_made(actors: Actors, wire: Wire) -> None:
    for box in "ab":
        await actors.workspace().send(Put(box))
    await follow_all(wire)


async def test_a_removal_that_just_fits_the_outbox_loses_nothing_either(world: World) -> None:
    """The errors that end the streams need room too: nothing is dropped for them."""
    unsent = await unsent_at_the_removal(world)
    assert unsent > 1_000
    for bytes_max in range(unsent - 400, unsent + 1_200, 100):
        limits = Limits(outbox_bytes_max=bytes_max)
        async with running(FaultyStore(world), world, limits=limits) as actors:
            await actors.workspace().send(PutMember("u", "viewer"))
            async with wired(actors, room_bytes=300) as wire:
                await follow_all_made(actors, wire)
                removal = await put_and_remove(actors, 2, "x" * 50)
                heard = await heard_to_the_end(wire)
        seen = {stream_id: seqs(messages) for stream_id, messages in heard.items()}
        assert seen == {"workspace:w": [4, 5, 6, 7, 8], "box:a": [2, 3], "box:b": [2, 3]}
        assert removal == 8


@pytest.mark.parametrize("bytes_max", [1_000, 3_000, 5_000, 100_000])
async def test_a_commit_that_brings_the_removal_is_delivered_up_to_it(
    store: FaultyStore, world: World, bytes_max: int
) -> None:
    """The client takes everything at once, but one commit alone is more than the outbox holds."""
    text = "x" * 900
    async with running(store, world, limits=Limits(outbox_bytes_max=bytes_max)) as actors:
        workspace = actors.workspace()
        await workspace.send(PutMember("u", "viewer"))
        for box in "ab":
            await workspace.send(Put(box))
        async with wired(actors, room_bytes=10**9) as wire:
            await follow_all(wire)
            await eventually(lambda: wire.connection.statistics().behind == 0)
            gate = trio.Event()
            store.faults.append(held(gate))
            first = Posted(workspace, Put("a", text))
            await trio.testing.wait_all_tasks_blocked()
            commands = [Put("b", text), Put("a", text), RemoveMember("u"), Put("a", text)]
            together = [Posted(workspace, command) for command in commands]
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            for posted in (first, *together):
                await posted.wait()
            assert len(store.statements[-1][0].events) == 4, "one commit"
            heard = await heard_to_the_end(wire)
        seen = {stream_id: seqs(messages) for stream_id, messages in heard.items()}
        assert seen == {"workspace:w": [4, 5, 6, 7], "box:a": [2, 3], "box:b": [2]}
