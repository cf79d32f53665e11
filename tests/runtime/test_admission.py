"""How many sockets are admitted, over real sockets, and what the others get."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import trio
import trio_websocket as tw

from dalsegno.protocol import Limits, OverloadedError
from dalsegno.runtime.web._admission import Admission, Decision
from dalsegno.runtime.web._handshake import UpgradeRequest
from tests._patience import lasted, until
from tests._port import (
    HELLO,
    LIMITS,
    Port,
    envelope,
    head,
    read_all,
    read_until,
    serving,
)

PATIENT = replace(LIMITS, head_deadline_s=5)


def refused(port: Port) -> int:
    assert port.serving is not None
    return port.serving.statistics().refused


def decisions(port: Port) -> str:
    assert port.serving is not None
    return repr(port.serving._port.admission)


def check_told_when(answer: bytes) -> float:
    status, headers, body = envelope(answer)
    assert (status, body["code"]) == (503, "OVERLOADED")
    after_s: float = body["details"]["retry_after"]
    assert 1 <= after_s <= 5
    assert int(headers["retry-after"]) - 1 < after_s <= int(headers["retry-after"])
    return after_s


async def test_a_websocket_above_the_bound_hears_503_before_anybody_asks_who_it_is() -> None:
    limits = replace(LIMITS, connections_max=2)
    async with serving(limits=limits) as port:
        async with tw.open_websocket_url(port.url) as first, tw.open_websocket_url(port.url):
            told = {check_told_when(await port.ask(head())) for _ in range(8)}
            assert len(told) > 1, "they would all come back together"
            assert len(port.upgrades) == 2
            assert refused(port) == 8
            await first.send_message("still here")
            assert await first.get_message() == "still here"
        await until(lambda: port.counts() == (0, 0))
        async with tw.open_websocket_url(port.url) as later:
            await later.ping()


async def test_a_full_server_still_answers_a_probe() -> None:
    limits = replace(PATIENT, connections_max=1, handshakes_max=1)
    async with serving(limits=limits) as port, tw.open_websocket_url(port.url):
        last = HELLO.replace(b"Host", b"Connection: close\r\nHost")
        for _ in range(3):
            assert b'{"hello":"world"}' in await port.ask(last)
            await until(lambda: "1 sockets" in decisions(port))


async def test_a_socket_without_a_place_is_told_unread_and_behind_those_closed() -> None:
    limits = replace(PATIENT, connections_max=1, handshakes_max=1, close_deadline_s=5)
    async with serving(limits=limits) as port:
        held = [await port.connect() for _ in range(2)]
        await until(lambda: port.accepted() == 2)
        told = await port.connect()  # and asks nothing, and does not leave
        check_told_when(await read_all(told))
        assert await port.ask(b"") == b""
        assert (refused(port), port.accepted()) == (2, 4)
        for stream in (*held, told):
            await stream.aclose()
        await until(lambda: "0 sockets, 0 being" in decisions(port))
        async with tw.open_websocket_url(port.url) as client:
            await client.ping()


@pytest.mark.parametrize("at_once", [1, 3])
async def test_so_many_are_let_in_at_the_same_time_and_the_others_in_their_order(
    at_once: int,
) -> None:
    gate = trio.Event()
    most = 0
    under_way = 0
    order: list[str] = []

    async def accept(asked: UpgradeRequest) -> None:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        order.extend(asked.query)
        await gate.wait()
        under_way -= 1

    limits = replace(PATIENT, handshakes_max=at_once)
    async with serving(accept=accept, limits=limits) as port:
        streams = []
        assert port.serving is not None
        turns = port.serving._port.admission._handshakes
        for index in range(12):
            stream = await port.connect()
            await stream.send_all(head(target=f"/ws?{index}"))
            streams.append(stream)
            await until(lambda: len(order) + turns.statistics().tasks_waiting == index + 1)  # noqa: B023 - now
        assert len(order) == at_once
        gate.set()
        for stream in streams:
            assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (most, refused(port)) == (at_once, 0)
        if at_once == 1:  # tasks that run in the same step have no order among them
            assert order == [str(index) for index in range(12)]
        for stream in streams:
            await stream.aclose()


async def test_who_waits_too_long_to_be_let_in_hears_503() -> None:
    async def accept(_: UpgradeRequest) -> None:
        await trio.sleep_forever()

    limits = replace(LIMITS, handshakes_max=1)
    async with serving(accept=accept, limits=limits) as port:
        first = await port.connect()
        await first.send_all(head())
        await until(lambda: len(port.upgrades) == 1)
        began = trio.current_time()
        check_told_when(await port.ask(head()))
        assert lasted(began) >= LIMITS.head_deadline_s
        assert len(port.upgrades) == 1
        await trio.aclose_forcefully(first)


def test_decisions_are_given_back() -> None:
    admission = Admission(Limits(connections_max=2, handshakes_max=1), lambda: 0.5, None)
    decisions = [admission.enter() for _ in range(6)]
    assert decisions == [*[Decision.SERVED] * 3, Decision.REFUSED, *[Decision.CLOSED] * 2]
    assert repr(admission) == "<Admission 3 sockets, 1 being refused>"
    admission.leave(Decision.SERVED)
    admission.leave(Decision.REFUSED)
    assert admission.enter() is Decision.SERVED
    assert admission.enter() is Decision.REFUSED
    assert admission.refused == 4
    assert msgspec.json.encode(admission.overloaded().details) == b'{"retry_after":3.0}'


@pytest.mark.parametrize("descriptors", [200, 1024, 20_000, 1_000_000])
def test_the_reserve_is_left_whoever_comes(descriptors: int) -> None:
    limits = Limits(connections_max=2000)
    admission = Admission(limits, lambda: 0.5, descriptors)
    admitted = [admission.enter() for _ in range(4_000)]
    assert admitted.count(Decision.CLOSED) > 0
    kept = len(admitted) - admitted.count(Decision.CLOSED)
    assert kept <= descriptors - limits.descriptors_reserved
    assert kept >= min(descriptors // 4, limits.connections_max)
    served = admitted.count(Decision.SERVED)
    websockets = sum(allows(admission, count) for count in range(1, 4_000))
    assert websockets < served, "a probe of a server full of WebSockets is answered"


def allows(admission: Admission, count: int) -> bool:
    """Whether there may be so many WebSockets."""
    try:
        admission.check_websockets(count)
    except OverloadedError:
        return False
    return True
