"""Jobs over HTTP: asked for, looked at, their files, and who may."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.jobs import MANIFEST, job_app
from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.notes import CreateNote, DeleteNote, SetTitle
from dalsegno.actors.effects import ArtifactSweep
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol.runs import CancelRun, RequestRun, runs
from dalsegno.runtime import Limits
from dalsegno.runtime.artifacts import FolderArtifacts
from dalsegno.runtime.disk import RealDisk
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after

from ._client import Answer, Clock, Site, User
from .conftest import open_site

MARKDOWN = "/api/admin/export/markdown"
SQL = "/api/admin/backup/sql"
JOBS = "/api/admin/export"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(app=job_app, artifacts=tmp_path / "artifacts") as site:
        yield site


async def export(user: User, **headers: str) -> str:
    answer = await user.post(MARKDOWN, {"workspace_id": user.workspace_id}, **headers)
    assert answer.status == 202, answer.raw
    return str(answer.body["job"]["id"])


async def ended(user: User, job_id: str) -> dict[str, Any]:
    """Wait until a job has ended."""
    with fail_after(20):
        while True:
            answer = await user.get(f"{JOBS}/{job_id}")
            assert answer.status == 200, answer.raw
            job: dict[str, Any] = answer.body["job"]
            if job["finished_at"] is not None:
                return job
            user.site.clock.move(milliseconds=500)
            await trio.sleep(0.005)


async def exported(user: User) -> tuple[dict[str, Any], bytes]:
    job = await ended(user, await export(user))
    assert job["status"] == "succeeded", job
    answer = await user.get(job["artifact_path"])
    assert answer.status == 200, answer.raw
    return job, answer.raw


def opened(archive: bytes) -> tuple[zipfile.ZipFile, dict[str, Any]]:
    file = zipfile.ZipFile(io.BytesIO(archive))
    assert file.testzip() is None
    return file, msgspec.json.decode(file.read(MANIFEST))


# ------------------------------------------------------------------------------------ the life


async def test_x_job_1_ops_01_an_export_is_queued_runs_and_has_its_file(site: Site) -> None:
    owner = await site.set_up()
    note_id = await owner.write("# Da capo\n\nal fine")
    answer = await owner.post(MARKDOWN, {"workspace_id": owner.workspace_id})
    assert answer.status == 202
    job = answer.body["job"]
    assert job["status"] == "queued"
    assert job["job_type"] == "export_markdown"
    assert job["requested_by"] == owner.id
    assert job["workspace_id"] == owner.workspace_id
    assert job["artifact_path"] is job["error_code"] is job["started_at"] is None
    assert job["created_at"] is not None
    seen = []
    async with site.rt.workspace(owner.workspace_id).of(runs).subscribe(job["id"], after=0) as log:
        async for event in log:
            seen.append(event.record.type)
            if event.record.type == "run_finished":
                break
    assert [*dict.fromkeys(seen)] == ["run_requested", "run_started", "run_finished"]
    job = await ended(owner, job["id"])
    assert job["status"] == "succeeded"
    assert job["finished_at"] >= job["started_at"] >= job["created_at"]
    found = await owner.get(job["artifact_path"])
    assert found.status == 200
    assert found.headers["content-type"] == "application/zip"
    assert job["artifact"]["filename"] in found.headers["content-disposition"]
    assert len(found.raw) == job["artifact"]["bytes"] == int(found.headers["content-length"])
    assert sha256(found.raw).hexdigest() == job["artifact"]["sha256"]
    archive, manifest = opened(found.raw)
    (file,) = manifest["files"]
    assert file["note_id"] == note_id
    assert archive.read(file["path"]).decode() == "# Da capo\n\nal fine"
    assert sha256(archive.read(file["path"])).hexdigest() == file["sha256"]
    actions = await on_record(owner)
    assert actions == ["EXPORT_MARKDOWN_JOB_SUCCEEDED", "EXPORT_MARKDOWN_JOB_STARTED"]


async def on_record(user: User, *, workspace: bool = True) -> list[str]:
    of = f"?workspace_id={user.workspace_id}" if workspace else "?"
    answer = await user.get(f"/api/audit{of}&resource_type=run")
    assert answer.status == 200, answer.raw
    return [each["action"] for each in answer.body["items"]]


async def test_x_job_1_an_export_that_fails_says_why(site: Site, tmp_path: Path) -> None:
    owner = await site.set_up()
    (tmp_path / "artifacts").write_text("a file where a folder should be")
    job = await ended(owner, await export(owner))
    assert (job["status"], job["error_code"]) == ("failed", "EXPORT_FAILED")
    assert "ARTIFACT_FAILED" in job["error_detail"]
    assert job["artifact_path"] is None
    gone = await owner.get(f"{JOBS}/{job['id']}/artifact")
    assert (gone.status, gone.code) == (410, "ARTIFACT_GONE")
    assert (await on_record(owner))[0] == "EXPORT_MARKDOWN_JOB_FAILED"


async def test_x_job_1_a_node_without_a_folder_says_so() -> None:
    async with open_site(app=job_app) as site:
        owner = await site.set_up()
        job = await ended(owner, await export(owner))
        assert job["error_detail"] == "ARTIFACT_FAILED: this node has no folder for artifacts"


async def test_a_store_that_is_no_database_cannot_be_backed_up(site: Site) -> None:
    owner = await site.set_up()
    answer = await owner.post(SQL)
    assert answer.status == 202, answer.raw
    job = await ended(owner, answer.body["job"]["id"])
    assert (job["error_code"], job["workspace_id"]) == ("BACKUP_FAILED", None)
    assert "no database" in job["error_detail"]
    assert await on_record(owner, workspace=False) == [
        "BACKUP_SQL_JOB_FAILED",
        "BACKUP_SQL_JOB_STARTED",
    ]


async def test_a_repeat_of_a_key_is_the_same_job(site: Site) -> None:
    owner = await site.set_up()
    first = await export(owner, **{"idempotency-key": "once"})
    assert await export(owner, **{"idempotency-key": "once"}) == first
    assert await export(owner) != first
    body = {"workspace_id": owner.workspace_id}
    assert (await owner.post(MARKDOWN, body, **{"idempotency-key": "once"})).status == 202


# -------------------------------------------------------------------------------- the archive


async def test_x_job_1_an_empty_workspace_has_an_archive(site: Site) -> None:
    owner = await site.set_up()
    job, archive = await exported(owner)
    file, manifest = opened(archive)
    assert file.namelist() == [MANIFEST]
    assert manifest["files"] == []
    assert manifest["workspace_id"] == owner.workspace_id
    assert manifest["head"]["event_seq"] > 0
    assert job["progress"] is None


TITLES = [
    "a/b\\c",
    "..",
    "../../etc/passwd",
    "Same",
    "Same",
    "\N{MUSICAL SCORE} Dal Segno \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "x" * 300,
    "CON",
    "\N{LATIN SMALL LETTER E WITH ACUTE}" * 300,
]


async def test_x_job_1_titles_of_any_kind_are_files(site: Site) -> None:
    owner = await site.set_up()
    workspace = site.rt.workspace(owner.workspace_id)
    for number, title in enumerate(TITLES):
        await workspace.send(CreateNote(title, f"of {number}"))
    file, manifest = opened((await exported(owner))[1])
    names = file.namelist()
    assert len({name.lower() for name in names}) == len(TITLES) + 1
    for name in names:
        assert name == MANIFEST or name.startswith("notes/")
        assert name.count("/") <= 1
        assert not {*name[6:]} & {*'\\:*?"<>|/'}
        assert len(name.encode()) < 255
    assert sorted(each["title"] for each in manifest["files"]) == sorted(TITLES)
    for each in manifest["files"]:
        assert file.read(each["path"]) == f"of {TITLES.index(each['title'])}".encode() or (
            each["title"] == "Same"
        )


async def test_x_job_1_an_export_is_of_the_moment_that_it_was_asked_for(site: Site) -> None:
    """Whoever writes meanwhile, and however often it is tried."""
    owner = await site.set_up()
    workspace = site.rt.workspace(owner.workspace_id)
    ids = [await owner.write(f"note {n}") for n in range(3)]
    receipt = await workspace.send(RequestRun(worker="export_markdown"))
    version = (await owner.get(f"/api/notes/{ids[0]}")).body["version"]
    await workspace.send(SetTitle(ids[0], "Later", version))
    await workspace.send(DeleteNote(ids[1]))
    await owner.write("another one")
    await ended(owner, receipt.entity_id)
    _, manifest = opened((await owner.get(f"{JOBS}/{receipt.entity_id}/artifact")).raw)
    assert [each["note_id"] for each in manifest["files"]] == sorted(ids)
    assert "Later" not in {each["title"] for each in manifest["files"]}
    assert manifest["head"]["event_seq"] == receipt.event_seq
    _, manifest = opened((await exported(owner))[1])
    assert len(manifest["files"]) == 3
    assert ids[1] not in {each["note_id"] for each in manifest["files"]}


async def test_what_comes_of_ten_pages_tells_how_far_it_is(site: Site) -> None:
    owner = await site.set_up()
    workspace = site.rt.workspace(owner.workspace_id)
    for number in range(1_050):
        await workspace.send(CreateNote(f"note {number}"))
    job, archive = await exported(owner)
    assert len(opened(archive)[1]["files"]) == 1_050
    assert job["progress"]["unit"] == "notes"
    assert 0 < job["progress"]["done"] <= job["progress"]["total"] == 1_050
    events = await workspace.history(runs, job["id"], limit=100)
    assert 5 < sum(event.type == "run_saved" for event in events) < 20


# ------------------------------------------------------------------------------- what goes wrong


class GatedArtifacts(FolderArtifacts):
    """Stops in the middle of a file until it may go on."""

    def __init__(self, root: Path, site_limits: Limits, disk: RealDisk | None = None) -> None:
        super().__init__(root, world=WORLD, limits=site_limits, disk=disk, free=lambda _: 10**12)
        self.may_go_on = trio.Event()
        self.is_there = trio.Event()

    @asynccontextmanager
    async def write(self, name: str) -> AsyncIterator[Any]:
        async with super().write(name) as file:
            await file.write(b"")
            self.is_there.set()
            await self.may_go_on.wait()
            yield file


class FullDisk(RealDisk):
    """Fails as a full disk does, once there are so many bytes in a file."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: Path, at: int, data: bytes) -> None:
        if at + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(path, at, data)


