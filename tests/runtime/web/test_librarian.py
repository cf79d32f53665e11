"""The librarian over HTTP: what a model proposes, what people decide, and what comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.automation import (
    SOURCES_BYTES_MAX,
    automation_app,
    automation_workers,
    review_worker,
)
from dalsegno.actors.domains.automation.librarian import (
    ApplyOperation,
    LibrarianOperation,
    ProposedOperation,
    RecordReport,
    librarian_operations,
    librarian_reports,
    librarian_reviews,
    operation_entity,
)
from dalsegno.actors.domains.notes import Note, link_key, notes
from dalsegno.protocol import App, Reject
from dalsegno.protocol.runs import runs
from tests._librarian import (
    Said,
    answers,
    babbles,
    operation,
    proposes,
    response,
    structuring,
)
from tests._patience import fail_after, until
from tests._provider import Reply, ScriptedProvider, cuts, providers, says, scripted, status, then

from ._client import Answer, Site, User
from .conftest import open_site

RULES = "/api/automation/rules"
RUNS = "/api/automation/runs"


class Library:
    """A workspace with a librarian, and who runs it."""

    def __init__(self, site: Site, owner: User, provider: ScriptedProvider) -> None:
        self.site = site
        self.owner = owner
        self.provider = provider

    async def asks(self, *script: Reply, note_id: str | None = None, **action: Any) -> str:
        """Launch the librarian, of a rule of its own; return the run's id."""
        self.provider.script[:] = script
        self.provider.asked.clear()
        body = {
            "workspace_id": self.owner.workspace_id,
            "trigger": "by_hand",
            "action_json": structuring(self.provider.url, **action),
        }
        created = await self.owner.post(RULES, body)
        assert created.status == 201, created.raw
        path = f"{RULES}/{created.body['rule']['id']}/launch"
        launched = await self.owner.post(path, {"note_id": note_id})
        assert launched.status == 201, launched.raw
        return str(launched.body["run"]["id"])

    async def run(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has ended; return it."""
        with fail_after(20):
            while True:
                answer = await self.owner.get(f"{RUNS}/{run_id}")
                assert answer.status == 200, answer.raw
                run: dict[str, Any] = answer.body["run"]
                if run["finished_at"]:
                    return run
                await trio.sleep(0.005)

    async def proposed(self, *said: Said, **action: Any) -> str:
        """Return a run that has proposed these operations."""
        run_id = await self.asks(proposes(*said), **action)
        run = await self.run(run_id)
        assert run["status"] == "succeeded", run
        return run_id

    async def review(
        self, run_id: str, *, by: User | None = None, apply: bool = True, **decisions: Any
    ) -> Answer:
        """Decide on operations, ``o1="accept"``, or ``o1=("reject", "why")``."""
        said = []
        for name, decision in decisions.items():
            word, reason = decision if isinstance(decision, tuple) else (decision, None)
            said.append({"operation_id": name, "decision": word, "reject_reason": reason})
        body = {"apply": apply, "decisions": said}
        return await (by or self.owner).post(f"{RUNS}/{run_id}/review", body)

    async def operations(self, run_id: str) -> list[LibrarianOperation]:
        """The operations of a run as they are kept; their report counts just these."""
        workspace = self.site.rt.workspace(self.owner.workspace_id)
        report = await workspace.get(librarian_reports, run_id)
        assert report is not None
        found = [
            await workspace.get(librarian_operations, operation_entity(run_id, index))
            for index in range(report.parsed_operations)
        ]
        assert (
            await workspace.get(librarian_operations, operation_entity(run_id, len(found))) is None
        )
        kept = [each for each in found if each is not None]
        assert [each.operation_index for each in kept] == [*range(len(found))], "dense"
        assert report.applied_operations == sum(each.status == "applied" for each in kept)
        assert report.rejected_operations == sum(each.status == "rejected" for each in kept)
        return kept

    async def write(self, title: str = "A note", markdown: str = "Hello world") -> str:
        """Create a note; its id."""
        body = {"workspace_id": self.owner.workspace_id, "title": title, "markdown": markdown}
        created = await self.owner.post("/api/notes", body)
        assert created.status == 201, created.raw
        return str(created.body["note_id"])

    async def note(self, note_id: str) -> Note:
        note = await self.site.rt.workspace(self.owner.workspace_id).get(notes, note_id)
        assert note is not None
        return note

    async def log(self) -> list[tuple[str, str]]:
        """Type and stream's kind of all that has happened in the workspace."""
        workspace = self.site.rt.workspace(self.owner.workspace_id)
        events = await workspace.events(limit=1_000)
        return [(each.type, each.stream_id.partition(":")[0]) for each in events]


def accepting(names: Iterable[str]) -> dict[str, Any]:
    """Decisions that accept operations."""
    return dict.fromkeys(names, "accept")


@asynccontextmanager
async def open_library(app: App = automation_app) -> AsyncIterator[Library]:
    async with (
        scripted() as provider,
        providers(provider) as opened,
        open_site(app=app, providers=lambda: nullcontext(opened)) as site,
    ):
        yield Library(site, await site.set_up(), provider)


@pytest.fixture
async def library() -> AsyncIterator[Library]:
    async with open_library() as library:
        yield library


# ------------------------------------------------------------------------------------ proposing


async def test_a_proposal_is_recorded_whole(library: Library) -> None:
    note_id = await library.write("Old", "see [[Here]] & <there>")
    run_id = await library.asks(
        proposes(
            operation("o1", "retitle_note", target_note_id=note_id, title="New & <shiny>"),
            operation("o2", "defer", target_note_id=note_id),
        ),
        note_id=note_id,
    )
    run = await library.run(run_id)
    assert run["status"] == "succeeded", run
    assert (run["provider_kind"], run["model"]) == ("lmstudio", "small")
    result = run["result_json"]
    assert result["kind"] == "librarian_structure"
    assert result["applied"] is False
    assert (result["attempts"], result["protocol"]) == (1, "xml_attrless")
    assert (result["request_id"], result["response_status"]) == (run_id, "ok")
    assert result["response_summary"] == "as asked"
    assert result["raw_model_output"] == result["raw_model_outputs"][0]
    assert result["raw_model_output"].startswith("<librarian_response>")
    assert result["operation_report"] == {
        "parsed_operations": 2,
        "applied_operations": 0,
        "rejected_operations": 0,
        "warnings": [],
    }
    assert result["parse_diagnostics"] == []
    assert result["review"] is None
    first, second = result["operations"]
    assert (first["title"], first["status"], first["seen_version"]) == (
        "New & <shiny>",
        "pending",
        1,
    )
    assert (second["kind"], second["operation_index"]) == ("defer", 1)
    (asked,) = library.provider.asked
    system, user = asked.body["messages"]
    assert system["role"] == "system"
    assert f"<source_id>{note_id}</source_id>" in user["content"]
    assert "see [[Here]] &amp; &lt;there>" in user["content"]
    assert (await library.note(note_id)).version == 1, "nothing happens before people accept it"


async def test_what_a_model_says_is_heard_as_it_comes_and_is_in_the_log(library: Library) -> None:
    run_id = await library.proposed(operation("o1", "create_note", title="T", body_markdown="B"))
    workspace = library.site.rt.workspace(library.owner.workspace_id)
    events = await workspace.history(runs, run_id)
    said = [msgspec.json.decode(each.payload) for each in events if each.type == "run_output"]
    assert {each["message_id"] for each in said} == {"answer-1"}
    result = (await library.run(run_id))["result_json"]
    assert "".join(each["text"] for each in said) == result["raw_model_output"]


async def test_x_lib_2_an_answer_that_cannot_be_read_is_mended(library: Library) -> None:
    """API-AUTO-04: two repairs, each told what was wrong, word for word."""
    wrong = response("another", operation("o1", "create_note", title="T"))
    run_id = await library.asks(
        babbles("Sure!"), says(wrong), proposes(operation("o1", "create_note", title="T"))
    )
    run = await library.run(run_id)
    assert run["status"] == "succeeded", run
    result = run["result_json"]
    assert result["attempts"] == 3
    assert result["raw_model_outputs"][:2] == ["Sure!", wrong]
    first, second = result["parse_diagnostics"]
    assert (first["attempt"], first["code"]) == (1, "LIBRARIAN_PROTOCOL_INVALID")
    assert first["errors"] == ["MALFORMED_NESTING_OR_TAG"]
    assert (second["attempt"], second["code"]) == (2, "LIBRARIAN_PARSE_FAILED")
    assert second["errors"] == ["INVALID_REQUEST_ID:another"]
    asked = [each.body["messages"] for each in library.provider.asked]
    assert [message["role"] for message in asked[2]] == ["system", "user", "assistant", "user"]
    assert asked[1][-1]["content"] == (
        '{"mode":"repair","protocol":"xml_attrless",'
        '"validation_errors":["MALFORMED_NESTING_OR_TAG"],"original_response":"Sure!"}'
    )


async def test_x_lib_2_what_is_never_read_fails_with_all_that_was_said(library: Library) -> None:
    """API-AUTO-04: after two repairs it is over; diagnostics and answers are kept."""
    run_id = await library.asks(babbles("One"), babbles("Two"), babbles("<a></a>"))
    run = await library.run(run_id)
    assert (run["status"], run["error_code"]) == ("failed", "LIBRARIAN_PARSE_FAILED")
    assert run["error_detail"] == "MISSING_ROOT_LIBRARIAN_RESPONSE"
    result = run["result_json"]
    assert result["raw_model_outputs"] == ["One", "Two", "<a></a>"]
    assert [each["attempt"] for each in result["parse_diagnostics"]] == [1, 2, 3]
    assert [set(each) for each in result["parse_diagnostics"]] == [
        {"attempt", "code", "detail", "errors"}
    ] * 3
    assert len(library.provider.asked) == 3
    assert await library.operations(run_id) == []
    refused = await library.review(run_id)
    assert (refused.status, refused.code) == (409, "STATE_CONFLICT")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((status(401),), "LLM_UPSTREAM_ERROR"),
        ((status(500),), "LLM_UPSTREAM_ERROR"),
        ((cuts,), "LLM_PROVIDER_UNREACHABLE"),
        ((then(),), "LLM_PROVIDER_TIMEOUT"),
        ((babbles(), status(400)), "LLM_UPSTREAM_ERROR"),
        ((says("x" * 600_000),), "LIBRARIAN_PARSE_FAILED"),
        ((says("<" * 500_000),) * 3, "LIBRARIAN_PROTOCOL_INVALID"),
    ],
    ids=["401", "500", "cut", "stalls", "fails in a repair", "floods", "half a million of <"],
)
async def test_a_run_without_an_answer_says_why(
    library: Library, script: tuple[Reply, ...], code: str
) -> None:
    """FI-7: it is a failed run with a stable code, never a silent drop."""
    run_id = await library.asks(*script, provider={"timeout_ms": 200})
    run = await library.run(run_id)
    assert (run["status"], run["error_code"]) == ("failed", code)
    assert len(library.provider.asked) == len(script), "a run asks no more than its settings say"


