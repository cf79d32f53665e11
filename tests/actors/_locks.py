"""Locks that lapse: a domain with timers, keys, a sort, and records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from dalsegno.protocol import Audit, Context, Domain, Due, Index, Reject


class Lock(msgspec.Struct, frozen=True):
    holder: str | None
    until: datetime
    lapses: int = 0
    wrong: str | None = None
    """What happened to it and must not."""


class TakeLock(msgspec.Struct, frozen=True):
    lock_id: str
    holder: str
    for_s: float


class RenewLock(msgspec.Struct, frozen=True):
    lock_id: str
    holder: str
    for_s: float


class LetLockLapse(msgspec.Struct, frozen=True):
    lock_id: str
    holder: str


class DropLock(msgspec.Struct, frozen=True):
    lock_id: str


class LockTaken(msgspec.Struct, frozen=True):
    holder: str
    until: datetime


class LockRenewed(msgspec.Struct, frozen=True):
    until: datetime


class LockLapsed(msgspec.Struct, frozen=True):
    holder: str
    at: datetime


class LockDropped(msgspec.Struct, frozen=True):
    pass


LockCommand: TypeAlias = TakeLock | RenewLock | LetLockLapse | DropLock
LockEvent: TypeAlias = LockTaken | LockRenewed | LockLapsed | LockDropped


def lock_domain(version: int = 1) -> Domain[Lock, LockCommand, LockEvent]:
    """Return the domain, in one of its versions: they list alike."""
    locks = Domain("lock", state=Lock, commands=LockCommand, events=LockEvent, version=version)

    @locks.decide
    def take(lock: Lock | None, command: TakeLock, context: Context) -> LockTaken:
        if lock is not None and lock.holder is not None:
            raise Reject("LOCK_HELD", holder=lock.holder)
        return LockTaken(command.holder, context.now + timedelta(seconds=command.for_s))

    @locks.decide
    def renew(lock: Lock, command: RenewLock, context: Context) -> LockRenewed:
        if lock.holder != command.holder:
            raise Reject("LOCK_LOST", holder=lock.holder)
        return LockRenewed(context.now + timedelta(seconds=command.for_s))

    @locks.decide
    def let_lapse(lock: Lock, command: LetLockLapse, context: Context) -> LockLapsed:
        return LockLapsed(command.holder, context.now)

    @locks.decide
    def drop(_lock: Lock, _command: DropLock) -> LockDropped:
        return LockDropped()

    @locks.evolve
    def taken(lock: Lock | None, event: LockTaken) -> Lock:
        before = lock or Lock(None, event.until)
        return Lock(event.holder, event.until, before.lapses, before.wrong)

    @locks.evolve
    def renewed(lock: Lock, event: LockRenewed) -> Lock:
        return msgspec.structs.replace(lock, until=event.until)

    @locks.evolve
    def lapsed(lock: Lock, event: LockLapsed) -> Lock:
        # No decider asks whether the time has come, or who holds it: the runtime has.
        wrong = lock.wrong
        if lock.holder != event.holder:
            wrong = "it lapsed twice"
        elif event.at < lock.until:
            wrong = "it lapsed before its time, or although it was renewed"
        return Lock(None, lock.until, lock.lapses + 1, wrong)

    @locks.evolve
    def dropped(_lock: Lock, _event: LockDropped) -> Lock | None:
        return None

    @locks.index
    def index(lock: Lock) -> Index:
        keys = ("held", f"by {lock.holder}") if lock.holder else ("free",)
        return Index(keys=keys, sort=lock.until.isoformat(timespec="minutes"))

    @locks.due
    def due(lock: Lock, lock_id: str) -> Due | None:
        return None if lock.holder is None else Due(lock.until, LetLockLapse(lock_id, lock.holder))

    @locks.audit
    def audit(event: LockEvent, before: Lock | None, after: Lock | None) -> Audit | None:
        if not isinstance(event, LockLapsed):
            return None
        assert before is not None
        assert after is not None
        return Audit(action="LOCK_LAPSED", old_value=before.holder, new_value=after.lapses)

    return locks


locks = lock_domain()


def honest(states: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a lock of a workspace, for the simulation."""
    found = (state.wrong for state in states.values() if isinstance(state, Lock))
    return next((wrong for wrong in found if wrong is not None), None)
