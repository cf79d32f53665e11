"""Whatever a test sees of a server is what its documents say: each answer, and each frame.

Every answer of the HTTP application in this process is held against its own OpenAPI, and every
message that a connection is sent against the types of which AsyncAPI is made.  What differs fails
the test that saw it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from dalsegno.protocol import Frames
from dalsegno.protocol.dialects import SHARED, Dialect
from dalsegno.runtime.web._envelope import Application
from dalsegno.runtime.web._paths import routed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope

    from dalsegno.protocol import App
    from dalsegno.runtime.web._documents import Documents

_PARAMETER = re.compile(r"\\\{[a-z0-9_]+\\\}")
_TYPE = re.compile(rb'\{"(?:request_id":"[^"]*","type|type)":"([a-z_]+)"')
_URN = "urn:openapi"

problems: list[str] = []
"""What differed since this was last emptied."""


class Documented:
    """One application's document, as what its answers are held against."""

    def __init__(self, document: bytes) -> None:
        self._document: dict[str, Any] = msgspec.json.decode(document)
        resource = Resource.from_contents(self._document, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(_URN, resource)
        # A path with fewer parameters is the one that counts (OpenAPI 3.1 §4.8.8).
        paths = sorted(self._document["paths"], key=lambda path: path.count("{"))
        self._paths = [
            (re.compile(_PARAMETER.sub("[^/]+", re.escape(path))), path) for path in paths
        ]
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, method: str, path: str, status: int, media: str, body: bytes) -> str | None:
        """Return what differs in an answer; None if nothing does."""
        found = next((name for pattern, name in self._paths if pattern.fullmatch(path)), None)
        operation = self._document["paths"].get(found, {}).get(method.lower())
        if operation is None:
            return self._undocumented(method, path, status)
        at = f"{method} {found}: {status}"
        responses = operation["responses"]
        if (said := responses.get(str(status), responses.get(f"{status // 100}XX"))) is None:
            return f"{at} is not in the document: {body[:200]!r}"
        if "$ref" in said:
            said = self._document["components"]["responses"][said["$ref"].rpartition("/")[2]]
        content = said.get("content")
        if content is None:
            return f"{at} has a body: {body[:200]!r}" if body else None
        if media not in content:
            return f"{at} is {media}"
        if media != "application/json":
            return None
        schema = content["application/json"]["schema"]
        validator = self._validators.setdefault(
            msgspec.json.encode(schema).decode(),
            Draft202012Validator(_absolute(schema), registry=self._registry),
        )
        errors = [
            f"{each.json_path}: {each.message}"
            for each in validator.iter_errors(msgspec.json.decode(body))
        ]
        return f"{at}: {errors[0][:500]}" if errors else None

    def _undocumented(self, method: str, path: str, status: int) -> str | None:
        """Return what is wrong with an answer of no route: it must be a refusal."""
        if status >= 400 or method in {"HEAD", "OPTIONS"}:
            return None
        return f"{method} {path} is no route, and answered {status}"


def _absolute(schema: Any) -> Any:
    """Return a schema whose references are to the document."""
    if isinstance(schema, dict):
        return {
            name: _URN + value if name == "$ref" else _absolute(value)
            for name, value in schema.items()
        }
    return [_absolute(each) for each in schema] if isinstance(schema, list) else schema


_known: dict[tuple[App, str], Documented] = {}


def _documented(documents: Documents) -> Documented:
    """Return what a server's answers are held against, the same for all that serve one app."""
    key = documents._rt.app, documents._cookie
    if key not in _known:
        _known[key] = Documented(documents.openapi)
    return _known[key]


def _watch_answers() -> None:
    serve = Application.asgi_app

    async def served(
        self: Application, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        status, media, parts = 0, "", [b""]

        async def seen(message: ASGISendEvent) -> None:
            nonlocal status, media
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {bytes(name).lower(): bytes(v) for name, v in message["headers"]}
                media = headers.get(b"content-type", b"").decode()
            elif message["type"] == "http.response.body":
                parts.append(bytes(message.get("body", b"")))
            await send(message)

        await serve(self, scope, receive, seen)
        if scope["type"] == "http" and status:
            path = routed(scope)["path"].removeprefix(scope["root_path"])  # type: ignore[typeddict-item]
            method = scope["method"]
            document = _documented(self.documents)
            found = document.check(method, path, status, media, b"".join(parts))
            if found is not None:
                problems.append(found)

    Application.asgi_app = served  # type: ignore[method-assign]


def _said(name: str) -> list[type[msgspec.Struct]]:
    """Return the messages of a name that the dialects of this process say."""

    def kinds(of: Any) -> Iterator[type[Dialect]]:
        for each in of.__subclasses__():
            yield each
            yield from kinds(each)

    types = [*SHARED, *(type_ for dialect in kinds(Dialect) for type_ in dialect.says)]
    return [*dict.fromkeys(each for each in types if each.__struct_config__.tag == name)]


_decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}


def _fits(text: bytes, type_: type[msgspec.Struct]) -> bool:
    if type_ not in _decoders:
        _decoders[type_] = msgspec.json.Decoder(type_)
    try:
        _decoders[type_].decode(text)
    except msgspec.MsgspecError:
        return False
    return True


def _watch_frames() -> None:
    make = Frames.__init__
    known: dict[str, list[type[msgspec.Struct]]] = {}

    def made(self: Frames, texts: Sequence[bytes]) -> None:
        make(self, texts)
        for text in texts:
            if (found := _TYPE.match(text)) is None:
                continue  # of a test of frames, not of a dialect
            name = found[1].decode()
            if any(_fits(text, each) for each in known.get(name, ())):
                continue
            known[name] = _said(name)  # a dialect may be declared since
            if not any(_fits(text, each) for each in known[name]):
                problems.append(f"no dialect says {text[:300]!r}")

    Frames.__init__ = made  # type: ignore[method-assign]


def watch() -> None:
    """Hold everything against the documents from now on."""
    _watch_answers()
    _watch_frames()
