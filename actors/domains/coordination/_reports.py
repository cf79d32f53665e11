"""What agents report of work that is done elsewhere: tools that ran, summaries that are due."""

from __future__ import annotations

from datetime import datetime

import msgspec

from dalsegno.protocol import Context, Domain, Index, Reject, Touched

from ._agents import agents, check_agent
from ._offspring import Named
from ._tree import check_place, scopes, trajectories
from ._words import Count, Id, Label, Prose, fields_of


class NewToolExecution(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a tool that ran."""

    agent_id: Id | None = None
    tool_name: Label
    success: bool
    duration_ms: Count
    error: Prose | None = None


class ToolExecution(NewToolExecution, frozen=True, kw_only=True):
    """A tool ran."""

    executed_at: datetime


class ReportToolExecution(NewToolExecution, frozen=True, kw_only=True):
    """Report that a tool ran; without an id the runtime makes one."""

    tool_execution_id: str | None = None


class ToolExecuted(msgspec.Struct, frozen=True):
    """A tool ran."""

    execution: ToolExecution


tool_executions = Domain(
    "tool_execution", state=ToolExecution, commands=ReportToolExecution, events=ToolExecuted
)


def _agent(command: ReportToolExecution) -> Named:
    return [] if command.agent_id is None else [(agents, command.agent_id)]


@tool_executions.decide(touches=_agent)
def _report(
    execution: ToolExecution | None,
    command: ReportToolExecution,
    context: Context,
    touched: Touched,
) -> ToolExecuted:
    if execution is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "an execution has this id")
    if command.agent_id is not None:
        check_agent(command.agent_id, touched)
    given = fields_of(command, NewToolExecution)
    return ToolExecuted(ToolExecution(**given, executed_at=context.now))


@tool_executions.evolve
def _executed(_: ToolExecution | None, event: ToolExecuted) -> ToolExecution:
    return event.execution


@tool_executions.index
def _tool_index(it: ToolExecution) -> Index:
    return Index(keys=("all", f"tool_name:{it.tool_name}"))


class NewSummarization(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a summary that is due."""

    policy_id: Id
    trigger: Label
    trajectory_id: Id
    scope_id: Id
    source_level: Label
    target_level: Label
    max_sources: Count
    create_edges: bool = False


class Summarization(NewSummarization, frozen=True, kw_only=True):
    """A summary is due, by a policy of whoever makes it."""

    triggered_at: datetime


class TriggerSummarization(NewSummarization, frozen=True, kw_only=True):
    """Ask for a summary; without an id the runtime makes one."""

    summarization_id: str | None = None


class SummarizationTriggered(msgspec.Struct, frozen=True):
    """A summary is due."""

    summarization: Summarization


summarizations = Domain(
    "summarization",
    state=Summarization,
    commands=TriggerSummarization,
    events=SummarizationTriggered,
)


def _place(command: TriggerSummarization) -> Named:
    return [(trajectories, command.trajectory_id), (scopes, command.scope_id)]


@summarizations.decide(touches=_place)
def _trigger(
    summarization: Summarization | None,
    command: TriggerSummarization,
    context: Context,
    touched: Touched,
) -> SummarizationTriggered:
    if summarization is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a summarization has this id")
    check_place(command.trajectory_id, command.scope_id, touched)
    given = fields_of(command, NewSummarization)
    return SummarizationTriggered(Summarization(**given, triggered_at=context.now))


@summarizations.evolve
def _triggered(_: Summarization | None, event: SummarizationTriggered) -> Summarization:
    return event.summarization


@summarizations.index
def _index(it: Summarization) -> Index:
    return Index(keys=("all", f"trajectory_id:{it.trajectory_id}"))
