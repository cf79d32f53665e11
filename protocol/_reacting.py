"""What follows the events of a domain: reactors, and the runs that they ask for.

A *reactor* is told of every committed event of some types, in order, whatever dies meanwhile, and
asks for runs: for one that it carries out itself (`Domain.react`), or for any number of others'
(`Domain.requests`).  The id of such a run is derived from the reactor and the event, so whoever is
told of an event twice asks for a run that exists (I12).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence  # at run time, as in `_deciding`
from hashlib import blake2b
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec

from ._codec import CommandT, EventT, StateT, structs_by_name
from ._errors import DomainError
from ._indexing import DomainIndex
from ._worker import Retry, Worker

if TYPE_CHECKING:
    from typing_extensions import TypeForm

OneEventT = TypeVar("OneEventT", bound=msgspec.Struct)

Since: TypeAlias = Literal["now", "beginning"]

_DEPTH_MAX = 16


class RunFor(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a reactor asks for because of an event."""

    worker: str
    key: str = ""
    """Tells the runs for one event apart, such as the id of a rule: each there is once, ever."""
    input: Any = None
    """JSON."""
    labels: dict[str, str] = {}
    deadline_s: float | None = None
    """From now, in seconds; None: the worker's own, which it may not exceed."""
    requested_by: str | None = None
    """The user whose rights the run has; None: the program's own."""
    trigger_id: str | None = None
    """What stands for the event in the run's id, where people can name it, and so ask for the run
    themselves; it has to name the event for ever.  None: the event's own id."""


class Reactor(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of the events of a domain; see `Domain.react` and `Domain.requests`."""

    name: str
    domain: str
    """The name of the domain whose events …"""
    events: frozenset[str]
    """… of these types it is told of."""
    worker: Worker | None = None
    """Who carries out its run; None where it asks for those of others."""
    choose: Callable[[Any, Any], Awaitable[Sequence[RunFor]]] | None = None
    """Returns these, of what it may look at and an event."""
    when: Callable[..., bool] | None = None
    takes_state: bool = False
    """Whether ``when=`` is given the state at the event, too."""
    depth_max: int = 1
    since: Since = "now"
    was: str | None = None

    def check(self) -> None:
        """Raise `DomainError` unless it is complete."""
        if not 1 <= self.depth_max <= _DEPTH_MAX:
            raise DomainError(f"{self.name}: depth_max is 1 to {_DEPTH_MAX}")
        if self.was == self.name:
            raise DomainError(f"{self.name}: was= is the name that it had before")
        if self.worker is not None:
            self.worker.check()


class DomainReactions(DomainIndex[StateT, CommandT, EventT]):
    """The part of a domain that declares what follows its events."""

    name: str

    def react(
        self,
        events: TypeForm[OneEventT],
        *,
        name: str,
        when: Callable[[OneEventT], bool] | Callable[[StateT, OneEventT], bool] | None = None,
        since: Since = "now",
        was: str | None = None,
        depth_max: int = 1,
        kind: str = "automation",
        deadline_s: float = 600.0,
        concurrency: int = 4,
        retry: Retry | None = None,
    ) -> Callable[[Callable[[Any, OneEventT], Awaitable[Any]]], Reactor]:
        """Return what makes a reactor of a coroutine, for `App`: a run for every such event.

        The coroutine is given the run and the event, and is a worker in all else: what it returns
        is committed with the run's end.  It has the program's own rights.

        Args:
            events: an event of the domain, or a union of several.
            name: of the reactor and its worker.  Where it has got to is kept under it.
            when: whether there is a run, of the event or of the entity's state at the event and
                it.  Pure; where it raises there is none, which is counted.
            since: where a reactor begins that there was not before: ``"now"`` at the end of every
                log, ``"beginning"`` at their first events.  In a workspace that is newer than the
                reactor it begins with the first event either way.
            was: the name that it had before, whose place it takes over.
            depth_max: it is not told of what came about by so many runs, each for an event of the
                one before: so a reactor on what it makes itself comes to an end.
            kind: as of a `Worker`, and so are the others.
            deadline_s: from the event to the end, at most, in seconds.
            concurrency: its runs at a time in a workspace.
            retry: when a failed attempt is followed by another one.

        Raises:
            DomainError: something of it is no event of the domain.

        """
        types = self._types_of(events)

        def made(function: Callable[[Any, OneEventT], Awaitable[Any]]) -> Reactor:
            worker = Worker(
                name=name,
                function=function,
                kind=kind,
                deadline_s=deadline_s,
                concurrency=concurrency,
                retry=Retry() if retry is None else retry,
                is_reactor=True,
            )
            return self._reactor(
                types, when, name=name, worker=worker, since=since, was=was, depth_max=depth_max
            )

        return made

    def requests(
        self,
        events: TypeForm[OneEventT],
        *,
        name: str,
        when: Callable[[OneEventT], bool] | Callable[[StateT, OneEventT], bool] | None = None,
        since: Since = "now",
        was: str | None = None,
        depth_max: int = 1,
    ) -> Callable[[Callable[[Any, OneEventT], Awaitable[Sequence[RunFor]]]], Reactor]:
        """Return what makes a reactor of a coroutine that says which runs an event asks for.

        The coroutine is given a `Reaction`, which may read, and the event.  It returns any number
        of `RunFor`, up to `Limits.runs_per_event_max`, each by a worker of the app.  It has
        `Limits.reaction_deadline_s`, three times at most; where it takes longer, raises or returns
        anything else, the event asks for no run, which is counted: those after it are told.

        Args:
            events: as in `react`, and so are the others.
            name: see there.
            when: see there.
            since: see there.
            was: see there.
            depth_max: see there.

        Raises:
            DomainError: something of it is no event of the domain.

        """
        types = self._types_of(events)

        def made(function: Callable[[Any, OneEventT], Awaitable[Sequence[RunFor]]]) -> Reactor:
            return self._reactor(
                types, when, name=name, choose=function, since=since, was=was, depth_max=depth_max
            )

        return made

    def _types_of(self, events: Any) -> frozenset[str]:  # noqa: ANN401 - a TypeForm
        structs = structs_by_name(events)
        if foreign := [name for name, struct in structs.items() if self.events.get(name) != struct]:
            raise DomainError(f"{self!r} has no event {', '.join(foreign)}")
        return frozenset(structs)

    def _reactor(
        self,
        types: frozenset[str],
        when: Callable[..., bool] | None,
        **declared: Any,  # noqa: ANN401 - the fields of a reactor
    ) -> Reactor:
        return Reactor(
            domain=self.name,
            events=types,
            when=when,
            takes_state=when is not None and len(signature(when).parameters) > 1,
            **declared,
        )


def run_id_for(reactor: str, key: str, event_id: str) -> str:
    """Return the id of the run that a reactor asks for because of an event, the same for ever."""
    digest = blake2b(digest_size=16)
    for part in (reactor, key, event_id):
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
