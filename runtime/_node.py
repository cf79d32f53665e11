"""Who this node is: an id that stays the same from one process to the next.

A node that comes back under its old id has its workspaces back at once; under another one it would
wait until the lease of the old one has run out.  So the id lives where the node's data live.  A
copy of the folder is a copy of the id: of two nodes that run with it the later one takes the lease,
and the earlier one ends.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from dalsegno.protocol import DalsegnoError

from .seams import WORLD

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "node-id"
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class NodeIdError(DalsegnoError):
    """The file of a node's id holds something else."""


def is_node_id(text: str) -> bool:
    """Tell whether a node can be called that: 1 to 64 of ``[A-Za-z0-9_.-]``."""
    return _ID.fullmatch(text) is not None


def node_id_in(folder: Path) -> str:
    """Read the id of the node whose data are in a folder; one is made there the first time.

    Raises:
        NodeIdError: the file holds something else.
        OSError: the folder cannot be read, or not be written to the first time.

    """
    path = folder / _FILE
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
    found = path.read_text(errors="replace").strip()
    if not is_node_id(found):
        raise NodeIdError(f"{path} holds no node id; remove it, and a new one is made")
    return found


def _make(path: Path) -> None:
    """Make the file, whole or not at all; whoever is first wins."""
    node_id = WORLD.new_id()
    new = path.with_name(f"{_FILE}.{node_id}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            if os.geteuid() == 0:  # whom the folder belongs to can then do without root
                owner = path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(f"{node_id}\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # somebody else made one meanwhile: that is the node's
            path.hardlink_to(new)
    finally:
        new.unlink()
