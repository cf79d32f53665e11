"""Redis Streams as a reference for durable commands: ``XADD`` with ``appendfsync always``.

The server is one of the benchmark's own; the load is ``redis-benchmark``, whose clients wait for
their answers.  Under this policy Redis executes what all its clients have sent, writes it to its
file in one go, syncs that, and only then answers (redis.io, "How durable is the append only
file?"): a group commit, as ours is.
"""

from __future__ import annotations

import csv
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ._brokers import free_port, listens, running, started
from ._harness import Sample
from ._processes import OTHER_CORE, Child, ChildError, child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_PROGRAMS = ("redis-server", "redis-benchmark")
_FIRST = 2_000
"""Entries of the first round, which does not count and tells how many a round has."""
_READ_BYTES = 1 << 16


def missing() -> str:
    """Return why it cannot be measured here, if so."""
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    return f"no {' and no '.join(absent)} on the PATH" if absent else ""


@dataclass(slots=True)
class RedisStreams:
    """A running server with one stream, and the clients that add to it."""

    process: Child
    port: int
    clients: int
    entry_bytes: int
    entries: int = _FIRST

    async def append(self, seconds: float) -> Sample:
        """Add entries for about so many seconds, by the rate of the last time."""
        cpu, syncs = self.process.cpu_s(), await self._syncs()
        rate, percentiles = await self._load()
        sample = Sample(
            count=self.entries,
            wall_s=self.entries / rate,
            cpu_s=self.process.cpu_s() - cpu,
            commits=await self._syncs() - syncs,
            percentiles_s=percentiles,
        )
        self.entries = max(self.clients, round(seconds * rate))
        return sample

    async def _load(self) -> tuple[float, dict[float, float]]:
        """Run ``redis-benchmark``; its rate counts from when all clients are connected."""
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(self.port), "--csv"]
        command += ["-c", str(self.clients), "-P", "1", "-n", str(self.entries)]
        command += ["XADD", "stream", "*", "event", "x" * self.entry_bytes]
        async with child("redis-benchmark", command, core=OTHER_CORE) as load:
            return told([await load.hear() for _ in ("heads", "figures")])

    async def _syncs(self) -> int:
        """Count the syncs of the file so far; the difference of two counts is exact.

        Redis counts its writes to sockets, and the kernel all its writes.  The others are those to
        the file, and each of them is followed by one ``fdatasync``.
        """
        info, io = await self._info(), _io(self.process.pid)
        return 0 if io is None else writes_beside(io, info)

    async def _info(self) -> str:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        said = b""
        async with stream:
            await stream.send_all(b"INFO stats\r\n")
            # A line with the length, and so many bytes, and the end of a line.
            while not said.endswith(b"\r\n") or len(said) < _length(said):
                more = await stream.receive_some(_READ_BYTES)
                if not more:
                    raise ChildError("redis-server hung up")
                said += more
        return said.decode()


def _io(pid: int) -> str | None:
    """Read what the kernel counts of a process's reads and writes (proc_pid_io(5))."""
    try:
        return Path(f"/proc/{pid}/io").read_text()
    except OSError:  # no Linux
        return None


def told(lines: Sequence[str]) -> tuple[float, dict[float, float]]:
    """Understand ``redis-benchmark --csv``: entries a second, and latencies in seconds by share."""
    (figures,) = csv.DictReader(lines)
    percentiles = {share: float(figures[f"p{100 * share:g}_latency_ms"]) for share in (0.5, 0.99)}
    return float(figures["rps"]), {share: ms / 1e3 for share, ms in percentiles.items()}


def writes_beside(io: str, info: str) -> int:
    """Count a process's writes (``/proc/PID/io``) that are not Redis's to sockets (``INFO``)."""
    return _field(io, "syscw") - _field(info, "total_writes_processed")


def _field(text: str, name: str) -> int:
    fields = dict(line.partition(":")[::2] for line in text.splitlines())
    return int(fields[name])


def _length(said: bytes) -> int:
    head, _, _ = said.partition(b"\r\n")
    return len(head) + int(head[1:]) + 2 * len(b"\r\n")


@asynccontextmanager
async def open_redis_streams(
    folder: Path, *, clients: int, entry_bytes: int
) -> AsyncIterator[RedisStreams]:
    """Run a server for the length of a block."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    # A rewrite of the whole file would fall into one round of many.
    command += ["--auto-aof-rewrite-percentage", "0", "--logfile", str(folder / "redis.log")]
    async with running("redis-server", command) as process:
        await started(lambda: listens(port))
        yield RedisStreams(process, port, clients, entry_bytes)
