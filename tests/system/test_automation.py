"""Rules at work on a server of its own, told over sockets and HTTP alone (WS-06, E2E-09)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from dalsegno.actors.domains.automation import run_id_of
from tests._http import PLAIN
from tests._patience import fail_after
from tests.system._outsider import delete_row, insert_event, insert_row
from tests.system._processes import PASSWORD, Owner, Processes, Server
from tests.system._socket import Message, Socket, open_socket

ROUNDS = 5
PATIENCE_S = 20.0
NOOP = {"kind": "noop"}

FUTURE = """
import msgspec

from dalsegno.actors.domains.automation import (
    automation_domains,
    automation_routes,
    automation_workers,
)
from dalsegno.actors.domains.notes import note_dialect, note_domains, note_routes
from dalsegno.runtime import App, Domain


class TellFuture(msgspec.Struct, frozen=True):
    compat: bool
    future_id: str | None = None


class FutureWorkspaceEvent(msgspec.Struct, frozen=True):
    compat: bool


class Told(msgspec.Struct, frozen=True):
    pass


futures = Domain("future", state=Told, commands=TellFuture, events=FutureWorkspaceEvent)


@futures.decide
def tell(_future: Told | None, command: TellFuture) -> FutureWorkspaceEvent:
    return FutureWorkspaceEvent(command.compat)


@futures.evolve
def told(_future: Told | None, _event: FutureWorkspaceEvent) -> Told:
    return Told()


app = App(
    (*note_domains, *automation_domains, futures),
    routes=(*note_routes, *automation_routes),
    dialects=[note_dialect],
    workers=automation_workers,
)
"""


class Person:
    """Somebody with a workspace of their own, who speaks HTTP."""

    def __init__(self, http: httpx.AsyncClient, said: dict[str, Any]) -> None:
        self.http = http
        self.user_id: str = said["user_id"]
        self.workspace: str = said["workspace_id"]

    @property
    def owner(self) -> Owner:
        """The same, as sockets want it."""
        return Owner(self.workspace, self.http.headers["cookie"], self.user_id)

    async def make(self, path: str, **body: object) -> dict[str, Any]:
        answer = await self.http.post(path, json={"workspace_id": self.workspace, **body})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def read(self, path: str, **query: str) -> dict[str, Any]:
        answer = await self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def somebody(server: Server, admin: Owner, number: int) -> AsyncIterator[Person]:
    """Register a user who has never been here, log them in, and make a workspace of theirs."""
    email = f"user{number}@example.org"
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        http.headers["cookie"] = admin.cookie
        session = (await http.get("/api/auth/session")).json()
        http.headers["x-csrf-token"] = session["csrf_token"]
        account = {"email": email, "password": PASSWORD, "display_name": "U", "role": "viewer"}
        answer = await http.post("/api/users", json=account)
        assert answer.status_code == 201, answer.text
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        answer = await http.post("/api/auth/login", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        http.headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
        http.headers["x-csrf-token"] = answer.json()["csrf_token"]
        made = await http.post("/api/workspaces", json={"slug": f"w{number}", "name": "W"})
        assert made.status_code == 201, made.text
        yield Person(http, {**answer.json(), **made.json()})


class Talk:
    """A conversation in the note dialect, of which every message is kept."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.heard: list[Message] = []

    async def say(self, type_: str, **fields: object) -> None:
        await self._socket.say(type_, **fields)

    async def hear(self, wanted: Callable[[Message], bool]) -> Message:
        """Return the next message that is wanted; those before it are kept as well."""
        with fail_after(PATIENCE_S):
            while True:
                self.heard.append(message := await self._socket.hear())
                if wanted(message):
                    return message

    async def ask(self, type_: str, answer: str, **fields: object) -> Message:
        """Say something, and return its answer, which has to be of this type."""
        await self.say(type_, request_id=(request := f"{type_}-{len(self.heard)}"), **fields)
        said = await self.hear(lambda message: message.get("request_id") == request)
        assert said["type"] == answer, said
        return said

    async def ack(self, stream_id: str, event_seq: int) -> None:
        """Acknowledge something, and make sure that nothing is answered (KJ-ACK-3)."""
        before = len(self.heard)
        await self.say("ack", stream_id=stream_id, event_seq=event_seq, request_id="ack")
        await self.ask("ping", "pong")
        assert all(message.get("request_id") != "ack" for message in self.heard[before:])

    def events(self, *types: str) -> list[Message]:
        return [message for message in self.heard if message["type"] in types]


