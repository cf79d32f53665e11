"""An entity in memory: one version of it, how it is folded, and those that are kept.

Every fold of a user's domain happens here, and so does what is refused on its way to the store's
index columns.
"""

from __future__ import annotations

import logging
from datetime import datetime  # at run time, as a field's type
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.ports import EntityWrite, SnapshotWrite
from dalsegno.protocol import CorruptLogError, Domain, Index, Reject, check_id, read_back

if TYPE_CHECKING:
    from dalsegno.actors.ports import StoredEntity

    from ._turn import Turn

_log = logging.getLogger("dalsegno.workspace")

_TITLE_CHARS_MAX = 1_024
KEY_BYTES_MAX = 1_024
"""Of a key of the index, in UTF-8: with the longest sort and stream id it fits a B-tree's page."""
_SORT_BYTES_MAX = 256
_KEYS_MAX = 512
"""Of an entity: each is a row, written and deleted with it."""


class Entity(msgspec.Struct, frozen=True, gc=False):
    """An entity at one version."""

    domain: Domain[Any, Any, Any]
    version: int
    state: Any
    stored_version: int
    """The version whose state is in the store; 0 if none is."""
    lag_bytes: int
    """Payload bytes since then."""
    size: int
    """Memory of the texts folded into it here: about what it takes, or more."""
    index: Index | None = None
    """Under what it is listed; None where it was only read."""
    due_at: datetime | None = None
    """When it asks for something; None, too, where it was only read."""
    is_relisted: bool = False
    """Whether keys or sort may be others than those that the last batch wrote."""


def absent_entity(domain: Domain[Any, Any, Any]) -> Entity:
    """Return what stands for an entity that never existed."""
    return Entity(domain, 0, None, 0, 0, 0)


async def load_entity(domain: Domain[Any, Any, Any], stored: StoredEntity, turn: Turn) -> Entity:
    """Fold an entity as the store has it, letting others run after so many events.

    Raises:
        CorruptLogError: a record that cannot be read, or a gap (I11).

    """
    try:
        state, size = await _refold(domain, stored, turn)
    except CorruptLogError:
        raise
    except Exception as error:
        raise CorruptLogError(f"{stored.stream_id} cannot be folded: {error!r}") from error
    lag_bytes = sum(len(event.payload) for event in stored.events)
    return Entity(domain, stored.version, state, stored.state_version, lag_bytes, size)


async def _refold(
    domain: Domain[Any, Any, Any], stored: StoredEntity, turn: Turn
) -> tuple[Any, int]:
    state = domain.decode_state(stored.state) if stored.state is not None else None
    version = stored.state_version
    size = 0 if stored.state is None else stored.state.__sizeof__()
    for event in stored.events:
        await turn.pause()
        version += 1
        if event.stream_seq != version:
            raise CorruptLogError(f"{stored.stream_id}: {event.stream_seq} where {version} is due")
        known = domain.decode(event.type, event.type_version, event.payload)
        if known is not None:
            state = domain.evolve_by(state, known)
        size += event.payload.__sizeof__()
    if version != stored.version:
        raise CorruptLogError(f"{stored.stream_id} ends at {version}, its row: {stored.version}")
    return state, size


def fold(before: Entity, event: Any, stream_id: str, payload: str) -> Entity:  # noqa: ANN401 - the domain's
    """Fold one event; refuse an index that its columns cannot hold, before it can harm others."""
    domain = before.domain
    state = domain.evolve_by(before.state, event)
    index = domain.indexed(state)
    if index != before.index:
        _check_index(index, stream_id)
    return Entity(
        domain,
        before.version + 1,
        state,
        before.stored_version,
        before.lag_bytes + len(payload),
        before.size + payload.__sizeof__(),
        index,
        _due_at(domain, state, stream_id),
        before.is_relisted or _is_listed_anew(before, index),
    )


def relisted(entity: Entity, stream_id: str) -> Entity:
    """Return an entity with what its domain says now of where it is listed and when it is due."""
    index = entity.domain.indexed(entity.state)
    _check_index(index, stream_id)
    due_at = _due_at(entity.domain, entity.state, stream_id)
    return msgspec.structs.replace(entity, index=index, due_at=due_at, is_relisted=True)


