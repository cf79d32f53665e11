"""Runs that deciders ask for and cancel, in the commit of what they decide."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App, Context, Domain, DomainError, On, Reject, Touched
from dalsegno.protocol.routes import InWorkspace, RunRoute
from dalsegno.protocol.runs import (
    Done,
    RequestRun,
    RunState,
    Work,
    asked_for,
    cancelled_by,
    runs,
    worker,
)
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after
from tests.runtime.web._client import Site, User
from tests.runtime.web.conftest import open_site


class Order(msgspec.Struct, frozen=True):
    run_id: str
    is_withdrawn: bool = False


class Place(msgspec.Struct, frozen=True):
    order_id: str


class Withdraw(msgspec.Struct, frozen=True):
    order_id: str


class Placed(msgspec.Struct, frozen=True):
    run_id: str


class Withdrawn(msgspec.Struct, frozen=True):
    pass


orders = Domain("order", state=Order, commands=Place | Withdraw, events=Placed | Withdrawn)


@orders.decide
def place(_order: Order | None, command: Place, context: Context) -> Sequence[Placed | On[Any]]:
    run_id = context.new_id()
    asked = asked_for(RequestRun(worker="cook", input=command.order_id), context)
    return [On(runs, run_id, asked), Placed(run_id)]


@orders.decide(follows=lambda order, _: [(runs, order.run_id)])
def withdraw(
    order: Order, _command: Withdraw, context: Context, touched: Touched
) -> Sequence[Withdrawn | On[Any]]:
    run = touched.get(runs, order.run_id)
    assert run is not None
    cancelled = cancelled_by(run, context, reason="changed their mind")
    return [*(On(runs, order.run_id, each) for each in cancelled), Withdrawn()]


@orders.evolve
def placed(_order: Order | None, event: Placed) -> Order:
    return Order(event.run_id)


@orders.evolve
def withdrawn(order: Order, _event: Withdrawn) -> Order:
    return Order(order.run_id, is_withdrawn=True)


@worker("cook", allow=(), on_disconnect="cancel", concurrency=1, rolls_up_s=0.05)
async def cook(run: Work) -> Done:
    """Cook at once what has nothing to wait for, and else until it is cancelled."""
    for number in range(3):
        await run.say(f"{number} ")
        await trio.sleep(0.1)
    if run.input != "quick":
        await trio.sleep_forever()
    return Done(result="served")


async def placed_run(asked: Any, receipt: Any) -> str:
    """The run that a command led to, by the command's own version: a repeat finds the same."""
    order_id = receipt.entity_id
    (event,) = await asked.workspace.history(orders, order_id, after=receipt.version - 1, limit=1)
    return str(msgspec.json.decode(event.payload)["run_id"])


async def shown(asked: Any, run_id: str | None) -> Placed:
    seen = await asked.workspace.look(runs, run_id)
    if seen.state.status == "cancelled":
        raise Reject("ORDER_WITHDRAWN", status=410)
    return Placed(f"{run_id} {seen.state.status}")


APP = App(
    [orders],
    workers=[cook],
    routes=[
        RunRoute(
            "POST",
            "/v1/{space}/orders/{order_id}",
            summary="Order.",
            at=InWorkspace("space"),
            command=lambda asked: Place(asked.params.order_id),
            run_of=placed_run,
            read=shown,
            returns=Placed,
            waits_s=lambda asked: 0.0 if asked.params.order_id == "later" else 90.0,
            is_initiator=False,
        )
    ],
)


@asynccontextmanager
async def kitchen() -> AsyncIterator[Workspace]:
    async with Runtime.open(app=APP, store=MemoryStore(WORLD)) as rt:
        yield rt.workspace("acme")


async def ended(workspace: Workspace, run_id: str) -> RunState:
    with fail_after(20):
        while True:
            run: RunState | None = await workspace.get(runs, run_id)
            assert run is not None
            if not run.is_open:
                return run
            await trio.sleep(0.01)


async def run_of(workspace: Workspace, order_id: str) -> str:
    order: Order | None = await workspace.get(orders, order_id)
    assert order is not None
    return order.run_id


