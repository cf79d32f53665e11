"""A subscription for a loop on asyncio: events cross a batch at a time, when the loop wants some.

    the loop has taken all that crossed ──(want)──▶ what has gathered, or else the next event
                                        ◀──(batch)──

In Trio's thread a task takes events from the runtime and gathers them, up to a bound; then it
waits, and the runtime keeps no more for it than for any loop that is slow.  So a batch is one
crossing however many events it has, and a loop that wants nothing costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import trio

from dalsegno.protocol import DalsegnoError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from ._bridge import Bridge, Call

ItemT = TypeVar("ItemT")
ItemT_co = TypeVar("ItemT_co", covariant=True)

_BATCH_ITEMS_MAX = 256
_BATCH_BYTES_MAX = 1024 * 1024


class TrioEvents(Protocol[ItemT_co]):
    """A subscription in Trio's thread."""

    async def __aenter__(self) -> Self:
        """Begin."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""

    async def __anext__(self) -> ItemT_co:
        """Wait for the next one."""


class _Batch(Generic[ItemT]):
    """What crosses at once: events, and the error behind them if there is one."""

    __slots__ = ("bytes", "error", "items")

    def __init__(self) -> None:
        self.items: deque[ItemT] = deque()
        self.bytes = 0
        self.error: DalsegnoError | None = None

    @property
    def is_empty(self) -> bool:
        return not self.items and self.error is None

    @property
    def is_full(self) -> bool:
        return len(self.items) >= _BATCH_ITEMS_MAX or self.bytes >= _BATCH_BYTES_MAX


class _Gatherer(Generic[ItemT]):
    """Gathers events in Trio's thread; all of this is called there."""

    def __init__(
        self,
        subscribe: Callable[[], TrioEvents[ItemT]],
        size_of: Callable[[ItemT], int],
        *,
        began: Callable[[], None],
        deliver: Callable[[_Batch[ItemT]], None],
    ) -> None:
        self._subscribe = subscribe
        self._size_of = size_of
        self._began = began
        self._deliver = deliver
        self._batch: _Batch[ItemT] = _Batch()
        self._is_wanted = False
        self._has_wanted = trio.Event()

    async def run(self) -> None:
        """Gather until the subscription ends, or the host leaves it."""
        async with self._subscribe() as events:
            self._began()
            while True:
                try:
                    item = await events.__anext__()
                except DalsegnoError as error:
                    self._batch.error = error
                    self._hand_over()
                    # To ask again is for the loop to decide, which it has not heard of this yet.
                    await self._wait(lambda: self._batch.is_empty and self._is_wanted)
                except StopAsyncIteration:
                    return
                else:
                    self._batch.items.append(item)
                    self._batch.bytes += self._size_of(item)
                    self._hand_over()
                    await self._wait(lambda: not self._batch.is_full)

    def want(self) -> None:
        """Hand over what has gathered, or else the next event."""
        self._is_wanted = True
        self._hand_over()
        self._has_wanted.set()

    def _hand_over(self) -> None:
        if self._is_wanted and not self._batch.is_empty:
            batch, self._batch = self._batch, _Batch()
            self._is_wanted = False
            self._deliver(batch)

    async def _wait(self, may_go_on: Callable[[], bool]) -> None:
        while not may_go_on():
            self._has_wanted = trio.Event()
            await self._has_wanted.wait()


class AioEvents(Generic[ItemT]):
    """An async iterator of events, as `async for` takes it, or inside ``async with``.

    Inside ``async with`` the subscription ends with the block.  A bare loop that is left early ends
    it soon: when asyncio closes the iterator behind it.
    """

    def __init__(
        self,
        bridge: Bridge[Any],
        subscribe: Callable[[], TrioEvents[ItemT]],
        size_of: Callable[[ItemT], int],
    ) -> None:
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._began: asyncio.Future[None] = self._loop.create_future()
        self._gatherer = _Gatherer(
            subscribe,
            size_of,
            began=lambda: bridge.tell(self._began.set_result, None),
            deliver=lambda batch: bridge.tell(self._take, batch),
        )
        self._batch: _Batch[ItemT] = _Batch()
        self._call: Call[None] | None = None
        self._arrival: asyncio.Future[None] | None = None
        """Set when the batch that is wanted has come, or the subscription has ended."""
        self._is_left = False

    def __repr__(self) -> str:
        state = "left" if self._is_left else "new" if self._call is None else "open"
        return f"<AioEvents {state}, {len(self._batch.items)} waiting>"

    async def __aenter__(self) -> Self:
        """Subscribe.

        Raises:
            DalsegnoError: as in Trio.
            RuntimeClosedError: the runtime's block was left.

        """
        if self._call is not None:
            raise RuntimeError("a subscription is entered once")
        call = self._call = self._bridge.begin(self._gatherer.run, inside=True)
        call.over.add_done_callback(self._wake)
        try:
            await asyncio.wait([self._began, call.over], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._bridge.cancel(call)
            raise
        if not self._began.done():
            call.result()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the subscription; it has ended when this returns."""
        self._is_left = True
        assert self._call is not None, "entered before"
        if await self._bridge.cancel(self._call):
            raise asyncio.CancelledError

    def __aiter__(self) -> AsyncIterator[ItemT]:
        return self._in_a_block() if self._call is None else self

    async def _in_a_block(self) -> AsyncIterator[ItemT]:
        async with self:
            async for item in self:
                yield item

    async def __anext__(self) -> ItemT:
        """Wait for the next event; cancelled, it is still the next one.

        Raises:
            DalsegnoError: as in Trio; where that may be asked again, so may this.
            RuntimeClosedError: the runtime's block was left, or the runtime failed.

        """
        while True:
            if self._is_left or self._call is None:
                raise StopAsyncIteration
            if self._batch.items:
                return self._batch.items.popleft()
            if self._batch.error is not None:
                error, self._batch.error = self._batch.error, None
                raise error
            if self._call.over.done():
                self._call.result()
                raise StopAsyncIteration
            if self._arrival is None:
                self._arrival = self._loop.create_future()
                self._bridge.post(self._gatherer.want)
            await asyncio.wait([self._arrival])

    def _take(self, batch: _Batch[ItemT]) -> None:
        self._batch = batch
        self._wake()

    def _wake(self, _over: object = None) -> None:
        if self._arrival is not None:
            self._arrival.set_result(None)
            self._arrival = None
