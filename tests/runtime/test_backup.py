"""Backups of real databases, and what is restored from them: the drill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
import trio
from psycopg.sql import SQL

from dalsegno.actors import AsOf, PageBounds, StoreDump, Turn
from dalsegno.actors.domains.automation import automation_workers
from dalsegno.actors.domains.jobs import (
    BackupDamagedError,
    job_app,
    job_workers,
    write_backup,
)
from dalsegno.actors.domains.members import ADMINS, PutMember
from dalsegno.actors.domains.notes import (
    ApplyPatch,
    CreateNote,
    DeleteNote,
    PutMetadata,
    SetTags,
    notes,
)
from dalsegno.actors.effects import dump_of
from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    App,
    Context,
    Domain,
    Due,
    Index,
    Limits,
    PatchOp,
    Principal,
    Reject,
)
from dalsegno.protocol.audit import audit_event_of
from dalsegno.protocol.runs import DumpPage, runs
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime._cli import run
from dalsegno.runtime._cli_jobs import NewFile, _back_up, _export
from dalsegno.runtime._restore import check_backup, restore_backup
from dalsegno.runtime.client import Client, RemoteEvent, open_client
from dalsegno.runtime.store import (
    DriverName,
    PostgresDumps,
    PostgresStore,
    RestoreRefusedError,
    open_driver,
)
from tests._drivers import EACH_DRIVER
from tests._http import PLAIN
from tests._patience import fail_after
from tests.runtime._serving import EMAIL, PASSWORD, SOON, register, serving

LIMITS = Limits()
EVERYTHING = PageBounds(from_seq=1, limit=1_000, bytes_max=2**30)

# ------------------------------------------------------------------------- what is backed up


class Alarm(msgspec.Struct, frozen=True):
    at: float
    rings: int = 0


class SetAlarm(msgspec.Struct, frozen=True):
    alarm_id: str
    in_s: float


class Ring(msgspec.Struct, frozen=True):
    alarm_id: str


class AlarmSet(msgspec.Struct, frozen=True):
    at: float


class Rang(msgspec.Struct, frozen=True):
    pass


class Ended(msgspec.Struct, frozen=True):
    pass


class EndAlarm(msgspec.Struct, frozen=True):
    alarm_id: str


alarms = Domain(
    "alarm", state=Alarm, commands=SetAlarm | Ring | EndAlarm, events=AlarmSet | Rang | Ended
)
"""A domain with timers and a list of its own, whose entities end."""


@alarms.decide
def _set(_alarm: Alarm | None, command: SetAlarm, context: Context) -> AlarmSet:
    return AlarmSet((context.now + timedelta(seconds=command.in_s)).timestamp())


@alarms.decide
def _ring(_alarm: Alarm, _command: Ring) -> Rang:
    return Rang()


@alarms.decide
def _end(_alarm: Alarm, _command: EndAlarm) -> Ended:
    return Ended()


@alarms.evolve
def _is_set(_alarm: Alarm | None, event: AlarmSet) -> Alarm:
    return Alarm(event.at)


@alarms.evolve
def _rang(alarm: Alarm, _event: Rang) -> Alarm:
    return Alarm(0.0, alarm.rings + 1)


@alarms.evolve
def _has_ended(_alarm: Alarm, _event: Ended) -> None:
    return None


@alarms.due
def _rings(alarm: Alarm, alarm_id: str) -> Due | None:
    return Due(datetime.fromtimestamp(alarm.at, UTC), Ring(alarm_id)) if alarm.at else None


@alarms.index
def _listed(alarm: Alarm) -> Index:
    return Index(keys=(f"rings:{alarm.rings}",), sort=f"{alarm.at:020f}", title=None)


APP = App(
    (*(domain for domain in job_app.domains if domain is not runs), alarms),
    routes=job_app.routes,
    dialects=job_app.dialects,
    workers=(*automation_workers, *job_workers),
)


@asynccontextmanager
async def opened(dsn: str, **more: Any) -> AsyncIterator[Runtime]:
    async with Runtime.open(dsn, app=APP, **more) as rt:
        yield rt


async def fill(workspace: Workspace) -> None:
    """Make of everything some: long logs, snapshots, keys, timers, texts of any kind."""
    first = await workspace.send(CreateNote("Da capo", "al fine"), key="once")
    text = 'quotes " and \\ and \N{MUSICAL SCORE} and \x01 \x7f "\\u0000" {"a": [1, null]}\r\n'
    for number in range(1, 131):  # past a round version, of which there is a snapshot
        patch = ApplyPatch(first.entity_id, [PatchOp(insert=text)], number)
        await workspace.send(patch, key=f"patch {number}")
    await workspace.send(SetTags(first.entity_id, ["a", "b"]))
    await workspace.send(PutMetadata(first.entity_id, "key", {"deep": [1.5, None, "é"]}))
    gone = await workspace.send(CreateNote("Gone", "x" * 200_000))
    await workspace.send(DeleteNote(gone.entity_id))
    await workspace.send(SetAlarm("later", 3_600.0))
    await workspace.send(SetAlarm("ended", 3_600.0))
    await workspace.send(EndAlarm("ended"))
    with pytest.raises(Reject):
        await workspace.send(DeleteNote("nothing"), key="refused")


async def fill_site(url: str, rt: Runtime) -> str:
    """Make accounts with passwords, a key and acks; return the workspace."""
    workspace_id = await register(url)
    await fill(rt.workspace(workspace_id))
    async with (
        open_client(url, email=EMAIL, password=PASSWORD, limits=SOON) as client,
        client.subscribe(f"workspace:{workspace_id}", cursor=0) as events,
    ):
        with fail_after(10):
            async for event in events:
                events.ack(event)
                if event.seq == 100:
                    break
    async with httpx.AsyncClient(base_url=url, **PLAIN) as http:
        said = {"email": EMAIL, "password": PASSWORD}
        csrf = (await http.post("/api/auth/login", json=said)).json()["csrf_token"]
        answer = await http.post(
            f"/api/workspaces/{workspace_id}/keys",
            json={"name": "a program", "role": "editor"},
            headers={"x-csrf-token": csrf},
        )
        assert answer.status_code < 500
    return workspace_id


COLUMNS = {
    "workspace_head": "workspace_id, head_seq, first_seq, chain, recorded_at, halted_reason,"
    " halted_code, app_version, created_at, epoch",
    "event": "*",
    "event_type": "*",
    "entity": "*",
    "entity_key": "*",
    "snapshot": "*",
    "command_result": "*",
    "command_audit": "*",
    "audit": "recorded_at, workspace_id, actor, action, detail",
    "ack_cursor": "*",
    "credential": "*",
    "api_key": "*",
    "reactor": "*",
    "reactor_place": "*",
}
"""What has to be the same afterwards."""


def rows_of(dsn: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with psycopg.connect(dsn) as connection:
        for table, columns in COLUMNS.items():
            what = "t" if columns == "*" else f"row({columns})"
            query = SQL(f"select {what}::text from dalsegno.{table} t order by 1")
            found[table] = [row for (row,) in connection.execute(query)]
    return found


def back_up(dsn: str, file: Path, workspace_id: str | None = None) -> Any:
    return partial(_back_up, Path("unused"), dsn, APP, LIMITS, workspace_id, file)


# ------------------------------------------------------------------------------------- the drill


@pytest.mark.parametrize("driver", EACH_DRIVER)
async def test_x_job_2_what_is_restored_is_what_there_was(
    migrated: str, database: str, tmp_path: Path, driver: DriverName
) -> None:
    """Heads, chains, events, states, lists, timers, answers to keys, accounts."""
    async with serving(migrated, app=APP) as site:
        workspace_id = await fill_site(site.url, site.runtime)
        await fill(site.runtime.workspace("another"))
    before = rows_of(migrated)
    assert [table for table, rows in before.items() if not rows] == ["audit"]
    async with open_driver(driver) as connect:
        async with PostgresStore.open(migrated, connect=connect) as store:
            dump = StoreDump(store, store.dumps, {}, LIMITS)
            with NewFile.at(tmp_path / "all") as out:
                at, pause = await store.read_time(), Turn(0.002).pause
                written = await write_backup(dump, out, only=None, made_at=at, pause=pause)
        assert await check_backup(tmp_path / "all") == written
        await restore_backup(database, tmp_path / "all", connect=connect)
    after = rows_of(database)
    for table, rows in before.items():
        assert after[table] == rows, table
    # It serves at once, and everybody is known.
    async with serving(database, app=APP) as site:
        workspace = site.runtime.workspace(workspace_id)
        head = await site.runtime.store.read_head(workspace_id)
        assert head is not None
        assert head.owner is None
        again = await workspace.send(CreateNote("Da capo", "al fine"), key="once")
        assert again.repeated
        async with open_client(site.url, email=EMAIL, password=PASSWORD, limits=SOON) as client:
            sent = await client.send(workspace_id, "create_note", {"title": "New"})
            assert sent.event_seq == head.head_seq + 1
        for each in (workspace_id, "another", "$system"):
            report = await site.runtime.service.repair(each, actor="drill")
            assert report.states_rewritten == 0


class LateDumps(PostgresDumps):
    """Has something done once the head of a workspace was read."""

    late: Callable[[], Awaitable[None]]

    async def rows(self, table: str, workspace_id: str, **more: Any) -> DumpPage:
        found = await super().rows(table, workspace_id, **more)
        if table == "workspace_head":
            await self.late()
        return found


@pytest.mark.parametrize("is_known", [True, False])
async def test_x_job_2_a_backup_is_of_one_moment_whoever_writes(
    migrated: str, database: str, tmp_path: Path, is_known: bool
) -> None:
    """Entities that were changed since are folded as they were, and listed and due as they were.

    Where the program that backs up does not know their domains, the one that serves them does so.
    """
    async with opened(migrated) as rt:
        workspace, store = rt.workspace("w"), rt.store
        await fill(workspace)
        listed = await _listed_in(workspace)
        before = await store.read_head("w")
        assert before is not None
        assert isinstance(store, PostgresStore)

        async def late() -> None:
            for each in (await workspace.snapshot(notes)).items:
                if each.state.deleted_at is None:
                    await workspace.send(SetTags(each.entity_id, ["later"]))
            await workspace.send(CreateNote("Later"))
            await workspace.send(EndAlarm("later"))
            await workspace.send(SetAlarm("newer", 1_800.0))
            await workspace.send(CreateNote("Da capo", "again"), key="later")

        dumps = LateDumps(store._pools)
        dumps.late = late
        dump = StoreDump(store, dumps, rt.service.catalog.domains if is_known else {}, LIMITS)
        with NewFile.at(tmp_path / "w") as out:
            await write_backup(
                dump, out, only="w", made_at=await store.read_time(), pause=Turn(0.002).pause
            )
    await check_backup(tmp_path / "w")
    await restore_backup(database, tmp_path / "w")
    async with opened(database) as rt:
        head = await rt.store.read_head("w")
        assert head is not None
        assert (head.head_seq, head.chain) == (before.head_seq, before.chain)
        workspace = rt.workspace("w")
        if not is_known:
            assert await rt.store.list_stale("w", "note", notes.version, limit=9)
            await workspace.snapshot(notes, key="any")  # lists them anew
            await workspace.snapshot(alarms, key="any")
        assert await _listed_in(workspace) == listed
        found = [await workspace.get(alarms, each) for each in ("later", "newer", "ended")]
        assert [each is not None for each in found] == [True, False, False]
        assert not await rt.store.list_stale("w", "note", notes.version, limit=9)
        assert len((await workspace.snapshot(notes, key="tag:a")).items) == 1
        assert not (await workspace.send(CreateNote("Da capo", "again"), key="later")).repeated
    with psycopg.connect(database) as connection:
        due = connection.execute(
            "select stream_id from dalsegno.entity where due_at is not null"
        ).fetchall()
    assert due == [("alarm:later",)]


async def _listed_in(workspace: Workspace) -> list[tuple[Any, ...]]:
    """Return what the lists of a workspace have."""
    found: list[tuple[Any, ...]] = []
    lists: list[tuple[Domain[Any, Any, Any], str | None]]
    lists = [(notes, None), (notes, ""), (alarms, None), (alarms, "rings:0")]
    for domain, key in lists:
        page = await workspace.snapshot(domain, key=key)
        found += [(e.entity_id, e.version, e.state, e.keys, e.sort, e.title) for e in page.items]
    return found


async def test_x_job_2_the_backup_of_a_server_that_runs_is_a_job(
    migrated: str, database: str, tmp_path: Path
) -> None:
    async with serving(migrated, app=APP, artifacts=tmp_path / "artifacts") as site:
        workspace_id = await fill_site(site.url, site.runtime)
        async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
            said = {"email": EMAIL, "password": PASSWORD}
            csrf = (await http.post("/api/auth/login", json=said)).json()["csrf_token"]
            answer = await http.post("/api/admin/backup/sql", headers={"x-csrf-token": csrf})
            assert answer.status_code == 202, answer.text
            job = answer.json()["job"]
            with fail_after(20):
                while job["finished_at"] is None:
                    await trio.sleep(0.01)
                    job = (await http.get(f"/api/admin/export/{job['id']}")).json()["job"]
            assert job["status"] == "succeeded", job
            file = tmp_path / "downloaded"
            async with http.stream("GET", job["artifact_path"]) as response:
                assert response.status_code == 200
                file.write_bytes(b"".join([piece async for piece in response.aiter_bytes()]))
        heads = await site.runtime.store.read_heads([workspace_id])
        log = await site.runtime.store.read_events("$system", EVERYTHING)
    await check_backup(file)
    await restore_backup(database, file)
    async with opened(database) as rt:
        assert (await rt.store.read_heads([workspace_id]))[workspace_id].chain == (
            heads[workspace_id].chain
        )
        restored = await rt.store.read_events("$system", EVERYTHING)
        assert restored == log[: len(restored)]
        assert {event.stream_id for event in restored} >= {f"run:{job['id']}"}


async def test_x_job_2_readers_of_the_old_history_are_told(
    migrated: str, database: str, tmp_path: Path
) -> None:
    """CURSOR_AHEAD above the restored head, CURSOR_DIVERGED once the log grew past them."""
    async with serving(migrated, app=APP) as site:
        workspace_id = await register(site.url)
        workspace = site.runtime.workspace(workspace_id)
        await workspace.send(CreateNote("kept"))
    await back_up(migrated, tmp_path / "all")()
    async with serving(migrated, app=APP) as site:
        workspace = site.runtime.workspace(workspace_id)
        for _ in range(3):
            await workspace.send(CreateNote("lost"))
        async with open_client(site.url, email=EMAIL, password=PASSWORD, limits=SOON) as client:
            stream = f"workspace:{workspace_id}"
            async with client.subscribe(stream, cursor=0) as events:
                with fail_after(10):
                    seen = [await anext(events) for _ in range(4)]
                    events.ack(seen[-1])
            cursor = f"{seen[-1].seq}-{seen[-1].chain}"
    await restore_backup(database, tmp_path / "all")
    async with (
        serving(database, app=APP) as site,
        open_client(site.url, email=EMAIL, password=PASSWORD, limits=SOON) as client,
    ):
        with pytest.raises(Reject, match="CURSOR_AHEAD"):
            await _first(client, stream, cursor)
        workspace = site.runtime.workspace(workspace_id)
        for _ in range(4):
            await workspace.send(CreateNote("another history"))
        with pytest.raises(Reject, match="CURSOR_DIVERGED"):
            await _first(client, stream, cursor)
        first = await _first(client, stream, f"{seen[0].seq}-{seen[0].chain}")
        assert first.seq == seen[0].seq + 1


async def _first(client: Client, stream: str, cursor: str) -> RemoteEvent:
    async with client.subscribe(stream, cursor=cursor) as events:
        with fail_after(10):
            return await anext(events)


# --------------------------------------------------------------------------------- what is refused


@pytest.fixture
async def file(migrated: str, tmp_path: Path) -> Path:
    async with opened(migrated) as rt:
        await fill(rt.workspace("w"))
    await back_up(migrated, tmp_path / "all")()
    return tmp_path / "all"


async def test_x_job_2_a_damaged_backup_is_refused_and_nothing_is_written(
    file: Path, database: str, tmp_path: Path
) -> None:
    """Cut anywhere, or with one byte changed anywhere."""
    whole = await trio.Path(file).read_bytes()
    damaged = tmp_path / "damaged"
    step = max(len(whole) // 60, 1)
    for at in [*range(0, len(whole), step), len(whole) - 1]:
        await trio.Path(damaged).write_bytes(whole[:at])
        with pytest.raises(BackupDamagedError):
            await check_backup(damaged)
        await trio.Path(damaged).write_bytes(
            whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        )
        with pytest.raises((BackupDamagedError, RestoreRefusedError)):
            await check_backup(damaged)
    await trio.Path(damaged).write_bytes(whole + b"\n")
    with pytest.raises(BackupDamagedError, match="behind the end"):
        await check_backup(damaged)
    await trio.Path(damaged).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackupDamagedError):
        await restore_backup(database, damaged)
    assert not any(rows_of(database).values()), "half of it was undone"
    await restore_backup(database, file)


async def test_x_job_2_only_an_empty_database_is_filled(
    file: Path, migrated: str, database: str
) -> None:
    with pytest.raises(RestoreRefusedError, match="not empty: it has events, workspaces"):
        await restore_backup(migrated, file)
    async with opened(database):
        with pytest.raises(RestoreRefusedError, match="runs on this database: stop it first"):
            await restore_backup(database, file)
    await restore_backup(database, file)
    with pytest.raises(RestoreRefusedError, match="not empty"):
        await restore_backup(database, file)


# -------------------------------------------------------------------------------- the commands


def test_ops_01_export_backup_and_restore_on_the_command_line(
    migrated: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def begin() -> None:
        async with opened(migrated) as rt:
            await fill(rt.workspace("w"))

    trio.run(begin)
    on, to = ["--database", migrated], ["--database", database]
    everything, archive = str(tmp_path / "all"), str(tmp_path / "w.zip")
    assert run(["backup", everything, *on]) == 0
    assert run(["export", "w", archive, *on]) == 0
    assert run(["restore", everything, *to]) == 0
    again = str(tmp_path / "again.zip")
    assert run(["export", "w", again, *to]) == 0
    assert Path(archive).read_bytes() == Path(again).read_bytes(), "of equal heads"
    said = capsys.readouterr()
    assert "1 notes as of" in said.out
    assert "restored" in said.out
    assert run(["export", "w", archive, *on]) == 1, "it is there already"
    assert run(["export", "nothing", str(tmp_path / "x"), *on]) == 1
    assert run(["backup", "--workspace", "nothing", str(tmp_path / "x"), *on]) == 1
    assert run(["restore", archive, *to]) == 1
    said = capsys.readouterr()
    assert "it is there already" in said.err
    assert "there is no workspace nothing" in said.err
    assert "workspace nothing has no log" in said.err
    assert "this is no backup of Dal Segno" in said.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.zip", "all", "w.zip"]


async def test_x_job_1_equal_heads_have_equal_archives(migrated: str, tmp_path: Path) -> None:
    async with opened(migrated) as rt:
        for number in range(250):
            await rt.workspace("w").send(CreateNote(f"note {number}", f"text {number}"))
    for name in ("one", "two"):
        await _export(Path("unused"), migrated, LIMITS, "w", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


async def test_whoever_asked_for_a_backup_is_judged_at_each_page(migrated: str) -> None:
    """And a run of one workspace reads no other."""
    async with opened(migrated) as rt:
        await rt.workspace("w").send(PutMember("u1", "admin"))
        await rt.workspace("x").send(CreateNote("not theirs"))
        service = rt.service
        dump = dump_of(service.directory, service.catalog, "w", Principal("u1"), ADMINS)
        page = await dump.rows("workspace_head", "w", upto=0, after=None)
        assert len(page.rows) == 1
        assert await dump.total("w") == 1
        for refused in (
            dump.rows("event", "x", upto=9, after=None),
            dump.rows("credential", "", upto=0, after=None),
            dump.workspaces(after="", limit=9),
            dump.total(None),
        ):
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await refused
        await rt.workspace("w").send(PutMember("u1", "editor"))
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await dump.rows("event", "w", upto=1, after=None)


async def test_entities_of_a_moment_are_all_that_there_were(migrated: str) -> None:
    """Those that have ended since, too, and none that came later; in pages of any length."""
    async with opened(migrated) as rt:
        workspace = rt.workspace("w")
        for number in range(7):
            await workspace.send(SetAlarm(f"a{number}", 3_600.0))
        await workspace.send(EndAlarm("a0"))
        at = (await workspace.send(Ring("a1"))).event_seq
        before = {f"a{n}": await workspace.get(alarms, f"a{n}") for n in range(7)}
        await workspace.send(EndAlarm("a2"))
        await workspace.send(Ring("a3"))
        await workspace.send(SetAlarm("a0", 60.0))
        await workspace.send(SetAlarm("a9", 60.0))
        reads = AsOf(rt.store, "w", LIMITS)
        for limit in (1, 2, 7, 100):
            found: dict[str, Any] = {}
            after: str | None = ""
            while after is not None:
                page = await reads.page_at(alarms, at, after=after, limit=limit)
                assert len(page.items) <= limit
                found |= {each.entity_id: each.state for each in page.items}
                after = page.next
            assert found == before
        assert await reads.count_at(alarms, at) == 7
        assert await reads.count_at(alarms, 0) == 0
        assert (await reads.page_at(alarms, 0)).next is None


async def test_members_of_the_old_one_are_members(
    migrated: str, database: str, tmp_path: Path
) -> None:
    """Of one workspace alone, too: its members are in its log."""
    async with opened(migrated) as rt:
        await rt.workspace("w").send(PutMember("u1", "editor"))
        await rt.workspace("x").send(CreateNote("not in it"))
    await back_up(migrated, tmp_path / "w", "w")()
    await restore_backup(database, tmp_path / "w")
    async with opened(database) as rt:
        assert await rt.workspace("w").role_of("u1") == "editor"
        assert await rt.store.read_head("x") is None


@pytest.mark.parametrize("only", [None, "w"])
async def test_what_is_on_record_is_in_the_audits_log_once_afterwards(
    migrated: str, database: str, tmp_path: Path, only: str | None
) -> None:
    """Also what was taken in while it was backed up, and where its log is not in the backup."""
    async with opened(migrated) as rt:
        members, store = rt.workspace("w"), rt.store
        assert isinstance(store, PostgresStore)
        await members.send(PutMember("u1", "editor"))
        before = await _taken_in(rt)

        async def late() -> None:
            await members.send(PutMember("u2", "editor"))
            await _taken_in(rt)

        dumps = LateDumps(store._pools)
        dumps.late = late  # after the head of the audit's log was read, if that is in it
        dump = StoreDump(store, dumps, rt.service.catalog.domains, LIMITS)
        with NewFile.at(tmp_path / "all") as out:
            await write_backup(
                dump, out, only=only, made_at=await store.read_time(), pause=Turn(0.002).pause
            )
    await restore_backup(database, tmp_path / "all")
    async with opened(database) as rt:
        taken = await _taken_in(rt)
        assert await _taken_in(rt) == taken
        assert len(set(taken)) == len(taken)
        assert set(before) <= set(taken)
        restored = await rt.store.read_head("w")
    assert restored is not None
    on_record = [id_ for id_ in taken if id_.startswith("w/")]
    assert len(on_record) == restored.head_seq, "each of its events is on record"


async def _taken_in(rt: Runtime) -> list[str]:
    """Wait until everything on record is in the audit's log; the ids there."""
    with fail_after(20):
        while await rt.store.read_uncollected(limit=1, bytes_max=1):
            await trio.sleep(0.01)
    found = map(audit_event_of, await rt.store.read_events(AUDIT_WORKSPACE, EVERYTHING))
    return [record.id for record in found if record is not None]
