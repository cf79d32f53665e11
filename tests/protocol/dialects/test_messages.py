"""A client's messages: each of both dialects, and invalid ones."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.notes import (
    ApplyPatchMessage,
    SubscribeNote,
    SubscribeWorkspace,
    UnsubscribeNote,
    UnsubscribeWorkspace,
    note_dialect,
)
from dalsegno.protocol import (
    SEQ_MAX,
    Ack,
    CommandMessage,
    Limits,
    PayloadDecoder,
    Ping,
    Reject,
    Subscribe,
    Unsubscribe,
)
from dalsegno.protocol.dialects import GENERIC, Language, address_of

WEBSOCKET = Language(GENERIC, note_dialect)
LIMITS = Limits(command_bytes_max=100)


class Payload(msgspec.Struct):
    text: str
    number: int = 0


decode_payload = PayloadDecoder(Payload)


def decode(message: object) -> Any:
    return WEBSOCKET.decode(msgspec.json.encode(message).decode(), LIMITS)


def code(text: str) -> str:
    with pytest.raises(Reject) as caught:
        WEBSOCKET.decode(text, LIMITS)
    assert caught.value.message
    return caught.value.code


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"type": "subscribe_note", "note_id": "n"}, SubscribeNote(note_id="n")),
        (
            {"type": "subscribe_note", "note_id": "n", "workspace_id": "w", "cursor": 3},
            SubscribeNote(note_id="n", workspace_id="w", cursor=3),
        ),
        ({"type": "unsubscribe_note", "note_id": "n"}, UnsubscribeNote(note_id="n")),
        (
            {"type": "subscribe_workspace", "workspace_id": "w", "cursor": "3"},
            SubscribeWorkspace(workspace_id="w", cursor="3"),
        ),
        (
            {"type": "unsubscribe_workspace", "workspace_id": "w"},
            UnsubscribeWorkspace(workspace_id="w"),
        ),
        ({"type": "ack", "stream_id": "s", "event_seq": 7}, Ack(stream_id="s", event_seq=7)),
        ({"type": "ack", "stream_id": "s", "seq": 7}, Ack(stream_id="s", seq=7)),
        ({"type": "ping", "client_ts": {"a": [1]}}, Ping()),
        (
            {"type": "subscribe", "stream_id": "s", "client_id": "phone", "request_id": "r"},
            Subscribe(stream_id="s", client_id="phone", request_id="r"),
        ),
        ({"type": "unsubscribe", "stream_id": "s"}, Unsubscribe(stream_id="s")),
    ],
)
def test_messages(said: object, message: object) -> None:
    assert decode(said) == message


def test_a_patch_keeps_its_operations_as_they_were_sent() -> None:
    said = (
        '{"type":"apply_patch","note_id":"n","base_version":1,'
        '"patch_ops":[{"retain": 6}],"idempotency_key":"k","client_ts":null}'
    )
    patch = WEBSOCKET.decode(said, LIMITS)
    assert isinstance(patch, ApplyPatchMessage)
    assert (patch.base_version, patch.idempotency_key) == (1, "k")
    assert bytes(patch.patch_ops) == b'[{"retain": 6}]'


def test_a_command_keeps_its_payload_as_it_was_sent() -> None:
    said = '{"type":"command","workspace_id":"w","name":"put","payload":{"a": 1}}'
    command = WEBSOCKET.decode(said, LIMITS)
    assert isinstance(command, CommandMessage)
    assert bytes(command.payload) == b'{"a": 1}'


def test_fields_that_nobody_knows_are_left_alone() -> None:
    assert decode({"type": "ping", "from_the_future": True}) == Ping()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"type":"fly"}',
        '{"note_id":"n"}',
        '{"type":"subscribe_note"}',
        '{"type":"subscribe_note","note_id":7}',
        '{"type":"subscribe_note","note_id":"' + "n" * 257 + '"}',
        '{"type":"subscribe_note","note_id":"n","cursor":[1]}',
        '{"type":"ack","stream_id":"s","event_seq":-1}',
        f'{{"type":"ack","stream_id":"s","event_seq":{SEQ_MAX + 1}}}',
        '{"type":"ack","stream_id":"s","event_seq":1.5}',
        '{"type":"ack","stream_id":"s","event_seq":true}',
        '{"type":"apply_patch","note_id":"n","base_version":null,"patch_ops":[]}',
        '{"type":"ping","client_ts":' + "[" * 65 + "]" * 65 + "}",
        '{"type":"ping","client_ts":' + '{"a":' * 10_000,
        '{"type":"ping","client_ts":"\\u0000"}',
        '{"type":"ping","request_id":"\\ud800"}',
        '{"type":"ping"}x',
    ],
)
def test_what_is_no_message_is_a_bad_request(text: str) -> None:
    assert code(text) == "BAD_REQUEST"


def test_an_error_does_not_repeat_what_a_client_sent() -> None:
    with pytest.raises(Reject) as caught:
        WEBSOCKET.decode('{"type":"%s"}' % ("x" * 100_000), LIMITS)
    assert len(caught.value.details["reason"]) < 400


@pytest.mark.parametrize("extra", ["[" * 64 + "]" * 64, "[" * 30 + "]" * 30, '"\\u0000"', "{"])
def test_a_long_message_is_decoded_in_steps_as_at_once(extra: str) -> None:
    strings = '"[",' * 50_000
    text = f'{{"type":"ping","request_id":"r","x":[{strings}1],"y":{extra}}}'
    found: list[object] = []

    def collect() -> Generator[None, None, None]:
        found.append((yield from WEBSOCKET.decoding(text, LIMITS)))

    try:
        expected = WEBSOCKET.decode(text, LIMITS)
    except Reject as error:
        with pytest.raises(Reject, match=re.escape(str(error))):
            list(collect())
    else:
        assert len(list(collect())) > 5
        assert found == [expected]


@pytest.mark.parametrize(
    ("fields", "number"), [({"event_seq": 0}, 0), ({"seq": 0}, 0), ({"seq": 9}, 9)]
)
def test_the_number_of_an_ack(fields: dict[str, int], number: int) -> None:
    assert decode({"type": "ack", "stream_id": "s", **fields}).number == number


@pytest.mark.parametrize("fields", [{}, {"seq": 1, "event_seq": 1}])
def test_an_ack_has_one_number(fields: dict[str, int]) -> None:
    with pytest.raises(Reject):
        _ = decode({"type": "ack", "stream_id": "s", **fields}).number


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ('{"type":"fly","request_id":"r"}', "r"),
        ('{"request_id":7}', None),
        ('{"request_id":"%s"}' % ("r" * 257), None),
        ("nonsense", None),
        ("[" * 100_000, None),
        ('{"request_id":"r"', None),
        ('{"request_id":"\\ud800"}', None),
        ('{"request_id":"%s"}' % ("\\ud834\\udd1e" * 256), "𝄞" * 256),
        ('{"request_id":"\\ud834\\udd1e","payload":"\\ud83d"}', "𝄞"),
        ('{"payload":{"title":"\\uD83D"},"request_id":"\\uD834\\uDD1E"}', "𝄞"),
        ('{"payload":["\\udd1e\\ud834"],"request_id":"r"}', "r"),
        ('{"payload":"\\\\\\ud83d","request_id":"\\\\ud83d"}', "\\ud83d"),
        ('{"payload":"\\ud83d","request_id":"\\\\"}', "\\"),
        ('{"payload":5,"request_id":"\u0378\ue834"}', "\u0378\ue834"),
        ('{"payload":"\\ud83d","request_id":"\u0378"}', None),
        ('{"request_id":%s}' % ("[" * 60 + "]" * 60), None),
        ('{"request_id":[%s1]}' % ("[]," * 300_000), None),
    ],
)
def test_the_request_id_is_found_if_that_much_can_be_read(
    text: str, request_id: str | None
) -> None:
    assert address_of(text).request_id == request_id


def test_a_payload_becomes_its_struct() -> None:
    assert decode_payload(b'{"text":"x","number":3}', LIMITS) == Payload("x", 3)


@pytest.mark.parametrize(
    ("payload", "code_"),
    [
        (b"{}", "BAD_REQUEST"),
        (b'{"text":7}', "BAD_REQUEST"),
        (b'{"text":"\xff"}', "BAD_REQUEST"),
        (b'{"text":"\\ud800"}', "BAD_REQUEST"),
        (b"[" * 99, "BAD_REQUEST"),
        (b'{"text":"' + b"x" * 100 + b'"}', "PAYLOAD_TOO_LARGE"),
    ],
)
def test_what_is_no_payload(payload: bytes, code_: str) -> None:
    with pytest.raises(Reject) as caught:
        decode_payload(payload, LIMITS)
    assert caught.value.code == code_


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_whatever_comes_it_is_a_message_or_a_bad_request(text: str) -> None:
    try:
        WEBSOCKET.decode(text, LIMITS)
    except Reject as error:
        assert error.code == "BAD_REQUEST"  # noqa: PT017 - both ways are fine
    address_of(text)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    type_=st.sampled_from(["subscribe", "ack", "apply_patch", "command", "ping", "subscribe_note"]),
    fields=st.dictionaries(
        st.sampled_from(
            ["stream_id", "note_id", "cursor", "seq", "event_seq", "payload", "patch_ops", "name"]
        ),
        json,
    ),
)
def test_wrong_types_are_bad_requests(type_: str, fields: dict[str, Any]) -> None:
    try:
        decode({"type": type_, **fields})
    except Reject as error:
        assert error.code == "BAD_REQUEST"  # noqa: PT017 - both ways are fine
