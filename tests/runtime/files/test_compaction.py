"""Compaction in files (ME-D3): what is removed, what stays, and what a crash, a full disk, another
process and a projector make of it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime._cli import run
from dalsegno.runtime.files import (
    EventCompactedError,
    EventIoError,
    EventPage,
    EventProjectionHaltedError,
    EventSerializationError,
    EventStore,
    EventStoreStateError,
    FileEventStore,
    Inserted,
    RealDisk,
    Replayed,
    SessionProjector,
    first_of_last,
    first_since,
    transfer,
)

from ._failing_disk import FailingDisk
from ._sessions import S, a_world, compacted_of, envelope, head_of, log_of, owner_of
from ._sim_disk import CrashError, Nothing, SimDisk
from .test_crashes import ROOT, Drawn, examples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
async def store(root: Path) -> FileEventStore:
    """Has a session of six events."""
    store = FileEventStore(root, world=a_world())
    await fill(store)
    return store


async def fill(store: EventStore, count: int = 6) -> None:
    await store.append_envelopes(S, [envelope(number) for number in range(1, count + 1)])


async def kept(store: EventStore) -> list[int]:
    """The numbers of all that can be read."""
    events, page = [], await store.read_page(S)
    while page.events:
        events += page.events
        page = await store.read_page(S, page.events[-1].seq + 1)
    assert [row.event["n"] for row in events] == [row.seq for row in events]
    return [row.seq for row in events]


async def test_what_is_removed_is_no_longer_there_and_the_numbers_go_on(
    store: FileEventStore, root: Path
) -> None:
    lines = log_of(root).read_bytes().splitlines(keepends=True)
    assert await store.compact(S, 4) == 3
    assert log_of(root).read_bytes() == b"".join(lines[3:])
    assert compacted_of(root).read_text() == "3\n"
    head = msgspec.json.decode(head_of(root).read_bytes())
    found = log_of(root).stat()
    assert (head["seq"], head["size"], head["inode"]) == (6, found.st_size, found.st_ino)
    assert not [path for path in root.rglob("*") if path.suffix == ".new"]
    for reader in (store, FileEventStore(root)):
        assert await kept(reader) == [4, 5, 6]
        assert (await reader.min_available(S), await reader.last_seq(S)) == (3, 6)
        for asked in (reader.read_page(S, 3), reader.read_from(S, 1), reader.read_page(S, -1)):
            with pytest.raises(EventCompactedError, match="up to 3 were removed"):
                await asked
        assert [row.seq for row in await reader.read_from(S, 5)] == [5, 6]
    assert await store.append_envelopes(S, [envelope(7)]) == 7
    assert owner_of(root).read_text() == "7\n"
    assert await kept(FileEventStore(root)) == [4, 5, 6, 7]


async def test_the_lowest_cursor_is_told_to_whoever_asks_for_less(store: FileEventStore) -> None:
    await store.compact(S, 4)
    with pytest.raises(EventCompactedError) as refused:
        await store.read_page(S, 2)
    assert refused.value.code == "STALE_CURSOR"
    assert refused.value.details == {
        "requested_cursor": 1,
        "min_available_cursor": 3,
        "recovery": "resubscribe_full",
    }
    lowest = refused.value.details["min_available_cursor"]
    assert [row.seq for row in await store.read_from(S, lowest + 1)] == [4, 5, 6]


async def test_the_last_event_always_stays(store: FileEventStore) -> None:
    assert await store.compact(S, SEQ_MAX) == 5
    assert await kept(store) == [6]
    assert await store.compact(S, 10**30) == 0
    assert await kept(store) == [6]
    assert await store.append_envelopes(S, [envelope(7)]) == 7


async def test_what_has_nothing_to_be_removed_is_left_alone(
    store: FileEventStore, root: Path
) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}

    before = files()
    for before_seq in (1, 0, -5):
        assert await store.compact(S, before_seq) == 0
    assert files() == before
    assert await store.compact(S, 4) == 3
    before = files()
    assert [await store.compact(S, before_seq) for before_seq in (4, 3, 1)] == [0, 0, 0]
    assert files() == before
    assert await store.compact("unknown", 9) == await store.min_available("unknown") == 0
    assert await store.compact(S, 6) == 2
    assert compacted_of(root).read_text() == "5\n"


async def test_numbers_that_were_never_given_are_not_removed(root: Path) -> None:
    store = FileEventStore(root, world=a_world())
    await store.append_envelopes(S, [envelope(1)])
    owner_of(root).write_text("41\n")
    await store.append_envelopes(S, [envelope(42), envelope(43)])
    assert await store.min_available(S) == 0
    assert await store.compact(S, 42) == 1
    assert await store.min_available(S) == 1, "the last one that was removed"
    assert [row.seq for row in await store.read_from(S, 2)] == [42, 43]
    with pytest.raises(EventCompactedError):
        await store.read_from(S, 1)


async def test_what_is_no_longer_available_never_is_again(
    store: FileEventStore, root: Path
) -> None:
    """Whatever the marker is from: somebody may have been told that it is gone."""
    owner_of(root).write_text("41\n")
    await store.append_envelopes(S, [envelope(42), envelope(43)])
    compacted_of(root).write_text("41\n")
    assert await store.compact(S, 2) == 6
    assert (await store.min_available(S), await kept(store)) == (41, [42, 43])


async def test_ids_of_removed_events_are_known_no_longer(store: FileEventStore, root: Path) -> None:
    await store.compact(S, 4)
    for again in (store, FileEventStore(root)):
        assert await again.append_once(S, [envelope(4), envelope(5)]) == Replayed(5)
    assert await store.append_once(S, [envelope(1)]) == Inserted(7)


async def test_a_halted_session_is_not_compacted(store: FileEventStore, root: Path) -> None:
    whole = log_of(root).read_bytes()
    await store.record_projection_halt(S, "lost")
    for asked in (store.compact(S, 4), store.min_available(S)):
        with pytest.raises(EventProjectionHaltedError):
            await asked
    assert log_of(root).read_bytes() == whole


async def test_a_log_that_cannot_be_read_is_not_compacted(
    store: FileEventStore, root: Path
) -> None:
    first, second, *others = log_of(root).read_bytes().splitlines(keepends=True)
    wrong = b"".join([first, second[:-1].replace(b"{", b"[") + b"\n", *others])
    log_of(root).write_bytes(wrong)
    with pytest.raises(EventSerializationError):
        await store.compact(S, 4)
    assert log_of(root).read_bytes() == wrong
    assert not compacted_of(root).exists()


async def test_a_torn_tail_and_blank_lines_are_left_out(store: FileEventStore, root: Path) -> None:
    lines = log_of(root).read_bytes().splitlines(keepends=True)
    head_of(root).unlink()
    log_of(root).write_bytes(b"\n".join(lines) + b'\n{"seq":7,"torn')
    assert await FileEventStore(root, world=a_world()).compact(S, 4) == 3
    assert log_of(root).read_bytes() == b"\n".join(lines[3:]) + b"\n"
    assert await kept(store) == [4, 5, 6]


async def test_a_log_of_many_parts_is_compacted(root: Path) -> None:
    """More bytes than are read or copied at a time, and rows that reach over such a part."""
    store = FileEventStore(root, world=a_world())
    for first in range(0, 40, 10):
        numbers = range(first + 1, first + 11)
        await store.append_envelopes(
            S, [envelope(n, {"n": n, "text": "x" * 300_000}) for n in numbers]
        )
    whole = log_of(root).read_bytes()
    assert await store.compact(S, 18) == 17
    assert log_of(root).read_bytes() == b"".join(whole.splitlines(keepends=True)[17:])
    assert await kept(store) == [*range(18, 41)]


# ------------------------------------------------------------------------------------- crashes


STEPS = 14
"""The new log is removed, made, written and synced; the marker is written, synced and renamed, and
its folder synced; the log is renamed, and its folder synced; the head, as the marker."""
MARKER_RENAMED, LOG_RENAMED = 6, 8
SETTLED, HEADED = 3, 4
"""Steps before those where a crash left a log without a head: it is synced, and gets one."""


async def compacted_until(step: int) -> SimDisk:
    """A disk on which a compaction crashed before one of its steps."""
    disk = SimDisk()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    await fill(store)
    disk.crash_at = disk.steps + step
    with pytest.raises(CrashError):
        await store.compact(S, 4)
    disk.crash_at = None
    return disk


async def steps_of_a_compaction() -> int:
    disk = SimDisk()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    await fill(store)
    before = disk.steps
    await store.compact(S, 4)
    steps = disk.steps - before
    store = FileEventStore(ROOT, world=a_world(), disk=disk.after_power_loss(Nothing()))
    assert (await store.min_available(S), await kept(store)) == (3, [4, 5, 6]), "it is durable"
    return steps


async def test_a_crash_before_each_step_leaves_a_session_that_goes_on() -> None:
    assert await steps_of_a_compaction() == STEPS
    lowest: list[int] = []
    for step in range(STEPS):
        disk = (await compacted_until(step)).after_kill()
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        lowest.append(await store.min_available(S))
        await check(store, {}, floor=0)
        assert await store.compact(S, 4) in (0, 3)
        assert await store.compact(S, 4) == 0
        assert (await store.min_available(S), await kept(store)) == (3, [4, 5, 6])
        assert disk.read(ROOT / f"{S}.jsonl", 0, 8) == b'{"seq":4'
        assert await store.append_envelopes(S, [envelope(7)]) == 7
        assert await kept(FileEventStore(ROOT, disk=disk)) == [4, 5, 6, 7]
    assert lowest == [0 if step <= MARKER_RENAMED else 3 for step in range(STEPS)]


async def test_rows_behind_the_marker_are_not_read_and_the_next_compaction_removes_them() -> None:
    disk = (await compacted_until(LOG_RENAMED)).after_kill()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    log = ROOT / f"{S}.jsonl"
    assert disk.read(log, 0, 8) == b'{"seq":1', "they are there"
    assert await kept(store) == [4, 5, 6]
    with pytest.raises(EventCompactedError):
        await store.read_page(S, 2)
    assert await store.append_envelopes(S, [envelope(7)]) == 7
    assert await store.compact(S, 2) == 3, "whatever is asked for"
    assert disk.read(log, 0, 8) == b'{"seq":4'
    assert await store.min_available(S) == 3


async def test_a_head_of_the_log_before_is_not_taken_for_that_of_the_next_one() -> None:
    """Whose inode is the same, where one compaction after the other is interrupted."""
    disk = (await compacted_until(LOG_RENAMED + 2)).after_kill()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    head = msgspec.json.decode(disk.read(ROOT / ".sequence" / f"{S}.head") or b"")
    disk.crash_at = disk.steps + SETTLED + HEADED + LOG_RENAMED + 2
    with pytest.raises(CrashError):
        await store.compact(S, 6)
    disk = disk.after_kill()
    log = disk.identity(ROOT / f"{S}.jsonl")
    assert log is not None
    assert log.inode == head["inode"]
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    assert await kept(store) == [6]
    assert await store.append_envelopes(S, [envelope(7)]) == 7


async def test_a_marker_that_was_not_durable_yet_is_so_before_the_rows_are_gone() -> None:
    """A process is killed, another one goes on where it was, and then the machine stops."""
    disk = (await compacted_until(MARKER_RENAMED + 1)).after_kill()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    disk.crash_at = disk.steps + LOG_RENAMED + 2
    with pytest.raises(CrashError):
        await store.compact(S, 4)
    disk = disk.after_power_loss(Nothing())
    assert disk.read(ROOT / f"{S}.jsonl", 0, 8) == b'{"seq":4'
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    assert (await store.min_available(S), await kept(store)) == (3, [4, 5, 6])
    with pytest.raises(EventCompactedError):
        await store.read_from(S, 1)


async def test_another_process_sees_a_compaction_that_was_interrupted() -> None:
    disk = SimDisk()
    store, other = (FileEventStore(ROOT, world=a_world(), disk=disk) for _ in range(2))
    await fill(store)
    assert await kept(other) == [1, 2, 3, 4, 5, 6]
    disk.crash_at = disk.steps + LOG_RENAMED
    with pytest.raises(CrashError):
        await store.compact(S, 4)
    disk.crash_at = None
    assert (await other.min_available(S), await kept(other)) == (3, [4, 5, 6])
    with pytest.raises(EventCompactedError):
        await other.read_from(S, 1)


async def check(store: EventStore, acknowledged: dict[int, int], floor: int) -> None:
    """Check what can be read, of which a compaction that has ended removed a part."""
    lowest, last = await store.min_available(S), await store.last_seq(S)
    assert floor <= lowest <= last
    rows = (await store.read_page(S)).events
    assert [row.seq for row in rows] == [*range(lowest + 1, last + 1)], "all that is kept"
    stored = {row.seq: row.event["n"] for row in rows}
    assert all(stored[seq] == n for seq, n in acknowledged.items() if seq > lowest)
    assert max(acknowledged, default=0) <= last
    acknowledged |= stored  # whoever has read it may rely on it
    if lowest:
        with pytest.raises(EventCompactedError):
            await store.read_page(S, lowest)


async def play(choices: Drawn, rounds: int) -> None:
    """Append and compact, crash in the middle, and go on with what is left."""
    disk, number, floor = SimDisk(), 0, 0
    acknowledged: dict[int, int] = {}
    """The payload under each number that was acknowledged."""
    for _ in range(rounds):
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        await check(store, acknowledged, floor)
        disk.crash_at = disk.steps + choices.integer(0, 50)
        try:
            for _ in range(choices.integer(1, 4)):
                if choices.integer(0, 1):
                    number += 1
                    acknowledged[await store.append(S, [{"n": number}])] = number
                else:
                    await store.compact(S, choices.integer(0, number + 1))
                    floor = await store.min_available(S)
        except CrashError:
            number += 1
        disk = disk.after_kill() if choices.integer(0, 1) else disk.after_power_loss(choices)
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    await check(store, acknowledged, floor)
    last = await store.last_seq(S)
    assert await store.append(S, [{"n": 0}]) == last + 1
    await store.compact(S, last + 1)
    assert [row.seq for row in (await store.read_page(S)).events] == [last + 1]


@pytest.mark.long
def test_a_crash_between_any_two_steps_loses_nothing_that_is_kept(
    pytestconfig: pytest.Config,
) -> None:
    @settings(max_examples=examples(pytestconfig))
    @given(data=st.data())
    def search(data: st.DataObject) -> None:
        trio.run(play, Drawn(data), 4)

    search()


# ------------------------------------------------------------------------------ beside others


async def test_another_process_reads_what_is_left(store: FileEventStore, root: Path) -> None:
    other = FileEventStore(root, world=a_world())
    assert await kept(other) == [1, 2, 3, 4, 5, 6]
    await store.compact(S, 4)
    assert (await other.min_available(S), await kept(other)) == (3, [4, 5, 6])
    assert await other.append_envelopes(S, [envelope(7)]) == 7
    assert await store.append_once(S, [envelope(7)]) == Replayed(7)
    assert await other.compact(S, 6) == 2
    assert await kept(store) == [6, 7]


async def test_a_log_with_the_inode_of_the_one_that_another_process_knows() -> None:
    """It looks like the same file, with more at its end."""
    disk = SimDisk()
    store, other = (FileEventStore(ROOT, world=a_world(), disk=disk) for _ in range(2))
    log = ROOT / f"{S}.jsonl"
    await fill(store)
    assert len(await kept(other)) == 6
    before = disk.identity(log)
    await store.compact(S, 3)
    await store.append_envelopes(S, [envelope(number) for number in range(7, 20)])
    await store.compact(S, 5)
    after = disk.identity(log)
    assert before is not None
    assert after is not None
    assert (before.inode, before.size < after.size) == (after.inode, True)
    assert await kept(other) == [*range(5, 20)]
    assert await other.append_once(S, [envelope(19)]) == Replayed(19)
    assert await other.append_once(S, [envelope(1)]) == Inserted(20)


async def test_it_is_not_taken_for_that_one_where_no_head_was_written_either() -> None:
    disk = SimDisk()
    store, other, third = (FileEventStore(ROOT, world=a_world(), disk=disk) for _ in range(3))
    await fill(store)
    before = disk.identity(ROOT / f"{S}.jsonl")
    assert len(await kept(other)) == 6
    for before_seq in (2, 3):
        before_it = SETTLED + HEADED if before_seq == 3 else 0
        disk.crash_at = disk.steps + before_it + LOG_RENAMED + 2
        with pytest.raises(CrashError):
            await store.compact(S, before_seq)
        disk.crash_at = None
        assert await third.last_seq(S) == 6
    after = disk.identity(ROOT / f"{S}.jsonl")
    assert before is not None
    assert after is not None
    assert before.inode == after.inode
    await third.append_envelopes(S, [envelope(number) for number in range(7, 20)])
    assert await kept(other) == [*range(3, 20)]
    assert await other.append_once(S, [envelope(7)]) == Replayed(7)
    assert await other.append_once(S, [envelope(1)]) == Inserted(20)


async def test_a_session_is_compacted_while_others_append_and_read(root: Path) -> None:
    stores = [FileEventStore(root, world=a_world()) for _ in range(3)]
    await fill(stores[0])
    given: list[int] = []

    async def append() -> None:
        given.extend([await stores[0].append(S, [{"n": 0}]) for _ in range(30)])

    async def compact() -> None:
        for _ in range(15):
            await stores[1].compact(S, await stores[1].last_seq(S) - 2)

    async def read() -> None:
        for _ in range(30):
            page = await stores[2].read_page(S)
            numbers = [row.seq for row in page.events]
            assert numbers == [*range(numbers[0], numbers[-1] + 1)]

    async with trio.open_nursery() as nursery:
        for task in (append, compact, read):
            nursery.start_soon(task)
    assert given == [*range(7, 37)]
    last = [row.seq for row in (await stores[2].read_page(S)).events]
    assert last == [*range(last[0], 37)]


# -------------------------------------------------------------------------------- a bad marker


@pytest.mark.parametrize(
    "marker", ["", " \n", "x", "-1", "1.5", "9" * 19, "1" * 5_000, "6", str(SEQ_MAX)]
)
async def test_a_marker_that_cannot_be_fails_closed(
    store: FileEventStore, root: Path, marker: str
) -> None:
    """No number, or not below the log's last one, which is never removed."""
    await store.compact(S, 4)
    compacted_of(root).write_text(marker)
    whole = log_of(root).read_bytes()
    for each in (store, FileEventStore(root, world=a_world())):
        for asked in (
            each.read_page(S),
            each.read_from(S, 6),
            each.min_available(S),
            each.last_seq(S),
            each.compact(S, 5),
            each.append(S, [7]),
        ):
            with pytest.raises(EventStoreStateError):
                await asked
    assert log_of(root).read_bytes() == whole
    compacted_of(root).write_text("3\n")
    assert await kept(store) == [4, 5, 6]


