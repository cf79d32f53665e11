"""A command as a person plays it: typed into a terminal, with what the terminal then shows."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress

from tests._patience import patient
from tests.system._processes import DALSEGNO

CTRL_C = b"\x03"


class Terminal:
    """A process of ours that has a terminal of its own."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        kept = {name: value for name, value in os.environ.items() if name[:9] != "DALSEGNO_"}
        self._process = subprocess.Popen(
            # The terminal is the session's, so that a typed Ctrl-C reaches it.
            ["setsid", "--ctty", *DALSEGNO, *arguments],  # noqa: S607
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kept, "COLUMNS": "80", **(environment or {})},
        )
        os.close(slave)
        self.shown = ""

    @property
    def lines(self) -> list[str]:
        return self.shown.replace("^C", "").split("\r\n")[:-1]

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, text: str, within_s: float = 20) -> None:
        """Read what is shown until that is among it."""
        deadline = time.monotonic() + patient(within_s)
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), self.shown

    def end(self, within_s: float = 20) -> int:
        """Read to the end, and return the exit status."""
        while self._read():
            pass
        os.close(self._master)
        return self._process.wait(patient(within_s))

    def hang_up(self, within_s: float) -> int:
        """Close it, as with its window, and return the exit status."""
        os.close(self._master)
        return self._process.wait(within_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> bool:
        data = b""
        with suppress(OSError):  # EIO: the other side is closed
            data = os.read(self._master, 4096)
        self.shown += data.decode(errors="replace")
        return bool(data)
