"""The replay of sessions over HTTP and JSON-RPC, of workspaces and of files (§3.5, X-REP-6, 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dalsegno.actors.domains.sessions import session_domains, session_routes
from dalsegno.protocol import SEQ_MAX, App, Principal
from dalsegno.runtime.files import (
    EventEnvelope,
    EventStore,
    FileEventStore,
    RuntimeSource,
    WorkspaceEventStore,
    repair,
    store_routes,
)
from dalsegno.runtime.seams import WORLD

from ._client import Answer, Site, User
from .conftest import open_site

S = "0190f5fe-7b1e-7000-8000-000000000001"
SCOPE = {"type": "session", "session_id": S}
OTHER = {"type": "session", "session_id": "another"}

Json = dict[str, Any]


@dataclass
class Served:
    """Sessions, and those who may read them, and may not."""

    site: Site
    store: EventStore
    reader: User
    stranger: User

    async def get(self, what: str, user: User | None = None, session_id: str = S) -> Answer:
        return await (user or self.reader).get(f"/api/v1/sessions/{session_id}/{what}")

    async def call(self, method: str, params: object, user: User | None = None) -> Json:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        answer = await (user or self.reader).post("/api/v1/rpc", request)
        assert answer.status == 200, answer.raw
        assert answer.body.keys() <= {"jsonrpc", "id", "result", "error"}
        assert (answer.body["jsonrpc"], answer.body["id"]) == ("2.0", 7)
        return answer.body

    async def fails(
        self, method: str, params: object, user: User | None = None
    ) -> tuple[int, Json]:
        error = (await self.call(method, params, user))["error"]
        assert error["message"]
        return error["code"], error["data"]


@pytest.fixture(params=["files", "workspace"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    readers: set[str] = set()

    def may_read(principal: Principal, session_id: str) -> bool:
        return principal.user_id in readers and session_id in {S, "another"}

    files = FileEventStore(tmp_path / "events")
    is_files = request.param == "files"
    routes = store_routes(files, may_read=may_read) if is_files else session_routes
    async with open_site(app=App(() if is_files else session_domains, routes=routes)) as site:
        owner = await site.set_up()
        readers.add(owner.id)
        stranger = await site.add_user()
        workspace = site.rt.workspace(owner.workspace_id)
        store = files if is_files else WorkspaceEventStore(workspace, world=WORLD)
        yield Served(site, store, owner, stranger)


def said(number: int) -> EventEnvelope:
    return EventEnvelope(
        event_id=f"e{number}",
        source=RuntimeSource("rt-7"),
        seq=40 + number,
        mob_id="mob-abc",
        timestamp_ms=1_700_000_000_000 + number,
        payload={"type": "text_complete", "content": f"Text {number}"},
    )


async def test_a_session_is_read_with_the_identity_of_its_events(served: Served) -> None:
    await served.store.append_envelopes(S, [said(1), said(2)])
    latest = await served.get("latest_cursor")
    assert latest.status == 200
    assert latest.body["cursor"] == {"scope": SCOPE, "sequence": 2}
    page = (await served.get("list_since")).body
    assert page.keys() == {
        *("contract_version", "scope", "from_cursor", "latest_cursor", "events", "has_more"),
        "request_id",
    }
    assert (page["scope"], page["has_more"]) == (SCOPE, False)
    assert page["from_cursor"] == {"scope": SCOPE, "sequence": 0}
    assert page["latest_cursor"] == {"scope": SCOPE, "sequence": 2}
    assert page["events"][1] == {
        "event_id": {"scope": SCOPE, "sequence": 2},
        "cursor": {"scope": SCOPE, "sequence": 2},
        "timestamp_ms": 1_700_000_000_002,
        "source": {"type": "runtime", "runtime_id": "rt-7"},
        "session_id": S,
        "mob_id": "mob-abc",
        "stream_seq": 42,
        "source_event_id": "e2",
        "event": {"type": "text_complete", "content": "Text 2"},
    }


async def test_a_snapshot_has_the_last_text_and_the_cursor_that_goes_on(served: Served) -> None:
    await served.store.append_envelopes(S, [said(1), said(2)])
    await served.store.append(S, [{"type": "tool_call"}, 7, None])
    body = (await served.get("snapshot")).body
    assert body["cursor"] == {"scope": SCOPE, "sequence": 5}
    assert body["scope"] == SCOPE
    snapshot = body["snapshot"]
    assert snapshot.keys() == {
        *("type", "session_id", "last_seq", "created_at", "updated_at", "summary"),
    }
    assert (snapshot["type"], snapshot["last_seq"]) == ("session", 5)
    assert snapshot["summary"] == "Text 2"
    await served.store.append_envelopes(S, [said(3)])
    assert (await served.get("snapshot")).body["snapshot"]["summary"] == "Text 3"
    rewritten = {"type": "transcript_rewritten", "assistant_text": "Anew"}
    await served.store.append(S, [rewritten])
    assert (await served.get("snapshot")).body["snapshot"]["summary"] == "Anew"
    await served.store.append(S, [{"type": "transcript_rewritten"}])
    body = (await served.get("snapshot")).body
    assert (body["snapshot"]["summary"], body["snapshot"]["last_seq"]) == (None, 8)


async def test_x_rep_7_pages_together_are_the_whole_log(served: Served) -> None:
    for first in range(1, 250, 50):
        await served.store.append_envelopes(S, [said(n) for n in range(first, first + 50)])
    seen: list[int] = []
    cursor: object = None
    while True:
        params = {"scope": SCOPE, "limit": 70, **({} if cursor is None else {"cursor": cursor})}
        page = (await served.call("events/list_since", params))["result"]
        assert page["from_cursor"]["sequence"] == (seen[-1] if seen else 0)
        assert page["latest_cursor"]["sequence"] == 250
        seen += [event["event_id"]["sequence"] for event in page["events"]]
        cursor = page["events"][-1]["cursor"]
        if not page["has_more"]:
            break
    assert seen == list(range(1, 251))
    at_end = await served.get("list_since?cursor=250&limit=1")
    assert (at_end.body["events"], at_end.body["has_more"]) == ([], False)
    last = (await served.get("list_since?cursor=248")).body["events"]
    assert [event["event_id"]["sequence"] for event in last] == [249, 250]


async def test_x_rep_6_cursors_that_are_refused(served: Served) -> None:
    await served.store.append(S, [1, 2])

    async def at(cursor: object, scope: object = SCOPE) -> tuple[int, Json]:
        return await served.fails("events/list_since", {"scope": scope, "cursor": cursor})

    ahead = {"requested_sequence": 3, "latest_sequence": 2}
    assert await at({"scope": OTHER, "sequence": 1}) == (
        -32602,
        {"type": "scope_mismatch", "code": "CURSOR_SCOPE_MISMATCH"},
    )
    assert await at({"scope": SCOPE, "sequence": 3}) == (
        -32602,
        {"type": "ahead_of_latest", "code": "CURSOR_AHEAD", **ahead},
    )
    for sequence in (SEQ_MAX + 1, 2**64 - 1, 2**64, 2**80):
        assert await at({"scope": SCOPE, "sequence": sequence}) == (
            -32602,
            {"type": "sequence_overflow", "code": "CURSOR_OVERFLOW"},
        )
    no_numbers: list[object] = [-1, "1", 1.5, None, [], True]
    for odd in no_numbers:
        code, data = await at({"scope": SCOPE, "sequence": odd})
        assert (code, data) == (-32602, {"code": "BAD_REQUEST"}), odd

    refused = await served.get("list_since?cursor=3")
    assert (refused.status, refused.code) == (409, "CURSOR_AHEAD")
    assert refused.body["details"] == ahead
    refused = await served.get(f"list_since?cursor={2**64}")
    assert (refused.status, refused.code) == (400, "CURSOR_OVERFLOW")
    other = '{"scope":{"type":"session","session_id":"another"},"sequence":1}'
    refused = await served.get(f"list_since?cursor={other}")
    assert (refused.status, refused.code) == (400, "CURSOR_SCOPE_MISMATCH")
    own = other.replace("another", S)
    assert len((await served.get(f"list_since?cursor={own}")).body["events"]) == 1
    for wrong in ("x", "-1", "1.5", "", "%00", "%D9%A3", "{}", "9" * 3000):
        assert (await served.get(f"list_since?cursor={wrong}")).status in (400, 414), wrong
    for limit in ("0", "-1", "x", "1001"):
        assert (await served.get(f"list_since?limit={limit}")).status == 400, limit
        _, data = await served.fails("events/list_since", {"scope": SCOPE, "limit": limit})
        assert data == {"code": "BAD_REQUEST"}
    _, data = await served.fails("events/list_since", {"scope": SCOPE, "limit": 1001})
    assert data["code"] == "BAD_REQUEST"


@pytest.mark.parametrize("what", ["latest_cursor", "list_since", "list_since?cursor=0", "snapshot"])
async def test_an_unknown_session_is_not_found(served: Served, what: str) -> None:
    """That at 0 too; and one that somebody may not read is none to them (C22)."""
    for session_id in ("another", "nobody", "..", "%2e%2e%2fx", "a" * 300):
        answer = await served.get(what, session_id=session_id)
        assert answer.status in (400, 404), session_id
    answer = await served.get(what, session_id="another")
    assert (answer.status, answer.code) == (404, "SESSION_NOT_FOUND")
    await served.store.append(S, [1])
    assert (await served.get(what)).status == 200
    hidden = await served.get(what, served.stranger)
    assert (hidden.status, hidden.code) == (404, "SESSION_NOT_FOUND")
    method = f"events/{what.partition('?')[0]}"
    for params, user in (({"scope": OTHER}, None), ({"scope": SCOPE}, served.stranger)):
        code, data = await served.fails(method, params, user)
        assert (code, data["code"]) == (-32001, "SESSION_NOT_FOUND")


async def test_a_halted_session_is_not_read(served: Served) -> None:
    await served.store.append(S, [1])
    await served.store.append("another", [1])
    await served.store.record_projection_halt(S, "lost its place")
    for what in ("latest_cursor", "list_since", "snapshot"):
        answer = await served.get(what)
        assert (answer.status, answer.code) == (409, "SESSION_HALTED"), what
        assert answer.body["details"]["reason"] == "lost its place"
        code, data = await served.fails(f"events/{what}", {"scope": SCOPE})
        assert (code, data["code"], data["reason"]) == (-32603, "SESSION_HALTED", "lost its place")
    assert (await served.get("latest_cursor", session_id="another")).status == 200
    await served.store.clear_projection_halt(S, by="ada", reason="read again")
    assert (await served.get("latest_cursor")).status == 200


@pytest.mark.parametrize("served", ["files"], indirect=True)
async def test_a_summary_of_what_a_repair_dropped_is_not_remembered(
    served: Served, tmp_path: Path
) -> None:
    await served.store.append_envelopes(S, [said(1), said(2), said(3)])
    assert (await served.get("snapshot")).body["snapshot"]["summary"] == "Text 3"
    log = tmp_path / "events" / f"{S}.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    await served.store.append(S, [{"type": "tool_call"}])
    kept = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], b"garbage\n", kept[3]]))
    await repair(FileEventStore(tmp_path / "events"), S, by="ada", reason="a bad block")
    snapshot = (await served.get("snapshot")).body["snapshot"]
    assert (snapshot["summary"], snapshot["last_seq"]) == ("Text 2", 5)


async def test_what_is_no_request_of_json_rpc(served: Served) -> None:
    await served.store.append(S, [1])
    fine = {"jsonrpc": "2.0", "id": 1, "method": "events/snapshot", "params": {"scope": SCOPE}}
    for wrong in (
        {**fine, "jsonrpc": "1.0"},
        {key: value for key, value in fine.items() if key != "id"},
        {**fine, "id": {}},
        {**fine, "method": 7},
        [fine],
        7,
        None,
    ):
        raw = msgspec.json.encode(wrong)
        answer = await served.site.send(
            "POST", "/api/v1/rpc", raw=raw, headers=served.reader.headers
        )
        assert answer.status == 200
        assert answer.body["error"]["code"] == -32600, wrong
        assert answer.body["id"] is None
    answer = await served.reader.post("/api/v1/rpc", {**fine, "id": None, "method": "x"})
    assert answer.body == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32601, "message": "no such method", "data": {"code": "UNKNOWN_METHOD"}},
    }
    odd: list[object] = [None, [], {}, {"scope": {}}, {"scope": SCOPE, "more": 1}, {"scope": S}]
    for params in odd:
        code, data = await served.fails("events/snapshot", params)
        assert (code, data) == (-32602, {"code": "BAD_REQUEST"}), params
    headers = served.reader.headers
    broken = await served.site.send("POST", "/api/v1/rpc", raw=b"{", headers=headers)
    assert (broken.status, broken.code) == (400, "BAD_REQUEST")
    assert (await served.site.send("POST", "/api/v1/rpc", fine)).code == "AUTH_REQUIRED"
    assert (await served.get("snapshot", session_id=S)).headers["x-request-id"]
