"""NATS JetStream as a reference for durable commands: a stream with file storage, one replica.

How often it syncs its file is the server's setting ``sync_interval``: with ``always`` at each
message, before the ack; by default every two minutes, so that an ack does not say that a message
is on disk (docs.nats.io, "JetStream", "Syncing data to disk").
"""

from __future__ import annotations

import json
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._brokers import nats_server, open_nats
from ._harness import Sample
from ._processes import OTHER_CORE, Child, child, python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_CONFIGURATION = "jetstream {{ store_dir: {store}{sync} }}\n"


def missing(folder: Path, *, is_synced: bool) -> str:
    """Return why it cannot be measured here, if so."""
    program = nats_server()
    if program is None:
        return "no nats-server on the PATH"
    if not is_synced:
        return ""
    # The setting is newer than the nats-server of some distributions: Debian 12 has 2.9.
    check = [program, "-t", "-c", str(_configuration(folder, is_synced=True))]
    is_known = subprocess.run(check, capture_output=True, check=False).returncode == 0
    return "" if is_known else "this nats-server is too old for sync_interval: always"


def _configuration(folder: Path, *, is_synced: bool) -> Path:
    path = folder / "nats.conf"
    sync = ", sync_interval: always" if is_synced else ""
    path.write_text(_CONFIGURATION.format(store=json.dumps(str(folder / "store")), sync=sync))
    return path


@dataclass(frozen=True, slots=True)
class JetStream:
    """A running server with one stream, and the process that publishes to it."""

    process: Child
    load: Child
    clients: int
    is_synced: bool

    async def append(self, seconds: float) -> Sample:
        """Publish for so many seconds, each publisher one message at a time."""
        cpu = self.process.cpu_s()
        told = json.loads(await self.load.ask(f"{seconds} {self.clients} 1"))
        count = len(told["latencies_s"])
        return Sample(
            count=count,
            wall_s=told["wall_s"],
            cpu_s=self.process.cpu_s() - cpu,
            commits=count if self.is_synced else 0,
            latencies_s=told["latencies_s"],
        )


@asynccontextmanager
async def open_jetstream(
    folder: Path, *, is_synced: bool, clients: int, entry_bytes: int
) -> AsyncIterator[JetStream]:
    """Run a server and its load for the length of a block."""
    program = nats_server()
    assert program is not None
    configuration = _configuration(folder, is_synced=is_synced)
    async with open_nats(folder, program, "-c", str(configuration)) as broker:
        arguments = map(str, (broker.port, entry_bytes, clients))
        command = python("bench._jetstream_load", *arguments)
        async with child("jetstream load", command, core=OTHER_CORE) as load:
            await load.hear()
            yield JetStream(broker.process, load, clients, is_synced)