async def test_a_log_of_which_events_were_removed_is_missed_without_a_head_too(
    store: FileEventStore, root: Path
) -> None:
    await store.compact(S, 4)
    log_of(root).unlink()
    head_of(root).unlink()
    for asked in (store.read_page(S), store.append(S, [1])):
        with pytest.raises(EventStoreStateError, match="is gone"):
            await asked


# ------------------------------------------------------------------------- a disk that fails


class FullDisk(RealDisk):
    """A disk that is full in the middle of a new log."""

    is_full = False

    def write(self, path: Path, at: int, data: bytes) -> None:
        if self.is_full and path.name.endswith(".jsonl.new") and data:
            super().write(path, at, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, at, data)


async def test_fi_11_a_full_disk_leaves_the_log_as_it_is(root: Path) -> None:
    disk = FullDisk()
    store = FileEventStore(root, world=a_world(), disk=disk)
    await fill(store)
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    disk.is_full = True
    with pytest.raises(EventIoError, match="No space"):
        await store.compact(S, 4)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == files
    assert await kept(store) == [1, 2, 3, 4, 5, 6]
    disk.is_full = False
    assert await store.compact(S, 4) == 3


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_a_failure_at_any_step_is_completed_by_the_next_compaction(
    root: Path, is_done_first: bool
) -> None:
    for step in range(STEPS - 1):  # but for the removal of a new log that is not there
        folder = root / str(step)
        disk = FailingDisk()
        disk.is_done_first = is_done_first
        store = FileEventStore(folder, world=a_world(), disk=disk)
        await fill(store)
        disk.left = step
        with pytest.raises(EventIoError, match="Input/output"):
            await store.compact(S, 4)
        for reader in (store, FileEventStore(folder)):
            assert await kept(reader) == [*range(await reader.min_available(S) + 1, 7)]
        await store.compact(S, 4)
        assert (await store.min_available(S), await kept(store)) == (3, [4, 5, 6])
        assert log_of(folder).read_bytes().startswith(b'{"seq":4')
        assert await store.append_envelopes(S, [envelope(7)]) == 7
        assert await kept(FileEventStore(folder)) == [4, 5, 6, 7]
        assert not [path for path in folder.rglob("*") if path.suffix == ".new"]


