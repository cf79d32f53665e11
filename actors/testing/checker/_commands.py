"""Commands and reads, compared with the log (I2, I4, I5, and the order of I1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._barriers import Barriers
from ._evidence import NEVER
from ._history import Answered, CommandSent, ReadSent
from ._verdicts import Verdict, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.protocol import Event

    from ._evidence import Attempt, Evidence, Intent

_CONFLICT = "VERSION_CONFLICT"


def check_commands(evidence: Evidence) -> Iterator[Violation]:
    """Judge every command."""
    for intent in evidence.intents.values():
        yield from _check_effects(evidence, intent)
        yield from _check_order(evidence, intent)
        for attempt in intent.attempts:
            yield from _check_answer(evidence, intent, attempt)


def check_reads(evidence: Evidence) -> Iterator[Violation]:
    """Judge every read."""
    barriers: dict[tuple[str, str], Barriers] = {}
    for attempt in evidence.reads.values():
        answer = attempt.answer
        if answer is None:
            yield from _check_waiting(evidence, attempt)
        elif answer.outcome == "ok":
            yield from _check_fresh(evidence, attempt, answer)
            yield from _check_committed(evidence, attempt, answer)
            yield from _check_allowed(evidence, attempt, answer, barriers)


# ---------------------------------------------------------------------------------------- effects


def _check_effects(evidence: Evidence, intent: Intent) -> Iterator[Violation]:
    """Judge the effects of an intent: once, in full, and none if every attempt failed."""
    if not intent.effects:
        return
    sent = intent.attempts[0].sent
    events = [event for effect in intent.effects.values() for event in effect]
    if len(intent.effects) > 1:
        sentence = f"{_name(sent)} took effect {len(intent.effects)} times"
        firsts = (effect[0] for effect in intent.effects.values())
        yield _violation(Verdict.DUPLICATE, sent, sentence, *firsts)
    elif sent.events_max is not None and len(events) > sent.events_max:
        sentence = f"{_name(sent)} has {len(events)} events where {sent.events_max} are the most"
        yield _violation(Verdict.DUPLICATE, sent, sentence, *events)
    elif len(events) < sent.events_min:
        sentence = f"{_name(sent)} has {len(events)} of at least {sent.events_min} events"
        yield _violation(Verdict.LOST_WRITE, sent, sentence, *events)
    answers = [attempt.answer for attempt in intent.attempts]
    failed = [answer for answer in answers if answer is not None and answer.outcome == "fail"]
    if len(failed) == len(answers):
        sentence = f"{_name(sent)} was reported as {failed[0].code}, and is in the log"
        yield _violation(Verdict.GHOST_FAIL, sent, sentence, failed[0], events[0])


def _check_order(evidence: Evidence, intent: Intent) -> Iterator[Violation]:
    """Judge the numbers of an intent's events by what was known before it was sent."""
    first = intent.attempts[0]
    if any(attempt.answer is not None and attempt.answer.repeated for attempt in intent.attempts):
        return  # the number is an earlier command's
    known = _known(evidence, first)
    for effect in intent.effects.values():
        if effect[0].event_seq <= known:
            sentence = (
                f"{_name(first.sent)} got {effect[0].event_seq}, "
                f"and {known} was known before it was sent"
            )
            yield Violation(
                verdict=Verdict.REAL_TIME,
                workspace_id=intent.workspace_id,
                sentence=sentence,
                exhibits=(first.sent, effect[0], *first.known[1]),
            )


# ---------------------------------------------------------------------------------------- answers


def _check_answer(
    evidence: Evidence, intent: Intent, attempt: Attempt[CommandSent]
) -> Iterator[Violation]:
    answer = attempt.answer
    if answer is None:
        yield from _check_waiting(evidence, attempt)
    elif answer.outcome == "fail":
        yield from _check_rejection(evidence, attempt, answer)
    elif answer.outcome == "ok" and not _is_excused(evidence, attempt, answer):
        if intent.effects:
            yield from _check_receipt(intent, attempt.sent, answer)
        elif attempt.sent.events_min > 0:
            sentence = f"{_name(attempt.sent)} was acknowledged, and is not in the log"
            yield _violation(Verdict.LOST_WRITE, attempt.sent, sentence, answer)
        else:
            yield from _check_no_change(evidence, intent, attempt.sent, answer)


