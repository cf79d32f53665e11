"""Every family over HTTP: its fields, its statuses, its events and its refusals (§2.3, §2.5)."""

from __future__ import annotations

from typing import Any

import pytest

from tests._coordination import AGENT, NOTE, Json

from ._coordination import Member, coordinating

# ---------------------------------------------------------------------- one mutation, one event


async def test_x_cal_1_every_mutation_leads_to_its_event_of_the_table() -> None:
    async with coordinating() as (_, tenant):
        seen: list[str] = []

        async def led_to(method: str, path: str, body: Any = None, *, status: int) -> Json:
            head = await tenant.head()
            answer = await tenant.send(method, path, body)
            assert answer.status == status, answer.raw
            seen.append(" ".join(await tenant.types(head)))
            return answer.body if answer.raw else {}

        made = await led_to("POST", "/trajectories", {"name": "T"}, status=201)
        trajectory = made["trajectory_id"]
        await led_to("PATCH", f"/trajectories/{trajectory}", {"name": "U"}, status=200)
        body: Json = {"trajectory_id": trajectory, "name": "S", "token_budget": 10}
        scope = (await led_to("POST", "/scopes", body, status=201))["scope_id"]
        await led_to("PATCH", f"/scopes/{scope}", {"purpose": "P"}, status=200)
        state = {"context_state": {"step": 1}}
        await led_to("POST", f"/scopes/{scope}/checkpoint", state, status=201)
        turn = await tenant.turn(scope)
        assert (await tenant.get(f"/turns/{turn}"))["content"] == "Hello"
        artifact = await tenant.artifact(trajectory, scope)
        await led_to("PATCH", f"/artifacts/{artifact}", {"content": "x"}, status=200)
        await led_to("DELETE", f"/artifacts/{artifact}", status=204)
        note = (await led_to("POST", "/notes", NOTE, status=201))["note_id"]
        await led_to("PATCH", f"/notes/{note}", {"title": "M"}, status=200)
        await led_to("DELETE", f"/notes/{note}", status=204)
        await led_to("POST", f"/scopes/{scope}/close", status=200)
        one = (await led_to("POST", "/agents", AGENT, status=201))["agent_id"]
        two = await tenant.agent()
        await led_to("PATCH", f"/agents/{one}", {"status": "Active"}, status=200)
        await led_to("PATCH", f"/agents/{one}", {"capabilities": ["rest"]}, status=200)
        await led_to("PATCH", f"/agents/{one}", {"status": "Idle", "reports_to": two}, status=200)
        await led_to("POST", f"/agents/{one}/heartbeat", status=200)
        lock = (await tenant.lock(one))["lock_id"]
        await led_to("POST", f"/locks/{lock}/extend", {"additional_ms": 5}, status=200)
        await led_to("POST", f"/locks/{lock}/release", {"releasing_agent_id": one}, status=204)
        message = await tenant.message(one, two)
        await led_to("POST", f"/messages/{message}/deliver", status=204)
        await led_to("POST", f"/messages/{message}/acknowledge", status=204)
        first = (await tenant.delegation(one, two))["delegation_id"]
        path = f"/delegations/{first}"
        await led_to("POST", f"{path}/accept", {"accepting_agent_id": two}, status=204)
        await led_to("POST", f"{path}/start", {"starting_agent_id": two}, status=204)
        done = {"result": {"status": "Success", "output": {"n": 1}, "artifacts": []}}
        await led_to("POST", f"{path}/complete", done, status=204)
        second = (await tenant.delegation(one, two))["delegation_id"]
        no = {"rejecting_agent_id": two, "reason": "busy"}
        await led_to("POST", f"/delegations/{second}/reject", no, status=204)
        third = (await tenant.handoff(one, two))["handoff_id"]
        path = f"/handoffs/{third}"
        await led_to("POST", f"{path}/accept", {"accepting_agent_id": two}, status=204)
        await led_to("POST", f"{path}/complete", {}, status=204)
        fourth = (await tenant.handoff(one, two))["handoff_id"]
        await led_to("POST", f"/handoffs/{fourth}/reject", no, status=204)
        await led_to("PATCH", "/config", {"config": {"a": 1}}, status=200)
        between = [
            {"entity_type": "Agent", "entity_id": one},
            {"entity_type": "Agent", "entity_id": two},
        ]
        edge = {"edge_type": "RelatesTo", "participants": between}
        await led_to("POST", "/edges", edge, status=201)
        await led_to("POST", "/edges/batch", {"edges": [edge, edge]}, status=201)
        ran = {"tool_name": "grep", "success": True, "duration_ms": 3}
        await led_to("POST", "/tools/executions", ran, status=201)
        due = {
            "policy_id": "p",
            "trigger": "Manual",
            "trajectory_id": trajectory,
            "scope_id": scope,
            "source_level": "Raw",
            "target_level": "Summary",
            "max_sources": 3,
        }
        await led_to("POST", "/summarizations", due, status=201)
        await led_to("DELETE", f"/agents/{one}", status=204)
        await led_to("DELETE", f"/trajectories/{trajectory}", status=204)
        assert seen == [
            "trajectory_created",
            "trajectory_updated",
            "scope_created trajectory_page_turned offspring_added",
            "scope_updated",
            "scope_checkpointed",
            "artifact_updated",
            "artifact_deleted",
            "agent_note_created",
            "agent_note_updated",
            "agent_note_deleted",
            "scope_closed",
            "agent_registered",
            "agent_status_changed",
            "agent_updated",
            "agent_updated agent_status_changed",
            "agent_heartbeat",
            "agent_lock_extended resource_held",
            "agent_lock_released resource_freed",
            "agent_message_delivered",
            "agent_message_acknowledged",
            "delegation_accepted agent_pair_freed",
            "delegation_started",
            "delegation_completed",
            "delegation_rejected agent_pair_freed",
            "handoff_accepted agent_pair_freed",
            "handoff_completed",
            "handoff_rejected agent_pair_freed",
            "agent_config_updated",
            "agent_edge_created",
            "agent_edge_added agent_edge_added agent_edges_created",
            "tool_executed",
            "summarization_triggered",
            "agent_unregistered",
            "trajectory_deleted",
        ]


