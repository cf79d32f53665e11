"""Schedules of coordination: commands of all its families over few ids, so that they meet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from typing import Any

import msgspec
import pytest

from dalsegno.actors.domains.coordination import _offspring, coordination_domains
from dalsegno.actors.domains.coordination._agent_notes import (
    CreateAgentNote,
    DeleteAgentNote,
    UpdateAgentNote,
)
from dalsegno.actors.domains.coordination._agents import (
    HeartbeatAgent,
    MemoryAccess,
    RegisterAgent,
    UnregisterAgent,
    UpdateAgent,
)
from dalsegno.actors.domains.coordination._config import CONFIG_ID, UpdateAgentConfig
from dalsegno.actors.domains.coordination._delegations import (
    AcceptDelegation,
    CompleteDelegation,
    CreateDelegation,
    DelegationResult,
    RejectDelegation,
    StartDelegation,
)
from dalsegno.actors.domains.coordination._edges import (
    CreateAgentEdge,
    CreateAgentEdges,
    NewEdge,
    Participant,
)
from dalsegno.actors.domains.coordination._handoffs import (
    AcceptHandoff,
    CompleteHandoff,
    CreateHandoff,
    RejectHandoff,
)
from dalsegno.actors.domains.coordination._locks import (
    AcquireAgentLock,
    ExtendAgentLock,
    ReleaseAgentLock,
)
from dalsegno.actors.domains.coordination._messages import (
    AcknowledgeAgentMessage,
    DeliverAgentMessage,
    SendAgentMessage,
)
from dalsegno.actors.domains.coordination._reports import ReportToolExecution, TriggerSummarization
from dalsegno.actors.domains.coordination._tree import (
    CheckpointScope,
    CloseScope,
    CreateArtifact,
    CreateScope,
    CreateTrajectory,
    CreateTurn,
    DeleteArtifact,
    DeleteTrajectory,
    UpdateArtifact,
    UpdateScope,
    UpdateTrajectory,
)
from dalsegno.actors.domains.coordination._words import AgentStatus, TrajectoryStatus
from dalsegno.actors.testing import (
    OPERATIONS,
    SIM_LIMITS,
    Ask,
    Choices,
    SeededChoices,
    Simulated,
    simulate,
)
from dalsegno.actors.testing.simulation._node import START
from dalsegno.protocol import App, Role
from tests.simulation._coordination_rules import (
    left_undone,
    wrong_lives,
    wrong_state,
    wrong_times,
)

# ---------------------------------------------------------------------------------- schedules

_PAGE_PARTS = 3
"""So few parts stand on a page that a parent soon has several."""
_LATE_S = 3.0
"""How late something that is due may be: a lease, and some ticks."""

_BY_TIMERS = {
    *("mark_agent_offline", "expire_agent_lock", "expire_agent_message", "fail_delegation"),
    *("time_out_handoff", "sweep_trajectory", "sweep_scope"),
}
_SENT = frozenset(name for d in coordination_domains for name in d.commands) - _BY_TIMERS
_APP = App(coordination_domains, roles={"editor": Role(commands=_SENT)})
"""Every client may send everything, the configuration too."""

_CRASHES = ("crash", "crash_within", "freeze", "freeze_within", "clock", "replace")
_WRITES = (*("burst",) * 4, *("command",) * 3, "group", "repeat", "entities", "idle")
SIZES: Sequence[dict[str, Any]] = (
    # Everything that there is.
    {"operations": (*OPERATIONS, *("burst",) * 4)},
    # Owners that die and freeze, with clocks that jump.
    {"nodes": 2, "faults": _CRASHES, "operations": _WRITES},
    # Workspaces that leave memory all the time: what is due wakes them.
    {
        "nodes": 2,
        "faults": ("clock", "clock", "lag", "crash", "freeze"),
        "operations": (*_WRITES, "idle"),
        "limits": replace(SIM_LIMITS, passivate_after_s=0.0, entities_cached_max=2),
    },
    # Nodes that are well but for their clocks: everything goes far.
    {
        "nodes": 2,
        "faults": ("clock", "clock", "cut", "drop", "lag"),
        "operations": _WRITES,
    },
    # … and batches of many commands.
    {
        "nodes": 2,
        "faults": ("clock", "cut", "stall"),
        "operations": _WRITES,
        "limits": replace(SIM_LIMITS, batch_commands_max=8, mailbox_commands_max=20),
    },
)
_STEPS = 40


def run(seed: int) -> Simulated:
    """Run a schedule of one of several sizes."""
    return coordinated(SeededChoices(seed), Commands(), **SIZES[seed % len(SIZES)])


def follow(*asks: Ask) -> Simulated:
    """Run a schedule without a fault, of these commands in their order."""
    script = iter(asks)
    return coordinated(
        SeededChoices(1),
        lambda _: next(script),
        nodes=1,
        clients=1,
        steps=len(asks),
        faults=(),
        operations=("command",),
    )


def coordinated(choices: Choices, commands: Callable[[Choices], Ask], **how: Any) -> Simulated:
    """Run a schedule to its end, until all that was due has happened."""
    size = {"workspaces": 1, "steps": _STEPS, **how}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_offspring, "PAGE_PARTS", _PAGE_PARTS)
        return simulate(
            choices, _APP, commands=commands, invariant=wrong_state, until="settled", **size
        )


def wrong_in(done: Simulated) -> list[str]:
    """Return all that is wrong with a schedule, in words."""
    found = [*map(str, done.violations), *done.bugs]
    settled_at = START + timedelta(seconds=done.lasted_s - _LATE_S)
    for events in done.log.values():
        found += [*wrong_lives(events), *wrong_times(events), *left_undone(events, settled_at)]
    return found


@cache
def run_sound(seeds: range) -> Counter[str]:
    """Run a schedule per seed; return how often which events happened."""
    happened = Counter[str]()
    for seed in seeds:
        done = run(seed)
        wrong = wrong_in(done)
        assert not wrong, "\n".join([f"seed {seed}:", *wrong, str(done)])
        happened += Counter(event.type for events in done.log.values() for event in events)
    return happened


# ----------------------------------------------------------------------------------- commands

_AGENTS = "abc"
_PAIRS = (("a", "b"), ("a", "b"), ("a", "b"), ("b", "a"), ("a", "c"))
_RESOURCES = "xxy"
_PLACES = (("t", "s"), ("u", "r"))
"""Trajectories that are deleted again and again, each with a scope."""
_ARTIFACTS = "pq"
_NOTES = "mn"
_LATELY = 3
"""How many of the locks, messages and pacts are thought of, the last ones."""
_SHORT_S = (0.5, 1.0, 2.0)
_USUALLY, _RIGHTLY = 0.7, 0.9
_GOES_ON = 0.7
"""How often the next command is of the same family: what is short is met then."""
_AGAIN = 0.05
"""How often something that others need is made anew: an agent that was unregistered, a scope."""


@dataclass
class _Made:
    """A lock, a message, a delegation or a hand-over."""

    id: str
    whose: str
    """Who may do something with it."""
    steps: int = 0

    def actor(self, choices: Choices) -> str:
        """Draw who does something with it."""
        return self.whose if choices.chance(_RIGHTLY) else choices.pick(_AGENTS)


class Commands:
    """The commands of one schedule: at first what the others need, then any."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._opening = iter(_OPENING)
        self._made: defaultdict[str, list[_Made]] = defaultdict(list)
        """What was drawn of each kind."""
        families: Mapping[Callable[[Choices], Ask], int] = {
            self._lock: 6,
            self._delegation: 5,
            self._handoff: 4,
            self._message: 3,
            self._agent: 3,
            self._trajectory: 2,
            self._part: 6,
            self._beside: 2,
        }
        self._families = [draw for draw, times in families.items() for _ in range(times)]
        self._family: Callable[[Choices], Ask] = self._agent

    def __call__(self, choices: Choices) -> Ask:
        """Draw a command."""
        opening = next(self._opening, None)
        if opening is not None or choices.chance(_AGAIN):
            return opening or choices.pick(_OPENING)
        if not choices.chance(_GOES_ON):
            self._family = choices.pick(self._families)
        return self._family(choices)

    def _new(self, kind: str, whose: str) -> str:
        """Return an id that nothing has had: what has lapsed keeps its own."""
        made = _Made(f"{kind}{next(self._numbers)}", whose)
        self._made[kind].append(made)
        return made.id

    def _known(self, choices: Choices, kind: str) -> _Made:
        """Draw what was made lately, mostly the last of it."""
        lately = self._made[kind][-_LATELY:] or [_Made(kind, "a")]
        return choices.pick([*lately, lately[-1]])

    def _next(self, choices: Choices, made: _Made, course: Sequence[Ask], *others: Ask) -> Ask:
        """Draw a step of what was made: mostly the one that follows."""
        if choices.chance(_USUALLY):
            made.steps += 1
            return course[min(made.steps, len(course)) - 1]
        return choices.pick([*course, *others])

    def _lock(self, choices: Choices) -> Ask:
        for_ms = choices.pick([300, 700, 1_500, 2_000])
        if choices.chance(0.5):
            holder = choices.pick(_AGENTS)
            acquire = AcquireAgentLock(
                resource_type="file",
                resource_id=choices.pick(_RESOURCES),
                holder_agent_id=holder,
                mode=choices.pick(["Exclusive", "Shared", "Shared"]),
                timeout_ms=for_ms,
                agent_lock_id=self._new("lock", holder),
            )
            return Ask(acquire, 2)
        made = self._known(choices, "lock")
        holder = made.actor(choices)
        extend = ExtendAgentLock(
            agent_lock_id=made.id,
            additional_ms=for_ms,
            extending_agent_id=choices.pick([holder, None]),
        )
        release = ReleaseAgentLock(agent_lock_id=made.id, releasing_agent_id=holder)
        return Ask(choices.pick([extend, release]), 2, 2)

    def _delegation(self, choices: Choices) -> Ask:
        if choices.chance(0.4):
            giver, taker = choices.pick(_PAIRS)
            return Ask(
                CreateDelegation(
                    from_agent_id=giver,
                    to_agent_id=taker,
                    **_place(choices),
                    task_description="to do",
                    expected_completion=choices.pick([None, None, _soon(choices)]),
                    delegation_id=self._new("delegation", taker),
                ),
                2,
                3,
            )
        made = self._known(choices, "delegation")
        taker = made.actor(choices)
        result = DelegationResult(status="Success", artifacts=choices.pick([(), (), ("p",)]))
        complete = CompleteDelegation(
            delegation_id=made.id, result=result, completing_agent_id=choices.pick([taker, None])
        )
        accept = AcceptDelegation(delegation_id=made.id, accepting_agent_id=taker)
        reject = RejectDelegation(delegation_id=made.id, rejecting_agent_id=taker, reason="busy")
        start = StartDelegation(delegation_id=made.id, starting_agent_id=taker)
        course = [Ask(accept, 2, 2), Ask(start, 1, 1), Ask(complete, 1, 1)]
        return self._next(choices, made, course, Ask(reject, 2, 2))

    def _handoff(self, choices: Choices) -> Ask:
        if choices.chance(0.4):
            giver, taker = choices.pick(_PAIRS)
            return Ask(
                CreateHandoff(
                    from_agent_id=giver,
                    to_agent_id=taker,
                    **_place(choices),
                    reason="LoadBalancing",
                    context_snapshot={"at": 1},
                    handoff_id=self._new("handoff", taker),
                ),
                2,
                3,
            )
        made = self._known(choices, "handoff")
        taker = made.actor(choices)
        accept = AcceptHandoff(handoff_id=made.id, accepting_agent_id=taker)
        reject = RejectHandoff(handoff_id=made.id, rejecting_agent_id=taker, reason="busy")
        complete = CompleteHandoff(handoff_id=made.id)
        course = [Ask(accept, 2, 2), Ask(complete, 1, 1)]
        return self._next(choices, made, course, Ask(reject, 2, 2))

    def _message(self, choices: Choices) -> Ask:
        if choices.chance(0.5):
            sender, recipient = choices.pick(_PAIRS)
            send = SendAgentMessage(
                from_agent_id=sender,
                to_agent_id=recipient,
                message_type="ContextShare",
                payload=[1],
                expires_at=choices.pick([None, _soon(choices), _soon(choices)]),
                agent_message_id=self._new("message", recipient),
            )
            return Ask(send, 1, 1)
        made = self._known(choices, "message")
        deliver = DeliverAgentMessage(agent_message_id=made.id)
        acknowledge = AcknowledgeAgentMessage(agent_message_id=made.id)
        return self._next(choices, made, [Ask(deliver, 1, 1), Ask(acknowledge, 1, 1)])

    def _agent(self, choices: Choices) -> Ask:
        agent = choices.pick(_AGENTS)
        statuses: Sequence[AgentStatus] = ("Idle", "Active", "Blocked")
        status = choices.pick(statuses)
        scope = choices.pick([None, "s", msgspec.UNSET])
        return choices.pick(
            [
                *[Ask(HeartbeatAgent(agent_id=agent), 1, 2)] * 3,
                *[_register(agent)] * 2,
                Ask(UpdateAgent(agent_id=agent, status=status, current_scope_id=scope), 0, 2),
                Ask(UnregisterAgent(agent_id=choices.pick("cccb")), 1, 1),
                _configure(choices.pick(_SHORT_S)),
            ]
        )

    def _trajectory(self, choices: Choices) -> Ask:
        (one, _), (other, _) = choices.pick([_PLACES, _PLACES[::-1]])
        statuses: Sequence[TrajectoryStatus] = ("Active", "Completed", "Failed")
        status = choices.pick(statuses)
        return choices.pick(
            [
                *[begin(one, choices.pick([None, "work", other]))] * 3,
                *[Ask(DeleteTrajectory(trajectory_id=one), 1, 1)] * 2,
                Ask(UpdateTrajectory(trajectory_id=one, status=status), 0, 1),
            ]
        )

    def _part(self, choices: Choices) -> Ask:
        (trajectory, scope), artifact = choices.pick(_PLACES), choices.pick(_ARTIFACTS)
        checkpoint = CheckpointScope(scope_id=scope, context_state={"at": 1})
        update = UpdateArtifact(artifact_id=artifact, name=choices.pick("AB"))
        return choices.pick(
            [
                *[open_scope(scope, trajectory)] * 2,
                Ask(UpdateScope(scope_id=scope, token_budget=choices.integer(1, 2)), 0, 1),
                Ask(checkpoint, 1, 1),
                Ask(CloseScope(scope_id=scope), 1, 1),
                *[make_artifact(artifact, trajectory, scope)] * 4,
                Ask(update, 0, 1),
                *[Ask(DeleteArtifact(artifact_id=artifact), 1, 1)] * 2,
                *[_turn(choices.pick([None, "k", "l"]), scope)] * 3,
            ]
        )

    def _beside(self, choices: Choices) -> Ask:
        note, (one, other) = choices.pick(_NOTES), choices.pick(_PAIRS)
        between = (
            Participant(entity_type="Agent", entity_id=one),
            choices.pick(
                [
                    Participant(entity_type="Agent", entity_id=other),
                    Participant(entity_type="Scope", entity_id="s"),
                    Participant(entity_type="Lock", entity_id=self._known(choices, "lock").id),
                ]
            ),
        )
        edge: dict[str, Any] = {"edge_type": "RelatesTo", "participants": between}
        ran = ReportToolExecution(agent_id=one, tool_name="grep", success=True, duration_ms=1)
        due = TriggerSummarization(policy_id="p", trigger="Manual", **_place(choices), **_LEVELS)
        return choices.pick(
            [
                Ask(CreateAgentNote(agent_note_id=note, **_NOTE), 1, 1),
                Ask(UpdateAgentNote(agent_note_id=note, title=choices.pick("NM")), 0, 1),
                Ask(DeleteAgentNote(agent_note_id=note), 1, 1),
                Ask(CreateAgentEdge(**edge), 1, 1),
                Ask(CreateAgentEdges(edges=(NewEdge(**edge), NewEdge(**edge))), 3, 3),
                Ask(ran, 1, 1),
                Ask(due, 1, 1),
            ]
        )


