"""The mailbox: bounds, order, and what waits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from dalsegno.actors.workspace._mailbox import Mailbox, MailboxStatistics


@dataclass
class Item:
    name: str
    size: int = 1


def names(items: list[Item]) -> str:
    return "".join(item.name for item in items)


def mailbox(*, count_max: int = 3, bytes_max: int = 10) -> Mailbox[Item]:
    return Mailbox(count_max=count_max, bytes_max=bytes_max)


def fill(box: Mailbox[Item], names: str, size: int = 1) -> None:
    for name in names:
        box.send_nowait(Item(name, size))


def test_the_count_is_bounded() -> None:
    box = mailbox(count_max=2)
    fill(box, "ab")
    with pytest.raises(trio.WouldBlock):
        box.send_nowait(Item("c"))


def test_the_bytes_are_bounded() -> None:
    box = mailbox(bytes_max=10)
    fill(box, "a", 6)
    with pytest.raises(trio.WouldBlock):
        box.send_nowait(Item("b", 5))
    fill(box, "c", 4)
    assert box.statistics() == MailboxStatistics(waiting=2, waiting_bytes=10, senders=0)


def test_an_item_larger_than_the_bound_fits_alone() -> None:
    box = mailbox(bytes_max=10)
    fill(box, "a", 11)
    with pytest.raises(trio.WouldBlock):
        fill(box, "b", 1)
    assert names(box.take(count_max=9, bytes_max=1)) == "a"


def test_what_is_taken_is_bounded_by_count_and_bytes() -> None:
    box = mailbox(count_max=9, bytes_max=100)
    fill(box, "abcd", 4)
    assert names(box.take(count_max=2, bytes_max=100)) == "ab"
    assert names(box.take(count_max=9, bytes_max=7)) == "c"
    assert names(box.take(count_max=9, bytes_max=1)) == "d"
    assert box.take(count_max=9, bytes_max=100) == []
    assert box.statistics() == MailboxStatistics(0, 0, 0)


async def test_waiting_senders_come_in_in_their_order_whatever_their_size() -> None:
    box = mailbox(count_max=4, bytes_max=10)
    fill(box, "abcd", 2)
    order = [Item("e", 9), Item("f", 1), Item("g", 8)]
    taken: list[Item] = []
    async with trio.open_nursery() as nursery:
        for item in order:
            nursery.start_soon(box.send, item)
            await trio.testing.wait_all_tasks_blocked()
        assert box.statistics().senders == 3
        while len(taken) < 7:
            taken += box.take(count_max=1, bytes_max=1)
            # No sender overtakes those that wait, even if there is room for it.
            if box.statistics().senders:
                with pytest.raises(trio.WouldBlock):
                    box.send_nowait(Item("z", 1))
            await trio.testing.wait_all_tasks_blocked()
    assert names(taken) == "abcdefg"


async def test_a_sender_cancelled_while_waiting_left_nothing_and_lets_the_next_in() -> None:
    box = mailbox(count_max=9, bytes_max=10)
    fill(box, "a", 8)
    async with trio.open_nursery() as nursery:
        large = trio.CancelScope()

        async def send_large() -> None:
            with large:
                await box.send(Item("b", 9))

        nursery.start_soon(send_large)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(box.send, Item("c", 1))
        await trio.testing.wait_all_tasks_blocked()
        assert box.statistics().senders == 2
        large.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert box.statistics().senders == 0
    assert names(box.take(count_max=9, bytes_max=99)) == "ac"


async def test_a_cancel_in_the_step_that_makes_room_neither_loses_nor_doubles() -> None:
    box = mailbox(count_max=1)
    fill(box, "a")
    sent = False
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                nonlocal sent
                await box.send(Item("b"))
                sent = True

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            box.take(count_max=1, bytes_max=1)
            scope.cancel()
    assert (len(box) == 1) is sent


async def test_what_is_given_back_stands_in_front_in_order_beyond_the_bound() -> None:
    box = mailbox(count_max=3)
    fill(box, "abc")
    taken = box.take(count_max=2, bytes_max=9)
    fill(box, "de")
    box.give_back(taken)
    assert box.statistics() == MailboxStatistics(waiting=5, waiting_bytes=5, senders=0)
    with pytest.raises(trio.WouldBlock):
        box.send_nowait(Item("f"))
    assert names(box.take(count_max=9, bytes_max=9)) == "abcde"


async def test_giving_back_wakes_who_waits_for_something() -> None:
    box = mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.wait_filled)
        await trio.testing.wait_all_tasks_blocked()
        box.give_back([])
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        box.give_back([Item("a")])
    await box.wait_filled()


async def test_waiting_for_something_waits_again_once_all_is_taken() -> None:
    box = mailbox()
    fill(box, "ab")
    box.take(count_max=2, bytes_max=9)
    with trio.move_on_after(1) as scope:
        await box.wait_filled()
    assert scope.cancelled_caught


async def test_draining_takes_up_to_the_first_to_keep_and_those_who_waited_too() -> None:
    box = mailbox(count_max=3)
    fill(box, "abc")
    async with trio.open_nursery() as nursery:
        for name in "de":
            nursery.start_soon(box.send, Item(name))
            await trio.testing.wait_all_tasks_blocked()
        assert names(box.drain(lambda item: item.name == "c")) == "ab"
        # In one step, so that no sender puts a command where it would never be taken.
        assert names(box.drain()) == "cde"
    assert len(box) == 0


def test_the_repr_shows_how_full_it_is() -> None:
    box = mailbox()
    fill(box, "ab", 2)
    assert repr(box) == "<Mailbox 2/3, 4 bytes>"


async def test_a_sender_that_is_let_in_as_it_is_cancelled_was_let_in() -> None:
    box = mailbox(count_max=1)
    fill(box, "a")
    scope = trio.CancelScope()
    sent = []

    async def send() -> None:
        with scope:
            await box.send(Item("b"))
            sent.append("b")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        assert names(box.take(count_max=1, bytes_max=10)) == "a"
    assert sent == ["b"]
    assert names(box.drain()) == "b"
