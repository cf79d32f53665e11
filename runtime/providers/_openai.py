"""A client of OpenAI-compatible chat completions, streamed, over Trio.

**Waiting.**  Three clocks run while a part is waited for, and none while its reader does something
else: how long nothing at all has come (the settings' ``timeout_ms``; a comment counts, with which
providers say that they are at work), how long no token has, and how long it took altogether.

**Closing.**  Where the block is left early, the connection is closed, which stops most providers.
httpx reads a body by generators within generators that do not close one another.  What ends all
of them is an exception in the innermost, so a last read is made in a scope that is cancelled.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec
import trio

from dalsegno.protocol.providers import Answered, ProviderError

from ._answer import Answer, parse_json
from ._failures import error_of, failure_in_answer, failure_of_status
from ._sse import SseEvent, SseParser, SseTooLongError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from datetime import datetime

    from dalsegno.protocol.providers import ChatMessage, ChatPart, ChatRequest, Tool

    from ._keys import ProviderKey
    from ._limits import ProviderLimits

_USAGE_S = 2.0
"""How long the usage and the end of a stream are waited for, once the answer says how it ended."""
_TAIL_S = 0.25
"""How long the end of the body is waited for after all that counts, to keep the connection."""
_TAIL_READS = 8
_CLOSE_S = 2.0
_NO_URL = (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError)
"""A host whose name is no name fails as a text only when it is looked up."""
_BROKEN = (httpx.TransportError, httpx.StreamError)


class OpenAIChat:
    """One address that takes chat completions.  It asks once: `Persistent` asks again."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        url: str,
        provider_kind: str,
        timeout_s: float,
        limits: ProviderLimits,
        now: Callable[[], datetime],
        key: ProviderKey | None = None,
    ) -> None:
        """Make it of an open client.

        Args:
            http: without time-outs and redirects of its own.
            url: where chat completions are asked for.
            provider_kind: what answers and errors call it.
            timeout_s: how long it may be silent, in seconds.
            limits: everything else.
            now: the time, for a ``Retry-After`` that is a date.
            key: what it is shown as ``Authorization: Bearer``.

        """
        self._http = http
        self.url = url
        self.provider_kind = provider_kind
        self.timeout_s = timeout_s
        self.limits = limits
        self.now = now
        self._key = key

    def __repr__(self) -> str:
        return f"<OpenAIChat {self.provider_kind}>"

    def chat(self, request: ChatRequest) -> _Chat:
        """Ask a model for the length of a block; see `Provider`."""
        return _Chat(self, request)

    async def ask(self, request: ChatRequest) -> httpx.Response:
        """Send a question, and wait until an answer begins."""
        try:
            body = msgspec.json.encode(_question(request))
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
            raise ProviderError("bad_request", "the question is no JSON") from None
        if len(body) > self.limits.request_bytes_max:
            raise ProviderError(
                "bad_request", f"a question of more than {self.limits.request_bytes_max} bytes"
            )
        headers = {
            "accept": "text/event-stream, application/json",
            "accept-encoding": "identity",  # a small answer could become a very large one
            "content-type": "application/json",
        }
        if self._key is not None:
            headers["authorization"] = self._key.header
        try:
            asked = self._http.build_request("POST", self.url, content=body, headers=headers)
            return await self._http.send(asked, stream=True)
        except _NO_URL as error:
            raise ProviderError("bad_request", "the address cannot be asked") from error
        except httpx.TransportError as error:
            message = f"the provider cannot be reached ({type(error).__name__})"
            raise ProviderError("unreachable", message) from error


