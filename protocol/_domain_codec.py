"""How one domain's commands, events and states are read and written.

This half of a domain faces the log and the network; what they mean is declared in the other half,
`Domain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from ._event_codec import EventCodec, structs_by_name
from ._validation import PayloadDecoder

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from ._limits import Limits

StateT = TypeVar("StateT", bound=msgspec.Struct)
CommandT = TypeVar("CommandT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)


class DomainCodec(Generic[StateT, CommandT, EventT]):
    """The structs of a domain by their names, each with what reads and writes it."""

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
        """Return whether a stored event can be folded or, being unknown, passed over."""
        codec = self._codecs.get(event)
        return codec is None or codec.reads(type_version)

    def encode(self, event: EventT) -> tuple[str, int, str]:
        """Write an event for the log: (type, type_version, payload)."""
        codec = self._codec_of[type(event)]
        return codec.name, codec.version, codec.encode(event)

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

    def json_schema(self) -> dict[str, Any]:
        """Describe payloads for other languages: JSON Schema 2020-12, by command and by event."""
        declared: list[type[msgspec.Struct]] = [*self.commands.values(), *self.events.values()]
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


def _leave_out_tag(struct: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    """Describe a payload as it is written: its name stands beside it, not in it."""
    tag_field = struct.__struct_config__.tag_field
    if tag_field is not None:
        schema["properties"].pop(tag_field)
        schema["required"].remove(tag_field)