@asynccontextmanager
async def talking(server: Server, person: Person) -> AsyncIterator[Talk]:
    async with open_socket(server.port, person.owner) as socket:
        yield Talk(socket)


def is_end(message: Message) -> bool:
    return (message["type"], message.get("status")) == ("automation_event", "succeeded")


def check_stale(said: Message, stream_id: str, event_seq: int, current_cursor: int) -> None:
    """Both shapes of a refused ack: flat, and under ``details``."""
    flat = {"stream_id": stream_id, "event_seq": event_seq, "current_cursor": current_cursor}
    assert said["code"] == "STALE_CURSOR"
    assert {name: said.get(name) for name in flat} == flat
    details = {**flat, "attempted_seq": event_seq}
    assert {name: said["details"].get(name) for name in details} == details


# ------------------------------------------------------------------------------------------ WS-06


Append = Callable[[Server, Person], Awaitable[int]]
"""Appends ``future_workspace_event``; returns its number in the workspace."""


async def by_the_workspace(_server: Server, person: Person) -> int:
    """… by a command of the workspace's actor, of a domain that the note dialect knows not."""
    path = f"/api/workspaces/{person.workspace}/commands/tell_future"
    answer = await person.http.post(path, json={"compat": True})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["event_seq"])


async def from_outside(server: Server, person: Person) -> int:
    """… by SQL, past the server, which knows no such type."""
    payload = '{"compat": true}'
    return await insert_event(server.dsn, person.workspace, "future_workspace_event", payload)


@pytest.mark.parametrize("append", [by_the_workspace, from_outside])
async def test_ws_06_runs_in_the_order_of_their_commits_and_resumed_by_cursors(
    processes: Processes, data_dir: Path, owner: Owner, tmp_path: Path, append: Append
) -> None:
    """X-REP-4: the script of the acceptance suite, five times in a row on one server."""
    server = Server(processes, data_dir)
    program = tmp_path / "future.py"
    program.write_text(FUTURE)
    await server.start(*(["--app", str(program)] if append is by_the_workspace else []))
    for number in range(ROUNDS):
        async with somebody(server, owner, number) as person:
            await converse(server, person, append)
    assert await server.stop() == 0
    assert server.process is not None
    assert "Traceback" not in server.process.err


