"""X-BAD-1: every bad input has its typed error, changes nothing and harms no other client."""

import socket as sockets
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio
from websockets.frames import Frame, Opcode

from tests._patience import fail_after

from ._site import Json, Site, Socket
from .conftest import start
from .test_streams import patch

DEEP = 500


def bad_messages(note_id: str, workspace_id: str) -> list[tuple[str | bytes, str]]:
    def say(type_: str, **fields: Any) -> str:
        return msgspec.json.encode({"type": type_, **fields}).decode()

    def patch_with(operations: Any) -> str:
        return say("apply_patch", note_id=note_id, base_version=1, patch_ops=operations)

    return [
        ("", "BAD_REQUEST"),
        ("{", "BAD_REQUEST"),
        ("nonsense", "BAD_REQUEST"),
        ("[]", "BAD_REQUEST"),
        ("null", "BAD_REQUEST"),
        ('{"type":"nonsense"}', "BAD_REQUEST"),
        ('{"type":7}', "BAD_REQUEST"),
        ("{}", "BAD_REQUEST"),
        (b"\x00\x01binary", "BAD_REQUEST"),
        ("[" * DEEP, "BAD_REQUEST"),
        ("[" * DEEP + "]" * DEEP, "BAD_REQUEST"),
        ("[" * 200_000, "BAD_REQUEST"),
        (say("ping", client_ts={})[:-2] + '{"a":' * DEEP + "1" + "}" * DEEP + "}", "BAD_REQUEST"),
        (say("apply_patch", note_id=note_id), "BAD_REQUEST"),
        (say("subscribe_note", note_id=7), "BAD_REQUEST"),
        (say("subscribe_note", note_id="\u0000"), "BAD_REQUEST"),
        ('{"type":"subscribe_note","note_id":"\\ud800"}', "BAD_REQUEST"),
        (say("subscribe_note", note_id="x" * 1_000), "BAD_REQUEST"),
        (say("subscribe", stream_id="nonsense"), "BAD_REQUEST"),
        (say("subscribe", stream_id="nothing:1"), "BAD_REQUEST"),
        (say("subscribe", stream_id="note:"), "BAD_REQUEST"),
        (say("subscribe_workspace", workspace_id="../etc"), "BAD_REQUEST"),
        (say("ack", stream_id="note:x"), "BAD_REQUEST"),
        (say("ack", stream_id="note:x", event_seq=-1), "BAD_REQUEST"),
        (say("ack", stream_id="note:x", event_seq=True), "BAD_REQUEST"),
        ('{"type":"ack","stream_id":"n","event_seq":' + "9" * 5_000 + "}", "BAD_REQUEST"),
        ('{"type":"ack","stream_id":"n","event_seq":1e400}', "BAD_REQUEST"),
        (say("ack", stream_id="note:x", event_seq=1), "NOT_SUBSCRIBED"),
        (patch_with([{"retain": 99}]), "INVALID_PATCH"),
        (patch_with([{"delete": 99}]), "INVALID_PATCH"),
        (patch_with([{"retain": -1}]), "INVALID_PATCH"),
        (patch_with([{"retain": 1, "insert": "x"}]), "INVALID_PATCH"),
        (patch_with([{"unknown": 1}]), "INVALID_PATCH"),
        (patch_with([{"insert": 5}]), "INVALID_PATCH"),
        (patch_with({"retain": 1}), "INVALID_PATCH"),
        (patch_with([{"insert": "a\u0000b"}]), "BAD_REQUEST"),
        (patch_with([{"insert": "x"}])[:-3] + '\\ud800"}]}', "BAD_REQUEST"),
        (say("command", workspace_id=workspace_id, name="no_such", payload={}), "UNKNOWN_COMMAND"),
        (say("command", workspace_id=workspace_id, name="set_title", payload=[]), "BAD_REQUEST"),
        (say("command", workspace_id="$system", name="set_title", payload={}), "BAD_REQUEST"),
        (
            say(
                "command",
                workspace_id=workspace_id,
                name="create_note",
                payload={"title": "t", "markdown": "x" * 300_000},
            ),
            "PAYLOAD_TOO_LARGE",
        ),
        (
            say(
                "apply_patch",
                note_id=note_id,
                base_version=1,
                patch_ops=[],
                idempotency_key="k" * 257,
            ),
            "BAD_REQUEST",
        ),
        (
            say("apply_patch", note_id=note_id, base_version=1, patch_ops=[], idempotency_key=""),
            "BAD_REQUEST",
        ),
    ]


