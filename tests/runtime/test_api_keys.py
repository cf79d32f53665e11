"""API keys on a server with a port: sockets, the client, other servers of the database."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
import pytest
import trio

from dalsegno.protocol import Limits, Reject
from dalsegno.runtime.client import DisconnectedError, Events, open_client
from tests._http import PLAIN
from tests._patience import fail_after
from tests.runtime._serving import SOON, Person, Site, serving, set_up


async def ask(person: Person, method: str, path: str, body: object = None) -> httpx.Response:
    """Ask for something as the owner, at the person's server."""
    async with httpx.AsyncClient(base_url=person.url, **PLAIN) as http:
        http.headers["cookie"] = person.cookie
        session = (await http.get("/api/auth/session")).json()
        http.headers["x-csrf-token"] = session["csrf_token"]
        answer = await http.request(
            method, f"/api/workspaces/{person.workspace}/keys{path}", json=body
        )
        assert answer.is_success, answer.text
        return answer


async def make(person: Person, role: str = "editor") -> tuple[str, str]:
    """Make a key; its id and its text."""
    made = (await ask(person, "POST", "", {"name": "a program", "role": role})).json()
    return made["key_id"], made["key"]


async def follow(events: Events, seen: list[str]) -> None:
    while True:
        seen.append((await anext(events)).event_type)


async def test_a_program_follows_and_writes_with_a_key_until_that_ends(migrated: str) -> None:
    async with serving(migrated) as site:
        owner = await set_up(site)
        key_id, key = await make(owner)
        async with open_client(site.url, api_key=key, limits=SOON) as client:
            stream = f"workspace:{owner.workspace}"
            with fail_after(10):
                async with client.subscribe(stream, cursor=0) as events:
                    first = await anext(events)
                    assert (first.event_type, first.entity) == (
                        "member_added",
                        f"member:key:{key_id}",
                    )
                    sent = await client.send(owner.workspace, "create_note", {"title": "x"})
                    second = await anext(events)
                    assert (second.event_seq, second.actor_id) == (
                        sent.event_seq,
                        f"key:{key_id}",
                    )
                    await ask(owner, "DELETE", f"/{key_id}")
                    seen: list[str] = []
                    with pytest.raises((Reject, DisconnectedError)):
                        await follow(events, seen)
                    assert seen in ([], ["member_removed"])
                with pytest.raises((Reject, DisconnectedError)):
                    await client.send(owner.workspace, "create_note", {"title": "y"})
        head = await site.runtime.workspace(owner.workspace).head()
        assert head == 3, "and its membership ended"


async def test_a_reader_may_not_write_on_its_socket(migrated: str) -> None:
    async with serving(migrated) as site:
        owner = await set_up(site)
        _, key = await make(owner, "viewer")
        async with open_client(site.url, api_key=key, limits=SOON) as client:
            with fail_after(10), pytest.raises(Reject) as raised:
                await client.send(owner.workspace, "create_note", {"title": "x"})
            assert raised.value.code == "ROLE_FORBIDDEN"


@pytest.mark.parametrize("how", ["typo", "revoked"])
async def test_a_key_that_is_not_valid_opens_no_socket(migrated: str, how: str) -> None:
    async with serving(migrated) as site:
        owner = await set_up(site)
        key_id, key = await make(owner)
        if how == "typo":
            key = key[:-1] + ("1" if key[-1] == "0" else "0")
        else:
            await ask(owner, "DELETE", f"/{key_id}")
        async with open_client(site.url, api_key=key, limits=SOON) as client:
            with fail_after(10), pytest.raises((Reject, DisconnectedError)) as raised:
                await client.send(owner.workspace, "create_note", {"title": "x"})
            assert "TOKEN_INVALID" in (raised.value.code, *map(str, [raised.value.__cause__]))


async def test_a_key_that_another_server_ends_closes_its_sockets_here(migrated: str) -> None:
    limits = Limits(session_check_s=0.1)
    async with AsyncExitStack() as stack:
        here: Site = await stack.enter_async_context(serving(migrated, limits=limits))
        owner = await set_up(here)
        there: Site = await stack.enter_async_context(serving(migrated, limits=limits))
        key_id, key = await make(owner)
        client = await stack.enter_async_context(open_client(here.url, api_key=key, limits=SOON))
        with fail_after(20):
            await client.send(owner.workspace, "create_note", {"title": "x"})
            await there.runtime.accounts.revoke_key(key_id)
            while here.runtime.statistics().connections:
                await trio.sleep(0.05)
