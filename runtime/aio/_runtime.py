"""A runtime for a program on asyncio."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import trio

from dalsegno.runtime import Runtime

from ._bridge import Bridge
from ._workspace import AioWorkspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from dalsegno.actors import Statistics, World
    from dalsegno.protocol import Limits
    from dalsegno.runtime.serving import SessionCookie, Tls, TokenIssuer

_log = logging.getLogger("dalsegno.runtime")

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Served:
    """A port that accepts connections."""

    url: str
    host: str
    port: int
    setup_token: str | None
    """The token that setup asks for; None if this serves only this machine."""


def _taking_what(_like: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the parameters of another one, for type checkers."""
    return lambda function: cast("Callable[P, R]", function)


@_taking_what(Runtime.open)
@asynccontextmanager
async def open_runtime(*arguments: Any, **settings: Any) -> AsyncIterator[AioRuntime]:  # noqa: ANN401 - those of `Runtime.open`
    """Open a runtime for the length of an ``async with``; see `dalsegno.runtime.Runtime.open`.

    It runs in a thread of its own, which ends with the block, also where the host is cancelled.
    Leaving it ends subscriptions and ports, and settles what was accepted.

    Where the runtime fails, the task that has opened it is cancelled, and the block raises
    `RuntimeFailedError`.  If the block raises an `Exception` of its own too, that is its context.

    Raises:
        DomainError: as `Runtime.open`.
        StoreUnavailableError: likewise.
        DatabaseRefusedError: likewise.
        DriverMissingError: likewise.
        RuntimeFailedError: likewise.

    """
    host = asyncio.current_task()
    assert host is not None, "a coroutine is run by a task"
    bridge: Bridge[Runtime] = Bridge(partial(Runtime.open, *arguments, **settings))
    block = _Block(host, bridge)
    rt = await bridge.start(failed=block.cancel_host)
    async with block:
        yield AioRuntime(rt, bridge)


class _Block:
    """The host's block: it is cancelled where the runtime fails, and nothing outlives it."""

    def __init__(self, host: asyncio.Task[Any], bridge: Bridge[Runtime]) -> None:
        self._host = host
        self._bridge = bridge
        self._cancelling = host.cancelling()
        self._has_cancelled = False

    def cancel_host(self) -> None:
        """Interrupt whatever the host does in its block."""
        self._has_cancelled = True
        self._host.cancel("the runtime failed")

    async def __aenter__(self) -> None:
        """Begin."""

    async def __aexit__(self, _: object, raised: BaseException | None, __: object) -> None:
        """End the runtime; raise how it failed, if it has and nothing goes before that."""
        failure, was_cancelled = await self._bridge.end()
        was_ours = False
        if self._has_cancelled:
            was_ours = self._host.uncancel() <= self._cancelling
        if was_cancelled and not was_ours:
            raise asyncio.CancelledError
        if failure is None:
            return
        is_interrupted = was_ours and isinstance(raised, asyncio.CancelledError)
        if raised is None or isinstance(raised, Exception) or is_interrupted:
            raise failure
        _log.error("failed while the program was ending", exc_info=failure)


class _Telling:
    """A task status that reports an open port to the host's thread."""

    def __init__(self, bridge: Bridge[Runtime], started: Callable[[Served], object] | None) -> None:
        self._bridge = bridge
        self._started = started

    def started(self, value: Any = None) -> None:  # noqa: ANN401 - as `trio.TaskStatus` has it
        """Report the port in the host's thread."""
        if self._started is not None:
            served = Served(value.url, value.host, value.port, value.setup_token)
            self._bridge.tell(self._started, served)


class AioRuntime:
    """Durable, totally ordered, resumable workspaces, for one asyncio loop."""

    def __init__(self, rt: Runtime, bridge: Bridge[Runtime]) -> None:
        self._rt = rt
        self._bridge = bridge

    def __repr__(self) -> str:
        return f"<AioRuntime {self._bridge!r}>"

    @property
    def limits(self) -> Limits:
        """Every bound of this runtime."""
        return self._rt.limits

    @property
    def world(self) -> World:
        """Wall time, randomness and ids."""
        return self._rt.world

    @property
    def system(self) -> AioWorkspace:
        """The reserved workspace of users and workspaces."""
        return AioWorkspace(self._bridge, self._rt.system)

    def workspace(self, workspace_id: str) -> AioWorkspace:
        """Return a handle of a workspace, which the first write to it creates.

        Raises:
            Reject: ``BAD_REQUEST`` unless the id has 1 to 64 of ``[A-Za-z0-9_.-]``.

        """
        return AioWorkspace(self._bridge, self._rt.workspace(workspace_id))

    async def statistics(self) -> Statistics:
        """Count what there is and what was done."""

        async def count() -> Statistics:
            return self._rt.statistics()

        return await self._bridge.run(count)

    async def drain(self) -> None:
        """Refuse new commands, settle those that were accepted and write acks, within a bound."""
        await self._bridge.run(self._rt.drain)

    async def serve(
        self,
        bind: str = "127.0.0.1:8000",
        *,
        tls: Tls | None = None,
        public_url: str | None = None,
        origins: Sequence[str] = (),
        proxies: Sequence[str] = (),
        tokens: TokenIssuer | None = None,
        setup_token: str | None = None,
        cookie: SessionCookie | None = None,
        started: Callable[[Served], object] | None = None,
    ) -> None:
        """Serve until cancelled, and then drain; see `dalsegno.runtime.serving.serve`.

        Draining is bounded by ``limits.drain_deadline_s``, twice.  Cancelled once more, it drains
        only what must be, as it does where the runtime's block is left.

        Args:
            bind: as there, and so are all others but the last.
            tls: see there; `Tls.reload` is not for the host's thread, and need not be called.
            public_url: see there.
            origins: see there.
            proxies: see there.
            tokens: see there.
            setup_token: see there.
            cookie: see there.
            started: called, in the host's thread, once it accepts connections.

        Raises:
            Reject: as there.
            OSError: as there.
            NoAccountsError: as there.
            RuntimeClosedError: the runtime's block was left.

        """
        from dalsegno.runtime.serving import serve  # a web server, for those that want one

        stop = trio.Event()
        serve_here = partial(
            serve,
            self._rt,
            bind,
            tls=tls,
            public_url=public_url,
            origins=origins,
            proxies=proxies,
            tokens=tokens,
            setup_token=setup_token,
            cookie=cookie,
            stop=stop,
            task_status=_Telling(self._bridge, started),
        )
        call = self._bridge.begin(serve_here, inside=True)
        try:
            await asyncio.wait([call.over])
        except asyncio.CancelledError:
            self._bridge.post(stop.set)
            try:
                await asyncio.wait([call.over])
            except asyncio.CancelledError:
                await self._bridge.cancel(call)
            raise
        call.result()
