"""The checker: compares what clients saw with the final log, in linear time.

    violations = check(recorder.history, {"acme": events})
    assert not violations, "\\n".join(map(str, violations))

Each answer of the runtime carries its number, so the order of events is known, and need not be
searched for, as checkers of linearizability do.  What remains are comparisons: everything
acknowledged is in the log, once, where its receipt says; everything seen is in the log; whatever
was sent after something was known comes after it in the log; every reader got every number once,
in order.  `Verdict` names all that can be found.

The checker finds only what a history shows: what nobody recorded is not judged, and what is
ambiguous is read favourably.  A `Report` counts how much there was to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._commands import check_commands, check_reads
from ._cursors import check_cursors
from ._deliveries import check_deliveries
from ._evidence import Evidence
from ._log import check_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dalsegno.actors.ports import CursorKey, Head
    from dalsegno.protocol import Event

    from ._history import Record
    from ._log import RunRule
    from ._verdicts import Violation


def correlation_marker(event: Event) -> str | None:
    """Return an event's ``correlation_id``, which over the wire is the command's ``request_id``."""
    return event.correlation_id


def check(
    history: Sequence[Record],
    log: Mapping[str, Sequence[Event]],
    *,
    marker_of: Callable[[Event], str | None] = correlation_marker,
    cursors: Mapping[CursorKey, int] | None = None,
    heads: Mapping[str, Head] | None = None,
    seen_within_s: float | None = None,
    runs: RunRule | None = None,
) -> list[Violation]:
    """Return everything in a history that must not happen, in a deterministic order.

    Args:
        history: what was sent and seen, in the order of time.
        log: every workspace's events in the end, ascending from the first; a workspace that only
            the history names has none.
        marker_of: returns the marker of the `CommandSent` that led to an event.
        cursors: the stored cursors in the end, after all acks were written.
        heads: the heads in the end.
        seen_within_s: how long an event may take to reach a subscriber; None: only what has not
            arrived once all has `Settled` counts as unseen.
        runs: how runs are recognised, if there are any.

    """
    heads = heads or {}
    evidence = Evidence(history, log, marker_of, seen_within_s=seen_within_s)
    return [
        *check_logs(evidence, heads=heads, runs=runs),
        *check_commands(evidence),
        *check_reads(evidence),
        *check_deliveries(evidence),
        *check_cursors(evidence, cursors=cursors, heads=heads),
    ]
