"""Stored cursors and epochs, which only go up (I3, I7), a cursor no further than its client said.

Each has a *floor*, the highest value that was certainly reached, and an answer below the floor at
the time of its question is a step back.  A crash takes back what a node may not have written, a
rollback everything of a workspace; an answer that was overtaken by one of them is not judged.  A
cursor has a *ceiling* too, the highest number that its client acknowledged of the history that is
left: above it, it would skip events that the client never had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import workspace_stream

from ._history import AckSent, Answered, Crashed, CursorAsked, ReadSent, RolledBack
from ._verdicts import Verdict, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dalsegno.actors.ports import CursorKey, Head

    from ._evidence import Evidence
    from ._history import Record

_STALE = "STALE_CURSOR"


class _Floor:
    """The value that was certainly reached, and the record that shows it."""

    __slots__ = ("_durable", "_remembered")

    def __init__(self) -> None:
        self._durable: tuple[int, tuple[Record, ...]] = (0, ())
        self._remembered: list[tuple[int, float, Record]] = []
        """Ascending in value and in time: the last ones may be forgotten."""

    @property
    def height(self) -> int:
        """The value."""
        return max(self._durable[0], self._remembered[-1][0] if self._remembered else 0)

    @property
    def witness(self) -> tuple[Record, ...]:
        """The record that shows it."""
        if self._remembered and self._remembered[-1][0] > self._durable[0]:
            return (self._remembered[-1][2],)
        return self._durable[1]

    def rise(self, value: int, witness: Record, *, durable: bool) -> bool:
        """Raise it to a value; return whether that changed anything."""
        if value <= (self._durable[0] if durable else self.height):
            return False
        if durable:
            self._durable = (value, (witness,))
        else:
            self._remembered.append((value, witness.at, witness))
        return True

    def forget(self, since: float) -> None:
        """Take back what was known only from the memory of a node, from a time on."""
        while self._remembered and self._remembered[-1][1] >= since:
            self._remembered.pop()


class _Pending:
    """A question in flight, and the floor under its answer."""

    __slots__ = ("asked", "floor", "height", "resets", "witness")

    def __init__(self, asked: AckSent | CursorAsked | ReadSent, floor: _Floor, resets: int) -> None:
        self.asked = asked
        self.resets = resets
        """The number of crashes and rollbacks before it."""
        self.floor = floor
        self.height = floor.height
        self.witness = floor.witness


def check_cursors(
    evidence: Evidence, *, cursors: Mapping[CursorKey, int] | None, heads: Mapping[str, Head]
) -> Iterator[Violation]:
    """Judge the answers about stored cursors and epochs, and their values in the end."""
    watch = _Watch(evidence)
    for position, record in enumerate(evidence.history):
        yield from watch.see(position, record)
    for workspace_id, head in heads.items():
        yield from watch.end_epoch(workspace_id, head)
    if cursors is not None:
        yield from watch.end_cursors(cursors)


class _Watch:
    """The floors, and the questions in flight."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._ceilings: dict[str, dict[CursorKey, int]] = {}
        self._cursors: dict[str, dict[CursorKey, _Floor]] = {}
        self._epochs: dict[str, _Floor] = {}
        self._pending: dict[str, _Pending] = {}
        self._remembered: list[tuple[float, _Floor]] = []
        """The floors that rose by what a crash may take back, in the order of time."""
        self._resets = 0

    def see(self, position: int, record: Record) -> Iterator[Violation]:
        """Judge the next record."""
        if isinstance(record, AckSent):
            ceilings = self._ceilings.setdefault(record.cursor_of.workspace_id, {})
            ceilings[record.cursor_of] = max(ceilings.get(record.cursor_of, 0), record.number)
        if isinstance(record, AckSent | CursorAsked):
            self._ask(record, self._cursor(record.cursor_of))
        elif isinstance(record, ReadSent):
            self._ask(record, self._epochs.setdefault(record.workspace_id, _Floor()))
        elif isinstance(record, Answered):
            pending = self._pending.pop(record.op, None)
            if pending is not None and pending.resets == self._resets:
                yield from self._answer(pending, record)
                yield from self._check_written(pending.asked, position, record)
        elif isinstance(record, Crashed):
            self._resets += 1
            while self._remembered and self._remembered[-1][0] >= record.since:
                self._remembered.pop()[1].forget(record.since)
        elif isinstance(record, RolledBack):
            self._resets += 1
            self._lower(record)
            self._cursors.pop(record.workspace_id, None)
            self._epochs.pop(record.workspace_id, None)

    def _lower(self, rollback: RolledBack) -> None:
        """Lower the ceilings to what is left of their streams."""
        workspace_id, kept = rollback.workspace_id, rollback.to_seq
        log, ceilings = self._evidence.log(workspace_id), self._ceilings.get(workspace_id, {})
        for key, height in ceilings.items():
            is_workspace_stream = key.stream_id == workspace_stream(workspace_id)
            left = kept if is_workspace_stream else log.version_at(key.stream_id, kept)
            ceilings[key] = min(height, left)

    def _cursor(self, key: CursorKey) -> _Floor:
        return self._cursors.setdefault(key.workspace_id, {}).setdefault(key, _Floor())

    def _ask(self, asked: AckSent | CursorAsked | ReadSent, floor: _Floor) -> None:
        self._pending[asked.op] = _Pending(asked, floor, self._resets)

    def _answer(self, pending: _Pending, answer: Answered) -> Iterator[Violation]:
        asked = pending.asked
        value = _reported(asked, answer)
        if value is None:
            return
        if value < pending.height:
            if isinstance(asked, ReadSent):
                yield _epoch_violation(asked.workspace_id, value, pending, answer)
            else:
                said = "an ack was accepted at" if isinstance(asked, AckSent) else "it stands at"
                yield _cursor_violation(asked.cursor_of, f"{said} {value}", pending, answer)
        durable = isinstance(asked, ReadSent) or (isinstance(asked, CursorAsked) and asked.durable)
        if pending.floor.rise(value, answer, durable=durable) and not durable:
            self._remembered.append((answer.at, pending.floor))

    def _check_written(
        self, asked: AckSent | CursorAsked | ReadSent, position: int, answer: Answered
    ) -> Iterator[Violation]:
        """Judge an ack that was accepted: somebody had sent what it acknowledges."""
        if not isinstance(asked, AckSent) or answer.outcome != "ok" or asked.number == 0:
            return
        key = asked.cursor_of
        log = self._evidence.log(key.workspace_id)
        if self._evidence.rollbacks_of(key.workspace_id).kept_since(0) is not None:
            return  # of the history before: how soon a node notices is another matter
        if key.stream_id == workspace_stream(key.workspace_id):
            event = next(iter(log.events[asked.number - 1 :][:1]), None)
        else:
            event = log.of_version(key.stream_id, asked.number)
        if event is None or self._evidence.first_sent(event) > position:
            yield Violation(
                verdict=Verdict.ACK_AHEAD,
                workspace_id=key.workspace_id,
                sentence=f"{_name(key)} was moved to {asked.number}, which was not there yet",
                exhibits=(answer, asked),
            )

    def end_epoch(self, workspace_id: str, head: Head) -> Iterator[Violation]:
        """Judge an epoch by its value in the end."""
        floor = self._epochs.get(workspace_id, _Floor())
        if head.epoch < floor.height:
            yield _epoch_violation(workspace_id, head.epoch, floor)

    def end_cursors(self, cursors: Mapping[CursorKey, int]) -> Iterator[Violation]:
        """Judge the stored cursors by their values in the end."""
        for floors in self._cursors.values():
            for key, floor in floors.items():
                value = cursors.get(key, 0)
                if value < floor.height:
                    yield _cursor_violation(key, f"in the end it stands at {value}", floor)
        for ceilings in self._ceilings.values():
            for key, height in ceilings.items():
                value = cursors.get(key, 0)
                if value > height:
                    yield Violation(
                        verdict=Verdict.ACK_AHEAD,
                        workspace_id=key.workspace_id,
                        sentence=(
                            f"{_name(key)} stands at {value} in the end, "
                            f"and its client acknowledged {height} of this history"
                        ),
                    )