async def test_x_cal_1_what_is_only_read_leads_to_no_event() -> None:
    async with coordinating() as (_, tenant):
        one, two = await tenant.agent(), await tenant.agent()
        trajectory, scope = await tenant.place()
        ids = {
            "trajectories": trajectory,
            "scopes": scope,
            "artifacts": await tenant.artifact(trajectory, scope),
            "notes": await tenant.note(),
            "turns": await tenant.turn(scope),
            "agents": one,
            "locks": (await tenant.lock(one))["lock_id"],
            "messages": await tenant.message(one, two),
            "delegations": (await tenant.delegation(one, two))["delegation_id"],
            "handoffs": (await tenant.handoff(one, two))["handoff_id"],
            "tenants": tenant.id,
        }
        head = await tenant.head()
        for kind, entity_id in ids.items():
            shown = await tenant.get(f"/{kind}/{entity_id}")
            assert shown["tenant_id"] == tenant.id
            if kind not in {"scopes", "turns"}:
                listed = await tenant.get(f"/{kind}")
                assert shown in listed["items"]
        assert (await tenant.get(f"/trajectories/{trajectory}/scopes"))["items"]
        assert (await tenant.get(f"/trajectories/{trajectory}/children"))["items"] == []
        assert (await tenant.get(f"/scopes/{scope}/turns"))["items"]
        assert (await tenant.get(f"/scopes/{scope}/artifacts"))["items"]
        assert (await tenant.post("/artifacts/search", {}, status=200))["items"]
        assert (await tenant.get("/config"))["config"]["agent_offline_after_s"] == 90.0
        valid = await tenant.post("/config/validate", {"config": {"x": 1}}, status=200)
        assert valid == {"config": {"x": 1}, "valid": True, "errors": []}
        assert await tenant.head() == head


