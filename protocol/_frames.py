"""Messages framed for the wire once and shared by every connection.

A server's WebSocket frames are not masked (RFC 6455 §5.1), so the bytes of a commit are the same
for all its readers: they are joined once and each connection only writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXT = 0x81  # FIN and opcode 1, RFC 6455 §5.2


def text_frame(payload: bytes) -> bytes:
    """Frame one text message, unmasked, unfragmented (RFC 6455 §5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((_TEXT, length)) + payload
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2) + payload
    return b"\x81\x7f" + length.to_bytes(8) + payload


class Frames:
    """Messages in order: as texts and, on first use, joined as WebSocket frames."""

    __slots__ = ("joined", "size", "texts")

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = texts
        self.size = sum(map(len, texts))
        """Bytes of the texts, which is what bounds count."""
        self.joined = b""
        """`wire` after its first use; a loop over many connections reads it without a call."""

    @property
    def wire(self) -> bytes:
        """The WebSocket frames, joined once for all connections."""
        if not self.joined:
            self.joined = b"".join([text_frame(text) for text in self.texts])
        return self.joined
