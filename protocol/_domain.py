"""What a host application says about itself: a domain.

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
    decider(state, command, touched)            … and other entities, named by ``touches=``
    decider(state, command, past)               … and the entity as it was, named by ``needs=``

The parameters after the second are told by their annotations and may be combined.
"""

from __future__ import annotations

import inspect
import re
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Never,
    ParamSpec,
    TypeVar,
    get_args,
    get_type_hints,
    overload,
)

import msgspec

from ._errors import DalsegnoError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from typing_extensions import TypeForm

StateT = TypeVar("StateT", bound=msgspec.Struct)
CommandT = TypeVar("CommandT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)
OneCommandT = TypeVar("OneCommandT", bound=msgspec.Struct)
OneEventT = TypeVar("OneEventT", bound=msgspec.Struct)
SeenT = TypeVar("SeenT", bound=msgspec.Struct)
P = ParamSpec("P")

WRITERS = frozenset({"owner", "admin", "editor"})
"""Who may send a command, unless it says otherwise (REQUIREMENTS §1.4)."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class DomainError(TypeError):
    """A domain is declared wrongly: raised while it is declared, or at the latest by `check`."""


class Principal(msgspec.Struct, frozen=True):
    """Who acts: the embedding program (no user), or a user of it."""

    user_id: str | None = None
    role: str | None = None
    """Asserted by the host; None where the workspace's log tells it."""


SYSTEM = Principal()
"""The embedding program itself: allowed everything."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a decider may know beside state and command: it has no clock and no randomness."""

    principal: Principal
    role: str
    """The principal's role in the workspace, as of this command's place in the log."""
    owner_id: str | None = None
    """The workspace's first owner, who is a member before the log says so."""
    now: datetime
    """The time of the command, UTC."""
    new_id: Callable[[], str]
    """Makes a UUIDv7."""


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What of an entity can be looked up: ``keys`` and ``title`` commit with it."""

    keys: tuple[str, ...] = ()
    title: str | None = None
    text: str | None = None
    """For the search projection, which follows the log."""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The entity as it was at the version that ``needs=`` named."""

    version: int
    state: Any
    """None where the entity was nothing then."""


class Touched:
    """A read-only view of the other entities that a command named by ``touches=``."""

    __slots__ = ("_states",)

    def __init__(self, states: Mapping[str, Any]) -> None:
        self._states = states

    def get(self, domain: Domain[StateT, Any, Any], entity_id: str) -> StateT | None:
        """Look at one of them.

        Raises:
            DomainError: for an entity that the command did not name.

        """
        stream_id = domain.stream_id(entity_id)
        if stream_id not in self._states:
            raise DomainError(f"{stream_id} is not in touches=")
        state: StateT | None = self._states[stream_id]
        return state


class On(Generic[EventT]):
    """An event on another entity than the command's own, one that ``touches=`` named."""

    __slots__ = ("domain", "event", "stream_id")

    def __init__(self, domain: Domain[Any, Any, EventT], entity_id: str, event: EventT) -> None:
        self.domain: Domain[Any, Any, Any] = domain
        self.stream_id = domain.stream_id(entity_id)
        self.event = event


class Decider(msgspec.Struct, frozen=True, kw_only=True):
    """A command's function and what was declared about it."""

    function: Callable[..., Any]
    takes_none: bool
    extras: tuple[str, ...]
    allow: frozenset[str]
    touches: Callable[[Any], Sequence[tuple[Domain[Any, Any, Any], str]]] | None
    needs: Callable[[Any], int | None] | None


class Domain(Generic[StateT, CommandT, EventT]):
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
    ) -> None:
        """Declare a domain.

        Args:
            name: prefix of the entity streams, ``name:entity_id``; lower case, at most 64.
            state: what one entity is; frozen.
            commands: the union of what may be asked; ``Never`` for an entity that changes only with
                others, through ``touches=``.
            events: the union of what can happen.
            version: raise it when an evolver changes its meaning: stored states of another
                version are folded again from the log.
            id_field: the field, present in every command, that says which entity is meant;
                ``{name}_id`` if not given.  Where it may be None, the runtime makes a new id.
            allow: the roles that may send this domain's commands.
            repeats: what another payload under a used idempotency key gets: ``"conflict"``
                (``STATE_CONFLICT``) or ``"original"`` (the original answer, C1).
            snapshot_every: versions between two snapshot rows (KJ-SNAP-1).

        """
        if not _NAME.fullmatch(name) or name == "workspace":
            raise DomainError(f"a domain's name is lower case and not 'workspace': {name!r}")
        if repeats not in {"conflict", "original"}:
            raise DomainError(f"{name}: repeats is 'conflict' or 'original', not {repeats!r}")
        if version < 1 or snapshot_every < 1:
            raise DomainError(f"{name}: version and snapshot_every count from 1")
        self.name = name
        self.version = version
        self.state = state
        self.id_field = id_field or f"{name}_id"
        self.allow = frozenset(allow)
        self.repeats = repeats
        self.snapshot_every = snapshot_every
        self.commands: Mapping[str, type[CommandT]] = _by_name(commands)
        self.events: Mapping[str, type[EventT]] = _by_name(events)
        self._deciders: dict[type, Decider] = {}
        self._evolvers: dict[type, tuple[Callable[..., Any], bool]] = {}
        self._upcasts: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self._index: Callable[[Any], Index] | None = None
        self._view: _View | None = None
        self._named = {name: _EventCodec(name, struct) for name, struct in self.events.items()}
        self._codecs = {codec.struct: codec for codec in self._named.values()}
        self._state_decoder = msgspec.json.Decoder(state | None)
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
        needs: Callable[[Any], int | None] | None = None,
    ) -> Callable[[Callable[P, Decided[EventT]]], Callable[P, Decided[EventT]]]: ...
    def decide(
        self,
        function: Callable[..., Any] | None = None,
        *,
        allow: Collection[str] | None = None,
        touches: Callable[[Any], Sequence[tuple[Domain[Any, Any, Any], str]]] | None = None,
        needs: Callable[[Any], int | None] | None = None,
    ) -> Callable[..., Any]:
        """Say what a command leads to; which command, the second parameter's annotation tells.

        The function returns an event, several, or none, or raises `Reject`.  A state annotated as
        not optional means ``{NAME}_NOT_FOUND`` when the entity does not exist.  A command with a
        field ``base_version`` that is not None is refused with ``VERSION_CONFLICT`` unless it is
        the entity's version.

        Args:
            function: the decider, where this is used as a bare decorator.
            allow: the roles that may send this command, instead of the domain's.
            touches: names, from the command, the other entities that it looks at or changes.
            needs: names, from the command, the version of the entity that it needs to see.

        """

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            hints, names = self._annotations(function)
            command = hints[names[1]]
            if command not in self.commands.values():
                raise DomainError(f"{function.__name__}: {command} is no command of {self!r}")
            if command in self._deciders:
                raise DomainError(f"{function.__name__}: {command} has a decider already")
            extras = tuple(_EXTRAS.get(hints[name], "") for name in names[2:])
            if "" in extras:
                raise DomainError(f"{function.__name__}: after the first two, only {_EXTRA_NAMES}")
            if "touched" in extras and touches is None:
                raise DomainError(f"{function.__name__}: Touched without touches=")
            if ("past" in extras) is (needs is None):
                raise DomainError(f"{function.__name__}: Past and needs= go together")
            self._deciders[command] = Decider(
                function=function,
                takes_none=type(None) in get_args(hints[names[0]]),
                extras=extras,
                allow=self.allow if allow is None else frozenset(allow),
                touches=touches,
                needs=needs,
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
        """Say what an event makes of the state; None means that the entity is gone."""
        hints, names = self._annotations(function)
        event = hints[names[1]]
        if event not in self.events.values() or len(names) != 2:
            raise DomainError(f"{function.__name__}: {event} is no event of {self!r}")
        if event in self._evolvers:
            raise DomainError(f"{function.__name__}: {event} has an evolver already")
        self._evolvers[event] = (function, type(None) in get_args(hints[names[0]]))
        return function

    def index(self, function: Callable[[StateT], Index]) -> Callable[[StateT], Index]:
        """Say under what an entity is listed and found."""
        self._index = function
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
        """Say how an event looks on the workspace's stream, from (event, entity id, version).

        Args:
            function: the view, where this is used as a bare decorator.
            of: the fields of payloads that it looks at, read instead of whole events: every
                event is shown to every reader, and a large one need not be taken apart for that.

        """

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            needed = set() if of is None else _required(of)
            for event in self.events.values():
                if lacking := needed.difference(_fields(event)):
                    lacks = f"{event.__name__} has no {', '.join(sorted(lacking))}"
                    raise DomainError(f"{function.__name__}: {lacks}")
            self._view = _View(function, of)
            return function

        return declare if function is None else declare(function)

    def upcast(
        self, event: str, version: int
    ) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Callable[..., dict[str, Any]]]:
        """Say what makes a payload of ``version`` one of ``version + 1``."""

        def declare(
            function: Callable[[dict[str, Any]], dict[str, Any]],
        ) -> Callable[[dict[str, Any]], dict[str, Any]]:
            if event not in self.events:
                raise DomainError(f"{self!r} has no event {event!r}")
            if version < 1 or (event, version) in self._upcasts:
                raise DomainError(f"{event} version {version}: below 1, or has an upcast already")
            self._upcasts[event, version] = function
            codec = self._named[event]
            codec.version = max(codec.version, version + 1)
            return function

        return declare

    def _annotations(self, function: Callable[..., Any]) -> tuple[dict[str, Any], list[str]]:
        """Resolve a function's annotations, also where the domain is declared in a function."""
        structs = [self.state, *self.commands.values(), *self.events.values()]
        try:
            hints = get_type_hints(function, localns={s.__name__: s for s in structs})
        except NameError as error:
            raise DomainError(f"{function.__name__}: {error}; import it at run time") from error
        names = [*inspect.signature(function).parameters]
        if len(names) < 2 or any(name not in hints for name in names):
            raise DomainError(f"{function.__name__}: annotate state and message, and what follows")
        return hints, names

    def check(self) -> None:
        """Raise `DomainError` unless every command, event and version is provided for."""
        for kind, declared, handled in (
            ("decider", self.commands, self._deciders),
            ("evolver", self.events, self._evolvers),
        ):
            if missing := [tag for tag, struct in declared.items() if struct not in handled]:
                raise DomainError(f"{self!r}: no {kind} for {', '.join(missing)}")
        for name, type_ in self.events.items():
            for version in range(1, self._codecs[type_].version):
                if (name, version) not in self._upcasts:
                    raise DomainError(f"{self!r}: no upcast of {name} from version {version}")

    # ------------------------------------------------------------------------------- running

    def stream_id(self, entity_id: str) -> str:
        """Name an entity's stream."""
        return f"{self.name}:{entity_id}"

    def decider(self, command: type) -> Decider:
        """Look up what was declared for a command."""
        return self._deciders[command]

    def type_version(self, event: str) -> int:
        """Tell the payload version that is written now."""
        return self._named[event].version

    def reads(self, event: str, type_version: int) -> bool:
        """Tell whether a stored event can be folded or, being unknown, passed over."""
        return event not in self.events or 1 <= type_version <= self.type_version(event)

    def encode(self, event: EventT) -> tuple[str, int, str]:
        """Write an event for the log: (type, type_version, payload)."""
        codec = self._codecs[type(event)]
        return codec.name, codec.version, codec.encode(event)

    def decode(self, type_: str, type_version: int, payload: str) -> EventT | None:
        """Read an event from the log; None for a type that this domain does not know (I11).

        Raises:
            DalsegnoError: a payload that cannot be read; the caller halts the workspace.

        """
        codec = self._named.get(type_)
        if codec is None:
            return None
        known: EventT = self._read(codec, type_version, payload, codec.decode, codec.struct)
        return known

    def _read(
        self,
        codec: _EventCodec,
        type_version: int,
        payload: str,
        decode: Callable[[str], Any],
        struct: type[msgspec.Struct],
    ) -> Any:  # noqa: ANN401 - one of the struct
        """Read a payload of whatever version into a struct."""
        type_ = codec.name
        try:
            if type_version == codec.version:
                return decode(payload)
            if not self.reads(type_, type_version):
                raise DalsegnoError(f"this code reads {type_} up to version {codec.version}")
            raw: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
            for version in range(type_version, codec.version):
                raw = self._upcasts[type_, version](raw)
            return msgspec.convert(raw, struct, str_keys=True)
        except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
            raise DalsegnoError(f"{type_} version {type_version}: {error!r}") from error

    def evolve_by(self, state: StateT | None, event: EventT) -> StateT | None:
        """Fold one event."""
        function, takes_none = self._evolvers[type(event)]
        if state is None and not takes_none:
            raise DomainError(f"{type(event).__name__} on a {self.name} that does not exist")
        evolved: StateT | None = function(state, event)
        return evolved

    def encode_state(self, state: StateT | None) -> str:
        """Write a state for the store."""
        return msgspec.json.encode(state).decode()

    def decode_state(self, text: str) -> StateT | None:
        """Read a state from the store."""
        state: StateT | None = self._state_decoder.decode(text)
        return state

    def indexed(self, state: StateT | None) -> Index:
        """Tell the index columns of a state."""
        return Index() if self._index is None or state is None else self._index(state)

    def viewed(
        self, type_: str, type_version: int, payload: str, entity_id: str, version: int
    ) -> str:
        """Write how a stored event looks on the workspace's stream; unknown ones verbatim.

        Raises:
            DalsegnoError: the payload cannot be read.
            InternalError: the view raised, or what it returned is no JSON.

        """
        view, codec = self._view, self._named.get(type_)
        if codec is None:
            return payload
        if view is None:
            if not self.reads(type_, type_version):
                raise DalsegnoError(f"{type_} version {type_version} is not known here")
            return payload
        event = self._read(
            codec, type_version, payload, view.decode or codec.decode, view.of or codec.struct
        )
        try:
            seen = view.function(event, entity_id, version)
            return payload if seen is None else msgspec.json.encode(seen).decode()
        except Exception as error:
            raise InternalError(f"the view of {type_} on {self.name} raised") from error

    def json_schema(self) -> dict[str, Any]:
        """Describe payloads for other languages: JSON Schema 2020-12, by command and by event."""
        declared = [*self.commands.values(), *self.events.values()]
        schemas, components = msgspec.json.schema_components(declared)
        for struct, schema in zip(declared, schemas, strict=True):
            _leave_out_tag(struct, components[schema["$ref"].removeprefix("#/$defs/")])
        of = dict(zip(declared, schemas, strict=True))
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "commands": {name: of[struct] for name, struct in self.commands.items()},
            "events": {name: of[struct] for name, struct in self.events.items()},
            "$defs": components,
        }


