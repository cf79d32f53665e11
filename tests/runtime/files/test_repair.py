"""Check and repair (ME-D4): every kind of damage, what is kept of it, and what is said of it."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime._cli import run
from dalsegno.runtime.files import (
    Diagnosis,
    EventIoError,
    EventProjectionHaltedError,
    EventStoreError,
    EventStoreStateError,
    ExternalSource,
    FileEventStore,
    RealDisk,
    Replayed,
    SchemaVersionMismatchError,
    SessionProjector,
    StoredEvent,
    check,
    ids_to_check,
    repair,
)

from ._failing_disk import FailingDisk
from ._sessions import S, a_world, compacted_of, envelope, head_of, log_of, owner_of
from ._sim_disk import CrashError, Nothing, SimDisk
from .test_crashes import ROOT, Drawn, examples

WHO = {"by": "ada", "reason": "the disk was replaced"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
async def store(root: Path) -> FileEventStore:
    """Has a session of five events."""
    store = FileEventStore(root, world=a_world())
    await store.append_envelopes(S, [envelope(number) for number in range(1, 6)])
    return store


def files_in(root: Path) -> dict[Path, bytes]:
    there = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path: path.read_bytes() for path in there}


async def rows_of(store: FileEventStore) -> list[StoredEvent]:
    return (await store.read_page(S)).events


def said_by(row: StoredEvent) -> Any:
    """What an event says of a repair."""
    assert row.source == ExternalSource("repair")
    assert row.event_id
    assert row.timestamp_ms > 0
    event = row.event
    said = {"type": "session_repaired", **WHO}
    assert said.items() <= event.items()
    return {name: value for name, value in event.items() if name not in said}


# ------------------------------------------------------------------------------ kinds of damage


def lines_of(root: Path) -> list[bytes]:
    return log_of(root).read_bytes().splitlines(keepends=True)


def garble(root: Path) -> None:
    lines = lines_of(root)
    lines[2] = b"x" * (len(lines[2]) - 1) + b"\n"
    log_of(root).write_bytes(b"".join(lines))


def give_a_number_twice(root: Path) -> None:
    lines = lines_of(root)
    lines[2] = lines[1]
    log_of(root).write_bytes(b"".join(lines))


def insert_a_copy(root: Path) -> None:
    lines = lines_of(root)
    log_of(root).write_bytes(b"".join([*lines[:2], lines[1], *lines[2:]]))


def garble_a_number_upwards(root: Path) -> None:
    lines = lines_of(root)
    lines[2] = lines[2].replace(b'"seq":3', b'"seq":9')
    log_of(root).write_bytes(b"".join(lines))


def tear_the_last(root: Path) -> None:
    log_of(root).write_bytes(log_of(root).read_bytes()[:-10])


def take_an_end(root: Path) -> None:
    log_of(root).write_bytes(log_of(root).read_bytes()[:-1] + b" ")


def cut(root: Path) -> None:
    log_of(root).write_bytes(b"".join(lines_of(root)[:3]))


def take_from_the_middle(root: Path) -> None:
    lines = lines_of(root)
    log_of(root).write_bytes(b"".join(lines[:1] + lines[3:]))


def empty(root: Path) -> None:
    log_of(root).write_bytes(b"")


def remove(root: Path) -> None:
    log_of(root).unlink()


def put_back_an_older_copy(root: Path) -> None:
    copy = b"".join(lines_of(root)[:3])
    log_of(root).rename(root / "other")
    log_of(root).write_bytes(copy)
    (root / "other").unlink()


def put_back_a_garbled_copy(root: Path) -> None:
    put_back_an_older_copy(root)
    first, _, third = lines_of(root)
    log_of(root).write_bytes(first + b"{}\n" + third)


def remove_the_head_s_log(root: Path) -> None:
    remove(root)
    head_of(root).write_text("{")


def mark_more_than_there_is(root: Path) -> None:
    compacted_of(root).write_text("8\n")


class Kind(NamedTuple):
    damage: Callable[[Path], None]
    kept: list[int]
    bad: tuple[int, ...] = ()
    lost: int = 1
    said: int = 6
    is_short: bool = False
    is_gone: bool = False
    last_seq_before: int = 5


KINDS = [
    Kind(garble, [1, 2, 4, 5], (3,)),
    Kind(give_a_number_twice, [1, 2, 4, 5], (3,)),
    Kind(insert_a_copy, [1, 2, 3, 4, 5], (3,)),
    Kind(garble_a_number_upwards, [1, 2, 4, 5], (3,)),
    Kind(tear_the_last, [1, 2, 3, 4], (5,), is_short=True),
    Kind(take_an_end, [1, 2, 3, 4], (5,), is_short=True),
    Kind(cut, [1, 2, 3], lost=2, is_short=True),
    Kind(take_from_the_middle, [1, 4, 5], is_short=True),
    Kind(empty, [], lost=5, is_short=True),
    Kind(remove, [], lost=5, is_gone=True),
    Kind(remove_the_head_s_log, [], lost=5, is_gone=True, last_seq_before=0),
    Kind(put_back_an_older_copy, [1, 2, 3], lost=2, is_short=True),
    Kind(put_back_a_garbled_copy, [1, 3], (2,), lost=3, is_short=True),
    Kind(mark_more_than_there_is, [], is_short=True, said=9, last_seq_before=8),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.damage.__name__)
async def test_what_can_be_read_is_kept_and_what_is_lost_is_said(
    store: FileEventStore, root: Path, kind: Kind
) -> None:
    kind.damage(root)
    damaged = log_of(root).read_bytes() if log_of(root).exists() else None
    before = files_in(root)
    found = await check(store, S)
    assert (found.bad_lines, found.bad_line_numbers) == (len(kind.bad), kind.bad)
    assert found.lines_lost == kind.lost
    assert (found.is_short, found.is_gone) == (kind.is_short, kind.is_gone)
    assert not found.is_sound
    assert files_in(root) == before, "checked, and no more"

    other = FileEventStore(root, world=a_world())
    told = await repair(other, S, **WHO)
    assert told.done is not None
    assert msgspec.structs.replace(told, done=None) == found
    assert (told.done.seq, told.done.owner) == (kind.said, kind.said)
    if damaged is None:
        assert told.done.set_aside is None
        assert not [*root.glob(".repairs/*.jsonl")]
    else:
        assert told.done.set_aside == f".repairs/{S}-1.jsonl"
        assert (root / told.done.set_aside).read_bytes() == damaged

    for reader in (store, other, FileEventStore(root, world=a_world())):
        *rows, last = await rows_of(reader)
        assert [(row.seq, row.event["n"]) for row in rows] == [(n, n) for n in kind.kept]
        assert last.seq == kind.said
        assert said_by(last) == {
            "lines_lost": kind.lost,
            "last_seq_before": kind.last_seq_before,
        }
        assert (await check(reader, S)).is_sound
    assert await store.append_envelopes(S, [envelope(7)]) == kind.said + 1
    assert await other.append_once(S, [envelope(7)]) == Replayed(kind.said + 1)
    assert (await repair(store, S, **WHO)).done is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.damage.__name__)
async def test_what_is_damaged_is_refused_until_it_is_repaired(
    store: FileEventStore, root: Path, kind: Kind
) -> None:
    """But for an older copy, which a store cannot tell from a log that somebody put there."""
    kind.damage(root)
    if kind.damage not in (put_back_an_older_copy, garble_a_number_upwards):
        for each in (store, FileEventStore(root)):
            with pytest.raises(EventStoreError):
                await each.append(S, [6])
    await repair(store, S, **WHO)
    assert await store.append(S, [7]) == kind.said + 1


async def test_what_a_store_excuses_is_sound(store: FileEventStore, root: Path) -> None:
    whole = log_of(root).read_bytes()
    fine = whole + b"\n  \n" + whole.splitlines(keepends=True)[4].replace(b'"seq":5', b'"seq":6')
    for log in (whole, whole + b'{"seq":6,"torn', whole + b"\0" * 50, whole + b"x\n", fine):
        log_of(root).write_bytes(log)
        found = await check(FileEventStore(root), S)
        assert found.is_sound, found
        assert found.last_seq == await FileEventStore(root).last_seq(S)
        assert (await repair(store, S, **WHO)).done is None
        assert log_of(root).read_bytes() == log
    (root / "copy").write_bytes(whole)
    (root / "copy").rename(log_of(root))
    assert (await check(store, S)).is_sound, "a copy of all of it"
    head_of(root).unlink()
    log_of(root).write_bytes(whole + b'{"seq":6,"torn')
    assert (await check(store, S)).is_sound, "and one of an older program"
    assert (await check(store, "unknown")).is_sound
    assert not (root / ".repairs").exists()


async def test_a_line_that_nobody_was_told_of_is_dropped_without_a_word(
    store: FileEventStore, root: Path
) -> None:
    """A number that is not above those before it is refused behind the head too."""
    with log_of(root).open("ab") as file:
        file.write(lines_of(root)[4])
    with pytest.raises(EventStoreStateError, match="row 5 comes behind row 5"):
        await store.last_seq(S)
    told = await repair(store, S, **WHO)
    assert (told.bad_line_numbers, told.lines_lost) == ((6,), 0)
    assert told.done is not None
    assert (told.done.is_log_written, told.done.seq) == (True, None)
    assert [row.seq for row in await rows_of(store)] == [1, 2, 3, 4, 5]
    assert await store.append(S, [6]) == 6


async def test_as_many_bad_lines_as_there_are_and_the_numbers_of_the_first_hundred(
    store: FileEventStore, root: Path
) -> None:
    whole = log_of(root).read_bytes()
    log_of(root).write_bytes(b"\n".join([b"x"] * 150) + b"\n" + whole)
    found = await check(store, S)
    assert (found.rows, found.bad_lines) == (5, 150)
    assert found.bad_line_numbers == tuple(range(1, 101))


async def test_a_log_of_many_parts_is_repaired(root: Path) -> None:
    store = FileEventStore(root, world=a_world())
    for n in range(1, 13):
        await store.append_envelopes(S, [envelope(n, {"n": n, "text": "x" * 900_000})])
    lines = lines_of(root)
    log_of(root).write_bytes(b"".join([*lines[:6], b"y" * 5_000_000 + b"\n", *lines[7:]]))
    told = await repair(store, S, **WHO)
    assert (told.bad_line_numbers, told.rows) == ((7,), 11)
    assert log_of(root).read_bytes().startswith(b"".join(lines[:6] + lines[7:]))
    assert (await store.read_from(S, 12))[-1].seq == 13


# --------------------------------------------------------------------- what is kept beside a log


@pytest.mark.parametrize("owner", ["", " \n", "x", "9" * 19, "1" * 5_000])
async def test_an_owner_that_cannot_be_read_becomes_what_is_known_otherwise(
    store: FileEventStore, root: Path, owner: str
) -> None:
    owner_of(root).write_text(owner)
    whole = log_of(root).read_bytes()
    found = await check(store, S)
    assert found.owner_error is not None
    assert "durable sequence owner" in found.owner_error
    assert not found.is_sound
    told = await repair(store, S, **WHO)
    assert told.done is not None
    assert (told.done.owner, told.done.seq, told.done.set_aside) == (5, None, None)
    assert owner_of(root).read_text() == "5\n"
    assert log_of(root).read_bytes() == whole
    assert await store.append(S, [6]) == 6


@pytest.mark.parametrize("head", ["", "{", '{"seq":-1,"size":0,"device":0,"inode":0}', "[" * 5_000])
async def test_a_head_that_cannot_be_read_is_made_again(
    store: FileEventStore, root: Path, head: str
) -> None:
    before = head_of(root).read_bytes()
    head_of(root).write_text(head)
    whole = log_of(root).read_bytes()
    log_of(root).write_bytes(whole + b'{"torn')
    assert (await check(store, S)).head_error is not None
    told = await repair(store, S, **WHO)
    assert told.done is not None
    assert (told.done.is_head_written, told.done.is_log_written) == (True, False)
    assert log_of(root).read_bytes() == whole + b'{"torn'
    old, new = (msgspec.json.decode(each) for each in (before, head_of(root).read_bytes()))
    assert {**new, "epoch": 0} == old
    assert new["epoch"] > 0, "whatever is remembered of any log of this session is read again"
    assert await store.append(S, [6]) == 6


@pytest.mark.parametrize("marker", ["", "x", "9" * 19])
async def test_a_compaction_marker_that_cannot_be_read_is_that_of_the_first_event(
    store: FileEventStore, root: Path, marker: str
) -> None:
    for before_seq, kept in ((1, [1, 2, 3, 4, 5]), (3, [3, 4, 5])):
        await store.compact(S, before_seq)
        compacted_of(root).write_text(marker)
        whole = log_of(root).read_bytes()
        assert (await check(store, S)).compacted_error is not None
        told = await repair(store, S, **WHO)
        assert told.done is not None
        assert told.done.compacted == kept[0] - 1
        assert log_of(root).read_bytes() == whole
        assert await store.min_available(S) == kept[0] - 1
        assert [row.seq for row in await rows_of(store)] == kept


async def test_a_log_that_is_gone_with_its_marker_unreadable_begins_where_it_is_repaired(
    store: FileEventStore, root: Path
) -> None:
    await store.compact(S, 3)
    log_of(root).unlink()
    compacted_of(root).write_text("x")
    told = await repair(store, S, **WHO)
    assert told.done is not None
    assert (told.lines_lost, told.done.seq, told.done.compacted) == (5, 6, 5)
    assert [row.seq for row in await rows_of(store)] == [6]


async def test_what_was_removed_is_not_lost(store: FileEventStore, root: Path) -> None:
    await store.compact(S, 4)
    log_of(root).unlink()
    told = await repair(store, S, **WHO)
    assert (told.is_gone, told.lines_lost) == (True, 2)
    assert await store.min_available(S) == 3
    assert [row.seq for row in await rows_of(store)] == [6]


async def test_a_number_that_the_owner_gave_is_not_given_again(
    store: FileEventStore, root: Path
) -> None:
    owner_of(root).write_text("41\n")
    garble(root)
    told = await repair(store, S, **WHO)
    assert told.done is not None
    assert told.done.seq == 42
    assert said_by((await rows_of(store))[-1]) == {"lines_lost": 1, "last_seq_before": 5}
    assert await store.append(S, [43]) == 43


async def test_where_no_number_is_left_nothing_is_written(
    store: FileEventStore, root: Path
) -> None:
    owner_of(root).write_text(f"{SEQ_MAX}\n")
    garble(root)
    before = files_in(root)
    with pytest.raises(EventStoreStateError, match="overflow"):
        await repair(store, S, **WHO)
    assert files_in(root) == before


# ---------------------------------------------------------------------------------------- halts


@pytest.mark.parametrize("marker", [None, "", '{"session_id":1}'])
async def test_a_halt_is_cleared_and_nothing_else_is_touched(
    store: FileEventStore, root: Path, marker: str | None
) -> None:
    await store.record_projection_halt(S, "the projector is lost")
    halt = root / ".projection-halts" / f"{S}.json"
    if marker is not None:
        halt.write_text(marker)
    before = files_in(root)
    found = await check(store, S)
    assert found.halted is not None
    assert not found.is_sound
    told = await repair(store, S, **WHO)
    assert told.done is not None
    assert told.done.is_halt_cleared
    (line,) = (root / ".projection-halts" / f"{S}.log").read_bytes().splitlines()
    record = msgspec.json.decode(line)
    assert (record["by"], record["reason"]) == ("ada", "the disk was replaced")
    del before[halt]
    assert before.items() <= files_in(root).items()
    assert await store.append(S, [6]) == 6


async def test_everything_at_once(store: FileEventStore, root: Path) -> None:
    await store.record_projection_halt(S, "lost")
    garble(root)
    owner_of(root).write_text("x")
    head_of(root).write_text("x")
    compacted_of(root).write_text("x")
    found = await check(store, S)
    told = await repair(store, S, **WHO)
    assert (found.bad_line_numbers, found.halted) == ((3,), "lost")
    assert told.done is not None
    assert (told.done.seq, told.done.owner, told.done.compacted) == (6, 6, 0)
    assert [row.seq for row in await rows_of(store)] == [1, 2, 4, 5, 6]


# ------------------------------------------------------------------------------- other versions


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("damage", [lambda _: None, garble, cut])
async def test_x_per_5_rows_of_another_version_are_not_repaired(
    store: FileEventStore, root: Path, version: int, damage: Callable[[Path], None]
) -> None:
    lines = lines_of(root)
    lines[1] = lines[1].replace(b'"schema_version":2', b'"schema_version":%d' % version)
    log_of(root).write_bytes(b"".join(lines))
    damage(root)
    before = files_in(root)
    found = await check(store, S)
    assert (found.other_version, found.is_sound, found.is_short) == (version, False, False)
    with pytest.raises(SchemaVersionMismatchError) as refused:
        await repair(store, S, **WHO)
    assert (refused.value.expected, refused.value.found) == (2, version)
    assert files_in(root) == before


# ------------------------------------------------------------------------------------- records


async def test_who_repaired_it_and_what_was_wrong_is_on_record(
    store: FileEventStore, root: Path
) -> None:
    damaged = []
    for _ in range(2):
        garble(root)
        damaged.append(log_of(root).read_bytes())
        await repair(store, S, **WHO)
    log = root / ".repairs" / f"{S}.log"
    first, second = (msgspec.json.decode(line) for line in log.read_bytes().splitlines())
    assert (first["by"], first["reason"]) == ("ada", "the disk was replaced")
    assert first["at"].startswith("2026-02-13T12:00:00")
    assert first["set_aside"] == f".repairs/{S}-1.jsonl"
    found = msgspec.convert(first["found"], Diagnosis)
    assert (found.session_id, found.bad_line_numbers, found.lines_lost) == (S, (3,), 1)
    assert second["set_aside"] == f".repairs/{S}-2.jsonl"
    assert [(root / each["set_aside"]).read_bytes() for each in (first, second)] == damaged
    with log.open("ab") as file:
        file.write(b'{"torn')
    owner_of(root).write_text("x")
    await repair(store, S, **WHO)
    *_, torn, last = log.read_bytes().splitlines()
    assert torn == b'{"torn'
    assert msgspec.json.decode(last)["set_aside"] is None


SIMILAR = ("a", "a-1", "a.1", "axb", "a-1-1")


async def test_the_copies_of_sessions_with_similar_ids_are_apart(root: Path) -> None:
    store = FileEventStore(root, world=a_world())
    for _ in range(2):
        for session_id in SIMILAR:
            await store.append_envelopes(session_id, [envelope(1), envelope(2)])
            log_of(root, session_id).write_bytes(b"x\n" * 200)
            told = await repair(store, session_id, **WHO)
            assert told.done is not None
    names = {path.name for path in root.glob(".repairs/*.jsonl")}
    assert names == {f"{session_id}-{n}.jsonl" for session_id in SIMILAR for n in (1, 2)}


@pytest.mark.parametrize(
    ("by", "reason", "message"),
    [
        ("", "x", "by: 1 to 200"),
        (" \n", "x", "by: 1 to 200"),
        ("a" * 201, "x", "by: 1 to 200"),
        ("\ud800", "x", "by: 1 to 200"),
        ("ada", "\t", "reason: 1 to 1000"),
        ("ada", "x" * 1_001, "reason: 1 to 1000"),
    ],
)
async def test_a_repair_is_by_somebody_and_for_a_reason(
    store: FileEventStore, root: Path, by: str, reason: str, message: str
) -> None:
    garble(root)
    before = files_in(root)
    with pytest.raises(EventStoreStateError, match=message):
        await repair(store, S, by=by, reason=reason)
    assert files_in(root) == before
    await repair(store, S, by="a" * 200, reason="ä" * 1_000)


async def test_what_is_no_id_is_neither_checked_nor_repaired(store: FileEventStore) -> None:
    for session_id in ("", "../x", ".hidden", "x" * 129):
        for asked in (check(store, session_id), repair(store, session_id, **WHO)):
            with pytest.raises(EventStoreStateError, match="session's id"):
                await asked


async def test_every_session_of_which_there_is_a_file_is_found(
    store: FileEventStore, root: Path
) -> None:
    assert await ids_to_check(FileEventStore(root / "none")) == []
    for session_id in ("gone", "no-owner", "compacted"):
        await store.append_envelopes(session_id, [envelope(1), envelope(2)])
    await store.compact("compacted", 2)
    for path in (log_of(root, "gone"), owner_of(root, "no-owner"), log_of(root, "compacted")):
        path.unlink()
    owner_of(root, "gone").unlink()
    head_of(root, "compacted").unlink()
    owner_of(root, "compacted").unlink()
    owner_of(root, "owner").write_text("x")
    await store.record_projection_halt("halted", "lost")
    (root / ".hidden.jsonl").write_text("")
    ids = await ids_to_check(store)
    assert ids == sorted([S, "gone", "no-owner", "compacted", "owner", "halted"])
    sound = [session_id for session_id in ids if (await check(store, session_id)).is_sound]
    assert sound == sorted([S, "no-owner"])
    for session_id in ids:
        await repair(store, session_id, **WHO)
        assert (await check(store, session_id)).is_sound


# ------------------------------------------------------------------------------- beside others


async def test_a_session_that_another_process_holds_is_not_repaired(root: Path) -> None:
    store = FileEventStore(root, world=a_world(), lock_deadline_s=0.05)
    await store.append(S, [1])
    lock = RealDisk().try_lock(root / ".sequence" / f"{S}.lock", shared=False)
    assert lock is not None
    for asked in (check(store, S), repair(store, S, **WHO)):
        with pytest.raises(EventStoreStateError, match="another process has it"):
            await asked
    lock.release()
    assert (await check(store, S)).is_sound


async def test_what_is_derived_no_longer_has_what_was_lost(
    store: FileEventStore, root: Path, tmp_path: Path
) -> None:
    projector = SessionProjector(tmp_path / "out", store)
    await projector.resume(S)
    garble(root)
    await repair(store, S, **WHO)
    await store.append(S, [7])
    assert await projector.resume(S) == 7
    assert await projector.resume(S) == 7
    await SessionProjector(tmp_path / "fresh", store).replay(S)
    made, fresh = (
        {path.name: path.read_bytes() for path in (tmp_path / each / "sessions" / S).iterdir()}
        for each in ("out", "fresh")
    )
    assert made == fresh
    assert made["events.jsonl"] == log_of(root).read_bytes()


async def test_what_follows_a_repair_is_added_to_what_is_derived(
    store: FileEventStore, root: Path, tmp_path: Path
) -> None:
    """More than a page of it: it is made anew once."""
    garble(root)
    await repair(store, S, **WHO)
    for _ in range(5):
        await store.append_envelopes(S, [envelope(0, 1)] * 250)
    projector = SessionProjector(tmp_path / "out", store)
    assert await projector.project(S, 1) == await store.last_seq(S) == 1_256
    events = tmp_path / "out" / "sessions" / S / "events.jsonl"
    assert events.read_bytes() == log_of(root).read_bytes()


# ------------------------------------------------------------------------ crashes, full disks


LOG, SEQUENCE = ROOT / f"{S}.jsonl", ROOT / ".sequence"


async def sim_garble(disk: SimDisk) -> None:
    lines = (disk.read(LOG) or b"").splitlines(keepends=True)
    disk.write(LOG, 0, b"".join([*lines[:2], b"x\n", *lines[3:]]))
    disk.sync(LOG)
    disk.write(SEQUENCE / f"{S}.seq", 0, b"x")
    disk.sync(SEQUENCE / f"{S}.seq")


async def sim_garble_all(disk: SimDisk) -> None:
    await sim_garble(disk)
    for suffix in ("head", "compacted"):
        path = SEQUENCE / f"{S}.{suffix}"
        disk.write(path, 0, b"x")
        disk.sync(path)
    disk.sync_folder(SEQUENCE)


async def sim_remove(disk: SimDisk) -> None:
    disk.remove(LOG)
    disk.sync_folder(ROOT)


async def sim_put_back(disk: SimDisk) -> None:
    """An older copy; the inode of the log before it is free."""
    lines = (disk.read(LOG) or b"").splitlines(keepends=True)
    copy = ROOT / "copy.jsonl"
    disk.write(copy, 0, b"".join(lines[:3]))
    disk.sync(copy)
    disk.rename(copy, LOG)
    disk.sync_folder(ROOT)


async def sim_compact_and_garble(disk: SimDisk) -> None:
    """The head is the new log's, as long as the machine runs; the inode of the one before is free,
    and the head that comes back where the machine stops is that one's."""
    disk.crash_at = disk.steps + 13
    with pytest.raises(CrashError):
        await FileEventStore(ROOT, world=a_world(), disk=disk).compact(S, 3)
    disk.crash_at = None
    lines = (disk.read(LOG) or b"").splitlines(keepends=True)
    disk.write(LOG, 0, b"".join([lines[0], b"x" * (len(lines[1]) - 1) + b"\n", lines[2]]))
    disk.sync(LOG)


