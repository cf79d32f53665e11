"""One client's connection: its messages, their order, and how it ends."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Connection, CursorKey, TransportClosedError, World
from dalsegno.actors.delivery._pages import Page
from dalsegno.actors.domains.accounts import RegisterUser
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import CreateNote
from dalsegno.protocol import (
    Close,
    DalsegnoError,
    Frames,
    Limits,
    Reject,
    StoreUnavailableError,
    View,
    chain_text,
)
from tests._patience import lasted
from tests.actors._boxes import Put
from tests.actors._wire import Message, Wire, wired
from tests.actors._world import (
    Actors,
    FaultyStore,
    applied_unknown,
    eventually,
    held,
    log_of,
    post_all,
    running,
    send_all,
)

STREAM = "workspace:w"


@pytest.fixture
async def office(actors: Actors) -> Actors:
    """A workspace with a note, and members: u may write, v may read."""
    workspace = actors.workspace()
    await workspace.send(CreateNote("Minutes", "Hello world", note_id="n"))
    await workspace.send(PutMember("u", "editor"))
    await workspace.send(PutMember("v", "viewer"))
    return actors


def kinds(messages: list[Message]) -> list[str]:
    return [message["type"] for message in messages]


async def put_many(actors: Actors, count: int, text: str = "") -> None:
    for one in post_all(actors.workspace(), [Put("a", text or str(n)) for n in range(count)]):
        await one.wait()


# ----------------------------------------------------------------------------- frames in order


async def test_a_patch_is_answered_then_seen_in_the_note_then_in_the_workspace(
    office: Actors,
) -> None:
    async with wired(office) as a, wired(office, user_id="v") as b:
        subscribed = await a.ask("subscribe_note", note_id="n", workspace_id="w", request_id="r1")
        assert subscribed == {
            "type": "subscribed",
            "stream_id": "note:n",
            "current_version": 1,
            "replay_cursor": 0,
            "request_id": "r1",
        }
        assert (await a.hear())["event_type"] == "note_created"
        assert (await a.ask("subscribe_workspace", workspace_id="w", cursor=3))["type"] == (
            "subscribed"
        )
        assert await b.ask("subscribe_workspace", workspace_id="w", cursor=3) == {
            "type": "subscribed",
            "stream_id": "workspace:w",
            "current_version": 3,
            "replay_cursor": 3,
        }
        await a.say(
            "apply_patch",
            note_id="n",
            workspace_id="w",
            base_version=1,
            patch_ops=[{"retain": 6}, {"delete": 5}, {"insert": "notes"}],
            idempotency_key="k",
            request_id="r2",
            client_ts=None,
        )
        committed, in_note, in_workspace = await a.hear_many(3)
        assert committed == {
            "type": "patch_committed",
            "note_id": "n",
            "version": 2,
            "event_seq": 2,
            "idempotency_key": "k",
            "request_id": "r2",
        }
        event = (await log_of(office.service.store))[-1]
        assert in_note == {
            "type": "note_event",
            "stream_id": "note:n",
            "note_id": "n",
            "event_seq": 2,
            "version": 2,
            "event_type": "note_patched",
            "event_id": event.event_id,
            "actor_id": "u",
            "payload": {
                "patch_ops": [{"retain": 6}, {"delete": 5}, {"insert": "notes"}],
                "length": 11,
                "version": 2,
            },
        }
        assert in_workspace == {
            "type": "workspace_event",
            "workspace_id": "w",
            "stream_id": "workspace:w",
            "event_seq": 4,
            "event_type": "note_patched",
            "event_id": event.event_id,
            "actor_id": "u",
            "payload": {"note_id": "n", "version": 2, "event_seq": 2},
        }
        assert await b.hear() == in_workspace
        await a.silence()
        await b.silence()


async def test_ws_04_a_key_sent_again_gets_the_original_answer(office: Actors) -> None:
    async with wired(office) as wire:
        where = {"note_id": "n", "workspace_id": "w", "base_version": 1, "idempotency_key": "k"}
        first = await wire.ask("apply_patch", patch_ops=[{"insert": "x"}], **where)
        again = await wire.ask("apply_patch", patch_ops=[{"retain": 1}], **where)
        assert again == first | {"repeated": True}
        assert first["version"] == 2


async def test_x_occ_1_a_stale_base_is_a_patch_rejected(office: Actors) -> None:
    async with wired(office) as wire:
        rejected = await wire.ask(
            "apply_patch", note_id="n", base_version=7, patch_ops=[], idempotency_key="k"
        )
        assert rejected == {
            "type": "patch_rejected",
            "note_id": "n",
            "expected_version": 7,
            "current_version": 1,
            "reason": "version_conflict",
            "idempotency_key": "k",
        }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"note_id": "absent"}, "NOTE_NOT_FOUND"),
        ({"note_id": "absent", "workspace_id": "w"}, "NOTE_NOT_FOUND"),
        ({"note_id": "n", "workspace_id": "absent"}, "WORKSPACE_NOT_FOUND"),
        ({"note_id": "n", "patch_ops": [{"retain": 99}]}, "INVALID_PATCH"),
        ({"note_id": "n", "patch_ops": [{"retain": -1}]}, "INVALID_PATCH"),
        ({"note_id": "n", "patch_ops": [{"what": 1}]}, "INVALID_PATCH"),
        ({"note_id": "n", "patch_ops": "x"}, "INVALID_PATCH"),
        ({"note_id": "n", "idempotency_key": ""}, "BAD_REQUEST"),
        ({"note_id": "n", "idempotency_key": "k" * 257}, "BAD_REQUEST"),
    ],
)
async def test_a_patch_that_cannot_be_is_an_error_about_its_note(
    office: Actors, fields: Message, code: str
) -> None:
    async with wired(office) as wire:
        where: Message = {"base_version": 1, "patch_ops": [], "request_id": "r"}
        error = await wire.ask("apply_patch", **(where | fields))
        assert (error["type"], error["code"]) == ("error", code)
        assert (error["request_id"], error["note_id"]) == ("r", fields["note_id"])
        await wire.silence()
    assert len(await log_of(office.service.store)) == 3


async def test_a_viewer_may_not_patch(office: Actors) -> None:
    async with wired(office, user_id="v") as wire:
        error = await wire.ask("apply_patch", note_id="n", base_version=1, patch_ops=[])
        assert error["code"] == "ROLE_FORBIDDEN"


async def test_a_command_by_its_name_is_committed_or_rejected(office: Actors) -> None:
    async with wired(office) as wire:
        committed = await wire.ask(
            "command",
            workspace_id="w",
            name="put",
            payload={"box_id": "b", "text": "x"},
            idempotency_key="k",
            request_id="r",
        )
        assert committed == {
            "type": "committed",
            "workspace_id": "w",
            "event_seq": 4,
            "entity": "box:b",
            "version": 1,
            "idempotency_key": "k",
            "request_id": "r",
        }
        rejected = await wire.ask(
            "command", workspace_id="w", name="burn", payload={"box_id": "c"}, request_id="r"
        )
        assert rejected == {
            "type": "rejected",
            "workspace_id": "w",
            "code": "BOX_NOT_FOUND",
            "message": "no such box",
            "details": None,
            "idempotency_key": None,
            "request_id": "r",
        }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "fly"}, "UNKNOWN_COMMAND"),
        ({"name": "register_user"}, "UNKNOWN_COMMAND"),
        ({"workspace_id": "absent"}, "WORKSPACE_NOT_FOUND"),
        ({"workspace_id": "$system"}, "ROLE_FORBIDDEN"),
        ({"workspace_id": "a b"}, "BAD_REQUEST"),
        ({"payload": {"box_id": 7}}, "BAD_REQUEST"),
        ({"payload": {}}, "BAD_REQUEST"),
        ({"payload": [1]}, "BAD_REQUEST"),
        ({"payload": {"box_id": "b" * 201}}, "BAD_REQUEST"),
        ({"payload": {"box_id": "b", "text": "x" * 300_000}}, "PAYLOAD_TOO_LARGE"),
        ({"idempotency_key": "a\nb"}, "BAD_REQUEST"),
    ],
)
async def test_a_command_refused_at_the_door_is_rejected_as_any_other(
    office: Actors, fields: Message, code: str
) -> None:
    async with wired(office) as wire:
        command: Message = {"workspace_id": "w", "name": "put", "payload": {"box_id": "b"}}
        rejected = await wire.ask("command", request_id="r", **(command | fields))
        assert (rejected["type"], rejected["code"]) == ("rejected", code)
        assert rejected["request_id"] == "r"
        await wire.silence()
    assert len(await log_of(office.service.store)) == 3


async def test_a_client_may_have_many_commands_under_way(
    office: Actors, store: FaultyStore
) -> None:
    async with wired(office) as wire:
        for n in range(300):
            await wire.say(
                "command",
                workspace_id="w",
                name="put",
                payload={"box_id": f"b{n % 7}"},
                request_id=str(n),
            )
        answers = await wire.hear_many(300)
    assert [answer["request_id"] for answer in answers] == [str(n) for n in range(300)]
    assert [answer["event_seq"] for answer in answers] == [*range(4, 304)]
    assert len(store.statements) < 300


async def test_commands_under_way_are_bounded_by_not_reading_on(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world, limits=Limits(replies_pending_max=3)) as actors:
        await actors.workspace().send(Put("a"))
        gate = trio.Event()
        store.faults.append(held(gate))
        async with wired(actors, role="editor") as wire:
            for n in range(9):
                await wire.say("command", workspace_id="w", name="put", payload={"box_id": f"b{n}"})
            await trio.testing.wait_all_tasks_blocked()
            assert wire.connection._pending == 3
            gate.set()
            answers = await wire.hear_many(9)
        assert [answer["event_seq"] for answer in answers] == [*range(2, 11)]


async def test_answers_to_who_has_left_go_nowhere(office: Actors, store: FaultyStore) -> None:
    """X-SUP-4: a disconnect does not cancel what the mailbox has handed over."""
    gate = trio.Event()
    store.faults.append(held(gate))
    async with wired(office) as wire:
        await wire.say("command", workspace_id="w", name="put", payload={"box_id": "b"})
        await trio.testing.wait_all_tasks_blocked()
    gate.set()
    await eventually(lambda: office.service.directory.statistics()["w"].head == 4)
    assert wire.connection._pending == 0


# ------------------------------------------------------------------------------------ subscribing


async def test_x_sub_1_the_answer_precedes_the_events(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.say("subscribe_workspace", workspace_id="w")
        subscribed, *events = await wire.hear_many(4)
        assert (subscribed["type"], subscribed["current_version"]) == ("subscribed", 3)
        assert [event["event_seq"] for event in events] == [1, 2, 3]


async def test_the_generic_dialect(office: Actors) -> None:
    async with wired(office) as wire:
        events = await log_of(office.service.store)
        subscribed = await wire.ask("subscribe", stream_id=STREAM, cursor=2, request_id="r")
        assert subscribed == {
            "type": "subscribed",
            "stream_id": STREAM,
            "workspace_id": "w",
            "head": 3,
            "cursor": 2,
            "chain": chain_text(events[1].chain),
            "request_id": "r",
        }
        assert await wire.hear() == {
            "type": "event",
            "stream_id": STREAM,
            "seq": 3,
            "event_seq": 3,
            "entity": "member:v",
            "version": 1,
            "event_type": "member_added",
            "event_id": events[2].event_id,
            "actor_id": None,
            "recorded_at": "2030-01-02T03:04:05.678901Z",
            "chain": chain_text(events[2].chain),
            "payload": {"role": "viewer", "since": "2030-01-02T03:04:05.678901Z"},
        }
        note = await wire.ask("subscribe", stream_id="note:n", workspace_id="w")
        assert (note["head"], note["cursor"], note["chain"]) == (1, 0, "0" * 16)
        event = await wire.hear()
        assert (event["seq"], event["event_seq"], event["stream_id"]) == (1, 1, "note:n")


async def test_x_sub_6_after_unsubscribing_nothing_more_comes(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe_workspace", workspace_id="w", cursor=3)
        await put_many(office, 2)
        assert [m["event_seq"] for m in await wire.hear_many(2)] == [4, 5]
        assert await wire.ask("unsubscribe_workspace", workspace_id="w", request_id="r") == {
            "type": "unsubscribed",
            "stream_id": STREAM,
            "request_id": "r",
        }
        await put_many(office, 2)
        await wire.silence()
        error = await wire.ask("unsubscribe_workspace", workspace_id="w")
        assert (error["code"], error["stream_id"]) == ("NOT_SUBSCRIBED", STREAM)
        again = await wire.ask("subscribe_workspace", workspace_id="w", cursor=5)
        assert again["replay_cursor"] == 5
        assert [m["event_seq"] for m in await wire.hear_many(2)] == [6, 7]


async def test_x_sub_6_a_page_on_its_way_is_not_the_next_subscriptions(
    office: Actors, store: FaultyStore
) -> None:
    async with wired(office) as wire:
        office.forget()
        page = trio.Event()
        store.before["read_events"] = page.wait
        await wire.ask("subscribe_workspace", workspace_id="w")
        await trio.testing.wait_all_tasks_blocked()
        await wire.say("unsubscribe_workspace", workspace_id="w")
        await wire.say("subscribe_workspace", workspace_id="w", cursor=0)
        await trio.testing.wait_all_tasks_blocked()
        page.set()
        heard = await wire.hear_many(5)
        assert kinds(heard[:2]) == ["unsubscribed", "subscribed"]
        assert [message["event_seq"] for message in heard[2:]] == [1, 2, 3]
        await wire.silence()


async def test_x_sub_7_a_second_subscribe_changes_nothing(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe_workspace", workspace_id="w", cursor=2)
        assert (await wire.hear())["event_seq"] == 3
        again = await wire.ask("subscribe_workspace", workspace_id="w", cursor=0)
        assert (again["type"], again["replay_cursor"], again["current_version"]) == (
            "subscribed",
            2,
            3,
        )
        await put_many(office, 1)
        assert (await wire.hear())["event_seq"] == 4
        await wire.silence()


@pytest.mark.parametrize(
    ("type_", "fields", "code"),
    [
        ("subscribe_note", {"note_id": "absent"}, "NOTE_NOT_FOUND"),
        ("subscribe_note", {"note_id": "absent", "workspace_id": "w"}, "NOTE_NOT_FOUND"),
        ("subscribe_workspace", {"workspace_id": "absent"}, "WORKSPACE_NOT_FOUND"),
        ("subscribe_workspace", {"workspace_id": "other"}, "ROLE_FORBIDDEN"),
        ("subscribe_note", {"note_id": "m"}, "NOTE_NOT_FOUND"),  # of a workspace of others (C22)
        ("subscribe_workspace", {"workspace_id": "$system"}, "ROLE_FORBIDDEN"),
        ("subscribe_workspace", {"workspace_id": "a b"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": "workspace:$system"}, "ROLE_FORBIDDEN"),
        ("subscribe", {"stream_id": "user:u"}, "USER_NOT_FOUND"),
        ("subscribe", {"stream_id": "user:u", "workspace_id": "$system"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": "nothing:n"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": "note:"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": "note"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "workspace_id": "other"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "client_id": ""}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "cursor": 4}, "CURSOR_AHEAD"),
        ("subscribe", {"stream_id": STREAM, "cursor": -1}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "cursor": 2**63}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "cursor": 2**64 + 1}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "cursor": "x"}, "BAD_REQUEST"),
        ("subscribe", {"stream_id": STREAM, "cursor": f"2-{0:016x}"}, "CURSOR_DIVERGED"),
        ("subscribe", {"stream_id": STREAM, "cursor": f"0-{1:016x}"}, "CURSOR_DIVERGED"),
    ],
)
async def test_x_sub_8_what_cannot_be_followed_is_an_error_and_leaves_nothing(
    office: Actors, type_: str, fields: Message, code: str
) -> None:
    await office.workspace("other").send(CreateNote("Secret", note_id="m"))
    registered = RegisterUser(user_id="u", email="u@x.y", display_name="U", role="viewer")
    await office.workspace("$system").send(registered)
    async with wired(office) as wire:
        error = await wire.ask(type_, request_id="r", **fields)
        assert (error["type"], error["code"], error["request_id"]) == ("error", code, "r")
        assert wire.connection.writer.streams == {}
        assert office.service.directory.activate("w").hub.subscriptions == 0
        assert office.service.directory.activate("$system").hub.subscriptions == 0
        assert office.service.acks._frontiers == {}
        await wire.silence()


async def test_a_cursor_of_this_history_is_honoured(office: Actors) -> None:
    events = await log_of(office.service.store)
    async with wired(office) as wire:
        cursor = f"2-{chain_text(events[1].chain)}"
        assert (await wire.ask("subscribe", stream_id=STREAM, cursor=cursor))["cursor"] == 2
        assert (await wire.hear())["seq"] == 3


async def test_the_number_of_subscriptions_is_bounded(store: FaultyStore, world: World) -> None:
    async with running(store, world, limits=Limits(subscriptions_max=2)) as actors:
        for n in range(3):
            await actors.workspace(f"w{n}").send(Put("a"))
        async with wired(actors, role="viewer") as wire:
            for n in range(2):
                await wire.ask("subscribe", stream_id=f"workspace:w{n}", cursor=1)
            assert (await wire.ask("subscribe", stream_id="workspace:w2"))["code"] == "BAD_REQUEST"
            # An existing subscription does not count again.
            again = await wire.ask("subscribe", stream_id="workspace:w1")
            assert again["type"] == "subscribed"
            await wire.ask("unsubscribe", stream_id="workspace:w0")
            assert (await wire.ask("subscribe", stream_id="workspace:w2", cursor=1))["type"] == (
                "subscribed"
            )


async def test_a_hosts_own_role_opens_an_entity_by_its_id_alone(office: Actors) -> None:
    async with wired(office, user_id="guest", role="viewer") as wire:
        subscribed = await wire.ask("subscribe", stream_id="note:n", cursor=1)
        assert (subscribed["type"], subscribed["workspace_id"]) == ("subscribed", "w")


async def test_an_id_that_several_workspaces_have_must_name_one(office: Actors) -> None:
    await office.workspace("other").send(CreateNote("Namesake", note_id="n"))
    async with wired(office) as wire:
        assert (await wire.ask("subscribe_note", note_id="n"))["code"] == "BAD_REQUEST"
        named = await wire.ask("subscribe_note", note_id="n", workspace_id="w", cursor=1)
        assert named["type"] == "subscribed"


async def test_x_sub_5_nothing_of_another_workspace_comes(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe_workspace", workspace_id="w", cursor=3)
        for n in range(50):
            await office.workspace(f"other{n % 3}").send(Put("a"))
            await office.workspace().send(Put("a"))
        heard = await wire.hear_many(50)
        assert {message["workspace_id"] for message in heard} == {"w"}
        assert [message["event_seq"] for message in heard] == [*range(4, 54)]


async def test_a_view_that_fails_ends_its_stream_and_no_more(office: Actors) -> None:
    async with wired(office) as wire, wired(office, user_id="v") as entity:
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        await entity.ask("subscribe", stream_id=STREAM, cursor=3)
        await office.workspace().send(Put("a", "a bug in the view"))
        error = await wire.hear()
        assert (error["code"], error["stream_id"]) == ("INTERNAL_ERROR", STREAM)
        assert (await entity.hear())["code"] == "INTERNAL_ERROR"
        # The workspace has not noticed, and nothing else has either.
        assert office.incarnations() == 1
        await put_many(office, 2)
        await office.workspace("neighbour").send(Put("a"))
        await wire.silence()
        # Read from the tail or from the store it is the same; events after it are fine.
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        assert (await wire.hear())["code"] == "INTERNAL_ERROR"
        office.forget()
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        assert (await wire.hear())["code"] == "INTERNAL_ERROR"
        await wire.ask("subscribe", stream_id=STREAM, cursor=4)
        assert [message["seq"] for message in await wire.hear_many(2)] == [5, 6]


async def test_a_rejection_that_is_no_json_ends_its_own_connection_only(office: Actors) -> None:
    async with wired(office) as wire, wired(office, user_id="v") as other:
        await other.ask("subscribe", stream_id=STREAM, cursor=3)
        await wire.say("command", workspace_id="w", name="refuse", payload={"box_id": "a"})
        assert await wire.hear_end() == ([], Close.INTERNAL)
        await put_many(office, 1)
        assert (await other.hear())["seq"] == 4
        assert office.incarnations() == 1


async def test_a_log_that_cannot_be_read_ends_its_stream_and_no_more(
    office: Actors, store: FaultyStore
) -> None:
    """X-PER-5: an envelope of another version."""
    await office.workspace("other").send(PutMember("u", "viewer"))
    log = store._logs["w"]
    log.events[1] = msgspec.structs.replace(log.events[1], schema_version=3)
    office.forget()
    async with wired(office) as wire:
        await wire.ask("subscribe", stream_id="workspace:other", cursor=1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        error = await wire.hear()
        assert (error["code"], error["stream_id"]) == ("WORKSPACE_HALTED", STREAM)
        assert (error["expected"], error["found"]) == (2, 3)
        await office.workspace("other").send(Put("a"))
        assert (await wire.hear())["event_seq"] == 2


# ------------------------------------------------------------------------------------------- acks


async def test_x_ack_1_acks_are_monotonic(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe_workspace", workspace_id="w")
        await wire.hear_many(3)
        await wire.say("ack", stream_id=STREAM, event_seq=3)
        stale = await wire.ask("ack", stream_id=STREAM, event_seq=2, request_id="r")
        assert stale == {
            "type": "error",
            "code": "STALE_CURSOR",
            "message": "stale ack cursor",
            "request_id": "r",
            "stream_id": STREAM,
            "event_seq": 2,
            "attempted_seq": 2,
            "current_cursor": 3,
            "details": {
                "stream_id": STREAM,
                "attempted_seq": 2,
                "event_seq": 2,
                "current_cursor": 3,
            },
        }
        await wire.say("ack", stream_id=STREAM, event_seq=3)
        await wire.silence()
        ahead = await wire.ask("ack", stream_id=STREAM, seq=4)
        assert (ahead["code"], ahead["latest_seq"]) == ("CURSOR_AHEAD", 3)
        stale = await wire.ask("ack", stream_id=STREAM, event_seq=0)
        assert stale["current_cursor"] == 3, "what was refused changed nothing"


@pytest.mark.parametrize("fields", [{}, {"seq": 1, "event_seq": 1}, {"seq": -1}, {"seq": "1"}])
async def test_an_ack_names_one_number(office: Actors, fields: Message) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        assert (await wire.ask("ack", stream_id=STREAM, **fields))["code"] == "BAD_REQUEST"


async def test_the_start_cursor_may_be_acked_before_anything_was_sent(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=2)
        await wire.hear()
        await wire.say("ack", stream_id=STREAM, seq=2)
        await wire.silence()


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_x_ack_2_x_rep_1_whoever_comes_back_gets_what_was_not_acked(
    store: FaultyStore, world: World, is_restarted: bool
) -> None:
    async with running(store, world) as actors:
        await put_many(actors, 5)
        async with wired(actors, role="viewer") as wire:
            await wire.ask("subscribe_workspace", workspace_id="w")
            await wire.hear_many(5)
            await wire.say("ack", stream_id=STREAM, event_seq=2)
            await wire.silence()
        if not is_restarted:
            await _check_resumed(actors)
        await actors.service.drain()
    async with running(store, world) as actors:
        await _check_resumed(actors)


async def _check_resumed(actors: Actors) -> None:
    async with wired(actors, role="viewer") as wire:
        assert (await wire.ask("subscribe_workspace", workspace_id="w"))["replay_cursor"] == 2
        assert [message["event_seq"] for message in await wire.hear_many(3)] == [3, 4, 5]
    async with wired(actors, role="viewer", client_id="another") as wire:
        assert (await wire.ask("subscribe_workspace", workspace_id="w"))["replay_cursor"] == 0
    async with wired(actors, role="viewer", user_id="another") as wire:
        assert (await wire.ask("subscribe_workspace", workspace_id="w"))["replay_cursor"] == 0


async def test_x_ack_3_cursors_of_streams_are_independent(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe_workspace", workspace_id="w")
        await wire.hear_many(3)
        await wire.ask("subscribe_note", note_id="n")
        await wire.hear()
        await wire.say("ack", stream_id=STREAM, event_seq=3)
        await wire.say("ack", stream_id="note:n", event_seq=0)
        await wire.silence()
        await wire.say("ack", stream_id="note:n", event_seq=1)
        assert (await wire.ask("ack", stream_id="note:n", event_seq=0))["current_cursor"] == 1
        assert (await wire.ask("ack", stream_id=STREAM, event_seq=1))["current_cursor"] == 3


async def test_x_ack_4_two_connections_of_a_client_share_one_cursor(office: Actors) -> None:
    async with wired(office) as one, wired(office) as two:
        for wire in (one, two):
            await wire.ask("subscribe_workspace", workspace_id="w")
            await wire.hear_many(3)
        await one.say("ack", stream_id=STREAM, event_seq=2)
        await one.silence()
        assert (await two.ask("ack", stream_id=STREAM, event_seq=1))["current_cursor"] == 2
        await two.say("ack", stream_id=STREAM, event_seq=3)
        await two.silence()
        assert (await one.ask("ack", stream_id=STREAM, event_seq=2))["current_cursor"] == 3


@pytest.mark.parametrize("stream_id", [STREAM, "box:a"])
async def test_x_ack_4_one_that_subscribes_while_another_acks_is_not_ahead(
    actors: Actors, store: FaultyStore, stream_id: str
) -> None:
    await put_many(actors, 1)
    asked = {"stream_id": stream_id, "workspace_id": "w", "cursor": None}
    async with wired(actors, role="viewer") as slow, wired(actors, role="viewer") as fast:
        loaded = trio.Event()
        store.before["read_cursors"] = loaded.wait
        await slow.say("subscribe", **asked)
        await trio.testing.wait_all_tasks_blocked()
        del store.before["read_cursors"]
        await put_many(actors, 2)
        await fast.ask("subscribe", **asked)
        await fast.hear_many(3)
        await fast.say("ack", stream_id=stream_id, seq=3)
        await fast.silence()
        loaded.set()
        subscribed = await slow.hear()
        assert (subscribed["type"], subscribed["head"], subscribed["cursor"]) == (
            "subscribed",
            3,
            3,
        )
        await slow.silence()


async def test_x_ack_5_what_is_not_followed_is_not_acked(
    office: Actors, store: FaultyStore
) -> None:
    async with wired(office) as wire:
        error = await wire.ask("ack", stream_id=STREAM, event_seq=1, request_id="r")
        assert (error["code"], error["stream_id"]) == ("NOT_SUBSCRIBED", STREAM)
        assert (error["event_seq"], error["request_id"]) == (1, "r")
    await office.service.drain()
    assert store._cursors._users == {}


# --------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ("", None),
        ("nonsense", None),
        ("null", None),
        ("[]", None),
        ("{}", None),
        ('{"type":null}', None),
        ('{"type":"fly","request_id":"r"}', "r"),
        ('{"type":"ping","request_id":7}', None),
        ('{"type":"ping","request_id":"%s"}' % ("r" * 257), None),
        ('{"type":"subscribe_note","request_id":"r"}', "r"),
        ('{"type":"subscribe_note","note_id":["n"],"request_id":"r"}', "r"),
        ('{"type":"apply_patch","note_id":"n","base_version":"1","patch_ops":[]}', None),
        ('{"type":"ack","stream_id":"s","event_seq":9223372036854775808}', None),
        ('{"type":"ack","stream_id":"s","event_seq":1e300}', None),
        ('{"type":"ping","client_ts":' + "[" * 65 + "]" * 65 + "}", None),
        ('{"type":"ping","client_ts":' + "[" * 100_000, None),
        ('{"type":"subscribe","stream_id":"a\\u0000b","request_id":"r"}', "r"),
        ('{"type":"subscribe","stream_id":"a\\ud800b"}', None),
        ('{"type":"subscribe","stream_id":"' + "x" * 300 + '"}', None),
        ('{"type":"ping"} {"type":"ping"}', None),
        (
            '{"type":"command","workspace_id":"w","name":"put","payload":{"box_id":"\\u0000"}}',
            None,
        ),
    ],
)
async def test_x_bad_1_hostile_text_is_a_bad_request(
    office: Actors, text: str, request_id: str | None
) -> None:
    async with wired(office) as wire:
        await wire.client.send(text)
        error = await wire.hear()
        assert (error["type"], error["code"]) == ("error", "BAD_REQUEST")
        assert error["request_id"] == request_id
        await wire.silence()


@pytest.mark.parametrize("payload", ['"\\ud800"', "1e999", '{"box_id":"\\ud800"}'])
async def test_x_bad_1_a_payload_that_cannot_be_decoded(office: Actors, payload: str) -> None:
    async with wired(office) as wire:
        await wire.client.send(
            f'{{"type":"command","workspace_id":"w","name":"put","payload":{payload}}}'
        )
        assert (await wire.hear())["code"] == "BAD_REQUEST"
        await wire.silence()


async def test_x_bad_1_a_binary_message_is_unsupported(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.client.send(b"\x00\xff")
        error = await wire.hear()
        assert (error["code"], error["message"]) == (
            "BAD_REQUEST",
            "binary payloads are unsupported",
        )
        await wire.silence()


async def test_a_bug_while_a_message_is_handled_ends_its_connection_only(
    office: Actors, store: FaultyStore
) -> None:
    async def bug() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with wired(office) as wire, wired(office, user_id="v") as other:
        store.before["read_cursors"] = bug
        await wire.say("subscribe", stream_id=STREAM)
        assert await wire.hear_end() == ([], Close.INTERNAL)
        store.before.clear()
        assert office.service.acks._frontiers == {}
        assert (await other.ask("subscribe", stream_id=STREAM))["type"] == "subscribed"


# ------------------------------------------------------------------------------------- revocation


async def subscribed_and_revoked(office: Actors, wire: Wire) -> None:
    """Revoke with a change before and two behind it, all in one commit."""
    for one in post_all(
        office.workspace(), [Put("a"), RemoveMember("u"), Put("a"), PutMember("u", "owner")]
    ):
        await one.wait()
    await wire.say("ping")


async def test_x_rbac_2_a_live_connection(office: Actors) -> None:
    async with wired(office) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        await wire.ask("subscribe", stream_id="note:n", workspace_id="w", cursor=1)
        await subscribed_and_revoked(office, wire)
        heard = await wire.hear_many(5)
        assert [message.get("seq") for message in heard[:2]] == [4, 5]
        assert [message.get("code") for message in heard[2:4]] == ["ROLE_FORBIDDEN"] * 2
        assert {message["stream_id"] for message in heard[2:4]} == {STREAM, "note:n"}
        assert heard[4]["type"] == "pong"
        assert office.service.directory.activate("w").hub.subscriptions == 0
        await wire.say("subscribe", stream_id=STREAM, cursor=5)  # an owner, by now
        assert (await wire.hear())["type"] == "subscribed"


async def test_x_rbac_2_a_connection_that_is_behind(office: Actors, store: FaultyStore) -> None:
    async with wired(office) as wire:
        office.forget()
        page = trio.Event()
        store.before["read_events"] = page.wait
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        await trio.testing.wait_all_tasks_blocked()
        await subscribed_and_revoked(office, wire)
        page.set()
        heard = [message for message in await wire.hear_many(7) if message["type"] != "pong"]
        assert [message.get("seq") for message in heard] == [1, 2, 3, 4, 5, None]
        assert heard[-1]["code"] == "ROLE_FORBIDDEN"
        await put_many(office, 1)
        await wire.silence()


@pytest.mark.parametrize("outbox_bytes_max", [0, 600, 1_000_000])
async def test_x_rbac_2_a_connection_whose_outbox_is_full(
    store: FaultyStore, world: World, outbox_bytes_max: int
) -> None:
    limits = Limits(outbox_bytes_max=outbox_bytes_max)
    async with running(store, world, limits=limits) as actors:
        await actors.workspace().send(PutMember("u", "viewer"))
        async with wired(actors, room_bytes=300) as wire:
            await wire.ask("subscribe", stream_id=STREAM, cursor=1)
            await put_many(actors, 5)
            for one in post_all(actors.workspace(), [Put("a"), RemoveMember("u"), Put("a")]):
                await one.wait()
            await put_many(actors, 3)
            heard = await wire.hear_many(8)
            assert [message.get("seq") for message in heard] == [2, 3, 4, 5, 6, 7, 8, None]
            assert heard[-1]["code"] == "ROLE_FORBIDDEN"
            await wire.silence()


async def test_x_rbac_2_a_connection_in_the_middle_of_subscribing(
    office: Actors, store: FaultyStore
) -> None:
    async with wired(office) as wire:
        cursor = trio.Event()
        store.before["read_cursors"] = cursor.wait
        await wire.say("subscribe", stream_id=STREAM)
        await trio.testing.wait_all_tasks_blocked()
        await subscribed_and_revoked(office, wire)
        cursor.set()
        heard = await wire.hear_many(8)
        seqs = [message["seq"] for message in heard if message["type"] == "event"]
        assert seqs == [1, 2, 3, 4, 5]
        assert [m["code"] for m in heard if m["type"] == "error"] == ["ROLE_FORBIDDEN"]


# -------------------------------------------------------------------------------- slow and silent


async def test_an_overflowing_outbox_lags_and_catches_up_in_order(
    store: FaultyStore, world: World
) -> None:
    """X-BP-1, X-BP-2: bounded, nothing waits, and nothing is lost."""
    async with running(store, world, limits=Limits(outbox_bytes_max=2_000)) as actors:
        await actors.workspace().send(Put("a"))
        async with (
            wired(actors, role="viewer", room_bytes=1_000) as slow,
            wired(actors, role="viewer") as fast,
        ):
            for wire in (slow, fast):
                await wire.ask("subscribe", stream_id=STREAM, cursor=1)
            for n in range(100):
                await actors.workspace().send(Put("a", str(n)))
                assert (await fast.hear())["seq"] == n + 2
                assert slow.connection.writer.outbox.events_bytes <= 2_000
            assert "behind" in repr(slow.connection.writer.streams[STREAM].subscription)
            assert [m["seq"] for m in await slow.hear_many(100)] == [*range(2, 102)]
            await eventually(
                lambda: "live" in repr(slow.connection.writer.streams[STREAM].subscription)
            )
            await actors.workspace().send(Put("a"))
            assert (await slow.hear())["seq"] == (await fast.hear())["seq"] == 102


async def test_a_lagging_client_still_gets_its_replies_first(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(outbox_bytes_max=1_000, page_events=4)
    async with running(store, world, limits=limits) as actors:
        await actors.workspace().send(Put("a"))
        async with wired(actors, role="editor", room_bytes=500) as wire:
            await wire.ask("subscribe", stream_id=STREAM, cursor=1)
            for n in range(20):
                await put_many(actors, 1, str(n))
            await wire.say("ping", request_id="r")
            heard = await wire.hear_many(21)
        seqs = [message["seq"] for message in heard if message["type"] == "event"]
        assert seqs == [*range(2, 22)]
        assert kinds(heard).index("pong") < 20


async def test_replies_that_are_not_read_close_the_connection(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(replies_bytes_max=500)
    async with running(store, world, limits=limits) as actors, wired(actors, room_bytes=99) as wire:
        with suppress(TransportClosedError):
            for _ in range(20):
                await wire.say("ping", request_id="r" * 100)
        rest, code = await wire.hear_end()
        assert code == Close.TRY_AGAIN
        assert len(rest) < 20


async def test_a_client_that_takes_nothing_is_closed_at_the_write_deadline(
    office: Actors,
) -> None:
    async with wired(office, room_bytes=300) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        await put_many(office, 10)
        began = trio.current_time()
        await wire.ended.wait()
        limits = office.service.limits
        assert trio.current_time() - began == pytest.approx(
            limits.write_deadline_s + limits.close_deadline_s, abs=0.5
        )
        assert not len(office.service.connections)
        assert office.service.directory.activate("w").hub.subscriptions == 0


async def test_a_slow_client_that_takes_something_is_not_closed(office: Actors) -> None:
    async with wired(office, room_bytes=300) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        await put_many(office, 40)
        for n in range(40):
            await trio.sleep(office.service.limits.write_deadline_s * 0.9)
            assert (await wire.hear())["seq"] == n + 4
        assert trio.current_time() > 3 * office.service.limits.client_timeout_s


async def test_x_hb_1_heartbeats(office: Actors) -> None:
    interval_s = office.service.limits.heartbeat_interval_s
    async with wired(office) as wire:
        for n in range(1, 4):
            assert msgspec.json.decode(await wire.client.receive()) == {
                "type": "heartbeat",
                "server_ts": "2030-01-02T03:04:05.678901Z",
            }
            assert trio.current_time() == pytest.approx(n * interval_s, abs=1.1)


async def test_x_hb_1_a_client_that_answers_pings_lives_on(office: Actors) -> None:
    async with wired(office) as wire:
        await trio.sleep(10 * office.service.limits.client_timeout_s)
        await wire.silence()


async def test_x_hb_1_a_client_that_answers_no_ping_is_closed(office: Actors) -> None:
    limits = office.service.limits
    async with wired(office) as wire:
        wire.client.deaf = True
        await wire.ended.wait()
        assert trio.current_time() == pytest.approx(
            limits.ping_interval_s + limits.pong_deadline_s + limits.close_deadline_s, abs=2.1
        )


async def test_a_silent_client_is_closed(store: FaultyStore, world: World) -> None:
    limits = Limits(ping_interval_s=1_000)
    async with running(store, world, limits=limits) as actors, wired(actors) as wire:
        for _ in range(3):
            await trio.sleep(50)
            await wire.silence()
        said = trio.current_time()
        await wire.ended.wait()
        assert trio.current_time() - said == pytest.approx(limits.client_timeout_s, abs=2.1)


# ---------------------------------------------------------------------------------------- the end


async def test_what_came_with_a_message_that_closed_it_is_not_taken(
    office: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = office.service.directory.activate("w").hub.head
    async with wired(office) as wire:

        async def close(_: object) -> None:
            wire.connection.close(Close.UNAUTHORIZED, "the session has ended")

        monkeypatch.setattr(Connection, "_act", lambda _, said: close(said))
        for type_, rest in ("ping", {}), ("command", {"name": "put", "payload": {"box_id": "c"}}):
            said = {"type": type_, "workspace_id": "w"} | rest
            wire.client._line.to_server.append(msgspec.json.encode(said).decode())
        wire.client._line.changed.set()
        assert (await wire.hear_end())[0] == []
    await trio.testing.wait_all_tasks_blocked()
    assert office.service.directory.activate("w").hub.head == head


async def test_close_session_writes_nothing_after_but_the_close(office: Actors) -> None:
    async with (
        wired(office, session_id=b"1") as mine,
        wired(office, session_id=b"1", user_id="v") as also_mine,
        wired(office, session_id=b"2") as other,
    ):
        for wire in (mine, also_mine, other):
            await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        office.service.connections.close_session(b"1", Close.UNAUTHORIZED, "logged out")
        await put_many(office, 2)
        assert await mine.hear_end() == ([], Close.UNAUTHORIZED)
        assert await also_mine.hear_end() == ([], Close.UNAUTHORIZED)
        assert [message["seq"] for message in await other.hear_many(2)] == [4, 5]
        assert list(office.service.connections) == [other.connection]


async def test_a_page_that_arrives_in_the_step_of_the_close_is_not_written(
    office: Actors, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers share a read; one is closed after its page came and before it goes on."""
    office.forget()
    gate = trio.Event()
    store.before["read_events"] = gate.wait
    async with wired(office, role="viewer") as first, wired(office, role="viewer") as second:
        encode = Page.frames

        def closing(self: Page, view: View) -> Frames:
            second.connection.close(Close.UNAUTHORIZED, "logged out")
            return encode(self, view)

        monkeypatch.setattr(Page, "frames", closing)
        for wire in (first, second):
            await wire.ask("subscribe", stream_id=STREAM, cursor=0)
            await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert [message["seq"] for message in await first.hear_many(3)] == [1, 2, 3]
        assert await second.hear_end() == ([], Close.UNAUTHORIZED)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Reject("SESSION_REVOKED"), Close.UNAUTHORIZED),
        (StoreUnavailableError("away"), Close.INTERNAL),  # nobody has to log in again for that
    ],
)
async def test_a_session_that_ended_before_the_connection_began(
    office: Actors, error: DalsegnoError, code: Close
) -> None:
    async def check() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    wire = Wire(office)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.connection.run, check)
        with pytest.raises(TransportClosedError) as caught:
            await wire.client.receive()
    assert caught.value.code == code
    assert not len(office.service.connections)


