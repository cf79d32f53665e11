"""JSON Schema of what domains declare, as one document: commands, events and states by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._domain import Domain

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(domains: Iterable[Domain[Any, Any, Any]]) -> dict[str, Any]:
    """Return the schemas of every domain's commands, events and state: JSON Schema 2020-12.

    A command is what its payload has to be, without its name; an event what its payload is, in its
    newest version.
    """
    domains = list(domains)
    payloads = dict.fromkeys(
        struct
        for domain in domains
        for struct in (*domain.offered.values(), *domain.events.values())
    )
    structs = dict.fromkeys((*payloads, *(domain.state for domain in domains)))
    schemas, components = msgspec.json.schema_components(structs)
    refs = dict(zip(structs, schemas, strict=True))
    for struct in payloads:
        leave_out_tag(struct, components[refs[struct]["$ref"].removeprefix("#/$defs/")])
    return {
        "$schema": _DIALECT,
        "domains": {
            domain.name: {
                "version": domain.version,
                "id_field": domain.id_field,
                "commands": {name: refs[struct] for name, struct in domain.offered.items()},
                "events": {
                    name: {"version": domain.type_version(name), "payload": refs[struct]}
                    for name, struct in domain.events.items()
                },
                "state": refs[domain.state],
            }
            for domain in domains
        },
        "$defs": components,
    }


def leave_out_tag(struct: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    """Remove the tag from a schema: a payload's name stands beside it, not in it."""
    tag_field = struct.__struct_config__.tag_field
    if tag_field is not None:
        schema["properties"].pop(tag_field)
        schema["required"].remove(tag_field)
