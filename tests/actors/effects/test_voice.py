"""What runs say becomes few rows of the log, in order, once, and with what belongs to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.actors.effects import Done, Run
from dalsegno.actors.effects._voice import FRAME_BYTES_MAX, UNWRITTEN_BYTES_MAX
from dalsegno.protocol import App, Event, Reject
from dalsegno.protocol.runs import (
    OUTPUT_BYTES_MAX,
    CancelRun,
    RequestRun,
    Retry,
    RunState,
    Transcript,
    runs,
    worker,
)
from dalsegno.runtime import Runtime, Workspace
from tests.actors._world import (
    FaultyStore,
    Wall,
    applied_unknown,
    away,
    held,
    lost_unknown,
)
from tests.tasks_domain import AddTask, FinishTask, tasks

QUICK = Retry(first_s=0.001, max_s=0.002)

Function = Callable[[Run], Awaitable[Any]]


@pytest.fixture
def world(wall: Wall) -> World:
    """A world whose time is the virtual clock's: attempts that failed are tried again."""
    still = wall.world()
    return replace(still, now=lambda: still.now() + timedelta(seconds=trio.current_time()))


@asynccontextmanager
async def running(
    store: FaultyStore, world: World, function: Function, **more: Any
) -> AsyncIterator[Workspace]:
    """Open a runtime with one worker, and ask for a run."""
    of = worker("it", **{"retry": QUICK, "deadline_s": 3600, **more})(function)
    async with Runtime.open(app=App([tasks], workers=[of]), store=store, world=world) as rt:
        workspace = rt.workspace("w")
        await workspace.send(RequestRun(run_id="r", worker="it"))
        yield workspace


async def ended(workspace: Workspace) -> RunState:
    found: RunState | None = None
    with trio.fail_after(300):
        while found is None or found.is_open:
            await trio.sleep(0.05)
            found = await workspace.get(runs, "r")
    return found


async def log_of(workspace: Workspace) -> list[Event]:
    events: list[Event] = []
    while more := await workspace.history(
        runs, "r", after=events[-1].stream_seq if events else 0, limit=1_000
    ):
        events += more
    return events


async def output_of(workspace: Workspace) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(event.payload)
        for event in await log_of(workspace)
        if event.type == "run_output"
    ]


async def transcript_of(workspace: Workspace) -> Transcript:
    transcript = Transcript()
    for event in await log_of(workspace):
        transcript.read(event.type, msgspec.json.decode(event.payload))
    return transcript


def check_dense(output: list[dict[str, Any]]) -> None:
    last = 0
    for each in output:
        assert each["from_frame"] == last + 1
        last = each["to_frame"]


@pytest.mark.parametrize("pause_s", [0.02, 0.0002, 0])
async def test_two_thousand_tokens_are_ten_rows(
    store: FaultyStore, world: World, pause_s: float
) -> None:
    said = "".join(f"{number:4} " for number in range(2_000))

    async def it(run: Run) -> None:
        for first in range(0, len(said), 5):
            await run.say(said[first : first + 5])
            await trio.sleep(pause_s)

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        output = await output_of(workspace)
        check_dense(output)
        assert output[-1]["to_frame"] == 2_000
        assert "".join(each["text"] for each in output) == said
        assert len(await log_of(workspace)) <= 10, "requested, started and finished included"
        assert [each["opens"] for each in output] == [True] + [False] * (len(output) - 1)
        assert output[-1]["closes"]


async def test_the_first_frame_is_written_at_once_the_next_ones_ten_seconds_later(
    store: FaultyStore, world: World
) -> None:
    async def it(run: Run) -> None:
        await run.say("a")
        await trio.sleep(5)
        for _ in range(3):
            await run.say("b")
            await trio.sleep(1)
        await trio.sleep_forever()

    async with running(store, world, it) as workspace:
        began = trio.current_time()

        async def texts() -> list[str]:
            return [each["text"] for each in await output_of(workspace)]

        await trio.sleep(0.1)
        assert await texts() == ["a"]
        await trio.sleep_until(began + 14.5)
        assert await texts() == ["a"]
        await trio.sleep_until(began + 15.5)
        assert await texts() == ["a", "bbb"]
        await workspace.send(CancelRun(run_id="r"))
        await ended(workspace)


