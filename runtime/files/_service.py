"""A service of sessions: an agent's turns, one at a time a session, each recorded as it goes.

    async with open_sessions(agent, FileEventStore("events")) as service:
        session_id = await service.create()
        await service.turn(session_id, "Hello")

A turn is ``run_started``, what the agent records, and then exactly one of ``run_completed`` and
``run_failed``: of one whose process died, the next turn records that it was interrupted.  What is
recorded is in the store before anybody is told, so that the log is the truth and everything else
is made of it (ME-P1).
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
import trio

from dalsegno.protocol import OverloadedError
from dalsegno.runtime._background import in_background
from dalsegno.runtime.seams import WORLD

from ._errors import EventConflictError, EventSerializationError
from ._event_store import is_session_id
from ._events import EventEnvelope, Replayed, SessionSource
from ._projections import Projections
from ._session_errors import (
    AgentError,
    SessionBusyError,
    SessionCompactionDisabledError,
    SessionError,
    SessionNotFoundError,
    SessionNotRunningError,
    SessionPersistenceDisabledError,
    SessionStoreError,
    of_session,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import TypeAlias

    from dalsegno.actors import World

    from ._event_store import EventStore
    from ._events import StoredEvent
    from ._projector import SessionProjector

_log = structlog.get_logger("dalsegno.sessions")

SESSIONS_MAX = 1_000
TURN_DEADLINE_S = 3_600.0
_END_DEADLINE_S = 10.0
"""How long the end of a turn may take to be recorded, whoever is cancelled."""
_LOOKED_AT = 100
"""Events that are read at a time to find out how the last turn ended."""

_OWN = frozenset({"session_created", "run_started", "run_completed", "run_failed"})
"""Events that a service records, and no agent."""
_ENDS = frozenset({"run_completed", "run_failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOutcome:
    """What became of a turn."""

    turn_id: str
    result: Any
    """What the agent returned, JSON."""
    last_seq: int
    """The number of its last event; 0 without a store."""
    warnings: tuple[str, ...] = ()
    """``degraded_projection``: what is derived of the session is behind."""


class Turn:
    """A turn, as its agent sees it."""

    def __init__(
        self,
        session_id: str,
        turn_id: str,
        prompt: Any,  # noqa: ANN401 - JSON
        store: EventStore | None,
    ) -> None:
        self.session_id = session_id
        self.turn_id = turn_id
        self.prompt = prompt
        """What the agent was asked, JSON."""
        self.last_seq = 0
        self.is_over = False
        self.store_error: SessionStoreError | None = None
        """The store's first failure: what the caller is told, whatever the agent makes of it."""
        self._store = store

    def __repr__(self) -> str:
        return f"<Turn {self.turn_id} of {self.session_id}>"

    async def record(self, *events: dict[str, Any]) -> int:
        """Record events, all or none; once this returns, they are durable.

        Returns:
            The number of the last one; 0 without a store.

        Raises:
            SessionNotRunningError: the turn is over.
            SessionError: an event that only the service records.
            SessionStoreError: they were not recorded; the numbers of later ones leave none out.

        """
        if self.is_over:
            raise SessionNotRunningError("the turn is over", session_id=self.session_id)
        if own := sorted({str(event.get("type")) for event in events} & _OWN):
            raise SessionError(f"{own[0]} is recorded by the service alone")
        return await self.append(*events)

    async def append(self, *events: dict[str, Any]) -> int:
        """Record events of the service's own."""
        if self._store is None:
            return 0
        try:
            with of_session(self.session_id):
                self.last_seq = await self._store.append(self.session_id, events)
        except SessionStoreError as error:
            self.store_error = self.store_error or error
            raise
        return self.last_seq


Agent: TypeAlias = "Callable[[Turn], Awaitable[Any]]"
"""Carries out a turn, and returns its result, JSON."""


@dataclass(slots=True)
class _Open:
    """A session that is open here."""

    is_opening: bool = True
    running: trio.CancelScope | None = None
    """The agent's, of the turn that runs."""
    is_interrupted: bool = False
    """That turn."""