async def test_x_job_1_a_disk_that_is_full_in_the_middle_fails_the_export(tmp_path: Path) -> None:
    artifacts = GatedArtifacts(tmp_path, Limits(), FullDisk(2_000_000))
    artifacts.may_go_on.set()
    async with open_site(app=job_app, artifacts=artifacts) as site:
        owner = await site.set_up()
        for _ in range(4):
            await owner.write("x" * 900_000)
        job = await ended(owner, await export(owner))
        assert (job["status"], job["error_code"]) == ("failed", "EXPORT_FAILED")
        assert job["error_detail"] == "ARTIFACT_FAILED: No space left on device"
        assert os.listdir(tmp_path) == []
        artifacts._disk = RealDisk()
        job = await ended(owner, await export(owner))
        assert job["status"] == "succeeded"


async def test_an_export_that_is_cancelled_leaves_no_file(tmp_path: Path) -> None:
    artifacts = GatedArtifacts(tmp_path, Limits())
    async with open_site(app=job_app, artifacts=artifacts) as site:
        owner = await site.set_up()
        job_id = await export(owner)
        with fail_after(10):
            await artifacts.is_there.wait()
        assert len(os.listdir(tmp_path)) == 1
        await site.rt.workspace(owner.workspace_id).send(CancelRun(run_id=job_id))
        job = await ended(owner, job_id)
        assert (job["error_code"], job["error_detail"]) == ("EXPORT_FAILED", "RUN_CANCELLED")
        with fail_after(10):
            while os.listdir(tmp_path):
                await trio.sleep(0.005)


