"""What a client would rather have, where it may be had either way: ``Prefer`` (RFC 7240)."""

from __future__ import annotations

import re

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rf'(?:{_NAME}|"(?:[^"\\]|\\.)*")'
_PREFERENCE = re.compile(rf"[\s,]*({_NAME})(?:\s*=\s*({_VALUE}))?\s*(?:;[^,]*)?(?:,|$)", re.ASCII)
_SECONDS = re.compile(r'"?([0-9]{1,9})"?', re.ASCII)


def preferred_wait_s(header: str) -> int | None:
    """Return how long a client would wait for an answer, in seconds; None: it does not say.

    ``wait=10`` is ten seconds (RFC 7240 §4.3), and ``respond-async`` by itself none (§4.1).  Of a
    preference that is said twice the first one counts, and one that cannot be read is as if it were
    not there (§2).
    """
    said: dict[str, str] = {}
    place = 0
    while found := _PREFERENCE.match(header, place):
        said.setdefault(found[1].lower(), found[2] or "")
        place = found.end()
        if place >= len(header):
            break
    seconds = _SECONDS.fullmatch(said.get("wait", ""))
    if seconds is not None:
        return int(seconds[1])
    return 0 if "respond-async" in said else None
