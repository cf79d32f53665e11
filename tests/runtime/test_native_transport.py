"""The native WebSocket transport, byte for byte, over TCP on the loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from websockets.frames import Frame, Opcode

from dalsegno.actors import TransportClosedError
from dalsegno.protocol import Close, Frames, Limits
from dalsegno.runtime.web._native import NativeTransport
from tests._patience import fail_after, lasted
from tests._raw_client import RawClient

LIMITS = Limits(message_bytes_max=1000, close_deadline_s=0.3)
TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
PING, PONG, CLOSE = Opcode.PING, Opcode.PONG, Opcode.CLOSE


@asynccontextmanager
async def connected(limits: Limits = LIMITS) -> AsyncIterator[tuple[NativeTransport, RawClient]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        await sock.connect(server.getsockname())
        accepted, _ = server.accept()
    transport = NativeTransport(accepted, limits)
    try:
        with fail_after(10):
            async with trio.SocketStream(sock) as stream:
                yield transport, RawClient(stream)
    finally:
        transport.abort()


async def ended(transport: NativeTransport) -> tuple[int, str]:
    with pytest.raises(TransportClosedError) as caught:
        await transport.receive()
    return caught.value.code, caught.value.reason


async def readable(transport: NativeTransport) -> None:
    """Wait until something has arrived, and was not read."""
    await trio.lowlevel.wait_readable(transport._sock)


async def write_for_ever(transport: NativeTransport) -> None:
    while True:
        transport.send_nowait([frames(b"x" * 100_000)])
        await transport.flush()


async def read_to_the_end(client: RawClient) -> None:
    while await client.stream.receive_some():
        pass


def frames(*texts: bytes) -> Frames:
    return Frames(texts)


# What comes in


async def test_fragments_are_put_together_around_control_frames() -> None:
    async with connected() as (transport, client):
        euro = "€uro".encode()
        await client.send(
            Frame(TEXT, euro[:1], fin=False),
            Frame(PING, b"first"),
            Frame(CONT, euro[1:2], fin=False),
            Frame(CONT, b"", fin=False),
            Frame(PONG, b""),
            Frame(CONT, euro[2:]),
            Frame(BINARY, b"\xff", fin=False),
            Frame(CONT, b"\xfe"),
        )
        assert await transport.receive() == "€uro"
        assert await transport.receive() == b"\xff\xfe"
        assert await client.frame() == (PONG, b"first")


async def test_a_frame_of_single_bytes_is_read() -> None:
    async with connected() as (transport, client), trio.open_nursery() as nursery:

        async def dribble() -> None:
            for byte in Frame(TEXT, b"x" * 200).serialize(mask=True):
                await client.stream.send_all(bytes([byte]))

        nursery.start_soon(dribble)
        assert await transport.receive() == "x" * 200


async def test_a_frame_that_announces_two_megabytes_is_refused_before_it_is_read() -> None:
    async with connected(Limits()) as (transport, client), trio.open_nursery() as nursery:
        await client.stream.send_all(b"\x81\xff" + (2 * 1024 * 1024).to_bytes(8))

        async def see_the_close() -> None:
            code, _ = await client.closed()
            assert code == 1009
            await client.stream.aclose()

        nursery.start_soon(see_the_close)
        assert (await ended(transport))[0] == Close.MESSAGE_TOO_BIG


async def test_the_close_frame_survives_a_client_that_goes_on_sending() -> None:
    """Closing with unread bytes would reset the connection before the close frame is read."""
    limits = Limits(close_deadline_s=5)
    async with connected(limits) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(ended, transport)
        await client.stream.send_all(b"\x81\xff" + (2 * 1024 * 1024).to_bytes(8))
        for _ in range(32):
            await client.stream.send_all(bytes(64 * 1024))
        assert (await client.closed())[0] == 1009
        assert await client.stream.receive_some() == b""
        await client.stream.aclose()


async def test_fragments_count_together() -> None:
    async with connected() as (transport, client):
        await client.send(Frame(TEXT, b"x" * 600, fin=False), Frame(CONT, b"x" * 401))
        assert (await ended(transport))[0] == Close.MESSAGE_TOO_BIG
        assert (await client.closed())[0] == 1009


@pytest.mark.parametrize(
    "wrong",
    [
        [Frame(TEXT, b"\xc3")],
        [Frame(TEXT, b"ok\xff", fin=False), Frame(CONT, b"")],
        [Frame(TEXT, b"\xed\xa0", fin=False), Frame(CONT, b"\x80")],  # a lone surrogate
    ],
    ids=["cut", "fragmented", "surrogate"],
)
async def test_a_text_that_is_not_utf8_ends_with_1007_after_the_good_ones(
    wrong: list[Frame],
) -> None:
    async with connected() as (transport, client):
        await client.send(Frame(TEXT, b"good"), *wrong, Frame(TEXT, b"never looked at"))
        assert await transport.receive() == "good"
        assert (await ended(transport))[0] == Close.INVALID_TEXT
        assert (await client.closed())[0] == 1007


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x81\x02hi",  # not masked
        b"\xc1\x80\x00\x00\x00\x00",  # a reserved bit
        b"\x83\x80\x00\x00\x00\x00",  # an unknown opcode
        b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
        b"\x09\x80\x00\x00\x00\x00",  # a fragmented ping
    ],
)
async def test_a_breach_of_the_framing_ends_with_1002(wrong: bytes) -> None:
    async with connected() as (transport, client):
        await client.stream.send_all(Frame(TEXT, b"good").serialize(mask=True) + wrong)
        assert await transport.receive() == "good"
        assert (await ended(transport))[0] == Close.PROTOCOL_ERROR
        assert (await client.closed())[0] == 1002
        assert await client.stream.receive_some() == b""


async def test_what_came_with_the_upgrade_is_read_first() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        early = Frame(TEXT, b"early").serialize(mask=True)
        transport = NativeTransport(ours, LIMITS, early[:5])
        theirs.send(early[5:] + Frame(TEXT, b"later").serialize(mask=True))
        assert await transport.receive() == "early"
        assert await transport.receive() == "later"
        transport.abort()


async def test_i10_a_read_full_of_frames_is_parsed_in_turns_with_others_between() -> None:
    limits = Limits(read_frames_max=8, control_frames_per_s=1_000)
    async with connected(limits) as (transport, client), trio.open_nursery() as nursery:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        await client.send(*[Frame(PING, b"")] * 400, Frame(TEXT, b"behind them"))
        await readable(transport)
        nursery.start_soon(count)
        assert await transport.receive() == "behind them"
        nursery.cancel_scope.cancel()
    # Trio runs whoever is ready in either order, and so the other task at least every second turn.
    assert turns >= 400 / 8 / 2


@pytest.mark.parametrize(
    "flood",
    [
        [Frame(TEXT, b"", fin=False), *[Frame(CONT, b"", fin=False)] * 10],
        [Frame(PING, b"x" * 125)] * 11,
        [Frame(PONG, b"")] * 11,
    ],
    ids=["fragments", "pings", "pongs"],
)
async def test_frames_that_no_client_needs_end_with_1008_after_the_messages_before(
    flood: list[Frame],
) -> None:
    limits = Limits(fragments_max=10, control_frames_per_s=10, close_deadline_s=5)
    async with connected(limits) as (transport, client), trio.open_nursery() as nursery:
        await client.send(Frame(TEXT, b"good"), *flood, Frame(TEXT, b"never looked at"))
        assert await transport.receive() == "good"
        nursery.start_soon(ended, transport)
        frame = await client.frame()
        while frame[0] is PONG:
            frame = await client.frame()
        assert (frame[0], int.from_bytes(frame[1][:2])) == (CLOSE, Close.POLICY)
        assert await client.stream.receive_some() == b""
        await client.stream.aclose()


async def test_a_close_for_a_policy_parses_nothing_more() -> None:
    """Any other close reads on to the client's own close frame."""
    limits = Limits(close_deadline_s=5)
    async with connected(limits) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.aclose, Close.POLICY, "too much")
        assert await client.closed() == (1008, "too much")
        heard = transport.last_heard
        await client.send(*[Frame(PING, b"")] * 400)
        assert await client.stream.receive_some() == b"", "no pong"
        await client.stream.aclose()
    assert transport.last_heard == heard


