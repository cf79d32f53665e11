"""The acceptance ids of automation, each as one story over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from dalsegno.actors.domains.automation import automation_app
from tests._patience import fail_after

from ._client import Answer, Site, User
from .conftest import open_site

RULES = "/api/automation/rules"
RUNS = "/api/automation/runs"
Json = dict[str, Any]

NOOP: Json = {"kind": "noop"}
PROVIDER: Json = {"provider_kind": "lmstudio", "model": "qwen"}
STRUCTURE: Json = {
    "kind": "librarian_structure",
    "provider": PROVIDER,
    "protocol": "xml_attrless",
    "plan": {"goal": "tidy", "scope": "workspace", "strict_mode": True, "max_operations": 8},
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=automation_app) as site:
        yield site


def a_rule(user: User, **more: object) -> Json:
    rule = {"trigger": "note_patched", "condition_json": {}, "action_json": NOOP}
    return {"workspace_id": user.workspace_id, **rule, **more}


async def make(user: User, **more: object) -> Json:
    user.site.clock.move(seconds=1)  # there is a rate
    answer = await user.post(RULES, a_rule(user, **more))
    assert answer.status == 201, answer.raw
    made: Json = answer.body["rule"]
    return made


async def rules_of(user: User) -> list[Json]:
    answer = await user.get(f"{RULES}?workspace_id={user.workspace_id}")
    assert answer.status == 200, answer.raw
    rules: list[Json] = answer.body["rules"]
    return rules


async def head_of(user: User) -> int:
    return int((await user.get(f"{user.space}/events?limit=1")).body["head"])


async def ended(user: User, run_id: str) -> Json:
    """Wait for the end of a run; what is tried again waits by the site's clock."""
    with fail_after(10):
        while True:
            answer = await user.get(f"{RUNS}/{run_id}")
            assert answer.status == 200, answer.raw
            run: Json = answer.body["run"]
            if run["finished_at"] is not None:
                return run
            user.site.clock.move(milliseconds=10)
            await trio.sleep(0.005)


# ------------------------------------------------------------------------------------- API-AUTO-01


async def test_api_auto_01_rules_are_made_listed_changed_and_deleted(owner: User) -> None:
    assert await rules_of(owner) == []
    first = await make(owner)
    second = await make(owner, trigger="note_created", enabled=False)
    assert await rules_of(owner) == sorted([first, second], key=lambda rule: rule["id"])
    path = f"{RULES}/{first['id']}"
    for said in (
        {"trigger": "note_deleted"},
        {"condition_json": {"jmespath": "note.deleted"}},
        {"action_json": {"kind": "tag_note", "tag": "gone"}},
        {"enabled": False},
        {"trigger": "x-1_y", "condition_json": {}, "action_json": NOOP, "enabled": True},
    ):
        changed = await owner.patch(path, said)
        assert changed.status == 200, changed.raw
        first = {**first, **said, "updated_at": changed.body["rule"]["updated_at"]}
        assert changed.body["rule"] == first, "what is left out stays"
    head = await head_of(owner)
    assert (await owner.patch(path, {"enabled": True})).body["rule"] == first
    assert await head_of(owner) == head, "what is so already is no event"
    gone = await owner.delete(path)
    assert (gone.status, gone.raw) == (204, b"")
    assert await rules_of(owner) == [second]
    for answer in (
        await owner.delete(path),
        await owner.patch(path, {"enabled": True}),
        await owner.post(f"{path}/launch", {"workspace_id": owner.workspace_id}),
    ):
        assert (answer.status, answer.code) == (404, "RULE_NOT_FOUND")


def _each(field: str, *values: object) -> list[Json]:
    return [{field: value} for value in values]


def _expressions(*texts: object) -> list[Json]:
    return _each("condition_json", *({"jmespath": text} for text in texts))


def _tags(*tags: object) -> list[Json]:
    return _each("action_json", *({"kind": "tag_note", "tag": tag} for tag in tags))


def _structures(field: str, *values: object) -> list[Json]:
    return _each("action_json", *({**STRUCTURE, field: value} for value in values))


WRONG: list[Json] = [
    # A trigger has 1 to 64 of a-z 0-9 _ -.
    *_each("trigger", None, 5, [], "", "t" * 65, "Note", "a b", "a.b", "ä", "a\n"),
    # A condition is an object that has an expression or nothing.
    *_each("condition_json", None, 5, "note", [], {"a": 1}, {"jmespath": "a", "b": 1}),
    *_expressions(None, 5, {}, "", "note.", "a b", "a == 'b", "#", "abs(", "note["),
    *_expressions("x" * 1_025, "(" * 65 + "a" + ")" * 65, "!" * 100 + "a"),
    *_expressions("no_such(note)", "&note", "length(&note)", "a == `b`"),
    # An action is an object that has a kind, and what this kind asks for.
    *_each("action_json", None, 5, "noop", [], {}, {"kind": None}, {"kind": 5}, {"kind": ""}),
    *_each("action_json", {"kind": ["noop"]}, {"kind": "tag_note"}),
    *_tags(None, 5, "", " ", "t" * 65),
    # … and whom it asks, how, and for what.
    *_structures("provider", None, 5, "lmstudio", [], {}),
    *_structures("protocol", None, 5, "", "xml", "json"),
    *_structures("plan", 5, "tidy", []),
]


