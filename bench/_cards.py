"""Cards in columns that ask for something later, and many of them put into a database at once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from dalsegno.protocol import Context, Domain, Due, Index
from dalsegno.runtime.store import bring_up_to_date, connect

if TYPE_CHECKING:
    from ._servers import Postgres

COLUMNS = 100
"""A column has one in so many cards."""


class Card(msgspec.Struct, frozen=True):
    """A card, and when it is to be moved on."""

    column: int
    due_at: datetime | None = None


class Move(msgspec.Struct, frozen=True):
    """Put a card into the next column, and ask for the same later if it says so."""

    card_id: str
    again_s: float | None = None


class Moved(msgspec.Struct, frozen=True):
    """A card was moved."""

    column: int
    due_at: datetime | None = None


CardCommand: TypeAlias = Move
cards = Domain("card", state=Card, commands=Move, events=Moved)
"""The domain."""


@cards.decide
def move(card: Card | None, command: Move, context: Context) -> Moved:
    """Move a card on."""
    column = 0 if card is None else (card.column + 1) % COLUMNS
    again_s = command.again_s
    return Moved(column, None if again_s is None else context.now + timedelta(seconds=again_s))


@cards.evolve
def moved(_card: Card | None, event: Moved) -> Card:
    """Be in the column."""
    return Card(event.column, event.due_at)


@cards.index
def index(card: Card) -> Index:
    """List it in its column."""
    return Index(keys=(column_key(card.column),), sort=f"{card.column:03}")


@cards.due
def due(card: Card, card_id: str) -> Due | None:
    """Move it on when it is due."""
    return None if card.due_at is None else Due(card.due_at, Move(card_id))


def column_key(column: int) -> str:
    """Return the key of the cards of a column."""
    return f"in {column}"


_FILL = """
with head as (
  insert into dalsegno.workspace_head (workspace_id, epoch, head_seq, recorded_at)
  values ($1::text, 0, $2::text::bigint, now())
), card as (
  insert into dalsegno.entity (workspace_id, stream_id, version, live, keys, sort, state,
    state_version, domain_version, updated_at, index_version, due_at)
  select $1::text, 'card:' || lpad(n::text, 8, '0'), 1, true, array['in ' || n % 100],
         lpad((n % 100)::text, 3, '0'),
         json_build_object('column', n % 100, 'due_at', to_char(
           $3::text::timestamptz at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
         1, 1, now(), 1, $3::text::timestamptz
    from generate_series(1, $2::text::bigint) n
)
insert into dalsegno.entity_key
select $1::text, 'card', key, lpad((n % 100)::text, 3, '0'), 'card:' || lpad(n::text, 8, '0')
  from generate_series(1, $2::text::bigint) n,
       lateral (select 'in ' || n % 100 union select '') k(key)
"""


async def fill(
    database: Postgres, workspace_id: str, count: int, *, due_at: datetime | None = None
) -> None:
    """Put so many cards into a new workspace, all of which are due then."""
    await bring_up_to_date(database.dsn, wait_s=30.0)
    connection = await connect(database.dsn)
    try:
        at = None if due_at is None else due_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        await connection.fetch(_FILL, (workspace_id, str(count), at))
        await connection.fetch("analyze dalsegno.entity, dalsegno.entity_key", ())
    finally:
        await connection.aclose()
