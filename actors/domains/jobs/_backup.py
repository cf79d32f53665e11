"""A backup: the rows of a workspace, or of all of them, each as it was at its head.

The head of a workspace is read first, and everything else up to it.  Its log only grows, so what is
written meanwhile changes nothing of that, and no transaction is held open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import SYSTEM_WORKSPACE, Reject, instant

from ._backup_format import BEGIN, END, MAGIC, PortionWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol.runs import Dump

    from ._markdown import Out
    from ._progress import Progress

EVENTS = "event"
"""The table of the log."""
_WORKSPACES = 1_000


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of."""

    schema: int
    """Of the rows."""
    workspace_id: str | None
    """None: of everything."""
    made_at: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup has."""

    workspaces: int
    events: int
    rows: int


class HeadRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at of a workspace's head."""

    workspace_id: str
    head_seq: int


async def write_backup(
    dump: Dump,
    out: Out,
    *,
    only: str | None,
    made_at: datetime,
    pause: Callable[[], Awaitable[None]],
    progress: Progress | None = None,
) -> Ended:
    """Write a backup, and return what it has.

    Args:
        dump: the rows.
        out: where to.
        only: the one workspace that it is of; None: all of them, and the accounts.
        made_at: when it was asked for.
        pause: lets others have a turn, where this has taken long.
        progress: is told of each page of events.

    Raises:
        Reject: ``BACKUP_FAILED``: there is no such workspace.

    """
    writing = _Backup(dump, out, pause, progress)
    await out.write(MAGIC)
    began = Began(schema=dump.schema, workspace_id=only, made_at=instant(made_at))
    await writing.portion(BEGIN, "", [msgspec.json.encode(began).decode()])
    has_accounts = False
    found: Sequence[str] = [only] if only is not None else await _listed(dump, "")
    while found:
        for workspace_id in found:
            if workspace_id == SYSTEM_WORKSPACE and only is None:
                has_accounts = True
            else:
                await writing.workspace(workspace_id)
        found = [] if len(found) < _WORKSPACES else await _listed(dump, found[-1])
    if has_accounts:
        # Last: whatever workspace was made meanwhile and is above, the accounts know of it.
        await writing.workspace(SYSTEM_WORKSPACE)
    if only is None:
        for table in dump.common_tables:
            await writing.table(table, "", 0)
    ended = writing.ended()
    await writing.portion(END, "", [msgspec.json.encode(ended).decode()])
    return ended


async def _listed(dump: Dump, after: str) -> Sequence[str]:
    return await dump.workspaces(after=after, limit=_WORKSPACES)


class _Backup:
    """A backup that is being written; it lets others have a turn in between."""

    def __init__(
        self, dump: Dump, out: Out, pause: Callable[[], Awaitable[None]], progress: Progress | None
    ) -> None:
        self._dump = dump
        self._out = out
        self._pause = pause
        self._progress = progress
        self._portions = PortionWriter()
        self._workspaces = self._events = self._rows = 0

    def __repr__(self) -> str:
        return f"<_Backup of {self._workspaces} workspaces, {self._rows} rows>"

    def ended(self) -> Ended:
        """Return what it has."""
        return Ended(workspaces=self._workspaces, events=self._events, rows=self._rows)

    async def workspace(self, workspace_id: str) -> None:
        """Write a workspace as it is at its head.

        Raises:
            Reject: ``BACKUP_FAILED``: there is none.

        """
        head, *others = self._dump.tables
        page = await self._dump.rows(head, workspace_id, upto=0, after=None)
        upto = _head_of(page.rows, workspace_id)
        await self._write(head, workspace_id, page.rows)
        for table in others:
            await self.table(table, workspace_id, upto)
        self._workspaces += 1

    async def table(self, table: str, workspace_id: str, upto: int) -> None:
        """Write the rows of a table."""
        after: str | None = None
        while True:
            page = await self._dump.rows(table, workspace_id, upto=upto, after=after)
            if page.rows:
                await self._write(table, workspace_id, page.rows)
            after = page.next
            if after is None:
                return

    async def _write(self, table: str, workspace_id: str, rows: Sequence[str]) -> None:
        await self.portion(table, workspace_id, rows)
        self._rows += len(rows)
        if table == EVENTS:
            self._events += len(rows)
            if self._progress is not None:
                await self._progress.add(len(rows))

    async def portion(self, part: str, workspace_id: str, rows: Sequence[str]) -> None:
        """Write a portion."""
        steps = self._portions.portion(part, workspace_id, rows)
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                await self._out.write(finished.value)
                return
            await self._pause()


def _head_of(rows: Sequence[str], workspace_id: str) -> int:
    """Return the number of a workspace's last event.

    Raises:
        Reject: ``BACKUP_FAILED``: it has no log.

    """
    if len(rows) != 1:
        raise Reject("BACKUP_FAILED", f"workspace {workspace_id} has no log")
    return msgspec.json.decode(rows[0], type=HeadRow).head_seq
