"""What stores are given and give back: heads, batches, entities, answers, cursors.

What each command makes of these has no part in any cycle, so Python's collector need not look for
one (``gc=False``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from dalsegno.protocol import (
    CHAIN_START,
    SEQ_MAX,
    Cursor,
    DalsegnoError,
    Event,
    Place,
    Since,
)


class BatchRejectedError(DalsegnoError):
    """The store refused the data of some batch (SQLSTATE 21, 22, 23, 54); nothing was written."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a workspace's log, and the owner that may append to it."""

    workspace_id: str
    epoch: int
    owner: str | None
    head_seq: int = 0
    first_seq: int = 1
    """The oldest event that is kept."""
    chain: int = CHAIN_START
    recorded_at: datetime | None = None
    """Of the last event."""
    halted_reason: str | None = None
    halted_code: str | None = None
    """The version of the code that halted it; another one may try again."""
    app_version: int = 0
    """The highest version of a program that has owned it."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A process that owns workspaces, as others see it."""

    node_id: str
    address: str | None
    """Where it can be reached, if it has said so."""
    expires_in_s: float
    """The rest of its lease by the store's clock; at 0 or less others may take over."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An intervention in a workspace from outside its log."""

    recorded_at: datetime
    workspace_id: str
    actor: str
    action: str
    """``halted`` or ``resumed``."""
    detail: str


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are asked for; None: whatever it is."""

    actor_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Up to here, exclusive."""


class AuditPlace(msgspec.Struct, frozen=True):
    """Where a page of records ended: below these, newest first."""

    event_seq: int = SEQ_MAX
    n: int = 0
    intervention: int = SEQ_MAX
    """The number of the last intervention."""

    def behind(self, record: AuditRecord) -> AuditPlace:
        """Return the place behind a further record."""
        if record.event_seq is None:
            return AuditPlace(self.event_seq, self.n, record.n)
        return AuditPlace(record.event_seq, record.n, self.intervention)


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record of a workspace: of an event, or an intervention from outside its log."""

    recorded_at: datetime
    event_seq: int | None
    """None for an intervention."""
    n: int
    """Which one of its event, or the number of the intervention."""
    actor_id: str | None
    action: str
    resource_type: str
    resource_id: str
    old_value: str | None
    """JSON text."""
    new_value: str | None
    """JSON text."""
    request_id: str | None
    address: str | None


class RecordKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """What tells a row that is on record from all others."""

    kind: Literal["event", "intervention", "refusal"]
    scope: str
    """The workspace; of a refusal its id."""
    number: int = 0
    """Of the event, or of the intervention …"""
    n: int = 0
    """… and which one of the event."""


class Uncollected(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A row that is on record, and not on the stream of the audit yet."""

    key: RecordKey
    recorded_at: datetime
    workspace_id: str | None
    actor_id: str | None
    action: str
    resource_type: str
    resource_id: str
    old_value: str | None
    """JSON text."""
    new_value: str | None
    """JSON text."""
    request_id: str | None
    address: str | None


class CollectedRecord(msgspec.Struct, frozen=True, gc=False):
    """A row, and the event of ``$audit`` by which it is on the stream."""

    key: RecordKey
    event_seq: int


class RefusedWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that was refused: a request, a log-in."""

    refusal_id: str
    """A row of the same id is the same."""
    recorded_at: datetime
    workspace_id: str | None
    user_id: str | None
    action: str
    resource_type: str
    resource_id: str
    new_value: str | None
    """JSON text."""
    request_id: str | None
    address: str | None


class EntityWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entity's row after a batch: at most one per stream in a batch."""

    stream_id: str
    version: int
    exists: bool
    """False if the last event ended the entity; lists leave it out."""
    keys: tuple[str, ...] = ()
    sort: str | None = None
    title: str | None = None
    due_at: datetime | None = None
    """When it is to be asked what it wants done."""
    state: str | None = None
    """JSON text; None leaves the stored state, which then lags."""
    domain_version: int = 1
    """The domain's version that folded this state, and said where it is listed and when it is due.
    """
    index_changed: bool = True
    """Whether keys, sort or existence may be others than in the row."""


class AuditWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a domain puts on record of an event; who and when is the event's."""

    event_seq: int
    n: int
    """Counts those of one event, from 0."""
    recorded_at: datetime
    actor_id: str | None
    action: str
    resource_type: str
    resource_id: str
    old_value: str | None
    """JSON text."""
    new_value: str | None
    """JSON text."""
    request_id: str | None
    address: str | None


class SnapshotWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entity's state at a round version (KJ-SNAP-1)."""

    stream_id: str
    version: int
    domain_version: int
    state: str


class ResultWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to repeats of a command's key: at most one per (scope, key) in a batch."""

    scope: str
    key: str
    payload_hash: bytes
    answer: str
    """JSON text."""
    event_seq: int


