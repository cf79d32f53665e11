"""Subscribe, replay and acknowledge, as a client sees it: WS-01 to WS-05, X-SUB, X-ACK, X-REP.

What has an id of X is asked of our own listener, and of a program's Hypercorn.
"""

import httpx
import psycopg
import pytest
import trio

from tests._http import PLAIN
from tests._patience import fail_after

from ._site import Json, Site, Socket, User
from .conftest import EITHER, start

UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
HELLO = [{"retain": 6}, {"delete": 5}, {"insert": "notes"}]


def numbers(messages: list[Json], type_: str) -> list[int]:
    return [message["event_seq"] for message in messages if message["type"] == type_]


async def patch(socket: Socket, note_id: str, base_version: int, **fields: object) -> Json:
    operations = fields.pop("patch_ops", [{"insert": "."}])
    return await socket.ask(
        "apply_patch", note_id=note_id, base_version=base_version, patch_ops=operations, **fields
    )


async def test_ws_01_a_note_is_replayed_in_order(site: Site) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        for version in range(1, 5):
            await patch(socket, note_id, version)
    async with site.owner.socket() as socket:
        subscribed = await socket.ask("subscribe_note", note_id=note_id)
        assert subscribed["type"] == "subscribed"
        assert subscribed["stream_id"] == f"note:{note_id}"
        assert (subscribed["current_version"], subscribed["replay_cursor"]) == (5, 0)
        events = await socket.take(5)
        assert numbers(events, "note_event") == [1, 2, 3, 4, 5]
        assert [event["version"] for event in events] == [1, 2, 3, 4, 5]
        assert events[0]["event_type"] == "note_created"
        assert events[0]["payload"]["markdown"] == "Hello world"
        assert events[1]["payload"] == {
            "patch_ops": [{"insert": "."}],
            "length": 12,
            "version": 2,
        }
        assert await socket.silent() == []


async def test_ws_02_a_workspace_is_replayed_in_order(site: Site) -> None:
    owner = site.owner
    first, second = await owner.create_note(), await owner.create_note()
    async with owner.socket() as socket:
        await patch(socket, first, 1)
        await patch(socket, second, 1)
        subscribed = await socket.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        assert (subscribed["current_version"], subscribed["replay_cursor"]) == (4, 0)
        events = await socket.take(4)
        assert numbers(events, "workspace_event") == [1, 2, 3, 4]
        assert [event["payload"]["note_id"] for event in events] == [first, second, first, second]
        assert events[2]["event_type"] == "note_patched"
        assert events[2]["payload"] == {"note_id": first, "version": 2, "event_seq": 2}


async def test_ws_03_a_stale_base_is_rejected(site: Site) -> None:
    """X-OCC-1: over WebSocket and HTTP, and nothing changes."""
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        await patch(socket, note_id, 1, patch_ops=HELLO)
        rejected = await patch(socket, note_id, 1)
        assert rejected["type"] == "patch_rejected"
        assert rejected["expected_version"] == 1
        assert rejected["current_version"] == 2
        assert rejected["reason"] == "version_conflict"
    body = {"base_version": 1, "patch_ops": [{"insert": "x"}]}
    response = await site.owner.http("PATCH", f"/api/notes/{note_id}", body)
    assert response.status_code == 409
    assert response.json()["code"] == "VERSION_CONFLICT"
    assert response.json()["details"]["current_version"] == 2
    assert (await site.owner.note(note_id))["markdown"] == "Hello notes"
    assert len(await site.owner.events()) == 2


async def test_ws_04_a_retransmitted_patch_gets_the_original_answer(site: Site) -> None:
    """X-IDEM-1: whatever the repeat says; X-IDEM-3: also after a deletion."""
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        first = await patch(socket, note_id, 1, patch_ops=HELLO, idempotency_key="ws-idem-01")
        assert first["type"] == "patch_committed"
        assert (first["version"], first["event_seq"]) == (2, 2)
        again = await patch(
            socket, note_id, 1, patch_ops=[{"retain": 1}], idempotency_key="ws-idem-01"
        )
        assert again == first | {"request_id": again["request_id"], "repeated": True}
        response = await site.owner.http("DELETE", f"/api/notes/{note_id}")
        assert response.status_code == 204
        after = await patch(socket, note_id, 2, idempotency_key="ws-idem-01")
        assert (after["version"], after["event_seq"]) == (2, 2)
    assert len(await site.owner.events()) == 3


