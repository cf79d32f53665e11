"""The shared services of a runtime: started in order, restarted in order, given up together.

Every workspace stands on them, so a fault in one is not a workspace's: the service is started
again, and with it what was started after it and may lean on it.  Too many failures in a short time
are a fault that restarting does not mend: the runtime fails.

A service's end reaches the supervisor as a message with the generation that ended; it is never an
exception in the nursery.  Whatever a generation still says after it was stopped is not heard.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import DalsegnoError, FailureWindow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_log = logging.getLogger("dalsegno.supervisor")


class ServiceFailedError(DalsegnoError):
    """A shared service failed too often, or in a way that starting it again cannot cure."""


class FatalServiceError(DalsegnoError):
    """Raised by a service that must not be started again."""


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """One service at one moment."""

    name: str
    is_running: bool
    generations: int
    """How often it was started."""


class _Child:
    """A service; it is the task status of its own generations."""

    def __init__(self, name: str, run: Callable[..., Awaitable[None]]) -> None:
        self.name = name
        self.run = run
        self.generation = 0
        self.scope = trio.CancelScope()
        self.began = trio.Event()
        """Set once it can be relied on, or has ended."""
        self.ended = trio.Event()

    def __repr__(self) -> str:
        return f"{self.name}#{self.generation}{'' if self.is_running else ' ended'}"

    @property
    def is_running(self) -> bool:
        return self.began.is_set() and not self.ended.is_set()

    def begin(self) -> None:
        self.generation += 1
        self.scope = trio.CancelScope()
        self.began, self.ended = trio.Event(), trio.Event()

    def started(self, _value: None = None) -> None:
        self.began.set()


class Supervisor:
    """Runs services, each a function that takes Trio's ``task_status`` and runs until cancelled."""

    def __init__(
        self,
        services: Sequence[tuple[str, Callable[..., Awaitable[None]]]],
        *,
        failures_max: int,
        window_s: float,
    ) -> None:
        self._children = [_Child(name, run) for name, run in services]
        self._failures = FailureWindow(failures_max, window_s)
        self._exits: deque[tuple[_Child, int, Exception | None]] = deque()
        self._exited = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Supervisor {' '.join(map(repr, self._children))}>"

    def statistics(self) -> list[ServiceStatistics]:
        """Return how each service stands, in their order."""
        return [
            ServiceStatistics(child.name, child.is_running, child.generation)
            for child in self._children
        ]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the services and start failed ones again, until cancelled.

        Raises:
            ServiceFailedError: one failed too often, or for good.

        """
        async with trio.open_nursery() as nursery:
            await self._start(nursery, 0)
            task_status.started()
            while True:
                while not self._exits:
                    await self._exited.park()
                child, generation, error = self._exits.popleft()
                if generation == child.generation:
                    self._count(child, error)
                    index = self._children.index(child)
                    await self._stop(index)
                    await self._start(nursery, index)

    def _count(self, child: _Child, error: Exception | None) -> None:
        if isinstance(error, FatalServiceError):
            raise ServiceFailedError(error.message) from error
        _log.error("the %s failed and is started again", child.name, exc_info=error)
        failures = self._failures
        if failures.add(trio.current_time()):
            raise ServiceFailedError(
                f"{len(failures)} failures in {failures.window_s:g} s, last the {child.name}"
            ) from error

    async def _start(self, nursery: trio.Nursery, first: int) -> None:
        """Start the services from the first of these on, up to one that fails as it starts."""
        for child in self._children[first:]:
            child.begin()
            nursery.start_soon(self._run, child)
            await child.began.wait()
            if child.ended.is_set():
                return

    async def _stop(self, first: int) -> None:
        """Stop the services from the first of these on, the last first."""
        for child in reversed(self._children[first:]):
            child.generation += 1  # its exit is ignored from now on
            child.scope.cancel(reason="a service before it failed")
            if child.began.is_set():
                await child.ended.wait()

    async def _run(self, child: _Child) -> None:
        generation, ended = child.generation, child.ended
        error: Exception | None = None
        try:
            with child.scope:
                await child.run(task_status=child)
        except Exception as failure:  # noqa: BLE001 - the supervisor gets it
            error = first_of(failure)
        finally:
            ended.set()
            child.began.set()
        self._exits.append((child, generation, error))
        self._exited.unpark()


def first_of(error: Exception) -> Exception:
    """Return the first cause: nested groups are how nurseries pass one failure on."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
