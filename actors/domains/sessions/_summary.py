"""What a session was about last, in the assistant's words."""

from __future__ import annotations

from typing import Any


def assistant_text(before: str | None, event: Any) -> str | None:  # noqa: ANN401 - JSON
    """Return a session's summary after an event, from the one before it.

    A ``text_complete`` whose ``content`` is not blank is the summary from then on; a
    ``transcript_rewritten`` has what it is now as ``assistant_text``, or none.
    """
    if not isinstance(event, dict):
        return before
    match event.get("type"):
        case "text_complete":
            content = event.get("content")
            return content if isinstance(content, str) and content.strip() else before
        case "transcript_rewritten":
            content = event.get("assistant_text")
            return content if isinstance(content, str) and content.strip() else None
    return before