class SessionService:
    """Sessions, each of which takes one turn at a time; see `open_sessions`."""

    def __init__(
        self,
        agent: Agent,
        store: EventStore | None,
        *,
        projections: Projections | None,
        sessions_max: int,
        turn_deadline_s: float,
        compacts: bool,
        world: World,
    ) -> None:
        self._agent = agent
        self._store = store
        self._projections = projections
        self._sessions_max = sessions_max
        self._turn_deadline_s = turn_deadline_s
        self._compacts = compacts
        self._world = world
        self._open: dict[str, _Open] = {}

    def __repr__(self) -> str:
        return f"<SessionService, {len(self._open)} of {self._sessions_max} sessions>"

    # -------------------------------------------------------------------------------- sessions

    async def create(self, session_id: str | None = None) -> str:
        """Create a session, which is open then, and return its id.

        Raises:
            SessionError: no id of a session, or there is one with it.
            OverloadedError: as many sessions are open as may be.
            SessionStoreError: it was not recorded.

        """
        session_id = self._world.new_id() if session_id is None else session_id
        if not is_session_id(session_id):
            raise SessionError("no id of a session", session_id=session_id[:200])
        with self._admitted(session_id):
            if self._store is not None:
                await self._record_creation(self._store, session_id)
        return session_id

    async def _record_creation(self, store: EventStore, session_id: str) -> None:
        created = EventEnvelope(
            event_id=f"created:{session_id}",
            source=SessionSource(session_id),
            timestamp_ms=int(self._world.now().timestamp() * 1000),
            payload={"type": "session_created", "session_id": session_id},
        )
        with of_session(session_id):
            is_new = await store.last_seq(session_id) == 0
            try:
                is_new = is_new and not isinstance(
                    await store.append_once(session_id, [created]), Replayed
                )
            except EventConflictError:
                is_new = False
        if not is_new:
            raise SessionError("there is a session with this id", session_id=session_id)

    async def open(self, session_id: str) -> None:
        """Open a session that was created before, here or elsewhere.

        Raises:
            SessionNotFoundError: there is none.
            SessionBusyError: somebody else is opening it.
            OverloadedError: as many are open as may be.
            SessionStoreError: it cannot be read.

        """
        if (opened := self._open.get(session_id)) is not None:
            if opened.is_opening:
                raise SessionBusyError("the session is being opened", session_id=session_id)
            return
        if self._store is None or not is_session_id(session_id):
            raise SessionNotFoundError("no such session", session_id=session_id[:200])
        with self._admitted(session_id):
            with of_session(session_id):
                last_seq = await self._store.last_seq(session_id)
            if last_seq == 0:
                raise SessionNotFoundError("no such session", session_id=session_id)
        if self._projections is not None:
            self._projections.follow(session_id)

    @contextmanager
    def _admitted(self, session_id: str) -> Iterator[None]:
        """Hold the room for a session, which is its own unless the block fails.

        The room is taken before anything is waited for, so that no more are admitted than may be.

        Raises:
            SessionError: it is open, or being opened.
            OverloadedError: there is no room.

        """
        if session_id in self._open:
            raise SessionError("there is a session with this id", session_id=session_id)
        if len(self._open) >= self._sessions_max:
            raise OverloadedError(f"{self._sessions_max} sessions are open")
        self._open[session_id] = opened = _Open()
        try:
            yield
        except BaseException:
            del self._open[session_id]
            raise
        opened.is_opening = False

    def close(self, session_id: str) -> None:
        """Close a session; it stays in the store, and another one has its room.

        Raises:
            SessionBusyError: a turn of it runs, or somebody is opening it.
            SessionNotFoundError: it is not open.

        """
        opened = self._opened(session_id)
        if opened.is_opening or opened.running is not None:
            raise SessionBusyError("a turn of this session runs", session_id=session_id)
        del self._open[session_id]

    def _opened(self, session_id: str) -> _Open:
        try:
            return self._open[session_id]
        except KeyError:
            raise SessionNotFoundError("not open", session_id=session_id[:200]) from None

    # ----------------------------------------------------------------------------------- turns

    async def turn(self, session_id: str, prompt: Any) -> TurnOutcome:  # noqa: ANN401 - JSON
        """Carry out a turn of a session, which is opened if it is not.

        Args:
            session_id: the session.
            prompt: what the agent is asked, JSON.

        Raises:
            SessionNotFoundError: there is none.
            SessionBusyError: a turn of it runs, here or in another process.
            OverloadedError: it is not open, and as many are as may be.
            SessionStoreError: something could not be recorded, or the session is halted.
            AgentError: the agent failed, was interrupted, or took too long; that is recorded.

        """
        await self.open(session_id)
        opened = self._opened(session_id)
        if opened.running is not None:
            raise SessionBusyError("a turn of this session runs", session_id=session_id)
        opened.running, opened.is_interrupted = trio.CancelScope(), False
        try:
            async with self._held(session_id):
                return await self._run(opened, opened.running, session_id, prompt)
        finally:
            opened.running = None

    @asynccontextmanager
    async def _held(self, session_id: str) -> AsyncIterator[None]:
        """Hold the session's turn among all processes.

        Raises:
            SessionBusyError: another process has it.
            SessionStoreError: it cannot be held.

        """
        if self._store is None:
            yield
            return
        with of_session(session_id):
            hold = await self._store.try_hold_turn(session_id)
        if hold is None:
            message = "a turn of this session runs in another process"
            raise SessionBusyError(message, session_id=session_id)
        try:
            yield
        finally:
            hold.release()

    async def _run(
        self,
        opened: _Open,
        scope: trio.CancelScope,
        session_id: str,
        prompt: Any,  # noqa: ANN401 - JSON
    ) -> TurnOutcome:
        turn = Turn(session_id, self._world.new_id(), prompt, self._store)
        if self._store is not None:
            await self._end_interrupted(self._store, turn)
        await turn.append(self._event(turn, "run_started", prompt=prompt))
        try:
            result = await self._ask(opened, scope, turn)
            await self._end(turn, "run_completed", result=result)
        except SessionError as error:
            await self._fail(turn, error)
            raise
        except BaseException:
            await self._fail(turn, AgentError("the turn was cancelled"))
            raise
        finally:
            turn.is_over = True
        is_up = self._projections is None or await self._projections.bring_up(session_id)
        return TurnOutcome(
            turn_id=turn.turn_id,
            result=result,
            last_seq=turn.last_seq,
            warnings=() if is_up else ("degraded_projection",),
        )

    async def _ask(self, opened: _Open, scope: trio.CancelScope, turn: Turn) -> Any:  # noqa: ANN401 - JSON
        """Run the agent, and return its result.

        Raises:
            AgentError: it failed, was interrupted, or took too long.
            SessionStoreError: the store failed, and so did the agent then.

        """
        scope.deadline = trio.current_time() + self._turn_deadline_s
        result: Any = None
        failed: Exception | None = None
        try:
            with scope:
                result = await self._agent(turn)
        except Exception as error:  # noqa: BLE001 - an agent is a user's code; raised below
            failed = error  # also what a nursery of its own raised beside the cancellation
        if failed is not None and not scope.cancelled_caught:
            if turn.store_error is not None:
                raise turn.store_error from failed
            raise AgentError("the agent failed", error=type(failed).__name__) from failed
        if scope.cancelled_caught:
            why = "the turn was interrupted" if opened.is_interrupted else "the agent took too long"
            raise AgentError(why, session_id=turn.session_id) from failed
        return result

    async def _fail(self, turn: Turn, error: SessionError) -> None:
        """Record that a turn failed; where that fails too, the next turn does."""
        try:
            await self._end(
                turn, "run_failed", error={"code": error.code, "message": error.message}
            )
        except SessionError as failed:
            _log.error("turn_end_not_recorded", session_id=turn.session_id, error=repr(failed))
        if self._projections is not None:
            self._projections.follow(turn.session_id)

    async def _end(self, turn: Turn, type_: str, **more: Any) -> None:  # noqa: ANN401 - JSON
        """Record the end of a turn, also if it is cancelled meanwhile.

        Raises:
            AgentError: its result is no JSON.
            SessionStoreError: it was not recorded, or not in time.

        """
        with trio.move_on_after(_END_DEADLINE_S, shield=True) as scope:
            try:
                await turn.append(self._event(turn, type_, **more))
            except SessionStoreError as error:
                if isinstance(error.__cause__, EventSerializationError) and "result" in more:
                    raise AgentError("the agent's result is no JSON") from error
                raise
        if scope.cancelled_caught:
            raise SessionStoreError("the end of the turn was not recorded in time")

    def _event(self, turn: Turn, type_: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        return {"type": type_, "session_id": turn.session_id, "turn_id": turn.turn_id, **more}

    async def _end_interrupted(self, store: EventStore, turn: Turn) -> None:
        """Record the end of a turn that has none, whose process is not there any longer.

        Raises:
            SessionStoreError: the log cannot be read or written.

        """
        with of_session(turn.session_id):
            started = await _without_end(store, turn.session_id)
        if started is not None:
            message = "its process ended"
            await turn.append(
                {
                    "type": "run_failed",
                    "session_id": turn.session_id,
                    "turn_id": started.event.get("turn_id"),
                    "error": {"code": "RUN_INTERRUPTED", "message": message},
                }
            )

    def interrupt(self, session_id: str) -> None:
        """Interrupt the turn that runs, which fails with `AgentError` and is recorded as failed.

        Raises:
            SessionNotFoundError: the session is not open.
            SessionNotRunningError: no turn of it runs here.

        """
        opened = self._opened(session_id)
        if opened.running is None:
            raise SessionNotRunningError("no turn of this session runs", session_id=session_id)
        opened.is_interrupted = True
        opened.running.cancel(reason="the turn was interrupted")

    # ------------------------------------------------------------------------------------- log

    async def event_log_latest_seq(self, session_id: str) -> int | None:
        """Return the number of a session's last event; None without a store (ME-P5).

        Raises:
            SessionStoreError: the session is halted, or cannot be read.

        """
        if self._store is None:
            return None
        with of_session(session_id):
            return await self._store.last_seq(session_id)

    async def event_log_read_from(self, session_id: str, from_seq: int) -> list[StoredEvent] | None:
        """Read a session's events from a number on, that included; None without a store (ME-P5).

        Raises:
            SessionStoreError: the session is halted, or cannot be read.

        """
        if self._store is None:
            return None
        with of_session(session_id):
            return await self._store.read_from(session_id, from_seq)

    async def compact(self, session_id: str, before_seq: int) -> int:
        """Remove a session's events below a number, but for its last one; return how many.

        Raises:
            SessionPersistenceDisabledError: the service has no store.
            SessionCompactionDisabledError: it keeps everything.
            SessionUnsupportedError: its store does.
            SessionBusyError: a turn of the session runs.
            SessionStoreError: the session is halted, or the store failed.

        """
        if self._store is None:
            raise SessionPersistenceDisabledError("nothing is kept of any session")
        if not self._compacts:
            raise SessionCompactionDisabledError("every event is kept")
        async with self._held(session_id):
            with of_session(session_id):
                return await self._store.compact(session_id, before_seq)

    async def clear_halt(self, session_id: str, *, by: str, reason: str) -> bool:
        """Clear the halt of a session; who did so, and why, is on record.

        Returns:
            Whether it was halted.

        Raises:
            SessionPersistenceDisabledError: the service has no store.
            SessionStoreError: the store failed.

        """
        if self._store is None:
            raise SessionPersistenceDisabledError("nothing is kept of any session")
        with of_session(session_id):
            was_halted = await self._store.clear_projection_halt(session_id, by=by, reason=reason)
        if self._projections is not None:
            self._projections.follow(session_id)
        return was_halted


async def _without_end(store: EventStore, session_id: str) -> StoredEvent | None:
    """Return the beginning of a session's last turn, if that has no end."""
    kept = await store.min_available(session_id)
    to, size = await store.last_seq(session_id), 1
    while to > kept:
        first = max(to - size + 1, kept + 1)
        page = await store.read_page(session_id, first, limit=size)
        for row in reversed(page.events):
            type_ = row.event.get("type") if isinstance(row.event, dict) else None
            if row.seq > to or type_ not in {"run_started", *_ENDS}:
                continue
            return row if type_ == "run_started" else None
        to, size = first - 1, _LOOKED_AT
    return None


@asynccontextmanager
async def open_sessions(
    agent: Agent,
    store: EventStore | None = None,
    *,
    projector: SessionProjector | None = None,
    sessions_max: int = SESSIONS_MAX,
    turn_deadline_s: float = TURN_DEADLINE_S,
    compacts: bool = False,
    world: World = WORLD,
) -> AsyncIterator[SessionService]:
    """Open a service of sessions for the length of a block.

    Args:
        agent: carries out a turn.
        store: where sessions are recorded; None: nowhere.
        projector: makes files of what is recorded there, after each turn.
        sessions_max: how many may be open at a time.
        turn_deadline_s: how long a turn may take, in seconds.
        compacts: whether `SessionService.compact` may remove events.
        world: time, randomness and ids.

    """
    projections = None
    if projector is not None and store is not None:
        projections = Projections(projector, store, world=world)
    service = SessionService(
        agent,
        store,
        projections=projections,
        sessions_max=sessions_max,
        turn_deadline_s=turn_deadline_s,
        compacts=compacts,
        world=world,
    )
    if projections is None:
        yield service
    else:
        async with in_background(projections.run, starts=True):
            yield service