async def test_x_lib_3_what_the_guard_rejects_is_listed_and_not_pending(library: Library) -> None:
    note_id = await library.write("A", "text")
    said = [
        operation("strict", "retitle_note", target_note_id=note_id, title="B"),
        operation("emptied", "rewrite_note", target_note_id=note_id),
        operation("elsewhere", "rewrite_note", target_note_id="other", body_markdown="x"),
        operation("fine", "rewrite_note", target_note_id=note_id, body_markdown="x"),
        operation("beyond", "create_note", title="C"),
    ]
    plan = {"strict_mode": True, "max_operations": 4}
    run_id = await library.proposed(*said, plan=plan)
    run = await library.run(run_id)
    assert run["result_json"]["operation_rejected"] == [
        {"operation_id": name, "kind": kind, "reason": reason, "detail": None}
        for name, kind, reason in (
            ("strict", "retitle_note", "STRICT_MODE_KIND_BLOCKED"),
            ("emptied", "rewrite_note", "DELETE_FORBIDDEN"),
            ("elsewhere", "rewrite_note", "SCOPE_VIOLATION"),
            ("beyond", "create_note", "MAX_OPERATIONS_EXCEEDED"),
        )
    ]
    assert run["result_json"]["operation_preview"] == [
        {"operation_id": "fine", "kind": "rewrite_note", "target_note_id": note_id}
    ]
    # X-LIB-6: whoever accepts them, nothing comes of them.
    every = accepting(each["operation_id"] for each in said)
    reviewed = await library.review(run_id, **every)
    assert reviewed.status == 200, reviewed.raw
    kept = await library.operations(run_id)
    assert [each.status for each in kept] == ["rejected"] * 3 + ["applied", "rejected"]
    assert (await library.note(note_id)).markdown == "x"
    assert (await library.owner.get(f"/api/notes?workspace_id={library.owner.workspace_id}")).body[
        "notes"
    ][0]["title"] == "A"


