"""Processes of a measurement: each on a core of its own, and how much time it took there."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

ROOT = Path(__file__).parent.parent

_CAN_PIN = hasattr(os, "sched_setaffinity")
_CORES = sorted(os.sched_getaffinity(0)) if _CAN_PIN else [0]

SUBJECT_CORE = _CORES[0]
"""Where what is measured runs."""
OTHER_CORE = _CORES[-1]
"""Where the load comes from, and where PostgreSQL runs."""

_ANSWER_DEADLINE_S = 120.0
_END_DEADLINE_S = 15.0


class ChildError(Exception):
    """A process ended, or was silent for too long."""


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts meanwhile, on one core."""
    if not _CAN_PIN:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int, *, tree: bool = False) -> float:
    """Return the processor time of a process, and with ``tree`` of its living children.

    NaN where there is no ``/proc``.
    """
    try:
        processes = {int(p.name): _stat(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    except OSError:
        return math.nan
    ticks = 0
    for found, (parent, its_ticks) in processes.items():
        if found == pid or (tree and parent == pid):
            ticks += its_ticks
    return ticks / os.sysconf("SC_CLK_TCK") if pid in processes else math.nan


def _stat(process: Path) -> tuple[int, int]:
    """Read parent, and user and system time in ticks (proc_pid_stat(5))."""
    try:
        # The program's name is in brackets and may hold anything.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return 0, 0
    return int(fields[1]), int(fields[11]) + int(fields[12])


class Child:
    """A process that takes a line and answers with a line."""

    def __init__(self, process: trio.Process, name: str) -> None:
        self._process = process
        self._name = name
        self._said = bytearray()

    def __repr__(self) -> str:
        return f"<Child {self._name}, process {self.pid}>"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(line.encode() + b"\n")
        except trio.BrokenResourceError as error:
            raise ChildError(f"{self._name} has ended") from error

    async def hear(self, deadline_s: float = _ANSWER_DEADLINE_S) -> str:
        """Wait for its next line.

        Raises:
            ChildError: it ended, or the deadline passed.

        """
        assert self._process.stdout is not None
        with trio.move_on_after(deadline_s):
            while b"\n" not in self._said:
                more = await self._process.stdout.receive_some()
                if not more:
                    raise ChildError(f"{self._name} has ended")
                self._said += more
            line, _, rest = self._said.partition(b"\n")
            self._said = rest
            return line.decode()
        raise ChildError(f"{self._name} said nothing for {deadline_s:g} s")

    async def ask(self, line: str) -> str:
        """Write a line and wait for the answer."""
        await self.tell(line)
        return await self.hear()

    def cpu_s(self) -> float:
        """Return how much processor time it has had."""
        return cpu_s(self.pid)

    async def kill(self) -> None:
        """Kill it as a lost machine would: with no signal that it could handle."""
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def child(
    name: str,
    command: Sequence[str],
    *,
    core: int,
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> AsyncIterator[Child]:
    """Run a command for the length of a block, and then terminate it.

    Args:
        name: what it is called in errors.
        command: the program and its arguments.
        core: where it runs.
        environ: variables beside those of this process.
        log: a file for its stderr; None: this process's stderr.

    """
    with nullcontext() if log is None else log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
        )
    if _CAN_PIN:
        os.sched_setaffinity(process.pid, {core})  # Trio starts it from a thread of any core
    try:
        yield Child(process, name)
    finally:
        with trio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            process.terminate()
            with trio.move_on_after(_END_DEADLINE_S) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
                await process.wait()


def python(module: str, *arguments: str) -> list[str]:
    """Write the command that runs a module of ours."""
    return [sys.executable, "-m", module, *arguments]
