"""The queue of one client: replies first, events in order, closing messages last, all bounded."""

from __future__ import annotations

from collections.abc import Sequence

from dalsegno.actors.session._outbox import Outbox
from dalsegno.protocol import Frames, Subscription

ONE, TWO = Subscription("w", "box:a"), Subscription("w", "box:b")


def frames(text: bytes) -> Frames:
    return Frames((text,))


def texts(taken: Sequence[Frames]) -> list[bytes]:
    return [text for each in taken for text in each.texts]


def test_replies_go_first_and_everything_keeps_its_order() -> None:
    outbox = Outbox(bytes_max=100, items_max=9)
    outbox.add(ONE, frames(b"e1"), 0)
    outbox.reply(b"r1")
    outbox.add(TWO, frames(b"e2"), 0)
    outbox.reply(b"r2")
    outbox.reply(b"r3")
    assert (outbox.replies, outbox.replies_bytes, outbox.events_bytes) == (3, 6, 4)
    assert repr(outbox) == "<Outbox 3 replies, 2 items, 10 bytes>"
    assert texts(outbox.take()) == [b"r1", b"r2", b"r3", b"e1", b"e2"]
    assert outbox.is_empty
    assert outbox.size == 0
    assert outbox.take() == []


def test_what_can_be_read_again_is_dropped_with_the_place_to_read_from() -> None:
    outbox = Outbox(bytes_max=5, items_max=9)
    outbox.add(ONE, frames(b"abc"), 7)
    outbox.add(TWO, frames(b"de"), 0)
    assert not outbox.is_over
    outbox.add(ONE, frames(b"f"), 9)
    assert outbox.is_over
    assert outbox.drop(ONE) == 7
    assert outbox.drop(ONE) is None
    assert (outbox.events_bytes, outbox.is_over) == (2, False)
    outbox.reply(b"r")
    assert outbox.drop_all() == {TWO: 0}
    assert texts(outbox.take()) == [b"r"]


def test_the_last_words_of_a_stream_are_not_dropped() -> None:
    outbox = Outbox(bytes_max=10, items_max=9)
    outbox.add(ONE, frames(b"a"), 0)
    outbox.add(TWO, frames(b"b"), 4)
    outbox.end(ONE, frames(b"end"))
    assert (outbox.events_bytes, outbox.last_bytes, outbox.size) == (1, 4, 5)
    assert outbox.drop(ONE) is None
    assert outbox.drop_all() == {TWO: 4}
    assert texts(outbox.take()) == [b"a", b"end"]
    assert outbox.size == 0


def test_last_words_are_bounded_too_and_the_end_is_always_said() -> None:
    outbox = Outbox(bytes_max=10, items_max=9)
    for _ in range(50):  # a stream that is followed and ends, over and over
        outbox.add(ONE, frames(b"12345"), 0)
        outbox.end(ONE, frames(b"!"))
        assert outbox.events_bytes == 0
    assert texts(outbox.take()).count(b"12345") == 1
    outbox.add(ONE, frames(b"123456789012"), 0)
    outbox.end(ONE, frames(b"!"))
    assert texts(outbox.take()) == [b"!"]


def test_a_stream_that_ends_leaves_the_events_of_its_next_subscription() -> None:
    outbox = Outbox(bytes_max=100, items_max=9)
    outbox.add(ONE, frames(b"a"), 0)
    outbox.end(ONE, frames(b"end"))
    again = Subscription("w", "box:a")
    outbox.add(again, frames(b"b"), 1)
    assert outbox.drop_all() == {again: 1}
    assert texts(outbox.take()) == [b"a", b"end"]


def test_as_many_items_wait_without_a_writer_as_with_one() -> None:
    outbox = Outbox(bytes_max=100, items_max=2)
    assert outbox.add(ONE, frames(b"1"), 0)
    assert outbox.add(TWO, frames(b"2"), 0)
    assert not outbox.add(ONE, frames(b"3"), 1)
    outbox.open_channel()
    assert not outbox.add(ONE, frames(b"3"), 1)
    assert texts(outbox.take()) == [b"1", b"2"]
    assert outbox.add(ONE, frames(b"3"), 1)
    outbox.close_channel()
    assert texts(outbox.take()) == [b"3"]
    assert outbox.events_bytes == 0
