"""``dalsegno audit``, as a person uses it; and what is on record of a server that is killed."""

from __future__ import annotations

import csv
import io
import signal
from collections import Counter
from pathlib import Path

import httpx
import msgspec

from tests._http import PLAIN
from tests._patience import until
from tests.system._processes import PASSWORD, Owner, Processes, Server


async def change(server: Server, owner: Owner, method: str, path: str, body: object) -> str:
    """Put something on record over HTTP; the user that it is about."""
    headers = {"cookie": owner.cookie}
    async with httpx.AsyncClient(base_url=server.url, timeout=20, **PLAIN) as http:
        session = await http.get("/api/auth/session", headers=headers)
        headers |= {"x-csrf-token": session.json()["csrf_token"]}
        answer = await http.request(method, path, json=body, headers=headers)
    assert answer.status_code < 300, answer.text
    return str(answer.json()["user_id"])


async def test_what_is_on_record_is_listed_followed_and_exported(
    server: Server, owner: Owner, processes: Processes, tmp_path: Path
) -> None:
    """Also over a server that is killed: nothing is missed, and nothing comes twice."""
    tail = await processes.talk(server, "audit", "follow", "--action", "MEMBER_ROLE_CHANGED")
    whole = await processes.talk(server, "audit", "follow", "--json", "--after", "0")
    await until(lambda: any("SETUP_COMPLETED" in line for line in whole.lines))
    body = {"email": "b@example.org", "password": PASSWORD, "display_name": "B", "role": "viewer"}
    user_id = await change(server, owner, "POST", "/api/users", body)
    path = f"/api/workspaces/{owner.workspace}/members/{user_id}"
    roles = ["viewer", "editor"] * 3
    for number, role in enumerate(roles):
        if number == 3:
            await server.kill()
            await server.start()
        await change(server, owner, "PUT", path, {"role": role})
    await until(lambda: len(tail.lines) == len(roles) - 1)
    await until(lambda: whole.out.count('"action":"MEMBER_') == len(roles))
    assert all(f"MEMBER_ROLE_CHANGED  member {user_id}  in" in line for line in tail.lines)
    said = [msgspec.json.decode(line) for line in whole.lines]
    assert [each["seq"] for each in said] == [*range(1, len(said) + 1)]
    assert max(Counter(each["id"] for each in said).values()) == 1
    for each, status in ((tail, signal.SIGINT), (whole, signal.SIGTERM)):
        each.signal(status)
        assert await each.ended() == 128 + status
        assert "Traceback" not in each.err

    listed = await processes.talk(
        server, "audit", "list", "--workspace", owner.workspace, "--limit", "2"
    )
    assert await listed.ended() == 0, listed.err
    assert ["MEMBER_ROLE_CHANGED" in line for line in listed.lines] == [True, True]

    file = tmp_path / "audit.csv"
    asked = ("audit", "export", "--resource-id", user_id, "--resource-type", "member")
    exported = await processes.talk(server, *asked, str(file))
    assert await exported.ended() == 0, exported.err
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [row["new_value"] for row in rows] == [f'{{"role":"{role}"}}' for role in roles]
    assert [int(row["seq"]) for row in rows] == [
        each["seq"] for each in said if each["action"].startswith("MEMBER_")
    ]
    assert await server.stop() == 0
    offline = await processes.run(*asked, "--data-dir", str(server.data_dir))
    assert await offline.ended() == 0, offline.err
    assert offline.out.splitlines() == file.read_text().splitlines()
