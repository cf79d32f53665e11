"""A token that expires on a live connection: the barrier, the grace, and what lifts it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from dalsegno.actors import Proof, World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import Close, DalsegnoError, Limits, Reject, StoreUnavailableError
from tests.actors._boxes import Put
from tests.actors._wire import Message, Wire, wired
from tests.actors._world import Actors, FaultyStore, Wall, eventually, running

STREAM = "workspace:w"
LIFE_S = 30.0
GRACE_S = Limits().renewal_grace_s


class Issuer:
    """Says whom a token proves, until when."""

    def __init__(self, wall: Wall) -> None:
        self.wall = wall
        self.user_id = "u"
        self.session_id = b"family"
        self.refusal: DalsegnoError | None = None
        self.refusals: list[DalsegnoError] = []
        self.asked: list[str] = []

    def until(self, seconds: float = LIFE_S) -> datetime:
        return self.wall.now + timedelta(seconds=seconds)

    async def renew(self, token: str) -> Proof:
        await trio.lowlevel.checkpoint()
        self.asked.append(token)
        if len(self.asked) > 1 and self.refusals:
            raise self.refusals.pop()
        if self.refusal is not None:
            raise self.refusal
        return Proof(self.user_id, self.session_id, self.until(float(token)))

    def given(self, seconds: float = LIFE_S) -> dict[str, Any]:
        """What a connection is made with that began with a token."""
        return {
            "expires_at": self.until(seconds),
            "session_id": b"family",
            "renew": self.renew,
            "role": "editor",
        }


@pytest.fixture
def issuer(wall: Wall) -> Issuer:
    return Issuer(wall)


async def go_by(wall: Wall, seconds: float) -> None:
    """Let time go by on both clocks, and the tick that is due then come."""
    wall.now += timedelta(seconds=seconds)
    await trio.sleep(seconds + 1)


async def put(actors: Actors, count: int, text: str = "") -> None:
    for _ in range(count):
        await actors.workspace().send(Put("a", text))


async def renewed(wire: Wire, seconds: float = LIFE_S, **fields: Any) -> Message:
    return await wire.ask("authenticate", token=str(seconds), **fields)


async def silence(wire: Wire) -> None:
    """Check that nothing more comes before the answer to a ping."""
    assert (await wire.ask("ping", request_id="silence"))["request_id"] == "silence"


async def heard(wire: Wire, count: int) -> list[int]:
    return [message["seq"] for message in await wire.hear_many(count)]


async def test_at_its_expiry_the_barrier_falls_and_a_renewal_lifts_it(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    async with wired(actors, **issuer.given()) as wire, wired(actors, role="viewer") as other:
        await put(actors, 1)
        for each in (wire, other):
            await each.ask("subscribe", stream_id=STREAM)
            assert (await each.hear())["seq"] == 1
        await put(actors, 1)
        assert (await wire.hear())["seq"] == 2
        await go_by(wall, LIFE_S)
        await put(actors, 3)
        assert await heard(other, 4) == [2, 3, 4, 5], "nobody else waits"
        assert (await wire.ask("ping", request_id="p"))["type"] == "pong"
        answer = await wire.ask(
            "command", workspace_id="w", name="put", payload={}, idempotency_key="k", request_id="c"
        )
        assert (answer["type"], answer["code"]) == ("rejected", "TOKEN_EXPIRED")
        assert (answer["idempotency_key"], answer["request_id"]) == ("k", "c")
        for type_, fields in (
            ("ack", {"seq": 2}),
            ("subscribe", {}),
            ("unsubscribe", {}),
        ):
            answer = await wire.ask(type_, stream_id=STREAM, request_id="r", **fields)
            assert (answer["type"], answer["code"]) == ("error", "TOKEN_EXPIRED"), type_
        assert await renewed(wire, request_id="a") == {
            "type": "authenticated",
            "expires_in_ms": LIFE_S * 1000,
            "request_id": "a",
        }
        assert await heard(wire, 3) == [3, 4, 5]
        await put(actors, 1)
        assert (await wire.hear())["seq"] == 6
        await wire.say("ack", stream_id=STREAM, seq=6)
        await silence(wire)


async def test_without_a_renewal_the_connection_ends_with_the_grace(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    async with wired(actors, **issuer.given()) as wire:
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        await go_by(wall, LIFE_S)
        await put(actors, 2)
        await go_by(wall, GRACE_S - 1)
        await silence(wire)
        await go_by(wall, 1)
        rest, code = await wire.hear_end()
        assert code == Close.UNAUTHORIZED
        assert [message["type"] for message in rest if message["type"] != "heartbeat"] == []


async def test_a_renewal_in_time_is_not_noticed(actors: Actors, wall: Wall, issuer: Issuer) -> None:
    async with wired(actors, **issuer.given()) as wire:
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        for seq in range(2, 7):
            await go_by(wall, LIFE_S * 0.8)
            assert (await renewed(wire))["expires_in_ms"] == LIFE_S * 1000
            await put(actors, 1)
            assert (await wire.hear())["seq"] == seq
        assert not wire.connection.writer.is_held


async def test_a_shorter_life_ends_sooner(actors: Actors, wall: Wall, issuer: Issuer) -> None:
    async with wired(actors, **issuer.given(3_600)) as wire:
        await trio.sleep(3)  # it is not looked at before its next heartbeat, in seven seconds
        assert (await renewed(wire, 1))["expires_in_ms"] == 1_000
        await go_by(wall, 1)
        assert wire.connection.writer.is_held


async def test_a_token_of_another_user_ends_the_connection(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    for passes_s in (0.0, LIFE_S):
        async with wired(actors, **issuer.given()) as wire:
            issuer.user_id = "v"
            await go_by(wall, passes_s)
            await wire.say("authenticate", token="30")
            assert (await wire.hear_end())[1] == Close.FORBIDDEN
        issuer.user_id = "u"


@pytest.mark.parametrize("code", ["TOKEN_INVALID", "TOKEN_EXPIRED", "STORE_UNAVAILABLE"])
async def test_what_proves_nothing_lifts_nothing_and_ends_nothing(
    actors: Actors, wall: Wall, issuer: Issuer, code: str
) -> None:
    refusal = StoreUnavailableError() if code == "STORE_UNAVAILABLE" else Reject(code, "no")
    async with wired(actors, **issuer.given()) as wire:
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        await go_by(wall, LIFE_S)
        issuer.refusal = refusal
        await put(actors, 1)
        answer = await renewed(wire, request_id="a")
        assert (answer["type"], answer["code"], answer["request_id"]) == ("error", code, "a")
        await silence(wire)
        issuer.refusal = None
        await renewed(wire)
        assert (await wire.hear())["seq"] == 2


async def test_a_token_within_a_clocks_leeway_keeps_nobody(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    async with wired(actors, **issuer.given()) as wire:
        await go_by(wall, LIFE_S)
        for seconds in (-1.0, 0.0):
            assert (await renewed(wire, seconds))["code"] == "TOKEN_EXPIRED"
        assert wire.connection.writer.is_held
        assert (await renewed(wire, 1))["type"] == "authenticated"


async def test_a_connection_in_doubt_gets_no_event_until_it_is_trusted_again(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    connections = actors.service.connections
    async with wired(actors, **issuer.given()) as wire:
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        connections.hold()
        await put(actors, 2)
        await silence(wire)
        fields = {"workspace_id": "w", "name": "put", "payload": {}}
        refused = await wire.ask("command", request_id="c", **fields)
        assert refused["code"] == "STORE_UNAVAILABLE"
        refused = await wire.ask("subscribe", stream_id="box:a", request_id="s")
        assert (refused["code"], refused["request_id"]) == ("STORE_UNAVAILABLE", "s")
        assert (await wire.ask("ping", request_id="p"))["type"] == "pong"
        connections.resume()
        assert [(await wire.hear())["seq"] for _ in range(2)] == [2, 3]

        connections.hold()
        await go_by(wall, LIFE_S)
        connections.resume()
        await put(actors, 1)
        await silence(wire)
        assert wire.connection.writer.is_held, "its token has expired meanwhile"
        connections.hold()
        await renewed(wire)
        await silence(wire)
        connections.resume()
        assert (await wire.hear())["seq"] == 4


async def test_a_connection_without_a_session_is_never_in_doubt(actors: Actors) -> None:
    async with wired(actors, role="editor") as wire:
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        actors.service.connections.hold()
        await put(actors, 1)
        assert (await wire.hear())["seq"] == 2


async def test_what_is_no_token_is_answered_as_what_cannot_be_read(
    actors: Actors, issuer: Issuer
) -> None:
    async with wired(actors, **issuer.given()) as wire:
        for fields in ({}, {"token": 1}, {"token": None}, {"token": "x" * (8 * 1024 + 1)}):
            answer = await wire.ask("authenticate", request_id="a", **fields)
            assert (answer["code"], answer["request_id"]) == ("BAD_REQUEST", "a")
        assert issuer.asked == []


async def test_a_connection_with_a_session_ends_with_it_at_once(actors: Actors, wall: Wall) -> None:
    ends_at = wall.now + timedelta(seconds=LIFE_S)
    async with wired(actors, role="editor", expires_at=ends_at) as wire:
        answer = await renewed(wire, request_id="a")
        assert (answer["code"], answer["request_id"]) == ("STATE_CONFLICT", "a")
        await go_by(wall, LIFE_S)
        assert (await wire.hear_end())[1] == Close.UNAUTHORIZED


async def test_another_session_of_the_user_takes_over_the_connection(
    actors: Actors, issuer: Issuer
) -> None:
    connections = actors.service.connections
    async with wired(actors, **issuer.given()) as wire:
        issuer.session_id = b"next"
        await renewed(wire)
        assert len(issuer.asked) == 2, "again, once its end would find the connection"
        connections.close_session(b"family", Close.UNAUTHORIZED, "over")
        await silence(wire)
        connections.close_session(b"next", Close.UNAUTHORIZED, "over")
        assert (await wire.hear_end())[1] == Close.UNAUTHORIZED


async def test_a_session_that_ends_while_it_takes_over_ends_the_connection(
    actors: Actors, issuer: Issuer
) -> None:
    async with wired(actors, **issuer.given()) as wire:
        issuer.session_id = b"next"
        issuer.refusals = [Reject("TOKEN_INVALID", "it was ended")]
        await wire.say("authenticate", token="30")
        assert await wire.hear_end() == ([], Close.UNAUTHORIZED)


async def test_the_barrier_falls_while_a_page_is_read(
    store: FaultyStore, actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    await put(actors, 3)
    gate = trio.Event()
    async with wired(actors, **issuer.given()) as wire:
        actors.forget()
        store.before["read_events"] = gate.wait
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        await go_by(wall, LIFE_S)
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        await silence(wire)
        await put(actors, 2)
        await renewed(wire)
        assert await heard(wire, 5) == [1, 2, 3, 4, 5]


async def test_the_barrier_falls_and_is_lifted_while_a_page_is_read(
    store: FaultyStore, actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    await put(actors, 3)
    gate = trio.Event()
    async with wired(actors, **issuer.given()) as wire:
        actors.forget()
        store.before["read_events"] = gate.wait
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        await go_by(wall, LIFE_S)
        assert wire.connection.writer.is_held
        await wire.say("authenticate", token="30")
        await trio.testing.wait_all_tasks_blocked()
        assert not wire.connection.writer.is_held
        gate.set()
        await put(actors, 2)
        messages = await wire.hear_many(6)
        assert [m["seq"] for m in messages if m["type"] == "event"] == [1, 2, 3, 4, 5]
        assert [m["type"] for m in messages].count("authenticated") == 1
        await silence(wire)


async def test_the_barrier_falls_while_the_client_takes_its_time(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    """What the transport had taken before is still written; nothing that came later is."""
    async with wired(actors, room_bytes=600, **issuer.given(5)) as wire:
        await put(actors, 1, "x" * 100)
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        await put(actors, 19, "x" * 100)
        await eventually(lambda: wire.connection.statistics().state == "sending")
        await go_by(wall, 5)
        await put(actors, 5)
        before = await heard_before_the_pong(wire)
        assert before == [*range(1, len(before) + 1)]
        assert len(before) < 20
        await renewed(wire)
        assert await heard(wire, 25 - len(before)) == [*range(len(before) + 1, 26)]
        await silence(wire)


async def heard_before_the_pong(wire: Wire) -> list[int]:
    await wire.say("ping")
    seqs = []
    while (message := await wire.hear())["type"] != "pong":
        seqs.append(message["seq"])
    return seqs + await heard_until_silent(wire)


async def heard_until_silent(wire: Wire) -> list[int]:
    """Read what is on the line behind the pong: replies go first."""
    await trio.testing.wait_all_tasks_blocked()
    await wire.say("ping")
    seqs = []
    while (message := await wire.hear())["type"] != "pong":
        seqs.append(message["seq"])
    return seqs


async def test_a_subscription_that_begins_as_the_barrier_falls_does_not(
    store: FaultyStore, actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    await put(actors, 3)
    gate = trio.Event()
    async with wired(actors, **issuer.given()) as wire:
        store.before["read_cursors"] = gate.wait
        await wire.say("subscribe", stream_id=STREAM, request_id="s")
        await trio.testing.wait_all_tasks_blocked()
        await go_by(wall, LIFE_S)
        gate.set()
        answer = await wire.hear()
        assert (answer["code"], answer["request_id"]) == ("TOKEN_EXPIRED", "s")
        hub = actors.service.directory.activate("w").hub
        assert hub.subscriptions == 0
        await renewed(wire)
        await silence(wire)
        await wire.ask("subscribe", stream_id=STREAM)
        assert await heard(wire, 3) == [1, 2, 3]


async def test_a_removal_behind_the_barrier_still_is_one(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    """Rights are the log's: a renewal gives back none that ended meanwhile (I8)."""
    workspace = actors.workspace()
    await workspace.send(PutMember("u", "editor"))
    async with wired(actors, **issuer.given() | {"role": None}) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        await go_by(wall, LIFE_S)
        await put(actors, 2)
        removed = await workspace.send(RemoveMember("u"))
        await put(actors, 2)
        await renewed(wire)
        assert await heard(wire, 3) == [2, 3, removed.event_seq]
        ended = await wire.hear()
        assert (ended["type"], ended["code"]) == ("error", "ROLE_FORBIDDEN")
        await silence(wire)
        answer = await wire.ask("subscribe", stream_id=STREAM)
        assert answer["code"] == "ROLE_FORBIDDEN"


