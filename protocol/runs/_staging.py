"""Staged files: what a run puts into the folder of its workspace, once its end is in the log."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._limits import MIB

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ._domain import RunState

STAGED = "staged"
"""The key under which a run's result has what it staged: what no result names is deleted."""
STAGING = ".staging"
"""The folder, beside those of the workspaces, where files wait for the end of their run."""

STAGED_FILES_MAX = 200
"""Files of one stage …"""
STAGED_FILE_BYTES_MAX = 4 * MIB
"""… the bytes of each …"""
STAGED_BYTES_MAX = 16 * MIB
"""… and of all of them."""
TRIED_FILES_MAX = 20_000
"""What there may be in a workspace's folder, files and folders, for it to be listed or copied …"""
TRIED_BYTES_MAX = 256 * MIB
"""… and the bytes of a copy."""

_SEGMENT_BYTES_MAX = 255
"""NAME_MAX of the usual file systems."""
_PATH_BYTES_MAX = 1_024
_SHOWN_CHARS_MAX = 200


class StagedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a run puts into the folder of its workspace."""

    path: str
    """Below the folder; see `check_path`."""
    bytes: int
    sha256: str
    """In hex."""


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """The files that a run has staged: durable, and in place once the run has succeeded."""

    name: str
    """Unique: no other attempt has a stage of this name."""
    files: tuple[StagedFile, ...]


class StageWriter(Protocol):
    """The files of a workspace's folder, and beside them those that are staged."""

    async def read(self, path: str, *, bytes_max: int = STAGED_FILE_BYTES_MAX) -> bytes | None:
        """Return a file of the folder as it is, not as it is staged; None where there is none.

        Raises:
            Reject: ``PATH_FORBIDDEN``; ``FILES_TOO_LARGE`` where it has more than ``bytes_max``.
            FolderError: the disk fails.

        """

    async def paths(self, limit: int = TRIED_FILES_MAX) -> list[str]:
        """List the files of the folder in the order of their paths, the first ``limit`` of them.

        Links and devices are left out, and so are files whose paths `check_path` refuses.

        Raises:
            Reject: ``FILES_TOO_LARGE`` for a folder of more than `TRIED_FILES_MAX`.
            FolderError: the disk fails.

        """

    async def write(self, path: str, data: bytes) -> None:
        """Stage a file, durably; one that is there keeps its permissions.  Cancelled, it may be
        staged.

        Raises:
            Reject: ``PATH_FORBIDDEN``; ``FILE_TWICE`` for a path that is staged, or a folder of one
                that is; ``FILES_TOO_LARGE`` beyond `STAGED_FILES_MAX`, `STAGED_FILE_BYTES_MAX` or
                `STAGED_BYTES_MAX`.  Nothing of it is staged then.
            FolderError: the disk is full, or fails.

        """

    def tried(self) -> AbstractAsyncContextManager[str]:
        """Copy the folder, with what is staged laid over it, for the length of a block.

        The copy's path is yielded.  Links, devices and sockets are not in it, so that nothing that
        is done to it reaches the folder.

        Raises:
            Reject: ``FILES_TOO_LARGE`` for a folder of more than `TRIED_FILES_MAX` or
                `TRIED_BYTES_MAX`.
            FolderError: the disk is full, or fails.

        """

    async def finish(self) -> Staged:
        """Make all of it durable, to be put in place once the run has succeeded.

        The run's result has to name it, as its `STAGED`; nothing is staged afterwards.

        Raises:
            FolderError: the disk is full, or fails.

        """


def check_path(path: str) -> str:
    """Check and return a file's path below a folder: relative, its segments separated by ``/``.

    It has 1 to 1,024 bytes of UTF-8 and no control character or backslash.  A segment has 1 to 255
    bytes, and is neither ``.`` nor ``..``; the first one is not `STAGING`.

    Raises:
        Reject: ``PATH_FORBIDDEN``.

    """
    problem = _problem(path)
    if problem is not None:
        raise path_forbidden(path, problem)
    return path


def path_forbidden(path: str, problem: str) -> Reject:
    """Return the refusal of a path, which is shown cut, and without lone surrogates."""
    shown = path[:_SHOWN_CHARS_MAX].encode("utf-8", "replace").decode()
    return Reject("PATH_FORBIDDEN", problem, status=400, path=shown)


def _problem(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "a path is UTF-8"
    if not 0 < size <= _PATH_BYTES_MAX:
        return f"a path has 1 to {_PATH_BYTES_MAX} bytes"
    if any(each == "\\" or unicodedata.category(each) == "Cc" for each in path):
        return "a path has no control character and no backslash"
    segments = path.split("/")
    if any(each in {"", ".", ".."} for each in segments):
        return "a path is relative, and no segment of it is empty, . or .."
    if any(len(each.encode()) > _SEGMENT_BYTES_MAX for each in segments):
        return f"a segment of a path has at most {_SEGMENT_BYTES_MAX} bytes"
    if segments[0] == STAGING:
        return f"no path begins with {STAGING}"
    return None


def staged_of(run: RunState) -> Staged | None:
    """Return what a run's result says of the files that it staged; None where it says nothing."""
    return staged_in(run.result)


def staged_in(result: Any) -> Staged | None:  # noqa: ANN401 - JSON
    """Return what a result says of the files that its run staged; see `staged_of`."""
    if isinstance(result, dict):
        with suppress(msgspec.ValidationError):
            return msgspec.convert(result.get(STAGED), Staged)
    return None
