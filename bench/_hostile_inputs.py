"""What hostile clients send, as bytes: each is made once, and sent again and again."""

from __future__ import annotations

import json

from websockets.frames import Frame, Opcode

from dalsegno.protocol import PATCH_OPS_MAX

from ._client import written

MIB = 1 << 20
BLOCK_BYTES = 16 * 1024
"""Of short frames, what is sent at a time: what a server reads at a time."""
OPERATIONS = PATCH_OPS_MAX
PAST_VERSION = 999_999_999
"""A base version that no note has."""
_NOTHING = '{"retain":0}'
_OPENING = b'{"x":['
_STRING_OF_A_BRACKET = b'"[",'


def empty_fragments() -> bytes:
    """Return a block of fragments without a payload, all of one message that never ends."""
    again = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
    return again * (BLOCK_BYTES // len(again))


def first_fragment() -> bytes:
    """Return the fragment that begins such a message."""
    return Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True)


def pings() -> bytes:
    """Return a block of the longest pings that there are (RFC 6455 §5.5)."""
    return _block(Frame(Opcode.PING, b"p" * 125).serialize(mask=True))


def bad_messages() -> bytes:
    """Return a block of short messages that are no JSON."""
    return _block(written('{"type":'))


def brackets(size: int) -> bytes:
    """Return JSON that is full of brackets, none of which opens anything: all are strings."""
    room = size - len(_OPENING) - len(b'""]}')
    return _OPENING + _STRING_OF_A_BRACKET * (room // len(_STRING_OF_A_BRACKET)) + b'""]}'


def operations(count: int = OPERATIONS) -> str:
    """Return a patch of so many operations, none of which does anything."""
    return f"[{','.join([_NOTHING] * count)}]"


def keystroke(place: int) -> str:
    """Return a patch of one character, which keeps the length."""
    return f'[{{"retain":{place}}},{{"insert":"y"}},{{"delete":1}}]'


def patch(workspace: str, note: str, version: int, ops: str) -> bytes:
    """Return a patch of a note as a client's message."""
    return written(
        f'{{"type":"apply_patch","workspace_id":"{workspace}","note_id":"{note}",'
        f'"base_version":{version},"patch_ops":{ops}}}'
    )


def rollback(workspace: str, note: str, version: int) -> bytes:
    """Return a rollback of a note to a version as a client's message."""
    payload = {"note_id": note, "target_version": version}
    command = {"type": "command", "workspace_id": workspace, "name": "rollback_note"}
    return written(json.dumps({**command, "payload": payload}))


def request(path: str, body: bytes, *, cookie: str = "", csrf_token: str = "") -> bytes:
    """Return a ``POST`` of JSON, with a session or without."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([f"Cookie: {cookie}", f"X-CSRF-Token: {csrf_token}"] if cookie else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _block(frame: bytes) -> bytes:
    return frame * (BLOCK_BYTES // len(frame))
