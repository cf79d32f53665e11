"""Pages for readers that are behind at the same cursor: read once, encoded once, kept for a while.

After a restart a thousand clients resume at about the same cursor.  The first of them reads, the
others join that read; if the reader leaves, the next one reads instead.  Pages are kept up to a
bound in bytes, the least recently used go first.

A page never changes, since a log never does; pages of a log that was repaired, or that this node
lost and got back, have another key.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import trio

from dalsegno.protocol import DalsegnoError, Publication

from ._tail import event_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.protocol import Event, Frames, View

PageKey: TypeAlias = tuple[object, str, int, int]
"""The hub's cache generation, the stream, the first number, and the most events."""

_PAGE_BYTES = 500
"""A page without its events."""


class Page(Publication):
    """A page that may be kept for others."""

    __slots__ = ("_pages", "bytes", "key")

    def __init__(
        self, pages: Pages, key: PageKey, events: Sequence[Event], *, is_workspace_stream: bool
    ) -> None:
        super().__init__(events, is_workspace_stream=is_workspace_stream)
        self.key = key
        self.bytes = _PAGE_BYTES + sum(map(event_bytes, events))
        self._pages = pages

    def frames(self, view: View) -> Frames:
        """Encode all of it in one view, once for all readers with that view."""
        known = len(self._frames)
        frames = super().frames(view)
        if len(self._frames) > known:
            self._pages.grow(self, len(frames.wire))
        return frames


@dataclass(slots=True)
class _Reading:
    """A read under way."""

    bound: int
    """The published head of the workspace when it began."""
    done: trio.Event = field(default_factory=trio.Event)
    is_answered: bool = False
    page: Page | None = None
    error: DalsegnoError | None = None


@dataclass(frozen=True, slots=True)
class PagesStatistics:
    """The pages at one moment, and what was done since the start."""

    pages: int
    bytes: int
    found: int
    """Look-ups that were served from memory."""
    reads: int
    """Reads from the store."""
    joined: int
    """Readers that waited for another one's read."""


class Pages:
    """The pages that are kept, and those that are being read."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pages: OrderedDict[PageKey, Page] = OrderedDict()
        """The least recently used first."""
        self._reading: dict[PageKey, _Reading] = {}
        self._found = self._reads = self._joined = 0

    def __repr__(self) -> str:
        return f"<Pages {len(self._pages)}, {self._bytes} bytes, {len(self._reading)} being read>"

    def statistics(self) -> PagesStatistics:
        """Return what is kept and what was done."""
        return PagesStatistics(
            pages=len(self._pages),
            bytes=self._bytes,
            found=self._found,
            reads=self._reads,
            joined=self._joined,
        )

    def find(self, key: PageKey) -> Page | None:
        """Return a page that is kept; None where there is none."""
        page = self._pages.get(key)
        if page is not None:
            self._found += 1
            self._pages.move_to_end(key)
        return page

    def keep(self, key: PageKey, events: Sequence[Event], *, is_workspace_stream: bool) -> Page:
        """Keep a page, in place of one with the same key if there is one."""
        old = self._pages.pop(key, None)
        if old is not None:
            self._bytes -= old.bytes
        page = self._pages[key] = Page(self, key, events, is_workspace_stream=is_workspace_stream)
        self._bytes += page.bytes
        self._shrink(page)
        return page

    async def read(
        self,
        key: PageKey,
        read: Callable[[], Awaitable[Sequence[Event]]],
        *,
        bound: int,
        is_workspace_stream: bool,
    ) -> Page | None:
        """Read a page, or wait for its reader; None where nothing follows up to ``bound``.

        Raises:
            DalsegnoError: what the read raised, to all that waited for it.

        """
        while True:
            reading = self._reading.get(key)
            if reading is None:
                return await self._read(
                    key, read, bound=bound, is_workspace_stream=is_workspace_stream
                )
            self._joined += 1
            await reading.done.wait()
            if reading.error is not None:
                raise reading.error.with_traceback(None)
            # A page serves everybody; that there is none is known only up to that read's bound.
            if reading.page is not None or (reading.is_answered and reading.bound >= bound):
                return reading.page

    async def _read(
        self,
        key: PageKey,
        read: Callable[[], Awaitable[Sequence[Event]]],
        *,
        bound: int,
        is_workspace_stream: bool,
    ) -> Page | None:
        reading = self._reading[key] = _Reading(bound)
        self._reads += 1
        try:
            events = await read()
            reading.is_answered = True
            if events:
                reading.page = self.keep(key, events, is_workspace_stream=is_workspace_stream)
        except DalsegnoError as error:
            reading.error = error
            raise
        finally:
            del self._reading[key]
            reading.done.set()
        return reading.page

    def grow(self, page: Page, size: int) -> None:
        """Count the bytes that a page takes in addition."""
        page.bytes += size
        if self._pages.get(page.key) is page:
            self._bytes += size
            self._shrink(page)

    def _shrink(self, newest: Page) -> None:
        if newest.bytes > self._bytes_max:
            self._drop(newest.key)  # too large by itself: it goes, the others stay
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._pages)))

    def _drop(self, key: PageKey) -> None:
        self._bytes -= self._pages.pop(key).bytes
