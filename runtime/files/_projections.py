"""Derived files that follow sessions, in tasks of their own, without holding up what is recorded.

A projection that fails is behind, and nothing else: the events stand, and it is tried again.  One
that cannot go on halts its session, durably, so that nobody goes on with half of what they think
is there: the log says something that the projector cannot read, or the files stay out of reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from dalsegno.protocol import Backoff

from ._errors import EventIoError, EventProjectionHaltedError, EventStoreError

if TYPE_CHECKING:
    from dalsegno.actors import World

    from ._event_store import EventStore
    from ._projector import SessionProjector

_log = structlog.get_logger("dalsegno.sessions")

ATTEMPTS_MAX = 8
"""Attempts at a projection, and then at its session's halt, before each is given up."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 30.0
_AT_ONCE_MAX = 8
"""Sessions that are tried again at a time."""


class _Reason(NamedTuple):
    """Why a projection failed, in words that name no file."""

    text: str
    is_passing: bool


class Projections:
    """Keeps the files of a service's sessions in step."""

    def __init__(self, projector: SessionProjector, store: EventStore, *, world: World) -> None:
        """Make it.

        Args:
            projector: makes the files.
            store: what they are made of, where sessions are halted.
            world: randomness.

        """
        self._projector = projector
        self._store = store
        self._world = world
        self._nursery: trio.Nursery | None = None
        self._behind: dict[str, bool] = {}
        """The sessions that tasks are at, and whether there was more since they last looked."""
        self._at_once = trio.CapacityLimiter(_AT_ONCE_MAX)

    def __repr__(self) -> str:
        return f"<Projections, {len(self._behind)} behind>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have the tasks, until it is cancelled; what is behind then is brought up another time."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def bring_up(self, session_id: str) -> bool:
        """Bring a session's files up to its log; return whether they are.

        Where they are not, that is tried again without anybody waiting for it.
        """
        try:
            await self._projector.resume(session_id)
        except Exception as error:  # noqa: BLE001 - the host's own rule may raise anything
            _log.warning("degraded_projection", session_id=session_id, error=repr(error))
            self.follow(session_id)
            return False
        return True

    def follow(self, session_id: str) -> None:
        """Begin to bring a session's files up in a task of its own, unless one is at it."""
        assert self._nursery is not None, "it runs"
        if session_id not in self._behind:
            self._nursery.start_soon(self._catch_up, session_id)
        self._behind[session_id] = True

    async def _catch_up(self, session_id: str) -> None:
        backoff = Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        try:
            while self._behind[session_id]:
                async with self._at_once:
                    self._behind[session_id] = False
                    reason = await self._attempt(session_id)
                if reason is None:
                    continue
                self._behind[session_id] = True
                if not reason.is_passing or backoff.failures + 1 >= ATTEMPTS_MAX:
                    await self._halt(session_id, f"projection failed: {reason.text}")
                    return
                await trio.sleep(backoff.next_s(self._world.random()))
        finally:
            del self._behind[session_id]

    async def _attempt(self, session_id: str) -> _Reason | None:
        """Project; return why it failed, None where there is nothing more to be done."""
        try:
            await self._projector.resume(session_id)
        except EventProjectionHaltedError:
            return None
        except EventIoError as error:
            _log.warning("projection_failed", session_id=session_id, error=repr(error))
            return _Reason(error.code, is_passing=True)
        except EventStoreError as error:
            _log.error("projection_failed", session_id=session_id, error=repr(error))
            return _Reason(error.code, is_passing=False)
        except Exception as error:  # noqa: BLE001 - as above; it halts the session
            _log.exception("projection_failed", session_id=session_id)
            return _Reason(type(error).__name__, is_passing=False)
        return None

    async def _halt(self, session_id: str, reason: str) -> None:
        """Halt a session: in this process at once, and durably as soon as that can be written."""
        backoff = Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        _log.error("session_halted", session_id=session_id, reason=reason)
        while True:
            try:
                await self._store.record_projection_halt(session_id, reason)
            except EventStoreError as error:
                _log.error("halt_not_durable", session_id=session_id, error=repr(error))
                if backoff.failures + 1 >= ATTEMPTS_MAX:
                    return
                await trio.sleep(backoff.next_s(self._world.random()))
            else:
                return
