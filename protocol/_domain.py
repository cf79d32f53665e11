"""Domains: what a host application declares about its own entities.

A domain names one kind of entity, the commands that may be asked of it and the events that can
happen to it, and gives a pure function for each: `Domain.decide` (state and command in, events
out) and `Domain.evolve` (state and event in, state out).  Everything else is the runtime's.

The unions of commands and events are given as values, ``AddTask | FinishTask``.  PEP 747's
``TypeForm`` carries them into the types, so that `Entities.send` refuses a command of another
domain, and a subscription yields exactly these events.

A command or an event is known by its struct's tag, or without one by its class's name in snake
case: ``TaskAdded`` is ``task_added``.  An event's payload in the log never carries the tag.

    decider(state, command)                     the entity and what is asked of it
    decider(state, command, context)            … and who asks, when
    decider(state, command, touched)            … and other entities, named by ``touches=`` from the
                                                command alone, or by ``follows=`` from the state,
                                                or from the states of those that ``touches=`` named
    decider(state, command, past)               … and the entity as it was, named by ``needs=``

Parameters after the second are recognised by their annotations and may be combined.  What a domain
says beside these, `Domain.index`, `Domain.due` and `Domain.audit`, is optional, and so is what
follows its events, `Domain.react`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence  # at run time, as in `_deciding`
from contextlib import contextmanager
from inspect import signature
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    get_args,
    overload,
)

import msgspec

from ._codec import CommandT, EventT, EventView, StateT
from ._deciding import WRITERS, Context, Past, annotations_of
from ._errors import DalsegnoError, DomainError
from ._reacting import DomainReactions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from typing_extensions import TypeForm

OneCommandT = TypeVar("OneCommandT", bound=msgspec.Struct)
OneEventT = TypeVar("OneEventT", bound=msgspec.Struct)
SeenT = TypeVar("SeenT", bound=msgspec.Struct)
P = ParamSpec("P")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class Touched:
    """A read-only view of the other entities that ``touches=`` and ``follows=`` named."""

    __slots__ = ("_states",)

    def __init__(self, states: Mapping[str, Any]) -> None:
        self._states = states

    def get(self, domain: Domain[StateT, Any, Any], entity_id: str) -> StateT | None:
        """Return the state of one of them; None if it does not exist.

        Raises:
            DomainError: the command did not name this entity.

        """
        stream_id = domain.stream_id(entity_id)
        if stream_id not in self._states:
            raise DomainError(f"{stream_id} is not in touches= or follows=")
        state: StateT | None = self._states[stream_id]
        return state


class On(Generic[EventT]):
    """An event on another entity than the command's own: ``touches=`` or ``follows=`` named it."""

    __slots__ = ("domain", "event", "stream_id")

    def __init__(self, domain: Domain[Any, Any, EventT], entity_id: str, event: EventT) -> None:
        self.domain: Domain[Any, Any, Any] = domain
        self.stream_id = domain.stream_id(entity_id)
        self.event = event


class Decider(msgspec.Struct, frozen=True, kw_only=True):
    """A command's function and its declaration."""

    function: Callable[..., Any]
    takes_none: bool
    extras: tuple[str, ...]
    allow: frozenset[str]
    touches: Callable[[Any], Sequence[tuple[Domain[Any, Any, Any], str]]] | None
    follows: Callable[..., Sequence[tuple[Domain[Any, Any, Any], str]]] | None
    follows_touched: bool = False
    """Whether ``follows=`` is given what ``touches=`` named, too."""
    needs: Callable[[Any], int | None] | None
    repeats: str
    """What another payload under a used idempotency key gets: see `Domain.decide`."""


