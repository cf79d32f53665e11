"""What comes back of an answer, and each way in which there is none."""

from __future__ import annotations

import gc
import logging
import ssl
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dalsegno.runtime.providers import (
    Answered,
    ChatMessage,
    ChatPart,
    ChatRequest,
    HttpProviders,
    ProviderError,
    ProviderLimits,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, patient, until
from tests._provider import (
    KEY,
    USAGE,
    Reply,
    Wire,
    answers,
    chunk,
    cuts,
    parts_of,
    providers,
    says,
    scripted,
    sends,
    stalls,
    status,
    streams,
    then,
)

PROMPT = "a question that nobody may see"
STOP = chunk(finish_reason="stop")


async def ask(
    reply: Reply, limits: ProviderLimits | None = None, **settings: Any
) -> tuple[list[ChatPart], ProviderError | None]:
    """The parts of an answer, and what it failed with."""
    with fail_after(20):
        async with scripted(reply) as provider, providers(provider, limits) as opened:
            asked = provider.settings(**settings)
            parts: list[ChatPart] = []
            try:
                async with opened.of(asked).chat(
                    ChatRequest.of(asked, [ChatMessage("user", PROMPT)])
                ) as stream:
                    async for part in stream:
                        parts.append(part)  # noqa: PERF401 - what came before a failure, too
            except ProviderError as error:
                return parts, error
            return parts, None


async def whole(reply: Reply, **settings: Any) -> list[ChatPart]:
    parts, error = await ask(reply, **settings)
    assert error is None, (error, error.details)
    assert isinstance(parts[-1], Answered)
    return parts


def text_of(parts: list[ChatPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


# --------------------------------------------------------------------------------- answers


async def test_an_answer_word_by_word_and_what_it_was_asked() -> None:
    async with scripted(says("Da ", "capo.")) as provider, providers(provider) as opened:
        settings = provider.settings(
            provider_kind="openrouter", model="a/b", max_tokens=9, temperature=0.5
        )
        request = ChatRequest.of(
            settings,
            [
                ChatMessage("system", "Sing."),
                ChatMessage(
                    "assistant", tool_calls=(ToolCall(call_id="c", name="f", arguments="{}"),)
                ),
                ChatMessage("tool", "1", tool_call_id="c"),
            ],
            tools=[Tool(name="f", parameters={"type": "object"})],
        )
        async with opened.of(settings).chat(request) as stream:
            assert provider.asked == [], "nothing is asked until somebody waits for it"
            assert [part async for part in stream] == [
                TextDelta("Da "),
                TextDelta("capo."),
                Answered(
                    finish_reason="stop",
                    usage=Usage(7, 2),
                    model="a/b",
                    provider_kind="openrouter",
                ),
            ]
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()
        ((method, target, headers, body),) = provider.asked
        assert (method, target) == ("POST", "/v1/chat/completions")
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["accept-encoding"] == "identity"
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        function = {"name": "f", "description": "", "parameters": {"type": "object"}}
        assert body == {
            "model": "a/b",
            "messages": [
                {"role": "system", "content": "Sing."},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "1", "tool_call_id": "c"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "temperature": 0.5,
            "tools": [{"type": "function", "function": function}],
        }


async def test_what_is_not_set_is_not_sent_and_without_a_key_there_is_none() -> None:
    async with scripted(says("a")) as provider, providers(provider) as opened:
        settings = provider.settings()
        async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
            assert text_of([part async for part in stream]) == "a"
        (asked,) = provider.asked
        assert asked.body.keys() == {"model", "messages", "stream", "stream_options"}
        assert "authorization" not in asked.headers


async def test_connections_are_kept_and_cookies_are_not() -> None:
    async def reply(wire: Wire) -> None:
        await wire.head(
            headers={
                "content-type": "text/event-stream",
                "transfer-encoding": "chunked",
                "set-cookie": "who=1; Path=/",
            }
        )
        await wire.say(STOP)
        await wire.say("[DONE]")
        await wire.end()

    async with scripted(reply) as provider, providers(provider) as opened:
        settings = provider.settings()
        for _ in range(3):
            async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
                assert len([part async for part in stream]) == 1
        assert (len(provider.asked), provider.connections) == (3, 1)
        assert not any("cookie" in each.headers for each in provider.asked)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b": PROCESSING\n\n: again\n\ndata: %b\n\ndata: %b\n\ndata: [DONE]\n\n", "a"),
        (b"\xef\xbb\xbfdata:%b\r\n\r\ndata:%b\r\n\r\ndata:[DONE]\r\n\r\n", "a"),
        (b"data: %b\r\rdata: %b\r\r", "a"),
        (b"event: other\nid: 7\ndata: %b\n\ndata:\n\ndata: %b\n\ndata:  [DONE] \n\n", "a"),
        (b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\ndata: no JSON\n\n", "a"),
    ],
)
async def test_whatever_events_allow(body: bytes, text: str) -> None:
    said = b'{"choices":\ndata: [{"delta":{"content":"a"}}]}' if b"\r" not in body else None
    said = said or b'{"choices":[{"index":null,"delta":{"content":"a","audio":1},"x":{}}],"y":1}'
    end = b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}'
    assert text_of(await whole(sends(body.replace(b"%b", said, 1).replace(b"%b", end, 1)))) == text


async def test_chunks_without_choices_other_choices_and_null_for_anything() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "length"}]}
    empty = {"choices": [{"index": 0, "delta": {"content": None, "tool_calls": None}}]}
    parts = await whole(
        streams({"choices": []}, {}, {"choices": None}, other, empty, {"error": None}, STOP)
    )
    (answered,) = parts
    assert isinstance(answered, Answered)
    assert answered.usage is None, "which is not 0"


