"""Tenants do not meet (P5): what is made, listed, read and changed is of one, whoever lies."""

from __future__ import annotations

from typing import Any

from dalsegno.actors.domains.members import PutMember, RemoveMember
from tests._coordination import (
    AGENT,
    API,
    ARTIFACT,
    LOCK,
    MESSAGE,
    NOTE,
    TURN,
    Json,
    Tenant,
)

from ._coordination import another, coordinating

# ----------------------------------------------------------------------- one of everything


async def one_of_each(tenant: Tenant) -> Json:
    """One entity of every family, by what its id is called."""
    giver, taker = await tenant.agent(), await tenant.agent()
    trajectory, scope = await tenant.place()
    note = await tenant.note()
    between = [
        {"entity_type": "Agent", "entity_id": giver},
        {"entity_type": "Note", "entity_id": note},
    ]
    edge = await tenant.post("/edges", {"edge_type": "Causal", "participants": between})
    ran = {"tool_name": "grep", "success": True, "duration_ms": 1}
    return {
        "trajectory_id": trajectory,
        "scope_id": scope,
        "artifact_id": await tenant.artifact(trajectory, scope),
        "note_id": note,
        "turn_id": await tenant.turn(scope),
        "agent_id": giver,
        "other_agent_id": taker,
        "lock_id": (await tenant.lock(giver))["lock_id"],
        "message_id": await tenant.message(giver, taker),
        "delegation_id": (await tenant.delegation(giver, taker))["delegation_id"],
        "handoff_id": (await tenant.handoff(giver, taker))["handoff_id"],
        "edge_id": edge["edge_id"],
        "execution_id": (await tenant.post("/tools/executions", ran))["execution_id"],
    }


def every_request_by_id(ids: Json) -> list[tuple[str, str, Any]]:
    """Every request that names an entity in its path, with a body that fits."""
    one, two = ids["agent_id"], ids["other_agent_id"]
    taking = {"accepting_agent_id": two}
    no = {"rejecting_agent_id": two, "reason": "no"}
    done = {"result": {"status": "Success"}}
    trajectory = f"/trajectories/{ids['trajectory_id']}"
    scope, artifact = f"/scopes/{ids['scope_id']}", f"/artifacts/{ids['artifact_id']}"
    note, agent = f"/notes/{ids['note_id']}", f"/agents/{one}"
    lock, message = f"/locks/{ids['lock_id']}", f"/messages/{ids['message_id']}"
    delegation = f"/delegations/{ids['delegation_id']}"
    handoff = f"/handoffs/{ids['handoff_id']}"
    return [
        *(("GET", path, None) for path in (trajectory, f"{trajectory}/scopes")),
        ("GET", f"{trajectory}/children", None),
        *(("GET", f"{scope}{below}", None) for below in ("", "/turns", "/artifacts")),
        *(("GET", path, None) for path in (artifact, note, agent, lock, message)),
        *(("GET", path, None) for path in (delegation, handoff, f"/turns/{ids['turn_id']}")),
        ("GET", f"/edges/{ids['edge_id']}", None),
        ("GET", f"/tools/executions/{ids['execution_id']}", None),
        ("PATCH", trajectory, {"name": "X"}),
        ("PATCH", scope, {"name": "X"}),
        ("PATCH", artifact, {"name": "X"}),
        ("PATCH", note, {"title": "X"}),
        ("PATCH", agent, {"status": "Blocked"}),
        ("POST", f"{scope}/checkpoint", {"context_state": {}}),
        ("POST", f"{scope}/close", None),
        ("POST", f"{agent}/heartbeat", None),
        ("POST", f"{lock}/extend", {"additional_ms": 1}),
        ("POST", f"{lock}/release", {"releasing_agent_id": one}),
        ("POST", f"{message}/deliver", None),
        ("POST", f"{message}/acknowledge", None),
        ("POST", f"{delegation}/accept", taking),
        ("POST", f"{delegation}/reject", no),
        ("POST", f"{delegation}/start", {"starting_agent_id": two}),
        ("POST", f"{delegation}/complete", done),
        ("POST", f"{handoff}/accept", taking),
        ("POST", f"{handoff}/reject", no),
        ("POST", f"{handoff}/complete", {}),
        *(("DELETE", path, None) for path in (artifact, note, agent, trajectory)),
    ]


async def test_x_ten_3_an_id_of_another_tenant_looks_as_if_it_did_not_exist() -> None:
    async with coordinating() as (site, tenant):
        other = await another(site, tenant.user)
        theirs = await one_of_each(tenant)
        head = await tenant.head()
        for method, path, body in every_request_by_id(theirs):
            answer = await other.send(method, path, body)
            assert (answer.status, answer.code.endswith("_NOT_FOUND")) == (404, True), path
            nothing = path.replace(path.split("/")[2], "nothing", 1)
            missing = await other.send(method, nothing, body)
            same = {**answer.body, "request_id": missing.body["request_id"]}
            assert same == missing.body or path.startswith("/tools")
        assert await tenant.head() == head