async def test_api_auto_01_every_branch_of_the_refusals(owner: User) -> None:
    """Each for a new rule and for a change, with the same words each time; nothing is changed."""
    kept = await make(owner)
    head = await head_of(owner)
    for said in WRONG:
        for path, send in ((RULES, owner.post), (f"{RULES}/{kept['id']}", owner.patch)):
            body = a_rule(owner, **said) if path == RULES else said
            owner.site.clock.move(seconds=2)
            first, again = await send(path, body), await send(path, body)
            assert (first.status, first.code) == (422, "RULE_INVALID"), (path, said)
            assert first.body["details"]["field"] == next(iter(said))
            assert first.body["details"]["detail"], "in words"
            assert _told(first) == _told(again)
    for left_out in ("trigger", "action_json"):
        body = {name: value for name, value in a_rule(owner).items() if name != left_out}
        refused = await owner.post(RULES, body)
        assert (refused.code, refused.body["details"]["field"]) == ("RULE_INVALID", left_out)
    assert await head_of(owner) == head
    assert await rules_of(owner) == [kept]
    disabled = await make(owner, enabled=False)
    launched = await owner.post(
        f"{RULES}/{disabled['id']}/launch", {"workspace_id": owner.workspace_id}
    )
    assert (launched.status, launched.code) == (422, "RULE_DISABLED")


def _told(answer: Answer) -> Json:
    return {name: answer.body[name] for name in ("code", "message", "details")}


# ------------------------------------------------------------------------------------- API-AUTO-02


async def test_api_auto_02_a_run_is_retrieved_and_its_records_lead_to_it(owner: User) -> None:
    """By what is on record of it, and by the events that its records name."""
    rule = await make(owner)
    made = await owner.post(
        f"{RULES}/{rule['id']}/launch", {"workspace_id": owner.workspace_id}, x_request_id="why-1"
    )
    assert (made.status, made.body["run"]["status"]) == (201, "queued")
    run_id = made.body["run"]["id"]
    run = await ended(owner, run_id)
    assert (run["status"], run["rule_id"]) == ("succeeded", rule["id"])
    assert made.body["run"]["created_at"] == run["created_at"]
    assert run["created_at"] <= run["started_at"] <= run["finished_at"]
    assert (await owner.get(f"{RUNS}?workspace_id={owner.workspace_id}")).body["runs"] == [run]
    records = await records_of(owner, run_id)
    assert [each["action"] for each in records] == [
        "AUTOMATION_RUN_LAUNCHED",
        "AUTOMATION_RUN_QUEUED",
        "AUTOMATION_RUN_RUNNING",
        "AUTOMATION_RUN_SUCCEEDED",
    ]
    assert [each["new_value"]["status"] for each in records] == [
        *("requested", "requested", "running", "succeeded")
    ]
    for each in records:
        assert each["resource_type"] == "run"
        assert each["new_value"]["labels"]["rule_id"] == rule["id"]
    # Somebody launched it, and from where they asked is said; what follows is the program's.
    assert {(each["user_id"], each["request_id"]) for each in records[:2]} == {(owner.id, "why-1")}
    assert {each["user_id"] for each in records[2:]} == {None}
    events = await events_of(owner, run_id)
    assert [events[each["event_seq"]] for each in records] == [
        *("run_requested", "run_requested", "run_started", "run_finished")
    ]


async def test_api_auto_02_an_event_s_run_and_one_that_fails_are_on_record(owner: User) -> None:
    rule = await make(owner, action_json={"kind": "tag_note", "tag": "seen"})
    note_id = await owner.write()
    patch = {"base_version": 1, "patch_ops": [{"insert": "x"}]}
    assert (await owner.patch(f"/api/notes/{note_id}", patch)).status == 200
    path = f"{RUNS}?workspace_id={owner.workspace_id}"
    with fail_after(10):
        while not (found := (await owner.get(path)).body["runs"]):
            await trio.sleep(0.005)
    run = await ended(owner, found[0]["id"])
    assert run["triggering_event_id"] == f"note:{note_id}:2"
    actions = [each["action"] for each in await records_of(owner, run["id"])]
    assert actions == [f"AUTOMATION_RUN_{each}" for each in ("QUEUED", "RUNNING", "SUCCEEDED")]
    at_home = {"workspace_id": owner.workspace_id}
    made = await owner.post(f"{RULES}/{rule['id']}/launch", at_home)  # about no note
    run = await ended(owner, made.body["run"]["id"])
    assert (run["status"], run["error_code"]) == ("failed", "RULE_ACTION_FAILED")
    last = (await records_of(owner, run["id"]))[-1]
    assert last["action"] == "AUTOMATION_RUN_FAILED"
    assert last["new_value"]["error_code"] == "RULE_ACTION_FAILED"