@EITHER
async def test_ws_05_a_client_comes_back_to_where_it_was(site: Site) -> None:
    """X-REP-1: only what follows the acknowledged cursor; X-ACK-2 is this over a restart."""
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        await socket.ask("subscribe_note", note_id=note_id)
        for version in (1, 2, 3):
            await patch(socket, note_id, version)
        await socket.until("note_event", event_seq=4)
        await socket.send("ack", stream_id=f"note:{note_id}", event_seq=2)
        assert await socket.silent() == []
    async with site.owner.socket() as socket:
        subscribed = await socket.ask("subscribe_note", note_id=note_id)
        assert subscribed["replay_cursor"] == 2
        assert numbers(await socket.take(2), "note_event") == [3, 4]
        assert await socket.silent() == []


async def test_x_ack_2_cursors_outlive_the_server(migrated: str) -> None:
    async with start(migrated) as site:
        await site.set_up()
        note_id = await site.owner.create_note()
        async with site.owner.socket() as socket:
            await patch(socket, note_id, 1)
            await socket.ask("subscribe_note", note_id=note_id)
            await socket.take(2)
            await socket.send("ack", stream_id=f"note:{note_id}", event_seq=1)
            await socket.silent()
    async with start(migrated) as site:
        user = await site.login()
        async with user.socket() as socket:
            subscribed = await socket.ask("subscribe_note", note_id=note_id)
            assert subscribed["replay_cursor"] == 1
            assert numbers(await socket.take(1), "note_event") == [2]


@EITHER
async def test_x_sub_2_nothing_is_lost_or_doubled_at_the_seam(site: Site) -> None:
    """Sixteen readers come while a thousand changes are made."""
    owner = site.owner
    notes = [await owner.create_note("") for _ in range(10)]

    async def write(note_id: str) -> None:
        async with owner.socket() as socket:
            for version in range(1, 101):
                answer = await patch(socket, note_id, version, patch_ops=[])
                assert answer["type"] == "patch_committed"

    async def read(delay: int) -> None:
        async with owner.socket() as socket:
            while site.rt.service.directory.activate(owner.workspace_id).hub.head < 60 * delay:
                await trio.sleep(0.001)
            await socket.ask("subscribe_workspace", workspace_id=owner.workspace_id)
            seen = [(await socket.next())["event_seq"] for _ in range(1_010)]
            assert seen == [*range(1, 1_011)]

    with fail_after(60):
        async with trio.open_nursery() as nursery:
            for delay in range(16):
                nursery.start_soon(read, delay)
            for note_id in notes:
                nursery.start_soon(write, note_id)


@EITHER
async def test_x_sub_3_a_long_replay_comes_in_pages(site: Site) -> None:
    """A thousand events behind, read two hundred at a time (KJ-W16 lost what came after 100)."""
    owner = site.owner
    note_id = await owner.create_note("")
    async with owner.socket() as socket:
        for version in range(1, 1_001):
            await socket.send("apply_patch", note_id=note_id, base_version=version, patch_ops=[])
        await socket.until("patch_committed", version=1_001)
        for type_, fields in (
            ("subscribe_note", {"note_id": note_id}),
            ("subscribe_workspace", {"workspace_id": owner.workspace_id}),
        ):
            await socket.ask(type_, **fields)
            seen = [(await socket.next())["event_seq"] for _ in range(1_001)]
            assert seen == [*range(1, 1_002)]


@EITHER
async def test_x_sub_4_everybody_sees_the_same_order(site: Site) -> None:
    editor = await site.add_user("editor")
    viewer = await site.add_user("viewer")
    before = len(await site.owner.events())
    note_id = await site.owner.create_note()
    seen: list[list[tuple[int, str]]] = []

    async def read(user: User) -> None:
        async with user.socket() as socket:
            await socket.ask("subscribe_workspace", workspace_id=site.owner.workspace_id)
            events = await socket.take(before + 1 + 40)
            seen.append([(event["event_seq"], event["event_id"]) for event in events])

    async def write(user: User) -> None:
        async with user.socket() as socket:
            version = 1
            committed = 0
            while committed < 20:
                answer = await patch(socket, note_id, version)
                committed += answer["type"] == "patch_committed"
                version = answer.get("current_version") or answer["version"]

    with fail_after(30):
        async with trio.open_nursery() as nursery:
            for user in (site.owner, editor, viewer):
                nursery.start_soon(read, user)
            nursery.start_soon(write, site.owner)
            nursery.start_soon(write, editor)
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert [number for number, _ in seen[0]] == [*range(1, before + 42)]


