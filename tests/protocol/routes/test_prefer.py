"""How long a client would wait, as ``Prefer`` says it (RFC 7240)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol.routes import preferred_wait_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", None),
        ("wait=10", 10),
        ("Wait = 10", 10),
        ('wait="10"', 10),
        ("respond-async", 0),
        ("respond-async, wait=100", 100),
        ("return=minimal; foo=bar, wait=7;x", 7),
        ("handling=lenient", None),
        ("wait=1, wait=2", 1),
        (", ,wait=3", 3),
        ("wait", None),
        ("wait=", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=9999999999", None),
        ("wait=x, respond-async", 0),
        ('note="wait=5, wait=6"', None),
        ("wait=5 wait=6", None),
        ("@", None),
    ],
)
def test_what_is_said(header: str, seconds: int | None) -> None:
    assert preferred_wait_s(header) == seconds


@given(st.text(alphabet='wait=0123, ;"\\respond-async\t', max_size=60))
def test_whatever_is_said_is_read(header: str) -> None:
    seconds = preferred_wait_s(header)
    assert seconds is None or seconds >= 0


def test_what_cannot_be_read_takes_no_longer_than_what_can() -> None:
    """As a square of its length it would take minutes, and everybody would wait."""
    assert preferred_wait_s("a" + " " * 200_000 + '"') is None