class Shrinking(RealDisk):
    """A disk whose log ends all of a sudden."""

    reads_left = -1

    def read(self, path: Path, at: int = 0, length: int | None = None) -> bytes | None:
        if path.suffix == ".jsonl":
            self.reads_left -= 1
            if self.reads_left == -1:
                return b""
        return super().read(path, at, length)


async def test_a_log_that_becomes_shorter_meanwhile_is_left_as_it_is(
    store: FileEventStore, root: Path
) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    disk = Shrinking()
    shrinking = FileEventStore(root, disk=disk)
    for reads, error in ((1, EventStoreStateError), (2, EventIoError)):  # looked at, and copied
        assert await shrinking.last_seq(S) == 6
        disk.reads_left = reads - 1
        with pytest.raises(error, match="became shorter while it was read"):
            await shrinking.compact(S, 4)
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert await kept(store) == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------------- what is made of it


def files_in(out: Path) -> dict[str, bytes]:
    there = (out / "sessions" / S).iterdir()
    return {path.name: path.read_bytes() for path in there if path.name != ".lock"}


async def is_as_fresh(out: Path, store: EventStore, folder: Path) -> bool:
    await SessionProjector(folder, store).replay(S)
    return files_in(out) == files_in(folder)


def said(content: str) -> dict[str, Any]:
    return {"type": "text_complete", "content": content}


