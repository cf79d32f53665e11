"""Who sees what: sessions, roles, revocation, tenancy (X-AUTH-1, X-RBAC-2, X-TEN, X-SUB-5)."""

import random
from datetime import timedelta

import httpx
import trio

from tests._http import PLAIN

from ._site import PASSWORD, Site, User
from .conftest import start
from .test_streams import patch

UPGRADE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def test_x_auth_1_no_session_no_upgrade(site: Site) -> None:
    for headers in ({}, UPGRADE, {**UPGRADE, "cookie": "dalsegno_session=nonsense"}):
        for used in (False, True):
            response = await ask_for_upgrade(site, headers, used=used)
            assert response.status_code == 401, headers
            body = response.json()
            assert body["code"] == "AUTH_REQUIRED"
            assert set(body) == {"code", "message", "details", "request_id"}
            assert response.headers["x-request-id"] == body["request_id"]
    cookie = {"cookie": f"dalsegno_session={site.owner.cookie}"}
    assert (await ask_for_upgrade(site, cookie)).status_code == 426
    # A proxy that keeps its connections has used it for others' requests before.
    async with httpx.AsyncClient(base_url=f"http://{site.address}", **PLAIN) as proxy:
        assert (await proxy.get("/healthz")).status_code == 200
        async with proxy.stream("GET", "/ws", headers={**UPGRADE, **cookie}) as accepted:
            assert accepted.status_code == 101
    foreign = {**UPGRADE, **cookie, "origin": "http://evil.example"}
    assert (await ask_for_upgrade(site, foreign)).status_code == 403


async def ask_for_upgrade(
    site: Site, headers: dict[str, str], *, used: bool = False
) -> httpx.Response:
    """Ask on a connection of its own, or on one that was used before."""
    async with httpx.AsyncClient(base_url=f"http://{site.address}", **PLAIN) as client:
        if used:
            assert (await client.get("/healthz")).status_code == 200
        return await client.get("/ws", headers=headers)


async def test_logout_closes_that_sessions_sockets_and_no_others(site: Site) -> None:
    other = await site.login()
    note_id = await site.owner.create_note()
    async with site.owner.socket() as first, site.owner.socket() as second, other.socket() as third:
        for socket in (first, second, third):
            await socket.ask("subscribe_note", note_id=note_id)
            await socket.take(1)
        response = await site.owner.http("POST", "/api/auth/logout")
        assert response.status_code == 204
        assert await first.closed() == 4001
        assert await second.closed() == 4001
        answer = await patch(third, note_id, 1)
        assert answer["type"] == "patch_committed"
    cookie = {"cookie": f"dalsegno_session={site.owner.cookie}"}
    response = await ask_for_upgrade(site, {**UPGRADE, **cookie})
    assert (response.status_code, response.json()["code"]) == (401, "SESSION_REVOKED")
    assert (await site.owner.http("GET", "/api/auth/session")).status_code == 401


async def test_an_expired_session_closes_its_sockets(migrated: str) -> None:
    async with start(migrated, heartbeat_interval_s=0.05) as site:
        await site.set_up()
        async with site.owner.socket() as socket:
            assert (await socket.ask("ping"))["type"] == "pong"
            (connection,) = site.rt.service.connections
            connection._signs.expires_at = site.rt.world.now() + timedelta(seconds=0.2)
            assert await socket.closed() == 4001


async def test_x_rbac_2_a_removed_member_sees_nothing_more(site: Site) -> None:
    """While a hundred changes a second are made, every time at another place in them."""
    owner = site.owner
    note_id = await owner.create_note("")
    version = 1
    for _ in range(5):
        member = await site.add_user("viewer")
        version = await _revoke_under_load(site, member, note_id, version)


async def _revoke_under_load(site: Site, member: User, note_id: str, version: int) -> int:
    owner = site.owner
    path = f"/api/workspaces/{owner.workspace_id}/members/{member.id}"
    async with member.socket() as reader, owner.socket() as writer:
        await reader.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        await reader.ask("subscribe_note", note_id=note_id)
        for _ in range(200):
            await writer.send("apply_patch", note_id=note_id, base_version=version, patch_ops=[])
            version += 1
        response = await owner.http("DELETE", path)
        assert response.status_code == 204
        for _ in range(50):
            await writer.send("apply_patch", note_id=note_id, base_version=version, patch_ops=[])
            version += 1
        await writer.until("patch_committed", version=version)
        (removed,) = [
            event["event_seq"]
            for event in await owner.events()
            if event["type"] == "member_removed" and event["stream_id"] == f"member:{member.id}"
        ]
        ended: set[str] = set()
        while len(ended) < 2:
            error = await reader.until("error", code="ROLE_FORBIDDEN")
            ended.add(error["stream_id"])
        assert ended == {f"workspace:{owner.workspace_id}", f"note:{note_id}"}
        assert await reader.silent() == []
        of_workspace = [m["event_seq"] for m in reader.seen if m["type"] == "workspace_event"]
        assert of_workspace == [*range(1, removed + 1)]
        of_note = [m["event_seq"] for m in reader.seen if m["type"] == "note_event"]
        below = [
            event["stream_seq"]
            for event in await owner.events()
            if event["stream_id"] == f"note:{note_id}" and event["event_seq"] <= removed
        ]
        assert of_note == below
        answer = await reader.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        assert answer["code"] == "ROLE_FORBIDDEN"
        answer = await patch(reader, note_id, version)
        assert answer["code"] in {"ROLE_FORBIDDEN", "NOTE_NOT_FOUND"}
    return version


