"""What is on record, over HTTP (X-AUD-1; REQUIREMENTS §4.2)."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.protocol import Limits, Reject
from dalsegno.protocol.audit import CSV_HEAD, RecordFilter
from dalsegno.runtime.audit_export import export_records
from tests._patience import fail_after

from ._client import Site, User


async def records(user: User, **query: str) -> list[dict[str, Any]]:
    """Return every record, newest first, read in small pages."""
    found: list[dict[str, Any]] = []
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    after = ""
    while True:
        answer = await user.get(f"/api/audit?limit=2&{asked}{after}")
        assert answer.status == 200, answer.raw
        found += answer.body["items"]
        if answer.body["next"] is None:
            return found
        after = f"&after={answer.body['next']}"


async def of_workspace(user: User, **query: str) -> list[dict[str, Any]]:
    return await records(user, workspace_id=user.workspace_id, **query)


async def test_x_aud_1_changes_of_members_are_on_record(site: Site, owner: User) -> None:
    ada = await site.add_member(owner, "editor")
    await owner.put(f"{owner.space}/members/{ada.id}", {"role": "viewer"}, x_request_id="why-1")
    await owner.put(f"{owner.space}/members/{ada.id}", {"role": "viewer"})
    await owner.delete(f"{owner.space}/members/{ada.id}")
    found = await of_workspace(owner)
    assert [(r["action"], r["old_value"], r["new_value"]) for r in found] == [
        ("MEMBER_REMOVED", {"role": "viewer"}, None),
        ("MEMBER_ROLE_CHANGED", {"role": "editor"}, {"role": "viewer"}),
        ("MEMBER_ADDED", None, {"role": "editor"}),
    ]
    assert {(r["user_id"], r["resource_type"], r["resource_id"]) for r in found} == {
        (owner.id, "member", ada.id)
    }
    assert found[1]["request_id"] == "why-1"
    assert all(r["ip_address"] for r in found)
    log = (await owner.get(f"{owner.space}/events")).body["items"]
    types = {each["event_seq"]: each["type"] for each in log}
    assert [types[r["event_seq"]] for r in found] == [
        "member_removed",
        "member_role_updated",
        "member_added",
    ]


async def test_what_was_refused_is_not_on_record(site: Site, owner: User) -> None:
    ada = await site.add_member(owner, "editor")
    before = await of_workspace(owner)
    refused = await ada.put(f"{owner.space}/members/{ada.id}", {"role": "owner"})
    assert refused.status == 403
    refused = await owner.put(f"{owner.space}/members/{ada.id}", {"role": "emperor"})
    assert refused.status == 400
    assert await of_workspace(owner) == before


async def test_accounts_and_setup_are_on_record_for_global_admins(site: Site, owner: User) -> None:
    ada = await site.add_user()
    await owner.patch(f"/api/users/{ada.id}/role", {"role": "admin"})
    await owner.delete(f"/api/users/{ada.id}")
    found = await records(owner)
    assert [r["action"] for r in found][:3] == [
        "USER_DELETED",
        "USER_ROLE_CHANGED",
        "USER_REGISTERED",
    ]
    assert {"SETUP_COMPLETED", "WORKSPACE_CREATED"} <= {r["action"] for r in found}
    assert ada.email not in str(found), "a record outlives the account"
    bob = await site.add_user()
    refused = await bob.get("/api/audit")
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")


async def test_x_aud_1_the_end_of_a_note_is_on_record(owner: User) -> None:
    created = await owner.post("/api/notes", {"workspace_id": owner.workspace_id, "title": "x"})
    note_id = created.body["note_id"]
    for _ in range(2):
        await owner.delete(f"/api/notes/{note_id}")
    (found,) = await of_workspace(owner)
    assert (found["action"], found["resource_type"], found["resource_id"]) == (
        "NOTE_DELETED",
        "note",
        note_id,
    )
    assert found["old_value"] == {"version": 1}


async def test_halts_and_repairs_are_on_record_too(site: Site, owner: User) -> None:
    await site.add_member(owner, "viewer")
    head = await site.rt.store.read_head(owner.workspace_id)
    assert head is not None
    await site.rt.store.halt(owner.workspace_id, head.epoch, "a test", code="x", actor="node")
    await owner.post(f"{owner.space}/repair")
    found = await of_workspace(owner, resource_type="workspace")
    assert [(r["action"], r["user_id"], r["event_seq"]) for r in found] == [
        ("resumed", owner.id, None),
        ("halted", "node", None),
    ]
    assert found[1]["new_value"] == "a test"
    everything = await of_workspace(owner)
    assert len(everything) == 3
    assert len({r["id"] for r in everything}) == 3


async def test_records_are_found_by_who_what_and_when(site: Site, owner: User) -> None:
    admin = await site.add_member(owner, "admin")
    ada, bob = await site.add_member(owner, "viewer"), await site.add_user()
    await admin.put(f"{owner.space}/members/{bob.id}", {"role": "viewer"})
    found = await of_workspace(owner)
    assert [r["resource_id"] for r in found] == [bob.id, ada.id, admin.id]
    assert len(await of_workspace(owner, user_id=admin.id)) == 1
    assert len(await of_workspace(owner, resource_id=ada.id, resource_type="member")) == 1
    assert await of_workspace(owner, action="MEMBER_REMOVED") == []
    at = found[1]["timestamp"].replace("+", "%2B")
    assert {r["id"] for r in await of_workspace(owner, since=at)} >= {r["id"] for r in found[:2]}
    assert found[0]["id"] not in {r["id"] for r in await of_workspace(owner, until=at)}


@pytest.mark.parametrize("role", ["editor", "viewer", None])
async def test_others_do_not_see_what_is_on_record(
    site: Site, owner: User, role: str | None
) -> None:
    user = await site.add_user() if role is None else await site.add_member(owner, role)
    refused = await user.get(f"/api/audit?workspace_id={owner.workspace_id}")
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    admin = await site.add_member(owner, "admin")
    assert (await admin.get(f"/api/audit?workspace_id={owner.workspace_id}")).status == 200


@pytest.mark.parametrize(
    "query",
    ["since=yesterday", "since=2030-01-01T00:00:00", "until=1", "after=1", "after=1-2-x", "limit=0",
     "after=1-2-99999999999999999999", "action=", "user_id=%00", "workspace_id=a/b"],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused(owner: User, query: str) -> None:
    space = "" if "workspace_id" in query else f"&workspace_id={owner.workspace_id}"
    refused = await owner.get(f"/api/audit?{query}{space}")
    assert (refused.status, refused.code) == (400, "BAD_REQUEST")


# ----------------------------------------------------------------------------------------- export


async def collected(site: Site) -> None:
    """Wait until everything is on the audit's log."""
    with fail_after(20):
        while await site.rt.store.read_uncollected(limit=1, bytes_max=1):
            await trio.sleep(0.01)


