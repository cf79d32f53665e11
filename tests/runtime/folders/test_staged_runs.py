"""Runs that stage files: in place exactly as their terminal events say, in the order of those."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.effects import Run, StageSweep
from dalsegno.actors.effects._settling import Settling
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App, DomainError, FolderError
from dalsegno.protocol.runs import (
    CancelRun,
    Done,
    RequestRun,
    Retry,
    RunState,
    Staged,
    StartAttempt,
    Work,
    Worker,
    runs,
    staged_of,
    worker,
)
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.folders import LocalFolders
from dalsegno.runtime.folders._copying import removed
from dalsegno.runtime.folders._descriptors import Calls
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after
from tests.tasks_domain import AddTask, FinishTask, tasks

QUICK = Retry(attempts_max=3, first_s=0.001, max_s=0.002)

Function = Callable[[Run], Awaitable[Any]]


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


class Disk(Calls):
    """Refuses to rename while it is told to: after so many, or now and then."""

    def __init__(self) -> None:
        self.renames_left: int | None = None
        self.renamed: list[str] = []
        self.refused = 0
        self.failing = 0.0
        self.chance = Random(0)

    def rename(self, name: str, at: int, to: int) -> None:
        if self.renames_left == 0 or self.chance.random() < self.failing:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.renames_left is not None:
            self.renames_left -= 1
        super().rename(name, at, to)
        self.renamed.append(name)


@dataclass
class Project:
    """A program over a store and a folder that outlive it."""

    root: Path
    store: MemoryStore = field(default_factory=lambda: MemoryStore(WORLD))
    disk: Disk = field(default_factory=Disk)

    @property
    def own(self) -> Path:
        return self.root / "acme"

    def files(self) -> dict[str, bytes]:
        return files_of(self.own)

    def stages(self) -> list[str]:
        there = self.root / ".staging"
        return sorted(set(os.listdir(there)) - {".locks"}) if there.exists() else []

    @asynccontextmanager
    async def opened(
        self, *functions: Function, folders: LocalFolders | None = None, **more: Any
    ) -> AsyncIterator[Workspace]:
        made = [self.worker(function, **more) for function in functions]
        folders = LocalFolders(calls=self.disk) if folders is None else folders
        async with Runtime.open(
            app=App([tasks], workers=made), store=self.store, node_id="a", folders=folders
        ) as rt:
            yield rt.workspace("acme")

    def worker(self, function: Function, **more: Any) -> Worker:
        more = {"retry": QUICK, "folder": str(self.root), **more}
        return worker(function.__name__, **more)(function)

    async def refused(self) -> None:
        """Wait until the run itself has tried to put its files in place."""
        with fail_after(10):
            while not self.disk.refused:
                await trio.sleep(0.005)

    async def settled(self) -> None:
        with fail_after(10):
            while self.stages():
                await trio.sleep(0.005)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "projects")


async def ended(workspace: Workspace, run_id: str) -> RunState:
    with fail_after(10):
        while True:
            run = await workspace.get(runs, run_id)
            if run is not None and not run.is_open:
                return run
            await trio.sleep(0.005)


async def asked(workspace: Workspace, name: str, run_id: str, **more: Any) -> RunState:
    await workspace.send(RequestRun(run_id=run_id, worker=name, **more))
    return await ended(workspace, run_id)


def done(staged: Staged, commands: Sequence[msgspec.Struct] = ()) -> Done:
    return Done(result={"staged": msgspec.to_builtins(staged)}, commands=commands)


async def stage(run: Run, files: dict[str, str]) -> Staged:
    async with run.stage() as to:
        for path, text in files.items():
            await to.write(path, text.encode())
        return await to.finish()


def as_it_is_seen(run: Run) -> Work:
    """Whatever a pure package may ask of a run, it has."""
    return run


async def put(run: Run) -> Done:
    """Puts what it is asked for."""
    return done(await stage(run, run.input))


async def look(run: Run) -> Done:
    """Says what is in the folder."""
    found = files_of(Path(await run.folder()))
    return Done(result={path: data.decode() for path, data in found.items()})


# ----------------------------------------------------------------------------------- succeeding


async def test_files_are_in_place_as_the_terminal_event_says(project: Project) -> None:
    async with project.opened(put, look) as workspace:
        run = await asked(workspace, "put", "r", input={"a": "1", "src/b.py": "2"})
        assert run.status == "succeeded"
        await project.settled()
        assert project.files() == {"a": b"1", "src/b.py": b"2"}
        staged = staged_of(run)
        assert staged is not None
        for file in staged.files:
            data = project.files()[file.path]
            assert (file.bytes, file.sha256) == (len(data), sha256(data).hexdigest())
        (*_, end) = await workspace.history(runs, "r", limit=100)
        said = json.loads(end.payload)
        assert msgspec.convert(said["result"]["staged"], Staged) == staged
        seen = await asked(workspace, "look", "l")
        assert seen.result == {"a": "1", "src/b.py": "2"}


async def test_nothing_is_in_place_before_the_end_is_in_the_log(project: Project) -> None:
    staged, go_on = trio.Event(), trio.Event()

    async def slow(run: Run) -> Done:
        files = await stage(run, {"a": "1"})
        staged.set()
        await go_on.wait()
        return done(files)

    async with project.opened(slow, look) as workspace:
        await workspace.send(RequestRun(run_id="r", worker="slow"))
        await staged.wait()
        assert (await asked(workspace, "look", "l")).result == {}
        assert len(project.stages()) == 1, "that of an open run is left"
        go_on.set()
        await ended(workspace, "r")
        await project.settled()
        assert project.files() == {"a": b"1"}


async def test_workspaces_have_folders_of_their_own(project: Project) -> None:
    async with project.opened(put) as workspace:
        other = Workspace(workspace._service, "beta")
        await asked(workspace, "put", "r", input={"a": "acme"})
        await asked(other, "put", "r", input={"a": "beta"})
        await project.settled()
    assert project.files() == {"a": b"acme"}
    assert (project.root / "beta" / "a").read_bytes() == b"beta"


@pytest.mark.processes
async def test_a_command_is_tried_on_a_copy(project: Project) -> None:
    async def tries(run: Run) -> Done:
        async with run.stage() as to:
            await to.write("a", b"new")
            command = ["sh", "-c", "cat a b; echo x > b"]
            async with to.tried() as path, run.lines(command, cwd=path) as process:
                said = [line.text async for line in process]
            staged = await to.finish()
        return Done(result={"staged": msgspec.to_builtins(staged), "said": said})

    async with project.opened(tries, put) as workspace:
        await asked(workspace, "put", "first", input={"a": "old\n", "b": "kept\n"})
        run = await asked(workspace, "tries", "r")
        assert run.result["said"] == ["newkept"]
        await project.settled()
    assert project.files() == {"a": b"new", "b": b"kept\n"}


# ------------------------------------------------------------------------------- other ends


async def raises(run: Run) -> None:
    await stage(run, {"a": "1"})
    raise ZeroDivisionError


async def raises_in_the_middle(run: Run) -> None:
    async with run.stage() as to:
        await to.write("a", b"1")
        raise ZeroDivisionError


async def is_refused(run: Run) -> Done:
    return done(await stage(run, {"a": "1"}), [FinishTask(task_id="none")])


async def leaves_it(run: Run) -> None:
    async with run.stage() as to:
        await to.write("a", b"1")


async def says_nothing_of_it(run: Run) -> Done:
    await stage(run, {"a": "1"})
    return Done(result={"staged": None})


async def says_something_else(run: Run) -> Done:
    staged = await stage(run, {"a": "1"})
    return done(msgspec.structs.replace(staged, files=()))


async def says_what_is_not(_run: Run) -> Done:
    return done(Staged(name="acme!r!other", files=()))


async def returns_nonsense(run: Run) -> int:
    await stage(run, {"a": "1"})
    return 3


@pytest.mark.parametrize(
    ("function", "status", "code"),
    [
        (raises, "failed", "WORKER_FAILED"),
        (raises_in_the_middle, "failed", "WORKER_FAILED"),
        (is_refused, "failed", "TASK_NOT_FOUND"),
        (leaves_it, "succeeded", None),
        (says_nothing_of_it, "succeeded", None),
        (says_something_else, "failed", "WORKER_RESULT"),
        (says_what_is_not, "failed", "WORKER_RESULT"),
        (returns_nonsense, "failed", "WORKER_RESULT"),
    ],
)
async def test_any_other_end_leaves_the_folder_as_it_was(
    project: Project, function: Function, status: str, code: str | None
) -> None:
    async with project.opened(function) as workspace:
        run = await asked(workspace, function.__name__, "r")
        assert run.status == status
        assert (None if run.error is None else run.error.code) == code
        await project.settled()
        assert not project.own.exists() or project.files() == {}


@pytest.mark.parametrize("finishes", [False, True])
async def test_a_run_that_is_cancelled_leaves_nothing(project: Project, finishes: bool) -> None:
    waits = trio.Event()

    async def hangs(run: Run) -> None:
        async with run.stage() as to:
            await to.write("a", b"1")
            if finishes:
                await to.finish()
            waits.set()
            await trio.sleep_forever()

    async with project.opened(hangs) as workspace:
        await workspace.send(RequestRun(run_id="r", worker="hangs"))
        await waits.wait()
        await workspace.send(CancelRun(run_id="r"))
        assert (await ended(workspace, "r")).status == "cancelled"
        await project.settled()
        assert project.files() == {}


async def test_an_attempt_that_a_drain_ends_leaves_nothing_to_the_next_one(
    project: Project,
) -> None:
    waits = trio.Event()

    async def it(run: Run) -> Done:
        staged = await stage(run, {f"attempt-{run.attempt}": "x"})
        if run.attempt == 1:
            waits.set()
            await trio.sleep_forever()
        return done(staged)

    async with project.opened(it) as workspace:
        await workspace.send(RequestRun(run_id="r", worker="it"))
        await waits.wait()
    assert project.stages() == []
    async with project.opened(it) as workspace:
        assert (await ended(workspace, "r")).status == "succeeded"
        await project.settled()
    assert project.files() == {"attempt-2": b"x"}


async def test_an_attempt_that_failed_leaves_nothing_to_the_next_one(project: Project) -> None:
    async def it(run: Run) -> Done:
        staged = await stage(run, {f"attempt-{run.attempt}": "x"})
        if run.attempt < 3:
            raise ZeroDivisionError
        return done(staged)

    async with project.opened(it) as workspace:
        assert (await asked(workspace, "it", "r")).status == "succeeded"
        await project.settled()
    assert project.files() == {"attempt-3": b"x"}


async def test_an_attempt_that_is_fenced_leaves_nothing(project: Project) -> None:
    """Another node has taken the run for one whose process died, and began another attempt."""
    waits, go_on = trio.Event(), trio.Event()

    async def it(run: Run) -> Done:
        staged = await stage(run, {"a": "1"})
        waits.set()
        await go_on.wait()
        return done(staged)

    async with project.opened(it) as workspace:
        await workspace.send(RequestRun(run_id="r", worker="it"))
        await waits.wait()
        run = await workspace.get(runs, "r")
        assert run is not None
        another = StartAttempt(run_id="r", attempt_id="another", after=run.attempt_id)
        await workspace.send(another)
        go_on.set()
        await project.settled()
        run = await workspace.get(runs, "r")
        assert run is not None
        assert (run.status, run.attempt_id) == ("running", "another")
    assert project.files() == {}


async def test_who_believes_to_be_fenced_deletes_nothing_that_the_log_promises(
    project: Project,
) -> None:
    """The answer to an attempt's own end may be lost, and its repeat be refused: RUN_OVER."""
    project.disk.renames_left = 0
    async with project.opened(put) as workspace:
        await asked(workspace, "put", "r", input={"a": "1"})
        await project.refused()
        (name,) = project.stages()
        service = workspace._service
        settling = Settling(LocalFolders(), service.catalog, service.store, str(project.root))
        await settling.discard("acme", "r", name)
        assert project.stages() == [name]
        project.disk.renames_left = None
        assert await settling.settle("acme") == 1
    assert project.files() == {"a": b"1"}


