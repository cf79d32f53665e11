"""What validation refuses, and that it costs no more than reading."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import (
    Reject,
    check_id,
    check_key,
    check_nesting,
    check_nul,
    check_workspace_id,
    encode_checked,
    refusal,
)

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a[]{}"\\\n\0é𝄋', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\', max_size=3), inner)
    ),
    max_leaves=12,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def passes(document: bytes, nesting_max: int) -> bool:
    try:
        check_nesting(document, nesting_max)
    except Reject:
        return False
    return True


@given(documents, st.integers(0, 6))
def test_a_document_passes_up_to_its_depth(value: object, nesting_max: int) -> None:
    document = msgspec.json.encode(value)
    assert passes(document, nesting_max) == (depth(value) <= nesting_max)
    assert passes(msgspec.json.format(document), nesting_max) == (depth(value) <= nesting_max)


def test_too_deep_a_document_is_a_bad_request() -> None:
    with pytest.raises(Reject, match="BAD_REQUEST: nested deeper than 2"):
        check_nesting(b'[{"a":[]}]', 2)


def test_brackets_in_strings_do_not_count() -> None:
    assert passes(rb'["[[[[{{{{", "\"[[[[", "\\", "[[[["]', 1)
    assert not passes(rb'["\\", [["[["]]]', 2)


@pytest.mark.parametrize("opened", [b"[", b"{", b'[{"a":', b"[{"])
def test_what_is_opened_and_not_closed_counts(opened: bytes) -> None:
    assert not passes(opened * 100, 64)


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 65 + b'"' + b'\\"' * 20_000,
        b"[" * 65 + b'"' * 1_000_000,
        b"[" * 65 + b'"\\' * 500_000,
        b"[" * 1_000_000,
        b"[]" * 500_000,
        b"[" * 500_000 + b"]" * 500_000,
        (b"[" * 32 + b"]" * 32) * 15_000,
    ],
    ids=["endless string", "quotes", "open quotes", "opened", "flat", "deep", "teeth"],
)
def test_a_hostile_message_is_looked_at_in_linear_time(document: bytes) -> None:
    started = time.process_time()
    passes(document, 64)
    assert time.process_time() - started < 2  # a quadratic look at the first takes 12 s


@pytest.mark.parametrize(
    ("document", "has_nul"),
    [
        (rb'"\u0000"', True),
        (rb'"a\\\u0000"', True),
        (rb'"\\u0000"', False),
        (rb'"\\\\u0000"', False),
        (rb'"\\u0000 \u0000"', True),
        (rb'"\u0001 u0000"', False),
        (b'"' + rb"\\" * 500_000 + b'u0000"', False),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_escaped_nul_is_found_and_an_escaped_backslash_is_not_taken_for_one(
    document: bytes, has_nul: bool
) -> None:
    assert ("\0" in msgspec.json.decode(document)) is has_nul
    if has_nul:
        with pytest.raises(Reject, match="BAD_REQUEST"):
            check_nul(document)
    else:
        check_nul(document)


@given(st.text("\\u0\0", max_size=12))
def test_a_nul_never_gets_past(text: str) -> None:
    document = msgspec.json.encode(text)
    try:
        check_nul(document)
    except Reject:
        assert "\0" in text
    else:
        assert "\0" not in text


def test_what_is_written_is_checked() -> None:
    assert encode_checked({"a": ["é"]}, nesting_max=2) == '{"a":["é"]}'.encode()
    endless: list[object] = []
    endless.append(endless)
    for value in ("a\0", "\ud800", [[["deep"]]], endless):
        with pytest.raises(Reject) as caught:
            encode_checked(value, nesting_max=2)
        assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize("value", ["a", "x" * 200, "ü", "a b", "a:b/c", "𝄋"])
def test_an_id_is_printable_text(value: str) -> None:
    assert check_id(value, chars_max=200) == value
    assert check_key(value, chars_max=200) == value


@pytest.mark.parametrize("value", ["", "x" * 201, "a\0", "a\n", "\x1f", "\x7f", "\ud800"])
def test_what_is_no_id_is_refused(value: str) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST: id: 1 to 200"):
        check_id(value, chars_max=200)
    with pytest.raises(Reject, match="BAD_REQUEST: idempotency key"):
        check_key(value, chars_max=200)


@pytest.mark.parametrize("value", ["a", "A-z_0.9", "x" * 64, "."])
def test_a_workspace_id_is_short_and_plain(value: str) -> None:
    assert check_workspace_id(value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a\n", "ä", "$system", "a/b", "٣"])
def test_what_is_no_workspace_id_is_refused(value: str) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST"):
        check_workspace_id(value)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: int = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    plain: list[Inner] = []
    coded: list[Inner] | None = msgspec.field(default=None, name="codedField")
    bounded: int = 0


def test_a_field_without_a_code_of_its_own_is_a_bad_request() -> None:
    for document in (
        b'{"plain":[{"n":"x"}]}',
        b'{"codedField":1}',
        b'{"` - at `$.plain`":1}',
        b"1",
    ):
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.json.decode(document, type=Outer)
        assert refusal(caught.value, Outer).code == "BAD_REQUEST"
        assert refusal(caught.value, Outer | None).code == "BAD_REQUEST"