async def test_a_projection_is_made_anew_of_what_is_kept(root: Path, tmp_path: Path) -> None:
    store = FileEventStore(root, world=a_world())
    out = tmp_path / "out"
    projector = SessionProjector(out, store)
    await store.append(S, [said("Hello"), {"type": "x"}, {"type": "y"}])
    assert await projector.resume(S) == 3
    assert files_in(out)["summary.txt"] == b"Hello"
    await store.compact(S, 2)
    assert await projector.resume(S) == 3
    assert await is_as_fresh(out, store, tmp_path / "fresh")
    assert "summary.txt" not in files_in(out), "what said so was removed"
    assert msgspec.json.decode(files_in(out)["session.json"])["first_seq"] == 2
    await store.append(S, [said("Bye")])
    await store.compact(S, 4)
    assert await projector.resume(S) == 4
    assert files_in(out)["events.jsonl"] == log_of(root).read_bytes()
    assert await is_as_fresh(out, store, tmp_path / "fresh")
    inode = (out / "sessions" / S / "events.jsonl").stat().st_ino
    await store.append(S, [said("Bye again")])
    assert await projector.resume(S) == 5
    assert (out / "sessions" / S / "events.jsonl").stat().st_ino == inode, "what is missing"
    assert await is_as_fresh(out, store, tmp_path / "fresh")


