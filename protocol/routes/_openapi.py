"""OpenAPI 3.1 of a server's routes: made of what the routes are, and of the types of its domains.

A route of any domain stands there once for each: its commands and its states have types of their
own, which a document with ``{name}`` and ``{domain}`` in it could not say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol._schema import leave_out_tag

from ._operation import Access, Operation

if TYPE_CHECKING:
    from dalsegno.protocol._domain import Domain

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_SAFE = frozenset({"GET"})
_ACCEPTED = 202

_ALWAYS = (400, 403, 404, 421, 429, 500, 503)
"""How any route may: no request, another site's, nothing there, not here, too much, not now."""
_WITH_BODY = (408, 413, 415)
_WITH_CREDENTIAL = (401,)
_IN_WORKSPACE = (409, 504)
"""How a route of a workspace may besides: another state, an unknown outcome."""
_ANY_REFUSAL = "4XX"
"""Refusals of a domain, or of a host's own functions, have statuses of their own."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a document is about."""

    operations: Sequence[Operation]
    domains: Sequence[Domain[Any, Any, Any]]
    error: type[msgspec.Struct]
    """The type of every refusal's body."""
    cookie: str
    """The name of the session's cookie."""
    is_hooked: bool
    """Whether the app's own functions say who may, so that any refusal may be theirs."""
    version: str