async def test_what_is_thought_comes_by_either_name() -> None:
    parts = await whole(streams(chunk({"reasoning": "a"}), chunk({"reasoning_content": "b"}), STOP))
    assert parts[:-1] == [ReasoningDelta("a"), ReasoningDelta("b")]


async def test_characters_in_two_halves_and_what_nobody_can_store() -> None:
    def escaped(text: str) -> str:
        return f'{{"choices": [{{"delta": {{"content": "{text}"}}}}]}}'

    parts = await whole(
        streams(*map(escaped, [r"a\ud83d", r"\ude00b", r"\ude00", r"\ud83d", r"\u0000c"]), STOP)
    )
    assert text_of(parts) == "a\N{GRINNING FACE}b\ufffd\ufffd\ufffdc"
    thought = escaped(r"\ud83d").replace("content", "reasoning")
    parts = await whole(streams(thought, escaped(r"a\ud83d"), STOP, "[DONE]"))
    assert parts[:-1] == [TextDelta("a"), ReasoningDelta("\ufffd"), TextDelta("\ufffd")]


def call(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> Any:
    said: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        said["index"] = index
    if call_id is not None:
        said["id"] = call_id
    if name is not None:
        said["function"]["name"] = name
    return said


@pytest.mark.parametrize(
    "calls",
    [
        # as OpenAI does: id and name with the first delta only, and taking turns
        [
            *(call(0, "a", "f", ""), call(1, "b", "g", '{"y"'), call(0, None, None, '{"x":1}')),
            call(1, None, None, ":2}"),
        ],
        # id and name with each
        [call(0, "a", "f", '{"x"'), call(0, "a", "f", ":1}"), call(1, "b", "g", '{"y":2}')],
        # whole calls, all with one index, or without any
        [call(0, "a", "f", '{"x":1}'), call(0, "b", "g", '{"y":2}')],
        [call(None, "a", "f", '{"x":1}'), call(None, "b", "g", '{"y":2}')],
        [
            *(call(None, "a", "f", '{"x"'), call(None, "a", None, ":1}"), call(None, "b", "g", "")),
            call(None, None, None, '{"y":2}'),
        ],
        # numbers that are not dense
        [call(3, "a", "f", '{"x":1}'), call(9, "b", "g", '{"y":2}')],
    ],
)
async def test_tool_calls_are_put_together(calls: list[Any]) -> None:
    parts = await whole(
        streams(*(chunk({"tool_calls": [each]}) for each in calls), chunk(finish_reason="stop"))
    )
    assert parts[-1] == Answered(
        finish_reason="tool_calls",
        tool_calls=(
            ToolCall(call_id="a", name="f", arguments='{"x":1}'),
            ToolCall(call_id="b", name="g", arguments='{"y":2}'),
        ),
        model="first",
        provider_kind="lmstudio",
    )
    deltas = [part for part in parts if isinstance(part, ToolCallDelta)]
    assert "".join(each.arguments for each in deltas if each.index == 1) == '{"y":2}'


async def test_a_call_without_an_id_and_arguments_that_are_an_object() -> None:
    calls = [call(0, None, "f", {"x": 1}), call(1, "", "g", None)]
    parts = await whole(streams(chunk({"tool_calls": calls}, "tool_calls"), "[DONE]"))
    assert isinstance(parts[-1], Answered)
    assert parts[-1].tool_calls == (
        ToolCall(call_id="call_0", name="f", arguments='{"x": 1}'),
        ToolCall(call_id="call_1", name="g", arguments=""),
    )


async def test_one_that_does_not_stream_answers_as_well() -> None:
    message = {"role": "assistant", "content": "Da capo.", "reasoning": "Hm."}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **USAGE}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    parts = await whole(answers(body))
    assert parts[:-1] == [ReasoningDelta("Hm."), TextDelta("Da capo.")]
    assert isinstance(parts[-1], Answered)
    assert parts[-1].usage == Usage(7, 2)


