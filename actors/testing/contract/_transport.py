"""The contract of transports; see `dalsegno.actors.Transport`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

import pytest
import trio
import trio.testing

from dalsegno.actors.ports import Transport, TransportClosedError
from dalsegno.protocol import Close, Frames, Limits

TRANSPORT_LIMITS = Limits(message_bytes_max=4096, send_buffer_bytes=16 * 1024, close_deadline_s=0.5)
"""The limits with which the suite opens transports."""

BIG = b"x" * 64 * 1024


class TransportClient(Protocol):
    """The other end of a transport: a client that the suite plays."""

    transport: Transport
    hears_codes: bool
    """Whether a transport of this kind is told a client's code and reason; else it says 1006."""

    async def send(self, message: str | bytes) -> None:
        """Send a message; raise `TransportClosedError` if the connection has ended."""

    async def receive(self) -> str:
        """Wait for the next text; raise `TransportClosedError` if the connection has ended."""

    async def close(self, code: int, reason: str) -> None:
        """End the connection with a closing handshake."""

    async def vanish(self) -> None:
        """End the connection without a handshake, as a client that was killed does."""


OpenClient = Callable[[], AbstractAsyncContextManager[TransportClient]]
"""Opens a connection that buffers at most 16 KiB while the client reads nothing."""


def _frames(*texts: str | bytes) -> Frames:
    return Frames([text.encode() if isinstance(text, str) else text for text in texts])


async def _fill(transport: Transport) -> int:
    """Send until the buffers are full and the rest is kept; return the number of messages."""
    for count in range(1, 1000):
        if not transport.send_nowait([_frames(b"%d " % count + BIG)]):
            with trio.move_on_after(0.05):
                await transport.flush()
                continue
            return count
    raise AssertionError("the buffer has no end")


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await trio.sleep(0.001)
    raise AssertionError("the condition never became true")