def _due_at(domain: Domain[Any, Any, Any], state: Any, stream_id: str) -> datetime | None:  # noqa: ANN401 - the domain's
    if not domain.has_timers:
        return None
    due = domain.due_of(state, stream_id.partition(":")[2])
    return None if due is None else due.at


def _is_listed_anew(before: Entity, index: Index) -> bool:
    """Return whether keys and sort are others than before, as far as that is known."""
    if before.index is not None:
        return index.keys != before.index.keys or index.sort != before.index.sort
    if before.version > 0:
        return before.domain.is_indexed
    return bool(index.keys) or index.sort is not None


def _check_index(index: Index, stream_id: str) -> None:
    """Raise `Reject` (``BAD_REQUEST``) for what the columns of an index cannot hold."""
    what = f"index of {stream_id}"
    if len(index.keys) > _KEYS_MAX:
        raise Reject("BAD_REQUEST", f"{what}: more than {_KEYS_MAX} keys")
    for key in index.keys:
        check_id(key, chars_max=KEY_BYTES_MAX, what=what)
        _check_bytes(key, KEY_BYTES_MAX, what)
    if index.sort is not None:
        check_id(index.sort, chars_max=_SORT_BYTES_MAX, what=what)
        _check_bytes(index.sort, _SORT_BYTES_MAX, what)
    if index.title is not None:
        check_id(index.title, chars_max=_TITLE_CHARS_MAX, what=what)


def _check_bytes(text: str, bytes_max: int, what: str) -> None:
    if not text.isascii() and len(text.encode()) > bytes_max:
        raise Reject("BAD_REQUEST", f"{what}: at most {bytes_max} bytes of UTF-8")


def encoded_state(stream_id: str, entity: Entity) -> str | None:
    """Write a state as JSON; None where that is impossible: it is then folded from the log."""
    domain = entity.domain
    try:
        text = domain.encode_state(entity.state)
        read_back(entity.state, text, domain.decode_state)
        return text  # noqa: TRY300 - an `else` would have to repeat the handler's warning
    except Exception:  # noqa: BLE001 - a state is a user's type
        _log.debug("the state of %s cannot be written", stream_id, exc_info=True)
    _log.warning("the state of %s cannot be stored: it is folded from the log", stream_id)
    return None


async def entity_from(
    domain: Domain[Any, Any, Any], stored: StoredEntity | None, turn: Turn
) -> Entity:
    """Fold an entity as the store has it, or return an absent one.

    Raises:
        CorruptLogError: as `load_entity`.

    """
    return absent_entity(domain) if stored is None else await load_entity(domain, stored, turn)


def snapshot_write(stream_id: str, entity: Entity, state: str) -> SnapshotWrite:
    """Return the snapshot row of an entity's state."""
    return SnapshotWrite(
        stream_id=stream_id,
        version=entity.version,
        domain_version=entity.domain.version,
        state=state,
    )


def entity_write(stream_id: str, entity: Entity, state: str | None) -> EntityWrite:
    """Return what a batch writes of an entity that it changed."""
    index = entity.index
    assert index is not None, "set where it was changed"
    return EntityWrite(
        stream_id=stream_id,
        version=entity.version,
        exists=entity.state is not None,
        keys=index.keys,
        sort=index.sort,
        title=index.title,
        due_at=entity.due_at,
        state=state,
        domain_version=entity.domain.version,
        index_changed=entity.is_relisted,
    )


def relisted_write(stream_id: str, entity: Entity, state: str | None) -> EntityWrite:
    """Return the row of an entity that was only read, with all that its domain says of it now."""
    return entity_write(stream_id, relisted(entity, stream_id), state)


def unlisted_write(stream_id: str, version: int, *, exists: bool) -> EntityWrite:
    """Return the row of an entity of which nothing is known but its version.

    It is as one that a domain has listed before the first of its versions: it is folded from its
    events, and listed anew.
    """
    return EntityWrite(stream_id=stream_id, version=version, exists=exists, domain_version=0)


def state_write(stream_id: str, entity: Entity, state: str) -> EntityWrite:
    """Write an entity's state alone, for `Store.write_states`."""
    return EntityWrite(
        stream_id=stream_id,
        version=entity.version,
        exists=entity.state is not None,
        state=state,
        domain_version=entity.domain.version,
    )
