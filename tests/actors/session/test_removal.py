"""A member who is removed gets everything up to the removal, however much is unsent (I6, I8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import ApplyPatch, CreateNote
from dalsegno.protocol import DalsegnoError, Limits, PatchOp, Reject
from tests.actors._boxes import Expect, Put, boxes
from tests.actors._wire import Message, Wire, wired
from tests.actors._world import (
    Actors,
    FaultyStore,
    Posted,
    answered_late,
    eventually,
    held,
    post_all,
    running,
)

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


# --------------------------------------------------------------------------- reads that wait


class Looked:
    """One read under way, and how it ended."""

    def __init__(self, read: Callable[[], Awaitable[object]]) -> None:
        self.answer: object = None
        self._read = read

    async def run(self) -> None:
        try:
            self.answer = await self._read()
        except DalsegnoError as error:
            self.answer = error.code


async def test_i8_a_read_that_waits_is_judged_when_it_reads(actors: Actors) -> None:
    """Removed during the wait, a member got what was written afterwards."""
    program = actors.workspace()
    await program.send(PutMember("u", "viewer"))
    await program.send(Put("a", "before"))
    workspace = program.acting(user_id="u")
    looked = Looked(lambda: workspace.get(boxes, "a", min_seq=4))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looked.run)
        await trio.testing.wait_all_tasks_blocked()
        await program.send(RemoveMember("u"))
        await program.send(Put("a", "after"))
    assert looked.answer == "ROLE_FORBIDDEN"


async def test_i8_who_is_a_member_again_by_then_may_read(actors: Actors) -> None:
    program = actors.workspace()
    await program.send(PutMember("u", "viewer"))
    looked = Looked(lambda: program.acting(user_id="u").get(boxes, "a", min_seq=4))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looked.run)
        await trio.testing.wait_all_tasks_blocked()
        await program.send(RemoveMember("u"))
        await program.send(PutMember("u", "viewer"))
        await program.send(Put("a", "after"))
    assert getattr(looked.answer, "text", None) == "after"


async def test_a_stranger_waits_for_nothing(actors: Actors) -> None:
    workspace = actors.workspace("quiet").acting(user_id="stranger")
    began = trio.current_time()
    with pytest.raises(Reject) as caught:
        await workspace.get(boxes, "a", min_seq=1)
    assert caught.value.code == "ROLE_FORBIDDEN"
    assert trio.current_time() == began
    assert "quiet" not in actors.service.directory.statistics()


@pytest.mark.parametrize("method", ["load_entities", "list_entities", "read_events"])
async def test_i8_what_the_store_read_is_judged_by_what_the_store_knew(
    store: FaultyStore, world: World, method: str
) -> None:
    """A commit is in the store before this node has heard of it: memory still has the member."""
    limits = Limits(entities_cached_max=4)  # so that the box can leave memory before the member
    async with running(store, world, limits=limits) as actors:
        program = actors.workspace()
        await program.send(PutMember("u", "viewer"))
        await program.send(Put("a", "before"))
        await program.send(Put("b"))
        workspace = program.acting(user_id="u")
        assert await workspace.role_of("u") == "viewer"
        gate, appended = trio.Event(), trio.Event()
        store.faults.append(answered_late(appended, gate))
        reads: dict[str, Callable[[], Awaitable[object]]] = {
            "load_entities": lambda: workspace.get(boxes, "a"),
            "list_entities": lambda: workspace.entities(boxes),
            "read_events": lambda: workspace.events(after=3),
        }
        looked = Looked(reads[method])
        async with trio.open_nursery() as nursery:
            post_all(program, [RemoveMember("u"), Put("a", "after")])
            await appended.wait()
            assert await workspace.role_of("u") == "viewer", "as far as is known here"
            post_all(program, [Expect("c", ""), Expect("d", "")])
            await trio.testing.wait_all_tasks_blocked()
            incarnation = actors.service.directory.activate("w").incarnation
            assert incarnation is not None
            assert incarnation.committed("box:a") is None
            assert incarnation.committed("member:u") is not None
            nursery.start_soon(looked.run)
            await trio.testing.wait_all_tasks_blocked()
            answer = looked.answer
            gate.set()
        # Events are read up to what is published, and that was written before the removal.
        assert answer in (["ROLE_FORBIDDEN", []] if method == "read_events" else ["ROLE_FORBIDDEN"])


async def test_i8_a_page_of_the_log_ends_where_a_membership_did(
    store: FaultyStore, actors: Actors
) -> None:
    program = actors.workspace()
    await program.send(PutMember("u", "viewer"))
    looked = Looked(lambda: program.acting(user_id="u").events())

    async def remove_first() -> None:
        store.before.clear()
        await program.send(RemoveMember("u"))
        await program.send(Put("a", "after"))

    store.before["read_events"] = remove_first
    await looked.run()
    assert [getattr(e, "type", None) for e in cast("list[object]", looked.answer)] == [
        "member_added"
    ]
    assert await program.head() == 3
