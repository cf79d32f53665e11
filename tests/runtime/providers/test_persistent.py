"""Asking again, and asking other models: how often, when, and what a reader hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dalsegno.runtime.providers import (
    Answered,
    ChatPart,
    ChatRequest,
    Persistent,
    ProviderError,
    Restarted,
    TextDelta,
)
from tests._patience import fail_after, patient
from tests._provider import (
    Reply,
    chunk,
    cuts,
    parts_of,
    providers,
    says,
    scripted,
    sends,
    stalls,
    status,
    then,
)


class Told:
    """A provider that says what it is told to, or fails."""

    def __init__(self, *attempts: list[ChatPart | ProviderError]) -> None:
        self.attempts = list(attempts)
        self.asked: list[tuple[float, str]] = []
        """When, and which model."""
        self.open = 0

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[Parts]:
        self.asked.append((trio.current_time(), request.model))
        self.open += 1
        try:
            yield Parts(self.attempts.pop(0))
        finally:
            self.open -= 1


class Parts:
    def __init__(self, parts: list[ChatPart | ProviderError]) -> None:
        self._parts: Iterator[ChatPart | ProviderError] = iter(parts)

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> ChatPart:
        await trio.lowlevel.checkpoint()
        part = next(self._parts, None)
        if part is None:
            raise StopAsyncIteration
        if isinstance(part, ProviderError):
            raise part
        return part


END = Answered(finish_reason="stop", model="first", provider_kind="told")


def down(**more: Any) -> ProviderError:
    return ProviderError("upstream", "down", **more)


async def heard(told: Told, *, retry_limit: int = 2, **more: Any) -> list[ChatPart]:
    asking = Persistent(told, retry_limit=retry_limit, random=lambda: 1.0, **more)
    parts: list[ChatPart] = []
    async with asking.chat(ChatRequest(model="first", messages=())) as stream:
        async for part in stream:
            assert told.open == 1
            parts.append(part)
    assert told.open == 0
    return parts


async def test_nothing_said_is_asked_again_without_a_word(autojump_clock: MockClock) -> None:
    told = Told([down()], [down()], [TextDelta("a"), END])
    first, last = await heard(told)
    assert first == TextDelta("a")
    assert isinstance(last, Answered)
    assert last.attempts == 3
    began = told.asked[0][0]
    assert [round(at - began, 3) for at, _ in told.asked] == [0.0, 0.5, 1.5]


async def test_what_was_said_is_void_and_a_reader_is_told_at_once(
    autojump_clock: MockClock,
) -> None:
    told = Told([TextDelta("a"), down()], [down()], [TextDelta("b"), END])
    asking = Persistent(told, retry_limit=2, random=lambda: 1.0)
    async with asking.chat(ChatRequest(model="first", messages=())) as stream:
        assert await stream.__anext__() == TextDelta("a")
        began = trio.current_time()
        assert await stream.__anext__() == Restarted(2, "first", "upstream")
        assert trio.current_time() == began, "before the wait"
        assert await stream.__anext__() == TextDelta("b")


@pytest.mark.parametrize(
    ("wanted_s", "waits_s"), [(None, 0.5), (0.0, 0.5), (7.0, 7.5), (30.0, 30.5)]
)
async def test_it_waits_as_it_is_asked_to(
    autojump_clock: MockClock, wanted_s: float | None, waits_s: float
) -> None:
    told = Told([ProviderError("rate_limited", "busy", retry_after_s=wanted_s)], [END])
    await heard(told, retry_limit=1)
    (first, _), (second, _) = told.asked
    assert second - first == pytest.approx(waits_s)


async def test_who_asks_for_too_long_a_wait_has_failed(autojump_clock: MockClock) -> None:
    busy = ProviderError("rate_limited", "busy", retry_after_s=31.0)
    told = Told([busy], [END])
    with pytest.raises(ProviderError) as raised:
        await heard(told)
    assert raised.value.retry_after_s == 31.0
    assert len(told.asked) == 1
    told = Told([busy], [END])
    await heard(told, fallback_models=["second"])
    assert [model for _, model in told.asked] == ["first", "second"]
    assert told.asked[0][0] == told.asked[1][0], "another model at once"


async def test_fall_back_models_have_retries_of_their_own(autojump_clock: MockClock) -> None:
    told = Told([down()], [down()], [down()], [down()], [down()], [down()])
    with pytest.raises(ProviderError) as raised:
        await heard(told, retry_limit=1, fallback_models=["second", "third"])
    assert raised.value.details["attempts"] == 6
    asked = [model for _, model in told.asked]
    assert asked == ["first", "first", "second", "second", "third", "third"]


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (ProviderError("auth_failed", "no"), 1),
        (ProviderError("bad_request", "no", status=400), 1),
        (ProviderError("refused", "no"), 1),
        (ProviderError("truncated", "long", is_retryable=False), 1),
        (ProviderError("rate_limited", "no credit", is_retryable=False), 1),
        (ProviderError("bad_request", "no such model", status=404), 2),
        (ProviderError("invalid_payload", "what?"), 2),
        (ProviderError("truncated", "cut"), 3),
        (ProviderError("timeout", "silent"), 3),
        (ProviderError("unreachable", "gone"), 3),
    ],
)
async def test_who_is_asked_after_which_failure(
    error: ProviderError, asked: int, autojump_clock: MockClock
) -> None:
    """None: 1; another model only: 2; the same one before it: 3."""
    told = Told([error], [error] if asked == 3 else [END], [END])
    with suppress(ProviderError):
        await heard(told, retry_limit=1, fallback_models=["second"])
    models = [model for _, model in told.asked]
    assert models == [["first"], ["first", "second"], ["first", "first", "second"]][asked - 1]


async def test_a_failure_stays_one(autojump_clock: MockClock) -> None:
    told = Told([down()])
    asking = Persistent(told, retry_limit=0, random=lambda: 1.0)
    assert repr(asking).startswith("<Persistent ")
    async with asking.chat(ChatRequest(model="first", messages=())) as stream:
        for _ in range(2):
            with pytest.raises(ProviderError):
                await stream.__anext__()
    assert len(told.asked) == 1


# ----------------------------------------------------------------------- with a real server


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (stalls, "LLM_PROVIDER_TIMEOUT"),
        (cuts, "LLM_PROVIDER_UNREACHABLE"),
        (status(429, {"retry-after": "0"}), "LLM_UPSTREAM_ERROR"),
        (status(500), "LLM_UPSTREAM_ERROR"),
        (status(503), "LLM_UPSTREAM_ERROR"),
        (then(chunk({"content": "a"}), cut=True), "LLM_UPSTREAM_ERROR"),
    ],
)
async def test_x_auto_6_what_may_pass_is_asked_again_and_then_other_models(
    failing: Reply, code: str
) -> None:
    timeout_ms = round(patient(0.2) * 1_000) if failing is stalls else 20_000
    with fail_after(30):
        # … as often as the settings say, and then the run would fail with this code
        async with scripted(failing) as provider, providers(provider) as opened:
            for retry_limit in (0, 1, 2):
                provider.asked.clear()
                settings = provider.settings(retry_limit=retry_limit, timeout_ms=timeout_ms)
                with pytest.raises(ProviderError) as raised:
                    await parts_of(opened, settings)
                assert raised.value.code == code
                assert len(provider.asked) == 1 + retry_limit
        # … and the next model is asked after the one before it
        script = [failing, failing, failing, failing, says("Da capo.")]
        async with scripted(*script) as provider, providers(provider) as opened:
            settings = provider.settings(
                retry_limit=1,
                timeout_ms=timeout_ms,
                fallback_models=("second", "third"),
            )
            *_, answered = await parts_of(opened, settings)
            assert provider.models == ["first", "first", "second", "second", "third"]
            assert isinstance(answered, Answered)
            assert (answered.model, answered.attempts) == ("third", 5)


@pytest.mark.parametrize("code", [400, 401, 403, 422])
async def test_x_auto_6_what_stays_wrong_is_not_asked_again(code: int) -> None:
    async with scripted(status(code)) as provider, providers(provider) as opened:
        settings = provider.settings(retry_limit=2, fallback_models=("second",))
        with pytest.raises(ProviderError) as raised:
            await parts_of(opened, settings)
        assert raised.value.code == "LLM_UPSTREAM_ERROR"
        assert len(provider.asked) == 1


async def test_what_was_said_before_a_cut_is_void() -> None:
    script = (then(chunk({"content": "Da "}), cut=True), says("Dal ", "segno."))
    async with scripted(*script) as provider, providers(provider) as opened:
        settings = provider.settings(retry_limit=1)
        parts = await parts_of(opened, settings, "Go on.")
        assert parts[:-1] == [
            TextDelta("Da "),
            Restarted(2, "first", "truncated"),
            TextDelta("Dal "),
            TextDelta("segno."),
        ]
        assert [each.body["messages"] for each in provider.asked] == [
            [{"role": "user", "content": "Go on."}]
        ] * 2


async def test_no_model_there_has_the_next_one_asked() -> None:
    script = (status(404), sends(b"data: {\n\n"), says("a"))
    async with scripted(*script) as provider, providers(provider) as opened:
        settings = provider.settings(retry_limit=2, fallback_models=("second", "third"))
        assert TextDelta("a") in await parts_of(opened, settings)
        assert provider.models == ["first", "second", "third"]
