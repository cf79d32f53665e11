"""How long does hostile input hold a server's event loop, and what does a neighbour notice?

A neighbour sends short patches at a fixed pace, on schedule, in a workspace of its own.  In each
round it does so once undisturbed and once beside each attack (`_attacks`), whose users, workspaces
and connections are others.  The server is a real one with a watch on its event loop (`_watched`).

Two things count: the longest single step of the event loop, in processor time, from the attack's
begin until the server has finished with what it left behind; and the 99th percentile of the time
from a patch's moment to its answer, beside that of the same neighbour without an attack.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.actors.domains.accounts import RegisterUser, users
from dalsegno.actors.domains.notes import notes
from dalsegno.runtime import Runtime
from dalsegno.runtime.web._auth import COOKIE, open_session

from ._attackers import Target
from ._attacks import ATTACKS, SHORT_MS, Attack
from ._client import upgraded
from ._harness import Figure, Report, Sample, Series, p99, rounds
from ._hostile_inputs import keystroke, patch
from ._machine import resident_bytes, unread_bytes
from ._processes import OTHER_CORE, Child, child, python
from ._servers import postgres, started
from ._watched import Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from ._harness import Options
    from ._servers import Postgres, Server

HEADLINE = "step-operations"

_PACE = 200.0
"""Patches of the neighbour in a second; more than anybody types, and little for a server."""
_NOTE_CHARS = 1_000
_REACH_P99 = 3.0
_LOOK_S = 0.05
_BUSY = 0.3
"""A server that works less than this share of the time has finished with an attack."""
_SETTLE_S = 20.0
_NEIGHBOUR = "neighbour"
_QUIET = "no attack"
"""The name of the rounds without one."""


@dataclass(slots=True)
class Side:
    """A hostile input, or none, and what came of it."""

    name: str
    bound_ms: float
    series: Series
    step: Figure
    memory: Figure | None
    longest: Step | None = None
    """The step that took longest of all."""
    told: Counter[str] = field(default_factory=Counter)
    """What the attackers counted."""
    refused: int = 0
    """Patches of the neighbour that were refused."""


@dataclass(slots=True)
class Bench:
    """A server, those who attack it, and the one beside them."""

    server: Server
    database: Postgres
    attackers: Child
    neighbour: Child
    seconds: float
    settle_s: float
    """How long to wait for the server to finish with what an attack left behind."""
    baseline: float = math.nan
    """Bytes of the server before the first attack."""

    async def measure(self, side: Side, *, counts: bool) -> None:
        """Measure the neighbour's round trips, beside an attack if this side has one."""
        await self._watch()
        cpu_s, postgres_s = self.server.process.cpu_s(), self.database.cpu_s()
        if side.name != _QUIET:
            await self.attackers.tell(f"{side.name} {self.seconds}")
        peak = 0.0
        async with trio.open_nursery() as nursery:

            async def weigh() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, resident_bytes(self.server.process.pid))
                    await trio.sleep(_LOOK_S)

            if side.memory is not None:
                nursery.start_soon(weigh)
            beaten = json.loads(await self.neighbour.ask(f"{_PACE} {self.seconds}"))
            cpu_s = self.server.process.cpu_s() - cpu_s
            postgres_s = self.database.cpu_s() - postgres_s
            if side.name != _QUIET:
                told = json.loads(await self.attackers.hear())
                side.told += Counter(told)
            await self._settle()
            nursery.cancel_scope.cancel()
        step = await self._watch()
        if not counts:
            return
        side.refused += beaten["refused"]
        side.series.samples.append(
            Sample(
                count=len(beaten["latencies_s"]),
                wall_s=beaten["wall_s"],
                cpu_s=cpu_s,
                postgres_s=postgres_s,
                latencies_s=beaten["latencies_s"],
            )
        )
        side.step.rounds.append(1e3 * step.took_s)
        side.longest = max(side.longest or step, step, key=lambda known: known.took_s)
        if side.memory is not None:
            side.memory.rounds.append((peak - self.baseline) / 1e6)

    async def _watch(self) -> Step:
        """Return the longest step since this was last asked."""
        os.kill(self.server.process.pid, signal.SIGUSR1)
        while not (line := await self.server.process.hear()).startswith("{"):
            pass  # how the server introduced itself
        return msgspec.json.decode(line, type=Step)

    async def _settle(self) -> None:
        """Wait until the server has read everything and has little to do, for a while at most."""
        with trio.move_on_after(self.settle_s):
            busy = 1.0
            # A share alone misleads where others had the core in that moment.
            while busy > _BUSY or unread_bytes(self.server.port) > 0:
                before = self.server.process.cpu_s()
                await trio.sleep(_LOOK_S)
                busy = (self.server.process.cpu_s() - before) / _LOOK_S


