"""The projector: the ten tests of its source, its table row by row, and M6: whatever has become of
its files, resuming makes them what a fresh replay does, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st

from dalsegno.runtime.files import (
    EventIoError,
    EventProjectionHaltedError,
    FileEventStore,
    RealDisk,
    SchemaVersionMismatchError,
    SessionProjector,
)

from ._sessions import S, a_world, log_of

STARTED: dict[str, Any] = {"type": "turn_started", "turn_number": 1}


def said(content: str) -> dict[str, Any]:
    return {"type": "text_complete", "content": content}


def rewritten(text: str | None) -> dict[str, Any]:
    return {"type": "transcript_rewritten", "assistant_text": text}


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FileEventStore(folder / "events", world=a_world())
        self.projector = SessionProjector(folder / ".rkat", self.store)
        self.out = folder / ".rkat" / "sessions" / S

    def files(self) -> dict[str, bytes]:
        names = ("events.jsonl", "summary.txt", "checkpoint", "session.json")
        return {name: (self.out / name).read_bytes() for name in names if self.is_file(name)}

    def is_file(self, name: str) -> bool:
        return (self.out / name).is_file()

    async def fresh(self) -> dict[str, bytes]:
        """What a full projection elsewhere makes of the same log."""
        other = SessionProjector(self.folder / "fresh", self.store)
        await other.replay(S)
        out = self.folder / "fresh" / "sessions" / S
        found = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
        shutil.rmtree(self.folder / "fresh")
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ------------------------------------------------------------------------------- the source's ten


async def test_materializes_files(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello"), said("  ")])
    assert await place.projector.project(S, 1) == 3
    files = place.files()
    assert files["events.jsonl"] == log_of(place.folder / "events").read_bytes()
    assert files["summary.txt"] == b"Hello"
    checkpoint = {"last_seq": 3, "events_len": len(files["events.jsonl"])}
    assert msgspec.json.decode(files["checkpoint"]) == checkpoint
    assert msgspec.json.decode(files["session.json"]) == {
        "session_id": S,
        "first_seq": 1,
        "first_timestamp": "2026-02-13T12:00:00.001000Z",
        "last_seq": 3,
        "last_timestamp": "2026-02-13T12:00:00.001000Z",
    }


async def test_rewrite_refreshes_summary(place: Place) -> None:
    await place.store.append(S, [said("Hello"), rewritten("Hi")])
    await place.projector.project(S, 1)
    assert place.files()["summary.txt"] == b"Hi"
    await place.store.append(S, [rewritten(None)])
    await place.projector.project(S, 3)
    assert "summary.txt" not in place.files()
    assert place.files() == await place.fresh()


async def test_idempotent_replay(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    await place.projector.project(S, 1)
    files = place.files()
    for _ in range(2):
        assert await place.projector.replay(S) == 2
        assert place.files() == files == await place.fresh()


async def test_resumes_from_checkpoint(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    assert await place.projector.resume(S) == 2
    await place.store.append(S, [said("Bye")])
    inode = (place.out / "events.jsonl").stat().st_ino
    assert await place.projector.resume(S) == 3
    assert (place.out / "events.jsonl").stat().st_ino == inode
    assert place.files() == await place.fresh()


@pytest.mark.parametrize(
    "checkpoint",
    [
        "",
        "x",
        "{}",
        '{"last_seq":"2","events_len":1}',
        '{"last_seq":-1,"events_len":0}',
        '{"last_seq":1}',
        "[" * 5_000,
        '{"last_seq":2,"events_len":1}',
        '{"last_seq":0,"events_len":9}',
        '{"last_seq":1,"events_len":99999999999999999999}',
    ],
)
async def test_rebuild_after_invalid_checkpoint_without_duplicates(
    place: Place, checkpoint: str
) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    await place.projector.resume(S)
    (place.out / "checkpoint").write_text(checkpoint)
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


async def test_rebuild_after_checkpoint_ahead_of_tail(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    await place.projector.resume(S)
    length = len(place.files()["events.jsonl"])
    (place.out / "checkpoint").write_text(f'{{"last_seq":9,"events_len":{length}}}')
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


async def test_missing_checkpoint_rebuild(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    await place.projector.resume(S)
    (place.out / "checkpoint").unlink()
    assert await place.projector.read_checkpoint(S) == 0
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


async def test_truncates_partial_tail_behind_valid_stale_checkpoint(place: Place) -> None:
    await place.store.append(S, [STARTED])
    await place.projector.resume(S)
    await place.store.append(S, [said("Hello")])
    with (place.out / "events.jsonl").open("ab") as file:
        file.write(b'{"seq":2,"half')
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()
    with (place.out / "events.jsonl").open("ab") as file:
        file.write(b"more")  # behind one that is not stale
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


async def test_rebuild_when_events_file_shorter_than_cursor(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    await place.projector.resume(S)
    whole = place.files()["events.jsonl"]
    for left in (whole[:-1], whole[:20], b""):
        (place.out / "events.jsonl").write_bytes(left)
        assert await place.projector.resume(S) == 2
        assert place.files() == await place.fresh()
    (place.out / "events.jsonl").unlink()
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


async def test_rebuild_after_unreadable_checkpoint(place: Place) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    await place.projector.resume(S)
    for name in ("checkpoint", "events.jsonl", "summary.txt", "session.json"):
        (place.out / name).unlink()
        (place.out / name).mkdir()
        (place.out / name / "inside").write_text("x")
    assert await place.projector.read_checkpoint(S) == 0
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


# -------------------------------------------------------------------------------- and beside them


async def test_x_seq_7_projected_checkpoint_cannot_mint_next_sequence(place: Place) -> None:
    await place.store.append(S, [STARTED])
    await place.projector.resume(S)
    (place.out / "checkpoint").write_text("500")
    assert await place.store.append(S, [said("Hello")]) == 2
    assert await place.projector.resume(S) == 2
    assert await place.projector.read_checkpoint(S) == 2


async def test_nothing_to_project_writes_nothing(place: Place) -> None:
    assert await place.projector.project(S, 1) == 0
    assert await place.projector.project(S, 7) == 6
    assert await place.projector.resume(S) == 0
    assert place.files() == {}


async def test_a_checkpoint_of_another_log_is_not_believed(place: Place, tmp_path: Path) -> None:
    await place.store.append(S, [STARTED, said("Hello")])
    other = Place(tmp_path / "other")
    await other.store.append(S, [STARTED, said("Howdy")])
    await other.projector.resume(S)
    shutil.copytree(other.out, place.out)
    assert await place.projector.resume(S) == 2
    assert place.files() == await place.fresh()


async def test_a_long_log_is_projected_page_by_page(place: Place) -> None:
    for first in range(0, 2_300, 230):
        await place.store.append(S, [said(f"{first + n}") for n in range(230)])
    assert await place.projector.resume(S) == 2_300
    assert place.files() == await place.fresh()
    assert place.files()["summary.txt"] == b"2299"


async def test_what_the_store_refuses_is_not_projected(place: Place) -> None:
    await place.store.append(S, [said("Hello")])
    await place.projector.resume(S)
    files = place.files()
    await place.store.record_projection_halt(S, "enough")
    with pytest.raises(EventProjectionHaltedError):
        await place.projector.resume(S)
    await place.store.clear_projection_halt(S, by="ada", reason="mended")
    with log_of(place.folder / "events").open("ab") as file:
        file.write(b'{"seq":2,"schema_version":1,"timestamp":"2030-01-01T00:00:00Z","event":1}\n')
    with pytest.raises(SchemaVersionMismatchError):
        await place.projector.resume(S)
    assert place.files() == files


class Failing(RealDisk):
    """Fails at one of its steps."""

    left = -1

    def sync(self, path: Path) -> None:
        if self.left == 0:
            raise OSError(5, "Input/output error")
        self.left -= 1
        super().sync(path)


async def test_a_failure_at_any_step_is_mended_by_the_next_resume(tmp_path: Path) -> None:
    for step in range(4):
        place = Place(tmp_path / str(step))
        disk = Failing()
        projector = SessionProjector(place.folder / ".rkat", place.store, disk=disk)
        await place.store.append(S, [STARTED, said("Hello")])
        await projector.resume(S)
        await place.store.append(S, [said("Bye")])
        disk.left = step
        with pytest.raises(EventIoError):
            await projector.resume(S)
        disk.left = -1
        assert await projector.resume(S) == 3
        assert place.files() == await place.fresh()


# ----------------------------------------------------------------------------------------- M6

EVENTS = st.lists(
    st.one_of(
        st.just(STARTED),
        st.sampled_from(["a", "", "  ", "äö𝄋"]).map(said),
        st.sampled_from([None, "", "r"]).map(rewritten),
    ),
    max_size=6,
)
TRASH = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.builds(
        lambda seq, length: b'{"last_seq":%d,"events_len":%d}' % (seq, length),
        st.integers(-1, 14),
        st.integers(-1, 3_000),
    ),
)


async def corrupt_and_resume(
    first: list[Any], second: list[Any], trash: bytes | None, cut: int, more: bytes
) -> None:
    with TemporaryDirectory() as folder:
        place = Place(Path(folder))
        await place.store.append(S, first)
        await place.projector.resume(S)
        await place.store.append(S, second)
        events = place.out / "events.jsonl"
        if events.exists():
            whole = events.read_bytes()
            events.write_bytes(whole[: max(0, len(whole) - cut)] + more)
        if trash is not None:
            place.out.mkdir(parents=True, exist_ok=True)
            (place.out / "checkpoint").write_bytes(trash)
        assert await place.projector.resume(S) == len(first) + len(second)
        assert place.files() == await place.fresh()


@pytest.mark.long
def test_m6_resuming_is_a_fresh_replay_whatever_was_corrupted(pytestconfig: pytest.Config) -> None:
    @settings(max_examples=10_000 if pytestconfig.getoption("--soak") else 200)
    @given(EVENTS, EVENTS, TRASH, st.integers(0, 400), st.binary(max_size=20))
    def search(
        first: list[Any], second: list[Any], trash: bytes | None, cut: int, more: bytes
    ) -> None:
        trio.run(corrupt_and_resume, first, second, trash, cut, more)

    search()