# -------------------------------------------------------------------------------- what is shown


async def test_a_created_entity_is_answered_whole_and_read_as_it_was_answered() -> None:
    async with coordinating() as (_, tenant):
        agent = await tenant.post("/agents", AGENT)
        assert await tenant.get(f"/agents/{agent['agent_id']}") == agent
        assert agent == {
            **AGENT,
            "tenant_id": tenant.id,
            "agent_id": agent["agent_id"],
            "version": 1,
            "reports_to": None,
            "status": "Idle",
            "current_trajectory_id": None,
            "current_scope_id": None,
            "created_at": "2026-02-13T12:00:00Z",
            "last_heartbeat": "2026-02-13T12:00:00Z",
        }
        lock = await tenant.lock(agent["agent_id"])
        assert lock == {
            "tenant_id": tenant.id,
            "lock_id": lock["lock_id"],
            "version": 1,
            "resource_type": "file",
            "resource_id": "main.py",
            "holder_agent_id": agent["agent_id"],
            "acquired_at": "2026-02-13T12:00:00Z",
            "expires_at": "2026-02-13T12:01:00Z",
            "mode": "Exclusive",
        }


async def test_a_repeat_of_a_key_gets_the_first_answer_whatever_has_happened_since() -> None:
    async with coordinating() as (_, tenant):
        first = await tenant.send("POST", "/trajectories", {"name": "T"}, idempotency_key="k")
        path = f"/trajectories/{first.body['trajectory_id']}"
        await tenant.patch(path, {"name": "U", "status": "Completed"})
        again = await tenant.send("POST", "/trajectories", {"name": "T"}, idempotency_key="k")
        assert (again.status, again.headers["x-idempotency-replay"]) == (201, "true")
        assert {**again.body, "request_id": ""} == {**first.body, "request_id": ""}
        other = await tenant.send("POST", "/trajectories", {"name": "V"}, idempotency_key="k")
        assert (other.status, other.code) == (409, "STATE_CONFLICT")
        deleted = await tenant.send("DELETE", path, idempotency_key="d")
        gone = await tenant.send("DELETE", path, idempotency_key="d")
        assert (deleted.status, gone.status) == (204, 204)
        assert gone.headers["x-idempotency-replay"] == "true"
        again = await tenant.send("POST", "/trajectories", {"name": "T"}, idempotency_key="k")
        assert again.body["name"] == "T"


async def test_a_change_is_based_on_a_version_where_that_is_said() -> None:
    async with coordinating() as (_, tenant):
        path = f"/trajectories/{await tenant.trajectory()}"
        read = await tenant.send("GET", path)
        tag = read.headers["etag"]
        same = await tenant.send("GET", path, if_none_match=tag)
        assert same.status == 304
        changed = await tenant.send("PATCH", path, {"name": "U"}, if_match=tag)
        assert (changed.status, changed.body["version"]) == (200, 2)
        late = await tenant.send("PATCH", path, {"name": "W"}, if_match=tag)
        assert (late.status, late.code) == (409, "CONCURRENT_MODIFICATION")
        late = await tenant.send("DELETE", path, if_match=tag)
        assert (late.status, late.code) == (409, "CONCURRENT_MODIFICATION")


async def test_a_change_to_what_is_already_so_is_none_and_an_empty_one_is_refused() -> None:
    async with coordinating() as (_, tenant):
        agent = await tenant.agent()
        for path, body in {
            f"/trajectories/{await tenant.trajectory()}": {"name": "T"},
            f"/notes/{await tenant.note()}": {"title": "N"},
            f"/agents/{agent}": {"status": "Idle"},
        }.items():
            head = await tenant.head()
            assert (await tenant.patch(path, body))["version"] == 1
            assert await tenant.head() == head
            assert await tenant.refused("PATCH", path, {}) == (400, "INVALID_INPUT")


