"""A history and a log, indexed for the checker: what belongs together, and what was known when.

Two bounds on the time of a commit do all the work, and no clock is compared with another.  An event
was *not yet* committed when its command was first sent; it was *certainly* committed once somebody
had seen it: by a receipt, a delivery or a read.  Whatever contradicts these bounds is a violation,
whatever lies between them is not.

Positions in the history stand for times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

from dalsegno.protocol import workspace_stream

from ._final_log import Log, Rollbacks
from ._history import (
    Answered,
    CommandSent,
    ConnectionEnded,
    Delivered,
    ReadSent,
    RolledBack,
    Settled,
    Subscribed,
    SubscriptionEnded,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dalsegno.protocol import Event

    from ._final_log import MarkerOf
    from ._history import Record

Known: TypeAlias = "tuple[int, tuple[Record, ...]]"
"""A head that was certainly reached, and the record that shows it."""

_NOTHING: Known = (0, ())

NEVER = -1
"""A position before everything."""

SentT = TypeVar("SentT", bound=CommandSent | ReadSent)


class Attempt(Generic[SentT]):
    """A command or a read, and its answer."""

    __slots__ = ("answer", "answered", "known", "own", "position", "sent")

    def __init__(self, position: int, sent: SentT, known: Known, own: int = 0) -> None:
        self.position = position
        self.sent = sent
        self.known = known
        """The head that was certainly reached when it was sent."""
        self.own = own
        """The last event that its client itself had a receipt for."""
        self.answered: int | None = None
        """The position of its answer."""
        self.answer: Answered | None = None


class Intent:
    """The intent of a client: the attempts under one marker, and their events in the log."""

    __slots__ = ("attempts", "effects", "workspace_id")

    def __init__(self, workspace_id: str) -> None:
        self.workspace_id = workspace_id
        self.attempts: list[Attempt[CommandSent]] = []
        self.effects: dict[str, list[Event]] = {}
        """Events by command, in the order of the log."""


class Following:
    """A subscription and its deliveries."""

    __slots__ = ("began", "delivered", "ended", "position")

    def __init__(self, position: int, began: Subscribed) -> None:
        self.position = position
        self.began = began
        self.delivered: list[Delivered] = []
        self.ended: int | None = None
        """The position of its end."""

    @property
    def is_workspace_stream(self) -> bool:
        """Whether it is of the workspace's stream."""
        return self.began.stream_id == workspace_stream(self.began.workspace_id)


class Heads(NamedTuple):
    """The heads committed by a position, which every subscription must have reached."""

    position: int
    """It counts for subscriptions that began before this …"""
    until: int
    """… and still last at this position."""
    by_workspace: dict[str, int]