_NOTE: dict[str, Any] = {
    "note_type": "Fact",
    "title": "N",
    "content": "so it is",
    "source_trajectory_ids": ("work",),
    "source_artifact_ids": (),
    "ttl": "Persistent",
}
_LEVELS: dict[str, Any] = {"source_level": "Raw", "target_level": "Summary", "max_sources": 9}


def _configure(seconds: float) -> Ask:
    config = {
        "agent_offline_after_s": seconds,
        "delegation_timeout_s": seconds,
        "handoff_timeout_s": seconds,
    }
    return Ask(UpdateAgentConfig(config=config, agent_config_id=CONFIG_ID), 0, 1)


def _register(agent: str) -> Ask:
    register = RegisterAgent(
        agent_id=agent,
        agent_type="coder",
        capabilities=("code",),
        memory_access=MemoryAccess(),
        can_delegate_to=(),
    )
    return Ask(register, 1, 1)


def begin(trajectory: str, parent: str | None = None) -> Ask:
    create = CreateTrajectory(trajectory_id=trajectory, name="T", parent_trajectory_id=parent)
    return Ask(create, 1, 3)


def open_scope(scope: str, trajectory: str) -> Ask:
    create = CreateScope(scope_id=scope, trajectory_id=trajectory, name="S", token_budget=1)
    return Ask(create, 2, 3)