SIM_KINDS: list[tuple[Callable[[SimDisk], Awaitable[None]], list[int]]] = [
    (sim_compact_and_garble, [3, 5]),
    (sim_garble, [1, 2, 4, 5]),
    (sim_garble_all, [1, 2, 4, 5]),
    (sim_remove, []),
    (sim_put_back, [1, 2, 3]),
]


async def damaged_disk(damage: Callable[[SimDisk], Awaitable[None]]) -> SimDisk:
    disk = SimDisk()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    await store.append_envelopes(S, [envelope(number) for number in range(1, 6)])
    await damage(disk)
    await store.record_projection_halt(S, "lost")
    return disk


async def check_repaired(disk: SimDisk, kept: list[int], copy: bytes | None) -> None:
    """What a repair has to come to, whatever was before it."""
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    assert (await check(store, S)).is_sound
    *rows, last = await rows_of(store)
    assert [row.seq for row in rows] == kept, "once, and in its place"
    assert said_by(last)["last_seq_before"] in (0, 5)
    assert last.seq >= 6
    assert await store.append(S, ["next"]) == last.seq + 1
    names = disk.names(ROOT / ".repairs")
    copies = [name for name in names if name.endswith(".jsonl")]
    assert bool(copies) == (copy is not None)
    for name in copies:
        assert disk.read(ROOT / ".repairs" / name) == copy
    records = recorded(disk)
    assert any(record["found"]["lines_lost"] for record in records), "before it was done"
    asides = {record["set_aside"] for record in records}
    assert asides <= {None, *(f".repairs/{name}" for name in copies)}


