"""Errors under other names: what stays as it is."""

from __future__ import annotations

import pytest

from dalsegno.protocol import (
    CodeTooOldError,
    CorruptLogError,
    DalsegnoError,
    DomainError,
    OverloadedError,
    RateLimitedError,
    Reject,
    WorkspaceMovedError,
    http_status,
    renamed,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DalsegnoError("ours", a=1), 500),
        (Reject("TASK_NOT_FOUND", "no such task", task_id="t"), 404),
        (Reject("TASK_DONE"), 409),
        (Reject("TASK_DONE", status=422), 422),
        (OverloadedError("busy", retry_after_s=2.5), 503),
        (RateLimitedError("busy", retry_after_s=2.5), 429),
        (WorkspaceMovedError("n", address="https://n"), 421),
        (CodeTooOldError(3, 2), 503),
        (CorruptLogError("a gap"), 503),
    ],
)
def test_an_error_under_another_code_is_the_same_one(error: DalsegnoError, status: int) -> None:
    other = renamed(error, "THEIR_NOT_FOUND")
    assert type(other) is type(error)
    assert (other.code, http_status(other)) == ("THEIR_NOT_FOUND", status)
    told = {name: value for name, value in vars(other).items() if name not in {"code", "status"}}
    assert told == {name: value for name, value in vars(error).items() if name in told}
    assert told.keys() | {"code", "status"} >= vars(error).keys()
    assert (other.args, other.retryable) == (error.args, error.retryable)
    assert str(other) == f"THEIR_NOT_FOUND: {error.message}"
    assert http_status(error) == status, "and that one stays as it is"
    assert http_status(renamed(other, "BAD_REQUEST")) == status
    assert http_status(renamed(error, "BAD_REQUEST", 418)) == 418


def test_a_refusal_under_another_code_stays_one() -> None:
    for status in (200, 399, 500):
        with pytest.raises(DomainError, match="400 to 499"):
            renamed(Reject("TASK_DONE"), "THEIR_DONE", status)
    assert http_status(renamed(OverloadedError("busy"), "THEIR_BUSY", 500)) == 500
