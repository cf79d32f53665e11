"""The file of a backup: a line that says what it is, and portions, each with a digest.

    dalsegno-backup 1
    {"n":0,"part":"begin","workspace":"","rows":1,"size":…,"bytes":…,"sha256":"…"}
    … (so many bytes: a JSON array of rows, compressed with zlib)
    {"n":1,"part":"workspace_head","workspace":"acme",…}
    …
    {"n":…,"part":"end",…}

A portion's digest is over the digest of the one before it, what its line says and its bytes: a
portion that is missing, repeated, out of place or changed is found, and so is a file that was cut,
which has no end.
"""

from __future__ import annotations

import zlib
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from dalsegno.protocol import DalsegnoError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

MAGIC = b"dalsegno-backup 1\n"
BEGIN = "begin"
END = "end"

_PIECE = 64 * 1024
"""What is compressed or digested between two looks at the clock: a millisecond's work."""
_LEVEL = 1
_LINE_MAX = 4_096
_SIZE_MAX = 256 * 1024 * 1024
"""Of a portion's rows: a page has a mebibyte, unless a single row is longer."""


class BackupDamagedError(DalsegnoError):
    """A file is no backup, or not the one that was written: nothing is restored from it."""

    code = "BACKUP_DAMAGED"


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The line of a portion."""

    n: int
    part: str
    workspace: str
    rows: Annotated[int, Meta(ge=0)]
    size: Annotated[int, Meta(ge=0, le=_SIZE_MAX)]
    """Of the rows, as JSON."""
    bytes: Annotated[int, Meta(ge=0, le=_SIZE_MAX)]
    """Of these, compressed."""
    sha256: str


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows of one table, of one workspace or of none."""

    part: str
    workspace: str
    rows: int
    text: str
    """A JSON array."""

    def decode(self, type_: Any) -> Any:  # noqa: ANN401 - a type
        """Return the rows as values of a type.

        Raises:
            BackupDamagedError: they are no such.

        """
        try:
            return msgspec.json.decode(self.text, type=list[type_])
        except msgspec.MsgspecError as error:
            raise BackupDamagedError(f"rows of {self.part} cannot be read: {error}") from error


class PortionWriter:
    """Makes portions, one after the other."""

    def __init__(self) -> None:
        self._n = 0
        self._digest = b""

    def __repr__(self) -> str:
        return f"<PortionWriter, {self._n} portions>"

    @property
    def count(self) -> int:
        """How many were made."""
        return self._n

    def portion(
        self, part: str, workspace: str, rows: Sequence[str]
    ) -> Generator[None, None, bytes]:
        """Return a portion, and yield between the steps of making it."""
        text = f"[{','.join(rows)}]".encode()
        compressing = zlib.compressobj(_LEVEL)
        parts = []
        for at in range(0, len(text), _PIECE):
            parts.append(compressing.compress(text[at : at + _PIECE]))
            yield
        parts.append(compressing.flush())
        body = b"".join(parts)
        sums = _begun(self._digest, self._n, part, workspace, len(rows), len(text))
        for at in range(0, len(body), _PIECE):
            sums.update(body[at : at + _PIECE])
            yield
        head = Head(
            n=self._n,
            part=part,
            workspace=workspace,
            rows=len(rows),
            size=len(text),
            bytes=len(body),
            sha256=sums.hexdigest(),
        )
        self._digest = sums.digest()
        self._n += 1
        return msgspec.json.encode(head) + b"\n" + body + b"\n"


def _begun(before: bytes, n: int, part: str, workspace: str, rows: int, size: int) -> Any:  # noqa: ANN401 - hashlib's
    said = msgspec.json.encode((n, part, workspace, rows, size))
    return sha256(before + said)


class PortionReader:
    """Reads portions from the bytes of a file, as they come, and refuses what is damaged."""

    def __init__(self) -> None:
        self._n = 0
        self._digest = b""
        self._left = bytearray()
        self._read = 0
        self._has_begun = False
        self.is_over = False
        """Whether the last portion was read."""

    def __repr__(self) -> str:
        return f"<PortionReader at portion {self._n}>"

    def feed(self, data: bytes) -> list[Portion]:
        """Take some bytes, and return the portions that are complete.

        Raises:
            BackupDamagedError: this is no backup, or a damaged one; or one of another version.

        """
        self._left += data
        if not self._has_begun:
            if len(self._left) < len(MAGIC) and MAGIC.startswith(self._left):
                return []
            if not self._left.startswith(MAGIC):
                what = bytes(self._left[: len(MAGIC)])
                if what.startswith(b"dalsegno-backup "):
                    raise BackupDamagedError("a later release has written this backup")
                raise BackupDamagedError("this is no backup of Dal Segno")
            del self._left[: len(MAGIC)]
            self._has_begun = True
        found = []
        while (portion := self._next()) is not None:
            found.append(portion)
        return found

    def finish(self) -> None:
        """Raise unless the file has ended where a backup does.

        Raises:
            BackupDamagedError: it was cut.

        """
        if not self.is_over or self._left:
            raise BackupDamagedError(f"the file ends in the middle, behind portion {self._n - 1}")

    def _next(self) -> Portion | None:
        if self.is_over and self._left:
            raise BackupDamagedError("there is something behind the end")
        end = self._left.find(b"\n", 0, _LINE_MAX)
        if end < 0:
            if len(self._left) >= _LINE_MAX:
                raise self._damaged("has no line")
            return None
        try:
            head = msgspec.json.decode(self._left[:end], type=Head)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damaged("has a line that cannot be read") from error
        behind = end + 1 + head.bytes
        if len(self._left) <= behind:
            return None
        body = bytes(self._left[end + 1 : behind])
        is_closed = self._left[behind] == ord("\n")
        del self._left[: behind + 1]
        return self._checked(head, body, is_closed=is_closed)

    def _checked(self, head: Head, body: bytes, *, is_closed: bool) -> Portion:
        if head.n != self._n:
            raise self._damaged(f"is missing: number {head.n} stands in its place")
        sums = _begun(self._digest, head.n, head.part, head.workspace, head.rows, head.size)
        sums.update(body)
        if not is_closed or sums.hexdigest() != head.sha256:
            raise self._damaged("is not as it was written: its digest differs")
        self._digest = sums.digest()
        text = self._unpacked(head, body)
        self._n += 1
        self.is_over = head.part == END
        return Portion(part=head.part, workspace=head.workspace, rows=head.rows, text=text)

    def _unpacked(self, head: Head, body: bytes) -> str:
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(body, head.size + 1)
            if len(text) != head.size or not unpacking.eof:
                raise self._damaged("has another size")
            return text.decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise self._damaged("cannot be unpacked") from error

    def _damaged(self, what: str) -> BackupDamagedError:
        return BackupDamagedError(f"the backup is damaged: portion {self._n} {what}")
