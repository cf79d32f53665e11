"""Frames, read back by another implementation."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from dalsegno.protocol import Frames


def parse(wire: bytes) -> list[Frame]:
    """Read frames as a client does."""
    reader = StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    frames = []
    while len(reader.buffer):
        parser = Frame.parse(reader.read_exact, mask=False, max_size=None)
        with pytest.raises(StopIteration) as stop:
            next(parser)
        frames.append(stop.value.value)
    return frames


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_text_of_any_length_is_one_final_frame(length: int) -> None:
    payload = b"x" * length
    frames = Frames([payload])
    (frame,) = parse(frames.wire)
    assert (frame.opcode, frame.fin, frame.data) == (Opcode.TEXT, True, payload)
    assert frames.texts == [payload]


def test_the_shortest_form_of_a_length_is_used() -> None:
    lengths = (125, 126, 65_535, 65_536)
    assert [len(Frames([b"x" * n]).wire) - n for n in lengths] == [2, 4, 4, 10]


def test_joined_frames_keep_their_order() -> None:
    texts = [b"one", b"", "zwölf".encode(), b"x" * 200]
    frames = Frames(texts)
    assert frames.size == sum(map(len, texts))
    assert [bytes(frame.data) for frame in parse(frames.wire)] == texts
    assert frames.texts == texts


def test_no_message_is_no_frame() -> None:
    frames = Frames([])
    assert (frames.wire, frames.texts, frames.size) == (b"", [], 0)
