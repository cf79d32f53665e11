"""What one attempt at a run says: at once to those who follow it, and to the log in rollups.

Text goes out as it is said, in frames (`Live`), and is written later, so that a run that streams
two thousand tokens is ten rows in the log and not two thousand.  What is said of one message in one
channel without a break is one *part*, and what is not written yet is written as one command:

    at the first frame · from 4 KiB on · 10 s after the oldest of it was said
    with a step, a checkpoint and the end, in the same commit

A command has everything that is not known to be written, whoever else has sent some of it, and the
log passes over what it has.  So no outcome needs to be known before the next command is sent, and
a part that was sent never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence  # at run time, as in `_attempt`
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.delivery import TAIL_S, Live
from dalsegno.protocol import DalsegnoError, Frame, Reject, TailFrame
from dalsegno.protocol.runs import (
    OUTPUT_BYTES_MAX,
    OUTPUT_EVENT_BYTES,
    PARTS_MAX,
    ROLLUP_S,
    OutputPart,
    WriteOutput,
    too_long,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.node import ServingNode
    from dalsegno.protocol import Channel
    from dalsegno.protocol.runs import RunState

_log = logging.getLogger("dalsegno.runs")

FRAME_BYTES_MAX = 4 * 1024
"""Text of one frame; longer text is several."""
ROLLUP_BYTES = 4 * 1024
"""Unwritten text from which on it is written …"""
ROLLUP_PARTS = 16
"""… or parts, where messages or channels take turns; or once the oldest is `Worker.rolls_up_s`."""
UNWRITTEN_BYTES_MAX = 64 * 1024
"""Text that waits to be written: who says more waits until some of it is …"""
UNWRITTEN_PARTS_MAX = PARTS_MAX // 2
"""… and so it does with more parts: with those of one call they fit into a command."""
_ALONG_BYTES = 4 * ROLLUP_BYTES
"""Unwritten text that may be in one commit with other commands."""
_MESSAGE_ID_CHARS_MAX = 200


@dataclass(slots=True, kw_only=True)
class _Part:
    """What was said of one message in one channel without a break, while it is not written."""

    message_id: str
    channel: Channel
    from_frame: int
    to_frame: int
    began_at: float
    """Trio's time."""
    opens: bool
    closes: bool = False
    texts: list[str] = field(default_factory=list)
    size: int = 0
    """In bytes."""
    is_sent: bool = False
    """Whether it is as it will be: some command has it."""

    def made(self) -> OutputPart:
        """Return it as a command has it."""
        return OutputPart(
            message_id=self.message_id,
            channel=self.channel,
            from_frame=self.from_frame,
            to_frame=self.to_frame,
            text="".join(self.texts),
            opens=self.opens,
            closes=self.closes,
        )