@pytest.mark.trio
class TransportContract:
    """The contract of transports; see `dalsegno.actors.Transport`.

    A subclass, or a ``conftest.py``, adds the fixture ``open_client``: a function that opens a
    connection with `TRANSPORT_LIMITS` and yields its other end, a `TransportClient`.
    """

    async def test_messages_arrive_whole_and_in_order_both_ways(
        self, open_client: OpenClient
    ) -> None:
        async with open_client() as client:
            for message in ("one", b"\x00two\xff", "dréi", ""):
                await client.send(message)
            received = [await client.transport.receive() for _ in range(4)]
            assert received == ["one", b"\x00two\xff", "dréi", ""]

            assert client.transport.send_nowait([_frames("a", "b"), _frames("ç")])
            assert client.transport.send_nowait([])
            assert client.transport.send_nowait([_frames()])
            assert client.transport.send_nowait([_frames("d")])
            assert [await client.receive() for _ in range(4)] == ["a", "b", "ç", "d"]

    async def test_a_message_of_the_greatest_size_passes_and_a_longer_one_ends_it(
        self,
        open_client: OpenClient,
    ) -> None:
        async with open_client() as client:
            await client.send("x" * 4096)
            assert await client.transport.receive() == "x" * 4096

            async def send_too_much() -> None:
                with suppress(TransportClosedError):
                    await client.send("é" * 2049)
                with pytest.raises(TransportClosedError) as caught:
                    await client.receive()
                assert caught.value.code == Close.MESSAGE_TOO_BIG

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_too_much)
                with pytest.raises(TransportClosedError) as caught:
                    await client.transport.receive()
                assert caught.value.code == Close.MESSAGE_TOO_BIG

    async def test_a_slow_reader_is_told_apart_and_loses_nothing(
        self, open_client: OpenClient
    ) -> None:
        async with open_client() as client:
            transport = client.transport
            count = await _fill(transport)
            flushed = trio.Event()

            async def flush() -> None:
                await transport.flush()
                flushed.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush)
                await trio.testing.wait_all_tasks_blocked()
                assert not flushed.is_set()
                for number in range(1, count + 1):
                    assert (await client.receive()).startswith(f"{number} x")
            assert flushed.is_set()
            assert transport.send_nowait([_frames("after")])
            assert await client.receive() == "after"

    async def test_a_cancelled_flush_keeps_the_rest(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            count = await _fill(client.transport)
            with trio.move_on_after(0.01) as scope:
                await client.transport.flush()
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.transport.flush)
                received = [await client.receive() for _ in range(count)]
            assert [int(text.split()[0]) for text in received] == list(range(1, count + 1))
            assert all(text.endswith(" " + BIG.decode()) for text in received)

    async def test_a_cancelled_receive_loses_no_message(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            with trio.move_on_after(0.01) as scope:
                await client.transport.receive()
            assert scope.cancelled_caught
            await client.send("still here")
            assert await client.transport.receive() == "still here"

    async def test_what_came_together_is_taken_without_waiting(
        self, open_client: OpenClient
    ) -> None:
        async with open_client() as client:
            transport = client.transport
            assert transport.receive_nowait() is None
            await client.send("one")
            await client.send("two")
            await trio.sleep(0.1)  # both have arrived, over any transport
            assert await transport.receive() == "one"
            assert transport.receive_nowait() == "two"
            assert transport.receive_nowait() is None
            await client.send("three")
            assert await transport.receive() == "three", "it still works after finding nothing"
            transport.abort()
            assert transport.receive_nowait() is None, "`receive` raises why"
            with pytest.raises(TransportClosedError):
                await transport.receive()

    async def test_abort_wakes_who_reads_and_who_writes(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            transport = client.transport
            await _fill(transport)
            ended: list[int] = []

            async def expect_the_end(wait: Callable[[], object]) -> None:
                with pytest.raises(TransportClosedError) as caught:
                    await wait()  # type: ignore[misc]  # receive or flush
                ended.append(caught.value.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_the_end, transport.receive)
                nursery.start_soon(expect_the_end, transport.flush)
                await trio.testing.wait_all_tasks_blocked()
                transport.abort()
            assert ended == [1006, 1006]
            transport.abort()
            transport.ping_nowait()
            with pytest.raises(TransportClosedError):
                transport.send_nowait([_frames("late")])
            for wait in (transport.receive, transport.flush):
                with pytest.raises(TransportClosedError):
                    await wait()

    async def test_a_client_that_closes_is_heard_to_the_end_first(
        self, open_client: OpenClient
    ) -> None:
        async with open_client() as client:
            async with trio.open_nursery() as nursery:

                async def say_goodbye() -> None:
                    await client.send("last words")
                    await client.close(4321, "had enough")

                nursery.start_soon(say_goodbye)
                assert await client.transport.receive() == "last words"
                with pytest.raises(TransportClosedError) as caught:
                    await client.transport.receive()
            told = (caught.value.code, caught.value.reason)
            assert told == ((4321, "had enough") if client.hears_codes else (1006, ""))
            with pytest.raises(TransportClosedError):
                client.transport.send_nowait([_frames("late")])

    async def test_a_client_that_vanishes_ends_with_1006(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            await client.vanish()
            with pytest.raises(TransportClosedError) as caught:
                await client.transport.receive()
            assert caught.value.code == 1006

    async def test_closing_tells_why_after_what_was_sent(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            transport = client.transport
            count = await _fill(transport)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.aclose, Close.TRY_AGAIN, "too slow")
                for _ in range(count):
                    await client.receive()
                with pytest.raises(TransportClosedError) as caught:
                    await client.receive()
            assert (caught.value.code, caught.value.reason) == (1013, "too slow")
            for wait in (transport.receive, transport.flush):
                with pytest.raises(TransportClosedError) as caught:
                    await wait()
                assert caught.value.code == 1013
            await transport.aclose(Close.NORMAL, "again")

    async def test_closing_wakes_who_reads(self, open_client: OpenClient) -> None:
        async with open_client() as client, trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(TransportClosedError) as caught:
                    await client.transport.receive()
                assert caught.value.code == Close.GOING_AWAY

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client.transport.aclose, Close.GOING_AWAY, "")
            with pytest.raises(TransportClosedError):
                await client.receive()

    async def test_a_cancelled_close_aborts(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            await _fill(client.transport)
            with trio.move_on_after(0.01) as scope:
                await client.transport.aclose(Close.GOING_AWAY, "")
            assert scope.cancelled_caught
            with pytest.raises(TransportClosedError):
                await client.transport.flush()

    async def test_what_is_heard_is_noted(self, open_client: OpenClient) -> None:
        async with open_client() as client:
            transport = client.transport
            opened = trio.current_time()
            assert transport.last_heard <= opened
            assert transport.last_pong <= opened
            await trio.sleep(0.001)
            await client.send("hello")
            await transport.receive()
            heard = transport.last_heard
            assert heard > opened >= transport.last_pong

            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.receive)
                transport.ping_nowait()
                await _until(lambda: transport.last_pong > heard)
                assert transport.last_heard >= transport.last_pong
                nursery.cancel_scope.cancel()
