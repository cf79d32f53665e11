"""Names of files: whose they are, of which run, and which attempt's alone."""

from __future__ import annotations

from urllib.parse import quote, unquote

NAME_CHARS_MAX = 200


def name_of(workspace_id: str, run_id: str, attempt_id: str) -> str:
    """Return the name of what an attempt writes, which no other attempt has."""
    return "!".join(quote(part, safe="") for part in (workspace_id, run_id, attempt_id))


def ids_in(name: str) -> tuple[str, str, str] | None:
    """Return the ids of a workspace, a run and an attempt that a name has; None where it has none.

    What follows the attempt's id, such as the suffix of a file, is a part of it.
    """
    ids = [unquote(part) for part in name.split("!")]
    return (ids[0], ids[1], ids[2]) if len(ids) == 3 else None
