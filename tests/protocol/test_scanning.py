"""Depth and U+0000 of a document, found before it is decoded."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import SLICE_BYTES, Reject, check_nesting, check_nul, scan

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


def escapes(*, brackets: str) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from('\\"' + brackets + "a"), max_size=6)


@given(
    st.lists(escapes(brackets="[]{}") | st.just([[]]) | st.just({"{": [1]}), max_size=8),
    st.integers(0, 60),
    st.integers(0, 4),
)
def test_where_the_slices_are_cut_makes_no_difference(
    values: list[object], before: int, nesting_max: int
) -> None:
    tail = msgspec.json.encode(values)[1:]
    document = b"[" + b" " * (SLICE_BYTES - before) + tail
    assert passes(document, nesting_max) == (depth(values) <= nesting_max)


@given(st.text(st.sampled_from('\\u0\0"'), max_size=12), st.integers(0, 40))
def test_a_nul_is_found_wherever_the_slices_are_cut(text: str, before: int) -> None:
    document = b" " * (SLICE_BYTES - before) + msgspec.json.encode(text)
    try:
        check_nul(document)
    except Reject:
        assert "\0" in text
    else:
        assert "\0" not in text


@pytest.mark.parametrize(
    "unit",
    [b'"[",', b'["["],', b"[],", b"[[[[]]]],", b"[" * 32 + b"]" * 32 + b",", rb'"\\u0000",'],
    ids=["brackets in strings", "both", "flat", "four", "teeth", "no nul"],
)
def test_i10_a_long_document_is_looked_at_in_steps(unit: bytes) -> None:
    document = b"[" + unit * (1024 * 1024 // len(unit)) + b"1]"
    assert msgspec.json.decode(document)
    steps = sum(1 for _ in scan(document, 64))
    assert steps >= len(document) // SLICE_BYTES
