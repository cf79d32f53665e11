"""HTTP/1 is all that is spoken in clear text, and a request holds little for a short time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio

from tests._patience import fail_after
from tests.wire._site import Site
from tests.wire.conftest import start


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    """A server without an account: nobody has to log in here."""
    async with start(migrated) as site:
        yield site


FIRST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


def upgrade(fields: bytes, target: bytes = b"/healthz", more: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n%b" % (target, fields, more)


UPGRADES = {
    "as it should be": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + SETTINGS,
    "without settings": b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    "without connection": b"Upgrade: h2c\r\n" + SETTINGS,
    "in capitals": b"CONNECTION: UPGRADE\r\nUPGRADE: H2C\r\n" + SETTINGS,
    "first of two": b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n" + SETTINGS,
    "second of two": b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n" + SETTINGS,
    "behind another": b"Connection: Upgrade\r\nUpgrade: foo\r\nUpgrade: h2c\r\n" + SETTINGS,
    "folded blanks": b"Connection: Upgrade\r\nUpgrade:    h2c   \r\n" + SETTINGS,
}


async def connect(site: Site) -> trio.SocketStream:
    host, _, port = site.address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


class Client:
    """What comes on one connection, answer by answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""

    async def ask(self, *parts: bytes) -> tuple[int, bytes]:
        for part in parts:
            await self.stream.send_all(part)
            await trio.lowlevel.checkpoint()
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and head of the next answer, which has a length."""
        with fail_after(20):
            while b"\r\n\r\n" not in self._data:
                await self._more()
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            match = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            length = int(match[1]) if match else 0
            while len(self._data) < length:
                await self._more()
        self._data = self._data[length:]
        return int(head.split()[1]), head

    async def ended(self) -> bytes:
        """Return what comes until the server closes."""
        with fail_after(20):
            while more := await self.stream.receive_some():
                self._data += more
        return self._data

    async def _more(self) -> None:
        more = await self.stream.receive_some()
        assert more, f"closed after {self._data!r}"
        self._data += more


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("how", UPGRADES)
async def test_nobody_is_switched_to_http2(site: Site, how: str, used: bool) -> None:
    """The offer is declined: the request is answered over HTTP/1.1 (RFC 9110 §7.8)."""
    async with await connect(site) as stream:
        client = Client(stream)
        if used:
            assert (await client.ask(FIRST))[0] == 200
        asked = upgrade(UPGRADES[how])
        assert (await client.ask(asked))[0] == 200
        # … and in pieces; and the connection is of use for more.
        assert (await client.ask(asked[:40], asked[40:60], asked[60:]))[0] == 200
        assert (await client.ask(FIRST))[0] == 200


@pytest.mark.parametrize("how", UPGRADES)
async def test_what_follows_an_offer_of_http2_is_no_http2(site: Site, how: str) -> None:
    async with await connect(site) as stream:
        client = Client(stream)
        assert (await client.ask(upgrade(UPGRADES[how], more=PREFACE)))[0] == 200
        status, head = await client.answer()
        assert status == 505
        assert b"connection: close" in head.lower()
        assert await client.ended() == b""


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        PREFACE,
        b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/3.0\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_other_versions_are_refused(site: Site, asked: bytes, used: bool) -> None:
    for parts in ([asked], [asked[:9], asked[9:]]):
        async with await connect(site) as stream:
            client = Client(stream)
            if used:
                assert (await client.ask(FIRST))[0] == 200
            status, head = await client.ask(*parts)
            assert status == 505
            assert b"connection: close" in head.lower()
            assert await client.ended() == b""


HEAD = b"HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LOGIN, CHUNKED = b"POST /api/auth/login " + HEAD, b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"\r\n2\r\n{}\r\n0\r\n\r\n"
AMBIGUOUS = {
    "two lengths": LOGIN + b"Content-Length: 2\r\n" + CHUNKED + CHUNKS,
    "in the other order": LOGIN + CHUNKED + b"Content-Length: 2\r\n" + CHUNKS,
    "chunks in HTTP/1.0": (LOGIN + CHUNKED + CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two numbers": LOGIN + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a signed number": LOGIN + b"Content-Length: +2\r\n\r\n{}",
    "LF alone": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "one LF alone": b"GET /healthz HTTP/1.1\r\nHost: localhost\nA: b\r\n\r\n",
    "an LF at the end": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
    "an LF at first": b"\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a CR alone": b"GET /healthz HTTP/1.1\r\nHost: localhost\rA: b\r\n\r\n",
    "a folded line": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n",
    "one folded by a tab": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\tc\r\n\r\n",
    "a folded first line": b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a blank before the colon": b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "an LF in a trailer": LOGIN + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nA: b\n\r\n",
}


@pytest.mark.parametrize("used", [False, True])
async def test_what_two_readers_might_read_in_two_ways_ends_its_connection(
    site: Site, used: bool
) -> None:
    """No request is smuggled (RFC 9112, 11.2): what follows is not taken for one."""
    for how, asked in AMBIGUOUS.items():
        async with await connect(site) as stream:
            client = Client(stream)
            if used:
                assert (await client.ask(FIRST))[0] == 200
            status, head = await client.ask(asked + FIRST)
            assert status == 400, how
            assert b"connection: close" in head.lower(), how
            assert b"content-type: application/json" in head.lower(), how
            assert await client.ended() == b"", how


async def test_the_refusal_of_a_request_for_a_head_has_no_body(site: Site) -> None:
    async with await connect(site) as stream:
        await stream.send_all(b"HEAD /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n")
        received = await Client(stream).ended()
        assert received.startswith(b"HTTP/1.1 505")
        assert received.endswith(b"\r\n\r\n")


LONG = (
    b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 10000\r\n\r\n"
)
TRICKLED = {
    b"POST /api/auth/login": 408,
    b"POST /no/such/route": 404,
    b"PUT /api/auth/login": 405,
    b"GET /healthz": 200,
}


@pytest.mark.parametrize(
    "limits",
    [
        {"body_grace_s": 0.2},
        {"body_grace_s": 0.2, "body_rate_min": 1, "body_deadline_s": 0.4},
    ],
    ids=["below the least rate", "past the deadline"],
)
@pytest.mark.parametrize("asked", TRICKLED)
async def test_a_body_that_trickles_holds_nothing_for_long(
    migrated: str, asked: bytes, limits: dict[str, Any]
) -> None:
    async with start(migrated, **limits) as site, await connect(site) as stream:
        client = Client(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, stream)
            status, head = await client.ask(asked + LONG)
            assert status == TRICKLED[asked]
            assert b"connection: close" in head.lower()
            assert await client.ended() == b""
            nursery.cancel_scope.cancel()


async def trickle(stream: trio.SocketStream) -> None:
    """Send a byte now and then, until nobody takes it."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await trio.sleep(0.02)
            await stream.send_all(b"x")


