"""The stream that Hypercorn is handed."""

from __future__ import annotations

import socket

import trio
import trio.testing

from dalsegno.protocol import Limits
from dalsegno.runtime.web._http_bridge import HandedStream
from tests._patience import fail_after


async def test_the_end_waits_for_what_another_task_is_sending() -> None:
    """It was an error, which reset the connection: a client lost the end of its answer."""
    ours, theirs = map(trio.SocketStream, map(trio.socket.from_stdlib_socket, socket.socketpair()))
    handed = HandedStream(ours, b"", Limits(close_deadline_s=60), trio.CancelScope())
    answer = bytes(4 * 1024 * 1024)
    received = 0
    with fail_after(10):
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(handed.send_all, answer)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(handed.aclose)
            await trio.testing.wait_all_tasks_blocked()
            while data := await theirs.receive_some():
                received += len(data)
            await theirs.aclose()
    assert received == len(answer)