@EITHER
async def test_x_sub_6_unsubscribe_stops_and_resubscribe_resumes(site: Site) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        await socket.ask("subscribe_note", note_id=note_id)
        await socket.take(1)
        await socket.send("ack", stream_id=f"note:{note_id}", event_seq=1)
        gone = await socket.ask("unsubscribe_note", note_id=note_id)
        assert gone["type"] == "unsubscribed"
        await patch(socket, note_id, 1)
        assert await socket.silent() == []
        subscribed = await socket.ask("subscribe_note", note_id=note_id)
        assert subscribed["replay_cursor"] == 1
        assert numbers(await socket.take(1), "note_event") == [2]


@EITHER
async def test_x_sub_7_a_second_subscribe_delivers_nothing_twice(site: Site) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        await socket.ask("subscribe_note", note_id=note_id)
        await socket.take(1)
        again = await socket.ask("subscribe_note", note_id=note_id)
        assert again["type"] == "subscribed"
        await patch(socket, note_id, 1)
        assert numbers(await socket.take(1), "note_event") == [2]
        assert await socket.silent() == []


@EITHER
async def test_x_sub_8_refusals_leave_the_connection_usable(site: Site) -> None:
    stranger = await site.add_user(None)
    note_id = await site.owner.create_note()
    async with stranger.socket() as socket:
        answer = await socket.ask("subscribe_workspace", workspace_id=site.owner.workspace_id)
        assert answer["code"] == "ROLE_FORBIDDEN"
        for unknown in (note_id, "0190-unknown"):
            answer = await socket.ask("subscribe_note", note_id=unknown)
            assert answer["code"] == "NOTE_NOT_FOUND"
            answer = await patch(socket, unknown, 1)
            assert answer["code"] == "NOTE_NOT_FOUND"
        answer = await socket.ask("subscribe_workspace", workspace_id="no-such")
        assert answer["code"] == "WORKSPACE_NOT_FOUND"
        answer = await socket.ask("subscribe_workspace", workspace_id="$system")
        assert answer["code"] == "ROLE_FORBIDDEN"
        assert (await socket.ask("ping"))["type"] == "pong"
    assert (await site.owner.note(note_id))["version"] == 1


@EITHER
async def test_x_ack_1_acks_are_monotonic(site: Site) -> None:
    note_id = await site.owner.create_note()
    stream_id = f"note:{note_id}"
    async with site.owner.socket() as socket:
        for version in (1, 2):
            await patch(socket, note_id, version)
        await socket.ask("subscribe_note", note_id=note_id)
        await socket.take(3)
        await socket.send("ack", stream_id=stream_id, event_seq=2)
        stale = await socket.ask("ack", stream_id=stream_id, event_seq=1)
        assert stale["code"] == "STALE_CURSOR"
        assert stale["message"] == "stale ack cursor"
        assert (stale["stream_id"], stale["event_seq"], stale["current_cursor"]) == (
            stream_id,
            1,
            2,
        )
        assert stale["details"] == {
            "stream_id": stream_id,
            "attempted_seq": 1,
            "event_seq": 1,
            "current_cursor": 2,
        }
        await socket.send("ack", stream_id=stream_id, event_seq=2)
        assert await socket.silent() == []
        again = await socket.ask("ack", stream_id=stream_id, event_seq=0)
        assert again["current_cursor"] == 2


@EITHER
async def test_x_ack_3_streams_are_acknowledged_independently(site: Site) -> None:
    owner = site.owner
    note_id = await owner.create_note()
    async with owner.socket() as socket:
        for version in (1, 2):
            await patch(socket, note_id, version)
        await socket.ask("subscribe_note", note_id=note_id)
        await socket.take(3)
        await socket.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        await socket.take(3)
        await socket.send("ack", stream_id=f"note:{note_id}", event_seq=1)
        await socket.send("ack", stream_id=f"workspace:{owner.workspace_id}", event_seq=3)
        assert await socket.silent() == []
    async with owner.socket() as socket:
        assert (await socket.ask("subscribe_note", note_id=note_id))["replay_cursor"] == 1
        await socket.take(2)
        answer = await socket.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        assert answer["replay_cursor"] == 3