class Voice:
    """Says what an attempt says; see the module."""

    def __init__(
        self,
        node: ServingNode,
        hub: Hub,
        run_id: str,
        state: RunState,
        *,
        write: Callable[[WriteOutput], Awaitable[None]],
        rolls_up_s: float = ROLLUP_S,
    ) -> None:
        """Make it.

        Args:
            node: this node.
            hub: the workspace's.
            run_id: the run.
            state: the run as the attempt began.
            write: writes what was said, until it is certain that it is written.
            rolls_up_s: how old what was said may be before that, in seconds.

        """
        assert state.attempt_id is not None, "it has begun"
        self.committed_to = 0
        """The last frame that is known to be written."""
        self.refusal: DalsegnoError | None = None
        """Why nothing more may be said; None: for no reason but that its worker has ended."""
        self._new_id = node.world.new_id
        self._message_id: str | None = None
        """Of what names no message of its own; None: there was nothing of that kind."""
        self._workspace_id = hub.workspace_id
        self._run_id = run_id
        self._stream_id = f"run:{run_id}"
        self.attempt = state.attempt
        self._attempt_id = state.attempt_id
        self._write = write
        self._rolls_up_s = rolls_up_s
        self._live = Live(
            hub,
            self._stream_id,
            self,
            offers_per_yield=node.limits.offers_per_yield,
            may_say=lambda: node.knows_head(hub),
        )
        self._nursery: trio.Nursery | None = None
        """Where its tasks run, once there is something to write."""
        self._is_begun = self._is_closed = False
        self._turn = trio.Lock()
        """Frames go out in their order."""
        self._parts: list[_Part] = []
        """What is not known to be written."""
        self._frame_no = 0
        self._bytes = 0
        """Of these parts."""
        self._left_bytes = OUTPUT_BYTES_MAX - state.written_bytes
        self._talking: dict[str, str] = {}
        """The message that was last said something of, by channel."""
        self._changed = trio.lowlevel.ParkingLot()
        """Those that wait for something to write, for room, or for the end."""

    def __repr__(self) -> str:
        state = "over" if self._is_over else f"at {self._frame_no}"
        return f"<Voice of {self._run_id} {state}, written up to {self.committed_to}>"

    # --------------------------------------------------------------------------------- saying

    def begin(self, nursery: trio.Nursery) -> None:
        """Begin; what it does besides is done in a nursery, as long as that is open."""
        self._nursery = nursery

    async def say(self, text: str, *, message_id: str | None, channel: Channel) -> None:
        """Say something; see `Run.say`."""
        if message_id is None:
            message_id = self._message_id = self._message_id or self._new_id()
        _check(message_id, channel)
        pieces = _pieces(text)
        if pieces is None:
            self.end(too_long())
            pieces = []
        async with self._turn:  # which has a checkpoint
            self._check_may_speak()
            for piece, size in pieces:
                while self._is_full:
                    await self._changed.park()
                    self._check_may_speak()
                if size + OUTPUT_EVENT_BYTES > self._left_bytes:
                    self.end(too_long())
                    self._check_may_speak()
                await self._live.say(self._add(piece, size, message_id, channel))
                self._check_may_speak()

    def _check_may_speak(self) -> None:
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)  # one error, whoever asks and how often
        if self._is_closed:
            raise fenced(self.attempt)

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self.refusal is not None

    @property
    def _is_full(self) -> bool:
        return self._bytes > UNWRITTEN_BYTES_MAX or len(self._parts) > UNWRITTEN_PARTS_MAX

    def _add(self, text: str, size: int, message_id: str, channel: Channel) -> Frame:
        """Take a frame's text in; return the frame."""
        self._frame_no += 1
        had_some, was_due = bool(self._parts), self._is_due
        last = self._parts[-1] if self._parts else None
        is_next = last is not None and (last.message_id, last.channel) == (message_id, channel)
        if last is None or last.is_sent or not is_next:
            last = self._part(message_id, channel)
        last.to_frame = self._frame_no
        last.texts.append(text)
        last.size += size
        self._bytes += size
        self._left_bytes -= size
        if not self._is_begun:
            assert self._nursery is not None, "begun before"
            self._is_begun = True
            self._nursery.start_soon(self._write_on)
            self._nursery.start_soon(self._catch_up)
        elif not had_some or (self._is_due and not was_due):
            self._changed.unpark_all()
        return Frame(
            workspace_id=self._workspace_id,
            stream_id=self._stream_id,
            attempt=self.attempt,
            message_id=message_id,
            channel=channel,
            frame_no=self._frame_no,
            text=text,
        )

    def _part(self, message_id: str, channel: Channel) -> _Part:
        """Begin a part; a message ends where another one begins in its channel."""
        talking = self._talking.get(channel)
        if talking is not None and talking != message_id:
            self._close(channel)
        self._talking[channel] = message_id
        part = _Part(
            message_id=message_id,
            channel=channel,
            from_frame=self._frame_no,
            to_frame=self._frame_no,
            began_at=trio.current_time(),
            opens=talking != message_id,
        )
        self._parts.append(part)
        self._left_bytes -= OUTPUT_EVENT_BYTES
        return part

    def _close(self, channel: str) -> None:
        """Note that what was last said in a channel was the end of its message, if it can be."""
        for part in reversed(self._parts):
            if part.channel == channel:
                part.closes = part.closes or not part.is_sent
                return

    # -------------------------------------------------------------------------------- writing

    def unwritten(self) -> list[WriteOutput]:
        """Return the command that writes all that was said and is not known to be; none: no such.

        Sent with others, `written` is to be told of it.
        """
        if not self._parts:
            return []
        for part in self._parts:
            part.is_sent = True
        parts = tuple(part.made() for part in self._parts)
        return [WriteOutput(run_id=self._run_id, attempt_id=self._attempt_id, parts=parts)]

    def written(self, commands: Sequence[WriteOutput]) -> None:
        """Note that what `unwritten` returned has been written."""
        for command in commands:
            self.committed_to = max(self.committed_to, command.parts[-1].to_frame)
        while self._parts and self._parts[0].to_frame <= self.committed_to:
            self._bytes -= self._parts.pop(0).size
        self._changed.unpark_all()

    async def along(self) -> list[WriteOutput]:
        """Return what `unwritten` does, to be sent in one commit with others.

        What would take too much of their group is written before, by itself.

        Raises:
            DalsegnoError: as `write`.

        """
        if self._bytes > _ALONG_BYTES or len(self._parts) > ROLLUP_PARTS:
            await self.write()
        return self.unwritten()

    async def write(self) -> None:
        """Write what was said.

        Raises:
            DalsegnoError: refused, or the workspace is another node's by now.

        """
        commands = self.unwritten()
        for command in commands:
            await self._write(command)
        self.written(commands)

    @property
    def _is_due(self) -> bool:
        if not self._parts:
            return False
        is_much = self._bytes >= ROLLUP_BYTES or len(self._parts) >= ROLLUP_PARTS
        is_old = trio.current_time() >= self._parts[0].began_at + self._rolls_up_s
        return is_much or is_old or self.committed_to == 0

    async def _write_on(self) -> None:
        """Write what is due, from the first frame on."""
        try:
            while not self._is_over:
                if self._is_due:
                    await self.write()
                    continue
                due_at = self._parts[0].began_at + self._rolls_up_s if self._parts else float("inf")
                with trio.move_on_at(due_at):
                    await self._changed.park()
        except DalsegnoError as error:
            _log.info("%s %s: what it says: %s", self._workspace_id, self._run_id, error)
            self._parts.clear()  # else the end could not be recorded either
            self.end(error)

    # -------------------------------------------------------------------------------- reading

    def tails(self) -> list[TailFrame]:
        """Return what is not known to be written, part by part; see `Spoken`.

        A rollup never begins in the middle of a tail, which is why those of one message are not
        joined.
        """
        return [
            TailFrame(
                workspace_id=self._workspace_id,
                stream_id=self._stream_id,
                attempt=self.attempt,
                message_id=part.message_id,
                channel=part.channel,
                committed_to=part.from_frame - 1,
                frame_no=part.to_frame,
                text="".join(part.texts),
            )
            for part in self._parts
        ]

    async def _catch_up(self) -> None:
        """Bring the tail to those that lack something, also where nothing more is said."""
        while not self._is_over:
            if self._parts:
                await trio.sleep(TAIL_S)
                await self._live.catch_up()
            else:
                await self._changed.park()

    # ------------------------------------------------------------------------------------- end

    def end(self, refusal: DalsegnoError) -> None:
        """Say nothing from this step on; the first reason is the one that counts."""
        if self.refusal is None:
            self.refusal = refusal
            self._live.is_over = True
            self._changed.unpark_all()

    def close(self) -> None:
        """End it because its worker has ended, and with it every message."""
        for channel in self._talking:
            self._close(channel)
        self._is_closed = self._live.is_over = True
        self._changed.unpark_all()


