"""Whatever an id is, it has a path."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import trio

from dalsegno.actors.domains.members import PutMember
from tests._patience import fail_after

from ._site import Json, Site, User

NOTES = ["a/b", "/", "//", ".", "..", "../..", "%2F", "a%2Fb", "?", "#", "a b", "é", "𝄋", ";=@+"]


async def ask(user: User, method: str, target: str) -> tuple[int, Json]:
    """Send a target as it is written here, which no HTTP library would."""
    host, _, port = user.site.address.rpartition(":")
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: {user.site.address}\r\nConnection: close\r\n"
        f"Cookie: dalsegno_session={user.cookie}\r\nX-CSRF-Token: {user.csrf}\r\n\r\n"
    )
    received = b""
    with fail_after(20):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(head.encode("ascii"))
            async for part in stream:
                received += part
    answered, _, body = received.partition(b"\r\n\r\n")
    return int(answered.split()[1]), msgspec.json.decode(body) if body else {}


def spellings(segment: str) -> list[str]:
    """The ways to write an id as a segment of a path, the lazy one included."""
    ways = [quote(segment, safe=""), "".join(f"%{byte:02x}" for byte in segment.encode())]
    return [*ways, segment] if segment in {".", ".."} else ways


async def test_a_note_is_found_by_every_spelling_of_its_id(site: Site) -> None:
    owner = site.owner
    async with owner.socket() as socket:
        for note_id in NOTES:
            answer = await socket.ask(
                "command",
                workspace_id=owner.workspace_id,
                name="create_note",
                payload={"title": "A", "note_id": note_id},
            )
            assert answer["type"] == "committed", answer
    for note_id in NOTES:
        for segment in spellings(note_id):
            status, body = await ask(owner, "GET", f"/api/notes/{segment}")
            assert (status, body["note_id"]) == (200, note_id), segment
            status, body = await ask(owner, "GET", f"/api/notes/{segment}?min_seq=1")
            assert status == 200
            status, body = await ask(owner, "GET", f"/api/notes/{segment}x")
            assert (status, body["code"]) == (404, "NOTE_NOT_FOUND")
        assert await ask(owner, "DELETE", f"/api/notes/{quote(note_id, safe='')}") == (204, {})


async def test_so_is_a_workspace_whose_id_is_all_dots(site: Site) -> None:
    for workspace_id in (".", ".."):
        await site.rt.workspace(workspace_id).send(PutMember(site.owner.id, "owner"))
        for segment in spellings(workspace_id):
            status, body = await ask(site.owner, "GET", f"/api/workspaces/{segment}/members")
            assert status == 200, segment
            assert [each["user_id"] for each in body["items"]] == [site.owner.id]


async def test_a_path_that_is_written_oddly_is_the_same_path(site: Site) -> None:
    for target in ("/api/auth/session", "/api/%61uth/session", "http://x/api/auth/session"):
        assert (await ask(site.owner, "GET", target))[0] == 200, target
    for target in ("/api/auth%2Fsession", "/api//auth/session", "/api/x/../auth/session"):
        assert (await ask(site.owner, "GET", target))[0] == 404, target
