"""Server-sent events over real sockets and PostgreSQL: resumed, refused, revoked, bounded."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
import trio

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.notes import ApplyPatch, CreateNote, note_domains
from dalsegno.protocol import App, Limits, PatchOp
from dalsegno.protocol.runs import RequestRun, worker
from dalsegno.runtime import Run
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._blocks import following
from tests.runtime._serving import Person, Site, add_member, serving, set_up

pytestmark = pytest.mark.postgres


async def write(site: Site, person: Person, count: int = 1, text: str = "x") -> None:
    workspace = site.runtime.workspace(person.workspace)
    for _ in range(count):
        await workspace.send(CreateNote("A note", text))


def http() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=20, **PLAIN)


async def test_x_rep_5_a_stream_is_resumed_where_it_was(migrated: str) -> None:
    async with serving(migrated) as site:
        person = await set_up(site)
        await write(site, person, 3)
        async with following(person, cursor="0") as blocks:
            headers = blocks.headers
            assert blocks.status == 200
            assert headers["content-type"] == "text/event-stream"
            assert headers["cache-control"] == "no-store, no-transform"
            assert headers["x-accel-buffering"] == "no"
            head = await blocks.hear("head")
            assert 1_000 <= int(str(blocks.retry)) <= 3_000
            first = head.said["head"]
            assert (head.said["cursor"], head.id) == (0, f"0-{'0' * 16}")
            seen = [await blocks.hear("note_created") for _ in range(3)]
            last = blocks.last_id
        assert [each.said["seq"] for each in seen] == [*range(first - 2, first + 1)]
        for each in seen:
            assert each.id == f"{each.said['seq']}-{each.said['chain']}"
            assert each.said["type"] == "event"
            assert each.said["event_type"] == each.event
        await write(site, person, 2)
        for given in (last, str(last).partition("-")[0]):  # a bare number is taken, too
            async with following(person, last_event_id=given, cursor="0") as blocks:
                assert (await blocks.hear("head")).said["cursor"] == first, "the header wins"
                again = [await blocks.hear("note_created") for _ in range(2)]
            assert [each.said["seq"] for each in again] == [first + 1, first + 2]


async def test_x_rep_5_without_a_place_it_begins_after_the_last_ack(migrated: str) -> None:
    async with serving(migrated) as site:
        person = await set_up(site)
        await write(site, person, 3)
        async with following(person) as blocks:
            assert (await blocks.hear("head")).said["cursor"] == 0
        async with following(person, cursor="head") as blocks:
            head = await blocks.hear("head")
            assert head.said["cursor"] == head.said["head"]
            assert head.id is not None, "else a cut would lose what comes before the first event"
            await write(site, person)
            assert (await blocks.hear("note_created")).said["seq"] == head.said["head"] + 1


async def test_an_entity_is_followed_by_its_own_numbers(migrated: str) -> None:
    async with serving(migrated) as site:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)
        await workspace.send(CreateNote("A note", "x", note_id="n"))
        path = "/api/v1/streams/note:n/events"
        async with following(person, path, workspace_id=person.workspace) as blocks:
            assert (await blocks.hear("note_created")).said["seq"] == 1
            await workspace.send(ApplyPatch("n", [PatchOp(insert="y")], 1))
            patched = await blocks.hear("note_patched")
            assert (patched.said["seq"], str(patched.id)[:2]) == (2, "2-")


async def test_what_is_wrong_is_said_before_the_answer_begins(migrated: str) -> None:
    async with serving(migrated) as site, http() as client:
        person = await set_up(site)
        await write(site, person, 2)
        stranger = await add_member(site, person.workspace)
        await site.runtime.workspace(person.workspace).send(RemoveMember(stranger.user_id))
        events = f"/api/v1/workspaces/{person.workspace}/events"

        async def asked(path: str = events, by: Person = person, **given: Any) -> tuple[int, str]:
            headers = {"cookie": by.cookie, **given.pop("headers", {})}
            answer = await client.get(person.url + path, headers=headers, params=given)
            body = answer.json()
            assert set(body) == {"code", "message", "details", "request_id"}
            return answer.status_code, str(body["code"])

        for wrong in ("x", "-1", "1-", "1-zz", str(2**63), "1" * 400, "1\x00"):
            assert await asked(cursor=wrong) == (400, "BAD_REQUEST"), wrong
        for wrong in ("x", "1 2", "9" * 30):
            assert await asked(headers={"last-event-id": wrong}) == (400, "BAD_REQUEST"), wrong
        assert await asked(cursor="999") == (409, "CURSOR_AHEAD")
        assert await asked(cursor=f"1-{'f' * 16}") == (409, "CURSOR_DIVERGED")
        assert await asked(by=stranger) == (403, "ROLE_FORBIDDEN")
        assert await asked("/api/v1/workspaces/none/events") == (404, "WORKSPACE_NOT_FOUND")
        assert await asked("/api/v1/streams/note:none/events") == (404, "NOTE_NOT_FOUND")
        assert await asked("/api/v1/streams/nonsense/events") == (400, "BAD_REQUEST")
        answer = await client.get(person.url + events)
        assert (answer.status_code, answer.json()["code"]) == (401, "AUTH_REQUIRED")
        assert not site.runtime.statistics().connections, "nothing of all that is left"


async def test_who_is_removed_gets_a_problem_and_nothing_after_it(migrated: str) -> None:
    async with serving(migrated) as site:
        person = await set_up(site)
        member = await add_member(site, person.workspace)
        workspace = site.runtime.workspace(person.workspace)
        async with following(member, cursor="head") as blocks:
            await blocks.hear("head")
            await write(site, person)
            await workspace.send(RemoveMember(member.user_id))
            await write(site, person)
            *_, removed, problem = await blocks.rest()
        assert removed.event == "member_removed"
        assert (problem.event, problem.id, problem.said["code"]) == (
            "problem",
            None,
            "ROLE_FORBIDDEN",
        )
        async with following(member, last_event_id=blocks.last_id) as blocks:
            assert blocks.status == 403


async def test_who_logs_out_is_told_so_and_comes_back_to_a_401(migrated: str) -> None:
    async with serving(migrated) as site, http() as client:
        person = await set_up(site)
        session = await client.get(
            f"{person.url}/api/auth/session", headers={"cookie": person.cookie}
        )
        token = session.json()["csrf_token"]
        async with following(person, cursor="head") as blocks:
            await blocks.hear("head")
            logged_out = await client.post(
                f"{person.url}/api/auth/logout",
                headers={"cookie": person.cookie, "x-csrf-token": token},
            )
            assert logged_out.status_code == 204
            (problem,) = [each for each in await blocks.rest() if each.event != "head"]
        assert (problem.event, problem.said["code"]) == ("problem", "AUTH_REQUIRED")
        async with following(person) as blocks:
            assert blocks.status == 401


@worker("answer")
async def answer(run: Run) -> None:
    for word in run.input:
        await run.say(f"{word} ")
        await trio.sleep(0.02)


async def test_a_run_is_followed_word_by_word_until_it_is_over(migrated: str) -> None:
    app = App(note_domains, workers=[answer])
    async with serving(migrated, app=app) as site:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)
        words = ["from", "the", "sign"] * 5
        asked = RequestRun(run_id="r", worker="answer", input=words)
        path, query = "/api/v1/runs/r/events", {"workspace_id": person.workspace}
        await workspace.send(asked)
        async with following(person, path, **query) as blocks:
            heard = [await blocks.hear("run_started", "frame", "tail", "run_finished")]
            while heard[-1].event != "run_finished":
                heard.append(await blocks.hear("frame", "tail", "run_finished"))
            last = str(blocks.last_id)
        spoken = [each for each in heard if each.event in {"frame", "tail"}]
        assert spoken, "some of it came before it was in the log"
        assert {each.id for each in spoken} == {None}, "nobody can come back to what is not kept"
        assert last.partition("-")[0] == str(heard[-1].said["seq"])
        async with following(person, path, last_event_id=last, **query) as blocks:
            assert blocks.status == 204, "nothing more comes"
        async with following(person, path, last_event_id=last) as blocks:
            assert blocks.status == 204
        async with following(person, path, cursor="0", **query) as blocks:
            assert (await blocks.hear("run_requested")).said["seq"] == 1


async def test_signs_of_life_say_where_the_stream_is(migrated: str) -> None:
    limits = Limits(heartbeat_interval_s=0.05, ping_interval_s=0.05)
    async with serving(migrated, limits=limits) as site:
        person = await set_up(site)
        async with following(person, cursor="head") as blocks:
            head = (await blocks.hear("head")).said["head"]
            await write(site, person)
            await blocks.hear("note_created")
            told = await blocks.hear("head")
            assert told.id is None
            assert (told.said["head"], told.said["cursor"]) == (head + 1, head + 1)
            assert told.said["server_ts"]
            await blocks.hear("")  # a comment, which a page does not see


async def test_a_full_server_says_when_to_come_back(migrated: str) -> None:
    async with serving(migrated, limits=Limits(sockets_per_user_max=2)) as site:
        person = await set_up(site)
        async with (
            following(person, cursor="head") as first,
            following(person, cursor="head") as second,
        ):
            await first.hear("head")
            await second.hear("head")
            async with following(person) as third:
                assert third.status == 200, "any other ends EventSource for good"
                await third.rest()
                assert 5_000 <= int(str(third.retry)) <= 15_000
        with fail_after(20):
            await until(lambda: site.runtime.statistics().connections == 0)
        async with following(person) as blocks:
            await blocks.hear("head")


async def test_a_reader_that_reads_nothing_holds_up_nobody_and_is_cut_off(migrated: str) -> None:
    limits = Limits(write_deadline_s=0.5, outbox_bytes_max=100_000)
    async with serving(migrated, limits=limits) as site:
        person = await set_up(site)
        workspace = site.runtime.workspace(person.workspace)
        await workspace.send(CreateNote("A note", "x" * 900_000, note_id="n"))
        path = "/api/v1/streams/note:n/events"
        async with following(person, path, cursor="head") as quick:
            await quick.hear("head")
            stream = await trio.open_tcp_stream("127.0.0.1", site.port)
            target = f"{path}?cursor=head"
            head = f"GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {person.cookie}\r\n\r\n"
            await stream.send_all(head.encode())
            with fail_after(20):
                await until(lambda: site.runtime.statistics().connections == 2)
            for version in range(1, 21):  # more than all buffers between here and there
                ops = [PatchOp(delete=900_000), PatchOp(insert="y" * 900_000)]
                await workspace.send(ApplyPatch("n", ops, version))
                await quick.hear("note_patched")
            with fail_after(20):
                await until(lambda: site.runtime.statistics().connections == 1)
            await stream.aclose()


async def test_who_hangs_up_leaves_nothing_behind(migrated: str) -> None:
    async with serving(migrated) as site:
        person = await set_up(site)
        for _ in range(3):
            async with following(person, cursor="head") as blocks:
                await blocks.hear("head")
                assert site.runtime.statistics().connections == 1
            with fail_after(20):
                await until(lambda: site.runtime.statistics().connections == 0)


async def test_a_server_that_shuts_down_tells_when_to_come_back(migrated: str) -> None:
    async with http():
        async with serving(migrated) as site:
            person = await set_up(site)
            async with trio.open_nursery() as nursery, following(person) as blocks:
                await blocks.hear("head")
                nursery.start_soon(site.runtime.drain)
                with fail_after(20):
                    await until(lambda: site.runtime.service.is_draining)
                async with following(person) as late:
                    assert late.status == 200
                    await late.rest()
                    assert late.retry
        stop = trio.Event()
        ended: list[str] = []

        async def follow(site: Site, person: Person) -> None:
            async with following(person, cursor="head") as blocks:
                await blocks.hear("head")
                stop.set()
                told = [each for each in await blocks.rest() if each.retry]
                ended.extend(str(each.retry) for each in told)

        async with trio.open_nursery() as nursery, serving(migrated) as site:
            person = Person(site.url, person.user_id, person.workspace, person.cookie)
            nursery.start_soon(follow, site, person)
            with fail_after(20):
                await stop.wait()
        (told,) = ended  # once, before the end
        assert 5_000 <= int(told) <= 5_001, "by then it is back, also behind a proxy"


def test_the_standards_ends_of_lines_do_not_break_a_block() -> None:
    from dalsegno.protocol.dialects._event_stream import block

    said = block(b'{"a":\n1,\r\n"b":\r2}', event="x", id_="1")
    assert said == b'id: 1\nevent: x\ndata: {"a":\ndata: 1,\ndata: "b":\ndata: 2}\n\n'
    assert msgspec.json.decode(b'{"a":\n1,\n"b":\n2}') == {"a": 1, "b": 2}