async def test_an_attempt_finishes_one_stage(project: Project) -> None:
    async def it(run: Run) -> Done:
        async with run.stage() as to:
            await to.write("given-up", b"x")
            with pytest.raises(DomainError, match="one stage"):
                async with run.stage():
                    raise AssertionError("there is one")
        staged = await stage(run, {"a": "1"})
        with pytest.raises(DomainError, match="one stage"):
            await stage(run, {"b": "2"})
        return done(staged)

    async with project.opened(it) as workspace:
        assert (await asked(workspace, "it", "r")).status == "succeeded"
        await project.settled()
    assert project.files() == {"a": b"1"}


async def test_a_worker_without_a_folder_has_none(project: Project) -> None:
    async def it(run: Run) -> Done:
        for act in (run.folder, lambda: stage(run, {})):
            with pytest.raises(DomainError, match="no folder="):
                await act()
        return Done(result={"staged": {"name": "its own", "files": []}})

    async with project.opened(it, folder=None) as workspace:
        assert (await asked(workspace, "it", "r")).status == "succeeded"
    with pytest.raises(DomainError, match="a folder has a path"):
        App(workers=[project.worker(it, folder="")]).check([])


async def test_a_run_whose_id_is_too_long_for_a_name_stages_nothing(project: Project) -> None:
    async with project.opened(put, retry=Retry(attempts_max=1)) as workspace:
        run = await asked(workspace, "put", "ä" * 40, input={"a": "1"})
        assert run.error is not None
        assert run.error.code == "FOLDER_FAILED"


