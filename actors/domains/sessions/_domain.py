"""Sessions' events as a domain: what a store of them in workspaces is made of.

A session's stream has its events and nothing else, so that an event's number there is its version.
Whether the session was halted is an entity beside it, and so is each event that was recorded once:
it is named after the event's id, and says where that event is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Never

import msgspec
from msgspec.structs import asdict

from dalsegno.protocol import Audit, Context, Domain, On, Reject, Touched

from ._summary import assistant_text


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its identity, as it comes."""

    event_id: str
    source: dict[str, str]
    """A type, and the id that goes with it."""
    stream_seq: int = 0
    mob_id: str | None = None
    timestamp_ms: int
    event: Any


# ---------------------------------------------------------------------------------------- halts


class SessionHalt(msgspec.Struct, frozen=True):
    """A session that was halted."""

    reason: str
    recorded_at: datetime


class HaltSession(msgspec.Struct, frozen=True, kw_only=True):
    """Halt a session: nothing is recorded until that is cleared."""

    session_halt_id: str
    reason: str


class ClearSessionHalt(msgspec.Struct, frozen=True, kw_only=True):
    """Clear the halt of a session."""

    session_halt_id: str
    by: str
    reason: str


class SessionHalted(msgspec.Struct, frozen=True):
    """A session was halted."""

    reason: str
    recorded_at: datetime


class SessionHaltCleared(msgspec.Struct, frozen=True):
    """A halted session goes on."""

    by: str
    reason: str


session_halts = Domain(
    "session_halt",
    state=SessionHalt,
    commands=HaltSession | ClearSessionHalt,
    events=SessionHalted | SessionHaltCleared,
    allow={"owner", "admin"},
)


@session_halts.decide
def _halt(_: SessionHalt | None, command: HaltSession, context: Context) -> SessionHalted:
    return SessionHalted(command.reason, context.now)


@session_halts.decide
def _clear(halt: SessionHalt | None, command: ClearSessionHalt) -> SessionHaltCleared | None:
    return None if halt is None else SessionHaltCleared(command.by, command.reason)


@session_halts.evolve
def _halted(_: SessionHalt | None, event: SessionHalted) -> SessionHalt:
    return SessionHalt(event.reason, event.recorded_at)


@session_halts.evolve
def _cleared(_: SessionHalt, _event: SessionHaltCleared) -> SessionHalt | None:
    return None


@session_halts.audit
def _audit(
    event: SessionHalted | SessionHaltCleared,
    before: SessionHalt | None,
    _after: SessionHalt | None,
) -> Audit:
    was = None if before is None else {"reason": before.reason}
    if isinstance(event, SessionHalted):
        return Audit(action="SESSION_HALTED", old_value=was, new_value={"reason": event.reason})
    cleared = {"by": event.by, "reason": event.reason}
    return Audit(action="SESSION_HALT_CLEARED", old_value=was, new_value=cleared)


# ----------------------------------------------------------------------------------- each once


class SessionEventId(msgspec.Struct, frozen=True):
    """An event that was recorded once: where it is, and what."""

    seq: int
    digest: str


class SessionEventIdTaken(msgspec.Struct, frozen=True):
    """An event has this id."""

    seq: int
    digest: str


session_event_ids = Domain(
    "session_event_id", state=SessionEventId, commands=Never, events=SessionEventIdTaken
)


@session_event_ids.evolve
def _taken(_: SessionEventId | None, event: SessionEventIdTaken) -> SessionEventId:
    return SessionEventId(event.seq, event.digest)


def id_of(session_id: str, event_id: str) -> str:
    """Return the id of the entity that is named after an event."""
    return blake2b(f"{session_id}\0{event_id}".encode(), digest_size=16).hexdigest()


def digest_of(event: SessionEvent) -> str:
    """Return what tells an event from another one."""
    return blake2b(msgspec.json.encode(event, order="sorted"), digest_size=16).hexdigest()


# ------------------------------------------------------------------------------------- sessions


class Session(msgspec.Struct, frozen=True):
    """A session: how many events it has."""

    last_seq: int
    summary_seq: int = 0
    """The event whose text is the session's summary; 0: none is.  See `assistant_text`."""


class RecordSessionEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Record events, all or none; where they are recorded ``once``, by their ids."""

    session_id: str
    session_events: tuple[SessionEvent, ...]
    once: bool = False


class SessionEventRecorded(SessionEvent, frozen=True, kw_only=True):
    """An event was recorded."""


sessions = Domain(
    "session", state=Session, commands=RecordSessionEvents, events=SessionEventRecorded
)
"""A workspace's sessions."""

session_domains: tuple[Domain[Any, Any, Any], ...] = (sessions, session_halts, session_event_ids)
"""Sessions, and what is beside them."""

_Named = list[tuple[Domain[Any, Any, Any], str]]


def _beside(command: RecordSessionEvents) -> _Named:
    named: _Named = [(session_halts, command.session_id)]
    if command.once:
        for each in command.session_events:
            named.append((session_event_ids, id_of(command.session_id, each.event_id)))
    return named


@sessions.decide(touches=_beside)
def _record(
    session: Session | None, command: RecordSessionEvents, touched: Touched
) -> Sequence[SessionEventRecorded | On[Any]]:
    halt = touched.get(session_halts, command.session_id)
    if halt is not None:
        raise Reject(
            "SESSION_HALTED",
            "the session was halted",
            reason=halt.reason,
            recorded_at=halt.recorded_at,
        )
    last_seq = 0 if session is None else session.last_seq
    claims = _claims(command, touched, last_seq) if command.once else []
    recorded = [SessionEventRecorded(**asdict(each)) for each in command.session_events]
    return [*claims, *recorded]


def _claims(command: RecordSessionEvents, touched: Touched, last_seq: int) -> list[On[Any]]:
    """Return the events by which these are recorded once.

    Raises:
        Reject: ``EVENT_REPLAYED`` where they are there already, with the last one's number;
            ``EVENT_CONFLICT``.

    """
    claims: list[On[Any]] = []
    there: list[int] = []
    for number, each in enumerate(command.session_events, last_seq + 1):
        entity_id, digest = id_of(command.session_id, each.event_id), digest_of(each)
        known = touched.get(session_event_ids, entity_id)
        if known is None:
            claims.append(On(session_event_ids, entity_id, SessionEventIdTaken(number, digest)))
        elif known.digest == digest:
            there.append(known.seq)
        else:
            raise Reject("EVENT_CONFLICT", f"event {each.event_id} is stored, as another one")
    if there and claims:
        raise Reject("EVENT_CONFLICT", "some of these events are stored, and others are not")
    if there:
        raise Reject("EVENT_REPLAYED", "these events are stored", last_seq=there[-1])
    return claims


@sessions.evolve
def _recorded(session: Session | None, recorded: SessionEventRecorded) -> Session:
    was = session or Session(0)
    last_seq = was.last_seq + 1
    summary = assistant_text("", recorded.event)  # "" where the one before stays: none is blank
    if summary == "":
        return Session(last_seq, was.summary_seq)
    return Session(last_seq, 0 if summary is None else last_seq)
