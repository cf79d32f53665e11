"""Runs end: workers that succeed, fail, hang, die, are cancelled, and what they have sent (I12)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.effects import Done, Run, _run
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App, DomainError, Event, Limits, Reject, Role
from dalsegno.protocol.runs import (
    CancelRun,
    RequestRun,
    Retry,
    RunState,
    Transcript,
    Worker,
    runs,
    worker,
)
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after
from tests.actors._boxes import Fail, boxes
from tests.runtime.web.conftest import open_site
from tests.tasks_domain import AddTask, FinishTask, tasks

QUICK = Retry(first_s=0.001, max_s=0.002)

Function = Callable[[Run], Awaitable[Any]]


@asynccontextmanager
async def running(
    *workers: Worker, store: MemoryStore | None = None, limits: Limits | None = None
) -> AsyncIterator[Workspace]:
    app = App([tasks], workers=workers)
    store = MemoryStore(WORLD) if store is None else store
    async with Runtime.open(app=app, store=store, limits=limits) as rt:
        yield rt.workspace("acme")


def doing(function: Function, **more: Any) -> Worker:
    return worker("it", **{"retry": QUICK, **more})(function)


async def asked(workspace: Workspace, run_id: str = "r", **more: Any) -> None:
    await workspace.send(RequestRun(run_id=run_id, worker="it", **more))


async def ended(workspace: Workspace, run_id: str = "r") -> RunState:
    with fail_after(10):
        while True:
            run = await workspace.get(runs, run_id)
            if run is not None and not run.is_open:
                return run
            await trio.sleep(0.005)


async def events_of(workspace: Workspace, run_id: str = "r") -> list[Event]:
    return await workspace.history(runs, run_id, limit=1_000)


async def types_of(workspace: Workspace, run_id: str = "r") -> list[str]:
    return [event.type for event in await events_of(workspace, run_id)]


async def test_a_worker_is_asked_and_its_effects_are_one_commit_with_the_end() -> None:
    async def it(run: Run) -> Sequence[msgspec.Struct]:
        return [AddTask(task_id=f"t{n}", title=run.input) for n in range(2)]

    async with running(doing(it)) as workspace:
        await asked(workspace, input="da capo")
        assert (await ended(workspace)).status == "succeeded"
        assert await types_of(workspace) == ["run_requested", "run_started", "run_finished"]
        (end,) = [e for e in await events_of(workspace) if e.type == "run_finished"]
        added = [(await workspace.history(tasks, f"t{n}"))[0] for n in range(2)]
        numbers = [event.event_seq for event in (*added, end)]
        assert numbers == list(range(numbers[0], numbers[0] + 3)), "effects before the end"
        assert {event.causation for event in (*added, end)} == {"run:r"}
        assert (await workspace.get(tasks, "t1")) is not None


async def test_a_result_is_kept() -> None:
    async def it(_run: Run) -> Done:
        return Done(result={"words": 2}, commands=[AddTask(task_id="t", title="x")])

    async with running(doing(it)) as workspace:
        await asked(workspace)
        assert (await ended(workspace)).result == {"words": 2}


async def test_effects_that_are_refused_end_the_run_with_their_code() -> None:
    async def it(_run: Run) -> Sequence[msgspec.Struct]:
        return [AddTask(task_id="new", title="x"), FinishTask(task_id="none")]

    async with running(doing(it)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "TASK_NOT_FOUND")
        assert await workspace.get(tasks, "new") is None, "all or none"


async def test_a_refusal_that_is_named_is_tried_again() -> None:
    attempts: list[int] = []

    async def it(run: Run) -> msgspec.Struct:
        attempts.append(run.attempt)
        return FinishTask(task_id="late")

    retry = Retry(attempts_max=5, first_s=0.01, max_s=0.01, on=frozenset({"TASK_NOT_FOUND"}))
    async with running(doing(it, retry=retry)) as workspace:
        await asked(workspace)
        while len(attempts) < 2:
            await trio.sleep(0.001)
        await workspace.send(AddTask(task_id="late", title="x"))
        assert (await ended(workspace)).status == "succeeded"


async def test_a_worker_that_raises_is_tried_again_and_then_the_run_fails() -> None:
    async def it(_run: Run) -> None:
        raise ZeroDivisionError("the password is swordfish")

    async with running(doing(it)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.attempt, run.error.code) == ("failed", 3, "WORKER_FAILED")
        assert run.error.message == "ZeroDivisionError"
        assert (await types_of(workspace)).count("run_restarted") == 2


async def test_a_worker_that_refuses_is_not_tried_again() -> None:
    async def it(_run: Run) -> None:
        raise Reject("NO_SUCH_LANGUAGE", "none")

    async with running(doing(it)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.attempt, run.error.code) == ("failed", 1, "NO_SUCH_LANGUAGE")


@pytest.mark.parametrize("returned", [7, "text", [7], {"a": 1}, object()])
async def test_what_a_worker_may_not_return(returned: object) -> None:
    async def it(_run: Run) -> object:
        return returned

    async with running(doing(it)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "WORKER_RESULT")


async def test_a_command_that_no_domain_has_fails_the_run() -> None:
    class Odd(msgspec.Struct):
        x: int = 1

    async def it(_run: Run) -> msgspec.Struct:
        return Odd()

    async with running(doing(it)) as workspace:
        await asked(workspace)
        assert (await ended(workspace)).status == "failed"


async def test_a_worker_that_hangs_ends_by_its_deadline() -> None:
    async def it(_run: Run) -> None:
        await trio.sleep_forever()

    async with running(doing(it, deadline_s=0.3)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "DEADLINE_EXCEEDED")


async def test_p3_a_cancel_ends_the_workers_scope_and_nothing_of_it_commits_above() -> None:
    seen: list[str] = []
    began = trio.Event()

    async def it(run: Run) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await run.send(AddTask(task_id="late", title="x"))
                except Reject as error:
                    seen.append(error.code)

    async with running(doing(it)) as workspace:
        await asked(workspace)
        await began.wait()
        receipt = await workspace.send(CancelRun(run_id="r", reason="no"))
        with fail_after(1):
            run = await ended(workspace)
        assert run.status == "cancelled"
        assert seen == ["RUN_CANCELLED"]
        assert await workspace.get(tasks, "late") is None
        assert (await types_of(workspace))[-2:] == ["run_cancel_requested", "run_finished"]
        assert receipt.event_seq < (await events_of(workspace))[-1].event_seq
        # What is asked for after it is a run of its own.
        began = trio.Event()
        await asked(workspace, "next")
        await began.wait()
        await workspace.send(CancelRun(run_id="next"))
        await ended(workspace, "next")


async def test_a_step_takes_effect_once_whatever_the_attempt() -> None:
    receipts: list[int] = []

    async def it(run: Run) -> None:
        first = await run.send(AddTask(task_id=f"t{run.attempt}", title="x"), step="draft")
        again = await run.send(AddTask(task_id="other", title="y"), step="draft")
        assert again == first
        receipts.append(first.event_seq)
        assert first.entity_id == "t1"
        if run.attempt < 3:
            raise OSError("a provider")

    async with running(doing(it)) as workspace:
        await asked(workspace)
        assert (await ended(workspace)).status == "succeeded"
        assert len(set(receipts)) == 1
        assert await workspace.get(tasks, "t2") is None
        assert await workspace.get(tasks, "other") is None
        (done,) = [e for e in await events_of(workspace) if e.type == "step_finished"]
        (task,) = await workspace.history(tasks, "t1")
        assert (task.event_seq, done.event_seq) == (receipts[0], receipts[0] + 1), "P7: one commit"


async def test_without_a_step_every_attempt_sends() -> None:
    async def it(run: Run) -> None:
        await run.send(AddTask(task_id=f"t{run.attempt}", title="x"))
        if run.attempt < 2:
            raise OSError("a provider")

    async with running(doing(it)) as workspace:
        await asked(workspace)
        await ended(workspace)
        assert await workspace.get(tasks, "t1") is not None
        assert await workspace.get(tasks, "t2") is not None


async def test_a_checkpoint_is_for_the_next_attempt() -> None:
    seen: list[object] = []

    async def it(run: Run) -> None:
        seen.append(run.checkpoint)
        await run.save({"page": run.attempt})
        if run.attempt < 3:
            raise OSError("a provider")

    async with running(doing(it)) as workspace:
        await asked(workspace)
        await ended(workspace)
    assert seen == [None, {"page": 1}, {"page": 2}]


async def test_a_run_sends_nothing_after_its_end() -> None:
    kept: list[Run] = []

    async def it(run: Run) -> None:
        kept.append(run)

    async with running(doing(it)) as workspace:
        await asked(workspace)
        await ended(workspace)
        for sending in (
            kept[0].send(AddTask(task_id="t", title="x")),
            kept[0].send(AddTask(task_id="t", title="x"), step="s"),
            kept[0].save(1),
        ):
            with pytest.raises(Reject) as raised:
                await sending
            assert raised.value.code == "RUN_OVER"
        assert await workspace.get(tasks, "t") is None


async def test_a_run_has_the_rights_of_who_asked_judged_each_time() -> None:
    sent, removed = trio.Event(), trio.Event()

    async def it(run: Run) -> None:
        await run.send(AddTask(task_id="t1", title="x"))
        sent.set()
        await removed.wait()
        with pytest.raises(Reject) as raised:
            await run.get(tasks, "t1")
        assert raised.value.code == "ROLE_FORBIDDEN"
        await run.send(AddTask(task_id="t2", title="x"))

    async with running(doing(it)) as workspace:
        await workspace.send(PutMember(user_id="ada", role="editor"))
        ada = workspace.acting(user_id="ada")
        await asked(ada)
        await sent.wait()
        assert (await workspace.history(tasks, "t1"))[0].actor_id == "ada"
        await workspace.send(RemoveMember(user_id="ada"))
        removed.set()
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "ROLE_FORBIDDEN")
        assert await workspace.get(tasks, "t2") is None


async def test_only_so_many_are_carried_out_at_a_time() -> None:
    now, most = 0, 0

    async def it(_run: Run) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(0.005)
        now -= 1

    async with running(doing(it, concurrency=3)) as workspace:
        for number in range(20):
            await asked(workspace, f"r{number}")
        for number in range(20):
            assert (await ended(workspace, f"r{number}")).status == "succeeded"
    assert most == 3
    most = 0
    async with running(doing(it, concurrency=9), limits=Limits(runs_running_max=2)) as workspace:
        for number in range(9):
            await asked(workspace, f"r{number}")
        for number in range(9):
            await ended(workspace, f"r{number}")
    assert most == 2


async def test_more_runs_than_are_remembered_are_carried_out_too() -> None:
    async def it(_run: Run) -> None: ...

    async with running(doing(it), limits=Limits(runs_waiting_max=5)) as workspace:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(asked, workspace, f"r{number}")
        for number in range(40):
            assert (await ended(workspace, f"r{number}")).status == "succeeded"


# ------------------------------------------------------------------------ ends of the program


async def test_a_run_of_a_program_that_drained_goes_on_in_the_next() -> None:
    store, seen = MemoryStore(WORLD), list[int]()
    began = trio.Event()

    async def it(run: Run) -> None:
        seen.append(run.attempt)
        began.set()
        if run.attempt == 1:
            await trio.sleep_forever()

    async with running(doing(it), store=store) as workspace:
        await asked(workspace)
        await began.wait()
    async with running(doing(it), store=store) as workspace:
        run = await ended(workspace)
        assert (run.status, run.failures, run.interruptions) == ("succeeded", 0, 0)
        assert seen == [1, 2]
        assert (await types_of(workspace))[2:4] == ["run_released", "run_restarted"]


async def test_nobody_needs_to_look_at_a_workspace_for_its_runs_to_go_on() -> None:
    store = MemoryStore(WORLD)
    done = trio.Event()

    async def it(_run: Run) -> None:
        done.set()

    async def never(_run: Run) -> None:
        await trio.sleep_forever()

    async with running(doing(never), store=store) as workspace:
        await asked(workspace)
        while len(await events_of(workspace)) < 2:
            await trio.sleep(0.001)
    async with running(doing(it), store=store):
        with fail_after(10):
            await done.wait()


async def test_a_run_without_a_worker_here_waits_for_one_and_holds_up_no_other() -> None:
    """Also where there are more of them than are remembered."""
    store = MemoryStore(WORLD)

    async def never(_run: Run) -> None:
        await trio.sleep_forever()

    async with running(worker("other")(never), store=store) as workspace:
        for number in range(12):
            await workspace.send(RequestRun(run_id=f"a{number}", worker="other"))
        with pytest.raises(Reject) as raised:
            await asked(workspace)
        assert raised.value.code == "WORKER_UNKNOWN"
    lists = Counted(store)
    async with running(
        doing(_nothing), store=store, limits=Limits(runs_waiting_max=5)
    ) as workspace:
        lists.count()
        await asked(workspace, "z")
        assert (await ended(workspace, "z")).status == "succeeded"
        await trio.sleep(0.3)
        assert lists.counted < 20, "it does not turn in a circle"
        waiting = await workspace.get(runs, "a0")
        assert waiting is not None
        assert waiting.is_open
    async with running(worker("other")(_nothing), store=store) as workspace:
        for number in range(12):
            assert (await ended(workspace, f"a{number}")).status == "succeeded"


class Counted:
    """How often a store was asked for a list."""

    def __init__(self, store: MemoryStore) -> None:
        self.counted = 0
        self._store = store
        self._list_entities = store.list_entities

    def count(self) -> None:
        async def list_entities(*args: Any, **kwargs: Any) -> Any:
            self.counted += 1
            return await self._list_entities(*args, **kwargs)

        self._store.list_entities = list_entities  # type: ignore[method-assign]


async def test_a_run_that_is_not_to_be_taken_over_ends_with_its_node() -> None:
    store, began = MemoryStore(WORLD), trio.Event()

    async def it(_run: Run) -> None:
        began.set()
        await trio.sleep_forever()

    async with running(doing(it, on_disconnect="cancel"), store=store) as workspace:
        await asked(workspace)
        await began.wait()
    async with running(doing(_nothing), store=store) as workspace:
        run = await ended(workspace)
        assert (run.status, run.attempt) == ("cancelled", 1)


async def test_what_a_workers_own_nursery_raises_beside_a_cancel_is_its_runs_alone() -> None:
    """I10: nothing of it reaches the others' runs."""
    began = trio.Event()

    async def it(run: Run) -> None:
        if run.id != "odd":
            return

        async def child() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            began.set()
            await trio.sleep_forever()

    async with running(doing(it)) as workspace:
        await asked(workspace, "odd")
        await began.wait()
        await workspace.send(CancelRun(run_id="odd"))
        assert (await ended(workspace, "odd")).status == "cancelled"
        for number in range(5):
            await asked(workspace, f"r{number}")
            assert (await ended(workspace, f"r{number}")).attempt == 1
        services = {each.name: each for each in workspace._service.statistics().services}
        assert services["runs"].generations == 1, "nothing had to be started again"