async def test_x_lib_4_a_seventh_kind_is_refused_by_the_type(library: Library) -> None:
    """And is never stored: neither from a model nor from a program."""
    said = operation("o1", "delete_note", target_note_id="n")
    run_id = await library.asks(*[proposes(said)] * 3)
    run = await library.run(run_id)
    assert (run["status"], run["error_code"]) == ("failed", "LIBRARIAN_PARSE_FAILED")
    assert run["result_json"]["parse_diagnostics"][0]["errors"] == [
        "operation[0]:INVALID_KIND:delete_note"
    ]
    assert await library.operations(run_id) == []
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "delete_note", "operation_id": "o"}, LibrarianOperation)
    workspace = library.site.rt.workspace(library.owner.workspace_id)
    forged = RecordReport(
        run_id="forged",
        rule_id="r",
        provider_kind="lmstudio",
        model="m",
        attempts=1,
        pack_version="1",
        prompt_hash="0",
        raw_prompt="",
        raw_outputs=(),
    )
    with pytest.raises(Reject) as refused:  # people cannot say what a run has come to
        await workspace.acting(user_id=library.owner.id).send(forged)
    assert refused.value.code == "ROLE_FORBIDDEN"


async def test_an_answer_without_operations_succeeds_with_a_warning(library: Library) -> None:
    run_id = await library.asks(proposes(status="needs_clarification"))
    run = await library.run(run_id)
    assert run["status"] == "succeeded"
    assert run["result_json"]["response_status"] == "needs_clarification"
    assert run["result_json"]["operation_report"]["warnings"] == ["NO_OPERATIONS_PARSED"]


