"""AsyncAPI 3.0 of a server's sockets: made of what their dialects hear and say.

A channel for each path; a message's name is its dialect's and its own, since two dialects may have
one of the same ``type`` that looks different.  The document is written from the server's side: it
receives what clients send.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol._schema import leave_out_tag

from ._dialect import SHARED, Ack, ClientMessage, Dialect, Ping
from ._generic import CommandMessage
from ._presence import Presence
from ._said import Error, Said

if TYPE_CHECKING:
    from dalsegno.protocol._domain import Domain

    from ._socket import Socket

_REF = "#/components/schemas/{name}"
_EVERY = "every"
"""The name under which what all dialects have is listed."""


def asyncapi_of(
    dialects: Sequence[Dialect],
    sockets: Sequence[Socket],
    domains: Iterable[Domain[Any, Any, Any]],
    *,
    version: str,
) -> dict[str, Any]:
    """Return the document.

    Args:
        dialects: those of ``/ws``, the generic one first.
        sockets: the paths that have one of their own.
        domains: what commands there are.
        version: the server's.

    """
    channels = {"/ws": dialects, **{each.path: (each.dialect,) for each in sockets}}
    commands = {name: type_ for domain in domains for name, type_ in domain.offered.items()}
    names = _names(dict.fromkeys(each for spoken in channels.values() for each in spoken))
    types = [*dict.fromkeys((*names.values(), *commands.values()))]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = dict(zip(types, schemas, strict=True))
    for type_ in dict.fromkeys(commands.values()):
        leave_out_tag(type_, components[_component(known[type_])])
    if commands:
        components[_component(known[CommandMessage])]["oneOf"] = [
            {"properties": {"name": {"const": name}, "payload": known[type_]}}
            for name, type_ in sorted(commands.items())
        ]
    written: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {"title": "Dal Segno", "version": version},
        "defaultContentType": "application/json",
        "channels": {},
        "operations": {},
        "components": {
            "messages": {
                name: {"name": _tag(type_), "title": name, "payload": known[type_]}
                for name, type_ in sorted(names.items())
            },
            "schemas": dict(sorted(components.items())),
        },
    }
    for path, spoken in channels.items():
        _add_channel(written, path, _names(spoken))
    return written


def _names(dialects: Iterable[Dialect]) -> dict[str, type[msgspec.Struct]]:
    """Return the messages of dialects, each by its name in the document."""
    shared: Sequence[type[msgspec.Struct]] = (Ack, Ping, *SHARED)
    named = {f"{_EVERY}.{_tag(each)}": each for each in shared}
    for dialect in dialects:
        for type_ in (*dialect.messages, *dialect.says):
            named[f"{dialect.name}.{_tag(type_)}"] = type_
    return named


def _tag(type_: type[msgspec.Struct]) -> str:
    return str(type_.__struct_config__.tag)


def _component(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _add_channel(
    document: dict[str, Any], path: str, names: dict[str, type[msgspec.Struct]]
) -> None:
    """Add a path, what it receives with its answers, and what it sends by itself."""
    at = path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    channel = {"$ref": f"#/channels/{at}"}

    def refs(those: Iterable[str]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/{at}/messages/{name}"} for name in those]

    document["channels"][at] = {
        "address": path,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    answers = [name for name, type_ in names.items() if issubclass(type_, (Said, Error))]
    for name, type_ in names.items():
        if issubclass(type_, ClientMessage):
            of = name.partition(".")[0]
            fits = [each for each in answers if each.partition(".")[0] in {of, _EVERY}]
            document["operations"][f"{at}.{name}"] = {
                "action": "receive",
                "channel": channel,
                "messages": refs([name]),
                "reply": {"channel": channel, "messages": refs(fits)},
            }
    unasked = [
        name
        for name, type_ in names.items()
        if issubclass(type_, (Error, Presence)) or not issubclass(type_, (ClientMessage, Said))
    ]
    document["operations"][f"{at}.sends"] = {
        "action": "send",
        "channel": channel,
        "messages": refs(unasked),
    }