class _Chat:
    """One question and its answer."""

    def __init__(self, provider: OpenAIChat, request: ChatRequest) -> None:
        limits = provider.limits
        self._provider = provider
        self._request = request
        self._answer = Answer(
            model=request.model,
            provider_kind=provider.provider_kind,
            tool_calls_max=limits.tool_calls_max,
        )
        self._sse = SseParser(
            line_bytes_max=limits.line_bytes_max, event_bytes_max=limits.event_bytes_max
        )
        self._parts: deque[ChatPart] = deque()
        """What has come and was not taken."""
        self._failure: ProviderError | None = None
        """What comes after it."""
        self._is_over = False
        self._response: httpx.Response | None = None
        self._body: AsyncIterator[bytes] | None = None
        """The rest of the body; None: not asked for, read to its end, or broken."""
        self._token_left_s = limits.token_s
        self._answer_left_s = limits.answer_s
        self._bytes_left = limits.answer_bytes_max

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatPart:
        while True:
            # Each time: a body in pieces of a byte is read without a wait, and others have a turn.
            await trio.lowlevel.checkpoint()
            if self._parts:
                return self._parts.popleft()
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                raise StopAsyncIteration
            try:
                await self._advance()
            except ProviderError as error:
                self._failure = self._with_details(error)
            except trio.Cancelled:
                # Some of it may be lost, and asking anew would cost twice.
                given_up = ProviderError("timeout", "its reader gave it up", is_retryable=False)
                self._failure = self._with_details(given_up)
                raise

    def _with_details(self, error: ProviderError) -> ProviderError:
        error.details.setdefault("provider_kind", self._provider.provider_kind)
        error.details.setdefault("model", self._request.model)
        return error

    # --------------------------------------------------------------------------- its steps

    async def _advance(self) -> None:
        """Take what comes next."""
        if self._response is None:
            try:
                with self._waiting():
                    self._response = await self._provider.ask(self._request)
            except trio.TooSlowError:
                raise self._timeout() from None
            self._body = self._response.aiter_raw()
            await self._begin(self._response)
            return
        try:
            data = await self._read()
        except ProviderError:
            if not self._answer.is_finished:
                raise
            data = b""  # the answer was whole; what is missing is what it cost
        if not data:
            self._end()
            return
        try:
            events = self._sse.feed(data)
        except SseTooLongError as error:
            raise ProviderError("invalid_payload", f"the provider sent {error}") from None
        for event in events:
            if self._is_over:
                break
            self._take(event)

    async def _begin(self, response: httpx.Response) -> None:
        if response.status_code != httpx.codes.OK:
            headers = {name.lower(): value for name, value in response.headers.items()}
            error = await self._read_error()
            now = self._provider.now()
            raise failure_of_status(response.status_code, headers, error, now)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProviderError("invalid_payload", "the provider sent what is compressed")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return
        if kind != "application/json":
            raise ProviderError("invalid_payload", "the provider sent neither events nor JSON")
        # It does not stream: one that streams nothing, or an error that has the wrong status.
        body = await self._read_all(self._provider.limits.event_bytes_max)
        if body is None:
            raise ProviderError("invalid_payload", "the provider sent too much")
        self._parts += self._answer.take(parse_json(body))
        self._end()

    def _take(self, event: SseEvent) -> None:
        data = event.data.strip()
        if not data:
            return
        if data == "[DONE]":
            self._end()
            return
        document = parse_json(data)
        if event.name == "error":
            error = error_of(document)
            raise failure_in_answer(document if error is None else error)
        deltas = self._answer.take(document)
        if deltas:
            self._token_left_s = self._provider.limits.token_s
        if self._answer.is_finished:
            self._answer_left_s = min(self._answer_left_s, _USAGE_S)
        self._parts += deltas

    def _end(self) -> None:
        answered: Answered = self._answer.end()
        self._parts.append(answered)
        self._is_over = True

    # ---------------------------------------------------------------------------- its bytes

    async def _read(self) -> bytes:
        """Return more of the body; nothing at its end."""
        assert self._body is not None, "it was read to its end"
        body, self._body = self._body, None
        try:
            with self._waiting():
                data = await body.__anext__()
        except StopAsyncIteration:
            return b""
        except trio.TooSlowError:
            raise self._timeout() from None
        except _BROKEN as error:
            message = f"the answer was cut off ({type(error).__name__})"
            raise ProviderError("truncated", message) from error
        self._body = body  # after any exception all of its generators have ended
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise ProviderError("invalid_payload", "the provider sent too much")
        return data

    async def _read_all(self, bytes_max: int) -> bytes | None:
        """Return the whole body; None where it is longer than that."""
        pieces, left = [], bytes_max
        while data := await self._read():
            left -= len(data)
            if left < 0:
                return None
            pieces.append(data)
            await trio.lowlevel.checkpoint()
        return b"".join(pieces)

    async def _read_error(self) -> object:
        """Return what an answer that is an error says; None where that cannot be read."""
        try:
            body = await self._read_all(self._provider.limits.error_bytes_max)
            return error_of(parse_json(body or b""))
        except ProviderError:
            return None

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Bound a wait by the three clocks, and let them run meanwhile."""
        allowed_s = min(self._provider.timeout_s, self._token_left_s, self._answer_left_s)
        began = trio.current_time()
        try:
            with trio.fail_after(max(allowed_s, 0.0)):
                yield
        finally:
            waited_s = trio.current_time() - began
            self._token_left_s -= waited_s
            self._answer_left_s -= waited_s

    def _timeout(self) -> ProviderError:
        if self._answer_left_s <= 0:
            return ProviderError("timeout", "the answer took too long")
        if self._token_left_s <= 0:
            return ProviderError("timeout", "the provider sent no token for too long")
        return ProviderError("timeout", "the provider was silent for too long")

    async def _close(self) -> None:
        """Close the connection, or keep it where the answer was read to its end."""
        response, body, self._body = self._response, self._body, None
        self._is_over = True
        if response is None:
            return
        with trio.move_on_after(_CLOSE_S, shield=True):
            with suppress(*_BROKEN, StopAsyncIteration):
                if body is not None:
                    await _exhaust(body, _TAIL_S if self._answer.is_finished else 0.0)
            await response.aclose()


async def _exhaust(body: AsyncIterator[bytes], within_s: float) -> None:
    """Read a body to its end, for so long, and end its generators; see above."""
    with trio.move_on_after(within_s):
        for _ in range(_TAIL_READS):
            await body.__anext__()
    with trio.CancelScope() as scope:
        scope.cancel(reason="nobody reads it")
        while True:  # what has arrived already is given without a wait, and others have a turn
            await body.__anext__()
            await trio.lowlevel.cancel_shielded_checkpoint()


def _question(request: ChatRequest) -> dict[str, Any]:
    question: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(each) for each in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.max_tokens is not None:
        question["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        question["temperature"] = request.temperature
    if request.tools:
        question["tools"] = [_tool(each) for each in request.tools]
    return question


def _message(message: ChatMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": each.call_id,
                "type": "function",
                "function": {"name": each.name, "arguments": each.arguments},
            }
            for each in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    return said


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}
