"""The watch on an event loop, and that hostile input is what it is said to be."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import trio
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side

from bench import _hostile_inputs as inputs
from bench._attackers import Http, Target
from bench._attacks import ATTACKS, LONG_MS, SHORT_MS
from bench._watched import Watch
from dalsegno.actors.domains.notes import note_dialect
from dalsegno.protocol import Limits, Reject
from dalsegno.protocol.dialects import GENERIC, Language

MS = 1_000_000
PATIENCE_S = 20.0


class Clock:
    """A processor that is used when a test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def work(self, ms: float) -> None:
        self.now_ns += int(ms * MS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    return Watch(clock)


def run(watch: Watch, clock: Clock, *steps: float) -> None:
    """Run a task whose steps take so many milliseconds."""

    async def worker() -> None:
        for ms in steps:
            clock.work(ms)
            await trio.lowlevel.checkpoint()

    trio.run(worker, instruments=[watch])


def test_the_longest_step_is_told_once(watch: Watch, clock: Clock) -> None:
    run(watch, clock, 1, 7, 3)
    step = watch.take()
    assert step.took_s == 0.007
    assert step.task.endswith("run.<locals>.worker")
    assert watch.take().took_s == 0.0


def test_two_short_steps_are_no_long_one(watch: Watch, clock: Clock) -> None:
    run(watch, clock, 4, 4)
    assert watch.take().took_s == 0.004


def test_a_long_step_names_the_place_that_most_samples_found(watch: Watch, clock: Clock) -> None:
    def hard() -> None:
        clock.work(5)
        watch.sample(sys._getframe())

    async def worker() -> None:
        watch.sample(sys._getframe())  # a short one so far
        hard()
        hard()
        clock.work(1)
        watch.sample(sys._getframe())

    trio.run(worker, instruments=[watch])
    assert watch.take().place.split(" < ")[0].endswith("test_hostile.py:" + hard.__qualname__)


def test_garbage_that_is_collected_within_a_step_is_told(watch: Watch, clock: Clock) -> None:
    async def worker() -> None:
        watch.collect("start", {})
        clock.work(6)
        watch.collect("stop", {})
        clock.work(2)
        await trio.lowlevel.checkpoint()
        clock.work(7)

    trio.run(worker, instruments=[watch])
    step = watch.take()
    assert (step.took_s, step.collecting_s) == (0.008, 0.006)
    run(watch, clock, 9)
    assert watch.take().collecting_s == 0.0


def test_garbage_between_steps_is_in_none(watch: Watch, clock: Clock) -> None:
    watch.collect("start", {})
    clock.work(6)
    watch.collect("stop", {})
    run(watch, clock, 1)
    assert watch.take().collecting_s == 0.0


def parsed(data: bytes) -> Iterator[tuple[Opcode, int, bool]]:
    """Read frames as a server does."""
    server = Protocol(Side.SERVER)
    server.receive_data(data)
    assert server.parser_exc is None
    for frame in server.events_received():
        yield frame.opcode, len(frame.data), frame.fin  # type: ignore[union-attr]


def test_fragments_are_empty_and_never_end() -> None:
    first, *others = parsed(inputs.first_fragment() + inputs.empty_fragments())
    assert first == (Opcode.TEXT, 0, False)
    assert set(others) == {(Opcode.CONT, 0, False)}
    assert len(others) == inputs.BLOCK_BYTES // 6


def test_pings_are_as_long_as_they_may_be() -> None:
    assert set(parsed(inputs.pings())) == {(Opcode.PING, 125, True)}


def test_a_block_is_what_is_read_at_a_time() -> None:
    for block in (inputs.empty_fragments(), inputs.pings(), inputs.bad_messages()):
        assert inputs.BLOCK_BYTES - 131 < len(block) <= inputs.BLOCK_BYTES


@pytest.mark.parametrize("size", [16 * 1024, inputs.MIB])
def test_brackets_are_strings_in_a_list(size: int) -> None:
    document = inputs.brackets(size)
    assert size - 4 <= len(document) <= size
    assert set(json.loads(document)["x"]) == {"[", ""}


def text_of(frame: bytes) -> str:
    """Return the text of a client's message."""
    server = Protocol(Side.SERVER)
    server.receive_data(frame)
    (read,) = server.events_received()
    return bytes(read.data).decode()  # type: ignore[union-attr]


def test_patches_and_rollbacks_are_messages_that_the_server_takes() -> None:
    for frame in (
        inputs.patch("w", "n", 1, inputs.keystroke(5)),
        inputs.patch("w", "n", inputs.PAST_VERSION, inputs.operations()),
        inputs.rollback("w", "n", 91),
    ):
        Language(GENERIC, note_dialect).decode(text_of(frame), Limits())


def test_short_messages_are_no_json() -> None:
    frame = inputs.bad_messages()[: len(inputs.bad_messages()) // (inputs.BLOCK_BYTES // 14)]
    with pytest.raises(Reject):
        Language(GENERIC, note_dialect).decode(text_of(frame), Limits())


def test_operations_are_as_many_as_said() -> None:
    assert json.loads(inputs.operations(3)) == [{"retain": 0}] * 3
    assert json.loads(inputs.operations(0)) == []


def test_a_request_has_a_session_only_if_there_is_one() -> None:
    head, _, body = inputs.request("/x", b"{}", cookie="a=b", csrf_token="c").partition(b"\r\n\r\n")
    assert body == b"{}"
    assert b"\r\nCookie: a=b\r\nX-CSRF-Token: c" in head
    assert b"Cookie" not in inputs.request("/x", b"{}")


def test_every_attack_has_what_it_is_about() -> None:
    for name, attack in ATTACKS.items():
        assert attack.bound_ms in (SHORT_MS, LONG_MS), name
        assert attack.text or not attack.patches, name
        assert len(attack.text.encode()) <= Limits().note_bytes_max, name


async def test_an_attacker_reads_each_answer_to_its_end(nursery: trio.Nursery) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        for answer in (b"HTTP/1.1 200 \r\nContent-", b"Length: 4\r\n\r\n12", b"34"):
            await stream.send_all(answer)
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 429 \r\ncontent-length: 0\r\n\r\n")

    nursery.start_soon(trio.serve_listeners, serve, [listener])

    def ask() -> Counter[str]:
        tally = Counter[str]()
        http = Http(Target(port, "", "", [], ""), tally, time.perf_counter() + PATIENCE_S)
        assert [http.ask(b"one"), http.ask(b"two")] == [200, 429]
        http.close()
        return tally

    tally = await trio.to_thread.run_sync(ask)
    assert tally == {"bytes": 6, "status 200": 1, "status 429": 1}
    nursery.cancel_scope.cancel()