async def test_everybody_can_be_told_to_come_back(office: Actors) -> None:
    async with wired(office) as one, wired(office) as two:
        await trio.testing.wait_all_tasks_blocked()
        office.service.connections.close_all(Close.GOING_AWAY, "shutting down")
        assert (await one.hear_end())[1] == (await two.hear_end())[1] == Close.GOING_AWAY


async def test_x_sup_5_a_hundred_connections_leave_nothing_behind(office: Actors) -> None:
    async def visit(n: int) -> None:
        async with wired(office) as wire:
            await wire.ask("subscribe", stream_id=STREAM, cursor=n % 4)
            if n % 2:
                await wire.say("apply_patch", note_id="n", base_version=0, patch_ops=[])
            if n % 5 == 0:
                wire.client.close()
                await wire.ended.wait()

    await visit(1)
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(visit, n)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert not len(office.service.connections)
    assert office.service.acks._frontiers == {}
    assert office.service.directory.statistics()["w"].subscriptions == 0


async def test_an_idle_connection_is_one_task(office: Actors) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with wired(office) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=3)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living - before == 1
        assert repr(wire.connection) == (
            "<Connection of u idle, 1 subscriptions, 0 bytes to write>"
        )


async def test_a_connection_cancelled_from_outside_tells_its_client(office: Actors) -> None:
    wire = Wire(office)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(TransportClosedError) as caught:
        await wire.client.receive()
    assert caught.value.code == Close.GOING_AWAY
    assert not len(office.service.connections)