async def test_null_takes_away_what_may_be_missing() -> None:
    async with coordinating() as (_, tenant):
        body = {"description": "D", "metadata": {"a": 1}}
        path = f"/trajectories/{await tenant.trajectory(**body)}"
        changed = await tenant.patch(path, {"description": None})
        assert (changed["description"], changed["metadata"]) == (None, {"a": 1})
        assert await tenant.refused("PATCH", path, {"name": None}) == (400, "VALIDATION_FAILED")


async def test_a_trajectory_has_an_end_once_its_status_is_one() -> None:
    async with coordinating() as (site, tenant):
        path = f"/trajectories/{await tenant.trajectory()}"
        site.clock.move(seconds=5)
        outcome = {"status": "Partial", "summary": "nearly", "error": None}
        done = await tenant.patch(path, {"status": "Failed", "outcome": outcome})
        assert done["completed_at"] == done["updated_at"] == "2026-02-13T12:00:05Z"
        assert done["outcome"] == outcome
        assert (await tenant.patch(path, {"status": "Active"}))["completed_at"] is None


# ---------------------------------------------------------------------------------------- lists


async def test_lists_are_filtered_paged_and_tell_their_moment() -> None:
    async with coordinating() as (_, tenant):
        ids = [await tenant.trajectory(name=f"T{number}") for number in range(5)]
        await tenant.patch(f"/trajectories/{ids[1]}", {"status": "Suspended"})
        await tenant.patch(f"/trajectories/{ids[3]}", {"status": "Suspended"})
        child = await tenant.trajectory(parent_trajectory_id=ids[0])

        async def listed(query: str) -> list[str]:
            page = await tenant.get(f"/trajectories?{query}")
            assert page["event_seq"] == await tenant.head()
            return [item["trajectory_id"] for item in page["items"]]

        assert await listed("") == [*ids, child]
        assert await listed("status=Suspended") == [ids[1], ids[3]]
        assert await listed(f"status=Active&parent_trajectory_id={ids[0]}") == [child]
        assert await listed("status=Completed") == []
        first = await tenant.get("/trajectories?limit=4")
        assert await listed(f"limit=4&after={first['next']}") == [ids[4], child]
        children = await tenant.get(f"/trajectories/{ids[0]}/children")
        assert [item["trajectory_id"] for item in children["items"]] == [child]
        too_many = await tenant.refused("GET", "/trajectories?limit=100000")
        assert too_many == (400, "VALIDATION_FAILED")


async def test_a_search_is_by_fields_and_by_the_words_of_a_title() -> None:
    async with coordinating() as (_, tenant):
        first = await tenant.note(title="How the parser Works", note_type="Fact")
        second = await tenant.note(title="Why the lexer works", note_type="Gotcha")

        async def found(**body: Any) -> list[str]:
            page = await tenant.post("/notes/search", body, status=200)
            return [item["note_id"] for item in page["items"]]

        assert await found() == [first, second]
        assert await found(query="works the") == [first, second]
        assert await found(query="PARSER") == [first]
        assert await found(query="works", note_type="Gotcha") == [second]
        assert await found(query="work less") == []
        page = await tenant.post("/notes/search", {"query": "lexer", "limit": 1}, status=200)
        assert page["items"] == []
        assert await found(query="lexer", after=page["next"]) == [second]
        refused = await tenant.refused("POST", "/notes/search", {"limit": 0})
        assert refused == (400, "INVALID_RANGE")


