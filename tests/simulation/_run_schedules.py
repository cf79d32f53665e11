"""Workers of every kind in simulated nodes: quick, slow, failing, hanging, stubborn, late."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count, pairwise
from random import Random
from typing import Any

import msgspec
import trio

from dalsegno.actors.effects import Done, Reaction, Run
from dalsegno.actors.testing import OPERATIONS, Ask, Choices, SeededChoices, Simulated, simulate
from dalsegno.protocol import App, DalsegnoError, Event, Reactor, Reject, RunFor, run_id_for
from dalsegno.protocol.runs import CancelRun, RequestRun, Retry, Worker, worker
from tests.actors._boxes import Burn, Put, WasBurned, WasPut, boxes

from ._schedules import FEW, of_few

RUNS = "rrrstuvwxyz"
WITH_EFFECTS = ("quick", "slow", "late", "stepping")
"""Those that return commands."""
WORDS = {"0", "1", "2", "one", "two", "three"}
"""What is said, beside the attempt's id."""
KINDS = (
    "quick",
    "slow",
    "failing",
    "hanging",
    "stubborn",
    "late",
    "stepping",
    "talking",
    "watched",
)


def commands(choices: Choices) -> Ask:
    """Draw a command: mostly of runs."""
    if choices.chance(0.3):
        return of_few(choices)
    if choices.chance(0.4):
        box_id = choices.pick(FEW)
        return Ask(Put(box_id, "y") if choices.chance(0.7) else Burn(box_id))
    run_id = choices.pick(RUNS)
    if choices.chance(0.3):
        return Ask(CancelRun(run_id=run_id))
    return Ask(RequestRun(run_id=run_id, worker=choices.pick(KINDS), input=choices.pick(FEW)))


def workers(seed: int, said: dict[str, str]) -> list[Worker]:
    """Make the workers of one schedule; what they do is as repeatable as it is.

    What they say is added to ``said``, by attempt.
    """
    random, bodies = Random(seed), count()

    async def say(run: Run, text: str, **how: Any) -> None:
        said[run.attempt_id] = said.get(run.attempt_id, "") + text
        await run.say(text, **how)

    async def pause() -> None:
        await trio.sleep(random.choice([0.0, 0.1, 0.5, 2.0]))

    async def quick(run: Run) -> msgspec.Struct:
        return Put(run.input, f"end of {run.attempt_id}")

    async def slow(run: Run) -> Done:
        body = next(bodies)
        for number in range(random.randint(1, 3)):
            await say(run, f"{run.attempt_id} {number} " * random.choice([1, 100]))
            await pause()
            await run.send(Put(run.input, f"by {run.attempt_id} {body}"))
        await run.save(run.attempt)
        await pause()
        effects = [Put(run.input, f"by {run.attempt_id} {body}"), Put("of runs", "b")]
        return Done(result=run.attempt, commands=effects)

    async def failing(run: Run) -> None:
        await say(run, f"{run.attempt_id} ")
        await pause()
        await run.send(Put(run.input, "before it failed"))
        raise OSError("a provider")

    async def hanging(_run: Run) -> None:
        await trio.sleep_forever()

    async def stubborn(run: Run) -> None:
        """Goes on sending after it was cancelled, and after its end."""
        try:
            await trio.sleep(random.choice([0.5, 5.0]))
        finally:
            with trio.move_on_after(3, shield=True):
                with suppress(DalsegnoError):
                    await say(run, f"{run.attempt_id} ")
                try:
                    await run.send(Put(run.input, "late"))
                except DalsegnoError:
                    await run.send(Put(run.input, "later"), step="late")

    async def late(run: Run) -> msgspec.Struct:
        """Takes no notice of its end, and answers after it."""
        with trio.CancelScope(shield=True):
            await trio.sleep(random.choice([0.0, 1.0, 3.0]))
        return Put(run.input, f"end of {run.attempt_id}")

    async def talking(run: Run) -> None:
        for number in range(random.randint(5, 25)):
            await say(run, f"{run.attempt_id} {number % 3} ")
            await trio.sleep(random.choice([0.0, 0.05, 0.2]))

    async def stepping(run: Run) -> msgspec.Struct:
        for name in random.sample(["one", "two", "three"], 3):  # in another order each time
            await say(run, f"{run.attempt_id} {name} ", message_id=name)
            await run.send(Put(f"{run.id} {name}", run.attempt_id), step=name)
            await pause()
            if random.random() < 0.2:
                raise Reject("TRY_AGAIN")
        return Put(f"{run.id} end", "x")

    async def watched(_run: Run) -> None:
        """Ends with the connection that asked, of which there are many, or with its deadline."""
        await trio.sleep_forever()

    retry = Retry(
        attempts_max=3, first_s=0.2, max_s=1.0, on=frozenset({"TRY_AGAIN", "WORKER_FAILED"})
    )
    # One that is quick ends by itself, or never.
    deadlines = {"late": 2.0, "quick": 3600.0}
    functions: dict[str, Any] = {
        "quick": quick,
        "slow": slow,
        "failing": failing,
        "hanging": hanging,
        "stubborn": stubborn,
        "late": late,
        "stepping": stepping,
        "talking": talking,
        "watched": watched,
    }
    return [
        worker(
            name,
            retry=retry,
            deadline_s=deadlines.get(name, 8.0),
            concurrency=2,
            on_disconnect="cancel" if name == "watched" else "continue",
        )(function)
        for name, function in functions.items()
    ]


