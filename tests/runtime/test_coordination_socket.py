"""The socket of coordination: its first word, each event in the source's words, the last one."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from trio_websocket import ConnectionClosed

from dalsegno.actors.domains.coordination import FORMS, coordination_app, coordination_domains
from dalsegno.actors.domains.members import PutMember, RemoveMember, members
from dalsegno.actors.domains.notes import note_app, note_domains, note_routes
from dalsegno.protocol import App, Close
from tests._coordination import AGENT, NOTE, Json
from tests._http import PLAIN
from tests.runtime._coordination_wire import KeyHolder, Listener, connected, make_key
from tests.runtime._serving import Person, Site, serving, set_up

FIELDS: dict[str, str] = {
    "TrajectoryCreated": "trajectory",
    "TrajectoryUpdated": "trajectory",
    "TrajectoryDeleted": "tenant_id id",
    "ScopeCreated": "scope",
    "ScopeUpdated": "scope",
    "ScopeClosed": "scope",
    "ScopeCheckpointed": "scope",
    "ArtifactCreated": "artifact",
    "ArtifactUpdated": "artifact",
    "ArtifactDeleted": "tenant_id id",
    "NoteCreated": "note",
    "NoteUpdated": "note",
    "NoteDeleted": "tenant_id id",
    "TurnCreated": "turn",
    "AgentRegistered": "agent",
    "AgentUpdated": "agent",
    "AgentStatusChanged": "tenant_id agent_id status",
    "AgentHeartbeat": "tenant_id agent_id timestamp",
    "AgentUnregistered": "tenant_id id",
    "LockAcquired": "lock",
    "LockExtended": "lock",
    "LockReleased": "tenant_id lock_id",
    "LockExpired": "tenant_id lock_id",
    "MessageSent": "message",
    "MessageDelivered": "tenant_id message_id",
    "MessageAcknowledged": "tenant_id message_id",
    "MessageExpired": "tenant_id message_id",
    "DelegationCreated": "delegation",
    "DelegationAccepted": "tenant_id delegation_id",
    "DelegationRejected": "tenant_id delegation_id reason",
    "DelegationStarted": "tenant_id delegation_id",
    "DelegationCompleted": "delegation",
    "DelegationFailed": "tenant_id delegation_id reason",
    "HandoffCreated": "handoff",
    "HandoffAccepted": "tenant_id handoff_id",
    "HandoffRejected": "tenant_id handoff_id reason",
    "HandoffCompleted": "handoff",
    "ConfigUpdated": "config",
    "EdgeCreated": "tenant_id edge_id edge_type",
    "EdgesBatchCreated": "tenant_id count",
    "ToolExecuted": "tenant_id agent_id tool_name success duration_ms error",
    "SummarizationTriggered": "tenant_id policy_id trigger scope_id trajectory_id source_level"
    " target_level max_sources create_edges",
}
"""§2.3, and what was missing there."""


@asynccontextmanager
async def coordinating(
    database: str, app: App = coordination_app
) -> AsyncIterator[tuple[Site, Person, KeyHolder]]:
    async with (
        serving(database, app=app) as site,
        httpx.AsyncClient(**PLAIN) as http,
    ):
        owner = await set_up(site)
        key = await make_key(http, site.url, owner.workspace, await csrf(http, owner), "admin")
        yield site, owner, KeyHolder(site.url, key, owner.workspace, http)


async def csrf(http: httpx.AsyncClient, owner: Person) -> dict[str, str]:
    """The headers of a page of the owner's."""
    shown = await http.get(f"{owner.url}/api/auth/session", headers={"cookie": owner.cookie})
    return {"cookie": owner.cookie, "x-csrf-token": shown.json()["csrf_token"]}