# ------------------------------------------------------------------------ renaming, interrupted


async def test_a_later_run_sees_the_files_of_an_interrupted_one_and_its_own_win(
    project: Project,
) -> None:
    async def adds(run: Run) -> Done:
        async with run.stage() as to:
            seen = {path: await to.read(path) for path in await to.paths(10)}
            assert seen == {"a": b"1", "b": b"1", "c": b"1"}, "the disk has them by then"
            await to.write("b", b"2")
            return done(await to.finish())

    async with project.opened(put, adds) as workspace:
        project.disk.renames_left = 1
        files = {"a": "1", "b": "1", "c": "1"}
        assert (await asked(workspace, "put", "r1", input=files)).status == "succeeded"
        await project.refused()
        assert project.files() == {"a": b"1"}
        assert len(project.stages()) == 1
        project.disk.renames_left = None
        assert (await asked(workspace, "adds", "r2")).status == "succeeded"
        await project.settled()
    assert project.files() == {"a": b"1", "b": b"2", "c": b"1"}
    assert project.disk.renamed == ["a", "b", "c", "b"]


async def test_no_later_run_overtakes_what_cannot_be_put_in_place(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caught: list[FolderError] = []

    async def tries(run: Run) -> None:
        for act in (run.folder, lambda: stage(run, {"a": "2"})):
            with pytest.raises(FolderError) as raised:
                await act()
            caught.append(raised.value)

    async with project.opened(put, tries, look) as workspace:
        project.disk.renames_left = 0
        await asked(workspace, "put", "r1", input={"a": "1"})
        assert (await asked(workspace, "tries", "r2")).status == "succeeded"
        assert [error.code for error in caught] == ["FOLDER_FAILED"] * 2
        assert "is staged, and waits: FOLDER_FAILED: No space left on device" in caplog.text
        assert caught[0].details == {"errno": "ENOSPC"}
        assert str(project.root) not in str(caught[0])
        run = await asked(workspace, "put", "r3", input={"a": "3"})
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "FOLDER_FAILED")
        assert project.files() == {}
        project.disk.renames_left = None
        assert (await asked(workspace, "look", "l")).result == {"a": "1"}
        assert project.stages() == []