def _check_receipt(intent: Intent, sent: CommandSent, answer: Answered) -> Iterator[Violation]:
    """Judge a receipt by the effect that it reports."""
    effect = intent.effects.get(answer.command_id or "")
    if effect is None:
        if answer.command_id is not None:
            sentence = f"the receipt of {_name(sent)} names a command that is not in the log"
            yield _violation(Verdict.WRONG_RECEIPT, sent, sentence, answer)
            return
        effect = next(iter(intent.effects.values()))
    if answer.event_seq not in {None, effect[-1].event_seq}:
        sentence = (
            f"the receipt of {_name(sent)} says {answer.event_seq}, the log {effect[-1].event_seq}"
        )
        yield _violation(Verdict.WRONG_RECEIPT, sent, sentence, answer, effect[-1])
    stream_id = answer.stream_id or sent.stream_id
    own = [event for event in effect if event.stream_id == stream_id]
    if own and answer.version not in {None, own[-1].stream_seq}:
        sentence = (
            f"the receipt of {_name(sent)} says version {answer.version} of {stream_id}, "
            f"the log {own[-1].stream_seq}"
        )
        yield _violation(Verdict.WRONG_RECEIPT, sent, sentence, answer, own[-1])


def _check_no_change(
    evidence: Evidence, intent: Intent, sent: CommandSent, answer: Answered
) -> Iterator[Violation]:
    """Judge the receipt of a command that changed nothing: it names the head that it saw."""
    if answer.event_seq is None:
        return
    head = evidence.log(sent.workspace_id).head
    if answer.event_seq > head:
        sentence = f"{_name(sent)} saw {answer.event_seq}, and the log ends at {head}"
        yield _violation(Verdict.ABORTED_READ, sent, sentence, answer)
    # The receipt may be the first attempt's.
    known = _known(evidence, intent.attempts[0])
    if answer.event_seq < known and not answer.repeated:
        sentence = f"{_name(sent)} saw {answer.event_seq}, and {known} was known before it was sent"
        yield _violation(Verdict.STALE_READ, sent, sentence, answer)


def _check_rejection(
    evidence: Evidence, attempt: Attempt[CommandSent], answer: Answered
) -> Iterator[Violation]:
    """Judge a conflict: the version that it names was current while the command was in flight.

    A rejection that was decided on speculative state and sent before the commit shows here when
    that commit is lost: the version does not exist, or its command was sent only later.
    """
    sent = attempt.sent
    version = (answer.details or {}).get("current_version")
    if answer.code != _CONFLICT or sent.stream_id is None or not isinstance(version, int):
        return
    why = _impossible(evidence, attempt, sent.stream_id, version)
    known = evidence.log(sent.workspace_id).version_at(sent.stream_id, _known(evidence, attempt))
    if why is None and version < known:
        why = f"and {known} was known before it was sent"
    if why is not None:
        sentence = f"{_name(sent)} was told that {sent.stream_id} is at {version}, {why}"
        yield _violation(Verdict.PHANTOM_REJECT, sent, sentence, answer)


# ------------------------------------------------------------------------------------------ reads


def _check_fresh(
    evidence: Evidence, attempt: Attempt[ReadSent], answer: Answered
) -> Iterator[Violation]:
    """Judge whether a read reflects what it asked for, and what its client had written."""
    sent = attempt.sent
    if answer.event_seq is not None and answer.event_seq < sent.min_seq:
        sentence = f"a read that needs {sent.min_seq} reflects {answer.event_seq}"
        yield _violation(Verdict.STALE_READ, sent, sentence, answer)
    elif sent.stream_id is not None and answer.version is not None:
        kept = evidence.rollbacks_of(sent.workspace_id).kept_since(attempt.position)
        own = attempt.own if kept is None else min(attempt.own, kept)
        needs = max(sent.min_seq, own)
        due = evidence.log(sent.workspace_id).version_at(sent.stream_id, needs)
        if answer.version < due:
            sentence = (
                f"a read that needs {needs} shows version {answer.version} "
                f"of {sent.stream_id}, which was at {due} then"
            )
            yield _violation(Verdict.STALE_READ, sent, sentence, answer)


