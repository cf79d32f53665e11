"""The recorder of a history: a test calls it as it sends and receives.

    recorder = Recorder(trio.current_time)
    with recorder.command("alice", "acme", marker="m1", stream_id="task:t1") as asked:
        receipt = await workspace.send(AddTask("t1", "…"), correlation_id="m1")
        asked.receipt(receipt)

A block that is left by an error or a cancellation records that as the outcome: what a typed error
says about it, or that it is unknown.  If a question and its answer are in different functions, the
methods work without the block.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Self

from dalsegno.protocol import DalsegnoError, chain_text

from ._history import (
    AckSent,
    Answered,
    CommandSent,
    ConnectionEnded,
    Crashed,
    CursorAsked,
    Delivered,
    ReadSent,
    RolledBack,
    Settled,
    Subscribed,
    SubscriptionEnded,
    dump_record,
    fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from dalsegno.actors.ports import CursorKey, Head
    from dalsegno.protocol import Event, Receipt

    from ._history import Question, Record

UNKNOWN_CODES = frozenset({"OUTCOME_UNKNOWN", "UNREACHABLE", "DISCONNECTED", "CLIENT_CLOSED"})
"""The error codes after which a command may have been applied, of a server and of a client."""


class Recorder:
    """The recorder of one history; several with one clock can be merged.

    Args:
        clock: a monotonic clock, in seconds: `trio.current_time` within one run, the machine's
            ``CLOCK_MONOTONIC`` for several processes.
        name: a prefix of ids, different for recorders whose histories will be merged.
        write: called at once with every record as a line of JSON, so that a kill loses none.

    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        name: str = "",
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        self.history: list[Record] = []
        self._clock = clock
        self._name = name
        self._write = write
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Recorder {self._name!r}, {len(self.history)} records>"

    def now(self) -> float:
        """Return the time of a record made now."""
        return self._clock()

    def add(self, record: Record) -> None:
        """Add a record that was made elsewhere; it must not be older than the last."""
        self.history.append(record)
        if self._write is not None:
            self._write(dump_record(record))

    def new_id(self) -> str:
        """Return a new id for a question, a connection or a subscription."""
        return f"{self._name}{next(self._numbers)}"

    # -------------------------------------------------------------------------------- questions

    def command(
        self,
        client: str,
        workspace_id: str,
        *,
        marker: str | None,
        stream_id: str | None = None,
        key: str | None = None,
        events_min: int = 1,
        events_max: int | None = None,
        is_group: bool = False,
        user_id: str | None = None,
    ) -> Asked:
        """Record a command, just before it is sent.

        Args:
            client: the sender, who goes on to see what it has a receipt for.
            workspace_id: its workspace.
            marker: the key by which its events are found in the log (`CommandSent`).
            stream_id: its entity, if that is known.
            key: its idempotency key.
            events_min: 0 for one that may change nothing.
            events_max: how many events it leads to at most; shows a repetition within one commit.
            is_group: whether it is several commands that take effect all or none.
            user_id: for whom, if the workspace's log decides what this user may.

        """
        sent = CommandSent(
            at=self._clock(),
            op=self.new_id(),
            client=client,
            workspace_id=workspace_id,
            marker=marker,
            stream_id=stream_id,
            key=key,
            events_min=events_min,
            events_max=events_max,
            is_group=is_group,
            user_id=user_id,
        )
        return self._asked(sent)

    def read(
        self,
        client: str,
        workspace_id: str,
        *,
        stream_id: str | None = None,
        min_seq: int = 0,
        user_id: str | None = None,
    ) -> Asked:
        """Record a read, of an entity or of the head, just before it is sent."""
        sent = ReadSent(
            at=self._clock(),
            op=self.new_id(),
            client=client,
            workspace_id=workspace_id,
            stream_id=stream_id,
            min_seq=min_seq,
            user_id=user_id,
        )
        return self._asked(sent)

    def ack(self, cursor_of: CursorKey, number: int) -> Asked:
        """Record an ack, just before it is sent.

        Success is silent: call `Asked.ok` once something that was sent after it is answered.
        """
        sent = AckSent(at=self._clock(), op=self.new_id(), cursor_of=cursor_of, number=number)
        return self._asked(sent)

    def cursor(self, cursor_of: CursorKey, *, durable: bool = False) -> Asked:
        """Record the lookup of a stored cursor, by a subscribe or (durable) in the store."""
        sent = CursorAsked(at=self._clock(), op=self.new_id(), cursor_of=cursor_of, durable=durable)
        return self._asked(sent)

    def _asked(self, question: Question) -> Asked:
        self.add(question)
        return Asked(self, question.op)

    # ------------------------------------------------------------------------------- deliveries

    def subscription(
        self,
        connection: str,
        workspace_id: str,
        stream_id: str,
        *,
        cursor: int,
        user_id: str | None = None,
    ) -> Followed:
        """Record that a subscription began after a cursor: its answer came, no event yet."""
        name = self.new_id()
        self.add(
            Subscribed(
                at=self._clock(),
                subscription=name,
                connection=connection,
                user_id=user_id,
                workspace_id=workspace_id,
                stream_id=stream_id,
                cursor=cursor,
            )
        )
        return Followed(self, name)

    def connection_ended(self, connection: str, code: object = None) -> None:
        """Record that a connection is over."""
        text = None if code is None else str(code)
        self.add(ConnectionEnded(at=self._clock(), connection=connection, code=text))

    # -------------------------------------------------------------- what the test itself did

    def crashed(self, *, acks_unwritten_s: float) -> None:
        """Record that a node crashed without writing the acks of the last so many seconds."""
        now = self._clock()
        self.add(Crashed(at=now, since=now - acks_unwritten_s))

    def rolled_back(self, workspace_id: str, to_seq: int, *, lost: Iterable[Event] = ()) -> None:
        """Record that the events above a number were lost; name them if they are known."""
        self.add(
            RolledBack(
                at=self._clock(),
                workspace_id=workspace_id,
                to_seq=to_seq,
                lost=tuple(event.event_id for event in lost),
            )
        )

    def settled(self) -> None:
        """Record that all is quiet, and that every reader that may has caught up."""
        self.add(Settled(at=self._clock()))


