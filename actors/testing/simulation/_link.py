"""The link between a simulated process and its database: latency, loss, and late arrivals.

A statement that was sent is on its own: even if its sender is cancelled, killed, or cut off, it
arrives eventually, is executed, and its answer may find nobody.  So each one that changes something
is a task of the *wire*, which outlives the processes; its sender only waits for the answer.  That
is what a real database does: a statement whose connection was lost may be executed before the next
`Store.acquire`, and then it counts, or after it, and then the epoch refuses it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from dalsegno.protocol import DalsegnoError, OutcomeUnknownError, StoreUnavailableError

from ._gate import outside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ._choices import Noise

ResultT = TypeVar("ResultT")

LAG_S = 0.1
"""The longest time on its way of a statement that is only slow."""
_RECOVERED_S = 10.0
"""How long after trouble everything that could not be written before has been written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What may happen to each statement, and how likely; the default is calm."""

    latency_s: float = 0.0
    """The longest time that it takes each way."""
    refused: float = 0.0
    """The chance that it is not sent."""
    lost: float = 0.0
    """The chance that the connection is lost before its answer comes."""
    late_s: float = 0.0
    """How much later it may arrive if the connection was lost."""
    locked: float = 0.0
    """The chance that an append leaves a batch out, as if its head were locked."""
    rejected: float = 0.0
    """The chance that an append is refused as if its data were bad."""

    @property
    def is_lossy(self) -> bool:
        """Whether more may happen to a statement than that it takes its time."""
        chances = (self.refused, self.lost, self.late_s, self.locked, self.rejected)
        return any(chances) or self.latency_s > LAG_S


CALM = Weather()


class LinkState(Enum):
    """Whether anything passes."""

    UP = "up"
    REFUSING = "refusing"
    """Every connection is refused at once."""
    SILENT = "silent"
    """Nothing passes, and neither side notices; what was sent arrives when this is over."""


class Statement(Generic[ResultT]):
    """A change in flight."""

    def __init__(self, call: Callable[[], Awaitable[ResultT]]) -> None:
        self._call = call
        self._results: list[ResultT] = []
        self._error: DalsegnoError | None = None
        self.done = trio.Event()

    async def execute(self) -> None:
        """Execute it at the database."""
        try:
            self._results.append(await self._call())
        except DalsegnoError as error:
            self._error = error
        self.done.set()

    def result(self) -> ResultT:
        """Return its result, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._results[0]


