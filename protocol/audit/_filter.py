"""Which records somebody wants to see."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._validation import check_id, refusal

from ._trail import audit_event_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol._event import Event
    from dalsegno.protocol.dialects import Passes

    from ._trail import AuditEvent

Time: TypeAlias = Annotated[datetime, Meta(tz=True)]

_TEXTS = ("user_id", "action", "resource_type", "resource_id")
_TEXT_CHARS_MAX = 256
"""As long as what is on record may be."""


class RecordFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What all have to be that pass; None: whatever it is.

    Texts are compared as they are: nothing in them stands for something else.
    """

    user_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: Time | None = None
    """From then on …"""
    until: Time | None = None
    """… up to then, exclusive."""

    def check(self) -> RecordFilter:
        """Return it, unless it asks for what no record can be.

        Raises:
            Reject: ``BAD_REQUEST``, which names the field.

        """
        for name in _TEXTS:
            text: str | None = getattr(self, name)
            if text is not None:
                check_id(text, chars_max=_TEXT_CHARS_MAX, what=name)
        return self

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        return self == _OPEN

    def passes(self, record: AuditEvent) -> bool:
        """Return whether a record passes."""
        return (
            self.user_id in (None, record.user_id)
            and self.action in (None, record.action)
            and self.resource_type in (None, record.resource_type)
            and self.resource_id in (None, record.resource_id)
            and (self.since is None or record.timestamp >= self.since)
            and (self.until is None or record.timestamp < self.until)
        )

    def of_events(self) -> Passes | None:
        """Return what says of an event of the log whether it passes; None: all do."""
        return None if self.is_open else self._passes_event

    def _passes_event(self, event: Event) -> bool:
        record = audit_event_of(event)
        return record is not None and self.passes(record)


_OPEN = RecordFilter()

FILTER_FIELDS = RecordFilter.__struct_fields__
"""The names by which a query gives it."""


def filter_of(query: Mapping[str, Any]) -> RecordFilter:
    """Return the filter that a query asks for, whatever else it asks.

    Raises:
        Reject: ``BAD_REQUEST``, which names the field.

    """
    given = {name: query[name] for name in FILTER_FIELDS if query.get(name) is not None}
    try:
        found = msgspec.convert(given, RecordFilter, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, RecordFilter) from None
    except OverflowError:
        raise Reject("BAD_REQUEST", "no such time") from None
    return found.check()
