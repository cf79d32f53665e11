"""Passwords: hashed with Argon2id, away from the event loop, two at a time, in fair turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dalsegno.protocol import Reject

from ._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.protocol import Limits

CHARS_MIN = 8
CHARS_MAX = 1024

_THREADS = 2

_TIME_COST, _MEMORY_COST_KIB, _PARALLELISM = 3, 64 * 1024, 4
"""RFC 9106 §4, the second recommended option, for memory-constrained environments."""

_NOBODYS = (
    f"$argon2id$v=19$m={_MEMORY_COST_KIB},t={_TIME_COST},p={_PARALLELISM}${'A' * 22}${'A' * 43}"
)
"""A hash of the same cost that no password has, to verify unknown accounts against."""


class Passwords:
    """Hashes and verifies passwords; each takes tens of milliseconds and 64 MiB."""

    def __init__(self, limits: Limits) -> None:
        self._hasher = PasswordHasher(_TIME_COST, _MEMORY_COST_KIB, _PARALLELISM)
        self._threads = trio.CapacityLimiter(_THREADS)
        self._turns = Turns(
            _THREADS,
            each_max=limits.passwords_per_address_max,
            waiting_max=limits.passwords_waiting_max,
        )

    async def hash(self, password: str, *, address: str) -> str:
        """Hash a new password, in a turn of the client's ``address``.

        Raises:
            Reject: ``BAD_REQUEST`` if it is too short or too long.
            OverloadedError: too many are waiting.

        """
        if not CHARS_MIN <= len(password) <= CHARS_MAX:
            message = f"a password has {CHARS_MIN} to {CHARS_MAX} characters"
            raise Reject("BAD_REQUEST", message, field="password")
        async with self._turns.turn(address):
            return await trio.to_thread.run_sync(self._hasher.hash, password, limiter=self._threads)

    async def verify(
        self, password_hash: str | None, password: str, *, address: str, begin: Callable[[], None]
    ) -> bool:
        """Return whether a password is right; without a hash, return False after the same time.

        Args:
            password_hash: what it is compared with.
            password: what was given.
            address: the client's, in whose turn this is done.
            begin: called when the turn has come; where it raises nothing is hashed.

        Raises:
            OverloadedError: too many are waiting.

        """
        async with self._turns.turn(address):
            begin()
            return (
                await trio.to_thread.run_sync(
                    self._verify,
                    password_hash or _NOBODYS,
                    password[:CHARS_MAX],
                    limiter=self._threads,
                )
                and CHARS_MIN <= len(password) <= CHARS_MAX
            )

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
