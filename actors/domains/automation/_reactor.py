"""What sets rules off: events of notes ask for the runs of the rules whose conditions they meet.

A rule is judged once for each event, right after it: it counts as it stands then, unless it was
made after the event.  Whoever is told of an event twice asks for runs that there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dalsegno.actors.domains.notes import Note, NoteEvent, notes
from dalsegno.protocol import BEGINNING, Listed, Rate, RunFor
from dalsegno.protocol.runs import ReactionTo

from ._bounded import EvaluationError
from ._conditions import document_of, holds, is_always
from ._domain import Rule, automation_rules
from ._runs import REACTOR, WORKER, Task, labels_of
from ._triggers import RULES_PER_TRIGGER_MAX, of_note, on_key, triggers

TRIGGERS = Rate(name="automation-trigger", times=60, window_s=60.0)
"""How often a rule is set off; above, its run is asked for and fails (KJ-RATE-1)."""


@notes.requests(NoteEvent, name=REACTOR)
async def automation_reactor(reaction: ReactionTo, event: NoteEvent) -> Sequence[RunFor]:
    """Return the runs that an event of a note asks for.

    What a run of a rule does sets none off: a reactor is not told of it (X-AUTO-8).
    """
    record = reaction.record
    document: dict[str, object] | None = None
    asked: list[RunFor] = []
    for listed in await _rules_on(reaction, record.type):
        rule = listed.state
        if rule.created_at > record.recorded_at:
            continue
        if document is None and not is_always(rule.condition_json):
            note: Note = await reaction.state()
            document = document_of(record, event, note)
        await reaction.pause()  # a condition may take all that it may
        try:
            if not holds(rule.condition_json, document or {}):
                continue
        except EvaluationError as error:
            reaction.fail(f"rule {listed.entity_id}", error)
            continue
        asked.append(_run_for(reaction, listed.entity_id, rule))
    return asked


async def _rules_on(reaction: ReactionTo, trigger: str) -> list[Listed[Rule]]:
    """Return the enabled rules of a trigger, in the order of their ids.

    Most events set none off, which memory knows: only where there are some is the store asked.
    """
    if await reaction.get(triggers, trigger) is None:
        return []
    rules: list[Listed[Rule]] = []
    place = BEGINNING
    while True:
        page = await reaction.snapshot(
            automation_rules, key=on_key(trigger), after=place, limit=RULES_PER_TRIGGER_MAX
        )
        rules += page.items
        if page.next is None:
            return rules
        place = page.next


def _run_for(reaction: ReactionTo, rule_id: str, rule: Rule) -> RunFor:
    record = reaction.record
    note_id = record.stream_id.partition(":")[2]
    trigger_id = of_note(note_id, record.stream_seq)
    task = Task(
        rule_id=rule_id,
        trigger_id=trigger_id,
        action=rule.action_json,
        note_id=note_id,
        is_limited=not reaction.spend(TRIGGERS, rule_id),
    )
    return RunFor(
        worker=WORKER,
        key=rule_id,
        trigger_id=trigger_id,
        input=msgspec.to_builtins(task),
        labels=labels_of(rule_id, trigger_id, rule.action_json),
        requested_by=rule.created_by,
    )
