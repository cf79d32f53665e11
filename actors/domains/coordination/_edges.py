"""Edges between entities, one by one or many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dalsegno.protocol import Context, Domain, Index, On, Reject, Touched, not_found

from ._agent_notes import agent_notes
from ._agents import agents
from ._delegations import delegations
from ._handoffs import handoffs
from ._locks import agent_locks
from ._messages import agent_messages
from ._offspring import Named
from ._tree import artifacts, living_trajectory, scopes, trajectories, turns
from ._words import Document, EdgeType, EntityType, Id, Label, fields_of

EDGES_MAX = 50
"""Edges made at once; what they are between is at most as much as a command may name."""


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """One of the entities that an edge is between."""

    entity_type: EntityType
    entity_id: Id
    role: Label | None = None


class NewEdge(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of an edge."""

    edge_type: EdgeType
    participants: Annotated[tuple[Participant, ...], Meta(min_length=2, max_length=10)]
    weight: Annotated[float, Meta(ge=0, le=1, extra={"code": "INVALID_RANGE"})] | None = None
    trajectory_id: Id | None = None
    metadata: Document | None = None


class AgentEdge(NewEdge, frozen=True, kw_only=True):
    """An edge, which never changes."""

    created_at: datetime


class CreateAgentEdge(NewEdge, frozen=True, kw_only=True):
    """Make an edge; without an id the runtime makes one."""

    agent_edge_id: str | None = None


class AgentEdgeCreated(msgspec.Struct, frozen=True):
    """An edge was made."""

    edge: AgentEdge


class AgentEdgeAdded(msgspec.Struct, frozen=True):
    """An edge was made with others at once, which is told of all of them together."""

    edge: AgentEdge


agent_edges = Domain(
    "agent_edge",
    state=AgentEdge,
    commands=CreateAgentEdge,
    events=AgentEdgeCreated | AgentEdgeAdded,
)


class AgentEdgeBatch(msgspec.Struct, frozen=True):
    """Edges that were made at once."""

    edge_ids: tuple[str, ...]


class CreateAgentEdges(msgspec.Struct, frozen=True, kw_only=True):
    """Make several edges, all or none."""

    edges: Annotated[tuple[NewEdge, ...], Meta(min_length=1, max_length=EDGES_MAX)]
    agent_edge_batch_id: str | None = None


class AgentEdgesCreated(msgspec.Struct, frozen=True):
    """Several edges were made at once."""

    edge_ids: tuple[str, ...]


agent_edge_batches = Domain(
    "agent_edge_batch",
    state=AgentEdgeBatch,
    commands=CreateAgentEdges,
    events=AgentEdgesCreated,
)

_ENTITIES: Mapping[str, Domain[Any, Any, Any]] = MappingProxyType(
    {
        "Trajectory": trajectories,
        "Scope": scopes,
        "Artifact": artifacts,
        "Note": agent_notes,
        "Turn": turns,
        "Lock": agent_locks,
        "Message": agent_messages,
        "Agent": agents,
        "Delegation": delegations,
        "Handoff": handoffs,
        "Edge": agent_edges,
    }
)
"""The types whose entities are kept here; the others are labels of whoever keeps them."""


def _named(edge: NewEdge) -> Named:
    named: Named = [
        (_ENTITIES[each.entity_type], each.entity_id)
        for each in edge.participants
        if each.entity_type in _ENTITIES
    ]
    return named if edge.trajectory_id is None else [*named, (trajectories, edge.trajectory_id)]


def _made(edge: NewEdge, context: Context, touched: Touched) -> AgentEdge:
    """Return an edge whose participants are all there.

    Raises:
        Reject: ``…_NOT_FOUND``.

    """
    for domain, entity_id in _named(edge):
        state = touched.get(domain, entity_id)
        if state is None or getattr(state, "ends_at", None) is not None:
            raise not_found(domain.stream_id(entity_id), entity_id=entity_id)
    if edge.trajectory_id is not None:
        living_trajectory(edge.trajectory_id, touched)
    return AgentEdge(**fields_of(edge, NewEdge), created_at=context.now)


@agent_edges.decide(touches=_named)
def _create(
    edge: AgentEdge | None, command: CreateAgentEdge, context: Context, touched: Touched
) -> AgentEdgeCreated:
    if edge is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "an edge has this id")
    return AgentEdgeCreated(_made(command, context, touched))


def _named_by_all(command: CreateAgentEdges) -> Named:
    named = [each for edge in command.edges for each in _named(edge)]
    return list({domain.stream_id(i): (domain, i) for domain, i in named}.values())


@agent_edge_batches.decide(touches=_named_by_all)
def _create_all(
    batch: AgentEdgeBatch | None, command: CreateAgentEdges, context: Context, touched: Touched
) -> Sequence[AgentEdgesCreated | On[Any]]:
    if batch is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a batch of edges has this id")
    made = [_made(edge, context, touched) for edge in command.edges]
    ids = tuple(context.new_id() for _ in made)
    added = [On(agent_edges, i, AgentEdgeAdded(edge)) for i, edge in zip(ids, made, strict=True)]
    return [*added, AgentEdgesCreated(ids)]


@agent_edges.evolve
def _created(_: AgentEdge | None, event: AgentEdgeCreated) -> AgentEdge:
    return event.edge


@agent_edges.evolve
def _added(_: AgentEdge | None, event: AgentEdgeAdded) -> AgentEdge:
    return event.edge


@agent_edge_batches.evolve
def _batch_created(_: AgentEdgeBatch | None, event: AgentEdgesCreated) -> AgentEdgeBatch:
    return AgentEdgeBatch(event.edge_ids)


@agent_edges.index
def _index(it: AgentEdge) -> Index:
    between = dict.fromkeys(f"entity_id:{each.entity_id}" for each in it.participants)
    return Index(keys=("all", f"edge_type:{it.edge_type}", *between))
