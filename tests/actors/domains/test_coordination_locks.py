"""Locks decide within the bounds of a command, however many share a resource."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dalsegno.actors.domains.coordination import agent_locks, agents, locked_resources
from dalsegno.actors.domains.coordination._agents import Agent, AgentState, MemoryAccess
from dalsegno.actors.domains.coordination._locks import (
    SHARERS_MAX,
    AcquireAgentLock,
    Hold,
    LockedResource,
    _resource_of,
)
from dalsegno.protocol import SYSTEM, Context, Limits, Touched

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_as_many_as_may_share_a_resource_lapse_with_one_command() -> None:
    agent = Agent(
        agent_type="coder",
        capabilities=("code",),
        memory_access=MemoryAccess(),
        can_delegate_to=(),
        created_at=NOW,
        last_heartbeat=NOW,
    )
    acquire = AcquireAgentLock(
        resource_type="file", resource_id="main.py", holder_agent_id="a", timeout_ms=1
    )
    lapsed = Hold("a", "Shared", NOW - timedelta(seconds=1))
    resource = LockedResource({f"l{number}": lapsed for number in range(SHARERS_MAX)})
    touched = Touched(
        {
            agents.stream_id("a"): AgentState(record=agent, silent_max_s=90.0),
            locked_resources.stream_id(_resource_of(acquire)): resource,
        }
    )
    context = Context(entity_id="l", principal=SYSTEM, role="", now=NOW, new_id=lambda: "")
    events = agent_locks.decider(AcquireAgentLock).function(None, acquire, context, touched)
    assert SHARERS_MAX < len(events) <= Limits().command_events_max
