"""A ZIP archive as a stream of bytes, the same for the same files (PKWARE APPNOTE 6.3).

Files are stored, not compressed: what a compressor makes of a text depends on its version, and the
archive of equal notes is to be equal everywhere.  All have one time and one mode.  Sizes stand in
front of the bytes, so that it can be read as it comes; past 4 GiB or 65,535 files it is ZIP64.
"""

from __future__ import annotations

import struct
from zlib import crc32

_UTF8 = 0x0800
_STORED = 0
_TIME, _DATE = 0, 0x21
"""Midnight of 1 January 1980, the first that there is."""
_MODE = 0o100644 << 16
_UNIX = 3 << 8
_PLAIN, _ZIP64 = 20, 45
"""The versions that are needed to read it."""
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_OFFSET_64 = struct.Struct("<2HQ")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")


class Zip:
    """Writes an archive: what its methods return is written in this order."""

    def __init__(self) -> None:
        self._at = 0
        self._central: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Zip of {len(self._central)} files, {self._at} bytes>"

    def file(self, path: str, data: bytes) -> bytes:
        """Return a file of less than 4 GiB."""
        head = self.head(path, len(data), crc32(data))
        self._at += len(data)
        return head + data

    def head(self, path: str, size: int, checksum: int) -> bytes:
        """Return what stands in front of a file's bytes."""
        name, at = path.encode(), self._at
        assert size < _FULL_32, "a file's size has 32 bits"
        fields = (_UTF8, _STORED, _TIME, _DATE, checksum, size, size)
        far = b"" if at < _FULL_32 else _OFFSET_64.pack(1, 8, at)
        version = _ZIP64 if far else _PLAIN
        central = _CENTRAL.pack(
            b"PK\x01\x02", _UNIX | version, version, *fields, len(name), len(far), 0, 0, 0, _MODE,
            min(at, _FULL_32),
        )  # fmt: skip
        self._central.append(central + name + far)
        head = _LOCAL.pack(b"PK\x03\x04", _PLAIN, *fields, len(name), 0) + name
        self._at += len(head)
        return head

    def passed(self, size: int) -> None:
        """Count bytes of a file whose head was returned."""
        self._at += size

    def end(self) -> list[bytes]:
        """Return what stands behind the last file, in parts."""
        count, at = len(self._central), self._at
        size = sum(map(len, self._central))
        parts = self._central
        if count >= _FULL_16 or at + size >= _FULL_32:
            end_64 = _END_64.pack(
                b"PK\x06\x06", _END_64.size - 12, _UNIX | _ZIP64, _ZIP64, 0, 0, count, count, size,
                at,
            )  # fmt: skip
            parts.append(end_64 + _LOCATOR.pack(b"PK\x06\x07", 0, at + size, 1))
        files, offset = min(count, _FULL_16), min(at, _FULL_32)
        parts.append(_END.pack(b"PK\x05\x06", 0, 0, files, files, min(size, _FULL_32), offset, 0))
        return parts