@EITHER
async def test_x_ack_4_concurrent_acks_end_at_the_highest(site: Site) -> None:
    note_id = await site.owner.create_note()
    stream_id = f"note:{note_id}"
    async with site.owner.socket() as writer:
        for version in range(1, 30):
            await patch(writer, note_id, version)

    async def ack(order: list[int]) -> None:
        async with site.owner.socket() as socket:
            await socket.ask("subscribe_note", note_id=note_id, cursor=0)
            await socket.until("note_event", event_seq=30)
            for seq in order:
                await socket.send("ack", stream_id=stream_id, event_seq=seq)
            for message in await socket.silent():
                assert message["code"] == "STALE_CURSOR"

    async with trio.open_nursery() as nursery:
        for order in ([5, 25, 7], [30, 1, 12], [2, 3, 29]):
            nursery.start_soon(ack, order)
    async with site.owner.socket() as socket:
        assert (await socket.ask("subscribe_note", note_id=note_id))["replay_cursor"] == 30


@EITHER
async def test_x_ack_5_only_what_is_followed_can_be_acknowledged(site: Site) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        answer = await socket.ask("ack", stream_id=f"note:{note_id}", event_seq=1)
        assert answer["code"] == "NOT_SUBSCRIBED"
        answer = await socket.ask("ack", stream_id="nonsense", event_seq=1)
        assert answer["code"] == "NOT_SUBSCRIBED"
        assert (await socket.ask("subscribe_note", note_id=note_id))["replay_cursor"] == 0


@EITHER
async def test_x_ack_ahead_and_cursors_of_another_client(site: Site) -> None:
    """CURSOR_AHEAD above what was sent; a cursor belongs to (user, client)."""
    note_id = await site.owner.create_note()
    stream_id = f"note:{note_id}"
    async with site.owner.socket("?client_id=tab-1") as socket:
        await socket.ask("subscribe_note", note_id=note_id)
        await socket.take(1)
        ahead = await socket.ask("ack", stream_id=stream_id, event_seq=2)
        assert ahead["code"] == "CURSOR_AHEAD"
        assert (ahead["stream_id"], ahead["event_seq"], ahead["latest_seq"]) == (stream_id, 2, 1)
        await socket.send("ack", stream_id=stream_id, event_seq=1)
        assert await socket.silent() == []
    for query in ("?client_id=", "?client_id=%00", "?client_id=" + 201 * "x"):
        cookie = {"cookie": f"dalsegno_session={site.owner.cookie}"}
        async with httpx.AsyncClient(base_url=f"http://{site.address}", **PLAIN) as client:
            refused = await client.get(f"/ws{query}", headers=UPGRADE | cookie)
        assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST")
    async with site.owner.socket("?client_id=tab-2") as socket:
        assert (await socket.ask("subscribe_note", note_id=note_id))["replay_cursor"] == 0
    async with site.owner.socket() as socket:
        answer = await socket.ask("subscribe_note", note_id=note_id, client_id="tab-1")
        assert answer["replay_cursor"] == 1
    user = await site.login()
    async with user.socket("?client_id=tab-1") as socket:
        assert (await socket.ask("subscribe_note", note_id=note_id))["replay_cursor"] == 1


@pytest.mark.parametrize(
    ("cursor", "code"),
    [
        (2, "CURSOR_AHEAD"),
        (2**63 - 1, "CURSOR_AHEAD"),
        (2**64, "BAD_REQUEST"),
        (-1, "BAD_REQUEST"),
        ("nonsense", "BAD_REQUEST"),
        ("1-0000000000000000", "CURSOR_DIVERGED"),
        (1.5, "BAD_REQUEST"),
    ],
)
async def test_x_rep_6_cursors_that_cannot_be_honoured(
    site: Site, cursor: object, code: str
) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        for type_, fields in (
            ("subscribe_note", {"note_id": note_id}),
            ("subscribe", {"stream_id": f"note:{note_id}"}),
        ):
            answer = await socket.ask(type_, cursor=cursor, **fields)
            assert (answer["type"], answer["code"]) == ("error", code)
        assert (await socket.ask("subscribe_note", note_id=note_id))["type"] == "subscribed"


async def test_a_cursor_with_its_chain_is_honoured(site: Site) -> None:
    owner = site.owner
    note_id = await owner.create_note()
    async with owner.socket() as socket:
        await patch(socket, note_id, 1)
        await socket.ask("subscribe", stream_id=f"workspace:{owner.workspace_id}")
        first, second = await socket.take(2)
        assert (first["seq"], first["event_seq"], first["version"]) == (1, 1, 1)
        assert first["entity"] == f"note:{note_id}"
    async with owner.socket() as socket:
        answer = await socket.ask(
            "subscribe",
            stream_id=f"workspace:{owner.workspace_id}",
            cursor=f"1-{first['chain']}",
        )
        assert (answer["head"], answer["cursor"], answer["chain"]) == (2, 1, first["chain"])
        assert await socket.next() == second


