"""Where a folder has the files of its sessions.

{root}/{session}.jsonl                    the log: one row a line
{root}/{session}.jsonl.new                … and what takes its place, while that is written
{root}/.sequence/{session}.seq            the sequence's owner: the last number that was given
{root}/.sequence/{session}.head           the head: how much of the log is durable
{root}/.sequence/{session}.compacted      the number up to which events were removed
{root}/.sequence/{session}.lock           held by who appends, shared by who reads
{root}/.sequence/{session}.turn           held by who carries out a turn
{root}/.projection-halts/{session}.json   the marker of a session that was halted
{root}/.projection-halts/{session}.log    who cleared such a marker, and why
{root}/.repairs/{session}-{n}.jsonl       a damaged log, as it was before a repair
{root}/.repairs/{session}.log             who repaired a session, why, and what was wrong
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of sessions' files in one folder."""

    root: Path

    @property
    def sequences(self) -> Path:
        """Return the folder of owners, heads, compaction markers and locks."""
        return self.root / ".sequence"

    @property
    def halts(self) -> Path:
        """Return the folder of halt markers."""
        return self.root / ".projection-halts"

    @property
    def repairs(self) -> Path:
        """Return the folder of damaged logs and of repairs' records."""
        return self.root / ".repairs"

    def log(self, session_id: str) -> Path:
        """Return where a session's log is."""
        return self.root / f"{session_id}.jsonl"

    def new_log(self, session_id: str) -> Path:
        """Return where the log is written that takes the place of a session's log."""
        return self.root / f"{session_id}.jsonl.new"

    def owner(self, session_id: str) -> Path:
        """Return where the owner of a session's sequence is."""
        return self.sequences / f"{session_id}.seq"

    def head(self, session_id: str) -> Path:
        """Return where a session's head is."""
        return self.sequences / f"{session_id}.head"

    def compacted(self, session_id: str) -> Path:
        """Return where a session's compaction marker is."""
        return self.sequences / f"{session_id}.compacted"

    def lock(self, session_id: str) -> Path:
        """Return the file that is locked for a session."""
        return self.sequences / f"{session_id}.lock"

    def turn(self, session_id: str) -> Path:
        """Return the file that is locked while a turn of a session is carried out."""
        return self.sequences / f"{session_id}.turn"

    def halt(self, session_id: str) -> Path:
        """Return where a session's halt marker is."""
        return self.halts / f"{session_id}.json"

    def cleared_halts(self, session_id: str) -> Path:
        """Return where it is recorded who cleared a session's halts."""
        return self.halts / f"{session_id}.log"

    def set_aside(self, session_id: str, number: int) -> Path:
        """Return where a damaged log of a session is kept."""
        return self.repairs / f"{session_id}-{number}.jsonl"

    def repaired(self, session_id: str) -> Path:
        """Return where a session's repairs are recorded."""
        return self.repairs / f"{session_id}.log"
