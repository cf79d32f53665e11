"""Histories: records of what clients sent and saw, which the checker judges.

A *history* is a list of records in the order of time.  A test that talks to workspaces keeps one
(`Recorder`); several processes keep one each, and these are merged afterwards, so all times are of
one monotonic clock, and every record can be written as a line of JSON and read again.

Questions come in pairs: a record when one is asked, before anything is sent, and an `Answered` with
its ``op`` when the answer arrives.  Without an answer anything may have happened, as with an
outcome of ``unknown``; but once all has `Settled` no question may be open.  What nobody asked for,
such as a delivery, is a single record.

    CommandSent ─┐
    ReadSent     ├─▶ Answered         Subscribed ─▶ Delivered … ─▶ SubscriptionEnded
    AckSent      │                    ConnectionEnded   ends all of a connection's
    CursorAsked ─┘                    Crashed, RolledBack, Settled   what the test itself did

Between two records of one history the order of the list is what counts, so equal times, frequent
under a simulated clock, do no harm.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from dalsegno.actors.ports import CursorKey

if TYPE_CHECKING:
    from collections.abc import Iterable

Outcome: TypeAlias = Literal["ok", "fail", "unknown"]
"""``fail``: nothing happened, and nothing will; ``unknown``: it may have happened, or may yet."""


class Timed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The field that every record has."""

    at: float
    """Seconds of the monotonic clock that all recorders share."""


class CommandSent(Timed, tag="command_sent", frozen=True, kw_only=True):
    """A command was sent."""

    op: str
    client: str
    workspace_id: str
    marker: str | None
    """The key by which its events are found in the log.

    Several commands may have one marker only if they are attempts at the same thing, under one
    idempotency key.  Without a marker only an answer's ``command_id`` can find them.
    """
    stream_id: str | None = None
    """Its entity, if that is known."""
    key: str | None = None
    """The idempotency key, for the reader of a violation."""
    events_min: int = 1
    """How many events it leads to if it is accepted, at least …"""
    events_max: int | None = None
    """… and at most, if that is known."""
    is_group: bool = False
    """Whether it is several commands, which take effect all or none, with nothing in between."""
    user_id: str | None = None
    """The user whose role the workspace's log decides; None where the host asserts one."""


class ReadSent(Timed, tag="read_sent", frozen=True, kw_only=True):
    """A read was sent: of an entity or, without a stream, of a workspace's head."""

    op: str
    client: str
    workspace_id: str
    stream_id: str | None = None
    min_seq: int = 0
    """The ``event_seq`` that the answer has to reflect."""
    user_id: str | None = None
    """The user who reads; None for the host itself."""


class AckSent(Timed, tag="ack_sent", frozen=True, kw_only=True):
    """An ack was sent."""

    op: str
    cursor_of: CursorKey
    number: int


class CursorAsked(Timed, tag="cursor_asked", frozen=True, kw_only=True):
    """A stored cursor is being looked up.

    Either by a subscribe without a cursor, which begins after it, or in the store.
    """

    op: str
    cursor_of: CursorKey
    durable: bool = False
    """Whether the answer comes from the store: a node's memory may be lost in a crash."""


class Answered(Timed, tag="answered", frozen=True, kw_only=True):
    """A question was answered; which fields are set depends on the question."""

    op: str
    outcome: Outcome
    event_seq: int | None = None
    """Of a command: its receipt's.  Of a read: the number up to which it reflects the log."""
    version: int | None = None
    """Of the entity, after the command or as it was read."""
    stream_id: str | None = None
    """The command's entity, if the receipt names it."""
    command_id: str | None = None
    repeated: bool = False
    """Whether the receipt says that it is an earlier command's."""
    epoch: int | None = None
    """Of the head that was read."""
    cursor: int | None = None
    """The stored cursor; for a refused ack it is in the details."""
    code: str | None = None
    details: dict[str, Any] | None = None


class Subscribed(Timed, tag="subscribed", frozen=True, kw_only=True):
    """A subscription has begun: its answer has arrived, no event yet."""

    subscription: str
    connection: str
    user_id: str | None
    """The user who sees the events; None for the host itself."""
    workspace_id: str
    stream_id: str
    cursor: int
    """The number after which it begins."""


class Delivered(Timed, tag="delivered", frozen=True, kw_only=True, gc=False):
    """An event was delivered."""

    subscription: str
    number: int
    """Its number in the stream that was subscribed to."""
    event_id: str
    event_seq: int | None = None
    """Its number in the workspace, if the dialect carries it."""
    chain: str | None = None
    """Sixteen hex digits, if the dialect carries it: a digest of all up to this event."""
    payload: str | None = None
    """`fingerprint` of the payload, if it is the stored one and not a view of it."""


class SubscriptionEnded(Timed, tag="subscription_ended", frozen=True, kw_only=True):
    """A subscription is over; ``code`` is the server's, if the server ended it."""

    subscription: str
    code: str | None = None


class ConnectionEnded(Timed, tag="connection_ended", frozen=True, kw_only=True):
    """A connection is over, and with it all of its subscriptions."""

    connection: str
    code: str | None = None


class Crashed(Timed, tag="crashed", frozen=True, kw_only=True):
    """A node crashed, or was cut off, without writing the acks that it took after ``since``.

    These may be forgotten: a crash repeats events and never skips one.
    """

    since: float


class RolledBack(Timed, tag="rolled_back", frozen=True, kw_only=True):
    """The database lost a workspace's events above ``to_seq``, as a standby that lagged does.

    What happened before this record and was lost with that tail is excused, nothing else.
    """

    workspace_id: str
    to_seq: int
    lost: tuple[str, ...] = ()
    """The ids of the events that were lost, if the test knows them.

    A node that has not noticed yet may still deliver these, even to later subscribers.
    """


class Settled(Timed, tag="settled", frozen=True, kw_only=True):
    """The load has ended, faults are healed, and all clients have had time to catch up.

    Every subscription that lasts has all of its stream now, and no question is open.
    """


Record: TypeAlias = (
    CommandSent
    | ReadSent
    | AckSent
    | CursorAsked
    | Answered
    | Subscribed
    | Delivered
    | SubscriptionEnded
    | ConnectionEnded
    | Crashed
    | RolledBack
    | Settled
)
"""Any line of a history."""

Question: TypeAlias = CommandSent | ReadSent | AckSent | CursorAsked
"""A record that an `Answered` belongs to."""


def fingerprint(payload: str | bytes) -> str:
    """Return a digest of a payload as it is stored and sent, byte for byte."""
    data = payload.encode() if isinstance(payload, str) else payload
    return blake2b(data, digest_size=8).hexdigest()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def dump_record(record: Record) -> bytes:
    """Return a record as a line of JSON."""
    return _encode(record) + b"\n"


def load_history(lines: bytes) -> list[Record]:
    """Read lines from `dump_record`; a last one that was torn by a kill is left out.

    Raises:
        msgspec.MsgspecError: a line is not a record.

    """
    whole, _, _torn = lines.rpartition(b"\n")
    return [_decode(line) for line in whole.split(b"\n") if line]


def merge_histories(*histories: Iterable[Record]) -> list[Record]:
    """Return one history, merged from those of several recorders."""
    return list(heapq.merge(*histories, key=lambda record: record.at))