# What goes out


async def test_many_small_frames_to_a_slow_reader_keep_their_order() -> None:
    async with connected() as (transport, client):
        texts = [b"%d:" % number + b"x" * 300 for number in range(500)]
        assert not transport.send_nowait([frames(text) for text in texts])
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.02):
            await transport.flush()
        assert not transport.send_nowait([frames(b"behind"), frames()])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.flush)
            received = [await client.frame() for _ in range(501)]
        assert received == [(TEXT, text) for text in [*texts, b"behind"]]


async def test_pongs_wait_behind_a_half_written_frame_and_the_latest_stands_for_all() -> None:
    async with connected() as (transport, client), trio.open_nursery() as nursery:
        big = b"x" * 300_000
        assert not transport.send_nowait([frames(big)])
        before = repr(transport)
        nursery.start_soon(transport.receive)
        for number in range(100):
            await client.send(Frame(PING, b"%d" % number))
        with trio.move_on_after(0.05):
            await transport.flush()
        assert repr(transport) <= before  # a hundred pings unread cost nothing
        nursery.start_soon(transport.flush)
        assert await client.frame() == (TEXT, big)
        assert await client.frame() == (PONG, b"99")
        assert transport.send_nowait([frames(b"next")])
        assert await client.frame() == (TEXT, b"next")
        nursery.cancel_scope.cancel()


