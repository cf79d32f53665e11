"""Conditions of rules: what is taken, what they say of an event, and that each comes to an end."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.automation import (
    DEPTH_MAX,
    EXPRESSION_BYTES_MAX,
    VISITS_MAX,
    EvaluationError,
    check_condition,
    document_of,
    holds,
)
from dalsegno.actors.domains.automation._bounded import InvalidExpressionError, evaluate, parse
from dalsegno.actors.domains.notes import Note, NoteTagsUpdated
from dalsegno.protocol import Event, Reject

NOTE = Note(
    version=3,
    title="Da capo",
    markdown="al fine",
    note_kind="markdown",
    access_scope="workspace",
    created_by="ada",
    tags=("music", "draft"),
    metadata={"rating": 4, "by": {"name": "Ada"}},
)
EVENT = NoteTagsUpdated(("music", "draft"), 3)


def record(**more: Any) -> Event:
    given: dict[str, Any] = {
        "workspace_id": "w",
        "event_seq": 7,
        "stream_id": "note:n",
        "stream_seq": 3,
        "event_id": "e",
        "type": "note_tags_updated",
        "type_version": 1,
        "payload": msgspec.json.encode(EVENT).decode(),
        "actor_id": "ada",
        "command_id": "c",
        "source": "",
        "causation": None,
        "correlation_id": None,
        "recorded_at": datetime(2026, 2, 13, tzinfo=UTC),
        "chain": 0,
    }
    known = {each.name for each in msgspec.structs.fields(Event)}
    return Event(**{name: value for name, value in (given | more).items() if name in known})


DOCUMENT = document_of(record(), EVENT, NOTE)


def says(text: str) -> bool:
    return holds(check_condition({"jmespath": text}), DOCUMENT)


def test_a_document_has_the_event_and_the_note_as_it_was() -> None:
    assert DOCUMENT == {
        "event": {
            "type": "note_tags_updated",
            "payload": {"tags": ["music", "draft"], "version": 3},
            "actor_id": "ada",
            "stream_seq": 3,
        },
        "note": {
            "title": "Da capo",
            "tags": ["music", "draft"],
            "metadata": {"rating": 4, "by": {"name": "Ada"}},
            "length": 7,
            "deleted": False,
        },
    }


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("contains(note.tags, 'draft')", True),
        ("contains(note.tags, 'final')", False),
        ("note.metadata.rating > `3` && note.deleted == `false`", True),
        ("event.actor_id == 'bob'", False),
        ("note.metadata.missing", False),
        ("event.payload.tags[?@ == 'music']", True),
        ("event.payload.tags[?@ == 'x']", False),
        ("note.title", True),
        ("`0`", True),  # JMESPath's truth: of numbers, all
        ("`[]`", False),
        ("''", False),
        ("sort_by(note.tags, &@)[0] == 'draft'", True),
        ("length(note.tags[:1]) == `1`", True),
        ("[note.tags, note.tags][] | length(@) == `4`", True),
        ("join(', ', note.tags) == 'music, draft'", True),
    ],
)
def test_a_condition_is_true_or_false_of_an_event(text: str, verdict: bool) -> None:
    assert says(text) is verdict


def test_without_an_expression_a_condition_is_true() -> None:
    assert holds(check_condition({}), {})


@pytest.mark.parametrize(
    "condition",
    [
        None,
        [],
        "note.title",
        {"jsonpath": "$"},
        {"jmespath": "@", "else": 1},
        {"jmespath": None},
        {"jmespath": ""},
        {"jmespath": "note."},
        {"jmespath": "note.title == `draft`"},
        {"jmespath": "nothing(@)"},
        {"jmespath": "&note"},
        {"jmespath": "to_string(&note)"},
        {"jmespath": "map(&a, [&b])"},
        {"jmespath": "!" * (DEPTH_MAX + 1) + "@"},
        {"jmespath": "!" * 1000 + "@"},
        {"jmespath": "(" * 400 + "@" + ")" * 400},
        {"jmespath": "|".join("@" * (DEPTH_MAX + 2))},
        {"jmespath": "a" * (EXPRESSION_BYTES_MAX + 1)},
        {"jmespath": "'" + "ä" * (EXPRESSION_BYTES_MAX // 2) + "'"},
    ],
)
def test_what_is_no_condition_is_refused(condition: object) -> None:
    with pytest.raises(Reject) as caught:
        check_condition(condition)
    assert (caught.value.code, caught.value.status) == ("RULE_INVALID", 422)
    assert caught.value.details["field"] == "condition_json"
    assert caught.value.details["detail"]


@pytest.mark.parametrize(
    "text",
    [
        "abs(note.title)",
        "note.title < `5`",
        "contains(note.title, `5`)",
        "merge(note.metadata, note.title)",
        "note.tags[::0]",
        "ceil(`1e400`)",
        "join('', note.metadata.by)",
    ],
)
def test_what_is_wrong_for_its_document_has_no_verdict(text: str) -> None:
    with pytest.raises(EvaluationError):
        says(text)


DOUBLING = "|".join(["[@,@][]"] * 60)
SHARED = "|".join(["[@,@]"] * 60)


@pytest.mark.parametrize(
    "text",
    [
        DOUBLING,
        f"{SHARED}|to_string(@)",
        f"{SHARED}|contains(@, @)",
        f"{SHARED}|[@, [@[0], @[1]]]|@[0] == @[1]",
        "|".join(["join('', [@,@,@,@])"] * 50).replace("join", "'abcdefgh'|join", 1),
        "`[1,2,3,4,5,6,7,8,9]`|" + "|".join(["map(&[@,@,@,@,@,@,@,@], @)[]"] * 20),
    ],
)
def test_what_would_take_all_there_is_comes_to_its_bound(text: str) -> None:
    began = process_time()
    with pytest.raises(EvaluationError, match=f"more than {VISITS_MAX} visits"):
        says(text)
    assert process_time() - began < 2


def test_text_counts_by_the_thousand() -> None:
    long = {"note": {"title": "a" * 1_000_000}}
    assert evaluate(parse("length(note.title)"), long) == 1_000_000
    with pytest.raises(EvaluationError):
        evaluate(parse("note.title | [@,@,@,@,@,@,@,@,@,@,@] | to_string(@)"), long)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab&'`", max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=20,
)
_PARTS = st.sampled_from(
    [
        *("@", "a", "b", "*", ".", "|", "[", "]", "[]", "[*]", "[?", "{", "}", ":", ",", "(", ")"),
        *(
            "&",
            "&&",
            "||",
            "!",
            "==",
            "<",
            "`1`",
            "`[1]`",
            "'a'",
            "0",
            "-1",
            "::",
            "[@,@]",
            "[@,@][]",
        ),
        *("to_string(", "map(&", "sort_by(@,&", "join('',", "contains(@,", "merge(@,", "keys("),
        "[@,@][]",
        *("sum(", "max_by(@,&", "reverse(", "to_number(", "values(", "not_null(", "length("),
    ]
)


@given(st.lists(_PARTS, max_size=40).map("".join), _VALUES)
def test_any_expression_ends_within_its_bound_and_twice_in_the_same_way(
    text: str, value: object
) -> None:
    try:
        tree = parse(text)
    except InvalidExpressionError:
        return
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(repr(evaluate(tree, value)))
        except EvaluationError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@given(st.text(max_size=80))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    with suppress(InvalidExpressionError, EvaluationError):
        evaluate(parse(text), {})