async def test_a_connection_that_ends_with_a_fault_beside_it_tells_its_client(
    office: Actors,
) -> None:
    class Fault(Exception):
        pass

    async def fail() -> None:
        await trio.testing.wait_all_tasks_blocked()
        raise Fault

    async def run_beside_it() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.run)
            nursery.start_soon(fail)

    wire = Wire(office)
    with pytest.raises(ExceptionGroup) as raised:
        await run_beside_it()
    assert raised.group_contains(Fault)
    with pytest.raises(TransportClosedError) as caught:
        await wire.client.receive()
    assert caught.value.code == Close.INTERNAL
    assert not len(office.service.connections)


async def test_i10_a_client_that_goes_while_it_catches_up_harms_no_publisher(
    office: Actors,
) -> None:
    """Whenever a publisher reaches it: in one step its nursery accepts no task."""
    await put_many(office, 10)

    async def publish(wire: Wire, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        wire.connection.writer.flush_nowait()

    for number in range(60):  # which one runs first in a step is random
        wire = Wire(office, room_bytes=300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.run)
            await wire.ask("subscribe", stream_id=STREAM, cursor=0)
            nursery.start_soon(publish, wire, number % 6)
            wire.client.vanish()
            await wire.ended.wait()


@pytest.mark.parametrize("fault", [None, StoreUnavailableError("away"), "hangs"])
async def test_x_ack_2_what_was_acked_is_durable_before_the_close_frame(
    actors: Actors, store: FaultyStore, fault: DalsegnoError | str | None
) -> None:
    """A client that reconnects to another node resumes there."""
    await send_all(actors.workspace(), [Put("a")] * 3)

    gate = trio.Event()

    async def refuse() -> None:
        if fault == "hangs":
            await gate.wait()
        if isinstance(fault, DalsegnoError):
            await trio.lowlevel.checkpoint()
            raise fault

    store.before["write_cursors"] = refuse
    async with wired(actors, role="viewer") as wire:
        await wire.say("subscribe", stream_id="workspace:w", cursor=0, client_id="c")
        await wire.hear_many(4)
        await wire.say("ack", stream_id="workspace:w", event_seq=2)
        await wire.silence()
        key = CursorKey("u", "c", "w", "workspace:w")
        assert await store.read_cursors([key]) == {}
        began = trio.current_time()
        wire.connection.close(Close.GOING_AWAY, "shutting down")
        with pytest.raises(TransportClosedError):
            await wire.hear()
        assert lasted(began) <= actors.service.limits.close_deadline_s / 2
        assert await store.read_cursors([key]) == ({key: 2} if fault is None else {})
        store.before.clear()
        gate.set()
        await trio.sleep(60)
        assert await store.read_cursors([key]) == {key: 2}


async def test_who_connects_again_and_again_has_its_role_looked_up_once(
    actors: Actors, store: FaultyStore
) -> None:
    await actors.workspace().send(PutMember("u", "viewer"))
    reads = 0

    async def count() -> None:
        nonlocal reads
        await trio.lowlevel.checkpoint()
        reads += 1

    actors.forget()
    store.before["load_entities"] = count
    for _ in range(5):
        async with wired(actors) as wire:
            assert (await wire.ask("subscribe", stream_id="workspace:w"))["type"] == "subscribed"
    assert reads <= 2
    await actors.workspace().send(RemoveMember("u"))
    async with wired(actors) as wire:
        answer = await wire.ask("subscribe", stream_id="workspace:w")
        assert answer["code"] == "ROLE_FORBIDDEN"


async def test_a_stream_comes_in_one_dialect(office: Actors) -> None:
    """A second subscribe that would get its events in another form is refused, not humoured."""
    for first, other in (
        (("subscribe", {"stream_id": "note:n"}), ("subscribe_note", {"note_id": "n"})),
        (("subscribe_workspace", {"workspace_id": "w"}), ("subscribe", {"stream_id": STREAM})),
    ):
        async with wired(office) as wire:
            assert (await wire.ask(first[0], cursor=0, **first[1]))["type"] == "subscribed"
            assert "event" in (await wire.hear())["type"]
            followed = dict(wire.connection.writer.streams)
            error = await _answer(wire, other[0], other[1])
            assert (error["type"], error["code"]) == ("error", "STATE_CONFLICT")
            assert wire.connection.writer.streams == followed
            assert (await _answer(wire, *first))["type"] == "subscribed"
            stream_id = first[1].get("stream_id", STREAM)
            assert (await _answer(wire, "unsubscribe", {"stream_id": stream_id}))["type"]
            assert (await _answer(wire, *other))["type"] == "subscribed"


async def _answer(wire: Wire, type_: str, fields: Message) -> Message:
    await wire.say(type_, request_id="r", **fields)
    while (answer := await wire.hear()).get("request_id") != "r":
        pass
    return answer


async def test_a_message_may_name_any_client(office: Actors) -> None:
    """``default`` too, on a connection of another."""
    async with wired(office, client_id="laptop") as wire:
        for client_id in (None, "default"):
            named = {} if client_id is None else {"client_id": client_id}
            await _answer(wire, "subscribe", {"stream_id": STREAM, "cursor": 0, **named})
            ((_, key),) = office.service.acks._frontiers
            assert key.client_id == (client_id or "laptop")
            await _answer(wire, "unsubscribe", {"stream_id": STREAM})


async def test_after_an_unknown_outcome_the_events_come_before_the_answer(
    office: Actors, store: FaultyStore
) -> None:
    """Whoever is told that it took effect can read what it did; else the answer comes first."""
    change = {"workspace_id": "w", "name": "set_title"}
    async with wired(office) as wire:
        await wire.ask("subscribe", stream_id="note:n", cursor=1)
        for version, fault in ((1, None), (2, applied_unknown)):
            if fault is not None:
                store.faults.append(fault)
            payload = {"note_id": "n", "title": "Other", "base_version": version}
            await wire.say("command", payload=payload, **change)
            came = kinds(await wire.hear_many(2))
            expected = ["committed", "event"]
            assert came == (expected if fault is None else expected[::-1])
