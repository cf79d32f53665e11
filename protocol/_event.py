"""Events: one record of what happened, the same from the log to every reader."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

import msgspec

SCHEMA_VERSION = 2
"""Version of the envelope; any other fails closed (X-PER-5)."""

CHAIN_START = 0
"""The chain before the first event."""

# Copying one is a third quicker than constructing it.
_PAYLOAD = blake2b(digest_size=16)
_LINK = blake2b(digest_size=8)
_EVERY_MEMBERS = "\x1f1:-"
"""The place of an audience in a link, with its length in front: all members, who have none."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event, committed or about to be."""

    workspace_id: str
    event_seq: int
    """Number in the workspace: 1, 2, 3 …"""
    stream_id: str
    """The entity it happened to: ``{domain}:{entity id}``."""
    stream_seq: int
    """Number in the entity's stream, which is the entity's version: 1, 2, 3 …"""
    event_id: str
    """UUIDv7."""
    type: str
    type_version: int
    """Version of the payload; the domain's upcasts lead from older ones to its own."""
    payload: str
    """JSON text, stored and sent back byte for byte."""
    actor_id: str | None
    """The user; None for the embedding program."""
    command_id: str
    """The command that led to it; resolves an unknown outcome (I4)."""
    recorded_at: datetime
    """UTC; never steps back within a workspace."""
    chain: int = 0
    """Digest of the history up to and including this event, unsigned 64 bit."""
    salt: bytes | None = None
    """Keyed into the digest of the payload, 16 random bytes, shown to nobody; None: not salted, as
    were the events of earlier releases."""
    schema_version: int = SCHEMA_VERSION
    source: str | None = None
    """The event's origin, if it is not a domain of this runtime."""
    causation: str | None = None
    """The event or command that caused the command."""
    correlation_id: str | None = None
    """The request or conversation that all this belongs to."""

    @property
    def position(self) -> str:
        """Return the cursor just behind it in the workspace's stream, with its chain.

        One that was kept over a restore of the log is told that the history was replaced.
        """
        return f"{self.event_seq}-{self.chain:016x}"

    @property
    def entity_position(self) -> str:
        """Return the same in its entity's stream."""
        return f"{self.stream_seq}-{self.chain:016x}"


@lru_cache(maxsize=1_024)
def instant(at: datetime) -> str:
    """Return a time as text with microseconds, cached: the events of a batch share one.

    As many are kept as workspaces commit at the same time.
    """
    return at.isoformat(timespec="microseconds")


def chained(previous: int, event: Event) -> int:
    """Return the link of an event to its history: BLAKE2b-64 over its fields and the chain before.

    The event's own ``chain`` does not enter.  The payload enters as a digest, so that erasing a
    payload (and keeping its digest) breaks nothing; keyed with the salt, so that nobody guesses a
    short payload from its link.  Fields are joined by U+001F, those that a caller chooses with
    their lengths in front, so that no two histories share an encoding.
    """
    workspace_id, stream_id, type_ = event.workspace_id, event.stream_id, event.type
    actor = "-" if event.actor_id is None else f"+{event.actor_id}"
    if event.salt is None:
        digest, audience = _PAYLOAD.copy(), ""
    else:
        digest, audience = blake2b(key=event.salt, digest_size=16), _EVERY_MEMBERS
    digest.update(event.payload.encode())
    text = (
        f"{previous.to_bytes(8).hex()}\x1f{len(workspace_id)}:{workspace_id}\x1f{event.event_seq}"
        f"\x1f{len(stream_id)}:{stream_id}\x1f{event.stream_seq}"
        f"\x1f{len(type_)}:{type_}\x1f{event.type_version}\x1f{len(actor)}:{actor}"
        f"\x1f{instant(event.recorded_at)}\x1f{digest.hexdigest()}{audience}"
    )
    link = _LINK.copy()
    link.update(text.encode())
    return int.from_bytes(link.digest())
