"""E2E-15 over sockets and PostgreSQL: a librarian restructures notes, and all of it is told."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import httpx
import msgspec
import pytest
import trio

from dalsegno.actors.domains.automation import automation_app
from dalsegno.actors.domains.automation.librarian import (
    key_of_run,
    librarian_operations,
    librarian_reports,
)
from dalsegno.runtime import Transcript
from tests._http import PLAIN
from tests._librarian import answers, operation, response, structuring
from tests._patience import fail_after
from tests._provider import Wire, chunk, providers, scripted
from tests.runtime._serving import serving, set_up

from .test_automation_on_the_wire import headers_of, post, talking

pytestmark = pytest.mark.postgres

Json = dict[str, Any]

_IDS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32,64}\b"
)
_TIMES = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")


def same_on_any_database(said: list[Json]) -> list[str]:
    """What was told, with ids and times by the order in which they come."""
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"id-{len(names)}")

    text = "\n".join(msgspec.json.encode(each, order="sorted").decode() for each in said)
    return _TIMES.sub("a-time", _IDS.sub(named, text)).split("\n")


async def restructured(database: str) -> tuple[list[Json], list[Json], list[str]]:
    """Have notes restructured; return what was told, the operations, and what is on record."""

    async def propose(wire: Wire) -> None:
        request = wire.asked.body["messages"][1]["content"]
        shown = re.findall(r"<source_id>([^<]*)</source_id>\n<title>([^<]*)<", request)
        ids = {title: note_id for note_id, title in shown}
        first, second = ids["First"], ids["Second"]
        said = [
            operation("new", "create_note", title="Overview", body_markdown="[[First]] [[Second]]"),
            operation("text", "rewrite_note", target_note_id=first, body_markdown="Da capo."),
            operation("title", "retitle_note", target_note_id=first, title="Beginning"),
            operation("links", "relink_note", target_note_id=second, body_markdown="See [[Fine]]"),
            operation("tags", "retag_note", target_note_id=second, body_markdown="music"),
            operation("later", "defer", target_note_id=second),
            operation("no", "create_note", title="Unwanted"),
        ]
        await answers(lambda request_id: response(request_id, *said))(wire)

    async with (
        scripted(propose) as provider,
        providers(provider) as opened,
        serving(database, app=automation_app, providers=lambda: nullcontext(opened)) as site,
        httpx.AsyncClient(**PLAIN) as http,
    ):
        person = await set_up(site)
        await headers_of(http, person)
        for title, text in (("First", "Dal segno."), ("Second", "See [[First]]")):
            await post(http, person, "/api/notes", title=title, markdown=text)
        action = structuring("http://127.0.0.1/", provider={"base_url": provider.url})
        rule = await post(
            http, person, "/api/automation/rules", trigger="by-hand", action_json=action
        )
        async with talking(person) as talk:
            await talk.say(type="subscribe_workspace", workspace_id=person.workspace, cursor=0)
            launched = await post(
                http, person, f"/api/automation/rules/{rule['rule']['id']}/launch"
            )
            run_id = launched["run"]["id"]
            told: list[Json] = []

            async def hear(event_type: str) -> Json:
                while True:
                    said = await talk.hear("workspace_event", "automation_event")
                    if said["event_type"] != "run_output":  # how many there are is of no matter
                        told.append(said)
                    if said["event_type"] == event_type:
                        return said

            assert (await hear("automation_run_succeeded"))["run_id"] == run_id
            words = [
                *({"operation_id": each, "decision": "accept"} for each in ("new", "text")),
                *({"operation_id": each, "decision": "apply"} for each in ("title", "links")),
                *({"operation_id": each, "decision": "accept"} for each in ("tags", "later")),
                {"operation_id": "no", "decision": "reject", "reject_reason": "not wanted"},
            ]
            review = f"{person.url}/api/automation/runs/{run_id}/review"
            reviewed = await http.post(review, json={"decisions": words})
            assert reviewed.status_code == 200, reviewed.text
            end = await hear("automation_run_reviewed")
            assert (end["type"], end["status"]) == ("automation_event", "succeeded")
            assert end["payload"]["event_code"] == "LIBRARIAN_RUN_REVIEWED"
            assert end["payload"]["rule_id"] == rule["rule"]["id"]
            assert (end["payload"]["applied_count"], end["payload"]["rejected_count"]) == (5, 1)
            assert [each["decision"] for each in end["payload"]["decisions"]] == [
                *["accept"] * 6,
                "reject",
            ]
            again = await http.post(review, json={"decisions": words})
            assert again.json()["run"] == reviewed.json()["run"]
        workspace = site.runtime.workspace(person.workspace)
        listed = await workspace.snapshot(librarian_operations, key=key_of_run(run_id))
        report = await workspace.get(librarian_reports, run_id)
        assert report is not None
        assert (report.applied_operations, report.rejected_operations) == (5, 1)
        records = await http.get(
            f"{person.url}/api/audit", params={"workspace_id": person.workspace, "limit": "100"}
        )
        return (
            told,
            [msgspec.to_builtins(each.state) for each in listed.items],
            [each["action"] for each in records.json()["items"]],
        )


async def test_x_lib_8_e2e_15_is_the_same_on_any_database(migrated: str, copied: str) -> None:
    told, operations, records = await restructured(migrated)
    assert [each["event_type"] for each in told if each["event_type"].startswith("note_")] == [
        *("note_created", "note_created"),  # by people
        *("note_created", "note_patched", "note_title_updated", "note_patched"),
        "note_tags_updated",
    ]
    seqs = [each["event_seq"] for each in told]
    assert seqs == sorted(set(seqs))
    assert [(each["operation_id"], each["status"], each["result"]) for each in operations] == [
        ("new", "applied", "created"),
        ("text", "applied", "rewritten"),
        ("title", "applied", "retitled"),
        ("links", "applied", "relinked"),
        ("tags", "applied", "retagged"),
        ("later", "pending", "deferred"),
        ("no", "rejected", None),
    ]
    assert operations[-1]["reject_reason"] == "USER_REJECTED"
    assert operations[-1]["reject_detail"] == "not wanted"
    wanted = [
        f"AUTOMATION_RUN_{each}"
        for each in ("LAUNCHED", "QUEUED", "RUNNING", "SUCCEEDED", "DECIDED", "REVIEWED")
    ]
    on_record = [each for each in reversed(records) if each in wanted]
    assert sorted(on_record) == sorted(wanted)
    told_elsewhere, elsewhere, recorded_elsewhere = await restructured(copied)
    assert same_on_any_database(told_elsewhere) == same_on_any_database(told)
    assert same_on_any_database(elsewhere) == same_on_any_database(operations)
    assert recorded_elsewhere == records


async def test_what_the_model_says_is_seen_while_it_says_it(migrated: str) -> None:
    """Partial text, as frames of the run, before the answer is whole."""
    seen = trio.Event()

    async def slowly(wire: Wire) -> None:
        await wire.events()
        await wire.say(chunk({"role": "assistant", "content": "<librarian_"}))
        await seen.wait()
        await wire.say(chunk({"content": "response>"}))
        await wire.say(chunk(finish_reason="stop"))
        await wire.end()

    async with (
        scripted(slowly) as provider,
        providers(provider) as opened,
        serving(migrated, app=automation_app, providers=lambda: nullcontext(opened)) as site,
        httpx.AsyncClient(**PLAIN) as http,
    ):
        person = await set_up(site)
        await headers_of(http, person)
        rule = await post(
            http,
            person,
            "/api/automation/rules",
            trigger="by-hand",
            action_json=structuring(provider.url),
        )
        launched = await post(http, person, f"/api/automation/rules/{rule['rule']['id']}/launch")
        run_id = launched["run"]["id"]
        transcript = Transcript()
        async with talking(person) as talk:
            await talk.say(type="subscribe", stream_id=f"run:{run_id}", cursor=0)
            with fail_after(20):
                while "<librarian_" not in transcript.texts.get(("answer-1", "text"), ""):
                    transcript.hear(await talk.hear("event", "frame", "tail"))
                assert not transcript.is_over
                seen.set()
                while not transcript.is_over:
                    transcript.hear(await talk.hear("event", "frame", "tail"))
        assert transcript.texts["answer-1", "text"] == "<librarian_response>"
