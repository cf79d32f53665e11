"""The names and encodings of a domain's commands, events and states.

This part of a domain faces the log and the network; `Domain` adds what they mean.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Generic, Never, TypeVar, get_args

import msgspec

from ._errors import DalsegnoError, DomainError, InternalError
from ._scanning import SLICE_BYTES
from ._validation import PayloadDecoder, encoding_checked, read_back

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import TypeForm

    from ._limits import Limits

    Upcast = Callable[[dict[str, Any]], dict[str, Any]]

StateT = TypeVar("StateT", bound=msgspec.Struct)
CommandT = TypeVar("CommandT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)


class EventCodec:
    """The encoding of one type of event; the struct's tag stays out of the payload."""

    __slots__ = ("_prefix", "_upcasts", "decode", "name", "struct", "version")

    def __init__(self, name: str, struct: type[msgspec.Struct]) -> None:
        self.name = name
        self.struct = struct
        self.version = 1
        """The payload version that is written now."""
        self.decode: Callable[[str], Any] = msgspec.json.Decoder(struct).decode
        self._upcasts: dict[int, Upcast] = {}
        config = struct.__struct_config__
        self._prefix = b""
        if config.tag is not None:
            self._prefix = msgspec.json.encode({config.tag_field: config.tag})[:-1]

    def __repr__(self) -> str:
        return f"<EventCodec {self.name} version {self.version}>"

    def add_upcast(self, version: int, upcast: Upcast) -> None:
        """Register the function that converts a payload of ``version`` to ``version + 1``.

        Raises:
            DomainError: the version is below 1, or already has an upcast.

        """
        if version < 1 or version in self._upcasts:
            raise DomainError(f"{self.name} version {version}: below 1, or has an upcast already")
        self._upcasts[version] = upcast
        self.version = max(self.version, version + 1)

    def check(self) -> None:
        """Raise `DomainError` unless every older version has an upcast."""
        for version in range(1, self.version):
            if version not in self._upcasts:
                raise DomainError(f"no upcast of {self.name} from version {version}")

    def reads(self, type_version: int) -> bool:
        """Return whether a payload of this version can be read."""
        return 1 <= type_version <= self.version

    def encode(self, event: msgspec.Struct) -> str:
        """Write an event's payload."""
        encoded = msgspec.json.encode(event)
        if self._prefix:
            encoded = b"{" + encoded[len(self._prefix) :].lstrip(b",")
        return encoded.decode()

    def read(
        self,
        type_version: int,
        payload: str,
        decode: Callable[[str], Any] | None = None,
        struct: type[msgspec.Struct] | None = None,
    ) -> Any:  # noqa: ANN401 - one of the struct
        """Read a payload of any known version: as the event, or with ``decode`` as ``struct``.

        Raises:
            DalsegnoError: it cannot be read.

        """
        try:
            if type_version == self.version:
                return (decode or self.decode)(payload)
            if not self.reads(type_version):
                raise DalsegnoError(f"this code reads {self.name} up to version {self.version}")
            raw: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
            for version in range(type_version, self.version):
                raw = self._upcasts[version](raw)
            return msgspec.convert(raw, struct or self.struct, str_keys=True)
        except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
            raise DalsegnoError(f"{self.name} version {type_version}: {error!r}") from error


class EventView:
    """How events look on the workspace's stream: a function of whole events, or of some fields."""

    __slots__ = ("_decode", "_function", "_of")

    def __init__(
        self, function: Callable[[Any, str, int], Any], of: type[msgspec.Struct] | None
    ) -> None:
        self._function = function
        self._of = of
        self._decode = None if of is None else msgspec.json.Decoder(of).decode

    def check(self, event: type[msgspec.Struct]) -> None:
        """Raise `DomainError` unless an event has the fields that the view needs."""
        fields = () if self._of is None else msgspec.structs.fields(self._of)
        known = {field.encode_name for field in msgspec.structs.fields(event)}
        if lacking := {f.encode_name for f in fields if f.required} - known:
            name, lacks = self._function.__name__, ", ".join(sorted(lacking))
            raise DomainError(f"{name}: {event.__name__} has no {lacks}")

    def show(
        self, codec: EventCodec, type_version: int, payload: str, entity_id: str, version: int
    ) -> object:
        """Return a stored event's payload as the view shows it: what JSON is made of.

        Raises:
            DalsegnoError: the payload cannot be read.
            InternalError: the function raised.

        """
        event = codec.read(type_version, payload, self._decode, self._of)
        try:
            seen = self._function(event, entity_id, version)
        except Exception as error:
            raise InternalError(f"the view of {codec.name} raised") from error
        return msgspec.Raw(payload) if seen is None else seen