def _fields(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def _required(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct) if field.required}


class _View:
    """How a domain shows its events, and what of them it looks at, if not all."""

    def __init__(
        self, function: Callable[[Any, str, int], Any], of: type[msgspec.Struct] | None
    ) -> None:
        self.function = function
        self.of = of
        self.decode = None if of is None else msgspec.json.Decoder(of).decode


class _EventCodec:
    """How one type of event is written and read; the tag stays out of the payload."""

    def __init__(self, name: str, struct: type[msgspec.Struct]) -> None:
        self.name = name
        self.struct = struct
        self.version = 1
        self.decode: Callable[[str], Any] = msgspec.json.Decoder(struct).decode
        config = struct.__struct_config__
        self._prefix = b""
        if config.tag is not None:
            self._prefix = msgspec.json.encode({config.tag_field: config.tag})[:-1]

    def encode(self, event: msgspec.Struct) -> str:
        encoded = msgspec.json.encode(event)
        if self._prefix:
            encoded = b"{" + encoded[len(self._prefix) :].lstrip(b",")
        return encoded.decode()


if TYPE_CHECKING:
    from typing import TypeAlias

    Decided: TypeAlias = EventT | On[Any] | Sequence[EventT | On[Any]] | None

_EXTRAS: dict[type, str] = {Context: "context", Touched: "touched", Past: "past"}
_EXTRA_NAMES = "Context, Touched and Past"


def _leave_out_tag(struct: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    """Describe a payload as it is written: its name stands beside it, not in it."""
    tag_field = struct.__struct_config__.tag_field
    if tag_field is not None:
        schema["properties"].pop(tag_field)
        schema["required"].remove(tag_field)


def _by_name(form: Any) -> dict[str, Any]:  # noqa: ANN401 - a TypeForm has no type at run time
    structs = () if form is Never else get_args(form) or (form,)
    named = {_name_of(struct): struct for struct in structs}
    if len(named) != len(structs):
        raise DomainError(f"two of {', '.join(s.__name__ for s in structs)} share a name")
    return named


def _name_of(struct: Any) -> str:  # noqa: ANN401 - as above
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        raise DomainError(f"{struct!r} is no msgspec.Struct")
    if struct.__struct_config__.array_like:
        raise DomainError(f"{struct.__name__} is array_like, and a payload is an object")
    tag = struct.__struct_config__.tag
    return str(tag) if tag is not None else re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).lower()