def recorded(disk: SimDisk) -> list[dict[str, Any]]:
    """What is on record, but for half a line."""
    records = []
    for line in (disk.read(ROOT / ".repairs" / f"{S}.log") or b"").splitlines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            records.append(msgspec.json.decode(line))
    return records


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "powerless"])
@pytest.mark.parametrize(("damage", "kept"), SIM_KINDS)
async def test_a_crash_before_each_step_is_completed_by_the_next_repair(
    damage: Callable[[SimDisk], Awaitable[None]], kept: list[int], is_killed: bool
) -> None:
    step = 0
    while True:
        disk = await damaged_disk(damage)
        copy = disk.read(LOG)
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        disk.crash_at = disk.steps + step
        try:
            await repair(store, S, **WHO)
        except CrashError:
            disk = disk.after_kill() if is_killed else disk.after_power_loss(Nothing())
        else:
            break
        again = FileEventStore(ROOT, world=a_world(), disk=disk)
        if await again.projection_halt(S) is not None:  # which is cleared last
            with pytest.raises(EventProjectionHaltedError):
                await again.append(S, ["x"])
        await repair(again, S, **WHO)
        await check_repaired(disk.after_power_loss(Nothing()), kept, copy)
        step += 1
    assert step > 20
    disk.crash_at = None
    await check_repaired(disk.after_power_loss(Nothing()), kept, copy)