async def test_a_checkpoint_that_was_removed_is_not_believed(root: Path, tmp_path: Path) -> None:
    store = FileEventStore(root, world=a_world())
    await store.append(S, [said("1")])
    projector = SessionProjector(tmp_path / "out", store)
    await projector.resume(S)
    await store.append(S, [said("2"), said("3")])
    await store.compact(S, 3)
    assert await projector.resume(S) == 3
    assert await is_as_fresh(tmp_path / "out", store, tmp_path / "fresh")
    with pytest.raises(EventCompactedError):
        await projector.project(S, 1)


class Compacting(FileEventStore):
    """Is compacted before one of its reads, as another process may do it."""

    reads_left = -1

    async def read_page(
        self, session_id: str, from_seq: int | None = None, *, limit: int = 1_000
    ) -> EventPage:
        self.reads_left -= 1
        if self.reads_left == -1:
            await self.compact(session_id, 6)
        return await super().read_page(session_id, from_seq, limit=limit)


async def test_a_compaction_while_it_is_resumed_makes_it_anew(root: Path, tmp_path: Path) -> None:
    for read in range(5):
        store = Compacting(root / str(read), world=a_world())
        projector = SessionProjector(tmp_path / str(read), store)
        await fill(store, 3)
        await projector.resume(S)
        await store.append(S, [said("4"), said("5"), said("6")])
        store.reads_left = read
        assert await projector.resume(S) == 6
        store.reads_left = -1
        assert await projector.resume(S) == 6
        fresh = tmp_path / f"fresh-{read}"
        assert await is_as_fresh(tmp_path / str(read), store, fresh), read


