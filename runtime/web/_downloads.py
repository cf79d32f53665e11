"""Files that runs wrote, sent as they are or in part (RFC 9110 §14)."""

from __future__ import annotations

import re
from base64 import b64encode
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from quart import Response, request
from quart.wrappers.response import ResponseBody

from dalsegno.protocol import ArtifactElsewhereError, ArtifactGoneError, Reject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from dalsegno.actors import Artifacts
    from dalsegno.protocol.routes import Download
    from dalsegno.protocol.runs import Artifact
    from dalsegno.runtime import Runtime

_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.ASCII)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_SAFE_NAME = re.compile(r"[\x20-\x7e]+")


class Part(NamedTuple):
    """A part of a file, from a byte to behind another."""

    start: int
    end: int


async def downloaded(rt: Runtime, found: Download) -> Response:
    """Return the response with a file, or the part of it that is asked for.

    Raises:
        ArtifactGoneError: it is kept no longer.
        ArtifactElsewhereError: another node has it.
        ArtifactError: the disk fails.
        Reject: ``RANGE_NOT_SATISFIABLE``.

    """
    artifact = found.artifact
    artifacts = await _having(rt, artifact)
    tag = f'"{artifact.sha256}"'
    headers = {
        "etag": tag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": _disposition(found.filename),
        "repr-digest": f"sha-256=:{b64encode(bytes.fromhex(artifact.sha256)).decode()}:",
    }
    known = ",".join(request.headers.getlist("if-none-match")).strip()
    if known == "*" or artifact.sha256 in _TAG.findall(known):
        return Response(b"", status=304, headers=headers)
    part = _part_asked_for(artifact.bytes, tag)
    whole = Part(0, artifact.bytes) if part is None else part
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{artifact.bytes}"
    body = _Body(artifacts, artifact.name, whole)
    response = Response(
        body, status=200 if part is None else 206, headers=headers, content_type=found.media_type
    )
    response.content_length = whole.end - whole.start
    response.timeout = None  # who reads too slowly is closed by the listener
    return response


async def _having(rt: Runtime, artifact: Artifact) -> Artifacts:
    """Return where a file is, on this node.

    It is looked for here first: nodes may share a folder, and one may have another id than before.
    """
    node = rt.service.node
    if artifact.expires_at <= node.world.now():
        raise ArtifactGoneError("its time is over", expired_at=artifact.expires_at.isoformat())
    if node.artifacts is not None and await node.artifacts.has(artifact.name):
        return node.artifacts
    if artifact.node_id != node.node_id:
        other = await rt.store.find_node(artifact.node_id)
        if other is not None:
            raise ArtifactElsewhereError(artifact.node_id, address=other.address)
    raise ArtifactGoneError("it is not on this node's disk any longer", node=artifact.node_id)


def _part_asked_for(size: int, tag: str) -> Part | None:
    """Return the part of a file that the request asks for; None: all of it.

    What is no range of ours, and several ranges, are ignored, as they may be (RFC 9110 §14.2).

    Raises:
        Reject: ``RANGE_NOT_SATISFIABLE``: there is nothing of the file in it.

    """
    said = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if said is None or (said[1], said[2]) == ("", ""):
        return None
    if request.headers.get("if-range", tag).strip() != tag:
        return None
    if not said[1]:  # the last so many
        part = Part(max(size - int(said[2]), 0), size)
    else:
        if said[2] and int(said[2]) < int(said[1]):
            return None
        part = Part(int(said[1]), min(int(said[2]) + 1, size) if said[2] else size)
    if part.start >= part.end:
        raise Reject("RANGE_NOT_SATISFIABLE", f"it has {size} bytes", status=416, size=size)
    return part


def _disposition(filename: str) -> str:
    """Return how a browser saves it (RFC 6266)."""
    plain = "".join(_SAFE_NAME.findall(filename)).replace('"', "").replace("\\", "") or "artifact"
    encoded = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'attachment; filename="{plain}"{encoded}'


class _Body(ResponseBody):
    """The bytes of a part of a file, which is open while they are sent."""

    def __init__(self, artifacts: Artifacts, name: str, part: Part) -> None:
        self._reading: AbstractAsyncContextManager[AsyncIterator[bytes]]
        self._reading = artifacts.read(name, start=part.start, end=part.end)

    async def __aenter__(self) -> AsyncIterator[bytes]:
        return await self._reading.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._reading.__aexit__(exc_type, exc_value, tb)