async def test_four_kib_are_written_without_waiting_and_long_text_is_several_frames(
    store: FaultyStore, world: World
) -> None:
    text = "é€𝄋x" * 2_000

    async def it(run: Run) -> None:
        await run.say("a")
        await trio.sleep(1)
        await run.say(text)
        await trio.sleep_forever()

    async with running(store, world, it) as workspace:
        await trio.sleep(2)
        output = await output_of(workspace)
        assert "".join(each["text"] for each in output) == "a" + text
        check_dense(output)
        frames = output[-1]["to_frame"] - 1
        assert frames == -(-len(text.encode()) // FRAME_BYTES_MAX)
        await workspace.send(CancelRun(run_id="r"))
        await ended(workspace)


async def test_what_was_said_is_in_the_commit_of_a_step_a_checkpoint_and_the_end(
    store: FaultyStore, world: World
) -> None:
    receipts: list[int] = []

    async def it(run: Run) -> Done:
        await run.say("a")
        await trio.sleep(1)
        await run.say("b")
        receipts.append((await run.send(AddTask(task_id="t", title="x"), step="one")).event_seq)
        await run.send(AddTask(task_id="t", title="x"), step="one")
        await run.say("c")
        await run.save(1)
        await run.say("d")
        return Done(commands=[AddTask(task_id="u", title="x")])

    async with running(store, world, it) as workspace:
        run = await ended(workspace)
        assert run.steps["one"].event_seq == receipts[0]
        commits = [
            [event.type for event in batch.events] for each in store.statements for batch in each
        ]
        assert commits[-3:] == [
            ["run_output", "task_added", "step_finished"],
            ["run_output", "run_saved"],
            ["run_output", "task_added", "run_finished"],
        ]
        assert (await transcript_of(workspace)).text() == "abcd"


async def test_what_was_said_before_effects_were_refused_is_kept(
    store: FaultyStore, world: World
) -> None:
    async def it(run: Run) -> msgspec.Struct:
        await run.say("a")
        await trio.sleep(1)
        await run.say("b")
        return FinishTask(task_id="none")

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "failed"
        assert (await transcript_of(workspace)).text() == "ab"


async def test_p5_nothing_of_a_superseded_attempt_is_in_the_text(
    store: FaultyStore, world: World
) -> None:
    kept: list[Run] = []

    async def it(run: Run) -> None:
        kept.append(run)
        await run.say(f"attempt {run.attempt} ")
        if run.attempt == 1:
            await run.say("which fails")
            raise OSError("a provider")
        with pytest.raises(Reject) as raised:
            await kept[0].say("from the dead")
        assert raised.value.code == "RUN_FENCED"
        await run.say("ends")

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        assert (await transcript_of(workspace)).text() == "attempt 2 ends"
        output = await output_of(workspace)
        assert {each["attempt"] for each in output} == {1, 2}
        assert len({each["message_id"] for each in output}) == 2


async def test_messages_and_channels_take_turns(store: FaultyStore, world: World) -> None:
    async def it(run: Run) -> None:
        await run.say("hm", channel="reasoning")
        await trio.sleep(1)
        await run.say("da ", message_id="one")
        await run.say("hm", channel="reasoning")
        await run.say("capo", message_id="one")
        await run.say("al fine", message_id="two")
        await run.say("")

    async with running(store, world, it) as workspace:
        await ended(workspace)
        output = await output_of(workspace)
        check_dense(output)
        assert [(e["channel"], e["text"], e["opens"], e["closes"]) for e in output] == [
            ("reasoning", "hm", True, False),
            ("text", "da ", True, False),
            ("reasoning", "hm", False, True),
            ("text", "capo", False, True),
            ("text", "al fine", True, True),
        ]


async def test_many_parts_are_written_as_much_text_is(store: FaultyStore, world: World) -> None:
    async def it(run: Run) -> None:
        for _ in range(500):
            await run.say("a", channel="stdout")
            await run.say("b", channel="stderr")

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        transcript = await transcript_of(workspace)
        assert (transcript.text("stdout"), transcript.text("stderr")) == ("a" * 500, "b" * 500)


# ------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown, away])
async def test_a_commit_that_goes_wrong_writes_nothing_twice_and_loses_nothing(
    store: FaultyStore, world: World, fault: Any
) -> None:
    async def it(run: Run) -> None:
        for number in range(40):
            if number % 10 == 2:
                store.faults.append(fault)
            await run.say(f"{number} " * 200)
            await trio.sleep(0.1)
        await run.send(AddTask(task_id="t", title="x"), step="one")
        store.faults.append(fault)

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        check_dense(await output_of(workspace))
        whole = "".join(f"{number} " * 200 for number in range(40))
        assert (await transcript_of(workspace)).text() == whole


async def test_i9_whoever_says_more_than_can_be_written_waits(
    store: FaultyStore, world: World
) -> None:
    gate, said = trio.Event(), 0

    async def it(run: Run) -> None:
        nonlocal said
        store.faults.append(held(gate))
        for _ in range(300):
            await run.say("x" * 1_000)
            said += 1_000

    async with running(store, world, it) as workspace:
        await trio.sleep(8)
        assert UNWRITTEN_BYTES_MAX < said <= UNWRITTEN_BYTES_MAX + 2_000
        gate.set()
        assert (await ended(workspace)).status == "succeeded"
        assert len((await transcript_of(workspace)).text()) == 300_000


async def test_a_rollup_under_way_while_a_step_is_sent_is_written_once(
    store: FaultyStore, world: World
) -> None:
    """Both have it; and where the step is refused, the one after it has what was in both."""
    gate = trio.Event()

    async def it(run: Run) -> None:
        store.faults.append(held(gate))
        await run.say("a")
        await trio.testing.wait_all_tasks_blocked()
        await run.say("b")
        async with trio.open_nursery() as nursery:

            async def step() -> None:
                with pytest.raises(Reject):
                    await run.send(FinishTask(task_id="none"), step="one")

            nursery.start_soon(step)
            await trio.sleep(0.1)
            gate.set()
        await run.say("c")

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        check_dense(await output_of(workspace))
        assert (await transcript_of(workspace)).text() == "abc"


# -------------------------------------------------------------------------------------- ends


async def test_of_a_run_that_is_cancelled_nothing_is_said_or_written_any_more(
    store: FaultyStore, world: World
) -> None:
    refused: list[str] = []

    async def it(run: Run) -> None:
        await run.say("a")
        await trio.sleep(1)
        await run.say("b")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), pytest.raises(Reject) as raised:
                await run.say("c")
            refused.append(raised.value.code)

    async with running(store, world, it) as workspace:
        await trio.sleep(2)
        await workspace.send(CancelRun(run_id="r"))
        assert (await ended(workspace)).status == "cancelled"
        assert (await transcript_of(workspace)).text() == "a"
        assert refused == ["RUN_CANCELLED"]
        types = [event.type for event in await log_of(workspace)]
        assert types[-2:] == ["run_cancel_requested", "run_finished"]


