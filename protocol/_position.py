"""Cursors: a number in a stream, and the chain that says in which history.

On the wire a cursor is exclusive, "I have seen N" (I13): a plain number, or ``"N-chain"`` with
sixteen hex digits, which is checked against the log, so that a cursor of a lost or
restored history is recognised.
"""

from __future__ import annotations

import re

import msgspec

from ._errors import Reject
from ._limits import SEQ_MAX

_CURSOR = re.compile(r"(0|[1-9][0-9]{0,18})-([0-9a-f]{16})", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Cursor(msgspec.Struct, frozen=True):
    """A number in a stream, with its chain if the reader knows it."""

    seq: int
    chain: int | None = None

    def __str__(self) -> str:
        return str(self.seq) if self.chain is None else f"{self.seq}-{chain_text(self.chain)}"


def parse_cursor(value: object) -> Cursor:
    """Read a cursor from the wire.

    Raises:
        Reject: ``BAD_REQUEST`` for anything but a number in 0 … 2^63 - 1 or ``"N-chain"``
            (X-REP-6: overflow is an error, not a wrap).

    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SEQ_MAX:
        return Cursor(value)
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) and int(value) <= SEQ_MAX:
            return Cursor(int(value))
        match = _CURSOR.fullmatch(value)
        if match and int(match[1]) <= SEQ_MAX:
            return Cursor(int(match[1]), int(match[2], 16))
    raise Reject("BAD_REQUEST", "a cursor is a number from 0 to 2^63 - 1, or that and a chain")


def chain_text(chain: int) -> str:
    """Return a chain as it stands on the wire: sixteen hex digits."""
    return chain.to_bytes(8).hex()
