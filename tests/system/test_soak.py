"""Full load on two servers while something breaks all the time; the checker sees all of it.

    pytest tests/system/test_soak.py --soak                      ten minutes
    pytest tests/system/test_soak.py --soak --soak-minutes 60    an hour

In rounds of some seconds: each has new workspaces with a crowd and a team in each, so that no
history and no log grows without a bound, and ends with all of it healed, settled and judged.  What
breaks and when is drawn from ``--soak-seed``; the outcome differs from run to run, as processes do.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio

from dalsegno.actors.testing import Report
from dalsegno.runtime.store import ConnectionBrokenError, DatabaseError, connect
from tests._http import PLAIN
from tests._patience import fail_after
from tests._provider import ScriptedProvider, scripted
from tests.system._crowd import NOT_NOW, ORDINARY, Crowd
from tests.system._database import Database, children_of
from tests.system._processes import EMAIL, PASSWORD, QUICK, Owner, Processes, Server
from tests.system._team import Team, propose

SERVED = ("--app", str(Path(__file__).with_name("_soak_app.py")))
WORKSPACES = 3
ROUND_S = 30.0
SETTLE_S = 120.0
SILENCE_S = 2.0


class Breaker:
    """Breaks one thing after the other, and heals it."""

    def __init__(self, cluster: Database, servers: list[Server], chance: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self._cluster = cluster
        self._servers = servers
        self._chance = chance
        self._ways: list[Callable[[], Awaitable[None]]] = [
            self.kill_a_server,
            self.drain_a_server,
            self.stop_a_server_for_a_while,
            self.kill_the_postmaster,
            self.restart_the_database,
            self.terminate_backends,
            self.stop_the_database_for_a_while,
        ]

    async def run_for(self, seconds: float) -> None:
        """Each fault is healed before the next one begins; all are at the end."""
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await trio.sleep(self._chance.uniform(0.2, 2))
            way = self._chance.choice(self._ways)
            await way()
            self.faults[way.__name__] += 1
            self.check_alive()

    def check_alive(self) -> None:
        """No server ends because of what happens around it."""
        for server in self._servers:
            assert server.process is not None
            assert server.process.is_running, server.process.err[-5_000:]
            assert "Traceback" not in server.process.err, server.process.err[-5_000:]

    async def kill_a_server(self) -> None:
        server = self._chance.choice(self._servers)
        await server.kill()
        await trio.sleep(self._chance.uniform(0, 3))
        await server.start(*SERVED)

    async def drain_a_server(self) -> None:
        server = self._chance.choice(self._servers)
        assert await server.stop(within_s=20) == 0
        await server.start(*SERVED)

    async def stop_a_server_for_a_while(self) -> None:
        process = self._chance.choice(self._servers).process
        assert process is not None
        await self._stop_for_a_while([process.pid], most_s=4)

    async def stop_the_database_for_a_while(self) -> None:
        postmaster = self._cluster.postmaster
        await self._stop_for_a_while([postmaster, *children_of(postmaster)], most_s=3)

    async def kill_the_postmaster(self) -> None:
        await self._cluster.kill()

    async def restart_the_database(self) -> None:
        await self._cluster.restart(self._chance.choice(["fast", "immediate"]))

    async def terminate_backends(self) -> None:
        operator = await connect(f"{self._cluster.dsn}&application_name=operator")
        with suppress(ConnectionBrokenError, DatabaseError):
            for _ in range(self._chance.randrange(1, 100)):
                await operator.fetch(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'dalsegno' order by random() limit 1"
                )
                await trio.sleep(0.01)
        await operator.aclose()

    async def _stop_for_a_while(self, pids: list[int], *, most_s: float) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            await trio.sleep(self._chance.uniform(0.1, most_s))
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


async def log_in(server: Server) -> dict[str, str]:
    """Return the headers of the owner's requests.

    Once for the whole soak: a user has fifty sessions, and one more would end the crowd's.
    """
    login = {"email": EMAIL, "password": PASSWORD}
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        answer = await http.post("/api/auth/login", json=login)
        cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    return {"cookie": cookies, "x-csrf-token": answer.json()["csrf_token"]}


async def new_workspace(
    servers: list[Server], headers: dict[str, str], owner: Owner, name: str
) -> Owner:
    """Create one on the server that has the reserved workspace."""
    body = {"slug": name, "name": name}
    with fail_after(SETTLE_S):
        for server in itertools.cycle(servers):
            async with httpx.AsyncClient(base_url=server.url, **PLAIN, timeout=60) as http:
                answer = await http.post("/api/workspaces", json=body, headers=headers)
            if answer.status_code == 201:
                return Owner(answer.json()["workspace_id"], owner.cookie, owner.user_id)
            assert answer.json()["code"] in NOT_NOW, answer.text
            await trio.sleep(0.2)
    raise AssertionError("not reached")


def artifacts_of(cluster: Database) -> Path:
    """Where both servers write files."""
    return cluster.data_dir.parent / "artifacts"


def projects_of(cluster: Database) -> Path:
    """Where the files of both servers' projects are."""
    return cluster.data_dir.parent / "projects"