async def test_a_session_of_which_events_were_removed_is_not_transferred(
    store: FileEventStore, root: Path, tmp_path: Path
) -> None:
    target = FileEventStore(tmp_path / "target", world=a_world())
    await fill(target, 4)
    await store.compact(S, 4)
    for source, other in ((store, target), (target, store)):
        done = await transfer(source, other, [S])
        assert (done.sessions, done.appended) == (0, 0)
        assert done.refused[S].code == "STALE_CURSOR"
    assert (await target.last_seq(S), await store.last_seq(S)) == (4, 6)


# ------------------------------------------------------------------------------- how far back


async def test_the_last_events_are_counted_whatever_their_numbers(root: Path) -> None:
    store = FileEventStore(root, world=a_world())
    assert await first_of_last(store, S, 3) == 0
    for _ in range(5):
        await store.append_envelopes(S, [envelope(0, 1)] * 201)
    owner_of(root).write_text("2000\n")
    await store.append_envelopes(S, [envelope(0, 1), envelope(0, 1)])
    found = [await first_of_last(store, S, count) for count in (1, 2, 3, 4)]
    assert found == [2002, 2001, 1005, 1004]
    assert await first_of_last(store, S, 5_000) == 1
    await store.compact(S, await first_of_last(store, S, 4))
    assert [row.seq for row in (await store.read_page(S)).events] == [1004, 1005, 2001, 2002]


