"""Logs of other programs, beside durable commands: Redis Streams and NATS JetStream.

They keep what they are given, and decide nothing: see the table in README.md of what each promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from . import _jetstream, _redis_streams
from ._jetstream import open_jetstream
from ._redis_streams import open_redis_streams

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from ._harness import Options, Report, Sample, Series

_ENTRY_BYTES = 380
"""Of an entry: what the row of a patch of 20 characters has in our log (``pg_column_size``)."""


class Log(Protocol):
    """A program that keeps entries, and clients that add some and wait for each answer."""

    async def append(self, seconds: float) -> Sample:
        """Add entries for about so many seconds."""


@dataclass(frozen=True, slots=True)
class OtherLog:
    """Such a log's row."""

    log: Log
    series: Series

    async def measure(self, options: Options, *, counts: bool) -> None:
        """Add entries for a round."""
        sample = await self.log.append(options.seconds)
        if counts:
            self.series.samples.append(sample)


async def other_logs(
    report: Report, stack: AsyncExitStack, folder: Path, *, ours: Series, clients: int
) -> list[OtherLog]:
    """Start those that are installed, and compare our clients with as many of theirs."""
    logs = []
    says = f"{clients} clients one at a time"
    if why := _redis_streams.missing():
        report.skip(why, "redis-streams")
    else:
        place = _made(folder / "redis")
        opening = open_redis_streams(place, clients=clients, entry_bytes=_ENTRY_BYTES)
        series = report.add("  Redis Streams, synced always", "entry")
        report.compare(f"{says} / Redis Streams", ours, series, ratio_id="redis-streams")
        logs.append(OtherLog(await stack.enter_async_context(opening), series))
    for ratio_id, is_synced in (("jetstream", True), ("jetstream-unsynced", False)):
        place = _made(folder / ratio_id)
        if why := _jetstream.missing(place, is_synced=is_synced):
            report.skip(why, ratio_id)
            continue
        jetstream = open_jetstream(
            place, is_synced=is_synced, clients=clients, entry_bytes=_ENTRY_BYTES
        )
        how = "synced always" if is_synced else "synced every two minutes"
        series = report.add(f"  NATS JetStream, {how}", "entry")
        report.compare(f"{says} / JetStream, {how}", ours, series, ratio_id=ratio_id)
        logs.append(OtherLog(await stack.enter_async_context(jetstream), series))
    return logs


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
