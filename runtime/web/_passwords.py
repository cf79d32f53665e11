"""Passwords: hashed with Argon2id, away from the event loop, two at a time."""

from __future__ import annotations

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dalsegno.protocol import OverloadedError, Reject

CHARS_MIN = 8
CHARS_MAX = 1024

WAITING_MAX = 64
"""Requests that wait for one of the two threads: about two seconds of work."""

_TIME_COST, _MEMORY_COST_KIB, _PARALLELISM = 3, 64 * 1024, 4
"""RFC 9106 §4, the second recommended option, for memory-constrained environments."""

_NOBODYS = (
    f"$argon2id$v=19$m={_MEMORY_COST_KIB},t={_TIME_COST},p={_PARALLELISM}${'A' * 22}${'A' * 43}"
)
"""A hash of the same cost that no password has, to verify unknown accounts against."""


class Passwords:
    """Hashes and verifies passwords; each takes tens of milliseconds and 64 MiB."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(_TIME_COST, _MEMORY_COST_KIB, _PARALLELISM)
        self._threads = trio.CapacityLimiter(2)

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises:
            Reject: ``BAD_REQUEST`` if it is too short or too long.
            OverloadedError: too many are waiting.

        """
        if not CHARS_MIN <= len(password) <= CHARS_MAX:
            message = f"a password has {CHARS_MIN} to {CHARS_MAX} characters"
            raise Reject("BAD_REQUEST", message, field="password")
        self._check_room()
        return await trio.to_thread.run_sync(self._hasher.hash, password, limiter=self._threads)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Return whether a password is right; without a hash, return False after the same time.

        Raises:
            OverloadedError: too many are waiting.

        """
        self._check_room()
        return (
            await trio.to_thread.run_sync(
                self._verify, password_hash or _NOBODYS, password[:CHARS_MAX], limiter=self._threads
            )
            and CHARS_MIN <= len(password) <= CHARS_MAX
        )

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _check_room(self) -> None:
        if self._threads.statistics().tasks_waiting >= WAITING_MAX:
            raise OverloadedError("too many passwords are being checked", retry_after_s=2.0)
