"""Source system 004 as its scenarios have it: over sockets, with processes and a provider (CF)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from websockets.frames import Opcode

from dalsegno.actors.domains.reviews._proposals import CreateProposal
from dalsegno.actors.domains.reviews._routing import VIEWED_MAX
from dalsegno.protocol import Limits
from tests._patience import fail_after, until
from tests._provider import chunk, says, scripted, then
from tests._raw_client import RawClient
from tests._reviews import Json, Team, answer, hearing, team
from tests.runtime._blocks import Block, Blocks, following
from tests.runtime.test_tokens_on_the_wire import UPGRADE

pytestmark = pytest.mark.postgres


each_way = pytest.mark.parametrize("how", ["websocket", "sse"])

# ------------------------------------------------------------------------------------ validation


@asynccontextmanager
async def validated(
    database: str, root: Path, how: str, text: str = "fine", **given: Any
) -> AsyncIterator[tuple[list[Json], Json]]:
    """Have a proposal validated; what was told of it, and what its request was answered."""
    async with team(database, root, **given) as it:
        it.write("a.md", text)
        proposal = await it.author.propose()
        async with hearing(it.viewer, proposal, how) as ear:
            path = f"/api/v1/proposals/{proposal}/validate"
            answer = await it.author.ask("POST", path)
            told = await ear.until("validation_complete", "validation_error")
        yield [each for each in told if "job_id" in each], answer.json()


@each_way
async def test_cf_2_1_the_start_of_a_validation_is_told(
    how: str, migrated: str, tmp_path: Path
) -> None:
    async with validated(migrated, tmp_path, how) as (told, done):
        assert told[0]["type"] == "validation_start"
        assert told[0]["proposal_id"] == done["proposal_id"]
        assert [each["type"] for each in told].count("validation_start") == 1


@each_way
async def test_cf_2_2_each_line_is_told_as_it_is_written(
    how: str, migrated: str, tmp_path: Path
) -> None:
    async with validated(migrated, tmp_path, how, "TODO") as (told, _):
        lines = [each for each in told if each["type"] == "output"]
        assert [each["line_no"] for each in lines] == [1, 2, 3]
        assert {each["attempt"] for each in lines} == {1}
        said = [(each["stream"], each["line"]) for each in lines]
        assert [each for each in said if each[0] == "stdout"] == [
            ("stdout", "looking at Login"),
            ("stdout", "a.md"),
        ]
        assert ("stderr", "a.md: not done") in said


@each_way
async def test_cf_2_3_what_a_validation_has_come_to_is_told(
    how: str, migrated: str, tmp_path: Path
) -> None:
    async with validated(migrated, tmp_path, how, "TODO") as (told, done):
        assert (told[-1]["type"], told[-1]["status"]) == ("validation_complete", "failed")
        assert told[-1]["summary"] == done["result"]["summary"]
        assert told[-1]["summary"]["exit_code"] == 1
        assert told[-1]["summary"]["errors"] == ["a.md: not done"]


@each_way
async def test_cf_2_4_a_validation_that_comes_to_nothing_is_told(
    how: str, migrated: str, tmp_path: Path
) -> None:
    missing = ["there-is-no-such-command"]
    async with validated(migrated, tmp_path, how, validate=missing) as (told, answer):
        assert [each["type"] for each in told] == ["validation_start", "validation_error"]
        assert told[-1]["error"]
        assert answer["code"] == "VALIDATION_UNAVAILABLE"


async def test_x_prj_1_a_validation_runs_once_and_decides_whether_a_proposal_is_submitted(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        it.write("a.md", "TODO")
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}"
        needed = await it.author.post(f"{path}/submit", expect=400)
        assert needed["code"] == "VALIDATION_NEEDED"
        async with hearing(it.viewer, proposal, "websocket") as viewer:
            await it.author.post(f"{path}/validate")
            told = await viewer.until("validation_complete")
            locks = [each["locked"] for each in told if each["type"] == "lock_changed"]
            assert locks == [True, False]
            lines = [each["line"] for each in told if each["type"] == "output"]
            assert lines.count("looking at Login") == 1
        refused = await it.author.post(f"{path}/submit", expect=400)
        assert (refused["code"], refused["details"]["result"]) == ("VALIDATION_FAILED", "failed")
        it.write("a.md", "done")
        await it.author.post(f"{path}/validate")
        moved = await it.author.post(f"{path}/submit")
        assert moved["status"] == "REVIEW"


# ------------------------------------------------------------------------------------- iteration

WORDS = answer(a_md="It is done.", new__c_md="A new one.")


@asynccontextmanager
async def iterated(
    database: str, root: Path, how: str
) -> AsyncIterator[tuple[Team, list[Json], Json]]:
    """Have a proposal iterated on; what was told of it, and what its request was answered."""
    async with (
        scripted(says(*WORDS)) as provider,
        team(database, root, provider=provider) as it,
    ):
        it.write("a.md", "TODO")
        proposal = await it.author.propose()
        async with hearing(it.viewer, proposal, how) as ear:
            path = f"/api/v1/proposals/{proposal}/iterate"
            done = await it.author.post(path, instructions="Do it.")
            told = await ear.until("iteration_complete")
        asked = provider.asked[0].body["messages"][-1]["content"]
        assert "Do it." in asked
        assert "<<<<<< a.md\nTODO\n>>>>>>" in asked
        yield it, [each for each in told if "job_id" in each], done


@each_way
async def test_cf_3_1_the_start_of_an_iteration_is_told(
    how: str, migrated: str, tmp_path: Path
) -> None:
    async with iterated(migrated, tmp_path, how) as (_, told, done):
        assert told[0]["type"] == "iteration_start"
        assert told[0]["proposal_id"] == done["proposal_id"]


@each_way
async def test_cf_3_2_what_the_model_says_is_told_as_it_says_it(
    how: str, migrated: str, tmp_path: Path
) -> None:
    async with iterated(migrated, tmp_path, how) as (_, told, _):
        assert {each["type"] for each in told[1:-1]} == {"token"}
        assert "".join(each["content"] for each in told[1:-1]) == "".join(WORDS)


@each_way
async def test_cf_3_3_x_prj_2_what_an_iteration_has_changed_is_told_and_in_place(
    how: str, migrated: str, tmp_path: Path
) -> None:
    async with iterated(migrated, tmp_path, how) as (it, told, done):
        assert told[-1]["files_modified"] == ["a.md", "new/c.md"]
        assert told[-1]["validation"]["status"] == "passed"
        assert done["result"]["files_modified"] == told[-1]["files_modified"]
        wanted = {"a.md": "It is done.\n", "new/c.md": "A new one.\n"}
        await until(lambda: it.files() == wanted, within_s=10)
        await until(lambda: it.staged() == [], within_s=10)


@each_way
async def test_cf_3_4_x_prj_3_a_cancelled_iteration_writes_nothing(
    how: str, migrated: str, tmp_path: Path
) -> None:
    slow = then(chunk({"role": "assistant", "content": "<<<<<< a.md\n"}))
    async with (
        scripted(slow) as provider,
        team(migrated, tmp_path, provider=provider) as it,
    ):
        it.write("a.md", "TODO")
        proposal = await it.author.propose()
        async with hearing(it.viewer, proposal, how) as viewer:
            async with it.author.listening() as author:
                await author.hear("connected")
                await author.say("iterate", proposal_id=proposal, request_id="1")
                assert (await author.hear("accepted", "error"))["type"] == "accepted"
                token = await viewer.hear("token")
                await author.say("cancel", proposal_id=proposal, request_id="2")
                told = await viewer.until("iteration_cancelled")
                assert told[-1]["job_id"] == token["job_id"]
            # and the loss of the connection that asked does the same
            async with it.author.listening() as author:
                await author.hear("connected")
                await author.say("iterate", proposal_id=proposal)
                await viewer.hear("token")
            told = await viewer.until("iteration_cancelled")
            if not any(each["type"] == "lock_changed" and not each["locked"] for each in told):
                assert not (await viewer.hear("lock_changed"))["locked"]
        assert it.files() == {"a.md": "TODO"}
        await until(lambda: it.staged() == [])
        lock = await it.viewer.get(f"/api/v1/projects/{it.project}/lock")
        assert not lock["locked"]


async def test_x_prj_5_who_begins_to_view_in_the_middle_is_shown_the_lines_so_far(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        it.write("a.md", "fine")
        it.write("wait", "")
        proposal = await it.author.propose()
        started = await it.author.post(
            f"/api/v1/proposals/{proposal}/validate?async=true", expect=202
        )
        async with (
            it.viewer.listening() as viewer,
            it.reviewer.listening(proposal_id=proposal) as all_,
        ):
            await viewer.hear("connected")
            while len([each for each in all_.heard if each["type"] == "output"]) < 4:
                await all_.next()
            await viewer.say("view", proposal_id=proposal, request_id="v")
            told = await viewer.until("viewing")
            job = [each for each in told if each.get("job_id") == started["job_id"]]
            assert job[0]["type"] == "validation_start"
            assert [each["line_no"] for each in job[1:]] == [*range(1, len(job))]
            assert len(job) >= 4
            (it.folder / "wait").unlink()
            rest = await viewer.until("validation_complete")
            numbers = [each["line_no"] for each in [*job, *rest] if each["type"] == "output"]
            assert numbers == [*range(1, len(numbers) + 1)], "nothing is missing, or there twice"
            seen = await all_.until("validation_complete")
            lines = [each["line"] for each in all_.heard if each["type"] == "output"]
            assert len(lines) == len(numbers)
            assert seen[-1]["status"] == "passed"


async def test_a_view_that_is_refused_is_none(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it, it.viewer.listening() as viewer:
        it.write("a.md", "fine")
        it.write("wait", "")
        for number in range(VIEWED_MAX):
            await viewer.say("view", proposal_id=f"later-{number}")
            assert (await viewer.hear("viewing", "error"))["code"] == "PROPOSAL_NOT_FOUND"
        workspace = it.runtime.workspace(it.project)
        for number in range(2):
            await workspace.send(CreateProposal(name=f"{number}", proposal_id=f"later-{number}"))
        await it.author.post("/api/v1/proposals/later-0/validate?async=true", expect=202)
        assert (await viewer.hear("lock_changed"))["locked"]
        assert "proposal_changed" not in {each["type"] for each in viewer.heard}
        await viewer.say("view", proposal_id="later-0")
        told = await viewer.until("viewing")
        assert told[-1]["proposals"] == ["later-0"]
        (it.folder / "wait").unlink()
        told += await viewer.until("validation_complete")
        numbers = [each["line_no"] for each in told if each["type"] == "output"]
        assert numbers == [*range(1, len(numbers) + 1)]
        assert sum(each["type"] == "validation_start" for each in told) == 1


# ------------------------------------------------------------------------------------ connections


async def test_cf_1_1_a_project_is_connected_to(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it, it.viewer.listening() as viewer:
        first = await viewer.next()
        assert (first["type"], first["project_id"]) == ("connected", it.project)


async def test_cf_1_2_who_has_no_session_is_closed_with_4001(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it:
        it.viewer.person = msgspec.structs.replace(it.viewer.person, cookie="a=b")
        async with it.viewer.listening() as nobody:
            assert await nobody.end() == (4001, "Unauthorized")


async def test_cf_1_3_who_answers_no_ping_is_closed(migrated: str, tmp_path: Path) -> None:
    limits = Limits(heartbeat_interval_s=0.1, ping_interval_s=0.3, pong_deadline_s=0.1)
    async with (
        team(migrated, tmp_path, limits=limits) as it,
        await trio.open_tcp_stream("127.0.0.1", it.site.port) as stream,
    ):
        deaf = RawClient(stream)
        host, path = f"127.0.0.1:{it.site.port}", f"/ws/projects/{it.project}"
        await deaf.upgrade(host, it.viewer.person.cookie, path=path)
        with fail_after(20):
            while (frame := await deaf.frame())[0] is not Opcode.CLOSE:
                pass
        assert frame[1] == (1000).to_bytes(2) + b"no pong"


async def test_cf_1_4_x_prj_5_who_comes_back_is_told_what_was_missed(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        it.write("wait", "")
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}/validate?async=true"
        job = (await it.author.post(path, expect=202))["job_id"]
        async with it.viewer.listening(proposal_id=proposal) as viewer:
            await viewer.hear("output")
            while "cursor" not in viewer.heard[-1]:
                await viewer.next()
            cursor = viewer.heard[-1]["cursor"]
        (it.folder / "wait").unlink()
        with fail_after(20):
            while (await it.viewer.get(f"/api/v1/validations/{job}/status"))["status"] == "running":
                await trio.sleep(0.05)
        async with it.viewer.listening(proposal_id=proposal, cursor=cursor) as again:
            assert (await again.hear("connected"))["cursor"] == cursor
            rest = await again.until("validation_complete")
        lines = [each for each in [*viewer.heard, *rest] if each["type"] == "output"]
        assert [each["line_no"] for each in lines] == [*range(1, len(lines) + 1)]


# ------------------------------------------------------------------------------------------- SSE


async def job_blocks(blocks: Blocks) -> list[Block]:
    """The blocks of a validation, to its end."""
    told: list[Block] = []
    with fail_after(20):
        while not told or told[-1].event != "validation_complete":
            block = await blocks.next()
            assert block is not None
            if "job_id" in block.data:
                told.append(block)
    return told


async def test_cf_4_1_a_proposal_has_an_event_stream(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it:
        path = f"/api/v1/proposals/{await it.author.propose()}/events"
        async with following(it.viewer.person, path) as blocks:
            assert (blocks.status, blocks.headers["content-type"]) == (200, "text/event-stream")


async def test_cf_4_2_x_prj_6_its_events_have_a_type_an_id_and_json(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}/events"
        async with following(it.viewer.person, path) as blocks:
            await it.author.post(f"/api/v1/proposals/{proposal}/validate")
            told = await job_blocks(blocks)
        kinds = ["validation_start", "output", "validation_complete"]
        assert [(each.event, each.said["type"]) for each in told] == [
            *zip(kinds, kinds, strict=True)
        ]
        assert all(each.id for each in told)


async def test_cf_4_3_x_prj_6_an_event_stream_is_resumed_by_its_last_id(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}/events"
        async with following(it.viewer.person, path) as blocks:
            await it.author.post(f"/api/v1/proposals/{proposal}/validate")
            told = await job_blocks(blocks)
        async with following(it.viewer.person, path, last_event_id=told[0].id) as blocks:
            assert await job_blocks(blocks) == told[1:]


async def test_an_event_stream_is_over_once_its_proposal_is_merged(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}/events"
        for who, step in (
            (it.author, "validate"),
            (it.author, "submit"),
            (it.reviewer, "approve"),
            (it.admin, "merge"),
        ):
            async with following(it.viewer.person, path) as blocks:
                assert blocks.status == 200, "there may be more"
            await who.post(f"/api/v1/proposals/{proposal}/{step}")
        async with following(it.viewer.person, path) as blocks:
            assert blocks.status == 200, "it was not told of all"
            last = await blocks.next()
            while last is not None and "MERGED" not in last.data:
                last = await blocks.next()
            assert last is not None
        async with following(it.viewer.person, path, last_event_id=last.id) as blocks:
            assert blocks.status == 204


async def test_an_event_stream_of_a_deleted_proposal_has_the_end_of_its_validation(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        it.write("wait", "")
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}"
        await it.author.post(f"{path}/validate?async=true", expect=202)
        async with following(it.viewer.person, f"{path}/events") as blocks:
            await blocks.hear("output")
            await it.author.ask("DELETE", path, expect=204)
            deleted = await blocks.hear("proposal_deleted")
        resumed = partial(following, it.viewer.person, f"{path}/events")
        async with resumed(last_event_id=deleted.id) as blocks:
            assert blocks.status == 200, "the validation goes on"
        (it.folder / "wait").unlink()
        async with resumed(last_event_id=deleted.id) as blocks:
            assert blocks.status == 200
            ended = await blocks.hear("validation_complete")
        async with resumed(last_event_id=deleted.id) as blocks:
            assert blocks.status == 200, "it has ended, and that was not known"
        async with resumed(last_event_id=ended.id) as blocks:
            assert blocks.status == 204


# --------------------------------------------------------------------------------- who hears what


async def test_cf_5_1_a_status_is_told_to_who_views_the_proposal(
    migrated: str, tmp_path: Path
) -> None:
    async with (
        team(migrated, tmp_path) as it,
        it.viewer.listening() as viewer,
        it.reviewer.listening() as other,
    ):
        first, second = await it.author.propose("One"), await it.author.propose("Two")
        await viewer.say("view", proposal_id=first)
        await viewer.hear("viewing")
        await other.say("view", proposal_id=second)
        await other.hear("viewing")
        await it.author.post(f"/api/v1/proposals/{first}/validate")
        await it.author.post(f"/api/v1/proposals/{first}/submit")
        moved = await viewer.hear("status_changed")
        assert (moved["proposal_id"], moved["previous"], moved["status"]) == (
            first,
            "DRAFT",
            "REVIEW",
        )
        await viewer.say("leave", proposal_id=first)
        await viewer.hear("viewing")
        await it.reviewer.post(f"/api/v1/proposals/{first}/approve")
        await it.author.post(f"/api/v1/projects/{it.project}/lock")
        for listener in (viewer, other):
            before = len(listener.heard)
            while (await listener.hear("lock_changed"))["reason"] != "locked":
                pass
            told = listener.heard[before:]
            assert "status_changed" not in {each["type"] for each in told}
        assert "status_changed" not in {each["type"] for each in other.heard}


async def test_cf_5_2_a_comment_is_told_to_the_reviewers_and_the_author(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        proposal = await it.author.propose()
        await it.author.post(f"/api/v1/proposals/{proposal}/validate")
        await it.author.post(f"/api/v1/proposals/{proposal}/submit")
        async with (
            it.author.listening() as author,
            it.reviewer.listening() as reviewer,
            it.viewer.listening(proposal_id=proposal) as viewer,
        ):
            for listener in (author, reviewer, viewer):
                await listener.hear("connected")
            body = {"target_file": "a.md", "line_number": 3, "comment_text": "Why?"}
            await it.reviewer.post(f"/api/v1/proposals/{proposal}/comments", expect=201, **body)
            said = await author.hear("comment_added")
            assert {name: said[name] for name in body} == body
            await it.author.post(
                f"/api/v1/proposals/{proposal}/reviewers",
                expect=201,
                user_id=it.reviewer.user_id,
            )
            await it.reviewer.post(f"/api/v1/proposals/{proposal}/comments", expect=201, **body)
            await reviewer.hear("comment_added")
            await it.author.post(f"/api/v1/projects/{it.project}/lock")
            for listener in (author, reviewer, viewer):
                while (await listener.hear("lock_changed"))["reason"] != "locked":
                    pass
            counts = [
                sum(each["type"] == "comment_added" for each in listener.heard)
                for listener in (author, reviewer, viewer)
            ]
            assert counts == [2, 1, 0]
            hidden = [each for each in viewer.heard if each["type"] == "hidden"]
            assert hidden, "others are told numbers"


async def test_cf_5_3_the_lock_is_told_to_the_whole_project(migrated: str, tmp_path: Path) -> None:
    async with (
        team(migrated, tmp_path) as it,
        it.viewer.listening() as viewer,
        it.reviewer.listening() as reviewer,
    ):
        path = f"/api/v1/projects/{it.project}/lock"
        await it.author.post(path)
        held = await it.reviewer.post(path, expect=409)
        assert held["details"]["locked_by"] == it.author.user_id
        assert held["details"]["locked_at"]
        await it.reviewer.ask("DELETE", path, expect=403)
        await it.reviewer.ask("DELETE", f"{path}?force=true", expect=403)
        await it.admin.ask("DELETE", f"{path}?force=true", expect=204)
        for listener in (viewer, reviewer):
            locked, freed = await listener.hear("lock_changed"), await listener.hear("lock_changed")
            assert (locked["locked"], locked["locked_by"]) == (True, it.author.user_id)
            assert (freed["locked"], freed["reason"]) == (False, "forced")


async def test_cf_5_3_who_holds_the_lock_after_a_job_is_told_as_well(
    migrated: str, tmp_path: Path
) -> None:
    async with team(migrated, tmp_path) as it:
        proposal = await it.author.propose()
        path = f"/api/v1/projects/{it.project}/lock"
        async with it.viewer.listening() as viewer:
            await viewer.hear("connected")
            await it.author.post(path)
            await it.author.post(f"/api/v1/proposals/{proposal}/validate")
            told = [await viewer.hear("lock_changed") for _ in range(3)]
        assert [each["reason"] for each in told] == ["locked", "job", "locked"]
        assert {each["locked_by"] for each in told} == {it.author.user_id}
        assert [each["expires_at"] is None for each in told] == [False, True, False]
        lock = await it.viewer.get(path)
        assert (lock["expires_at"], lock["job_id"]) == (told[-1]["expires_at"], None)


async def test_x_prj_4_and_6_event_streams_tell_the_same_people(
    migrated: str, tmp_path: Path
) -> None:
    """CF-5.1 to 5.3 once more: of a status, a comment and the lock, by server-sent events."""
    async with team(migrated, tmp_path) as it:
        first, second = await it.author.propose("One"), await it.author.propose("Two")
        path = f"/api/v1/proposals/{first}"
        reviewer_id = it.reviewer.user_id
        await it.author.post(f"{path}/reviewers", expect=201, user_id=reviewer_id)
        await it.author.post(f"{path}/validate")
        async with (
            hearing(it.reviewer, first, "sse") as reviewer,
            hearing(it.viewer, first, "sse") as viewer,
            hearing(it.author, second, "sse") as elsewhere,
        ):
            await it.author.post(f"{path}/submit")
            body = {"target_file": "a.md", "comment_text": "Why?"}
            await it.reviewer.post(f"{path}/comments", expect=201, **body)
            await it.author.post(f"/api/v1/projects/{it.project}/lock")
            told = []
            for ear in (reviewer, viewer, elsewhere):
                while (await ear.hear("lock_changed"))["reason"] != "locked":
                    pass
                told.append({each["type"] for each in ear.heard})
        assert {"status_changed", "comment_added"} <= told[0]
        assert "status_changed" in told[1]
        assert "comment_added" not in told[1]
        assert not {"status_changed", "comment_added"} & told[2]


async def test_cf_6_1_the_sixth_connection_closes_the_oldest(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it, AsyncExitStack() as stack:
        listeners = []
        for _ in range(6):
            listeners.append(await stack.enter_async_context(it.viewer.listening()))
            await listeners[-1].hear("connected")
        assert await listeners[0].end() == (4008, "connection limit")
        async with following(
            it.viewer.person, f"/api/v1/proposals/{await it.author.propose()}/events"
        ) as blocks:
            assert blocks.status == 200, "an event stream counts, too"
            assert await listeners[1].end() == (4008, "connection limit")


async def test_cf_6_2_above_the_projects_cap_nobody_is_let_in(
    migrated: str, tmp_path: Path
) -> None:
    limits = Limits(project_connections_max=2)
    async with (
        team(migrated, tmp_path, limits=limits) as it,
        it.viewer.listening() as first,
        it.author.listening() as second,
    ):
        for each in (first, second):
            await each.hear("connected")
        proposal = await it.author.propose()
        path = f"/api/v1/proposals/{proposal}/events"
        async with following(it.reviewer.person, path) as blocks:
            assert blocks.status == 503
        answer = await it.reviewer.http.get(
            f"{it.site.url}/ws/projects/{it.project}", headers=UPGRADE
        )
        assert answer.status_code == 503


async def test_cf_7_1_admins_are_told_what_is_put_on_record(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it:
        async with it.viewer.listening("/ws/audit") as refused:
            assert (await refused.end())[0] == 4003
        async with it.admin.listening("/ws/audit") as audit:
            await audit.hear("connected")
            proposal = await it.author.propose()
            while (said := await audit.hear("audit_event"))["action"] != "PROPOSAL_CREATED":
                pass
            assert (said["resource_id"], said["user_id"]) == (proposal, it.author.user_id)


async def test_cf_7_2_a_filter_shows_what_fits_it(migrated: str, tmp_path: Path) -> None:
    async with (
        team(migrated, tmp_path) as it,
        it.admin.listening("/ws/audit", action="STATUS_CHANGED") as audit,
    ):
        await audit.hear("connected")
        proposal = await it.author.propose()
        await it.author.post(f"/api/v1/proposals/{proposal}/validate")
        await it.author.post(f"/api/v1/proposals/{proposal}/submit")
        said = await audit.hear("audit_event")
        assert (said["action"], said["resource_id"]) == ("STATUS_CHANGED", proposal)


async def test_x_lim_4_above_its_rate_a_user_has_to_wait(migrated: str, tmp_path: Path) -> None:
    async with team(migrated, tmp_path) as it:
        path = f"/api/v1/projects/{it.project}/lock"
        asked = 0
        while (answer := await it.viewer.ask("GET", path)).status_code == 200:
            asked += 1  # a hundred at once, and one more each 0.6 s meanwhile
            assert asked < 1_000
        assert asked >= 100
        assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await it.author.ask("GET", path)).status_code == 200, "each has a rate of their own"
