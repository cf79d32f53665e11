"""Whatever is written in a header, a token, a cursor or a query is read, or refused with a code.

A thousand examples each, and more in a soak: texts at random, and texts that were right before a
little of them was changed.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings, strategies as st

from dalsegno.protocol import (
    Cursor,
    Limits,
    Place,
    Reject,
    chain_text,
    parse_cursor,
    place_of,
    token_of,
)
from dalsegno.protocol.dialects import GENERIC, Language, address_of
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web import TokenIssuer, client_address
from dalsegno.runtime.web._credentials import Credentials, offered_in
from dalsegno.runtime.web._handshake import HandshakeRefusedError, parse_upgrade
from dalsegno.runtime.web._hosts import Hosts
from dalsegno.runtime.web._key_text import new_key_id, new_key_text, read_key_text
from dalsegno.runtime.web._token_text import (
    access_text,
    read_access,
    read_refresh,
    refresh_text,
)

thorough = settings(max_examples=max(1_000, settings().max_examples))

ROOT, KEY = b"r" * 32, b"k" * 32
SECRET = b"a secret of thirty-two bytes, or more"

RIGHT = {
    "key": str(new_key_text(new_key_id())),
    "access": access_text(ROOT, KEY, 1_893_456_000_000),
    "refresh": refresh_text(ROOT, KEY, 7),
    "cursor": f"12-{chain_text(0xABC)}",
    "place": token_of(Place("00000030", "card:a")),
    "bearer": "Bearer " + "x" * 40,
    "offers": "dalsegno.v1, dalsegno.bearer." + urlsafe_b64encode(b"token").decode(),
    "message": '{"type":"subscribe","stream_id":"workspace:w","cursor":"3-00000000000000ab"}',
    "head": "GET /ws?client_id=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n",
    "address": "203.0.113.7, 2001:db8::1",
    "jwt": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJpc3MiOiJpIiwiYXVkIjoiYSIsInN1YiI6InMiLCJleHAiOjE4OTM0NTYwMDB9.AAAA",
}


def changed(text: str) -> st.SearchStrategy[str]:
    """A text with some of it cut out, doubled or replaced."""

    def change(at: tuple[int, int], by: str, *, twice: bool) -> str:
        first, last = sorted(min(each, len(text)) for each in at)
        part = text[first:last] * 2 if twice else by
        return text[:first] + part + text[last:]

    return st.builds(
        change,
        st.tuples(st.integers(0, len(text)), st.integers(0, len(text))),
        st.text(max_size=6),
        twice=st.booleans(),
    )


def texts(kind: str) -> st.SearchStrategy[str]:
    return st.text(max_size=200) | changed(RIGHT[kind]) | st.just(RIGHT[kind])


def read_or_refused(read: Callable[[], Any], codes: set[str]) -> Any:
    """Return what is read; None where it is refused, with one of these codes."""
    refused: Reject | None = None
    try:
        return read()
    except Reject as error:
        refused = error
    assert refused.code in codes
    assert refused.message
    return None


@thorough
@given(texts("key"))
def test_a_key(text: str) -> None:
    read = read_or_refused(lambda: read_key_text(text), {"TOKEN_INVALID"})
    assert read is None or str(read) == text


@thorough
@given(texts("access") | texts("refresh"))
def test_a_token_of_ours(text: str) -> None:
    access = read_or_refused(lambda: read_access(text), {"TOKEN_INVALID"})
    refresh = read_or_refused(lambda: read_refresh(text), {"TOKEN_INVALID"})
    assert access is None or refresh is None, "never both"
    if text != RIGHT["access"]:
        assert access is None or not access.is_made_with(KEY)
    if text != RIGHT["refresh"]:
        assert refresh is None or refresh.root != ROOT or not refresh.is_made_with(KEY)


@thorough
@given(texts("cursor") | st.integers() | st.none() | st.booleans() | st.floats())
def test_a_cursor(value: object) -> None:
    read = read_or_refused(lambda: parse_cursor(value), {"BAD_REQUEST"})
    assert read is None or parse_cursor(str(read)) == read
    assert read is None or isinstance(read, Cursor)


@thorough
@given(texts("place"))
def test_the_place_of_a_list(text: str) -> None:
    read = read_or_refused(lambda: place_of(text), {"BAD_REQUEST"})
    assert read is None or place_of(token_of(read)) == read


@thorough
@given(st.lists(texts("bearer"), max_size=2), st.lists(texts("key"), max_size=2))
def test_credentials(authorization: list[str], api_key: list[str]) -> None:
    given_ = Credentials("a=b", authorization, api_key)
    read = read_or_refused(given_.bearer, {"BAD_REQUEST", "AUTH_REQUIRED"})
    assert read is None or len(authorization) + len(api_key) == 1


@thorough
@given(st.lists(texts("offers"), max_size=3))
def test_what_a_page_offers(lines: list[str]) -> None:
    for each in offered_in(lines):
        assert each.startswith("Bearer ")
        assert each.isascii()


@thorough
@given(texts("message"))
def test_a_message(text: str) -> None:
    language = Language(GENERIC)
    read_or_refused(lambda: language.decode(text, Limits()), {"BAD_REQUEST"})
    address = address_of(text)
    assert address.request_id is None or len(address.request_id) <= 256


@thorough
@given(texts("head"))
def test_the_head_of_an_upgrade(text: str) -> None:
    head = text.encode("latin-1", "replace")
    refused: HandshakeRefusedError | None = None
    try:
        asked, answer = parse_upgrade(head, peer="p", new_request_id="r", hosts=Hosts())
    except HandshakeRefusedError as error:
        refused = error
    if refused is None:
        assert answer.startswith(b"HTTP/1.1 101")
        assert asked.request_id
    else:
        assert 400 <= refused.status < 500
        assert refused.error.code


@thorough
@given(st.none() | texts("address"), st.lists(texts("address"), max_size=3))
def test_the_address_of_a_client(peer: str | None, forwarded: list[str]) -> None:
    assert isinstance(client_address(peer, forwarded, ()), str)


@thorough
@given(texts("jwt"))
def test_a_token_of_another_issuer(text: str) -> None:
    issuer = TokenIssuer(issuer="i", audience="a", secret=SECRET)

    async def identify() -> None:
        with pytest.raises(Reject) as caught:
            await issuer.identify(text, WORLD)
        assert caught.value.code == "TOKEN_INVALID", "nobody signs by chance"

    trio.run(identify)