def _reported(asked: AckSent | CursorAsked | ReadSent, answer: Answered) -> int | None:
    """Return the cursor, or the epoch, that an answer reports."""
    if isinstance(asked, ReadSent):
        return answer.epoch
    if isinstance(asked, CursorAsked):
        return answer.cursor
    if answer.outcome == "ok":
        return asked.number
    current = (answer.details or {}).get("current_cursor") if answer.code == _STALE else None
    return current if isinstance(current, int) else None


def _epoch_violation(
    workspace_id: str, epoch: int, floor: _Floor | _Pending, *answer: Answered
) -> Violation:
    return Violation(
        verdict=Verdict.EPOCH_REGRESS,
        workspace_id=workspace_id,
        sentence=f"the epoch is {epoch}, and was {floor.height}",
        exhibits=(*answer, *floor.witness),
    )


def _name(key: CursorKey) -> str:
    return f"the cursor of {key.user_id}/{key.client_id} in {key.stream_id}"


def _cursor_violation(
    key: CursorKey, sentence: str, floor: _Floor | _Pending, *answer: Answered
) -> Violation:
    return Violation(
        verdict=Verdict.ACK_REGRESS,
        workspace_id=key.workspace_id,
        sentence=f"{_name(key)}: {sentence}, and was at {floor.height}",
        exhibits=(*answer, *floor.witness),
    )
