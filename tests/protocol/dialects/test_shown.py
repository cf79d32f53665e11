"""An event as several messages, as one or as none: numbers that are not shown are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import Event, InternalError, Views, chain_text, encode
from dalsegno.protocol.dialects import GenericDialect
from tests.protocol.test_subscription import event


class Part(msgspec.Struct, tag="part"):
    of: int
    part: int


class Counting(GenericDialect):
    """Shows an event of number N as N modulo 3 messages."""

    name = "counting"
    says = (*GenericDialect.says, Part)

    def workspace_event(self, event: Event, payload: object) -> Sequence[bytes]:
        count = event.event_seq % 3
        return [b'{"type":"part","of":%d,"part":%d}' % (event.event_seq, n) for n in range(count)]

    def entity_event(self, event: Event) -> bytes:
        raise ZeroDivisionError


class Silent(Counting):
    """Has no word for what it hides."""

    name = "silent"

    def hidden(self, stream_id: str, first: int, last: int, chain: int) -> None:
        return


VIEWS = Views({})


def shown(dialect: GenericDialect, *numbers: int) -> list[dict[str, Any]]:
    view = VIEWS.of(dialect, is_workspace_stream=True)
    return [msgspec.json.decode(text) for text in encode([*map(event, numbers)], view).texts]


def test_what_is_hidden_is_told_in_one_before_what_is_shown() -> None:
    counting = Counting()
    (alone,) = shown(counting, 3)
    chain = chain_text(event(3).chain)
    told = {"type": "hidden", "stream_id": "workspace:w", "from": 3, "to": 3, "chain": chain}
    assert alone == told
    parts = shown(counting, 1, 2, 3, 4)
    assert [(each["type"], each.get("of", each.get("from"))) for each in parts] == [
        ("part", 1),
        ("part", 2),
        ("part", 2),
        ("hidden", 3),
        ("part", 4),
    ]


def test_a_dialect_without_a_word_for_it_says_nothing() -> None:
    assert shown(Silent(), 3) == []
    assert [each["of"] for each in shown(Silent(), 3, 4, 5)] == [4, 5, 5]


def test_a_dialect_that_raises_is_an_error_of_ours() -> None:
    with pytest.raises(InternalError, match="cannot be shown in the counting dialect"):
        VIEWS.of(Counting(), is_workspace_stream=False)([event(1)])


@given(st.integers(1, 50), st.integers(1, 20))
def test_every_number_is_told_once_and_in_order(first: int, count: int) -> None:
    told: list[int] = []
    for each in shown(Counting(), *range(first, first + count)):
        if each["type"] == "hidden":
            told += range(each["from"], each["to"] + 1)
        elif each["part"] == each["of"] % 3 - 1:  # the last of its messages
            told.append(each["of"])
    assert told == [*range(first, first + count)]
