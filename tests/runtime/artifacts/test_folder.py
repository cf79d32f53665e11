"""Artifacts in a folder: durable under their names, bounded, and swept."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from dalsegno.protocol import ArtifactError, ArtifactGoneError, Limits
from dalsegno.runtime.artifacts import FolderArtifacts
from dalsegno.runtime.disk import RealDisk
from dalsegno.runtime.seams import WORLD

NAME = "w!r!a.zip"
ROOM = 10**12


class FullDisk(RealDisk):
    """Has room for so many bytes, and then fails as a full one does."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: Path, at: int, data: bytes) -> None:
        if at + len(data) > self.room:
            super().write(path, at, data[: self.room - at])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super().write(path, at, data)


def folder(
    root: Path,
    *,
    disk: RealDisk | None = None,
    free: int = ROOM,
    now: datetime | None = None,
    limits: Limits | None = None,
) -> FolderArtifacts:
    at = datetime.now(UTC) if now is None else now
    return FolderArtifacts(
        root,
        world=replace(WORLD, now=lambda: at),
        limits=limits or Limits(),
        disk=disk,
        free=lambda _root: free,
    )


async def write(artifacts: FolderArtifacts, name: str, *pieces: bytes) -> tuple[int, str]:
    async with artifacts.write(name) as file:
        for piece in pieces:
            await file.write(piece)
        return await file.finish()


async def read(artifacts: FolderArtifacts, name: str, **part: int) -> bytes:
    async with artifacts.read(name, **part) as pieces:
        return b"".join([piece async for piece in pieces])


def names(root: Path) -> list[str]:
    return sorted(os.listdir(root))


async def test_what_is_written_is_read_in_whole_and_in_part(tmp_path: Path) -> None:
    artifacts = folder(tmp_path / "made" / "here")
    data = os.urandom(3_000_000)
    pieces = [data[at : at + 70_000] for at in range(0, len(data), 70_000)]
    assert await write(artifacts, NAME, *pieces) == (len(data), sha256(data).hexdigest())
    assert names(tmp_path / "made" / "here") == [NAME]
    assert os.stat(tmp_path / "made" / "here" / NAME).st_mode & 0o077 == 0
    assert await artifacts.has(NAME)
    assert await read(artifacts, NAME) == data
    assert await read(artifacts, NAME, start=999_999, end=2_000_001) == data[999_999:2_000_001]
    assert await read(artifacts, NAME, start=len(data)) == b""
    await artifacts.delete(NAME)
    await artifacts.delete(NAME)
    assert not await artifacts.has(NAME)
    with pytest.raises(ArtifactGoneError):
        await read(artifacts, NAME)


async def test_a_file_has_its_name_once_it_is_finished(tmp_path: Path) -> None:
    artifacts = folder(tmp_path)
    async with artifacts.write(NAME) as file:
        await file.write(b"x" * 2_000_000)
        assert names(tmp_path) == [NAME + ".part"]
        assert not await artifacts.has(NAME)
    assert names(tmp_path) == [], "it was not finished"
    with trio.CancelScope() as scope:
        async with artifacts.write(NAME) as file:
            await file.write(b"x" * 2_000_000)
            scope.cancel()
            await file.write(b"x" * 2_000_000)
    assert names(tmp_path) == []


async def test_what_is_deleted_is_read_to_its_end(tmp_path: Path) -> None:
    artifacts = folder(tmp_path)
    await write(artifacts, NAME, b"x" * 1_000_000)
    async with artifacts.read(NAME) as pieces:
        first = await anext(pieces)
        await artifacts.delete(NAME)
        rest = [piece async for piece in pieces]
    assert len(first) + sum(map(len, rest)) == 1_000_000


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", ".", "a/b", "x.part", "é", "a" * 241])
async def test_no_other_file_can_be_named(tmp_path: Path, name: str) -> None:
    artifacts = folder(tmp_path / "artifacts")
    (tmp_path / "x").write_text("not theirs")
    with pytest.raises(ArtifactGoneError):
        await read(artifacts, name)
    with pytest.raises(ArtifactGoneError):
        await artifacts.delete(name)
    with pytest.raises(ArtifactGoneError):
        await write(artifacts, name, b"x")