def make_artifact(artifact: str, trajectory: str, scope: str) -> Ask:
    create = CreateArtifact(
        artifact_id=artifact,
        trajectory_id=trajectory,
        scope_id=scope,
        artifact_type="Code",
        name="A",
        content="print()",
        source_turn=1,
        extraction_method="Explicit",
        ttl="Persistent",
    )
    return Ask(create, 2, 3)


def _turn(turn: str | None, scope: str) -> Ask:
    create = CreateTurn(
        turn_id=turn, scope_id=scope, sequence=1, role="User", content="Hello", token_count=1
    )
    return Ask(create, 2, 3)


def _place(choices: Choices) -> dict[str, Any]:
    """Draw where something belongs, mostly to what stays."""
    trajectory, scope = choices.pick([("work", "desk")] * 8 + [*_PLACES])
    return {"trajectory_id": trajectory, "scope_id": scope}


def _soon(choices: Choices) -> datetime:
    return START + timedelta(seconds=choices.integer(1, 12))


_OPENING = (
    _configure(2.0),
    *(_register(agent) for agent in _AGENTS),
    begin("work"),
    open_scope("desk", "work"),
    *(begin(trajectory) for trajectory, _ in _PLACES),
    *(open_scope(scope, trajectory) for trajectory, scope in _PLACES),
)