async def test_a_copy_that_is_on_record_is_there() -> None:
    """The second one of a session too, wherever the machine stops."""
    for step in range(20):
        disk = SimDisk()
        store = FileEventStore(ROOT, world=a_world(), disk=disk)
        await store.append_envelopes(S, [envelope(number) for number in range(1, 6)])
        await sim_garble(disk)
        await repair(store, S, **WHO)
        await sim_garble(disk)
        disk.crash_at = disk.steps + step
        with pytest.raises(CrashError):
            await repair(store, S, **WHO)
        disk = disk.after_power_loss(Nothing())
        copies = disk.names(ROOT / ".repairs")
        assert {Path(record["set_aside"]).name for record in recorded(disk)} <= {*copies}


async def crash_and_repair(data: Drawn) -> None:
    damage, kept = SIM_KINDS[data.integer(0, len(SIM_KINDS) - 1)]
    disk = await damaged_disk(damage)
    copy = disk.read(LOG)
    for _ in range(3):
        disk.crash_at = disk.steps + data.integer(0, 40)
        with suppress(CrashError):
            await repair(FileEventStore(ROOT, world=a_world(), disk=disk), S, **WHO)
        disk = disk.after_kill() if data.integer(0, 1) else disk.after_power_loss(data)
    await repair(FileEventStore(ROOT, world=a_world(), disk=disk), S, **WHO)
    await check_repaired(disk, kept, copy)


