"""The text of an API key: ``ds_<id>_<secret>_<crc>``.

It is found by whoever searches for secrets that were left lying about, and one that was mistyped is
told without a look at the database, by its checksum.  The id is no secret.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

from dalsegno.protocol import Reject
from dalsegno.runtime.seams import new_bytes

KEY_MARK = "ds_"
"""What every key begins with."""

_ID_BYTES, _SECRET_BYTES = 8, 32
_TEXT = re.compile(r"(ds_([0-9a-f]{16})_([0-9a-f]{64}))_([0-9a-f]{8})", re.ASCII)


class KeyText(NamedTuple):
    """What a key says."""

    key_id: str
    secret: bytes

    def __str__(self) -> str:
        told = f"ds_{self.key_id}_{self.secret.hex()}"
        return f"{told}_{crc32(told.encode()):08x}"

    @property
    def digest(self) -> bytes:
        """What is stored of it; a plain SHA-256 is enough, since nobody guesses 256 bits."""
        return sha256(self.secret).digest()


def new_key_id() -> str:
    """Return the id of a new key."""
    return new_bytes(_ID_BYTES).hex()


def new_key_text(key_id: str) -> KeyText:
    """Return a new secret of a key."""
    return KeyText(key_id, new_bytes(_SECRET_BYTES))


def read_key_text(text: str) -> KeyText:
    """Read a key.

    Raises:
        Reject: ``TOKEN_INVALID`` for what was never one.

    """
    match = _TEXT.fullmatch(text)
    if match is None or crc32(match[1].encode()) != int(match[4], 16):
        raise Reject("TOKEN_INVALID", "this is no API key, or was mistyped")
    return KeyText(match[2], bytes.fromhex(match[3]))
