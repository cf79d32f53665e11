"""The process between this one and a command: it kills the command's group once nobody needs it.

Run as a script, with nothing but the standard library.  Its standard input is a pipe whose other
end the server has: a byte asks for the group's end, and its closing, also by the death of the
server, for its death.  (A signal on the parent's death would come when the *thread* ends that
started it.)  How the command ended is written to the descriptor that the first argument names.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

_SERVER = 0


def main() -> None:
    """Run the command, and watch over it and the server."""
    said, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(said, False)
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    failed, failing = os.pipe()  # closed by what the command becomes
    pid = os.fork()
    if pid == 0:
        _become(command, failing)
    os.close(failing)
    for descriptor in (1, 2):  # the command's alone: they end with it
        os.close(descriptor)
    error = os.read(failed, 100)
    if error:
        _say(said, f"failed {error.decode()}")
        return
    _say(said, "started 0")
    status = _watch(pid, woken)
    _kill(pid, signal.SIGKILL)  # what the command left behind
    _say(said, f"ended {os.waitstatus_to_exitcode(status)}")


def _become(command: list[str], failing: int) -> None:
    """Become the command, in a session of its own."""
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and others expect it
        os.execvp(command[0], command)  # noqa: S606 - that is what it is for
    except OSError as error:
        os.write(failing, str(error.errno).encode())
    finally:
        os._exit(127)


def _watch(pid: int, woken: int) -> int:
    """Wait for the command's end, and end it where the server says so, or is not there."""
    listening = [_SERVER, woken]
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        ready, _, _ = select.select(listening, [], [])
        if woken in ready:
            os.read(woken, 1_000)
        if _SERVER in ready:
            if os.read(_SERVER, 1):
                _kill(pid, signal.SIGTERM)
            else:
                _kill(pid, signal.SIGKILL)
                listening.remove(_SERVER)


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has no process any longer
        os.killpg(pid, number)


def _say(said: int, text: str) -> None:
    with suppress(BrokenPipeError):  # the server is not there
        os.write(said, text.encode() + b"\n")


if __name__ == "__main__":
    main()
