"""Sockets whose client says who it is by its first message, and shows other tokens later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import jwt
import msgspec
import trio
from websockets.frames import Frame, Opcode

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import (
    Close,
    DrainingError,
    Limits,
    OverloadedError,
    Reject,
    StoreUnavailableError,
)
from dalsegno.runtime._sockets import _code_of
from dalsegno.runtime.web import TokenIssuer
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._raw_client import RawClient
from tests.runtime._serving import Site, serving, set_up
from tests.runtime.test_tokens_on_the_wire import UPGRADE

ISSUER, AUDIENCE, SECRET = "https://id.example.org", "dalsegno", b"x" * 32
TOKENS = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)
OFFERS = "dalsegno.v1, dalsegno.auth"
REQUEST = {**UPGRADE, "sec-websocket-protocol": OFFERS}

Json = dict[str, Any]


def token(sub: str = "bob", *, expires_in_s: float = 300) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "exp": time.time() + expires_in_s}
    return jwt.encode(claims, SECRET, "HS256")


def text(type_: str, **fields: Any) -> Frame:
    return Frame(Opcode.TEXT, msgspec.json.encode({"type": type_, **fields}))


def authenticate(shown: str, **fields: Any) -> Frame:
    return text("authenticate", token=shown, **fields)


@asynccontextmanager
async def serving_members(migrated: str, **limits: float) -> AsyncIterator[Site]:
    """A server that believes an issuer, of whom bob and eve are members."""
    async with serving(migrated, tokens=TOKENS, limits=Limits(**limits)) as site:  # type: ignore[arg-type]
        for name in ("bob", "eve"):
            await site.runtime.workspace("w").send(PutMember(f"jwt:{name}", "editor"))
        with fail_after(20):
            yield site


@asynccontextmanager
async def knocking(site: Site, **how: str) -> AsyncIterator[RawClient]:
    """A client that was admitted, and that nobody knows."""
    stream = await trio.open_tcp_stream("127.0.0.1", site.port)
    async with stream:
        client = RawClient(stream)
        head = await client.upgrade(f"127.0.0.1:{site.port}", **({"offers": OFFERS} | how))
        assert "\r\nSec-WebSocket-Protocol: dalsegno.v1" in head
        assert "dalsegno.auth" not in head
        yield client


async def hear(client: RawClient) -> Json:
    """The next message that is no heartbeat."""
    while True:
        opcode, payload = await client.frame()
        assert opcode is Opcode.TEXT, payload
        message: Json = msgspec.json.decode(payload)
        if message["type"] != "heartbeat":
            return message


async def hear_end(client: RawClient) -> tuple[list[Json], int, str]:
    """What is left, and how the server closes."""
    rest: list[Json] = []
    while True:
        opcode, payload = await client.frame()
        if opcode is Opcode.CLOSE:
            return rest, int.from_bytes(payload[:2]), payload[2:].decode()
        rest.append(msgspec.json.decode(payload))


async def test_a_first_message_opens_the_socket(migrated: str) -> None:
    """CF-1.1 for `/ws`, by token; what follows in the same packet is not lost, however long."""
    async with serving_members(migrated) as site, knocking(site) as client:
        await client.send(
            Frame(Opcode.PING, b"early"),
            authenticate(token(), request_id="a"),
            text("subscribe", stream_id="workspace:w", cursor=2, request_id="s"),
            text(
                "command",
                workspace_id="w",
                name="create_note",
                payload={"title": "A", "markdown": "x" * 100_000},
            ),
        )
        assert await client.frame() == (Opcode.PONG, b"early")
        answer = await hear(client)
        assert 295_000 < answer.pop("expires_in_ms") <= 300_000
        assert answer == {"type": "authenticated", "request_id": "a"}
        assert (await hear(client))["type"] == "subscribed"
        assert {(await hear(client))["type"] for _ in range(2)} == {"committed", "event"}


async def test_a_key_is_shown_likewise_and_need_not_expire(migrated: str) -> None:
    async with serving_members(migrated) as site:
        owner = await set_up(site)
        async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
            http.headers["cookie"] = owner.cookie
            session = (await http.get("/api/auth/session")).json()
            made = await http.post(
                f"/api/workspaces/{owner.workspace}/keys",
                json={"name": "k", "role": "viewer"},
                headers={"x-csrf-token": session["csrf_token"]},
            )
        async with knocking(site) as client:
            await client.send(authenticate(made.json()["key"]))
            assert await hear(client) == {"type": "authenticated", "expires_in_ms": None}
            await client.send(text("subscribe", stream_id=f"workspace:{owner.workspace}"))
            assert (await hear(client))["type"] == "subscribed"


WRONG: dict[str, list[Frame]] = {
    "binary": [Frame(Opcode.BINARY, b'{"type":"authenticate","token":"t"}')],
    "no json": [Frame(Opcode.TEXT, b"no json")],
    "nested": [Frame(Opcode.TEXT, b"[" * 4_000)],
    "empty": [Frame(Opcode.TEXT, b"")],
    "another": [text("ping")],
    "another before": [text("subscribe", stream_id="workspace:w"), authenticate(token())],
    "no token": [text("authenticate")],
    "empty token": [authenticate("")],
    "no such token": [authenticate("SECRET")],
    "no such key": [authenticate("ds_SECRET")],
    "expired": [authenticate(token(expires_in_s=-60))],
    "mistyped": [authenticate(token() + "SECRET")],
    "too long": [authenticate(token(), padding="x" * 8 * 1024)],
    "too long in pieces": [
        Frame(Opcode.TEXT, b"x" * 8_000, fin=False),
        Frame(Opcode.CONT, b"x" * 193),
    ],
    "far too long": [Frame(Opcode.TEXT, b"x" * 1024 * 1024)],
}


async def test_anything_else_first_closes_with_4001(migrated: str) -> None:
    """CF-1.2 for `/ws`, by token: nothing is said before, and nothing of what was shown."""
    async with serving_members(migrated) as site:
        for what, first in WRONG.items():
            async with knocking(site) as client:
                with suppress(trio.BrokenResourceError):  # it is closed while it still sends
                    await client.send(*first)
                rest, code, reason = await hear_end(client)
                assert (rest, code) == ([], 4001), what
                assert "SECRET" not in reason
        assert len(site.runtime.service.connections) == 0


async def test_a_message_that_is_too_long_is_refused_by_its_head(migrated: str) -> None:
    async with serving_members(migrated) as site, knocking(site) as client:
        whole = Frame(Opcode.TEXT, b"x" * (8 * 1024 + 1)).serialize(mask=True)
        await client.stream.send_all(whole[:8])  # its length, and its mask
        assert await hear_end(client) == ([], 4001, "the first message is too long")


async def test_a_message_may_be_as_long_as_that(migrated: str) -> None:
    async with serving_members(migrated) as site, knocking(site) as client:
        shown = token()
        missing = 8 * 1024 - len(authenticate(shown, x="").data)
        await client.send(authenticate(shown, x="x" * missing))
        assert (await hear(client))["type"] == "authenticated"


async def test_who_says_nothing_is_closed_in_time(migrated: str) -> None:
    limits = {"authenticate_deadline_s": 0.2}
    async with serving_members(migrated, **limits) as site, knocking(site) as client:
        await client.send(Frame(Opcode.PING, b""))
        assert await client.frame() == (Opcode.PONG, b"")
        assert await hear_end(client) == ([], 4001, "AUTH_REQUIRED")


async def test_a_cookie_beside_it_is_not_looked_at(migrated: str) -> None:
    async with serving_members(migrated) as site:
        owner = await set_up(site)
        async with knocking(site, cookie=owner.cookie) as client:
            await client.send(text("subscribe", stream_id=f"workspace:{owner.workspace}"))
            assert await hear_end(client) == ([], 4001, "AUTH_REQUIRED")
        async with knocking(site, cookie="dalsegno_session=nonsense") as client:
            await client.send(authenticate(token()))
            assert (await hear(client))["type"] == "authenticated"


async def test_without_the_offer_the_upgrade_is_refused(migrated: str) -> None:
    async with serving_members(migrated) as site:
        for offers in ("dalsegno.v1", "dalsegno.v1, dalsegno.authx", "dalsegno.v1,auth"):
            async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
                refused = await http.get(
                    "/ws", headers={**REQUEST, "sec-websocket-protocol": offers}
                )
            assert (refused.status_code, refused.json()["code"]) == (401, "AUTH_REQUIRED")


async def test_the_offer_opens_no_foreign_origin_and_is_good_on_a_used_connection(
    migrated: str,
) -> None:
    async with serving_members(migrated) as site:
        async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
            foreign = await http.get("/ws", headers={**REQUEST, "origin": "http://evil.example"})
            assert foreign.status_code == 403
        async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
            await http.get("/healthz")
            async with http.stream("GET", "/ws", headers=REQUEST) as used:
                assert used.status_code == 101


async def test_there_are_few_unknown_sockets_at_a_time(migrated: str) -> None:
    async with serving_members(migrated, unknown_sockets_max=2) as site:

        async def knock() -> httpx.Response:
            async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
                return await http.get("/ws", headers=REQUEST)

        async with knocking(site) as first, knocking(site) as second:
            refused = await knock()
            assert (refused.status_code, refused.json()["code"]) == (503, "OVERLOADED")
            assert int(refused.headers["retry-after"]) >= 1
            await first.send(authenticate(token()))
            await hear(first)
            async with knocking(site):
                assert (await knock()).status_code == 503
            await second.send(authenticate("nonsense"))
            await hear_end(second)
        async with knocking(site), knocking(site):
            assert (await knock()).status_code == 503


async def test_who_goes_away_before_saying_anything_gives_its_place_back(migrated: str) -> None:
    async with serving_members(migrated, unknown_sockets_max=1) as site:
        for leave in (None, Frame(Opcode.CLOSE, b"\x03\xe8")):
            async with knocking(site) as client:
                if leave is not None:
                    await client.send(leave)
                    await client.frame()
            async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
                # A client that is let in leaves without a word, too.
                while (await http.get("/ws", headers=REQUEST)).status_code == 503:
                    await trio.sleep(0.05)


async def test_a_user_with_too_many_sockets_is_told_to_come_back(migrated: str) -> None:
    async with serving_members(migrated, sockets_per_user_max=1) as site:
        async with knocking(site) as first, knocking(site) as second:
            await first.send(authenticate(token()))
            await hear(first)
            await second.send(authenticate(token()))
            assert await hear_end(second) == ([], 1013, "OVERLOADED")
        async with knocking(site) as third:
            await third.send(authenticate(token("eve")))
            assert (await hear(third))["type"] == "authenticated"


def test_what_says_nothing_about_the_token_lets_a_client_come_back() -> None:
    assert _code_of(StoreUnavailableError()) is Close.INTERNAL
    assert _code_of(OverloadedError()) is Close.TRY_AGAIN
    assert _code_of(DrainingError()) is Close.GOING_AWAY
    assert _code_of(Reject("TOKEN_EXPIRED")) is Close.UNAUTHORIZED


async def test_a_shutdown_does_not_wait_for_unknown_sockets(migrated: str) -> None:
    async with serving_members(migrated, authenticate_deadline_s=3_600) as site:
        context = knocking(site)
        client = await context.__aenter__()
    assert await hear_end(client) == ([], 1001, "DRAINING")
    await context.__aexit__(None, None, None)


# --------------------------------------------------------------------------- another token later


async def test_another_token_of_the_user_keeps_the_socket(migrated: str) -> None:
    limits = {"heartbeat_interval_s": 0.2}
    async with serving_members(migrated, **limits) as site, knocking(site) as client:
        await client.send(authenticate(token()))
        await hear(client)
        await client.send(text("subscribe", stream_id="workspace:w", cursor=2))
        await hear(client)
        (connection,) = site.runtime.service.connections
        connection._signs.expires_at = site.runtime.world.now()
        await until(lambda: connection.writer.is_held)
        await site.runtime.workspace("w").send(PutMember("jwt:eve", "viewer"))
        await client.send(
            text("subscribe", stream_id="workspace:w", request_id="s"),
            authenticate(token(expires_in_s=-31)),
            authenticate(token(expires_in_s=-1)),
            authenticate("nonsense"),
            authenticate(token(), request_id="a"),
        )
        refused = [await hear(client) for _ in range(4)]
        assert [each["code"] for each in refused] == [
            *["TOKEN_EXPIRED"] * 3,
            "TOKEN_INVALID",
        ]
        assert (await hear(client))["request_id"] == "a"
        assert (await hear(client))["seq"] == 3


async def test_a_token_of_somebody_else_closes_with_4003(migrated: str) -> None:
    async with serving_members(migrated) as site, knocking(site) as client:
        await client.send(authenticate(token()))
        await hear(client)
        await client.send(authenticate(token("eve")))
        assert await hear_end(client) == ([], 4003, "the token is of another user")


async def test_a_socket_with_a_cookie_ends_with_its_session(migrated: str) -> None:
    async with serving_members(migrated) as site:
        owner = await set_up(site)
        stream = await trio.open_tcp_stream("127.0.0.1", site.port)
        async with stream:
            client = RawClient(stream)
            await client.upgrade(f"127.0.0.1:{site.port}", owner.cookie)
            await client.send(authenticate(token()))
            assert (await hear(client))["code"] == "STATE_CONFLICT"