async def everything(tenant: KeyHolder) -> dict[str, Any]:
    """Do one of each; return the whole entities that were answered, by their message."""
    shown: dict[str, Any] = {}

    async def post(type_: str, path: str, body: Any = None, status: int = 204) -> Json:
        answered = await tenant.post(path, body, status)
        shown[type_] = answered
        return answered

    shown["TrajectoryCreated"] = made = await tenant.post("/trajectories", {"name": "T"})
    trajectory = made["trajectory_id"]
    path = f"/trajectories/{trajectory}"
    shown["TrajectoryUpdated"] = await tenant.patch(path, {"status": "Suspended"})
    body: Json = {"trajectory_id": trajectory, "name": "S", "token_budget": 1}
    scope = (await post("ScopeCreated", "/scopes", body, 201))["scope_id"]
    shown["ScopeUpdated"] = await tenant.patch(f"/scopes/{scope}", {"purpose": "P"})
    checkpoint = {"context_state": {"a": [1]}}
    await post("ScopeCheckpointed", f"/scopes/{scope}/checkpoint", checkpoint, 201)
    turn = await tenant.turn(scope)
    shown["TurnCreated"] = await tenant.get(f"/turns/{turn}")
    artifact = await tenant.artifact(trajectory, scope)
    shown["ArtifactCreated"] = await tenant.get(f"/artifacts/{artifact}")
    shown["ArtifactUpdated"] = await tenant.patch(f"/artifacts/{artifact}", {"name": "B"})
    await tenant.send("DELETE", f"/artifacts/{artifact}")
    note = (await post("NoteCreated", "/notes", NOTE, 201))["note_id"]
    shown["NoteUpdated"] = await tenant.patch(f"/notes/{note}", {"title": "M"})
    await tenant.send("DELETE", f"/notes/{note}")
    await post("ScopeClosed", f"/scopes/{scope}/close", None, 200)
    await tenant.patch("/config", {"config": {"handoff_timeout_s": 0.1}})
    one = (await post("AgentRegistered", "/agents", AGENT, 201))["agent_id"]
    two = await tenant.agent()
    await tenant.patch(f"/agents/{one}", {"status": "Blocked"})
    shown["AgentUpdated"] = await tenant.patch(f"/agents/{one}", {"can_delegate_to": []})
    await tenant.post(f"/agents/{one}/heartbeat", status=200)
    shown["LockAcquired"] = lock = await tenant.lock(one)
    path = f"/locks/{lock['lock_id']}"
    await post("LockExtended", f"{path}/extend", {"additional_ms": 1}, 200)
    await tenant.post(f"{path}/release", {"releasing_agent_id": one}, 204)
    message = await tenant.message(one, two)
    shown["MessageSent"] = await tenant.get(f"/messages/{message}")
    await tenant.post(f"/messages/{message}/deliver", status=204)
    await tenant.post(f"/messages/{message}/acknowledge", status=204)
    shown["DelegationCreated"] = made = await tenant.delegation(one, two)
    path = f"/delegations/{made['delegation_id']}"
    await tenant.post(f"{path}/accept", {"accepting_agent_id": two}, 204)
    await tenant.post(f"{path}/start", {"starting_agent_id": two}, 204)
    await tenant.post(f"{path}/complete", {"result": {"status": "Failure"}}, 204)
    shown["DelegationCompleted"] = await tenant.get(path)
    made = await tenant.delegation(one, two)
    no = {"rejecting_agent_id": two, "reason": "busy"}
    await tenant.post(f"/delegations/{made['delegation_id']}/reject", no, 204)
    await tenant.patch("/config", {"config": {"handoff_timeout_s": None}})
    shown["HandoffCreated"] = made = await tenant.handoff(one, two)
    path = f"/handoffs/{made['handoff_id']}"
    await tenant.post(f"{path}/accept", {"accepting_agent_id": two}, 204)
    await tenant.post(f"{path}/complete", {}, 204)
    shown["HandoffCompleted"] = await tenant.get(path)
    between = [{"entity_type": "Agent", "entity_id": each} for each in (one, two)]
    edge = {"edge_type": "Grouped", "participants": between}
    await tenant.post("/edges", edge)
    await tenant.post("/edges/batch", {"edges": [edge, edge]})
    ran = {"agent_id": one, "tool_name": "grep", "success": False, "duration_ms": 7, "error": "E"}
    await tenant.post("/tools/executions", ran)
    due = {"policy_id": "p", "trigger": "Manual", "trajectory_id": trajectory, "scope_id": scope}
    levels = {"source_level": "Raw", "target_level": "Summary", "max_sources": 3}
    await tenant.post("/summarizations", {**due, **levels, "create_edges": True})
    # What time does by itself.
    await tenant.patch(
        "/config", {"config": {"delegation_timeout_s": 0.1, "handoff_timeout_s": 0.1}}
    )
    await tenant.delegation(one, two)
    await tenant.handoff(one, two)
    await tenant.lock(one, timeout_ms=50)
    return shown | {"one": one, "trajectory": trajectory}


