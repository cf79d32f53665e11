"""Guesses at a secret: after some wrong ones the next has to wait, longer each time.

What waits is a pair of a client's address and what it guesses at, never the account: no stranger
can lock a user out.  Accounts that do not exist are counted in the same way, so the delays do not
tell which ones do.

A guess counts as wrong from the moment it begins, until it turns out to be right: otherwise as many
as fit between a guess and its outcome would be free.

The table is bounded.  Above its bound it forgets the pair that was heard of longest ago, and so
that pair's delay.  That gains nobody anything: a pair that is new in the table costs a guess, hence
the hash of a password, so to drive one out takes minutes of all that the server can hash, and pays
with the few guesses that are free, while one who simply waits has one a minute.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import trio
from cachetools import LRUCache

from dalsegno.protocol import RateLimitedError

if TYPE_CHECKING:
    from dalsegno.protocol import Limits

_DOUBLINGS_MAX = 30
"""Far above any ratio of the two delays, and no overflow."""


class _Wrong(msgspec.Struct, gc=False):
    count: int
    """Guesses, none of them right, each within the window after the one before."""
    last: float
    """When the last one began."""
    until: float
    """When the next one may begin."""


class Guesses:
    """Wrong guesses, by who made them and at what."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wrong: LRUCache[bytes, _Wrong] = LRUCache(limits.guesses_kept_max)

    def __repr__(self) -> str:
        return f"<Guesses: {len(self._wrong)} pairs>"

    def check(self, *who: str) -> None:
        """Raise if the next guess has to wait still.

        Raises:
            RateLimitedError: it has to; with the time that is left.

        """
        self._find(_key(who))

    def begin(self, *who: str) -> None:
        """Count a guess as wrong, until `forget`, and delay the one after it.

        Raises:
            RateLimitedError: it has to wait still; nothing was counted.

        """
        key, limits, now = _key(who), self._limits, trio.current_time()
        before = self._find(key)
        count = 1 if before is None else before.count + 1
        delay_s = 0.0
        if count >= limits.guesses_free_max:
            doublings = min(count - limits.guesses_free_max, _DOUBLINGS_MAX)
            delay_s = min(limits.guess_delay_first_s * 2.0**doublings, limits.guess_delay_max_s)
        self._wrong[key] = _Wrong(count, now, now + delay_s)

    def forget(self, *who: str) -> None:
        """Forget the wrong guesses, after a right one."""
        self._wrong.pop(_key(who), None)

    def _find(self, key: bytes) -> _Wrong | None:
        wrong, now = self._wrong.get(key), trio.current_time()
        if wrong is None or now - wrong.last > self._limits.guess_window_s:
            return None
        if now < wrong.until:
            raise RateLimitedError(
                "too many wrong guesses", retry_after_s=round(wrong.until - now, 3)
            )
        return wrong


def _key(who: tuple[str, ...]) -> bytes:
    """Return a short digest: an address to log in with may be as long as a request."""
    digest = blake2b(digest_size=16)
    for text in who:
        digest.update(b"%d:%b" % (len(text), text.encode(errors="replace")))
    return digest.digest()
