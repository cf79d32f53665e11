"""Lists with states that were read during a simulation, compared with the log in the end.

A list says at which number all of it held.  What it should have shown then is what the log up to
that number says: nothing is left open by what was going on meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dalsegno.actors.testing.checker import Verdict, Violation

from ._invariant import fold_into

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from dalsegno.protocol import Domain, Event


@dataclass(frozen=True, slots=True)
class Taken:
    """A list that was read."""

    workspace_id: str
    domain: Domain[Any, Any, Any]
    key: str | None
    event_seq: int
    states: Sequence[tuple[str, Any]]
    """Stream and state of each, in order."""


def check_lists(taken: Sequence[Taken], log: Mapping[str, Sequence[Event]]) -> Iterator[Violation]:
    """Judge every list."""
    for each in taken:
        events = log.get(each.workspace_id, ())
        if each.event_seq > len(events):
            yield _violation(each, f"is of {each.event_seq}, which was never committed")
            continue
        states: dict[str, Any] = {}
        for event in events[: each.event_seq]:
            fold_into({each.domain.name: each.domain}, states, event)
        expected = [(stream_id, states[stream_id]) for stream_id in _listed(each, states)]
        if expected != [*each.states]:
            yield _violation(each, f"shows {each.states!r}, where {expected!r} was committed")


def check_due(
    domains: Sequence[Domain[Any, Any, Any]], log: Mapping[str, Sequence[Event]], until: datetime
) -> Iterator[str]:
    """Say what was due by then, by what the log says of its entities, and has not happened."""
    by_name = {domain.name: domain for domain in domains}
    for workspace_id, events in log.items():
        states: dict[str, Any] = {}
        for event in events:
            fold_into(by_name, states, event)
        for stream_id, state in states.items():
            name, _, entity_id = stream_id.partition(":")
            due = by_name[name].due_of(state, entity_id)
            if due is not None and due.at <= until:
                yield f"{workspace_id} {stream_id} was due at {due.at}, and it does not happen"


def _listed(taken: Taken, states: Mapping[str, Any]) -> list[str]:
    """Return the streams that a list shows of states, in its order."""
    if taken.key is None:
        return sorted(states, key=str.encode)
    indexes = {stream_id: taken.domain.indexed(state) for stream_id, state in states.items()}
    listed = [
        ((index.sort or "").encode(), stream_id.encode(), stream_id)
        for stream_id, index in indexes.items()
        if (taken.key in index.keys if taken.key else index.sort is not None)
    ]
    return [stream_id for _, _, stream_id in sorted(listed)]


def _violation(taken: Taken, sentence: str) -> Violation:
    what = f"the list of {taken.domain.name} under {taken.key!r} at {taken.event_seq}"
    return Violation(
        verdict=Verdict.LIST, workspace_id=taken.workspace_id, sentence=f"{what} {sentence}"
    )