class Evidence:
    """Everything that the checker looks at."""

    def __init__(
        self,
        history: Sequence[Record],
        logs: Mapping[str, Sequence[Event]],
        marker_of: MarkerOf,
        *,
        seen_within_s: float | None = None,
    ) -> None:
        self.history = history
        self.logs = {name: Log(events, marker_of) for name, events in logs.items()}
        self.commands: dict[str, Attempt[CommandSent]] = {}
        self.reads: dict[str, Attempt[ReadSent]] = {}
        self.intents: dict[tuple[str, str, bool], Intent] = {}
        """By workspace, marker and True; without a marker, the command's op and False."""
        self.followings: dict[str, Following] = {}
        self._rollbacks: dict[str, Rollbacks] = {}
        self.settled: Heads | None = None
        """At the last `Settled`."""
        self.lately: Heads | None = None
        """At ``seen_within_s`` before the end."""
        self._first_sent: dict[tuple[str, str], int] = {}
        """Where a command of the log was first sent: it was not committed before."""
        self._marker_of = marker_of
        self._known: dict[str, Known] = {}
        self._own: dict[str, dict[str, int]] = {}
        """By workspace and client: the last event that it has a receipt for."""
        self._sent_for: dict[tuple[str, str], str | None] = {}
        """By workspace and command of the log."""
        self._by_connection: dict[str, list[Following]] = {}
        self._read(seen_within_s)
        self._find_effects()

    def log(self, workspace_id: str) -> Log:
        """Return a workspace's log; one that was not given is empty."""
        log = self.logs.get(workspace_id)
        if log is None:
            log = self.logs[workspace_id] = Log((), self._marker_of)
        return log

    def rollbacks_of(self, workspace_id: str) -> Rollbacks:
        """Return when a workspace's log lost its tail."""
        return self._rollbacks.setdefault(workspace_id, Rollbacks())

    def first_sent(self, event: Event) -> int:
        """Return the position in the history from which on an event may have been committed."""
        return self._first_sent.get((event.workspace_id, event.command_id), NEVER)

    def sent_for(self, event: Event) -> str | None:
        """Return the user for whom the command of an event was sent, as far as that is known."""
        return self._sent_for.get((event.workspace_id, event.command_id))

    # ------------------------------------------------------------------------------- reading

    def _read(self, seen_within_s: float | None) -> None:
        cutoff = None
        if seen_within_s is not None and self.history:
            cutoff = self.history[-1].at - seen_within_s
        sent_since, end = False, len(self.history)
        for position, record in enumerate(self.history):
            if cutoff is not None and record.at > cutoff:
                self.lately, cutoff = Heads(position, end, self._heads()), None
            if isinstance(record, Delivered):
                self._delivered(record)
            elif isinstance(record, CommandSent):
                sent_since = True
                self._command_sent(position, record)
            elif isinstance(record, Answered):
                self._answered(position, record)
            elif isinstance(record, Settled):
                self.settled, sent_since = Heads(position, position, self._heads()), False
            else:
                self._other(position, record)
        if cutoff is not None:
            self.lately = Heads(end, end, self._heads())
        if self.settled is not None and not sent_since:
            # No command was sent since, so everything in the logs was there already.
            everything = {name: log.head for name, log in self.logs.items()}
            self.settled = self.settled._replace(by_workspace=everything)

    def _heads(self) -> dict[str, int]:
        return {name: head for name, (head, _) in self._known.items()}

    def _other(self, position: int, record: Record) -> None:
        if isinstance(record, ReadSent):
            known = self._known.get(record.workspace_id, _NOTHING)
            own = self._own.get(record.workspace_id, {}).get(record.client, 0)
            self.reads[record.op] = Attempt(position, record, known, own)
        elif isinstance(record, Subscribed):
            following = Following(position, record)
            self.followings[record.subscription] = following
            self._by_connection.setdefault(record.connection, []).append(following)
        elif isinstance(record, SubscriptionEnded):
            self._end(position, self.followings.get(record.subscription))
        elif isinstance(record, ConnectionEnded):
            for one in self._by_connection.pop(record.connection, ()):
                self._end(position, one)
        elif isinstance(record, RolledBack):
            self.rollbacks_of(record.workspace_id).add(position, record.to_seq, record.lost)
            head, witness = self._known.get(record.workspace_id, _NOTHING)
            if head > record.to_seq:
                self._known[record.workspace_id] = (record.to_seq, witness)
            receipts = self._own.get(record.workspace_id, {})
            receipts.update({name: min(seq, record.to_seq) for name, seq in receipts.items()})

    @staticmethod
    def _end(position: int, following: Following | None) -> None:
        if following is not None and following.ended is None:
            following.ended = position

    def _command_sent(self, position: int, sent: CommandSent) -> None:
        attempt = Attempt(position, sent, self._known.get(sent.workspace_id, _NOTHING))
        self.commands[sent.op] = attempt
        named = sent.marker is not None
        name = (sent.workspace_id, sent.op if sent.marker is None else sent.marker, named)
        self.intents.setdefault(name, Intent(sent.workspace_id)).attempts.append(attempt)

    def _answered(self, position: int, answer: Answered) -> None:
        attempt = self.commands.get(answer.op) or self.reads.get(answer.op)
        if attempt is None or attempt.answer is not None:
            return
        attempt.answer, attempt.answered = answer, position
        if answer.outcome == "ok":
            workspace_id = attempt.sent.workspace_id
            seq = self._committed_by(attempt.position, attempt.sent, answer)
            if seq is not None and seq <= self.log(workspace_id).head:
                self._learn(workspace_id, seq, answer)
                if isinstance(attempt.sent, CommandSent):
                    receipts, client = self._own.setdefault(workspace_id, {}), attempt.sent.client
                    receipts[client] = max(seq, receipts.get(client, 0))

    def _committed_by(
        self, position: int, sent: CommandSent | ReadSent, answer: Answered
    ) -> int | None:
        """Return the head that an answer to what was sent at a position proves committed."""
        if isinstance(sent, CommandSent):
            log = self.log(sent.workspace_id)
            command_id = answer.command_id
            if command_id not in log.commands:
                marked = () if sent.marker is None else log.markers.get(sent.marker, ())
                command_id = next(iter(marked), None)
            if command_id is not None:
                return log.commands[command_id][-1].event_seq
            if sent.events_min > 0:
                return None
        # A head, perhaps of a history that was lost meanwhile.
        kept = self.rollbacks_of(sent.workspace_id).kept_since(position)
        return answer.event_seq if kept is None else None

    def _delivered(self, record: Delivered) -> None:
        following = self.followings.get(record.subscription)
        if following is None:
            return
        following.delivered.append(record)
        workspace_id = following.began.workspace_id
        event = self.log(workspace_id).by_id.get(record.event_id)
        if event is not None:
            self._learn(workspace_id, event.event_seq, record)

    def _learn(self, workspace_id: str, event_seq: int, witness: Record) -> None:
        if event_seq > self._known.get(workspace_id, _NOTHING)[0]:
            self._known[workspace_id] = (event_seq, (witness,))

    # ------------------------------------------------------------------------------- effects

    def _find_effects(self) -> None:
        for (workspace_id, marker, named), intent in self.intents.items():
            log = self.log(workspace_id)
            found = dict(log.markers.get(marker, ())) if named else {}
            for attempt in intent.attempts:
                answer = attempt.answer
                if answer is not None and answer.command_id in log.commands:
                    found[answer.command_id] = None
            for command_id in found:
                intent.effects[command_id] = log.commands[command_id]
                self._sent_for[workspace_id, command_id] = intent.attempts[0].sent.user_id
                self._note_first_sent(workspace_id, command_id, intent.attempts[0].position)
            if intent.attempts[0].sent.is_group:
                intent.effects = _joined(intent.effects)

    def _note_first_sent(self, workspace_id: str, command_id: str, position: int) -> None:
        name = (workspace_id, command_id)
        self._first_sent[name] = min(position, self._first_sent.get(name, position))


def _joined(effects: Mapping[str, list[Event]]) -> dict[str, list[Event]]:
    """Return the effects of a group's commands as one, unless something came in between."""
    joined: dict[str, list[Event]] = {}
    last: list[Event] = []
    for command_id, events in sorted(effects.items(), key=lambda one: one[1][0].event_seq):
        if last and events[0].event_seq == last[-1].event_seq + 1:
            last += events
        else:
            last = joined[command_id] = [*events]
    return joined
