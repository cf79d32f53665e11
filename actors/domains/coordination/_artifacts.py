"""How artifacts and turns, the parts of scopes, are decided and folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from dalsegno.protocol import Context, Index, On, Reject, Touched

from ._offspring import Named
from ._scopes import add_to_scope, pages_of_scope
from ._tree import (
    Artifact,
    ArtifactCreated,
    ArtifactDeleted,
    ArtifactUpdated,
    CreateArtifact,
    CreateTurn,
    DeleteArtifact,
    NewArtifact,
    NewTurn,
    Turn,
    TurnCreated,
    TurnDeleted,
    UpdateArtifact,
    artifacts,
    check_scope,
    living_trajectory,
    scopes,
    trajectories,
    turns,
)
from ._words import changed, fields_of


def _of_artifact(command: CreateArtifact) -> Named:
    return [(trajectories, command.trajectory_id), (scopes, command.scope_id)]


@artifacts.decide(touches=_of_artifact, follows=pages_of_scope)
def _create(
    artifact: Artifact | None, command: CreateArtifact, context: Context, touched: Touched
) -> Sequence[ArtifactCreated | On[Any]]:
    if artifact is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "an artifact has this id")
    living_trajectory(command.trajectory_id, touched)
    check_scope(command.scope_id, command.trajectory_id, touched)
    given = fields_of(command, NewArtifact)
    created = Artifact(**given, created_at=context.now, updated_at=context.now)
    part = artifacts.stream_id(context.entity_id)
    return [ArtifactCreated(created), *add_to_scope(command.scope_id, part, touched)]


@artifacts.decide
def _update(
    artifact: Artifact, command: UpdateArtifact, context: Context
) -> ArtifactUpdated | None:
    after = changed(artifact, command)
    return None if after == artifact else ArtifactUpdated(replace(after, updated_at=context.now))


@artifacts.decide
def _delete(_artifact: Artifact, _command: DeleteArtifact) -> ArtifactDeleted:
    return ArtifactDeleted()


@artifacts.evolve
def _created(_: Artifact | None, event: ArtifactCreated) -> Artifact:
    return event.artifact


@artifacts.evolve
def _updated(_: Artifact, event: ArtifactUpdated) -> Artifact:
    return event.artifact


@artifacts.evolve
def _deleted(_: Artifact, _event: ArtifactDeleted) -> Artifact | None:
    return None


@artifacts.index
def _index(it: Artifact) -> Index:
    keys = (
        "all",
        f"trajectory_id:{it.trajectory_id}",
        f"scope_id:{it.scope_id}",
        f"artifact_type:{it.artifact_type}",
    )
    return Index(keys=keys, title=it.name)


# ---------------------------------------------------------------------------------------- turns


@turns.decide(touches=lambda command: [(scopes, command.scope_id)], follows=pages_of_scope)
def _add(
    turn: Turn | None, command: CreateTurn, context: Context, touched: Touched
) -> Sequence[TurnCreated | On[Any]]:
    if turn is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a turn has this id")
    created = Turn(**fields_of(command, NewTurn), created_at=context.now)
    part = turns.stream_id(context.entity_id)
    return [TurnCreated(created), *add_to_scope(command.scope_id, part, touched)]


@turns.evolve
def _turn_created(_: Turn | None, event: TurnCreated) -> Turn:
    return event.turn


@turns.evolve
def _turn_deleted(_: Turn, _event: TurnDeleted) -> Turn | None:
    return None


@turns.index
def _turn_index(it: Turn) -> Index:
    return Index(keys=(f"scope_id:{it.scope_id}",), sort=f"{it.sequence:016}")