@EITHER
async def test_x_rep_3_an_unknown_event_is_replayed_as_it_is(site: Site, migrated: str) -> None:
    """It is appended from outside, below a runtime that does not know its type."""
    owner = site.owner
    note_id = await owner.create_note()
    slot = site.rt.service.directory.activate(owner.workspace_id)
    with psycopg.connect(migrated, autocommit=True) as outside:
        outside.execute(
            """with moved as (
                 update dalsegno.workspace_head set head_seq = head_seq + 1, epoch = epoch + 1
                  where workspace_id = %(w)s returning head_seq)
               insert into dalsegno.event (workspace_id, event_seq, stream_id, stream_seq, event_id,
                 type, type_version, schema_version, payload, command_id, recorded_at, chain)
               select %(w)s, head_seq, 'outside:1', 1, gen_random_uuid(), 'future_workspace_event',
                 1, 2, '{"compat": true,  "b":1}', 'outside', now(), 7 from moved""",
            {"w": owner.workspace_id},
        )
    async with owner.socket() as socket:
        answer = await patch(socket, note_id, 1)
        assert answer["type"] == "patch_committed"
        await socket.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        events = await socket.take(3)
        assert numbers(events, "workspace_event") == [1, 2, 3]
        assert events[1]["event_type"] == "future_workspace_event"
        assert events[1]["payload"] == {"compat": True, "b": 1}
    assert slot.hub.head == 3


@EITHER
async def test_x_rep_7_pages_together_are_the_whole_log(site: Site) -> None:
    owner = site.owner
    note_id = await owner.create_note()
    async with owner.socket() as socket:
        for version in range(1, 24):
            await patch(socket, note_id, version)
    whole = await owner.events()
    assert [event["event_seq"] for event in whole] == [*range(1, 25)]
    items: list[Json] = []
    cursor: int | None = 0
    while cursor is not None:
        path = f"/api/workspaces/{owner.workspace_id}/events?after={cursor}&limit=5"
        page = (await owner.http("GET", path)).json()
        assert page["head"] == 24
        assert len(page["items"]) <= 5
        items += page["items"]
        cursor = page["next"]
    assert items == whole
    path = f"/api/workspaces/{owner.workspace_id}/events?after=25"
    response = await owner.http("GET", path)
    assert (response.status_code, response.json()["code"]) == (409, "CURSOR_AHEAD")


async def test_9_3_the_sender_hears_first_then_the_note_then_the_workspace(site: Site) -> None:
    owner = site.owner
    note_id = await owner.create_note()
    async with owner.socket() as a, owner.socket() as b:
        await a.ask("subscribe_note", note_id=note_id, cursor=1)
        await a.ask("subscribe_workspace", workspace_id=owner.workspace_id, cursor=1)
        await b.ask("subscribe_workspace", workspace_id=owner.workspace_id, cursor=1)
        await a.silent()
        await a.send("apply_patch", note_id=note_id, base_version=1, patch_ops=HELLO)
        frames = await a.take(3)
        assert [frame["type"] for frame in frames] == [
            "patch_committed",
            "note_event",
            "workspace_event",
        ]
        assert [frame["event_seq"] for frame in frames] == [2, 2, 2]
        assert (await b.next())["event_seq"] == 2


@EITHER
async def test_x_bp_2_a_reader_that_stops_falls_behind_and_misses_nothing(site: Site) -> None:
    """Over a real socket: its outbox is bounded, the writer is not slowed, the rest is read."""
    owner = site.owner
    note_id = await owner.create_note("")
    stream_id = f"note:{note_id}"
    text = "x" * 16_000
    async with owner.socket() as reader, owner.socket() as writer:
        await reader.ask("subscribe_note", note_id=note_id)
        version = 1
        hub = site.rt.service.directory.activate(owner.workspace_id).hub
        ((subscription, _),) = hub._streams[stream_id]
        with fail_after(30):
            while subscription.live or version < 300:
                operations = [{"insert": text}, {"delete": len(text) if version > 1 else 0}]
                answer = await patch(writer, note_id, version, patch_ops=operations)
                assert answer["type"] == "patch_committed"
                version += 1
        (behind,) = [c for c in site.rt.service.connections if stream_id in c.writer.streams]
        assert behind.statistics().events_bytes <= site.rt.limits.outbox_bytes_max
        seen = [(await reader.next())["event_seq"] for _ in range(version)]
        assert seen == [*range(1, version + 1)]
        await patch(writer, note_id, version, patch_ops=[])
        assert (await reader.next())["event_seq"] == version + 1
        assert subscription.live
