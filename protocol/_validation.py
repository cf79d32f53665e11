"""Validation of what comes from outside, before anything is done with it.

PostgreSQL text cannot hold a NUL, UTF-8 cannot encode a lone surrogate, and a document nested
deeper than the bound exhausts the stack of its decoder.  Any of these in a group commit would fail
the neighbours' batches, so it is refused here (I10).

Nothing here is trusted yet, so every check takes time in proportion to the length of its input.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from ._errors import Reject
from ._scanning import finished, scan
from ._unknown import KnownFields

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ._limits import Limits

_WORKSPACE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
# How msgspec names the field.  It names the value as well, which is the client's: nothing is tried
# twice, or 16 KiB of it would take a second, and 256 KiB minutes.
_PATH = re.compile(r" - at `\$\.([^`.\[]++)[^`]*+`\Z")
_NO_CHOICE = "Invalid enum value "
_WHERE = re.compile(r" - at `\$([^`]*+)`\Z")
_STEP = re.compile(r"\.[^.\[]++|\[[^\]]*+\]")
_REASON_CHARS = 300
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

SYSTEM_WORKSPACE = "$system"
"""The reserved workspace whose log holds users and workspaces."""

AUDIT_WORKSPACE = "$audit"
"""The reserved workspace whose log is what is on record of all of them, in one order."""

RESERVED_WORKSPACES = frozenset({SYSTEM_WORKSPACE, AUDIT_WORKSPACE})
"""Those that no client names."""


def encode_checked(value: object, *, nesting_max: int) -> bytes:
    """Encode a value as JSON, refusing what the log cannot hold.

    Raises:
        Reject: ``BAD_REQUEST`` for a NUL, a lone surrogate, nesting that is too deep, or what
            cannot be written as JSON at all.

    """
    return finished(encoding_checked(value, nesting_max))


def encoding_checked(value: object, nesting_max: int) -> Generator[None, None, bytes]:
    """Do what `encode_checked` does, and yield between the steps of a long one."""
    try:
        document = msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise Reject("BAD_REQUEST", "a lone surrogate is not text") from None
    except RecursionError:
        raise Reject("BAD_REQUEST", f"nested deeper than {nesting_max}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise Reject("BAD_REQUEST", f"this is no JSON: {error}") from None
    yield from scan(document, nesting_max)
    return document


def read_back(value: object, document: str | bytes, decode: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as decoded
    """Return what a value's own JSON is read as: what is written has to be readable (I10).

    Types are promises that Python does not keep: a text in a number's field, a flag in it, a time
    without a zone, a number below its bound are all written without a murmur.

    Raises:
        ValueError: a number that JSON cannot hold became null.
        msgspec.ValidationError: it is not of its type.

    """
    read = decode(document)
    null = "null" if isinstance(document, str) else b"null"
    if null in document and read != value and not _is_finite(msgspec.to_builtins(value)):  # type: ignore[operator]
        raise ValueError("an infinity, or what is not a number, cannot be written as JSON")
    return read


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_finite, value))


class PayloadDecoder:
    """A decoder of command payloads of one type, which refuses fields that the type has not."""

    __slots__ = ("_decode", "_known", "_type")

    def __init__(self, type_: Any) -> None:  # noqa: ANN401 - any type
        self._type = type_
        self._known = KnownFields(type_)
        self._decode = msgspec.json.Decoder(type_).decode

    def __call__(self, document: bytes, limits: Limits) -> Any:  # noqa: ANN401 - the type's
        """Read a payload.

        Raises:
            Reject: ``BAD_REQUEST``, a field's own code (`refusal`) or ``PAYLOAD_TOO_LARGE``.

        """
        if len(document) > limits.command_bytes_max:
            bound = limits.command_bytes_max
            raise Reject("PAYLOAD_TOO_LARGE", f"a command has at most {bound} bytes")
        value = self._checked(document, self._decode)
        self._known.check(value, document)
        return value

    def read_back(self, command: object, document: bytes) -> Any:  # noqa: ANN401 - as above
        """Return a command that a program made as the network would have brought it.

        Raises:
            Reject: ``BAD_REQUEST``, or a field's own code (`refusal`).

        """
        read = self._checked(document, lambda text: read_back(command, text, self._decode))
        self._known.check_inside(read, document)
        return read

    def _checked(self, document: bytes, decode: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 - as above
        try:
            return decode(document)
        except msgspec.ValidationError as error:
            raise refusal(error, self._type) from None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            reason = "" if isinstance(error, RecursionError) else reason_of(error)
            raise Reject("BAD_REQUEST", f"invalid payload: {reason}") from None


def refusal(error: msgspec.ValidationError, type_: object) -> Reject:
    """Return the refusal of a message that does not fit its type.

    A field, or a whole type, annotated with ``Meta(extra={"code": …})`` has its own code, as
    `PatchOps` has; all others are a ``BAD_REQUEST``.  The status is 400 in any case.
    """
    code = "BAD_REQUEST"
    path = _PATH.search(str(error))
    if path and isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        code = _codes_of(type_).get(path[1], code)
    elif not isinstance(type_, type):
        code = _code_of(type_)
    choices = _choices_at(error, type_)
    if choices:
        message = f"{reason_of(error)}: one of {', '.join(choices)}"
        return Reject(code, message, status=400, allowed=choices)
    return Reject(code, reason_of(error), status=400)


def _choices_at(error: msgspec.ValidationError, type_: object) -> list[str]:
    """Return the values that a field may have, where the error is that it has another.

    msgspec names the field's path, and not the values.
    """
    if not str(error).startswith(_NO_CHOICE) or (path := _WHERE.search(str(error))) is None:
        return []
    found: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(type_)]
    for step in _STEP.findall(path[1]):
        found = [inner for info in found for inner in _inside(info, step)]
    return [str(value) for info in found for value in _values(info)]


def _inside(info: msgspec.inspect.Type, step: str) -> list[msgspec.inspect.Type]:
    """Return the types that a field, or any item, of a type may be of."""
    match info:
        case msgspec.inspect.Metadata():
            return _inside(info.type, step)
        case msgspec.inspect.UnionType():
            return [inner for part in info.types for inner in _inside(part, step)]
        case msgspec.inspect.StructType() | msgspec.inspect.DataclassType():
            return [field.type for field in info.fields if f".{field.encode_name}" == step]
        case msgspec.inspect.CollectionType() if step.startswith("["):
            return [info.item_type]
        case msgspec.inspect.DictType() if step.startswith("["):
            return [info.value_type]
        case _:
            return []


def _values(info: msgspec.inspect.Type) -> list[object]:
    match info:
        case msgspec.inspect.Metadata():
            return _values(info.type)
        case msgspec.inspect.UnionType():
            return [value for part in info.types for value in _values(part)]
        case msgspec.inspect.LiteralType():
            return list(info.values)
        case msgspec.inspect.EnumType():
            return [member.value for member in info.cls]
        case _:
            return []


def reason_of(error: Exception) -> str:
    """Return what an error says, shortened: it may repeat all that the client sent."""
    text = str(error)
    if len(text) <= _REASON_CHARS:
        return text
    half = _REASON_CHARS // 2
    return f"{text[:half]} … {text[-half:]}"


@cache
def _codes_of(struct: type[msgspec.Struct]) -> Mapping[str, str]:
    """Return the codes of a struct's fields, which take a while to find, by their names in JSON."""
    return {field.encode_name: _code_of(field.type) for field in msgspec.structs.fields(struct)}


def _code_of(annotation: object) -> str:
    extra = getattr(msgspec.inspect.type_info(annotation), "extra", None) or {}
    return str(extra.get("code", "BAD_REQUEST"))


def check_id(value: str, *, chars_max: int, what: str = "id") -> str:
    """Check and return an entity's, client's or user's id: printable text of bounded length.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    is_plain = value.isascii() and value.isprintable()
    if not 1 <= len(value) <= chars_max or (not is_plain and _UNPRINTABLE.search(value)):
        raise Reject("BAD_REQUEST", f"{what}: 1 to {chars_max} printable characters")
    return value


def check_key(value: str, *, chars_max: int) -> str:
    """Check and return an idempotency key.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    return check_id(value, chars_max=chars_max, what="idempotency key")


def check_workspace_id(value: str) -> str:
    """Check and return a workspace's id: 1 to 64 of ``[A-Za-z0-9_.-]``.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    if not _WORKSPACE_ID.fullmatch(value):
        raise Reject("BAD_REQUEST", "a workspace id has 1 to 64 of A-Z a-z 0-9 _ . -")
    return value
