"""Server-sent events: what a dialect says, as the blocks of an event stream (WHATWG HTML §9.2).

    id: 17-00c0ffee00c0ffee      where the reader is now: a cursor, as everywhere
    event: note_patched
    data: {"type":"event",…}     the message of the dialect, a line each

An id alone moves the reader and shows nothing: so are numbers told that are not for it.  What is
not stored has no id.  ``event: error`` is EventSource's own name, so what goes wrong is a
``problem``, after which the stream ends.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dalsegno.protocol._close import SUPERSEDED, Close
from dalsegno.protocol._errors import Reject
from dalsegno.protocol._position import chain_text

from ._dialect import Dialect, SubscribeRequest, Text
from ._generic import GENERIC
from ._language import Beginning, Language
from ._project import PROJECT
from ._said import encode_said, error_message

if TYPE_CHECKING:
    from datetime import datetime

    from dalsegno.protocol._errors import DalsegnoError
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._receipt import Receipt
    from dalsegno.protocol._spoken import Frame, TailFrame

    from ._dialect import Begun, CommandRequest, Shown, UnsubscribeRequest

COMMENT = b": ping\n\n"
"""A block that says nothing."""
_LINES = re.compile(rb"\r\n|\r|\n")
"""What ends a line of an event stream: a payload that was appended in SQL may have any of them."""
_AWAY_MS = 5_000
"""How much later than a socket a reader comes back from a shutdown.

In front of a server that is not back yet a proxy answers, 502, and at that EventSource gives up.
"""


class HeadShown(msgspec.Struct, tag="head", kw_only=True, gc=False):
    """Where a stream is, and where its reader."""

    stream_id: str
    head: int
    cursor: int
    server_ts: datetime | None = None


def block(data: bytes, *, event: str, id_: str | None = None) -> bytes:
    """Return a block with some data, of one line or several."""
    lines = [b"id: " + id_.encode()] if id_ is not None else []
    lines.append(b"event: " + event.encode())
    lines += [b"data: " + line for line in _LINES.split(data)]
    return b"\n".join(lines) + b"\n\n"


class EventStreamDialect(Dialect):
    """Another dialect's events, and what runs say in it, as blocks."""

    ends_with_stream = True

    def __init__(self, inner: Dialect) -> None:
        self.name = f"{inner.name} as an event stream"
        self.follows_frames = inner.follows_frames
        self._inner = inner

    def entity_event(self, event: Event) -> Shown:
        """Encode an event for its entity's stream."""
        return self._numbered(self._inner.entity_event(event), event, event.stream_seq)

    def workspace_event(self, event: Event, payload: object) -> Shown:
        """Encode an event for the workspace's stream."""
        return self._numbered(self._inner.workspace_event(event, payload), event, event.event_seq)

    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes:
        """Encode where the stream is, with an id, from which a reader can resume at once."""
        chain = "" if begun.chain is None else f"-{chain_text(begun.chain)}"
        said = HeadShown(stream_id=begun.stream_id, head=begun.head, cursor=begun.cursor)
        return block(encode_said(said), event="head", id_=f"{begun.cursor}{chain}")

    def standing(self, stream_id: str, head: int, cursor: int, now: datetime) -> bytes:
        """Encode where the stream is: a heartbeat that a page can see."""
        said = HeadShown(stream_id=stream_id, head=head, cursor=cursor, server_ts=now)
        return block(encode_said(said), event="head")

    def hidden(self, stream_id: str, first: int, last: int, chain: int) -> bytes:
        """Move the reader past numbers that are not for it."""
        return f"id: {last}-{chain_text(chain)}\n\n".encode()

    def frame(self, frame: Frame) -> bytes | None:
        """Encode what a run says, which is stored nowhere, so it has no id."""
        said = self._inner.frame(frame)
        return None if said is None else block(said, event="frame")

    def tail(self, tail: TailFrame) -> bytes | None:
        """Encode what a run has said, likewise."""
        said = self._inner.tail(tail)
        return None if said is None else block(said, event="tail")

    def error(self, error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:  # noqa: ANN401 - JSON
        """Encode why the stream ends."""
        return block(error_message(error, request_id, **context), event="problem")

    def reconnect(self, after_ms: int) -> bytes:
        """Encode when to come back: later than a socket."""
        return f"retry: {after_ms + _AWAY_MS}\n\n".encode()

    def heartbeat(self, now: datetime) -> bytes | None:
        """Encode a comment: it keeps proxies from ending the stream, and a page sees `standing`."""
        return COMMENT

    def committed(self, asked: CommandRequest, receipt: Receipt) -> None:
        """Say nothing: nobody commands by an event stream."""

    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> None:
        """Say nothing, likewise."""

    def unsubscribed(self, asked: UnsubscribeRequest) -> None:
        """Say nothing, likewise."""

    def _numbered(self, shown: Shown, event: Event, seq: int) -> Shown:
        """Return the blocks of an event; the last of several has its number."""
        texts = [shown] if isinstance(shown, bytes) else list(shown)
        id_ = f"{seq}-{chain_text(event.chain)}"
        name, last = self._inner.block_name, len(texts) - 1
        return [
            block(text, event=name(event, text), id_=id_ if at == last else None)
            for at, text in enumerate(texts)
        ]


EVENT_STREAM = EventStreamDialect(GENERIC)
PROJECT_EVENT_STREAM = EventStreamDialect(PROJECT)


class Follow(SubscribeRequest, tag="follow", frozen=True, kw_only=True):
    """Follow a stream by server-sent events, from a cursor or the last ack."""

    dialect: ClassVar[Dialect] = EVENT_STREAM

    stream_id: Text


class FollowProjectStream(SubscribeRequest, tag="follow_project", frozen=True, kw_only=True):
    """Follow a project by server-sent events."""

    dialect: ClassVar[Dialect] = PROJECT_EVENT_STREAM

    stream_id: Text


class FollowProjectFromNow(FollowProjectStream, tag="follow_project_from_now", frozen=True):
    """Follow a project from its end."""

    from_now: ClassVar[bool] = True


class FollowFromNow(Follow, tag="follow_from_now", frozen=True, kw_only=True):
    """Follow a stream from its end."""

    from_now: ClassVar[bool] = True


class EventStreamLanguage(Language):
    """The language of one event stream, whose client says nothing."""

    def __init__(self, asked: SubscribeRequest) -> None:
        vars(self).update(vars(_language_of(asked.dialect)))
        self.beginning = Beginning(follows=[asked])

    def farewell(self, code: Close, reason: str) -> bytes | None:
        """Return why it ends, where to come back is of no use."""
        if code is Close.SUPERSEDED:
            return self.default.error(_evicted(reason), None)
        if code is Close.UNAUTHORIZED:
            return self.default.error(Reject("AUTH_REQUIRED", reason, status=401), None)
        return None  # what its stream ended with was told where that did


def _evicted(reason: str) -> Reject:
    if reason == SUPERSEDED:
        return Reject("SUPERSEDED", "a newer connection of its tab has its place")
    return Reject("CONNECTION_LIMIT", "a newer connection of its user has its place")


@cache
def _language_of(dialect: Dialect) -> Language:
    return Language(dialect)
