"""A client of event streams that reads block by block, as the standard has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import h11
import msgspec
import trio

from tests._patience import fail_after

from ._serving import Person


class Block(msgspec.Struct, frozen=True):
    event: str
    id: str | None
    data: str
    retry: str | None = None

    @property
    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = msgspec.json.decode(self.data)
        return said


class Blocks:
    """The blocks of one response."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.last_id: str | None = None
        self.retry: str | None = None
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._read = b""

    async def ask(self, target: str, headers: dict[str, str], *, host: str = "127.0.0.1") -> None:
        """Send the request, and read the head of the answer."""
        named = [("host", host), *headers.items()]
        request = h11.Request(method="GET", target=target, headers=named)
        await self._stream.send_all(self._http.send(request) or b"")
        await self._stream.send_all(self._http.send(h11.EndOfMessage()) or b"")
        answer = await self._event()
        assert isinstance(answer, h11.Response | h11.InformationalResponse)  # 101
        self.status = answer.status_code
        self.headers = {name.decode(): value.decode() for name, value in answer.headers}

    async def _event(self) -> object:
        with fail_after(20):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some()))
            return event

    async def next(self) -> Block | None:
        """The next block of any kind; None at the end."""
        while b"\n\n" not in self._read:
            event = await self._event()
            if not isinstance(event, h11.Data):
                assert not self._read, "a block without an end"
                return None
            self._read += event.data
        text, _, self._read = self._read.partition(b"\n\n")
        fields: dict[str, list[str]] = {}
        for line in text.decode().split("\n"):
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        id_, retry = fields.get("id", [None])[-1], fields.get("retry", [None])[-1]
        self.last_id, self.retry = id_ or self.last_id, retry or self.retry
        return Block(
            event=fields.get("event", [""])[-1],
            id=id_,
            data="\n".join(fields.get("data", [])),
            retry=retry,
        )

    async def hear(self, *events: str) -> Block:
        """The next block with one of these events, whatever comes before."""
        while True:
            block = await self.next()
            assert block is not None, "the stream has ended"
            if block.event in events:
                return block

    async def rest(self) -> list[Block]:
        """Everything up to the end."""
        blocks = []
        while (block := await self.next()) is not None:
            blocks.append(block)
        return blocks


@asynccontextmanager
async def following(
    person: Person, path: str | None = None, *, last_event_id: str | None = None, **query: str
) -> AsyncIterator[Blocks]:
    headers = {"cookie": person.cookie}
    if last_event_id is not None:
        headers["last-event-id"] = last_event_id
    path = path or f"/api/v1/workspaces/{person.workspace}/events"
    async with await trio.open_tcp_stream("127.0.0.1", urlsplit(person.url).port or 80) as stream:
        blocks = Blocks(stream)
        await blocks.ask(f"{path}?{urlencode(query)}", headers)
        yield blocks
