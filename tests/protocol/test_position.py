"""Cursors on the wire (X-REP-6, I13)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import SEQ_MAX, Cursor, Reject, chain_text, parse_cursor

seqs = st.integers(0, SEQ_MAX) | st.sampled_from([0, 1, SEQ_MAX - 1, SEQ_MAX])
chains = st.integers(0, 2**64 - 1)


@given(seqs, st.none() | chains)
def test_a_cursor_survives_the_wire(seq: int, chain: int | None) -> None:
    cursor = Cursor(seq, chain)
    assert parse_cursor(str(cursor)) == cursor


@given(seqs)
def test_a_plain_number_is_a_cursor(seq: int) -> None:
    assert parse_cursor(seq) == Cursor(seq)


def test_a_chain_is_sixteen_hex_digits() -> None:
    assert chain_text(0) == "0" * 16
    assert chain_text(2**64 - 1) == "f" * 16
    assert str(Cursor(7, 0xABC)) == "7-0000000000000abc"


@pytest.mark.parametrize(
    "value",
    [
        -1,
        SEQ_MAX + 1,
        10**30,
        True,
        False,
        1.0,
        None,
        [],
        {},
        b"1",
        "",
        " 1",
        "1\n",
        "+1",
        "-1",
        "01",
        "1_0",
        "1.0",
        "1e3",
        "٣",
        str(SEQ_MAX + 1),
        "9" * 10_000,
        "1-",
        "1-abc",
        "1-" + "0" * 15,
        "1-" + "0" * 17,
        "1-" + "A" * 16,
        "1-" + "0" * 16 + "\n",
        f"{SEQ_MAX + 1}-" + "0" * 16,
        "-" + "0" * 16,
        "01-" + "0" * 16,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_x_rep_6_what_is_no_cursor_is_refused(value: object) -> None:
    with pytest.raises(Reject) as caught:
        parse_cursor(value)
    assert caught.value.code == "BAD_REQUEST"
