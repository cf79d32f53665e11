"""The service of sessions: turns, halts, projections, admission (§3.4, ME-P1 to P6)."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dalsegno.actors.domains.sessions import session_domains
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import OverloadedError
from dalsegno.runtime import Runtime
from dalsegno.runtime.files import (
    AgentError,
    EventProjectionHaltedError,
    EventStore,
    FileEventStore,
    RealDisk,
    SessionBusyError,
    SessionCompactionDisabledError,
    SessionError,
    SessionNotFoundError,
    SessionNotRunningError,
    SessionPersistenceDisabledError,
    SessionProjector,
    SessionService,
    SessionStoreError,
    SessionUnsupportedError,
    Turn,
    WorkspaceEventStore,
    open_sessions,
)
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, until

from ._sessions import S, a_world, log_of

Agent = Callable[[Turn], Awaitable[Any]]


async def echo(turn: Turn) -> str:
    await turn.record({"type": "text_complete", "content": f"You said {turn.prompt}"})
    return "done"


@pytest.fixture(params=["files", "workspace"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventStore]:
    if request.param == "files":
        yield FileEventStore(tmp_path / "events", world=a_world())
        return
    async with Runtime.open(domains=session_domains, store=MemoryStore(WORLD)) as rt:
        yield WorkspaceEventStore(rt.workspace("sessions"), world=a_world())


async def events_of(store: EventStore, session_id: str = S) -> list[dict[str, Any]]:
    return [row.event for row in await store.read_from(session_id, 1)]


async def types_of(store: EventStore, session_id: str = S) -> list[str]:
    return [event["type"] for event in await events_of(store, session_id)]


# ----------------------------------------------------------------------------------------- turns


async def test_a_turn_is_recorded_from_its_beginning_to_its_end(store: EventStore) -> None:
    async with open_sessions(echo, store, world=a_world()) as service:
        assert await service.create(S) == S
        outcome = await service.turn(S, "hi")
        assert (outcome.result, outcome.last_seq, outcome.warnings) == ("done", 4, ())
        assert await service.event_log_latest_seq(S) == 4
        rows = await service.event_log_read_from(S, 2)
    assert rows is not None
    assert [(row.seq, row.event) for row in rows] == [
        (
            2,
            {
                "type": "run_started",
                "session_id": S,
                "turn_id": outcome.turn_id,
                "prompt": "hi",
            },
        ),
        (3, {"type": "text_complete", "content": "You said hi"}),
        (
            4,
            {
                "type": "run_completed",
                "session_id": S,
                "turn_id": outcome.turn_id,
                "result": "done",
            },
        ),
    ]


async def test_another_service_goes_on_with_a_session(store: EventStore) -> None:
    async with open_sessions(echo, store) as service:
        session_id = await service.create()
        await service.turn(session_id, 1)
    async with open_sessions(echo, store) as service:
        assert (await service.turn(session_id, 2)).last_seq == 7
        with pytest.raises(SessionError, match="there is a session"):
            await service.create(session_id)
        for unknown in ("nobody", "..", "a/b", ""):
            with pytest.raises(SessionNotFoundError):
                await service.turn(unknown, 1)
        for wrong in ("..", "a/b", "", "x" * 129):
            with pytest.raises(SessionError, match="no id"):
                await service.create(wrong)


async def test_me_p6_a_second_turn_is_refused_and_nothing_is_interleaved(
    store: EventStore,
) -> None:
    started, go_on = trio.Event(), trio.Event()

    async def slow(turn: Turn) -> None:
        started.set()
        await go_on.wait()
        await turn.record({"type": "text_complete", "content": "slow"})

    async with open_sessions(slow, store) as service, trio.open_nursery() as nursery:
        await service.create(S)
        nursery.start_soon(service.turn, S, "first")
        await started.wait()
        with pytest.raises(SessionBusyError):
            await service.turn(S, "second")
        with pytest.raises(SessionBusyError):
            service.close(S)
        go_on.set()
    assert await types_of(store) == [
        *("session_created", "run_started", "text_complete", "run_completed"),
    ]


async def test_many_turns_at_once_of_which_one_runs(store: EventStore) -> None:
    """Also where nobody has opened the session yet."""
    done: list[str] = []
    async with open_sessions(echo, store) as service:
        await service.create(S)
    async with open_sessions(echo, store) as service, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            try:
                await service.turn(S, number)
            except SessionBusyError:
                done.append("busy")
            else:
                done.append("ran")

        for number in range(20):
            nursery.start_soon(one, number)
    assert sorted(done) == ["busy"] * 19 + ["ran"]
    assert (await types_of(store)).count("run_started") == 1


async def test_an_agent_that_fails_is_recorded_without_what_it_said(store: EventStore) -> None:
    async def failing(turn: Turn) -> None:
        await turn.record({"type": "text_complete", "content": "so far"})
        raise ZeroDivisionError("the password is swordfish")

    async with open_sessions(failing, store) as service:
        await service.create(S)
        with pytest.raises(AgentError) as raised:
            await service.turn(S, "x")
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        events = await events_of(store)
        assert events[-1]["type"] == "run_failed"
        assert events[-1]["error"] == {"code": "AGENT_ERROR", "message": "the agent failed"}
        with pytest.raises(AgentError):
            await service.turn(S, "again")


async def test_a_result_that_is_no_json_fails_the_turn(store: EventStore) -> None:
    async def odd(_turn: Turn) -> object:
        return float("nan")

    async with open_sessions(odd, store) as service:
        await service.create(S)
        with pytest.raises(AgentError, match="no JSON"):
            await service.turn(S, "x")
    assert (await types_of(store))[-2:] == ["run_started", "run_failed"]


async def test_a_prompt_that_is_no_json_is_refused(store: EventStore) -> None:
    async with open_sessions(echo, store) as service:
        await service.create(S)
        with pytest.raises(SessionStoreError):
            await service.turn(S, object())
        await service.turn(S, "fine")
    assert (await types_of(store)).count("run_started") == 1


async def test_an_interrupted_turn_fails_and_the_session_goes_on(store: EventStore) -> None:
    started = trio.Event()

    async def endless(_turn: Turn) -> None:
        started.set()
        await trio.sleep_forever()

    async with open_sessions(endless, store) as service:
        await service.create(S)
        with pytest.raises(SessionNotRunningError):
            service.interrupt(S)
        with pytest.raises(SessionNotFoundError):
            service.interrupt("nobody")
        async with trio.open_nursery() as nursery:

            async def interrupted() -> None:
                with pytest.raises(AgentError, match="interrupted"):
                    await service.turn(S, 1)

            nursery.start_soon(interrupted)
            await started.wait()
            service.interrupt(S)
    assert (await types_of(store))[-2:] == ["run_started", "run_failed"]
    async with open_sessions(echo, store) as service:
        await service.turn(S, "and on")


async def test_what_an_agents_own_nursery_raises_beside_an_interrupt_is_the_agents(
    store: EventStore,
) -> None:
    started = trio.Event()

    async def odd(_turn: Turn) -> None:
        async def child() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            started.set()
            await trio.sleep_forever()

    async with open_sessions(odd, store) as service:
        await service.create(S)
        async with trio.open_nursery() as nursery:

            async def interrupted() -> None:
                with pytest.raises(AgentError, match="interrupted"):
                    await service.turn(S, 1)

            nursery.start_soon(interrupted)
            await started.wait()
            service.interrupt(S)
    assert (await types_of(store))[-1] == "run_failed"


async def test_a_turn_has_a_deadline(store: EventStore) -> None:
    async def endless(_turn: Turn) -> None:
        await trio.sleep_forever()

    async with open_sessions(endless, store, turn_deadline_s=0.05) as service:
        await service.create(S)
        with pytest.raises(AgentError, match="too long"):
            await service.turn(S, 1)
    assert (await types_of(store))[-1] == "run_failed"


async def test_a_turn_whose_caller_is_cancelled_ends(store: EventStore) -> None:
    async def endless(turn: Turn) -> None:
        await turn.record({"type": "text_complete", "content": "so far"})
        await trio.sleep_forever()

    async with open_sessions(endless, store) as service:
        await service.create(S)
        with trio.move_on_after(0.2):
            await service.turn(S, 1)
        assert (await events_of(store))[-1]["error"]["message"] == "the turn was cancelled"
        with trio.move_on_after(0.2):
            await service.turn(S, 2)  # the session is not busy


async def test_an_agent_records_nothing_of_the_services_own_and_nothing_late(
    store: EventStore,
) -> None:
    turns: list[Turn] = []

    async def lying(turn: Turn) -> None:
        turns.append(turn)
        with pytest.raises(SessionError, match="alone"):
            await turn.record({"type": "run_completed"})

    async with open_sessions(lying, store) as service:
        await service.create(S)
        await service.turn(S, 1)
        with pytest.raises(SessionNotRunningError):
            await turns[0].record({"type": "late"})
    assert await types_of(store) == ["session_created", "run_started", "run_completed"]


_KILLED = """
import sys, trio
from dalsegno.runtime.files import FileEventStore, open_sessions