class Domain(DomainReactions[StateT, CommandT, EventT]):
    """One kind of entity: its state, its commands, its events, and what they mean."""

    def __init__(
        self,
        name: str,
        *,
        state: type[StateT],
        commands: TypeForm[CommandT],
        events: TypeForm[EventT],
        version: int = 1,
        id_field: str | None = None,
        allow: Collection[str] = WRITERS,
        repeats: str = "conflict",
        snapshot_every: int = 100,
        reserved: bool = False,
    ) -> None:
        """Declare a domain.

        Args:
            name: prefix of the entity streams, ``name:entity_id``; lower case, at most 64.
            state: the state of one entity; frozen.
            commands: the union of its commands; ``Never`` for an entity that changes only with
                others, through ``touches=``.
            events: the union of its events.
            version: raise it when an evolver changes its meaning, or what is listed and when
                something is due: stored states of another version are folded again from the log.
            id_field: the field, present in every command, that names the entity; ``{name}_id`` if
                not given.  Where it may be None, the runtime makes a new id.
            allow: the roles that may send this domain's commands.
            repeats: the answer to a command whose idempotency key was used for the same command
                with another payload: ``"conflict"`` (``STATE_CONFLICT``) or ``"original"`` (the
                original answer, C1).  A single command may differ: see `decide`.
            snapshot_every: versions between two snapshot rows (KJ-SNAP-1).
            reserved: whether its entities live in the reserved workspace ``$system`` alone; its
                commands cannot be sent over the network.

        """
        if not _NAME.fullmatch(name) or name == "workspace":
            raise DomainError(f"a domain's name is lower case and not 'workspace': {name!r}")
        _check_repeats(repeats)
        if version < 1 or snapshot_every < 1:
            raise DomainError(f"{name}: version and snapshot_every count from 1")
        super().__init__(state, commands, events)
        self.name = name
        self.version = version
        self.id_field = id_field or f"{name}_id"
        self.allow = frozenset(allow)
        self.repeats = repeats
        self.snapshot_every = snapshot_every
        self.reserved = reserved
        self._deciders: dict[type, Decider] = {}
        self._evolvers: dict[type, tuple[Callable[..., Any], bool]] = {}
        self._view: EventView | None = None
        for tag, command in self.commands.items():
            if self.id_field not in command.__struct_fields__:
                raise DomainError(f"command {tag!r} has no field {self.id_field!r}")

    def __repr__(self) -> str:
        return f"<Domain {self.name!r}: {', '.join(self.commands)} → {', '.join(self.events)}>"

    # ----------------------------------------------------------------------------- declaring

    @overload
    def decide(
        self, function: Callable[[StateT | None, OneCommandT], Decided[EventT]]
    ) -> Callable[[StateT | None, OneCommandT], Decided[EventT]]: ...
    @overload
    def decide(
        self, function: Callable[[StateT, OneCommandT], Decided[EventT]]
    ) -> Callable[[StateT, OneCommandT], Decided[EventT]]: ...
    @overload
    def decide(
        self, function: Callable[[StateT | None, OneCommandT, Context], Decided[EventT]]
    ) -> Callable[[StateT | None, OneCommandT, Context], Decided[EventT]]: ...
    @overload
    def decide(
        self, function: Callable[[StateT, OneCommandT, Context], Decided[EventT]]
    ) -> Callable[[StateT, OneCommandT, Context], Decided[EventT]]: ...
    @overload
    def decide(
        self,
        *,
        allow: Collection[str] | None = None,
        touches: Callable[[Any], Sequence[tuple[Domain[Any, Any, Any], str]]] | None = None,
        follows: Callable[..., Sequence[tuple[Domain[Any, Any, Any], str]]] | None = None,
        needs: Callable[[Any], int | None] | None = None,
        repeats: str | None = None,
    ) -> Callable[[Callable[P, Decided[EventT]]], Callable[P, Decided[EventT]]]: ...
    def decide(
        self,
        function: Callable[..., Any] | None = None,
        *,
        allow: Collection[str] | None = None,
        touches: Callable[[Any], Sequence[tuple[Domain[Any, Any, Any], str]]] | None = None,
        follows: Callable[..., Sequence[tuple[Domain[Any, Any, Any], str]]] | None = None,
        needs: Callable[[Any], int | None] | None = None,
        repeats: str | None = None,
    ) -> Callable[..., Any]:
        """Register the decider of the command that its second parameter is annotated with.

        The function returns an event, several, or none, or raises `Reject`.  If its state is
        annotated as not optional, an entity that does not exist is refused with
        ``{NAME}_NOT_FOUND``.  A command whose field ``base_version`` is neither None nor the
        entity's version is refused with ``VERSION_CONFLICT``.

        Args:
            function: the decider, if this is used as a bare decorator.
            allow: the roles that may send this command, instead of the domain's.
            touches: returns, for a command, the other entities that it reads or changes.
            follows: returns, for a state and a command, further ones: where the state says which
                they are.  With a third parameter, a `Touched`, it sees those of ``touches`` as
                well; one with a default is its own.  They are loaded, and nothing else is
                decided until this is.  At most `Limits.command_entities_max` with those of
                ``touches``.
            needs: returns, for a command, the earlier version of the entity that it reads.
            repeats: what another payload under a used key gets, instead of the domain's.

        """
        if repeats is not None:
            _check_repeats(repeats)

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            hints, names = self._annotations(function)
            command = hints[names[1]]
            if command not in self.commands.values():
                raise DomainError(f"{function.__name__}: {command} is not a command of {self!r}")
            if command in self._deciders:
                raise DomainError(f"{function.__name__}: {command} already has a decider")
            extras = tuple(_EXTRAS.get(hints[name], "") for name in names[2:])
            if "" in extras:
                raise DomainError(f"{function.__name__}: after the first two, only {_EXTRA_NAMES}")
            if "touched" in extras and touches is None and follows is None:
                raise DomainError(f"{function.__name__}: Touched without touches= or follows=")
            follows_touched = follows is not None and _takes_touched(follows)
            if follows_touched and touches is None:
                raise DomainError(f"{function.__name__}: follows= of Touched without touches=")
            if ("past" in extras) is (needs is None):
                raise DomainError(f"{function.__name__}: Past and needs= go together")
            self._deciders[command] = Decider(
                function=function,
                takes_none=type(None) in get_args(hints[names[0]]),
                extras=extras,
                allow=self.allow if allow is None else frozenset(allow),
                touches=touches,
                follows=follows,
                follows_touched=follows_touched,
                needs=needs,
                repeats=repeats or self.repeats,
            )
            return function

        return declare if function is None else declare(function)

    @overload
    def evolve(
        self, function: Callable[[StateT | None, OneEventT], StateT | None]
    ) -> Callable[[StateT | None, OneEventT], StateT | None]: ...
    @overload
    def evolve(
        self, function: Callable[[StateT, OneEventT], StateT | None]
    ) -> Callable[[StateT, OneEventT], StateT | None]: ...
    def evolve(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register the evolver of an event; it returns the new state, None to end the entity."""
        hints, names = self._annotations(function)
        event = hints[names[1]]
        if event not in self.events.values() or len(names) != 2:
            raise DomainError(f"{function.__name__}: {event} is not an event of {self!r}")
        if event in self._evolvers:
            raise DomainError(f"{function.__name__}: {event} already has an evolver")
        self._evolvers[event] = (function, type(None) in get_args(hints[names[0]]))
        return function

    @overload
    def view(
        self, function: Callable[[EventT, str, int], Any]
    ) -> Callable[[EventT, str, int], Any]: ...
    @overload
    def view(
        self, *, of: type[SeenT]
    ) -> Callable[[Callable[[SeenT, str, int], Any]], Callable[[SeenT, str, int], Any]]: ...
    def view(
        self,
        function: Callable[..., Any] | None = None,
        *,
        of: type[msgspec.Struct] | None = None,
    ) -> Callable[..., Any]:
        """Register the view on the workspace's stream: a function of (event, entity id, version).

        Args:
            function: the view, if this is used as a bare decorator.
            of: the fields that it reads, decoded instead of whole events: every event is shown
                to every reader, and a large one need not be decoded in full for that.

        """

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            view = EventView(function, of)
            for event in self.events.values():
                view.check(event)
            self._view = view
            return function

        return declare if function is None else declare(function)

    def upcast(
        self, event: str, version: int
    ) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Callable[..., dict[str, Any]]]:
        """Register the function that converts a payload of ``version`` to ``version + 1``."""

        def declare(
            function: Callable[[dict[str, Any]], dict[str, Any]],
        ) -> Callable[[dict[str, Any]], dict[str, Any]]:
            if event not in self._codecs:
                raise DomainError(f"{self!r} has no event {event!r}")
            self._codecs[event].add_upcast(version, function)
            return function

        return declare

    def _annotations(self, function: Callable[..., Any]) -> tuple[dict[str, Any], list[str]]:
        structs = (self.state, *self.commands.values(), *self.events.values())
        return annotations_of(function, structs)

    def check(self) -> None:
        """Raise `DomainError` unless every command, event and version is handled."""
        for kind, declared, handled in (
            ("decider", self.commands, self._deciders),
            ("evolver", self.events, self._evolvers),
        ):
            if missing := [tag for tag, struct in declared.items() if struct not in handled]:
                raise DomainError(f"{self!r}: no {kind} for {', '.join(missing)}")
        for codec in self._codecs.values():
            codec.check()

    @contextmanager
    def wrapping(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        """Call what decides and what folds by way of ``wrap`` for the length of a block.

        For what tests domains: the simulation calls each of them twice.
        """
        deciders, evolvers = self._deciders, self._evolvers
        self._deciders = {
            command: msgspec.structs.replace(decider, function=wrap(decider.function))
            for command, decider in deciders.items()
        }
        self._evolvers = {
            event: (wrap(function), takes_none)
            for event, (function, takes_none) in evolvers.items()
        }
        try:
            yield
        finally:
            self._deciders, self._evolvers = deciders, evolvers

    # ------------------------------------------------------------------------------- running

    def stream_id(self, entity_id: str) -> str:
        """Return the name of an entity's stream."""
        return f"{self.name}:{entity_id}"

    @property
    def has_view(self) -> bool:
        """Whether the workspace's stream shows something else than the events."""
        return self._view is not None

    @property
    def offered(self) -> dict[str, type[CommandT]]:
        """The commands that somebody besides the program itself may send, by name (``allow=``)."""
        return {
            name: command
            for name, command in self.commands.items()
            if command not in self._deciders or self._deciders[command].allow
        }

    def decider(self, command: type) -> Decider:
        """Return the decider of a command."""
        return self._deciders[command]

    def evolve_by(self, state: StateT | None, event: EventT) -> StateT | None:
        """Return the state after one event."""
        function, takes_none = self._evolvers[type(event)]
        if state is None and not takes_none:
            raise DomainError(f"{type(event).__name__} on a {self.name} that does not exist")
        evolved: StateT | None = function(state, event)
        return evolved

    def viewed(
        self, type_: str, type_version: int, payload: str, entity_id: str, version: int
    ) -> object:
        """Return a stored payload as the workspace's stream shows it: what JSON is made of.

        One that is unknown, or has no view, is `msgspec.Raw`: it goes out byte for byte.

        Raises:
            DalsegnoError: the payload cannot be read.
            InternalError: the view raised.

        """
        codec = self._codecs.get(type_)
        if codec is None:
            return msgspec.Raw(payload)
        if self._view is not None:
            return self._view.show(codec, type_version, payload, entity_id, version)
        if not codec.reads(type_version):
            raise DalsegnoError(f"{type_} version {type_version} is not known here")
        return msgspec.Raw(payload)


if TYPE_CHECKING:
    from typing import TypeAlias

    Decided: TypeAlias = EventT | On[Any] | Sequence[EventT | On[Any]] | None

_EXTRAS: dict[type, str] = {Context: "context", Touched: "touched", Past: "past"}
_EXTRA_NAMES = "Context, Touched and Past"


def _takes_touched(follows: Callable[..., Any]) -> bool:
    """Return whether ``follows=`` has a third parameter that it has to be given."""
    needed = [each for each in signature(follows).parameters.values() if each.default is each.empty]
    return len(needed) > 2


def _check_repeats(repeats: str) -> None:
    if repeats not in {"conflict", "original"}:
        raise DomainError(f"repeats is 'conflict' or 'original', not {repeats!r}")