@asynccontextmanager
async def start_servers(
    processes: Processes, cluster: Database, models: ScriptedProvider
) -> AsyncIterator[list[Server]]:
    servers = [
        Server(
            processes,
            cluster.data_dir,
            database=cluster.dsn,
            node_id=node_id,
            environment={
                **QUICK,
                "DALSEGNO_MODELS": f"http://127.0.0.1:{models.port}",
                "DALSEGNO_ARTIFACTS": str(artifacts_of(cluster)),
                "SOAK_PROJECTS": str(projects_of(cluster)),
            },
        )
        for node_id in ("a", "b")
    ]
    for server in servers:
        await server.start(*SERVED)
    yield servers
    for server in servers:
        assert await server.stop(within_s=20) == 0


async def do_round(
    cluster: Database,
    servers: list[Server],
    breaker: Breaker,
    owners: list[Owner],
    headers: dict[str, str],
    models: ScriptedProvider,
) -> Report:
    ports = [server.port for server in servers]
    crowds = [Crowd(owner, *ports, silence_s=SILENCE_S) for owner in owners]
    teams = [team_of(cluster, owner, servers, headers, models) for owner in owners]
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for crowd, team in zip(crowds, teams, strict=True):
            nursery.start_soon(crowd.run)
            nursery.start_soon(team.run)
            await stack.enter_async_context(crowd.without_acks())
        await breaker.run_for(ROUND_S)
        for crowd, team in zip(crowds, teams, strict=True):
            await crowd.settle(SETTLE_S, beside=await team.finish(cluster.dsn, SETTLE_S))
    report = Report()
    for crowd, team in zip(crowds, teams, strict=True):
        report += await crowd.judge(cluster.dsn)
        assert set(crowd.codes) <= NOT_NOW | ORDINARY
        await team.judge(cluster.dsn)
    return report


def team_of(
    cluster: Database,
    owner: Owner,
    servers: list[Server],
    headers: dict[str, str],
    models: ScriptedProvider,
) -> Team:
    return Team(
        owner.workspace,
        headers,
        *(server.url for server in servers),
        models=models.url,
        artifacts=artifacts_of(cluster),
        projects=projects_of(cluster),
    )


async def test_agents_coordinate_while_servers_are_killed(
    processes: Processes, cluster: Database, owner: Owner
) -> None:
    async with (
        scripted(propose) as models,
        start_servers(processes, cluster, models) as servers,
    ):
        team = team_of(cluster, owner, servers, await log_in(servers[0]), models)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(team.run)
            for server in servers:
                await team.wait(more=40)
                await server.kill()
                await team.wait(more=10)
                await server.start(*SERVED)
            await team.finish(cluster.dsn)
        await team.judge(cluster.dsn)


@pytest.mark.soak
async def test_soak(
    processes: Processes,
    cluster: Database,
    owner: Owner,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lasts_s = 60 * float(request.config.getoption("--soak-minutes"))
    seed = int(request.config.getoption("--soak-seed") or random.randrange(2**32))
    report = Report()
    async with (
        scripted(propose) as models,
        start_servers(processes, cluster, models) as servers,
    ):
        breaker = Breaker(cluster, servers, random.Random(seed))
        headers = await log_in(servers[0])
        began = trio.current_time()
        try:
            for number in itertools.count():
                if trio.current_time() > began + lasts_s:
                    break
                owners = [
                    await new_workspace(servers, headers, owner, f"soak-{number}-{which}")
                    for which in range(WORKSPACES)
                ]
                report += await do_round(cluster, servers, breaker, owners, headers, models)
        finally:
            lasted_s = trio.current_time() - began
            with capsys.disabled():
                print(f"\nseed {seed}, {lasted_s:.0f} s\n{report}\n{dict(breaker.faults)}")