async def test_what_is_heard_while_all_ends_harms_nobody() -> None:
    """The hub tells it within a commit, which goes on whatever becomes of runs."""
    async with running(doing(_nothing)) as workspace:
        await asked(workspace)
        await ended(workspace)
        service = workspace._service.runs
        served = service._served[workspace.id]
        service.ended(workspace.id)
        await trio.sleep(0.1)  # it has ended by then, or hears of it still, which is fine too
        served.published(await workspace.history(runs, "r"))
        await asked(workspace, "next")
        service.opened(workspace.id)
        assert (await ended(workspace, "next")).status == "succeeded"


async def test_a_command_whose_decider_raises_fails_the_run_with_its_code() -> None:
    async def it(_run: Run) -> msgspec.Struct:
        return Fail("b")

    async with Runtime.open(app=App([boxes], workers=[doing(it)]), store=MemoryStore(WORLD)) as rt:
        workspace = rt.workspace("acme")
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.status, run.error.code, run.interruptions) == ("failed", "INTERNAL_ERROR", 0)


async def test_an_error_of_any_text_is_recorded() -> None:
    async def it(_run: Run) -> None:
        raise Reject("ODD", "\ud800" + "x" * 1_000_000)

    async with running(doing(it)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert (run.error.code, len(run.error.message)) == ("ODD", 1_000)


# ----------------------------------------------------------------------------------- processes


@pytest.mark.processes
async def test_a_worker_reads_a_process_by_line_and_a_cancel_kills_it() -> None:
    pids: list[int] = []

    async def it(run: Run) -> Done:
        async with run.lines(
            ["sh", "-c", "echo $$; echo two >&2; exec sleep $0", run.input]
        ) as process:
            lines = []
            async for line in process:
                lines.append(line.text)
                if line.channel == "stdout":
                    pids.append(int(line.text))
        return Done(result=[len(lines), process.ended.returncode])

    async with running(doing(it)) as workspace:
        await asked(workspace, "r", input="0")
        assert (await ended(workspace)).result == [2, 0]
        await asked(workspace, "endless", input="1000")
        with fail_after(10):
            while len(pids) < 2:
                await trio.sleep(0.01)
        await workspace.send(CancelRun(run_id="endless"))
        assert (await ended(workspace, "endless")).status == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.kill(pids[1], 0)


@pytest.mark.processes
async def test_a_command_that_is_missing_ends_the_run_with_its_code() -> None:
    async def it(run: Run) -> None:
        async with run.lines(["dalsegno-has-no-such-command"]):
            pass

    async with running(doing(it, retry=Retry(attempts_max=1))) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.error is not None
        assert run.error.code == "PROCESS_NOT_STARTED"


# ------------------------------------------------------------------------------------ the surface


def test_what_only_the_program_sends_is_no_command_to_others() -> None:
    assert set(runs.offered) == {"request_run", "cancel_run"}
    role = Role(commands=frozenset({"finish_run"}))
    with pytest.raises(DomainError, match="finish_run"):
        App([tasks], workers=[doing(_nothing)], roles={"closer": role}).check()
    App(
        [tasks], workers=[doing(_nothing)], roles={"x": Role(commands=frozenset({"request_run"}))}
    ).check()


async def _nothing(_run: Run) -> None: ...


async def test_runs_over_http() -> None:
    async with open_site(app=App([tasks], workers=[doing(_nothing)])) as site:
        owner = await site.set_up()
        commands = f"{owner.space}/commands"
        sent = await owner.post(f"{commands}/request_run", {"run_id": "r", "worker": "it"})
        assert (sent.status, sent.body["entity"]) == (200, "run:r")
        await ended(site.rt.workspace(owner.workspace_id))
        shown = (await owner.get(f"{owner.space}/entities/run/r")).body["state"]
        assert (shown["status"], shown["requested_by"]) == ("succeeded", owner.id)
        listed = await owner.get(f"{owner.space}/entities/run?key=worker:it")
        assert [item["entity_id"] for item in listed.body["items"]] == ["r"]
        refused = await owner.post(f"{commands}/request_run", {"worker": "nobody"})
        assert (refused.status, refused.code) == (400, "WORKER_UNKNOWN")
        for hidden in ("finish_run", "start_attempt", "hold_attempt"):
            refused = await owner.post(f"{commands}/{hidden}", {"run_id": "r"})
            assert (refused.status, refused.code) == (400, "UNKNOWN_COMMAND")
        wrong = await owner.post(
            f"{commands}/request_run", {"worker": "it", "labels": {"A B": "x"}}
        )
        assert (wrong.status, wrong.code) == (400, "BAD_REQUEST")
        viewer = await site.add_member(owner, "viewer")
        refused = await viewer.post(f"{commands}/cancel_run", {"run_id": "r"})
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")


# ------------------------------------------------------------------------ what a run asks and says


async def test_a_run_that_asks_for_run_after_run_ends_with_a_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_run, "RUNS_MAX", 5)

    async def it(run: Run) -> None:
        while run.input is None:
            await run.send(RequestRun(worker="it", input="an end"))

    async with running(doing(it)) as workspace:
        await asked(workspace)
        run = await ended(workspace)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == "RUN_TOO_MANY_RUNS"
        assert len((await workspace.snapshot(runs, limit=100)).items) == 6


async def test_a_loop_of_the_program_hears_what_a_run_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transcript, said = Transcript(), list[str]()

    async def it(run: Run) -> None:
        for word in ("da ", "capo "):
            await run.say(word)
            await trio.sleep(0.3)

    def hear(message: dict[str, Any]) -> None:
        transcript.hear(message)
        said.append(transcript.text())
        raise ZeroDivisionError

    async with running(doing(it)) as workspace:
        await asked(workspace)
        async with workspace.of(runs).subscribe("r", hears=hear) as events:
            async for event in events:
                transcript.take(event.event)
                if transcript.is_over:
                    break
    assert transcript.text() == "da capo "
    assert "da capo " in said, "before the end"
    assert "was not taken" in caplog.text
