"""Halted sessions: a marker that is as durable as the log, and a record of who cleared it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.runtime.disk import append_line, replace, settle_folder

from ._errors import EventSerializationError
from ._events import EventProjectionHaltMarker

if TYPE_CHECKING:
    from ._folder import SessionFolder


def read_halt(folder: SessionFolder, session_id: str) -> EventProjectionHaltMarker | None:
    """Read the marker of a halted session, None where it is not halted.

    Raises:
        EventSerializationError: it cannot be read; the session is halted for all that.

    """
    text = folder.disk.read(folder.layout.halt(session_id))
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=EventProjectionHaltMarker)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventSerializationError(f"a halt marker that is none: {error}") from None


def record_halt(folder: SessionFolder, session_id: str, reason: str) -> None:
    """Halt a session, durably."""
    marker = EventProjectionHaltMarker(
        session_id=session_id, reason=reason, recorded_at=folder.world.now()
    )
    path = folder.layout.halt(session_id)
    settle_folder(folder.disk, path.parent)
    text = msgspec.json.format(msgspec.json.encode(marker), indent=2)
    replace(folder.disk, path, text + b"\n")


def clear_halt(folder: SessionFolder, session_id: str, *, by: str, reason: str) -> bool:
    """Clear the halt of a session, once it is on record; return whether it was halted."""
    path = folder.layout.halt(session_id)
    text = folder.disk.read(path)
    if text is None:
        return False
    record = {
        "by": by,
        "reason": reason,
        "at": folder.world.now(),
        "cleared": text.decode("utf-8", "replace").strip(),
    }
    append_line(folder.disk, folder.layout.cleared_halts(session_id), msgspec.json.encode(record))
    folder.disk.remove(path)
    folder.disk.sync_folder(path.parent)
    return True
