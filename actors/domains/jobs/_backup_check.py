"""What is looked at of a backup before anything of it is restored.

That its bytes are those that were written is the reader's to find out; here it is that they make
sense: that each log is whole, from its first event to its head, and fits its chain.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import CHAIN_START, Event, chained

from ._backup import EVENTS, Began, Ended
from ._backup_format import BEGIN, END, BackupDamagedError

if TYPE_CHECKING:
    from ._backup_format import Portion

_HEAD = "workspace_head"
_UNSIGNED = (1 << 64) - 1


class _HeadRow(msgspec.Struct, frozen=True, kw_only=True):
    head_seq: int
    first_seq: int
    chain: int


class _EventRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    event_seq: int
    stream_id: str
    stream_seq: int
    type: str
    type_version: int
    payload: str
    actor_id: str | None
    recorded_at: datetime
    chain: int
    salt: str | None
    erased_digest: str | None


class BackupCheck:
    """Checks portions in their order."""

    def __init__(self) -> None:
        self._began: Began | None = None
        self._ended: Ended | None = None
        self._workspace = ""
        self._head: _HeadRow | None = None
        self._seq = 0
        self._chain = CHAIN_START
        self._workspaces = self._events = self._rows = 0

    def __repr__(self) -> str:
        return f"<BackupCheck, {self._events} events>"

    @property
    def began(self) -> Began:
        """What the backup is of."""
        assert self._began is not None, "the first portion was taken"
        return self._began

    def take(self, portion: Portion) -> None:
        """Check a portion.

        Raises:
            BackupDamagedError: it does not fit those before it.

        """
        if portion.part == BEGIN:
            (self._began,) = portion.decode(Began)
        elif portion.part == END:
            self._end_workspace()
            (self._ended,) = portion.decode(Ended)
        else:
            self._rows += portion.rows
            if portion.part == _HEAD:
                self._end_workspace()
                self._begin_workspace(portion)
            elif portion.part == EVENTS:
                self._check_events(portion)

    def finish(self) -> Ended:
        """Return what the backup has.

        Raises:
            BackupDamagedError: that is not what it says.

        """
        counted = Ended(workspaces=self._workspaces, events=self._events, rows=self._rows)
        if self._began is None or self._ended != counted:
            raise BackupDamagedError("the backup has not what it says at its end")
        return counted

    def _begin_workspace(self, portion: Portion) -> None:
        (self._head,) = portion.decode(_HeadRow)
        self._workspace = portion.workspace
        self._seq = self._head.first_seq - 1
        self._chain = CHAIN_START
        self._workspaces += 1

    def _end_workspace(self) -> None:
        head = self._head
        if head is None:
            return
        is_whole = self._seq == head.head_seq
        if not is_whole or (head.head_seq > 0 and self._chain != head.chain & _UNSIGNED):
            raise self._wrong(f"ends at event {self._seq} instead of {head.head_seq}")
        self._head = None

    def _check_events(self, portion: Portion) -> None:
        if self._head is None or portion.workspace != self._workspace:
            raise BackupDamagedError(f"events of {portion.workspace} without a head")
        for row in portion.decode(_EventRow):
            if row.event_seq != self._seq + 1:
                raise self._wrong(f"has event {row.event_seq} where {self._seq + 1} is due")
            chain = row.chain & _UNSIGNED
            # What stands before the first event that is kept, or in an erased one, is not known.
            is_known = (self._seq > 0 or row.event_seq == 1) and row.erased_digest is None
            if is_known and chain != self._link(row):
                raise self._wrong(f"has event {row.event_seq}, which does not fit the chain")
            self._seq, self._chain = row.event_seq, chain
            self._events += 1

    def _link(self, row: _EventRow) -> int:
        event = Event(
            workspace_id=self._workspace,
            event_seq=row.event_seq,
            stream_id=row.stream_id,
            stream_seq=row.stream_seq,
            event_id="",
            type=row.type,
            type_version=row.type_version,
            payload=row.payload,
            actor_id=row.actor_id,
            command_id="",
            recorded_at=row.recorded_at,
            salt=None if row.salt is None else bytes.fromhex(row.salt),
        )
        return chained(self._chain, event)

    def _wrong(self, what: str) -> BackupDamagedError:
        return BackupDamagedError(f"the log of {self._workspace} {what}")
