"""What bypasses the parser is what the parser would have returned, however the bytes are split."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import assume, given, strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from dalsegno.protocol import Limits
from dalsegno.runtime.web._inbound import Inbound

MESSAGE_BYTES_MAX = 20_000
LIMITS = Limits(message_bytes_max=MESSAGE_BYTES_MAX, read_frames_max=3)
EMPTY_FRAGMENT, EMPTY_PING = b"\x00\x80\0\0\0\0", b"\x89\x80\0\0\0\0"

Seen = list[tuple[Opcode, bool, bytes]]


def a_protocol() -> Protocol:
    return Protocol(Side.SERVER, max_size=MESSAGE_BYTES_MAX)


def seen(found: list[Frame | str]) -> Seen:
    """Show texts and frames alike."""
    return [
        (Opcode.TEXT, True, item.encode())
        if isinstance(item, str)
        else (item.opcode, item.fin, bytes(item.data))
        for item in found
    ]


def parsed(inbound: Inbound, data: bytes) -> list[Frame | str]:
    """Feed some bytes, and parse them to the end, in as many turns as it takes."""
    inbound.feed(data)
    inbound.parse(0)
    found = list(inbound.inbox)
    while inbound.has_more:
        inbound.parse(0)
        found += inbound.inbox
    return found


PAYLOADS = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=40),
    # On both sides of where the lengths change their form, and of what counts as short.
    st.sampled_from([125, 126, 65_535, 65_536, 16_384, 16_385, 20_000, 20_001]).map(bytes),
)
FRAMES = st.one_of(
    st.builds(Frame, st.just(Opcode.TEXT), PAYLOADS),
    st.builds(
        Frame,
        st.sampled_from(Opcode),
        PAYLOADS,
        st.booleans(),
        rsv1=st.sampled_from([False] * 9 + [True]),
    ).filter(lambda frame: frame.opcode < Opcode.CLOSE or len(frame.data) < 126),
)


def serialized(frame: Frame, *, mask: bool) -> bytes:
    """Write a frame, also a wrong one, which `Frame.serialize` would refuse."""
    right = Frame(frame.opcode, frame.data, frame.fin or frame.opcode >= Opcode.CLOSE)
    wire = bytearray(right.serialize(mask=mask))
    wire[0] = frame.opcode | frame.fin << 7 | frame.rsv1 << 6
    return bytes(wire)


def closes_within_a_message(frames: list[tuple[Frame, bool]]) -> bool:
    """Whether a client closes before it has ended a message, which the parser alone refuses."""
    is_open = False
    for frame, _ in frames:
        if frame.opcode is Opcode.CLOSE:
            return is_open
        if frame.opcode < Opcode.CLOSE:
            is_open = not frame.fin
    return False


@given(
    st.lists(st.tuples(FRAMES, st.sampled_from([True] * 9 + [False])), max_size=8),
    st.lists(st.integers(1, 400), max_size=20),
)
def test_it_gives_what_the_parser_gives(frames: list[tuple[Frame, bool]], cuts: list[int]) -> None:
    assume(not closes_within_a_message(frames))
    wire = b"".join(serialized(frame, mask=mask) for frame, mask in frames)
    parser = a_protocol()
    parser.receive_data(wire)
    protocol = a_protocol()
    inbound = Inbound(protocol, LIMITS)
    found: list[Frame | str] = []
    for cut in [*cuts, len(wire)]:
        part, wire = wire[:cut], wire[cut:]
        if part:
            found += parsed(inbound, part)
    assert seen(found) == seen(cast("list[Frame | str]", parser.events_received()))
    assert protocol.eof_sent == parser.eof_sent
    assert protocol.close_sent == parser.close_sent
    assert protocol.close_rcvd == parser.close_rcvd
    assert b"".join(protocol.data_to_send()) == b"".join(parser.data_to_send())


@pytest.mark.parametrize("length", [0, 1, 125, 126, 16_384])
def test_a_short_text_is_taken_out_however_it_comes(length: int) -> None:
    wire = Frame(Opcode.TEXT, b"x" * length).serialize(mask=True)
    inbound = Inbound(a_protocol(), LIMITS)
    assert parsed(inbound, wire * 2) == ["x" * length] * 2
    found: list[Frame | str] = []
    for at in range(len(wire)):
        found += parsed(inbound, wire[at : at + 1])
    assert found == ["x" * length]


def test_the_message_bound_holds_below_what_counts_as_short() -> None:
    protocol = Protocol(Side.SERVER, max_size=10)
    wire = Frame(Opcode.TEXT, b"x" * 11).serialize(mask=True)
    assert parsed(Inbound(protocol, Limits(message_bytes_max=10)), wire) == []
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1009


def test_what_looks_like_a_text_inside_a_frame_is_none() -> None:
    payload = b"\x81\x80\x00\x00\x00\x00" * 1_000
    wire = b"\x82\xfe" + len(payload).to_bytes(2) + bytes(4) + payload
    inbound = Inbound(a_protocol(), LIMITS)
    assert parsed(inbound, wire[:8]) == []
    assert parsed(inbound, wire[8:3_008]) == []
    after = Frame(Opcode.TEXT, b"after").serialize(mask=True)
    assert seen(parsed(inbound, wire[3_008:] + after)) == [
        (Opcode.BINARY, True, payload),
        (Opcode.TEXT, True, b"after"),
    ]


def test_a_text_amid_fragments_is_refused() -> None:
    protocol = a_protocol()
    begun = Frame(Opcode.TEXT, b"begun", fin=False).serialize(mask=True)
    inbound = Inbound(protocol, LIMITS)
    parsed(inbound, begun)
    assert parsed(inbound, Frame(Opcode.TEXT, b"whole").serialize(mask=True)) == []
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1002


@pytest.mark.parametrize(
    "wire",
    [
        EMPTY_PING * 10,
        b"\x01\x80\0\0\0\0" + EMPTY_FRAGMENT * 9,
        Frame(Opcode.BINARY, b"").serialize(mask=True) * 10,
        Frame(Opcode.TEXT, b"plain").serialize(mask=True) * 10,
    ],
    ids=["pings", "fragments", "binary", "plain texts"],
)
def test_i10_a_turn_parses_so_many_frames_and_no_more(wire: bytes) -> None:
    inbound = Inbound(a_protocol(), LIMITS)
    inbound.feed(wire)
    turns: list[int] = []
    while not turns or inbound.has_more:
        inbound.parse(0)
        turns.append(len(list(inbound.inbox)))
    assert turns == [3, 3, 3, 1]


def test_a_frame_that_is_cut_by_a_read_does_not_end_its_turn_early() -> None:
    inbound = Inbound(a_protocol(), LIMITS)
    wire = Frame(Opcode.PING, b"x" * 100).serialize(mask=True)
    inbound.feed(wire[:50])
    inbound.parse(0)
    assert list(inbound.inbox) == []
    assert not inbound.has_more
    inbound.feed(wire[50:] + EMPTY_PING * 3)
    inbound.parse(0)
    assert len(list(inbound.inbox)) == 3
    assert inbound.has_more


def failed_with(protocol: Protocol) -> int | None:
    return None if protocol.close_sent is None else protocol.close_sent.code


def test_a_message_has_so_many_fragments_and_the_next_one_as_many() -> None:
    protocol = a_protocol()
    inbound = Inbound(protocol, Limits(fragments_max=4))
    message = b"\x01\x80\0\0\0\0" + EMPTY_FRAGMENT * 2 + b"\x80\x80\0\0\0\0"
    parsed(inbound, message * 3)
    parsed(inbound, message[:6] + (EMPTY_PING + EMPTY_FRAGMENT) * 3)
    assert failed_with(protocol) is None, "control frames among them do not count"
    parsed(inbound, EMPTY_FRAGMENT)
    assert failed_with(protocol) == 1008


def test_control_frames_have_a_budget_a_second() -> None:
    protocol = a_protocol()
    inbound = Inbound(protocol, Limits(control_frames_per_s=5))
    for now in (0.0, 1.0, 2.5):
        inbound.feed(EMPTY_PING * 5)
        assert not inbound.parse(now)
    assert failed_with(protocol) is None
    inbound.feed(b"\x8a\x80\0\0\0\0")
    inbound.parse(3.4)
    assert failed_with(protocol) == 1008


@pytest.mark.parametrize(
    ("wire", "code"),
    [(EMPTY_PING * 6, 1008), (b"\x88\x80\0\0\0\0", 1005), (b"\xc1\x80\0\0\0\0", 1002)],
    ids=["a budget", "a close", "a violation"],
)
def test_what_follows_the_end_is_neither_parsed_nor_kept(wire: bytes, code: int) -> None:
    protocol = a_protocol()
    inbound = Inbound(protocol, Limits(control_frames_per_s=5))
    before = Frame(Opcode.TEXT, b"before").serialize(mask=True)
    after = Frame(Opcode.TEXT, b"after").serialize(mask=True)
    found = parsed(inbound, before + wire + after * 100)
    assert [item for item in found if isinstance(item, str)] == ["before"]
    assert failed_with(protocol) == code
    assert not inbound.has_more
    assert parsed(inbound, after) == []
