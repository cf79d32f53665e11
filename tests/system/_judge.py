"""The end of a test under faults: what every client saw, against what the database holds."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from dalsegno.actors.testing import RUNS, AckSent, Record, Report, check
from dalsegno.runtime.store import PostgresStore
from tests._patience import patient

from ._database import read_log

_ACKS_WITHIN_S = 3.0


async def judge(history: Sequence[Record], dsn: str, *workspace_ids: str) -> Report:
    """Check a history against the log that it led to; return how much there was to it.

    Acks that were taken are written a moment later; that moment is all that it waits for.
    """
    keys = {record.cursor_of for record in history if isinstance(record, AckSent)}
    async with PostgresStore.open(dsn) as store:
        log = {workspace_id: await read_log(store, workspace_id) for workspace_id in workspace_ids}
        heads = {
            workspace_id: head
            for workspace_id in workspace_ids
            if (head := await store.read_head(workspace_id)) is not None
        }
        until = trio.current_time() + patient(_ACKS_WITHIN_S)
        while True:
            cursors = await store.read_cursors(sorted(keys))
            violations = check(history, log, heads=heads, cursors=cursors, runs=RUNS)
            if not (violations and keys) or trio.current_time() > until:
                break
            await trio.sleep(0.1)
    assert not violations, "\n".join(map(str, violations))
    return Report.of(history, log)