async def test_x_bad_1_each_gets_its_error_and_the_connection_goes_on(site: Site) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        for message, code in bad_messages(note_id, site.owner.workspace_id):
            await socket.send_raw(message)
            answer = await socket.next()
            assert answer.get("code") == code, (message[:100], answer)
            assert answer["type"] in {"error", "rejected"}
        assert (await socket.ask("ping"))["type"] == "pong"
    assert len(await site.owner.events()) == 1
    assert (await site.owner.note(note_id))["version"] == 1


async def test_a_request_id_is_echoed_where_it_can_be_read(site: Site) -> None:
    async with site.owner.socket() as socket:
        await socket.send_raw('{"type":"nonsense","request_id":"r-1"}')
        assert (await socket.next())["request_id"] == "r-1"
        await socket.send_raw('{"type":"nonsense","request_id":7}')
        assert (await socket.next())["request_id"] is None


async def test_half_an_emoji_is_answered_to_its_sender(site: Site) -> None:
    """Whoever waits for the answer knows it by the request's id, or by the key."""
    note_id = await site.owner.create_note()
    half, address = "\\ud83d", '"request_id":"\\ud83d\\udc4d","idempotency_key":"k"'
    command = f'"workspace_id":"{site.owner.workspace_id}","name":"create_note"'
    patched = f'"note_id":"{note_id}","base_version":1'
    async with site.owner.socket() as socket:
        for message in (
            f'{{"type":"command",{command},"payload":{{"title":"{half}"}},{address}}}',
            f'{{"type":"command",{address},{command},"payload":{{"{half}":1}}}}',
            f'{{"type":"apply_patch",{patched},"patch_ops":[{{"insert":"{half}"}}],{address}}}',
            f'{{"type":"command",{command},{address}}}',  # without a payload
        ):
            await socket.send_raw(message)
            answer = await socket.next()
            assert answer["code"] == "BAD_REQUEST", message
            assert (answer["request_id"], answer["idempotency_key"]) == ("👍", "k"), message
    assert len(await site.owner.events()) == 1


async def test_a_misspelt_field_of_a_payload_is_refused_by_name(site: Site) -> None:
    """… and one of an envelope is passed over, since a newer client says more than we know."""
    workspace_id = site.owner.workspace_id
    named = {"workspace_id": workspace_id, "name": "create_note", "colour": "blue"}
    async with site.owner.socket() as socket:
        payload = {"title": "A", "mardown": "text"}
        refused = await socket.ask("command", payload=payload, **named)
        assert (refused["type"], refused["code"]) == ("rejected", "BAD_REQUEST")
        assert refused["details"] == {"field": "mardown", "nearest": "markdown"}
        assert (await socket.ask("command", payload={"title": "A"}, **named))["type"] == "committed"
        note_id = (await site.owner.events())[-1]["stream_id"].partition(":")[2]
        answer = await patch(socket, note_id, 1, colour="blue")
        assert answer["type"] == "patch_committed"
    assert len(await site.owner.events()) == 2


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True), 1007),
        (b"\x81\xff" + (2 << 20).to_bytes(8) + b"mask", 1009),
        (b"\x81\x05Hello", 1002),
    ],
    ids=["no UTF-8", "too long", "no mask"],  # a mask is drawn, and so no name
)
async def test_x_bad_1_what_ends_a_connection(site: Site, frame: bytes, code: int) -> None:
    """Text that is not UTF-8, an overlong frame, told by its header alone, an unmasked one."""
    note_id = await site.owner.create_note()
    host, port = site.address.split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(
            b"GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Cookie: dalsegno_session=%s\r\n\r\n"
            % (site.address.encode(), site.owner.cookie.encode())
        )
        with fail_after(10):
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some()
            assert received.startswith(b"HTTP/1.1 101")
            await stream.send_all(frame)
            while data := await stream.receive_some():
                received += data
        assert b"\x88" in received
        assert code.to_bytes(2) in received[received.index(b"\x88") :]
    assert (await site.owner.note(note_id))["version"] == 1


