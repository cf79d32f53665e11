"""Agents' notes: what was learned, and from which trajectories and artifacts."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from dalsegno.protocol import Context, Domain, Index, Reject, Touched

from ._messages import check_artifacts
from ._offspring import Named
from ._tree import artifacts, living_trajectory, trajectories
from ._words import Content, Document, Ids, Label, Name, NoteType, changed, fields_of


class NewAgentNote(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a note when it is made."""

    note_type: NoteType
    title: Name
    content: Content
    source_trajectory_ids: Ids
    source_artifact_ids: Ids
    ttl: Label
    metadata: Document | None = None


class AgentNoteChange(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a note that may be changed."""

    note_type: NoteType | UnsetType = UNSET
    title: Name | UnsetType = UNSET
    content: Content | UnsetType = UNSET
    ttl: Label | UnsetType = UNSET
    metadata: Document | UnsetType | None = UNSET


class AgentNote(NewAgentNote, frozen=True, kw_only=True):
    """A note of agents: it outlives what it was learned from."""

    created_at: datetime
    updated_at: datetime


class CreateAgentNote(NewAgentNote, frozen=True, kw_only=True):
    """Make a note; without an id the runtime makes one."""

    agent_note_id: str | None = None


class UpdateAgentNote(AgentNoteChange, frozen=True, kw_only=True):
    """Change a note."""

    agent_note_id: str
    base_version: int | None = None


class DeleteAgentNote(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a note."""

    agent_note_id: str
    base_version: int | None = None


class AgentNoteCreated(msgspec.Struct, frozen=True):
    """A note was made."""

    note: AgentNote


class AgentNoteUpdated(msgspec.Struct, frozen=True):
    """A note was changed."""

    note: AgentNote


class AgentNoteDeleted(msgspec.Struct, frozen=True):
    """A note was deleted."""


agent_notes = Domain(
    "agent_note",
    state=AgentNote,
    commands=CreateAgentNote | UpdateAgentNote | DeleteAgentNote,
    events=AgentNoteCreated | AgentNoteUpdated | AgentNoteDeleted,
)


def _named(command: CreateAgentNote) -> Named:
    return [
        *((trajectories, each) for each in command.source_trajectory_ids),
        *((artifacts, each) for each in command.source_artifact_ids),
    ]


@agent_notes.decide(touches=_named)
def _create(
    note: AgentNote | None, command: CreateAgentNote, context: Context, touched: Touched
) -> AgentNoteCreated:
    if note is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a note has this id")
    for trajectory_id in command.source_trajectory_ids:
        living_trajectory(trajectory_id, touched)
    check_artifacts(command.source_artifact_ids, touched)
    given = fields_of(command, NewAgentNote)
    return AgentNoteCreated(AgentNote(**given, created_at=context.now, updated_at=context.now))


@agent_notes.decide
def _update(note: AgentNote, command: UpdateAgentNote, context: Context) -> AgentNoteUpdated | None:
    after = changed(note, command)
    return None if after == note else AgentNoteUpdated(replace(after, updated_at=context.now))


@agent_notes.decide
def _delete(_note: AgentNote, _command: DeleteAgentNote) -> AgentNoteDeleted:
    return AgentNoteDeleted()


@agent_notes.evolve
def _created(_: AgentNote | None, event: AgentNoteCreated) -> AgentNote:
    return event.note


@agent_notes.evolve
def _updated(_: AgentNote, event: AgentNoteUpdated) -> AgentNote:
    return event.note


@agent_notes.evolve
def _deleted(_: AgentNote, _event: AgentNoteDeleted) -> AgentNote | None:
    return None


@agent_notes.index
def _index(it: AgentNote) -> Index:
    sources = (f"source_trajectory_id:{each}" for each in dict.fromkeys(it.source_trajectory_ids))
    return Index(keys=("all", f"note_type:{it.note_type}", *sources), title=it.title)
