"""The events of one command, or of a group, as they are decided: numbered, linked, folded.

All of them join the batch, or none: a draft changes nothing outside of itself.  Each command of a
group is decided on what those before it made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import force_setattr

from dalsegno.actors.ports import CollectedRecord
from dalsegno.protocol import (
    SEQ_MAX,
    DomainError,
    Event,
    On,
    Reject,
    SequenceOverflowError,
    chained,
    check_nul,
)

from ._entity import absent_entity, fold, relisted
from ._records import audit_writes, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from dalsegno.actors.ports import AuditWrite
    from dalsegno.protocol import Domain

    from ._command import AnyDomain, Command
    from ._entity import Entity


class NotLoadedError(Exception):
    """A command turned out to need entities that are not in memory: it is not decided yet."""

    def __init__(self, streams: dict[str, AnyDomain]) -> None:
        super().__init__(*streams)
        self.streams = streams


class Draft:
    """What one command, or one group of them, makes of its workspace."""

    __slots__ = (
        "_ahead",
        "_events_max",
        "_loaded",
        "_named",
        "_new_id",
        "_new_salt",
        "_now",
        "audits",
        "chain",
        "collected",
        "entities",
        "events",
        "head_seq",
        "payload_bytes",
        "snapshots",
    )

    def __init__(
        self,
        *,
        head_seq: int,
        chain: int,
        now: datetime,
        new_id: Callable[[], str],
        new_salt: Callable[[], bytes],
        ahead: Mapping[str, Entity],
        loaded: Mapping[str, Entity],
        events_max: int,
    ) -> None:
        """Begin behind the speculative head.

        Args:
            head_seq: the number of the last event before it.
            chain: … and its chain.
            now: when it is decided.
            new_id: makes the events' ids …
            new_salt: … and their salts.
            ahead: entities with events that are decided and not committed.
            loaded: what is committed of the entities that were loaded for it.
            events_max: how many events it may have.

        """
        self.head_seq = head_seq
        """The number of the last event, with those of the draft."""
        self.chain = chain
        """… and its chain."""
        self.events: list[Event] = []
        self.entities: dict[str, Entity] = {}
        """The entities that it changes, as they are after it."""
        self.snapshots: list[tuple[str, Entity]] = []
        """Entities as they are at a round version, to be written when the batch is."""
        self.audits: list[AuditWrite] = []
        """What is put on record with its events."""
        self.collected: list[CollectedRecord] = []
        """What was on record, and is in this log by its events."""
        self.payload_bytes = 0
        self._now = now
        self._new_id = new_id
        self._named: set[str] = set()
        self._new_salt = new_salt
        self._ahead = ahead
        self._loaded = loaded
        self._events_max = events_max

    def name_another(self) -> str:
        """Return a new id, under which there is no entity yet: one may be made by an event."""
        new_id = self._new_id()
        self._named.add(new_id)
        return new_id

    def entity(self, stream_id: str) -> Entity:
        """Return an entity as it is after what was added so far."""
        return self.entities.get(stream_id) or self._ahead.get(stream_id) or self._loaded[stream_id]

    def check_loaded(self, streams: Mapping[str, AnyDomain]) -> None:
        """Raise `NotLoadedError` unless all of these entities are in memory."""
        missing = {
            stream_id: domain
            for stream_id, domain in streams.items()
            if not any(stream_id in each for each in (self.entities, self._ahead, self._loaded))
        }
        if missing:
            raise NotLoadedError(missing)

    def add(
        self,
        decided: Any,  # noqa: ANN401 - an event of some domain, or `On`
        command: Command,
        streams: Mapping[str, AnyDomain],
    ) -> None:
        """Number, link and fold one decided event.

        Args:
            decided: the event, on the command's own entity or on another one.
            command: what led to it.
            streams: the entities that the command may change.

        Raises:
            Reject: ``BAD_REQUEST`` for text that cannot be stored, or for too many events.
            DomainError: an entity that was not named, or a value that cannot be read back.
            SequenceOverflowError: the log is full.

        """
        if isinstance(decided, On):
            domain, stream_id, decided = decided.domain, decided.stream_id, decided.event
        else:
            domain, stream_id = command.domain, command.stream_id
        if len(self.events) >= self._events_max:
            raise Reject("BAD_REQUEST", f"more than {self._events_max} events")
        if stream_id in streams:
            before = self.entity(stream_id)
        elif stream_id.partition(":")[2] in self._named:
            before = self.entities.get(stream_id) or absent_entity(domain)
        else:
            raise DomainError(f"{stream_id} is not in touches= or follows=")
        event, read = self._record(command, domain, stream_id, before.version + 1, decided)
        after = fold(before, read, stream_id, event.payload)
        if after.version % domain.snapshot_every == 0:
            self.snapshots.append((stream_id, after))
        self.events.append(event)
        self.entities[stream_id] = after
        self.head_seq, self.chain = event.event_seq, event.chain
        self.payload_bytes += len(event.payload)
        if domain.is_audited:
            found = domain.audited(read, before.state, after.state)
            self.audits += audit_writes(found, event, command.principal)

    def collect(self, command: Command) -> None:
        """Add an event for each row that is on record; see `Command.uncollected`."""
        for row in command.uncollected:
            self.add(recorded(row), command, command.streams)
            self.collected.append(CollectedRecord(row.key, self.head_seq))

    def relist(self, stream_id: str) -> None:
        """Say anew where an entity is listed and when it is due, without an event."""
        entity = self.entity(stream_id)
        if entity.version > 0:
            self.entities[stream_id] = relisted(entity, stream_id)

    def _record(
        self,
        command: Command,
        domain: Domain[Any, Any, Any],
        stream_id: str,
        version: int,
        decided: Any,  # noqa: ANN401 - one of the domain's events
    ) -> tuple[Event, Any]:
        """Return the record of an event, and the event as it will be read."""
        if self.head_seq >= SEQ_MAX:
            raise SequenceOverflowError(f"the log of {command.workspace_id} is full")
        type_, type_version, payload, read = _encoded(domain, decided)
        event = Event(
            workspace_id=command.workspace_id,
            event_seq=self.head_seq + 1,
            stream_id=stream_id,
            stream_seq=version,
            event_id=self._new_id(),
            type=type_,
            type_version=type_version,
            payload=payload,
            actor_id=command.principal.user_id,
            command_id=command.command_id,
            recorded_at=self._now,
            causation=command.causation,
            correlation_id=command.correlation_id,
            salt=self._new_salt(),
        )
        force_setattr(event, "chain", chained(self.chain, event))  # nobody has seen it yet
        return event, read


def _encoded(domain: Domain[Any, Any, Any], decided: Any) -> tuple[str, int, str, Any]:  # noqa: ANN401 - as above
    """Write an event for the log, refusing what could not be stored or read back (I10)."""
    try:
        type_, type_version, payload = domain.encode(decided)
    except UnicodeEncodeError:
        raise Reject("BAD_REQUEST", "a lone surrogate is not text") from None
    if "\\" in payload:
        check_nul(payload.encode())
    return type_, type_version, payload, domain.read_back(decided, payload)
