"""Locks, messages, delegations, hand-overs and agents: every step, every wrong one, and time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from dalsegno.actors.domains.coordination import (
    DELEGATION_STEPS,
    HANDOFF_STEPS,
    HELD_MAX_MS,
    PAGE_PARTS,
    artifacts,
    offspring,
    scopes,
    trajectories,
    turns,
)
from dalsegno.actors.domains.coordination._tree import (
    CreateArtifact,
    CreateScope,
    CreateTrajectory,
    CreateTurn,
)
from dalsegno.actors.ports import AuditFilter
from dalsegno.protocol import Event
from dalsegno.runtime import Limits
from tests._coordination import Answered, Json

from ._coordination import Member, coordinating, eventually

QUICK = Limits(timer_tick_s=0.02)
NEVER = Limits(timer_tick_s=3600.0)
"""So that only what is asked is decided."""

# ---------------------------------------------------------------------------------------- locks


@pytest.mark.parametrize(
    ("first", "second", "is_free"),
    [
        ("Exclusive", "exclusive", False),
        ("Exclusive", "SHARED", False),
        ("Shared", "Exclusive", False),
        ("Shared", "shared", True),
    ],
)
async def test_x_cal_2_a_lock_excludes_all_but_those_who_share_it(
    first: str, second: str, is_free: bool
) -> None:
    async with coordinating() as (_, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        held = await tenant.lock(one, mode=first)
        asked = {**LOCK, "holder_agent_id": two, "mode": second}
        answer = await tenant.send("POST", "/locks/acquire", asked)
        if is_free:
            assert answer.status == 201
            listed = await tenant.get("/locks?resource_id=main.py")
            assert {item["holder_agent_id"] for item in listed["items"]} == {one, two}
            return
        assert (answer.status, answer.code) == (409, "LOCK_CONFLICT")
        assert answer.body["details"] == {
            "lock_id": held["lock_id"],
            "holder_agent_id": one,
            "mode": first,
            "expires_at": held["expires_at"],
        }
        other = {**asked, "resource_id": "other.py"}
        assert (await tenant.send("POST", "/locks/acquire", other)).status == 201


LOCK: Json = {"resource_type": "file", "resource_id": "main.py", "timeout_ms": 60_000}


async def test_a_lock_is_its_holders_to_release_and_to_extend() -> None:
    async with coordinating() as (_, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        path = f"/locks/{(await tenant.lock(one))['lock_id']}"
        refused = await tenant.refused("POST", f"{path}/release", {"releasing_agent_id": two})
        assert refused == (403, "FORBIDDEN")
        more = {"additional_ms": 1_000, "extending_agent_id": two}
        assert await tenant.refused("POST", f"{path}/extend", more) == (403, "FORBIDDEN")
        more = {"additional_ms": 1_000, "extending_agent_id": one}
        extended = await tenant.post(f"{path}/extend", more, status=200)
        assert extended["expires_at"] == "2026-02-13T12:01:01Z"
        await tenant.post(f"{path}/release", {"releasing_agent_id": one}, status=204)
        refused = await tenant.refused("POST", f"{path}/release", {"releasing_agent_id": one})
        assert refused == (404, "LOCK_NOT_FOUND")
        await tenant.lock(two)


async def test_a_lock_lasts_from_a_millisecond_to_a_day() -> None:
    async with coordinating(limits=NEVER) as (_, tenant):
        one = await tenant.agent()
        for timeout_ms in (0, -1, HELD_MAX_MS + 1, 10 * 365 * HELD_MAX_MS, 2**63):
            asked = {**LOCK, "holder_agent_id": one, "timeout_ms": timeout_ms}
            refused = await tenant.refused("POST", "/locks/acquire", asked)
            assert refused == (400, "INVALID_RANGE")
        lock = await tenant.lock(one, timeout_ms=HELD_MAX_MS)
        path = f"/locks/{lock['lock_id']}/extend"
        for additional_ms in (0, 1, HELD_MAX_MS):
            refused = await tenant.refused("POST", path, {"additional_ms": additional_ms})
            assert refused == (400, "INVALID_RANGE")
        asked = {**LOCK, "holder_agent_id": one, "mode": "greedy"}
        assert await tenant.refused("POST", "/locks/acquire", asked) == (400, "VALIDATION_FAILED")
        asked = {**LOCK, "holder_agent_id": "nobody"}
        assert await tenant.refused("POST", "/locks/acquire", asked) == (404, "AGENT_NOT_FOUND")


async def test_at_the_very_moment_of_its_expiry_a_lock_is_neither_extended_nor_released() -> None:
    async with coordinating(limits=NEVER) as (site, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        path = f"/locks/{(await tenant.lock(one, timeout_ms=1_000))['lock_id']}"
        site.clock.move(milliseconds=999)
        await tenant.post(f"{path}/extend", {"additional_ms": 1}, status=200)
        site.clock.move(milliseconds=2)
        refused = await tenant.refused("POST", f"{path}/extend", {"additional_ms": 1})
        assert refused == (409, "LOCK_EXPIRED")
        refused = await tenant.refused("POST", f"{path}/release", {"releasing_agent_id": one})
        assert refused == (409, "LOCK_EXPIRED")
        head = await tenant.head()
        await tenant.lock(two)
        assert await tenant.types(head) == [
            "agent_lock_expired",
            "resource_freed",
            "agent_lock_acquired",
            "resource_held",
        ]


async def test_x_cal_3_a_lock_that_has_lapsed_is_said_to_have_once_and_is_on_record() -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        one = await tenant.agent()
        kept = await tenant.lock(one, resource_id="kept.py")
        lock = await tenant.lock(one, timeout_ms=1_000)
        site.clock.move(seconds=1)
        await eventually(lambda: _has(tenant, "agent_lock_expired"))
        refused = await tenant.refused(
            "POST", f"/locks/{lock['lock_id']}/release", {"releasing_agent_id": one}
        )
        assert refused == (409, "LOCK_EXPIRED")
        assert (await tenant.get("/locks"))["items"] == [kept]
        await tenant.lock(one, timeout_ms=1_000)
        site.clock.move(seconds=1)
        await eventually(lambda: _has(tenant, "agent_lock_expired", 2))
        records = await site.rt.workspace(tenant.id).records(
            AuditFilter(action="AGENT_LOCK_EXPIRED")
        )
        assert len(records) == 2
        assert Counter(await tenant.types())["agent_lock_expired"] == 2


async def test_of_many_who_want_a_resource_at_once_one_gets_it() -> None:
    async with coordinating() as (_, tenant):
        agents = [await tenant.agent() for _ in range(8)]
        answers: list[Answered] = []

        async def acquire(agent: str) -> None:
            asked = {**LOCK, "holder_agent_id": agent}
            answers.append(await tenant.send("POST", "/locks/acquire", asked))

        async with trio.open_nursery() as nursery:
            for agent in agents:
                nursery.start_soon(acquire, agent)
        assert Counter(answer.status for answer in answers) == {201: 1, 409: 7}


async def _has(tenant: Member, type_: str, times: int = 1) -> bool:
    return Counter(await tenant.types())[type_] == times


# ------------------------------------------------------------------------------------- messages


async def test_x_cal_5_a_message_is_delivered_once_and_acknowledged_once() -> None:
    async with coordinating() as (_, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        path = f"/messages/{await tenant.message(one, two)}"
        for step in ("deliver", "acknowledge"):
            await tenant.post(f"{path}/{step}", status=204)
            assert await tenant.refused("POST", f"{path}/{step}") == (409, "STATE_CONFLICT")
        shown = await tenant.get(path)
        assert shown["delivered_at"] == shown["acknowledged_at"] == "2026-02-13T12:00:00Z"
        path = f"/messages/{await tenant.message(one, two)}"
        await tenant.post(f"{path}/acknowledge", status=204)
        assert await tenant.refused("POST", f"{path}/deliver") == (409, "STATE_CONFLICT")
        listed = await tenant.get(f"/messages?to_agent_id={two}&from_agent_id={one}")
        assert len(listed["items"]) == 2


async def test_a_message_that_is_not_delivered_in_time_expires_and_one_that_is_does_not() -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        soon = "2026-02-13T12:00:10Z"
        late = f"/messages/{await tenant.message(one, two, expires_at=soon)}"
        delivered = f"/messages/{await tenant.message(one, two, expires_at=soon)}"
        await tenant.post(f"{delivered}/deliver", status=204)
        site.clock.move(seconds=10)
        for step in ("deliver", "acknowledge"):
            assert await tenant.refused("POST", f"{late}/{step}") == (409, "STATE_CONFLICT")
        await eventually(lambda: _has(tenant, "agent_message_expired"))
        for step in ("deliver", "acknowledge"):
            assert await tenant.refused("POST", f"{late}/{step}") == (409, "STATE_CONFLICT")
        await tenant.post(f"{delivered}/acknowledge", status=204)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"to_agent_id": None}, 400, "MISSING_FIELD"),
        ({"to_agent_id": "nobody"}, 404, "AGENT_NOT_FOUND"),
        ({"from_agent_id": "nobody"}, 404, "AGENT_NOT_FOUND"),
        ({"trajectory_id": "nothing"}, 404, "TRAJECTORY_NOT_FOUND"),
        ({"scope_id": "nothing"}, 404, "SCOPE_NOT_FOUND"),
        ({"artifact_ids": ["nothing"]}, 404, "ARTIFACT_NOT_FOUND"),
        ({"expires_at": "2026-02-13T12:00:00Z"}, 400, "INVALID_RANGE"),
        ({"expires_at": "2026-02-13T12:00:01"}, 400, "VALIDATION_FAILED"),
        ({"message_type": "Gossip"}, 400, "VALIDATION_FAILED"),
        ({"priority": "high"}, 400, "VALIDATION_FAILED"),
    ],
)
async def test_a_message_is_between_agents_and_about_what_is_there(
    more: Json, status: int, code: str
) -> None:
    async with coordinating() as (_, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        body = {
            "from_agent_id": one,
            "to_agent_id": two,
            "message_type": "TaskResult",
            "payload": None,
            **more,
        }
        assert await tenant.refused("POST", "/messages", body) == (status, code)
        assert "agent_message_sent" not in await tenant.types()


async def test_a_message_may_be_to_whoever_is_of_a_type() -> None:
    async with coordinating() as (_, tenant):
        one = await tenant.agent()
        body = {
            "from_agent_id": one,
            "to_agent_type": "tester",
            "message_type": "Interrupt",
            "payload": "stop",
            "priority": "Critical",
        }
        sent = await tenant.post("/messages", body)
        assert (sent["recipient_id"], sent["to_agent_type"]) == (None, "tester")
        assert (await tenant.get("/messages?to_agent_type=tester"))["items"] == [sent]


# ------------------------------------------------------------------- delegations and hand-overs

DELEGATION = {
    "accept": lambda actor: {"accepting_agent_id": actor},
    "reject": lambda actor: {"rejecting_agent_id": actor, "reason": "no"},
    "start": lambda actor: {"starting_agent_id": actor},
    "complete": lambda actor: {"result": {"status": "Success"}, "completing_agent_id": actor},
}
HANDOFF = {
    "accept": lambda actor: {"accepting_agent_id": actor},
    "reject": lambda actor: {"rejecting_agent_id": actor, "reason": "no"},
    "complete": lambda actor: {"completing_agent_id": actor},
}
WAYS = {
    "delegations": {
        "Pending": [],
        "Accepted": ["accept"],
        "InProgress": ["accept", "start"],
        "Completed": ["accept", "complete"],
        "Rejected": ["reject"],
        "Failed": ["time"],
    },
    "handoffs": {
        "Initiated": [],
        "Accepted": ["accept"],
        "Completed": ["accept", "complete"],
        "Rejected": ["reject"],
    },
}
"""How each status is reached."""
TABLES: dict[str, tuple[Any, Any]] = {
    "delegations": (DELEGATION_STEPS, DELEGATION),
    "handoffs": (HANDOFF_STEPS, HANDOFF),
}
EVERY_STATUS = [(kind, status) for kind in WAYS for status in WAYS[kind]]


@pytest.mark.parametrize(("kind", "status"), EVERY_STATUS)
async def test_x_cal_6_only_legal_steps_are_taken_and_by_the_legal_agent(
    kind: str, status: str
) -> None:
    table, bodies = TABLES[kind]
    async with coordinating(limits=QUICK) as (site, tenant):
        for times, step in enumerate(bodies, 1):
            giver, taker = await tenant.agent(), await tenant.agent()
            make = tenant.delegation if kind == "delegations" else tenant.handoff
            path = f"/{kind}/{(await make(giver, taker))[kind[:-1] + '_id']}"
            for each in WAYS[kind][status]:
                if each == "time":
                    site.clock.move(hours=1)
                    await eventually(lambda: _has(tenant, "delegation_failed", times))  # noqa: B023
                else:
                    await tenant.post(f"{path}/{each}", bodies[each](taker), status=204)
            assert (await tenant.get(path))["status"] == status
            for stranger in (giver, "nobody"):
                refused = await tenant.refused("POST", f"{path}/{step}", bodies[step](stranger))
                assert refused == (403, "FORBIDDEN")
            after = table[step].get(status)
            if after is None:
                refused = await tenant.refused("POST", f"{path}/{step}", bodies[step](taker))
                assert refused == (409, "STATE_CONFLICT")
            else:
                await tenant.post(f"{path}/{step}", bodies[step](taker), status=204)
            assert (await tenant.get(path))["status"] == (after or status)


async def test_of_two_who_accept_at_once_one_does() -> None:
    async with coordinating() as (_, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        for kind, make in (("delegations", tenant.delegation), ("handoffs", tenant.handoff)):
            made = await make(giver, taker)
            path = f"/{kind}/{made[kind[:-1] + '_id']}/accept"
            answers: list[Answered] = []

            async def accept(path: str = path, answers: list[Answered] = answers) -> None:
                answers.append(await tenant.send("POST", path, {"accepting_agent_id": taker}))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                nursery.start_soon(accept)
            assert sorted(answer.status for answer in answers) == [204, 409]


async def test_between_two_agents_one_delegation_waits_and_one_hand_over() -> None:
    async with coordinating() as (_, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        first = await tenant.delegation(giver, taker)
        with pytest.raises(AssertionError, match="STATE_CONFLICT"):
            await tenant.delegation(giver, taker)
        await tenant.handoff(giver, taker)
        with pytest.raises(AssertionError, match="STATE_CONFLICT"):
            await tenant.handoff(giver, taker)
        await tenant.delegation(taker, giver)
        accept = {"accepting_agent_id": taker}
        await tenant.post(f"/delegations/{first['delegation_id']}/accept", accept, status=204)
        await tenant.delegation(giver, taker)
        with pytest.raises(AssertionError, match="INVALID_INPUT"):
            await tenant.delegation(giver, giver)


@pytest.mark.parametrize("way", [[], ["accept"], ["accept", "start"]])
async def test_x_cal_6_a_delegation_that_stays_as_it_is_for_an_hour_fails_once(
    way: list[str],
) -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        made = await tenant.delegation(giver, taker)
        path = f"/delegations/{made['delegation_id']}"
        for step in way:
            site.clock.move(minutes=59)
            await tenant.post(f"{path}/{step}", DELEGATION[step](taker), status=204)
        site.clock.move(hours=1)
        refused = await tenant.refused("POST", f"{path}/complete", DELEGATION["complete"](taker))
        assert refused == (409, "STATE_CONFLICT")
        await eventually(lambda: _has(tenant, "delegation_failed"))
        assert (await tenant.get(path))["status"] == "Failed"
        await tenant.delegation(giver, taker)
        site.clock.move(minutes=30)
        assert await _has(tenant, "delegation_failed")


async def test_what_was_accepted_has_until_its_expected_completion() -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        made = await tenant.delegation(giver, taker, expected_completion="2026-02-13T20:00:00Z")
        path = f"/delegations/{made['delegation_id']}"
        await tenant.post(f"{path}/accept", DELEGATION["accept"](taker), status=204)
        site.clock.move(hours=7, minutes=59)
        done = {"result": {"status": "Partial", "output": [1], "error": "late"}}
        await tenant.post(f"{path}/complete", done, status=204)
        shown = await tenant.get(path)
        assert shown["result"] == {**done["result"], "artifacts": []}
        with pytest.raises(AssertionError, match="INVALID_RANGE"):
            await tenant.delegation(taker, giver, expected_completion="2026-02-13T12:00:00Z")


@pytest.mark.parametrize("way", [[], ["accept"]])
async def test_x_cal_6_a_hand_over_that_stays_as_it_is_for_half_an_hour_is_rejected(
    way: list[str],
) -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        path = f"/handoffs/{(await tenant.handoff(giver, taker))['handoff_id']}"
        for step in way:
            await tenant.post(f"{path}/{step}", HANDOFF[step](taker), status=204)
        site.clock.move(minutes=30)
        await eventually(lambda: _has(tenant, "handoff_rejected"))
        assert (await tenant.get(path))["status"] == "Rejected"
        events = await site.rt.workspace(tenant.id).events(limit=1000)
        said = [event.payload for event in events if event.type == "handoff_rejected"]
        assert said == ['{"reason":"Timeout"}']


async def test_the_next_offer_finds_out_that_the_last_ones_time_is_over() -> None:
    async with coordinating(limits=NEVER) as (site, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        await tenant.delegation(giver, taker)
        await tenant.handoff(giver, taker)
        site.clock.move(hours=1)
        await tenant.delegation(giver, taker)
        await tenant.handoff(giver, taker)
        types = Counter(await tenant.types())
        assert (types["delegation_failed"], types["handoff_rejected"]) == (1, 1)


async def test_a_time_out_is_what_the_configuration_says_when_something_begins() -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        await tenant.patch("/config", {"config": {"delegation_timeout_s": 5}})
        await tenant.delegation(giver, taker)
        await tenant.patch("/config", {"config": {"delegation_timeout_s": 50}})
        site.clock.move(seconds=5)
        await eventually(lambda: _has(tenant, "delegation_failed"))


@pytest.mark.parametrize("field", ["from_agent_id", "to_agent_id", "trajectory_id", "scope_id"])
async def test_an_offer_is_about_what_is_there(field: str) -> None:
    async with coordinating() as (_, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        for make in (tenant.delegation, tenant.handoff):
            with pytest.raises(AssertionError, match="_NOT_FOUND"):
                await make(giver, taker, **{field: "nothing"})


async def test_what_came_of_a_delegation_are_artifacts_that_are_there() -> None:
    async with coordinating() as (_, tenant):
        giver, taker = await tenant.agent(), await tenant.agent()
        path = f"/delegations/{(await tenant.delegation(giver, taker))['delegation_id']}"
        await tenant.post(f"{path}/accept", DELEGATION["accept"](taker), status=204)
        done: Json = {"result": {"status": "Success", "artifacts": ["nothing"]}}
        refused = await tenant.refused("POST", f"{path}/complete", done)
        assert refused == (404, "ARTIFACT_NOT_FOUND")
        artifact = await tenant.artifact(*await tenant.place())
        done = {"result": {"status": "Success", "artifacts": [artifact]}}
        await tenant.post(f"{path}/complete", done, status=204)


# --------------------------------------------------------------------------------------- agents


async def test_x_cal_7_an_active_agent_is_not_unregistered_and_a_heartbeat_is_kept() -> None:
    async with coordinating() as (site, tenant):
        path = f"/agents/{await tenant.agent()}"
        await tenant.patch(path, {"status": "Active"})
        assert await tenant.refused("DELETE", path) == (400, "INVALID_INPUT")
        site.clock.move(seconds=9)
        beaten = await tenant.post(f"{path}/heartbeat", status=200)
        assert (beaten["last_heartbeat"], beaten["status"]) == ("2026-02-13T12:00:09Z", "Active")
        await tenant.patch(path, {"status": "Blocked"})
        assert (await tenant.send("DELETE", path)).status == 204
        assert await tenant.refused("GET", path) == (404, "AGENT_NOT_FOUND")
        assert await tenant.refused("POST", f"{path}/heartbeat") == (404, "AGENT_NOT_FOUND")


async def test_an_agent_that_is_silent_is_offline_once_and_back_with_its_next_heartbeat() -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        path = f"/agents/{await tenant.agent()}"
        await tenant.patch(path, {"status": "Active"})
        site.clock.move(seconds=60)
        await tenant.post(f"{path}/heartbeat", status=200)
        site.clock.move(seconds=60)
        assert (await tenant.get(path))["status"] == "Active"
        site.clock.move(seconds=30)
        await eventually(lambda: _has(tenant, "agent_status_changed", 2))
        assert (await tenant.get(path))["status"] == "Offline"
        assert len((await tenant.get("/agents?status=Offline"))["items"]) == 1
        head = await tenant.head()
        refused = await tenant.refused("PATCH", path, {"status": "Active"})
        assert refused == (409, "STATE_CONFLICT")
        assert (await tenant.post(f"{path}/heartbeat", status=200))["status"] == "Idle"
        assert await tenant.types(head) == ["agent_heartbeat", "agent_status_changed"]


async def test_how_long_an_agent_may_be_silent_is_a_setting_from_its_next_heartbeat_on() -> None:
    async with coordinating(limits=QUICK) as (site, tenant):
        path = f"/agents/{await tenant.agent()}"
        await tenant.patch("/config", {"config": {"agent_offline_after_s": 300}})
        await tenant.post(f"{path}/heartbeat", status=200)
        site.clock.move(seconds=299)
        other = f"/agents/{await tenant.agent()}"
        site.clock.move(seconds=1)
        await eventually(lambda: _has(tenant, "agent_status_changed"))
        assert (await tenant.get(path))["status"] == "Offline"
        assert (await tenant.get(other))["status"] == "Idle"


# ------------------------------------------------------------------------------------- cascades


async def test_a_cascade_takes_all_along_however_much_it_is() -> None:
    """Two levels, several pages on each, and what was deleted before by itself."""
    many = 2 * PAGE_PARTS + 30
    async with coordinating(limits=QUICK) as (site, tenant):
        workspace = site.rt.workspace(tenant.id)
        await workspace.send(CreateTrajectory(name="T", trajectory_id="t"))
        await workspace.send(
            CreateTrajectory(name="C", trajectory_id="c", parent_trajectory_id="t")
        )
        await workspace.send(
            CreateScope(trajectory_id="c", name="S", token_budget=0, scope_id="deep")
        )
        wanted: list[Any] = [
            CreateScope(trajectory_id="t", name="S", token_budget=0, scope_id=f"s{number}")
            for number in range(many)
        ]
        for number in range(many):
            wanted.append(
                CreateArtifact(
                    trajectory_id="t",
                    scope_id="s0",
                    artifact_type="Code",
                    name="A",
                    content="",
                    source_turn=0,
                    extraction_method="Explicit",
                    ttl="Session",
                    artifact_id=f"a{number}",
                )
            )
            wanted.append(
                CreateTurn(
                    scope_id="s0",
                    sequence=number,
                    role="Tool",
                    content="",
                    token_count=0,
                    turn_id=f"u{number}",
                )
            )
        for first in range(0, len(wanted), 60):
            await workspace.send_all(wanted[first : first + 60])
        assert (await tenant.send("DELETE", "/artifacts/a5")).status == 204
        assert (await tenant.send("DELETE", "/trajectories/t")).status == 204
        assert await tenant.refused("GET", "/trajectories/t") == (404, "TRAJECTORY_NOT_FOUND")
        again = await tenant.refused("DELETE", "/trajectories/t")
        assert again == (404, "TRAJECTORY_NOT_FOUND")
        body: Json = {"trajectory_id": "t", "name": "S", "token_budget": 1}
        refused = await tenant.refused("POST", "/scopes", body)
        assert refused == (404, "TRAJECTORY_NOT_FOUND")

        async def is_gone() -> bool:
            left = [
                await workspace.entities(domain, limit=1)
                for domain in (trajectories, scopes, artifacts, turns, offspring)
            ]
            return not any(left)

        await eventually(is_gone)
        events: list[Event] = []
        while page := await workspace.events(after=len(events), limit=1000):
            events += page
        types = Counter(event.type for event in events)
        assert types["trajectory_deleted"] == 2
        assert types["scope_deleted"] == many + 1
        assert types["artifact_deleted"] == types["turn_deleted"] == many
        made = await tenant.post("/trajectories", {"name": "T"})
        assert (await tenant.get("/trajectories"))["items"] == [made]


async def test_a_trajectory_is_no_parent_of_itself_nor_of_its_own_parents() -> None:
    async with coordinating(limits=NEVER) as (site, tenant):
        workspace = site.rt.workspace(tenant.id).acting(user_id=tenant.user.id)
        for command in (
            CreateTrajectory(name="T", trajectory_id="t", parent_trajectory_id="t"),
            CreateTrajectory(name="T", trajectory_id="t", parent_trajectory_id="c"),
        ):
            with pytest.raises(Exception, match="TRAJECTORY_NOT_FOUND"):
                await workspace.send(command)
        await workspace.send(CreateTrajectory(name="T", trajectory_id="t"))
        child = CreateTrajectory(name="C", trajectory_id="c", parent_trajectory_id="t")
        await workspace.send(child)
        assert (await tenant.send("DELETE", "/trajectories/t")).status == 204
        turned = CreateTrajectory(name="T", trajectory_id="t", parent_trajectory_id="c")
        with pytest.raises(Exception, match="ENTITY_ALREADY_EXISTS"):
            await workspace.send(turned)
