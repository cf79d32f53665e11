"""The port between the workspaces of a node and what follows their commits (`effects/`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Event


class Watcher(Protocol):
    """Who is told of every workspace here; none of it waits or raises."""

    def opened(self, workspace_id: str) -> None:
        """Note that a workspace's head is known here."""

    def published(self, workspace_id: str, events: Sequence[Event]) -> None:
        """Note that events were committed and published."""

    def ended(self, workspace_id: str) -> None:
        """Note that a workspace is not served here any longer, or has another history."""


class Watchers:
    """Several watchers as one, told in their order."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def __repr__(self) -> str:
        return f"<Watchers {self._watchers!r}>"

    def opened(self, workspace_id: str) -> None:
        """Tell all of them."""
        for each in self._watchers:
            each.opened(workspace_id)

    def published(self, workspace_id: str, events: Sequence[Event]) -> None:
        """Tell all of them."""
        for each in self._watchers:
            each.published(workspace_id, events)

    def ended(self, workspace_id: str) -> None:
        """Tell all of them."""
        for each in self._watchers:
            each.ended(workspace_id)


class NobodyWatches:
    """The watcher of a node without anything that follows."""

    def __repr__(self) -> str:
        return "<NobodyWatches>"

    def opened(self, workspace_id: str) -> None:
        """Note nothing."""

    def published(self, workspace_id: str, events: Sequence[Event]) -> None:
        """Note nothing."""

    def ended(self, workspace_id: str) -> None:
        """Note nothing."""