class Batch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One workspace's part of a group commit.

    ``events`` are dense; a batch without any leaves the head where it is, and records the results
    of commands that changed nothing, or entities that are listed otherwise than they were.
    """

    workspace_id: str
    epoch: int
    old_head: int
    events: tuple[Event, ...]
    entities: tuple[EntityWrite, ...] = ()
    results: tuple[ResultWrite, ...] = ()
    snapshots: tuple[SnapshotWrite, ...] = ()
    audits: tuple[AuditWrite, ...] = ()
    collected: tuple[CollectedRecord, ...] = ()
    """The rows on record, of any workspaces, of which these events are made: of ``$audit`` alone.
    They are marked with it, so that each is on that log once."""
    size: int = 0
    """About how many bytes it writes: payloads, states and snapshots."""

    @property
    def new_head(self) -> int:
        """The head once this is committed."""
        return self.events[-1].event_seq if self.events else self.old_head


class StoredEntity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entity as stored: a state, perhaps an older one, and the events since."""

    stream_id: str
    version: int
    state: str | None
    """JSON text, ``null`` if the entity did not exist then; None if there is no usable state."""
    state_version: int
    """The version of ``state``; 0 without one."""
    events: tuple[Event, ...]
    """``state_version + 1`` … ``version``, in order."""


class StoredResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The recorded answer of a live idempotency key."""

    payload_hash: bytes
    answer: str
    event_seq: int
    expires_in_s: float
    """The rest of the key's lifetime, by the store's clock."""


class EntityItem(msgspec.Struct, frozen=True, kw_only=True):
    """An entity in a list: its index columns, and its state if that was asked for."""

    stream_id: str
    version: int
    keys: tuple[str, ...]
    sort: str | None
    title: str | None
    updated_at: datetime
    stored: StoredEntity | None = None

    def place_in(self, key: str | None) -> Place:
        """Return its place in the list of a key; None: of all by id."""
        return Place("" if key is None else self.sort or "", self.stream_id)


class EntityPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list, and what the workspace was when all of it held."""

    head_seq: int
    """The number of the last event that it reflects."""
    items: list[EntityItem]
    """As many as were asked for, or fewer where the bound of bytes or the list ends."""
    is_last: bool
    """Whether nothing follows."""
    is_stale: bool = False
    """Whether an entity of this domain is listed as another version of the domain said."""


class DueEntity(msgspec.Struct, frozen=True, order=True):
    """An entity that asked for something, by now."""

    due_at: datetime
    workspace_id: str
    stream_id: str

    @property
    def ids(self) -> tuple[str, str]:
        """Its workspace and its stream."""
        return self.workspace_id, self.stream_id


class DuePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of what is due, in order."""

    entities: list[DueEntity]
    """Those that this node may serve."""
    last: DueEntity | None
    """Where to go on; None: nothing else is due."""


class StalePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the workspaces that list a domain's entities as an earlier version of it said."""

    workspace_ids: list[str]
    """Those that this node may serve."""
    last: tuple[int, str] | None
    """Where to go on: a version and a workspace; None: there are no others."""


class RunsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the workspaces that have open runs."""

    workspace_ids: list[str]
    """Those that this node may serve."""
    last: str | None
    """The workspace after which to go on; None: there are no others."""


class ReactorStart(msgspec.Struct, frozen=True, kw_only=True):
    """A reactor, and where it begins if there was none of its name before."""

    name: str
    since: Since = "now"
    was: str | None = None
    """The name that it had before: what is kept under that is its own."""


class ReactorPlace(msgspec.Struct, frozen=True):
    """How far some reactors have come in a workspace."""

    names: tuple[str, ...]
    cursor: Cursor
    """With its chain: one of another history than the log's now is not written."""


class BehindPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the workspaces whose events reactors have not been told of."""

    workspace_ids: list[str]
    """Those that this node may serve."""
    last: tuple[str, str] | None
    """Where to go on; None: there are no others."""


class CursorKey(msgspec.Struct, frozen=True, order=True):
    """The key of an ack cursor: a user's client, in one stream of one workspace."""

    user_id: str
    client_id: str
    workspace_id: str
    stream_id: str


class AckedCursor(msgspec.Struct, frozen=True):
    """How far a cursor moved, and in which history: one that the log has left is not written."""

    seq: int
    head_seq: int = 0
    """An event of the workspace at or above the acknowledged one …"""
    chain: int = CHAIN_START
    """… and its chain.  The beginning, the default, is in every history."""


class PageBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page begins and ends, both inclusive, and how much it may hold."""

    from_seq: int
    """The first number, in the stream that is read."""
    to_event_seq: int = SEQ_MAX
    """No event above this number in the workspace."""
    limit: int
    """At most so many events …"""
    bytes_max: int
    """… and only the first may take the payloads over so many bytes."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The possible reasons why a batch was not appended, read afterwards."""

    head: Head | None
    live_keys: dict[tuple[str, str], StoredResult]
