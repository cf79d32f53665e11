"""Messages framed for the wire once and shared by every connection.

A server's WebSocket frames are not masked (RFC 6455 §5.1), so the bytes of a commit are the same
for all its readers: they are joined once and each connection only writes them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXT = 0x81  # FIN and opcode 1, RFC 6455 §5.2
_IN_2_BYTES, _IN_8_BYTES = 126, 127
"""Where a short length would stand: a longer one follows."""


@lru_cache(maxsize=1_024)
def _header(length: int) -> bytes:
    """Return what precedes a text, unmasked, unfragmented; cached, since lengths are repeated."""
    if length < _IN_2_BYTES:
        return bytes((_TEXT, length))
    if length < 1 << 16:
        return bytes((_TEXT, _IN_2_BYTES)) + length.to_bytes(2)
    return bytes((_TEXT, _IN_8_BYTES)) + length.to_bytes(8)


class Frames:
    """Messages in order, joined as WebSocket frames: no copy of each is kept beside them."""

    __slots__ = ("size", "wire")

    def __init__(self, texts: Sequence[bytes]) -> None:
        lengths = [*map(len, texts)]
        self.size = sum(lengths)
        """Bytes of the texts, which is what bounds count."""
        parts = [b""] * (2 * len(texts))
        parts[::2] = map(_header, lengths)
        parts[1::2] = texts
        self.wire = b"".join(parts)
        """The WebSocket frames."""

    @property
    def texts(self) -> list[bytes]:
        """The messages, for a transport that frames them in its own way."""
        texts, wire, end = [], self.wire, 0
        while end < len(wire):
            start, length = end + 2, wire[end + 1]
            if length >= _IN_2_BYTES:
                start += 2 if length == _IN_2_BYTES else 8
                length = int.from_bytes(wire[end + 2 : start])
            end = start + length
            texts.append(wire[start:end])
        return texts