@pytest.mark.long
def test_a_repair_that_is_interrupted_again_and_again_says_once_what_was_lost(
    pytestconfig: pytest.Config,
) -> None:
    @settings(max_examples=examples(pytestconfig))
    @given(data=st.data())
    def search(data: st.DataObject) -> None:
        trio.run(crash_and_repair, Drawn(data))

    search()


async def test_what_a_new_head_covers_is_durable() -> None:
    """Of the log that somebody put there neither the bytes were nor the name."""
    disk = SimDisk()
    store = FileEventStore(ROOT, world=a_world(), disk=disk)
    await store.append_envelopes(S, [envelope(1)])
    first = disk.read(LOG) or b""
    await store.append_envelopes(S, [envelope(2)])
    disk.write(ROOT / "copy", 0, disk.read(LOG) or b"")
    disk.write(LOG, 0, first)
    disk.sync(LOG)
    disk.make_folder(ROOT / ".repairs")  # of an earlier one
    disk.sync_folder(ROOT)
    disk.rename(ROOT / "copy", LOG)
    disk.write(SEQUENCE / f"{S}.head", 0, b"x")
    disk.sync(SEQUENCE / f"{S}.head")
    assert (await repair(store, S, **WHO)).last_seq == 2
    store = FileEventStore(ROOT, world=a_world(), disk=disk.after_power_loss(Nothing()))
    assert (await check(store, S)).is_sound
    assert [row.seq for row in await rows_of(store)] == [1, 2]