async def test_a_plan_about_a_note_that_is_gone_fails_before_a_model_is_asked(
    library: Library,
) -> None:
    note_id = await library.write()
    await library.owner.delete(f"/api/notes/{note_id}")
    run_id = await library.asks(proposes(), plan={"scope": f"note:{note_id}"})
    run = await library.run(run_id)
    assert (run["status"], run["error_code"]) == ("failed", "RULE_ACTION_FAILED")
    assert library.provider.asked == []


async def test_a_model_is_shown_so_many_notes_the_one_it_is_about_first(library: Library) -> None:
    ids = [await library.write(f"Note {number}", "x" * 100) for number in range(52)]
    run_id = await library.asks(proposes(), note_id=ids[51])
    run = await library.run(run_id)
    assert "SOURCES_LEFT_OUT" in run["result_json"]["operation_report"]["warnings"]
    text = library.provider.asked[0].body["messages"][1]["content"]
    shown = [part.partition("<")[0] for part in text.split("<source_id>")[1:]]
    assert shown == [ids[51], *ids[:49]]


async def test_what_is_too_long_leaves_room_for_the_others(library: Library) -> None:
    long = await library.write("Long", "x" * (SOURCES_BYTES_MAX + 1))
    short = await library.write("Short", "y")
    run_id = await library.asks(proposes(), note_id=long)
    run = await library.run(run_id)
    assert "SOURCES_LEFT_OUT" in run["result_json"]["operation_report"]["warnings"]
    text = library.provider.asked[0].body["messages"][1]["content"]
    assert text.count("<source_id>") == 1
    assert f"<source_id>{short}</source_id>" in text


async def test_an_answer_takes_the_place_of_none(library: Library) -> None:
    """Where a process died between recording that there is none, and the end of its run, the next
    attempt may have one.
    """
    run_id = await library.proposed(operation("o1", "create_note", title="T"))
    workspace = library.site.rt.workspace(library.owner.workspace_id)
    report = await workspace.get(librarian_reports, run_id)
    assert report is not None
    none = RecordReport(
        run_id="r",
        rule_id=report.rule_id,
        provider_kind="lmstudio",
        model="m",
        attempts=3,
        pack_version="1",
        prompt_hash="0",
        raw_prompt="",
        raw_outputs=("one", "two", "three"),
    )
    await workspace.send(none)
    said = ProposedOperation(operation_id="o", kind="defer", reason="r", confidence=1.0)
    one = msgspec.structs.replace(none, response_status="ok", operations=(said,))
    for _ in range(2):
        await workspace.send(one)
    recorded = await workspace.get(librarian_reports, "r")
    assert recorded is not None
    assert (recorded.response_status, recorded.parsed_operations) == ("ok", 1)
    await workspace.send(none)
    assert await workspace.get(librarian_reports, "r") == recorded, "not the other way round"
    assert len(await workspace.history(librarian_reports, "r")) == 2