async def test_i10_hostile_commands_fail_no_commit_of_a_neighbour(migrated: str) -> None:
    """One workspace is sent every bad message without pause, beside one that works."""
    # With the budget of a client the attack would end after a second.
    async with start(migrated, unreadable_per_s=1_000_000) as site:
        await site.set_up()
        await attack_beside_a_neighbour(site)


async def attack_beside_a_neighbour(site: Site) -> None:
    owner = site.owner
    hostile_workspace = await site.add_workspace()
    body = {"workspace_id": hostile_workspace, "title": "T", "markdown": "x"}
    hostile_note = (await owner.http("POST", "/api/notes", body)).json()["note_id"]
    note_id = await owner.create_note("")
    bad = bad_messages(hostile_note, hostile_workspace)

    async def attack(socket: Socket) -> None:
        while True:
            for message, _ in bad:
                await socket.send_raw(message)
                await socket.next()

    async with (
        owner.socket() as first,
        owner.socket() as second,
        owner.socket() as good,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(attack, first)
        nursery.start_soon(attack, second)
        for version in range(1, 101):
            answer = await patch(good, note_id, version)
            assert (answer["type"], answer["version"]) == ("patch_committed", version + 1)
        nursery.cancel_scope.cancel()
    statistics = site.rt.service.committer.statistics()
    assert (statistics.rejected, statistics.unknown) == (0, 0)


async def test_bodies_over_http_are_bounded_and_typed(site: Site) -> None:
    owner = site.owner
    base = {"workspace_id": owner.workspace_id, "title": "T"}
    cases: list[tuple[Any, int, str]] = [
        ({**base, "markdown": "x" * (2 << 20)}, 413, "PAYLOAD_TOO_LARGE"),
        ({**base, "markdown": "x" * ((1 << 20) + 1)}, 413, "PAYLOAD_TOO_LARGE"),
        ({**base, "markdown": "a\u0000"}, 400, "BAD_REQUEST"),
        ({**base, "markdown": 7}, 400, "BAD_REQUEST"),
        ({"workspace_id": owner.workspace_id}, 400, "BAD_REQUEST"),
        ([], 400, "BAD_REQUEST"),
        ({**base, "workspace_id": "no-such", "markdown": ""}, 404, "WORKSPACE_NOT_FOUND"),
    ]
    for body, status, code in cases:
        response = await owner.http("POST", "/api/notes", body)
        answer: Json = response.json()
        assert (response.status_code, answer["code"]) == (status, code), str(body)[:100]
    whole = {**base, "markdown": "é" * (1 << 19)}
    response = await owner.http("POST", "/api/notes", whole)
    assert response.status_code == 201
    assert len(await owner.events()) == 1


async def test_i10_a_body_that_anybody_may_send_is_short(site: Site) -> None:
    """A hostile one of 2 MiB, before any login, held the server for a quarter of a second."""
    hostile = b'{"x":[' + b'"[",' * (1 << 19)

    async def piecewise(body: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(body), 4096):
            yield body[at : at + 4096]

    for path in ("/api/auth/login", "/api/setup/register"):
        for size, status, code in (
            (16 * 1024, 400, "BAD_REQUEST"),
            (16 * 1024 + 1, 413, "PAYLOAD_TOO_LARGE"),
            (len(hostile), 413, "PAYLOAD_TOO_LARGE"),
        ):
            for content in (hostile[:size], piecewise(hostile[:size])):
                response = await site.post(path, content)
                assert (response.status_code, response.json()["code"]) == (status, code), size


async def test_a_client_that_vanishes_leaves_nothing(site: Site) -> None:
    """X-SUP-5 in small: after a hundred cut connections, tasks and registrations are as before."""
    owner = site.owner
    note_id = await owner.create_note()
    hub = site.rt.service.directory.activate(owner.workspace_id).hub
    for _ in range(100):
        async with owner.socket() as socket:
            await socket.ask("subscribe_note", note_id=note_id)
            raw = socket.ws._stream.socket  # type: ignore[attr-defined]
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await trio.aclose_forcefully(socket.ws._stream)
    with fail_after(10):
        while site.rt.service.connections or hub.subscriptions:
            await trio.sleep(0.01)