@pytest.mark.parametrize("died_after", [0, 1, 2])
async def test_the_next_process_goes_on_where_one_died(project: Project, died_after: int) -> None:
    project.disk.renames_left = died_after
    async with project.opened(put) as workspace:
        await asked(workspace, "put", "r", input={"a": "1", "b/c": "2", "d": "3"})
    assert len(project.files()) == died_after
    project.disk.renames_left = None
    async with project.opened(put):
        await project.settled()
    assert project.files() == {"a": b"1", "b/c": b"2", "d": b"3"}


async def test_what_waits_is_put_in_place_in_the_order_of_the_log(project: Project) -> None:
    """Whichever began first, and whatever they are called."""
    begun, turns = trio.Event(), {each: trio.Event() for each in "zya"}

    async def it(run: Run) -> Done:
        staged = await stage(run, {"last": run.id, run.id: run.id})
        if run.id == "a":  # the first to begin, and the last to end
            begun.set()
        await turns[run.id].wait()
        return done(staged)

    project.disk.renames_left = 0
    async with project.opened(it) as workspace:
        for run_id in "azy":
            await workspace.send(RequestRun(run_id=run_id, worker="it"))
        with fail_after(10):
            while len(project.stages()) < 3 or not begun.is_set():
                await trio.sleep(0.005)
            for path in project.stages():
                while not (project.root / ".staging" / path / "manifest.json").exists():
                    await trio.sleep(0.005)
        for run_id in "zya":
            turns[run_id].set()
            await ended(workspace, run_id)
    assert project.files() == {}
    project.disk.renames_left = None
    async with project.opened(it):
        await project.settled()
    assert project.files() == {"last": b"a", "a": b"a", "y": b"y", "z": b"z"}
    assert project.disk.renamed == ["last", "z", "last", "y", "last", "a"]