# ------------------------------------------------------------------------------------- reviewing


async def test_x_lib_5_all_six_kinds_are_applied_with_their_exact_effects(library: Library) -> None:
    write = library.write
    ids = {
        "rewrite": await write("To rewrite", "one\ntwo\nthree"),
        "retitle": await write("To retitle", "body"),
        "relink": await write("To relink", "See [[Old]] and Trio.\n"),
        "retag": await write("To retag", "body"),
        "defer": await write("To defer", "body"),
    }
    run_id = await library.proposed(
        operation(
            "create", "create_note", target_path="music/Da Capo", body_markdown="From the [[Sign]]"
        ),
        operation(
            "rewrite", "rewrite_note", target_note_id=ids["rewrite"], body_markdown="one\n2\nthree"
        ),
        operation("retitle", "retitle_note", target_note_id=ids["retitle"], title="Retitled"),
        operation(
            "relink",
            "relink_note",
            target_note_id=ids["relink"],
            body_markdown="See [[New]] and [[Trio]].",
        ),
        operation(
            "retag", "retag_note", target_note_id=ids["retag"], body_markdown="music\n\ntheory\n"
        ),
        operation("defer", "defer", target_note_id=ids["defer"]),
    )
    names = ("create", "rewrite", "retitle", "relink", "retag", "defer")
    reviewed = await library.review(run_id, **accepting(names))
    assert reviewed.status == 200, reviewed.raw
    applied = {
        each["operation_id"]: each
        for each in reviewed.body["run"]["result_json"]["operation_applied"]
    }
    assert {name: each["result"] for name, each in applied.items()} == {
        "create": "created",
        "rewrite": "rewritten",
        "retitle": "retitled",
        "relink": "relinked",
        "retag": "retagged",
    }
    kept = {each.operation_id: each for each in await library.operations(run_id)}
    assert (kept["defer"].status, kept["defer"].result) == ("pending", "deferred")
    created = await library.note(applied["create"]["note_id"])
    assert (created.title, created.markdown) == ("Da Capo", "From the [[Sign]]")
    assert (created.version, created.created_by) == (1, library.owner.id)
    changed = {name: await library.note(note_id) for name, note_id in ids.items()}
    assert changed["rewrite"].markdown == "one\n2\nthree"
    assert changed["retitle"].title == "Retitled"
    assert changed["relink"].markdown == "See [[New]] and [[Trio]]."
    assert changed["retag"].tags == ("music", "theory")
    assert {name: note.version for name, note in changed.items()} == {
        **dict.fromkeys(("rewrite", "retitle", "relink", "retag"), 2),
        "defer": 1,
    }
    for name in ("rewrite", "retitle", "relink", "retag"):
        assert (applied[name]["version"], applied[name]["event_seq"]) == (2, 2)
    workspace = library.site.rt.workspace(library.owner.workspace_id)
    holders = {
        "New": [ids["relink"]],
        "Trio": [ids["relink"]],
        "Sign": [applied["create"]["note_id"]],
        "Old": [],
    }
    for title, expected in holders.items():
        linked = await workspace.snapshot(notes, key=link_key(title))
        assert [each.entity_id for each in linked.items] == expected


