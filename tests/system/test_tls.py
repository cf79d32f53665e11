"""A server with a certificate as a process: its signals, and what it says."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from tests._certificates import NAME, certified
from tests._patience import patient, until
from tests.system._processes import Command, Processes, free_port
from tests.system._terminal import Terminal

ASKED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def connected(port: int, number: int) -> trio.SSLStream[trio.SocketStream]:
    """A connection of a client that trusts the certificate of this number, and no other."""
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", port),
        certified(number).trust(),
        server_hostname=NAME,
        https_compatible=True,
    )
    await stream.do_handshake()
    return stream


async def asked(stream: trio.SSLStream[trio.SocketStream]) -> None:
    await stream.send_all(ASKED)
    answer = b""
    while b'"ok"' not in answer:
        more = await stream.receive_some()
        assert more, answer
        answer += more


def has_failed(process: Command, times: int) -> bool:
    return process.err.count("tls_reload_failed") == times


async def test_sighup_has_the_certificate_read_again_and_no_bad_one_is_taken(
    processes: Processes, tmp_path: Path, migrated: str
) -> None:
    port, folder = free_port(), tmp_path / "tls"
    folder.mkdir()
    cert, key = certified(0).write(folder)
    process = await processes.run(
        *("serve", "--database", migrated, "--bind", f"127.0.0.1:{port}"),
        *("--tls-cert", str(cert), "--tls-key", str(key)),
        environment={"DALSEGNO_LIMIT_TLS_CHECK_S": "3600", "DALSEGNO_LIMIT_HEAD_DEADLINE_S": "60"},
    )
    await until(lambda: f"serves on https://127.0.0.1:{port}" in process.out)
    async with await connected(port, 0) as before:
        await asked(before)
        for times, bad in enumerate((certified(1).cert, certified(1).cert[:200], b""), start=1):
            cert.write_bytes(bad)
            process.signal(signal.SIGHUP)
            await until(partial(has_failed, process, times))
            async with await connected(port, 0) as stream:
                await asked(stream)
        certified(1).write(folder)
        process.signal(signal.SIGHUP)
        await until(lambda: "tls_reloaded" in process.err)
        async with await connected(port, 1) as after:
            await asked(after)
            await asked(before)
    assert f"{key}: is not the key of {cert}" in process.err
    assert f"{cert}: holds no certificate in PEM" in process.err
    assert "Traceback" not in process.err
    assert "draining" not in process.err
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0


@pytest.mark.processes
def test_a_terminal_that_is_closed_ends_it_all_the_same(tmp_path: Path, migrated: str) -> None:
    cert, key = certified().write(tmp_path)
    terminal = Terminal(
        *("serve", "--database", migrated, "--bind", "127.0.0.1:0"),
        *("--tls-cert", str(cert), "--tls-key", str(key)),
    )
    try:
        terminal.wait_for("Dal Segno serves on https://")
        assert terminal.hang_up(patient(20)) == 0
    finally:
        terminal.kill()
