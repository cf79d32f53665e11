"""The machine that a figure was made on, and what a measurement needs of the system."""

from __future__ import annotations

import math
import os
import platform
import resource
from pathlib import Path

_LISTENS = "0A"
"""The state of a socket whose queue counts connections (proc_net_tcp)."""


def machine() -> str:
    """Name the class of machine, and how busy it is with other things."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}"


def raise_file_limit(wanted: int) -> int:
    """Allow this process, and those that it starts, so many open files.

    As root the hard limit goes up too.

    Returns:
        How many it is now; fewer where the system does not allow that.

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else max(hard, wanted)
    for highest in (allowed, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, highest), highest))
        except (ValueError, OSError):  # only root may have more than the hard limit
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_bytes(pid: int, *, tree: bool = False) -> float:
    """Return the private memory of a process, and with ``tree`` of its living children.

    That is what it does not share with others (``Private_*`` of proc_pid_smaps(5)), so that the
    pages of the interpreter and of libraries, and PostgreSQL's shared buffers, do not count.
    NaN where there is no ``/proc``.
    """
    total = _private_kb(pid)
    if tree:
        total += sum(_private_kb(child) for child in _children(pid))
    return total * 1024


def unread_bytes(port: int) -> float:
    """Return what arrived on a port's connections and was not read yet; NaN without ``/proc``."""
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return math.nan
    total = 0
    for line in lines:
        _, local, _, state, queues, *_ = line.split()
        if state != _LISTENS and int(local.partition(":")[2], 16) == port:
            total += int(queues.partition(":")[2], 16)
    return total


def _private_kb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return math.nan
    return float(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