async def test_a_decider_asks_for_what_nobody_may_ask_for() -> None:
    async with kitchen() as workspace:
        await workspace.send(PutMember("ada", "owner"))
        ada = workspace.acting(user_id="ada")
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await ada.send(RequestRun(worker="cook", input="quick"))
        await ada.send(Place("quick"))
        run = await ended(workspace, await run_of(workspace, "quick"))
        assert (run.status, run.result, run.requested_by) == ("succeeded", "served", "ada")


async def test_a_decider_cancels_a_run_under_way_and_one_that_waits() -> None:
    async with kitchen() as workspace:
        for order_id in ("first", "second"):  # one at a time: the second one waits
            await workspace.send(Place(order_id))
        first, second = [await run_of(workspace, each) for each in ("first", "second")]
        with fail_after(20):
            while (run := await workspace.get(runs, first)) is None or run.status != "running":
                await trio.sleep(0.01)
        for order_id in ("second", "first"):
            await workspace.send(Withdraw(order_id))
        for run_id in (first, second):
            run = await ended(workspace, run_id)
            assert run.status == "cancelled"
            assert run.cancelled is not None
            assert run.cancelled.reason == "changed their mind"
        await workspace.send(Withdraw("first"))  # what has ended stays as it is
        assert await run_of(workspace, "first") == first


async def test_what_a_run_says_is_in_the_log_as_soon_as_its_worker_wants() -> None:
    async with kitchen() as workspace:
        await workspace.send(Place("slow"))
        run_id = await run_of(workspace, "slow")
        with fail_after(20):
            while (run := await workspace.get(runs, run_id)) is None or run.written_to < 3:
                await trio.sleep(0.01)
        said = [
            msgspec.json.decode(event.payload)["text"]
            for event in await workspace.events(limit=100)
            if event.type == "run_output"
        ]
        assert said == ["0 ", "1 ", "2 "]


@pytest.mark.parametrize("rolls_up_s", [0.0, 0.04, 10.1])
def test_a_worker_that_rolls_up_too_often_or_too_late_is_none(rolls_up_s: float) -> None:
    wrong = worker("it", rolls_up_s=rolls_up_s)(cook.function)
    with pytest.raises(DomainError, match=r"rolls_up_s is 0\.05 to 10 s"):
        wrong.check()


# --------------------------------------------------------------------------------------- routes


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=APP) as site:
        yield site


@pytest.fixture
async def owner(site: Site) -> User:
    return await site.set_up()


async def test_a_route_waits_as_long_as_it_says_and_shows_what_its_command_led_to(
    owner: User,
) -> None:
    path = f"/v1/{owner.workspace_id}/orders/quick"
    done = await owner.post(path, {}, idempotency_key="k")
    assert (done.status, done.body["run_id"].split()[1]) == (200, "succeeded")
    again = await owner.post(path, {}, idempotency_key="other")
    assert again.body["run_id"] != done.body["run_id"]
    repeat = await owner.post(path, {}, idempotency_key="k")
    assert repeat.body["run_id"] == done.body["run_id"], "and not the one that came later"


async def test_a_route_need_not_wait_nor_be_the_connection_that_asked(
    site: Site, owner: User
) -> None:
    later = await owner.post(f"/v1/{owner.workspace_id}/orders/later", {})
    assert later.status == 202
    run_id = later.body["run_id"].split()[0]
    run: RunState | None = await site.rt.workspace(owner.workspace_id).get(runs, run_id)
    assert run is not None
    assert run.connection_id is None


async def test_what_a_run_has_come_to_may_be_an_error(site: Site, owner: User) -> None:
    workspace = site.rt.workspace(owner.workspace_id)
    async with trio.open_nursery() as nursery:

        async def order() -> None:
            answer = await owner.post(f"/v1/{owner.workspace_id}/orders/slow", {})
            assert (answer.status, answer.code) == (410, "ORDER_WITHDRAWN")

        nursery.start_soon(order)
        with fail_after(20):
            while await workspace.get(orders, "slow") is None:
                await trio.sleep(0.01)
        await workspace.send(Withdraw("slow"))