async def converse(server: Server, person: Person, append: Append) -> None:
    """Follow the script, step by step."""
    workspace = f"workspace:{person.workspace}"
    created = await person.make("/api/notes", title="First note", markdown="Hello world")
    assert created["version"] == 1
    note_id = created["note_id"]
    note = f"note:{note_id}"
    rule = (await person.make(
        "/api/automation/rules", trigger="note_patched", condition_json={}, action_json=NOOP
    ))["rule"]  # fmt: skip
    run_id = run_id_of(rule["id"], f"{note}:2")
    patch = {
        "note_id": note_id,
        "base_version": 1,
        "patch_ops": [{"retain": 6}, {"delete": 5}, {"insert": "notes"}],
        "idempotency_key": "ws-idem-01",
        "client_ts": None,
    }
    async with talking(server, person) as talk:
        begun = await talk.ask("subscribe_workspace", "subscribed", workspace_id=person.workspace)
        assert (begun["stream_id"], begun["replay_cursor"]) == (workspace, 0)
        begun = await talk.ask("subscribe_note", "subscribed", note_id=note_id)
        assert (begun["stream_id"], begun["replay_cursor"]) == (note, 0)
        committed = await talk.ask("apply_patch", "patch_committed", **patch)
        assert identity(committed) == (note_id, 2, 2, "ws-idem-01")

        end = await talk.hear(is_end)
        assert (end["workspace_id"], end["run_id"]) == (person.workspace, run_id)
        for name in ("operation_preview", "operation_applied", "operation_rejected"):
            assert end["payload"][name] == []
            assert end["payload"][f"{name}_count"] == 0
        seqs = check_told(talk, note_id, run_id)
        frames = [each["type"] for each in talk.heard[talk.heard.index(committed) :]]
        assert frames == [
            *("patch_committed", "note_event", "workspace_event"),
            *["automation_event"] * 3,
        ]

        async with talking(server, person) as second:
            begun = await second.ask(
                "subscribe_workspace", "subscribed", workspace_id=person.workspace
            )
            assert begun["replay_cursor"] == 0, "nothing is acknowledged yet"
            await second.hear(is_end)
            assert check_told(second, note_id, run_id) == seqs
            kinds = ("workspace_event", "automation_event")
            assert second.events(*kinds) == talk.events(*kinds), "the same, from the first on"

        last = seqs[-1]
        await talk.ack(workspace, last)
        await talk.ack(workspace, last)  # once more is nothing (KJ-ACK-1)
        stale = await talk.ask("ack", "error", stream_id=workspace, event_seq=last - 1)
        check_stale(stale, workspace, last - 1, last)

        again = await talk.ask(
            "apply_patch", "patch_committed", **{**patch, "patch_ops": [{"retain": 1}]}
        )
        assert identity(again) == identity(committed), "whatever its operations are now"
        rejected = await talk.ask(
            "apply_patch", "patch_rejected", **{**patch, "idempotency_key": "ws-idem-02"}
        )
        assert (rejected["expected_version"], rejected["current_version"]) == (1, 2)
        assert (rejected["note_id"], rejected["reason"]) == (note_id, "version_conflict")

        await talk.ack(note, 2)
        stale = await talk.ask("ack", "error", stream_id=note, event_seq=1)
        check_stale(stale, note, 1, 2)
        assert [each["event_seq"] for each in talk.events("note_event")] == [1, 2]

        seq = await append(server, person)
    assert seq == last + 1, "neither the repeat nor the refusals have led to an event"

    async with talking(server, person) as talk:
        begun = await talk.ask("subscribe_note", "subscribed", note_id=note_id)
        assert (begun["replay_cursor"], begun["current_version"]) == (2, 2)
        begun = await talk.ask("subscribe_workspace", "subscribed", workspace_id=person.workspace)
        assert begun["replay_cursor"] == last
        future = await talk.hear(lambda message: message["type"] == "workspace_event")
        assert (future["event_seq"], future["event_type"]) == (seq, "future_workspace_event")
        assert future["payload"]["compat"] is True
        assert talk.events("note_event", "automation_event") == [], "what was acknowledged"

        # And the workspace goes on behind it, under the next numbers.
        patch |= {"base_version": 2, "idempotency_key": "ws-idem-03"}
        assert (await talk.ask("apply_patch", "patch_committed", **patch))["version"] == 3
        await talk.hear(is_end)
    told = talk.events("workspace_event", "automation_event")
    assert [each["event_seq"] for each in told] == [*range(seq, seq + 5)]
    log = await person.read(f"/api/workspaces/{person.workspace}/events", limit="200")
    assert [each["event_seq"] for each in log["items"]] == [*range(1, seq + 5)], "none twice"
    assert (await person.read(f"/api/notes/{note_id}"))["markdown"] == "Hello notes"
    checked = await person.http.post(f"/api/workspaces/{person.workspace}/repair")
    assert (checked.status_code, checked.json()["events"]) == (200, seq + 4), checked.text


def identity(committed: Message) -> tuple[object, ...]:
    return tuple(committed[name] for name in ("note_id", "version", "event_seq", "idempotency_key"))


def check_told(talk: Talk, note_id: str, run_id: str) -> list[int]:
    """Check what the patch has led to, in its order; return its numbers."""
    told = talk.events("workspace_event", "automation_event")
    seqs = [each["event_seq"] for each in told]
    assert seqs == [*range(1, len(seqs) + 1)], "no gap, nothing twice"
    assert {each["stream_id"] for each in told} == {f"workspace:{told[0]['workspace_id']}"}
    patched, *run = told[-4:]
    assert (patched["event_type"], patched["payload"]["note_id"]) == ("note_patched", note_id)
    assert (patched["payload"]["version"], patched["payload"]["event_seq"]) == (2, 2)
    statuses = ("queued", "running", "succeeded")
    assert [each["type"] for each in run] == ["automation_event"] * 3
    assert [each["event_type"] for each in run] == [f"automation_run_{each}" for each in statuses]
    for status, each in zip(statuses, run, strict=True):
        assert (each["status"], each["run_id"]) == (status, run_id)
        assert each["payload"]["event_code"] == f"LIBRARIAN_RUN_{status.upper()}"
        assert each["payload"]["triggering_event_id"] == f"note:{note_id}:2"
    return seqs