async def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    artifacts = folder(tmp_path, disk=FullDisk(2_500_000))
    with pytest.raises(ArtifactError, match="No space left") as caught:
        await write(artifacts, NAME, *[b"x" * 500_000] * 10)
    assert caught.value.details == {"errno": "ENOSPC"}
    assert str(tmp_path) not in str(caught.value)
    assert names(tmp_path) == []


async def test_room_is_left_to_the_database(tmp_path: Path) -> None:
    limits = Limits(artifacts_free_bytes_min=1_000)
    with pytest.raises(ArtifactError, match="less than 1000 bytes would be left"):
        await write(folder(tmp_path, free=999, limits=limits), NAME)
    with pytest.raises(ArtifactError, match="would be left"):
        await write(folder(tmp_path, free=1_100, limits=limits), NAME, b"x" * 101)
    await write(folder(tmp_path, free=1_100, limits=limits), NAME, b"x" * 100)


async def test_one_file_and_all_of_them_are_bounded(tmp_path: Path) -> None:
    artifacts = folder(tmp_path, limits=Limits(artifact_bytes_max=100, artifacts_bytes_max=250))
    with pytest.raises(ArtifactError, match="more than 100 bytes"):
        await write(artifacts, "w!1!a", b"x" * 101)
    await write(artifacts, "w!1!a", b"x" * 100)
    await write(artifacts, "w!2!a", b"x" * 100)
    with pytest.raises(ArtifactError, match="artifacts have more than 250 bytes"):
        await write(artifacts, "w!3!a", b"x" * 51)
    await write(artifacts, "w!3!a", b"x" * 50)


async def test_the_oldest_of_a_workspace_goes_for_a_new_one(tmp_path: Path) -> None:
    artifacts = folder(tmp_path, limits=Limits(artifacts_per_workspace_max=2))
    await write(artifacts, "other!1!a", b"x")
    for number in range(1, 5):
        await write(artifacts, f"w!{number}!a", b"x")
        os.utime(tmp_path / f"w!{number}!a", (number, number))
    assert names(tmp_path) == ["other!1!a", "w!3!a", "w!4!a"]


# ------------------------------------------------------------------------------------ sweeping


def known(*wanted: str) -> Callable[[str], Awaitable[bool]]:
    async def is_wanted(name: str) -> bool:
        await trio.lowlevel.checkpoint()
        return name in wanted

    return is_wanted


async def test_what_a_process_left_behind_is_swept(tmp_path: Path) -> None:
    """What another one writes just now is not."""
    (tmp_path / "w!1!a.zip.part").write_bytes(b"half of it")
    artifacts, other = folder(tmp_path), folder(tmp_path)
    async with other.write(NAME) as file:
        await file.write(b"x" * 2_000_000)
        assert await artifacts.sweep(known(), limit=9) == 1
        assert names(tmp_path) == [NAME + ".part"]
        await file.finish()
    assert names(tmp_path) == [NAME]


async def test_what_is_too_old_or_that_nobody_names_is_swept(tmp_path: Path) -> None:
    now = datetime(2026, 2, 13, tzinfo=UTC)
    ages = {"old": 7 * 24.0, "wanted": 100.0, "orphan": 1.0, "young": 0.9}
    for name, hours in ages.items():
        (tmp_path / name).write_bytes(b"x")
        at = (now - timedelta(hours=hours)).timestamp()
        os.utime(tmp_path / name, (at, at))
    (tmp_path / ".hidden, not ours").write_bytes(b"x")
    artifacts = folder(tmp_path, now=now)
    assert await artifacts.sweep(known("old", "wanted", "young"), limit=1) == 1
    assert await artifacts.sweep(known("old", "wanted", "young"), limit=9) == 1
    assert names(tmp_path) == [".hidden, not ours", "wanted", "young"]
    asked: list[str] = []

    async def never(name: str) -> bool:
        await trio.lowlevel.checkpoint()
        asked.append(name)
        return False

    assert await artifacts.sweep(never, limit=9) == 0, "it was looked for a moment ago"
    assert asked == []


async def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    artifacts = folder(tmp_path / "later")
    assert await artifacts.sweep(known(), limit=9) == 0
    assert not await artifacts.has(NAME)