@pytest.mark.parametrize("seed", range(8))
async def test_wherever_it_falls_nothing_is_missed_and_nothing_comes_twice(
    store: FaultyStore, world: World, wall: Wall, seed: int
) -> None:
    chance = random.Random(seed)
    limits = Limits(outbox_bytes_max=2_000, page_events=4, tail_bytes_max=3_000)
    total = 150
    issuer = Issuer(wall)
    async with running(store, world, limits=limits) as actors:
        room = chance.choice([300, 3_000, 128 * 1024])
        async with wired(actors, room_bytes=room, **issuer.given(3_600)) as wire:
            await put(actors, 1)
            await wire.ask("subscribe", stream_id=STREAM, cursor=0)
            seqs: list[int] = []
            writer = wire.connection.writer

            async def read() -> None:
                while len(seqs) < total:
                    seqs.append((await wire.hear())["seq"])
                    for _ in range(chance.randrange(3)):
                        await trio.lowlevel.checkpoint()

            async def fall_and_lift() -> None:
                while len(seqs) < total:
                    await trio.sleep(chance.random() * 0.01)
                    writer.hold()
                    for _ in range(chance.randrange(6)):
                        await trio.lowlevel.checkpoint()
                    writer.resume()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(fall_and_lift)
                for _ in range(total - 1):
                    await actors.workspace().send(Put("a", "x" * chance.randrange(100)))
                    if chance.random() < 0.2:
                        await trio.sleep(chance.random() * 0.01)
            assert seqs == [*range(1, total + 1)]


async def test_who_renews_while_the_server_drains_stays_to_the_end(
    actors: Actors, wall: Wall, issuer: Issuer
) -> None:
    async with wired(actors, **issuer.given()) as wire:
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        await go_by(wall, LIFE_S)
        await put(actors, 1)
        await actors.service.drain()
        assert (await renewed(wire))["type"] == "authenticated"
        assert (await wire.hear())["seq"] == 2
        wire.connection.close(Close.GOING_AWAY, "it ends")
        assert (await wire.hear_end())[1] == Close.GOING_AWAY