async def test_turns_are_listed_by_their_sequence() -> None:
    async with coordinating() as (_, tenant):
        _, scope = await tenant.place()
        for sequence in (10, 2, 7):
            await tenant.turn(scope, sequence)
        listed = await tenant.get(f"/scopes/{scope}/turns")
        assert [item["sequence"] for item in listed["items"]] == [2, 7, 10]
        page = await tenant.get(f"/scopes/{scope}/turns?limit=2")
        rest = await tenant.get(f"/scopes/{scope}/turns?limit=2&after={page['next']}")
        assert [item["sequence"] for item in rest["items"]] == [10]


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/trajectories", {}, 400, "MISSING_FIELD"),
        ("/trajectories", {"name": ""}, 400, "VALIDATION_FAILED"),
        ("/trajectories", {"name": 1}, 400, "VALIDATION_FAILED"),
        ("/trajectories", {"name": "T", "tenant_id": "x"}, 400, "VALIDATION_FAILED"),
        ("/trajectories", {"name": "T", "parent_trajectory_id": "?"}, 404, "TRAJECTORY_NOT_FOUND"),
        ("/trajectories", {"name": "T", "agent_id": "?"}, 404, "AGENT_NOT_FOUND"),
        ("/scopes", {"trajectory_id": "?", "name": "S"}, 400, "MISSING_FIELD"),
        (
            "/scopes",
            {"trajectory_id": "?", "name": "S", "token_budget": 1},
            404,
            "TRAJECTORY_NOT_FOUND",
        ),
        (
            "/scopes",
            {"trajectory_id": "?", "name": "S", "token_budget": -1},
            400,
            "INVALID_RANGE",
        ),
        ("/agents", {**AGENT, "capabilities": []}, 400, "VALIDATION_FAILED"),
        ("/agents", {**AGENT, "reports_to": "?"}, 404, "AGENT_NOT_FOUND"),
        ("/notes", {**NOTE, "note_type": "Rumour"}, 400, "VALIDATION_FAILED"),
        ("/notes", {**NOTE, "source_trajectory_ids": ["?"]}, 404, "TRAJECTORY_NOT_FOUND"),
        ("/notes", {**NOTE, "source_artifact_ids": ["?"]}, 404, "ARTIFACT_NOT_FOUND"),
    ],
)
async def test_what_is_wrong_is_told_by_the_sources_codes(
    path: str, body: Json, status: int, code: str
) -> None:
    async with coordinating() as (_, tenant):
        head = await tenant.head()
        assert await tenant.refused("POST", path, body) == (status, code)
        assert await tenant.head() == head


async def test_what_does_not_exist_is_not_found_under_the_sources_name() -> None:
    names = {
        "trajectories": "TRAJECTORY_NOT_FOUND",
        "scopes": "SCOPE_NOT_FOUND",
        "artifacts": "ARTIFACT_NOT_FOUND",
        "notes": "NOTE_NOT_FOUND",
        "turns": "ENTITY_NOT_FOUND",
        "agents": "AGENT_NOT_FOUND",
        "locks": "LOCK_NOT_FOUND",
        "messages": "MESSAGE_NOT_FOUND",
        "delegations": "ENTITY_NOT_FOUND",
        "handoffs": "ENTITY_NOT_FOUND",
        "edges": "ENTITY_NOT_FOUND",
        "tenants": "TENANT_NOT_FOUND",
    }
    async with coordinating() as (_, tenant):
        for path, code in names.items():
            assert await tenant.refused("GET", f"/{path}/nobody") == (404, code)


