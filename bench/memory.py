"""How much memory does an active workspace take, and is it returned at passivation?

Ten thousand workspaces of an embedded runtime, each after one command, so that its actor
runs, its log's tail and one entity are in memory, and nobody follows it.  They are opened in as
many steps as there are rounds; what is compared is the private memory of the process, before and
after.  Then all of them leave memory at once, and then they are all written to again, as if it were
the next morning.

Python returns little of its memory to the system, but uses it again.  So what is left after
passivation is reported in two ways: the memory of the process, and the blocks that objects really
have; and the memory when all are active again shows whether anything leaks.  Some objects do stay,
within a bound: the newest events of passivated workspaces, for readers that come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ._harness import Report
from ._machine import resident_bytes
from ._processes import SUBJECT_CORE, Child, child, python
from ._servers import postgres

if TYPE_CHECKING:
    from ._harness import Options

HEADLINE = "left-blocks"

_FIRST = 20
"""Workspaces opened first, so that what a process needs only once is not counted."""


class Memory(NamedTuple):
    """The memory of a process."""

    bytes: float
    blocks: int


@dataclass(frozen=True, slots=True)
class Meter:
    """A process that is told what to do, and then measured."""

    process: Child

    async def measure(self, order: str) -> Memory:
        """Send it an order, and measure when that is done."""
        blocks = int(await self.process.ask(order))
        return Memory(resident_bytes(self.process.pid), blocks)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("memory", options)
    step = options.pick(10_000, quick=400) // options.rounds
    active = report.figure("an active workspace", "bytes")
    resting = report.figure("what is left of one that rests", "bytes")
    again = report.figure("one that is active again", "bytes")
    blocks = report.figure("objects of an active one", "blocks", digits=1)
    left_blocks = report.figure("  of one that rests", "blocks", digits=1)
    report.compare("bytes left / active", resting, active, ratio_id="left-bytes")
    report.compare("blocks left / active", left_blocks, blocks, ratio_id="left-blocks")
    report.compare("active again / active", again, active, ratio_id="again")
    with postgres() as database:
        command = python("bench._tenants", database.dsn)
        async with child("tenants", command, core=SUBJECT_CORE) as tenants:
            await tenants.hear()
            meter = Meter(tenants)
            first = before = await meter.measure(f"open {_FIRST}")
            workspaces = step * options.rounds
            for _ in range(options.rounds):
                after = await meter.measure(f"open {step}")
                active.rounds.append((after.bytes - before.bytes) / step)
                blocks.rounds.append((after.blocks - before.blocks) / step)
                before = after
            left = await meter.measure("rest")
            back = await meter.measure(f"again {_FIRST}")
            # Measured once, and compared with every round.
            for figure, more in (
                (resting, left.bytes - first.bytes),
                (left_blocks, left.blocks - first.blocks),
                (again, back.bytes - first.bytes),
            ):
                figure.rounds += [more / workspaces] * options.rounds
    report.notes.append(
        f"{workspaces:,} workspaces, behind {_FIRST} that do not count; what is left, and what is "
        "there again, was measured once."
    )
    return report