async def test_every_event_is_a_message_in_the_source_s_words(migrated: str) -> None:
    assert {form.message.__struct_config__.tag for form in FORMS.values()} == set(FIELDS)
    async with coordinating(migrated) as (site, owner, tenant), tenant.listening() as listener:
        shown = await everything(tenant)
        heard: list[Json] = []
        while {"LockExpired", "DelegationFailed", "HandoffRejected"} - {h["type"] for h in heard}:
            heard.append(await listener.hear())
        await tenant.send("DELETE", f"/agents/{shown['one']}")
        await tenant.send("DELETE", f"/trajectories/{shown['trajectory']}")
        heard.append(await listener.hear_type("AgentUnregistered"))
        heard.append(await listener.hear_type("TrajectoryDeleted"))
        head = await site.runtime.workspace(owner.workspace).head()
    seqs = [message["seq"] for message in heard]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] <= head
    for message in heard:
        type_ = message["type"]
        assert [*message] == ["type", *FIELDS[type_].split(), "seq", "cursor"]
        assert message["cursor"].startswith(f"{message['seq']}-")
        if "tenant_id" in message:
            assert message["tenant_id"] == owner.workspace
    assert {message["type"] for message in heard} == set(FIELDS) - {"MessageExpired"}
    by_type = {message["type"]: message for message in reversed(heard)}
    for type_, entity in shown.items():
        if type_ in FIELDS and " " not in FIELDS[type_]:
            assert by_type[type_][FIELDS[type_]] == entity, type_
    assert by_type["EdgesBatchCreated"]["count"] == 2
    assert by_type["ToolExecuted"]["error"] == "E"
    assert by_type["DelegationRejected"]["reason"] == "busy"
    assert by_type["DelegationFailed"]["reason"] == "Timeout"
    assert by_type["HandoffRejected"]["reason"] == "Timeout"


async def test_what_is_said_last_is_that_it_is_over(migrated: str) -> None:
    async with coordinating(migrated) as (site, _, tenant), tenant.listening() as listener:
        (connection,) = site.runtime.service.connections
        connection.close(Close.GOING_AWAY, "")
        assert await listener.hear() == {"type": "Disconnected", "reason": "Connection closed"}
        with pytest.raises(ConnectionClosed):
            await listener.hear()


async def test_a_cursor_continues_and_without_one_it_begins_now(migrated: str) -> None:
    async with coordinating(migrated) as (_, _, tenant):
        for number in range(3):
            await tenant.trajectory(name=f"T{number}")
        async with tenant.listening("?cursor=0") as listener:
            heard = [await listener.hear() for _ in range(3)]
        assert [each["trajectory"]["name"] for each in heard] == ["T0", "T1", "T2"]
        for cursor in (heard[0]["cursor"], heard[0]["seq"]):
            async with tenant.listening(f"?cursor={cursor}") as listener:
                assert await listener.hear() == heard[1]
                assert await listener.hear() == heard[2]
        async with tenant.listening() as listener:
            await tenant.trajectory(name="T3")
            assert (await listener.hear())["trajectory"]["name"] == "T3"


