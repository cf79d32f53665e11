"""Tickets: a URL that opens one socket, once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx
import msgspec
import pytest
import trio

from dalsegno.protocol import Limits
from dalsegno.runtime.web import _tickets
from dalsegno.runtime.web._own_tokens import begin_tokens
from dalsegno.runtime.web._token_text import read_access
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._raw_client import RawClient
from tests.runtime._serving import Person, Site, serving, set_up
from tests.runtime.test_first_message import authenticate, hear, hear_end, text, token
from tests.runtime.test_own_tokens_on_the_wire import ask, log_in, stream_of
from tests.runtime.test_tokens_on_the_wire import UPGRADE


async def made_by_token(site: Site, token: str) -> str:
    answer = await ask(site.url, "/api/auth/ticket", token, path="/ws")
    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_in_ms"] == 30_000
    return str(answer.json()["ticket"])


async def made_by_person(site: Site, person: Person) -> str:
    async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
        http.headers["cookie"] = person.cookie
        refused = await http.post("/api/auth/ticket", json={"path": "/ws"})
        assert (refused.status_code, refused.json()["code"]) == (403, "CSRF_INVALID")
        session = (await http.get("/api/auth/session")).json()
        http.headers["x-csrf-token"] = session["csrf_token"]
        answer = await http.post("/api/auth/ticket", json={"path": "/ws"})
    return str(answer.json()["ticket"])


async def asked_with(site: Site, query: str, **headers: str) -> httpx.Response:
    """What an upgrade with this query is answered that is refused."""
    async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
        return await http.get(f"/ws?{query}", headers={**UPGRADE, **headers})


async def opened(stack: AsyncExitStack, site: Site, ticket: str) -> RawClient:
    stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", site.port))
    client = RawClient(stream)
    await client.upgrade(f"127.0.0.1:{site.port}", path=f"/ws?client_id=c&ticket={ticket}")
    return client


def is_refused(answer: httpx.Response, status: int, code: str) -> bool:
    return (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_ticket_opens_one_socket_as_who_made_it(
    migrated: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(migrated))
        owner, granted = await log_in(site)
        stack.enter_context(fail_after(20))
        for ticket in (
            await made_by_token(site, granted.access_token),
            await made_by_person(site, owner),
        ):
            client = await opened(stack, site, ticket)
            await client.send(text("subscribe", stream_id=stream_of(owner)))
            assert (await hear(client))["type"] == "subscribed"
            assert is_refused(await asked_with(site, f"ticket={ticket}"), 401, "TOKEN_INVALID")
            assert ticket not in caplog.text
        assert {each.user_id for each in site.runtime.service.connections} == {owner.user_id}
        assert {each.client_id for each in site.runtime.service.connections} == {"c"}


async def test_of_all_that_show_a_ticket_at_once_one_gets_in(migrated: str) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(serving(migrated))
        _, granted = await log_in(here)
        there = await stack.enter_async_context(serving(migrated))
        ticket = await made_by_token(here, granted.access_token)
        stack.enter_context(fail_after(20))
        heads: list[bytes] = []

        async def show(site: Site) -> None:
            stream = await trio.open_tcp_stream("127.0.0.1", site.port)
            async with stream:
                lines = [f"GET /ws?ticket={ticket} HTTP/1.1", f"Host: 127.0.0.1:{site.port}"]
                lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
                await stream.send_all("\r\n".join([*lines, "", ""]).encode())
                heads.append((await stream.receive_some())[:12])

        async with trio.open_nursery() as nursery:
            for site in (here, there) * 3:
                nursery.start_soon(show, site)
        assert sorted(heads) == [b"HTTP/1.1 101", *[b"HTTP/1.1 401"] * 5]


async def test_what_is_no_ticket_opens_nothing(migrated: str) -> None:
    async with serving(migrated, limits=Limits(ticket_s=0)) as site:
        owner, granted = await log_in(site)
        with fail_after(20):
            late = (
                await ask(site.url, "/api/auth/ticket", granted.access_token, path="/ws")
            ).json()
            assert late["expires_in_ms"] == 0
            query = f"ticket={late['ticket']}"
            assert is_refused(await asked_with(site, query), 401, "TOKEN_EXPIRED")
            assert is_refused(await asked_with(site, query), 401, "TOKEN_INVALID"), "and is used up"
            for wrong in ("x", "%00", "%ff", "x" * 5_000, granted.access_token):
                assert is_refused(await asked_with(site, f"ticket={wrong}"), 401, "TOKEN_INVALID")
            assert is_refused(await asked_with(site, "ticket="), 401, "AUTH_REQUIRED")
            shown = {"authorization": f"Bearer {granted.access_token}"}
            for answer in (
                await asked_with(site, "ticket=a&ticket=b"),
                await asked_with(site, "ticket=a", **shown),
            ):
                assert is_refused(answer, 400, "BAD_REQUEST")
            for path in ("", "/", "/ws/", "/ws?x", "/api/notes", "ws"):
                refused = await ask(site.url, "/api/auth/ticket", granted.access_token, path=path)
                assert is_refused(refused, 400, "BAD_REQUEST"), path
            refused = await ask(site.url, "/api/auth/ticket", path="/ws")
            assert is_refused(refused, 401, "AUTH_REQUIRED")
        del owner


async def test_a_ticket_is_for_one_path_and_for_a_socket(migrated: str) -> None:
    async with serving(migrated) as site:
        owner, granted = await log_in(site)
        with fail_after(20):
            ticket = await made_by_token(site, granted.access_token)
            # Whatever route is asked, it is no credential of a request.
            async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
                answer = await http.get(f"/api/auth/session?ticket={ticket}")
                assert is_refused(answer, 401, "AUTH_REQUIRED")
            row = await site.runtime.accounts.take_ticket(_tickets._digest(ticket))
            assert row is not None, "which has not used it up"
            assert row.digest.hex() not in ticket
            elsewhere = msgspec.structs.replace(row, path="/ws/projects/p")
            await site.runtime.accounts.put_ticket(elsewhere, tickets_max=9)
            assert is_refused(await asked_with(site, f"ticket={ticket}"), 401, "TOKEN_INVALID")
        del owner


async def test_tickets_that_wait_are_bounded(migrated: str) -> None:
    async with serving(migrated, limits=Limits(tickets_per_user_max=2)) as site:
        _, granted = await log_in(site)
        with fail_after(20):
            first = await made_by_token(site, granted.access_token)
            await made_by_token(site, granted.access_token)
            refused = await ask(site.url, "/api/auth/ticket", granted.access_token, path="/ws")
            assert is_refused(refused, 429, "RATE_LIMITED")
            assert refused.headers["retry-after"] == "30"
            async with AsyncExitStack() as stack:
                await opened(stack, site, first)
                await made_by_token(site, granted.access_token)


@pytest.mark.parametrize("who", ["token", "person", "key"])
async def test_its_socket_ends_with_what_it_was_made_with(migrated: str, who: str) -> None:
    limits = Limits(session_check_s=0.1)
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(migrated, limits=limits))
        owner, granted = await log_in(site)
        stack.enter_context(fail_after(20))
        accounts = site.runtime.accounts
        tickets = []
        for _ in range(2):
            if who == "token":
                tickets.append(await made_by_token(site, granted.access_token))
            elif who == "person":
                tickets.append(await made_by_person(site, owner))
            else:
                made = await ask(
                    site.url,
                    f"/api/workspaces/{owner.workspace}/keys",
                    granted.access_token,
                    name="k",
                    role="viewer",
                )
                tickets.append(await made_by_token(site, made.json()["key"]))
        client = await opened(stack, site, tickets[0])
        await client.send(text("ping"))
        assert (await hear(client))["type"] == "pong"
        if who == "key":
            for key in await accounts.list_keys(owner.workspace, after="", limit=9):
                await accounts.revoke_key(key.key_id)
        else:
            await accounts.revoke_sessions_of(owner.user_id)
        assert (await hear_end(client))[1] == 4001
        late = await asked_with(site, f"ticket={tickets[1]}")
        assert is_refused(late, 401, "TOKEN_INVALID")


async def test_its_socket_expires_with_a_token_and_is_kept_by_another(migrated: str) -> None:
    limits = Limits(heartbeat_interval_s=0.2)
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(migrated, limits=limits))
        owner = await set_up(site)
        granted = await begin_tokens(site.runtime, owner.user_id)
        stack.enter_context(fail_after(20))
        client = await opened(stack, site, await made_by_token(site, granted.access_token))
        await client.send(text("ping"))
        await hear(client)
        (connection,) = site.runtime.service.connections
        expires_at = read_access(granted.access_token).expires_ms / 1000
        assert connection._signs.expires_at == datetime.fromtimestamp(expires_at, UTC)
        connection._signs.expires_at = site.runtime.world.now()
        await until(lambda: connection.writer.is_held)
        pair = await ask(site.url, "/api/auth/refresh", refresh_token=granted.refresh_token)
        await client.send(authenticate(pair.json()["access_token"]))
        assert (await hear(client))["type"] == "authenticated"
        assert not connection.writer.is_held
        await client.send(authenticate(token("eve")))
        assert (await hear(client))["code"] == "TOKEN_INVALID", "no issuer is believed here"


async def test_a_ticket_lasts_no_longer_than_what_it_was_made_with(migrated: str) -> None:
    async with serving(migrated) as site:
        _, granted = await log_in(site)
        with fail_after(20):
            ticket = await made_by_token(site, granted.access_token)
            row = await site.runtime.accounts.take_ticket(_tickets._digest(ticket))
            assert row is not None
            now = site.runtime.world.now()
            await site.runtime.accounts.put_ticket(
                msgspec.structs.replace(row, session_expires_at=now), tickets_max=9
            )
            assert is_refused(await asked_with(site, f"ticket={ticket}"), 401, "TOKEN_EXPIRED")
