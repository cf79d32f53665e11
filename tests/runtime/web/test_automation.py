"""Automation over HTTP: rules, what they are refused for, their runs, and who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from dalsegno.actors.domains.automation import (
    RULES_PER_TRIGGER_MAX,
    CreateRule,
    automation_app,
    automation_rules,
)
from dalsegno.actors.domains.notes import SetTags, notes
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Reject
from dalsegno.protocol.runs import CancelRun, RequestRun, runs
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after

from ._client import Answer, Site, User
from .conftest import open_site
from .test_lists import Reads, as_store

RULES = "/api/automation/rules"
RUNS = "/api/automation/runs"

NOOP = {"kind": "noop"}
STRUCTURE = {
    "kind": "librarian_structure",
    "provider": {"provider_kind": "lmstudio", "model": "small"},
    "protocol": "xml_attrless",
    "plan": {"goal": "tidy", "strict_mode": False, "max_operations": 8},
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=automation_app) as site:
        yield site


async def create(user: User, **more: Any) -> Answer:
    body = {"workspace_id": user.workspace_id, "trigger": "note_patched", "action_json": NOOP}
    return await user.post(RULES, {**body, "condition_json": {}, **more})


async def rule(user: User, **more: Any) -> str:
    created = await create(user, **more)
    assert created.status == 201, created.raw
    return str(created.body["rule"]["id"])


async def launch(user: User, rule_id: str, **said: Any) -> Answer:
    user.site.clock.move(milliseconds=1)  # so that what is asked for later is listed before
    return await user.post(f"{RULES}/{rule_id}/launch", {"workspace_id": user.workspace_id, **said})


async def listed(user: User, **query: Any) -> list[dict[str, Any]]:
    said = "".join(f"&{name}={value}" for name, value in query.items())
    answer = await user.get(f"{RUNS}?workspace_id={user.workspace_id}{said}")
    assert answer.status == 200, answer.raw
    found: list[dict[str, Any]] = answer.body["runs"]
    return found


async def ended(user: User, count: int) -> list[dict[str, Any]]:
    """Wait until there are so many runs, and all have ended; the latest first.

    What is tried again waits by the site's clock.
    """
    with fail_after(10):
        while True:
            found = await listed(user, limit=100)
            assert len(found) <= count
            if len(found) == count and all(each["finished_at"] for each in found):
                return found
            user.site.clock.move(milliseconds=10)
            await trio.sleep(0.005)


async def told(site: Site) -> None:
    """Wait until the reactors were told of everything."""
    with fail_after(10):
        while site.rt.service.reactors.statistics().behind:
            await trio.sleep(0.005)


async def patch(user: User, note_id: str, base_version: int) -> None:
    user.site.clock.move(milliseconds=1)
    body = {"base_version": base_version, "patch_ops": [{"insert": "x"}]}
    patched = await user.patch(f"/api/notes/{note_id}", body)
    assert patched.status == 200, patched.raw


# ------------------------------------------------------------------------------------ rules


async def test_x_auto_1_a_rule_from_its_making_to_its_end(owner: User) -> None:
    created = await create(owner, condition_json={"jmespath": "note.title"}, enabled=False)
    assert created.status == 201, created.raw
    made = created.body["rule"]
    assert set(made) == {
        *("id", "workspace_id", "trigger", "condition_json", "action_json", "enabled"),
        *("created_by", "updated_by", "created_at", "updated_at"),
    }
    assert (made["workspace_id"], made["created_by"]) == (owner.workspace_id, owner.id)
    assert (made["enabled"], made["action_json"]) == (False, NOOP)
    listing = f"{RULES}?workspace_id={owner.workspace_id}"
    assert (await owner.get(listing)).body["rules"] == [made]
    path = f"{RULES}/{made['id']}"
    changed = await owner.patch(path, {"trigger": "note_created", "enabled": True})
    assert (changed.status, changed.body["rule"]["trigger"]) == (200, "note_created")
    assert changed.body["rule"]["condition_json"] == {"jmespath": "note.title"}
    assert (await owner.patch(path, {"enabled": True, "base_version": 1})).code == (
        "VERSION_CONFLICT"
    )
    assert (await owner.delete(path)).status == 204
    for gone in (
        await owner.delete(path),
        await owner.patch(path, {"enabled": False}),
        await launch(owner, made["id"]),
        await owner.delete(f"{RULES}/nothing"),
    ):
        assert (gone.status, gone.code) == (404, "RULE_NOT_FOUND")
    assert (await owner.get(listing)).body["rules"] == []


_CONDITIONS: list[object] = [None, [], "x", {"a": 1}, {"jmespath": "note."}]
_ACTIONS: list[object] = [None, [], {}, {"kind": 5}, {"kind": ""}]
WRONG: list[dict[str, Any]] = [
    *({"trigger": each} for each in (None, 5, "", "a" * 65, "Note", "note patched", "ä")),
    *({"condition_json": each} for each in _CONDITIONS),
    *({"action_json": each} for each in _ACTIONS),
    *({"action_json": {"kind": "tag_note", **each}} for each in ({}, {"tag": 5}, {"tag": " "})),
    {"action_json": {**STRUCTURE, "provider": None}},
    {"action_json": {**STRUCTURE, "provider": {"provider_kind": "other", "model": "m"}}},
    {"action_json": {**STRUCTURE, "provider": {"provider_kind": "lmstudio", "model": ""}}},
    {"action_json": {**STRUCTURE, "provider": {"provider_kind": "lmstudio", "model": "m" * 129}}},
    {"action_json": {**STRUCTURE, "protocol": "json"}},
    {"action_json": {**STRUCTURE, "plan": []}},
]


async def test_x_auto_1_what_is_no_rule_is_refused(owner: User) -> None:
    rule_id = await rule(owner)
    for said in WRONG:
        for refused in (await create(owner, **said), await owner.patch(f"{RULES}/{rule_id}", said)):
            assert (refused.status, refused.code) == (422, "RULE_INVALID"), said
            assert refused.body["details"]["field"] in said
            assert refused.body["details"]["detail"]


async def test_x_auto_1_what_is_left_out_is_missing(owner: User) -> None:
    body = {"workspace_id": owner.workspace_id}
    for said in ({}, {"trigger": "note_patched"}, {"action_json": NOOP}):
        refused = await owner.post(RULES, {**body, **said})
        assert (refused.status, refused.code) == (422, "RULE_INVALID")


@pytest.mark.parametrize("role", ["editor", "viewer"])
async def test_only_owners_and_admins_change_and_launch_rules(
    site: Site, owner: User, role: str
) -> None:
    rule_id = await rule(owner)
    member = await site.add_member(owner, role)
    stranger = await site.add_user()
    at_home = {"workspace_id": owner.workspace_id}
    path = f"{RULES}/{rule_id}"
    for user, status in ((member, 403), (stranger, 404)):
        for refused in (
            await user.patch(path, {"enabled": False}),
            await user.delete(path),
            await user.post(f"{path}/launch", at_home),
        ):
            assert refused.status == status, refused.raw
    body = {**at_home, "trigger": "note_patched", "action_json": NOOP}
    assert (await member.post(RULES, body)).code == "ROLE_FORBIDDEN"
    assert len((await member.get(f"{RULES}?workspace_id={owner.workspace_id}")).body["rules"]) == 1
    assert (await member.get(f"{RUNS}?workspace_id={owner.workspace_id}")).body["runs"] == []
    assert (await stranger.get(f"{RULES}?workspace_id={owner.workspace_id}")).status == 403
    admin = await site.add_member(owner, "admin")
    assert (await admin.patch(path, {"enabled": False})).body["rule"]["updated_by"] == admin.id


async def test_a_rule_has_a_bound_and_so_have_those_of_a_trigger(site: Site, owner: User) -> None:
    large = await create(owner, action_json={**NOOP, "more": "x" * 20_000})
    assert (large.status, large.code) == (413, "PAYLOAD_TOO_LARGE")
    workspace = site.rt.workspace(owner.workspace_id)
    for _ in range(RULES_PER_TRIGGER_MAX):
        receipt = await workspace.send(CreateRule(trigger="note_patched", action_json=NOOP))
    refused = await create(owner)
    assert (refused.status, refused.code) == (409, "QUOTA_EXCEEDED")
    disabled = await rule(owner, enabled=False)
    other = await rule(owner, trigger="note_created")
    for rule_id in (disabled, other):
        said = {"trigger": "note_patched", "enabled": True}
        assert (await owner.patch(f"{RULES}/{rule_id}", said)).code == "QUOTA_EXCEEDED"
    assert (await owner.delete(f"{RULES}/{receipt.entity_id}")).status == 204
    assert (await owner.patch(f"{RULES}/{disabled}", {"enabled": True})).status == 200
    assert (await create(owner)).code == "QUOTA_EXCEEDED"
    assert (await owner.patch(f"{RULES}/{disabled}", {"enabled": False})).status == 200
    assert (await create(owner)).status == 201


async def test_every_change_of_a_rule_is_on_record(owner: User) -> None:
    rule_id = await rule(owner)
    await owner.patch(f"{RULES}/{rule_id}", {"enabled": False})
    await owner.patch(f"{RULES}/{rule_id}", {"enabled": True})
    await launch(owner, rule_id)
    await ended(owner, 1)
    await owner.delete(f"{RULES}/{rule_id}")
    records = (await owner.get(f"/api/audit?workspace_id={owner.workspace_id}")).body["items"]
    actions = [each["action"] for each in reversed(records)]
    assert [each for each in actions if each.startswith("AUTOMATION")] == [
        "AUTOMATION_RULE_CREATED",
        "AUTOMATION_RULE_UPDATED",
        "AUTOMATION_RULE_UPDATED",
        "AUTOMATION_RUN_LAUNCHED",
        "AUTOMATION_RUN_QUEUED",
        "AUTOMATION_RUN_RUNNING",
        "AUTOMATION_RUN_SUCCEEDED",
        "AUTOMATION_RULE_DELETED",
    ]
    queued = next(each for each in records if each["action"] == "AUTOMATION_RUN_QUEUED")
    assert (queued["user_id"], queued["new_value"]["labels"]["rule_id"]) == (owner.id, rule_id)


# ------------------------------------------------------------------------------ what they do


async def test_x_auto_2_a_run_is_queued_then_running_then_over(site: Site, owner: User) -> None:
    rule_id = await rule(owner)
    note_id = await owner.write()
    await patch(owner, note_id, 1)
    (run,) = await ended(owner, 1)
    assert set(run) == {
        *("id", "rule_id", "workspace_id", "triggering_event_id", "status", "provider_kind"),
        *("model", "result_json", "error_code", "error_detail", "started_at", "finished_at"),
        "created_at",
    }
    assert (run["rule_id"], run["workspace_id"]) == (rule_id, owner.workspace_id)
    assert (run["status"], run["triggering_event_id"]) == ("succeeded", f"note:{note_id}:2")
    assert run["result_json"] == {"kind": "noop", "applied": False}
    assert run["error_code"] is run["error_detail"] is run["provider_kind"] is run["model"] is None
    read = await owner.get(f"{RUNS}/{run['id']}")
    assert read.body["run"] == run
    workspace = site.rt.workspace(owner.workspace_id)
    history = await workspace.history(runs, run["id"])
    assert [each.type for each in history] == ["run_requested", "run_started", "run_finished"]
    await workspace.send(CancelRun(run_id=run["id"]))  # it is over, and stays so
    assert (await owner.get(f"{RUNS}/{run['id']}")).body["run"] == run


async def test_x_auto_2_a_run_that_fails_says_why(owner: User) -> None:
    note_id = await owner.write()
    for action, code in (
        ({"kind": "fly"}, "RULE_ACTION_INVALID"),
        (STRUCTURE, "LLM_UPSTREAM_ERROR"),  # nobody is asked here
        ({"kind": "tag_note", "tag": "seen"}, "RULE_ACTION_FAILED"),
    ):
        rule_id = await rule(owner, action_json=action)
        launched = await launch(owner, rule_id)
        assert launched.status == 201, launched.raw
        run_id = launched.body["run"]["id"]
        with fail_after(10):
            while not (run := (await owner.get(f"{RUNS}/{run_id}")).body["run"])["finished_at"]:
                await trio.sleep(0.005)
        assert (run["status"], run["error_code"]) == ("failed", code)
        assert run["error_detail"]
        asked = (run["provider_kind"], run["model"])
        assert asked == (("lmstudio", "small") if action == STRUCTURE else (None, None))
    gone = await rule(owner, action_json={"kind": "tag_note", "tag": "seen"})
    await owner.delete(f"/api/notes/{note_id}")
    launched = await launch(owner, gone, note_id=note_id)
    (last, *_) = await ended(owner, 4)
    assert (last["id"], last["error_code"]) == (launched.body["run"]["id"], "RULE_ACTION_FAILED")


async def test_x_auto_5_a_condition_that_is_false_asks_for_no_run(site: Site, owner: User) -> None:
    said = "contains(note.tags, 'draft') && event.payload.version == `3`"
    rule_id = await rule(owner, condition_json={"jmespath": said})
    broken = await rule(owner, condition_json={"jmespath": "abs(note.title)"})
    note_id = await owner.write()
    await owner.put(f"/api/notes/{note_id}/tags", {"tags": ["draft"]})
    await patch(owner, note_id, 2)
    await patch(owner, note_id, 3)
    (run,) = await ended(owner, 1)
    await told(site)
    assert (run["rule_id"], run["triggering_event_id"]) == (rule_id, f"note:{note_id}:3")
    assert broken != rule_id
    assert site.rt.service.reactors.statistics().failed == 2, "counted, an event each"


async def test_only_enabled_rules_of_the_event_ask_for_runs(site: Site, owner: User) -> None:
    disabled = await rule(owner, enabled=False)
    await rule(owner, trigger="note_deleted")
    created = await rule(owner, trigger="note_created")
    note_id = await owner.write()
    await patch(owner, note_id, 1)
    await told(site)
    (run,) = await ended(owner, 1)
    assert run["rule_id"] == created
    await owner.patch(f"{RULES}/{disabled}", {"enabled": True})
    await patch(owner, note_id, 2)
    (run, _) = await ended(owner, 2)
    assert run["rule_id"] == disabled


async def test_an_event_that_sets_no_rule_off_costs_the_store_no_list_of_rules() -> None:
    store = as_store(reads := Reads(MemoryStore(WORLD)))
    async with open_site(store=store, app=automation_app) as site:
        owner = await site.set_up()
        note_id = await owner.write()
        await told(site)
        reads.calls.clear()
        for base_version in range(1, 6):
            await patch(owner, note_id, base_version)
            await told(site)
        assert not reads.calls["list_entities"]
        assert reads.calls["load_entities"] <= 1, "that there are no rules is known from then on"
        await rule(owner)
        await patch(owner, note_id, 6)
        await ended(owner, 1)
        assert reads.calls["list_entities"], "which are read anew once there is one"


async def test_a_tag_is_put_on_the_note_with_the_rights_of_who_made_the_rule(
    site: Site, owner: User
) -> None:
    admin = await site.add_member(owner, "admin")
    admin.workspace_id = owner.workspace_id
    await rule(admin, action_json={"kind": "tag_note", "tag": " seen "})
    note_id = await owner.write()
    await owner.put(f"/api/notes/{note_id}/tags", {"tags": ["draft"]})
    await patch(owner, note_id, 2)
    (run,) = await ended(owner, 1)
    assert run["result_json"] == {
        "kind": "tag_note",
        "tag": "seen",
        "note_id": note_id,
        "applied": True,
    }
    note = (await owner.get(f"/api/notes/{note_id}")).body
    assert (note["tags"], note["version"]) == (["draft", "seen"], 4)
    events = (await owner.get(f"/api/notes/{note_id}/history")).body["events"]
    assert (events[-1]["event_type"], events[-1]["actor_id"]) == ("note_tags_updated", admin.id)
    await patch(owner, note_id, 4)
    (run, _) = await ended(owner, 2)
    assert run["result_json"]["applied"] is False
    await owner.delete(f"{owner.space}/members/{admin.id}")
    await owner.put(f"/api/notes/{note_id}/tags", {"tags": []})
    await patch(owner, note_id, 6)
    (run, *_) = await ended(owner, 3)
    assert (run["status"], run["error_code"]) == ("failed", "ROLE_FORBIDDEN")


async def test_the_rule_counts_as_it_was_when_it_was_set_off(site: Site, owner: User) -> None:
    rule_id = await rule(owner, trigger="note_created")
    await owner.write()
    (run,) = await ended(owner, 1)
    workspace = site.rt.workspace(owner.workspace_id)
    await owner.patch(f"{RULES}/{rule_id}", {"action_json": {"kind": "tag_note", "tag": "t"}})
    state = await workspace.get(runs, run["id"])
    assert state is not None
    assert state.input["action"] == NOOP
    assert state.requested_by == owner.id


async def test_x_auto_7_the_61st_time_in_a_minute_is_a_run_that_failed(
    site: Site, owner: User
) -> None:
    await rule(owner, trigger="note_tags_updated")
    calm = await rule(owner, trigger="note_created")
    note_id = await owner.write()
    user = site.rt.workspace(owner.workspace_id).acting(user_id=owner.id)
    for number in range(61):
        await user.send(SetTags(note_id, [str(number)]))
    found = await ended(owner, 62)
    limited = [each for each in found if each["error_code"] == "RATE_LIMITED"]
    assert [each["status"] for each in limited] == ["failed"]
    assert limited[0]["triggering_event_id"] == f"note:{note_id}:62", "the last one, in order"
    assert any(each["rule_id"] == calm and each["status"] == "succeeded" for each in found)
    site.clock.move(seconds=1)
    await user.send(SetTags(note_id, []))
    await told(site)
    (run, *_) = await listed(owner, limit=1)
    assert run["triggering_event_id"] == f"note:{note_id}:63"
    with fail_after(10):
        while not (run := (await owner.get(f"{RUNS}/{run['id']}")).body["run"])["finished_at"]:
            await trio.sleep(0.005)
    assert run["status"] == "succeeded"


async def test_x_auto_8_what_a_rule_does_sets_no_rule_off(site: Site, owner: User) -> None:
    for tag in ("a", "b"):
        await rule(owner, trigger="note_tags_updated", action_json={"kind": "tag_note", "tag": tag})
    note_id = await owner.write()
    await owner.put(f"/api/notes/{note_id}/tags", {"tags": ["begin"]})
    found = await ended(owner, 2)
    await told(site)
    assert {each["triggering_event_id"] for each in found} == {f"note:{note_id}:2"}
    assert len(await ended(owner, 2)) == 2
    note = await site.rt.workspace(owner.workspace_id).get(notes, note_id)
    assert note is not None
    assert set(note.tags) == {"begin", "a", "b"}, "neither is lost"


# ---------------------------------------------------------------------------------- launching


async def test_x_idem_8_a_rule_and_a_trigger_have_one_run(site: Site, owner: User) -> None:
    rule_id = await rule(owner)
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await launch(owner, rule_id, triggering_event_id="t1"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert sorted(each.status for each in answers) == [200] * 9 + [201]
    assert len({each.body["run"]["id"] for each in answers}) == 1
    (made,) = (each.body["run"] for each in answers if each.status == 201)
    assert (made["status"], made["triggering_event_id"]) == ("queued", "t1")
    (run,) = await ended(owner, 1)
    again = await launch(owner, rule_id, triggering_event_id="t1")
    assert (again.status, again.body["run"]) == (200, run)


async def test_x_idem_8_the_trigger_of_an_event_gives_the_run_of_the_event(owner: User) -> None:
    rule_id = await rule(owner)
    note_id = await owner.write()
    await patch(owner, note_id, 1)
    (run,) = await ended(owner, 1)
    found = await launch(owner, rule_id, triggering_event_id=f"note:{note_id}:2")
    assert (found.status, found.body["run"]) == (200, run)
    early = await launch(owner, rule_id, triggering_event_id=f"note:{note_id}:3")
    assert early.status == 201
    await patch(owner, note_id, 2)
    await ended(owner, 2)
    other = await rule(owner, enabled=True, trigger="never")
    assert (await launch(owner, other, triggering_event_id=f"note:{note_id}:2")).status == 201


async def test_launching_anew_is_another_run_and_a_repeat_of_the_key_is_not(owner: User) -> None:
    rule_id = await rule(owner)
    first, second = await launch(owner, rule_id), await launch(owner, rule_id)
    assert (first.status, second.status) == (201, 201)
    ids = {each.body["run"]["id"] for each in (first, second)}
    assert len(ids) == 2
    manual = first.body["run"]["triggering_event_id"]
    assert manual.startswith(f"manual:{rule_id}:")
    await ended(owner, 2)
    assert (await launch(owner, rule_id, triggering_event_id=manual)).status == 200
    path, body = f"{RULES}/{rule_id}/launch", {"workspace_id": owner.workspace_id}
    third = await owner.post(path, body, idempotency_key="k")
    await ended(owner, 3)
    again = await owner.post(path, body, idempotency_key="k")
    assert (third.status, again.status) == (201, 201)
    assert again.body["run"] == third.body["run"]
    assert again.headers["x-idempotency-replay"] == "true"


async def test_launching_is_refused_for_another_workspace_and_while_disabled(
    site: Site, owner: User
) -> None:
    rule_id = await rule(owner, enabled=False)
    disabled = await launch(owner, rule_id)
    assert (disabled.status, disabled.code) == (422, "RULE_DISABLED")
    other = await owner.post(f"{RULES}/{rule_id}/launch", {"workspace_id": "other"})
    assert (other.status, other.code) == (400, "BAD_REQUEST")
    long = await launch(owner, rule_id, triggering_event_id="t" * 257)
    assert (long.status, long.code) == (400, "BAD_REQUEST")
    assert (await launch(owner, "nothing")).code == "RULE_NOT_FOUND"
    assert await listed(owner) == []
    user = site.rt.workspace(owner.workspace_id).acting(user_id=owner.id)
    with pytest.raises(Reject) as refused:  # it is launched by its rule, or not at all
        await user.send(RequestRun(worker="automation", input={}, labels={"rule_id": rule_id}))
    assert refused.value.code == "WORKER_UNKNOWN"


async def test_a_launched_note_is_tagged(owner: User) -> None:
    rule_id = await rule(owner, action_json={"kind": "tag_note", "tag": "seen"})
    note_ids = [await owner.write(), await owner.write()]
    assert (await launch(owner, rule_id, note_id=note_ids[0])).status == 201
    trigger = f"note:{note_ids[1]}:1"
    assert (await launch(owner, rule_id, triggering_event_id=trigger)).status == 201
    await ended(owner, 2)
    for note_id in note_ids:
        assert (await owner.get(f"/api/notes/{note_id}")).body["tags"] == ["seen"]


# ------------------------------------------------------------------------------- runs, rates


async def test_runs_are_listed_the_latest_first_a_page_at_a_time(site: Site, owner: User) -> None:
    rule_id = await rule(owner)
    made = []
    for _ in range(5):
        made.append((await launch(owner, rule_id)).body["run"]["id"])
        site.clock.move(seconds=1)
    assert [each["id"] for each in await listed(owner)] == made[::-1]
    found: list[str] = []
    after = ""
    while True:
        page = await owner.get(f"{RUNS}?workspace_id={owner.workspace_id}&limit=2{after}")
        found += [each["id"] for each in page.body["runs"]]
        if page.body["next"] is None:
            break
        after = f"&after={page.body['next']}"
    assert found == made[::-1]
    for query in ("", f"?workspace_id={owner.workspace_id}&limit=0"):
        assert (await owner.get(RUNS + query)).code == "BAD_REQUEST"
    assert (await owner.get(f"{RUNS}?workspace_id={owner.workspace_id}&limit=101")).status == 400
    assert (await owner.get(f"{RUNS}/nothing")).code == "RUN_NOT_FOUND"


async def test_who_asks_too_often_is_told_when_to_come_again(site: Site, owner: User) -> None:
    rule_id = await rule(owner)
    for _ in range(60):
        answer = await owner.patch(f"{RULES}/{rule_id}", {})
        assert answer.status == 200
    refused = await owner.patch(f"{RULES}/{rule_id}", {})
    assert (refused.status, refused.code) == (429, "RATE_LIMITED")
    assert refused.headers["retry-after"] == "1"
    assert (await create(owner)).status == 201, "each has a bucket of its own"
    admin = await site.add_member(owner, "admin")
    assert (await admin.patch(f"{RULES}/{rule_id}", {})).status == 200
    site.clock.move(seconds=1)
    assert (await owner.patch(f"{RULES}/{rule_id}", {})).status == 200
    assert (await owner.patch(f"{RULES}/{rule_id}", {})).code == "RATE_LIMITED"


async def test_rules_are_read_by_key(site: Site, owner: User) -> None:
    await rule(owner)
    await rule(owner, enabled=False)
    workspace = site.rt.workspace(owner.workspace_id)
    assert len(await workspace.entities(automation_rules, key="on:note_patched")) == 1