def every_field(ids: Json) -> list[tuple[str, Json, list[str]]]:
    """Every request that names entities in its body: path, body, the fields that do."""
    one, two = ids["agent_id"], ids["other_agent_id"]
    place = {"trajectory_id": ids["trajectory_id"], "scope_id": ids["scope_id"]}
    offer = {"from_agent_id": one, "to_agent_id": two, **place}
    message = {**MESSAGE, "from_agent_id": one, "to_agent_id": two, **place}
    between = [{"entity_type": "Agent", "entity_id": one}] * 2
    edge = {"edge_type": "Causal", "participants": between, "trajectory_id": place["trajectory_id"]}
    summary = {
        "policy_id": "p",
        "trigger": "t",
        "source_level": "a",
        "target_level": "b",
        "max_sources": 1,
        **place,
    }
    ran = {"tool_name": "grep", "success": True, "duration_ms": 1}
    scope = {"trajectory_id": ids["trajectory_id"], "name": "S", "token_budget": 1}
    note = {**NOTE, "source_trajectory_ids": ids["trajectory_id"]}
    return [
        (
            "/trajectories",
            {"name": "T", "parent_trajectory_id": ids["trajectory_id"], "agent_id": one},
            ["parent_trajectory_id", "agent_id"],
        ),
        (
            "/scopes",
            {**scope, "parent_scope_id": ids["scope_id"]},
            ["trajectory_id", "parent_scope_id"],
        ),
        ("/artifacts", {**ARTIFACT, **place}, ["trajectory_id", "scope_id"]),
        ("/turns", {**TURN, "sequence": 1, "scope_id": ids["scope_id"]}, ["scope_id"]),
        (
            "/notes",
            {**note, "source_artifact_ids": ids["artifact_id"]},
            ["source_trajectory_ids", "source_artifact_ids"],
        ),
        ("/agents", {**AGENT, "reports_to": one}, ["reports_to"]),
        (
            "/locks/acquire",
            {**LOCK, "resource_id": "another", "holder_agent_id": one},
            ["holder_agent_id"],
        ),
        (
            "/messages",
            {**message, "artifact_ids": ids["artifact_id"]},
            ["from_agent_id", "to_agent_id", "trajectory_id", "scope_id", "artifact_ids"],
        ),
        ("/delegations", {**offer, "task_description": "D"}, [*offer]),
        ("/handoffs", {**offer, "reason": "Scheduled", "context_snapshot": None}, [*offer]),
        ("/edges", edge, ["trajectory_id", "participants"]),
        ("/tools/executions", {**ran, "agent_id": one}, ["agent_id"]),
        ("/summarizations", summary, ["trajectory_id", "scope_id"]),
    ]


async def test_ids_of_another_tenant_are_found_in_no_field() -> None:
    async with coordinating() as (site, tenant):
        other = await another(site, tenant.user)
        own, theirs = await one_of_each(other), await one_of_each(tenant)
        head = await tenant.head()
        foreign = {path: body for path, body, _ in every_field(theirs)}
        for path, body, fields in every_field(own):
            for field in fields:
                lie = _listed({**body, field: foreign[path][field]})
                answer = await other.send("POST", path, lie)
                assert (answer.status, answer.code.endswith("_NOT_FOUND")) == (404, True), field
        for field in ("reports_to", "current_trajectory_id", "current_scope_id"):
            name = {"reports_to": "agent_id"}.get(field, field.removeprefix("current_"))
            refused = await other.refused(
                "PATCH", f"/agents/{own['agent_id']}", {field: theirs[name]}
            )
            assert refused[0] == 404
        assert await tenant.head() == head


def _listed(body: Json) -> Json:
    """Return a body whose lists of ids are lists."""
    plural = {name: [value] for name, value in body.items() if name.endswith("_ids")}
    return {**body, **plural}


# --------------------------------------------------------------------------------- whose it is


async def test_x_ten_1_and_5_a_tenant_is_the_row_s_own_whatever_a_body_says() -> None:
    async with coordinating() as (site, tenant):
        other = await another(site, tenant.user)
        lie = {"metadata": {"tenant_id": tenant.id}}
        made = await other.post("/trajectories", {"name": "T", **lie})
        assert made["tenant_id"] == other.id
        assert made["metadata"] == lie["metadata"]
        scope = await other.scope(made["trajectory_id"], **lie)
        assert (await other.get(f"/scopes/{scope}"))["tenant_id"] == other.id
        giver, taker = await other.agent(), await other.agent()
        delegated = await other.delegation(giver, taker, context={"tenant_id": tenant.id})
        assert delegated["tenant_id"] == other.id
        assert (await tenant.get("/trajectories"))["items"] == []
        assert await tenant.head() == 0
        for wrong in ({"tenant_id": tenant.id}, {"workspace_id": tenant.id}):
            refused = await other.refused("POST", "/trajectories", {"name": "T", **wrong})
            assert refused == (400, "VALIDATION_FAILED")


