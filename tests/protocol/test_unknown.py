"""A field too many is named wherever it stands; what may hold anything is not looked into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import KnownFields, Reject


@dataclass
class Plain:
    text: str = ""


class Typed(TypedDict, total=False):
    text: str


class Cat(msgspec.Struct, tag="cat"):
    name: str = ""


class Dog(msgspec.Struct, tag="dog", tag_field="type"):
    name: str = ""


class Row(msgspec.Struct, array_like=True):
    number: int = 0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    text: str = ""


class Tree(msgspec.Struct, rename="camel"):
    the_name: str = ""
    kids: list[Tree] | None = None
    plain: Plain | None = None
    typed: Typed | None = None
    by_name: dict[str, Plain] = {}
    by_number: dict[int, Plain] = {}
    pet: Cat | list[Dog] | None = None
    pair: tuple[Plain, ...] = ()
    row: Row | None = None
    strict: Strict | None = None
    anything: Any = None


tree = KnownFields(Tree)
decode = msgspec.json.Decoder(Tree).decode


def field_of(document: str) -> str | None:
    """The field that is refused."""
    try:
        tree.check(decode(document), document.encode())
    except Reject as refused:
        return str(refused.details["field"])
    return None


@pytest.mark.parametrize(
    "document",
    [
        "{}",
        '{"theName":"x","kids":[{"kids":[]}],"plain":{"text":"x"},"typed":{"text":"x"}}',
        '{"byName":{"any":{"text":"x"}},"byNumber":{"1":{"text":"x"}},"pair":[{"text":"x"},{}]}',
        '{"pet":{"type":"cat","name":"x"}}',
        '{"pet":[{"type":"dog"}],"row":[1],"strict":{"text":"x"},"anything":{"a":{"b":1}}}',
        '{"theName":"\\ud834\\udd1e"}',
    ],
)
def test_what_is_known_passes(document: str) -> None:
    assert field_of(document) is None


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ('{"the_name":"x"}', "the_name"),
        ('{"kids":[{},{"kidz":1}]}', "kidz"),
        ('{"plain":{"txt":1}}', "txt"),
        ('{"typed":{"txt":1}}', "txt"),
        ('{"byName":{"any":{"txt":1}}}', "txt"),
        ('{"pet":{"type":"cat","nam":1}}', "nam"),
        ('{"pet":[{"type":"dog","nam":1}]}', "nam"),
        ('{"pair":[{},{"txt":1}]}', "txt"),
        ('{"pair":[{},{"text":"x"},{" - at `$[0]`":1},{"more":1}]}', " - at `$[0]`"),
        ('{"pair":[%s{"txt":1}]}' % ("{}," * 20_000), "txt"),
        ('{"anything":{},"more":1}', "more"),
        ('{"%s":1}' % ("x" * 100_000), "x" * 64),
    ],
)
def test_what_is_not_is_named(document: str, field: str) -> None:
    assert field_of(document) == field


@given(st.dictionaries(st.text(max_size=8), st.integers(), max_size=5))
def test_of_whatever_names_the_unknown_ones_are_refused(fields: dict[str, int]) -> None:
    class One(msgspec.Struct):
        a: int = 0
        b: int = 0

    document = msgspec.json.encode(fields)
    unknown = fields.keys() - {"a", "b"}
    try:
        KnownFields(One).check(msgspec.json.decode(document, type=One), document)
    except Reject as refused:
        assert refused.details["field"] in unknown  # noqa: PT017 - both ways are fine
    else:
        assert not unknown


def test_the_nearest_is_named_with_it() -> None:
    with pytest.raises(Reject, match="did you mean 'theName'") as caught:
        tree.check(Tree(), b'{"teName":"x"}')
    assert caught.value.details == {"field": "teName", "nearest": "theName"}


def test_a_dict_that_a_program_puts_where_a_struct_belongs_is_looked_into() -> None:
    tree.check_inside(Tree(), b'{"plain":{"text":"x"}}')
    with pytest.raises(Reject):
        tree.check_inside(Tree(plain=Plain()), b'{"plain":{"txt":"x"}}')
    KnownFields(Cat).check_inside(Cat(), b"never read: nothing in it could hold a field")
