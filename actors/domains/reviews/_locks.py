"""The lock of a project: who works on it, so that nobody else has files changed beneath them.

A person holds it, for half an hour, or a job does in the name of who asked for it, until that has
ended.  A job's hold counts only while its run is open: so it ends with the run, however that ends,
from that very moment, and who comes next says so if nobody has said it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Audit, Context, Domain, Due, On, Reject, Touched
from dalsegno.protocol.runs import cancelled_by, runs

from ._words import ADMINS, TAKES_PART, JobKind

LOCK_ID: Literal["main"] = "main"
"""The id of the one lock that a project has."""
HELD_S = 30 * 60.0
"""How long a lock is held that nobody gives back."""
_LATE_S = 5.0
"""How much later than its run's deadline it is looked whether a job has ended: others do so
before."""

Named: TypeAlias = Sequence[tuple[Domain[Any, Any, Any], str]]
UnlockReason: TypeAlias = Literal["released", "forced", "expired", "job_ended"]


class LockUse(msgspec.Struct, frozen=True, kw_only=True):
    """A job that holds the lock."""

    run_id: str
    kind: JobKind
    proposal_id: str
    until: datetime
    """The run's deadline."""


class ProjectLock(msgspec.Struct, frozen=True, kw_only=True):
    """A lock that is held."""

    locked_by: str | None
    """None: the program itself."""
    locked_at: datetime
    expires_at: datetime | None
    """Until when a person holds it; None: a job alone does."""
    use: LockUse | None = None


class LockProject(msgspec.Struct, frozen=True, kw_only=True):
    """Lock the project; who holds it already holds it for longer."""

    project_lock_id: Literal["main"] = LOCK_ID


class UnlockProject(msgspec.Struct, frozen=True, kw_only=True):
    """Give the lock back, as its holder; or by force, as an admin."""

    force: bool = False
    project_lock_id: Literal["main"] = LOCK_ID


class LapseProjectLock(msgspec.Struct, frozen=True, kw_only=True):
    """Say that the lock is held no longer; sent by its timer."""

    project_lock_id: Literal["main"] = LOCK_ID


class ProjectLocked(msgspec.Struct, frozen=True, kw_only=True):
    """A person holds the lock, until then."""

    locked_by: str | None
    locked_at: datetime
    expires_at: datetime


class ProjectLockUsed(msgspec.Struct, frozen=True, kw_only=True):
    """A job holds the lock, in the name of who asked for it."""

    locked_by: str | None
    locked_at: datetime
    use: LockUse


class ProjectLockReturned(msgspec.Struct, frozen=True, kw_only=True):
    """A job holds it no longer, and its holder still does, until then."""

    run_id: str
    locked_by: str | None
    locked_at: datetime
    expires_at: datetime


