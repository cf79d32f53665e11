"""A process that is killed between the end of a run and its files: the next one goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from dalsegno.protocol import App
from dalsegno.protocol.runs import runs, worker
from dalsegno.runtime import Run, Runtime
from tests._patience import fail_after, patient

PROGRAM = """
import os
import signal
import sys

import msgspec
import trio

from dalsegno.protocol.runs import Done
from dalsegno.runtime import App, RequestRun, Runtime, worker
from dalsegno.runtime.folders import LocalFolders
from dalsegno.runtime.folders._descriptors import Calls

dsn, folder, died_after = sys.argv[1:]


class Dying(Calls):
    left = int(died_after)

    def rename(self, name, at, to):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        super().rename(name, at, to)


@worker("put", folder=folder)
async def put(run):
    async with run.stage() as to:
        for path in ("a", "deep/b", "c"):
            await to.write(path, path.encode())
        staged = await to.finish()
    return Done(result={"staged": msgspec.to_builtins(staged)})


async def main():
    folders = LocalFolders(calls=Dying())
    async with Runtime.open(dsn, app=App(workers=[put]), node_id="a", folders=folders) as rt:
        await rt.workspace("acme").send(RequestRun(run_id="r", worker="put"))
        await trio.sleep_forever()


trio.run(main)
"""


@pytest.mark.processes
@pytest.mark.parametrize("died_after", [0, 2])
async def test_the_files_of_a_run_whose_process_was_killed_are_in_place(
    migrated: str, tmp_path: Path, died_after: int
) -> None:
    arguments = [sys.executable, "-c", PROGRAM, migrated, str(tmp_path), str(died_after)]
    ran = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            arguments, capture_output=True, text=True, timeout=patient(30), check=False
        )
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    own = tmp_path / "acme"

    def there() -> set[str]:
        return {str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()}

    assert len(there()) == died_after

    @worker("put", folder=str(tmp_path))
    async def put(_run: Run) -> None:
        raise AssertionError("its run has ended")

    async with Runtime.open(migrated, app=App(workers=[put]), node_id="a") as rt:
        run = await rt.workspace("acme").get(runs, "r")
        assert run is not None
        assert run.status == "succeeded"
        with fail_after(10):
            while len(list((tmp_path / ".staging").iterdir())) > 1:
                await trio.sleep(0.01)
    assert there() == {"a", "deep/b", "c"}
    assert (own / "deep" / "b").read_bytes() == b"deep/b"
