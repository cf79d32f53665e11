"""What is kept beside a log, a small file each: its owner, its compaction marker and its head.

Each is replaced as a whole, so that a crash leaves the old one or the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime.disk import replace

from ._errors import EventStoreStateError

if TYPE_CHECKING:
    from pathlib import Path

    from dalsegno.runtime.disk import Disk, Identity

OWNER, COMPACTED = "sequence owner", "compaction marker"
"""What the numbers are called in errors."""

Count = Annotated[int, Meta(ge=0)]


class Head(msgspec.Struct, frozen=True):
    """How much of a log is durable, and of which file."""

    seq: Count
    size: Count
    device: int
    inode: int
    epoch: Count = 0
    """How many files have taken the log's place.

    A file that is gone leaves its inode to another one: what is remembered of the first is not
    true of the second, though they look the same.
    """

    def is_of(self, identity: Identity) -> bool:
        """Return whether it is of this file, and not of one that took its place."""
        return (self.device, self.inode) == (identity.device, identity.inode)

    def epoch_of(self, identity: Identity) -> int:
        """Return the epoch of the log that is this file."""
        return self.epoch if self.is_of(identity) else self.epoch + 1

    def detached(self) -> Head:
        """Return the same head, but of no file that there will ever be."""
        return msgspec.structs.replace(self, device=0, inode=0)


def read_head(disk: Disk, path: Path) -> Head | None:
    """Read a head; None where there is none.

    Raises:
        EventStoreStateError: it cannot be read.

    """
    text = disk.read(path)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventStoreStateError(f"durable head '{path}' is invalid: {error}") from None


def write_head(disk: Disk, path: Path, head: Head) -> None:
    """Replace a head, durably."""
    replace(disk, path, msgspec.json.encode(head))


def read_number(disk: Disk, path: Path, what: str) -> int | None:
    """Read a number that is kept in a file of its own; None where there is none (ME-L4).

    Raises:
        EventStoreStateError: the file is empty, or has no number that a sequence can have.

    """
    text = disk.read(path)
    if text is None:
        return None
    stripped = text.strip()
    if not stripped:
        raise EventStoreStateError(f"durable {what} '{path}' is empty")
    if not stripped.isdigit() or len(stripped) > len(str(SEQ_MAX)) or int(stripped) > SEQ_MAX:
        shown = stripped[:40].decode("ascii", "replace")
        raise EventStoreStateError(f"durable {what} '{path}' is invalid: {shown!r}")
    return int(stripped)


def write_number(disk: Disk, path: Path, number: int) -> None:
    """Replace a number in its file, durably."""
    replace(disk, path, b"%d\n" % number)
