"""Who hears what (CF-5): a pure function of an event, of who listens, and of what they view.

    an event of the lock                     everybody in the project
    an event of a proposal, or of its jobs   who views the proposal
    an event of a comment                    whom the event names: its reviewers and author
    bookkeeping                              nobody
    events of other domains                  everybody

That is routing, and no access: who may read the project may read all of it, elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol.runs import runs

from ._comments import proposal_comments
from ._locks import project_locks
from ._names import proposal_names
from ._proposals import proposals
from ._words import PROPOSAL_LABEL

if TYPE_CHECKING:
    from dalsegno.protocol import Event
    from dalsegno.protocol.dialects import Passes

VIEWED_MAX = 50
"""Proposals that one connection views."""
JOBS = frozenset({"validation", "iteration"})
"""The kinds of runs that are a proposal's."""


class _Labelled(msgspec.Struct, frozen=True):
    kind: str = ""
    labels: dict[str, str] = {}


class _OfComment(msgspec.Struct, frozen=True):
    proposal_id: str = ""
    notify: tuple[str, ...] = ()


_decode_labelled = msgspec.json.Decoder(_Labelled).decode
_decode_comment = msgspec.json.Decoder(_OfComment).decode


def proposal_of_run(payload: str) -> str | None:
    """Return the proposal that a run's event is about, by its payload; None for another's run."""
    said = _decode_labelled(payload)
    return said.labels.get(PROPOSAL_LABEL) if said.kind in JOBS else None


class Viewing(msgspec.Struct, frozen=True):
    """Who listens at a connection, and what they view."""

    user_id: str | None
    project_id: str
    proposals: frozenset[str] = frozenset()

    @property
    def passes(self) -> Passes:
        """Which events are shown."""
        return self._passes

    def _passes(self, event: Event) -> bool:
        name, _, entity_id = event.stream_id.partition(":")
        if name == proposals.name:
            return entity_id in self.proposals
        if name == runs.name:
            proposal_id = proposal_of_run(event.payload)
            return proposal_id in self.proposals if proposal_id is not None else _is_others(event)
        if name == proposal_comments.name:
            return self.user_id in _decode_comment(event.payload).notify
        return name != proposal_names.name


def _is_others(event: Event) -> bool:
    """Return whether a run is another package's: those that clear jobs away are of no interest."""
    return _decode_labelled(event.payload).kind != "bookkeeping"


class ViewingOne(Viewing, frozen=True):
    """What is about one proposal, for who follows nothing else: comments whoever they are for, and
    nothing of other domains."""

    def _passes(self, event: Event) -> bool:
        name, _, _ = event.stream_id.partition(":")
        if name == proposal_comments.name:
            comment = _decode_comment(event.payload)
            return comment.proposal_id in self.proposals and self.user_id in comment.notify
        is_own = name in {proposals.name, runs.name, project_locks.name}
        is_job = name != runs.name or proposal_of_run(event.payload) is not None
        return is_own and is_job and super()._passes(event)
