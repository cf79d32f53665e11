"""Deliveries, compared with the log and with each other (I1, I2, I6, I8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import chain_text, seq_of

from ._barriers import Barriers
from ._history import fingerprint
from ._verdicts import Verdict, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.protocol import Event

    from ._evidence import Evidence, Following
    from ._final_log import Log
    from ._history import Delivered
    from ._verdicts import Exhibit


def check_deliveries(evidence: Evidence) -> Iterator[Violation]:
    """Judge every subscription, and all of them together."""
    barriers: dict[tuple[str, str], Barriers] = {}
    contents = _Contents()
    for following in evidence.followings.values():
        began = following.began
        mine = None
        if began.user_id is not None:
            member = (began.workspace_id, began.user_id)
            mine = barriers.get(member)
            if mine is None:
                mine = barriers[member] = Barriers(evidence, *member)
        yield from _check_dense(following)
        yield from _check_contents(evidence, following, contents)
        if mine is not None:
            yield from _check_revoked(evidence, following, mine)
        yield from _check_seen(evidence, following, mine)


# ---------------------------------------------------------------------------------------- numbers


def _check_dense(following: Following) -> Iterator[Violation]:
    due = following.began.cursor + 1
    before: Exhibit = following.began
    was_back = False
    for record in following.delivered:
        if record.number > due:
            sentence = f"{record.number} came where {due} was due"
            yield _violation(Verdict.GAP, following, sentence, record, before)
        elif record.number < due and not was_back:
            # A repeated stretch counts as one step back.
            sentence = f"{record.number} came again, {due} was due"
            yield _violation(Verdict.STEP_BACK, following, sentence, record, before)
        was_back = record.number < due
        due = max(due, record.number + 1)
        before = record


# --------------------------------------------------------------------------------------- contents


class _Contents:
    """The first delivery of each number of each stream."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, int], Delivered] = {}

    def see(self, workspace_id: str, stream_id: str, record: Delivered) -> Delivered | None:
        """Record a delivery; return an earlier one of the same number if its event differs."""
        key = (workspace_id, stream_id, record.number)
        first = self._first.setdefault(key, record)
        return None if first.event_id == record.event_id else first


def _check_contents(
    evidence: Evidence, following: Following, contents: _Contents
) -> Iterator[Violation]:
    began = following.began
    log = evidence.log(began.workspace_id)
    lost: Delivered | None = None
    for record in following.delivered:
        event = log.by_id.get(record.event_id)
        if event is None and _is_excused(evidence, log, following, record):
            lost = lost or record
            continue
        other = contents.see(began.workspace_id, began.stream_id, record)
        if other is not None:
            sentence = f"{record.number} of {began.stream_id} is another event for another reader"
            yield _violation(Verdict.INCONSISTENT_OFFSET, following, sentence, record, other)
        if event is None:
            sentence = f"event {record.event_id} came as {record.number}, and is not in the log"
            yield _violation(Verdict.ABORTED_READ, following, sentence, record)
            continue
        differs = _difference(following, record, event)
        if differs is not None:
            sentence = f"{record.number} of {began.stream_id} came with another {differs}"
            yield _violation(Verdict.INCONSISTENT_OFFSET, following, sentence, record, event)
        if lost is not None:
            sentence = f"{record.number} came after {lost.number} of a history that was lost"
            yield _violation(Verdict.INCONSISTENT_OFFSET, following, sentence, record, lost)
            lost = None


def _is_excused(evidence: Evidence, log: Log, following: Following, record: Delivered) -> bool:
    """Return whether an event that is not in the log may have been lost with its tail."""
    rollbacks = evidence.rollbacks_of(following.began.workspace_id)
    if record.event_id in rollbacks.lost:
        return True
    kept = rollbacks.kept_since(following.position)
    if kept is None:
        return False
    if not following.is_workspace_stream and record.event_seq is None:
        return record.number > log.version_at(following.began.stream_id, kept)
    return (record.number if record.event_seq is None else record.event_seq) > kept


def _difference(following: Following, record: Delivered, event: Event) -> str | None:
    """Return in what a delivery differs from the log; None if it does not."""
    if not following.is_workspace_stream and event.stream_id != following.began.stream_id:
        return "stream in the log"
    if record.number != seq_of(event, is_workspace_stream=following.is_workspace_stream):
        return "number in the log"
    if record.event_seq not in {None, event.event_seq}:
        return "event_seq"
    if record.chain not in {None, chain_text(event.chain)}:
        return "chain"
    if record.payload is not None and record.payload != fingerprint(event.payload):
        return "payload"
    return None


# ----------------------------------------------------------------------------------------- access


def _check_revoked(
    evidence: Evidence, following: Following, barriers: Barriers
) -> Iterator[Violation]:
    removed = barriers.of(following.position)
    if removed is None:
        return
    log = evidence.log(following.began.workspace_id)
    for record in following.delivered:
        event = log.by_id.get(record.event_id)
        event_seq = record.event_seq if event is None else event.event_seq
        if event_seq is not None and event_seq > removed.event_seq:
            sentence = (
                f"{following.began.user_id} got {event_seq}, and was removed at {removed.event_seq}"
            )
            yield _violation(Verdict.AFTER_REVOCATION, following, sentence, record, removed)
            return


# ---------------------------------------------------------------------------------------- in time


def _check_seen(
    evidence: Evidence, following: Following, barriers: Barriers | None
) -> Iterator[Violation]:
    """Judge whether a subscription that lasts has everything that it must have by now."""
    began = following.began
    if evidence.rollbacks_of(began.workspace_id).kept_since(following.position) is not None:
        return  # it followed a history that was lost
    due = _due(evidence, following)
    removed = None if barriers is None else barriers.perhaps_of(following.position)
    if removed is not None:
        due = min(due, removed.event_seq)
    if not following.is_workspace_stream:
        due = evidence.log(began.workspace_id).version_at(began.stream_id, due)
    last = max((record.number for record in following.delivered), default=began.cursor)
    if last < due:
        sentence = f"still follows {began.stream_id}, has {last} of {due}"
        yield _violation(Verdict.UNSEEN, following, sentence, *following.delivered[-1:])


def _due(evidence: Evidence, following: Following) -> int:
    """Return the head that a subscription must have reached: 0 if it ended before."""
    ended = len(evidence.history) + 1 if following.ended is None else following.ended
    workspace_id = following.began.workspace_id
    return max(
        heads.by_workspace.get(workspace_id, 0)
        if heads is not None and following.position < heads.position and heads.until < ended
        else 0
        for heads in (evidence.settled, evidence.lately)
    )


def _violation(
    verdict: Verdict, following: Following, sentence: str, *exhibits: Exhibit
) -> Violation:
    began = following.began
    return Violation(
        verdict=verdict,
        workspace_id=began.workspace_id,
        sentence=f"{began.subscription} on {began.connection}: {sentence}",
        exhibits=(*exhibits, began),
    )
