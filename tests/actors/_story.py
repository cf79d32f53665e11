"""Histories written by hand, and at random: what clients see of a correctly kept log."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from dalsegno.actors import CursorKey, Head
from dalsegno.actors.testing import Asked, Followed, Record, Recorder, Verdict, Violation, check
from dalsegno.protocol import Event, chained, workspace_stream

W = "w"
ALL = workspace_stream(W)
_MIDNIGHT = datetime(2030, 1, 1, tzinfo=UTC)


def key_of(client: str = "c", stream_id: str = ALL) -> CursorKey:
    return CursorKey("u", client, W, stream_id)


def head_at(seq: int, chain: int = 0, *, epoch: int = 1) -> Head:
    return Head(workspace_id=W, epoch=epoch, owner="n", head_seq=seq, chain=chain)


def conflict(asked: Asked, current_version: int) -> None:
    asked.failed("VERSION_CONFLICT", {"expected_version": 0, "current_version": current_version})


def replaced(event: Event, **fields: object) -> Event:
    return msgspec.structs.replace(event, **fields)


def relinked(events: Sequence[Event]) -> list[Event]:
    """Chain a log anew, where its events were changed."""
    log: list[Event] = []
    for event in events:
        previous = log[-1].chain if log else 0
        log.append(replaced(event, chain=chained(previous, event)))
    return log


class Story:
    """One workspace, its log, and its history; each record is a second after the last."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1.0)
        self._numbers = itertools.count(1)
        self._versions: dict[str, int] = defaultdict(int)
        self.recorder = Recorder(lambda: next(self._seconds))
        self.log: list[Event] = []

    @property
    def history(self) -> list[Record]:
        return self.recorder.history

    def commit(
        self,
        marker: str | None,
        stream_id: str = "box:a",
        *,
        type_: str = "put",
        command_id: str | None = None,
        seconds: float | None = None,
        causation: str | None = None,
    ) -> Event:
        """Append an event to the log."""
        number = next(self._numbers)
        seq = len(self.log) + 1
        self._versions[stream_id] += 1
        event = Event(
            workspace_id=W,
            event_seq=seq,
            stream_id=stream_id,
            stream_seq=self._versions[stream_id],
            event_id=f"event-{number}",
            type=type_,
            type_version=1,
            payload=f'{{"n":{number}}}',
            actor_id="u",
            command_id=f"command-{number}" if command_id is None else command_id,
            recorded_at=_MIDNIGHT + timedelta(seconds=seq if seconds is None else seconds),
            correlation_id=marker,
            causation=causation,
        )
        previous = self.log[-1].chain if self.log else 0
        event = replaced(event, chain=chained(previous, event))
        self.log.append(event)
        return event

    def lose_tail(self, to_seq: int, *, is_known: bool = False) -> None:
        """Lose the tail of the log; the lost events may be known by their ids."""
        lost = self.log[to_seq:]
        for event in lost:
            self._versions[event.stream_id] -= 1
        del self.log[to_seq:]
        self.recorder.rolled_back(W, to_seq, lost=lost if is_known else ())

    def ask(
        self,
        marker: str | None,
        *,
        stream_id: str | None = None,
        events_min: int = 1,
        events_max: int | None = None,
        is_group: bool = False,
        user_id: str | None = None,
    ) -> Asked:
        """Send a command, or a group."""
        return self.recorder.command(
            "alice",
            W,
            marker=marker,
            stream_id=stream_id,
            events_min=events_min,
            events_max=events_max,
            is_group=is_group,
            user_id=user_id,
        )

    def write(self, marker: str, stream_id: str = "box:a", *, type_: str = "put") -> Event:
        """Send a command, and get its receipt."""
        asked = self.ask(marker, stream_id=stream_id)
        event = self.commit(marker, stream_id, type_=type_)
        asked.ok(event.event_seq, event.stream_seq)
        return event

    def follow(
        self,
        stream_id: str = ALL,
        *,
        cursor: int = 0,
        user_id: str | None = None,
        connection: str = "socket",
    ) -> Followed:
        return self.recorder.subscription(connection, W, stream_id, cursor=cursor, user_id=user_id)

    def deliver(self, *numbers: int, cursor: int = 0) -> None:
        """Subscribe to the workspace, and deliver these numbers."""
        followed = self.follow(cursor=cursor)
        for number in numbers:
            followed.delivered(self.log[number - 1], is_workspace_stream=True)

    def stands_at(self, cursor: int, *, durable: bool = False) -> None:
        """Look up a stored cursor."""
        self.recorder.cursor(key_of(), durable=durable).stands_at(cursor)

    def check(self, **more: object) -> list[Violation]:
        return check(self.history, {W: self.log}, **more)  # type: ignore[arg-type]  # as given

    def verdicts(self, **more: object) -> list[Verdict]:
        """Return what the checker finds."""
        return [violation.verdict for violation in self.check(**more)]