async def agent(turn):
    await turn.record({"type": "text_complete", "content": "so far"})
    sys.stdout.write("recorded")
    sys.stdout.flush()
    await trio.sleep_forever()

async def main():
    async with open_sessions(agent, FileEventStore(sys.argv[1])) as service:
        await service.create(sys.argv[2])
        await service.turn(sys.argv[2], 1)

trio.run(main)
"""


@pytest.mark.processes
async def test_a_turn_of_a_process_that_was_killed_is_busy_until_then_and_has_an_end(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "events"), S]
    async with open_sessions(echo, FileEventStore(tmp_path / "events")) as service:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            with fail_after(20):
                assert await process.stdout.receive_some() == b"recorded"
            with pytest.raises(SessionBusyError, match="another process"):
                await service.turn(S, 2)
        finally:
            process.kill()
            await process.wait()
            await process.stdout.aclose()
        await service.turn(S, 3)
    events = await events_of(FileEventStore(tmp_path / "events"))
    assert [event["type"] for event in events] == [
        *("session_created", "run_started", "text_complete", "run_failed"),
        *("run_started", "text_complete", "run_completed"),
    ]
    assert events[3]["turn_id"] == events[1]["turn_id"]
    assert events[3]["error"] == {"code": "RUN_INTERRUPTED", "message": "its process ended"}


async def test_the_end_of_a_turn_that_died_is_found_behind_many_events(store: EventStore) -> None:
    await store.append(S, [{"type": "run_started", "turn_id": "dead"}])
    for first in range(0, 750, 250):
        await store.append(S, [{"n": n} for n in range(first, first + 250)])
    async with open_sessions(echo, store) as service:
        await service.turn(S, "next")
        failed = (await events_of(store))[751]
        assert (failed["type"], failed["turn_id"]) == ("run_failed", "dead")
        await service.turn(S, "and next")
    assert (await types_of_runs(store)).count("run_failed") == 1


async def types_of_runs(store: EventStore) -> list[str]:
    return [event["type"] for event in await events_of(store) if "type" in event]


# ----------------------------------------------------------------------------------- admission


async def test_me_p6_no_more_sessions_are_admitted_than_may_be(store: EventStore) -> None:
    """However many ask at the same time; one that fails gives its room back."""
    results: list[str] = []
    async with open_sessions(echo, store, sessions_max=3) as service:
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                try:
                    results.append(await service.create())
                except OverloadedError:
                    results.append("full")

            for _ in range(10):
                nursery.start_soon(one)
        created = [each for each in results if each != "full"]
        assert (len(created), results.count("full")) == (3, 7)
        with pytest.raises(OverloadedError):
            await service.create()
        with pytest.raises(OverloadedError):
            await service.open("nobody")
        service.close(created[0])
        with pytest.raises(SessionNotFoundError):
            await service.open("nobody")
        await service.open(created[0])
        with pytest.raises(SessionNotFoundError):
            service.close("nobody")


async def test_two_creations_of_one_session_of_which_one_is_refused(store: EventStore) -> None:
    async with (
        open_sessions(echo, store, world=a_world()) as one,
        open_sessions(echo, store, world=WORLD) as other,
        trio.open_nursery() as nursery,
    ):
        refused: list[SessionError] = []

        async def create(service: SessionService) -> None:
            try:
                await service.create(S)
            except SessionError as error:
                refused.append(error)

        for service in (one, other, one, other):
            nursery.start_soon(create, service)
    assert len(refused) == 3
    assert await types_of(store) == ["session_created"]


# --------------------------------------------------------------------------------- without store


async def test_me_p5_without_a_store_there_is_no_log(tmp_path: Path) -> None:
    async with open_sessions(echo) as service:
        session_id = await service.create()
        outcome = await service.turn(session_id, "hi")
        assert (outcome.result, outcome.last_seq) == ("done", 0)
        assert await service.event_log_latest_seq(session_id) is None
        assert await service.event_log_read_from(session_id, 1) is None
        with pytest.raises(SessionPersistenceDisabledError):
            await service.compact(session_id, 1)
        with pytest.raises(SessionPersistenceDisabledError):
            await service.clear_halt(session_id, by="ada", reason="x")
        service.close(session_id)
        with pytest.raises(SessionNotFoundError):
            await service.turn(session_id, "hi")


# ------------------------------------------------------------------------------- failing to append


class FullDisk(RealDisk):
    """Full, or refusing to sync, while it is told to be; only for files whose path has a part."""

    def __init__(self) -> None:
        self.is_full = False
        self.only = ""

    def write(self, path: Path, at: int, data: bytes) -> None:
        if self.is_full and self.only in str(path) and data:
            super().write(path, at, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        super().write(path, at, data)


async def test_me_p2_x_seq_5_a_failed_append_is_told_and_leaves_no_hole(tmp_path: Path) -> None:
    disk = FullDisk()
    store = FileEventStore(tmp_path / "events", world=a_world(), disk=disk)
    seen: list[tuple[object, object]] = []

    async def agent(turn: Turn) -> None:
        await turn.record({"type": "text_complete", "content": "before"})
        if turn.prompt == "full":
            disk.is_full = True
            try:
                await turn.record({"type": "text_complete", "content": "lost"})
            except SessionStoreError as error:
                seen.append((error.details["cause"], error.retryable))
                seen.append((turn.last_seq, await store.last_seq(S)))
                disk.is_full = False
                raise

    async with open_sessions(agent, store) as service:
        await service.create(S)
        with pytest.raises(SessionStoreError) as raised:
            await service.turn(S, "full")
        assert raised.value.code == "SESSION_STORE_ERROR"
        assert seen == [("EVENT_STORE_IO", True), (3, 3)]
        assert str(tmp_path) not in f"{raised.value}{raised.value.details}"
        assert await service.event_log_latest_seq(S) == 4
        assert (await service.turn(S, "fine")).last_seq == 7
        rows = await service.event_log_read_from(S, 1)
    assert rows is not None
    assert [row.seq for row in rows] == list(range(1, 8))
    assert rows[3].event["error"]["code"] == "SESSION_STORE_ERROR"


async def test_the_store_is_blamed_whatever_the_agent_makes_of_it(tmp_path: Path) -> None:
    disk = FullDisk()
    store = FileEventStore(tmp_path / "events", world=a_world(), disk=disk)

    async def agent(turn: Turn) -> None:
        disk.is_full = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.record, {"type": "lost"})

    async with open_sessions(agent, store) as service:
        await service.create(S)
        with pytest.raises(SessionStoreError):
            await service.turn(S, 1)
        disk.is_full = False
        assert await types_of(store) == ["session_created", "run_started"]
        with pytest.raises(SessionStoreError):
            await service.turn(S, 2)
        disk.is_full = False
    runs = await types_of(store)
    assert runs == ["session_created", "run_started", "run_failed", "run_started"]


# ------------------------------------------------------------------------------------ projections


async def test_me_p3_a_projection_that_fails_degrades_and_the_events_stand(
    tmp_path: Path,
) -> None:
    disk = FullDisk()
    store = FileEventStore(tmp_path / "events", world=a_world())
    projector = SessionProjector(tmp_path / "derived", store, disk=disk)
    summary = tmp_path / "derived" / "sessions" / S / "summary.txt"
    async with open_sessions(echo, store, projector=projector) as service:
        await service.create(S)
        disk.is_full = True
        outcome = await service.turn(S, "one")
        assert outcome.warnings == ("degraded_projection",)
        assert await service.event_log_latest_seq(S) == outcome.last_seq == 4
        disk.is_full = False
        await until(summary.exists)
        assert summary.read_text() == "You said one"
        assert (await service.turn(S, "two")).warnings == ()
        assert summary.read_text() == "You said two"


async def _until_halted(store: EventStore) -> None:
    with fail_after(10):
        while await store.projection_halt(S) is None:
            await trio.sleep(0.01)


def broken(_before: str | None, _event: Any) -> str | None:
    raise ValueError("/etc/passwd")


async def halted(service: SessionService, session_id: str) -> EventProjectionHaltedError:
    with pytest.raises(SessionStoreError) as raised:
        await service.event_log_read_from(session_id, 1)
    assert raised.value.details["session_id"] == session_id
    assert raised.value.details["cause"] == "SESSION_HALTED"
    cause = raised.value.__cause__
    assert isinstance(cause, EventProjectionHaltedError)
    return cause


async def test_halted_event_projection_fails_replay_closed(
    store: EventStore, tmp_path: Path
) -> None:
    projector = SessionProjector(tmp_path / "derived", store, summarise=broken)
    async with open_sessions(echo, store, projector=projector) as service:
        await service.create(S)
        await store.append("another", [1])
        assert (await service.turn(S, 1)).warnings == ("degraded_projection",)
        await _until_halted(store)
        cause = await halted(service, S)
        assert cause.marker.reason == "projection failed: ValueError"
        with pytest.raises(SessionStoreError):
            await service.event_log_latest_seq(S)
        with pytest.raises(SessionStoreError):
            await service.turn(S, 2)
        assert await service.event_log_latest_seq("another") == 1


async def test_durable_event_projection_halt_marker_fails_replay_after_restart(
    tmp_path: Path,
) -> None:
    store = FileEventStore(tmp_path / "events", world=a_world())
    async with open_sessions(echo, store) as service:
        await service.create(S)
        await service.turn(S, 1)
        await store.record_projection_halt(S, "the projector lost its place")
    again = FileEventStore(tmp_path / "events", world=a_world())
    projector = SessionProjector(tmp_path / "derived", again)
    async with open_sessions(echo, again, projector=projector) as service:
        cause = await halted(service, S)
        assert cause.is_durable
        assert cause.marker.reason == "the projector lost its place"
        with pytest.raises(SessionStoreError):
            await service.turn(S, 2)
        with pytest.raises(SessionStoreError):
            await service.open(S)
        await service.turn(await service.create(), 1)
        assert await service.clear_halt(S, by="ada", reason="made anew")
        assert not await service.clear_halt(S, by="ada", reason="made anew")
        assert (await service.turn(S, 2)).last_seq == 7
    assert "ada" in (tmp_path / "events" / ".projection-halts" / f"{S}.log").read_text()


async def test_a_halt_that_cannot_be_written_holds_in_this_process(tmp_path: Path) -> None:
    disk = FullDisk()
    store = FileEventStore(tmp_path / "events", world=a_world(), disk=disk)
    projector = SessionProjector(tmp_path / "derived", store, summarise=broken)
    patient = replace(WORLD, random=lambda: 0.3)
    async with open_sessions(echo, store, projector=projector, world=patient) as service:
        await service.create(S)
        disk.only, disk.is_full = ".projection-halts", True
        await service.turn(S, 1)
        await _until_halted(store)
        assert not (await halted(service, S)).is_durable
        assert not (tmp_path / "events" / ".projection-halts" / f"{S}.json").exists()
        with pytest.raises(SessionStoreError):
            await service.turn(S, 2)
        disk.is_full = False
        await until(lambda: (tmp_path / "events" / ".projection-halts" / f"{S}.json").exists())
        # Cleared by somebody else, by then: what is durable decides.
        other = FileEventStore(tmp_path / "events", world=a_world())
        assert await other.clear_projection_halt(S, by="ada", reason="mended")
        assert await service.event_log_latest_seq(S) == 4


async def test_a_session_whose_log_cannot_be_read_is_halted(tmp_path: Path) -> None:
    store = FileEventStore(tmp_path / "events", world=a_world())
    projector = SessionProjector(tmp_path / "derived", store)
    async with open_sessions(echo, store, projector=projector) as service:
        await service.create(S)
        await service.turn(S, 1)
        service.close(S)
        log = log_of(tmp_path / "events")
        log.write_bytes(log.read_bytes().replace(b"run_started", b'run"started'))
        with pytest.raises(SessionStoreError) as raised:
            await service.open(S)
        assert raised.value.details["cause"] == "EVENT_SERIALIZATION"


async def test_what_was_behind_is_brought_up_when_the_session_is_opened(tmp_path: Path) -> None:
    store = FileEventStore(tmp_path / "events", world=a_world())
    async with open_sessions(echo, store) as service:
        await service.create(S)
        await service.turn(S, 1)
    projector = SessionProjector(tmp_path / "derived", store)
    async with open_sessions(echo, store, projector=projector) as service:
        await service.open(S)
        with fail_after(10):
            while await projector.read_checkpoint(S) < 4:
                await trio.sleep(0.01)
        await wait_all_tasks_blocked()


# ------------------------------------------------------------------------------------- compaction


async def test_a_service_compacts_where_it_may(tmp_path: Path) -> None:
    store = FileEventStore(tmp_path / "events", world=a_world())
    async with open_sessions(echo, store) as service:
        await service.create(S)
        await service.turn(S, 1)
        with pytest.raises(SessionCompactionDisabledError):
            await service.compact(S, 3)
    async with open_sessions(echo, store, compacts=True) as service:
        assert await service.compact(S, 3) == 2
        with pytest.raises(SessionStoreError) as raised:
            await service.event_log_read_from(S, 1)
        assert raised.value.details["cause"] == "STALE_CURSOR"
        assert (await service.turn(S, 2)).last_seq == 7
        await store.record_projection_halt(S, "x")
        with pytest.raises(SessionStoreError):
            await service.compact(S, 5)


async def test_a_workspace_keeps_everything() -> None:
    async with Runtime.open(domains=session_domains, store=MemoryStore(WORLD)) as rt:
        store = WorkspaceEventStore(rt.workspace("sessions"), world=WORLD)
        async with open_sessions(echo, store, compacts=True) as service:
            session_id = await service.create()
            with pytest.raises(SessionUnsupportedError):
                await service.compact(session_id, 2)
