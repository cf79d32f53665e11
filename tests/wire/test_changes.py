"""Changes from many at once: X-SEQ, X-PER, X-OCC, X-IDEM, over real sockets and PostgreSQL."""

import psycopg
import pytest
import trio

from tests._patience import fail_after

from ._site import Json, Site, User
from .conftest import start
from .test_streams import patch


def rows(database: str, query: str, *parameters: object) -> list[tuple[object, ...]]:
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(query, parameters).fetchall()


async def test_x_seq_1_a_thousand_changes_from_twenty_are_numbered_densely(
    site: Site, migrated: str
) -> None:
    owner = site.owner
    notes = [await owner.create_note("") for _ in range(20)]

    async def write(note_id: str) -> None:
        async with owner.socket() as socket:
            for version in range(1, 51):
                await socket.send(
                    "apply_patch", note_id=note_id, base_version=version, patch_ops=[]
                )
            for version in range(1, 51):
                assert (await socket.next())["version"] == version + 1

    with fail_after(60):
        async with trio.open_nursery() as nursery:
            for note_id in notes:
                nursery.start_soon(write, note_id)
    numbers = rows(
        migrated,
        "select event_seq from dalsegno.event where workspace_id = %s order by 1",
        owner.workspace_id,
    )
    assert [number for (number,) in numbers] == [*range(1, 1_021)]


async def test_x_seq_2_streams_are_numbered_independently(site: Site) -> None:
    owner = site.owner
    first, second = await owner.create_note(), await owner.create_note()
    async with owner.socket() as socket:
        for version in (1, 2, 3):
            await patch(socket, first, version)
        await patch(socket, second, 1)
    events = await owner.events()
    assert [event["event_seq"] for event in events] == [1, 2, 3, 4, 5, 6]
    by_stream = {
        stream: [e["stream_seq"] for e in events if e["stream_id"] == f"note:{stream}"]
        for stream in (first, second)
    }
    assert by_stream == {first: [1, 2, 3, 4], second: [1, 2]}


async def test_x_seq_3_changes_of_different_notes_do_not_collide(site: Site) -> None:
    """KJ-W2: fifty at once over HTTP, fifty answers of 200."""
    owner = site.owner
    notes = [await owner.create_note() for _ in range(50)]
    codes: list[int] = []

    async def change(note_id: str) -> None:
        body = {"base_version": 1, "patch_ops": [{"insert": "x"}]}
        response = await owner.http("PATCH", f"/api/notes/{note_id}", body)
        codes.append(response.status_code)

    async with trio.open_nursery() as nursery:
        for note_id in notes:
            nursery.start_soon(change, note_id)
    assert codes == [200] * 50
    assert [event["event_seq"] for event in await owner.events()] == [*range(1, 101)]


async def test_x_per_1_what_is_seen_is_in_the_database(site: Site, migrated: str) -> None:
    owner = site.owner
    note_id = await owner.create_note()
    async with owner.socket() as reader, owner.socket() as writer:
        await reader.ask("subscribe_workspace", workspace_id=owner.workspace_id, cursor=1)
        with psycopg.connect(migrated, autocommit=True) as other:
            for version in range(1, 51):
                await writer.send(
                    "apply_patch", note_id=note_id, base_version=version, patch_ops=[]
                )
                event = await reader.next()
                found = other.execute(
                    "select type from dalsegno.event where workspace_id = %s and event_seq = %s",
                    (owner.workspace_id, event["event_seq"]),
                ).fetchall()
                assert found == [("note_patched",)]


async def test_x_occ_2_of_twenty_with_one_base_exactly_one_commits(site: Site) -> None:
    note_id = await site.owner.create_note()
    answers: list[Json] = []

    async def change(user: User) -> None:
        async with user.socket() as socket:
            answers.append(await patch(socket, note_id, 1))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(change, site.owner)
    kinds = sorted(answer["type"] for answer in answers)
    assert kinds == ["patch_committed"] + ["patch_rejected"] * 19
    assert (await site.owner.note(note_id))["version"] == 2


