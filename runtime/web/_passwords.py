"""Passwords: hashed with Argon2id, away from the event loop, two at a time, in fair turns.

A hash keeps four threads busy, so a crowd of log-ins would take the processors from the event loop.
On Linux, where a thread can have a priority of its own, theirs is low: who logs in waits a little
longer, and nobody else does.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from contextlib import suppress
from functools import cache, partial
from importlib.resources import files
from threading import Thread, get_native_id
from typing import TYPE_CHECKING, TypeVar

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dalsegno.protocol import OverloadedError, Reject

from ._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.protocol import Limits

CHARS_MIN = 8
CHARS_MAX = 1024

_THREADS = 2
_NICENESS = 10
"""A ninth of the processor time of whoever wants it as well.  At 19, a seventieth, a log-in on a
machine that is busy with other things took more than five seconds."""

_TIME_COST, _MEMORY_COST_KIB, _PARALLELISM = 3, 64 * 1024, 4
"""RFC 9106 §4, the second recommended option, for memory-constrained environments."""

_NOBODYS = (
    f"$argon2id$v=19$m={_MEMORY_COST_KIB},t={_TIME_COST},p={_PARALLELISM}${'A' * 22}${'A' * 43}"
)
"""A hash of the same cost that no password has, to verify unknown accounts against."""


_COMMON = "common_passwords.txt"
"""Their list, which says where it comes from."""

T = TypeVar("T")


@cache
def common_passwords() -> frozenset[str]:
    """Read the commonest passwords that are long enough; a millisecond, once."""
    lines = (files(__package__) / _COMMON).read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


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
            Reject: ``BAD_REQUEST`` if it is too short or too long, ``PASSWORD_TOO_COMMON`` if it is
                one of those that are tried first.
            OverloadedError: too many are waiting.

        """
        if not CHARS_MIN <= len(password) <= CHARS_MAX:
            message = f"a password has {CHARS_MIN} to {CHARS_MAX} characters"
            raise Reject("BAD_REQUEST", message, field="password")
        if password.casefold() in common_passwords():
            message = "this password is among the ten thousand commonest: choose another one"
            raise Reject("PASSWORD_TOO_COMMON", message, field="password")
        async with self._turns.turn(address):
            return await self._run(partial(self._hasher.hash, password))

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
            verify = partial(self._verify, password_hash or _NOBODYS, password[:CHARS_MAX])
            return await self._run(verify) and CHARS_MIN <= len(password) <= CHARS_MAX

    async def _run(self, hashing: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(_quietly, hashing, limiter=self._threads)
        except RuntimeError as error:  # how Python says that no thread could be started
            raise OverloadedError("there is no thread to hash a password") from error

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def _quietly(hashing: Callable[[], T]) -> T:
    """Call a function in a thread of its own: a priority that was lowered cannot be raised again.

    The threads that Argon2 starts for it have the same priority.
    """
    done: Future[T] = Future()

    def run() -> None:
        if sys.platform == "linux":
            with suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICENESS)
        try:
            done.set_result(hashing())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            done.set_exception(error)

    thread = Thread(target=run, name="password")
    thread.start()
    thread.join()
    return done.result()
