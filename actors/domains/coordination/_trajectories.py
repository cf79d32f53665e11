"""How trajectories are decided and folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from dalsegno.protocol import Context, Due, Index, On, Reject, Touched, not_found

from ._agents import agents, check_agent
from ._offspring import (
    Named,
    OffspringEnded,
    add_part,
    offspring,
    page_id,
    pages_of,
    parts_on,
)
from ._tree import (
    CreateTrajectory,
    DeleteTrajectory,
    NewTrajectory,
    ScopeDeleted,
    SweepTrajectory,
    Trajectory,
    TrajectoryCreated,
    TrajectoryDeleted,
    TrajectoryPageTurned,
    TrajectoryState,
    TrajectorySwept,
    TrajectoryUpdated,
    UpdateTrajectory,
    living_trajectory,
    scopes,
    trajectories,
)
from ._words import changed, fields_of

_ENDED = frozenset({"Completed", "Failed"})
"""The statuses in which a trajectory has an end."""


def pages_of_trajectory(trajectory_id: str | None, touched: Touched) -> Named:
    """Return where a further part of a trajectory may go, for ``follows=``."""
    parent = None if trajectory_id is None else touched.get(trajectories, trajectory_id)
    if trajectory_id is None or parent is None:
        return []
    return pages_of(trajectories.stream_id(trajectory_id), parent.pages)


def add_to_trajectory(trajectory_id: str, part: str, touched: Touched) -> Sequence[On[Any]]:
    """Return the events that add a part to a trajectory.

    Raises:
        Reject: ``TRAJECTORY_NOT_FOUND``.

    """
    parent = living_trajectory(trajectory_id, touched)
    turned = On(trajectories, trajectory_id, TrajectoryPageTurned())
    stream_id = trajectories.stream_id(trajectory_id)
    return add_part(stream_id, parent.pages, part, touched, turned=turned)


# ------------------------------------------------------------------------------------- deciding


def _named(command: CreateTrajectory) -> Named:
    named: Named = []
    if command.parent_trajectory_id is not None:
        named.append((trajectories, command.parent_trajectory_id))
    if command.agent_id is not None:
        named.append((agents, command.agent_id))
    return named


def _pages(_: TrajectoryState | None, command: CreateTrajectory, touched: Touched) -> Named:
    return pages_of_trajectory(command.parent_trajectory_id, touched)


@trajectories.decide(touches=_named, follows=_pages)
def _create(
    state: TrajectoryState | None, command: CreateTrajectory, context: Context, touched: Touched
) -> Sequence[TrajectoryCreated | On[Any]]:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a trajectory has this id")
    if command.agent_id is not None:
        check_agent(command.agent_id, touched)
    given = fields_of(command, NewTrajectory)
    created = TrajectoryCreated(Trajectory(**given, created_at=context.now, updated_at=context.now))
    if command.parent_trajectory_id is None:
        return [created]
    part = trajectories.stream_id(context.entity_id)
    return [created, *add_to_trajectory(command.parent_trajectory_id, part, touched)]


@trajectories.decide
def _update(
    state: TrajectoryState, command: UpdateTrajectory, context: Context
) -> TrajectoryUpdated | None:
    before = _alive(state, command.trajectory_id)
    after = changed(before, command)
    if after == before:
        return None
    if after.status != before.status:
        after = replace(after, completed_at=context.now if after.status in _ENDED else None)
    return TrajectoryUpdated(replace(after, updated_at=context.now))


@trajectories.decide
def _delete(
    state: TrajectoryState, command: DeleteTrajectory, context: Context
) -> TrajectoryDeleted:
    _alive(state, command.trajectory_id)
    return TrajectoryDeleted(context.now)


def _page(command: SweepTrajectory) -> Named:
    return [(offspring, command.page)]


def _parts(_: TrajectoryState, command: SweepTrajectory, touched: Touched) -> Named:
    return parts_on(touched.get(offspring, command.page), (trajectories, scopes))


@trajectories.decide(touches=_page, follows=_parts, allow=())
def _sweep(
    state: TrajectoryState, command: SweepTrajectory, context: Context, touched: Touched
) -> Sequence[TrajectorySwept | On[Any]]:
    ended: list[On[Any]] = []
    for domain, part_id in _parts(state, command, touched):
        part, is_scope = touched.get(domain, part_id), domain is scopes
        if part is None or part.ends_at is not None:
            continue
        record = part.record
        parent_id = record.trajectory_id if is_scope else record.parent_trajectory_id
        if parent_id != command.trajectory_id:
            continue
        event = ScopeDeleted(context.now) if is_scope else TrajectoryDeleted(context.now)
        ended.append(On(domain, part_id, event))
    return [*ended, On(offspring, command.page, OffspringEnded()), TrajectorySwept(context.now)]


def _alive(state: TrajectoryState, trajectory_id: str) -> Trajectory:
    if state.ends_at is not None:
        raise not_found(trajectories.stream_id(trajectory_id))
    return state.record


# -------------------------------------------------------------------------------------- folding


@trajectories.evolve
def _created(_: TrajectoryState | None, event: TrajectoryCreated) -> TrajectoryState:
    return TrajectoryState(record=event.trajectory)


@trajectories.evolve
def _updated(state: TrajectoryState, event: TrajectoryUpdated) -> TrajectoryState:
    return replace(state, record=event.trajectory)


@trajectories.evolve
def _turned(state: TrajectoryState, _: TrajectoryPageTurned) -> TrajectoryState:
    return replace(state, pages=state.pages + 1)


@trajectories.evolve
def _deleted(state: TrajectoryState, event: TrajectoryDeleted) -> TrajectoryState | None:
    return None if state.pages == 0 else replace(state, ends_at=event.at)


@trajectories.evolve
def _swept(state: TrajectoryState, event: TrajectorySwept) -> TrajectoryState | None:
    return None if state.pages == 1 else replace(state, pages=state.pages - 1, ends_at=event.at)


@trajectories.due
def _due(state: TrajectoryState, trajectory_id: str) -> Due | None:
    if state.ends_at is None:
        return None
    page = page_id(trajectories.stream_id(trajectory_id), state.pages - 1)
    return Due(state.ends_at, SweepTrajectory(trajectory_id=trajectory_id, page=page))


@trajectories.index
def _index(state: TrajectoryState) -> Index:
    if state.ends_at is not None:
        return Index()
    it = state.record
    keys = ["all", f"status:{it.status}"]
    if it.parent_trajectory_id is not None:
        keys.append(f"parent_trajectory_id:{it.parent_trajectory_id}")
    if it.agent_id is not None:
        keys.append(f"agent_id:{it.agent_id}")
    return Index(keys=tuple(keys), title=it.name)