class ProjectUnlocked(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody holds the lock any longer."""

    locked_by: str | None
    """Who held it."""
    by: str | None
    """Who ended that; None: the program."""
    reason: UnlockReason


_LockEvent: TypeAlias = ProjectLocked | ProjectLockUsed | ProjectLockReturned | ProjectUnlocked

project_locks = Domain(
    "project_lock",
    state=ProjectLock,
    commands=LockProject | UnlockProject | LapseProjectLock,
    events=_LockEvent,
    allow=TAKES_PART,
)
"""One entity per project, ``project_lock:main``."""


# ------------------------------------------------------------------------------------- deciding


def lock_of(_command: object) -> Named:
    """Return the lock, for ``touches=``."""
    return [(project_locks, LOCK_ID)]


def job_of(lock: ProjectLock | None) -> Named:
    """Return the run that holds a lock, for ``follows=``."""
    return [] if lock is None or lock.use is None else [(runs, lock.use.run_id)]


def counts(lock: ProjectLock | None, touched: Touched, now: datetime) -> ProjectLock | None:
    """Return a lock as far as it counts: without a job that has ended; None where nobody holds it.

    Args:
        lock: the lock.
        touched: with the run that holds it (`job_of`).
        now: the time.

    """
    if lock is None:
        return None
    if lock.use is not None:
        run = touched.get(runs, lock.use.run_id)
        if run is not None and run.is_open:
            return lock
    is_kept = lock.expires_at is not None and lock.expires_at > now
    return replace(lock, use=None) if is_kept else None


def _lapsed(lock: ProjectLock, now: datetime) -> ProjectUnlocked:
    """Return the event of a lock that counts no longer."""
    is_over = lock.expires_at is not None and lock.expires_at <= now
    reason: UnlockReason = "expired" if is_over else "job_ended"
    return ProjectUnlocked(locked_by=lock.locked_by, by=None, reason=reason)


def _returned(lock: ProjectLock) -> ProjectLockReturned:
    """Return the event of a lock that its holder keeps after a job."""
    assert lock.use is not None, "a job has held it"
    assert lock.expires_at is not None, "its holder has it still"
    return ProjectLockReturned(
        run_id=lock.use.run_id,
        locked_by=lock.locked_by,
        locked_at=lock.locked_at,
        expires_at=lock.expires_at,
    )


def _held(lock: ProjectLock) -> Reject:
    return Reject(
        "PROJECT_LOCKED",
        "somebody else works on the project",
        locked_by=lock.locked_by,
        locked_at=lock.locked_at,
        expires_at=lock.expires_at,
    )


def check_idle(lock: ProjectLock | None) -> None:
    """Raise where a job holds a lock that counts.

    Raises:
        Reject: ``JOB_RUNNING``.

    """
    if lock is not None and lock.use is not None:
        use = lock.use
        message = f"the {use.kind} of a proposal is under way"
        raise Reject(
            "JOB_RUNNING",
            message,
            kind=use.kind,
            job_id=use.run_id,
            proposal_id=use.proposal_id,
            locked_by=lock.locked_by,
            locked_at=lock.locked_at,
        )


def use_lock(use: LockUse, context: Context, touched: Touched) -> list[On[_LockEvent]]:
    """Return the events by which a job takes the lock, in the name of who asks for it.

    Args:
        use: the job.
        context: who asks, and when.
        touched: with the lock and the run that holds it.

    Raises:
        Reject: ``JOB_RUNNING``, whoever asks; ``PROJECT_LOCKED`` where somebody else holds it.

    """
    lock, user_id = touched.get(project_locks, LOCK_ID), context.principal.user_id
    held = counts(lock, touched, context.now)
    check_idle(held)
    if held is not None and held.locked_by != user_id:
        raise _held(held)
    events: list[_LockEvent] = []
    if lock is not None and held is None:
        events.append(_lapsed(lock, context.now))
    locked_at = context.now if held is None else held.locked_at
    events.append(ProjectLockUsed(locked_by=user_id, locked_at=locked_at, use=use))
    return [On(project_locks, LOCK_ID, each) for each in events]


def is_held_by(run_id: str, lock: ProjectLock | None) -> bool:
    """Return whether a job holds a lock."""
    return lock is not None and lock.use is not None and lock.use.run_id == run_id


def return_lock(run_id: str, lock: ProjectLock | None, context: Context) -> list[On[_LockEvent]]:
    """Return the events by which a job gives the lock back, if it holds it."""
    if lock is None or not is_held_by(run_id, lock):
        return []
    is_kept = lock.expires_at is not None and lock.expires_at > context.now
    event = _returned(lock) if is_kept else _lapsed(lock, context.now)
    return [On(project_locks, LOCK_ID, event)]


def _its_job(lock: ProjectLock | None, _command: object) -> Named:
    return job_of(lock)


@project_locks.decide(follows=_its_job)
def _lock(
    lock: ProjectLock | None, _command: LockProject, context: Context, touched: Touched
) -> Sequence[_LockEvent]:
    user_id, now = context.principal.user_id, context.now
    held = counts(lock, touched, now)
    if held is not None and held.locked_by != user_id:
        raise _held(held)
    events: list[_LockEvent] = []
    if lock is not None and held is None:
        events.append(_lapsed(lock, now))
    if lock is not None and held is not None and lock.use is not None and held.use is None:
        events.append(_returned(lock))
    locked_at = now if held is None else held.locked_at
    expires_at = now + timedelta(seconds=HELD_S)
    return [*events, ProjectLocked(locked_by=user_id, locked_at=locked_at, expires_at=expires_at)]


@project_locks.decide(follows=_its_job)
def _unlock(
    lock: ProjectLock | None, command: UnlockProject, context: Context, touched: Touched
) -> Sequence[ProjectUnlocked | On[Any]]:
    held = counts(lock, touched, context.now)
    if held is None:  # whether or not it has been said that it lapsed (X-CAL-3)
        raise Reject("LOCK_NOT_HELD", "nobody holds the lock")
    user_id = context.principal.user_id
    if command.force:
        if user_id is not None and context.role not in ADMINS:
            raise Reject("ROLE_FORBIDDEN", "only admins unlock by force", role=context.role)
        freed = ProjectUnlocked(locked_by=held.locked_by, by=user_id, reason="forced")
        return [freed, *_without_its_job(held, context, touched)]
    if user_id != held.locked_by:
        known = {"locked_by": held.locked_by, "locked_at": held.locked_at}
        raise Reject("LOCK_OF_ANOTHER", "somebody else holds the lock", status=403, **known)
    check_idle(held)
    return [ProjectUnlocked(locked_by=held.locked_by, by=user_id, reason="released")]


def _without_its_job(held: ProjectLock, context: Context, touched: Touched) -> list[On[Any]]:
    """Return the events by which the job that holds a lock is cancelled: it would be in vain, and
    in the way of the next one.
    """
    run = None if held.use is None else touched.get(runs, held.use.run_id)
    if held.use is None or run is None:
        return []
    cancelled = cancelled_by(run, context, reason="the project was unlocked by force")
    return [On(runs, held.use.run_id, each) for each in cancelled]


@project_locks.decide(follows=_its_job, allow=())
def _lapse(
    lock: ProjectLock, _command: LapseProjectLock, context: Context, touched: Touched
) -> _LockEvent | None:
    held = counts(lock, touched, context.now)
    if held is None:
        return _lapsed(lock, context.now)
    if lock.use is not None and held.use is None:
        return _returned(lock)
    return None


# -------------------------------------------------------------------------------------- folding


@project_locks.evolve
def _is_locked(lock: ProjectLock | None, event: ProjectLocked) -> ProjectLock:
    return ProjectLock(
        locked_by=event.locked_by,
        locked_at=event.locked_at,
        expires_at=event.expires_at,
        use=None if lock is None else lock.use,
    )


@project_locks.evolve
def _is_used(lock: ProjectLock | None, event: ProjectLockUsed) -> ProjectLock:
    return ProjectLock(
        locked_by=event.locked_by,
        locked_at=event.locked_at,
        expires_at=None if lock is None else lock.expires_at,
        use=event.use,
    )


@project_locks.evolve
def _is_returned(lock: ProjectLock, _event: ProjectLockReturned) -> ProjectLock:
    return replace(lock, use=None)


@project_locks.evolve
def _is_unlocked(_lock: ProjectLock, _event: ProjectUnlocked) -> ProjectLock | None:
    return None


@project_locks.due
def _due(lock: ProjectLock, _lock_id: str) -> Due:
    if lock.use is None:
        assert lock.expires_at is not None, "a person holds it, or a job"
        return Due(lock.expires_at, LapseProjectLock())
    until = lock.use.until + timedelta(seconds=_LATE_S)
    at = until if lock.expires_at is None else max(until, lock.expires_at)
    return Due(at, LapseProjectLock())


_ENDED: dict[UnlockReason, str] = {
    "released": "PROJECT_UNLOCKED",
    "forced": "PROJECT_UNLOCKED_BY_FORCE",
    "expired": "PROJECT_LOCK_EXPIRED",
    "job_ended": "PROJECT_UNLOCKED",
}


@project_locks.audit
def _audit(
    event: _LockEvent, before: ProjectLock | None, after: ProjectLock | None
) -> Audit | None:
    match event:
        case ProjectLocked() | ProjectLockUsed():
            action = "PROJECT_LOCKED"
        case ProjectUnlocked():
            action = _ENDED[event.reason]
        case _:
            return None
    return Audit(action=action, old_value=before, new_value=after)
