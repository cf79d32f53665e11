"""The sockets of one job, and what is refused and noted besides (CF §4.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from tests._patience import until
from tests._provider import Wire, says, scripted, status
from tests._reviews import answer, team

pytestmark = pytest.mark.postgres


async def test_a_job_is_followed_from_its_beginning_and_from_a_cursor(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        it.write("a.md", "fine")
        proposal = await it.author.propose()
        job = (await it.author.post(f"/api/v1/proposals/{proposal}/validate"))["job_id"]
        path = f"/ws/proposals/{proposal}/validate/{job}"
        async with it.viewer.listening(path) as first:
            told = await first.until("validation_complete")
        of_job = [each for each in told if "job_id" in each]
        assert [each["type"] for each in of_job] == [
            "validation_start",
            *["output"] * 2,
            "validation_complete",
        ]
        begun, end = of_job[0], of_job[-1]
        async with it.viewer.listening(path, cursor=begun["cursor"]) as again:
            assert (await again.hear("connected"))["cursor"] == begun["cursor"]
            rest = await again.until("validation_complete")
        assert [each for each in rest if "job_id" in each] == of_job[1:]
        assert (begun["seq"], end["seq"]) == (2, 6), "the job's own numbers"
        async with it.viewer.listening(f"/ws/proposals/{proposal}/validate/none") as nobody:
            assert await nobody.end() == (4004, "Not Found")


async def test_a_validation_that_is_cancelled_says_so_and_gives_the_lock_back(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        it.write("wait", "")
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}"
        job = (await it.author.post(f"{path}/validate?async=true", expect=202))["job_id"]
        async with it.viewer.listening(f"/ws/proposals/{proposal}/validate/{job}") as viewer:
            await viewer.hear("output")
            await it.author.ask("POST", f"{path}/cancel", expect=204)
            assert (await viewer.hear("validation_error"))["code"] == "CANCELLED"
        status = await it.viewer.get(f"/api/v1/validations/{job}/status")
        assert (status["status"], status["result"], status["error"]) == ("failed", None, None)
        again = await it.author.ask("POST", f"{path}/cancel", expect=409)
        assert again.json()["code"] == "JOB_NOT_RUNNING"
        (it.folder / "wait").unlink()
        done = await it.author.post(f"{path}/validate")
        assert done["result"]["status"] == "passed", "nothing holds the lock any longer"


async def test_what_nobody_has_set_up_is_not_available(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it:
        proposal = await it.author.propose()
        refused = await it.author.post(f"/api/v1/proposals/{proposal}/iterate", expect=503)
        assert refused["code"] == "NOT_CONFIGURED"
        assert refused["message"] == "no iterations are set up here"


async def test_a_path_that_leads_out_is_on_record_and_in_the_security_log(
    migrated: str, tmp_path: Path
) -> None:
    async with (
        team(migrated, tmp_path) as it,
        it.admin.listening("/ws/audit", action="REQUEST_REFUSED") as audit,
    ):
        await audit.hear("connected")
        path = f"/api/v1/projects/{it.project}/proposals"
        with capture_logs() as lines:
            refused = await it.author.post(path, expect=400, name="P", folder="../../etc")
        assert refused["code"] == "PATH_FORBIDDEN"
        (line,) = (each for each in lines if each["event"] == "path_refused")
        assert line["user_id"] == it.author.user_id
        assert line["route"] == "POST /api/v1/projects/{project_id}/proposals"
        assert "etc" not in str(line)
        said = await audit.hear("audit_event")
        assert said["user_id"] == it.author.user_id
        assert said["new_value"]["code"] == "PATH_FORBIDDEN"
        async with it.author.listening("/ws") as author:
            payload = {"name": "P", "folder": "/etc"}
            command = {"workspace_id": it.project, "name": "create_proposal"}
            await author.say("command", **command, payload=payload, request_id="1")
            assert (await author.hear("rejected", "error"))["code"] == "PATH_FORBIDDEN"
        said = await audit.hear("audit_event")
        assert said["new_value"]["code"] == "PATH_FORBIDDEN"
        assert "etc" not in str(audit.heard)


# --------------------------------------------------------------------------------- iterations


async def test_an_iteration_whose_lock_was_taken_by_force_writes_nothing(
    migrated: str, tmp_path: Path
) -> None:
    is_free = trio.Event()

    async def reply(wire: Wire) -> None:
        await is_free.wait()
        await says(*answer(a_md="better"))(wire)

    async with scripted(reply) as provider, team(migrated, tmp_path, provider=provider) as it:
        it.write("a.md", "as it was")
        proposal = await it.author.propose()
        path, lock = f"/api/v1/proposals/{proposal}", f"/api/v1/projects/{it.project}/lock"
        async with it.viewer.listening(proposal_id=proposal) as viewer:
            await it.author.post(f"{path}/iterate?async=true", expect=202)
            await until(lambda: len(provider.asked) == 1)
            for who, method, at, code in (
                (it.reviewer, "POST", f"{path}/validate", "JOB_RUNNING"),
                (it.author, "POST", f"{path}/validate", "JOB_RUNNING"),
                (it.author, "DELETE", lock, "JOB_RUNNING"),
                (it.author, "POST", f"{path}/submit", "JOB_RUNNING"),
            ):
                refused = await who.ask(method, at, expect=409)
                assert refused.json()["code"] == code
            await it.admin.ask("DELETE", f"{lock}?force=true", expect=204)
            await viewer.hear("iteration_cancelled")
        await until(lambda: it.staged() == [])
        assert it.files() == {"a.md": "as it was"}


async def test_each_model_is_asked_and_all_of_their_failures_are_told(
    migrated: str, tmp_path: Path
) -> None:
    down = status(500, error={"message": "out of order"})
    async with (
        scripted(down, down, down, says(*answer(a_md="better"))) as provider,
        team(
            migrated,
            tmp_path,
            provider=provider,
            models=[provider.settings(model="first"), provider.settings(model="second")],
        ) as it,
    ):
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}/iterate"
        failed = await it.author.post(path, expect=502)
        assert failed["code"] == "LLM_UPSTREAM_ERROR"
        asked = [(each["model"], each["status"]) for each in failed["details"]["providers"]]
        assert asked == [("first", 500), ("second", 500)]
        assert "out of order" not in str(failed), "what a provider said is not passed on"
        async with it.viewer.listening(proposal_id=proposal) as viewer:
            done = await it.author.post(path)
            assert done["result"]["files_modified"] == ["a.md"]
            told = await viewer.until("iteration_complete")
        words = {each["message_id"] for each in told if each["type"] == "token"}
        assert words == {"answer-2"}
        assert provider.models == ["first", "second"] * 2


async def test_a_model_writes_within_the_proposals_folder_alone(
    migrated: str, tmp_path: Path
) -> None:
    async with (
        scripted(
            says(*answer(b_md="no")), says("I see."), says(*answer(specs__a_md="TODO"))
        ) as provider,
        team(migrated, tmp_path, provider=provider) as it,
    ):
        it.write("b.md", "as it was")
        it.write("specs/a.md", "as it was")
        proposal = await it.author.propose(folder="specs")
        path = f"/api/v1/proposals/{proposal}/iterate"
        for code in ("PATH_FORBIDDEN", "ANSWER_UNREADABLE"):
            failed = await it.author.post(path)
            assert (failed["status"], failed["error"]["code"]) == ("failed", code)
        assert "b.md" not in str(provider.asked), "nor is it shown what is outside"
        done = await it.author.post(path)
        assert done["result"]["validation"]["status"] == "failed", "and it is there all the same"
        await until(lambda: it.files() == {"b.md": "as it was", "specs/a.md": "TODO\n"})
        shown = await it.viewer.get(f"/api/v1/proposals/{proposal}")
        assert shown["validation"]["status"] == "failed"


async def test_a_command_that_is_not_there_is_not_available(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path, validate=["/nowhere/to/be/found"]) as it:
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}"
        failed = await it.author.post(f"{path}/validate", expect=503)
        assert failed["code"] == "VALIDATION_UNAVAILABLE"
        assert "nowhere" not in str(failed)
        job = failed["details"]["job_id"]
        status_ = await it.viewer.get(f"/api/v1/validations/{job}/status")
        assert status_["error"]["code"] == "VALIDATION_NOT_STARTED"
