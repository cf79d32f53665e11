"""Runs commands through a watcher process, and reads what they write by line; see `_watcher`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trio

from dalsegno.actors.ports import Ended, Line, ProcessNotStartedError
from dalsegno.runtime._background import in_background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from dalsegno.actors.ports import EndedBy, LineChannel

_WATCHER = Path(__file__).with_name("_watcher.py")
_LINES_WAITING = 64
"""Lines that are read ahead of who takes them."""
_READ = 65_536
_GRACE_S = 2.0
"""How long a group that was told to end may take, before it is killed."""
_GONE_S = 5.0
"""How long a group that was killed may take to be gone."""


class _Process:
    """A command, its watcher, and the lines between them."""

    def __init__(self, watcher: trio.Process, said: trio.lowlevel.FdStream) -> None:
        assert isinstance(watcher.stdin, trio.lowlevel.FdStream)
        self._watcher = watcher
        self._control = watcher.stdin
        self._said = said
        self._send, self._receive = trio.open_memory_channel[Line](_LINES_WAITING)
        self._by: EndedBy = "itself"
        self._ended: Ended | None = None
        self._left_bytes = 0
        self._heard = b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Line:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    @property
    def ended(self) -> Ended:
        assert self._ended is not None, "there are more lines"
        return self._ended

    async def serve(self, *, timeout_s: float, line_bytes_max: int, output_bytes_max: int) -> None:
        """Read what it writes, until it has ended, or has to."""
        self._left_bytes = output_bytes_max
        async with self._send:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_after, timeout_s)
                async with trio.open_nursery() as reading:
                    for channel in ("stdout", "stderr"):
                        reading.start_soon(self._read, channel, line_bytes_max)
                    status = await self._status()
                nursery.cancel_scope.cancel()
            self._ended = Ended(status, self._by)

    async def started(self) -> None:
        """Wait until it has started.

        Raises:
            ProcessNotStartedError: it could not be.

        """
        word, number = await self._hear()
        if word != "started":
            error = int(number) if word == "failed" else errno.EIO
            raise _not_started(OSError(error, os.strerror(error)))

    async def _status(self) -> int:
        """Wait for what the watcher says last: how it ended."""
        word, number = await self._hear()
        return int(number) if word == "ended" else -signal.SIGKILL  # the watcher itself was killed

    async def _hear(self) -> tuple[str, str]:
        """Return the next thing that the watcher says; nothing where it is gone."""
        while b"\n" not in self._heard:
            part = await self._said.receive_some()
            if not part:
                return "", ""
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        word, _, number = line.decode().partition(" ")
        return word, number

    async def _read(self, channel: LineChannel, line_bytes_max: int) -> None:
        stream = getattr(self._watcher, channel)
        lines = _Lines(line_bytes_max)
        while data := await stream.receive_some(_READ):
            self._left_bytes -= len(data)
            if self._left_bytes < 0:
                self._kill("output")
                break
            for text, is_cut in lines.feed(data):
                await self._send.send(Line(channel, text, is_cut))
        for text, is_cut in lines.rest():
            await self._send.send(Line(channel, text, is_cut))

    async def _end_after(self, timeout_s: float) -> None:
        await trio.sleep(timeout_s)
        self._by = "timeout"
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._control.send_all(b"t")
        await trio.sleep(_GRACE_S)
        self._kill("timeout")

    def _kill(self, by: EndedBy) -> None:
        if self._by == "itself":
            self._by = by
        self._control.close()

    async def kill(self) -> None:
        """Kill its group, and wait until it is gone."""
        self._control.close()
        with trio.move_on_after(_GONE_S, shield=True) as scope:
            await self._watcher.wait()
        if scope.cancelled_caught:  # it hangs in the kernel, and dies as soon as it does not
            self._watcher.kill()
        for stream in (self._watcher.stdout, self._watcher.stderr, self._said):
            assert stream is not None
            with trio.CancelScope() as closing:
                closing.cancel()
                await stream.aclose()
        self._receive.close()


class _Lines:
    """Splits what a process writes into lines, of which none is longer than a bound."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._line = b""
        self._is_cut = False

    def feed(self, data: bytes) -> list[tuple[str, bool]]:
        """Take what was written; return the lines that it ends."""
        *ended, last = data.split(b"\n")
        found = []
        for part in ended:
            self._add(part)
            found += self.rest(is_line=True)
        self._add(last)
        return found

    def _add(self, part: bytes) -> None:
        room = self._bytes_max - len(self._line)
        self._is_cut = self._is_cut or len(part) > room
        self._line += part[:room]

    def rest(self, *, is_line: bool = False) -> list[tuple[str, bool]]:
        """Return what is there of a line, as a line."""
        line, is_cut, self._line, self._is_cut = self._line, self._is_cut, b"", False
        if not line and not is_line:
            return []
        return [(line.removesuffix(b"\r").decode("utf-8", "replace"), is_cut)]


class Processes:
    """The machine's processes."""

    def __repr__(self) -> str:
        return "<Processes>"

    @asynccontextmanager
    async def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        inherits: Collection[str] | None = None,
        timeout_s: float = 60.0,
        line_bytes_max: int = 65_536,
        output_bytes_max: int = 10 * 1024 * 1024,
    ) -> AsyncIterator[_Process]:
        """Run a command for the length of a block; see `ProcessRunner`."""
        if env is None and inherits is not None:
            env = {name: os.environ[name] for name in inherits if name in os.environ}
        process = await _start(argv, cwd, env)
        serve = partial(
            process.serve,
            timeout_s=timeout_s,
            line_bytes_max=line_bytes_max,
            output_bytes_max=output_bytes_max,
        )
        try:
            await process.started()
            async with in_background(serve):
                yield process
        finally:
            await process.kill()


async def _start(
    argv: Sequence[str], cwd: Path | str | None, env: Mapping[str, str] | None
) -> _Process:
    """Start the watcher of a command.

    Raises:
        ProcessNotStartedError: there is no such folder; no text of a command; no room in the
            system.

    """
    heard, said = os.pipe()
    try:
        try:
            watcher = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-S", str(_WATCHER), str(said), *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=env,
                start_new_session=True,
                pass_fds=(said,),
            )
        finally:
            os.close(said)
    except BaseException as error:
        os.close(heard)
        if isinstance(error, (OSError, ValueError)):
            raise _not_started(error) from error
        raise
    return _Process(watcher, trio.lowlevel.FdStream(heard))


def _not_started(error: OSError | ValueError) -> ProcessNotStartedError:
    name = errno.errorcode.get(getattr(error, "errno", None) or errno.EINVAL, "EINVAL")
    text = getattr(error, "strerror", None) or str(error)
    return ProcessNotStartedError(f"the command could not be started: {text}", error=name)
