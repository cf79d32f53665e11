"""A file system in memory that forgets, in a crash, whatever was not synced.

It gives the inode of a file that is gone to the next one of its kind, as real ones like to.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

from dalsegno.runtime.files import Identity, Lock


class CrashError(Exception):
    """The machine stops here."""


class Choices(Protocol):
    def integer(self, low: int, high: int) -> int: ...


class Nothing:
    """Of what was not synced, nothing is there."""

    def integer(self, low: int, high: int) -> int:
        return low


@dataclass
class File:
    """Bytes as they are, and as they would be after a crash."""

    inode: int
    now: bytes = b""
    durable: bytes = b""
    modified_ns: int = 0


@dataclass
class Folder:
    """Names as they are, and as they would be after a crash."""

    inode: int
    now: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


class _Free:
    def release(self) -> None:
        return


class SimDisk:
    """Each step that changes something is counted, and one of them may be the last."""

    def __init__(self) -> None:
        self._ticks = count(1)
        self.root = Folder(1)
        self.steps = 0
        self.crash_at: int | None = None
        """The step before which it crashes."""

    # -------------------------------------------------------------------------------- crashes

    def after_kill(self) -> SimDisk:
        """Return the disk after the process was killed: nothing is lost that was done."""
        return self._again(self.root)

    def after_power_loss(self, choices: Choices) -> SimDisk:
        """Return the disk after the machine has stopped: of what was not synced, some is there."""
        return self._again(_survived(copy.deepcopy(self.root), choices))

    def _again(self, root: Folder) -> SimDisk:
        other = SimDisk()
        other.root, other._ticks = root, self._ticks
        return other

    def _step(self) -> None:
        if self.steps == self.crash_at:
            raise CrashError
        self.steps += 1

    # ------------------------------------------------------------------------------ the disk's

    def make_folder(self, path: Path) -> None:
        self._step()
        self._folder(path.parent).now.setdefault(path.name, Folder(self._inode(path)))

    def identity(self, path: Path) -> Identity | None:
        found = self._find(path)
        if found is None:
            return None
        size = len(found.now) if isinstance(found, File) else 0
        modified_ns = found.modified_ns if isinstance(found, File) else 0
        return Identity(size, 1, found.inode, modified_ns)

    def names(self, path: Path) -> list[str]:
        found = self._find(path)
        return [*found.now] if isinstance(found, Folder) else []

    def read(self, path: Path, at: int = 0, length: int | None = None) -> bytes | None:
        found = self._find(path)
        if found is None:
            return None
        assert isinstance(found, File)
        return found.now[at : None if length is None else at + length]

    def write(self, path: Path, at: int, data: bytes) -> None:
        self._step()
        file = self._folder(path.parent).now.setdefault(path.name, File(self._inode(path)))
        assert isinstance(file, File)
        file.now, file.modified_ns = file.now[:at] + data, next(self._ticks)

    def sync(self, path: Path) -> None:
        self._step()
        file = self._find(path)
        assert isinstance(file, File)
        file.durable = file.now

    def rename(self, path: Path, to: Path) -> None:
        self._step()
        self._folder(to.parent).now[to.name] = self._folder(path.parent).now.pop(path.name)

    def sync_folder(self, path: Path) -> None:
        self._step()
        folder = self._folder(path)
        folder.durable = dict(folder.now)

    def remove(self, path: Path) -> None:
        self._step()
        self._folder(path.parent).now.pop(path.name, None)

    def try_lock(self, path: Path, *, shared: bool) -> Lock | None:
        if self._find(path.parent) is None:
            raise FileNotFoundError(str(path))
        return _Free()

    def _inode(self, path: Path) -> int:
        """The lowest one that is free; logs have even ones, and everything else has odd ones."""
        used = _inodes(self.root)
        is_log = ".jsonl" in path.name and not path.parent.name.startswith(".")
        first = 2 if is_log else 1
        return next(inode for inode in count(first, 2) if inode not in used)

    def _folder(self, path: Path) -> Folder:
        found = self._find(path)
        assert isinstance(found, Folder), path
        return found

    def _find(self, path: Path) -> File | Folder | None:
        found: File | Folder | None = self.root
        for name in path.parts[1:]:
            if not isinstance(found, Folder):
                return None
            found = found.now.get(name)
        return found


def _inodes(found: File | Folder) -> set[int]:
    inodes = {found.inode}
    if isinstance(found, Folder):
        for each in (*found.now.values(), *found.durable.values()):
            inodes |= _inodes(each)
    return inodes


def _survived(folder: Folder, choices: Choices) -> Folder:
    """Return what is left of a folder: each change of a name may have become durable, or not."""
    names = dict(folder.durable)
    for name in sorted({*folder.now, *folder.durable}):
        if folder.now.get(name) is not folder.durable.get(name) and choices.integer(0, 1):
            if name in folder.now:
                names[name] = folder.now[name]
            else:
                del names[name]
    for name, found in names.items():
        if isinstance(found, Folder):
            names[name] = _survived(found, choices)
        elif found.now != found.durable:
            found.now = found.durable = _torn(found, choices)
    folder.now, folder.durable = names, dict(names)
    return folder


def _torn(file: File, choices: Choices) -> bytes:
    """Return a file's bytes: the durable ones, or some of those that were written since."""
    now, durable = file.now, file.durable
    if now.startswith(durable):
        kept = now[: choices.integer(len(durable), len(now))]
        if len(kept) > len(durable) and choices.integer(0, 3) == 0:
            kept = durable + b"\0" * (len(kept) - len(durable))  # its length was durable, no more
        return kept
    return now if choices.integer(0, 1) else durable
