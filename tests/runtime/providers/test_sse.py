"""Server-sent events: what they are, whatever the network makes of their bytes."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from dalsegno.runtime.providers._sse import SseEvent, SseParser, SseTooLongError


def parse(*pieces: bytes, bytes_max: int = 1_000) -> list[SseEvent]:
    parser = SseParser(line_bytes_max=bytes_max, event_bytes_max=bytes_max)
    return [event for piece in pieces for event in parser.feed(piece)]


def said(*texts: str) -> list[SseEvent]:
    return [SseEvent("message", text) for text in texts]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_in_each_of_three_ways(end: bytes) -> None:
    text = b"data: a\ndata: b\n\n\n\ndata: c\n\n"
    assert parse(text.replace(b"\n", end)) == said("a\nb", "c")


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b": a comment\n\n:\n\ndata: a\n\n", said("a")),
        (b"\xef\xbb\xbfdata: a\n\n", said("a")),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b"data\n\ndata:\n\ndata: \n\n", said("", "", "")),
        (b"data\ndata\n\n", said("\n")),
        (b"data:a\ndata:  b\ndata:\tc\n\n", said("a\n b\n\tc")),
        (b"event: error\ndata: a\n\ndata: b\n\n", [SseEvent("error", "a"), *said("b")]),
        (b"event: error\n\ndata: b\n\n", said("b")),
        (b"event\ndata: b\n\n", said("b")),
        (b"id: 1\nretry: 5\nother: x\nDATA: x\n data: x\ndata: a:b\n\n", said("a:b")),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"data: \xff\xc3\xa4\n\n", said("\ufffd\u00e4")),
        ("data: a\u2028\u0085b\n\n".encode(), said("a\u2028\u0085b")),
    ],
)
def test_what_a_stream_says(text: bytes, events: list[SseEvent]) -> None:
    assert parse(text) == events
    assert parse(*(text[at : at + 1] for at in range(len(text)))) == events


def test_bounds_of_a_line_and_of_an_event() -> None:
    assert parse(b"data: 1234\n\n" * 9, bytes_max=10) == said("1234") * 9
    with pytest.raises(SseTooLongError, match="a line of more than 10 bytes"):
        parse(b"data: 12345\n\n", bytes_max=10)
    with pytest.raises(SseTooLongError, match="a line of more than 10 bytes"):
        parse(*[b": "] * 6, bytes_max=10)
    with pytest.raises(SseTooLongError, match="an event of more than 10 bytes"):
        parse(b"data\n" * 11, bytes_max=10)
    assert parse(b": \n" * 1_000, bytes_max=10) == []


alphabet = st.sampled_from(
    [
        *(b"data", b"event", b"id", b":", b" ", b"\r", b"\n", b"\r\n", b"\n\n", b"a", b"error"),
        *(b"data: x\n\n", "\u00e4".encode(), b"\xef\xbb\xbf", b"\xff"),
    ]
)


def as_the_standard_says(text: bytes) -> list[SseEvent]:
    """Read a whole stream at once, one step of the standard after the other."""
    lines = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, name, data = [], b"", b""
    for line in lines.split(b"\n")[:-1]:
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if not line:
            if data:
                text = data[:-1]
                kind = name.decode("utf-8", "replace") or "message"
                events.append(SseEvent(kind, text.decode("utf-8", "replace")))
            name, data = b"", b""
        elif field == b"event":
            name = value
        elif field == b"data":
            data += value + b"\n"
    return events


@given(st.lists(alphabet, max_size=30).map(b"".join), st.lists(st.integers(0, 60), max_size=8))
@example(b"data: a\r\n\r\ndata: b\r\r", [7, 8, 9, 10])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
def test_the_events_are_the_same_however_the_bytes_are_cut(text: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert b"".join(pieces) == text
    assert parse(*pieces) == parse(text) == as_the_standard_says(text)


def test_a_line_in_a_hundred_thousand_pieces_costs_no_more_than_in_one() -> None:
    """Linear: a parser that looks at all of a line with each piece takes minutes for this."""
    began = time.process_time()
    parser = SseParser(line_bytes_max=10_000_000, event_bytes_max=10_000_000)
    for _ in range(100_000):
        assert parser.feed(b"x" * 20) == []
    assert time.process_time() - began < 10
