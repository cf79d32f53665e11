"""Does a page of a thousand workspaces, or members, cost a small multiple of one query?

A user is in a thousand workspaces, half of which they created, and one of these has a thousand
members.  A server that has none of them in memory is asked for the first page of each list over
HTTP, with a session, again and again on one connection.  The reference is the one query that such
a page is made of, with the same rows, by the server's driver in a bare loop: what is on top are the
session, which ids are on the page, the reader's role, the folding of two thousand entities, and
JSON.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.accounts import CreateSpace, RegisterUser, SetUp, spaces, users
from dalsegno.actors.domains.members import PutMember, members
from dalsegno.actors.domains.notes import notes
from dalsegno.protocol import SYSTEM_WORKSPACE
from dalsegno.runtime import Runtime
from dalsegno.runtime.store import connect
from dalsegno.runtime.store._pools import _OTHERWISE
from dalsegno.runtime.store._sql import array, queries, texts
from dalsegno.runtime.web._auth import COOKIE, open_session

from ._harness import Report, Sample, p50, rounds
from ._processes import OTHER_CORE, SUBJECT_CORE, pinned
from ._servers import postgres, started

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._harness import Options
    from ._servers import Postgres, Server

HEADLINE = "workspaces"

_ME = "ada"
_HOME = "home"
"""The workspace that has the members."""
_AT_ONCE = 50
_REACH = 5.0

Key = tuple[str, str, int]
"""A workspace, a stream, and the version of its domain."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A server, and the names of what it lists."""

    server: Server
    database: Postgres
    seconds: float
    user_ids: Sequence[str]
    workspace_ids: Sequence[str]

    def workspaces(self) -> list[Key]:
        """Return what a page of workspaces is made of."""
        return [
            key
            for workspace_id in self.workspace_ids
            for key in (
                (workspace_id, members.stream_id(_ME), members.version),
                (SYSTEM_WORKSPACE, spaces.stream_id(workspace_id), spaces.version),
            )
        ]

    def members(self) -> list[Key]:
        """Return what a page of members is made of."""
        return [
            key
            for user_id in self.user_ids
            for key in (
                (_HOME, members.stream_id(user_id), members.version),
                (SYSTEM_WORKSPACE, users.stream_id(user_id), users.version),
            )
        ]

    async def ask(self, path: str) -> Sample:
        """Ask the server for a page."""
        return await trio.to_thread.run_sync(partial(self._ask, path))

    def _ask(self, path: str) -> Sample:
        server, latencies = self.server, list[float]()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        cpu_s, postgres_s = server.process.cpu_s(), self.database.cpu_s()
        with pinned(OTHER_CORE):
            began = now = time.perf_counter()
            while now < began + self.seconds:
                connection.request("GET", path, headers={"cookie": server.cookie})
                response = connection.getresponse()
                body = response.read()
                assert response.status == 200, body
                last, now = now, time.perf_counter()
                latencies.append(now - last)
        connection.close()
        return Sample(
            count=len(latencies),
            wall_s=now - began,
            cpu_s=server.process.cpu_s() - cpu_s,
            postgres_s=self.database.cpu_s() - postgres_s,
            latencies_s=latencies,
        )

    async def read(self, keys: Sequence[Key]) -> Sample:
        """Read the rows of a page with the server's driver."""
        workspace_ids, stream_ids, versions = zip(*keys, strict=True)
        wanted = (texts(workspace_ids), texts(stream_ids), array(map(str, versions)), "256")
        latencies: list[float] = []
        with pinned(SUBJECT_CORE):
            connection = await connect(self.database.dsn, settings=_OTHERWISE)
            try:
                cpu_s, postgres_s = time.process_time(), self.database.cpu_s()
                began = now = time.perf_counter()
                while now < began + self.seconds:
                    rows = await connection.fetch(queries()["load_many"], wanted)
                    assert len(rows) >= len(keys) // 2
                    last, now = now, time.perf_counter()
                    latencies.append(now - last)
                return Sample(
                    count=len(latencies),
                    wall_s=now - began,
                    cpu_s=time.process_time() - cpu_s,
                    postgres_s=self.database.cpu_s() - postgres_s,
                    latencies_s=latencies,
                )
            finally:
                await connection.aclose()


async def _fill(rt: Runtime, count: int) -> tuple[str, list[str], list[str]]:
    """Make the user, the workspaces and the members; return a session, and their ids."""
    setup = SetUp(
        user_id=_ME,
        email="ada@example.com",
        display_name="Ada",
        workspace_id=_HOME,
        slug=_HOME,
        name="Home",
    )
    await rt.system.send(setup)
    user_ids = [_ME, *(f"user-{n}" for n in range(1, count))]
    workspace_ids = [_HOME, *(f"workspace-{n}" for n in range(1, count))]
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def make(n: int) -> None:
        async with limiter:
            user_id, workspace_id = user_ids[n], workspace_ids[n]
            email, name = f"{user_id}@example.com", f"User {n}"
            await rt.system.send(
                RegisterUser(user_id=user_id, email=email, display_name=name, role="viewer")
            )
            await rt.workspace(_HOME).send(PutMember(user_id, "viewer"))
            is_mine = n % 2 == 0
            await rt.system.send(
                CreateSpace(
                    workspace_id=workspace_id,
                    slug=workspace_id,
                    name=f"Workspace {n}",
                    owner_id=_ME if is_mine else user_id,
                )
            )
            if not is_mine:
                await rt.workspace(workspace_id).send(PutMember(_ME, "editor"))

    async with trio.open_nursery() as nursery:
        for n in range(1, count):
            nursery.start_soon(make, n)
    user = await rt.system.get(users, _ME)
    assert user is not None, "just made"
    token, _ = await open_session(rt, _ME, user)
    return token, user_ids, workspace_ids


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("lists", options)
    count = options.pick(1_000, quick=20)
    names = ("workspaces", "members")
    pages = [report.add(f"a page of {count:,} {name}", "page") for name in names]
    reads = [report.add(f"  its query, of {name}", "query") for name in names]
    for name, page, read in zip(names, pages, reads, strict=True):
        report.compare(
            f"p50 of a page of {count:,} {name} / of its query",
            page,
            read,
            ratio_id=name,
            of=p50,
            at_most=_REACH,
        )
    with postgres() as database:
        async with Runtime.open(database.dsn, domains=[notes]) as rt:
            token, user_ids, workspace_ids = await _fill(rt, count)
        async with started(database) as server:
            server.cookie = f"{COOKIE}={token}"
            bench = Bench(server, database, options.seconds, user_ids, workspace_ids)
            for counts in rounds(options):
                samples = [
                    await bench.ask(f"/api/workspaces?limit={count}"),
                    await bench.ask(f"/api/workspaces/{_HOME}/members?limit={count}"),
                    await bench.read(bench.workspaces()),
                    await bench.read(bench.members()),
                ]
                if counts:
                    for series, sample in zip((*pages, *reads), samples, strict=True):
                        series.samples.append(sample)
    return report
