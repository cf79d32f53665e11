"""Pages for readers who are behind at the same place: read once, encoded once, kept for a while.

After a restart a thousand clients resume at about the same cursor.  The first of them reads, the
others join that read; a reader who leaves takes nothing from the others: the next one reads in its
place.  What was read is kept by a bound in bytes, the least recently used goes first.

What is kept never changes, since a log never does; pages of a log that was repaired, or that this
node lost and got back, are under another key.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import trio

from dalsegno.protocol import DalsegnoError, Published

from ._tail import event_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.protocol import Event, Frames

PageKey: TypeAlias = tuple[object, str, int, int]
"""The hub's era, the stream, the first number, and at most how many events."""

_PAGE_BYTES = 500
"""A page without its events."""


class Page(Published):
    """A page that may be kept for others."""

    __slots__ = ("_pages", "bytes", "key")

    def __init__(self, pages: Pages, key: PageKey, events: Sequence[Event], *, whole: bool) -> None:
        super().__init__(events, whole=whole)
        self.key = key
        self.bytes = _PAGE_BYTES + sum(map(event_bytes, events))
        self._pages = pages

    def frames(self, view: Callable[[Event], bytes]) -> Frames:
        """Encode all of it in one view, once for all who look at it that way."""
        known = len(self._frames)
        frames = super().frames(view)
        if len(self._frames) > known:
            self._pages.grow(self, 2 * frames.size)  # the texts, and the same as joined frames
        return frames


@dataclass(slots=True)
class _Reading:
    """A read under way."""

    bound: int
    """How far the workspace was published when it began."""
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
    """Pages given to a reader that were there already."""
    reads: int
    """Reads from the store that were begun."""
    joined: int
    """Readers who waited for another's read."""


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
        """Tell what is kept and what was done."""
        return PagesStatistics(
            pages=len(self._pages),
            bytes=self._bytes,
            found=self._found,
            reads=self._reads,
            joined=self._joined,
        )

    def find(self, key: PageKey) -> Page | None:
        """Look a page up."""
        page = self._pages.get(key)
        if page is not None:
            self._found += 1
            self._pages.move_to_end(key)
        return page

    def keep(self, key: PageKey, events: Sequence[Event], *, whole: bool) -> Page:
        """Make a page, in place of one with the same beginning if there is one."""
        old = self._pages.pop(key, None)
        if old is not None:
            self._bytes -= old.bytes
        page = self._pages[key] = Page(self, key, events, whole=whole)
        self._bytes += page.bytes
        self._shrink(page)
        return page

    async def read(
        self,
        key: PageKey,
        read: Callable[[], Awaitable[Sequence[Event]]],
        *,
        bound: int,
        whole: bool,
    ) -> Page | None:
        """Read a page, or wait for who is reading it; None where nothing follows up to ``bound``.

        Raises:
            DalsegnoError: what the read raised, to all who waited for it.

        """
        while True:
            reading = self._reading.get(key)
            if reading is None:
                return await self._read(key, read, bound=bound, whole=whole)
            self._joined += 1
            await reading.done.wait()
            if reading.error is not None:
                raise reading.error.with_traceback(None)
            # Any page is a page, but that there is none yet is known only as far as was looked.
            if reading.page is not None or (reading.is_answered and reading.bound >= bound):
                return reading.page

    async def _read(
        self,
        key: PageKey,
        read: Callable[[], Awaitable[Sequence[Event]]],
        *,
        bound: int,
        whole: bool,
    ) -> Page | None:
        reading = self._reading[key] = _Reading(bound)
        self._reads += 1
        try:
            events = await read()
            reading.is_answered = True
            if events:
                reading.page = self.keep(key, events, whole=whole)
        except DalsegnoError as error:
            reading.error = error
            raise
        finally:
            del self._reading[key]
            reading.done.set()
        return reading.page

    def grow(self, page: Page, size: int) -> None:
        """Count what a page takes in addition."""
        page.bytes += size
        if self._pages.get(page.key) is page:
            self._bytes += size
            self._shrink(page)

    def _shrink(self, newest: Page) -> None:
        if newest.bytes > self._bytes_max:
            self._drop(newest.key)  # alone too much: it goes, and not all the others
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._pages)))

    def _drop(self, key: PageKey) -> None:
        self._bytes -= self._pages.pop(key).bytes
