"""How scopes are decided and folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from dalsegno.protocol import Context, Due, Index, On, Reject, Touched, not_found

from ._offspring import (
    Named,
    OffspringEnded,
    add_part,
    offspring,
    page_id,
    pages_of,
    parts_on,
)
from ._trajectories import add_to_trajectory, pages_of_trajectory
from ._tree import (
    ArtifactDeleted,
    Checkpoint,
    CheckpointScope,
    CloseScope,
    CreateScope,
    NewScope,
    Scope,
    ScopeCheckpointed,
    ScopeClosed,
    ScopeCreated,
    ScopeDeleted,
    ScopePageTurned,
    ScopeState,
    ScopeSwept,
    ScopeUpdated,
    SweepScope,
    TurnDeleted,
    UpdateScope,
    artifacts,
    check_scope,
    living_scope,
    scopes,
    trajectories,
    turns,
)
from ._words import changed, fields_of


def pages_of_scope(_: object, command: Any, touched: Touched) -> Named:  # noqa: ANN401 - as below
    """Return where a further part of a command's scope may go, for ``follows=``."""
    parent = touched.get(scopes, command.scope_id)
    return [] if parent is None else pages_of(scopes.stream_id(command.scope_id), parent.pages)


def add_to_scope(scope_id: str, part: str, touched: Touched) -> Sequence[On[Any]]:
    """Return the events that add a part to a scope.

    Raises:
        Reject: ``SCOPE_NOT_FOUND``.

    """
    parent = living_scope(scope_id, touched)
    turned = On(scopes, scope_id, ScopePageTurned())
    return add_part(scopes.stream_id(scope_id), parent.pages, part, touched, turned=turned)


# ------------------------------------------------------------------------------------- deciding


def _named(command: CreateScope) -> Named:
    named: Named = [(trajectories, command.trajectory_id)]
    if command.parent_scope_id is not None:
        named.append((scopes, command.parent_scope_id))
    return named


def _pages(_: ScopeState | None, command: CreateScope, touched: Touched) -> Named:
    return pages_of_trajectory(command.trajectory_id, touched)


@scopes.decide(touches=_named, follows=_pages)
def _create(
    state: ScopeState | None, command: CreateScope, context: Context, touched: Touched
) -> Sequence[ScopeCreated | On[Any]]:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a scope has this id")
    part = scopes.stream_id(context.entity_id)
    added = add_to_trajectory(command.trajectory_id, part, touched)
    if command.parent_scope_id is not None:
        check_scope(command.parent_scope_id, command.trajectory_id, touched)
    created = Scope(**fields_of(command, NewScope), created_at=context.now)
    return [ScopeCreated(created), *added]


@scopes.decide
def _update(state: ScopeState, command: UpdateScope) -> ScopeUpdated | None:
    before = _alive(state, command.scope_id)
    after = changed(before, command)
    return None if after == before else ScopeUpdated(after)


@scopes.decide
def _checkpoint(state: ScopeState, command: CheckpointScope, context: Context) -> ScopeCheckpointed:
    scope = _open(state, command.scope_id)
    kept = Checkpoint(
        context_state=command.context_state,
        recoverable=command.recoverable,
        created_at=context.now,
    )
    return ScopeCheckpointed(replace(scope, checkpoint=kept))


@scopes.decide
def _close(state: ScopeState, command: CloseScope, context: Context) -> ScopeClosed:
    scope = _open(state, command.scope_id)
    return ScopeClosed(replace(scope, is_active=False, closed_at=context.now))


def _page(command: SweepScope) -> Named:
    return [(offspring, command.page)]


def _parts(_: ScopeState, command: SweepScope, touched: Touched) -> Named:
    return parts_on(touched.get(offspring, command.page), (artifacts, turns))


@scopes.decide(touches=_page, follows=_parts, allow=())
def _sweep(
    state: ScopeState, command: SweepScope, context: Context, touched: Touched
) -> Sequence[ScopeSwept | On[Any]]:
    ended: list[On[Any]] = []
    for domain, part_id in _parts(state, command, touched):
        part = touched.get(domain, part_id)
        if part is None or part.scope_id != command.scope_id:
            continue
        event = ArtifactDeleted() if domain is artifacts else TurnDeleted()
        ended.append(On(domain, part_id, event))
    return [*ended, On(offspring, command.page, OffspringEnded()), ScopeSwept(context.now)]


def _alive(state: ScopeState, scope_id: str) -> Scope:
    if state.ends_at is not None:
        raise not_found(scopes.stream_id(scope_id))
    return state.record


def _open(state: ScopeState, scope_id: str) -> Scope:
    scope = _alive(state, scope_id)
    if not scope.is_active:
        raise Reject("STATE_CONFLICT", "the scope is closed", closed_at=scope.closed_at)
    return scope


# -------------------------------------------------------------------------------------- folding


@scopes.evolve
def _created(_: ScopeState | None, event: ScopeCreated) -> ScopeState:
    return ScopeState(record=event.scope)


@scopes.evolve
def _updated(state: ScopeState, event: ScopeUpdated) -> ScopeState:
    return replace(state, record=event.scope)


@scopes.evolve
def _checkpointed(state: ScopeState, event: ScopeCheckpointed) -> ScopeState:
    return replace(state, record=event.scope)


@scopes.evolve
def _closed(state: ScopeState, event: ScopeClosed) -> ScopeState:
    return replace(state, record=event.scope)


@scopes.evolve
def _turned(state: ScopeState, _: ScopePageTurned) -> ScopeState:
    return replace(state, pages=state.pages + 1)


@scopes.evolve
def _deleted(state: ScopeState, event: ScopeDeleted) -> ScopeState | None:
    return None if state.pages == 0 else replace(state, ends_at=event.at)


@scopes.evolve
def _swept(state: ScopeState, event: ScopeSwept) -> ScopeState | None:
    return None if state.pages == 1 else replace(state, pages=state.pages - 1, ends_at=event.at)


@scopes.due
def _due(state: ScopeState, scope_id: str) -> Due | None:
    if state.ends_at is None:
        return None
    page = page_id(scopes.stream_id(scope_id), state.pages - 1)
    return Due(state.ends_at, SweepScope(scope_id=scope_id, page=page))


@scopes.index
def _index(state: ScopeState) -> Index:
    if state.ends_at is not None:
        return Index()
    it = state.record
    return Index(keys=("all", f"trajectory_id:{it.trajectory_id}"), title=it.name)
