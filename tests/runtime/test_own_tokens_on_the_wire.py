"""Our own tokens on servers with a port: sockets that they open, keep and end."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import trio

from dalsegno.protocol import Limits
from dalsegno.runtime.web._own_tokens import Granted, begin_tokens
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._serving import Person, Site, add_member, serving, set_up
from tests.runtime.test_first_message import authenticate, hear, hear_end, knocking, text

Json = dict[str, Any]


async def ask(url: str, path: str, token: str | None = None, /, **body: str) -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, **PLAIN, headers=headers) as http:
        return await http.post(path, json=body)


async def refreshed(site: Site, token: str) -> Json:
    answer = await ask(site.url, "/api/auth/refresh", refresh_token=token)
    assert answer.status_code == 200, answer.text
    pair: Json = answer.json()
    return pair


async def log_in(site: Site) -> tuple[Person, Granted]:
    owner = await set_up(site)
    return owner, await begin_tokens(site.runtime, owner.user_id)


def stream_of(person: Person) -> str:
    return f"workspace:{person.workspace}"


async def test_cf_1_1_a_token_opens_a_socket_and_its_successors_keep_it(migrated: str) -> None:
    """CF-1.1 for `/ws`: with nothing missed over the expiry, and nothing twice."""
    limits = Limits(heartbeat_interval_s=0.2)
    async with serving(migrated, limits=limits) as site:
        owner, granted = await log_in(site)
        refresh_token = granted.refresh_token
        with fail_after(20):
            async with knocking(site) as client:
                await client.send(authenticate(granted.access_token))
                assert 0 < (await hear(client))["expires_in_ms"] <= 900_000
                await client.send(text("subscribe", stream_id=stream_of(owner), cursor=0))
                head = (await hear(client))["head"]
                seqs = [(await hear(client))["seq"] for _ in range(head)]
                (connection,) = site.runtime.service.connections
                for number in range(2):
                    connection._signs.expires_at = site.runtime.world.now()
                    await until(lambda: connection.writer.is_held)
                    for title in ("a", "b"):
                        made = await ask_for_note(site, owner, refresh_token, title)
                        refresh_token = made
                    await client.send(text("ping"))
                    assert (await hear(client))["type"] == "pong"
                    pair = await refreshed(site, refresh_token)
                    refresh_token = pair["refresh_token"]
                    await client.send(authenticate(pair["access_token"]))
                    assert (await hear(client))["type"] == "authenticated"
                    seqs += [(await hear(client))["seq"] for _ in range(2)]
                    assert seqs == [*range(1, head + 2 * (number + 1) + 1)]


async def ask_for_note(site: Site, owner: Person, refresh_token: str, title: str) -> str:
    """Write a note with a fresh access token; return the next refresh token."""
    pair = await refreshed(site, refresh_token)
    answer = await ask(
        site.url, "/api/notes", pair["access_token"], workspace_id=owner.workspace, title=title
    )
    assert answer.status_code == 201, answer.text
    return str(pair["refresh_token"])


@pytest.mark.parametrize("how", ["revoked", "logged out", "reused"])
async def test_x_auth_2_the_end_of_a_log_in_closes_its_sockets_and_nothing_is_lost(
    migrated: str, how: str
) -> None:
    """X-AUTH-2 for tokens: here before the answer, on other servers soon; a new log-in resumes."""
    limits = Limits(session_check_s=0.1, refresh_grace_s=0)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(serving(migrated, limits=limits))
        owner, granted = await log_in(here)
        there = await stack.enter_async_context(serving(migrated, limits=limits))
        other = await begin_tokens(here.runtime, owner.user_id)
        stack.enter_context(fail_after(20))
        clients = []
        for site, pair in ((here, granted), (there, granted), (here, other)):
            client = await stack.enter_async_context(knocking(site))
            await client.send(authenticate(pair.access_token))
            await hear(client)
            clients.append(client)
        await clients[0].send(text("subscribe", stream_id=stream_of(owner), cursor=0))
        head = (await hear(clients[0]))["head"]
        assert [(await hear(clients[0]))["seq"] for _ in range(head)] == [*range(1, head + 1)]
        await clients[0].send(text("ack", stream_id=stream_of(owner), seq=head))
        if how == "revoked":
            ended = await ask(here.url, "/api/auth/revoke", refresh_token=granted.refresh_token)
        elif how == "logged out":
            ended = await ask(here.url, "/api/auth/logout", granted.access_token)
        else:
            await refreshed(here, granted.refresh_token)
            ended = await ask(here.url, "/api/auth/refresh", refresh_token=granted.refresh_token)
        assert ended.status_code in {204, 401}, ended.text
        assert await hear_end(clients[0]) == ([], 4001, "the session ended")
        assert (await hear_end(clients[1]))[1] == 4001
        await clients[2].send(text("ping"))
        assert (await hear(clients[2]))["type"] == "pong"
        made = await ask(
            here.url, "/api/notes", other.access_token, workspace_id=owner.workspace, title="x"
        )
        assert made.status_code == 201
        again = await stack.enter_async_context(knocking(here))
        await again.send(
            authenticate(other.access_token), text("subscribe", stream_id=stream_of(owner))
        )
        await hear(again)
        assert (await hear(again))["cursor"] == head
        assert (await hear(again))["seq"] == head + 1
        refused = await stack.enter_async_context(knocking(here))
        await refused.send(authenticate(granted.access_token))
        assert await hear_end(refused) == ([], 4001, "TOKEN_INVALID")


async def test_tabs_that_refresh_at_two_servers_at_once_get_the_same_token(migrated: str) -> None:
    async with serving(migrated) as here, serving(migrated) as there:
        _, granted = await log_in(here)
        pairs: list[Json] = []

        async def tab(site: Site) -> None:
            pairs.append(await refreshed(site, granted.refresh_token))

        with fail_after(20):
            async with trio.open_nursery() as nursery:
                for site in (here, there) * 4:
                    nursery.start_soon(tab, site)
            assert len({pair["refresh_token"] for pair in pairs}) == 1
            # All of them may be used, and the next refresh is one again.
            again = await refreshed(there, pairs[0]["refresh_token"])
            assert again["refresh_token"] != pairs[0]["refresh_token"]


async def test_a_refresh_token_opens_no_socket_and_keeps_none(migrated: str) -> None:
    async with serving(migrated) as site:
        _, granted = await log_in(site)
        with fail_after(20):
            async with knocking(site) as client:
                await client.send(authenticate(granted.refresh_token))
                assert await hear_end(client) == ([], 4001, "TOKEN_INVALID")
            async with knocking(site) as client:
                await client.send(
                    authenticate(granted.access_token), authenticate(granted.refresh_token)
                )
                await hear(client)
                assert (await hear(client))["code"] == "TOKEN_INVALID"


async def test_another_users_tokens_and_an_ended_log_ins_keep_no_socket(migrated: str) -> None:
    async with serving(migrated) as site:
        owner, granted = await log_in(site)
        member = await add_member(site, owner.workspace)
        theirs = await begin_tokens(site.runtime, member.user_id)
        mine = await begin_tokens(site.runtime, owner.user_id)
        with fail_after(20):
            async with knocking(site) as client:
                await client.send(authenticate(granted.access_token))
                await hear(client)
                # Another log-in of the same user takes over, and its end is the socket's.
                await client.send(authenticate(mine.access_token))
                await hear(client)
                await site.runtime.accounts.revoke_session(granted.session_hash)
                await client.send(authenticate(granted.access_token))
                assert (await hear(client))["code"] == "TOKEN_INVALID"
                await client.send(authenticate(theirs.access_token))
                assert (await hear_end(client))[1] == 4003
