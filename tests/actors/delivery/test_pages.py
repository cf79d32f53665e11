"""Shared pages: one read for all that wait for it, whichever of them leaves; bounded by bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from dalsegno.actors.delivery._pages import Page, PageKey, Pages, PagesStatistics
from dalsegno.protocol import Event, StoreUnavailableError
from tests.actors.delivery.test_tail import event

ERA = object()


def key(first: int, limit: int = 2, era: object = ERA) -> PageKey:
    return (era, "workspace:w", first, limit)


class Slow:
    """A store that answers when told to."""

    def __init__(self, *answers: Sequence[Event] | Exception) -> None:
        self.answers = list(answers)
        self.gate = trio.Event()
        self.reads = 0

    async def read(self) -> Sequence[Event]:
        self.reads += 1
        gate = self.gate
        await gate.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self) -> None:
        self.gate.set()
        self.gate = trio.Event()


def events(first: int, last: int) -> list[Event]:
    return [event("w", seq) for seq in range(first, last + 1)]


class Readers:
    """Tasks that read a page."""

    def __init__(self, pages: Pages, store: Slow, nursery: trio.Nursery) -> None:
        self.pages = pages
        self.store = store
        self.nursery = nursery
        self.got: list[Page | Exception | None] = []

    async def begin(self, count: int = 1, *, bound: int = 9) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def group() -> None:
            with scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(count):
                        nursery.start_soon(self._read, bound)

        self.nursery.start_soon(group)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def _read(self, bound: int) -> None:
        try:
            page = await self.pages.read(
                key(1), self.store.read, bound=bound, is_workspace_stream=True
            )
        except StoreUnavailableError as error:
            self.got.append(error)
        else:
            self.got.append(page)

    async def answer(self) -> None:
        self.store.answer()
        await trio.testing.wait_all_tasks_blocked()


async def with_readers(
    store: Slow, play: Callable[[Readers], Awaitable[None]], *, bytes_max: int = 10**6
) -> Readers:
    pages = Pages(bytes_max=bytes_max)
    async with trio.open_nursery() as nursery:
        readers = Readers(pages, store, nursery)
        await play(readers)
        nursery.cancel_scope.cancel()
    assert pages._reading == {}
    return readers


async def test_those_who_are_at_the_same_place_share_one_read_and_one_page() -> None:
    async def play(readers: Readers) -> None:
        await readers.begin(100)
        await readers.answer()

    store = Slow(events(1, 2))
    readers = await with_readers(store, play)
    assert store.reads == 1
    assert len(readers.got) == 100
    assert len({id(page) for page in readers.got}) == 1
    assert readers.pages.find(key(1)) is readers.got[0]
    statistics = readers.pages.statistics()
    assert (statistics.reads, statistics.joined, statistics.pages) == (1, 99, 1)


async def test_who_reads_for_others_and_leaves_takes_nothing_from_them() -> None:
    async def play(readers: Readers) -> None:
        leader = await readers.begin()
        await readers.begin(10)
        assert readers.store.reads == 1
        leader.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert readers.store.reads == 2, "one of the others reads now, and only one"
        await readers.answer()

    readers = await with_readers(Slow(events(1, 2)), play)
    assert len(readers.got) == 10
    assert len({id(page) for page in readers.got}) == 1


async def test_who_waits_for_anothers_read_and_leaves_disturbs_nobody() -> None:
    async def play(readers: Readers) -> None:
        await readers.begin()
        waiting = await readers.begin(3)
        waiting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await readers.answer()

    store = Slow(events(1, 2))
    readers = await with_readers(store, play)
    assert (store.reads, len(readers.got)) == (1, 1)


async def test_a_failure_is_told_to_all_who_waited_and_not_kept() -> None:
    async def play(readers: Readers) -> None:
        await readers.begin(5)
        await readers.answer()
        assert [type(one) for one in readers.got] == [StoreUnavailableError] * 5
        readers.got.clear()
        await readers.begin(2)
        await readers.answer()

    store = Slow(StoreUnavailableError("away"), events(1, 2))
    readers = await with_readers(store, play)
    assert store.reads == 2
    assert all(isinstance(one, Page) for one in readers.got)


async def test_a_bug_in_a_read_is_its_own_readers() -> None:
    async def bug() -> Sequence[Event]:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    pages = Pages(bytes_max=1)
    with pytest.raises(ZeroDivisionError):
        await pages.read(key(1), bug, bound=1, is_workspace_stream=True)
    assert pages._reading == {}


async def test_that_nothing_follows_is_known_only_as_far_as_was_looked() -> None:
    """A reader that came later may know of an event that the read could not see."""

    async def play(readers: Readers) -> None:
        await readers.begin(bound=5)
        await readers.begin(bound=5)
        await readers.begin(bound=7)
        await readers.answer()
        assert readers.got == [None, None]
        assert readers.store.reads == 2
        await readers.answer()

    readers = await with_readers(Slow([], events(1, 1)), play)
    assert isinstance(readers.got[2], Page)


def test_pages_are_kept_by_bytes_the_least_recently_used_goes_first() -> None:
    size = Pages(bytes_max=10**6).keep(key(1), events(1, 2), is_workspace_stream=True).bytes
    pages = Pages(bytes_max=3 * size)
    for first in (1, 3, 5):
        pages.keep(key(first), events(first, first + 1), is_workspace_stream=True)
    assert pages.find(key(1)) is not None
    pages.keep(key(7), events(7, 8), is_workspace_stream=True)
    assert [pages.find(key(first)) is not None for first in (1, 3, 5, 7)] == [
        True,
        False,
        True,
        True,
    ]
    assert pages.statistics() == PagesStatistics(
        pages=3, bytes=3 * size, found=4, reads=0, joined=0
    )
    assert repr(pages) == f"<Pages 3, {3 * size} bytes, 0 being read>"


def test_a_page_in_place_of_a_shorter_one_is_counted_once() -> None:
    pages = Pages(bytes_max=10**6)
    pages.keep(key(1, 9), events(1, 2), is_workspace_stream=True)
    longer = pages.keep(key(1, 9), events(1, 5), is_workspace_stream=True)
    assert pages.find(key(1, 9)) is longer
    assert pages.statistics().bytes == longer.bytes


def test_what_is_encoded_is_counted_too_and_once_a_view() -> None:
    pages = Pages(bytes_max=10**6)
    page = pages.keep(key(1), events(1, 2), is_workspace_stream=True)
    before = page.bytes

    def view(shown: Sequence[Event]) -> list[bytes]:
        return [b"x" * 100 for _ in shown]

    assert page.frames(view) is page.frames(view)
    assert page.bytes == before + len(page.frames(view).wire)
    assert pages.statistics().bytes == page.bytes


def test_a_page_that_is_too_much_alone_is_used_and_not_kept() -> None:
    pages = Pages(bytes_max=5_000)
    small = pages.keep(key(1), events(1, 1), is_workspace_stream=True)
    large = pages.keep(key(2, 9), events(2, 9), is_workspace_stream=True)
    assert len(large.events) == 8
    assert pages.find(key(2, 9)) is None
    assert pages.find(key(1)) is small
    grown = pages.keep(key(10), events(10, 10), is_workspace_stream=True)
    assert len(grown.frames(lambda _: [b"x" * 5_000]).texts) == 1
    assert pages.find(key(10)) is None
    assert pages.statistics().bytes == small.bytes
    grown.frames(lambda _: [b"y"])  # what is not kept is not counted
    assert pages.statistics().bytes == small.bytes


def test_pages_of_another_era_are_not_found() -> None:
    pages = Pages(bytes_max=10**6)
    pages.keep(key(1), events(1, 2), is_workspace_stream=True)
    assert pages.find(key(1, era=object())) is None
