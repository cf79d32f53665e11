"""Clients take turns, however many requests each has."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dalsegno.protocol import Limits, OverloadedError
from dalsegno.runtime.web._passwords import Passwords
from dalsegno.runtime.web._turns import Turns

from ._client import PASSWORD


@dataclass
class Crowd:
    """Tasks that want turns, hold each until they are told, and note what became of them."""

    turns: Turns
    nursery: trio.Nursery
    had: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _holding: list[trio.Event] = field(default_factory=list)

    async def come(self, *clients: str) -> None:
        for client in clients:
            self.nursery.start_soon(self._have, client)
            await wait_all_tasks_blocked()

    async def _have(self, client: str) -> None:
        try:
            async with self.turns.turn(client):
                self.had.append(client)
                leave = trio.Event()
                self._holding.append(leave)
                await leave.wait()
        except OverloadedError:
            self.refused.append(client)

    async def go_on(self) -> None:
        """Let all that come have their turn."""
        while self._holding:
            self._holding.pop(0).set()
            await wait_all_tasks_blocked()


async def test_one_client_with_many_requests_delays_another_by_one_turn() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(Turns(1, each_max=8, waiting_max=100), nursery)
        await crowd.come(*"aaaaaaaabbc")
        await crowd.go_on()
    assert "".join(crowd.had) == "aabcabaaaaa"
    assert repr(crowd.turns) == "<Turns: 0 of 0 clients wait>"


async def test_of_one_client_so_many_wait_and_the_next_is_refused() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(Turns(2, each_max=8, waiting_max=100), nursery)
        await crowd.come(*"a" * 12, "b")
        assert crowd.refused == ["a", "a"]
        assert repr(crowd.turns) == "<Turns: 9 of 2 clients wait>"
        await crowd.go_on()
    assert crowd.had.count("a") == 10
    assert crowd.had.count("b") == 1


async def test_at_the_bound_of_all_the_client_with_the_most_gives_way() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(Turns(1, each_max=4, waiting_max=6), nursery)
        await crowd.come(*"aaaaa", *"bb")  # one has the place, six wait
        await crowd.come("c")
        assert crowd.refused == ["a"]
        await crowd.come("b", "a")
        assert crowd.refused == ["a", "b", "a"], "nobody has more than these would have"
        await crowd.come("d")
        assert crowd.refused[3:] == ["a"]
        await crowd.come("e")
        assert crowd.refused[4:] in (["a"], ["b"])
        await crowd.come("f", "g")
        assert crowd.refused[5:] in (["a", "g"], ["b", "g"]), "one each: the newcomer's"
        await crowd.go_on()
    assert len(crowd.had) == 7


@pytest.mark.parametrize("called", [False, True])
async def test_who_gives_up_leaves_its_turn_to_the_next(called: bool) -> None:
    turns = Turns(1, each_max=8, waiting_max=8)
    had = trio.Event()

    async def give_up(scope: trio.CancelScope) -> None:
        with scope:
            async with turns.turn("b"):
                await trio.sleep_forever()

    async def have() -> None:
        async with turns.turn("c"):
            had.set()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        async with turns.turn("a"):
            nursery.start_soon(give_up, scope)
            await wait_all_tasks_blocked()
            nursery.start_soon(have)
            await wait_all_tasks_blocked()
            if not called:
                scope.cancel()
                await wait_all_tasks_blocked()
        scope.cancel()  # in the same step in which it was given the place
        await wait_all_tasks_blocked()
        assert had.is_set()
    async with turns.turn("d"):
        pass


async def test_a_place_is_not_lost_to_one_that_is_cancelled_as_it_comes() -> None:
    turns = Turns(1, each_max=1, waiting_max=1)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with turns.turn("a"):
            pytest.fail("cancelled before")
    async with turns.turn("b"):
        assert repr(turns) == "<Turns: 0 of 0 clients wait>"


async def test_passwords_of_one_address_wait_within_a_bound() -> None:
    passwords = Passwords(Limits(passwords_per_address_max=3))
    outcomes: list[str] = []

    async def check() -> None:
        try:
            await passwords.verify("no hash at all", PASSWORD, address="a", begin=lambda: None)
            outcomes.append("checked")
        except OverloadedError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(check)
    assert (outcomes.count("checked"), outcomes.count("refused")) == (5, 4)


@pytest.mark.parametrize("leaver", ["its own", "another's"])
async def test_a_place_is_passed_on_by_who_leaves_in_the_moment_in_which_it_comes(
    leaver: str,
) -> None:
    """Two places lost like that, and nobody could log in until the next start."""
    turns = Turns(1, each_max=8, waiting_max=8)
    go, scope = trio.Event(), trio.CancelScope()

    async def hold() -> None:
        async with turns.turn("a"):
            await go.wait()
            scope.cancel()

    async def wait_in_vain() -> None:
        with scope:
            async with turns.turn("a" if leaver == "its own" else "b"):
                raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait_in_vain)
        await wait_all_tasks_blocked()
        go.set()
    with trio.fail_after(1):
        async with turns.turn("c"):
            assert repr(turns) == "<Turns: 0 of 0 clients wait>"


async def test_who_is_sent_away_and_leaves_in_the_same_moment_leaves_once() -> None:
    turns = Turns(1, each_max=8, waiting_max=2)
    go, scopes = trio.Event(), [trio.CancelScope(), trio.CancelScope()]

    async def wait_in_vain(scope: trio.CancelScope) -> None:
        with scope:
            async with turns.turn("a"):
                raise AssertionError

    async def come_late() -> None:
        await go.wait()
        for scope in scopes:
            scope.cancel()
        async with turns.turn("b"):
            pass

    async with turns.turn("a"), trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(wait_in_vain, scope)
            await wait_all_tasks_blocked()
        nursery.start_soon(come_late)
        await wait_all_tasks_blocked()
        go.set()
        await wait_all_tasks_blocked()
        assert repr(turns) == "<Turns: 1 of 1 clients wait>"
        nursery.cancel_scope.cancel()


async def test_passwords_are_hashed_at_a_low_priority_and_nothing_else_is() -> None:
    if not hasattr(os, "getpriority") or sys.platform != "linux":
        pytest.skip("threads have no priority of their own here")
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert await Passwords(Limits())._run(priority) > here
    assert await trio.to_thread.run_sync(priority) == here
    with pytest.raises(ZeroDivisionError):
        await Passwords(Limits())._run(lambda: 1 // 0)