def openapi_of(served: Served) -> dict[str, Any]:
    """Return the document."""
    operations = list(_each(served))
    types = [each for operation in operations for each in _types_of(operation)]
    types += [served.error, *(params for each in operations if (params := each.params))]
    named = dict.fromkeys(each for each in types if each not in (msgspec.Raw, bytes))
    schemas, components = msgspec.json.schema_components(named, ref_template=_REF)
    known = dict(zip(named, schemas, strict=True))
    commands = {type_ for domain in served.domains for type_ in domain.offered.values()}
    for type_ in commands & named.keys():
        leave_out_tag(type_, components[_name_in(known[type_])])
    writer = _Writer(known, components, is_hooked=served.is_hooked)
    paths: dict[str, dict[str, Any]] = {}
    ids: Counter[str] = Counter()
    for each in operations:
        of_path = paths.setdefault(each.path, {})
        written = of_path[each.method.lower()] = writer.write(each)
        name = written["operationId"]
        ids[name] += 1  # /a/b and /a-b would have one
        if ids[name] > 1:
            written["operationId"] = f"{name}_{ids[name]}"
    for params in {each.params for each in operations if each.params}:
        components.pop(_name_in(known[params]), None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dal Segno", "version": served.version},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": _refusals(operations, known[served.error]),
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": served.cookie},
                "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


@dataclass(frozen=True, slots=True)
class _OfState:
    """An answer's body whose ``state`` is a domain's."""

    body: Any
    state: Any


def _each(served: Served) -> Iterator[Operation]:
    """Yield the operations, those of any domain once for each."""
    for operation in served.operations:
        names = operation.path_params
        if names[-1:] == ["name"] and operation.body is msgspec.Raw:
            for domain in served.domains:
                for name, type_ in domain.offered.items():
                    yield _named(operation, "name", name, body=type_, group=domain.name)
        elif "domain" in names:
            for domain in served.domains:
                answers = {
                    status: _OfState(body, domain.state) if _has_state(body) else body
                    for status, body in operation.answers.items()
                }
                yield _named(operation, "domain", domain.name, answers=answers, group=domain.name)
        else:
            yield operation


def _named(operation: Operation, param: str, said: str, **fields: Any) -> Operation:  # noqa: ANN401 - the operation's
    path = operation.path.replace(f"{{{param}}}", said)
    name = f"{operation.operation_id}_{said}"
    return replace(operation, path=path, name=name, fixed=frozenset({param}), **fields)


def _has_state(body: Any) -> bool:  # noqa: ANN401 - a type
    return "state" in getattr(body, "__struct_fields__", ())


def _types_of(operation: Operation) -> Iterator[Any]:
    if operation.body is not None:
        yield operation.body
    for body in operation.answers.values():
        if isinstance(body, _OfState):
            yield body.body
            yield body.state
        elif body is not None:
            yield body


def _name_in(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


class _Writer:
    """Writes operations, by the schemas of their types."""

    def __init__(
        self,
        known: Mapping[Any, dict[str, Any]],
        components: Mapping[str, Any],
        *,
        is_hooked: bool,
    ) -> None:
        self._known = known
        self._components = components
        self._is_hooked = is_hooked

    def write(self, operation: Operation) -> dict[str, Any]:
        """Return what a document says of an operation."""
        written: dict[str, Any] = {
            "operationId": operation.operation_id,
            "summary": operation.summary,
            "tags": [operation.group],
            "security": _security(operation),
        }
        if parameters := [*self._parameters(operation), *_headers(operation)]:
            written["parameters"] = parameters
        if operation.body is not None:
            written["requestBody"] = {
                "required": True,
                "content": {_JSON: {"schema": self._schema(operation.body)}},
            }
        written["responses"] = self._responses(operation)
        return written

    def _schema(self, type_: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
        return {} if type_ is msgspec.Raw else self._known[type_]

    def _parameters(self, operation: Operation) -> Iterator[dict[str, Any]]:
        params = operation.params
        schema: dict[str, Any] = {}
        if params is not None:
            schema = self._components[_name_in(self._known[params])]
        properties = schema.get("properties", {})
        for name in operation.path_params:
            of = properties.get(name, {"type": "string"})
            yield {"name": name, "in": "path", "required": True, "schema": {"minLength": 1, **of}}
        for name, of in properties.items():
            if name in operation.path_params or name in operation.fixed:
                continue
            parameter = {"name": name, "in": "query", "schema": _without_null(of)}
            if name in schema.get("required", ()):
                parameter["required"] = True
            yield parameter

    def _responses(self, operation: Operation) -> dict[str, Any]:
        written = {
            str(status): self._answer(operation, status, body)
            for status, body in operation.answers.items()
        }
        refusals = {*_ALWAYS, *operation.refusals}
        if operation.access is not Access.ANYBODY:
            refusals.update(_WITH_CREDENTIAL)
        if operation.body is not None:
            refusals.update(_WITH_BODY)
        if operation.is_of_workspace:
            refusals.update(_IN_WORKSPACE)
        names = [*map(str, sorted(refusals))]
        is_known = operation.access is not Access.ANYBODY
        if operation.sends_command or (self._is_hooked and is_known):
            names.append(_ANY_REFUSAL)
        written.update((name, {"$ref": f"#/components/responses/{name}"}) for name in names)
        return written

    def _answer(self, operation: Operation, status: int, body: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
        written: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if {"if-match", "if-none-match"} & set(operation.headers) and status != 204:
            written["headers"] = {"ETag": {"schema": {"type": "string"}}}
        if status == _ACCEPTED and "prefer" in operation.headers:
            written["headers"] = {"Location": {"schema": {"type": "string"}}}
        if body is None:
            return written
        if body is bytes:  # what is no JSON has no schema (OpenAPI 3.1 §4.8.14.3)
            written["content"] = {
                media_type: {"schema": {}} if media_type == _JSON else {}
                for media_type in operation.media_types
            }
            return written
        if isinstance(body, _OfState):
            schema = self._known[body.body]
            state = {"state": self._known[body.state]}
        else:
            schema, state = self._schema(body), {}
        if operation.adds_request_id and (isinstance(body, _OfState) or _is_struct(body)):
            properties = {"request_id": {"type": "string"}, **state}
            schema = {**schema, "properties": properties, "required": ["request_id"]}
        written["content"] = {_JSON: {"schema": schema}}
        return written


def _refusals(operations: Iterable[Operation], error: dict[str, Any]) -> dict[str, Any]:
    """Return how routes refuse, by status."""
    statuses = {*_ALWAYS, *_WITH_BODY, *_WITH_CREDENTIAL, *_IN_WORKSPACE}
    statuses = statuses.union(*(operation.refusals for operation in operations))
    phrases = {str(status): HTTPStatus(status).phrase for status in sorted(statuses)}
    phrases[_ANY_REFUSAL] = "A refusal of the app's own"
    content = {_JSON: {"schema": error}}
    return {name: {"description": phrase, "content": content} for name, phrase in phrases.items()}


def _is_struct(type_: Any) -> bool:  # noqa: ANN401 - a type
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    if operation.access is Access.ANYBODY:
        return []
    session: dict[str, list[str]] = {"session": []}
    if operation.method not in _SAFE:
        session["csrf"] = []
    if operation.access is Access.PEOPLE:
        return [session]
    return [session, {"bearer": []}, {"key": []}]


def _headers(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in operation.headers:
        yield {"name": name, "in": "header", "schema": {"type": "string"}}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter, which is left out where it would be null."""
    given = {name: value for name, value in schema.items() if (name, value) != ("default", None)}
    if "anyOf" not in given:
        return given
    options = [each for each in given.pop("anyOf") if each != {"type": "null"}]
    return {**given, **(options[0] if len(options) == 1 else {"anyOf": options})}
