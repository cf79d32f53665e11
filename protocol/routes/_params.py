"""Parameters of a path and a query, read as a struct says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._validation import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

ParamsT = TypeVar("ParamsT", bound=msgspec.Struct)

_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_FLAGS = {"true": True, "false": False}
_FIELD = re.compile(r"(?:field `|- at `\$\.)([a-z0-9_]+)`")


class Params(Generic[ParamsT]):
    """The decoder of one type of parameters.

    A parameter's text is taken for a number, or for ``true`` or ``false``, where its field may be
    one.  What is not known is passed over, as RFC 3986 lets a query have anything.
    """

    def __init__(self, type_: type[ParamsT]) -> None:
        self._type = type_
        info = inspect.type_info(type_)
        assert isinstance(info, inspect.StructType), "a struct"
        self._fields = {each.encode_name: _kinds(each.type) for each in info.fields}

    def read(self, texts: Mapping[str, str]) -> ParamsT:
        """Return the parameters that texts stand for.

        Raises:
            Reject: ``BAD_REQUEST``, or the field's own code, with the ``field``.

        """
        if bad := [name for name in self._fields if "\0" in texts.get(name, "")]:
            raise Reject("BAD_REQUEST", f"{bad[0]} has a NUL in it", field=bad[0])
        said = {
            name: _read(texts[name], kinds) for name, kinds in self._fields.items() if name in texts
        }
        try:
            return msgspec.convert(said, self._type)
        except msgspec.ValidationError as error:
            raise self._refusal(error) from None  # no name keeps it: that would be a cycle

    def _refusal(self, error: msgspec.ValidationError) -> Reject:
        refused = refusal(error, self._type)
        if (named := _FIELD.search(str(error))) is not None:
            refused.details["field"] = named[1]
        return refused


def _read(text: str, kinds: frozenset[type[Any]]) -> object:
    if bool in kinds:
        return _FLAGS.get(text, text)
    if int in kinds and _INTEGER.fullmatch(text):
        return int(text)
    return text


def _kinds(info: inspect.Type) -> frozenset[type[Any]]:
    match info:
        case inspect.Metadata():
            return _kinds(info.type)
        case inspect.UnionType():
            return frozenset().union(*map(_kinds, info.types))
        case inspect.IntType():
            return frozenset({int})
        case inspect.BoolType():
            return frozenset({bool})
        case _:
            return frozenset()
