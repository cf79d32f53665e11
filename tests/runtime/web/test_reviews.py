"""Reviews over HTTP: what their errors are, and what of them is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dalsegno.actors import REFUSED
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import AUDIT_WORKSPACE, PATH_FORBIDDEN
from dalsegno.protocol.audit import audit_event_of
from dalsegno.runtime.web import create_app
from tests._patience import fail_after
from tests._provider import cuts, says, scripted, status
from tests.runtime._reviewed import Reviewed, reviewed

from ._client import Clock, Site, User

pytestmark = pytest.mark.processes


@asynccontextmanager
async def served(root: Path, *given: Any, **more: Any) -> AsyncIterator[tuple[Reviewed, User]]:
    """A project over HTTP, with its owner, and one who is an author there."""
    async with reviewed(root, *given, **more) as it:
        site = Site(create_app(it.rt, setup_token=None), it.rt, Clock())
        owner = await site.set_up()
        it.id = owner.workspace_id
        for person in ("author", "reviewer"):
            await it.workspace.send(PutMember(person, person))
        yield it, owner


async def proposed(it: Reviewed, user: User, name: str = "Login", **more: Any) -> str:
    body = {"name": name, **more}
    made = await user.post(f"/api/v1/projects/{it.id}/proposals", body)
    assert made.status == 201, made.raw
    return str(made.body["id"])


async def refused_routes(it: Reviewed) -> list[str]:
    """Where paths were refused, as it is on record."""
    bounds = PageBounds(from_seq=1, limit=1_000, bytes_max=2**20)
    events = await it.rt.store.read_events(AUDIT_WORKSPACE, bounds)
    records = [each for each in map(audit_event_of, events) if each is not None]
    said = [each for each in records if each.action == REFUSED]
    return [each.resource_id for each in said if PATH_FORBIDDEN in str(each.new_value)]


async def test_without_its_command_a_validation_is_unavailable(tmp_path: Path) -> None:
    async with served(tmp_path, ["/nowhere/command"]) as (it, owner):
        proposal = await proposed(it, owner)
        answer = await owner.post(f"/api/v1/proposals/{proposal}/validate")
        assert (answer.status, answer.code) == (503, "VALIDATION_UNAVAILABLE")
        told = await it.told(answer.body["details"]["job_id"])
        assert told.kinds == ["validation_start", "validation_error"]
        assert told.run.attempt == 3
        read = await owner.get(f"/api/v1/validations/{told.messages[0].job_id}/status")
        assert read.body["status"] == "failed"
        assert read.body["error"]["code"] == "VALIDATION_NOT_STARTED"
        await it.free()


async def test_where_nothing_is_set_up_that_is_said(tmp_path: Path) -> None:
    async with served(tmp_path) as (it, owner):
        proposal = await proposed(it, owner)
        for step in ("validate", "iterate"):
            answer = await owner.post(f"/api/v1/proposals/{proposal}/{step}", {})
            assert (answer.status, answer.code) == (503, "NOT_CONFIGURED")


async def test_where_all_models_fail_each_is_told_of(tmp_path: Path) -> None:
    async with scripted(status(500, error={"message": "no"}), cuts) as provider:
        models = [provider.settings(), provider.settings(model="second")]
        async with served(tmp_path, provider=provider, models=models) as (it, owner):
            it.write("a.md", "TODO\n")
            proposal = await proposed(it, owner)
            answer = await owner.post(f"/api/v1/proposals/{proposal}/iterate", {})
            assert (answer.status, answer.code) == (502, "LLM_UPSTREAM_ERROR")
            failed = answer.body["details"]["providers"]
            assert [each["model"] for each in failed] == ["first", "second"]
            assert [each["code"] for each in failed] == [
                "LLM_UPSTREAM_ERROR",
                "LLM_PROVIDER_UNREACHABLE",
            ]
            assert it.files() == {"a.md": "TODO\n"}
            await it.free()


async def test_a_validation_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    script = "import time\nprint('one', flush=True)\ntime.sleep(600)"
    async with served(tmp_path, script, timeout_s=0.5) as (it, owner):
        proposal = await proposed(it, owner)
        answer = await owner.post(f"/api/v1/proposals/{proposal}/validate")
        assert (answer.status, answer.body["status"]) == (200, "failed")
        assert answer.body["error"]["code"] == "VALIDATION_TIMEOUT"
        assert (await it.told(answer.body["job_id"])).lines() == ["one"]


async def test_a_path_that_leaves_the_project_is_refused_and_on_record(tmp_path: Path) -> None:
    async with served(tmp_path, "") as (it, owner):
        proposal = await proposed(it, owner)
        body: dict[str, Any] = {"name": "Other", "folder": "../x"}
        made = await owner.post(f"/api/v1/projects/{it.id}/proposals", body)
        assert (made.status, made.code) == (400, "PATH_FORBIDDEN")
        moved = await owner.patch(f"/api/v1/proposals/{proposal}", {"folder": "/etc"})
        assert (moved.status, moved.code) == (400, "PATH_FORBIDDEN")
        await owner.post(f"/api/v1/proposals/{proposal}/validate")
        await owner.post(f"/api/v1/proposals/{proposal}/submit")
        body = {"target_file": "a/../../x", "comment_text": "Why?"}
        said = await owner.post(f"/api/v1/proposals/{proposal}/comments", body)
        assert (said.status, said.code) == (400, "PATH_FORBIDDEN")
        expected = {
            "POST /api/v1/projects/{project_id}/proposals",
            "PATCH /api/v1/proposals/{proposal_id}",
            "POST /api/v1/proposals/{proposal_id}/comments",
        }
        with fail_after(20):
            while {*await refused_routes(it)} != expected:
                await trio.sleep(0.02)
        assert len(await refused_routes(it)) == 3


async def test_a_path_that_a_model_says_only_ends_its_iteration(tmp_path: Path) -> None:
    async with (
        scripted(says("<<<<<< ../x\ny\n>>>>>>")) as provider,
        served(tmp_path, provider=provider) as (it, owner),
    ):
        proposal = await proposed(it, owner)
        answer = await owner.post(f"/api/v1/proposals/{proposal}/iterate", {})
        assert (answer.status, answer.body["status"]) == (200, "failed")
        assert answer.body["error"]["code"] == "PATH_FORBIDDEN"
        await it.free()
        with fail_after(20):
            while await it.rt.store.read_uncollected(limit=1, bytes_max=1):
                await trio.sleep(0.01)
        assert await refused_routes(it) == []


@pytest.mark.parametrize(
    "user_id", ["", "x" * 10_000, "a:b", "a b", "\0", "\ud800", "é", "workspace:1", "member:x"]
)
async def test_whatever_is_said_to_be_a_reviewer_is_judged(user_id: str, tmp_path: Path) -> None:
    async with served(tmp_path, "") as (it, owner):
        proposal = await proposed(it, owner)
        path = f"/api/v1/proposals/{proposal}/reviewers"
        raw = b'{"user_id": "%b"}' % user_id.encode("unicode_escape")
        raw = raw.replace(b"\\x00", b"\\u0000").replace(b"\\xe9", b"\\u00e9")
        answer = await owner.site.send("POST", path, raw=raw, headers=owner.headers)
        assert answer.status == 400, answer.raw
        assert answer.code in {"REVIEWER_UNFIT", "BAD_REQUEST"}


@pytest.mark.parametrize("name", ["Login\n", "-rf", "", "a" * 101, "a/b"])
async def test_what_is_no_name_is_a_bad_request(name: str, tmp_path: Path) -> None:
    async with served(tmp_path, "") as (it, owner):
        path = f"/api/v1/projects/{it.id}/proposals"
        made = await owner.post(path, {"name": name})
        assert (made.status, made.code) == (400, "BAD_REQUEST")
        proposal = await proposed(it, owner)
        changed = await owner.patch(f"/api/v1/proposals/{proposal}", {"name": name})
        assert (changed.status, changed.code) == (400, "BAD_REQUEST")


async def test_a_stale_version_is_a_conflict_however_it_is_said(tmp_path: Path) -> None:
    async with served(tmp_path, "") as (it, owner):
        proposal = await proposed(it, owner)
        path = f"/api/v1/proposals/{proposal}"
        assert (await owner.patch(path, {"description": "new", "version": 1})).status == 200
        answers = [
            await owner.patch(path, {"description": "newer", "version": 1}),
            await owner.patch(path, {"description": "newer"}, if_match='"1"'),
            await owner.delete(f"{path}?version=1"),
            await owner.post(f"{path}/submit?version=1"),
        ]
        for answer in answers:
            assert (answer.status, answer.code) == (409, "VERSION_CONFLICT")
            assert answer.body["details"]["current_version"] == 2


async def test_a_repeated_request_finds_the_job_that_it_began(tmp_path: Path) -> None:
    async with served(tmp_path, "print('one')") as (it, owner):
        proposal = await proposed(it, owner)
        path = f"/api/v1/proposals/{proposal}/validate"
        first = await owner.post(f"{path}?async=true", idempotency_key="k")
        assert (first.status, first.body["status"]) == (202, "running")
        job_id = first.body["job_id"]
        assert (await it.told(job_id)).code is None
        again = await owner.post(f"{path}?async=true", idempotency_key="k")
        assert again.body["job_id"] == job_id
        other = await owner.post(path, idempotency_key="l")
        assert other.body["job_id"] != job_id
        assert (other.status, other.body["status"]) == (200, "completed")


async def test_what_is_no_job_is_not_found(tmp_path: Path) -> None:
    async with served(tmp_path, "") as (it, owner):
        proposal = await proposed(it, owner)
        await owner.post(f"/api/v1/proposals/{proposal}/submit")
        for kind in ("validation", "iteration"):
            answer = await owner.get(f"/api/v1/{kind}s/nothing/status")
            assert answer.status == 404
        for path in ("/api/v1/proposals/nothing", "/api/v1/proposals/nothing/comments"):
            assert (await owner.get(path)).status == 404
        for step in ("validate", "iterate", "cancel", "submit"):
            answer = await owner.post(f"/api/v1/proposals/nothing/{step}", {})
            assert answer.status == 404
        idle = await owner.post(f"/api/v1/proposals/{proposal}/cancel", {})
        assert (idle.status, idle.code) == (409, "JOB_NOT_RUNNING")