async def test_whoever_is_removed_meanwhile_gets_no_export(tmp_path: Path) -> None:
    artifacts = GatedArtifacts(tmp_path, Limits())
    async with open_site(app=job_app, artifacts=artifacts) as site:
        owner = await site.set_up()
        admin = await site.add_member(owner, "admin")
        answer = await admin.post(MARKDOWN, {"workspace_id": owner.workspace_id})
        with fail_after(10):
            await artifacts.is_there.wait()
        await site.rt.workspace(owner.workspace_id).send(RemoveMember(admin.id))
        artifacts.may_go_on.set()
        job = await ended(owner, answer.body["job"]["id"])
        assert (job["status"], job["error_code"]) == ("failed", "EXPORT_FAILED")
        assert "ROLE_FORBIDDEN" in job["error_detail"]
        assert os.listdir(tmp_path) == []


async def test_x_job_1_an_attempt_after_another_makes_the_same_archive(tmp_path: Path) -> None:
    """The node ends in the middle, and the next one begins anew; nothing is left of the first."""
    store = MemoryStore(Clock().world())
    artifacts = GatedArtifacts(tmp_path, Limits())
    async with open_site(app=job_app, artifacts=artifacts, store=store) as site:
        owner = await site.set_up()
        for number in range(20):
            await owner.write(f"note {number}")
        job_id = await export(owner)
        with fail_after(10):
            await artifacts.is_there.wait()
    assert os.listdir(tmp_path) == []
    async with open_site(app=job_app, artifacts=tmp_path, store=store) as site:
        workspace = site.rt.workspace(owner.workspace_id)
        with fail_after(20):
            while (run := await workspace.get(runs, job_id)) is None or run.is_open:
                site.clock.move(seconds=1)
                await trio.sleep(0.005)
        assert (run.status, run.attempt) == ("succeeded", 2)
        (name,) = os.listdir(tmp_path)
        whole = (tmp_path / name).read_bytes()
        _, manifest = opened(whole)
        assert len(manifest["files"]) == 20
        first = await workspace.history(runs, job_id, limit=1)
        assert manifest["head"]["event_seq"] == first[0].event_seq


