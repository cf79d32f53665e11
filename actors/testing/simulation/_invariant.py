"""A program's own invariant, asked of every state that a workspace was ever in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from dalsegno.actors.testing.checker import Verdict, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dalsegno.protocol import Domain, Event

    Invariant: TypeAlias = Callable[[Mapping[str, Any]], str | None]
    """Takes the states of all entities that exist, by stream, as ``room:blue``; returns what is
    wrong, None for nothing."""


def check_invariant(
    invariant: Invariant,
    domains: Sequence[Domain[Any, Any, Any]],
    log: Mapping[str, Sequence[Event]],
) -> list[Violation]:
    """Fold every log, and ask where a command, or a group, has all its events; the first answer."""
    by_name = {domain.name: domain for domain in domains}
    found = []
    for workspace_id, events in log.items():
        states: dict[str, Any] = {}
        for event, following in zip(events, [*events[1:], None], strict=True):
            fold_into(by_name, states, event)
            if following is not None and _cause(following) == _cause(event):
                continue
            wrong = invariant(states)
            if wrong is not None:
                found.append(
                    Violation(
                        verdict=Verdict.INVARIANT,
                        workspace_id=workspace_id,
                        sentence=f"{wrong}, after {event.event_seq}",
                        exhibits=(event,),
                    )
                )
                break
    return found


def _cause(event: Event) -> str:
    """Return what tells the commands of a log apart; those of a group share it."""
    return event.correlation_id or event.command_id


def fold_into(
    domains: Mapping[str, Domain[Any, Any, Any]], states: dict[str, Any], event: Event
) -> None:
    """Fold an event of one of these domains into the states of all entities, by stream."""
    domain = domains.get(event.stream_id.partition(":")[0])
    known = domain and domain.decode(event.type, event.type_version, event.payload)
    if domain is None or known is None:
        return
    state = domain.evolve_by(states.get(event.stream_id), known)
    if state is None:
        states.pop(event.stream_id, None)
    else:
        states[event.stream_id] = state