def reactors() -> list[Reactor]:
    """Make the reactors of every schedule: on boxes, on what they make themselves, and on runs."""

    @boxes.react(WasPut, name="echo", when=lambda event: event.text == "y", deadline_s=8.0)
    async def echo(run: Run, event: WasPut) -> msgspec.Struct:
        assert event.text == "y"
        return Put(f"echo of {run.id}", "y")

    @boxes.requests(WasBurned, name="fan", depth_max=2)
    async def fan(reaction: Reaction, _event: WasBurned) -> Sequence[RunFor]:
        assert await reaction.state() is None
        return [RunFor(worker="quick", key=key, input=key, requested_by="u0") for key in "ab"]

    return [echo, fan]


def reactor_faults(log: dict[str, list[Event]], replaced: Mapping[str, int]) -> list[str]:
    """Return what reactors were not told of, and what they asked for without reason, or twice.

    ``replaced`` says of workspaces up to where nobody knows what a reactor was told of.
    """
    wrong: list[str] = []
    for workspace_id, events in log.items():
        depths: dict[str, int] = {}
        wanted: dict[str, str] = {}
        gone: set[str] = set()  # asked for because of what the log lost meanwhile
        for event in events:
            payload = msgspec.json.decode(event.payload)
            domain, _, entity_id = event.stream_id.partition(":")
            if event.type == "run_requested":
                depths[entity_id] = payload["depth"]
                trigger = payload["trigger"]
                if trigger is not None and wanted.pop(entity_id, None) is None:
                    gone.add(entity_id)
            elif event.type == "run_finished":
                is_bad = entity_id in gone and payload["outcome"] == "succeeded"
                wrong += [f"{workspace_id}: run {entity_id} without reason"] if is_bad else []
            made_by = (event.causation or "").removeprefix("run:")
            depth = depths.get(made_by, 0)
            if domain != "box":
                continue
            if event.type == "was_put" and payload["text"] == "y" and depth < 1:
                wanted[run_id_for("echo", "", event.event_id)] = f"{event.event_seq} of echo"
            elif event.type == "was_burned" and depth < 2:
                for key in "ab":
                    wanted[run_id_for("fan", key, event.event_id)] = f"{event.event_seq} of fan"
        wrong += [
            f"{workspace_id}: nobody was told: {of}"
            for of in wanted.values()
            if int(of.partition(" ")[0]) > replaced.get(workspace_id, 0)
        ]
    return wrong


class _Replaced(logging.Handler):
    """Hears up to where reactors do not know what they were told of."""

    def __init__(self) -> None:
        super().__init__()
        self.up_to: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if "history was replaced" in record.msg:
            assert isinstance(record.args, tuple)
            workspace_id, _, head = record.args
            self.up_to[str(workspace_id)] = int(str(head))