async def test_events_are_kept_by_when_they_were_stored(store: FileEventStore) -> None:
    await store.append_envelopes(S, [envelope(7)])
    rows = (await store.read_page(S)).events
    assert rows[5].timestamp < rows[6].timestamp
    assert await first_since(store, S, rows[6].timestamp) == 7
    assert await first_since(store, S, rows[0].timestamp) == 1
    assert await first_since(store, S, rows[6].timestamp.replace(year=2100)) == 8
    assert await first_since(store, "unknown", rows[0].timestamp) == 1


# -------------------------------------------------------------------------------- the command


@pytest.fixture
def folder(root: Path) -> str:
    """Has a session of events now, one with older ones, and one that is halted."""

    async def fill_all() -> None:
        old = FileEventStore(root, world=a_world())
        for session_id in ("a", "old", "halted"):
            await old.append_envelopes(session_id, [envelope(n) for n in range(1, 5)])
        new = FileEventStore(root)
        for session_id in ("a", "new"):
            await new.append_envelopes(session_id, [envelope(n) for n in range(5, 8)])
        await old.record_projection_halt("halted", "lost")

    trio.run(fill_all)
    return str(root)


def numbers_in(folder: str, session_id: str) -> list[int]:
    page = trio.run(FileEventStore(folder).read_page, session_id)
    return [row.seq for row in page.events]