async def test_what_is_so_already_is_no_change(library: Library) -> None:
    note_id = await library.write("Same", "the text\n")
    await library.owner.put(f"/api/notes/{note_id}/tags", {"tags": ["a"]})
    said = {"target_note_id": note_id}
    run_id = await library.proposed(
        operation("rewrite", "rewrite_note", body_markdown="the text", **said),
        operation("retitle", "retitle_note", title="Same", **said),
        operation("relink", "relink_note", body_markdown="the text", **said),
        operation("retag", "retag_note", body_markdown="a", **said),
    )
    names = ("rewrite", "retitle", "relink", "retag")
    assert (await library.review(run_id, **accepting(names))).status == 200
    kept = await library.operations(run_id)
    assert {each.result for each in kept} == {"no_change"}
    assert {each.status for each in kept} == {"applied"}
    assert (await library.note(note_id)).version == 2


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (operation("o", "rewrite_note", body_markdown="x"), "MISSING_TARGET_NOTE"),
        (operation("o", "retitle_note", title="\N{NO-BREAK SPACE}"), "MISSING_TARGET_NOTE"),
        (operation("o", "create_note", target_path="a/", body_markdown="x"), "APPLY_FAILED"),
        (operation("o", "create_note", title="t" * 301), "APPLY_FAILED"),
    ],
)
async def test_what_cannot_be_applied_says_why(library: Library, said: Said, reason: str) -> None:
    run_id = await library.proposed(said)
    assert (await library.review(run_id, o="accept")).status == 200
    (kept,) = await library.operations(run_id)
    assert (kept.status, kept.reject_reason) == ("rejected", reason)


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("retitle_note", {}, "INVALID_RETITLE_PAYLOAD"),
        ("retitle_note", {"title": "t" * 301}, "INVALID_RETITLE_PAYLOAD"),
        ("relink_note", {"body_markdown": "[[Here]] other words"}, "APPLY_FAILED"),
        ("relink_note", {"body_markdown": "[[the]]"}, "APPLY_FAILED"),
        ("retag_note", {"body_markdown": "t" * 65}, "APPLY_FAILED"),
        ("retag_note", {"body_markdown": "\n".join(map(str, range(65)))}, "APPLY_FAILED"),
    ],
)
async def test_what_no_user_could_write_is_not_applied_either(
    library: Library, kind: str, more: dict[str, str], reason: str
) -> None:
    note_id = await library.write("A", "the text")
    run_id = await library.proposed(operation("o", kind, target_note_id=note_id, **more))
    assert (await library.review(run_id, o="accept")).status == 200
    (kept,) = await library.operations(run_id)
    assert (kept.status, kept.reject_reason) == ("rejected", reason)
    assert kept.reject_detail
    assert (await library.note(note_id)).version == 1


async def test_x_lib_6_what_somebody_changed_meanwhile_is_not_overwritten(library: Library) -> None:
    ids = [await library.write(f"N{number}", "text") for number in range(3)]
    said = [
        operation(f"o{number}", "rewrite_note", target_note_id=note_id, body_markdown="mine")
        for number, note_id in enumerate(ids)
    ]
    run_id = await library.proposed(*said)
    patch = {"base_version": 1, "patch_ops": [{"insert": "yours "}]}
    assert (await library.owner.patch(f"/api/notes/{ids[0]}", patch)).status == 200
    await library.owner.delete(f"/api/notes/{ids[1]}")
    assert (await library.review(run_id, o0="accept", o1="accept", o2="apply")).status == 200
    kept = await library.operations(run_id)
    assert [each.reject_reason for each in kept] == ["APPLY_FAILED", "TARGET_NOTE_NOT_FOUND", None]
    assert kept[0].reject_detail == "VERSION_CONFLICT: expected 1, current 2"
    assert (await library.note(ids[0])).markdown == "yours text"
    assert (await library.note(ids[2])).markdown == "mine"


async def test_operations_on_one_note_go_on_from_each_other(library: Library) -> None:
    """What the same review has changed is no conflict; what comes in between is."""
    note_id = await library.write("A", "text")
    said = {"target_note_id": note_id}
    run_id = await library.proposed(
        operation("rewrite", "rewrite_note", body_markdown="new", **said),
        operation("retitle", "retitle_note", title="B", **said),
        operation("retag", "retag_note", body_markdown="late", **said),
    )
    assert (await library.review(run_id, rewrite="accept", retitle="accept")).status == 200
    note = await library.note(note_id)
    assert (note.markdown, note.title, note.version) == ("new", "B", 3)
    patch = {"base_version": 3, "patch_ops": [{"insert": "!"}]}
    assert (await library.owner.patch(f"/api/notes/{note_id}", patch)).status == 200
    assert (await library.review(run_id, retag="accept")).status == 200
    kept = await library.operations(run_id)
    assert kept[2].reject_detail == "VERSION_CONFLICT: expected 3, current 4"


