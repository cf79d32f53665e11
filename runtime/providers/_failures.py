"""What an error of a provider means: by status, by what it calls itself, by its headers.

The text of an error is never passed on, because providers repeat keys and questions in it; nor is
its code, unless it is one that is known.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from dalsegno.protocol.providers import ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dalsegno.protocol.providers import Category

_BY_STATUS: dict[int, Category] = {
    401: "auth_failed",
    402: "rate_limited",  # no credit left: for good
    403: "auth_failed",
    408: "timeout",
    409: "upstream",
    429: "rate_limited",
    504: "timeout",
}
_RETRYABLE = frozenset({408, 409, 429})
"""Below 500, as the provider's own libraries have it (openai 7.59, ``shouldRetry``)."""

_KNOWN: dict[str, Category] = {
    "authentication_error": "auth_failed",
    "billing_hard_limit_reached": "rate_limited",
    "content_filter": "refused",
    "content_policy_violation": "refused",
    "context_length_exceeded": "bad_request",
    "insufficient_quota": "rate_limited",
    "invalid_api_key": "auth_failed",
    "invalid_request_error": "bad_request",
    "model_not_found": "bad_request",
    "overloaded": "upstream",
    "overloaded_error": "upstream",
    "permission_error": "auth_failed",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "server_error": "upstream",
    "timeout": "timeout",
}
"""What errors call themselves by ``code`` or ``type``, where that says more than a status."""
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_LONG_S = 1e9
_FOR_GOOD = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def failure_of_status(
    status: int, headers: Mapping[str, str], error: object, now: datetime
) -> ProviderError:
    """Return the failure that an answer of HTTP is which has another status than 200.

    Args:
        status: of HTTP.
        headers: by their names in lower case.
        error: what its body says, decoded; None where it cannot be read.
        now: the time, aware.

    """
    known = _known_code(error)
    category = _category(status)
    if known is not None and 400 <= status < 500:
        category = _KNOWN[known]
    is_retryable = status in _RETRYABLE or status >= 500
    should = headers.get("x-should-retry")
    if should in {"true", "false"}:
        is_retryable = should == "true"
    if known in _FOR_GOOD or category in {"auth_failed", "refused", "bad_request"}:
        is_retryable = False
    return ProviderError(
        category,
        f"the provider answered with HTTP {status}",
        is_retryable=is_retryable,
        retry_after_s=retry_after_s(headers, now),
        status=status,
        upstream_code=known,
    )


def failure_in_answer(error: object) -> ProviderError:
    """Return the failure that the ``error`` of a chunk, or of a body with status 200, is."""
    known = _known_code(error)
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code <= 599 else None
    if known is not None:
        category: Category = _KNOWN[known]
    else:
        category = "upstream" if status is None else _category(status)
    is_retryable = None if status is None else status in _RETRYABLE or status >= 500
    return ProviderError(
        category,
        "the provider failed while it answered",
        is_retryable=False if known in _FOR_GOOD else is_retryable,
        status=status,
        upstream_code=known,
    )


def _category(status: int) -> Category:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return "bad_request"
    # A redirect could lead anywhere, with the key; what is no error and no answer is neither.
    return "upstream" if status >= 500 else "invalid_payload"


def _known_code(error: object) -> str | None:
    if not isinstance(error, dict):
        return None
    for name in (error.get("code"), error.get("type")):
        if isinstance(name, str) and name in _KNOWN:
            return name
    return None


def error_of(document: Any) -> object:  # noqa: ANN401 - JSON of others
    """Return the ``error`` of a document; None where there is none.

    An empty one is one, too: `{"error": {}}` is no answer.
    """
    return document.get("error") if isinstance(document, dict) else None


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return in how many seconds a provider wants to be asked again; None where it does not say.

    ``retry-after-ms`` is OpenAI's, ``Retry-After`` a number of seconds or a date (RFC 9110
    §10.2.3); what is neither, or in the past, is 0 or None.
    """
    in_ms = _number(headers.get("retry-after-ms"))
    if in_ms is not None:
        return in_ms / 1_000
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _number(text)
    if seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    aware = date.replace(tzinfo=UTC) if date.tzinfo is None else date
    return max((aware - now).total_seconds(), 0.0)


def _number(text: str | None) -> float | None:
    if text is None or not _NUMBER.fullmatch(text):
        return None
    return min(float(text), _LONG_S)