async def test_everything_is_exported_as_a_table_and_as_json(site: Site, owner: User) -> None:
    ada = await site.add_member(owner, "editor")
    await owner.put(f"{owner.space}/members/{ada.id}", {"role": "viewer"})
    await collected(site)
    answer = await owner.get("/api/audit/export")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.raw.decode(), newline="")))
    assert [int(row["seq"]) for row in rows] == [*range(1, len(rows) + 1)]
    assert {"SETUP_COMPLETED", "MEMBER_ADDED"} <= {row["action"] for row in rows}
    listed = {(r["action"], r["timestamp"]) for r in await of_workspace(owner)}
    assert len(listed) == 2
    answer = await owner.get(
        f"/api/audit/export?format=json&resource_id={ada.id}&resource_type=member"
    )
    assert answer.headers["content-type"] == "application/json"
    found = msgspec.json.decode(answer.raw)
    assert {(r["action"], r["timestamp"]) for r in found} == listed
    assert [r["new_value"] for r in found] == [{"role": "editor"}, {"role": "viewer"}]
    for query, empty in (("format=json", b"[]\n"), ("format=csv", CSV_HEAD)):
        answer = await owner.get(f"/api/audit/export?action=%27%25&{query}")
        assert answer.raw == empty
    for query in ("format=xml", "since=x", "action=", "user_id=%00"):
        answer = await owner.get(f"/api/audit/export?{query}")
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    for who in (ada, await site.add_member(owner, "owner")):
        answer = await who.get("/api/audit/export")
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN"), "of a workspace, not of all"
    assert (await (await site.add_user("admin")).get("/api/audit/export")).status == 200


async def test_an_export_reads_a_page_at_a_time_and_ends_with_the_role(
    site: Site, owner: User
) -> None:
    for _ in range(4):
        await site.add_user()
    await collected(site)
    judged = 0

    async def judge() -> None:
        nonlocal judged
        judged += 1
        await trio.lowlevel.checkpoint()
        if judged == 3:
            raise Reject("ROLE_FORBIDDEN", "no longer")

    limits = Limits(page_events=2)
    lines = export_records(site.rt.store, RecordFilter(), "csv", limits=limits, judge=judge)
    pages = [await anext(lines) for _ in range(3)]
    with pytest.raises(Reject):
        await anext(lines)
    assert [page.count(b"\r\n") for page in pages] == [1, 2, 2]