async def test_x_lib_6_a_review_that_is_sent_again_does_nothing(library: Library) -> None:
    run_id = await library.proposed(
        operation("o1", "create_note", title="T"), operation("o2", "create_note", title="U")
    )
    first = await library.review(run_id, o1="accept", o2=("reject", "not now"))
    before = await library.log()
    again = await library.review(run_id, o1="apply", o2="reject")
    assert again.status == 200, again.raw
    assert again.body["run"] == first.body["run"]
    assert await library.log() == before
    otherwise = await library.review(run_id, o1="reject")
    assert (otherwise.status, otherwise.code) == (409, "STATE_CONFLICT")
    assert await library.log() == before
    titles = await library.owner.get(f"/api/notes?workspace_id={library.owner.workspace_id}")
    assert [each["title"] for each in titles.body["notes"]] == ["T"]
    assert before.count(("automation_run_reviewed", "librarian_review")) == 1


async def test_x_lib_6_two_reviews_at_once_apply_once(library: Library) -> None:
    said = [operation(f"o{number}", "create_note", title=f"T{number}") for number in range(10)]
    run_id = await library.proposed(*said)
    every = accepting(each["operation_id"] for each in said)
    answers: list[Answer] = []

    async def review() -> None:
        answers.append(await library.review(run_id, **every))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(review)
    assert [each.status for each in answers] == [200] * 4
    log = await library.log()
    assert log.count(("note_created", "note")) == 10
    assert log.count(("operation_applied", "librarian_operation")) == 10
    applied = answers[0].body["run"]["result_json"]["operation_applied"]
    assert [each["operation_id"] for each in applied] == [*every], "in the order of the answer"
    assert all(each.body["run"] == answers[0].body["run"] for each in answers)


async def test_decisions_are_recorded_first_and_applied_later(library: Library) -> None:
    """`apply=false` records them, and they may be others until they are applied."""
    run_id = await library.proposed(
        operation("o1", "create_note", title="T"), operation("o2", "create_note", title="U")
    )
    recorded = await library.review(run_id, apply=False, o1="reject", o2=("reject", "no"))
    assert recorded.status == 200, recorded.raw
    assert recorded.body["run"]["result_json"]["review"] == {
        "apply": False,
        "is_applying": False,
        "decisions": [
            {"operation_id": "o1", "decision": "reject"},
            {"operation_id": "o2", "decision": "reject", "reject_reason": "no"},
        ],
    }
    assert [each.status for each in await library.operations(run_id)] == ["pending"] * 2
    assert (await library.review(run_id, apply=False, o1="accept")).status == 200
    applied = await library.review(run_id)
    assert applied.status == 200, applied.raw
    first, second = await library.operations(run_id)
    assert (first.status, first.result) == ("applied", "created")
    assert (second.status, second.reject_reason) == ("rejected", "USER_REJECTED")
    assert second.reject_detail == "no"


async def test_x_lib_7_a_review_is_of_its_own_run(library: Library) -> None:
    mine = await library.proposed(operation("o1", "create_note", title="T"))
    other = await library.proposed(operation("p1", "create_note", title="U"))
    before = await library.log()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"p1": "accept"}, "the run has no such operation"),
        ({"o1": "maybe"}, "a decision is accept, apply or reject"),
        ({"o1": ("reject", "x" * 501)}, "a reason has at most 500 characters"),
    ]
    for said, detail in wrong:
        refused = await library.review(mine, **said)
        assert (refused.status, refused.code) == (422, "REVIEW_INVALID")
        assert refused.body["details"]["detail"] == detail
    twice = [{"operation_id": "o1", "decision": "accept"}] * 2
    refused = await library.owner.post(f"{RUNS}/{mine}/review", {"decisions": twice})
    assert (refused.status, refused.code) == (422, "REVIEW_INVALID")
    missing = await library.review("nothing", o1="accept")
    assert (missing.status, missing.code) == (404, "RUN_NOT_FOUND")
    assert await library.log() == before
    assert [each.status for each in await library.operations(other)] == ["pending"]


