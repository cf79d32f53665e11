"""Hostile clients: ``python -m bench._attacks``.

The first line on standard input is a JSON object: for each attack by its name, the `Target` that
it has.  Each further line, ``NAME SECONDS``, runs one for so long, and is answered with a line of
JSON: how many bytes were sent, how many messages and requests were answered in which way, and how
often the server closed a connection.  An attacker that is closed comes back at once.

Each connection has a thread.  All together give way to the database and to the neighbour, which are
on the same core: what these have to wait for is to be the server.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import msgspec

from . import _hostile_inputs as inputs
from ._attackers import Http, Target, WebSocket
from ._client import written
from ._hostile_inputs import MIB

Run: TypeAlias = Callable[[Target, int, Counter[str], float], None]
"""An attack by a target's user on its connection of a number, until a moment of perf_counter()."""

LONG_MS = 10.0
"""What a step may take that has to do with a megabyte."""
SHORT_MS = 5.0
_IN_FLIGHT = 256
_FEW_IN_FLIGHT = 8
"""Of patches of as many operations as one may have, each of 57 KB."""
_PAUSE_S = 0.01
_NICENESS = 10
_IDLE = 1_100
_LOGINS = 70
_UPLOADS = 6
_PATCHES = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One hostile input."""

    says: str
    run: Run
    connections: int = 1
    bound_ms: float = SHORT_MS
    """How long a step of the event loop may take under it, in processor time."""
    workspaces: int = 1
    text: str = ""
    """Of the note that it is about; none: there is no note."""
    patches: int = 0
    """… which were made since."""
    is_heavy: bool = False
    """Whether the server's memory is of interest as well."""


def _flood(
    block: bytes, first: bytes, target: Target, _number: int, tally: Counter[str], end: float
) -> None:
    """Send a block again and again, as fast as the server takes it, and read the answers."""
    with closing(WebSocket(target, tally)) as ws:
        ws.send(first)
        while time.perf_counter() < end:
            if not ws.has_unsent:
                ws.send(block)
            ws.exchange()


def flood(block: bytes, first: bytes = b"") -> Run:
    """Return the attack that floods a WebSocket."""
    return partial(_flood, block, first)


def post(path: str, body: Callable[[Target, int], bytes], *, session: bool = False) -> Run:
    """Return the attack that repeats a request."""

    def run(target: Target, number: int, tally: Counter[str], end: float) -> None:
        cookie, csrf_token = (target.cookie, target.csrf_token) if session else ("", "")
        with closing(Http(target, tally, end)) as http:
            while time.perf_counter() < end:
                data = body(target, number)
                http.ask(inputs.request(path, data, cookie=cookie, csrf_token=csrf_token))

    return run


def pipeline(message: Callable[[Target], bytes]) -> Run:
    """Return the attack that keeps one command, which needs no version, in flight many times."""

    def run(target: Target, _number: int, tally: Counter[str], end: float) -> None:
        data = message(target)
        with closing(WebSocket(target, tally)) as ws:
            ws.send(data * _IN_FLIGHT)
            while time.perf_counter() < end:
                before = ws.answered
                ws.exchange()
                if ws.answered > before:
                    ws.send(data * (ws.answered - before))

    return run


def patches(ops: str, in_flight: int = _IN_FLIGHT, *, leaves: bool = False) -> Run:
    """Return the attack that sends patches in bursts, each on top of the last.

    Some of a burst may be refused, by a budget: then a patch of an impossible version asks for the
    one that the note has by now.
    """

    def run(target: Target, _number: int, tally: Counter[str], end: float) -> None:
        write = partial(inputs.patch, target.workspaces[0], target.note)
        with closing(WebSocket(target, tally)) as ws:
            while time.perf_counter() < end:
                version = _version(ws, write(inputs.PAST_VERSION, inputs.keystroke(0)), end)
                while version and time.perf_counter() < end:
                    before, awaited = ws.committed, ws.answered + in_flight
                    ws.send(b"".join(write(version + n, ops) for n in range(in_flight)))
                    while ws.has_unsent and time.perf_counter() < end:
                        ws.exchange()
                    if leaves:
                        return
                    while ws.answered < awaited and time.perf_counter() < end:
                        ws.exchange()
                    version += ws.committed - before
                    if ws.committed - before < in_flight:
                        version = 0

    return run


def _version(ws: WebSocket, probe: bytes, end: float) -> int:
    """Return the version of the note that a patch in vain learns of; 0 if it is not told."""
    ws.current_version, awaited = 0, ws.answered + 1
    ws.send(probe)
    while ws.answered < awaited and time.perf_counter() < end:
        ws.exchange()
    if not ws.current_version:
        time.sleep(_PAUSE_S)
    return ws.current_version


def _idle(target: Target, _number: int, tally: Counter[str], end: float) -> None:
    """Open many connections, and say nothing on them."""
    with ExitStack() as stack:
        for _ in range(_IDLE):
            sock = stack.enter_context(closing(socket.socket()))
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(("127.0.0.1", target.port))
            tally["opened"] += 1
        time.sleep(max(0.0, end - time.perf_counter()))


def _guess(_target: Target, _number: int) -> bytes:
    """Return a login with a wrong password, each time of another account: none is slowed down."""
    return f'{{"email":"{os.urandom(6).hex()}@example.com","password":"wrong"}}'.encode()


