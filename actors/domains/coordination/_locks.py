"""Locks of agents on resources: exclusive, or shared by several, each for a time.

A lock is an entity, and so is the resource: it knows who holds it, so that the log decides between
two who want it.  What has lapsed counts no more from that very moment, whether or not its timer has
said so; whoever says so first does: the timer, or the next to acquire the resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Never, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from dalsegno.protocol import Audit, Context, Domain, Due, Index, On, Reject, Touched

from ._agents import agents, check_agent
from ._offspring import Named
from ._words import Id, Label, LockMode, fields_of

HELD_MAX_MS = 24 * 3600 * 1000
"""How long a lock may be held from now on: a day.  Whoever needs it for longer extends it."""
SHARERS_MAX = 200
"""How many may share a resource: a command that finds them lapsed names them all, and says so of
each of them."""

Milliseconds: TypeAlias = Annotated[
    int, Meta(gt=0, le=HELD_MAX_MS, extra={"code": "INVALID_RANGE"})
]


# ------------------------------------------------------------------------------------ resources


class Hold(msgspec.Struct, frozen=True):
    """A lock on a resource."""

    holder_agent_id: str
    mode: LockMode
    expires_at: datetime


class LockedResource(msgspec.Struct, frozen=True):
    """A resource, and who holds it: at least one."""

    holds: dict[str, Hold]


class ResourceHeld(msgspec.Struct, frozen=True):
    """A lock holds the resource, or for longer than before."""

    lock_id: str
    hold: Hold


class ResourceFreed(msgspec.Struct, frozen=True):
    """Locks hold the resource no more."""

    lock_ids: tuple[str, ...]


locked_resources = Domain(
    "locked_resource",
    state=LockedResource,
    commands=Never,
    events=ResourceHeld | ResourceFreed,
)


@locked_resources.evolve
def _held(resource: LockedResource | None, event: ResourceHeld) -> LockedResource:
    holds = {} if resource is None else resource.holds
    return LockedResource({**holds, event.lock_id: event.hold})


@locked_resources.evolve
def _freed(resource: LockedResource, event: ResourceFreed) -> LockedResource | None:
    freed = {*event.lock_ids}
    left = {each: hold for each, hold in resource.holds.items() if each not in freed}
    return LockedResource(left) if left else None


# ---------------------------------------------------------------------------------------- locks


class NewLock(msgspec.Struct, frozen=True, kw_only=True):
    """Which resource is locked, by whom, and how."""

    resource_type: Label
    resource_id: Id
    holder_agent_id: Id
    mode: LockMode = "Exclusive"


class AgentLock(NewLock, frozen=True, kw_only=True):
    """A lock."""

    acquired_at: datetime
    expires_at: datetime


class AcquireAgentLock(NewLock, frozen=True, kw_only=True):
    """Lock a resource; without an id the runtime makes one."""

    timeout_ms: Milliseconds
    agent_lock_id: str | None = None


class ExtendAgentLock(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a lock for longer than it was to be."""

    agent_lock_id: str
    additional_ms: Milliseconds
    extending_agent_id: Id | None = None
    """The agent that extends it, if given: its holder."""


class ReleaseAgentLock(msgspec.Struct, frozen=True, kw_only=True):
    """Release a lock, as its holder."""

    agent_lock_id: str
    releasing_agent_id: Id


class ExpireAgentLock(msgspec.Struct, frozen=True, kw_only=True):
    """Expire a lock; sent by its timer."""

    agent_lock_id: str


class AgentLockAcquired(msgspec.Struct, frozen=True):
    """A resource is locked."""

    lock: AgentLock


class AgentLockExtended(msgspec.Struct, frozen=True):
    """A lock holds for longer."""

    lock: AgentLock


class AgentLockReleased(msgspec.Struct, frozen=True):
    """A lock was given back."""


class AgentLockExpired(msgspec.Struct, frozen=True):
    """A lock has lapsed."""


class AgentLockState(msgspec.Struct, frozen=True, kw_only=True):
    """A lock, and whether it was said that it has lapsed: whoever comes too late is told that."""

    record: AgentLock
    has_expired: bool = False


agent_locks = Domain(
    "agent_lock",
    state=AgentLockState,
    commands=AcquireAgentLock | ExtendAgentLock | ReleaseAgentLock | ExpireAgentLock,
    events=AgentLockAcquired | AgentLockExtended | AgentLockReleased | AgentLockExpired,
)


# ------------------------------------------------------------------------------------- deciding


def _resource_of(lock: NewLock) -> str:
    """Return the id of a resource's entity: its type and id together may be longer than one."""
    name = f"{lock.resource_type}\0{lock.resource_id}"
    return blake2b(name.encode(), digest_size=16).hexdigest()


def _named(command: AcquireAgentLock) -> Named:
    return [(agents, command.holder_agent_id), (locked_resources, _resource_of(command))]


def _holds(command: AcquireAgentLock, touched: Touched) -> dict[str, Hold]:
    resource = touched.get(locked_resources, _resource_of(command))
    return {} if resource is None else resource.holds


def _holders(_: AgentLockState | None, command: AcquireAgentLock, touched: Touched) -> Named:
    return [(agent_locks, lock_id) for lock_id in _holds(command, touched)]


