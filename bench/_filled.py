"""A prepared log: notes and their events, written by one statement.

It has what the runtime would have written, except the snapshots, and takes a second instead of a
minute: a hundred versions of each note, patched again and again, whose stored state lags 32 of
them.
As in a new database, nothing is vacuumed or analysed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.notes import Note, NoteCreated, NotePatched, notes
from dalsegno.protocol import PatchOp
from dalsegno.runtime.store import connect, migrate

if TYPE_CHECKING:
    from ._servers import Postgres

VERSIONS = 100
"""Of each note."""
NOTE_CHARS = 1_000
_PATCH_CHARS = 20
_LAG = 32

_EVENTS = """
insert into dalsegno.event (workspace_id, event_seq, stream_id, stream_seq, event_id, type,
    type_version, schema_version, payload, actor_id, command_id, recorded_at, chain)
select $1::text, n, 'note:n' || (n - 1) % e, (n - 1) / e + 1,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       case when n <= e then $4::text else $6::text end, 1, 2,
       replace(case when n <= e then $5::text else $7::text end, '"version":0',
               '"version":' || (n - 1) / e + 1)::json,
       '01900000-0000-7000-8000-000000000000',
       '01900000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'),
       timestamptz '2025-01-01 00:00Z' + n * interval '1 second', n
  from (select $3::text::bigint as e) as entities,
       generate_series(1, $2::text::bigint) as n
"""

_ENTITIES = """
insert into dalsegno.entity (workspace_id, stream_id, version, live, keys, title, state,
    state_version, domain_version, updated_at)
select $1::text, 'note:n' || i, v, true, '{}', 'A note',
       replace($4::text, '"version":0', '"version":' || greatest(v - $5::text::bigint, 1))::json,
       greatest(v - $5::text::bigint, 1), $6::text::integer, timestamptz '2025-01-01 00:00Z'
  from (select $3::text::bigint as e) as entities, generate_series(0, e - 1) as i,
       lateral (select ($2::text::bigint - i - 1) / e + 1 as v) as versions
"""

_HEAD = """
insert into dalsegno.workspace_head (workspace_id, epoch, head_seq, chain, recorded_at)
values ($1::text, 0, $2::text::bigint, $2::text::bigint,
        timestamptz '2025-01-01 00:00Z' + $2::text::bigint * interval '1 second')
"""

_TYPES = """
insert into dalsegno.event_type (domain, type, type_version)
values ('note', $1::text, 1), ('note', $2::text, 1) on conflict do nothing
"""

_RESULTS = """
insert into dalsegno.command_result (workspace_id, scope, key, payload_hash, answer, event_seq,
    expires_at)
select $1::text, 'note:n' || n % 100, 'key ' || n, '\\x00', '{}', 1, now() + interval '1 day'
  from generate_series(1, $2::text::bigint) as n
"""

_NEVER_ANALYSED = "alter system set autovacuum = off"


def _entities(events: int) -> int:
    """Return how many notes a filled log of so many events has."""
    return max(1, events // VERSIONS)


async def fill(database: Postgres, workspace_id: str, events: int, *, results: int = 0) -> None:
    """Write the log of a workspace that has none, and results of idempotency keys beside it."""
    created = notes.encode(_created())
    patched = notes.encode(_patched())
    state = Note(
        version=0,
        title="A note",
        markdown="x" * NOTE_CHARS,
        note_kind="markdown",
        access_scope="workspace",
        created_by=None,
    )
    size = (workspace_id, str(events), str(_entities(events)))
    connection = await connect(database.dsn)
    try:
        await migrate(connection)
        await connection.execute(_NEVER_ANALYSED)
        await connection.execute("select pg_reload_conf()")
        await connection.execute(_TYPES, (created[0], patched[0]))
        await connection.execute(_EVENTS, (*size, created[0], created[2], patched[0], patched[2]))
        stored = (msgspec.json.encode(state).decode(), str(_LAG), str(notes.version))
        await connection.execute(_ENTITIES, (*size, *stored))
        await connection.execute(_RESULTS, (workspace_id, str(results)))
        await connection.execute(_HEAD, (workspace_id, str(events)))
    finally:
        await connection.aclose()


def _created() -> NoteCreated:
    return NoteCreated("A note", "x" * NOTE_CHARS, 0, "markdown", "workspace", None)


def _patched() -> NotePatched:
    ops = [
        PatchOp(retain=NOTE_CHARS // 2),
        PatchOp(insert="y" * _PATCH_CHARS),
        PatchOp(delete=_PATCH_CHARS),
    ]
    return NotePatched(ops, NOTE_CHARS, 0)


def mark(seq: int) -> str:
    """Write what only the message of this event of a workspace's stream has in it."""
    return f'"seq":{seq},"event_seq":{seq},'
