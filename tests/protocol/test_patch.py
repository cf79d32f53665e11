"""The patch algebra against a list of code points (M3, X-PATCH-1)."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from dalsegno.protocol import (
    PATCH_OPS_MAX,
    Limits,
    PatchOp,
    PatchOps,
    PayloadDecoder,
    Reject,
    apply_patch,
    inserted_bytes,
    patched_length,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# Few letters of many kinds: ASCII, a combining acute, an astral letter, an emoji of three scalars.
ALPHABET = ["a", "b", "\n", "é", "e\u0301", "\u0301", "𝄋", "\U0010ffff", "👩\u200d💻"]
texts = st.lists(st.sampled_from(ALPHABET), max_size=12).map("".join)
counts = st.integers(0, 6)
ops = st.one_of(
    st.builds(PatchOp, retain=counts),
    st.builds(PatchOp, insert=texts),
    st.builds(PatchOp, delete=counts),
)


class Message(msgspec.Struct):
    """What carries a patch."""

    patch_ops: PatchOps
    base_version: int = 0


decode_message = PayloadDecoder(Message)


def decode_patch(patch_ops: bytes) -> Sequence[PatchOp]:
    document = b'{"patch_ops":%s,"base_version":1}' % patch_ops
    message: Message = decode_message(document, Limits())
    return message.patch_ops


def reference(text: str, patch: Sequence[PatchOp]) -> str | None:
    """Walk the code points one by one; None where the patch reaches over the end."""
    left, done = list(text), list[str]()
    for op in patch:
        if isinstance(op.insert, str):
            done += list(op.insert)
        for _ in range(op.retain if isinstance(op.retain, int) else 0):
            if not left:
                return None
            done.append(left.pop(0))
        for _ in range(op.delete if isinstance(op.delete, int) else 0):
            if not left:
                return None
            left.pop(0)
    return "".join(done + left)


@given(texts, st.lists(ops, max_size=8))
@example("", [])
@example("", [PatchOp(retain=0), PatchOp(delete=0), PatchOp(insert="")])
@example("ab", [PatchOp(delete=2), PatchOp(retain=1)])
def test_x_patch_1_apply_equals_the_reference(text: str, patch: list[PatchOp]) -> None:
    expected = reference(text, patch)
    if expected is None:
        for refused in (lambda: apply_patch(text, patch), lambda: patched_length(len(text), patch)):
            with pytest.raises(Reject) as caught:
                refused()
            assert caught.value.code == "INVALID_PATCH"
    else:
        assert apply_patch(text, patch) == expected
        assert patched_length(len(text), patch) == len(expected)


@given(st.lists(ops, max_size=8))
def test_a_patch_survives_the_wire(patch: list[PatchOp]) -> None:
    assert decode_patch(msgspec.json.encode(patch)) == patch


def test_the_seeds_example() -> None:
    patch = decode_patch(b'[{"retain":6},{"delete":5},{"insert":"notes"}]')
    assert apply_patch("Hello world", patch) == "Hello notes"


def test_what_lies_behind_the_last_operation_is_kept() -> None:
    assert apply_patch("abc", [PatchOp(retain=1), PatchOp(insert="-")]) == "a-bc"
    assert apply_patch("abc", []) == "abc"


def test_a_count_is_of_unicode_scalar_values() -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    assert apply_patch("𝄋" + decomposed, [PatchOp(retain=1), PatchOp(delete=1)]) == "𝄋\u0301"


@pytest.mark.parametrize(
    "document",
    [
        '[{"retain":-1}]',
        '[{"delete":-1}]',
        '[{"retain":true}]',
        '[{"delete":false}]',
        '[{"retain":1.0}]',
        '[{"retain":1.5}]',
        '[{"retain":"1"}]',
        '[{"retain":null}]',
        '[{"insert":1}]',
        '[{"insert":null}]',
        "[{}]",
        '[{"retain":1,"delete":1}]',
        '[{"retain":1,"insert":"a"}]',
        '[{"insert":"a","delete":0}]',
        '[{"retain":1,"insert":"a","delete":1}]',
        '[{"keep":1}]',
        '[{"retain":1,"keep":1}]',
        "[1]",
        "[null]",
        "{}",
        "5",
    ],
)
def test_x_patch_1_what_is_no_patch_is_refused(document: str) -> None:
    """By its types when it is decoded, by its kinds when it is measured or applied."""
    for use in (lambda patch: patched_length(9, patch), lambda patch: apply_patch("x" * 9, patch)):
        with pytest.raises(Reject) as caught:
            use(decode_patch(document.encode()))
        assert caught.value.code == "INVALID_PATCH"


@pytest.mark.parametrize("text", [rb"\ud834", rb"\udd0b", rb"\ud834 a", b"\xff"])
def test_an_insert_that_is_no_text_is_no_json(text: bytes) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST"):
        decode_patch(b'[{"insert":"%s"}]' % text)


@given(texts, st.lists(ops, max_size=8))
def test_a_text_grows_by_no_more_bytes_than_a_patch_inserts(
    text: str, patch: list[PatchOp]
) -> None:
    if reference(text, patch) is not None:
        grown = len(apply_patch(text, patch).encode()) - len(text.encode())
        assert grown <= inserted_bytes(patch)


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert apply_patch("", decode_patch(b'[{"insert":"\\ud834\\udd0b"}]')) == "𝄋"


def test_a_count_larger_than_any_text_is_an_overrun() -> None:
    for patch in ([PatchOp(retain=10**30)], [PatchOp(delete=10**30)]):
        with pytest.raises(Reject) as caught:
            apply_patch("abc", patch)
        assert caught.value.details == {"position": 10**30, "length": 3}


def test_the_operations_of_a_patch_are_bounded() -> None:
    patch = [PatchOp(insert="a")] * PATCH_OPS_MAX
    assert apply_patch("", patch) == "a" * PATCH_OPS_MAX
    with pytest.raises(Reject, match="INVALID_PATCH"):
        apply_patch("", [*patch, PatchOp(retain=0)])
    with pytest.raises(Reject, match="INVALID_PATCH"):
        patched_length(0, [*patch, PatchOp(retain=0)])


@pytest.mark.parametrize(
    "document",
    [b'{"patch_ops":[],"base_version":"1"}', b'{"base_version":1}', b"[]", b"", b"[" * 9_999],
)
def test_a_message_that_is_wrong_elsewhere_is_a_bad_request(document: bytes) -> None:
    with pytest.raises(Reject) as caught:
        decode_message(document, Limits())
    assert caught.value.code == "BAD_REQUEST"