async def test_a_later_head_that_trickles_holds_nothing_for_long(migrated: str) -> None:
    """It ends: by a reset where a byte was on its way as the server closed (RFC 9112 §9.6)."""
    async with start(migrated, head_deadline_s=0.3) as site, await connect(site) as stream:
        client = Client(stream)
        assert (await client.ask(FIRST))[0] == 200
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nX: ")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, stream)
            with suppress(trio.BrokenResourceError):
                assert await client.ended() == b""
            nursery.cancel_scope.cancel()


async def test_too_many_requests_are_told_to_come_back_and_a_probe_is_answered(
    migrated: str,
) -> None:
    asked = b"POST /no/such/route HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    probe = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(start(migrated, requests_max=3))

        async def client() -> Client:
            return Client(await stack.enter_async_context(await connect(site)))

        held = [await client() for _ in range(3)]
        for each in held:
            await each.stream.send_all(asked)  # without the body that it announces
        with fail_after(20):
            while (answer := await (await client()).ask(probe))[0] == 200:
                pass  # the held ones are on their way
        status, head = answer
        assert status == 503
        assert b"\r\nretry-after: " in head.lower()
        assert b"\r\nconnection: close" in head.lower()
        also = await client()
        assert (await also.ask(asked))[0] == 503, "whose body is not waited for"
        assert await also.ended() == b""
        assert (await (await client()).ask(FIRST))[0] == 200
        for each in held:
            assert (await each.ask(b"body"))[0] == 404
        assert (await (await client()).ask(probe))[0] == 200
