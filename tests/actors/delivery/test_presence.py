"""Who is present: who is told what, when somebody is gone, and what presence must never do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import TransportClosedError, World
from dalsegno.actors.delivery import Presence
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Close, Limits, PresenceChange
from dalsegno.protocol.dialects import GENERIC
from tests._patience import lasted
from tests._presence import Message, Seen
from tests.actors._boxes import Put
from tests.actors._nodes import moving_world, node
from tests.actors._wire import Wire, wired
from tests.actors._world import Actors, FaultyStore, running

LIMITS = Limits()
LINGER_S, INTERVAL_S = LIMITS.presence_linger_s, LIMITS.presence_interval_s
SOON_S = 3 * INTERVAL_S


class Guest:
    """A client that is present, and what it knows of the others."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.seen = Seen()
        self.heard: list[Message] = []
        """Everything that it was told, presence or not."""
        self.ended: Message | None = None

    async def attend(self, state: Any = None, workspace_id: str = "w") -> None:
        await self.wire.say("presence_subscribe", workspace_id=workspace_id, state=state)

    async def listen(self) -> None:
        while (message := await self._next()) is not None:
            if message["type"] == "heartbeat":
                continue
            self.heard.append(message)
            if message["type"] in {"presence", "presence_diff"}:
                assert self.seen.hear(message), "each follows"
            elif message["type"] == "presence_ended":
                self.ended = message

    async def _next(self) -> Message | None:
        """The next message; None: the connection is over."""
        try:
            return msgspec.json.decode(await self.wire.client.receive(), type=dict[str, Any])
        except TransportClosedError:
            return None

    @property
    def told(self) -> list[Message]:
        return [each for each in self.heard if each["type"].startswith("presence")]

    async def sees(self, *users: str, within_s: float = SOON_S) -> None:
        """Wait until it knows of these users, and no others."""
        await eventually(lambda: sorted(self.seen.users) == sorted(users), within_s=within_s)

    async def hears_nothing(self, seconds: float = SOON_S) -> None:
        before = len(self.told)
        await trio.sleep(seconds)
        assert self.told[before:] == []