async def test_x_idem_2_twenty_duplicates_at_once_are_one_change(site: Site) -> None:
    """KJ-W10: one event, twenty identical identities, none of them a conflict."""
    note_id = await site.owner.create_note()
    answers: list[tuple[str, int, int]] = []

    async def change() -> None:
        async with site.owner.socket() as socket:
            answer = await patch(socket, note_id, 1, idempotency_key="same")
            answers.append((answer["type"], answer["version"], answer["event_seq"]))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(change)
    assert answers == [("patch_committed", 2, 2)] * 20
    assert len(await site.owner.events()) == 2


async def test_x_idem_4_a_key_belongs_to_its_note_and_workspace(site: Site) -> None:
    owner = site.owner
    first, second = await owner.create_note(), await owner.create_note()
    elsewhere = await site.add_workspace()
    body = {"workspace_id": elsewhere, "title": "T", "markdown": "x"}
    third = (await owner.http("POST", "/api/notes", body)).json()["note_id"]
    async with owner.socket() as socket:
        for note_id in (first, second, third):
            answer = await patch(socket, note_id, 1, idempotency_key="k")
            assert (answer["type"], answer["version"]) == ("patch_committed", 2)


async def test_x_idem_5_a_rejected_attempt_leaves_its_key_free(site: Site) -> None:
    note_id = await site.owner.create_note()
    async with site.owner.socket() as socket:
        await patch(socket, note_id, 1)
        rejected = await patch(socket, note_id, 1, idempotency_key="k")
        assert rejected["type"] == "patch_rejected"
        answer = await patch(socket, note_id, 2, idempotency_key="k")
        assert (answer["type"], answer["version"]) == ("patch_committed", 3)


async def test_x_idem_6_an_expired_key_is_not_honoured(migrated: str) -> None:
    """Once over the runtime that recorded the answer, and once over the next one."""
    async with start(migrated, result_ttl_s=0.2) as site:
        await site.set_up()
        note_id = await site.owner.create_note()
        async with site.owner.socket() as socket:
            answer = await patch(socket, note_id, 1, idempotency_key="k")
            assert answer["version"] == 2
            version = 2
            with fail_after(10):
                while (await patch(socket, note_id, version, idempotency_key="k"))["version"] == 2:
                    await trio.sleep(0.05)
            assert (await site.owner.note(note_id))["version"] == 3
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("update dalsegno.command_result set expires_at = now() - interval '1s'")
    async with start(migrated) as site:
        user = await site.login()
        async with user.socket() as socket:
            answer = await patch(socket, note_id, 3, idempotency_key="k")
            assert (answer["type"], answer["version"]) == ("patch_committed", 4)
            again = await patch(socket, note_id, 9, idempotency_key="k")
            assert (again["type"], again["version"]) == ("patch_committed", 4)


async def test_x_snap_1_snapshots_stand_at_round_versions(site: Site, migrated: str) -> None:
    owner = site.owner
    note_id = await owner.create_note("0")
    async with owner.socket() as socket:
        for version in range(1, 205):
            await socket.send(
                "apply_patch",
                note_id=note_id,
                base_version=version,
                patch_ops=[{"insert": str(version % 10)}],
            )
        await socket.until("patch_committed", version=205)
    found = rows(migrated, "select version, state->>'markdown' from dalsegno.snapshot order by 1")
    whole = (await owner.note(note_id))["markdown"]
    assert [version for version, _ in found] == [100, 200]
    assert [text for _, text in found] == [whole[-100:], whole[-200:]]


async def test_x_roll_1_a_rollback_is_a_new_version(site: Site) -> None:
    owner = site.owner
    note_id = await owner.create_note("one", title="T")
    async with owner.socket() as socket:
        for version in range(1, 130):
            await socket.send(
                "apply_patch",
                note_id=note_id,
                base_version=version,
                patch_ops=[
                    {"delete": 3 if version == 1 else 1},
                    {"insert": chr(65 + version % 26)},
                ],
            )
        await socket.until("patch_committed", version=130)
    texts: dict[int, str] = {1: "one", 110: chr(65 + 109 % 26)}
    assert (await owner.http("DELETE", f"/api/notes/{note_id}")).status_code == 204
    for target, status in ((999, 404), (131, 400)):
        path = f"/api/notes/{note_id}/rollback"
        response = await owner.http("POST", path, {"target_version": target})
        assert response.status_code == status
    version = 131
    for target, text in texts.items():
        response = await owner.http(
            "POST", f"/api/notes/{note_id}/rollback", {"target_version": target}
        )
        version += 1
        assert (response.status_code, response.json()["version"]) == (200, version)
        note = await owner.note(note_id)
        assert (note["markdown"], note["version"], note["deleted_at"]) == (text, version, None)
    events = await owner.events()
    assert [event["event_seq"] for event in events] == [*range(1, version + 1)]
    assert events[-1]["type"] == "note_rollback"
    assert events[-1]["payload"]["rolled_back_to"] == 110