class Asked:
    """A question in flight; only the first answer counts."""

    def __init__(self, recorder: Recorder, op: str) -> None:
        self.op = op
        self.is_answered = False
        self._recorder = recorder

    def __repr__(self) -> str:
        return f"<Asked {self.op}{', answered' if self.is_answered else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc_value, DalsegnoError):
            self.failed(exc_value)
        else:
            self.unknown()

    def ok(
        self,
        event_seq: int | None = None,
        version: int | None = None,
        *,
        stream_id: str | None = None,
        command_id: str | None = None,
        repeated: bool = False,
    ) -> None:
        """Record success: a command's receipt, or up to where a read reflects the log."""
        self._answer(
            Answered(
                at=self._recorder.now(),
                op=self.op,
                outcome="ok",
                event_seq=event_seq,
                version=version,
                stream_id=stream_id,
                command_id=command_id,
                repeated=repeated,
            )
        )

    def receipt(self, receipt: Receipt) -> None:
        """Record a command's success, as the embedding API returns it."""
        self.ok(
            receipt.event_seq,
            receipt.version,
            stream_id=receipt.stream_id,
            command_id=receipt.command_id,
            repeated=receipt.repeated,
        )

    def head(self, head: Head) -> None:
        """Record the answer of a read of the head in the store, with its epoch."""
        self._answer(
            Answered(
                at=self._recorder.now(),
                op=self.op,
                outcome="ok",
                event_seq=head.head_seq,
                epoch=head.epoch,
            )
        )

    def stands_at(self, cursor: int) -> None:
        """Record the value of a stored cursor; 0 for none."""
        self._answer(Answered(at=self._recorder.now(), op=self.op, outcome="ok", cursor=cursor))

    def failed(self, error: DalsegnoError | str, details: Mapping[str, Any] | None = None) -> None:
        """Record a failure, by the error or its code; some codes mean an unknown outcome."""
        code = error if isinstance(error, str) else error.code
        if isinstance(error, DalsegnoError):
            details = error.details
        self._answer(
            Answered(
                at=self._recorder.now(),
                op=self.op,
                outcome="unknown" if code in UNKNOWN_CODES else "fail",
                code=code,
                details=dict(details) if details else None,
            )
        )

    def unknown(self) -> None:
        """Record that nobody waits for the answer now: connection lost, or caller cancelled."""
        self._answer(Answered(at=self._recorder.now(), op=self.op, outcome="unknown"))

    def _answer(self, answer: Answered) -> None:
        if not self.is_answered:
            self.is_answered = True
            self._recorder.add(answer)


class Followed:
    """A subscription whose deliveries are recorded."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.name = name
        self._recorder = recorder

    def __repr__(self) -> str:
        return f"<Followed {self.name}>"

    def delivered(self, event: Event, *, is_workspace_stream: bool) -> None:
        """Record an event as the embedding API delivers it."""
        self.saw(
            event.event_seq if is_workspace_stream else event.stream_seq,
            event_id=event.event_id,
            event_seq=event.event_seq,
            chain=event.chain,
            payload=event.payload,
        )

    def saw(
        self,
        number: int,
        *,
        event_id: str,
        event_seq: int | None = None,
        chain: int | str | None = None,
        payload: str | bytes | None = None,
    ) -> None:
        """Record an event by what its message says; what it does not say is not compared.

        Args:
            number: its number in the stream that was subscribed to.
            event_id: its id.
            event_seq: its number in the workspace.
            chain: as a number, or as it stands on the wire.
            payload: JSON, byte for byte, if it is the stored one: a domain may show another on
                the workspace's stream.

        """
        self._recorder.add(
            Delivered(
                at=self._recorder.now(),
                subscription=self.name,
                number=number,
                event_id=event_id,
                event_seq=event_seq,
                chain=chain_text(chain) if isinstance(chain, int) else chain,
                payload=None if payload is None else fingerprint(payload),
            )
        )

    def ended(self, code: str | None = None) -> None:
        """Record that it is over, with the server's code if the server ended it."""
        self._recorder.add(
            SubscriptionEnded(at=self._recorder.now(), subscription=self.name, code=code)
        )
