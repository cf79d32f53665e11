"""The security log's lines about access: who got which role, who was removed, and by whom.

They are written where the events are committed, so whichever way the command came there is a line,
and none without a change.  The events themselves are the record; these lines are for whoever
watches.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dalsegno.actors.ports import Roles
    from dalsegno.protocol import Event

_log = logging.getLogger("dalsegno.security")


class _Role(msgspec.Struct):
    """What a line tells of a payload: addresses and names are nobody's business here."""

    role: Any = None


def log_access(roles: Roles, events: Iterable[Event]) -> None:
    """Write a line for each committed event that decides on access."""
    if not _log.isEnabledFor(logging.INFO):
        return
    for event in events:
        if event.stream_id.partition(":")[0] in roles.deciding:
            fields = {
                "workspace_id": event.workspace_id,
                "stream_id": event.stream_id,
                "event_seq": event.event_seq,
                "role": _role_in(event.payload),
                "actor_id": event.actor_id,
                "request_id": event.correlation_id,
            }
            _log.info(event.type, extra={k: v for k, v in fields.items() if v is not None})


def _role_in(payload: str) -> Any:  # noqa: ANN401 - whatever a host's domain calls a role
    try:
        return msgspec.json.decode(payload, type=_Role).role
    except msgspec.ValidationError:
        return None  # a payload that is no object