async def test_x_occ_3_labels_over_the_socket_are_those_over_http(site: Site) -> None:
    """The same commands, the same events, for readers of either dialect."""
    owner, w = site.owner, site.owner.workspace_id
    over_http, over_socket = await owner.create_note(), await owner.create_note()
    made = await owner.http("POST", "/api/projects", {"workspace_id": w, "name": "P"})
    project_id = made.json()["id"]
    note = f"/api/notes/{over_http}"
    for method, path, body in (
        ("PUT", f"{note}/tags", {"tags": ["b", "a"]}),
        ("PUT", f"{note}/metadata/k", {"any": ["json"]}),
        ("DELETE", f"{note}/metadata/k", None),
        ("PUT", f"{note}/project", {"project_id": project_id}),
    ):
        response = await owner.http(method, path, body)
        assert response.status_code in {200, 204}, response.text
    async with owner.socket() as socket:
        await socket.ask("subscribe_note", note_id=over_socket)
        await socket.until("note_event", event_type="note_created")
        version = 1
        for name, payload in (
            ("set_tags", {"tags": ["b", "a"]}),
            ("put_metadata", {"key": "k", "value": {"any": ["json"]}}),
            ("delete_metadata", {"key": "k"}),
            ("set_project", {"project_id": project_id}),
        ):
            based = {"note_id": over_socket, "base_version": version, **payload}
            sent = {"workspace_id": w, "name": name, "payload": based, "idempotency_key": name}
            answer = await socket.ask("command", **sent)
            version += 1
            assert (answer["type"], answer["version"]) == ("committed", version)
            stale = await socket.ask("command", **sent | {"idempotency_key": None})
            assert (stale["type"], stale["code"]) == ("rejected", "VERSION_CONFLICT")
            again = await socket.ask("command", **sent)
            assert (again["version"], again["repeated"]) == (version, True)
        said = [m for m in socket.seen if m["type"] == "note_event"][1:]
        await socket.ask("subscribe_workspace", workspace_id=w)
        project = await socket.until("workspace_event", event_type="project_created")
        assert project["payload"]["project_id"] == project_id
        assert project["payload"]["name"] == "P"
        await socket.until("workspace_event", event_type="project_name_taken")
        moved = await socket.until("workspace_event", event_type="note_project_updated")
        assert moved["payload"] == {"note_id": over_http, "version": 5, "event_seq": 5}
    logged = [e for e in await owner.events() if e["stream_id"] == f"note:{over_http}"][1:]
    assert [(m["event_type"], m["payload"]) for m in said] == [
        (e["type"], e["payload"]) for e in logged
    ]
    assert [m["event_type"] for m in said] == [
        "note_tags_updated",
        "note_metadata_updated",
        "note_metadata_deleted",
        "note_project_updated",
    ]


@pytest.mark.parametrize("halted", [True, False])
async def test_x_seq_8_the_last_number_is_not_passed(
    site: Site, migrated: str, *, halted: bool
) -> None:
    """At 2^63 - 1 a typed error and no wrap; a halted workspace refuses likewise (I11)."""
    other = await site.add_workspace()
    # By this very version of the code: another would retry it.
    code = site.rt.service.node.code
    halt = f"halted_reason = 'test', halted_code = '{code}'"
    change = halt if halted else "head_seq = 9223372036854775807"
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(
            f"insert into dalsegno.workspace_head (workspace_id, epoch) values ('{other}', 1)"
        )
        connection.execute(
            f"update dalsegno.workspace_head set {change} where workspace_id = '{other}'"
        )
    body = {"workspace_id": other, "title": "T", "markdown": ""}
    response = await site.owner.http("POST", "/api/notes", body)
    assert response.json()["code"] == ("WORKSPACE_HALTED" if halted else "SEQUENCE_OVERFLOW")
    assert rows(migrated, "select 1 from dalsegno.event where workspace_id = %s", other) == []
    await site.owner.create_note()
