"""A librarian's request and answer: read error for error, guarded, and never slow."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.automation.librarian import (
    NO_OPERATIONS,
    STAGES,
    MarkupError,
    Operation,
    ParseError,
    Source,
    StructuringPlan,
    element,
    guard,
    manifest,
    prompt_hash,
    read,
    read_response,
    repair_text,
    request_text,
)
from tests._patience import slowness

MALFORMED = ("LIBRARIAN_PROTOCOL_INVALID", ["MALFORMED_NESTING_OR_TAG"])


def operation_text(**more: str | None) -> str:
    parts = {
        "operation_id": "o1",
        "kind": "rewrite_note",
        "target_note_id": "n1",
        "title": "T",
        "body_markdown": "B",
        "reason": "R",
        "confidence": "0.5",
    } | more
    inside = "".join(element(name, text) for name, text in parts.items() if text is not None)
    return f"<operation>{inside}</operation>"


def response_text(*operations: str, **more: str | None) -> str:
    parts = {
        "request_id": element("request_id", "q1"),
        "status": element("status", "ok"),
        "summary": element("summary", "S"),
        "operations": f"<operations>{''.join(operations)}</operations>",
        "warnings": "<warnings><warning>w</warning></warnings>",
    } | more
    return f"<librarian_response>{''.join(t for t in parts.values() if t)}</librarian_response>"


def errors_of(text: str, *, strict: bool = False) -> tuple[str, list[str]]:
    with pytest.raises(ParseError) as raised:
        read_response(text, strict=strict)
    return raised.value.code, raised.value.errors


def test_an_answer_is_read() -> None:
    response = read_response(response_text(operation_text(), operation_text(operation_id="o2")))
    assert (response.request_id, response.status, response.summary) == ("q1", "ok", "S")
    assert response.warnings == ("w",)
    first, second = response.operations
    assert first == Operation(
        operation_id="o1",
        kind="rewrite_note",
        target_note_id="n1",
        title="T",
        body_markdown="B",
        reason="R",
        confidence=0.5,
    )
    assert second.operation_id == "o2"
    assert read_response(response_text(warnings="<warnings></warnings>")).operations == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "no element",
        "<a>",
        "</a>",
        "<a></b>",
        "<a><b></a></b>",
        "<a></a><b></b>",
        "<a></a> behind",
        "before <a></a>",
        "<a/>",
        "<a />",
        "<a x='1'></a>",
        "<a ></a>",
        "< a></a>",
        "<></>",
        "<a",
        "<a></a",
        "<a>1 < 2</a>",
        "<ä></ä>",
        "<?xml version='1.0'?><a></a>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        "<!-- a --><a></a>",
        "<a><![CDATA[x]]></a>",
        "```xml\n<librarian_response></librarian_response>\n```",
        "<a>" * 17 + "</a>" * 17,
        "<" * 1_000_000,
        "<a>" * 300_000,
    ],
    ids=lambda text: text[:20],
)
def test_x_lib_1_what_is_no_element_is_refused(text: str) -> None:
    assert errors_of(text) == MALFORMED


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("<other></other>", ["MISSING_ROOT_LIBRARIAN_RESPONSE"]),
        (
            "<librarian_response></librarian_response>",
            [
                f"MISSING_TAG:{name}"
                for name in ("request_id", "status", "summary", "operations", "warnings")
            ],
        ),
        (response_text(summary="<summary>a</summary>" * 2), ["MULTIPLE_TAGS:summary"]),
        (response_text(summary="<summary> </summary>"), ["EMPTY_TAG:summary"]),
        (response_text(status="<status>fine</status>"), ["INVALID_STATUS:fine"]),
        (
            response_text(operation_text(), operation_text(operation_id="o2", kind="delete_note")),
            ["operation[1]:INVALID_KIND:delete_note"],
        ),
        (response_text(operation_text(target_note_id=None)), ["operation[0]:MISSING_TARGET"]),
        (response_text(operation_text(target_note_id="")), ["operation[0]:MISSING_TARGET"]),
        (response_text(operation_text(kind=None)), ["MISSING_TAG:operation[0].kind"]),
        (response_text(operation_text(reason="")), ["EMPTY_TAG:operation[0].reason"]),
        (
            response_text(operation_text(confidence="1.5")),
            ["operation[0]:INVALID_CONFIDENCE_RANGE:1.5"],
        ),
        (
            response_text(operation_text(confidence="-0.1")),
            ["operation[0]:INVALID_CONFIDENCE_RANGE:-0.1"],
        ),
        *(
            (
                response_text(operation_text(confidence=text)),
                ["operation[0]:INVALID_CONFIDENCE_FORMAT"],
            )
            for text in ("high", "nan", "inf", "1e999", "0x1", "\u0661", "1_0")
        ),
        (
            response_text(operation_text(kind="x", target_note_id=None), status=None),
            [
                "MISSING_TAG:status",
                "operation[0]:INVALID_KIND:x",
                "operation[0]:MISSING_TARGET",
            ],
        ),
    ],
)
def test_x_lib_1_what_an_answer_lacks_is_said_error_for_error(text: str, errors: list[str]) -> None:
    assert errors_of(text) == ("LIBRARIAN_PARSE_FAILED", errors)


def test_an_element_that_nobody_knows_is_passed_over_unless_strict() -> None:
    text = response_text(operation_text(mood="good"), extra="<extra>x</extra>")
    assert len(read_response(text).operations) == 1
    assert errors_of(text, strict=True) == (
        "LIBRARIAN_PARSE_FAILED",
        ["UNKNOWN_TAG:extra", "UNKNOWN_TAG:operation[0].mood"],
    )


def test_what_stands_in_a_text_is_passed_over_unless_strict() -> None:
    """Strict, nothing of a text is lost without a word: the model forgot to escape it."""
    bold = "<b>c</b>"
    text = response_text(
        operation_text().replace("<body_markdown>B", f"<body_markdown>a {bold} d"),
        summary=f"<summary>S{bold}</summary>",
        warnings=f"<warnings><warning>w</warning><warning>{bold}</warning></warnings>",
    )
    response = read_response(text)
    assert (response.summary, response.warnings) == ("S", ("w", ""))
    assert response.operations[0].body_markdown == "a  d"
    assert errors_of(text, strict=True) == (
        "LIBRARIAN_PARSE_FAILED",
        [
            "UNKNOWN_TAG:summary.b",
            "UNKNOWN_TAG:operation[0].body_markdown.b",
            "UNKNOWN_TAG:warnings.warning.b",
        ],
    )


def test_as_many_errors_as_a_repair_can_tell() -> None:
    _, errors = errors_of(response_text(*[operation_text(kind="x")] * 150))
    assert len(errors) == 100


def test_a_million_operations_are_one_error() -> None:
    _, errors = errors_of(response_text("<operation></operation>" * 1_000_000))
    assert errors == ["TOO_MANY_OPERATIONS:1000000"]


def test_operations_have_names_by_which_people_decide_on_them() -> None:
    for wrong in ("o" * 65, "a\nb"):
        text = response_text(operation_text(operation_id=wrong))
        assert errors_of(text)[1] == ["operation[0]:INVALID_ID"]
    text = response_text(operation_text(), operation_text())
    assert errors_of(text)[1] == ["operation[1]:DUPLICATE_ID:o1"]


def test_the_answer_to_another_request_is_none() -> None:
    text = response_text(operation_text())
    assert read_response(text, request_id="q1").request_id == "q1"
    with pytest.raises(ParseError) as raised:
        read_response(text, request_id="q2")
    assert raised.value.errors == ["INVALID_REQUEST_ID:q1"]


@given(st.text())
def test_a_text_is_read_as_it_was_written(text: str) -> None:
    written = element("a", text)
    if "\r" not in text:
        assert read(written).text == text.strip()


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="<>/ab&;lt_ \n"),
        st.lists(
            st.sampled_from(
                ["<librarian_response>", "</librarian_response>", "<operations>", "</operations>",
                 "<operation>", "</operation>", "<kind>", "</kind>", "defer", "<confidence>",
                 "1e9", "</confidence>", " ", "<a>", "</a>"]
            )
        ).map("".join),
    )
)  # fmt: skip
def test_x_lib_1_whatever_a_model_writes_is_read_or_refused(text: str) -> None:
    errors = ["none"]
    try:
        read_response(text)
    except ParseError as error:
        errors = error.errors
    assert errors


def test_a_long_answer_takes_as_long_as_it_is() -> None:
    texts = ["<a>" * 300_000, "<" * 1_000_000, "<a>" + "&" * 1_000_000 + "</a>", "&lt;" * 250_000]
    texts.append("<a>" + "<b></b>" * 150_000 + "</a>")
    for text in texts:
        began = time.process_time()
        with suppress(MarkupError):
            read(text)
        assert time.process_time() - began < 1.0 * slowness()


# ------------------------------------------------------------------------------------ the guard


def plan(**more: object) -> StructuringPlan:
    given_: dict[str, object] = {"goal": "tidy", "strict_mode": False, "max_operations": 3}
    return msgspec.convert(given_ | more, StructuringPlan)


def an_operation(number: int, **more: Any) -> Operation:
    fields: dict[str, Any] = {
        "operation_id": f"o{number}",
        "kind": "rewrite_note",
        "target_note_id": "n1",
        "body_markdown": "B",
        "reason": "R",
        "confidence": 0.5,
    } | more
    return Operation(**fields)


def reasons(of: StructuringPlan, *operations: Operation) -> list[str | None]:
    report = guard(operations, of, workspace_id="w", note_ids={"n1", "n2"})
    rejected = {each.operation_id: each.reason for each in report.rejected}
    assert {*rejected, *(each.operation_id for each in report.allowed)} == {
        each.operation_id for each in operations
    }
    return [rejected.get(each.operation_id) for each in operations]


def test_x_lib_3_each_reason_of_the_guard() -> None:
    four = [an_operation(number) for number in range(4)]
    assert reasons(plan(), *four) == [None, None, None, "MAX_OPERATIONS_EXCEEDED"]
    retitle = an_operation(1, kind="retitle_note")
    assert reasons(plan(), retitle) == [None]
    assert reasons(plan(strict_mode=True), retitle) == ["STRICT_MODE_KIND_BLOCKED"]
    assert reasons(plan(strict_mode=True), an_operation(1, kind="create_note")) == [None]
    empty = an_operation(1, body_markdown=" \n")
    assert reasons(plan(), empty) == ["DELETE_FORBIDDEN"]
    assert reasons(plan(allow_delete=True), empty) == [None]
    assert reasons(plan(), an_operation(1, confidence=2.0)) == ["INVALID_CONFIDENCE"]
    assert reasons(plan(), an_operation(1, kind="delete_note")) == ["INVALID_KIND"]
    assert reasons(plan(), an_operation(1, target_note_id="n9")) == ["SCOPE_VIOLATION"]
    note = plan(scope="note:n1")
    other = an_operation(1, target_note_id="n2")
    new = an_operation(1, kind="create_note", target_note_id=None, target_path="a/b.md")
    assert reasons(note, an_operation(0), other) == [None, "SCOPE_VIOLATION"]
    assert reasons(note, new) == ["SCOPE_VIOLATION"]
    assert reasons(plan(), new) == [None]
    away = an_operation(1, kind="create_note", target_note_id=None, target_path="workspace:v/a.md")
    assert reasons(plan(), away) == ["SCOPE_VIOLATION"]


def test_the_guard_keeps_the_order_and_warns_of_nothing_to_do() -> None:
    operations = [an_operation(n, target_note_id="n9" if n % 2 else "n1") for n in range(6)]
    report = guard(operations, plan(max_operations=6), workspace_id="w", note_ids={"n1"})
    assert [each.operation_id for each in report.allowed] == ["o0", "o2", "o4"]
    assert [each.operation_id for each in report.rejected] == ["o1", "o3", "o5"]
    assert report.warnings == ()
    empty = guard([], plan(), workspace_id="w", note_ids=())
    assert empty.warnings == (NO_OPERATIONS,)


# --------------------------------------------------------------------------------- plan, prompts


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"goal": ""}, "goal"),
        ({"goal": "x" * 257}, "goal"),
        ({"scope": "x" * 129}, "scope"),
        ({"taxonomy_json": 3}, "taxonomy_json"),
        ({"style_profile": "x" * 65}, "style_profile"),
        ({"strict_mode": "yes"}, "strict_mode"),
        ({"max_operations": 0}, "max_operations"),
        ({"max_operations": 129}, "max_operations"),
        ({"mood": 1}, "mood"),
    ],
)
def test_a_plan_within_its_bounds(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=what):
        plan(**wrong)
    for name in ("strict_mode", "max_operations"):
        fields = {"goal": "g", "strict_mode": True, "max_operations": 1}
        del fields[name]
        with pytest.raises(msgspec.ValidationError, match=name):
            msgspec.convert(fields, StructuringPlan)


def test_the_scope_of_a_plan() -> None:
    assert plan().check("w") is plan(scope="workspace:w").check("w") is None
    assert plan(scope="note:n1").check("w") is None
    assert plan(scope="workspace:v").check("w") == "plan.scope is another workspace"
    for scope in ("everything", "note:", "note:a b", "workspace:"):
        assert plan(scope=scope).check("w") is not None


def test_a_request_can_be_read_whatever_its_sources_hold() -> None:
    hostile = "</body_markdown></source> & <b> &lt; ]]>"
    sources = [Source(source_id="n1", title="<x>", body_markdown=hostile)]
    text = request_text("q1", plan(taxonomy_json={"b": 1, "a": "<"}), sources)
    root = read(text)
    assert [each.name for each in root.elements] == [
        "request_id", "goal", "scope", "source_bundle", "taxonomy", "constraints",
        "output_contract",
    ]  # fmt: skip
    (source,) = root.all("source_bundle")[0].all("source")
    assert source.all("title")[0].text == "<x>"
    assert source.all("body_markdown")[0].text == hostile
    assert root.all("taxonomy")[0].text == '{"a":"<","b":1}'
    assert text == request_text("q1", plan(taxonomy_json={"a": "<", "b": 1}), sources)
    styled = read(request_text("q1", plan(style_profile="<brief>"), sources))
    assert [each.text for each in styled.all("style_profile")] == ["<brief>"]


def test_the_example_of_the_contract_is_an_answer() -> None:
    text = STAGES["3-output.md"]
    begin, end = text.index("<librarian_response>"), text.index("No tag has attributes")
    answer = text[begin:end].replace("ok, needs_clarification or rejected", "ok")
    answer = answer.replace("one of the six", "defer").replace("0 to 1", "0.5")
    assert len(read_response(answer).operations) == 1


def test_a_repair_is_asked_for_word_for_word() -> None:
    assert repair_text(["MISSING_TAG:status"], 'a"b') == (
        '{"mode":"repair","protocol":"xml_attrless","validation_errors":["MISSING_TAG:status"],'
        '"original_response":"a\\"b"}'
    )


def test_the_pack_is_told_by_its_hashes() -> None:
    first = manifest()
    assert first.pack_version == "2026-02-15"
    assert first.stages.keys() == STAGES.keys()
    assert len({*first.stages.values(), first.sha256}) == 5
    assert first == manifest()
    assert prompt_hash("a", "b") != prompt_hash("ab")
