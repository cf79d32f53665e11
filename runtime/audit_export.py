"""What is on record, as a file: read a page at a time, and never held as a whole.

Whoever it is for is judged again behind each page, so that somebody who loses the role gets no
further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from dalsegno.actors import PageBounds, Turn
from dalsegno.protocol import AUDIT_WORKSPACE
from dalsegno.protocol.audit import CSV_HEAD, audit_event_of, csv_row, json_row

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from dalsegno.actors import Store
    from dalsegno.protocol import Event, Limits
    from dalsegno.protocol.audit import RecordFilter

ExportFormat: TypeAlias = Literal["csv", "json"]


async def export_records(
    store: Store,
    which: RecordFilter,
    written: ExportFormat,
    *,
    limits: Limits,
    judge: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    """Yield what is on the log of ``$audit`` now, oldest first, some lines at a time.

    A table (RFC 4180), or a JSON array with an object a line.

    Args:
        store: the log.
        which: the records that are wanted.
        written: as what.
        limits: how large a page is.
        judge: raises where it may not be read any longer.

    Raises:
        Reject: of ``judge``.
        StoreUnavailableError: the store is away.

    """
    is_csv = written == "csv"
    row, before = (csv_row, b"") if is_csv else (json_row, b"[\n")
    if is_csv:
        yield CSV_HEAD
    turn = Turn(limits.turn_s)
    head = await store.read_head(AUDIT_WORKSPACE)
    last = 0 if head is None else head.head_seq
    after = 0
    while after < last:
        page = await _page(store, after, last, limits)
        await judge()
        lines = []
        for event in page:
            await turn.pause()
            record = audit_event_of(event)
            if record is not None and which.passes(record):
                lines.append(before + row(event.event_seq, record))
                before = b"" if is_csv else b",\n"
        if lines:
            yield b"".join(lines)
        after = page[-1].event_seq if page else last
    if not is_csv:
        yield b"[]\n" if before == b"[\n" else b"\n]\n"


async def _page(store: Store, after: int, last: int, limits: Limits) -> list[Event]:
    bounds = PageBounds(
        from_seq=after + 1,
        to_event_seq=last,
        limit=limits.page_events,
        bytes_max=limits.page_bytes_max,
    )
    return await store.read_events(AUDIT_WORKSPACE, bounds)