async def test_a_client_that_says_what_it_has_taken_continues_there(migrated: str) -> None:
    async with coordinating(migrated) as (_, _, tenant):
        for number in range(3):
            await tenant.trajectory(name=f"T{number}")
        async with tenant.listening("?client_id=a") as listener:
            first = await listener.hear()
            await listener.say(type="ack", seq=first["seq"])
            await listener.hear()
            await listener.say(type="ack", seq=10**6)
            assert await heard_error(listener) == "CURSOR_AHEAD"
            await listener.say(type="ack", seq=first["seq"] - 1)
            assert await heard_error(listener) == "STALE_CURSOR"
        async with tenant.listening("?client_id=a") as listener:
            assert (await listener.hear())["trajectory"]["name"] == "T1"
        async with tenant.listening("?client_id=b") as listener:
            assert (await listener.hear())["trajectory"]["name"] == "T0"


async def heard_error(listener: Listener) -> str:
    error = await listener.hear_type("Error")
    assert set(error) == {"type", "message", "code"}
    return str(error["code"])


async def test_all_else_that_a_client_says_is_passed_over(migrated: str) -> None:
    async with coordinating(migrated) as (_, _, tenant), tenant.listening() as listener:
        for said in (
            "hello",
            "{}",
            '{"type":"subscribe","stream_id":"workspace:other"}',
            '{"type":"command","workspace_id":"w","name":"create_trajectory","payload":{}}',
            '{"type":"ack"}',
            '{"type":"ack","seq":-1}',
            '{"type":"ack","seq":"1"}',
            '{"type":"ping"}',
            "[" * 5_000,
            '"' + "x" * 300_000 + '"',
        ):
            await listener.ws.send_message(said)
        await listener.ws.send_message(b"\x00\xff")
        await tenant.trajectory()
        assert (await listener.hear())["type"] == "TrajectoryCreated"


async def test_who_connects_shows_a_key_or_a_token_and_names_a_tenant(migrated: str) -> None:
    async with coordinating(migrated) as (site, owner, tenant):
        bearer = {"authorization": f"Bearer {tenant.key}"}
        for headers, query in (
            (bearer, ""),
            ({**bearer, "x-tenant-id": tenant.id}, ""),
            (bearer, f"?tenant_id={tenant.id}"),
            ({"cookie": owner.cookie}, ""),
        ):
            async with connected(site.url, query, headers) as listener:
                assert (await listener.hear())["type"] == "Connected"
        encoded = urlsafe_b64encode(tenant.key.encode()).decode().rstrip("=")
        offers = ["dalsegno.v1", f"dalsegno.bearer.{encoded}"]
        async with connected(site.url, "", {}, offers=offers) as listener:
            assert (await listener.hear())["tenant_id"] == tenant.id
        async with connected(site.url, "", {}, offers=["dalsegno.v1", "dalsegno.auth"]) as listener:
            await listener.say(type="authenticate", token=tenant.key)
            assert (await listener.hear_type("Connected"))["tenant_id"] == tenant.id
        await site.runtime.workspace("elsewhere").send(PutMember("somebody", "owner"))
        for headers, query, status, code in (
            ({}, "", 401, "UNAUTHORIZED"),
            ({"authorization": "Bearer x"}, "", 401, "INVALID_TOKEN"),
            ({**bearer, "x-tenant-id": "elsewhere"}, "", 403, "FORBIDDEN"),
            ({**bearer, "x-tenant-id": "nothing"}, "", 403, "FORBIDDEN"),
            ({**bearer, "x-tenant-id": "?"}, "", 400, "VALIDATION_FAILED"),
            ({**bearer, "x-tenant-id": tenant.id}, "?tenant_id=x", 400, "VALIDATION_FAILED"),
        ):
            answer = await refusal(tenant, query, headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        await site.runtime.workspace("elsewhere").send(PutMember(owner.user_id, "viewer"))
        answer = await refusal(tenant, "", {"cookie": owner.cookie})
        assert (answer.status_code, answer.json()["code"]) == (400, "MISSING_FIELD")


async def refusal(tenant: KeyHolder, query: str, headers: dict[str, str]) -> httpx.Response:
    """Ask for an upgrade that is refused."""
    asked = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
        **headers,
    }
    return await tenant._http.get(f"{tenant.url}/api/v1/ws{query}", headers=asked)


