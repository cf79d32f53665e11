"""Ctrl-C before there is anything to end in order: no traceback of an import, and status 130."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of what Ctrl-C ended, as shells have it."""


def exit_on_interrupt() -> None:
    """Make Ctrl-C end the process at once during imports, unless the signal is ignored.

    An exception would not do: where Python runs a callback of its import system in between, it is
    printed with its traceback, and the program goes on.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Restore `KeyboardInterrupt` on Ctrl-C; Trio and the password prompt rely on it."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