# ------------------------------------------------------------------------------------ from outside


async def test_a_row_behind_the_head_is_no_event_and_its_number_is_given_to_no_other(
    server: Server, owner: Owner
) -> None:
    """Half of an append: the log's head does not know of it.  Nothing is written over it."""
    async with somebody(server, owner, 0) as person, talking(server, person) as talk:
        workspace = person.workspace
        note_id = (await person.make("/api/notes", title="N", markdown="N"))["note_id"]
        await talk.ask("subscribe_workspace", "subscribed", workspace_id=workspace)
        await talk.hear(lambda message: message.get("event_type") == "note_created")
        seq = await insert_row(server.dsn, workspace, "future_workspace_event", "{}")
        patch = {"note_id": note_id, "base_version": 1, "patch_ops": [{"insert": "x"}]}
        for number in range(2):
            refused = await talk.ask("apply_patch", "error", **patch, idempotency_key=f"k{number}")
            assert refused["code"] == "INTERNAL_ERROR"
        log = await person.read(f"/api/workspaces/{workspace}/events", limit="200")
        assert [each["event_seq"] for each in log["items"]] == [*range(1, seq)]
        path = f"/api/workspaces/{workspace}/repair"
        assert "is behind the head" in (await person.http.post(path)).json()["message"]
        await delete_row(server.dsn, workspace, seq)
        assert (await person.http.post(path)).status_code == 200
        assert (await talk.ask("apply_patch", "patch_committed", **patch))["version"] == 2
        event = await talk.hear(lambda message: message.get("event_seq") == seq)
        assert event["event_type"] == "note_patched"


# ----------------------------------------------------------------------------------------- E2E-09


async def test_e2e_09_what_is_set_off_is_seen_as_a_run_and_on_record(
    server: Server, owner: Owner
) -> None:
    async with somebody(server, owner, 0) as person:
        created = await person.make("/api/notes", title="First note", markdown="Hello world")
        note = f"note:{created['note_id']}"
        rule = (await person.make(
            "/api/automation/rules",
            trigger="note_patched",
            condition_json={"jmespath": "note.length > `5`"},
            action_json={"kind": "tag_note", "tag": "seen"},
        ))["rule"]  # fmt: skip
        run_id = run_id_of(rule["id"], f"{note}:2")
        patched = await person.http.patch(
            f"/api/notes/{created['note_id']}",
            json={"base_version": 1, "patch_ops": [{"insert": "x"}]},
        )
        assert patched.status_code == 200, patched.text
        with fail_after(PATIENCE_S):
            while True:
                found = await runs_of(person)
                if found and found[0]["finished_at"]:
                    break
                await trio.sleep(0.02)
        await check_run_on_record(person, rule["id"], run_id, f"{note}:2")
        # What is on record outlives the process.
        assert await server.stop() == 0
        await server.start()
        assert await runs_of(person) == found
        await check_run_on_record(person, rule["id"], run_id, f"{note}:2")


async def runs_of(person: Person) -> list[dict[str, Any]]:
    read = await person.read("/api/automation/runs", workspace_id=person.workspace)
    found: list[dict[str, Any]] = read["runs"]
    return found


async def check_run_on_record(person: Person, rule_id: str, run_id: str, trigger: str) -> None:
    """Check that the one run, its events and its records say the same."""
    (run,) = await runs_of(person)
    assert (run["id"], run["rule_id"], run["triggering_event_id"]) == (run_id, rule_id, trigger)
    assert (run["status"], run["error_code"]) == ("succeeded", None)
    assert run["result_json"]["applied"] is True
    assert (await person.read(f"/api/automation/runs/{run_id}"))["run"] == run
    audit = await person.read("/api/audit", workspace_id=person.workspace, limit="100")
    records = [each for each in reversed(audit["items"]) if each["resource_id"] == run_id]
    statuses = ("queued", "running", "succeeded")
    assert [each["action"] for each in records] == [
        f"AUTOMATION_RUN_{status.upper()}" for status in statuses
    ]
    assert {each["new_value"]["labels"]["rule_id"] for each in records} == {rule_id}
    log = await person.read(f"/api/workspaces/{person.workspace}/events", limit="200")
    types = {each["event_seq"]: each["type"] for each in log["items"]}
    assert [types[each["event_seq"]] for each in records] == [
        "run_requested",
        "run_started",
        "run_finished",
    ]
