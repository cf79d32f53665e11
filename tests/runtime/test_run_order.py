"""Two people and their runs, over real sockets: one number for all of it, in one order (P8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from dalsegno.actors.effects import Run
from dalsegno.protocol import App
from dalsegno.protocol.runs import RunState, runs, worker
from tests._patience import fail_after
from tests.runtime._serving import Person, add_member, serving, set_up
from tests.tasks_domain import AddTask, tasks

RUNS_EACH = 12

Json = dict[str, Any]


@worker("work", concurrency=4)
async def work(run: Run) -> AddTask:
    await trio.sleep(0.01 * (run.input % 4))
    return AddTask(task_id=run.id, title="done")


class Socket:
    """One person's socket: what it was told, in its order."""

    def __init__(self, connection: WebSocketConnection, person: Person) -> None:
        self.person = person
        self.events: list[Json] = []
        self.committed: list[Json] = []
        self._connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        fields |= {"type": kind, "workspace_id": self.person.workspace}
        await self._connection.send_message(msgspec.json.encode(fields).decode())

    async def command(self, name: str, **payload: Any) -> None:
        await self.say("command", name=name, payload=payload)

    async def listen(self, until_ended: int) -> None:
        ended = 0
        while ended < until_ended:
            message = msgspec.json.decode(await self._connection.get_message())
            match message["type"]:
                case "event":
                    self.events.append(message)
                    ended += message["event_type"] == "run_finished"
                case "committed":
                    self.committed.append(message)
                case "rejected" | "error":
                    raise AssertionError(message)


@asynccontextmanager
async def socket_of(person: Person) -> AsyncIterator[Socket]:
    address = person.url.replace("http", "ws") + "/ws"
    headers = [(b"cookie", person.cookie.encode())]
    async with open_websocket_url(address, extra_headers=headers) as connection:
        socket = Socket(connection, person)
        await socket.say("subscribe", stream_id=f"workspace:{person.workspace}", cursor=0)
        yield socket


async def ask_and_cancel(socket: Socket, prefix: str, other: str) -> None:
    """Ask for runs, and cancel some of one's own and some of the other's."""
    for number in range(RUNS_EACH):
        run_id = f"{prefix}{number}"
        await socket.command("request_run", run_id=run_id, worker="work", input=number)
        if number % 3 == 0:
            await socket.command("cancel_run", run_id=run_id, reason="my own")
        await trio.sleep(0.005)
        if number % 4 == 3:
            await socket.command("cancel_run", run_id=f"{other}{number - 3}", reason="yours")


async def test_p8_two_people_see_requests_cancels_and_ends_in_one_order_under_one_number(
    migrated: str,
) -> None:
    async with serving(migrated, app=App([tasks], workers=[work])) as site:
        ada = await set_up(site)
        bob = await add_member(site, ada.workspace)
        async with socket_of(ada) as first, socket_of(bob) as second:
            with fail_after(30):
                async with trio.open_nursery() as nursery:
                    for socket in (first, second):
                        nursery.start_soon(socket.listen, 2 * RUNS_EACH)
                    nursery.start_soon(ask_and_cancel, first, "a", "b")
                    nursery.start_soon(ask_and_cancel, second, "b", "a")
        assert first.events == second.events, "in one order"
        numbers = [event["event_seq"] for event in first.events]
        assert numbers == [*range(1, len(numbers) + 1)]
        number_of = {(e["entity"], e["version"]): e["event_seq"] for e in first.events}
        for receipt in (*first.committed, *second.committed):
            number = number_of[receipt["entity"], receipt["version"]]
            if receipt["version"] == 1:
                assert receipt["event_seq"] == number
            else:  # a cancel that came too late changes nothing, and is answered with the head
                assert receipt["event_seq"] >= number
        asked = {e["entity"]: e["event_seq"] for e in first.events if _is(e, "run_requested")}
        assert len(asked) == 2 * RUNS_EACH
        cancelled = {e["entity"]: e for e in first.events if _is(e, "run_cancel_requested")}
        assert {e["payload"]["by"] for e in cancelled.values()} == {ada.user_id, bob.user_id}
        for end in (e for e in first.events if _is(e, "run_finished")):
            entity, outcome = end["entity"], end["payload"]["outcome"]
            was_cancelled = entity in cancelled
            assert outcome == ("cancelled" if was_cancelled else "succeeded")
            assert asked[entity] < end["event_seq"]
            run: RunState | None = await site.runtime.workspace(ada.workspace).get(
                runs, entity.partition(":")[2]
            )
            assert run is not None
            assert run.status == outcome
            task = await site.runtime.workspace(ada.workspace).get(tasks, entity.partition(":")[2])
            assert (task is None) is was_cancelled, "nothing of it takes effect after that event"


def _is(event: Json, event_type: str) -> bool:
    return bool(event["event_type"] == event_type)