class Link:
    """One process's connections to the database."""

    def __init__(
        self,
        wire: trio.Nursery,
        noise: Noise,
        *,
        silence_s: float = 20.0,
        faults: Counter[str] | None = None,
    ) -> None:
        self.state = LinkState.UP
        self.weather = CALM
        self._trouble = (-inf, -inf)
        """When it was last not calm, from and to: what was to be written then is at risk."""
        self.faults: Counter[str] = Counter() if faults is None else faults
        """The number of faults by kind."""
        self.noise = noise
        self._wire = wire
        self._silence_s = silence_s
        self._sessions: dict[trio.CancelScope, None] = {}
        self._changed = trio.Event()
        self._committing = trio.Event()
        self._is_dead = False

    def __repr__(self) -> str:
        return f"<Link {self.state.value}, {len(self._sessions)} waiting>"

    # ------------------------------------------------------------------------------- faults

    def set(self, state: LinkState, weather: Weather = CALM) -> None:
        """Change what passes, and how; connections that are refused from now on are lost too."""
        if self._is_dead:
            return
        was_in_trouble = self._is_in_trouble
        self.state, self.weather = state, weather
        if was_in_trouble or self._is_in_trouble:
            self._note_trouble(lasts=self._is_in_trouble)
        if state is LinkState.REFUSING:
            self.drop()
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def drop(self) -> None:
        """Drop the connections: their senders do not learn what came of statements in flight."""
        self._note_trouble(lasts=self._is_in_trouble)
        for scope in list(self._sessions):
            scope.cancel(reason="the connection was lost")

    def kill(self) -> None:
        """Send nothing from now on: the process is gone, though its tasks may not know."""
        self.set(LinkState.REFUSING)
        self._note_trouble(lasts=False)
        self._is_dead = True

    def set_frozen(self, *, is_frozen: bool) -> None:
        """Record that its process is frozen, or goes on."""
        self._note_trouble(lasts=is_frozen or self._is_in_trouble)

    def unwritten_since(self, now: float) -> float:
        """Return the time since which writes may be lost or late; infinite if none may."""
        began, ended = self._trouble
        return began if ended > now - _RECOVERED_S else inf

    def _note_trouble(self, *, lasts: bool) -> None:
        now = trio.current_time()
        self._trouble = (min(self.unwritten_since(now), now), inf if lasts else now)

    async def wait_committing(self) -> None:
        """Wait until the next commit is on its way, on a link that is not calm."""
        await self._committing.wait()

    # ---------------------------------------------------------------------------- statements

    async def read(self, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Execute a statement that only reads.

        Raises:
            StoreUnavailableError: the connection was refused or lost, or no answer came in time.

        """
        if self._is_calm:
            return await call()
        await self._connect()
        with self._session(self._silence_s) as scope:
            if self._happens(self.weather.lost, "a read lost"):
                scope.deadline = trio.current_time() + self._delay()
            await self._travel()
            result = await call()
            await self._travel()
            return result
        raise StoreUnavailableError("the connection was lost")

    async def change(
        self,
        call: Callable[[], Awaitable[ResultT]],
        lost: type[DalsegnoError] = StoreUnavailableError,
        *,
        is_bounded: bool = True,
    ) -> ResultT:
        """Execute a change; whatever is raised, it may have been executed, or may yet be.

        Raises:
            StoreUnavailableError: nothing was sent.
            DalsegnoError: of type ``lost``; the connection was lost.

        """
        if self._is_calm:
            return await call()
        await self._connect()
        statement = Statement(call)
        if lost is OutcomeUnknownError:
            begun, self._committing = self._committing, trio.Event()
            begun.set()
        with self._session(self._silence_s if is_bounded else inf) as scope:
            fault = "an outcome unknown" if lost is OutcomeUnknownError else "a write lost"
            if self._happens(self.weather.lost, fault):
                self._lose(statement, scope)
            else:
                self._start(statement, 0.0)
            await statement.done.wait()
            await self._travel()
            return statement.result()
        raise lost("the connection was lost")

    def _lose(self, statement: Statement[ResultT], scope: trio.CancelScope) -> None:
        """Drop the connection: before the statement arrives, after it, or while it is delayed."""
        scope.deadline = trio.current_time() + 2 * self._delay()
        fate = self.noise.randrange(3)
        if fate == 1:
            self._start(statement, 0.0)
        elif fate == 2:
            self._start(statement, self.noise.uniform(0, self.weather.late_s))

    def _start(self, statement: Statement[ResultT], late_s: float) -> None:
        with outside():
            self._wire.start_soon(self._carry, statement, late_s)

    async def _carry(self, statement: Statement[ResultT], late_s: float) -> None:
        await trio.sleep(late_s)
        await self._travel()
        await statement.execute()

    async def _connect(self) -> None:
        """Get a connection."""
        await trio.lowlevel.checkpoint()
        if self.state is LinkState.REFUSING or self._happens(self.weather.refused, "refused"):
            await trio.sleep(self._delay())
            raise StoreUnavailableError("the connection was refused")

    async def _travel(self) -> None:
        await trio.sleep(self._delay())
        while self.state is LinkState.SILENT:
            await self._changed.wait()

    def _delay(self) -> float:
        return self.noise.uniform(0, self.weather.latency_s)

    def _happens(self, chance: float, fault: str) -> bool:
        if self.noise.random() >= chance:
            return False
        self.faults[fault] += 1
        return True

    @property
    def _is_calm(self) -> bool:
        return self.weather is CALM and self.state is LinkState.UP

    @property
    def _is_in_trouble(self) -> bool:
        return self.weather.is_lossy or self.state is not LinkState.UP

    @contextmanager
    def _session(self, bound_s: float) -> Iterator[trio.CancelScope]:
        with trio.CancelScope(deadline=trio.current_time() + bound_s) as scope:
            self._sessions[scope] = None
            try:
                yield scope
            finally:
                del self._sessions[scope]
