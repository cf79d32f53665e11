"""Automation over real sockets and on PostgreSQL: the seed's conversation, and a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.automation import (
    CreateRule,
    automation_app,
    automation_domains,
    run_id_of,
)
from dalsegno.actors.domains.notes import ApplyPatch, CreateNote, note_domains
from dalsegno.protocol import App, PatchOp
from dalsegno.protocol.runs import runs
from dalsegno.runtime import Runtime
from tests._http import PLAIN
from tests._patience import fail_after
from tests.runtime._serving import Person, serving, set_up

pytestmark = pytest.mark.postgres

Json = dict[str, Any]


class Talk:
    """One socket of a person, in the notes dialect."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket

    async def say(self, **said: object) -> None:
        await self.socket.send_message(msgspec.json.encode(said).decode())

    async def hear(self, *types: str) -> Json:
        """Return the next message of one of these types, whatever comes before."""
        with fail_after(20):
            while True:
                said: Json = msgspec.json.decode(await self.socket.get_message())
                if said["type"] in types:
                    return said


@asynccontextmanager
async def talking(person: Person) -> AsyncIterator[Talk]:
    headers = [(b"cookie", person.cookie.encode())]
    async with open_websocket_url(
        person.url.replace("http", "ws") + "/ws", extra_headers=headers
    ) as socket:
        yield Talk(socket)


async def post(http: httpx.AsyncClient, person: Person, path: str, **body: object) -> Json:
    answer = await http.post(f"{person.url}{path}", json={"workspace_id": person.workspace, **body})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def headers_of(http: httpx.AsyncClient, person: Person) -> None:
    """Be the person from now on."""
    http.headers["cookie"] = person.cookie
    session = await http.get(f"{person.url}/api/auth/session")
    http.headers["x-csrf-token"] = session.json()["csrf_token"]


async def test_x_auto_2_runs_are_told_in_the_order_of_their_commits_and_replayed(
    migrated: str,
) -> None:
    async with (
        serving(migrated, app=automation_app) as site,
        httpx.AsyncClient(**PLAIN) as http,
    ):
        person = await set_up(site)
        await headers_of(http, person)
        note = await post(http, person, "/api/notes", title="First note", markdown="Hello world")
        note_id = note["note_id"]
        made = await post(
            http,
            person,
            "/api/automation/rules",
            trigger="note_patched",
            condition_json={"jmespath": "note.length > `0`"},
            action_json={"kind": "noop"},
        )
        stream = f"workspace:{person.workspace}"
        async with talking(person) as talk:
            await talk.say(type="subscribe_workspace", workspace_id=person.workspace)
            assert (await talk.hear("subscribed"))["stream_id"] == stream
            await talk.say(
                type="apply_patch",
                note_id=note_id,
                base_version=1,
                patch_ops=[{"retain": 5}],
                idempotency_key="ws-idem-01",
            )
            assert (await talk.hear("patch_committed", "patch_rejected"))["version"] == 2
            told = [await talk.hear("automation_event") for _ in range(3)]
        statuses = ["queued", "running", "succeeded"]
        assert [each["status"] for each in told] == statuses
        assert [each["event_type"] for each in told] == [f"automation_run_{s}" for s in statuses]
        seqs = [each["event_seq"] for each in told]
        assert seqs == sorted(set(seqs))
        trigger = f"note:{note_id}:2"
        run_id = run_id_of(made["rule"]["id"], trigger)
        for each in told:
            assert (each["run_id"], each["workspace_id"]) == (run_id, person.workspace)
            assert each["payload"]["triggering_event_id"] == trigger
        end = told[-1]["payload"]
        assert end["operation_preview"] == end["operation_applied"] == []
        assert (end["operation_rejected"], end["operation_rejected_count"]) == ([], 0)
        # Whoever comes later, in another dialect too, sees the same, at the same numbers.
        async with talking(person) as later:
            await later.say(type="subscribe_workspace", workspace_id=person.workspace, cursor=0)
            again = [await later.hear("automation_event") for _ in range(3)]
            assert again == told
        async with talking(person) as native:
            await native.say(type="subscribe", stream_id=stream, cursor=seqs[0] - 1)
            events = [await native.hear("event") for _ in range(3)]
        names = ["run_requested", "run_started", "run_finished"]
        assert [(each["seq"], each["event_type"]) for each in events] == list(
            zip(seqs, names, strict=True)
        )
        listed = await http.get(
            f"{person.url}/api/automation/runs", params={"workspace_id": person.workspace}
        )
        (run,) = listed.json()["runs"]
        assert (run["id"], run["status"]) == (run_id, "succeeded")


async def test_an_event_before_a_restart_sets_its_rule_off_after_it(migrated: str) -> None:
    """What told nobody of it has no reactor: a program of notes and rules alone."""
    async with Runtime.open(migrated, app=automation_app) as rt:
        workspace = rt.workspace("w")
        await workspace.send(CreateNote("A note", "Hello", note_id="n"))
        created = await workspace.send(
            CreateRule(trigger="note_patched", action_json={"kind": "tag_note", "tag": "seen"})
        )
    without = App((*note_domains, *automation_domains, runs))
    async with Runtime.open(migrated, app=without) as rt:
        workspace = rt.workspace("w")
        await workspace.send(ApplyPatch("n", [PatchOp(insert="x")], 1))
        await workspace.send(ApplyPatch("n", [PatchOp(insert="y")], 2))
        assert (await workspace.snapshot(runs)).items == []
    run_ids = [run_id_of(created.entity_id, f"note:n:{version}") for version in (2, 3)]
    for _ in range(2):
        async with Runtime.open(migrated, app=automation_app) as rt:
            workspace = rt.workspace("w")
            with fail_after(20):
                for run_id in run_ids:
                    while (run := await workspace.get(runs, run_id)) is None or run.is_open:
                        await trio.sleep(0.02)
                    assert run.status == "succeeded"
                while rt.service.reactors.statistics().behind:
                    await trio.sleep(0.02)
            assert len((await workspace.snapshot(runs)).items) == 2
