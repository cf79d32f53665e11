"""Coordination: agents with their work, their locks, messages, delegations and hand-overs.

Eleven families of entities, decided here, served by routes and a dialect that are values; see
docs/coordination.md.  What it is made of is the public API of domains.
"""

from typing import Any

from dalsegno.protocol import App, Domain

from . import (
    _artifacts as _artifacts,
    _scopes as _scopes,
    _trajectories as _trajectories,
)
from ._agent_notes import agent_notes as agent_notes
from ._agents import agents as agents
from ._config import agent_configs as agent_configs
from ._delegations import DELEGATION_STEPS as DELEGATION_STEPS, delegations as delegations
from ._dialect import (
    FORMS as FORMS,
    caliber_dialect as caliber_dialect,
    caliber_socket as caliber_socket,
)
from ._edges import agent_edge_batches as agent_edge_batches, agent_edges as agent_edges
from ._handoffs import HANDOFF_STEPS as HANDOFF_STEPS, handoffs as handoffs
from ._locks import (
    HELD_MAX_MS as HELD_MAX_MS,
    agent_locks as agent_locks,
    locked_resources as locked_resources,
)
from ._messages import agent_messages as agent_messages
from ._offspring import PAGE_PARTS as PAGE_PARTS, offspring as offspring
from ._pacts import agent_pairs as agent_pairs
from ._reports import summarizations as summarizations, tool_executions as tool_executions
from ._routes import coordination_routes as coordination_routes
from ._tree import (
    artifacts as artifacts,
    scopes as scopes,
    trajectories as trajectories,
    turns as turns,
)

coordination_domains: tuple[Domain[Any, Any, Any], ...] = (
    trajectories,
    scopes,
    artifacts,
    turns,
    offspring,
    agent_notes,
    agents,
    agent_locks,
    locked_resources,
    agent_messages,
    delegations,
    handoffs,
    agent_pairs,
    agent_configs,
    agent_edges,
    agent_edge_batches,
    tool_executions,
    summarizations,
)
"""The families, and the bookkeeping between them."""

coordination_app = App(coordination_domains, routes=coordination_routes, dialects=[caliber_socket])
"""All of it: ``dalsegno serve --app dalsegno.actors.domains.coordination:coordination_app``."""
