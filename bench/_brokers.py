"""References that are programs of their own: NATS, and nginx with Nchan, each on one core.

They are used if they are on the PATH.  For the fan-out the messages come from this process, as
from a program behind the broker: to NATS as ``PUB`` lines, to Nchan as pipelined ``POST`` requests.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ._processes import SUBJECT_CORE, Child, ChildError, child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_START_DEADLINE_S = 10.0
_POLL_S = 0.02
_READ_BYTES = 1 << 16
_PINNED = """
import os, sys
core, *command = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(core)})
os.execvp(command[0], command)
"""

_NCHAN = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
{load}
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  nchan_shared_memory_size 256M;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /pub {{
      nchan_publisher;
      nchan_channel_id w;
      nchan_message_timeout 5s;
    }}
    location = /sub {{
      nchan_subscriber websocket;
      nchan_channel_id w;
      nchan_subscriber_first_message newest;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker, and how to publish to it."""

    process: Child
    port: int
    is_nats: bool

    async def publish(self, messages: Sequence[bytes]) -> None:
        """Send it messages, and return when it has accepted them all."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        last, request = (b"PONG\r\n", _nats_lines) if self.is_nats else (b"", _posts)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, request(messages))
            if self.is_nats:
                await _read_to(stream, last, 1)
            else:
                await _read_to(stream, b"HTTP/1.1 20", len(messages))


def _nats_lines(messages: Sequence[bytes]) -> bytes:
    lines = [b"PUB w %d\r\n%b\r\n" % (len(message), message) for message in messages]
    return b"".join([b'CONNECT {"verbose":false}\r\n', *lines, b"PING\r\n"])


def _posts(messages: Sequence[bytes]) -> bytes:
    head = b"POST /pub HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
    return b"".join(head % (len(message), message) for message in messages)


async def _read_to(stream: trio.abc.ReceiveStream, mark: bytes, count: int) -> None:
    """Read until a mark has come so many times."""
    carry = b""
    while count > 0:
        data = await stream.receive_some(_READ_BYTES)
        if not data:
            raise ChildError("the broker hung up")
        data = carry + data
        count -= data.count(mark)
        carry = data[len(data) - len(mark) + 1 :]


def nats_server() -> str | None:
    """Find NATS."""
    return shutil.which("nats-server")


def nginx_with_nchan() -> tuple[str, str] | None:
    """Find nginx and its module, where Debian and others put it: beside it, in ``lib``."""
    # Debian installs it in a folder that only root's PATH has.
    nginx = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if nginx is None:
        return None
    module = Path(nginx).parent.parent / "lib" / "nginx" / "modules" / "ngx_nchan_module.so"
    return (nginx, str(module)) if module.exists() else None


@asynccontextmanager
async def open_nats(folder: Path, program: str, *options: str) -> AsyncIterator[Broker]:
    """Run a NATS server for the length of a block."""
    command = [program, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(folder)]
    command += ["--log", str(folder / "nats.log"), *options]
    async with running("nats-server", command) as process:
        ports = folder / f"nats-server_{process.pid}.ports"
        await started(lambda: ports.exists() and bool(ports.read_text()))
        url = json.loads(ports.read_text())["nats"][0]
        yield Broker(process, int(url.rpartition(":")[2]), is_nats=True)


@asynccontextmanager
async def open_nchan(folder: Path, program: str, module: str) -> AsyncIterator[Broker]:
    """Run an nginx with Nchan for the length of a block."""
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_NCHAN.format(folder=folder, load=f"load_module {module};", port=port))
    command = [program, "-p", str(folder), "-e", str(folder / "nginx.log"), "-c"]
    async with running("nginx", [*command, str(configuration)]) as process:
        await started(lambda: listens(port))
        yield Broker(process, port, is_nats=False)


@asynccontextmanager
async def running(name: str, command: Sequence[str]) -> AsyncIterator[Child]:
    """Run a program with every one of its threads on the subject's core, from its first step on."""
    pinned = [sys.executable, "-c", _PINNED, str(SUBJECT_CORE), *command]
    async with child(name, pinned, core=SUBJECT_CORE) as process:
        yield process


async def started(is_there: Callable[[], bool]) -> None:
    """Wait for the sign by which a program shows that it is ready."""
    with trio.fail_after(_START_DEADLINE_S):
        while not is_there():  # noqa: ASYNC110 - nobody here can set an event
            await trio.sleep(_POLL_S)


def free_port() -> int:
    """Find a port for a program that cannot choose one by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Return whether a port accepts connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
