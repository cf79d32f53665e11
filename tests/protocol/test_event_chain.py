"""The chain tells one history from another, and a number in it from the same number elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from dalsegno.protocol import CHAIN_START, SCHEMA_VERSION, Event, chained

EVENT = Event(
    workspace_id="acme",
    event_seq=7,
    stream_id="note:n1",
    stream_seq=3,
    event_id="01890a5d-ac96-774b-bcce-b302099a8057",
    type="note_patched",
    type_version=1,
    payload='{"a":"𝄋"}',
    actor_id="u1",
    command_id="c1",
    recorded_at=datetime(2026, 2, 13, 12, 30, 0, 123456, UTC),
)


SALTED = 0x1B319415631BF721
"""A link of an event with a salt."""


def test_the_chain_of_a_stored_log_never_changes() -> None:
    """Clients' cursors and stored logs contain these numbers: never adapt this test."""
    assert SCHEMA_VERSION == 2
    first = chained(CHAIN_START, EVENT)
    assert f"{first:016x}" == "6de5352990b12725"
    assert (
        f"{chained(first, replace(EVENT, event_seq=8, actor_id=None)):016x}" == "a8d7dd3670a79c1d"
    )


def test_a_chain_is_sixty_four_bits() -> None:
    link = CHAIN_START
    for seq in range(1, 200):
        link = chained(link, replace(EVENT, event_seq=seq))
        assert 0 <= link < 2**64


@pytest.mark.parametrize(
    "change",
    [
        {"workspace_id": "acme2"},
        {"event_seq": 8},
        {"stream_id": "note:n2"},
        {"stream_seq": 4},
        {"type": "note_deleted"},
        {"type_version": 2},
        {"actor_id": "u2"},
        {"actor_id": None},
        {"actor_id": ""},
        {"recorded_at": EVENT.recorded_at + timedelta(microseconds=1)},
        {"payload": '{"a": "𝄋"}'},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_the_history_is_linked(change: dict[str, object]) -> None:
    assert chained(1, replace(EVENT, **change)) != chained(1, EVENT)
    assert chained(2, EVENT) != chained(1, EVENT)


@pytest.mark.parametrize(
    "change",
    [{"event_id": "x"}, {"command_id": "x"}, {"source": "x"}, {"causation": "x"}, {"chain": 9}],
    ids=lambda change: next(iter(change)),
)
def test_what_only_explains_an_event_is_not(change: dict[str, object]) -> None:
    assert chained(1, replace(EVENT, **change)) == chained(1, EVENT)


def test_nobody_and_the_user_with_a_minus_for_a_name_are_two() -> None:
    actors = [None, "", "-", "+", "+-"]
    assert len({chained(1, replace(EVENT, actor_id=actor)) for actor in actors}) == len(actors)


names = st.text("a:1\x1f", max_size=4)


@given(st.tuples(names, names, names), st.tuples(names, names, names))
def test_no_two_histories_share_an_encoding(
    left: tuple[str, str, str], right: tuple[str, str, str]
) -> None:
    links = [
        chained(1, replace(EVENT, workspace_id=workspace, stream_id=stream, type=type_))
        for workspace, stream, type_ in (left, right)
    ]
    assert (links[0] == links[1]) == (left == right)


def test_links_are_those_of_the_logs_that_exist() -> None:
    """The encoding is stored in every log: these two were computed by the first release."""
    assert chained(5, EVENT) == 0x0B7F052398674CA0
    assert chained(0, replace(EVENT, actor_id=None)) == 0x7FB7A026076EB7BF


def test_a_salt_is_keyed_into_the_payload_and_old_links_stand() -> None:
    """Never adapt these numbers either."""
    salted = replace(EVENT, salt=bytes(range(16)))
    assert chained(5, salted) == SALTED
    assert chained(5, replace(salted, salt=None)) == 0x0B7F052398674CA0
    assert chained(5, replace(salted, salt=bytes(16))) != SALTED
    assert chained(5, replace(salted, payload="{}")) != SALTED