async def test_a_deadline_and_a_drain_keep_what_was_said(store: FaultyStore, world: World) -> None:
    async def it(run: Run) -> None:
        await run.say("a")
        await trio.sleep(1)
        await run.say("b")
        await trio.sleep_forever()

    async with running(store, world, it) as workspace:
        await trio.sleep(2)
    async with Runtime.open(app=App([tasks]), store=store, world=world) as rt:
        workspace = rt.workspace("w")
        assert [event.type for event in await log_of(workspace)][-2:] == [
            "run_output",
            "run_released",
        ]
        assert (await transcript_of(workspace)).text() == "ab"


async def test_after_the_end_nothing_can_be_said(store: FaultyStore, world: World) -> None:
    kept: list[Run] = []

    async def it(run: Run) -> None:
        kept.append(run)
        await run.say("a")

    async with running(store, world, it) as workspace:
        await ended(workspace)
        with pytest.raises(Reject) as raised:
            await kept[0].say("b")
        assert raised.value.code == "RUN_OVER"
        assert (await transcript_of(workspace)).text() == "a"


@pytest.mark.parametrize("is_caught", [True, False])
async def test_i9_a_run_that_says_too_much_fails(
    store: FaultyStore, world: World, is_caught: bool
) -> None:
    async def it(run: Run) -> None:
        try:
            for _ in range(5):
                await run.say("x" * (OUTPUT_BYTES_MAX // 4))
        except Reject:
            if not is_caught:
                raise

    async with running(store, world, it) as workspace:
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "RUN_OUTPUT_TOO_LONG")
        said = len((await transcript_of(workspace)).text())
        assert 0.9 * OUTPUT_BYTES_MAX < said <= run.written_bytes <= OUTPUT_BYTES_MAX


async def test_a_text_that_is_longer_than_all_that_a_run_may_say_ends_it(
    store: FaultyStore, world: World
) -> None:
    async def it(run: Run) -> None:
        await run.say("a")
        with pytest.raises(Reject):
            await run.say("x" * (OUTPUT_BYTES_MAX + 1))

    async with running(store, world, it) as workspace:
        run = await ended(workspace)
        assert run.error is not None
        assert run.error.code == "RUN_OUTPUT_TOO_LONG"
        assert (await transcript_of(workspace)).text() == "a"


@pytest.mark.parametrize(
    "how",
    [
        {"text": b"bytes"},
        {"text": None},
        {"text": "\ud834"},
        {"text": "a\0b"},
        {"text": "a", "channel": "colour"},
        {"text": "a", "message_id": ""},
        {"text": "a", "message_id": 7},
        {"text": "a", "message_id": "\udd1e"},
        {"text": "a", "message_id": "m" * 201},
    ],
)
async def test_what_cannot_be_said(store: FaultyStore, world: World, how: Any) -> None:
    async def it(run: Run) -> None:
        text = how.pop("text")
        with pytest.raises(Reject) as raised:
            await run.say(text, **how)
        assert raised.value.code == "BAD_REQUEST"
        await run.say("a")

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        assert (await transcript_of(workspace)).text() == "a"


async def test_saying_is_a_checkpoint(store: FaultyStore, world: World) -> None:
    async def it(run: Run) -> None:
        for text in ("", "a"):
            with trio.testing.assert_checkpoints():
                await run.say(text)
            with trio.CancelScope() as scope:
                scope.cancel()
                await run.say(text)
            assert scope.cancelled_caught

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"


async def test_frames_of_several_tasks_are_in_one_order(store: FaultyStore, world: World) -> None:
    async def it(run: Run) -> None:
        async def say(letter: str) -> None:
            for _ in range(50):
                await run.say(letter, message_id=letter)

        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(say, letter)

    async with running(store, world, it) as workspace:
        assert (await ended(workspace)).status == "succeeded"
        check_dense(await output_of(workspace))
        transcript = await transcript_of(workspace)
        assert transcript.texts == {(letter, "text"): letter * 50 for letter in "abc"}


async def test_a_worker_that_says_nothing_has_no_task_beside_it(
    store: FaultyStore, world: World
) -> None:
    tasks_: list[int] = []

    async def it(run: Run) -> None:
        task = trio.lowlevel.current_task()
        assert task.parent_nursery is not None
        tasks_.extend(len(nursery.child_tasks) for nursery in task.child_nurseries)
        await run.say("a")
        tasks_.extend(len(nursery.child_tasks) for nursery in task.child_nurseries)

    async with running(store, world, it) as workspace:
        await ended(workspace)
        assert tasks_ == [0, 2]