@asynccontextmanager
async def guests(
    actors: Actors, *users: str, attends: bool = True, **who: Any
) -> AsyncIterator[Sequence[Guest]]:
    """Open a connection for each, once the workspace has settled."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        came = []
        for user in users:
            given = {"user_id": user, "role": "viewer", **who}
            guest = Guest(await stack.enter_async_context(wired(actors, **given)))
            nursery.start_soon(guest.listen)
            if attends:
                await guest.attend()
            came.append(guest)
        if attends:
            await eventually(lambda: all({*users} <= each.seen.users.keys() for each in came))
        yield came
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], object], *, within_s: float = 60) -> None:
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
async def settled(actors: Actors) -> Actors:
    """A workspace that is open for a while."""
    await actors.workspace().send(Put("a"))
    await trio.sleep(LINGER_S)
    return actors


def presence(actors: Actors) -> Presence:
    found = actors.service.directory.activate("w").hub.presence
    assert found is not None
    return found


# ------------------------------------------------------------------------------------- who is told


async def test_who_comes_is_told_who_is_there_and_the_others_that_it_came(settled: Actors) -> None:
    async with guests(settled, "ada", "bob", attends=False) as (ada, bob):
        await ada.wire.say("presence_subscribe", workspace_id="w", state={"at": 1}, request_id="r")
        await ada.sees("ada")
        (first,) = ada.told
        (own,) = first["users"][0]["connections"]
        assert first == {
            "type": "presence",
            "request_id": "r",
            "workspace_id": "w",
            "epoch": first["epoch"],
            "rev": first["rev"],
            "settled": True,
            "users": [
                {
                    "user_id": "ada",
                    "since": "2030-01-02T03:04:05.678901Z",
                    "connections": [
                        {"id": first["connection_id"], "client_id": "default", "state": {"at": 1}}
                    ],
                }
            ],
            "total": 1,
            "connection_id": own["id"],
        }
        await bob.attend()
        await ada.sees("ada", "bob")
        await bob.sees("ada", "bob")
        assert bob.seen.lists == 1
        diff = ada.told[1]
        assert diff == {
            "type": "presence_diff",
            "workspace_id": "w",
            "epoch": first["epoch"],
            "rev": first["rev"] + 1,
            "settled": True,
            "joined": [bob.seen.users["bob"]],
            "changed": [],
            "left": [],
            "total": 2,
        }
        await bob.wire.say("presence_update", workspace_id="w", state=[2])
        await eventually(lambda: ada.seen.states("bob") == [[2]])
        assert [user["user_id"] for user in ada.told[-1]["changed"]] == ["bob"]
        await bob.wire.say("presence_unsubscribe", workspace_id="w", request_id="u")
        await ada.sees("ada")
        assert bob.told[-1] == {
            "type": "presence_unsubscribed",
            "request_id": "u",
            "workspace_id": "w",
        }
        await bob.hears_nothing()


async def test_one_user_by_several_connections_joins_once_and_leaves_once(settled: Actors) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        async with guests(settled, "bob", client_id="phone") as (phone,):
            await eventually(lambda: len(ada.seen.states("bob")) == 2)
            assert not ada.told[-1]["joined"]
            phone.wire.client.close(1000)
            await eventually(lambda: len(ada.seen.states("bob")) == 1, within_s=SOON_S)
        bob.wire.client.close(1001)
        await ada.sees("ada")
        assert ada.told[-1]["left"] == ["bob"]


async def test_whoever_asks_again_gets_the_list_again(settled: Actors) -> None:
    async with guests(settled, "ada") as (ada,):
        before = ada.seen.rev
        await ada.wire.say("presence_subscribe", workspace_id="w", request_id="again")
        await eventually(lambda: ada.seen.lists == 2)
        assert ada.told[-1]["request_id"] == "again"
        assert ada.seen.rev == before, "nothing has changed"
        for _ in range(50):
            await ada.wire.say("presence_subscribe", workspace_id="w")
        await trio.sleep(1.0)
        assert ada.seen.lists <= 12, "ten a second, whoever asks how often"


async def test_what_changes_within_a_tenth_of_a_second_is_one_change(settled: Actors) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        before = ada.seen.diffs
        for number in range(15):
            await bob.wire.say("presence_update", workspace_id="w", state=number)
            await trio.sleep(INTERVAL_S / 15)
        await eventually(lambda: ada.seen.states("bob") == [14])
        assert 1 <= ada.seen.diffs - before <= 3
        at = trio.current_time()
        await trio.sleep(1.0)
        await bob.wire.say("presence_update", workspace_id="w", state="now")
        await eventually(lambda: ada.seen.states("bob") == ["now"])
        assert trio.current_time() - at < 1.0 + INTERVAL_S / 2, "the first of them waits for none"


async def test_of_more_than_twenty_states_a_second_the_last_is_told_a_second_later(
    settled: Actors,
) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        await trio.sleep(1.0)
        for number in range(100):
            await bob.wire.say("presence_update", workspace_id="w", state=number)
        await eventually(lambda: ada.seen.states("bob") == [19])
        await ada.hears_nothing(0.8)
        await eventually(lambda: ada.seen.states("bob") == [99], within_s=1.0)
        assert [each["type"] for each in bob.heard if each["type"] == "error"] == []


async def test_a_state_that_is_too_long_or_cannot_be_read_changes_nothing(settled: Actors) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        fits = "x" * (LIMITS.presence_state_bytes_max - 2)
        await bob.wire.say("presence_update", workspace_id="w", state=fits, request_id="1")
        await eventually(lambda: ada.seen.states("bob") == [fits])
        await bob.wire.say("presence_update", workspace_id="w", state=fits + "x", request_id="2")
        await bob.wire.client.send(
            '{"type":"presence_update","workspace_id":"w","state":[1e999],"request_id":"3"}'
        )
        await eventually(lambda: len(errors_of(bob)) == 2)
        assert [(each["code"], each["request_id"], each["field"]) for each in errors_of(bob)] == [
            ("BAD_REQUEST", "2", "state"),
            ("BAD_REQUEST", "3", "state"),
        ]
        assert errors_of(bob)[0]["bytes_max"] == LIMITS.presence_state_bytes_max
        assert ada.seen.states("bob") == [fits]


def errors_of(guest: Guest) -> list[Message]:
    return [each for each in guest.heard if each["type"] == "error"]


async def test_what_is_refused(settled: Actors) -> None:
    async with guests(settled, "ada", attends=False) as (ada,), wired(settled) as stranger:
        wire = stranger

        async def code(type_: str, **fields: Any) -> str:
            said = await wire.ask(type_, **fields)
            assert said["type"] == "error", said
            return str(said["code"])

        assert await code("presence_subscribe", workspace_id="w") == "ROLE_FORBIDDEN"
        assert await code("presence_subscribe", workspace_id="$system") == "ROLE_FORBIDDEN"
        assert await code("presence_subscribe", workspace_id="no") == "WORKSPACE_NOT_FOUND"
        assert await code("presence_subscribe", workspace_id="a/b") == "BAD_REQUEST"
        assert await code("presence_update", workspace_id="w", state=1) == "NOT_SUBSCRIBED"
        assert await code("presence_update", workspace_id="w") == "BAD_REQUEST"
        assert await code("presence_unsubscribe", workspace_id="w") == "NOT_SUBSCRIBED"
        assert await code("presence_ping", workspace_id="w") == "ROLE_FORBIDDEN"
        assert await code("presence_ping", workspace_id="w", cursor=-1) == "BAD_REQUEST"
        await ada.attend()
        await ada.sees("ada")


async def test_a_connection_is_present_in_so_many_workspaces(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(presence_workspaces_max=2, presence_connections_per_user_max=2)
    async with running(store, world, limits=limits) as actors:
        for name in "wvu":
            await actors.workspace(name).send(Put("a"))
        async with guests(actors, "ada", "ada", "ada", attends=False) as (one, two, three):
            for name in "wvu":
                await one.attend(workspace_id=name)
            await eventually(lambda: errors_of(one))
            await two.attend()
            await three.attend()
            await eventually(lambda: errors_of(three))
            assert [each["code"] for each in errors_of(one) + errors_of(three)] == [
                "BAD_REQUEST",
                "BAD_REQUEST",
            ]
            statistics = actors.service.presences.statistics()
            assert (statistics.workspaces, statistics.connections) == (2, 3)
            assert repr(actors.service.presences) == "<Presences of 2 workspaces>"
        await eventually(lambda: actors.service.presences.statistics().connections == 0)


# ---------------------------------------------------------------------------------------- the end

ENDINGS: dict[str, tuple[Callable[[Wire], None], float]] = {
    "it closes": (lambda wire: wire.client.close(1000), 0.0),
    "it leaves the page": (lambda wire: wire.client.close(1001), 0.0),
    "it closes without a code": (lambda wire: wire.client.close(1005), 0.0),
    "its session ends": (lambda wire: wire.connection.close(Close.UNAUTHORIZED, ""), 0.0),
    "it vanishes": (lambda wire: wire.client.vanish(), LINGER_S),
    "it is too slow": (lambda wire: wire.connection.close(Close.TRY_AGAIN, ""), LINGER_S),
    "it was silent": (lambda wire: wire.connection.close(Close.NORMAL, "silent"), LINGER_S),
    "its tab came back": (lambda wire: wire.connection.close(Close.SUPERSEDED, ""), LINGER_S),
}


@pytest.mark.parametrize("how", ENDINGS)
async def test_who_leaves_is_gone_at_once_and_who_is_lost_after_five_seconds(
    settled: Actors, how: str
) -> None:
    end, after_s = ENDINGS[how]
    async with guests(settled, "ada", "bob") as (ada, bob):
        began = trio.current_time()
        end(bob.wire)
        await ada.sees("ada", within_s=2 * LINGER_S)
        assert after_s <= lasted(began) <= after_s + SOON_S


async def test_a_clean_end_that_a_write_meets_first_is_a_clean_end(settled: Actors) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        bob.wire.client.close(1001)
        bob.wire.connection.tick(trio.current_time() + LIMITS.heartbeat_interval_s)
        await ada.sees("ada")


async def test_the_worst_ghost_is_a_pongs_deadline_and_five_seconds(settled: Actors) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        bob.wire.client.deaf = True
        began = trio.current_time()
        await ada.sees("ada", within_s=100)
        most_s = LIMITS.ping_interval_s + LIMITS.pong_deadline_s + LINGER_S
        assert most_s - LINGER_S < lasted(began) <= most_s + 2


@pytest.mark.parametrize("tab", [None, "t"])
async def test_who_comes_back_in_time_is_told_of_to_nobody(
    settled: Actors, tab: str | None
) -> None:
    async with guests(settled, "ada") as (ada,):
        async with guests(settled, "bob", tab=tab) as (bob,):
            await ada.sees("ada", "bob")
            own = bob.seen.connection_id
            bob.wire.client.vanish()
            await ada.hears_nothing(LINGER_S / 2)
        async with guests(settled, "bob", tab=tab) as (bob,):
            await ada.hears_nothing(2 * LINGER_S)
            assert bob.seen.connection_id == own
            assert ada.seen.users == bob.seen.users


async def test_a_tab_that_comes_back_before_it_was_missed_takes_its_own_place(
    settled: Actors,
) -> None:
    async with (
        guests(settled, "ada") as (ada,),
        guests(settled, "bob", tab="t") as (old,),
    ):
        await ada.sees("ada", "bob")
        async with guests(settled, "bob", tab="t") as (new,):
            await ada.hears_nothing()
            assert old.ended == {
                "type": "presence_ended",
                "workspace_id": "w",
                "code": "STATE_CONFLICT",
                "message": "another connection of this tab is present in its place",
                "details": None,
            }
            old.wire.client.close(1000)
            await ada.hears_nothing()
            assert len(new.seen.states("bob")) == 1
            new.wire.client.close(1000)
            await ada.sees("ada")


async def test_x_lim_5_what_is_present_is_in_memory_alone(
    settled: Actors, store: FaultyStore
) -> None:
    """And a workspace that rests stays here while somebody is present."""
    before = msgspec.json.encode([*store._logs["w"].events]), len(store.statements)
    async with guests(settled, "ada", "bob") as (ada, bob):
        await bob.wire.say("presence_update", workspace_id="w", state="s")
        await eventually(lambda: ada.seen.states("bob") == ["s"])
        await trio.sleep(3 * LIMITS.passivate_after_s)
        assert settled.service.directory.statistics()["w"].state == "resting"
        assert ada.seen.settled
        await bob.wire.say("presence_update", workspace_id="w", state="t")
        await eventually(lambda: ada.seen.states("bob") == ["t"])
    await eventually(lambda: "w" not in settled.service.directory.statistics())
    assert (msgspec.json.encode([*store._logs["w"].events]), len(store.statements)) == before


# ------------------------------------------------------------------------------ whose access ends


async def members(actors: Actors, *users: str) -> None:
    for user in users:
        await actors.workspace().send(PutMember(user, "viewer"))
    await trio.sleep(LINGER_S)


async def test_i8_who_is_removed_is_gone_and_told_nothing_more(actors: Actors) -> None:
    await members(actors, "owner", "ada", "bob")
    async with guests(actors, "ada", "bob", role=None) as (ada, bob):
        await bob.wire.say("subscribe", stream_id="workspace:w", cursor=0)
        await eventually(lambda: any(each["type"] == "subscribed" for each in bob.heard))
        rev = bob.seen.rev
        await actors.workspace().send(RemoveMember("bob"))
        await ada.wire.say("presence_update", workspace_id="w", state="secret")
        await eventually(lambda: ada.seen.states("ada") == ["secret"])
        await ada.sees("ada")
        assert bob.ended is not None
        assert (bob.ended["code"], bob.ended["workspace_id"]) == ("ROLE_FORBIDDEN", "w")
        assert bob.seen.rev == rev, "it was told nothing of that"
        assert "secret" not in str(bob.heard)
        await bob.attend()
        await eventually(lambda: errors_of(bob)[-1:])
        assert errors_of(bob)[-1]["code"] == "ROLE_FORBIDDEN"
        await ada.hears_nothing()


async def test_i8_a_removal_while_the_role_is_read_is_heard_of(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await members(actors, "owner", "ada", "bob")
        actors.service.directory.activate("w").passivate()
        reads, gate = trio.Event(), trio.Event()
        async with guests(actors, "ada", role=None) as (ada,):
            check = actors.service.catalog.check_member

            async def slow_check(*args: Any) -> None:
                await check(*args)
                reads.set()
                await gate.wait()

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(actors.service.catalog, "check_member", slow_check)
                async with guests(actors, "bob", attends=False, role=None) as (bob,):
                    await bob.attend()
                    await reads.wait()
                    await actors.workspace().send(RemoveMember("bob"))
                    gate.set()
                    await eventually(lambda: errors_of(bob))
                    assert errors_of(bob)[0]["code"] == "ROLE_FORBIDDEN"
                    assert bob.told == []
            await ada.hears_nothing()


async def test_a_connection_in_doubt_is_told_nothing_and_then_the_list(settled: Actors) -> None:
    async with guests(settled, "ada") as (ada,), guests(settled, "bob", session_id=b"s") as (bob,):
        await ada.sees("ada", "bob")
        before = len(bob.told)
        settled.service.connections.hold()
        for number in range(3):
            await ada.wire.say("presence_update", workspace_id="w", state=number)
            await trio.sleep(2 * INTERVAL_S)
        await bob.attend("mine")
        await eventually(lambda: errors_of(bob))
        assert errors_of(bob)[0]["code"] == "STORE_UNAVAILABLE"
        assert len(bob.told) == before
        settled.service.connections.resume()
        await eventually(lambda: bob.seen.states("ada") == [2], within_s=2.0)
        assert bob.seen.lists == 2
        settled.service.connections.hold()
        await ada.wire.say("presence_update", workspace_id="w", state=3)
        await trio.sleep(2 * INTERVAL_S)
        settled.service.connections.resume()
        await ada.wire.say("presence_update", workspace_id="w", state=4)
        await bob.sees("ada", "bob")
        await eventually(lambda: bob.seen.states("ada") == [4], within_s=SOON_S)
        assert bob.seen.lists == 3, "the change does not follow what it has"


# ------------------------------------------------------------------------------------ another node


async def test_another_node_has_another_epoch_which_settles() -> None:
    moving = moving_world()
    store = MemoryStore(moving)
    async with (
        node(store, "b", world=moving, address="http://b") as b,
        node(store, "a", world=moving) as a,
    ):
        await a.workspace().send(Put("a"))
        await trio.sleep(LINGER_S)
        async with guests(a, "ada", "bob") as (ada, bob):
            assert ada.seen.settled
            old = ada.seen.epoch
            with trio.fail_after(300):
                async with guests(b, "ada", attends=False) as (early,):
                    await early.attend()
                    await eventually(lambda: errors_of(early))
                    assert errors_of(early)[0]["code"] == "WORKSPACE_MOVED"
                a.gate.shut()
                await trio.sleep(2 * 10.0)
                await b.workspace().send(Put("b"))
                before = len(ada.told)
                await bob.wire.say("presence_update", workspace_id="w", state="late")
                await trio.sleep(1.0)
                assert len(ada.told) == before, "no lease, no word"
                async with guests(b, "ada") as (there,):
                    assert there.seen.epoch not in {None, old}
                    assert not there.seen.settled
                    a.gate.open()
                    await eventually(lambda: ada.ended and bob.ended)
                    assert ada.ended is not None
                    assert ada.ended["code"] == "WORKSPACE_MOVED"
                    assert ada.ended["details"]["address"] == "http://b"
                    async with guests(b, "bob") as (back,):
                        await there.sees("ada", "bob")
                        assert back.seen.epoch == there.seen.epoch
                        await eventually(lambda: there.seen.settled, within_s=LINGER_S)
                        assert there.told[-1]["total"] == 2
                        assert back.seen.settled


# --------------------------------------------------------------------------------- it gives way


async def test_x_lim_5_a_slow_reader_misses_presence_and_no_event(settled: Actors) -> None:
    workspace = settled.workspace()
    async with (
        guests(settled, "ada", "bob") as (ada, bob),
        wired(settled, user_id="eve", role="viewer", room_bytes=3_000) as slow,
    ):
        await slow.ask("subscribe", stream_id="workspace:w", cursor=1)
        await slow.say("presence_subscribe", workspace_id="w")
        await ada.sees("ada", "bob", "eve")
        for number in range(60):
            await bob.wire.say("presence_update", workspace_id="w", state=[number, "x" * 500])
            await trio.sleep(INTERVAL_S)
        assert slow.connection.writer.outbox.size == 0, "it waits nowhere"
        for number in range(30):
            await workspace.send(Put("a", str(number)))
            await bob.wire.say("presence_update", workspace_id="w", state=[number, "y" * 500])
            await trio.sleep(INTERVAL_S)
        assert not slow.ended.is_set()
        seen, numbers, told = Seen(), list[int](), 0
        while len(numbers) < 30 or seen.rev != ada.seen.rev:
            message = await slow.hear()
            if message["type"] == "event":
                numbers.append(message["seq"])
            else:
                told += 1
                assert seen.hear(message)
        assert numbers == [*range(2, 32)]
        assert told < 30 < ada.seen.diffs
        assert seen.users == ada.seen.users, "in the end it knows"
        assert seen.lists >= 2


async def test_nobody_is_closed_for_presence_before_it_would_be_for_its_pong(
    settled: Actors,
) -> None:
    async with (
        guests(settled, "ada") as (ada,),
        wired(settled, user_id="eve", role="viewer", room_bytes=500) as stuck,
    ):
        await stuck.say("presence_subscribe", workspace_id="w")
        await ada.sees("ada", "eve")
        began = trio.current_time()
        with trio.move_on_after(100):
            while not stuck.ended.is_set():
                await ada.wire.say("presence_update", workspace_id="w", state=trio.current_time())
                await trio.sleep(1.0)
        least_s = LIMITS.ping_interval_s + LIMITS.pong_deadline_s
        assert least_s <= lasted(began) <= least_s + LIMITS.write_deadline_s


async def test_who_is_caught_up_hears_of_events_first(settled: Actors, store: FaultyStore) -> None:
    for _ in range(300):
        await settled.workspace().send(Put("a"))
    settled.forget()
    gate = trio.Event()
    store.before["read_events"] = gate.wait
    async with guests(settled, "ada") as (ada,), guests(settled, "bob", attends=False) as (bob,):
        await bob.wire.say("subscribe", stream_id="workspace:w", cursor=0)
        await bob.attend()
        await ada.sees("ada", "bob")
        await bob.hears_nothing(3.0)
        gate.set()
        await bob.sees("ada", "bob", within_s=2.0)
        types = [each["type"] for each in bob.heard]
        assert types.index("presence") == 302, "behind all of it"


async def test_a_commit_that_is_being_published_goes_first(
    settled: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guests(settled, "ada") as (ada,):
        hub = settled.service.directory.activate("w").hub
        monkeypatch.setattr(hub, "_is_publishing", True)
        await ada.wire.say("presence_update", workspace_id="w", state=1)
        await ada.hears_nothing(1.0)
        monkeypatch.setattr(hub, "_is_publishing", False)
        hub._published.unpark_all()
        await eventually(lambda: ada.seen.states("ada") == [1])


async def test_x_lim_5_a_flood_costs_ten_changes_a_second_encoded_once(
    settled: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    diff_of = GENERIC.presence_diff

    def counted(change: PresenceChange) -> bytes:
        encoded.append(change.rev)
        return diff_of(change)

    users = [f"u{number}" for number in range(100)]
    async with guests(settled, *users) as crowd:
        monkeypatch.setattr(GENERIC, "presence_diff", counted)
        before = [len(each.told) for each in crowd]
        began = trio.current_time()

        async def flood(guest: Guest) -> None:
            for number in range(60):
                await guest.wire.say("presence_update", workspace_id="w", state=number)
                await trio.sleep(1 / 20)

        async with trio.open_nursery() as nursery:
            for guest in crowd:
                nursery.start_soon(flood, guest)
        await eventually(lambda: all(crowd[0].seen.states(user) == [59] for user in users))
        spent_s = trio.current_time() - began
        told = [len(each.told) - count for each, count in zip(crowd, before, strict=True)]
        assert max(told) <= spent_s / INTERVAL_S + 1
        assert len(encoded) == len({*encoded}) <= spent_s / INTERVAL_S + 1
        assert all(each.seen.users == crowd[0].seen.users for each in crowd)
        assert [each for guest in crowd for each in errors_of(guest)] == []


# ---------------------------------------------------------------------------------------- faults


async def test_i10_a_dialect_that_fails_shows_nothing_and_harms_nobody(
    settled: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError

    async with guests(settled, "ada", "bob") as (ada, bob):
        with monkeypatch.context() as patch:
            patch.setattr(GENERIC, "presence_diff", fail)
            await bob.wire.say("presence_update", workspace_id="w", state=1)
            await ada.hears_nothing()
        await ada.attend()
        await eventually(lambda: ada.seen.states("bob") == [1])


async def test_i10_a_fault_ends_the_presence_of_its_workspace_alone(
    settled: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled.workspace("v").send(Put("a"))
    async with guests(settled, "ada", "bob") as (ada, bob):
        await bob.attend(workspace_id="v")
        broken = presence(settled)
        monkeypatch.setattr(broken._roster, "advance", None)
        await ada.wire.say("presence_update", workspace_id="w", state=1)
        await eventually(lambda: ada.ended and bob.ended)
        assert ada.ended is not None
        assert ada.ended["code"] == "INTERNAL_ERROR"
        ada.seen = Seen()
        await ada.attend()
        await ada.sees("ada")
        assert presence(settled) is not broken
        assert settled.service.presences.statistics().workspaces == 2


async def test_the_service_goes_on_after_a_restart(settled: Actors) -> None:
    async with guests(settled, "ada", "bob") as (ada, bob):
        nursery = settled.service.presences._nursery
        assert nursery is not None
        bob.wire.client.vanish()
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
        await ada.sees("ada", within_s=2 * LINGER_S)


# ------------------------------------------------------------------------------------- the notes


def events_of(guest: Guest) -> list[Message]:
    return [each for each in guest.heard if each["type"] == "presence_event"]


async def test_a_ping_of_the_notes_reaches_those_who_ping_and_those_who_follow(
    settled: Actors,
) -> None:
    names = ("ada", "bob", "eve", "zoe")
    async with guests(settled, *names, attends=False) as (ada, bob, eve, zoe):
        await eve.wire.say("subscribe_workspace", workspace_id="w", cursor=1)
        await zoe.attend()
        await zoe.sees("zoe")
        await ada.wire.say("presence_ping", workspace_id="w", note_id="n", cursor=12)
        await eventually(lambda: events_of(eve)[-1:] and events_of(eve)[-1]["user_id"] == "ada")
        said = {
            "type": "presence_event",
            "workspace_id": "w",
            "note_id": "n",
            "user_id": "ada",
            "state": "active",
            "cursor": 12,
            "server_ts": "2030-01-02T03:04:05.678901Z",
        }
        assert events_of(eve)[-1] == said
        await eventually(lambda: said in events_of(ada))
        await zoe.sees("ada", "zoe")
        assert zoe.seen.states("ada") == [{"note_id": "n", "cursor": 12}]
        before = len(events_of(eve))
        await ada.wire.say("presence_ping", workspace_id="w", note_id=None, cursor=3)
        await eventually(lambda: len(events_of(eve)) == before + 1)
        assert events_of(eve)[-1] == said | {"note_id": None, "cursor": 3}
        await ada.wire.say("presence_ping", workspace_id="w", note_id=None, cursor=3)
        await trio.sleep(SOON_S)
        assert len(events_of(eve)) == before + 1, "nothing has changed"
        await bob.wire.say("subscribe_workspace", workspace_id="w", cursor=1)
        await eventually(lambda: len(events_of(bob)) == 2)
        assert {each["user_id"] for each in events_of(bob)} == {"ada", "zoe"}, (
            "who was there before"
        )
        await zoe.wire.say("presence_update", workspace_id="w", state={"cursor": "far"})
        await eventually(lambda: events_of(bob)[-1]["user_id"] == "zoe")
        assert (events_of(bob)[-1]["note_id"], events_of(bob)[-1]["cursor"]) == (None, None)
        ada.wire.client.close(1000)
        await eventually(lambda: events_of(bob)[-1]["state"] == "left")
        assert events_of(bob)[-1] == said | {"state": "left", "note_id": None, "cursor": None}
        await eve.wire.say("unsubscribe_workspace", workspace_id="w")
        await eventually(lambda: eve.heard[-1]["type"] == "unsubscribed")
        await zoe.wire.say("presence_update", workspace_id="w", state={"cursor": 1})
        await eventually(lambda: events_of(bob)[-1]["cursor"] == 1)
        assert eve.heard[-1]["type"] == "unsubscribed", "it follows no longer"
        assert [each for guest in (ada, bob, eve, zoe) for each in errors_of(guest)] == []


async def test_who_pings_and_follows_is_told_once(settled: Actors) -> None:
    async with guests(settled, "ada", attends=False) as (ada,):
        await ada.wire.say("subscribe_workspace", workspace_id="w", cursor=1)
        await ada.wire.say("presence_ping", workspace_id="w", note_id="n", cursor=1)
        await trio.sleep(1.0)
        assert [each["cursor"] for each in events_of(ada)] == [1]
        await ada.attend({"cursor": 2})
        await eventually(lambda: ada.seen.lists == 1)
        await ada.wire.say("presence_ping", workspace_id="w", note_id="n", cursor=3)
        await eventually(lambda: ada.seen.states("ada") == [{"note_id": "n", "cursor": 3}])
        assert len(events_of(ada)) == 1, "it has asked for lists and changes"


async def test_i8_who_was_removed_follows_no_presence_either(actors: Actors) -> None:
    await members(actors, "owner", "ada", "bob")
    async with guests(actors, "ada", "bob", attends=False, role=None) as (ada, bob):
        await bob.wire.say("subscribe_workspace", workspace_id="w", cursor=0)
        await ada.wire.say("presence_ping", workspace_id="w", cursor=1)
        await eventually(lambda: len(events_of(bob)) == 1)
        await actors.workspace().send(RemoveMember("bob"))
        await ada.wire.say("presence_ping", workspace_id="w", cursor=2)
        await eventually(lambda: events_of(ada)[-1]["cursor"] == 2)
        await trio.sleep(SOON_S)
        assert len(events_of(bob)) == 1
