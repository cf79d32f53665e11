"""The file store's own promises: the seed's twelve tests, and what a crash, a disk, or a stranger
does to its files (§3.2)."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime.files import (
    EventConflictError,
    EventIoError,
    EventSerializationError,
    EventStoreStateError,
    FileEventStore,
    Lock,
    RealDisk,
    Replayed,
    SchemaVersionMismatchError,
)

from ._failing_disk import FailingDisk
from ._sessions import S, a_world, envelope, head_of, log_of, owner_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
def store(root: Path) -> FileEventStore:
    return FileEventStore(root, world=a_world())


async def seqs(store: FileEventStore, from_seq: int = 1) -> list[int]:
    return [row.seq for row in await store.read_from(S, from_seq)]


# ------------------------------------------------------------------------------- the seed's own


async def test_appends_and_reads_session_log(store: FileEventStore, root: Path) -> None:
    assert await store.append(S, [{"turn": 1}, {"text": "durable event"}]) == 2
    assert await store.last_seq(S) == 2
    assert await seqs(store) == [1, 2]
    (second,) = await store.read_from(S, 2)
    assert second.event == {"text": "durable event"}
    assert log_of(root).exists()


async def test_persists_projection_halt_marker(store: FileEventStore, root: Path) -> None:
    await store.record_projection_halt(S, "synthetic append failure")
    marker = await FileEventStore(root).projection_halt(S)
    assert marker is not None
    assert (marker.session_id, marker.reason) == (S, "synthetic append failure")
    text = (root / ".projection-halts" / f"{S}.json").read_text()
    assert text.startswith("{\n  ")
    assert text.endswith("}\n")


async def test_x_seq_6_restart_continues_from_durable_sequence_owner(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1, 2])
    assert owner_of(root).read_text() == "2\n"
    restarted = FileEventStore(root)
    assert await restarted.append(S, [3]) == 3
    assert owner_of(root).read_text() == "3\n"
    assert await seqs(restarted) == [1, 2, 3]


async def test_x_seq_7_process_local_counter_is_inert_when_durable_owner_advances(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1])
    owner_of(root).write_text("41\n")
    assert await store.append(S, [2]) == 42
    assert await seqs(store) == [1, 42]


@pytest.mark.parametrize(
    "owner", ["not-a-sequence", "", " \n", "-1", "1.5", "9" * 19, "1" * 5_000, "٣", "\ufeff1"]
)
async def test_x_seq_7_corrupt_sequence_owner_fails_closed(
    store: FileEventStore, root: Path, owner: str
) -> None:
    await store.append(S, [1])
    owner_of(root).write_text(owner)
    with pytest.raises(EventStoreStateError, match="durable sequence owner"):
        await store.append(S, [2])
    assert await store.last_seq(S) == 1
    assert await seqs(store) == [1]


async def test_x_seq_7_owner_trailing_log_tail_reconciles_to_tail(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1, 2])
    owner_of(root).write_text("1\n")
    assert await store.append(S, [3]) == 3
    assert await seqs(store) == [1, 2, 3]
    assert owner_of(root).read_text() == "3\n"


async def test_owner_advances_only_after_fsync_no_forward_gap(
    store: FileEventStore, root: Path
) -> None:
    for number in (1, 2):
        assert await store.append(S, [number]) == number
        assert owner_of(root).read_text() == f"{number}\n"
    assert await seqs(store) == [1, 2]


def add_row(root: Path, row: dict[str, Any]) -> None:
    with log_of(root).open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")


async def test_x_per_5_read_from_fails_closed_on_schema_version_mismatch(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1])
    row = {"seq": 2, "schema_version": 3, "timestamp": "2030-01-01T00:00:00Z", "event": {}}
    add_row(root, row)
    for asked in (
        store.read_from(S, 1),
        store.read_from(S, 9),
        store.last_seq(S),
        store.append(S, [2]),
        FileEventStore(root).append(S, [2]),
    ):
        with pytest.raises(SchemaVersionMismatchError, match="schema_version 3") as refused:
            await asked
        assert (refused.value.expected, refused.value.found) == (2, 3)
    assert await store.append("other", [1]) == 1


async def test_x_per_5_rejects_pre_bump_v1_row_with_typed_schema_error(
    store: FileEventStore, root: Path
) -> None:
    root.mkdir()
    add_row(root, {"seq": 1, "schema_version": 1, "timestamp": "2030-01-01T00:00:00Z", "event": 1})
    with pytest.raises(SchemaVersionMismatchError) as refused:
        await store.read_from(S, 2)
    assert (refused.value.expected, refused.value.found) == (2, 1)


# ------------------------------------------------------------------------------------- numbers


async def test_x_seq_8_a_full_sequence_is_a_typed_error(store: FileEventStore, root: Path) -> None:
    await store.append(S, [1])
    owner_of(root).write_text(f"{SEQ_MAX - 1}\n")
    with pytest.raises(EventStoreStateError, match="overflow"):
        await store.append(S, [1, 2])
    assert await store.append(S, [1]) == SEQ_MAX
    with pytest.raises(EventStoreStateError, match="overflow"):
        await store.append(S, [1])
    assert await seqs(store) == [1, SEQ_MAX]


async def test_x_seq_9_an_empty_append_writes_nothing(store: FileEventStore, root: Path) -> None:
    assert await store.append(S, []) == 0
    assert not root.exists()
    await store.append(S, [1])
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    assert await store.append_envelopes(S, []) == 1
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


# ---------------------------------------------------------------------------------------- once


async def test_what_was_appended_plainly_is_known_by_its_id_too(
    store: FileEventStore, root: Path
) -> None:
    await store.append_envelopes(S, [envelope(1)])
    assert await FileEventStore(root).append_once(S, [envelope(1)]) == Replayed(1)
    with pytest.raises(EventConflictError):
        await store.append_once(S, [envelope(1), envelope(2)])


# ---------------------------------------------------------------------------------- torn, corrupt


@pytest.mark.parametrize(
    "torn", [b'{"seq":3,"schem', b"\0" * 100, b'{"seq":3}\n{"seq":4', b"\xff\xfe\n", b"\n\n{"]
)
async def test_x_per_7_a_torn_tail_behind_the_head_is_healed(
    store: FileEventStore, root: Path, torn: bytes
) -> None:
    await store.append(S, [1, 2])
    whole = log_of(root).read_bytes()
    log_of(root).write_bytes(whole + torn)
    for reader in (store, FileEventStore(root)):
        assert await seqs(reader) == [1, 2]
    assert await store.append(S, ["next"]) == 3
    assert log_of(root).read_bytes().removeprefix(whole).lstrip(b"\n").startswith(b'{"seq":3,')
    assert await seqs(FileEventStore(root)) == [1, 2, 3]


async def test_whole_rows_behind_the_head_count(store: FileEventStore, root: Path) -> None:
    """A crash between the log and the head: nobody was told, and nothing is lost."""
    await store.append(S, [1, 2])
    head, owner = head_of(root).read_bytes(), owner_of(root).read_bytes()
    await store.append(S, [3, 4])
    head_of(root).write_bytes(head)
    owner_of(root).write_bytes(owner)
    for again in (store, FileEventStore(root)):
        assert await seqs(again) == [1, 2, 3, 4]
    assert await store.append(S, [5]) == 5


async def test_x_per_7_corruption_below_the_head_fails_closed(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1, 2, 3])
    whole = log_of(root).read_bytes()
    first, second, third = whole.splitlines(keepends=True)
    for wrong in (
        first + b"garbage\n" + third,
        first + second + b"x" * (len(third) - 1) + b"\n",
        first + third,
        first + second,
        b"",
        first + second[:-1] + b" " + third,
        second + first + third,
        first + first + third,
    ):
        log_of(root).write_bytes(wrong)
        for asked in (
            store.read_from(S, 3),
            store.last_seq(S),
            store.append(S, [4]),
            FileEventStore(root).append(S, [4]),
        ):
            with pytest.raises((EventSerializationError, EventStoreStateError)):
                await asked
        assert log_of(root).read_bytes() == wrong
    log_of(root).write_bytes(whole)
    assert await store.append(S, [4]) == 4
    log_of(root).unlink()
    with pytest.raises(EventStoreStateError, match="is gone"):
        await store.append(S, [5])


async def test_a_log_of_the_seed_s_own_without_a_head_is_read_whole_and_continued(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1, 2])
    head_of(root).unlink()
    again = FileEventStore(root)
    assert await seqs(again) == [1, 2]
    assert await again.append(S, [3]) == 3
    assert head_of(root).exists()
    head_of(root).unlink()
    with log_of(root).open("ab") as file:
        file.write(b'{"torn')
    assert await FileEventStore(root).append(S, [4]) == 4
    head_of(root).write_text("garbage")
    with pytest.raises(EventStoreStateError, match="durable head"):
        await store.last_seq(S)


async def test_a_log_that_took_the_place_of_another_is_read_whole(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1, 2, 3])
    copy = log_of(root).read_bytes()
    log_of(root).rename(root / "kept")
    log_of(root).write_bytes(copy.replace(b'"event":3', b'"event":x'))
    with pytest.raises(EventSerializationError):
        await store.last_seq(S)
    log_of(root).write_bytes(b"".join(copy.splitlines(keepends=True)[:2]))  # an older copy
    assert await seqs(store) == [1, 2]
    assert await store.append(S, ["no number is given twice"]) == 4


# --------------------------------------------------------------------------------------- halts


async def test_who_cleared_a_halt_and_why_is_on_record(store: FileEventStore, root: Path) -> None:
    await store.record_projection_halt(S, "the projector is lost")
    assert await store.clear_projection_halt(S, by="ada", reason="rebuilt")
    assert not await store.clear_projection_halt(S, by="ada", reason="rebuilt")
    (line,) = (root / ".projection-halts" / f"{S}.log").read_bytes().splitlines()
    record = msgspec.json.decode(line)
    assert (record["by"], record["reason"]) == ("ada", "rebuilt")
    assert "the projector is lost" in record["cleared"]


# --------------------------------------------------------------------------- what files may be


async def test_a_symbolic_link_is_not_followed(
    store: FileEventStore, root: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text("")
    root.mkdir()
    log_of(root).symlink_to(elsewhere)
    for asked in (store.append(S, [1]), store.read_from(S, 1)):
        with pytest.raises(EventIoError):
            await asked
    assert elsewhere.read_text() == ""


async def test_a_folder_where_a_file_should_be_is_an_error(
    store: FileEventStore, root: Path
) -> None:
    log_of(root).mkdir(parents=True)
    for asked in (store.append(S, [1]), store.read_from(S, 1)):
        with pytest.raises(EventIoError):
            await asked
    owner_of(root, "b").mkdir(parents=True)
    with pytest.raises(EventIoError):
        await store.append("b", [1])
    assert await store.last_seq("b") == 0


class FullDisk(RealDisk):
    """A disk that is full in the middle of a line."""

    is_full = False

    def write(self, path: Path, at: int, data: bytes) -> None:
        if self.is_full and path.suffix == ".jsonl" and data:
            super().write(path, at, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        super().write(path, at, data)


async def test_x_seq_5_a_full_disk_leaves_nothing_of_a_batch(root: Path) -> None:
    disk = FullDisk()
    store = FileEventStore(root, world=a_world(), disk=disk)
    await store.append(S, [1])
    before = log_of(root).read_bytes()
    disk.is_full = True
    with pytest.raises(EventIoError, match="No space"):
        await store.append(S, [2, 3])
    assert log_of(root).read_bytes() == before
    assert await store.last_seq(S) == 1
    disk.is_full = False
    assert await store.append(S, [2]) == 2


STEPS = 10
"""Of an append: the log is written and synced; owner and head are written, synced and renamed, and
their folder is synced."""


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("appended", [0, 2])
async def test_x_seq_5_a_failure_at_any_step_leaves_no_row_and_no_hole(
    root: Path, appended: int, is_done_first: bool
) -> None:
    for step in range(STEPS if appended else STEPS + 4):
        session_id = f"s{step}"
        disk = FailingDisk()
        disk.is_done_first = is_done_first
        store = FileEventStore(root / str(step), world=a_world(), disk=disk)
        await store.append(session_id, [*range(appended)])
        disk.left = step
        with pytest.raises(EventIoError, match="Input/output"):
            await store.append(session_id, ["lost", "too"])
        for again in (store, FileEventStore(root / str(step))):
            assert await again.last_seq(session_id) == appended
        assert await store.append(session_id, ["next"]) == appended + 1
        rows = await FileEventStore(root / str(step)).read_from(session_id, 1)
        assert [row.event for row in rows] == [*range(appended), "next"]


class ReadOnlyDisk(RealDisk):
    """A file system that is mounted so that nothing can be written; root may be told otherwise."""

    def write(self, path: Path, at: int, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def try_lock(self, path: Path, *, shared: bool) -> Lock | None:
        raise OSError(errno.EROFS, "Read-only file system")


async def test_a_folder_that_cannot_be_written_can_be_read(
    store: FileEventStore, root: Path
) -> None:
    await store.append(S, [1])
    reader = FileEventStore(root, world=a_world(), disk=ReadOnlyDisk())
    assert await seqs(reader) == [1]
    for asked in (reader.append(S, [2]), reader.record_projection_halt(S, "x")):
        with pytest.raises(EventIoError, match="Read-only"):
            await asked


# ------------------------------------------------------------------------------ beside others


async def test_a_session_that_another_holds_is_waited_for_and_then_given_up(root: Path) -> None:
    store = FileEventStore(root, world=a_world(), lock_deadline_s=0.05)
    await store.append(S, [1])
    lock = RealDisk().try_lock(root / ".sequence" / f"{S}.lock", shared=False)
    assert lock is not None
    with pytest.raises(EventStoreStateError, match="failed to acquire durable sequence lock"):
        await store.append(S, [2])
    with pytest.raises(EventStoreStateError, match="failed to acquire"):
        await store.last_seq(S)
    assert await store.append("other", [1]) == 1
    lock.release()
    assert await store.append(S, [2]) == 2


async def test_sessions_do_not_wait_for_each_other_and_nothing_is_left_of_their_turns(
    store: FileEventStore,
) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(store.append, f"s{number}", [1])
    assert repr(store).endswith("30 sessions known>")
    assert repr(store.folder).endswith("0 sessions held>")


# --------------------------------------------------------------------------------------- costs


class Counting(RealDisk):
    """A disk that counts the bytes that are read and written of logs."""

    def __init__(self) -> None:
        self.read_bytes = self.written_bytes = 0

    def read(self, path: Path, at: int = 0, length: int | None = None) -> bytes | None:
        data = super().read(path, at, length)
        self.read_bytes += len(data or b"")
        return data

    def write(self, path: Path, at: int, data: bytes) -> None:
        self.written_bytes += len(data)
        super().write(path, at, data)


async def test_x_per_8_an_append_touches_as_much_of_a_long_log_as_of_a_short_one(
    root: Path,
) -> None:
    disk = Counting()
    store = FileEventStore(root, world=a_world(), disk=disk)
    touched: list[int] = []
    for rows in (100, 100_000):
        rest = rows - await store.last_seq(S)
        while rest:
            batch = min(rest, 256)
            await store.append_envelopes(S, [envelope(0, 1, event_id="")] * batch)
            rest -= batch
        before = disk.read_bytes + disk.written_bytes
        for _ in range(10):
            await store.append_envelopes(S, [envelope(0, 1, event_id="")])
            await store.last_seq(S)
        touched.append(disk.read_bytes + disk.written_bytes - before)
    short, long = touched
    assert long <= 1.2 * short, touched
