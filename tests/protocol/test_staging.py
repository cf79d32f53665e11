"""Paths of staged files, and what results say of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import Reject
from dalsegno.protocol.runs import RunState, Staged, StagedFile, check_path, staged_of

FORBIDDEN = [
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/..",
    "a/../b",
    "a/./b",
    "./a",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a\x85b",
    "a\\b",
    "C:\\a",
    "\ud800",
    "x" * 256,
    "ä" * 128,
    "a/" + "x" * 256,
    "/".join(["x" * 200] * 6),
    ".staging",
    ".staging/acme/x",
]
ALLOWED = [
    "a",
    "a/b.py",
    "...",
    ".a/..b",
    "-",
    "a b",
    "ä/日本",
    ".gitignore",
    "a/.staging",
    "~",
    "x" * 255,
    "/".join(["x" * 255] * 3 + ["x" * 200, "x" * 55]),
]


@pytest.mark.parametrize("path", FORBIDDEN)
def test_a_path_that_leads_out_or_is_no_name_is_refused(path: str) -> None:
    with pytest.raises(Reject) as caught:
        check_path(path)
    assert (caught.value.code, caught.value.status) == ("PATH_FORBIDDEN", 400)
    msgspec.json.encode(caught.value.details)
    assert len(caught.value.details["path"]) <= 200


@pytest.mark.parametrize("path", ALLOWED)
def test_any_other_path_is_allowed(path: str) -> None:
    assert check_path(path) == path


@given(st.lists(st.text("ab./\\\x00\x1f\ud800", max_size=4), max_size=4).map("/".join))
def test_what_is_allowed_stays_below(path: str) -> None:
    try:
        check_path(path)
    except Reject:
        return
    depth = 0
    for segment in path.split("/"):
        assert segment not in {"", ".", ".."}
        depth += 1
    assert depth > 0
    assert not set(path) & set("\\\x00\x1f\ud800")


def run_with(result: Any) -> RunState:
    return RunState(
        kind="agent",
        labels={},
        worker="w",
        input=None,
        requested_by=None,
        deadline=datetime(2026, 1, 1, tzinfo=UTC),
        attempts_max=3,
        on_disconnect="continue",
        status="succeeded",
        result=result,
    )


def test_what_a_result_says_is_read() -> None:
    staged = Staged(name="w!r!a", files=(StagedFile(path="a", bytes=1, sha256="00"),))
    assert staged_of(run_with({"staged": msgspec.to_builtins(staged), "more": 1})) == staged
    others: list[Any] = [None, 3, [], {}, {"staged": None}, {"staged": {"name": 1}}]
    for other in others:
        assert staged_of(run_with(other)) is None
