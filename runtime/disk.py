"""The file system as a store uses it: steps of which each may be the last before a crash.

A file's bytes are durable once it is synced, and its name once its folder is.  Everything blocks,
so it is done in threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1024 * 1024


class Identity(NamedTuple):
    """Which file it is, and how long."""

    size: int
    device: int
    inode: int
    modified_ns: int
    """When it was written to, which tells a file that was changed and is as long as before."""

    def is_before(self, later: Identity) -> bool:
        """Return whether another one may be this file, unchanged or with more behind its end."""
        is_same = (self.device, self.inode) == (later.device, later.inode)
        grew = self.size < later.size
        return is_same and (
            grew or (self.size, self.modified_ns) == (later.size, later.modified_ns)
        )


class Lock(Protocol):
    """A lock that is held on a file, by nobody else meanwhile."""

    def release(self) -> None:
        """Release the lock."""


class Disk(Protocol):
    """A file system.  All of it raises `OSError`."""

    def make_folder(self, path: Path) -> None:
        """Make a folder in one that is there, unless it is there."""

    def identity(self, path: Path) -> Identity | None:
        """Return which file is there; None where there is none."""

    def names(self, path: Path) -> list[str]:
        """Return the names in a folder, in any order; none of one that is not there."""

    def read(self, path: Path, at: int = 0, length: int | None = None) -> bytes | None:
        """Read a part of a file; None where there is none."""

    def write(self, path: Path, at: int, data: bytes) -> None:
        """Write at a place, behind which nothing is left of the file."""

    def sync(self, path: Path) -> None:
        """Make a file's bytes durable."""

    def rename(self, path: Path, to: Path) -> None:
        """Rename a file, replacing whatever has the new name."""

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""

    def try_lock(self, path: Path, *, shared: bool) -> Lock | None:
        """Lock a file, which is made, for other processes too; None where it is locked."""


class _Flock:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


class RealDisk:
    """The machine's file system.  A symbolic link is followed nowhere but above the root."""

    def make_folder(self, path: Path) -> None:
        """Make a folder in one that is there, unless it is there."""
        path.mkdir(exist_ok=True)

    def identity(self, path: Path) -> Identity | None:
        """Return which file is there; None where there is none."""
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Identity(found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns)

    def names(self, path: Path) -> list[str]:
        """Return the names in a folder, in any order; none of one that is not there."""
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []

    def read(self, path: Path, at: int = 0, length: int | None = None) -> bytes | None:
        """Read a part of a file; None where there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        parts: list[bytes] = []
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            file.seek(at)
            left = length
            while left is None or left > 0:
                part = file.read(_CHUNK if left is None else min(left, _CHUNK))
                if not part:
                    break
                parts.append(part)
                left = None if left is None else left - len(part)
        return b"".join(parts)

    def write(self, path: Path, at: int, data: bytes) -> None:
        """Write at a place, behind which nothing is left of the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            os.ftruncate(descriptor, at)
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, at)
                at, view = at + written, view[written:]
        finally:
            os.close(descriptor)

    def sync(self, path: Path) -> None:
        """Make a file's bytes durable."""
        self._sync(path, os.O_RDONLY | os.O_NOFOLLOW)

    def rename(self, path: Path, to: Path) -> None:
        """Rename a file, replacing whatever has the new name."""
        path.rename(to)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def _sync(self, path: Path, flags: int) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def try_lock(self, path: Path, *, shared: bool) -> Lock | None:
        """Lock a file, which is made, for other processes too; None where it is locked."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return None
            raise
        return _Flock(descriptor)


def make_durable_folder(disk: Disk, path: Path) -> None:
    """Make a folder, with those above it, unless it is there; its name is durable then."""
    if disk.identity(path) is None:
        make_durable_folder(disk, path.parent)
        disk.make_folder(path)
        disk.sync_folder(path.parent)


def settle_folder(disk: Disk, path: Path) -> None:
    """Make a folder unless it is there; a crash may have come before its name was durable."""
    make_durable_folder(disk, path)
    disk.sync_folder(path.parent)


def replace(disk: Disk, path: Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old one or the new one, whole and durable."""
    temporary = path.with_name(path.name + ".new")
    try:
        disk.write(temporary, 0, data)
        disk.sync(temporary)
        disk.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            disk.remove(temporary)
        raise
    disk.sync_folder(path.parent)


def make_empty(disk: Disk, path: Path) -> None:
    """Make an empty file, and no other one's bytes empty: a crash may have left a second name."""
    disk.remove(path)
    disk.write(path, 0, b"")


def copy(disk: Disk, path: Path, to: Path, at: int, end: int) -> None:
    """Copy a part of a file to a new one, whose bytes, but not its name, are durable then."""
    written = 0
    make_empty(disk, to)
    while at < end:
        part = disk.read(path, at, min(_CHUNK, end - at))
        if not part:
            raise OSError(errno.EIO, "it became shorter while it was read", str(path))
        disk.write(to, written, part)
        written, at = written + len(part), at + len(part)
    disk.sync(to)


def append_line(disk: Disk, path: Path, line: bytes) -> None:
    """Add a line to a file of records, durably; half a line of a crash stays on one of its own."""
    settle_folder(disk, path.parent)
    identity = disk.identity(path)
    at = 0 if identity is None else identity.size
    is_torn = at > 0 and disk.read(path, at - 1, 1) != b"\n"
    disk.write(path, at, (b"\n" if is_torn else b"") + line + b"\n")
    disk.sync(path)
    disk.sync_folder(path.parent)