class LateFolders(LocalFolders):
    """Lists the stage of one run as if it had been begun, and its run had ended, a little later."""

    def __init__(self, run_id: str, *, calls: Calls, after: int) -> None:
        super().__init__(calls=calls)
        self._late = f"!{run_id}!"
        self._after = after

    async def names(self, root: str) -> Sequence[str]:
        self._after -= 1
        names = await super().names(root)
        return [name for name in names if self._after < 0 or self._late not in name]


async def test_a_run_that_ends_while_others_are_looked_up_is_not_overtaken(
    project: Project,
) -> None:
    project.disk.renames_left = 0
    async with project.opened(put) as workspace:
        await asked(workspace, "put", "second", input={"x": "1"})
    (waiting,) = project.stages()
    hidden = project.root / ".staging" / waiting
    hidden = hidden.rename(project.root / waiting)  # so that another run is not held up by it
    async with project.opened(put) as workspace:
        await asked(workspace, "put", "third", input={"x": "2"})
    hidden.rename(project.root / ".staging" / waiting)
    project.disk.renames_left = None
    # Listed by the sweep, before the lock, and first behind it: without the one that ended first.
    late = LateFolders("second", calls=project.disk, after=3)
    async with project.opened(put, folders=late):
        await project.settled()
    assert project.files() == {"x": b"2"}
    assert project.disk.renamed == ["x", "x"]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_fails_the_folder_is_what_the_log_says(project: Project, seed: int) -> None:
    """Runs side by side that fail, are cancelled and cannot be put in place, over restarts."""
    chance = Random(seed)
    project.disk.chance = chance
    asked_for = [f"r{number}" for number in range(24)]

    async def it(run: Run) -> Done:
        paths = chance.sample(["a", "b", "c/d", "c/e", "f/g/h"], 2)
        staged = await stage(run, dict.fromkeys(paths, f"{run.id} {run.attempt}"))
        await trio.sleep(chance.choice([0, 0.001, 0.01]))
        if chance.random() < 0.2:
            raise ZeroDivisionError
        return done(staged)

    promised: dict[int, Staged] = {}
    for part in range(3):
        project.disk.failing = 0.2
        async with project.opened(it) as workspace:
            for run_id in asked_for[part::3]:
                await workspace.send(RequestRun(run_id=run_id, worker="it"))
                if chance.random() < 0.2:
                    await workspace.send(CancelRun(run_id=run_id))
            for run_id in asked_for[part::3][: chance.randrange(8)]:
                await ended(workspace, run_id)
    project.disk.failing = 0.0
    async with project.opened(it) as workspace:
        for run_id in asked_for:
            run = await ended(workspace, run_id)
            staged = staged_of(run)
            if staged is not None:
                (*_, end) = await workspace.history(runs, run_id, limit=100)
                promised[end.event_seq] = staged
        await project.settled()
    files: dict[str, str] = {}
    for _, staged in sorted(promised.items()):
        files |= {file.path: file.sha256 for file in staged.files}
    there = {path: sha256(data).hexdigest() for path, data in project.files().items()}
    assert there == files
    assert len(promised) > 3, "some of them have succeeded"


