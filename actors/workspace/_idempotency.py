"""What an incarnation knows of idempotency keys: answered, decided just now, or unknown (I5).

A key is looked up in memory first, then, all of a batch that are missing, in one query.  An answer
that is decided and not yet committed counts as well: a second command with the same key gets it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from cachetools import LRUCache

from dalsegno.actors.ports import ResultWrite, StoredResult
from dalsegno.protocol import Receipt, store_receipt, store_receipts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dalsegno.protocol import DalsegnoError, Limits

    from ._command import Command, Receipts

Key: TypeAlias = tuple[str, str]
"""A key with its scope in front."""


class KnownKeys:
    """The keys of one workspace that were answered; see the module."""

    def __init__(self, *, now: Callable[[], datetime], limits: Limits) -> None:
        self._now = now
        self._ttl_s = limits.result_ttl_s
        self._results: LRUCache[Key, tuple[StoredResult, datetime]] = LRUCache(
            limits.results_cached_max
        )
        """Committed answers, each with the time until which it holds."""
        self._at_hand: dict[Key, StoredResult | None] = {}
        """What is known of the keys of the commands at hand; no cache bound takes it."""
        self._ahead: dict[Key, ResultWrite] = {}
        """Answers that are not committed yet."""

    def __repr__(self) -> str:
        return f"<KnownKeys {len(self._results)} cached, {len(self._ahead)} ahead>"

    def missing(self, commands: Iterable[Command]) -> list[Key]:
        """Begin with the commands at hand; return those of their keys that are not in memory."""
        keys = {(c.scope, c.key): None for c in commands if c.key is not None}
        self._at_hand = {key: found for key in keys if (found := self._cached(key)) is not None}
        return [key for key in keys if key not in self._at_hand and key not in self._ahead]

    def found(self, keys: Iterable[Key], results: Mapping[Key, StoredResult]) -> None:
        """Take what the store has of the missing keys."""
        for key in keys:
            self._at_hand[key] = results.get(key)
        for key, result in results.items():
            self._cache(key, result)

    def answer(self, command: Command) -> Receipts | DalsegnoError | None:
        """Return the answer of a command whose key was used; None where it is to be decided."""
        if command.key is None:
            return None
        key = (command.scope, command.key)
        known = self._ahead.get(key) or self._at_hand.get(key)
        return None if known is None else command.repeat(known.answer, known.payload_hash)

    def record(self, command: Command, answer: Receipts) -> ResultWrite | None:
        """Keep a command's answer for its repeats; return what is to be committed, if anything."""
        if command.key is None:
            return None
        if isinstance(answer, Receipt):
            kept, last = store_receipt(answer), answer
        else:
            kept, last = store_receipts(answer), answer[-1]
        result = ResultWrite(
            scope=command.scope,
            key=command.key,
            payload_hash=command.payload_hash,
            answer=kept,
            event_seq=last.event_seq,
        )
        self._ahead[command.scope, command.key] = result
        return result

    def settle(self, results: Iterable[ResultWrite]) -> None:
        """Take over what was committed."""
        for result in results:
            key = (result.scope, result.key)
            self._ahead.pop(key, None)
            self._at_hand[key] = stored = StoredResult(
                payload_hash=result.payload_hash,
                answer=result.answer,
                event_seq=result.event_seq,
                expires_in_s=self._ttl_s,
            )
            self._cache(key, stored)

    def _cache(self, key: Key, result: StoredResult) -> None:
        self._results[key] = (result, self._now() + timedelta(seconds=result.expires_in_s))

    def _cached(self, key: Key) -> StoredResult | None:
        result, until = self._results.get(key, (None, None))
        if until is not None and until <= self._now():
            del self._results[key]
            return None
        return result
