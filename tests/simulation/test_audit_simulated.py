"""What is on record, under every fault: on the log of the audit once, each workspace's in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from dalsegno.actors.ports import Uncollected
from dalsegno.actors.testing.simulation import Ask, Choices, SeededChoices, Simulated, simulate
from dalsegno.actors.testing.simulation._simulate import SIM_LIMITS
from dalsegno.actors.workspace._incarnation import Incarnation
from dalsegno.protocol import AUDIT_WORKSPACE, App, Audit, Domain
from dalsegno.protocol.audit import audit_event_of, trail

LIMITS = replace(SIM_LIMITS, audit_poll_s=0.3)
SEEDS = 40
_LATE = timedelta(seconds=8)
"""How late something may be there, while nodes die and databases are away."""


class Drop(msgspec.Struct, frozen=True):
    jar_id: str


class Dropped(msgspec.Struct, frozen=True):
    """Something is in a jar."""


class Jar(msgspec.Struct, frozen=True):
    count: int


jars = Domain("jar", state=Jar, commands=Drop, events=Dropped)


@jars.decide
def _drop(_jar: Jar | None, _command: Drop) -> Dropped:
    return Dropped()


@jars.evolve
def _dropped(jar: Jar | None, _event: Dropped) -> Jar:
    return Jar(1 if jar is None else jar.count + 1)


@jars.audit
def _on_record(_event: Dropped, _before: Jar | None, after: Jar | None) -> Sequence[Audit]:
    """One of an even number has two rows."""
    count = 0 if after is None else after.count
    return [Audit(action=f"DROPPED_{n}", new_value=count) for n in range(2 - count % 2)]


def simulated(seed: int) -> Simulated:
    def commands(choices: Choices) -> Ask:
        return Ask(Drop(choices.pick("ab")), 1, 1)

    return simulate(
        SeededChoices(seed), App([jars, trail]), commands=commands, limits=LIMITS, steps=30
    )


def expected(log: dict[str, list[Any]]) -> dict[str, list[str]]:
    """What is on record of each workspace by what its log has, but for the last moments."""
    last = max(events[-1].recorded_at for events in log.values() if events)
    found: dict[str, list[str]] = {}
    for workspace_id, events in log.items():
        rows = found.setdefault(workspace_id, [])
        for event in events:
            rows += [
                f"{workspace_id}/{event.event_seq}-{n}"
                for n in range(2 - event.stream_seq % 2)
                if event.type == "dropped" and event.recorded_at < last - _LATE
            ]
    return found


def sound(seeds: range) -> Counter[str]:
    """Run schedules, which have to be sound; what happened in them."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        done = simulated(seed)
        assert done.is_sound, f"seed {seed}:\n{done}"
        found = [audit_event_of(event) for event in done.log.get(AUDIT_WORKSPACE, ())]
        drops = [each for each in found if each is not None and each.action.startswith("DROPPED")]
        assert max(Counter(each.id for each in drops).values(), default=1) == 1, f"{seed}: twice"
        for workspace_id, rows in expected(done.log).items():
            ids = [each.id for each in drops if each.workspace_id == workspace_id]
            places = [tuple(map(int, id_.rpartition("/")[2].split("-"))) for id_ in ids]
            assert places == sorted(places), f"{seed}: {workspace_id} is out of order"
            assert set(rows) <= set(ids), f"{seed}: something of {workspace_id} is missing"
        seen["taken"] += len(drops)
        seen.update(done.faults)
    return seen


def test_a_few_schedules_of_the_audit() -> None:
    assert sound(range(8))["taken"] > 200


@pytest.mark.soak
def test_many_schedules_of_the_audit() -> None:
    sound(range(1_000, 1_000 + 25 * SEEDS))


def test_rows_that_are_read_ahead_of_the_order_would_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where who looks for rows had sent them along: another's append may be on its way."""
    original = Incarnation._read_uncollected
    kept: dict[int, list[Uncollected]] = {}

    async def read(self: Incarnation, speculation: Any) -> list[Uncollected]:
        found = await original(self, speculation)
        before = kept.get(0, [])
        kept[0] = found
        return before or found

    monkeypatch.setattr(Incarnation, "_read_uncollected", read)
    with pytest.raises(AssertionError, match=r"twice|out of order"):
        sound(range(SEEDS))