class FullDisk(RealDisk):
    """A disk that is full, but for what is small."""

    def write(self, path: Path, at: int, data: bytes) -> None:
        if len(data) > 600:
            super().write(path, at, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, at, data)


async def test_fi_11_a_full_disk_leaves_what_is_damaged_as_it_is(
    store: FileEventStore, root: Path
) -> None:
    garble(root)
    before = files_in(root)
    full = FileEventStore(root, world=a_world(), disk=FullDisk())
    with pytest.raises(EventIoError, match="No space"):
        await repair(full, S, **WHO)
    assert files_in(root) == before
    await repair(store, S, **WHO)
    assert (root / ".repairs" / f"{S}-1.jsonl").exists()


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_a_failure_at_any_step_is_completed_by_the_next_repair(
    root: Path, is_done_first: bool
) -> None:
    step, has_failed = 0, True
    while has_failed:
        folder = root / str(step)
        disk = FailingDisk()
        disk.is_done_first = is_done_first
        store = FileEventStore(folder, world=a_world(), disk=disk)
        await store.append_envelopes(S, [envelope(number) for number in range(1, 6)])
        garble(folder)
        owner_of(folder).write_text("x")
        disk.left = step
        try:
            await repair(store, S, **WHO)
            has_failed, disk.left = False, -1
        except EventIoError:
            await repair(store, S, **WHO)
        assert [row.seq for row in await rows_of(store)] == [1, 2, 4, 5, 6]
        assert await store.append(S, [7]) == 7
        assert not [path for path in folder.rglob("*") if path.suffix == ".new"]
        step += 1
    assert step > 20


