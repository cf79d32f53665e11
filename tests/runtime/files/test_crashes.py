"""M5: a crash between any two steps of an append loses nothing that was acknowledged, gives no
number twice, and leaves a store that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings, strategies as st

from dalsegno.runtime.files import FileEventStore, StoredEvent

from ._sessions import S, a_world, envelope, log_of
from ._sim_disk import CrashError, Nothing, SimDisk

ROOT = Path("/events")
EXAMPLES = 200
EXAMPLES_OF_SOAK = 10_000


class Drawn:
    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return int(self._data.draw(st.integers(low, high)))


async def play(choices: Drawn, rounds: int) -> None:
    disk, number = SimDisk(), 0
    acknowledged: dict[int, int] = {}
    """The payload under each number that was acknowledged."""
    for _ in range(rounds):
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        await check(store, acknowledged)
        for _ in range(choices.integer(0, 2)):
            number = await append(store, choices, number, acknowledged)
        disk.crash_at = disk.steps + choices.integer(0, 16)
        try:
            number = await append(store, choices, number, acknowledged)
        except CrashError:
            number += 10
        disk = disk.after_kill() if choices.integer(0, 1) else disk.after_power_loss(choices)
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    rows = await check(store, acknowledged)
    last = await store.last_seq(S)
    assert await store.append(S, ["it goes on"]) == last + 1
    assert (await store.read_from(S, 1))[:-1] == rows


async def append(
    store: FileEventStore, choices: Drawn, number: int, acknowledged: dict[int, int]
) -> int:
    several = [envelope(number + each) for each in range(choices.integer(1, 3))]
    last = await store.append_envelopes(S, several)
    for each in range(len(several)):
        acknowledged[last - len(several) + 1 + each] = number + each
    return number + len(several)


async def check(store: FileEventStore, acknowledged: dict[int, int]) -> list[StoredEvent]:
    rows = await store.read_from(S, 1)
    stored = {row.seq: row.event["n"] for row in rows}
    assert [row.seq for row in rows] == [*range(1, len(rows) + 1)], "contiguous"
    assert {seq: stored.get(seq) for seq in acknowledged} == acknowledged, "acknowledged"
    assert len({*stored.values()}) == len(stored), "each once"
    acknowledged.update(stored)  # whoever has read it may rely on it
    return rows


def examples(config: pytest.Config) -> int:
    return EXAMPLES_OF_SOAK if config.getoption("--soak") else EXAMPLES


@pytest.mark.long
def test_m5_a_crash_between_any_two_steps_loses_nothing(pytestconfig: pytest.Config) -> None:
    @settings(max_examples=examples(pytestconfig))
    @given(data=st.data())
    def search(data: st.DataObject) -> None:
        trio.run(play, Drawn(data), 3)

    search()


def steps_of_an_append() -> int:
    async def count() -> int:
        disk = SimDisk()
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        await store.append(S, [1])
        before = disk.steps
        await store.append(S, [2])
        return disk.steps - before

    return trio.run(count)


def test_m5_a_crash_after_each_step_of_one_append() -> None:
    """Write, sync, owner written, synced, renamed, its folder synced; the head likewise."""
    assert steps_of_an_append() == 10

    async def crash(step: int) -> int:
        disk = SimDisk()
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        await store.append(S, [1, 2])
        disk.crash_at = disk.steps + step
        with pytest.raises(CrashError):
            await store.append(S, [3])
        disk = disk.after_kill()
        again = FileEventStore(ROOT, world=a_world(), disk=disk)
        last = await again.last_seq(S)
        assert await again.append(S, ["next"]) == last + 1
        return last

    assert [trio.run(crash, step) for step in range(10)] == [2] + [3] * 9


async def test_m5_a_halt_is_durable_where_another_one_was_interrupted() -> None:
    """A process is killed after each of its steps, another one halts it, and the machine stops."""
    step, is_over = 0, False
    while not is_over:
        disk = SimDisk()
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        await store.append(S, [1])
        disk.crash_at = disk.steps + step
        with suppress(CrashError):
            await store.record_projection_halt(S, "lost")
            is_over = True
        disk = disk.after_kill()
        await FileEventStore(ROOT, world=a_world(), disk=disk).record_projection_halt(S, "lost")
        disk = disk.after_power_loss(Nothing())
        assert await FileEventStore(ROOT, disk=disk).projection_halt(S) is not None, step
        step += 1
    assert step > 5


KILLED = """
import os, signal, sys, trio
from dalsegno.runtime.files import FileEventStore, RealDisk

class Killed(RealDisk):
    left = int(sys.argv[2])

def counted(name):
    def step(self, *given):
        if Killed.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Killed.left -= 1
        return getattr(RealDisk, name)(self, *given)
    return step

for name in ("write", "sync", "rename", "sync_folder"):
    setattr(Killed, name, counted(name))

async def main():
    store = FileEventStore(sys.argv[1], disk=Killed())
    while True:
        print(await store.append("s", [{"pid": os.getpid()}]), flush=True)

trio.run(main)
"""


@pytest.mark.processes
@pytest.mark.parametrize("step", [0, 1, 2, 3, 5, 6, 8, 9])
async def test_a_process_that_is_killed_between_two_steps_leaves_what_it_acknowledged(
    tmp_path: Path, step: int
) -> None:
    """… while it goes on: behind the first append, whose folders take steps of their own."""
    given: list[int] = []
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "events"), str(18 + step)]
        run = partial(subprocess.run, command, capture_output=True, check=False, text=True)
        ended = await trio.to_thread.run_sync(run)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        given += map(int, ended.stdout.split())
    store = FileEventStore(tmp_path / "events")
    rows = [row.seq for row in await store.read_from("s", 1)]
    assert rows == [*range(1, len(rows) + 1)]
    assert given == sorted(set(given))
    assert set(given) <= set(rows)
    assert await store.append("s", [1]) == len(rows) + 1
    assert not [each for each in os.listdir(tmp_path / "events") if each.endswith(".new")]


def test_the_log_is_what_the_layout_says(tmp_path: Path) -> None:
    async def write() -> Any:
        store = FileEventStore(tmp_path, world=a_world())
        await store.append(S, [1])
        return log_of(tmp_path).read_text()

    line: str = trio.run(write)
    assert line.startswith('{"seq":1,"schema_version":2,"timestamp":"2026-02-13T12:00:00')
    assert line.endswith('"event":1}\n')