async def test_x_rbac_roles_on_notes(site: Site) -> None:
    note_id = await site.owner.create_note()
    viewer = await site.add_user("viewer")
    editor = await site.add_user("editor")
    async with viewer.socket() as socket:
        assert (await socket.ask("subscribe_note", note_id=note_id))["type"] == "subscribed"
        assert (await patch(socket, note_id, 1))["code"] == "ROLE_FORBIDDEN"
    assert (await viewer.note(note_id))["version"] == 1
    body = {"workspace_id": site.owner.workspace_id, "title": "T", "markdown": ""}
    assert (await viewer.http("POST", "/api/notes", body)).status_code == 403
    async with editor.socket() as socket:
        assert (await patch(socket, note_id, 1))["type"] == "patch_committed"


async def test_x_ten_tenants_do_not_meet(site: Site) -> None:
    """P5.1 to P5.9 for notes: what belongs to others does not exist, whatever its id."""
    owner = site.owner
    stranger = await site.add_user(None)
    theirs = await stranger.http("POST", "/api/workspaces", {"slug": "theirs", "name": "Theirs"})
    stranger.workspace_id = theirs.json()["workspace_id"]
    mine = await owner.create_note("mine")
    other = await stranger.create_note("theirs")
    for user, foreign, workspace_id in (
        (owner, other, stranger.workspace_id),
        (stranger, mine, owner.workspace_id),
    ):
        response = await user.http("GET", f"/api/notes/{foreign}")
        assert (response.status_code, response.json()["code"]) == (404, "NOTE_NOT_FOUND")
        body = {"base_version": 1, "patch_ops": []}
        response = await user.http("PATCH", f"/api/notes/{foreign}", body)
        assert (response.status_code, response.json()["code"]) == (404, "NOTE_NOT_FOUND")
        response = await user.http("GET", f"/api/workspaces/{workspace_id}/events")
        assert (response.status_code, response.json()["code"]) == (403, "ROLE_FORBIDDEN")
        body = {"workspace_id": workspace_id, "title": "T", "markdown": ""}
        response = await user.http("POST", "/api/notes", body)
        assert (response.status_code, response.json()["code"]) == (403, "ROLE_FORBIDDEN")


async def test_accounts_are_not_written_over_a_socket(site: Site) -> None:
    """An owner of a workspace is nobody's creator: those commands have no name out here."""
    async with site.owner.socket() as socket:
        for name in ("register_user", "create_space", "set_up", "disable_user"):
            answer = await socket.ask(
                "command", workspace_id=site.owner.workspace_id, name=name, payload={}
            )
            assert answer["code"] == "UNKNOWN_COMMAND"
        user = await site.add_user("viewer")
        for stream_id in (f"user:{user.id}", f"space:{site.owner.workspace_id}", "setup:main"):
            answer = await socket.ask("subscribe", stream_id=stream_id)
            assert answer["code"].endswith("_NOT_FOUND"), answer
            answer = await socket.ask("subscribe", stream_id=stream_id, workspace_id="$system")
            assert answer["code"] == "BAD_REQUEST"
        payload = {"user_id": user.id, "role": "editor"}
        answer = await socket.ask(
            "command", workspace_id=site.owner.workspace_id, name="put_member", payload=payload
        )
        assert (answer["type"], answer["entity"]) == ("committed", f"member:{user.id}")


async def test_x_sub_5_nothing_of_another_workspace_is_delivered(site: Site) -> None:
    """A hundred changes over three workspaces at random: each reader sees its own, all of them."""
    chance = random.Random(5)
    owner = site.owner
    workspaces = [owner.workspace_id, await site.add_workspace(), await site.add_workspace()]
    expected: dict[str, list[str]] = {workspace_id: [] for workspace_id in workspaces}
    async with owner.socket() as a, owner.socket() as b, owner.socket() as c:
        readers = dict(zip(workspaces, (a, b, c), strict=True))
        for workspace_id, reader in readers.items():
            await reader.ask("subscribe_workspace", workspace_id=workspace_id)
        for number in range(100):
            workspace_id = chance.choice(workspaces)
            body = {"workspace_id": workspace_id, "title": f"n{number}", "markdown": ""}
            response = await owner.http("POST", "/api/notes", body)
            expected[workspace_id].append(response.json()["note_id"])
        for workspace_id, reader in readers.items():
            events = await reader.silent()
            assert [event["payload"]["note_id"] for event in events] == expected[workspace_id]


async def test_setup_is_serialised(migrated: str) -> None:
    """Of ten setups at once one wins; the others are told that it has happened."""
    answers: list[httpx.Response] = []
    async with start(migrated) as site:

        async def set_up(number: int) -> None:
            body = {"email": f"o{number}@example.com", "password": PASSWORD, "display_name": "O"}
            answers.append(await site.http("POST", "/api/setup/register", body))

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(set_up, number)
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
    assert codes == {"SETUP_LOCKED"}