# ----------------------------------------------------------------------------------- the file


async def test_a_part_of_a_file_is_read_by_range(site: Site) -> None:
    owner = await site.set_up()
    await owner.write("x" * 10_000)
    job, whole = await exported(owner)
    path = job["artifact_path"]

    async def part(range_: str, **more: str) -> Answer:
        return await owner.get(path, range=range_, **more)

    first = await part("bytes=0-99")
    assert (first.status, first.raw) == (206, whole[:100])
    assert first.headers["content-range"] == f"bytes 0-99/{len(whole)}"
    assert (await part("bytes=100-")).raw == whole[100:]
    assert (await part("bytes=-7")).raw == whole[-7:]
    assert (await part(f"bytes=5-{10**15}")).raw == whole[5:]
    beyond = await part(f"bytes={len(whole)}-")
    assert (beyond.status, beyond.code) == (416, "RANGE_NOT_SATISFIABLE")
    for ignored in ("bytes=0-1,3-4", "lines=1-2", "bytes=9-3", "bytes=-"):
        assert (await part(ignored)).status == 200
    tag = first.headers["etag"]
    assert (await part("bytes=0-9", **{"if-range": tag})).status == 206
    assert (await part("bytes=0-9", **{"if-range": '"another"'})).status == 200
    assert (await owner.get(path, **{"if-none-match": tag})).status == 304


async def test_a_file_is_gone_after_its_time(tmp_path: Path) -> None:
    limits = Limits(artifact_ttl_s=60.0)
    async with open_site(app=job_app, artifacts=tmp_path, limits=limits) as site:
        owner = await site.set_up()
        job, _ = await exported(owner)
        expires_at = datetime.fromisoformat(job["artifact"]["expires_at"])
        site.clock.now = expires_at - timedelta(seconds=1)
        assert (await owner.get(job["artifact_path"])).status == 200
        site.clock.move(seconds=1)
        gone = await owner.get(job["artifact_path"])
        assert (gone.status, gone.code) == (410, "ARTIFACT_GONE")
        assert (await owner.get(f"{JOBS}/{job['id']}")).body["job"]["artifact_path"] is not None


