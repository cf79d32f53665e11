"""The commits that the fan-out publishes, and the line that asks for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dalsegno.protocol import Event, Views
from dalsegno.protocol.dialects import GENERIC

from ._domain import TaskRenamed, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORKSPACE = "w"
PREFIX = '{"type":"event"'
"""How the messages begin that readers in the generic dialect get for events."""

_TITLE = "Water the plants in the hall"
_AT = datetime(2030, 1, 1, tzinfo=UTC)


def commits(head: int, count: int, events: int) -> Iterator[list[Event]]:
    """Make commits of so many events each, after a head."""
    for first in range(head + 1, head + 1 + count * events, events):
        yield [_event(seq) for seq in range(first, first + events)]


def _event(seq: int) -> Event:
    type_, type_version, payload = tasks.encode(TaskRenamed(_TITLE))
    return Event(
        workspace_id=WORKSPACE,
        event_seq=seq,
        stream_id="task:t",
        stream_seq=seq,
        event_id=f"01900000-0000-7000-8000-{seq:012x}",
        type=type_,
        type_version=type_version,
        payload=payload,
        actor_id="01900000-0000-7000-8000-000000000000",
        command_id=f"01900000-0000-7000-9000-{seq:012x}",
        recorded_at=_AT,
        chain=seq,
    )


def messages(events: Sequence[Event]) -> list[bytes]:
    """Write what a reader of the workspace's stream gets."""
    view = Views({tasks.name: tasks}).of(GENERIC, is_workspace_stream=True)
    return view(events)


def asked(line: str) -> tuple[int, int]:
    """Read how many commits of how many events are wanted."""
    count, events = line.split()
    return int(count), int(events)
