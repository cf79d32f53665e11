"""Views of events for the readers of one runtime: a dialect's form around a domain's payload.

Payloads are stored JSON text and go out byte for byte unless the domain declares a view, so a
dialect joins texts around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Raw

from dalsegno.protocol._errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._subscription import View

    from ._dialect import Dialect


class Views:
    """The views of one set of domains: one for each dialect and kind of stream."""

    def __init__(self, domains: Mapping[str, Domain[Any, Any, Any]]) -> None:
        self._domains = domains
        # Made once: readers share what is encoded if they have the same view object.
        self._views: dict[tuple[Dialect, bool], View] = {}

    def of(self, dialect: Dialect, *, is_workspace_stream: bool) -> View:
        """Return the view of a subscription."""
        key = (dialect, is_workspace_stream)
        view = self._views.get(key)
        if view is None:
            of_workspace = self._workspace_view(dialect)
            view = self._views[key] = of_workspace if is_workspace_stream else dialect.entity_event
        return view

    def _workspace_view(self, dialect: Dialect) -> View:
        def view(event: Event) -> bytes:
            payload = self._payload(event)
            try:
                return dialect.workspace_event(event, payload)
            except Exception as error:
                raise InternalError(f"what the view of {event.type} shows is no JSON") from error

        return view

    def _payload(self, event: Event) -> object:
        """Return an event's payload as its domain shows it on the workspace's stream."""
        name, _, entity_id = event.stream_id.partition(":")
        domain = self._domains.get(name)
        if domain is None:
            return Raw(event.payload)
        return domain.viewed(
            event.type, event.type_version, event.payload, entity_id, event.stream_seq
        )
