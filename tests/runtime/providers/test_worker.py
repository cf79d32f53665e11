"""A run that asks a model: what its readers hear, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App
from dalsegno.protocol.runs import CancelRun, RequestRun, Retry, RunState, runs, worker
from dalsegno.runtime import Done, Run, Runtime, Workspace
from dalsegno.runtime.providers import (
    Answered,
    ChatMessage,
    ProviderSettings,
    Restarted,
    TextDelta,
)
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, until
from tests._provider import Reply, ScriptedProvider, chunk, providers, says, scripted, status, then

Asking = Callable[[Run], Awaitable[Any]]


async def asking(
    stack: AsyncExitStack, *script: Reply, has_providers: bool = True, **settings: Any
) -> tuple[ScriptedProvider, Workspace]:
    """A workspace with a run ``r`` that asks a model."""
    provider = await stack.enter_async_context(scripted(*script))
    opened = await stack.enter_async_context(providers(provider))
    asked: ProviderSettings = provider.settings(**settings)

    @worker("ask", retry=Retry(first_s=0.001, max_s=0.002))
    async def ask(run: Run) -> Done:
        message_id, result = "answer-1", None
        async with run.chat(asked, [ChatMessage("user", run.input)]) as parts:
            async for part in parts:
                if isinstance(part, TextDelta):
                    await run.say(part.text, message_id=message_id)
                if isinstance(part, Restarted):
                    message_id = f"answer-{part.attempt}"
                if isinstance(part, Answered):
                    result = {"message_id": message_id, "attempts": part.attempts}
        return Done(result=result)

    rt = await stack.enter_async_context(
        Runtime.open(
            app=App(workers=[ask]),
            store=MemoryStore(WORLD),
            providers=(lambda: nullcontext(opened)) if has_providers else None,
        )
    )
    workspace = rt.workspace("acme")
    await workspace.send(RequestRun(run_id="r", worker="ask", input="What?"))
    return provider, workspace


async def ended(workspace: Workspace) -> RunState:
    while True:
        run = await workspace.get(runs, "r")
        if run is not None and not run.is_open:
            return run
        await trio.sleep(0.005)


async def said(workspace: Workspace) -> dict[str, str]:
    texts: dict[str, str] = {}
    for event in await workspace.history(runs, "r", limit=100):
        if event.type == "run_output":
            payload = msgspec.json.decode(event.payload)
            texts[payload["message_id"]] = texts.get(payload["message_id"], "") + payload["text"]
    return texts


async def test_what_was_void_is_another_message_than_the_answer() -> None:
    async with AsyncExitStack() as stack:
        script = (then(chunk({"content": "Da "}), cut=True), says("Dal ", "segno."))
        _, workspace = await asking(stack, *script, retry_limit=1)
        with fail_after(20):
            run = await ended(workspace)
        assert run.result == {"message_id": "answer-2", "attempts": 2}
        assert await said(workspace) == {"answer-1": "Da ", "answer-2": "Dal segno."}


@pytest.mark.parametrize(
    ("reply", "code", "times"),
    [
        (status(401), "LLM_UPSTREAM_ERROR", 1),
        (status(400), "LLM_UPSTREAM_ERROR", 1),
        (status(500), "LLM_UPSTREAM_ERROR", 3),
    ],
)
async def test_x_auto_6_a_run_fails_with_the_providers_code(
    reply: Reply, code: str, times: int
) -> None:
    """And is tried again only where that may help: three attempts, each of which asks once."""
    async with AsyncExitStack() as stack:
        provider, workspace = await asking(stack, reply)
        with fail_after(20):
            run = await ended(workspace)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == code
        assert len(provider.asked) == times


async def test_a_run_that_is_cancelled_hangs_up() -> None:
    async with AsyncExitStack() as stack:
        hung_up = trio.Event()

        async def reply(wire: Any) -> None:
            await then(chunk({"content": "Da "}))(wire)
            hung_up.set()

        provider, workspace = await asking(stack, reply)
        with fail_after(20):
            await until(lambda: bool(provider.asked))
            await workspace.send(CancelRun(run_id="r"))
            await hung_up.wait()
            assert (await ended(workspace)).status == "cancelled"


async def test_a_program_that_asks_no_models_says_so_in_the_run() -> None:
    async with AsyncExitStack() as stack:
        provider, workspace = await asking(stack, says("Da capo."), has_providers=False)
        with fail_after(20):
            run = await ended(workspace)
        assert run.status == "failed"
        assert run.error is not None
        assert (run.error.code, run.error.message) == (
            "LLM_UPSTREAM_ERROR",
            "this program asks no models",
        )
        assert not provider.asked
