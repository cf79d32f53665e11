"""Frames that clients should not send, and some that they may, against a real server.

Each row is a script of one connection, under the id of the case of the Autobahn testsuite (0.8)
that it translates: bytes are sent, everything else is expected, in this order.  What Autobahn's own
endpoint shows by an echo, this one shows by what it answers:

* a text that is to be echoed is a ``ping`` message, padded or cut to the case's size, and its
  ``pong`` message repeats the ``request_id``;
* a text that is no message, an empty one for example, and a binary message are refused with
  ``BAD_REQUEST``, which they are only after they were taken as RFC 6455 says;
* where Autobahn expects the connection to fail, it closes with the case's code;
* a row that does not end with a close is closed by the client, with 1000, which is echoed.

Where Autobahn passes more than one behaviour, the row has ours: the last of several pongs stands
for all (RFC 6455 §5.5.3), and a text that is not UTF-8 fails at the end of its message (6.4 calls
that "non-strict").
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import msgspec
import pytest
import trio
from websockets.frames import Opcode
from websockets.utils import apply_mask

from tests._patience import fail_after
from tests._raw_client import RawClient

from ._site import Site
from .conftest import start

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KOSME = "κόσμε".encode()
EDITED = KOSME + b"\xed\xa0\x80edited"
"""A text with a surrogate in it, from its byte 11 on."""


@dataclass(frozen=True)
class Pong:
    """The pong frame with this payload; earlier ones may come or not."""

    payload: bytes


@dataclass(frozen=True)
class Answer:
    """The answer to the ping message with this id."""

    request_id: str = "r"


@dataclass(frozen=True)
class Refused:
    """An error, since it is no message."""


@dataclass(frozen=True)
class Closed:
    """A close frame with this code, 1005 without one, and nothing behind it."""

    code: int


Step: TypeAlias = bytes | Pong | Answer | Refused | Closed
Script: TypeAlias = list[Step]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    key = b"\x37\xfa\x21\x3d"
    head = bytes([fin << 7 | rsv << 4 | opcode]) + length + key
    return head + apply_mask(payload, key)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason)


def asking(size: int = 0, request_id: bytes = b"r") -> bytes:
    """A ping message of some size."""
    return b'{"type":"ping","request_id":"%b"}'.ljust(size + 2) % request_id


def message(size: int = 0) -> bytes:
    return frame(TEXT, asking(size))


def fragments(payload: bytes, *ends: int, opcode: int = TEXT) -> list[bytes]:
    """The frames of a message that is cut at these places."""
    cuts = [0, *ends, len(payload)]
    pieces = [payload[one:other] for one, other in pairwise(cuts)]
    return [
        frame(CONT if at else opcode, piece, fin=at == len(ends)) for at, piece in enumerate(pieces)
    ]


def chopped(wire: bytes, size: int = 1) -> list[bytes]:
    return [wire[at : at + size] for at in range(0, len(wire), size)]


def octets(payload: bytes) -> list[bytes]:
    return fragments(payload, *range(1, len(payload)))


WHOLE = asking()
HALVES = fragments(WHOLE, 10)
PINGS = [frame(PING, b"payload-%d" % number) for number in range(10)]
NOTHING_TO_CONTINUE = frame(CONT, b"non-continuation payload")
NOTHING_TO_CONTINUE_YET = frame(CONT, b"non-continuation payload", fin=False)
FIVE = fragments(WHOLE, 5, 10, 15, 20)

ROWS: dict[str, Script] = {
    "1.1.1": [frame(TEXT), Refused()],
    "1.1.2": [message(125), Answer()],
    "1.1.3": [message(126), Answer()],
    "1.1.4": [message(127), Answer()],
    "1.1.5": [message(128), Answer()],
    "1.1.6": [message(65_535), Answer()],
    "1.1.7": [message(65_536), Answer()],
    "1.1.8": [*chopped(message(65_536), 997), Answer()],
    "1.2.1": [frame(BINARY), Refused()],
    "1.2.2": [frame(BINARY, b"\xfe" * 125), Refused()],
    "1.2.3": [frame(BINARY, b"\xfe" * 126), Refused()],
    "1.2.4": [frame(BINARY, b"\xfe" * 127), Refused()],
    "1.2.5": [frame(BINARY, b"\xfe" * 128), Refused()],
    "1.2.6": [frame(BINARY, b"\xfe" * 65_535), Refused()],
    "1.2.7": [frame(BINARY, b"\xfe" * 65_536), Refused()],
    "1.2.8": [*chopped(frame(BINARY, b"\xfe" * 65_536), 997), Refused()],
    "2.1": [frame(PING), Pong(b"")],
    "2.2": [frame(PING, b"Hello, world!"), Pong(b"Hello, world!")],
    "2.3": [frame(PING, b"\x00\xff\xfe\xfd"), Pong(b"\x00\xff\xfe\xfd")],
    "2.4": [frame(PING, b"\xfe" * 125), Pong(b"\xfe" * 125)],
    "2.5": [frame(PING, b"\xfe" * 126), Closed(1002)],
    "2.6": [*chopped(frame(PING, b"\xfe" * 125)), Pong(b"\xfe" * 125)],
    "2.7": [frame(PONG)],
    "2.8": [frame(PONG, b"unsolicited")],
    "2.9": [frame(PONG, b"unsolicited"), frame(PING, b"ping"), Pong(b"ping")],
    "2.10": [*PINGS, Pong(b"payload-9")],
    "2.11": [*chopped(b"".join(PINGS)), Pong(b"payload-9")],
    "3.1": [frame(TEXT, WHOLE, rsv=1), Closed(1002)],
    "3.2": [message() + frame(TEXT, WHOLE, rsv=2) + frame(PING), Answer(), Closed(1002)],
    "3.3": [message(), frame(TEXT, WHOLE, rsv=3), frame(PING), Answer(), Closed(1002)],
    "3.4": [*chopped(message()), *chopped(frame(TEXT, rsv=4)), Answer(), Closed(1002)],
    "3.5": [frame(BINARY, b"\x00\xff\xfe", rsv=5), Closed(1002)],
    "3.6": [frame(PING, b"Hello", rsv=6), Closed(1002)],
    "3.7": [frame(CLOSE, rsv=7), Closed(1002)],
    **{f"4.1.{at}": [frame(2 + at, b"reserved"), Closed(1002)] for at in (1, 2)},
    **{
        f"4.1.{at}": [message(), frame(2 + at, b"reserved"), Answer(), Closed(1002)]
        for at in (3, 4, 5)
    },
    **{f"4.2.{at}": [frame(10 + at, b"reserved"), Closed(1002)] for at in (1, 2)},
    **{
        f"4.2.{at}": [message(), frame(10 + at, b"reserved"), Answer(), Closed(1002)]
        for at in (3, 4, 5)
    },
    "5.1": [*fragments(b"fragment", 4, opcode=PING), Closed(1002)],
    "5.2": [*fragments(b"fragment", 4, opcode=PONG), Closed(1002)],
    "5.3": [b"".join(HALVES), Answer()],
    "5.4": [*HALVES, Answer()],
    "5.5": [*chopped(b"".join(HALVES)), Answer()],
    "5.6": [HALVES[0] + frame(PING, b"?") + HALVES[1], Pong(b"?"), Answer()],
    "5.7": [HALVES[0], frame(PING, b"?"), HALVES[1], Pong(b"?"), Answer()],
    "5.8": [*chopped(HALVES[0] + frame(PING, b"?") + HALVES[1]), Pong(b"?"), Answer()],
    "5.9": [NOTHING_TO_CONTINUE + message(), Closed(1002)],
    "5.10": [NOTHING_TO_CONTINUE, message(), Closed(1002)],
    "5.11": [*chopped(NOTHING_TO_CONTINUE + message()), Closed(1002)],
    "5.12": [NOTHING_TO_CONTINUE_YET + message(), Closed(1002)],
    "5.13": [NOTHING_TO_CONTINUE_YET, message(), Closed(1002)],
    "5.14": [*chopped(NOTHING_TO_CONTINUE_YET + message()), Closed(1002)],
    "5.15": [*HALVES, NOTHING_TO_CONTINUE_YET, message(), Answer(), Closed(1002)],
    "5.16": [*[NOTHING_TO_CONTINUE_YET, *HALVES] * 2, Closed(1002)],
    "5.17": [*[NOTHING_TO_CONTINUE, *HALVES] * 2, Closed(1002)],
    "5.18": [frame(TEXT, b"{", fin=False), frame(TEXT, b"}"), Closed(1002)],
    "5.19": [
        *FIVE[:2],
        frame(PING, b"pongme 1!"),
        Pong(b"pongme 1!"),
        *FIVE[2:4],
        frame(PING, b"pongme 2!"),
        FIVE[4],
        Pong(b"pongme 2!"),
        Answer(),
    ],
    "5.20": [
        b"".join([*FIVE[:2], frame(PING, b"pongme 1!"), *FIVE[2:4], frame(PING, b"pongme 2!")]),
        FIVE[4],
        Pong(b"pongme 2!"),
        Answer(),
    ],
    "6.1.1": [frame(TEXT), Refused()],
    "6.1.2": [*fragments(b"", 0, 0), Refused()],
    "6.1.3": [*fragments(WHOLE, 0, len(WHOLE)), Answer()],
    "6.2.1": [frame(TEXT, asking(0, KOSME)), Answer("κόσμε")],
    "6.2.2": [*fragments(asking(0, KOSME), 31), Answer("κόσμε")],
    "6.2.3": [
        *octets(asking(0, "Hello-µ@ßöäüàá-UTF-8!!".encode())),
        Answer("Hello-µ@ßöäüàá-UTF-8!!"),
    ],
    "6.2.4": [*octets(asking(0, KOSME)), Answer("κόσμε")],
    "6.3.1": [frame(TEXT, EDITED), Closed(1007)],
    "6.3.2": [*octets(EDITED), Closed(1007)],
    "6.4.1": [*fragments(KOSME + b"\xf4\x90\x80\x80edited", 11, 15), Closed(1007)],
    "6.4.2": [*fragments(KOSME + b"\xf4\x90\x80\x80edited", 12, 13), Closed(1007)],
    "6.4.3": [*chopped(frame(TEXT, KOSME + b"\xf4\x90\x80\x80edited"), 17), Closed(1007)],
    "6.4.4": [*chopped(frame(TEXT, KOSME + b"\xf4\x90\x80\x80edited"), 18), Closed(1007)],
    "7.1.1": [message(), Answer(), close(1000), Closed(1000)],
    "7.1.2": [close(1000) * 2, Closed(1000)],
    "7.1.3": [close(1000) + frame(PING, b"?"), Closed(1000)],
    "7.1.4": [close(1000) + message(), Closed(1000)],
    "7.1.5": [HALVES[0] + close(1000) + HALVES[1], Closed(1000)],
    "7.1.6": [message(256 * 1024) + close(1000) + frame(PING, b"?"), Answer(), Closed(1000)],
    "7.3.1": [frame(CLOSE), Closed(1005)],
    "7.3.2": [frame(CLOSE, b"a"), Closed(1002)],
    "7.3.3": [close(1000), Closed(1000)],
    "7.3.4": [close(1000, b"Hello World!"), Closed(1000)],
    "7.3.5": [close(1000, b"*" * 123), Closed(1000)],
    "7.3.6": [close(1000, b"*" * 124), Closed(1002)],
    "7.5.1": [close(1000, EDITED), Closed(1007)],
    **{
        f"7.7.{at}": [close(code), Closed(code)]
        for at, code in enumerate(
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999], 1
        )
    },
    **{
        f"7.9.{at}": [close(code), Closed(1002)]
        for at, code in enumerate([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999], 1)
    },
    "7.13.1": [close(5000), Closed(1002)],
    "7.13.2": [close(65_535), Closed(1002)],
    "10.1.1": [*fragments(asking(65_536), *range(1_300, 65_536, 1_300)), Answer()],
}

SEQUENCES: list[list[bytes]] = [
    [
        b"hello$world",
        "hello¢world".encode(),
        "hello€world".encode(),
        "hello𤭢world".encode(),
        KOSME,
    ],
    [KOSME[:end] for end in range(1, 12)],
    [b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"],
    [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"],
    [b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"],
    [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"],
    [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80"],
    [b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80", bytes(range(0x80, 0xBF))],
    [b"".join(b"%c " % at for at in range(0xC0, 0xDF)), b"\xe0 ", b"\xf0 ", b"\xf8 ", b"\xfc "],
    [b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xdf", b"\xef\xbf"],
    [b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf"],
    [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"],
    [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf"],
    [b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf"],
    [b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80"],
    [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80"],
    [b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xad\xbf\xed\xbf\xbf", b"\xed\xaf\xbf\xed\xbf\xbf"],
    [b"\xef\xbf\xbe", b"\xef\xbf\xbf", b"\xf0\x9f\xbf\xbe", b"\xf4\x8f\xbf\xbf"],
    [b"\xef\xbf\xb9", b"\xef\xbf\xba", b"\xef\xbf\xbc", b"\xef\xbf\xbd"],
]
"""The sequences of 6.5 to 6.23, of every case that differs from its neighbours."""


def of_sequence(sequence: bytes) -> Script:
    """Send a message that contains the sequence: as its id, if it is UTF-8."""
    wire = frame(TEXT, asking(0, sequence))
    try:
        text = sequence.decode()
    except UnicodeDecodeError:
        return [wire, Closed(1007)]
    return [wire, Refused() if text == "\0" else Answer(text)]  # a bare NUL is no JSON


def rows(group: str) -> Iterator[tuple[str, Script]]:
    for row, script in ROWS.items():
        if row.partition(".")[0] == group:
            yield row, script
    if group == "6":
        for of, sequences in enumerate(SEQUENCES, 5):
            for at, sequence in enumerate(sequences, 1):
                yield f"6.{of}.{at}", of_sequence(sequence)


@asynccontextmanager
async def upgraded(site: Site) -> AsyncIterator[RawClient]:
    host, port = site.address.split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        client = RawClient(stream)
        await client.upgrade(site.address, f"dalsegno_session={site.owner.cookie}")
        yield client


async def next_frame(client: RawClient) -> tuple[Opcode, bytes]:
    """The next frame that is not a heartbeat."""
    while True:
        opcode, payload = await client.frame()
        if b'"heartbeat"' not in payload:
            return opcode, payload


async def check(client: RawClient, expected: Pong | Answer | Refused | Closed) -> None:
    opcode, payload = await next_frame(client)
    match expected:
        case Pong():
            while payload != expected.payload:
                assert opcode is Opcode.PONG, payload
                opcode, payload = await next_frame(client)
            assert opcode is Opcode.PONG
        case Answer():
            answer = msgspec.json.decode(payload)
            assert (answer["type"], answer["request_id"]) == ("pong", expected.request_id)
        case Refused():
            assert msgspec.json.decode(payload)["code"] == "BAD_REQUEST"
        case Closed():
            assert opcode is Opcode.CLOSE, payload
            assert int.from_bytes(payload[:2] or b"\x03\xed") == expected.code
            assert await client.stream.receive_some() == b"", "nothing follows a close frame"


async def play(site: Site, script: Script) -> None:
    async with upgraded(site) as client:
        for step in script:
            if isinstance(step, bytes):
                await client.stream.send_all(step)
            else:
                await check(client, step)
        if not isinstance(script[-1], Closed):
            await client.stream.send_all(close(1000))
            await check(client, Closed(1000))


@pytest.mark.parametrize("group", ["1", "2", "3", "4", "5", "6", "7", "10"])
async def test_frames_are_taken_as_rfc_6455_says(site: Site, group: str) -> None:
    failed = {}

    async def one(row: str, script: Script) -> None:
        try:
            with fail_after(10):
                await play(site, script)
        except (AssertionError, trio.TooSlowError, trio.BrokenResourceError, ValueError) as error:
            failed[row] = error

    async with trio.open_nursery() as nursery:
        for row, script in rows(group):
            nursery.start_soon(one, row, script)
    assert not failed


FLOODS = {
    "fragments": frame(TEXT, fin=False) + frame(CONT, fin=False) * 20_000,
    "pings": frame(PING, b"\xfe" * 125) * 5_000,
    "empty pings": frame(PING) * 20_000,
    "pongs": frame(PONG) * 20_000,
    "no JSON": frame(TEXT, b"{") * 20_000,
    "binary": frame(BINARY) * 20_000,
}


async def test_i10_who_floods_a_server_with_frames_is_closed_with_1008(site: Site) -> None:
    """They read what they are sent, and would go on for ever; a neighbour is answered meanwhile."""
    codes: dict[str, int] = {}

    async def attack(flood: str) -> None:
        async with upgraded(site) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, FLOODS[flood])
            opcode, payload = await client.frame()
            while opcode is not Opcode.CLOSE:
                opcode, payload = await client.frame()
            codes[flood] = int.from_bytes(payload[:2])
            nursery.cancel_scope.cancel()

    with fail_after(10):
        async with trio.open_nursery() as nursery:
            for flood in FLOODS:
                nursery.start_soon(attack, flood)
            await play(site, [message(), Answer()])
    assert codes == dict.fromkeys(FLOODS, 1008)


async def test_what_is_below_the_budgets_is_served(migrated: str) -> None:
    async with start(
        migrated, fragments_max=20, control_frames_per_s=20, unreadable_per_s=20
    ) as site:
        await site.set_up()
        await play(
            site,
            [
                *[step for _ in range(20) for step in (frame(BINARY), Refused())],
                *fragments(WHOLE, *range(1, 20)),
                Answer(),
                *[frame(PING, b"%d" % number) for number in range(18)],
                Pong(b"17"),
            ],
        )