@pytest.mark.parametrize("reply", [then(STOP), then(STOP, cut=True), streams(STOP)])
async def test_an_end_that_was_said_is_one_without_usage_and_done(reply: Reply) -> None:
    (answered,) = await whole(reply, timeout_ms=round(patient(0.3) * 1_000))
    assert isinstance(answered, Answered)
    assert answered.usage is None


async def test_comments_keep_it_alive() -> None:
    silent_s = patient(0.5)

    async def reply(wire: Wire) -> None:
        await wire.events()
        for _ in range(12):
            await wire.send(b": PROCESSING\n\n")
            await trio.sleep(silent_s / 8)
        await wire.say(STOP)
        await wire.end()

    await whole(reply, timeout_ms=round(silent_s * 1_000))


async def test_comments_after_its_end_do_not() -> None:
    """They would keep it alive for as long as an answer may take."""

    async def reply(wire: Wire) -> None:
        await wire.events()
        await wire.say(STOP)
        while True:
            await wire.send(b": PROCESSING\n\n")
            await trio.sleep(0.05)

    with fail_after(20):
        await whole(reply)


async def test_the_time_that_the_reader_takes_is_its_own() -> None:
    async with scripted(says("a", "b")) as provider, providers(provider) as opened:
        settings = provider.settings(timeout_ms=round(patient(0.3) * 1_000))
        async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
            assert await stream.__anext__() == TextDelta("a")
            await trio.sleep(patient(0.4))
            assert text_of([part async for part in stream]) == "b"


# ------------------------------------------------------------------------------- no answers


def error_says(**error: Any) -> Reply:
    return streams(chunk({"content": "Da "}), {"error": error, "choices": []}, STOP)


SAID = chunk({"content": "Da "})
NO = {"message": f"{KEY} {PROMPT}"}