async def test_api_auto_02_who_may_see_a_run(site: Site, owner: User) -> None:
    rule = await make(owner)
    made = await owner.post(f"{RULES}/{rule['id']}/launch", {"workspace_id": owner.workspace_id})
    run = await ended(owner, made.body["run"]["id"])
    path, listing = f"{RUNS}/{run['id']}", f"{RUNS}?workspace_id={owner.workspace_id}"
    viewer, stranger = await site.add_member(owner, "viewer"), await site.add_user()
    assert (await viewer.get(path)).body["run"] == run
    assert (await viewer.get(listing)).body["runs"] == [run]
    assert (await viewer.get(f"/api/audit?workspace_id={owner.workspace_id}")).status == 403
    for nowhere in (await stranger.get(path), await owner.get(f"{RUNS}/nothing")):
        assert (nowhere.status, nowhere.code) == (404, "RUN_NOT_FOUND")
    assert (await stranger.get(listing)).status == 403


async def records_of(user: User, run_id: str) -> list[Json]:
    """Return what is on record of a run, the oldest first."""
    query = f"workspace_id={user.workspace_id}&resource_type=run&resource_id={run_id}"
    answer = await user.get(f"/api/audit?{query}")
    assert answer.status == 200, answer.raw
    return list(reversed(answer.body["items"]))


async def events_of(user: User, run_id: str) -> dict[int, str]:
    log = (await user.get(f"{user.space}/events?limit=200")).body["items"]
    of_run = [each for each in log if each["stream_id"] == f"run:{run_id}"]
    return {each["event_seq"]: each["type"] for each in of_run}


# ------------------------------------------------------------------------------------- API-AUTO-03


@pytest.mark.parametrize("kind", ["openrouter", "lmstudio"])
async def test_api_auto_03_both_providers_are_taken_and_named_by_their_runs(
    owner: User, kind: str
) -> None:
    full = {
        "provider_kind": kind,
        "model": "m" * 128,
        "base_url": "https://models.example.org/v1/chat/completions",
        "timeout_ms": 120_000,
        "retry_limit": 2,
        "max_tokens": 1,
        "temperature": 0.5,
        "fallback_models": ["a", "b"],
    }
    for provider in ({"provider_kind": kind, "model": "m"}, full):
        rule = await make(owner, action_json={**STRUCTURE, "provider": provider})
        assert rule["action_json"]["provider"] == provider
        made = await owner.post(
            f"{RULES}/{rule['id']}/launch", {"workspace_id": owner.workspace_id}
        )
        run = made.body["run"]
        assert (run["provider_kind"], run["model"]) == (kind, provider["model"])


def _providers(field: str, *values: object) -> list[Json]:
    return [{**PROVIDER, field: value} for value in values]


OTHER: list[object] = [
    *(None, 5, "lmstudio", [], {}, {"model": "m"}, {"provider_kind": "lmstudio"}),
    *_providers("provider_kind", None, 5, "", "openai", "LMStudio", [], {}),
    *_providers("model", None, 5, "", "m" * 129, ["m"]),
    *_providers("base_url", 5, "", "localhost:1234", "ftp://a/", "http://u:p@a/"),
    *_providers("timeout_ms", 49, 120_001, "50", 50.5, True),
    *_providers("retry_limit", -1, 3, "1"),
    *_providers("max_tokens", 0, "1", 1.5),
    *_providers("temperature", -0.1, 2.1, "1"),
    *_providers("fallback_models", "m", [""], [5], ["m"] * 9),
    *_providers("api_key", "k"),
]


async def test_api_auto_03_any_other_provider_is_refused(owner: User) -> None:
    """As a whole, when the rule is made or changed, and not when its run asks."""
    kept = await make(owner, action_json=STRUCTURE)
    for provider in OTHER:
        owner.site.clock.move(seconds=1)
        action = {**STRUCTURE, "provider": provider}
        for refused in (
            await owner.post(RULES, a_rule(owner, action_json=action)),
            await owner.patch(f"{RULES}/{kept['id']}", {"action_json": action}),
        ):
            assert (refused.status, refused.code) == (422, "RULE_INVALID"), provider
            assert refused.body["details"]["field"] == "action_json"
            assert refused.body["details"]["detail"].startswith("provider")
    assert await rules_of(owner) == [kept]