async def test_scopes_are_of_their_trajectory_and_closed_once() -> None:
    async with coordinating() as (_, tenant):
        (one, scope), (two, other) = await tenant.place(), await tenant.place()
        inner = await tenant.scope(one, parent_scope_id=scope)
        assert (await tenant.get(f"/scopes/{inner}"))["parent_scope_id"] == scope
        body: Json = {"trajectory_id": two, "name": "S", "token_budget": 1}
        refused = await tenant.refused("POST", "/scopes", {**body, "parent_scope_id": scope})
        assert refused == (404, "SCOPE_NOT_FOUND")
        for wrong in ({"trajectory_id": one, "scope_id": other}, {"scope_id": "?"}):
            made = {"trajectory_id": one, **wrong}
            with pytest.raises(AssertionError, match="SCOPE_NOT_FOUND"):
                await tenant.artifact(**made)
        closed = await tenant.post(f"/scopes/{scope}/close", status=200)
        assert (closed["is_active"], closed["closed_at"]) == (False, "2026-02-13T12:00:00Z")
        assert await tenant.refused("POST", f"/scopes/{scope}/close") == (409, "STATE_CONFLICT")
        state: Json = {"context_state": {}}
        refused = await tenant.refused("POST", f"/scopes/{scope}/checkpoint", state)
        assert refused == (409, "STATE_CONFLICT")


async def test_an_edge_is_between_entities_of_its_tenant() -> None:
    async with coordinating() as (_, tenant):
        note, agent = await tenant.note(), await tenant.agent()
        participants = [
            {"entity_type": "Note", "entity_id": note},
            {"entity_type": "Agent", "entity_id": agent, "role": "author"},
        ]
        edge: Json = {"edge_type": "DerivedFrom", "participants": participants, "weight": 0.5}
        made = await tenant.post("/edges", edge)
        listed = await tenant.get(f"/edges?entity_id={note}")
        assert listed["items"] == [made]
        batch = await tenant.post("/edges/batch", {"edges": [edge] * 3})
        for edge_id in batch["edge_ids"]:
            assert (await tenant.get(f"/edges/{edge_id}"))["weight"] == 0.5
        strange = {
            **edge,
            "participants": [*participants, {"entity_type": "Turn", "entity_id": "?"}],
        }
        head = await tenant.head()
        refused = await tenant.refused("POST", "/edges/batch", {"edges": [edge, strange]})
        assert refused == (404, "ENTITY_NOT_FOUND")
        assert await tenant.head() == head
        alone = {**edge, "participants": participants[:1]}
        assert await tenant.refused("POST", "/edges", alone) == (400, "VALIDATION_FAILED")
        label = {"entity_type": "Conflict", "entity_id": "whatever"}
        await tenant.post("/edges", {**edge, "participants": [*participants, label]})


async def test_the_configuration_is_merged_checked_and_changed_by_who_may() -> None:
    async with coordinating() as (site, tenant):
        changed = await tenant.patch("/config", {"config": {"delegation_timeout_s": 5, "x": [1]}})
        assert changed["config"]["delegation_timeout_s"] == 5
        assert changed["config"]["handoff_timeout_s"] == 1800.0
        assert (await tenant.patch("/config", {"config": {"x": None}}))["config"].get("x") is None
        for wrong in ({"delegation_timeout_s": 0}, {"handoff_timeout_s": "1"}, {"x": "y" * 70_000}):
            assert await tenant.refused("PATCH", "/config", {"config": wrong}) == (
                400,
                "VALIDATION_FAILED",
            )
            looked = await tenant.post("/config/validate", {"config": wrong}, status=200)
            assert looked["valid"] is False
            assert len(looked["errors"]) == 1
        editor = Member(await site.add_member(tenant.user, "editor"), tenant.id)
        assert await editor.refused("PATCH", "/config", {"config": {}}) == (403, "FORBIDDEN")
        assert (await editor.get("/config"))["config"]["delegation_timeout_s"] == 5


async def test_a_viewer_reads_and_changes_nothing() -> None:
    async with coordinating() as (site, tenant):
        trajectory = await tenant.trajectory()
        viewer = Member(await site.add_member(tenant.user, "viewer"), tenant.id)
        assert (await viewer.get(f"/trajectories/{trajectory}"))["name"] == "T"
        refused = await viewer.refused("POST", "/trajectories", {"name": "T"})
        assert refused == (403, "FORBIDDEN")
