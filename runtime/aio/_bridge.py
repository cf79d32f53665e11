"""The way between an asyncio loop and the thread in which Trio runs.

Neither holds up the other: what is asked goes over by `TrioToken.run_sync_soon`, what comes of it
by `call_soon_threadsafe`.  That is why this is no blocking portal of AnyIO's: to start a task there
holds the caller's thread, and so the host's whole loop, until Trio gets round to it.

    asyncio                      Trio
    run(function) ────────────▶  a task in a cancel scope of its own
          ◀────────────────────  what it returned, or raised
    cancelled ────────────────▶  the scope is cancelled …
          ◀────────────────────  … and only when the task has ended is the caller cancelled

In Trio there are two nurseries.  What lasts until it is left, a subscription or a port, is inside
the runtime's block; calls are around it, so that the runtime settles those that it has accepted
before what is left of them is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from dalsegno.protocol import RuntimeClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context

T = TypeVar("T")
ContextT = TypeVar("ContextT")


class Call(Generic[T]):
    """Something that Trio does for the host."""

    def __init__(self, function: Callable[[], Awaitable[T]], over: asyncio.Future[None]) -> None:
        self.over = over
        """Set in the host's thread, once the task in Trio's has ended."""
        self.scope = trio.CancelScope()
        self._function = function
        self._value: T
        self._error: BaseException | None = RuntimeClosedError("the runtime has ended")
        """Unless it returns, or raises something else."""

    async def carry_out(self) -> None:
        """Do it, in Trio's thread."""
        with self.scope:
            try:
                self._value = await self._function()
            except BaseException as error:  # noqa: BLE001 - raised in the host's thread
                cancelled, rest = _split(error)
                self._error = rest or self._error
                if cancelled is not None:
                    raise cancelled from None
            else:
                self._error = None

    def result(self) -> T:
        """Return what it returned.

        Raises:
            BaseException: what it raised.
            RuntimeClosedError: it was cancelled, and not by the host.

        """
        if self._error is not None:
            raise self._error
        return self._value


class Bridge(Generic[ContextT]):
    """A thread with Trio, and an async context in it, for the length of a block of the host's."""

    def __init__(self, open_context: Callable[[], AbstractAsyncContextManager[ContextT]]) -> None:
        """Make it; `start` opens the context.

        Args:
            open_context: returns the context, in Trio's thread.

        """
        self._open_context = open_context
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[ContextT] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._calls: set[Call[Any]] = set()
        """Those that are not over, for the host's thread."""
        self._is_closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dalsegno", daemon=True)
        # Trio's, once it runs:
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_open = False
        self._stopping = trio.Event()
        self._scope = trio.CancelScope()
        self._around: trio.Nursery
        self._inside: trio.Nursery

    def __repr__(self) -> str:
        state = "over" if self._over.done() else "closing" if self._is_closing else "open"
        return f"<Bridge {state}, {len(self._calls)} calls>"

    # ----------------------------------------------------------------- in the host's thread

    async def start(self, *, failed: Callable[[], None]) -> ContextT:
        """Start the thread and open the context; cancelled, both have ended first.

        Args:
            failed: called if the context ends by itself later.

        Raises:
            BaseException: what opening it raised.

        """
        self._thread.start()
        either: list[asyncio.Future[Any]] = [self._opened, self._over]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.end()
            raise
        if not self._opened.done():
            await self.end()
            raise self._failure or RuntimeClosedError("the runtime ended before it began")
        self._over.add_done_callback(lambda _: None if self._is_closing else failed())
        return self._opened.result()

    async def run(self, function: Callable[[], Awaitable[T]], *, inside: bool = False) -> T:
        """Await something in Trio's thread.

        Cancelled, it is cancelled there, and has ended before this has.

        Args:
            function: what to await.
            inside: whether it ends when the host leaves its block, before the runtime does.

        Raises:
            BaseException: what it raised.
            RuntimeClosedError: the block was left, or the runtime failed.

        """
        call = self.begin(function, inside=inside)
        try:
            await asyncio.wait([call.over])
        except asyncio.CancelledError:
            await self.cancel(call)
            raise
        return call.result()

    def begin(self, function: Callable[[], Awaitable[T]], *, inside: bool = False) -> Call[T]:
        """Begin with something in Trio's thread, as `run` does, without waiting for it."""
        if self._is_closing or self._over.done():
            raise RuntimeClosedError("the runtime has ended")
        call = Call(function, self._loop.create_future())
        self._calls.add(call)
        nursery = self._inside if inside else self._around
        self.post(self._spawn, nursery, copy_context(), call)
        return call

    async def cancel(self, call: Call[Any]) -> bool:
        """Cancel what was begun, and wait until it is over.

        Returns:
            Whether the host was cancelled in the meantime.

        """
        self.post(call.scope.cancel, "the host ends it")
        return await _wait_whatever_happens(call.over)

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in Trio's thread soon; where that has ended, `_finish` is the answer."""
        assert self._token is not None, "it was started"
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *arguments)

    async def end(self) -> tuple[BaseException | None, bool]:
        """Close the context and end the thread, whatever happens to the host meanwhile.

        Returns:
            What the context has raised, and whether the host was cancelled in the meantime.

        """
        self._is_closing = True
        if self._token is not None:  # else it will see that it need not begin
            self.post(self._stop)
        was_cancelled = await _wait_whatever_happens(self._over)
        self._thread.join()  # there is nothing left that it does
        return self._failure, was_cancelled

    def _settle(self, call: Call[Any]) -> None:
        self._calls.discard(call)
        call.over.set_result(None)

    def _finish(self) -> None:
        for call in list(self._calls):  # they came in the moment in which Trio ended
            self._settle(call)
        self._over.set_result(None)

    # -------------------------------------------------------------------- in Trio's thread

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the host's thread soon."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # its loop was closed in the middle of the block
            self._scope.cancel(reason="the host is gone")

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - raised in the host's thread
            self._failure = error
        with suppress(RuntimeError):  # the host's loop was closed in the middle of the block
            self._loop.call_soon_threadsafe(self._finish)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._is_closing:
            return
        async with trio.open_nursery() as self._around:
            try:
                with self._scope:
                    await self._hold_open()
            except BaseException as error:  # noqa: BLE001 - raised in the host's thread
                cancelled, self._failure = _split(error)
                if cancelled is not None:
                    raise cancelled from None
            finally:
                self._around.cancel_scope.cancel(reason="the runtime has ended")

    async def _hold_open(self) -> None:
        async with self._open_context() as value, trio.open_nursery() as self._inside:
            self._is_open = True
            self.tell(self._opened.set_result, value)
            await self._stopping.wait()
            self._inside.cancel_scope.cancel(reason="the host leaves its block")

    def _stop(self) -> None:
        if self._is_open:
            self._stopping.set()
        else:
            self._scope.cancel(reason="the host no longer wants it")

    def _spawn(self, nursery: trio.Nursery, context: Context, call: Call[Any]) -> None:
        """Begin a task in the host's context, so that its log lines and traces are of one piece."""
        try:
            context.run(nursery.start_soon, self._carry_out, call)
        except RuntimeError:  # the nursery has just closed
            self.tell(self._settle, call)

    async def _carry_out(self, call: Call[Any]) -> None:
        try:
            await call.carry_out()
        finally:
            self.tell(self._settle, call)


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split cancellations, which have to reach their scopes, from what else there is."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)


async def _wait_whatever_happens(future: asyncio.Future[None]) -> bool:
    """Wait for what will not take long, also if this task is cancelled; return whether it was."""
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            was_cancelled = True
    return was_cancelled