class Reader:
    """A client of the model that follows a stream, as a runtime would serve it."""

    def __init__(self, story: Story, stream_id: str, cursor: int, connection: str) -> None:
        self.stream_id = stream_id
        self.is_workspace_stream = stream_id == ALL
        self.seen = cursor
        self.connection = connection
        self.followed = story.follow(stream_id, cursor=cursor, connection=connection)

    def due(self, log: Sequence[Event]) -> list[Event]:
        mine = (
            log if self.is_workspace_stream else [e for e in log if e.stream_id == self.stream_id]
        )
        return list(mine[self.seen :])

    def take(self, event: Event) -> None:
        self.followed.delivered(event, is_workspace_stream=self.is_workspace_stream)
        self.seen += 1


class Model:
    """Clients of a runtime that keeps every promise, interleaved at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.story = Story()
        self._names = itertools.count(1)
        self._open: list[tuple[str, str, Asked, Event | None]] = []
        self._unresolved: list[tuple[str, str]] = []
        self._readers: list[Reader] = []
        self._acked: dict[str, int] = defaultdict(int)

    def run(self, steps: int) -> Story:
        """Take so many steps, then settle."""
        moves = [self.send, self.commit, self.answer, self.retry, self.read]
        moves += [self.follow, self.deliver, self.deliver, self.deliver, self.ack, self.cut]
        for _ in range(steps):
            self.random.choice(moves)()
        while self._open:
            self.commit()
            self.answer()
        for reader in self._readers:
            for event in reader.due(self.story.log):
                reader.take(event)
        self.story.recorder.settled()
        return self.story

    def send(self) -> None:
        marker, stream_id = f"m{next(self._names)}", self.random.choice(("box:a", "box:b"))
        self._ask(marker, stream_id)

    def _ask(self, marker: str, stream_id: str) -> None:
        asked = self.story.ask(marker, stream_id=stream_id)
        self._open.append((marker, stream_id, asked, self._find(marker)))

    def _find(self, marker: str) -> Event | None:
        return next((e for e in self.story.log if e.correlation_id == marker), None)

    def commit(self) -> None:
        if self._open:
            at = self.random.randrange(len(self._open))
            marker, stream_id, asked, _ = self._open[at]
            event = self._find(marker) or self.story.commit(marker, stream_id)
            self._open[at] = (marker, stream_id, asked, event)

    def answer(self) -> None:
        if not self._open:
            return
        marker, stream_id, asked, event = self._open.pop(self.random.randrange(len(self._open)))
        chance = self.random.random()
        if chance < 0.2:
            asked.unknown()
            self._unresolved.append((marker, stream_id))
        elif event is not None:
            asked.ok(event.event_seq, event.stream_seq)
        elif chance < 0.6:
            current = sum(e.stream_id == stream_id for e in self.story.log)
            asked.failed("VERSION_CONFLICT", {"current_version": current})
        else:
            asked.failed("OVERLOADED")

    def retry(self) -> None:
        if self._unresolved:
            at = self.random.randrange(len(self._unresolved))
            self._ask(*self._unresolved.pop(at))

    def read(self) -> None:
        log = self.story.log
        head = len(log)
        asked = self.story.recorder.read("bob", W, min_seq=self.random.randint(0, head))
        asked.ok(head)
        asked = self.story.recorder.read("bob", W, stream_id="box:a", min_seq=head)
        asked.ok(version=sum(event.stream_id == "box:a" for event in log))

    def follow(self) -> None:
        stream_id = self.random.choice((ALL, "box:a", "box:b"))
        cursor = self._acked[stream_id]
        asked = self.story.recorder.cursor(key_of("c", stream_id))
        asked.stands_at(cursor)
        connection = f"socket-{self.random.randint(1, 3)}"
        self._readers.append(Reader(self.story, stream_id, cursor, connection))

    def deliver(self) -> None:
        if self._readers:
            reader = self.random.choice(self._readers)
            for event in reader.due(self.story.log)[:2]:
                reader.take(event)

    def ack(self) -> None:
        if not self._readers:
            return
        reader = self.random.choice(self._readers)
        asked = self.story.recorder.ack(key_of("c", reader.stream_id), reader.seen)
        if reader.seen < self._acked[reader.stream_id]:
            current = self._acked[reader.stream_id]
            asked.failed("STALE_CURSOR", {"current_cursor": current})
        else:
            self._acked[reader.stream_id] = reader.seen
            asked.ok()

    def cut(self) -> None:
        if self._readers and self.random.random() < 0.3:
            connection = self.random.choice(self._readers).connection
            self.story.recorder.connection_ended(connection)
            self._readers = [one for one in self._readers if one.connection != connection]
