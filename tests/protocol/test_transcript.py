"""What a run said, rebuilt: whatever is lost, late, joined or told twice, it is the same text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import given, strategies as st

from dalsegno.protocol import Frame, TailFrame
from dalsegno.protocol.dialects import GENERIC
from dalsegno.protocol.runs import (
    RunFinished,
    RunOutput,
    RunReleased,
    RunRestarted,
    RunStarted,
    Transcript,
)

OF: Any = {"kind": "agent", "labels": {}}
WHERE: Any = {"workspace_id": "w", "stream_id": "run:r"}


def frame(number: int, text: str, attempt: int = 1, **more: Any) -> Frame:
    fields: Any = {"message_id": "m", "channel": "text", **more}
    return Frame(**WHERE, attempt=attempt, frame_no=number, text=text, **fields)


def tail(after: int, number: int, text: str, attempt: int = 1, **more: Any) -> TailFrame:
    fields: Any = {"message_id": "m", "channel": "text", **more}
    return TailFrame(
        **WHERE, attempt=attempt, committed_to=after, frame_no=number, text=text, **fields
    )


def rollup(first: int, last: int, text: str, attempt: int = 1, **more: Any) -> RunOutput:
    fields: Any = {"message_id": "m", "channel": "text", "opens": False, "closes": False, **more}
    return RunOutput(**OF, attempt=attempt, from_frame=first, to_frame=last, text=text, **fields)


def begun() -> Transcript:
    transcript = Transcript()
    transcript.take(RunStarted(**OF, attempt=1, attempt_id="a"))
    return transcript


def test_frames_follow_each_other_and_a_rollup_changes_nothing_that_is_known() -> None:
    transcript = begun()
    for number, text in enumerate(("da ", "capo ", "al "), 1):
        transcript.take_frame(frame(number, text))
    transcript.take(rollup(1, 2, "da capo "))
    transcript.take_frame(frame(2, "capo "))
    assert (transcript.text(), transcript.frame_no, transcript.written_to) == ("da capo al ", 3, 2)
    assert repr(transcript) == "<Transcript of attempt 1, 3 frames>"


def test_after_a_gap_frames_are_ignored_until_a_tail_or_a_rollup() -> None:
    transcript = begun()
    transcript.take_frame(frame(1, "a"))
    transcript.take_frame(frame(3, "c"))
    assert transcript.text() == "a"
    transcript.take_tail(tail(0, 4, "abcd"))
    transcript.take_frame(frame(5, "e"))
    transcript.take_frame(frame(7, "g"))
    assert transcript.text() == "abcde"
    transcript.take(rollup(1, 7, "abcdefg"))
    transcript.take_frame(frame(8, "h"))
    assert transcript.text() == "abcdefgh"


def test_who_begins_in_the_middle_has_what_is_said_from_there() -> None:
    transcript = Transcript()
    transcript.take_tail(tail(50, 52, "yz", attempt=2))
    transcript.take_frame(frame(53, "!", attempt=2))
    assert (transcript.attempt, transcript.text()) == (2, "yz!")


def test_messages_and_channels_are_apart() -> None:
    transcript = begun()
    transcript.take_frame(frame(1, "hm", channel="reasoning"))
    transcript.take_frame(frame(2, "da "))
    transcript.take_frame(frame(3, "fine", message_id="n"))
    transcript.take_frame(frame(4, "capo"))
    assert transcript.texts == {
        ("m", "reasoning"): "hm",
        ("m", "text"): "da capo",
        ("n", "text"): "fine",
    }
    assert transcript.text("reasoning") == "hm"


def test_p5_another_attempt_voids_what_was_said() -> None:
    transcript = begun()
    transcript.take(rollup(1, 2, "old"))
    transcript.take_frame(frame(3, "er"))
    transcript.take(RunReleased(**OF, attempt=1, reason="failed"))
    assert transcript.text() == "old", "what was not written never is"
    transcript.take_frame(frame(3, "er"))
    assert transcript.text() == "old", "nor said later"
    transcript.take(RunRestarted(**OF, attempt=2, attempt_id="b", reason="retry"))
    assert transcript.texts == {}
    for late in (rollup(1, 2, "old"), rollup(3, 3, "er")):
        transcript.take(late)
    transcript.take_frame(frame(4, "!"))
    transcript.take_tail(tail(2, 4, "er!"))
    assert transcript.texts == {}
    transcript.take_frame(frame(1, "new", attempt=2))
    assert transcript.text() == "new"


def test_at_the_end_it_is_what_is_in_the_log() -> None:
    transcript = begun()
    transcript.take_frame(frame(1, "a"))
    transcript.take(rollup(1, 1, "a"))
    transcript.take_frame(frame(2, "b"))
    transcript.take(RunFinished(**OF, outcome="cancelled", attempt=1))
    transcript.take_tail(tail(1, 3, "bc"))
    assert (transcript.text(), transcript.has_ended, transcript.is_over) == ("a", True, True)


def test_frames_may_be_ahead_of_the_events_that_somebody_has_yet_to_read() -> None:
    transcript = begun()
    transcript.take_frame(frame(1, "old"))
    transcript.take_frame(frame(1, "new", attempt=2))
    transcript.take(rollup(1, 1, "old"))
    transcript.take(RunReleased(**OF, attempt=1, reason="failed"))
    transcript.take(RunRestarted(**OF, attempt=2, attempt_id="b", reason="retry"))
    transcript.take_frame(frame(2, "er", attempt=2))
    assert (transcript.text(), transcript.has_ended) == ("newer", False)


# ------------------------------------------------------------------------------------ at random


@dataclass
class Part:
    message_id: str
    channel: str
    first: int
    last: int
    text: str = ""
    is_sent: bool = False


@dataclass
class Reader:
    transcript: Transcript = field(default_factory=Transcript)
    is_behind: bool = False
    """It reads pages: it is given no frame, and its events later."""
    events: int = 0


@dataclass
class Said:
    """A server of one attempt, as it is meant to be: what is said, sent, written and lost."""

    frames: int = 0
    whole: dict[tuple[str, str], str] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(
        default_factory=lambda: [("run_started", RunStarted(**OF, attempt=1, attempt_id="a"))]
    )
    known_to: int = 0
    """What is known here to be written; the log may have more."""
    written_to: int = 0
    readers: list[Reader] = field(default_factory=list)

    def say(self, key: tuple[str, str], text: str, lost_by: int) -> None:
        self.frames += 1
        self.whole[key] = self.whole.get(key, "") + text
        last = self.parts[-1] if self.parts else None
        if last is None or last.is_sent or (last.message_id, last.channel) != key:
            last = Part(*key, self.frames, self.frames)
            self.parts.append(last)
        last.last, last.text = self.frames, last.text + text
        said = frame(self.frames, text, message_id=key[0], channel=key[1])
        for number, reader in enumerate(self.readers):
            if not reader.is_behind and not lost_by >> number & 1:
                hear(reader, GENERIC.frame(said))

    def seal(self) -> None:
        for part in self.parts:
            part.is_sent = True

    def write(self, count: int, *, is_known: bool) -> None:
        """Write the next parts that were sent, and give them to those that are not behind."""
        for part in [p for p in self.parts if p.is_sent and p.first > self.written_to][:count]:
            self.written_to = part.last
            said = rollup(
                part.first,
                part.last,
                part.text,
                message_id=part.message_id,
                channel=part.channel,
            )
            self.events.append(("run_output", said))
        for reader in self.readers:
            if not reader.is_behind:
                self.page(reader)
        if is_known:
            self.known_to = self.written_to
            self.parts = [part for part in self.parts if part.last > self.known_to]

    def tell(self, reader: Reader) -> None:
        if not reader.is_behind:
            for part in self.parts:
                said = tail(
                    part.first - 1,
                    part.last,
                    part.text,
                    message_id=part.message_id,
                    channel=part.channel,
                )
                hear(reader, GENERIC.tail(said))
            assert reader.transcript.frame_no == self.frames
            assert reader.transcript.texts == self.whole

    def page(self, reader: Reader) -> None:
        for type_, event in self.events[reader.events :]:
            reader.transcript.read(type_, msgspec.to_builtins(event))
        reader.events = len(self.events)


def hear(reader: Reader, message: bytes) -> None:
    reader.transcript.hear(msgspec.json.decode(message))


KEYS = st.tuples(st.sampled_from("mn"), st.sampled_from(["text", "reasoning"]))
WHO = st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("say"), KEYS, st.text("abc é", min_size=1, max_size=3), st.integers(0, 15)),
    st.tuples(st.just("say"), KEYS, st.just("x"), st.just(0)),
    st.tuples(st.just("seal")),
    st.tuples(st.just("write"), st.integers(1, 9), st.booleans()),
    st.tuples(st.just("tell"), WHO),
    st.tuples(st.just("behind"), WHO),
    st.tuples(st.just("level"), WHO),
    st.tuples(st.just("join")),
)


@given(st.lists(STEPS, max_size=60))
def test_p4_whatever_a_reader_loses_and_whenever_it_joins_its_text_is_the_same(
    steps: list[Any],
) -> None:
    said = Said(readers=[Reader(), Reader()])
    for reader in said.readers:
        said.page(reader)
    for name, *rest in steps:
        if name == "say":
            key, text, lost_by = rest
            said.say(key, text, lost_by & ~1)  # the first reader never loses any
        elif name == "seal":
            said.seal()
        elif name == "write":
            said.write(rest[0], is_known=rest[1])
        elif name == "join" and len(said.readers) < 4:
            said.readers.append(Reader())
            said.page(said.readers[-1])
        elif name in {"tell", "behind", "level"} and 0 < rest[0] < len(said.readers):
            reader = said.readers[rest[0]]
            if name == "tell":
                said.tell(reader)
            else:
                reader.is_behind = name == "behind"
                said.page(reader)
        assert said.readers[0].transcript.texts == said.whole
        for reader in said.readers[1:]:
            if reader.transcript.frame_no == said.frames:
                assert reader.transcript.texts == said.whole
            for key, text in reader.transcript.texts.items():
                assert said.whole[key].startswith(text), "never another text"
    said.events.append(("run_finished", RunFinished(**OF, outcome="succeeded", attempt=1)))
    committed: dict[tuple[str, str], str] = {}
    for _, event in said.events:
        if isinstance(event, RunOutput):
            key = (event.message_id, event.channel)
            committed[key] = committed.get(key, "") + event.text
    for reader in said.readers:
        said.page(reader)
        assert reader.transcript.texts == committed
