"""The markdown export: a ZIP archive with a file a note, and a manifest.

It is of one moment: the notes as they were at an event of their workspace, in the order of their
ids.  So an archive of an event is the same, byte for byte, whenever and wherever it is made.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import msgspec

from dalsegno.actors.domains.notes import Note, notes
from dalsegno.protocol import Reject, chain_text, instant

from ._paths import path_of
from ._zip import Zip

if TYPE_CHECKING:
    from dalsegno.protocol import Cursor
    from dalsegno.protocol.runs import EntityAt, ReadsAt

    from ._progress import Progress

FORMAT = "dalsegno-markdown"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 128 * 1024 * 1024
"""What is kept in memory of an archive that is written: of each note some 300 bytes and its
metadata, so that this is the one bound of how many there may be, some 400,000."""

_PAGE = 100
_PIECE = 64 * 1024


class Out(Protocol):
    """Where an archive is written to."""

    async def write(self, data: bytes) -> None:
        """Write more."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What an export has."""

    notes: int
    markdown_bytes: int


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """A note, as the manifest has it."""

    path: str
    bytes: int
    sha256: str
    note_id: str
    title: str
    version: int
    note_kind: str
    created_by: str | None
    created_at: str | None
    project_id: str | None
    tags: tuple[str, ...]
    metadata: dict[str, Any]


async def write_markdown(
    reads: ReadsAt, at: Cursor, out: Out, *, progress: Progress | None = None
) -> Exported:
    """Write the archive of a workspace as it was at an event.

    Notes that were deleted by then are left out.

    Args:
        reads: the workspace.
        at: the event, with its chain, which the manifest names.
        out: where to.
        progress: is told of each page.

    Raises:
        Reject: ``EXPORT_FAILED``: there is too much to say of the notes.

    """
    archive, manifest, pieces = Zip(), _Manifest(reads.workspace_id, at), _Pieces(out)
    after: str | None = ""
    while after is not None:
        page = await reads.page_at(notes, at.seq, after=after, limit=_PAGE)
        for item in page.items:
            if item.state is not None and item.state.deleted_at is None:
                markdown = item.state.markdown.encode()
                path = path_of(item.entity_id, item.state.title)
                await pieces.write(archive.file(path, markdown))
                manifest.add(path, item, item.state, markdown)
                await reads.pause()
        if progress is not None:
            await progress.add(len(page.items))
        after = page.next
    manifest.end()
    await pieces.write(archive.head(MANIFEST, manifest.size, manifest.checksum))
    archive.passed(manifest.size)
    for part in (*manifest.parts(), *archive.end()):
        await pieces.write(part)
        await reads.pause()
    await pieces.flush()
    return Exported(notes=manifest.count, markdown_bytes=manifest.markdown_bytes)


class _Manifest:
    """What an archive says of itself, a line a file."""

    def __init__(self, workspace_id: str, at: Cursor) -> None:
        assert at.chain is not None, "it tells histories apart"
        said = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "workspace_id": workspace_id,
            "head": {"event_seq": at.seq, "chain": chain_text(at.chain)},
        }
        self._lines = [msgspec.json.encode(said)[:-1] + b',"files":[\n']
        self.size, self.checksum = len(self._lines[0]), crc32(self._lines[0])
        self.count = 0
        self.markdown_bytes = 0

    def __repr__(self) -> str:
        return f"<_Manifest of {self.count} files>"

    def add(self, path: str, item: EntityAt, note: Note, markdown: bytes) -> None:
        """Add a note.

        Raises:
            Reject: ``EXPORT_FAILED``: it is too long.

        """
        line = msgspec.json.encode(
            _File(
                path=path,
                bytes=len(markdown),
                sha256=sha256(markdown).hexdigest(),
                note_id=item.entity_id,
                title=note.title,
                version=item.version,
                note_kind=note.note_kind,
                created_by=note.created_by,
                created_at=None if note.created_at is None else instant(note.created_at),
                project_id=note.project_id,
                tags=note.tags,
                metadata=note.metadata,
            ),
            order="deterministic",
        )
        self._add((b",\n" if self.count else b"") + line)
        self.count += 1
        self.markdown_bytes += len(markdown)
        if self.size > MANIFEST_BYTES_MAX:
            raise Reject("EXPORT_FAILED", f"its manifest has more than {MANIFEST_BYTES_MAX} bytes")

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self.size, self.checksum = self.size + len(line), crc32(line, self.checksum)

    def end(self) -> None:
        """Add its end."""
        self._add(b"\n]}\n")

    def parts(self) -> list[bytes]:
        """Return it, in parts."""
        return self._lines


class _Pieces:
    """Writes in pieces of some length: to write is to wait, for each of many short files too."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._parts: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<_Pieces, {self._size} bytes wait>"

    async def write(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size >= _PIECE:
            await self.flush()

    async def flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        await self._out.write(b"".join(parts))