async def test_a_file_that_was_lost_is_gone(site: Site, tmp_path: Path) -> None:
    owner = await site.set_up()
    job, _ = await exported(owner)
    (file,) = (tmp_path / "artifacts").iterdir()
    file.unlink()
    gone = await owner.get(job["artifact_path"])
    assert (gone.status, gone.code) == (410, "ARTIFACT_GONE")


async def test_files_that_no_run_names_are_swept(site: Site, tmp_path: Path) -> None:
    """As of an attempt that died between its file and its end."""
    owner = await site.set_up()
    job, _ = await exported(owner)
    folder = tmp_path / "artifacts"
    (name,) = os.listdir(folder)
    whose, run_id, _ = name.split("!")
    orphans = [
        f"{whose}!{run_id}!another.zip",
        f"{whose}!nothing!a.zip",
        "nowhere!r!a.zip",
        "x.zip",
    ]
    for each in orphans:
        (folder / each).write_bytes(b"x")
    at = (site.clock.now - timedelta(hours=2)).timestamp()
    for each in os.listdir(folder):
        os.utime(folder / each, (at, at))
    service = site.rt.service
    assert await ArtifactSweep(service.directory, service.catalog)(limit=100) == len(orphans)
    assert os.listdir(folder) == [name]
    assert (await owner.get(job["artifact_path"])).status == 200


async def test_a_job_that_has_not_ended_has_no_file_yet(site: Site) -> None:
    """It waits for a program that carries such jobs out."""
    owner = await site.set_up()
    workspace = site.rt.workspace(owner.workspace_id)
    site.rt.service.reactors.stop()
    first = await workspace.send(RequestRun(worker="export_markdown"))
    second = await workspace.send(RequestRun(worker="export_markdown"))
    answer = await owner.get(f"{JOBS}/{second.entity_id}/artifact")
    assert (answer.status, answer.code) == (409, "STATE_CONFLICT")
    await ended(owner, first.entity_id)
    assert (await ended(owner, second.entity_id))["status"] == "succeeded"


# -------------------------------------------------------------------------------------- who may


async def test_x_job_1_who_may_ask_and_who_may_look(site: Site) -> None:
    owner = await site.set_up()
    job_id = await export(owner)
    job = await ended(owner, job_id)
    for role, asks in (("admin", True), ("editor", False), ("viewer", False)):
        member = await site.add_member(owner, role)
        answer = await member.post(MARKDOWN, {"workspace_id": owner.workspace_id})
        assert answer.status == (202 if asks else 403), (role, answer.raw)
        assert (await member.get(f"{JOBS}/{job_id}")).status == 200
        assert (await member.get(job["artifact_path"])).status == 200
        assert (await member.get(f"{JOBS}?workspace_id={owner.workspace_id}")).status == 200
        backup = await member.post(
            "/api/admin/backup/workspace", {"workspace_id": owner.workspace_id}
        )
        assert backup.status == (202 if asks else 403), (role, backup.raw)
    stranger = await site.add_user()
    for path in (f"{JOBS}/{job_id}", job["artifact_path"], f"{JOBS}/nothing"):
        answer = await stranger.get(path)
        assert (answer.status, answer.code) == (404, "JOB_NOT_FOUND")
    answer = await stranger.post(MARKDOWN, {"workspace_id": owner.workspace_id})
    assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    answer = await stranger.post(MARKDOWN, {"workspace_id": "nowhere"})
    assert (answer.status, answer.code) == (404, "WORKSPACE_NOT_FOUND")
    assert (await site.send("GET", f"{JOBS}/{job_id}")).status == 401


