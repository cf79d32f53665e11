"""Where a membership ended for good, as far as a history can tell (I8)."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING

from dalsegno.actors.domains.members import members

from ._evidence import NEVER

if TYPE_CHECKING:
    from dalsegno.protocol import Event

    from ._evidence import Evidence


class Barriers:
    """The ends of a user's membership, and when it may have begun again."""

    def __init__(self, evidence: Evidence, workspace_id: str, user_id: str) -> None:
        self._removed: list[Event] = []
        surely, perhaps = [], []
        never = len(evidence.history)
        events = evidence.log(workspace_id).streams.get(members.stream_id(user_id), [])
        for event, after in zip_longest(events, events[1:]):
            if event.type in members.role_ended_by:
                self._removed.append(event)
                again = never if after is None else evidence.first_sent(after)
                surely.append(again)
                perhaps.append(never if again == NEVER else again)
        # Before these positions a subscription cannot rest on a later membership; one whose command
        # is not in the history may have begun at any time.
        self._surely = list(accumulate(surely, max))
        self._perhaps = list(accumulate(perhaps, max))

    def of(self, began: int) -> Event | None:
        """Return the removal that certainly ends what rests on the membership at a position."""
        return next(iter(self._removed[bisect_right(self._surely, began) :][:1]), None)

    def perhaps_of(self, began: int) -> Event | None:
        """Return the removal that may have ended it."""
        return next(iter(self._removed[bisect_right(self._perhaps, began) :][:1]), None)