# ---------------------------------------------------------------------------------- left behind


def leave(project: Project, name: str, *, files: dict[str, str]) -> None:
    folder = project.root / ".staging" / name / "files"
    folder.mkdir(parents=True)
    for path, text in files.items():
        (folder / path).write_text(text)


async def test_what_a_process_that_died_has_left_is_decided_by_the_log(project: Project) -> None:
    """As of attempts whose process died before their end, or before they had finished."""
    hangs = trio.Event()

    async def fails(_run: Run) -> None:
        raise ZeroDivisionError

    async def waits(_run: Run) -> None:
        hangs.set()
        await trio.sleep_forever()

    async def other(run: Run) -> None:
        await run.send(AddTask(task_id="t", title="no stage"))

    async with project.opened(put, fails, waits, other) as workspace:
        await asked(workspace, "put", "done", input={"a": "1"})
        await asked(workspace, "fails", "failed")
        await asked(workspace, "other", "other")
        await project.settled()
        await workspace.send(RequestRun(run_id="open", worker="waits"))
        await hangs.wait()
        gone = ["acme!done!another", "acme!failed!x", "acme!other!x", "acme!none!x", "no!r!x"]
        for name in gone:
            leave(project, name, files={"a": "never"})
        leave(project, "acme!open!x", files={"a": "perhaps"})
        leave(project, "somebody else's", files={"a": "theirs"})
        service = workspace._service
        folders = LocalFolders()
        sweep = StageSweep(folders, service.catalog, service.store, service.node.workers)
        assert await sweep(limit=100) == len(gone)
        assert project.stages() == ["acme!open!x", "somebody else's"]
        assert await sweep(limit=100) == 0
    assert project.files() == {"a": b"1"}


async def test_a_stage_that_nobody_can_place_holds_up_no_other_workspace(
    project: Project,
) -> None:
    async with project.opened(put) as workspace:
        other = Workspace(workspace._service, "beta")
        project.disk.renames_left = 0
        await asked(workspace, "put", "r", input={"in/the/way": "1"})
        await asked(other, "put", "r", input={"b": "2"})
    removed(str(project.own / "in"))
    (project.own / "in").write_text("a file")
    project.disk.renames_left = None
    async with project.opened(put):
        with fail_after(10):
            while len(project.stages()) > 1:
                await trio.sleep(0.005)
        assert (project.root / "beta" / "b").read_bytes() == b"2"
        assert project.files() == {"in": b"a file"}
        (project.own / "in").unlink()
    async with project.opened(put):
        await project.settled()
    assert project.files() == {"in/the/way": b"1"}
