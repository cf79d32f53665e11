"""A load from several clients, and what must be true of it whatever happens meanwhile."""

from __future__ import annotations

import itertools
from collections import Counter

import trio

from dalsegno.protocol import DalsegnoError
from dalsegno.runtime.client import Client, ClientLimits, Committed, RemoteEvent, open_client
from tests._patience import fail_after, until

from ._database import read_logs
from ._processes import Owner, Server, connect

ONCE = ClientLimits(attempts_max=1, backoff_first_s=0.05)


class Load:
    """Notes that are written, each under a key, until there are enough."""

    def __init__(self, server: Server, owner: Owner) -> None:
        self.receipts: dict[str, Committed] = {}
        self.failures: Counter[str] = Counter()
        self._server = server
        self._owner = owner
        self._keys = (f"key-{number}" for number in itertools.count())
        self._is_enough = False
        self._runs = 0

    async def run(self, *, clients: int = 3, senders: int = 4) -> None:
        """Write until `finish`, over as many connections as it takes."""
        self._runs += 1
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(self._client, senders)
        self._runs -= 1

    async def run_impatiently(self) -> None:
        """Write like a client that sees every failure, and retry under the same key."""
        self._runs += 1
        while not self._is_enough:
            key = next(self._keys)
            while key not in self.receipts:
                try:
                    async with open_client(
                        self._server.url, cookie=self._owner.cookie, limits=ONCE
                    ) as client:
                        await self._write(client, key)
                except DalsegnoError as error:
                    self.failures[error.code] += 1
                    await trio.sleep(0.02)
        self._runs -= 1

    async def wait(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = len(self.receipts) + more
        await until(lambda: len(self.receipts) >= goal, within_s=40)

    async def finish(self) -> int:
        """Begin nothing more; return the highest number once all that was begun has its receipt."""
        self._is_enough = True
        await until(lambda: self._runs == 0, within_s=40)
        return max(receipt.event_seq for receipt in self.receipts.values())

    async def _client(self, senders: int) -> None:
        async with connect(self._server, self._owner) as client, trio.open_nursery() as nursery:

            async def send() -> None:
                while not self._is_enough:
                    await self._write(client, next(self._keys))

            for _ in range(senders):
                nursery.start_soon(send)

    async def _write(self, client: Client, key: str) -> None:
        fields = {"note_id": None, "title": key}
        receipt = await client.send(self._owner.workspace, "create_note", fields, key=key)
        self.receipts[key] = receipt

    async def check(self) -> None:
        """Every acknowledged note exists, once, where its receipt says, and no other of ours."""
        logs = await read_logs(self._server.dsn, self._owner.workspace)
        ours = [event for event in logs[self._owner.workspace] if '"title":"key-' in event.payload]
        there = {event.stream_id: event.event_seq for event in ours}
        assert len(there) == len(ours), "a note was created twice"
        receipts = {receipt.entity: receipt.event_seq for receipt in self.receipts.values()}
        assert receipts == there


async def read_log(server: Server, owner: Owner, at_least: int) -> list[RemoteEvent]:
    """Read all of the workspace's events, of which there must be so many."""
    async with connect(server, owner, client_id="reader") as client:
        fields = {"note_id": None, "title": "the end"}
        last = await client.send(owner.workspace, "create_note", fields)
        log = []
        with fail_after(20):
            async with client.subscribe(f"workspace:{owner.workspace}", cursor=0) as events:
                async for event in events:
                    if event.event_seq == last.event_seq:
                        break
                    log.append(event)
    assert len(log) >= at_least
    return log
