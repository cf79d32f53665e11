"""Fields that a document has and its type has not: a misspelt one is refused, never ignored.

msgspec passes over what it does not know, unless a struct says otherwise, which is right for an
envelope: an old server takes what a newer client says beside.  In what is to be changed it is
wrong, since ``{"mardown": "…"}`` would create an empty note.

The document was decoded before, so that its values tell which part of a union they are.  Only what
can have a field too many is looked at again, without decoding what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType, inspect

from ._errors import Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Check: TypeAlias = Callable[[Any, bytes | Raw], None]
    """Raises if a document has a field that the value, as which it was decoded, has not."""

_NAME_CHARS = 64
"""As much of an unknown name is compared and shown: to compare takes the square of it."""

_ITEM = re.compile(r" - at `\$\[(\d+)\]`\Z")

_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
_items_of = msgspec.json.Decoder(list[Raw]).decode


class KnownFields:
    """The check of documents of one type."""

    def __init__(self, type_: Any) -> None:  # noqa: ANN401 - any type
        self._type = type_
        self._check = _check_of(inspect.type_info(type_))

    def check(self, value: object, document: bytes) -> None:
        """Refuse a document with a field that its type has not.

        Raises:
            Reject: ``BAD_REQUEST``, with the field and the nearest that there is.

        """
        if self._check is not None:
            self._check(value, document)

    def check_inside(self, value: object, document: bytes) -> None:
        """Do so for a struct of this type as it was written: its fields may have been dicts.

        Raises:
            Reject: ``BAD_REQUEST``, as in `check`.

        """
        if _object_of(self._type).inner:
            self.check(value, document)


class _Object:
    """A kind of object: the fields that it has, and those of them that may hold others."""

    def __init__(self, info: Any) -> None:  # noqa: ANN401 - a struct's, a dataclass's or a typed dict's
        self._info = info
        self._names = [field.encode_name for field in info.fields]
        if isinstance(info, inspect.StructType) and info.tag_field is not None:
            self._names.append(info.tag_field)
        # A struct that takes the same names and decodes nothing tells twice as fast as a dict.
        places = {f"f{n}": name for n, name in enumerate(self._names)}
        strict = msgspec.defstruct(
            "Strict",
            [(place, Raw | UnsetType, UNSET) for place in places],
            rename=places,
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decode_strictly = msgspec.json.Decoder(strict).decode
        self._decode_each_strictly = msgspec.json.Decoder(list[strict]).decode  # type: ignore[valid-type]

    @cached_property
    def inner(self) -> list[tuple[str, str, Check]]:
        """Fields by their names in JSON and in Python; found when asked for: a type may recur."""
        checks = ((f.encode_name, f.name, _check_of(f.type)) for f in self._info.fields)
        return [(encoded, name, check) for encoded, name, check in checks if check is not None]

    def check(self, value: Any, document: bytes | Raw) -> None:  # noqa: ANN401 - an object
        try:
            self._decode_strictly(document)
        except msgspec.ValidationError:
            unknown = next(name for name in _fields_of(document) if name not in self._names)
            raise _refusal(unknown, self._names) from None
        if not self.inner:
            return
        fields = _fields_of(document)
        for encoded, name, check in self.inner:
            if encoded in fields:
                held = value[name] if isinstance(value, Mapping) else getattr(value, name)
                check(held, fields[encoded])

    def first_unknown(self, document: bytes | Raw) -> int | None:
        """Return the first of many such objects with a field too many: in C, a loop is slow here.

        -1 where that has to be looked for, since they may hold others.
        """
        if self.inner:
            return -1
        try:
            self._decode_each_strictly(document)
        except msgspec.ValidationError as error:
            found = _ITEM.search(str(error))
            return -1 if found is None else int(found[1])
        return None


@cache
def _object_of(class_: type) -> _Object:
    return _Object(inspect.type_info(class_))


def _check_of(info: inspect.Type) -> Check | None:
    """Return the check of a type; None where nothing in it could have a field too many."""
    match info:
        case inspect.Metadata():
            return _check_of(info.type)
        case inspect.StructType(forbid_unknown_fields=True) | inspect.StructType(array_like=True):
            return None  # checked while it is decoded, or without names
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            # By class, and not at once: a type may hold itself.
            return lambda value, document: _object_of(info.cls).check(value, document)
        case inspect.ListType() | inspect.VarTupleType():
            return _each(_check_of(info.item_type), info.item_type)
        case inspect.DictType():
            return _by_name(_check_of(info.value_type))
        case inspect.UnionType():
            return _one_of(info)
        case _:
            return None


def _each(check: Check | None, info: inspect.Type) -> Check | None:
    def check_items(value: Any, document: bytes | Raw) -> None:  # noqa: ANN401 - a list
        first: int | None = -1
        if isinstance(info, (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)):
            first = _object_of(info.cls).first_unknown(document)
        if first is None:
            return
        parts = _items_of(document)
        some = slice(None) if first < 0 else slice(first, first + 1)
        for item, part in zip(value[some], parts[some], strict=True):
            check(item, part)  # type: ignore[misc]

    return None if check is None else check_items


def _by_name(check: Check | None) -> Check | None:
    def check_values(value: Any, document: bytes | Raw) -> None:  # noqa: ANN401 - a dict
        parts = _fields_of(document)
        for name in value:
            if name in parts:  # else the name is of another type than text
                check(value[name], parts[name])  # type: ignore[misc]

    return None if check is None else check_values


def _one_of(union: inspect.UnionType) -> Check | None:
    """Return the check of a union, whose part is told by the value's class."""
    checks = {_class_of(info): check for info in union.types if (check := _check_of(info))}

    def check_part(value: object, document: bytes | Raw) -> None:
        check = checks.get(type(value))
        if check is not None:
            check(value, document)

    return check_part if checks else None


def _class_of(info: inspect.Type) -> type:
    """Return the class of the values that a type is decoded as."""
    match info:
        case inspect.Metadata():
            return _class_of(info.type)
        case inspect.StructType() | inspect.DataclassType():
            return info.cls
        case inspect.ListType():
            return list
        case inspect.VarTupleType():
            return tuple
        case _:
            return dict


def _refusal(name: str, names: Iterable[str]) -> Reject:
    shown = name[:_NAME_CHARS]
    text, details = f"no field {shown!r} here", dict[str, Any](field=shown)
    for nearest in get_close_matches(shown, sorted(names), n=1):
        text += f"; did you mean {nearest!r}?"
        details["nearest"] = nearest
    return Reject("BAD_REQUEST", text, **details)
