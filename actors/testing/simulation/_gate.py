"""A gate before every step of every task of a simulated process.

A process that is stopped (SIGSTOP, a virtual machine that pauses, a long collection of garbage)
does not run: no timer fires in it, and when it goes on, it goes on as if no time had passed.
Holding back its messages would not show that; its tasks must not be stepped.  So a gate wraps the
coroutine of each task that a process starts, and keeps what Trio would have sent into it until the
gate is open again.

The gate also counts steps, so that a process can be killed at any one of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

_current: ContextVar[Gate | None] = ContextVar("gate", default=None)


@contextmanager
def outside() -> Iterator[None]:
    """Start the tasks in a block outside the process that starts them."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


class Gate:
    """The gate of one process, which is everything that is started from `inside`."""

    def __init__(self) -> None:
        self.is_shut = False
        self.steps = 0
        self._trap: tuple[int, Callable[[], None]] | None = None
        self._held: list[trio.lowlevel.Task] = []

    def __repr__(self) -> str:
        return f"<Gate {'shut' if self.is_shut else 'open'}, {self.steps} steps>"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put every task that is started in a block behind this gate."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def shut(self) -> None:
        """Stop every task before its next step."""
        self.is_shut = True

    def open(self) -> None:
        """Release all tasks, in the order in which they were held."""
        self.is_shut = False
        held, self._held = self._held, []
        for task in held:
            trio.lowlevel.reschedule(task)

    def trap(self, steps: int, spring: Callable[[], None]) -> None:
        """Call a function after so many more steps, instead of any trap set before."""
        self._trap = (self.steps + steps, spring)

    def disarm(self) -> None:
        """Remove the trap."""
        self._trap = None

    def count(self) -> None:
        """Count a step that is about to be taken, and spring the trap if it is due."""
        self.steps += 1
        if self._trap is not None and self.steps >= self._trap[0]:
            spring = self._trap[1]
            self._trap = None
            with outside():
                spring()

    async def hold(self) -> None:
        """Keep a task from its next step while the gate is shut."""
        while self.is_shut:
            self._held.append(trio.lowlevel.current_task())
            # A cancellation is not a step: it is delivered when the task goes on.
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    async def pass_through(self, coro: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - a task's
        """Step a task's coroutine only while the gate is open."""
        return await _Steps(self, coro)


class _Steps:
    """The steps of a task: what Trio sends into it and what it yields, with a gate in between."""

    def __init__(self, gate: Gate, coro: Coroutine[Any, Any, Any]) -> None:
        self._gate = gate
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, Any]:
        gate, send = self._gate, self._coro.send
        sent = None
        while True:
            if gate.is_shut:
                yield from gate.hold().__await__()
            gate.count()
            try:
                trap = send(sent)
            except StopIteration as end:
                return end.value
            sent = yield trap


class Gates(trio.abc.Instrument):
    """An instrument of ``trio.run`` that puts every task behind the gate of its process."""

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Wrap a task before its first step."""
        gate = task.context.get(_current)
        if gate is not None:
            task.coro = gate.pass_through(task.coro)  # type: ignore[assignment]  # Trio's is narrower