async def test_x_ten_2_a_list_has_its_tenants_own() -> None:
    async with coordinating() as (site, tenant):
        other = await another(site, tenant.user)
        mine, theirs = await tenant.trajectory(), await other.trajectory()
        for each, own in ((tenant, mine), (other, theirs)):
            listed = (await each.get("/trajectories"))["items"]
            assert [item["trajectory_id"] for item in listed] == [own]


async def test_the_tenant_is_named_by_the_header_or_is_the_only_one() -> None:
    async with coordinating() as (site, tenant):
        user = tenant.user
        other = await another(site, user)
        assert (await user.post(f"{API}/trajectories", {"name": "T"})).body[
            "tenant_id"
        ] == tenant.id
        # Two memberships, and none.
        await site.rt.workspace(other.id).send(PutMember(user.id, "editor"))
        answer = await user.post(f"{API}/trajectories", {"name": "T"})
        assert (answer.status, answer.code) == (400, "MISSING_FIELD")
        assert answer.body["details"]["field"] == "x-tenant-id"
        assert (await user.get(f"{API}/agents?tenant_id={other.id}")).status == 200
        both = await tenant.send("GET", f"/agents?tenant_id={other.id}")
        assert (both.status, both.code) == (400, "VALIDATION_FAILED")
        stranger = await site.add_user()
        answer = await stranger.get(f"{API}/agents")
        assert (answer.status, answer.code) == (400, "MISSING_FIELD")
        for named in (tenant.id, "nothing", "$system", "?", "x" * 65):
            answer = await stranger.get(f"{API}/agents", x_tenant_id=named)
            assert answer.status in {400, 403}
        answer = await stranger.get(f"{API}/agents", x_tenant_id=tenant.id)
        unknown = await stranger.get(f"{API}/agents", x_tenant_id="nothing")
        assert (answer.status, answer.code) == (unknown.status, unknown.code) == (403, "FORBIDDEN")
        await site.rt.workspace(other.id).send(RemoveMember(user.id))
        answer = await user.get(f"{API}/agents", x_tenant_id=other.id)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")


async def test_p4_who_asks_is_authenticated_and_told_so_in_the_sources_words() -> None:
    async with coordinating() as (site, tenant):
        answer = await site.send("GET", f"{API}/agents")
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"] == 'Bearer realm="dalsegno"'
        wrong = {"authorization": "Bearer nonsense"}
        answer = await site.send("GET", f"{API}/agents", headers=wrong)
        assert (answer.status, answer.code) == (401, "INVALID_TOKEN")
        assert answer.headers["www-authenticate"].endswith('error="invalid_token"')
        made = await tenant.user.post(
            f"{tenant.user.space}/keys", {"name": "agent", "role": "editor"}
        )
        assert made.status == 201, made.raw
        for name in ("x-api-key", "authorization"):
            shown = made.body["key"] if name == "x-api-key" else f"Bearer {made.body['key']}"
            by_key = await site.send("POST", f"{API}/agents", AGENT, headers={name: shown})
            assert (by_key.status, by_key.body["tenant_id"]) == (201, tenant.id)
        other = await another(site, tenant.user)
        elsewhere = {"x-api-key": made.body["key"], "x-tenant-id": other.id}
        answer = await site.send("GET", f"{API}/agents", headers=elsewhere)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")


async def test_tenants_are_read_by_their_members_alone() -> None:
    async with coordinating() as (site, tenant):
        other = await another(site, tenant.user)
        listed = await tenant.get("/tenants")
        assert [item["tenant_id"] for item in listed["items"]] == [tenant.id]
        shown = await tenant.get(f"/tenants/{tenant.id}")
        assert shown == listed["items"][0] == {**shown, "name": "Main", "role": "owner"}
        for named in (other.id, "nothing", "$system"):
            answer = await tenant.send("GET", f"/tenants/{named}")
            assert (answer.status, answer.code) == (404, "TENANT_NOT_FOUND")


async def test_a_key_is_its_tenants_own() -> None:
    async with coordinating() as (site, tenant):
        other = await another(site, tenant.user)
        await site.rt.workspace(other.id).send(PutMember(tenant.user.id, "editor"))
        made = []
        for tenant_id in (tenant.id, other.id):
            answer = await tenant.user.post(
                f"{API}/trajectories",
                {"name": "T"},
                x_tenant_id=tenant_id,
                idempotency_key="the same",
            )
            assert "x-idempotency-replay" not in answer.headers
            made.append(answer.body["trajectory_id"])
        assert len(set(made)) == 2
