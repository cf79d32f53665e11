"""A view that begins with what happened before: in order, nothing twice, for whom it is alone.

The boxes named ``of x`` say which box is shown from its beginning to who begins to view ``x``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import pytest
import trio

from dalsegno.actors import World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import (
    Domain,
    Event,
    Limits,
    Principal,
    Reject,
    StoreUnavailableError,
    not_found,
)
from dalsegno.protocol.dialects import (
    AnyRequest,
    Beginning,
    ClientMessage,
    Conversation,
    Dialect,
    GenericDialect,
    Opening,
    Passes,
    Socket,
    SubscribeRequest,
    ViewRequest,
    encode_said,
)
from tests.actors._boxes import Box, Put, boxes
from tests.actors._wire import Wire, wired
from tests.actors._world import Actors, FaultyStore, running


class Before(msgspec.Struct, tag="before"):
    seq: int


class Viewed(msgspec.Struct, tag="viewed"):
    box: str


class BoxDialect(GenericDialect):
    name = "boxes"
    says = (*GenericDialect.says, Before, Viewed)

    def recalled(self, event: Event, _payload: object) -> Sequence[bytes]:
        return [encode_said(Before(event.event_seq))]

    def viewed(self, asked: ViewRequest, _seq: int) -> bytes:
        assert isinstance(asked, Look)
        return encode_said(Viewed(asked.box))


BOXES = BoxDialect()


class View(ClientMessage, tag="view", frozen=True, kw_only=True):
    box: str


class Look(ViewRequest, tag="look", frozen=True, kw_only=True):
    dialect: ClassVar[Dialect] = BOXES

    box: str

    @property
    def stream_id(self) -> str:
        return "workspace:w"

    @property
    def passes(self) -> Passes:
        return _only(self.box)

    @property
    def looks_at(self) -> tuple[Domain[Any, Any, Any], str]:
        return boxes, f"of {self.box}"

    def recalled(self, state: Box | None) -> str | None:
        if state is None:
            raise not_found(f"box:of {self.box}")
        return state.text or None


class Follow(SubscribeRequest, tag="follow", frozen=True, kw_only=True):
    dialect: ClassVar[Dialect] = BOXES
    from_now: ClassVar[bool] = True

    @property
    def stream_id(self) -> str:
        return "workspace:w"

    @property
    def passes(self) -> Passes:
        return _only("nothing")


def _only(box: str) -> Passes:
    return lambda event: event.stream_id == f"box:{box}"


def interpret(seen: tuple[str, ...], asked: Any) -> tuple[tuple[str, ...], AnyRequest | None]:
    if not isinstance(asked, View):
        known: AnyRequest = asked
        return seen, known
    if asked.box == "refused":
        raise Reject("BAD_REQUEST", "not that one")
    return (*seen, asked.box), Look(box=asked.box, request_id=asked.request_id)


BoxDialect.messages = (*GenericDialect.messages, View)
SOCKET = Socket(
    "/boxes",
    BOXES,
    begin=lambda _: Beginning(state=(), follows=[Follow()]),
    interprets=interpret,
)
FROM_THE_BEGINNING = Socket(
    "/boxes",
    BOXES,
    begin=lambda _: Beginning(state=(), follows=[Follow(cursor=0)]),
    interprets=interpret,
)
LIMITS = Limits(replies_bytes_max=4_000, page_events=8)


@pytest.fixture
async def actors(store: FaultyStore, world: World) -> AsyncIterator[Actors]:
    async with running(store, world, limits=LIMITS) as actors:
        await actors.workspace().send(PutMember("u", "editor"))
        await actors.workspace().send(Put("of x", "box:x"))
        yield actors


@asynccontextmanager
async def viewer(actors: Actors, **who: Any) -> AsyncIterator[Wire]:
    opening = Opening(principal=Principal("u"), path={}, query={})
    async with wired(actors, language=Conversation(SOCKET, opening), **who) as wire:
        assert (await wire.hear())["type"] == "subscribed"
        yield wire


async def put(actors: Actors, count: int, box: str = "x") -> None:
    for number in range(count):
        await actors.workspace().send(Put(box, str(number)))


async def seen_until_viewed(wire: Wire) -> list[int]:
    """The numbers of what was shown of before."""
    seen = []
    while (said := await wire.hear())["type"] != "viewed":
        if said["type"] == "before":
            seen.append(said["seq"])
    return seen


async def numbers_of(actors: Actors, box: str = "x") -> list[int]:
    log = await actors.workspace().events(limit=1_000)
    return [event.event_seq for event in log if event.stream_id == f"box:{box}"]


async def test_what_happened_before_comes_first_and_then_what_happens(actors: Actors) -> None:
    await put(actors, 20)
    async with viewer(actors) as wire:
        await wire.say("view", box="x")
        seen = await seen_until_viewed(wire)
        assert seen == await numbers_of(actors)
        await put(actors, 1)
        event = await wire.hear()
        assert (event["type"], event["entity"]) == ("event", "box:x")
        assert [*seen, event["event_seq"]] == await numbers_of(actors)


async def test_what_happens_meanwhile_is_neither_missed_nor_there_twice(actors: Actors) -> None:
    await put(actors, 60)
    async with viewer(actors) as wire, trio.open_nursery() as nursery:
        await wire.say("view", box="x")
        nursery.start_soon(put, actors, 60)
        seen = await seen_until_viewed(wire)
        while len(seen) < 120:
            said = await wire.hear()
            if said["type"] == "event":
                seen.append(said["event_seq"])
        assert seen == await numbers_of(actors)
        await wire.silence()


@pytest.mark.parametrize("turns", range(12))
async def test_who_is_still_catching_up_is_shown_nothing_twice(turns: int, actors: Actors) -> None:
    """The view comes at each turn of a page that is on its way."""
    await put(actors, 60)
    opening = Opening(principal=Principal("u"), path={}, query={})
    language = Conversation(FROM_THE_BEGINNING, opening)
    async with wired(actors, language=language, room_bytes=300) as wire:
        assert (await wire.hear())["type"] == "subscribed"
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        await wire.say("view", box="x")
        seen = await seen_until_viewed(wire)
        while len(seen) < 60:
            said = await wire.hear()
            if said["type"] == "event":
                seen.append(said["event_seq"])
        assert seen == await numbers_of(actors)
        await wire.silence()


async def test_a_view_that_is_refused_leaves_everything_as_it_was(actors: Actors) -> None:
    await put(actors, 1)
    async with viewer(actors) as wire:
        await wire.say("view", box="x")
        assert len(await seen_until_viewed(wire)) == 1
        assert (await wire.ask("view", box="refused"))["code"] == "BAD_REQUEST"
        assert (await wire.ask("view", box="unknown"))["code"] == "BOX_NOT_FOUND"
        await put(actors, 1)
        assert (await wire.hear())["entity"] == "box:x"


async def test_who_is_removed_meanwhile_is_shown_no_more(actors: Actors) -> None:
    """A client that takes its time has so much on its way, and gets nothing else."""
    await put(actors, 400)
    async with viewer(actors, room_bytes=500) as wire:
        await wire.say("view", box="x")
        await trio.sleep(0.1)
        await actors.workspace().send(RemoveMember("u"))
        seen, kinds = 0, set[str]()
        with trio.move_on_after(30):
            while True:
                said = await wire.hear()
                kinds.add(said["type"])
                seen += said["type"] == "before"
        assert "viewed" not in kinds
        assert seen * len(encode_said(Before(1))) < LIMITS.replies_bytes_max + 2_000


async def test_who_takes_nothing_is_closed_and_costs_little(actors: Actors) -> None:
    await put(actors, 400)
    async with viewer(actors, room_bytes=500) as wire:
        await wire.say("view", box="x")
        with trio.fail_after(2 * LIMITS.write_deadline_s):
            await wire.ended.wait()
        assert wire.connection.statistics().replies_bytes <= LIMITS.replies_bytes_max


async def test_a_view_that_cannot_be_begun_now_may_be_later(
    actors: Actors, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> list[Event]:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    await put(actors, 3)
    async with viewer(actors) as wire:
        with monkeypatch.context() as patch:
            patch.setattr(store, "read_stream", away)
            assert (await wire.ask("view", box="x"))["code"] == "STORE_UNAVAILABLE"
        await wire.say("view", box="x")
        assert len(await seen_until_viewed(wire)) == 3