@agent_locks.decide(touches=_named, follows=_holders)
def _acquire(
    state: AgentLockState | None, command: AcquireAgentLock, context: Context, touched: Touched
) -> Sequence[AgentLockAcquired | On[Any]]:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a lock has this id")
    check_agent(command.holder_agent_id, touched)
    now, resource_id = context.now, _resource_of(command)
    held, lapsed = {}, []
    for lock_id, hold in _holds(command, touched).items():
        if hold.expires_at <= now:
            lapsed.append(lock_id)
        else:
            held[lock_id] = hold
    for lock_id, hold in held.items():
        if "Exclusive" in (hold.mode, command.mode) or len(held) >= SHARERS_MAX:
            raise Reject(
                "LOCK_CONFLICT",
                "the resource is locked",
                lock_id=lock_id,
                holder_agent_id=hold.holder_agent_id,
                mode=hold.mode,
                expires_at=hold.expires_at,
            )
    lock = AgentLock(
        **fields_of(command, NewLock),
        acquired_at=now,
        expires_at=now + timedelta(milliseconds=command.timeout_ms),
    )
    is_held = ResourceHeld(context.entity_id, _hold(lock))
    return [
        *_lapse(lapsed, resource_id),
        AgentLockAcquired(lock),
        On(locked_resources, resource_id, is_held),
    ]


def _its_resource(state: AgentLockState, _command: object) -> Named:
    return [(locked_resources, _resource_of(state.record))]


@agent_locks.decide(follows=_its_resource)
def _extend(
    state: AgentLockState, command: ExtendAgentLock, context: Context
) -> Sequence[AgentLockExtended | On[Any]]:
    lock = state.record
    if command.extending_agent_id is not None:
        _check_holder(lock, command.extending_agent_id)
    _check_held(state, context)
    until = lock.expires_at + timedelta(milliseconds=command.additional_ms)
    if until > context.now + timedelta(milliseconds=HELD_MAX_MS):
        message = f"a lock is held for at most {HELD_MAX_MS} ms from now on"
        raise Reject("INVALID_RANGE", message, status=400, expires_at=lock.expires_at)
    after = replace(lock, expires_at=until)
    held = ResourceHeld(command.agent_lock_id, _hold(after))
    return [AgentLockExtended(after), On(locked_resources, _resource_of(lock), held)]


@agent_locks.decide(follows=_its_resource)
def _release(
    state: AgentLockState, command: ReleaseAgentLock, context: Context
) -> Sequence[AgentLockReleased | On[Any]]:
    _check_holder(state.record, command.releasing_agent_id)
    _check_held(state, context)
    freed = ResourceFreed((command.agent_lock_id,))
    return [AgentLockReleased(), On(locked_resources, _resource_of(state.record), freed)]


@agent_locks.decide(follows=_its_resource, allow=())
def _expire(state: AgentLockState, command: ExpireAgentLock) -> Sequence[On[Any]]:
    return _lapse([command.agent_lock_id], _resource_of(state.record))


def _lapse(lock_ids: Sequence[str], resource_id: str) -> Sequence[On[Any]]:
    """Return the events of locks on one resource that have lapsed: of it, one for all."""
    if not lock_ids:
        return []
    freed = On(locked_resources, resource_id, ResourceFreed(tuple(lock_ids)))
    return [*(On(agent_locks, each, AgentLockExpired()) for each in lock_ids), freed]


def _hold(lock: AgentLock) -> Hold:
    return Hold(lock.holder_agent_id, lock.mode, lock.expires_at)


def _check_holder(lock: AgentLock, agent_id: str) -> None:
    if agent_id != lock.holder_agent_id:
        raise Reject("FORBIDDEN", "another agent holds this lock", status=403)


def _check_held(state: AgentLockState, context: Context) -> None:
    """Raise unless a lock is held: until the moment of its expiry, that excluded."""
    if state.has_expired or state.record.expires_at <= context.now:
        raise Reject("LOCK_EXPIRED", "the lock has lapsed", expires_at=state.record.expires_at)


# -------------------------------------------------------------------------------------- folding


@agent_locks.evolve
def _acquired(_: AgentLockState | None, event: AgentLockAcquired) -> AgentLockState:
    return AgentLockState(record=event.lock)


@agent_locks.evolve
def _extended(_: AgentLockState, event: AgentLockExtended) -> AgentLockState:
    return AgentLockState(record=event.lock)


@agent_locks.evolve
def _released(_: AgentLockState, _event: AgentLockReleased) -> AgentLockState | None:
    return None


@agent_locks.evolve
def _expired(state: AgentLockState, _event: AgentLockExpired) -> AgentLockState:
    return replace(state, has_expired=True)


@agent_locks.due
def _due(state: AgentLockState, lock_id: str) -> Due | None:
    if state.has_expired:
        return None
    return Due(state.record.expires_at, ExpireAgentLock(agent_lock_id=lock_id))


@agent_locks.index
def _index(state: AgentLockState) -> Index:
    if state.has_expired:
        return Index()
    it = state.record
    keys = (
        "all",
        f"resource_type:{it.resource_type}",
        f"resource_id:{it.resource_id}",
        f"holder_agent_id:{it.holder_agent_id}",
    )
    return Index(keys=keys)


@agent_locks.audit
def _audit(
    event: AgentLockAcquired | AgentLockExtended | AgentLockReleased | AgentLockExpired,
    before: AgentLockState | None,
    _after: AgentLockState | None,
) -> Audit | None:
    if before is None or not isinstance(event, AgentLockExpired):
        return None
    lapsed = before.record
    until = {"holder_agent_id": lapsed.holder_agent_id, "expires_at": lapsed.expires_at}
    return Audit(action="AGENT_LOCK_EXPIRED", old_value=until)
