"""Copies of folders, for whoever wants to try something on one."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from dalsegno.protocol import Reject
from dalsegno.protocol.runs import TRIED_BYTES_MAX

from ._descriptors import below, pieces, reading, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._descriptors import Calls

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNERS = stat.S_IRUSR | stat.S_IWUSR
"""What whoever tries something may do with each file of it."""


def copied(at: int, to: int, calls: Calls) -> None:
    """Copy the files and folders of one that is open into an empty one, with their permissions.

    Raises:
        Reject: ``FILES_TOO_LARGE`` beyond `TRIED_FILES_MAX` or `TRIED_BYTES_MAX`.

    """
    left = TRIED_BYTES_MAX
    for found in walk(at):
        if found.is_folder:
            with below(to, found.segments[:-1]) as parent:
                calls.make_folder(found.segments[-1], parent, 0o777)
        else:
            with suppress(FileNotFoundError):  # deleted meanwhile
                left -= _copy(at, found.segments, to, calls, left)


def overlaid(at: int, paths: Iterable[str], to: int, calls: Calls) -> None:
    """Copy some files over those of another folder."""
    for path in paths:
        segments = path.split("/")
        with below(to, segments[:-1], makes=calls) as parent, suppress(FileNotFoundError):
            os.unlink(segments[-1], dir_fd=parent)
        _copy(at, segments, to, calls, TRIED_BYTES_MAX)


def _copy(at: int, segments: Sequence[str], to: int, calls: Calls, left: int) -> int:
    """Copy a file; return its bytes."""
    *parents, name = segments
    size = 0
    with reading(at, segments) as source, below(to, parents) as parent:
        copy = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            os.fchmod(copy, stat.S_IMODE(os.fstat(source).st_mode) & 0o777 | _OWNERS)
            for piece in pieces(source):
                size += len(piece)
                if size > left:
                    message = f"the folder has more than {TRIED_BYTES_MAX} bytes"
                    raise Reject("FILES_TOO_LARGE", message, status=400)
                view = memoryview(piece)
                while view:
                    view = view[calls.write(copy, view) :]
        finally:
            os.close(copy)
    return size


def removed(path: str) -> None:
    """Remove a folder with all that is in it, if it is there; no link in it is followed."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:  # a command has made folders that even their owner may not write in
        loosen(path)
        shutil.rmtree(path)


def loosen(path: str) -> None:
    """Let the owner of a folder do anything in it, and in those below it."""
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            waiting += [each.path for each in entries if each.is_dir(follow_symlinks=False)]
