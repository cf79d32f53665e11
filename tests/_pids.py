"""Processes by their numbers."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc/self/status").exists()
"""Whether the system tells more than that a number is taken."""


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return not _PROC or "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):  # it may end between the two
        return False