async def test_x_job_1_the_backup_of_everything_is_for_global_admins(site: Site) -> None:
    owner = await site.set_up()
    admin = await site.add_user("admin")
    editor = await site.add_user("editor")
    assert (await editor.post(SQL)).code == "ROLE_FORBIDDEN"
    assert (await editor.get(SQL)).code == "ROLE_FORBIDDEN"
    job_id = str((await admin.post(SQL)).body["job"]["id"])
    await ended(owner, job_id)
    assert (await admin.get(f"{JOBS}/{job_id}")).status == 200
    for path in (f"{JOBS}/{job_id}", f"{JOBS}/{job_id}/artifact"):
        answer = await editor.get(path)
        assert (answer.status, answer.code) == (404, "JOB_NOT_FOUND")
    listed = (await admin.get(f"{SQL}?job_type=sql_backup")).body["jobs"]
    assert [each["id"] for each in listed] == [job_id]
    assert (await admin.get("/api/automation/runs/" + job_id)).status == 404


async def test_other_runs_are_no_jobs(site: Site) -> None:
    owner = await site.set_up()
    rule = await owner.post(
        "/api/automation/rules",
        {
            "workspace_id": owner.workspace_id,
            "trigger": "note_created",
            "condition_json": {},
            "action_json": {"kind": "noop"},
        },
    )
    path = f"/api/automation/rules/{rule.body['rule']['id']}/launch"
    run = await owner.post(path, {"workspace_id": owner.workspace_id})
    answer = await owner.get(f"{JOBS}/{run.body['run']['id']}")
    assert (answer.status, answer.code) == (404, "JOB_NOT_FOUND")


async def test_c10_jobs_are_listed_by_type_and_status(site: Site) -> None:
    owner = await site.set_up()
    asked = []
    for path in (MARKDOWN, "/api/admin/backup/workspace", MARKDOWN):
        answer = await owner.post(path, {"workspace_id": owner.workspace_id})
        asked.append(str(answer.body["job"]["id"]))
        await ended(owner, asked[-1])
        site.clock.move(seconds=1)

    async def listed(query: str = "") -> tuple[list[str], str | None]:
        answer = await owner.get(f"{JOBS}?workspace_id={owner.workspace_id}{query}")
        assert answer.status == 200, answer.raw
        return [each["id"] for each in answer.body["jobs"]], answer.body["next"]

    assert await listed() == (asked[::-1], None)
    first, after = await listed("&limit=2")
    assert first == asked[:0:-1]
    assert await listed(f"&limit=2&after={after}") == (asked[:1], None)
    for name in ("markdown", "export_markdown"):
        assert (await listed(f"&job_type={name}"))[0] == [asked[2], asked[0]]
    for name in ("sql_backup", "backup_sql"):
        assert (await listed(f"&job_type={name}&status=failed"))[0] == [asked[1]]
    assert (await listed("&status=succeeded"))[0] == [asked[2], asked[0]]
    answer = await owner.get(f"{JOBS}?workspace_id={owner.workspace_id}&job_type=pdf")
    assert answer.code == "BAD_REQUEST"


# ---------------------------------------------------------------------------------- other nodes


async def test_another_node_says_who_has_the_file(migrated: str, tmp_path: Path) -> None:
    async with (
        open_site(
            app=job_app,
            database=migrated,
            artifacts=tmp_path / "north",
            node_id="north",
            address="http://north.test",
        ) as north,
        open_site(
            app=job_app, database=migrated, artifacts=tmp_path / "south", node_id="south"
        ) as south,
    ):
        owner = await north.set_up()
        job, archive = await exported(owner)
        assert job["artifact"]["node_id"] == "north"
        there = copy(owner)
        there.site = south
        answer = await there.get(job["artifact_path"])
        assert (answer.status, answer.code) == (421, "ARTIFACT_ELSEWHERE")
        assert answer.body["details"] == {"owner": "north", "address": "http://north.test"}
        # … unless the two have one folder.
        (file,) = (tmp_path / "north").iterdir()
        (tmp_path / "south").mkdir()
        (tmp_path / "south" / file.name).write_bytes(file.read_bytes())
        assert (await there.get(job["artifact_path"])).raw == archive
