"""A load within this process: a host program's own writers and listeners, with their history."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import trio

from dalsegno.actors import Receipt
from dalsegno.actors.testing import Recorder
from dalsegno.protocol import DalsegnoError
from dalsegno.runtime import Runtime
from tests._patience import until
from tests.tasks_domain import AddTask

_PAUSE_S = 0.02


async def send(
    recorder: Recorder, rt: Runtime, workspace_id: str, marker: str, *, client: str = "host"
) -> Receipt:
    """Add a task, named by its marker, under that as its key."""
    stream_id = f"task:{marker}"
    with recorder.command(
        client, workspace_id, marker=marker, key=marker, stream_id=stream_id, events_max=1
    ) as asked:
        command = AddTask(marker, "a title")
        workspace = rt.workspace(workspace_id)
        receipt = await workspace.send(command, key=marker, correlation_id=marker)
        asked.receipt(receipt)
    return receipt


class Host:
    """Writers and a listener in each of some workspaces of a runtime."""

    def __init__(self, recorder: Recorder, rt: Runtime, *workspace_ids: str, name: str) -> None:
        self.receipts = 0
        self.codes: Counter[str] = Counter()
        self._recorder = recorder
        self._rt = rt
        self._workspace_ids = workspace_ids
        self._name = name
        self._is_calm = False
        self._under_way = 0
        self._heads: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._scope = trio.CancelScope()

    async def run(self, *, writers: int = 3) -> None:
        """Write and listen until `settle`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for workspace_id in self._workspace_ids:
                    nursery.start_soon(self._listen, workspace_id)
                    for number in range(writers):
                        nursery.start_soon(self._write, workspace_id, f"{self._name}-{number}")

    async def wait(self, more: int, within_s: float = 60) -> None:
        """Wait until so many more are acknowledged."""
        goal = self.receipts + more
        await until(lambda: self.receipts >= goal, within_s)

    async def settle(self, within_s: float = 60) -> None:
        """Write nothing new, wait until all is answered and every listener has seen all; leave."""
        self._is_calm = True
        await until(lambda: self._under_way == 0, within_s)
        await until(lambda: all(self._seen[one] >= self._heads[one] for one in self._heads))
        self._recorder.settled()
        self._scope.cancel()

    async def _write(self, workspace_id: str, name: str) -> None:
        for number in itertools.count():
            if self._is_calm:
                return
            self._under_way += 1
            await self._insist(workspace_id, f"{name}-{number}")
            self._under_way -= 1

    async def _insist(self, workspace_id: str, marker: str) -> None:
        while True:
            try:
                receipt = await send(self._recorder, self._rt, workspace_id, marker)
            except DalsegnoError as error:
                if not error.retryable:
                    raise
                self.codes[error.code] += 1
                await trio.sleep(_PAUSE_S * random.random())
            else:
                self.receipts += 1
                self._heads[workspace_id] = max(self._heads[workspace_id], receipt.event_seq)
                return

    async def _listen(self, workspace_id: str) -> None:
        while True:
            connection = self._recorder.new_id()
            code = None
            try:
                await self._follow(workspace_id, connection)
            except DalsegnoError as error:
                code = error.code
                await trio.sleep(_PAUSE_S * random.random())
            finally:
                self._recorder.connection_ended(connection, code)

    async def _follow(self, workspace_id: str, connection: str) -> None:
        after = self._seen[workspace_id]
        async with self._rt.workspace(workspace_id).subscribe(after=after) as events:
            followed = self._recorder.subscription(
                connection, workspace_id, f"workspace:{workspace_id}", cursor=after
            )
            async for event in events:
                followed.delivered(event, is_workspace_stream=True)
                self._seen[workspace_id] = event.event_seq