# -------------------------------------------------------------------------------- the commands


def ends(*arguments: str) -> tuple[int, str, str]:
    """Run a command as a process of its own; return its status, and what it said."""
    dalsegno = Path(sys.executable).with_name("dalsegno")
    ended = subprocess.run(
        [dalsegno, "files", *arguments], capture_output=True, check=False, text=True
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.processes
async def test_a_damaged_session_is_found_and_repaired_by_commands(
    store: FileEventStore, root: Path
) -> None:
    events = str(root)
    await store.append("b", [1])
    call = partial(trio.to_thread.run_sync, ends)
    sound = f"{S}: 5 events up to 5; nothing is wrong\n"
    also_sound = "b: 1 event up to 1; nothing is wrong\n"
    assert await call("check", events) == (0, sound + also_sound, "")
    garble(root)
    await store.record_projection_halt("b", "lost\x1b[2J")
    damaged = f"{S}: 4 events up to 5; 1 bad line (3); at least 1 line lost\n"
    halted = "b: 1 event up to 1; halted: lost [2J\n"
    assert await call("check", events) == (1, damaged + halted, "")
    status, out, err = await call("check", events, "--session", "a b", "--session", S)
    assert (status, out) == (1, damaged)
    assert err.startswith("dalsegno: a b: a session's id has 1 to 128 of")
    who = ("--by", "ada", "--reason", "the disk was replaced")
    before = files_in(root)
    dry = await call("repair", events, S, *who, "--dry-run")
    assert dry == (0, f"{damaged}nothing was changed\n", "")
    assert files_in(root) == before
    assert await call("repair", events, S, *who) == (
        0,
        f"{damaged}the damaged log is kept as .repairs/{S}-1.jsonl; the log was written anew; "
        "event 6 says what was lost; the last number given is 6; the head was written anew\n",
        "",
    )
    assert (await call("repair", events, "b", *who))[1].endswith("\nthe halt was cleared\n")
    assert (await call("check", events))[0] == 0
    assert (await call("repair", events, S, *who))[1].endswith("\nthere was nothing to do\n")
    assert [row.seq for row in await rows_of(store)] == [1, 2, 4, 5, 6]
    assert said_by((await rows_of(store))[-1]) == {"lines_lost": 1, "last_seq_before": 5}


def test_what_cannot_be_checked_or_repaired_is_said(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        store = FileEventStore(root)
        for session_id in ("a", "b", "c", "d"):
            await store.append_envelopes(session_id, [envelope(n) for n in range(1, 4)])

    trio.run(fill)
    events, who = str(root), ["--by", "ada", "--reason", "x"]
    newer = log_of(root, "a").read_bytes().replace(b'version":2', b'version":3')
    log_of(root, "a").write_bytes(newer)
    log_of(root, "b").unlink()
    log_of(root, "c").unlink()
    log_of(root, "c").mkdir()
    log_of(root, "d").write_bytes(b"x\n" * 150)
    for name in (owner_of, head_of, compacted_of):
        name(root, "d").write_text("?")
    assert run(["files", "check", events]) == 1
    said = capsys.readouterr()
    (a, b, d) = said.out.splitlines()
    assert a == "a: 0 events up to 0; rows of schema version 3, which are another program's"
    assert b == "b: 0 events up to 0; the log is gone; at least 3 lines lost"
    numbers = ", ".join(map(str, range(1, 101)))
    assert d.startswith(f"d: 0 events up to 0; 150 bad lines ({numbers}, …); at least 150 lines")
    for what in ("sequence owner", "compaction marker", "head"):
        assert f"durable {what}" in d
    assert said.err.startswith("dalsegno: c: IO error:")
    assert run(["files", "repair", events, "d", *who]) == 0
    assert "events up to 0 count as removed" in capsys.readouterr().out
    for more in ([], ["--dry-run"]):
        assert run(["files", "repair", events, "a", *who, *more]) == 1
        assert "refusing to project an unknown schema" in capsys.readouterr().err
    assert run(["files", "repair", events, "c", *who]) == 1
    assert "IO error" in capsys.readouterr().err
    assert run(["files", "repair", events, "b", *who]) == 0
    log_of(root, "b").write_bytes(log_of(root, "b").read_bytes()[:-5])
    assert run(["files", "check", events, "--session", "b"]) == 1
    assert "the log ends before what was durable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "{none}"], "there is no folder"),
        (["repair", "{none}", "s", "--by", "a", "--reason", "x"], "there is no folder"),
        (["repair", "{here}", "s", "--reason", "x"], "Missing option '--by'"),
        (["repair", "{here}", "s", "--by", "a"], "Missing option '--reason'"),
        (["repair", "{here}", "s", "--by", " ", "--reason", "x"], "by: 1 to 200 characters"),
        (["repair", "{here}", "s", "--by", "a", "--reason", ""], "reason: 1 to 1000 characters"),
        (["repair", "{here}", "--by", "a", "--reason", "x"], "Missing argument 'SESSION'"),
    ],
)
def test_what_is_typed_wrong_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = {"none": str(tmp_path / "none"), "here": str(tmp_path)}
    assert run(["files", *(each.format(**names) for each in arguments)]) == 2
    assert message in capsys.readouterr().err