def run_faults(log: dict[str, list[Event]], *, apart: frozenset[str] = frozenset()) -> list[str]:
    """Return what no run may have done, beyond what the checker says.

    What runs of the workers ``apart`` say is nothing that this knows.
    """
    wrong: list[str] = []
    for workspace_id, events in log.items():
        requested: dict[str, str] = {}
        unknown: set[str] = set()
        steps: set[tuple[str, str]] = set()
        attempts: dict[str, str] = {}
        frames: dict[str, int] = {}
        for before, event in pairwise([None, *events]):
            assert event is not None
            domain, _, run_id = event.stream_id.partition(":")
            if domain != "run":
                continue
            payload = msgspec.json.decode(event.payload)
            if event.type == "run_requested":
                requested[run_id] = payload["worker"]
                if payload["worker"] in apart:
                    unknown.add(run_id)
            elif event.type == "run_finished":
                has_effects = requested.pop(run_id, None) in WITH_EFFECTS
                if payload["outcome"] == "succeeded" and has_effects:
                    commit = None if before is None else (before.causation, before.recorded_at)
                    if commit != (event.stream_id, event.recorded_at):
                        wrong.append(
                            f"{workspace_id}: the end of {run_id} is apart from its effects"
                        )
            elif event.type in {"run_started", "run_restarted"}:
                attempts[run_id], frames[run_id] = payload["attempt_id"], 0
            elif event.type == "run_output":
                if payload["from_frame"] != frames[run_id] + 1:
                    wrong.append(f"{workspace_id}: {run_id} has a gap in what it says")
                words = {*payload["text"].split()} - WORDS
                if run_id not in unknown and words != {attempts[run_id]}:
                    wrong.append(f"{workspace_id}: {run_id} has what another attempt said")
                frames[run_id] = payload["to_frame"]
            elif event.type == "step_finished":
                step = (run_id, payload["step_id"])
                if step in steps:
                    wrong.append(f"{workspace_id}: {step} twice")
                steps.add(step)
                beside = None if before is None else (before.causation, before.command_id)
                if beside != (event.stream_id, payload["receipt"]["command_id"]):
                    wrong.append(f"{workspace_id}: {step} is apart from its effect")
        wrong += [f"{workspace_id}: {run_id} never ended" for run_id in requested]
        wrong += [f"{workspace_id}: {each} is of two bodies" for each in _of_two_bodies(events)]
        boxes_of_steps = [
            event.stream_id
            for event in events
            if event.stream_id.startswith("box:")
            and event.stream_id.endswith((" one", " two", " three", " end"))
        ]
        if len(set(boxes_of_steps)) < len(boxes_of_steps):
            wrong.append(f"{workspace_id}: an effect happened twice")
    return wrong


def spoken_faults(log: dict[str, list[Event]], said: Mapping[str, str]) -> list[str]:
    """Return the runs whose text is not what the attempt that ended them has said."""
    wrong: list[str] = []
    for workspace_id, events in log.items():
        attempts: dict[str, str] = {}
        texts: dict[str, str] = {}
        for event in events:
            if not event.stream_id.startswith("run:"):
                continue
            payload = msgspec.json.decode(event.payload)
            if event.type in {"run_started", "run_restarted"}:
                attempts[event.stream_id], texts[event.stream_id] = payload["attempt_id"], ""
            elif event.type == "run_output":
                texts[event.stream_id] += payload["text"]
            elif event.type in {"run_finished", "run_released"}:
                whole = said.get(attempts[event.stream_id], "")
                text = texts[event.stream_id]
                is_whole = payload.get("outcome") == "succeeded"
                if text != whole if is_whole else not whole.startswith(text):
                    wrong.append(f"{workspace_id}: {event.stream_id} has not what it said")
    return wrong


def _of_two_bodies(events: Sequence[Event]) -> list[str]:
    """Return the attempts whose effects are of two bodies, one of a history that is gone."""
    bodies: dict[str, str] = {}
    found: list[str] = []
    for event in events:
        text = msgspec.json.decode(event.payload).get("text", "")
        if event.stream_id.startswith("box:") and text.startswith("by ") and event.causation:
            attempt_id, _, body = text.removeprefix("by ").partition(" ")
            if bodies.setdefault(attempt_id, body) != body:
                found.append(f"{event.causation} {attempt_id}")
    return found


def simulated_runs(seed: int, **more: Any) -> Simulated:
    """Run one schedule with workers."""
    said: dict[str, str] = {}
    app = App([boxes], workers=[*workers(seed, said), *reactors()])
    heard, logger = _Replaced(), logging.getLogger("dalsegno.reactors")
    logger.addHandler(heard)
    try:
        done = simulate(
            SeededChoices(seed),
            app,
            commands=commands,
            operations=(*OPERATIONS, *("subscribe",) * 6),
            until="settled",
            **more,
        )
    finally:
        logger.removeHandler(heard)
    done.bugs.extend(run_faults(done.log))
    done.bugs.extend(reactor_faults(done.log, heard.up_to))
    done.bugs.extend(spoken_faults(done.log, said))
    return done
