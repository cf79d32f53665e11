"""Commands that validate badly: each is ended, what it wrote is kept, the lock is given back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from dalsegno.actors.domains.reviews import ENVIRONMENT
from dalsegno.actors.domains.reviews._job_commands import CancelJob
from dalsegno.actors.domains.reviews._jobs import DEADLINE_S
from dalsegno.actors.domains.reviews._locks import LockProject, UnlockProject
from dalsegno.actors.domains.reviews._proposals import DeleteProposal, EditProposal
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits, Reject
from dalsegno.protocol.runs import RunFinished, runs
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, patient
from tests.runtime._reviewed import AT_ONCE, SOON, Reviewed, Told, reviewed, status_in

pytestmark = pytest.mark.processes

SAY = "import os, signal, sys, time\nsay = lambda text: print(text, flush=True)\n"
WAITS = f"{SAY}say('one')\ntime.sleep(600)\n"


async def cleared_away(it: Reviewed, told: Told) -> None:
    """The lock is free, the job is over, and it has ended once."""
    await it.free()
    with fail_after(10):
        while (await it.proposal()).job is not None:
            await trio.sleep(0.01)
    ends = [
        event
        for event in await it.events(id_of(told))
        if isinstance(runs.decode(event.type, event.type_version, event.payload), RunFinished)
    ]
    assert len(ends) == 1
    assert told.kinds[0] == "validation_start"
    assert sum(each == "validation_start" for each in told.kinds) == 1
    ended = [each for each in told.kinds if each in {"validation_complete", "validation_error"}]
    assert ended == told.kinds[-1:]


def id_of(told: Told) -> str:
    return told.messages[0].job_id


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# ---------------------------------------------------------------------------------------- output


HOSTILE: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "writes 100 MB of lines": (
        "import sys\nfor _ in range(1000): sys.stdout.write(('x' * 99 + '\\n') * 1000)",
        "VALIDATION_TOO_LONG",
        {},
    ),
    "writes 100 MB without a line's end": (
        "import sys\nfor _ in range(100): sys.stdout.write('x' * 1_000_000)",
        "VALIDATION_TOO_LONG",
        {},
    ),
    "writes too many lines": (
        "for number in range(25_000): print(number)",
        "VALIDATION_TOO_LONG",
        {"lines": 20_000},
    ),
    "writes NULs and what is no UTF-8": (
        "import sys\nsys.stdout.buffer.write(b'a\\0b\\n\\xff\\xfe\\n\\xed\\xa0\\x80\\nc\\r\\n')",
        None,
        {"stdout": ["a\ufffdb", "\ufffd\ufffd", "\ufffd\ufffd\ufffd", "c"]},
    ),
    "ends without a line's end": (
        "import sys\nsys.stdout.write('a\\n\\nb')",
        None,
        {"stdout": ["a", "", "b"]},
    ),
    "writes one long line": (
        "print('x' * 1_000_000)\nprint('é' * 3_000)",
        None,
        {"stdout": ["x" * 4_000, "é" * 2_000]},
    ),
    "writes lines of NULs": (
        "import sys\nfor _ in range(1_000): sys.stdout.write('\\0' * 2_000 + '\\n')",
        None,
        {},
    ),
    "takes turns between its channels": (
        "import sys\n"
        "for _ in range(9_000):\n"
        "    print('a', flush=True)\n    print('b', file=sys.stderr, flush=True)",
        "VALIDATION_TOO_LONG",
        {},
    ),
    "writes nothing": ("", None, {"stdout": []}),
    "exits with 3": (
        "import sys\nprint('a')\nsys.exit(3)",
        None,
        {"stdout": ["a"], "status": "failed", "exit_code": 3},
    ),
    "raises": (
        "print('a')\n1 / 0",
        None,
        {"stdout": ["a"], "status": "failed", "exit_code": 1},
    ),
    "closes its channels and goes on": (
        "import os, time\nprint('a', flush=True)\nos.close(1)\nos.close(2)\ntime.sleep(0.3)",
        None,
        {"stdout": ["a"], "status": "passed"},
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_whatever_a_command_writes_its_validation_ends(what: str, tmp_path: Path) -> None:
    script, code, expected = HOSTILE[what]
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        told = await it.validated()
        assert told.code == code
        await cleared_away(it, told)
        end = told.end()
        if code is not None:
            assert (end["type"], end["code"]) == ("validation_error", code)
            assert told.outputs(), "what it wrote before is kept"
        else:
            assert end["type"] == "validation_complete"
            assert end["status"] == expected.get("status", "passed")
            assert end["summary"]["exit_code"] == expected.get("exit_code", 0)
            assert end["summary"]["stdout_lines"] == len(told.lines())
        if "stdout" in expected:
            assert told.lines() == expected["stdout"]
        assert len(told.outputs()) == expected.get("lines", len(told.outputs()))
        assert all(len(each.line.encode()) <= 4_000 for each in told.outputs())
        verdict = (await it.proposal()).verdict
        assert verdict is not None
        assert verdict.status == ("error" if code else expected.get("status", "passed"))


async def test_a_summary_has_the_last_errors_and_not_all_of_them(tmp_path: Path) -> None:
    script = "import sys\nfor n in range(30): print(n, 'x' * 500, file=sys.stderr)\nsys.exit(2)"
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        summary = (await it.validated()).end()["summary"]
        assert (summary["stderr_lines"], len(summary["errors"])) == (30, 20)
        assert [each.split()[0] for each in summary["errors"]] == [str(n) for n in range(10, 30)]
        assert {len(each) for each in summary["errors"]} == {400}


# --------------------------------------------------------------------------------------- its end


async def test_a_child_that_outlives_a_command_is_killed_with_it(tmp_path: Path) -> None:
    script = (
        f"{SAY}child = os.fork()\nif not child:\n    time.sleep(600)\n    os._exit(0)\nsay(child)\n"
    )
    async with reviewed(tmp_path, script, timeout_s=2) as it:
        await it.propose()
        told = await it.validated()
        assert told.code in {None, "VALIDATION_TIMEOUT"}
        await cleared_away(it, told)
        (child,) = map(int, told.lines())
        with fail_after(10):
            while alive(child):
                await trio.sleep(0.01)


async def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = (
        f"{SAY}signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(os.getpid())\ntime.sleep(600)"
    )
    async with reviewed(tmp_path, script, timeout_s=0.3) as it:
        await it.propose()
        told = await it.validated()
        assert told.code == "VALIDATION_TIMEOUT"
        assert told.end()["error"] == "it took more than 0.3 s"
        await cleared_away(it, told)
        (pid,) = map(int, told.lines())
        assert not alive(pid)


async def test_what_takes_too_long_is_ended_and_its_output_is_kept(tmp_path: Path) -> None:
    async with reviewed(tmp_path, WAITS, timeout_s=0.5) as it:
        await it.propose()
        told = await it.validated()
        assert (told.code, told.lines(), told.run.attempt) == ("VALIDATION_TIMEOUT", ["one"], 1)
        await cleared_away(it, told)


async def test_what_a_signal_kills_before_a_line_is_tried_again_at_most_three_times(
    tmp_path: Path,
) -> None:
    script = f"{SAY}os.kill(os.getpid(), signal.SIGKILL)"
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        told = await it.validated()
        assert (told.code, told.run.attempt) == ("VALIDATION_KILLED", 3)
        assert told.kinds == ["validation_start", "validation_error"]
        assert told.end()["error"] == "it was killed by SIGKILL"
        await cleared_away(it, told)


async def test_what_is_killed_once_before_a_line_passes_the_second_time(tmp_path: Path) -> None:
    script = (
        f"{SAY}mark = 'killed'\n"
        "if not os.path.exists(mark):\n"
        "    open(mark, 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "say('one')\n"
    )
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        told = await it.validated()
        assert (told.code, told.run.attempt) == (None, 2)
        assert told.kinds == ["validation_start", "output", "validation_complete"]
        assert [(each.line, each.attempt) for each in told.outputs()] == [("one", 2)]
        await cleared_away(it, told)


async def test_what_a_signal_kills_after_a_line_is_not_tried_again(tmp_path: Path) -> None:
    script = f"{SAY}say('one')\nos.kill(os.getpid(), signal.SIGSEGV)"
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        told = await it.validated()
        assert (told.code, told.run.attempt, told.lines()) == ("VALIDATION_CRASHED", 1, ["one"])
        await cleared_away(it, told)


@pytest.mark.parametrize("kind", ["missing", "not executable", "a folder"])
async def test_what_cannot_be_started_is_tried_three_times(kind: str, tmp_path: Path) -> None:
    command = tmp_path / "command"
    if kind == "not executable":
        command.write_text("#!/bin/sh\n")
    elif kind == "a folder":
        command.mkdir()
    async with reviewed(tmp_path / "root", [str(command)]) as it:
        await it.propose()
        told = await it.validated()
        assert (told.code, told.run.attempt) == ("VALIDATION_NOT_STARTED", 3)
        assert told.kinds == ["validation_start", "validation_error"]
        await cleared_away(it, told)
        verdict = (await it.proposal()).verdict
        assert verdict is not None
        assert verdict.summary == {"code": "VALIDATION_NOT_STARTED"}


async def test_a_command_that_appears_in_time_is_started(tmp_path: Path) -> None:
    command = tmp_path / "command"
    async with reviewed(tmp_path / "root", [str(command)]) as it:
        await it.propose()
        run_id = await it.validate()
        with fail_after(10):
            while (await it.run(run_id)).failures == 0:
                await trio.sleep(0.005)
        command.write_text("#!/bin/sh\necho one\n")
        command.chmod(0o755)
        told = await it.told(run_id)
        assert (told.code, told.lines()) == (None, ["one"])
        assert told.kinds == ["validation_start", "output", "validation_complete"]


# -------------------------------------------------------------------------- in the middle of it


async def test_a_cancelled_validation_is_killed(tmp_path: Path) -> None:
    script = f"{SAY}say(os.getpid())\ntime.sleep(600)"
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        run_id = await it.validate("reviewer")
        with fail_after(20):
            while not await it.lines(run_id):
                await trio.sleep(0.01)
        began = trio.current_time()
        await it.by("author").send(CancelJob(proposal_id="p", job_id=run_id))
        told = await it.told(run_id)
        assert trio.current_time() - began < patient(1)
        assert (told.run.status, told.end()["code"]) == ("cancelled", "CANCELLED")
        await cleared_away(it, told)
        assert not alive(int(told.lines()[0]))


async def test_a_validation_ends_at_its_deadline(tmp_path: Path) -> None:
    async with reviewed(tmp_path, WAITS) as it:
        await it.propose()
        run_id = await it.validate()
        await it.until_said(run_id, "one")
        it.clock.move(DEADLINE_S["validation"])
        told = await it.told(run_id)
        assert (told.code, told.lines()) == ("DEADLINE_EXCEEDED", ["one"])
        await cleared_away(it, told)


@pytest.mark.parametrize("limits", [SOON, AT_ONCE], ids=["drains", "just stops"])
async def test_a_validation_that_the_servers_end_interrupts_is_not_repeated(
    limits: Limits, tmp_path: Path
) -> None:
    store = MemoryStore(WORLD)
    async with reviewed(tmp_path, WAITS, store=store, limits=limits) as it:
        await it.propose()
        run_id = await it.validate()
        await it.until_said(run_id, "one")
    status = "released" if limits is SOON else "running"
    assert await status_in(store, run_id) == status
    async with reviewed(tmp_path, WAITS, store=store) as it:
        told = await it.told(run_id)
        assert (told.code, told.lines()) == ("VALIDATION_INTERRUPTED", ["one"])
        await cleared_away(it, told)


async def test_an_edited_proposal_gets_no_verdict_of_it(tmp_path: Path) -> None:
    script = f"{SAY}say('one')\nwhile os.path.exists('wait'): time.sleep(0.01)"
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        it.write("wait", "")
        run_id = await it.validate()
        await it.until_said(run_id, "one")
        await it.by("author").send(EditProposal(proposal_id="p", description="else"))
        (it.folder / "wait").unlink()
        told = await it.told(run_id)
        assert told.end()["status"] == "passed"
        await cleared_away(it, told)
        assert (await it.proposal()).verdict is None


async def test_the_validation_of_a_deleted_proposal_gives_the_lock_back(tmp_path: Path) -> None:
    script = f"{SAY}say('one')\nwhile os.path.exists('wait'): time.sleep(0.01)"
    for fails in (False, True):
        async with reviewed(tmp_path, script + ("\nsys.exit(1)" if fails else "")) as it:
            await it.propose()
            it.write("wait", "")
            run_id = await it.validate()
            await it.until_said(run_id, "one")
            await it.by("author").send(DeleteProposal(proposal_id="p"))
            with pytest.raises(Reject) as caught:
                await it.by("reviewer").send(LockProject())
            assert caught.value.code == "PROJECT_LOCKED"
            (it.folder / "wait").unlink()
            assert (await it.ended(run_id)).status == "succeeded"
            await it.free()


async def test_while_a_validation_is_under_way_there_is_no_other(tmp_path: Path) -> None:
    async with reviewed(tmp_path, WAITS) as it:
        await it.propose("p")
        await it.propose("q")
        run_id = await it.validate()
        for person in ("author", "reviewer", "admin"):
            for proposal_id in ("p", "q"):
                with pytest.raises(Reject) as caught:
                    await it.validate(person, proposal_id)
                assert caught.value.code == "JOB_RUNNING"
                assert caught.value.details["job_id"] == run_id
        await it.by("author").send(CancelJob(proposal_id="p"))


async def test_a_lock_that_expires_within_a_validation_lapses_behind_it(tmp_path: Path) -> None:
    async with reviewed(tmp_path, WAITS) as it:
        await it.propose()
        await it.by("author").send(LockProject())
        it.clock.move(30 * 60 - 60)
        run_id = await it.validate()
        await it.until_said(run_id, "one")
        it.clock.move(61)
        before = await it.workspace.head()
        with pytest.raises(Reject) as caught:
            await it.by("reviewer").send(LockProject())
        assert caught.value.code == "PROJECT_LOCKED"
        await trio.lowlevel.checkpoint()
        assert await it.lock() is not None
        await it.by("author").send(CancelJob(proposal_id="p"))
        told = await it.told(run_id)
        await cleared_away(it, told)
        later = await it.workspace.events(after=before)
        gone = [each.payload for each in later if each.type == "project_unlocked"]
        assert len(gone) == 1
        assert '"expired"' in gone[0]


async def test_the_lock_expires_by_its_timer(tmp_path: Path) -> None:
    async with reviewed(tmp_path) as it:
        await it.by("author").send(LockProject())
        held = await it.lock()
        assert held is not None
        it.clock.move(30 * 60)
        await it.free()
        with pytest.raises(Reject) as caught:
            await it.by("author").send(UnlockProject())
        assert caught.value.code == "LOCK_NOT_HELD"


async def test_a_folder_that_begins_with_a_dash_is_no_option_of_the_command(tmp_path: Path) -> None:
    script = "import sys\nprint(*sys.argv[1:])"
    command = [sys.executable, "-c", script, "{folder}", "{proposal}", "{proposal_id}"]
    async with reviewed(tmp_path, command) as it:
        await it.propose("p", folder="-rf/x")
        await it.propose("q")
        assert (await it.validated("p")).lines() == ["./-rf/x Proposal p p"]
        assert (await it.validated("q")).lines() == [". Proposal q q"]


# ---------------------------------------------------------------------------------- what it has


async def test_a_command_is_given_none_of_the_servers_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALSEGNO_DATABASE", "postgresql://ada:secret@db/")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    script = "import os\nfor name in sorted(os.environ): print(name)"
    async with reviewed(tmp_path, script) as it:
        await it.propose()
        told = await it.validated()
        given = told.lines()
    assert "DALSEGNO_DATABASE" not in given
    assert {"PATH", "LC_ALL"} <= {*given} <= {*ENVIRONMENT}
