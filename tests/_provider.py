"""A model provider that does as its script says: a real HTTP server, on loopback.

    async with scripted(says("Da ", "capo."), status(429, {"retry-after": "0"})) as provider:
        provider.settings()     # of a client that asks it
        provider.asked          # what it was asked, in order

Each request gets the next reply of the script, and the last one over and over.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import h11
import trio

from dalsegno.protocol.providers import ProviderSettings
from dalsegno.runtime.providers import (
    ChatMessage,
    ChatPart,
    ChatRequest,
    HttpProviders,
    ProviderKey,
    ProviderLimits,
    open_providers,
)
from dalsegno.runtime.seams import WORLD
from tests._http import PLAIN

KEY = "sk-or-a-key-that-nobody-may-see"
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Asked(NamedTuple):
    """A request."""

    method: str
    target: str
    headers: dict[str, str]
    body: Any


class Wire:
    """The connection of one request, to write whatever one likes to."""

    def __init__(self, stream: trio.abc.Stream, asked: Asked) -> None:
        self.stream = stream
        self.asked = asked

    async def raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        lines = [f"HTTP/1.1 {status} Said"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def events(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        await self.head(headers={"content-type": content_type, "transfer-encoding": "chunked"})

    async def send(self, data: bytes) -> None:
        """Send a chunk of a body."""
        if data:
            await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def say(self, document: Any, *, event: str | None = None) -> None:
        name = "" if event is None else f"event: {event}\n"
        text = document if isinstance(document, str) else json.dumps(document)
        await self.send(f"{name}data: {text}\n\n".encode())

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def cut(self) -> None:
        """Close the connection, where it is."""
        await self.stream.aclose()

    async def stall(self) -> None:
        """Say nothing until the client hangs up."""
        with suppress(*GONE):
            while await self.stream.receive_some():
                pass


Reply: TypeAlias = Callable[[Wire], Awaitable[None]]


class ScriptedProvider:
    def __init__(self, port: int, script: list[Reply], scheme: str = "http") -> None:
        self.port = port
        self.scheme = scheme
        self.script = script
        self.asked: list[Asked] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1/chat/completions"

    @property
    def models(self) -> list[str]:
        return [each.body["model"] for each in self.asked]

    def settings(self, **more: Any) -> ProviderSettings:
        return ProviderSettings(
            **{
                "provider_kind": "lmstudio",
                "model": "first",
                "base_url": self.url,
                "timeout_ms": 20_000,
                "retry_limit": 0,
                **more,
            }
        )

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        with suppress(*GONE):
            while (asked := await _read(stream)) is not None:
                reply = self.script[min(len(self.asked), len(self.script) - 1)]
                self.asked.append(asked)
                await reply(Wire(stream, asked))
        await stream.aclose()


async def _read(stream: trio.abc.Stream) -> Asked | None:
    """Read one request; None where there is no more."""
    parser, body = h11.Connection(h11.SERVER), b""
    asked: h11.Request | None = None
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some()
            if not data and asked is None:
                return None
            parser.receive_data(bytes(data))
        elif isinstance(event, h11.Request):
            asked = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert asked is not None
            headers = {name.decode(): value.decode() for name, value in asked.headers}
            return Asked(asked.method.decode(), asked.target.decode(), headers, json.loads(body))
        else:
            return None


@asynccontextmanager
async def scripted(
    *script: Reply, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedProvider]:
    async with trio.open_nursery() as nursery:
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = plain.socket.getsockname()[1]
        provider = ScriptedProvider(port, list(script), "http" if tls is None else "https")
        listener: trio.abc.Listener[Any] = plain
        if tls is not None:
            listener = trio.SSLListener(plain, tls, https_compatible=True)
        nursery.start_soon(trio.serve_listeners, provider.serve, [listener])
        try:
            yield provider
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def providers(
    provider: ScriptedProvider, limits: ProviderLimits | None = None, **more: Any
) -> AsyncIterator[HttpProviders]:
    """Those that may be asked, without waits between attempts, with the key for this provider."""
    world = replace(WORLD, random=lambda: 0.0)
    given = {"key": ProviderKey(KEY, origins=[provider.url]), "limits": limits, **more}
    given = {"tls": PLAIN["verify"], **given}
    async with open_providers(world=world, trust_env=False, **given) as opened:
        yield opened


async def parts_of(opened: HttpProviders, settings: ProviderSettings, *said: str) -> list[ChatPart]:
    """All parts of an answer."""
    request = ChatRequest.of(settings, [ChatMessage("user", text) for text in said])
    async with opened.of(settings).chat(request) as stream:
        return [part async for part in stream]


# ------------------------------------------------------------------------------ what it can do


def chunk(delta: Any = None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}


def says(*words: str, finish_reason: str | None = "stop", done: bool = True) -> Reply:
    """Stream an answer, word by word."""
    return streams(
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": word}) for word in words),
        *([chunk(finish_reason=finish_reason), USAGE] if finish_reason else []),
        *(["[DONE]"] if done else []),
    )


def streams(*documents: Any) -> Reply:
    """Send these as events, and end."""

    async def reply(wire: Wire) -> None:
        await wire.events()
        for document in documents:
            await wire.say(document)
        await wire.end()

    return reply


def sends(data: bytes, content_type: str = "text/event-stream") -> Reply:
    """Send a body as it is."""

    async def reply(wire: Wire) -> None:
        await wire.events(content_type)
        await wire.send(data)
        await wire.end()

    return reply


def then(*documents: Any, cut: bool = False) -> Reply:
    """Send these as events, and then nothing, or the end of the connection."""

    async def reply(wire: Wire) -> None:
        await wire.events()
        for document in documents:
            await wire.say(document)
        await (wire.cut() if cut else wire.stall())

    return reply


async def stalls(wire: Wire) -> None:
    """Take the request, and say nothing."""
    await wire.stall()


async def cuts(wire: Wire) -> None:
    """Take the request, and close the connection."""
    await wire.cut()


def status(code: int, headers: Mapping[str, str] | None = None, error: Any = None) -> Reply:
    """Answer with a status of HTTP, and an error of OpenAI's form."""

    async def reply(wire: Wire) -> None:
        body = b"" if error is None else json.dumps({"error": error}).encode()
        told = {"content-type": "application/json", "content-length": str(len(body))}
        await wire.head(code, {**told, **(headers or {})})
        await wire.raw(body)

    return reply


def answers(
    document: Any,
    *,
    content_type: str = "application/json",
    length: int | None = None,
    encoding: str | None = None,
) -> Reply:
    """Answer with a body, of the length that it has or of another."""

    async def reply(wire: Wire) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        told = len(body) if length is None else length
        headers = {"content-type": content_type, "content-length": str(told)}
        if encoding is not None:
            headers["content-encoding"] = encoding
        await wire.head(headers=headers)
        await wire.raw(body)
        if told != len(body):
            await wire.cut()

    return reply
