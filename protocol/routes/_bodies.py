"""Answers that many routes have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from dalsegno.protocol._receipt import Receipt

    from ._asked import Asked


class ChangedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An entity's version after a change, and the number of its event in the workspace."""

    id: str
    version: int
    event_seq: int
    idempotency_key: str


def changed(asked: Asked[Any, Any], receipt: Receipt) -> ChangedBody:
    """Return the answer to a change whose route makes a key (``makes_key``)."""
    return ChangedBody(
        id=receipt.entity_id,
        version=receipt.version,
        event_seq=receipt.event_seq,
        idempotency_key=asked.made_key,
    )