def test_sessions_are_compacted_to_so_many_events_each(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["files", "compact", folder, "--keep-events", "2"]) == 1
    said = capsys.readouterr()
    assert said.out == "a: 5 events removed\nnew: 1 event removed\nold: 2 events removed\n"
    assert said.err == "dalsegno: halted: the session was halted: lost\n"
    assert [numbers_in(folder, name) for name in ("a", "new", "old")] == [[6, 7], [2, 3], [3, 4]]
    again = ["files", "compact", folder, "--keep-events", "2", "--session", "a", "--session", "z"]
    assert run(again) == 0
    assert capsys.readouterr().out == "a: 0 events removed\nz: 0 events removed\n"


def test_sessions_are_compacted_to_those_of_some_days(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old ones are of February 2026."""
    assert run(["files", "compact", folder, "--keep-days", "36500", "--session", "a"]) == 0
    assert numbers_in(folder, "a") == [*range(1, 8)]
    assert run(["files", "compact", folder, "--keep-days", "1"]) == 1
    assert [numbers_in(folder, name) for name in ("a", "new", "old")] == [[5, 6, 7], [1, 2, 3], [4]]
    assert "halted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --keep-events or --keep-days is needed"),
        (["--keep-events", "1", "--keep-days", "1"], "either --keep-events or --keep-days"),
        (["--keep-events", "0"], "--keep-events"),
        (["--keep-days", "0"], "--keep-days"),
        (["--keep-days", "1000000"], "--keep-days"),
    ],
)
def test_what_is_typed_wrong_removes_nothing(
    folder: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["files", "compact", folder, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert numbers_in(folder, "a") == [*range(1, 8)]
    assert run(["files", "compact", folder + "-none", "--keep-events", "1"]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.processes
async def test_a_folder_is_compacted_while_a_program_has_it(
    store: FileEventStore, root: Path
) -> None:
    dalsegno = Path(sys.executable).with_name("dalsegno")
    command = [str(dalsegno), "files", "compact", str(root), "--keep-events", "2"]
    assert await kept(store) == [1, 2, 3, 4, 5, 6]
    ended = await trio.run_process(command, capture_stdout=True)
    assert ended.stdout.decode() == f"{S}: 4 events removed\n"
    assert await kept(store) == [5, 6]
    assert await store.append_envelopes(S, [envelope(7)]) == 7
