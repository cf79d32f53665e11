"""What bypasses the parser is what the parser would have returned, however the bytes are split."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from dalsegno.runtime.web._inbound import Inbound

MESSAGE_BYTES_MAX = 20_000

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


@given(
    st.lists(st.tuples(FRAMES, st.sampled_from([True] * 9 + [False])), max_size=8),
    st.lists(st.integers(1, 400), max_size=20),
)
def test_it_gives_what_the_parser_gives(frames: list[tuple[Frame, bool]], cuts: list[int]) -> None:
    wire = b"".join(serialized(frame, mask=mask) for frame, mask in frames)
    parser = a_protocol()
    parser.receive_data(wire)
    protocol = a_protocol()
    inbound = Inbound(protocol)
    found: list[Frame | str] = []
    for cut in [*cuts, len(wire)]:
        part, wire = wire[:cut], wire[cut:]
        if part:
            found += inbound.feed(part)
    assert seen(found) == seen(cast("list[Frame | str]", parser.events_received()))
    assert protocol.eof_sent == parser.eof_sent
    assert protocol.close_sent == parser.close_sent
    assert protocol.close_rcvd == parser.close_rcvd
    assert b"".join(protocol.data_to_send()) == b"".join(parser.data_to_send())


@pytest.mark.parametrize("length", [0, 1, 125, 126, 16_384])
def test_a_short_text_is_taken_out_however_it_comes(length: int) -> None:
    wire = Frame(Opcode.TEXT, b"x" * length).serialize(mask=True)
    inbound = Inbound(a_protocol())
    assert inbound.feed(wire * 2) == ["x" * length] * 2
    found: list[Frame | str] = []
    for at in range(len(wire)):
        found += inbound.feed(wire[at : at + 1])
    assert found == ["x" * length]


def test_the_message_bound_holds_below_what_counts_as_short() -> None:
    protocol = Protocol(Side.SERVER, max_size=10)
    wire = Frame(Opcode.TEXT, b"x" * 11).serialize(mask=True)
    assert Inbound(protocol).feed(wire) == []
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1009


def test_what_looks_like_a_text_inside_a_frame_is_none() -> None:
    payload = b"\x81\x80\x00\x00\x00\x00" * 1_000
    wire = b"\x82\xfe" + len(payload).to_bytes(2) + bytes(4) + payload
    inbound = Inbound(a_protocol())
    assert inbound.feed(wire[:8]) == []
    assert inbound.feed(wire[8:3_008]) == []
    after = Frame(Opcode.TEXT, b"after").serialize(mask=True)
    assert seen(inbound.feed(wire[3_008:] + after)) == [
        (Opcode.BINARY, True, payload),
        (Opcode.TEXT, True, b"after"),
    ]


def test_a_text_amid_fragments_is_refused() -> None:
    protocol = a_protocol()
    begun = Frame(Opcode.TEXT, b"begun", fin=False).serialize(mask=True)
    inbound = Inbound(protocol)
    inbound.feed(begun)
    assert inbound.feed(Frame(Opcode.TEXT, b"whole").serialize(mask=True)) == []
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1002