async def test_x_lib_7_only_owners_and_admins_review(library: Library) -> None:
    site, owner = library.site, library.owner
    run_id = await library.proposed(
        operation("o1", "create_note", title="T"), operation("o2", "create_note", title="U")
    )
    for role in ("editor", "viewer"):
        member = await site.add_member(owner, role)
        refused = await library.review(run_id, by=member, o1="accept")
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    stranger = await library.review(run_id, by=await site.add_user(), o1="accept")
    assert (stranger.status, stranger.code) == (404, "RUN_NOT_FOUND")
    admin = await site.add_member(owner, "admin")
    assert (await library.review(run_id, by=admin, o1="accept")).status == 200
    created = next(each for each in await library.operations(run_id) if each.note_id)
    assert (await library.note(str(created.note_id))).created_by == admin.id


async def test_a_run_that_is_no_librarians_is_not_reviewed(library: Library) -> None:
    body = {
        "workspace_id": library.owner.workspace_id,
        "trigger": "by_hand",
        "action_json": {"kind": "noop"},
    }
    rule_id = (await library.owner.post(RULES, body)).body["rule"]["id"]
    launched = await library.owner.post(f"{RULES}/{rule_id}/launch", {})
    run_id = launched.body["run"]["id"]
    await library.run(run_id)
    refused = await library.review(run_id)
    assert (refused.status, refused.code) == (409, "STATE_CONFLICT")


async def test_a_run_under_way_is_not_reviewed(library: Library) -> None:
    run_id = await library.asks(then())
    with fail_after(10):
        await until(lambda: bool(library.provider.asked))
    refused = await library.review(run_id)
    assert (refused.status, refused.code) == (409, "STATE_CONFLICT")
    assert refused.body["details"]["run_status"] == "running"


async def test_what_an_applying_run_left_is_gone_on_with() -> None:
    """Where it fails, the next review asks for another one, which passes over what is settled."""
    left = [1]

    async def fails_once(run: Any) -> Any:
        if left:
            review = await run.get(librarian_reviews, run.input["run_id"])
            first = ApplyOperation(run_id=run.input["run_id"], operation_id=review.due()[0])
            await run.send(first, step="operation-0")
            raise Reject("GONE", f"left {left.pop()}")
        return await review_worker.function(run)

    workers = [each for each in automation_workers if each is not review_worker]
    flaky = msgspec.structs.replace(review_worker, function=fails_once)
    app = App(automation_app.domains, routes=automation_app.routes, workers=[*workers, flaky])
    async with open_library(app) as library:
        said = [operation(f"o{number}", "create_note", title=f"T{number}") for number in range(3)]
        run_id = await library.proposed(*said)
        failed = await library.review(run_id, **accepting(each["operation_id"] for each in said))
        assert failed.status == 200, failed.raw
        assert [each.status for each in await library.operations(run_id)] == [
            *("applied", "pending", "pending")
        ]
        assert (await library.review(run_id)).status == 200
        assert [each.status for each in await library.operations(run_id)] == ["applied"] * 3
        log = await library.log()
        assert log.count(("note_created", "note")) == 3
        assert log.count(("automation_run_reviewed", "librarian_review")) == 1


async def test_api_auto_02_all_of_it_is_on_record(library: Library) -> None:
    run_id = await library.proposed(operation("o1", "create_note", title="T"))
    assert (await library.review(run_id, o1=("reject", "no"))).status == 200
    answer = await library.owner.get(f"/api/audit?workspace_id={library.owner.workspace_id}")
    assert answer.status == 200, answer.raw
    actions = [each["action"] for each in answer.body["items"]]
    for action in ("LAUNCHED", "QUEUED", "RUNNING", "SUCCEEDED", "DECIDED", "REVIEWED"):
        assert f"AUTOMATION_RUN_{action}" in actions


async def test_bodies_that_are_markup_come_back_as_they_were_meant(library: Library) -> None:
    """A text may hold what looks like a tag, or like an escape of one."""
    body = "<b>bold</b> &lt; </operations> &amp;amp; <a href='x'>"
    run_id = await library.asks(
        answers(
            lambda request_id: response(
                request_id, operation("o1", "create_note", title="T", body_markdown=body)
            )
        )
    )
    assert (await library.run(run_id))["status"] == "succeeded"
    assert (await library.review(run_id, o1="accept")).status == 200
    (kept,) = await library.operations(run_id)
    assert (await library.note(str(kept.note_id))).markdown == body
