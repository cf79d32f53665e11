"""The names of a project's proposals: each is used once, as long as its proposal is there."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Never

import msgspec

from dalsegno.protocol import Domain, On, Reject, Touched


class ProposalName(msgspec.Struct, frozen=True):
    """A name that a proposal has."""

    proposal_id: str


class ProposalNameTaken(msgspec.Struct, frozen=True):
    """A proposal has this name."""

    proposal_id: str


class ProposalNameReleased(msgspec.Struct, frozen=True):
    """The name is free again."""


proposal_names = Domain(
    "proposal_name",
    state=ProposalName,
    commands=Never,
    events=ProposalNameTaken | ProposalNameReleased,
)
"""One entity for each name in use, changed together with its proposal."""


@proposal_names.evolve
def _taken(_before: ProposalName | None, event: ProposalNameTaken) -> ProposalName:
    return ProposalName(event.proposal_id)


@proposal_names.evolve
def _released(_before: ProposalName, _event: ProposalNameReleased) -> ProposalName | None:
    return None


def _id_of(name: str) -> str:
    """Return the id of a name's entity: names that differ in case alone are one."""
    return blake2b(name.casefold().encode(), digest_size=16).hexdigest()


def name_entity(name: str | None) -> list[tuple[Domain[Any, Any, Any], str]]:
    """Return the entity of a name, for ``touches=`` and ``follows=``."""
    return [] if name is None else [(proposal_names, _id_of(name))]


def take_name(name: str, proposal_id: str, touched: Touched) -> On[Any]:
    """Return the event by which a proposal takes a name.

    Raises:
        Reject: ``NAME_TAKEN``.

    """
    other = touched.get(proposal_names, _id_of(name))
    if other is not None and other.proposal_id != proposal_id:
        raise Reject("NAME_TAKEN", "a proposal has this name", proposal_id=other.proposal_id)
    return On(proposal_names, _id_of(name), ProposalNameTaken(proposal_id))


def release_name(name: str) -> On[Any]:
    """Return the event by which a proposal gives its name back."""
    return On(proposal_names, _id_of(name), ProposalNameReleased())