def _upload(target: Target, number: int) -> bytes:
    text = random.choice("abcdefgh") * MIB
    workspace = target.workspaces[number]
    return f'{{"workspace_id":"{workspace}","title":"A note","markdown":"{text}"}}'.encode()


_SMALL = "x" * 1_000
_LARGE = "x" * MIB
_EMOJI = "\N{GRINNING FACE}" + "x" * (MIB - 8)
_BRACKETS = inputs.brackets(2 * MIB)
_FEWER_BRACKETS = inputs.brackets(16 * 1024)
_KEYSTROKE = inputs.keystroke(1_000)
_LOGIN, _NOTES = "/api/auth/login", "/api/notes"


def _conflict(target: Target) -> bytes:
    ops = inputs.keystroke(0)
    return inputs.patch(target.workspaces[0], target.note, inputs.PAST_VERSION, ops)


def _rollback(target: Target) -> bytes:
    return inputs.rollback(target.workspaces[0], target.note, _PATCHES + 1)


_fragments = flood(inputs.empty_fragments(), inputs.first_fragment())

ATTACKS = {
    "fragments": Attack(says="empty fragments", run=_fragments),
    "fragments-10": Attack(says="empty fragments, 10 sockets", run=_fragments, connections=10),
    "pings": Attack(says="pings of 125 bytes", run=flood(inputs.pings())),
    "bad-json": Attack(says="messages that are no JSON", run=flood(inputs.bad_messages())),
    "login-16k": Attack(
        says="login: 16 KiB of brackets", run=post(_LOGIN, lambda *_: _FEWER_BRACKETS)
    ),
    "login-2m": Attack(
        says="login: 2 MiB of brackets",
        run=post(_LOGIN, lambda *_: _BRACKETS),
        bound_ms=LONG_MS,
    ),
    "notes-2m": Attack(
        says="a new note: 2 MiB of brackets",
        run=post(_NOTES, lambda *_: _BRACKETS, session=True),
        bound_ms=LONG_MS,
    ),
    "socket-brackets": Attack(
        says="1 MiB of brackets in strings",
        run=flood(written(inputs.brackets(MIB))),
        bound_ms=LONG_MS,
    ),
    "socket-open": Attack(says="1 MiB of [", run=flood(written("[" * MIB)), bound_ms=LONG_MS),
    "socket-quotes": Attack(says='1 MiB of "', run=flood(written('"' * MIB)), bound_ms=LONG_MS),
    "socket-escapes": Attack(says="1 MiB of \\", run=flood(written("\\" * MIB)), bound_ms=LONG_MS),
    "emoji": Attack(
        says="256 patches of 1 MiB with an emoji",
        run=patches(_KEYSTROKE),
        text=_EMOJI,
        bound_ms=LONG_MS,
    ),
    "emoji-leaving": Attack(
        says="… whose sender leaves at once",
        run=patches(_KEYSTROKE, leaves=True),
        text=_EMOJI,
        bound_ms=LONG_MS,
    ),
    "operations": Attack(
        says="patches of 4,096 operations",
        run=patches(inputs.operations(), _FEW_IN_FLIGHT),
        text=_SMALL,
    ),
    "operations-1m": Attack(
        says="… of a note of 1 MiB",
        run=patches(inputs.operations(), _FEW_IN_FLIGHT),
        text=_LARGE,
        bound_ms=LONG_MS,
    ),
    "conflicts": Attack(says="patches that only conflict", run=pipeline(_conflict), text=_SMALL),
    "rollbacks": Attack(
        says="rollbacks of 1 MiB and 90 patches",
        run=pipeline(_rollback),
        text=_LARGE,
        patches=_PATCHES,
        bound_ms=LONG_MS,
    ),
    "uploads": Attack(
        says="uploads of 1 MiB, 6 connections",
        run=post(_NOTES, _upload, session=True),
        connections=_UPLOADS,
        workspaces=_UPLOADS,
        bound_ms=LONG_MS,
        is_heavy=True,
    ),
    "logins": Attack(
        says="wrong passwords, 70 connections", run=post(_LOGIN, _guess), connections=_LOGINS
    ),
    "idle": Attack(says="1,100 idle connections", run=_idle),
}


def _attack(attack: Attack, target: Target, seconds: float) -> dict[str, int]:
    end = time.perf_counter() + seconds
    tallies = [Counter[str]() for _ in range(attack.connections)]
    threads = [
        threading.Thread(target=_go_on, args=(attack, target, number, tally, end))
        for number, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sum(tallies, Counter[str]()))


def _go_on(attack: Attack, target: Target, number: int, tally: Counter[str], end: float) -> None:
    """Attack on one connection, and on another one whenever the server closes it."""
    while time.perf_counter() < end:
        try:
            attack.run(target, number, tally, end)
        except OSError:
            tally["closed"] += 1
            time.sleep(_PAUSE_S)


def main() -> None:
    """Attack as asked."""
    os.nice(_NICENESS)
    targets = msgspec.json.decode(sys.stdin.readline(), type=dict[str, Target])
    print("ready", flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        told = _attack(ATTACKS[name], targets[name], float(seconds))
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