async def test_a_ping_goes_only_where_nothing_waits() -> None:
    async with connected() as (transport, client):
        transport.ping_nowait()
        assert await client.frame() == (PING, b"")
        assert not transport.send_nowait([frames(b"x" * 300_000)])
        transport.ping_nowait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.flush)
            assert (await client.frame())[0] is TEXT
        assert transport.send_nowait([frames(b"next")])
        assert await client.frame() == (TEXT, b"next")


async def test_writing_to_a_client_that_reset_the_connection_ends_with_1006() -> None:
    async with connected() as (transport, client):
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await client.stream.aclose()
        with pytest.raises(TransportClosedError) as caught:
            await write_for_ever(transport)
        assert caught.value.code == 1006
        assert (await ended(transport))[0] == 1006
        transport.ping_nowait()


async def test_the_state_shows() -> None:
    async with connected() as (transport, _):
        assert repr(transport).endswith("open, 0 bytes kept>")
        transport.abort()
        assert repr(transport) == "<NativeTransport fd=-1 over 1006, 0 bytes kept>"


# The end


async def test_the_clients_close_is_answered_after_what_it_asked_before() -> None:
    async with connected() as (transport, client):
        await client.send(Frame(TEXT, b"question"), Frame(CLOSE, b"\x03\xe8bye"))
        assert await transport.receive() == "question"
        assert transport.send_nowait([frames(b"answer")])
        assert await ended(transport) == (1000, "bye")
        assert await client.frame() == (TEXT, b"answer")
        assert await client.closed() == (1000, "bye")
        assert await client.stream.receive_some() == b""


async def test_a_close_without_a_code_is_1005() -> None:
    async with connected() as (transport, client):
        await client.send(Frame(CLOSE, b""))
        assert await ended(transport) == (1005, "")
        assert await client.frame() == (CLOSE, b"")


async def test_what_is_on_its_way_is_answered_while_closing() -> None:
    async with connected() as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.aclose, Close.GOING_AWAY, "deploy")
        assert await client.closed() == (1001, "deploy")
        with pytest.raises(TransportClosedError):
            transport.send_nowait([frames(b"late")])
        await client.send(Frame(TEXT, b"too late"), Frame(PING, b"?"))
        await client.send(Frame(CLOSE, b"\x03\xe9"))
        assert await client.stream.receive_some() == b""


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "deaf"])
async def test_a_client_that_never_answers_the_close_is_left_in_time(reads: bool) -> None:
    async with connected() as (transport, client):
        if not reads:
            assert not transport.send_nowait([frames(b"x" * 300_000)])
        before = trio.current_time()
        await transport.aclose(Close.TRY_AGAIN, "too slow")
        assert 0.3 <= lasted(before) < 2
        if reads:
            assert await client.closed() == (1013, "too slow")
        assert await ended(transport) == (1013, "too slow")


async def test_who_closes_takes_over_from_a_reader_that_is_cancelled() -> None:
    async with connected(Limits(close_deadline_s=60)) as (transport, client):
        async with trio.open_nursery() as closing, trio.open_nursery() as reading:
            reading.start_soon(transport.receive)
            await trio.testing.wait_all_tasks_blocked()
            closing.start_soon(transport.aclose, Close.GOING_AWAY, "")
            assert await client.closed() == (1001, "")
            reading.cancel_scope.cancel()
            closing.start_soon(client.send, Frame(CLOSE, b"\x03\xe9"))
        assert await client.stream.receive_some() == b""


async def test_a_cancelled_close_has_told_the_client() -> None:
    async with connected() as (transport, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.aclose(Close.GOING_AWAY, "deploy")
        assert scope.cancelled_caught
        assert await client.closed() == (1001, "deploy")
        assert await client.stream.receive_some() == b""


async def test_a_long_reason_is_cut_between_characters() -> None:
    async with connected() as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.aclose, Close.POLICY, "€" * 100)
        assert await client.closed() == (1008, "€" * 41)
        await client.stream.aclose()


async def test_aborting_resets_the_connection() -> None:
    async with connected() as (transport, client):
        assert not transport.send_nowait([frames(b"x" * 300_000)])
        transport.abort()
        with pytest.raises(trio.BrokenResourceError):
            await read_to_the_end(client)
