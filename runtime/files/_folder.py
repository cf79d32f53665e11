"""A folder of sessions' files, and whose turn it is at each of them."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from dalsegno.runtime.disk import make_durable_folder

from ._errors import EventIoError, EventStoreStateError
from ._event_store import check_session_id
from ._layout import Layout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dalsegno.actors import World
    from dalsegno.runtime.disk import Disk, Lock

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8
"""Threads for one folder; each is in one session's files at a time."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05


class SessionFolder:
    """A folder of sessions' files, which several processes may have."""

    def __init__(self, root: Path, *, world: World, disk: Disk, lock_deadline_s: float) -> None:
        self.layout = Layout(root)
        self.world = world
        self.disk = disk
        self._lock_deadline_s = lock_deadline_s
        self._threads = trio.CapacityLimiter(_THREADS)
        self._turns: dict[str, trio.StrictFIFOLock] = {}

    def __repr__(self) -> str:
        return f"<SessionFolder {self.layout.root}, {len(self._turns)} sessions held>"

    @asynccontextmanager
    async def held(self, session_id: str, *, shared: bool) -> AsyncIterator[None]:
        """Hold a session for the length of a block: in this process, and among all of them.

        Raises:
            EventStoreStateError: another process holds it for too long.

        """
        check_session_id(session_id)
        turn = self._turns.setdefault(session_id, trio.StrictFIFOLock())
        try:
            async with turn:
                lock = await self._lock(session_id, shared=shared)
                try:
                    yield
                finally:
                    if lock is not None:
                        lock.release()
        finally:
            if not turn.statistics().tasks_waiting and not turn.locked():
                self._turns.pop(session_id, None)

    async def _lock(self, session_id: str, *, shared: bool) -> Lock | None:
        path, wait_s = self.layout.lock(session_id), _FIRST_WAIT_S
        with trio.move_on_after(self._lock_deadline_s):
            while True:
                is_free, lock = await self.in_thread(self._try_lock, path, shared=shared)
                if is_free:
                    return lock
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        message = f"failed to acquire durable sequence lock '{path}': another process has it"
        raise EventStoreStateError(message)

    def _try_lock(self, path: Path, *, shared: bool) -> tuple[bool, Lock | None]:
        """Return whether it can go on, and the lock; there is none where nothing can be made."""
        if shared:
            if self.disk.identity(self.layout.root) is None:
                return True, None
        else:
            make_durable_folder(self.disk, path.parent)
        try:
            lock = self.disk.try_lock(path, shared=shared)
        except FileNotFoundError:
            return True, None  # nobody has appended yet
        except PermissionError:
            if not shared:
                raise
            return True, None
        except OSError as error:
            if shared and error.errno == errno.EROFS:
                return True, None
            raise
        return lock is not None, lock

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what blocks; cancelled, it is finished first.

        Raises:
            EventIoError: the file system failed.

        """
        try:
            return await trio.to_thread.run_sync(
                partial(function, *args, **kwargs), limiter=self._threads
            )
        except OSError as error:
            raise EventIoError(f"IO error: {error}") from error
