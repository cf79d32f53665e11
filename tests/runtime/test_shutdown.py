"""When clients come back after a shutdown: each told, spread, and held to it."""

from __future__ import annotations

import socket as socketlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import trio
from hypothesis import given, strategies as st
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from dalsegno.protocol import Close, Limits
from dalsegno.runtime._server import Ready, ServeConfig, serve
from dalsegno.runtime._shutdown import slots_ms
from dalsegno.runtime.client import ClientLimits, open_client
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.store import connect
from tests._patience import fail_after, until
from tests.runtime._serving import Person, Site, proxied, set_up

LIMITS = Limits()
PATIENCE_S = 20.0


# -------------------------------------------------------------------------------------- the slots


@given(st.integers(1, 500), st.sampled_from([1, 5, 1_000]), st.randoms(use_true_random=False))
def test_slots_keep_to_the_rate_or_else_to_the_window(count: int, rate: int, chance: Any) -> None:
    limits = Limits(reconnects_per_s=rate, reconnect_window_s=30)
    slots = slots_ms(count, limits, chance.random)
    assert len(slots) == count
    assert all(0 <= slot <= 30_000 for slot in slots)
    # In any second, as many as are allowed; more only where the window is too short for all.  Where
    # a slot's edge is a second's, the one before may be rounded into it, and the one behind, too.
    most = max(rate, -(-count // 30)) + 2
    assert max(Counter(slot // 1000 for slot in slots).values()) <= most


def test_one_alone_comes_back_at_once_and_two_servers_clients_not_in_step() -> None:
    assert slots_ms(1, LIMITS, lambda: 0.999) == [0]
    assert slots_ms(0, LIMITS, WORLD.random) == []
    few = Limits(reconnects_per_s=10)
    assert slots_ms(100, few, WORLD.random) != slots_ms(100, few, WORLD.random)


# ------------------------------------------------------------------------------------ the server


@asynccontextmanager
async def running(database: str, **limits: float) -> AsyncIterator[tuple[Site, trio.Event]]:
    """A server, and what ends it."""
    stop = trio.Event()
    config = ServeConfig(port=0, database=database, limits=Limits(**limits))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(partial(serve, config, stop=stop))
        try:
            yield Site(f"http://127.0.0.1:{ready.port}", ready.port, ready.runtime), stop
        finally:
            stop.set()


@asynccontextmanager
async def socket(owner: Person) -> AsyncIterator[WebSocketConnection]:
    url = owner.url.replace("http", "ws", 1) + "/ws"
    async with open_websocket_url(url, extra_headers=[(b"cookie", owner.cookie.encode())]) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def hear_the_end(ws: WebSocketConnection) -> tuple[list[dict[str, Any]], int, str]:
    """All messages but heartbeats, and how the connection ends."""
    said: list[dict[str, Any]] = []
    with fail_after(PATIENCE_S):
        while True:
            try:
                message = msgspec.json.decode(await ws.get_message())
            except ConnectionClosed:
                break
            if message["type"] != "heartbeat":
                said.append(message)
    assert ws.closed is not None
    return said, ws.closed.code, ws.closed.reason or ""


async def test_x_sup_6_every_client_hears_its_slot_and_then_the_close(migrated: str) -> None:
    count = 40
    async with running(migrated, reconnects_per_s=10) as (site, stop), AsyncExitStack() as stack:
        owner = await set_up(site)
        sockets = [await stack.enter_async_context(socket(owner)) for _ in range(count)]
        await until(lambda: f" {count} connections" in repr(site.runtime))
        stop.set()
        slots = []
        for ws in sockets:
            said, code, reason = await hear_the_end(ws)
            ((after_ms),) = [message["after_ms"] for message in said]
            assert said == [{"type": "reconnect", "after_ms": after_ms}]
            assert (code, reason) == (Close.GOING_AWAY, f"reconnect after {after_ms} ms")
            slots.append(after_ms)
    assert sorted(slots)[-1] > 3000
    seconds = [slot // 1000 for slot in slots]
    assert [seconds.count(second) for second in range(4)] == [10, 10, 10, 10]


async def test_what_was_asked_is_answered_between_the_slot_and_the_close(migrated: str) -> None:
    async with running(migrated) as (site, stop):
        owner = await set_up(site)
        async with socket(owner) as ws:
            for index in range(50):
                message = {
                    "type": "command",
                    "workspace_id": owner.workspace,
                    "name": "create_note",
                    "payload": {"title": "T"},
                    "request_id": str(index),
                }
                await ws.send_message(msgspec.json.encode(message).decode())
            first = msgspec.json.decode(await ws.get_message())
            stop.set()
            said, code, _ = await hear_the_end(ws)
    assert code == Close.GOING_AWAY
    kinds = [message["type"] for message in [first, *said]]
    assert kinds.count("reconnect") == 1
    answers = [message for message in [first, *said] if message["type"] != "reconnect"]
    assert [message["request_id"] for message in answers] == [str(n) for n in range(len(answers))]
    assert {message.get("code", "") for message in answers} <= {"", "DRAINING"}


# ------------------------------------------------------------------------------------ the client


async def test_a_client_comes_back_when_it_was_told_to_and_not_by_its_own_delay(
    migrated: str,
) -> None:
    never = ClientLimits(at_once_s=3600, backoff_first_s=3600, backoff_max_s=3600)
    world = replace(WORLD, random=lambda: 0.9)
    async with (
        running(migrated) as (other, _),
        running(migrated, reconnects_per_s=1) as (site, stop),
        proxied(site.port) as proxy,
    ):
        owner = await set_up(site)
        async with open_client(proxy.url, cookie=owner.cookie, limits=never, world=world) as client:
            await until(lambda: client.statistics().is_connected)
            proxy.targets = (other.port,)
            stop.set()
            await until(lambda: client.statistics().connections == 2)
            await client.send(owner.workspace, "create_note", {"title": "T"})


async def test_x_sup_7_nothing_is_answered_before_the_schema_is_there(database: str) -> None:
    with socketlib.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    stop = trio.Event()
    config = ServeConfig(port=port, database=database)
    with fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, config, stop=stop))
            async with await _connected(port) as stream:
                await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            connection = await connect(database)
            try:
                assert await connection.fetch("select count(*) from dalsegno.event")
            finally:
                await connection.aclose()
            stop.set()


async def _connected(port: int) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.001)