async def _sessions(dsn: str) -> dict[str, tuple[str, str]]:
    """Register everybody; return the cookie and the token of a session of each.

    This program does so itself: hashing forty passwords would take as long as all the rest.
    """
    sessions: dict[str, tuple[str, str]] = {}
    async with Runtime.open(dsn, domains=[notes]) as rt:
        for name in (_NEIGHBOUR, *ATTACKS):
            email = f"{name}@example.com"
            await rt.system.send(
                RegisterUser(user_id=name, email=email, display_name=name, role="editor")
            )
            user = await rt.system.get(users, name)
            assert user is not None, "just made"
            token, identity = await open_session(rt, name, user)
            assert identity.csrf_token is not None, "it is in a cookie"
            sessions[name] = f"{COOKIE}={token}", identity.csrf_token
    return sessions


async def _target(server: Server, session: tuple[str, str], name: str, attack: Attack) -> Target:
    """Make the workspaces of somebody who attacks, and perhaps a note."""
    cookie, csrf_token = session
    guest = server.acting(cookie, csrf_token)
    workspaces = [await guest.workspace(f"{name}-{n}") for n in range(attack.workspaces)]
    note = ""
    if attack.text:
        body = {"workspace_id": workspaces[0], "title": "A note", "markdown": attack.text}
        note = str((await guest.post("/api/notes", body))["note_id"])
    if attack.patches:
        frames = [
            patch(workspaces[0], note, version, keystroke(version))
            for version in range(1, attack.patches + 1)
        ]
        await trio.to_thread.run_sync(_send, guest, frames)
    return Target(server.port, cookie, csrf_token, workspaces, note)


def _send(server: Server, frames: Iterable[bytes]) -> None:
    """Send messages, each when the last one was answered."""
    sock, _ = upgraded(server.port, "/ws", server.cookie)
    for frame in frames:
        sock.sendall(frame)
        sock.recv(65_536)
    sock.close()


@asynccontextmanager
async def _bench(options: Options) -> AsyncIterator[Bench]:
    with postgres() as database:
        sessions = await _sessions(database.dsn)
        async with started(database, module="bench._watched") as server:
            targets = {
                name: msgspec.to_builtins(await _target(server, sessions[name], name, attack))
                for name, attack in ATTACKS.items()
            }
            neighbour = server.acting(*sessions[_NEIGHBOUR])
            workspace_id = await neighbour.workspace(_NEIGHBOUR)
            note_id = await neighbour.note(workspace_id, _NOTE_CHARS)
            command = python("bench._neighbour", str(options.seed), str(server.port))
            command += [neighbour.cookie, workspace_id, note_id, str(_NOTE_CHARS)]
            async with (
                child("attackers", python("bench._attacks"), core=OTHER_CORE) as attackers,
                child("neighbour", command, core=OTHER_CORE) as beside,
            ):
                await attackers.ask(json.dumps(targets))
                await beside.hear()
                settle_s = options.pick(_SETTLE_S, quick=_SETTLE_S / 40)
                yield Bench(server, database, attackers, beside, 2 * options.seconds, settle_s)


def _side(report: Report, name: str, attack: Attack | None) -> Side:
    says = _QUIET if attack is None else attack.says
    return Side(
        name,
        SHORT_MS if attack is None else attack.bound_ms,
        report.add(says, "patch"),
        report.figure(f"{says}: the longest step", "ms", digits=1),
        report.figure("  the server's memory on top", "MB", digits=1)
        if attack is not None and attack.is_heavy
        else None,
    )


def _compare(report: Report, quiet: Side, side: Side) -> None:
    report.compare(
        f"{side.series.name}: the longest step / {side.bound_ms:g} ms",
        side.step,
        side.bound_ms,
        ratio_id=f"step-{side.name}",
        at_most=1.0,
    )
    report.compare(
        f"{side.series.name}: p99 / without",
        side.series,
        quiet.series,
        ratio_id=f"p99-{side.name}",
        of=p99,
        at_most=_REACH_P99,
    )


def _note(side: Side) -> str:
    """Return what held the longest step, and which answers the attackers got."""
    step = side.longest
    assert step is not None, "measured"
    longest = f"{1e3 * step.took_s:.1f} ms in {step.task.removeprefix('dalsegno.')}"
    if step.collecting_s > step.took_s / 2:  # in whoever's step that fell
        place = f", {1e3 * step.collecting_s:.1f} of it collecting garbage"
    else:
        place = f", {step.place}" if step.place else ""
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(side.told.items()))
    refused = f"; {side.refused} of the neighbour's patches refused" if side.refused else ""
    return f"{side.name}: {longest}{place}; {told or 'nothing sent'}{refused}."


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("hostile", options)
    quiet = _side(report, _QUIET, None)
    sides = [_side(report, name, attack) for name, attack in ATTACKS.items()]
    for side in sides:
        _compare(report, quiet, side)
    async with _bench(options) as bench:
        bench.baseline = resident_bytes(bench.server.process.pid)
        for counts in rounds(options):
            if options.quick and not counts:
                continue  # a warm-up of what means nothing would double the time
            for side in (quiet, *sides):
                await bench.measure(side, counts=counts)
    report.notes += [_note(side) for side in (quiet, *sides)]
    return report
