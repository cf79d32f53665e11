"""One note, decided, written and folded as in a workspace, without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dalsegno.actors.domains.notes import CreateNote, Note, NoteCommand, notes
from dalsegno.actors.domains.projects import Project
from dalsegno.protocol import Context, Past, Principal, Reject, Touched

START = datetime(2026, 2, 13, tzinfo=UTC)


@dataclass
class Notebook:
    """One note, decided, written and folded as in a workspace, without one."""

    log: list[tuple[str, int, str]] = field(default_factory=list)
    state: Note | None = None
    projects: dict[str, Project] = field(default_factory=dict)
    """Those that there are."""

    def send(self, command: NoteCommand, user_id: str | None = "u1") -> Any:
        decider = notes.decider(type(command))
        if self.state is None and not decider.takes_none:
            raise Reject("NOTE_NOT_FOUND")
        base_version = getattr(command, "base_version", None)
        if base_version is not None and base_version != len(self.log):
            raise Reject("VERSION_CONFLICT")
        needs = None if decider.needs is None else decider.needs(command)
        extras = {
            "context": Context(
                entity_id="e",
                principal=Principal(user_id),
                role="editor",
                now=START + timedelta(minutes=len(self.log)),
                new_id=lambda: "id",
            ),
            "touched": Touched(
                {
                    domain.stream_id(entity_id): self.projects.get(entity_id)
                    for domain, entity_id in (decider.touches or (lambda _: ()))(command)
                }
            ),
            "past": None if needs is None else Past(version=needs, state=self.at(needs)),
        }
        event = decider.function(self.state, command, *(extras[name] for name in decider.extras))
        if event is not None:
            self.log.append(notes.encode(event))
            self.state = notes.evolve_by(self.state, event)
        return event

    def at(self, version: int) -> Note | None:
        """Fold the log up to a version."""
        state = None
        for record in self.log[:version]:
            event = notes.decode(*record)
            assert event is not None
            state = notes.evolve_by(state, event)
        return state

    def note(self) -> Note:
        assert self.state is not None
        return self.state


def begun(markdown: str = "Hello world", title: str = "A note") -> Notebook:
    notebook = Notebook()
    notebook.send(CreateNote(title, markdown, note_id="n1"))
    return notebook


def refused(notebook: Notebook, command: NoteCommand) -> str:
    """Send a command that must be refused, and check that nothing happened."""
    before = (list(notebook.log), notebook.state)
    with pytest.raises(Reject) as caught:
        notebook.send(command)
    assert (notebook.log, notebook.state) == before
    return caught.value.code
