"""Who is present in a workspace, as it is told: a list, and what has changed since the last one.

Each change raises the *revision* by one.  A revision counts in an *epoch*, which ends with the
memory of the node that counts: presence is stored nowhere.  A reader that has the revision before
one takes the change; any other takes the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class PresentConnection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A connection of somebody who is present."""

    id: str
    """The same after a loss, where the same client and tab come back in time."""
    client_id: str
    tab: str | UnsetType = UNSET
    state: Raw
    """What it says of itself: any JSON, byte for byte."""


class PresentUser(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Somebody who is present, by one connection or several."""

    user_id: str
    since: datetime
    """When the first of them came."""
    connections: tuple[PresentConnection, ...]
    """In the order in which they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceList:
    """All that is shown of a workspace, as of a revision."""

    workspace_id: str
    epoch: str
    rev: int
    at: datetime
    settled: bool
    """Whether everybody who was present elsewhere has had the time to come here."""
    users: Sequence[PresentUser]
    """In the order in which they came: of many the newest, of very many none."""
    total: int
    """How many users there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceChange:
    """What makes the list of one revision of that of the revision before."""

    workspace_id: str
    epoch: str
    rev: int
    at: datetime
    settled: bool
    joined: Sequence[PresentUser]
    """Those that are shown now, and were not …"""
    changed: Sequence[PresentUser]
    """… those that were shown otherwise …"""
    left: Sequence[str]
    """… and the ids of those that are shown no longer."""
    total: int
    before: Mapping[str, PresentUser]
    """How those that changed, or left, were shown."""


class PresenceView(Protocol):
    """How a reader sees who is present: as one JSON message, or several, or none."""

    def presence(
        self, listed: PresenceList, request_id: str | None, connection_id: str | None
    ) -> bytes | Sequence[bytes]:
        """Encode a list; as an answer it has the id of the message, and of the connection."""

    def presence_diff(self, change: PresenceChange) -> bytes | Sequence[bytes]:
        """Encode a change."""
