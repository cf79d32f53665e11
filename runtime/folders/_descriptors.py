"""Files and folders by the descriptors of the folders that they are in.

A path is walked a segment at a time, and a link is followed nowhere, whoever changes the folders
meanwhile.  Everything blocks, so it is done in threads.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.protocol import Reject
from dalsegno.protocol.runs import TRIED_FILES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o700
_PIECE = 1024 * 1024


class InTheWayError(Exception):
    """Where a path leads there is a link, a device, or a file or folder where the other may be."""


class Calls:
    """The system's calls by which something is written; tests have some of them fail."""

    def make_folder(self, name: str, at: int, mode: int) -> None:
        """Make a folder in one that is open."""
        os.mkdir(name, mode, dir_fd=at)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write as much as goes at once; return how much."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes, or a folder's names, durable."""
        os.fsync(descriptor)

    def rename(self, name: str, at: int, to: int) -> None:
        """Move a file to another folder under the same name, replacing what has it, also a link."""
        os.rename(name, name, src_dir_fd=at, dst_dir_fd=to)


@contextmanager
def root_of(path: str) -> Iterator[int]:
    """Open a folder by its path, in which links may be; all below it is walked."""
    descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def below(
    at: int, segments: Sequence[str], *, makes: Calls | None = None, mode: int = 0o777
) -> Iterator[int]:
    """Open a folder below one that is open.

    Args:
        at: the folder that is open.
        segments: the names that lead to the other one.
        makes: makes those that are missing, durably; None: they have to be there.
        mode: the permissions of those that are made, less the process's mask.

    Raises:
        FileNotFoundError: it is not there.
        InTheWayError: a link or a file is.
        OSError: anything else.

    """
    descriptor = os.dup(at)
    try:
        for segment in segments:
            if makes is not None:
                with suppress(FileExistsError):
                    makes.make_folder(segment, descriptor, mode)
                    makes.sync(descriptor)
            deeper = _opened(segment, descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def private(at: int, segments: Sequence[str], calls: Calls) -> None:
    """Make a folder below one that is open, with those above it, for nobody but this user."""
    with below(at, segments, makes=calls, mode=_PRIVATE):
        pass


def _opened(name: str, at: int) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise InTheWayError("a link or a file is where a folder may be") from error
        raise


def mode_of(at: int, segments: Sequence[str]) -> int | None:
    """Return the permissions of a file; None where there is none.

    Raises:
        InTheWayError: a link leads there, or it is no file.

    """
    *parents, name = segments
    try:
        with below(at, parents) as parent:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise InTheWayError("a link, a folder or a device is where a file may be")
    return stat.S_IMODE(found.st_mode) & 0o777


@contextmanager
def reading(at: int, segments: Sequence[str]) -> Iterator[int]:
    """Open a file to be read.

    Raises:
        FileNotFoundError: it is not there.
        InTheWayError: a link leads there, or it is no file.

    """
    if mode_of(at, segments) is None:  # looked at first: a device may act where it is opened
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    *parents, name = segments
    with below(at, parents) as parent:
        try:
            descriptor = os.open(name, _FILE, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise InTheWayError("a link is where a file may be") from error
            raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InTheWayError("a folder or a device is where a file may be")
        yield descriptor
    finally:
        os.close(descriptor)


def pieces(descriptor: int) -> Iterator[bytes]:
    """Return what a file has, from where it is read, a piece at a time."""
    while piece := os.read(descriptor, _PIECE):
        yield piece


def write(at: int, name: str, data: bytes, calls: Calls, *, mode: int | None = None) -> None:
    """Write a file in a folder that is open; its bytes, but not its name, are durable then."""
    descriptor = os.open(name, _NEW, 0o666, dir_fd=at)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[calls.write(descriptor, view) :]
        calls.sync(descriptor)
    finally:
        os.close(descriptor)


class Found(NamedTuple):
    """A file or a folder that was met on a walk."""

    segments: tuple[str, ...]
    is_folder: bool


def walk(at: int) -> Iterator[Found]:
    """Walk all files and folders below one that is open, in the order of their paths.

    Links and devices are passed over.  What is deleted meanwhile may be met, or not.

    Raises:
        Reject: ``FILES_TOO_LARGE`` where there are more than `TRIED_FILES_MAX`.

    """
    # A folder's name counts with the "/" that follows it, so that paths come in their own order.
    waiting = [*reversed(_names_in(at, ()))]
    met = 0
    while waiting:
        found = waiting.pop()
        met += 1
        if met + len(waiting) > TRIED_FILES_MAX:
            raise _too_many()
        yield found
        if found.is_folder:
            waiting += reversed(_names_in(at, found.segments))


def _too_many() -> Reject:
    """Return the refusal of a folder that is too large to be walked."""
    message = f"the folder has more than {TRIED_FILES_MAX} files"
    return Reject("FILES_TOO_LARGE", message, status=400)


def _names_in(at: int, segments: tuple[str, ...]) -> list[Found]:
    found = []
    with (
        suppress(FileNotFoundError, InTheWayError),
        below(at, segments) as descriptor,
        os.scandir(descriptor) as entries,
    ):
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder or entry.is_file(follow_symlinks=False):
                found.append(Found((*segments, entry.name), is_folder))
            if len(found) > TRIED_FILES_MAX:
                raise _too_many()
    found.sort(key=lambda each: each.segments[-1] + "/" * each.is_folder)
    return found