async def test_p5_5_to_9_events_reach_their_tenant_alone(migrated: str) -> None:
    async with coordinating(migrated) as (site, owner, tenant):
        headers = await csrf(tenant._http, owner)
        made = await tenant._http.post(
            f"{site.url}/api/workspaces", json={"slug": "b", "name": "B"}, headers=headers
        )
        other_id = made.json()["workspace_id"]
        key = await make_key(tenant._http, site.url, other_id, headers)
        other = KeyHolder(site.url, key, other_id, tenant._http)
        async with tenant.listening() as mine, other.listening() as theirs:
            lie = {"metadata": {"tenant_id": other.id}}
            trajectory = await tenant.trajectory(**lie)
            await tenant.send("DELETE", f"/trajectories/{trajectory}")
            agent = await tenant.agent()
            await tenant.patch(f"/agents/{agent}", {"status": "Blocked"})
            await tenant.patch("/config", {"config": {"tenant_id": other.id}})
            # What no dialect of the source knows is shown to nobody: deny by default.
            await site.runtime.workspace(tenant.id).send(PutMember("somebody", "viewer"))
            await other.trajectory(name="theirs")
            await tenant.trajectory(name="mine")
            heard = [await mine.hear() for _ in range(6)]
            assert [each["type"] for each in heard] == [
                "TrajectoryCreated",
                "TrajectoryDeleted",
                "AgentRegistered",
                "AgentStatusChanged",
                "ConfigUpdated",
                "TrajectoryCreated",
            ]
            assert heard[0]["trajectory"]["tenant_id"] == tenant.id
            assert heard[1]["tenant_id"] == heard[3]["tenant_id"] == tenant.id
            (only,) = [await theirs.hear()]
            assert only["trajectory"]["name"] == "theirs"


async def test_who_is_removed_hears_so_and_nothing_more(migrated: str) -> None:
    async with coordinating(migrated) as (site, owner, tenant):
        workspace = site.runtime.workspace(owner.workspace)
        async with tenant.listening() as listener:
            (key_id,) = [
                item.stream_id.partition(":")[2]
                for item in await workspace.entities(members)
                if "key:" in item.stream_id
            ]
            await workspace.send(RemoveMember(key_id))
            assert await heard_error(listener) == "FORBIDDEN"


async def test_all_packages_are_served_together(migrated: str) -> None:
    app = App(
        [*note_domains, *coordination_domains],
        routes=[*note_routes, *coordination_app.routes],
        dialects=[*note_app.dialects, *coordination_app.sockets],
    )
    async with coordinating(migrated, app) as (site, owner, tenant), tenant.listening() as listener:
        headers = await csrf(tenant._http, owner)
        body = {"workspace_id": tenant.id, "title": "A note", "markdown": "x"}
        made = await tenant._http.post(f"{site.url}/api/notes", json=body, headers=headers)
        assert made.status_code == 201
        note = await tenant.note()
        heard = await listener.hear()  # the other package's note is none of this dialect's
        assert (heard["type"], heard["note"]["note_id"]) == ("NoteCreated", note)
        found = await tenant.refused("GET", f"/notes/{made.json()['note_id']}")
        assert found == (404, "NOTE_NOT_FOUND")
        asked = await tenant._http.get(f"{site.url}/api/openapi.json", headers=headers)
        document = asked.json()
        assert {"/api/notes", "/api/v1/notes"} <= set(document["paths"])
