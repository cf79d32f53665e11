"""The log on its own: dense, chained, in the order of time, each command once, each by a member.

What the log shows by itself of I1, I5, I8 and I12.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.members import members
from dalsegno.protocol import CHAIN_START, chained

from ._verdicts import Verdict, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dalsegno.actors.ports import Head
    from dalsegno.protocol import Event

    from ._evidence import Evidence
    from ._final_log import Log


class RunRule(msgspec.Struct, frozen=True, kw_only=True):
    """The streams of runs, and the events that begin and end one."""

    started: frozenset[str]
    """The types of the events that begin one."""
    terminal: frozenset[str]
    """The types of the events that end one."""
    cancelled: frozenset[str] = frozenset()
    """The types of the events from which on nothing of one takes effect."""
    prefix: str = "run:"
    """The prefix of their streams, which is what their effects are caused by."""


def check_logs(
    evidence: Evidence, *, heads: Mapping[str, Head], runs: RunRule | None
) -> Iterator[Violation]:
    """Judge every log."""
    for workspace_id, log in evidence.logs.items():
        yield from _check_numbers(workspace_id, log)
        yield from _check_chain(workspace_id, log)
        yield from _check_times(workspace_id, log)
        yield from _check_once(workspace_id, log)
        yield from _check_writers(evidence, workspace_id, log)
        if runs is not None:
            yield from _check_runs(workspace_id, log, runs)
    for workspace_id, head in heads.items():
        yield from _check_head(workspace_id, evidence.log(workspace_id), head)


def _check_numbers(workspace_id: str, log: Log) -> Iterator[Violation]:
    due = 1
    versions: dict[str, int] = {}
    for event in log.events:
        if event.workspace_id != workspace_id:
            yield _gap(workspace_id, f"an event of {event.workspace_id} is in this log", event)
        if event.event_seq != due:
            yield _gap(workspace_id, f"{event.event_seq} stands where {due} is due", event)
        version = versions.get(event.stream_id, 0) + 1
        if event.stream_seq != version:
            sentence = f"{event.stream_id} has {event.stream_seq} where {version} is due"
            yield _gap(workspace_id, sentence, event)
        due = event.event_seq + 1
        versions[event.stream_id] = event.stream_seq


def _check_chain(workspace_id: str, log: Log) -> Iterator[Violation]:
    previous = CHAIN_START
    for event in log.events:
        if event.chain != chained(previous, event):
            yield _gap(workspace_id, f"the chain breaks at {event.event_seq}", event)
        # Continue from the stored chain: one break is one violation.
        previous = event.chain


def _check_times(workspace_id: str, log: Log) -> Iterator[Violation]:
    for before, event in pairwise(log.events):
        if event.recorded_at < before.recorded_at:
            yield Violation(
                verdict=Verdict.TIME_REGRESS,
                workspace_id=workspace_id,
                sentence=(
                    f"{event.event_seq} was recorded at {event.recorded_at.isoformat()}, "
                    f"before {before.event_seq} at {before.recorded_at.isoformat()}"
                ),
                exhibits=(event, before),
            )


def _check_once(workspace_id: str, log: Log) -> Iterator[Violation]:
    """Look for repetitions, marked or not: the events of one commit are consecutive."""
    for event in log.events:
        first = log.by_id[event.event_id]
        if first is not event:
            sentence = f"event {event.event_id} is in the log twice"
            yield _duplicate(workspace_id, sentence, first, event)
    for command_id, events in log.commands.items():
        for before, event in pairwise(events):
            scattered = event.event_seq != before.event_seq + 1
            if scattered or event.recorded_at != before.recorded_at:
                sentence = f"command {command_id} has events of two commits"
                yield _duplicate(workspace_id, sentence, before, event)
                break


def _check_writers(evidence: Evidence, workspace_id: str, log: Log) -> Iterator[Violation]:
    """Look for commands of users that were removed before: the log decides who may write (I8).

    It decides of those alone whose command was recorded as theirs: a host may assert a role.
    """
    removed: dict[str, Event] = {}
    command_id = None
    for event in log.events:
        end = removed.get(evidence.sent_for(event) or "")
        if end is not None and event.command_id != command_id:
            yield Violation(
                verdict=Verdict.AFTER_REVOCATION,
                workspace_id=workspace_id,
                sentence=(
                    f"{event.event_seq} was written for {evidence.sent_for(event)}, "
                    f"who was removed at {end.event_seq}"
                ),
                exhibits=(event, end),
            )
        command_id = event.command_id  # one that removes its own sender goes on to its end
        name, _, user_id = event.stream_id.partition(":")
        if name == members.name and event.type in members.role_ended_by:
            removed[user_id] = event
        elif name == members.name and event.type in members.role_given_by:
            removed.pop(user_id, None)


def _check_runs(workspace_id: str, log: Log, rule: RunRule) -> Iterator[Violation]:
    effects: dict[str, Event] = {}
    """The last thing that each run did, outside its own stream."""
    for event in log.events:
        cause = event.causation
        if cause is not None and cause.startswith(rule.prefix) and event.stream_id != cause:
            effects[cause] = event
    for stream_id, events in log.streams.items():
        if stream_id.startswith(rule.prefix):
            for sentence, exhibits in _run_faults(events, effects.get(stream_id), rule):
                yield Violation(
                    verdict=Verdict.RUN_TERMINAL,
                    workspace_id=workspace_id,
                    sentence=f"{stream_id} {sentence}",
                    exhibits=exhibits,
                )


def _run_faults(
    events: Sequence[Event], effect: Event | None, rule: RunRule
) -> Iterator[tuple[str, tuple[Event, ...]]]:
    """Yield what is wrong with a run, from its events and the last of its effects."""
    started = next((event for event in events if event.type in rule.started), None)
    ends = [event for event in events if event.type in rule.terminal]
    if len(ends) > 1 or (started is not None and not ends):
        said = f"has {len(ends)} terminal events" if ends else "started and never ended"
        yield said, tuple(ends) if started is None else (started, *ends)
    if ends and events[-1].event_seq > ends[0].event_seq and len(ends) == 1:
        yield "went on after its end", (ends[0], events[-1])
    if effect is None:
        return
    over = next((each for each in events if each.type in rule.terminal | rule.cancelled), None)
    if over is not None and effect.event_seq > over.event_seq:
        yield "had an effect after its end", (over, effect)


def _check_head(workspace_id: str, log: Log, head: Head) -> Iterator[Violation]:
    last = log.events[-1] if log.events else None
    chain = CHAIN_START if last is None else last.chain
    exhibits = () if last is None else (last,)
    if head.head_seq != log.head:
        sentence = f"the head is {head.head_seq}, and the log ends at {log.head}"
        yield _gap(workspace_id, sentence, *exhibits)
    elif head.chain != chain:
        yield _gap(workspace_id, "the chain of the head is not the last event's", *exhibits)


def _gap(workspace_id: str, sentence: str, *events: Event) -> Violation:
    return Violation(
        verdict=Verdict.LOG_GAP, workspace_id=workspace_id, sentence=sentence, exhibits=events
    )


def _duplicate(workspace_id: str, sentence: str, *events: Event) -> Violation:
    return Violation(
        verdict=Verdict.DUPLICATE, workspace_id=workspace_id, sentence=sentence, exhibits=events
    )
