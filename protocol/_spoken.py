"""What a run says while it is carried out: frames, which are not stored, and tails.

A *frame* is some text of one message in one channel.  Frames of an attempt are numbered 1, 2, 3 …
over all of its messages and channels.  What is said becomes durable as *rollups*, events of the
run, which begin after the last one's end.  A *tail* is what was said since: it is for whoever
missed a frame.  So all three are a text and a range of numbers:

    rollup   (from_frame - 1, to_frame]    replaces what is known above its lower end, unless
                                           all of it is known
    tail     (committed_to, frame_no]      replaces what is known above its lower end
    frame    (frame_no - 1, frame_no]      is taken only where it is the next
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec

Channel: TypeAlias = Literal["text", "reasoning", "tool_args", "stdout", "stderr"]
"""What kind of text it is."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that an attempt says, as it says it."""

    workspace_id: str
    stream_id: str
    """The run's stream."""
    attempt: int
    message_id: str
    channel: Channel
    frame_no: int
    """Its number in the attempt."""
    text: str


class TailFrame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Text of one message in one channel that was said and is not durable yet, as far as it goes.

    Where several are, each has a tail, which begins where the one before it ends.
    """

    workspace_id: str
    stream_id: str
    """The run's stream."""
    attempt: int
    message_id: str
    channel: Channel
    committed_to: int
    """The number of the last frame before it."""
    frame_no: int
    """The number of its last frame."""
    text: str


class FrameView(Protocol):
    """How a reader sees frames: what is None is not shown."""

    def frame(self, frame: Frame) -> bytes | None:
        """Encode a frame."""

    def tail(self, tail: TailFrame) -> bytes | None:
        """Encode a tail."""
