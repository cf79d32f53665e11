"""What delegations and hand-overs have in common: a table of steps, a time, and one a pair.

Between two agents at most one delegation waits for its answer, and at most one hand-over.  As with
a name that is used once, a claim beside it keeps that: an entity named after the pair, which the
commands of two that want it both touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any, Never, Protocol, TypeAlias

import msgspec

from dalsegno.protocol import Context, Domain, On, Reject, Touched

from ._agents import agents, check_agent
from ._config import its_config
from ._offspring import Named
from ._tree import check_place, scopes, trajectories
from ._words import Id

TIMEOUT = "Timeout"
"""The reason of what ended by its time."""

Steps: TypeAlias = Mapping[str, Mapping[str, str]]
"""From a step's name and the status before it to the one after it; no other is legal."""


class AgentPair(msgspec.Struct, frozen=True):
    """Something waits between two agents."""

    by: str


class AgentPairTaken(msgspec.Struct, frozen=True):
    """This waits between them."""

    by: str


class AgentPairFreed(msgspec.Struct, frozen=True):
    """Nothing waits between them."""


agent_pairs = Domain(
    "agent_pair", state=AgentPair, commands=Never, events=AgentPairTaken | AgentPairFreed
)


@agent_pairs.evolve
def _taken(_: AgentPair | None, event: AgentPairTaken) -> AgentPair:
    return AgentPair(event.by)


@agent_pairs.evolve
def _freed(_: AgentPair, _event: AgentPairFreed) -> AgentPair | None:
    return None


class Offer(Protocol):
    """The command that begins a delegation or a hand-over."""

    @property
    def from_agent_id(self) -> str:
        """The agent that offers."""

    @property
    def to_agent_id(self) -> str:
        """… and the one that is to take it."""

    @property
    def trajectory_id(self) -> str:
        """What it belongs to …"""

    @property
    def scope_id(self) -> str | None:
        """… and where in that."""


def pair_id(kind: str, from_agent_id: str, to_agent_id: str) -> str:
    """Return the id of the claim on a pair: two ids together may be longer than one."""
    name = f"{kind}\0{from_agent_id}\0{to_agent_id}"
    return blake2b(name.encode(), digest_size=16).hexdigest()


def named_by(kind: str, offer: Offer) -> Named:
    """Return the entities that an offer names, for ``touches=``."""
    named: Named = [
        *its_config(),
        (agents, offer.from_agent_id),
        (agents, offer.to_agent_id),
        (trajectories, offer.trajectory_id),
        (agent_pairs, pair_id(kind, offer.from_agent_id, offer.to_agent_id)),
    ]
    return [*named, (scopes, offer.scope_id)] if offer.scope_id is not None else named


def check_offer(offer: Offer, touched: Touched) -> None:
    """Raise unless everything is there that an offer names, and it is from one to another.

    Raises:
        Reject: ``…_NOT_FOUND``, ``INVALID_INPUT``.

    """
    check_agent(offer.from_agent_id, touched)
    check_agent(offer.to_agent_id, touched)
    if offer.from_agent_id == offer.to_agent_id:
        raise Reject("INVALID_INPUT", "from one agent to another one", status=400)
    check_place(offer.trajectory_id, offer.scope_id, touched)


def waiting_between(kind: str, offer: Offer, touched: Touched) -> str | None:
    """Return the id of what waits between the two agents of an offer."""
    pair = touched.get(agent_pairs, pair_id(kind, offer.from_agent_id, offer.to_agent_id))
    return None if pair is None else pair.by


def take_pair(
    domain: Domain[Any, Any, Any],
    offer: Offer,
    context: Context,
    touched: Touched,
    *,
    ended: msgspec.Struct,
) -> list[On[Any]]:
    """Return the events by which an offer takes its pair; what waited beyond its time has ended.

    Args:
        domain: the offer's domain.
        offer: the command.
        context: when, and under which id.
        touched: the pair, and what waits.
        ended: the event of what has waited for too long.

    Raises:
        Reject: ``STATE_CONFLICT`` where something waits.

    """
    pair = pair_id(domain.name, offer.from_agent_id, offer.to_agent_id)
    taken = On(agent_pairs, pair, AgentPairTaken(context.entity_id))
    waiting = waiting_between(domain.name, offer, touched)
    if waiting is None:
        return [taken]
    before = touched.get(domain, waiting)
    if before is not None and before.deadline > context.now:
        details: dict[str, Any] = {domain.id_field: waiting}
        raise Reject("STATE_CONFLICT", f"one {domain.name} waits between them", **details)
    return [On(domain, waiting, ended), taken]


def stepped(steps: Steps, name: str, status: str) -> str:
    """Return the status after a step.

    Raises:
        Reject: ``STATE_CONFLICT``, with the status, if the step is not a legal one.

    """
    after = steps[name].get(status)
    if after is None:
        raise Reject("STATE_CONFLICT", f"{name} does not follow {status}", current_status=status)
    return after


def check_actor(agent_id: Id | None, legal: str) -> None:
    """Raise if the acting agent is given and is not the one that may act.

    Raises:
        Reject: ``FORBIDDEN``.

    """
    if agent_id is not None and agent_id != legal:
        raise Reject("FORBIDDEN", "this is for another agent to do", status=403)


def check_in_time(deadline: datetime, context: Context) -> None:
    """Raise where the time is over, whether or not the timer has said so.

    Raises:
        Reject: ``STATE_CONFLICT``.

    """
    if deadline <= context.now:
        raise Reject("STATE_CONFLICT", "its time is over", deadline=deadline)
