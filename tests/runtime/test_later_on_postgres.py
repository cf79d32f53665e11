"""Timers, lists and records on a real PostgreSQL, over the end of a runtime and with two nodes."""

from __future__ import annotations

from dataclasses import replace

import trio

from dalsegno.runtime import Limits, Runtime, Snapshot
from tests._patience import fail_after
from tests.actors._locks import Lock, RenewLock, TakeLock, lock_domain, locks

LIMITS = Limits(timer_tick_s=0.05, lease_s=2.0, lease_beat_s=0.5)


async def snapshot(rt: Runtime, key: str | None) -> Snapshot[Lock]:
    return await rt.workspace("acme").snapshot(locks, key=key, limit=1_000)


async def wait_free(rt: Runtime, count: int) -> None:
    with fail_after(20):
        while len((await snapshot(rt, "free")).items) < count:
            await trio.sleep(0.02)


async def test_x_cal_3_locks_lapse_once_are_listed_so_and_are_on_record(migrated: str) -> None:
    async with Runtime.open(migrated, domains=[locks], limits=LIMITS) as rt:
        acme = rt.workspace("acme")
        for number in range(20):
            await acme.send(TakeLock(f"{number:02}", "ada", 0.2))
        await acme.send(TakeLock("long", "bob", 600))
        assert [item.entity_id for item in (await snapshot(rt, "by bob")).items] == ["long"]
        await wait_free(rt, 20)
        found = await snapshot(rt, None)
        assert found.event_seq == 41
        assert [item.state.lapses for item in found.items] == [*[1] * 20, 0]
        assert not any(item.state.wrong for item in found.items)
        assert [item.entity_id for item in (await snapshot(rt, "held")).items] == ["long"]
        assert await acme.keys(locks, prefix="by ") == ["by bob"]
        records = await acme.records()
        assert len(records) == 20
        assert {(r.action, r.old_value, r.actor_id) for r in records} == {
            ("LOCK_LAPSED", '"ada"', None)
        }


async def test_what_was_due_while_nothing_ran_happens_at_the_next_start(migrated: str) -> None:
    never = replace(LIMITS, timer_tick_s=600.0)
    async with Runtime.open(migrated, domains=[locks], limits=never, node_id="a") as rt:
        for number in range(3):
            await rt.workspace("acme").send(TakeLock(f"{number}", "ada", 0))
        await rt.workspace("acme").send(RenewLock("0", "ada", 600))
    async with Runtime.open(migrated, domains=[locks], limits=LIMITS, node_id="b") as rt:
        await wait_free(rt, 2)
        assert rt.statistics().timers.fired >= 2
        assert [i.state.lapses for i in (await snapshot(rt, None)).items] == [0, 1, 1]


async def test_two_nodes_and_two_versions_of_a_domain_share_a_database(migrated: str) -> None:
    later = lock_domain(2)
    async with (
        Runtime.open(migrated, domains=[locks], limits=LIMITS, node_id="a") as a,
        Runtime.open(migrated, domains=[later], limits=LIMITS, node_id="b") as b,
    ):
        for number in range(10):
            owner = (a, b)[number % 2]
            await owner.workspace(f"w{number}").send(TakeLock("1", "ada", 0.2))

        names = [f"w{number}" for number in range(10)]
        with fail_after(20):
            while {h.head_seq for h in (await a.store.read_heads(names)).values()} != {2}:
                await trio.sleep(0.02)
    # What one version wrote is listed anew by the other, as soon as it owns it.
    async with Runtime.open(migrated, domains=[later], limits=LIMITS, node_id="c") as rt:
        for number in range(10):
            found = await rt.workspace(f"w{number}").snapshot(later, key="free")
            assert [item.state.lapses for item in found.items] == [1]
            assert found.event_seq == 2