def fenced(attempt: int) -> Reject:
    """Return the refusal of what an attempt says that is not the run's any longer."""
    return Reject("RUN_FENCED", "this attempt has ended", attempt=attempt)


def _check(message_id: object, channel: object) -> None:
    """Raise `Reject` unless a message may be named like this, and there is such a channel."""
    is_named = isinstance(message_id, str) and 0 < len(message_id) <= _MESSAGE_ID_CHARS_MAX
    if not is_named:
        raise Reject("BAD_REQUEST", f"a message's id has 1 to {_MESSAGE_ID_CHARS_MAX} characters")
    _encoded(message_id)
    if channel not in _CHANNELS:
        raise Reject("BAD_REQUEST", f"a channel is one of {', '.join(_CHANNELS)}")


_CHANNELS = ("text", "reasoning", "tool_args", "stdout", "stderr")


def _encoded(text: object) -> bytes:
    """Return a text in UTF-8.

    Raises:
        Reject: ``BAD_REQUEST``: it is none, or has what no text in the log can have.

    """
    if not isinstance(text, str):
        raise Reject("BAD_REQUEST", f"a run says text, not {type(text).__name__}")
    if "\0" in text:
        raise Reject("BAD_REQUEST", "a text has no NUL")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Reject("BAD_REQUEST", "a lone surrogate is not text") from None


def _pieces(text: object) -> list[tuple[str, int]] | None:
    """Return a text in pieces, each short enough for a frame, with their sizes in bytes.

    None for one that is longer than all that a run may say.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    if isinstance(text, str) and len(text) > OUTPUT_BYTES_MAX:
        return None
    encoded = _encoded(text)
    pieces, first = [], 0
    while first < len(encoded):
        last = min(first + FRAME_BYTES_MAX, len(encoded))
        while last < len(encoded) and encoded[last] & 0xC0 == 0x80:  # RFC 3629: in a character
            last -= 1
        pieces.append((encoded[first:last].decode(), last - first))
        first = last
    return pieces
