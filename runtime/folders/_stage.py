"""Files that are staged: written beside a workspace's folder, and put into it later."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import FolderError, Reject
from dalsegno.protocol.runs import (
    STAGED_BYTES_MAX,
    STAGED_FILE_BYTES_MAX,
    STAGED_FILES_MAX,
    STAGING,
    TRIED_FILES_MAX,
    Staged,
    StagedFile,
    check_path,
    path_forbidden,
)

from ._copying import copied, overlaid, removed
from ._descriptors import (
    InTheWayError,
    below,
    mode_of,
    pieces,
    private,
    reading,
    root_of,
    walk,
    write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._descriptors import Calls
    from ._threads import Threads

FILES = "files"
MANIFEST = "manifest.json"


class Stage:
    """The files of one attempt at a run, as they are staged; see `StageWriter`."""

    def __init__(
        self,
        root: str,
        workspace_id: str,
        name: str,
        *,
        calls: Calls,
        threads: Threads,
    ) -> None:
        """Make it; `begin` makes its folder.

        Args:
            root: the absolute path of the worker's folder.
            workspace_id: whose folder it is about.
            name: the stage's.
            calls: what writes.
            threads: those in which it is done.

        """
        self.name = name
        self.finished: Staged | None = None
        """What is staged, once it is finished."""
        self._root = root
        self._workspace_id = workspace_id
        self._calls = calls
        self._threads = threads
        self._files: dict[str, StagedFile | None] = {}
        """By path; None while one is written."""
        self._parents: set[str] = set()
        """The folders of those."""
        self._bytes = 0
        self._tries = 0

    def __repr__(self) -> str:
        return f"<Stage {self.name}, {len(self._files)} files>"

    @property
    def _place(self) -> tuple[str, ...]:
        return STAGING, self.name

    def begin(self) -> None:
        """Make its folder, which was not there; for a thread."""
        with root_of(self._root) as root:
            private(root, (*self._place, FILES), self._calls)

    # --------------------------------------------------------------------------------- the folder

    async def read(self, path: str, *, bytes_max: int = STAGED_FILE_BYTES_MAX) -> bytes | None:
        """Return a file of the folder as it is; see `StageWriter.read`."""
        segments = check_path(path).split("/")

        def read() -> bytes | None:
            try:
                with self._own(path) as own, reading(own, segments) as descriptor:
                    return _read(descriptor, bytes_max)
            except FileNotFoundError:
                return None

        data = await self._threads.run(read)
        if data is not None and len(data) > bytes_max:
            message = f"the file has more than {bytes_max} bytes"
            raise Reject("FILES_TOO_LARGE", message, status=400, path=path[:200])
        return data

    async def paths(self, limit: int = TRIED_FILES_MAX) -> list[str]:
        """List the files of the folder; see `StageWriter.paths`."""

        def found() -> list[str]:
            with self._own("") as own:
                named = ("/".join(each.segments) for each in walk(own) if not each.is_folder)
                return [*islice(filter(_is_allowed, named), limit)]

        return await self._threads.run(found)

    @contextmanager
    def _own(self, path: str) -> Iterator[int]:
        """Open the workspace's folder; what is in the way to a path of it is the path's fault."""
        try:
            with root_of(self._root) as root, below(root, (self._workspace_id,)) as own:
                yield own
        except InTheWayError as error:
            raise path_forbidden(path, str(error)) from error

    # ------------------------------------------------------------------------------------ staging

    async def write(self, path: str, data: bytes) -> None:
        """Stage a file; see `StageWriter.write`."""
        assert self.finished is None, "nothing is staged behind its end"
        segments = check_path(path).split("/")
        parents = parents_of(path)
        if path in self._files or path in self._parents or parents & self._files.keys():
            message = "this path is staged, or is a folder of one that is, or below one"
            raise Reject("FILE_TWICE", message, status=400, path=path[:200])
        self._check_room(len(data))
        self._files[path] = None
        self._parents |= parents
        self._bytes += len(data)
        try:
            digest = await self._threads.run(lambda: self._write(path, segments, data))
        except BaseException:
            del self._files[path]
            self._bytes -= len(data)
            raise
        self._files[path] = StagedFile(path=path, bytes=len(data), sha256=digest)

    def _check_room(self, size: int) -> None:
        if len(self._files) >= STAGED_FILES_MAX:
            message = f"a run stages at most {STAGED_FILES_MAX} files"
        elif size > STAGED_FILE_BYTES_MAX:
            message = f"a staged file has at most {STAGED_FILE_BYTES_MAX} bytes"
        elif self._bytes + size > STAGED_BYTES_MAX:
            message = f"a run stages at most {STAGED_BYTES_MAX} bytes"
        else:
            return
        raise Reject("FILES_TOO_LARGE", message, status=400)

    def _write(self, path: str, segments: list[str], data: bytes) -> str:
        with self._own(path) as own:
            mode = mode_of(own, segments)
        *parents, name = segments
        with root_of(self._root) as root:
            place = (*self._place, FILES, *parents)
            with below(root, place, makes=self._calls) as folder:
                write(folder, name, data, self._calls, mode=mode)
        return sha256(data).hexdigest()

    async def finish(self) -> Staged:
        """Make all of it durable; see `StageWriter.finish`."""
        assert self.finished is None, "it is finished once"
        files = tuple(file for file in self._files.values() if file is not None)
        assert len(files) == len(self._files), "nothing is being written"
        staged = Staged(name=self.name, files=files)
        await self._threads.run(lambda: self._finish(staged))
        self.finished = staged
        return staged

    def _finish(self, staged: Staged) -> None:
        calls = self._calls
        folders = {parent for file in staged.files for parent in parents_of(file.path)}
        with root_of(self._root) as root, below(root, self._place) as stage:
            for path in ["", *folders]:
                with below(stage, [FILES, *path.split("/")] if path else [FILES]) as folder:
                    calls.sync(folder)
            write(stage, MANIFEST, msgspec.json.encode(staged), calls)
            calls.sync(stage)
            with below(root, (STAGING,)) as stages:
                calls.sync(stages)
            calls.sync(root)
            if not all(is_left(stage, file) for file in staged.files):
                raise FolderError("a staged file is there no longer")
            check(stage, staged)  # rather than to leave the next runs what cannot be put in place

    # ------------------------------------------------------------------------------------- trying

    @asynccontextmanager
    async def tried(self) -> AsyncIterator[str]:
        """Copy the folder, with what is staged laid over it; see `StageWriter.tried`."""
        self._tries += 1
        name = f"tried-{self._tries}"
        files = [path for path, file in self._files.items() if file is not None]

        def copy() -> None:
            with root_of(self._root) as root, below(root, self._place) as stage:
                private(stage, (name,), self._calls)
                with below(stage, (name,)) as to:
                    with self._own("") as own:
                        copied(own, to, self._calls)
                    with below(stage, (FILES,)) as staged:
                        overlaid(staged, files, to, self._calls)

        path = os.path.join(self._root, *self._place, name)
        try:
            await self._threads.run(copy)
            yield path
        finally:
            await self._threads.end(lambda: removed(path))


def parents_of(path: str) -> set[str]:
    """Return the paths of the folders that a file is in."""
    segments = path.split("/")
    return {"/".join(segments[:depth]) for depth in range(1, len(segments))}


def _read(descriptor: int, bytes_max: int) -> bytes:
    """Return what a file has, at most a piece more than so many bytes of it."""
    read, size = [], 0
    for piece in pieces(descriptor):
        read.append(piece)
        size += len(piece)
        if size > bytes_max:
            break
    return b"".join(read)


def _is_allowed(path: str) -> bool:
    try:
        check_path(path)
    except Reject:
        return False
    return True


def check(stage: int, staged: Staged) -> None:
    """Raise unless what is left in a stage is finished, and is what the log says.

    Raises:
        FolderError: it is not: a command may have changed it, or the disk.

    """
    left = [file for file in staged.files if is_left(stage, file)]
    if left and _manifest(stage) != staged:
        raise FolderError("the stage is not the one that the log names")
    for file in left:
        with reading(stage, [FILES, *file.path.split("/")]) as descriptor:
            digest, size = sha256(), 0
            for piece in pieces(descriptor):
                digest.update(piece)
                size += len(piece)
        if (size, digest.hexdigest()) != (file.bytes, file.sha256):
            raise FolderError("a staged file is not what was staged")


def is_left(stage: int, file: StagedFile) -> bool:
    """Return whether a file is in its stage, and not in place yet."""
    return mode_of(stage, [FILES, *check_path(file.path).split("/")]) is not None


def _manifest(stage: int) -> Staged | None:
    try:
        with reading(stage, [MANIFEST]) as descriptor:
            return msgspec.json.decode(b"".join(pieces(descriptor)), type=Staged)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
