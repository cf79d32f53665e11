"""Writes into a workspace's log by SQL, past every server, as a program of somebody else does."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import trio
from msgspec.structs import replace

from dalsegno.protocol import Event, chained

if TYPE_CHECKING:
    from psycopg import Connection

_MASK = 2**64 - 1
_INSERT = (
    "insert into dalsegno.event (workspace_id, event_seq, stream_id, stream_seq, event_id, type,"
    " type_version, schema_version, payload, command_id, recorded_at, chain)"
    " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_ENTITY = (
    "insert into dalsegno.entity (workspace_id, stream_id, version, live, keys, state_version,"
    " domain_version, updated_at) values (%s, %s, 1, true, '{}', 0, 0, %s)"
)
_MOVE = (
    "update dalsegno.workspace_head set head_seq = %s, chain = %s, recorded_at = %s"
    " where workspace_id = %s"
)


async def insert_event(dsn: str, workspace_id: str, type_: str, payload: str) -> int:
    """Append an event with all that belongs to it, its link, head and entity; return its number."""
    return await trio.to_thread.run_sync(_insert, dsn, workspace_id, type_, payload, True)


async def insert_row(dsn: str, workspace_id: str, type_: str, payload: str) -> int:
    """Put a row behind the log's end, of which its head says nothing; return its number."""
    return await trio.to_thread.run_sync(_insert, dsn, workspace_id, type_, payload, False)


async def delete_row(dsn: str, workspace_id: str, event_seq: int) -> None:
    """Take such a row away again."""
    await trio.to_thread.run_sync(_delete, dsn, workspace_id, event_seq)


def _delete(dsn: str, workspace_id: str, event_seq: int) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "delete from dalsegno.event where workspace_id = %s and event_seq = %s",
            [workspace_id, event_seq],
        )


def _insert(dsn: str, workspace_id: str, type_: str, payload: str, moves_head: bool) -> int:
    with psycopg.connect(dsn) as connection:
        event = _next(connection, workspace_id, type_, payload)
        connection.execute(_INSERT, _row(event))
        if moves_head:
            moved = (event.event_seq, _signed(event.chain), event.recorded_at, workspace_id)
            connection.execute(_MOVE, moved)
            connection.execute(_ENTITY, [workspace_id, event.stream_id, event.recorded_at])
    return event.event_seq


def _next(connection: Connection[Any], workspace_id: str, type_: str, payload: str) -> Event:
    head = connection.execute(
        "select head_seq, chain, recorded_at from dalsegno.workspace_head"
        " where workspace_id = %s for update",
        [workspace_id],
    ).fetchone()
    assert head is not None
    event = Event(
        workspace_id=workspace_id,
        event_seq=head[0] + 1,
        stream_id=f"outside:{uuid.uuid4()}",
        stream_seq=1,
        event_id=str(uuid.uuid4()),
        type=type_,
        type_version=1,
        payload=payload,
        actor_id=None,
        command_id=str(uuid.uuid4()),
        recorded_at=max(datetime.now(UTC), head[2]),
    )
    return replace(event, chain=chained(head[1] & _MASK, event))


def _row(event: Event) -> list[object]:
    return [
        event.workspace_id,
        event.event_seq,
        event.stream_id,
        event.stream_seq,
        event.event_id,
        event.type,
        event.type_version,
        event.schema_version,
        event.payload,
        event.command_id,
        event.recorded_at,
        _signed(event.chain),
    ]


def _signed(chain: int) -> int:
    """Return 64 bits as PostgreSQL keeps them."""
    return chain - 2**64 if chain >= 2**63 else chain