class DomainCodec(Generic[StateT, CommandT, EventT]):
    """The structs of a domain by name, each with its codec."""

    def __init__(
        self, state: type[StateT], commands: TypeForm[CommandT], events: TypeForm[EventT]
    ) -> None:
        self.state = state
        self.commands: dict[str, type[CommandT]] = structs_by_name(commands)
        self.events: dict[str, type[EventT]] = structs_by_name(events)
        self._payload_decoders = {
            name: PayloadDecoder(struct) for name, struct in self.commands.items()
        }
        self._codecs = {name: EventCodec(name, struct) for name, struct in self.events.items()}
        self._codec_of: dict[type, EventCodec] = {c.struct: c for c in self._codecs.values()}
        self._decode_state = msgspec.json.Decoder(state | None).decode

    def decode_command(self, name: str, payload: bytes, limits: Limits) -> CommandT:
        """Read a command of this domain from the network.

        Raises:
            Reject: ``BAD_REQUEST``, a field's own code, or ``PAYLOAD_TOO_LARGE``.

        """
        command: CommandT = self._payload_decoders[name](payload, limits)
        return command

    def type_version(self, event: str) -> int:
        """Return the payload version that is written now."""
        return self._codecs[event].version

    def reads(self, event: str, type_version: int) -> bool:
        """Return whether a stored event can be folded or, if unknown, skipped."""
        codec = self._codecs.get(event)
        return codec is None or codec.reads(type_version)

    def checking_command(
        self, name: str, command: CommandT, nesting_max: int
    ) -> Generator[None, None, tuple[CommandT, int]]:
        """Return a program's command as the network would have brought it, and its bytes.

        It yields between the steps of a long one.

        Raises:
            Reject: ``BAD_REQUEST``, or a field's own code.

        """
        document = yield from encoding_checked(command, nesting_max)
        if len(document) > SLICE_BYTES:
            yield
        checked: CommandT = self._payload_decoders[name].read_back(command, document)
        return checked, len(document)

    def encode(self, event: EventT) -> tuple[str, int, str]:
        """Write an event for the log: (type, type_version, payload)."""
        codec = self._codec_of[type(event)]
        return codec.name, codec.version, codec.encode(event)

    def read_back(self, event: EventT, payload: str) -> EventT:
        """Return an event as its payload, which was just written, will be read.

        Raises:
            DomainError: it could not be.

        """
        codec = self._codec_of[type(event)]
        try:
            read: EventT = read_back(event, payload, codec.decode)
        except (ValueError, RecursionError) as error:
            raise DomainError(f"{codec.name} could not be read back: {error}") from error
        return read

    def decode(self, type_: str, type_version: int, payload: str) -> EventT | None:
        """Read an event from the log; None for a type that this domain does not know (I11).

        Raises:
            DalsegnoError: a payload that cannot be read; the caller halts the workspace.

        """
        codec = self._codecs.get(type_)
        if codec is None:
            return None
        known: EventT = codec.read(type_version, payload)
        return known

    def encode_state(self, state: StateT | None) -> str:
        """Write a state for the store."""
        return msgspec.json.encode(state).decode()

    def decode_state(self, text: str) -> StateT | None:
        """Read a state from the store."""
        state: StateT | None = self._decode_state(text)
        return state


def structs_by_name(form: Any) -> dict[str, Any]:  # noqa: ANN401 - a TypeForm has no type at run time
    """Return the structs of a union by their names in the log and on the wire.

    Raises:
        DomainError: two share a name, or one is not a struct that is encoded as an object.

    """
    structs = () if form is Never else get_args(form) or (form,)
    named = {_name_of(struct): struct for struct in structs}
    if len(named) != len(structs):
        raise DomainError(f"two of {', '.join(s.__name__ for s in structs)} share a name")
    return named


def _name_of(struct: Any) -> str:  # noqa: ANN401 - as above
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        raise DomainError(f"{struct!r} is not a msgspec.Struct")
    if struct.__struct_config__.array_like:
        raise DomainError(f"{struct.__name__} is array_like, and a payload is an object")
    tag = struct.__struct_config__.tag
    return str(tag) if tag is not None else re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).lower()
