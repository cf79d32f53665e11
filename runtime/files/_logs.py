"""Logs as they are read: whole once, and again where one is not what its head says.

After that an append reads nothing of a log, and a page is read where it begins.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from cachetools import LRUCache

from ._errors import EventProjectionHaltedError, EventStoreStateError
from ._event_store import PAGE_BYTES_MAX
from ._halts import read_halt
from ._rows import Verified, read_lines, read_row, take_line
from ._sequence import COMPACTED, Head, read_head, read_number

if TYPE_CHECKING:
    from pathlib import Path

    from dalsegno.runtime.disk import Identity

    from ._events import StoredEvent
    from ._folder import SessionFolder

_SESSIONS_KNOWN = 256
"""Logs whose verified part is remembered."""


class Known(NamedTuple):
    """What was verified of a log, and of which file."""

    verified: Verified
    identity: Identity | None
    """None: there is no log yet."""
    epoch: int = 0
    compacted: int = 0
    """The number up to which events were removed, though some of them may still be there."""

    def begins(self, identity: Identity, durable: int | None, epoch: int) -> bool:
        """Return whether it is the beginning of what this file is now."""
        was = self.identity
        if was is None or self.epoch != epoch:
            return False
        return was == identity or (identity.size == durable and was.is_before(identity))

    def head(self) -> Head:
        """Return the head of what was verified, which is durable."""
        assert self.identity is not None, "there is a log"
        size, (_, device, inode, _) = self.verified.size, self.identity
        return Head(self.verified.last_seq, size, device, inode, self.epoch)


class Logs:
    """The logs of a folder, and what is known of them."""

    def __init__(self, folder: SessionFolder) -> None:
        self._folder = folder
        self._known: LRUCache[str, Known] = LRUCache(_SESSIONS_KNOWN)

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, session_id: str, known: Known) -> None:
        """Remember what is known of a log."""
        self._known[session_id] = known

    def forget(self, session_id: str) -> None:
        """Forget a log, which is read as a whole when it is opened again."""
        self._known.pop(session_id, None)

    def open(self, session_id: str) -> Known:
        """Return what is known of a log, of which as much is read as has to be.

        Raises:
            EventProjectionHaltedError: the session was halted.
            EventStoreStateError: the log has lost something that was durable.
            EventSerializationError, SchemaVersionMismatchError: it cannot be read.

        """
        marker = read_halt(self._folder, session_id)
        if marker is not None:
            raise EventProjectionHaltedError(marker)
        layout, disk = self._folder.layout, self._folder.disk
        log = layout.log(session_id)
        head, identity = read_head(disk, layout.head(session_id)), disk.identity(log)
        compacted = read_number(disk, layout.compacted(session_id), COMPACTED) or 0
        if identity is None:
            if (head is not None and head.size) or compacted:
                raise EventStoreStateError(f"the log '{log}' is gone, which had events")
            return Known(Verified(), None)
        durable = None if head is None or not head.is_of(identity) else head.size
        if durable is not None and identity.size < durable:
            message = f"the log '{log}' has {identity.size} bytes of {durable} that were durable"
            raise EventStoreStateError(message)
        epoch = 0 if head is None else head.epoch_of(identity)
        known = self._known.get(session_id)
        is_known = known is not None and known.begins(identity, durable, epoch)
        verified = known.verified if known is not None and is_known else Verified()
        if verified.size < identity.size:
            self.forget(session_id)  # a part that cannot be read leaves it half read
            self._verify(log, verified, identity.size, durable)
            if verified.size > (durable or 0):
                self._settle(log)
        if compacted and verified.last_seq <= compacted:
            message = f"the log '{log}' has lost what followed event {compacted}"
            raise EventStoreStateError(message)
        found = Known(verified, identity, epoch, compacted)
        self.remember(session_id, found)
        return found

    def _verify(self, log: Path, verified: Verified, size: int, durable: int | None) -> None:
        """Read what was not verified of a log.

        A log without a head of its own is durable up to its last whole line.
        """
        for place, line in read_lines(self._folder.disk, log, verified.size, size):
            is_durable = line.endswith(b"\n") if durable is None else place < durable
            if not take_line(verified, place, line, is_durable=is_durable):
                break

    def _settle(self, log: Path) -> None:
        """Make durable what was found behind the head, before anybody is told of it."""
        disk, root = self._folder.disk, self._folder.layout.root
        try:
            disk.sync(log)
            disk.sync_folder(root)
            disk.sync_folder(root.parent)
        except OSError as error:
            # What this process may not write to was not written by one that crashed just now.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise

    def rows(
        self, session_id: str, known: Verified, from_seq: int, *, limit: int
    ) -> tuple[list[StoredEvent], bool]:
        """Read rows of the verified part, and whether there are more."""
        rows: list[StoredEvent] = []
        log, at, size = self._folder.layout.log(session_id), known.place_of(from_seq), 0
        for _, line in read_lines(self._folder.disk, log, at, known.size):
            if not line.strip():
                continue
            row = read_row(line)
            if row.seq < from_seq:
                continue
            if len(rows) >= limit or (rows and size + len(line) > PAGE_BYTES_MAX):
                return rows, True
            rows.append(row)
            size += len(line)
        return rows, False
