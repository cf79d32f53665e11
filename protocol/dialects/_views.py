"""Views of events for the readers of one runtime: a dialect's form around a domain's payload.

Payloads are stored JSON text and go out byte for byte unless the domain declares a view, so a
dialect joins texts around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Raw

from dalsegno.protocol._errors import DalsegnoError, InternalError
from dalsegno.protocol._subscription import seq_of, workspace_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._subscription import View

    from ._dialect import Dialect, Passes, Shown


class Views:
    """The views of one set of domains: one for each dialect and kind of stream."""

    def __init__(self, domains: Mapping[str, Domain[Any, Any, Any]]) -> None:
        self._domains = domains
        # Made once: readers share what is encoded if they have the same view object.
        self._views: dict[tuple[Dialect, bool], View] = {}

    def of(
        self, dialect: Dialect, *, is_workspace_stream: bool, passes: Passes | None = None
    ) -> View:
        """Return the view of a subscription; with ``passes`` it is that subscription's alone."""
        if passes is not None:
            show = _passing(passes, self._shown(dialect, is_workspace_stream))
            return _view(dialect, show, is_workspace_stream=is_workspace_stream)
        key = (dialect, is_workspace_stream)
        view = self._views.get(key)
        if view is None:
            show = self._shown(dialect, is_workspace_stream)
            view = self._views[key] = _view(dialect, show, is_workspace_stream=is_workspace_stream)
        return view

    def _shown(self, dialect: Dialect, is_workspace_stream: bool) -> Callable[[Event], Shown]:
        return self._in_workspace(dialect) if is_workspace_stream else dialect.entity_event

    def _in_workspace(self, dialect: Dialect) -> Callable[[Event], Shown]:
        return lambda event: dialect.workspace_event(event, self.payload(event))

    def payload(self, event: Event) -> object:
        """Return an event's payload as its domain shows it on the workspace's stream."""
        name, _, entity_id = event.stream_id.partition(":")
        domain = self._domains.get(name)
        if domain is None:
            return Raw(event.payload)
        return domain.viewed(
            event.type, event.type_version, event.payload, entity_id, event.stream_seq
        )


def _passing(passes: Passes, show: Callable[[Event], Shown]) -> Callable[[Event], Shown]:
    return lambda event: show(event) if passes(event) else ()


def _view(dialect: Dialect, show: Callable[[Event], Shown], *, is_workspace_stream: bool) -> View:
    """Return the view that shows each event in turn, and tells those in a row that are hidden."""

    def view(events: Sequence[Event]) -> list[bytes]:
        texts: list[bytes] = []
        hidden: list[Event] = []
        for event in events:
            try:
                shown = show(event)
            except DalsegnoError:
                raise
            except Exception as error:
                raise InternalError(
                    f"{event.type} cannot be shown in the {dialect.name} dialect"
                ) from error
            if shown and hidden:
                tell(texts, hidden)
            if isinstance(shown, bytes):
                texts.append(shown)
            elif shown:
                texts += shown
            else:
                hidden.append(event)
        if hidden:
            tell(texts, hidden)
        return texts

    def tell(texts: list[bytes], hidden: list[Event]) -> None:
        first, last = hidden[0], hidden[-1]
        text = dialect.hidden(
            workspace_stream(last.workspace_id) if is_workspace_stream else last.stream_id,
            seq_of(first, is_workspace_stream=is_workspace_stream),
            seq_of(last, is_workspace_stream=is_workspace_stream),
            last.chain,
        )
        if text is not None:
            texts.append(text)
        hidden.clear()

    return view