FAILURES: list[tuple[Any, str, str, bool]] = [
    # by status
    (status(400, error=NO), "bad_request", "LLM_UPSTREAM_ERROR", False),
    (status(401, error=NO), "auth_failed", "LLM_UPSTREAM_ERROR", False),
    (status(402, error=NO), "rate_limited", "LLM_UPSTREAM_ERROR", False),
    (status(403), "auth_failed", "LLM_UPSTREAM_ERROR", False),
    (status(404), "bad_request", "LLM_UPSTREAM_ERROR", False),
    (status(408), "timeout", "LLM_PROVIDER_TIMEOUT", True),
    (status(409), "upstream", "LLM_UPSTREAM_ERROR", True),
    (status(413), "bad_request", "LLM_UPSTREAM_ERROR", False),
    (status(422), "bad_request", "LLM_UPSTREAM_ERROR", False),
    (status(429), "rate_limited", "LLM_UPSTREAM_ERROR", True),
    (
        status(429, error={"code": "insufficient_quota"}),
        *("rate_limited", "LLM_UPSTREAM_ERROR", False),
    ),
    (status(403, error={"type": "content_filter"}), "refused", "LLM_UPSTREAM_ERROR", False),
    (status(500), "upstream", "LLM_UPSTREAM_ERROR", True),
    (status(500, {"x-should-retry": "false"}), "upstream", "LLM_UPSTREAM_ERROR", False),
    (status(502, error=NO), "upstream", "LLM_UPSTREAM_ERROR", True),
    (status(503), "upstream", "LLM_UPSTREAM_ERROR", True),
    (status(504), "timeout", "LLM_PROVIDER_TIMEOUT", True),
    (status(529), "upstream", "LLM_UPSTREAM_ERROR", True),
    (status(204), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (
        status(302, {"location": "http://127.0.0.1:1/"}),
        *("invalid_payload", "LLM_UPSTREAM_ERROR", False),
    ),
    # the connection
    (cuts, "unreachable", "LLM_PROVIDER_UNREACHABLE", True),
    (then(SAID, cut=True), "truncated", "LLM_UPSTREAM_ERROR", True),
    (answers(b'{"choices":', length=99), "truncated", "LLM_UPSTREAM_ERROR", True),
    # the end
    (streams(SAID), "truncated", "LLM_UPSTREAM_ERROR", True),
    (streams(SAID, "[DONE]"), "truncated", "LLM_UPSTREAM_ERROR", True),
    (sends(b"data: [DONE]"), "truncated", "LLM_UPSTREAM_ERROR", True),
    (sends(b""), "truncated", "LLM_UPSTREAM_ERROR", True),
    (says("Da ", finish_reason="length"), "truncated", "LLM_UPSTREAM_ERROR", False),
    (says("Da ", finish_reason="content_filter"), "refused", "LLM_UPSTREAM_ERROR", False),
    (says("Da ", finish_reason="error"), "upstream", "LLM_UPSTREAM_ERROR", True),
    (says("Da ", finish_reason="whatever"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (streams(chunk({"refusal": "No."}), STOP), "refused", "LLM_UPSTREAM_ERROR", False),
    # an error within a 200
    (error_says(message="x"), "upstream", "LLM_UPSTREAM_ERROR", True),
    (error_says(code=429, message="x"), "rate_limited", "LLM_UPSTREAM_ERROR", True),
    (error_says(code=400, message="x"), "bad_request", "LLM_UPSTREAM_ERROR", False),
    (error_says(code=502, message="x"), "upstream", "LLM_UPSTREAM_ERROR", True),
    (error_says(code="insufficient_quota"), "rate_limited", "LLM_UPSTREAM_ERROR", False),
    (error_says(), "upstream", "LLM_UPSTREAM_ERROR", True),
    (sends(b'event: error\ndata: {"message": "x"}\n\n'), "upstream", "LLM_UPSTREAM_ERROR", True),
    (answers({"error": NO}), "upstream", "LLM_UPSTREAM_ERROR", True),
    (answers({"error": "no"}), "upstream", "LLM_UPSTREAM_ERROR", True),
    # what cannot be read
    (answers(b"<html>", content_type="text/html"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (sends(b"{}\n", "application/x-ndjson"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (
        answers(b"\x1f\x8b", encoding="gzip"),
        *("invalid_payload", "LLM_UPSTREAM_ERROR", False),
    ),
    (answers(b"\xff"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (answers([]), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (sends(b"data: {\n\n"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (sends(b"data: NaN\n\n"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (sends(b"data: 7\n\n"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (sends(b"data: " + b"[" * 100_000 + b"\n\n"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (sends(b"data: " + b"1" * 9_999 + b"\n\n"), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (streams({"choices": {}}), "invalid_payload", "LLM_UPSTREAM_ERROR", False),
    (
        streams(chunk({"tool_calls": [call(0, "a", None, "")]})),
        *("invalid_payload", "LLM_UPSTREAM_ERROR", False),
    ),
]


@pytest.mark.parametrize(("reply", "category", "code", "is_retryable"), FAILURES)
async def test_each_failure_has_its_category(
    reply: Reply,
    category: str,
    code: str,
    is_retryable: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    parts, error = await ask(reply, provider_kind="openrouter")
    assert not any(isinstance(part, Answered) for part in parts)
    assert error is not None
    assert (error.category, error.code, error.is_retryable) == (category, code, is_retryable)
    assert error.details["model"] == "first"
    assert error.details["provider_kind"] == "openrouter"
    assert error.details["detail"].startswith("PROVIDER_")
    told = f"{error!r} {error} {error.details} {caplog.text}"
    told += f"{error.__cause__!r} {error.__context__!r}"
    assert KEY not in told
    assert PROMPT not in told


async def test_what_was_said_before_a_failure_comes_before_it() -> None:
    """However the network cuts it: the words and the error are in one piece here."""
    body = b'data: {"choices":[{"delta":{"content":"Da "}}]}\n\ndata: {"error":{}}\n\n'
    parts, error = await ask(sends(body))
    assert parts == [TextDelta("Da ")]
    assert error is not None


async def test_nobody_there_and_what_is_no_address() -> None:
    async with scripted(stalls) as provider:
        port = provider.port
    async with scripted(stalls) as provider, providers(provider) as opened:
        settings = provider.settings(base_url=f"http://127.0.0.1:{port}/")
        with pytest.raises(ProviderError) as raised:
            async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
                await stream.__anext__()
    assert (raised.value.category, raised.value.is_retryable) == ("unreachable", True)


async def test_a_failure_stays_one() -> None:
    async with scripted(status(400)) as provider, providers(provider) as opened:
        settings = provider.settings()
        async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
            for _ in range(3):
                with pytest.raises(ProviderError):
                    await stream.__anext__()
        assert len(provider.asked) == 1


async def test_a_question_that_is_no_text_or_too_long_is_not_asked() -> None:
    limits = ProviderLimits(request_bytes_max=1_000)
    async with scripted(says("a")) as provider, providers(provider, limits) as opened:
        settings = provider.settings()
        for text in ("\ud83d", "x" * 1_000):
            request = ChatRequest.of(settings, [ChatMessage("user", text)])
            with pytest.raises(ProviderError) as raised:
                async with opened.of(settings).chat(request) as stream:
                    await stream.__anext__()
            assert raised.value.category == "bad_request"
        assert provider.asked == []


# ----------------------------------------------------------------------------------- bounds


async def floods(wire: Wire) -> None:
    await wire.events()
    while True:
        await wire.send(b"data: " + b"x" * 60_000)


async def floods_with_comments(wire: Wire) -> None:
    await wire.events()
    while True:
        await wire.send(b": comment\n\n" * 1_000)


async def floods_with_lines(wire: Wire) -> None:
    await wire.events()
    while True:
        await wire.send((b"data: " + b"1" * 99 + b"\n") * 500)


async def floods_with_json(wire: Wire) -> None:
    await wire.events("application/json")
    while True:
        await wire.send(b" " * 60_000)


async def floods_an_error(wire: Wire) -> None:
    await wire.head(500, {"content-type": "text/plain", "transfer-encoding": "chunked"})
    while True:
        await wire.send(b" " * 60_000)


@pytest.mark.parametrize(
    ("reply", "category", "message"),
    [
        (floods, "invalid_payload", "a line of more than 1048576 bytes"),
        (floods_with_lines, "invalid_payload", "an event of more than 1048576 bytes"),
        (floods_with_comments, "invalid_payload", "too much"),
        (floods_with_json, "invalid_payload", "too much"),
        (floods_an_error, "upstream", "HTTP 500"),
    ],
)
async def test_whoever_does_not_stop_is_hung_up_on(
    reply: Reply, category: str, message: str
) -> None:
    limits = ProviderLimits(answer_bytes_max=2 * 1024 * 1024)
    _, error = await ask(reply, limits)
    assert error is not None
    assert error.category == category
    assert message in error.message


async def test_more_tool_calls_than_may_be() -> None:
    calls = [chunk({"tool_calls": [call(at, f"c{at}", "f", "")]}) for at in range(4)]
    _, error = await ask(streams(*calls, STOP), ProviderLimits(tool_calls_max=3))
    assert error is not None
    assert error.category == "invalid_payload"


async def comments(wire: Wire) -> None:
    await wire.events()
    while True:
        await wire.send(b": at work\n\n")
        await trio.sleep(0.02)


async def word_after_word(wire: Wire) -> None:
    await wire.events()
    while True:
        await wire.say(SAID)
        await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("reply", "settings", "limits", "message"),
    [
        (stalls, {"timeout_ms": 60}, {}, "silent"),
        (then(), {"timeout_ms": 60}, {}, "silent"),
        (then(SAID), {"timeout_ms": 200}, {}, "silent"),
        (comments, {}, {"token_s": 0.2}, "no token"),
        (word_after_word, {}, {"answer_s": 0.3}, "took too long"),
    ],
)
async def test_each_of_the_three_clocks(
    reply: Reply, settings: dict[str, Any], limits: dict[str, Any], message: str
) -> None:
    _, error = await ask(reply, ProviderLimits(**limits), **settings)
    assert error is not None
    assert (error.category, error.code) == ("timeout", "LLM_PROVIDER_TIMEOUT")
    assert message in error.message


async def drips(wire: Wire) -> None:
    """In chunks of a byte, as many as there can be in one packet."""
    await wire.events()
    while True:
        await wire.raw(b"1\r\n:\r\n" * 5_000)


@pytest.mark.parametrize("bytes_max", [10_000, 10_000_000])
async def test_a_body_in_pieces_of_a_byte_leaves_others_their_turns(bytes_max: int) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    limits = ProviderLimits(answer_bytes_max=bytes_max)
    async with (
        trio.open_nursery() as nursery,
        scripted(drips) as provider,
        providers(provider, limits) as opened,
    ):
        settings = provider.settings()
        async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
            nursery.start_soon(others)
            with trio.move_on_after(0.3), suppress(ProviderError):
                await stream.__anext__()
        assert turns > 1_000
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------- leaving


class _LeftError(Exception):
    pass


async def leave(scope: trio.CancelScope, how: str) -> None:
    if how == "raises":
        raise _LeftError
    if how == "is cancelled":
        scope.cancel()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("how", ["leaves", "raises", "is cancelled", "is cancelled while it waits"])
async def test_whoever_leaves_early_closes_the_connection(how: str) -> None:
    async with scripted(then(SAID, SAID)) as provider, providers(provider) as opened:
        settings = provider.settings()
        with trio.CancelScope() as scope, fail_after(20), suppress(_LeftError):
            async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
                assert await stream.__anext__() == TextDelta("Da ")
                await leave(scope, how)
                if how == "is cancelled while it waits":
                    scope.deadline = trio.current_time() + 0.2
                    async for _ in stream:
                        pass
        gc.collect()  # a generator that was left open would warn, which is a failure
        await until(lambda: not pool_of(opened).connections)
        async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
            await stream.__anext__()
        assert provider.connections == 2, "nothing of the first answer can come in the second"


def pool_of(opened: HttpProviders) -> Any:
    return opened._http._transport._pool  # type: ignore[attr-defined]


@pytest.mark.parametrize("reply", [stalls, then(SAID)])
async def test_a_wait_that_was_given_up_is_no_answer_and_does_not_ask_again(reply: Reply) -> None:
    async with scripted(reply) as provider, providers(provider) as opened:
        settings = provider.settings(retry_limit=2, fallback_models=("second",))
        async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
            with trio.move_on_after(0.2):
                async for _ in stream:
                    pass
            with pytest.raises(ProviderError) as raised:
                await stream.__anext__()
        assert (raised.value.category, raised.value.is_retryable) == ("timeout", False)
        assert len(provider.asked) <= 1


async def test_whoever_never_asks_needs_nothing() -> None:
    async with scripted(stalls) as provider, providers(provider) as opened:
        settings = provider.settings()
        async with opened.of(settings).chat(ChatRequest.of(settings, [])):
            pass
        assert provider.connections == 0


async def test_a_question_waits_for_a_connection_no_longer_than_for_an_answer() -> None:
    limits = ProviderLimits(connections_max=1)
    async with scripted(then(SAID)) as provider, providers(provider, limits) as opened:
        slow, quick = provider.settings(), provider.settings(timeout_ms=60)
        async with opened.of(slow).chat(ChatRequest.of(slow, [])) as stream:
            await stream.__anext__()
            with pytest.raises(ProviderError) as raised:
                async with opened.of(quick).chat(ChatRequest.of(quick, [])) as other:
                    await other.__anext__()
            assert raised.value.category == "timeout"


def test_what_is_asked_is_in_no_repr() -> None:
    request = ChatRequest(model="m", messages=(ChatMessage("user", PROMPT),))
    assert repr(request) == "<ChatRequest m, 1 messages>"


# -------------------------------------------------------------------------------------- TLS


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server on loopback, and what believes in it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider")])
    now = WORLD.now()
    address = x509.IPAddress(ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    file = folder / "provider.pem"
    file.write_bytes(made + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=made.decode())
    return server, client


async def test_over_tls_and_only_to_whom_somebody_vouches_for(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    async with scripted(says("a"), then(SAID), says("b"), tls=server) as provider:
        settings = provider.settings(provider_kind="openrouter")
        async with providers(provider) as opened:
            with pytest.raises(ProviderError) as raised:
                await parts_of(opened, settings)
            assert raised.value.category == "unreachable"
            assert provider.asked == []
        async with providers(provider, tls=client) as opened:
            assert text_of(await parts_of(opened, settings)) == "a"
            with fail_after(20):
                async with opened.of(settings).chat(ChatRequest.of(settings, [])) as stream:
                    await stream.__anext__()
            assert text_of(await parts_of(opened, settings)) == "b"
        gc.collect()
