"""What the sessions of this node share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors.delivery import AckFrontiers, Presences
    from dalsegno.actors.node import Catalog, Directory, ServingNode
    from dalsegno.protocol import DalsegnoError, Principal, Views
    from dalsegno.protocol.dialects import Language

    from ._connections import Connections


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """What connections and event streams need of this node."""

    node: ServingNode
    directory: Directory
    catalog: Catalog
    acks: AckFrontiers
    presences: Presences
    views: Views
    language: Language
    """What clients may say, unless their path has a language of its own."""
    connections: Connections[Any]
    note_refused: Callable[[DalsegnoError, Principal, str, str | None], None]
    """Puts on record that a client may not do something: why, who asked, for what, in which
    workspace."""