def _check_committed(
    evidence: Evidence, attempt: Attempt[ReadSent], answer: Answered
) -> Iterator[Violation]:
    """Judge whether what was read ever existed."""
    sent = attempt.sent
    log, rollbacks = evidence.log(sent.workspace_id), evidence.rollbacks_of(sent.workspace_id)
    seq = answer.event_seq
    if seq is not None and seq > log.head and not rollbacks.excuse(attempt.position, seq):
        sentence = f"a read reflects {seq}, and the log ends at {log.head}"
        yield _violation(Verdict.ABORTED_READ, sent, sentence, answer)
    elif sent.stream_id is not None and answer.version is not None:
        why = _impossible(evidence, attempt, sent.stream_id, answer.version)
        if why is not None:
            sentence = f"a read shows version {answer.version} of {sent.stream_id}, {why}"
            yield _violation(Verdict.ABORTED_READ, sent, sentence, answer)


def _check_allowed(
    evidence: Evidence,
    attempt: Attempt[ReadSent],
    answer: Answered,
    barriers: dict[tuple[str, str], Barriers],
) -> Iterator[Violation]:
    """Judge whether the reader was a member when, or after, what was read was written."""
    sent = attempt.sent
    if sent.user_id is None or sent.stream_id is None or attempt.answered is None:
        return
    if evidence.rollbacks_of(sent.workspace_id).kept_since(attempt.position) is not None:
        return
    member = (sent.workspace_id, sent.user_id)
    if member not in barriers:
        barriers[member] = Barriers(evidence, *member)
    event = evidence.log(sent.workspace_id).of_version(sent.stream_id, answer.version or 0)
    removed = barriers[member].of(attempt.answered)
    if event is not None and removed is not None and event.event_seq > removed.event_seq:
        sentence = (
            f"{sent.user_id} read what {event.event_seq} wrote, "
            f"and was removed at {removed.event_seq}"
        )
        yield _violation(Verdict.AFTER_REVOCATION, sent, sentence, event, removed)


# ----------------------------------------------------------------------------------------- common


def _impossible(
    evidence: Evidence,
    attempt: Attempt[CommandSent] | Attempt[ReadSent],
    stream_id: str,
    version: int,
) -> str | None:
    """Return why an answer cannot have seen a version; None if it can."""
    workspace_id = attempt.sent.workspace_id
    kept = evidence.rollbacks_of(workspace_id).kept_since(attempt.position)
    log = evidence.log(workspace_id)
    if version == 0 or (kept is not None and version > log.version_at(stream_id, kept)):
        return None
    event = log.of_version(stream_id, version)
    if event is None:
        return "which never existed"
    answered = NEVER if attempt.answered is None else attempt.answered
    if evidence.first_sent(event) > answered:
        return "whose command was sent only later"
    return None


def _check_waiting(
    evidence: Evidence, attempt: Attempt[CommandSent] | Attempt[ReadSent]
) -> Iterator[Violation]:
    if evidence.settled is not None and attempt.position < evidence.settled.position:
        sentence = f"{_name(attempt.sent)} has no answer, and all has settled"
        yield _violation(Verdict.UNANSWERED, attempt.sent, sentence)


def _is_excused(evidence: Evidence, attempt: Attempt[CommandSent], answer: Answered) -> bool:
    """Return whether what was acknowledged may have been lost with a tail; yes without a number."""
    kept = evidence.rollbacks_of(attempt.sent.workspace_id).kept_since(attempt.position)
    return kept is not None and (answer.event_seq is None or answer.event_seq > kept)


def _known(evidence: Evidence, attempt: Attempt[CommandSent] | Attempt[ReadSent]) -> int:
    """Return the head that was known when something was sent, as far as it was not lost since."""
    kept = evidence.rollbacks_of(attempt.sent.workspace_id).kept_since(attempt.position)
    return attempt.known[0] if kept is None else min(attempt.known[0], kept)


def _name(sent: CommandSent | ReadSent) -> str:
    if isinstance(sent, ReadSent):
        return f"a read by {sent.client}"
    return f"command {sent.marker or sent.op} of {sent.client}"


def _violation(
    verdict: Verdict, sent: CommandSent | ReadSent, sentence: str, *exhibits: Answered | Event
) -> Violation:
    return Violation(
        verdict=verdict,
        workspace_id=sent.workspace_id,
        sentence=sentence,
        exhibits=(sent, *exhibits),
    )
