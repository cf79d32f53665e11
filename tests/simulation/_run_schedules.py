"""Workers of every kind in simulated nodes: quick, slow, failing, hanging, stubborn, late."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import trio

from dalsegno.actors.effects import Done, Run
from dalsegno.actors.testing import Ask, Choices, SeededChoices, Simulated, simulate
from dalsegno.protocol import App, DalsegnoError, Event, Reject
from dalsegno.protocol.runs import CancelRun, RequestRun, Retry, Worker, worker
from tests.actors._boxes import Put, boxes

from ._schedules import FEW, of_few

RUNS = "rrrstuvwxyz"
WITH_EFFECTS = ("quick", "slow", "stepping")
"""Those that return commands."""
KINDS = ("quick", "slow", "failing", "hanging", "stubborn", "stepping")


def commands(choices: Choices) -> Ask:
    """Draw a command: mostly of runs."""
    if choices.chance(0.3):
        return of_few(choices)
    run_id = choices.pick(RUNS)
    if choices.chance(0.3):
        return Ask(CancelRun(run_id=run_id))
    return Ask(RequestRun(run_id=run_id, worker=choices.pick(KINDS), input=choices.pick(FEW)))


def workers(seed: int) -> list[Worker]:
    """Make the workers of one schedule; what they do is as repeatable as it is."""
    random = Random(seed)

    async def pause() -> None:
        await trio.sleep(random.choice([0.0, 0.1, 0.5, 2.0]))

    async def quick(run: Run) -> msgspec.Struct:
        return Put(run.input, f"end of {run.attempt_id}")

    async def slow(run: Run) -> Done:
        for number in range(random.randint(1, 3)):
            await pause()
            await run.send(Put(run.input, f"{run.attempt_id} {number}"))
        await run.save(run.attempt)
        await pause()
        return Done(result=run.attempt, commands=[Put(run.input, "a"), Put("of runs", "b")])

    async def failing(run: Run) -> None:
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
                try:
                    await run.send(Put(run.input, "late"))
                except DalsegnoError:
                    await run.send(Put(run.input, "later"), step="late")

    async def stepping(run: Run) -> msgspec.Struct:
        for name in ("one", "two", "three"):
            await run.send(Put(f"{run.id} {name}", run.attempt_id), step=name)
            await pause()
            if random.random() < 0.2:
                raise Reject("TRY_AGAIN")
        return Put(f"{run.id} end", "x")

    retry = Retry(
        attempts_max=3, first_s=0.2, max_s=1.0, on=frozenset({"TRY_AGAIN", "WORKER_FAILED"})
    )
    functions: dict[str, Any] = {
        "quick": quick,
        "slow": slow,
        "failing": failing,
        "hanging": hanging,
        "stubborn": stubborn,
        "stepping": stepping,
    }
    return [
        worker(name, retry=retry, deadline_s=8.0, concurrency=2)(function)
        for name, function in functions.items()
    ]


def run_faults(log: dict[str, list[Event]]) -> list[str]:
    """Return what no run may have done, beyond what the checker says."""
    wrong: list[str] = []
    for workspace_id, events in log.items():
        requested: dict[str, str] = {}
        steps: set[tuple[str, str]] = set()
        for before, event in pairwise([None, *events]):
            assert event is not None
            domain, _, run_id = event.stream_id.partition(":")
            if domain != "run":
                continue
            payload = msgspec.json.decode(event.payload)
            if event.type == "run_requested":
                requested[run_id] = payload["worker"]
            elif event.type == "run_finished":
                has_effects = requested.pop(run_id, None) in WITH_EFFECTS
                if payload["outcome"] == "succeeded" and has_effects:
                    commit = None if before is None else (before.causation, before.recorded_at)
                    if commit != (event.stream_id, event.recorded_at):
                        wrong.append(
                            f"{workspace_id}: the end of {run_id} is apart from its effects"
                        )
            elif event.type == "step_finished":
                step = (run_id, payload["step_id"])
                if step in steps:
                    wrong.append(f"{workspace_id}: {step} twice")
                steps.add(step)
                beside = None if before is None else (before.causation, before.command_id)
                if beside != (event.stream_id, payload["receipt"]["command_id"]):
                    wrong.append(f"{workspace_id}: {step} is apart from its effect")
        wrong += [f"{workspace_id}: {run_id} never ended" for run_id in requested]
        boxes_of_steps = [
            event.stream_id
            for event in events
            if event.stream_id.startswith("box:")
            and event.stream_id.endswith((" one", " two", " three", " end"))
        ]
        if len(set(boxes_of_steps)) < len(boxes_of_steps):
            wrong.append(f"{workspace_id}: an effect happened twice")
    return wrong


def simulated_runs(seed: int, **more: Any) -> Simulated:
    """Run one schedule with workers."""
    app = App([boxes], workers=workers(seed))
    done = simulate(SeededChoices(seed), app, commands=commands, until="settled", **more)
    done.bugs.extend(run_faults(done.log))
    return done
