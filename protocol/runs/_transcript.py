"""What a run said, put together again by who reads it: from its events, its frames and its tails.

It is what any client does, in whatever language.  What is known is a row of texts, each with the
range of frames that it is made of, one behind the other.  A rollup or a tail replaces what is known
above its lower end, and a frame is taken only where it is the next, so that nothing is there twice
and nothing is missing in between: who lost a frame has its place from the next tail or rollup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._vocabulary import RunFinished, RunOutput, RunReleased, RunRestarted, RunStarted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol._spoken import Frame, TailFrame

    from ._vocabulary import RunEvent


class _Known(NamedTuple):
    to: int
    """The number of its last frame."""
    message_id: str
    channel: str
    text: str


class Transcript:
    """What the present attempt at a run said, as far as it is known; see the module."""

    def __init__(self) -> None:
        self.attempt = 0
        """0: none has begun."""
        self.written_to = 0
        """The last frame of the attempt that is in the log."""
        self.has_ended = False
        """Whether nothing more of the attempt is said …"""
        self.is_over = False
        """… nor of the run."""
        self._known: list[_Known] = []

    def __repr__(self) -> str:
        return f"<Transcript of attempt {self.attempt}, {self.frame_no} frames>"

    @property
    def frame_no(self) -> int:
        """The number of the last frame that is known."""
        return self._known[-1].to if self._known else 0

    @property
    def texts(self) -> dict[tuple[str, str], str]:
        """What was said, by message and channel, in the order in which they began."""
        texts: dict[tuple[str, str], list[str]] = {}
        for known in self._known:
            texts.setdefault((known.message_id, known.channel), []).append(known.text)
        return {key: "".join(each) for key, each in texts.items()}

    def text(self, channel: str = "text") -> str:
        """Return what was said in a channel, all messages together."""
        return "".join(known.text for known in self._known if known.channel == channel)

    # -------------------------------------------------------------------------------- as values

    def take(self, event: RunEvent) -> None:
        """Take an event of the run."""
        match event:
            case RunStarted() | RunRestarted():
                self._begin(event.attempt)
            case RunOutput():
                self._rollup(
                    event.attempt,
                    event.from_frame - 1,
                    _Known(event.to_frame, event.message_id, event.channel, event.text),
                )
            case RunReleased() | RunFinished():
                self._end(event.attempt, is_over=isinstance(event, RunFinished))

    def take_frame(self, frame: Frame) -> None:
        """Take a frame, if it is the next one."""
        self._frame(
            frame.attempt, _Known(frame.frame_no, frame.message_id, frame.channel, frame.text)
        )

    def take_tail(self, tail: TailFrame) -> None:
        """Take a tail."""
        self._tail(
            tail.attempt,
            tail.committed_to,
            _Known(tail.frame_no, tail.message_id, tail.channel, tail.text),
        )

    # ------------------------------------------------------------------------------ as messages

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take a message of the generic dialect, decoded; one that is not about this is ignored."""
        match message.get("type"):
            case "event":
                self.read(message["event_type"], message["payload"])
            case "frame":
                self._frame(message["attempt"], _known(message, message["frame_no"]))
            case "tail":
                number = message["frame_no"]
                self._tail(message["attempt"], message["committed_to"], _known(message, number))

    def read(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Take an event of the run by its type, with its payload as JSON has it."""
        match event_type:
            case "run_started" | "run_restarted":
                self._begin(payload["attempt"])
            case "run_output":
                known = _known(payload, payload["to_frame"])
                self._rollup(payload["attempt"], payload["from_frame"] - 1, known)
            case "run_released" | "run_finished":
                self._end(payload["attempt"], is_over=event_type == "run_finished")

    # ------------------------------------------------------------------------------ what follows

    def _begin(self, attempt: int) -> None:
        """Begin an attempt: what the one before said is void."""
        if attempt > self.attempt:
            self.attempt, self.written_to, self.has_ended = attempt, 0, False
            self._known.clear()

    def _end(self, attempt: int, *, is_over: bool) -> None:
        """Drop what was said and has not been written: it never will be."""
        self._begin(attempt)
        if attempt == self.attempt:
            self.has_ended, self.is_over = True, is_over
            self._drop_above(self.written_to)

    def _rollup(self, attempt: int, after: int, known: _Known) -> None:
        self._begin(attempt)
        if attempt < self.attempt or known.to <= self.written_to:
            return
        self.written_to = known.to
        if known.to > self.frame_no:
            self._drop_above(after)
            self._known.append(known)

    def _tail(self, attempt: int, after: int, known: _Known) -> None:
        self._begin(attempt)
        if attempt == self.attempt and not self.has_ended:
            self._drop_above(after)
            self._known.append(known)

    def _frame(self, attempt: int, known: _Known) -> None:
        self._begin(attempt)
        is_next = known.to == self.frame_no + 1
        if attempt == self.attempt and is_next and not self.has_ended:
            self._known.append(known)

    def _drop_above(self, number: int) -> None:
        while self.frame_no > number:
            self._known.pop()


def _known(said: Mapping[str, Any], to: int) -> _Known:
    return _Known(to, said["message_id"], said["channel"], said["text"])
