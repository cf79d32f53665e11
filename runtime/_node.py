"""The node's id, which stays the same from one process to the next.

A node that restarts under its old id has its workspaces back at once; under a new one it would
wait until the lease of the old id has run out.  So the id is kept with the node's data.  A copy of
the folder is a copy of the id: of two nodes that run with it the later one takes the lease, and the
earlier one ends.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from dalsegno.protocol import DalsegnoError

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "node-id"
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class NodeIdError(DalsegnoError):
    """The file that should hold a node's id holds something else."""


def is_node_id(text: str) -> bool:
    """Return whether a text can be a node's id: 1 to 64 of ``[A-Za-z0-9_.-]``."""
    return _ID.fullmatch(text) is not None


def node_id_in(folder: Path) -> str:
    """Read the id of the node whose data are in a folder; the first call creates one.

    Raises:
        NodeIdError: the file holds something else.
        OSError: the folder cannot be read or, the first time, written.

    """
    path = folder / _FILE
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
    found = path.read_text(errors="replace").strip()
    if not is_node_id(found):
        raise NodeIdError(f"{path} does not hold a node id; remove it, and a new one is made")
    return found


def _make(path: Path) -> None:
    """Create the file completely or not at all; the first process to do so wins."""
    from .seams import WORLD  # not for who only checks an id, such as `dalsegno --help`

    node_id = WORLD.new_id()
    new = path.with_name(f"{_FILE}.{node_id}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            if os.geteuid() == 0:  # so that the folder's owner can read it without root
                owner = path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(f"{node_id}\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was first, and its id is the node's
            path.hardlink_to(new)
    finally:
        new.unlink()
