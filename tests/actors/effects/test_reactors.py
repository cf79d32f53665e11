"""Reactors: told of every event once, at the event; what they ask for is there once, ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from dalsegno.actors.effects import Reaction, Run
from dalsegno.actors.ports import PageBounds, ReactorPlace, ReactorStart
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import (
    App,
    Cursor,
    Domain,
    DomainError,
    Event,
    Limits,
    Rate,
    Reactor,
    Reject,
    RunFor,
    UnavailableError,
    run_id_for,
)
from dalsegno.protocol.runs import RequestRun, Retry, RunFinished, RunState, Worker, runs, worker
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, until
from tests.actors._boxes import Box, Burn, Fill, Put, WasBurned, WasPut, boxes

QUICK = Limits(runs_scan_s=0.1, places_every_s=0.05, backoff_first_s=0.01, backoff_max_s=0.05)


def noting(seen: list[str], **more: Any) -> Reactor:
    """Return a reactor that notes what it is told, with the state at the event."""

    @boxes.react(WasPut, name="note", **more)
    async def note(run: Run, event: WasPut) -> None:
        state = await run.state()
        seen.append(f"{event.text} at {state.puts}")

    return note


@asynccontextmanager
async def running(
    *workers: Reactor | Worker, store: MemoryStore | None = None, limits: Limits = QUICK
) -> AsyncIterator[Runtime]:
    app = App([boxes], workers=workers)
    store = MemoryStore(WORLD) if store is None else store
    async with Runtime.open(app=app, store=store, limits=limits, node_id="n") as rt:
        yield rt


async def log_of(store: MemoryStore, workspace_id: str = "w") -> list[Event]:
    bounds = PageBounds(from_seq=1, limit=100_000, bytes_max=10**9)
    return await store.read_events(workspace_id, bounds)


async def all_ended(workspace: Workspace, count: int) -> list[RunState]:
    """Wait until there are so many runs, and all have ended."""
    found: list[RunState] = []
    with fail_after(10):
        while len(found) < count or any(run.is_open for run in found):
            await trio.sleep(0.01)
            page = await workspace.snapshot(runs, limit=1_000)
            found = [each.state for each in page.items]
            assert len(found) <= count, "too many"
    return found


async def test_each_event_is_one_run_with_the_state_at_the_event() -> None:
    seen: list[str] = []
    async with running(noting(seen, concurrency=1)) as rt:
        workspace = rt.workspace("w")
        for text in ("a", "b", "c"):
            await workspace.send(Put("x", text))
        ended = await all_ended(workspace, 3)
    assert sorted(seen) == ["a at 1", "b at 2", "c at 3"]
    assert {run.status for run in ended} == {"succeeded"}
    assert {run.depth for run in ended} == {1}
    assert sorted(run.trigger.version for run in ended if run.trigger is not None) == [1, 2, 3]


async def test_a_new_reactor_is_told_of_the_first_thing_that_happens_once_the_runtime_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, seen = MemoryStore(WORLD), list[str]()
    register = store.register_reactors

    async def register_slowly(reactors: Sequence[ReactorStart]) -> None:
        await trio.sleep(0.05)
        await register(reactors)

    monkeypatch.setattr(store, "register_reactors", register_slowly)
    async with running(noting(seen), store=store) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        await all_ended(workspace, 1)
    assert seen == ["a at 1"]


async def test_what_a_reactor_returns_is_committed_with_its_end() -> None:
    @boxes.react(WasPut, name="copy")
    async def copy(run: Run, event: WasPut) -> Put:
        return Put(f"{run.id} copy", event.text)

    async with running(copy) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        (run,) = await all_ended(workspace, 1)
        assert run.status == "succeeded"
        (item,) = (await workspace.snapshot(runs)).items
        assert (await workspace.get(boxes, f"{item.entity_id} copy")) == Box("a")


# -------------------------------------------------------------------------------- predicates


async def test_predicates_see_the_event_and_the_state_at_it() -> None:
    def is_third(box: Box | None, _event: WasPut) -> bool:
        return box is not None and box.puts == 3

    seen: list[str] = []
    by_event: list[str] = []

    @boxes.react(WasPut, name="b", when=lambda event: event.text == "4")
    async def only_b(_run: Run, event: WasPut) -> None:
        by_event.append(event.text)

    async with running(noting(seen, when=is_third), only_b) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Fill("x", 20))  # now it has 20
        await workspace.send(Fill("y", 5))
        await all_ended(workspace, 4)
    assert seen == ["2 at 3", "2 at 3"]
    assert by_event == ["4", "4"]


async def test_a_predicate_that_raises_asks_for_nothing_and_is_counted() -> None:
    def raising(event: WasPut) -> bool:
        if event.text == "bad":
            raise ZeroDivisionError
        return True

    seen: list[str] = []
    async with running(noting(seen, when=raising)) as rt:
        workspace = rt.workspace("w")
        for text in ("bad", "good"):
            await workspace.send(Put("x", text))
        await all_ended(workspace, 1)
        assert rt.service.reactors.statistics().failed == 1
    assert seen == ["good at 2"]


async def test_an_entity_that_cannot_be_folded_asks_for_nothing_and_harms_no_other() -> None:
    """Its events were written by a program that could fold them."""

    def cannot(_box: Box | None, event: WasPut) -> Box:
        return Box(event.text, 1 if event.text == "a" else 1 // 0)

    seen: list[str] = []
    store = MemoryStore(WORLD)
    async with running(it, store=store) as rt:
        workspace = rt.workspace("w")
        for text in ("a", "b", "c"):
            await workspace.send(Put("x", text))

    @boxes.react(WasPut, name="stateful", when=lambda box, event: box is None, since="beginning")
    async def stateful(_run: Run, event: WasPut) -> None:
        seen.append(event.text)

    with boxes.wrapping(lambda function: cannot if function.__name__ == "_was_put" else function):
        async with running(stateful, noting([], when=lambda _: False), store=store) as rt:
            await rt.workspace("w").head()
            await until(lambda: rt.service.reactors.statistics().failed == 2)
            await until(lambda: not rt.service.reactors.statistics().behind)
            assert all(each.is_running for each in rt.service.statistics().services)
    assert seen == []


# ------------------------------------------------------------------------- any number of runs


Choose = Callable[[Reaction, WasPut], Awaitable[Sequence[RunFor]]]


def choosing(choose: Choose, **more: Any) -> Reactor:
    return boxes.requests(WasPut, name="choose", **more)(choose)


@worker("it", retry=Retry(first_s=0.001, max_s=0.002))
async def it(_run: Run) -> None:
    """Do nothing."""


async def test_an_event_may_ask_for_any_number_of_runs() -> None:
    async def choose(reaction: Reaction, event: WasPut) -> Sequence[RunFor]:
        state = await reaction.state()
        assert state == Box(event.text, reaction.record.stream_seq)
        listed = await reaction.snapshot(boxes)
        now = await reaction.get(boxes, "x")
        assert now is not None
        return [
            RunFor(worker="it", key=str(n), input=n, labels={"of": event.text})
            for n in range(len(listed.items) + 2)
        ]

    async with running(choosing(choose), it) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        ended = await all_ended(workspace, 3)
        assert sorted(run.input for run in ended) == [0, 1, 2]
        assert {run.labels["of"] for run in ended} == {"a"}


async def _too_many(_reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
    return [RunFor(worker="it", key=str(n)) for n in range(10_000)]


async def _wrong(_reaction: Reaction, _event: WasPut) -> Any:
    return "it"


async def _raising(_reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
    raise OSError("a database of its own")


async def _hanging(_reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
    await trio.sleep_forever()
    return []


async def _unknown(_reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
    return [RunFor(worker="nobody"), RunFor(worker="it", key="good")]


@pytest.mark.parametrize("choose", [_too_many, _wrong, _raising, _hanging])
async def test_a_reactor_that_fails_keeps_nobody_waiting(choose: Choose) -> None:
    seen: list[str] = []
    limits = replace(QUICK, reaction_deadline_s=0.05)
    async with running(choosing(choose), it, noting(seen), limits=limits) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        await all_ended(workspace, 1)
        assert seen == ["a at 1"]
        assert rt.service.reactors.statistics().failed == 1


async def test_a_reactor_that_was_too_slow_is_asked_again() -> None:
    asked = 0

    async def slow(_reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
        nonlocal asked
        asked += 1
        await trio.sleep(0 if asked == 3 else 1)
        return [RunFor(worker="it")]

    limits = replace(QUICK, reaction_deadline_s=0.5)
    async with running(choosing(slow), it, limits=limits) as rt:
        await rt.workspace("w").send(Put("x", "a"))
        await all_ended(rt.workspace("w"), 1)
        assert rt.service.reactors.statistics().failed == 0


async def test_a_reactor_that_computes_lets_others_have_a_turn() -> None:
    limits = replace(QUICK, turn_s=0.0)  # over at once
    turns = 0

    async def choose(reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
        nonlocal turns
        async with trio.open_nursery() as nursery:
            ended = False

            async def other() -> None:
                nonlocal turns
                while not ended:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(other)
            for _ in range(20):
                await reaction.pause()
            ended = True
        return []

    async with running(choosing(choose), it, limits=limits) as rt:
        await rt.workspace("w").send(Put("x", "a"))
        await until(lambda: turns > 0 and not rt.service.reactors.statistics().behind)
    assert turns >= 19, "one between each two; Trio draws who is first at the end"


async def test_of_several_runs_the_one_that_is_refused_is_left_out() -> None:
    async with running(choosing(_unknown), it) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        (run,) = await all_ended(workspace, 1)
        assert run.worker == "it"
        assert rt.service.reactors.statistics().failed == 1


# -------------------------------------------------------------------------- where they begin


async def test_a_new_reactor_begins_at_now_and_a_new_workspace_at_its_beginning() -> None:
    store, seen = MemoryStore(WORLD), list[str]()
    async with running(store=store) as rt:
        await rt.workspace("w").send(Put("x", "before"))
    async with running(noting(seen), store=store) as rt:
        await rt.workspace("w").send(Put("x", "after"))
        await rt.workspace("new").send(Put("x", "new"))
        await all_ended(rt.workspace("w"), 1)
        await all_ended(rt.workspace("new"), 1)
    assert sorted(seen) == ["after at 2", "new at 1"]


async def test_one_that_begins_at_the_beginning_needs_no_new_event() -> None:
    store, seen = MemoryStore(WORLD), list[str]()
    async with running(store=store) as rt:
        for text in ("a", "b"):
            await rt.workspace("w").send(Put("x", text))
    async with running(noting(seen, since="beginning"), store=store) as rt:
        await all_ended(rt.workspace("w"), 2)
    assert sorted(seen) == ["a at 1", "b at 2"]


async def test_one_that_comes_back_goes_on_where_it_was() -> None:
    store, seen = MemoryStore(WORLD), list[str]()
    async with running(noting(seen), store=store) as rt:
        await rt.workspace("w").send(Put("x", "a"))
        await all_ended(rt.workspace("w"), 1)
    async with running(it, store=store) as rt:
        await rt.workspace("w").send(Put("x", "b"))

    @boxes.react(WasPut, name="renamed", was="note")
    async def renamed(_run: Run, event: WasPut) -> None:
        seen.append(f"{event.text} under another name")

    async with running(renamed, store=store) as rt:
        await rt.workspace("w").head()
        await all_ended(rt.workspace("w"), 2)
    assert seen == ["a at 1", "b under another name"]


async def test_what_it_is_told_again_asks_for_what_there_is() -> None:
    """After a crash, after a year too: no key that expires decides it, but an entity."""
    store, seen = MemoryStore(WORLD), list[str]()
    for _ in range(3):
        async with running(noting(seen), store=store) as rt:
            await rt.workspace("w").send(Put("x", "a"), key="once")
            await all_ended(rt.workspace("w"), 1)
        await store.write_places({"w": ReactorPlace(("note",), Cursor(0, 0))})
    assert seen == ["a at 1"]


# ----------------------------------------------------------------- who serves, and who is gone


async def test_a_workspace_that_nobody_serves_is_found() -> None:
    """Its owner died between the commit and its reactors: the next one looks for it."""
    store, seen = MemoryStore(WORLD), list[str]()

    async def unable(_reaction: Reaction, _event: WasPut) -> Sequence[RunFor]:
        raise UnavailableError("it dies before")

    async with running(boxes.requests(WasPut, name="note")(unable), store=store) as rt:
        await rt.workspace("w").send(Put("x", "a"))
    async with running(noting(seen), store=store) as rt:
        with fail_after(10):
            while not seen:
                await trio.sleep(0.01)
    assert seen == ["a at 1"]


async def test_a_workspace_rests_with_its_reactors_at_its_head() -> None:
    seen: list[str] = []
    limits = replace(QUICK, passivate_after_s=0.1)
    store = MemoryStore(WORLD)
    async with running(noting(seen), store=store, limits=limits) as rt:
        await rt.workspace("w").send(Put("x", "a"))
        await until(lambda: not rt.service.statistics().workspaces)
        assert seen == ["a at 1"]
        with fail_after(10):
            while "note" not in await store.read_places("w"):
                await trio.sleep(0.01)
        assert (await store.read_places("w"))["note"].seq == len(await log_of(store))


class Restored(MemoryStore):
    """One whose log was restored from another copy than its other tables."""

    is_restored = False

    async def read_places(self, workspace_id: str) -> dict[str, Cursor]:
        places = await super().read_places(workspace_id)
        return dict.fromkeys(places, Cursor(1, 0xBAD)) if self.is_restored else places


async def test_of_a_replaced_history_it_goes_on_from_the_head() -> None:
    store, seen = Restored(WORLD), list[str]()
    async with running(noting([]), store=store) as rt:
        for text in ("a", "b"):
            await rt.workspace("w").send(Put("x", text))
        await all_ended(rt.workspace("w"), 2)
    store.is_restored = True
    async with running(noting(seen), store=store) as rt:
        workspace = rt.workspace("w")
        await workspace.head()
        await until(lambda: rt.service.reactors.statistics().replaced == 1)
        await workspace.send(Put("x", "c"))
        await all_ended(workspace, 3)
    assert seen == ["c at 3"]


# --------------------------------------------------------------------------------- no loops


async def test_x_auto_8_a_reactor_on_what_it_makes_itself_comes_to_an_end() -> None:
    @boxes.react(WasPut, name="again", depth_max=3)
    async def again(run: Run, event: WasPut) -> Put:
        await run.send(Put("by hand", "of a run"))
        return Put("x", f"{event.text}'")

    async with running(again) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        ended = await all_ended(workspace, 1 + 2 + 4)
        assert sorted(run.depth for run in ended) == [1, 2, 2, 3, 3, 3, 3]


async def test_a_reactor_on_runs_comes_to_an_end_too() -> None:
    @runs.react(RunFinished, name="review")
    async def review(_run: Run, _event: RunFinished) -> None:
        """Each of its own runs finishes as well."""

    async with running(it, review) as rt:
        workspace = rt.workspace("w")
        await workspace.send(RequestRun(run_id="r", worker="it"))
        ended = await all_ended(workspace, 2)
        assert sorted(run.worker for run in ended) == ["it", "review"]


@pytest.mark.parametrize("is_returned", [False, True])
async def test_a_run_that_is_asked_for_by_a_run_is_as_deep(*, is_returned: bool) -> None:
    @boxes.react(WasPut, name="ask")
    async def ask(run: Run, _event: WasPut) -> RequestRun | None:
        if is_returned:
            return RequestRun(worker="put")
        await run.send(RequestRun(worker="put"), step="ask")
        return None

    puts = 0

    @worker("put")
    async def put(_run: Run) -> Put:
        nonlocal puts
        puts += 1
        await trio.sleep(0 if puts < 10 else 60)  # else a test without an end would have none
        return Put("x", "by a run of a run")

    async with running(ask, put) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        ended = await all_ended(workspace, 2)
        assert {run.depth for run in ended} == {1}


async def test_only_events_ask_for_the_runs_of_a_reactor() -> None:
    async with running(noting([])) as rt:
        with pytest.raises(Reject, match="WORKER_UNKNOWN"):
            await rt.workspace("w").send(RequestRun(worker="note"))


# ------------------------------------------------------------- several runs, and how many


async def test_a_reactor_counts_its_events_by_their_times_in_the_log_and_once() -> None:
    twice = Rate(name="twice", times=2, window_s=3600.0)

    @worker("work", kind="automation")
    async def work(_run: Run) -> None:
        """Do nothing."""

    @boxes.requests(WasPut, name="ask")
    async def ask(reaction: Reaction, event: WasPut) -> list[RunFor]:
        answers = {reaction.spend(twice, "k") for _ in range(5)}  # as if told again and again
        assert len(answers) == 1
        return [RunFor(worker="work", labels={"text": event.text})] if answers == {True} else []

    async with running(ask, work) as rt:
        workspace = rt.workspace("w")
        for text in ("a", "b", "c"):
            await workspace.send(Put("x", text))
        ended = await all_ended(workspace, 2)
        assert {run.labels["text"] for run in ended} == {"a", "b"}


async def test_one_run_of_several_that_fails_is_counted_and_harms_no_other() -> None:
    @worker("work", kind="automation")
    async def work(_run: Run) -> None:
        """Do nothing."""

    @boxes.requests(WasPut, name="ask")
    async def ask(reaction: Reaction, _event: WasPut) -> list[RunFor]:
        reaction.fail("the first", ValueError("no"))
        return [RunFor(worker="work", key="second")]

    async with running(ask, work) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        await all_ended(workspace, 1)
        assert rt.service.reactors.statistics().failed == 1


async def test_what_stands_for_an_event_is_in_the_id_of_its_run() -> None:
    @worker("work", kind="automation")
    async def work(_run: Run) -> None:
        """Do nothing."""

    @boxes.requests(WasPut, name="ask")
    async def ask(_reaction: Reaction, event: WasPut) -> list[RunFor]:
        return [RunFor(worker="work", key="k", trigger_id=event.text)]

    async with running(ask, work) as rt:
        workspace = rt.workspace("w")
        for text in ("a", "b", "a"):
            await workspace.send(Put("x", text))
        await all_ended(workspace, 2)
        await until(lambda: rt.service.reactors.statistics().behind == 0)
        page = await workspace.snapshot(runs)
    assert {each.entity_id for each in page.items} == {run_id_for("ask", "k", t) for t in "ab"}


# -------------------------------------------------------------------------------- declaring


def test_what_cannot_be_a_reactor_is_refused() -> None:
    async def told(_run: Any, _event: Any) -> None:
        """Do nothing."""

    with pytest.raises(DomainError, match="has no event"):
        boxes.react(RunFinished, name="x")
    twice = boxes.react(WasPut | WasBurned, name="x")(told)
    assert twice.events == {"was_put", "was_burned"}
    with pytest.raises(DomainError, match="one name"):
        App([boxes], workers=[twice, boxes.react(WasPut, name="x")(told)])
    with pytest.raises(DomainError, match="depth_max"):
        App([boxes], workers=[boxes.react(WasPut, name="x", depth_max=0)(told)]).check()
    with pytest.raises(DomainError, match="was="):
        App([boxes], workers=[boxes.react(WasPut, name="x", was="x")(told)]).check()
    with pytest.raises(DomainError, match="follows 'box'"):
        App([], workers=[boxes.react(WasPut, name="x")(told)]).check()


async def test_the_end_of_an_entity_has_no_state() -> None:
    seen: list[object] = []

    @boxes.react(WasBurned, name="burnt", when=lambda box, _event: box is None)
    async def burnt(run: Run, _event: WasBurned) -> None:
        seen.append(await run.state())

    async with running(burnt) as rt:
        workspace = rt.workspace("w")
        await workspace.send(Put("x", "a"))
        await workspace.send(Burn("x"))
        await all_ended(workspace, 1)
    assert seen == [None]


def test_the_types_are_checked() -> None:
    """Mypy refuses these; an ignore that is not needed would be an error, too."""
    other: Domain[Box, Put, WasPut] = Domain(
        "other", state=Box, commands=Put, events=WasPut, id_field="box_id"
    )

    async def of_another(_run: Run, _event: WasBurned) -> None:
        """Be told of another event."""

    other.react(WasPut, name="x")(of_another)  # type: ignore[arg-type]
