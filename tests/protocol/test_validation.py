"""What validation refuses."""

from __future__ import annotations

import enum
import time
from typing import Annotated, Literal

import msgspec
import pytest

from dalsegno.protocol import (
    Reject,
    check_id,
    check_key,
    check_workspace_id,
    encode_checked,
    http_status,
    refusal,
)


def test_what_is_written_is_checked() -> None:
    assert encode_checked({"a": ["é"]}, nesting_max=2) == '{"a":["é"]}'.encode()
    endless: list[object] = []
    endless.append(endless)
    for value in ("a\0", "\ud800", [[["deep"]]], endless):
        with pytest.raises(Reject) as caught:
            encode_checked(value, nesting_max=2)
        assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize("value", ["a", "x" * 200, "ü", "a b", "a:b/c", "𝄋"])
def test_an_id_is_printable_text(value: str) -> None:
    assert check_id(value, chars_max=200) == value
    assert check_key(value, chars_max=200) == value


@pytest.mark.parametrize("value", ["", "x" * 201, "a\0", "a\n", "\x1f", "\x7f", "\ud800"])
def test_what_is_no_id_is_refused(value: str) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST: id: 1 to 200"):
        check_id(value, chars_max=200)
    with pytest.raises(Reject, match="BAD_REQUEST: idempotency key"):
        check_key(value, chars_max=200)


@pytest.mark.parametrize("value", ["a", "A-z_0.9", "x" * 64, "."])
def test_a_workspace_id_is_short_and_plain(value: str) -> None:
    assert check_workspace_id(value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a\n", "ä", "$system", "a/b", "٣"])
def test_what_is_no_workspace_id_is_refused(value: str) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST"):
        check_workspace_id(value)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: int = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    plain: list[Inner] = []
    coded: list[Inner] | None = msgspec.field(default=None, name="codedField")
    bounded: int = 0


def test_a_field_without_a_code_of_its_own_is_a_bad_request() -> None:
    for document in (
        b'{"plain":[{"n":"x"}]}',
        b'{"codedField":1}',
        b'{"` - at `$.plain`":1}',
        b"1",
    ):
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.json.decode(document, type=Outer)
        assert refusal(caught.value, Outer).code == "BAD_REQUEST"
        assert refusal(caught.value, Outer | None).code == "BAD_REQUEST"


Title = Annotated[str, msgspec.Meta(max_length=3, extra={"code": "TITLE_TOO_LONG"})]
Size = Annotated[Literal[1, 2], msgspec.Meta(extra={"code": "SIZE_NOT_FOUND"})]
Names = Annotated[list[str], msgspec.Meta(max_length=1, extra={"code": "TOO_MANY"})]


class Coded(msgspec.Struct):
    title: Title = ""
    size: Size = msgspec.field(default=1, name="theSize")
    names: Names = []


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ('{"title":"long"}', "TITLE_TOO_LONG"),
        ('{"title":1}', "TITLE_TOO_LONG"),
        ('{"theSize":3}', "SIZE_NOT_FOUND"),
        ('{"names":["a","b"]}', "TOO_MANY"),
        ('{"names":[1]}', "TOO_MANY"),
        ("1", "BAD_REQUEST"),
    ],
)
def test_a_field_with_a_code_of_its_own_is_a_bad_request_under_it(document: str, code: str) -> None:
    """Whatever the code would stand for elsewhere: 409, or 404 for one that ends like that."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(document, type=Coded)
    refused = refusal(caught.value, Coded)
    assert (refused.code, http_status(refused)) == (code, 400)
    with pytest.raises(msgspec.ValidationError) as whole:
        msgspec.json.decode("[1]", type=Names)
    refused = refusal(whole.value, Names)
    assert (refused.code, http_status(refused)) == ("TOO_MANY", 400)


class Kind(msgspec.Struct):
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    "value",
    [" - at `$." + "x" * 250_000, " - at `$.x" * 25_000, "x" * 250_000],
    ids=["a path", "paths", "plain"],
)
def test_i10_what_an_error_repeats_of_the_client_costs_nothing_and_is_short(value: str) -> None:
    started = time.process_time()
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode({"kind": value}), type=Kind)
    assert len(str(caught.value)) > 249_000
    refused = refusal(caught.value, Kind)
    assert time.process_time() - started < 2  # a quadratic search of the first takes minutes
    assert refused.code == "BAD_REQUEST"
    assert len(refused.message) < 400
    assert refused.message.endswith(" - at `$.kind`: one of a, b")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(msgspec.Struct):
    kind: Literal["note", "task"] = "note"


class Choosing(msgspec.Struct, rename="camel"):
    the_role: Literal["owner", "viewer"] = "viewer"
    number: Literal[1, 2] | None = None
    colour: Annotated[Colour | None, msgspec.Meta(description="x")] = None
    items: list[Item] = []
    by_name: dict[str, Item] = {}


@pytest.mark.parametrize(
    ("document", "allowed"),
    [
        ('{"theRole":"reader"}', ["owner", "viewer"]),
        ('{"number":3}', ["1", "2"]),
        ('{"colour":"green"}', ["red", "blue"]),
        ('{"items":[{},{"kind":"memo"}]}', ["note", "task"]),
        ('{"byName":{"any":{"kind":"memo"}}}', ["note", "task"]),
        ('{"theRole":"` - at `$.number`"}', ["owner", "viewer"]),
        ('{"theRole":"%s"}' % ("x" * 100_000), ["owner", "viewer"]),
    ],
)
def test_where_there_is_a_choice_its_values_are_named(document: str, allowed: list[str]) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(document, type=Choosing)
    refused = refusal(caught.value, Choosing)
    assert (refused.code, refused.details) == ("BAD_REQUEST", {"allowed": allowed})
    assert refused.message.endswith(f": one of {', '.join(allowed)}")


def test_where_there_is_none_nothing_is() -> None:
    for document in ('{"theRole":1}', '{"items":[1]}'):
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.json.decode(document, type=Choosing)
        assert refusal(caught.value, Choosing).details == {}
