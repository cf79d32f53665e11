"""The notes domain against a model (M2), through its own declaration and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.notes import (
    ApplyPatch,
    CreateNote,
    DeleteMetadata,
    DeleteNote,
    Note,
    NoteCommand,
    NoteCreated,
    NoteEvent,
    NotePatched,
    NoteRollback,
    PutMetadata,
    RollbackNote,
    SetTags,
    SetTitle,
    notes,
)
from dalsegno.protocol import (
    SEQ_MAX,
    Limits,
    PatchOp,
    Reject,
    apply_patch,
)

from ._notebook import START, Notebook, begun, refused

# ------------------------------------------------------------------------------ the model, M2


Labels: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]
"""Tags and metadata."""


@dataclass
class Model:
    """All versions of a note as (title, characters, deleted, labels)."""

    versions: list[tuple[str, list[str], bool, Labels]] = field(default_factory=list)

    def send(self, command: NoteCommand) -> str | None:
        """Return the code of the refusal, or None if it is accepted."""
        base_version = getattr(command, "base_version", None)
        match command:
            case CreateNote(title=title, markdown=markdown):
                if self.versions:
                    return "NOTE_EXISTS"
                self.versions.append((title, list(markdown), False, ((), {})))
                return None
        if not self.versions:
            return "NOTE_NOT_FOUND"
        if base_version not in {None, len(self.versions)}:
            return "VERSION_CONFLICT"
        title, text, deleted, labels = self.versions[-1]
        match command:
            case DeleteNote():
                if not deleted:
                    self.versions.append((title, text, True, labels))
            case RollbackNote(target_version=target):
                if not 1 <= target <= len(self.versions):
                    return "NOTE_NOT_FOUND"
                if self.versions[target - 1][2]:
                    return "INVALID_PATCH"
                self.versions.append((*self.versions[target - 1][:3], labels))
            case _ if deleted:
                return "NOTE_NOT_FOUND"
            case SetTitle(title=title):
                self.versions.append((title, text, False, labels))
            case ApplyPatch(patch_ops=ops):
                done = self.patched(text, ops)
                if done is None:
                    return "INVALID_PATCH"
                self.versions.append((title, done, False, labels))
            case SetTags() | PutMetadata() | DeleteMetadata():
                changed = self.labelled(labels, command)
                if changed != labels:  # what is so already is no write
                    self.versions.append((title, text, False, changed))
        return None

    @staticmethod
    def labelled(labels: Labels, command: SetTags | PutMetadata | DeleteMetadata) -> Labels:
        tags, metadata = labels
        match command:
            case SetTags(tags=given):
                return tuple(sorted(set(given), key=list(given).index)), metadata
            case PutMetadata(key=key, value=value):
                return tags, metadata | {key: value}
            case DeleteMetadata(key=gone):
                return tags, {key: value for key, value in metadata.items() if key != gone}

    @staticmethod
    def patched(text: list[str], ops: Any) -> list[str] | None:
        at, done = 0, list[str]()
        for op in ops:
            match msgspec.to_builtins(op):
                case {"insert": str(inserted)}:
                    done += inserted
                case {"retain": int(count)}:
                    done += text[at : at + count]
                    at += count
                case {"delete": int(count)}:
                    at += count
        return None if at > len(text) else done + text[at:]


titles = st.sampled_from(["a", "Ünïcode 𝄋", "x" * 300])
ops = st.one_of(
    st.builds(PatchOp, retain=st.integers(0, 4)),
    st.builds(PatchOp, insert=st.sampled_from(["", "ab", "é", "𝄋e\u0301"])),
    st.builds(PatchOp, delete=st.integers(0, 3)),
)
lags = st.sampled_from([0, 0, 0, 0, 1, -1])
optional_lags = st.none() | lags
steps = st.one_of(
    st.tuples(st.just("create"), titles, st.sampled_from(["", "Hello", "𝄋𝄋𝄋"])),
    st.tuples(st.just("patch"), st.lists(ops, max_size=4), lags),
    st.tuples(st.just("patch"), st.lists(ops, max_size=4), lags),
    st.tuples(st.just("title"), titles, lags),
    st.tuples(st.just("delete"), optional_lags),
    st.tuples(st.just("rollback"), st.integers(-1, 9), optional_lags),
    st.tuples(st.just("tags"), st.lists(st.sampled_from("abc"), max_size=4), optional_lags),
    st.tuples(st.just("put"), st.sampled_from("kl"), st.integers(0, 1), optional_lags),
    st.tuples(st.just("remove"), st.sampled_from("kl"), optional_lags),
)


def command_of(step: tuple[Any, ...], version: int) -> NoteCommand:
    match step:
        case ("create", title, markdown):
            return CreateNote(title, markdown, note_id="n1")
        case ("patch", patch, lag):
            return ApplyPatch("n1", patch, version - lag)
        case ("title", title, lag):
            return SetTitle("n1", title, version - lag)
        case ("delete", lag):
            return DeleteNote("n1", None if lag is None else version - lag)
        case ("rollback", target, lag):
            return RollbackNote("n1", target, None if lag is None else version - lag)
        case ("tags", tags, lag):
            return SetTags("n1", tags, None if lag is None else version - lag)
        case ("put", key, value, lag):
            return PutMetadata("n1", key, value, None if lag is None else version - lag)
        case ("remove", key, lag):
            return DeleteMetadata("n1", key, None if lag is None else version - lag)
    raise AssertionError(step)


@given(st.lists(steps, max_size=20))
def test_m2_notes_do_what_the_model_does(script: list[tuple[Any, ...]]) -> None:
    notebook, model = Notebook(), Model()
    notebook.send(CreateNote("a", "Hello", note_id="n1"))
    model.send(CreateNote("a", "Hello", note_id="n1"))
    for step in script:
        command = command_of(step, len(model.versions))
        expected = model.send(command)
        if expected is not None:
            assert refused(notebook, command) == expected
            continue
        notebook.send(command)
        note = notebook.note()
        title, text, deleted, labels = model.versions[-1]
        assert (note.title, note.markdown, note.deleted_at is not None) == (
            title,
            "".join(text),
            deleted,
        )
        assert (note.tags, note.metadata) == labels
        # KJ-SEQ-2: the version counts the accepted writes, and is the number in the stream.
        assert note.version == len(notebook.log) == len(model.versions)
    # X-ROLL-1: history stays as it was; what the log holds folds to each of its versions.
    for version, (title, text, deleted, labels) in enumerate(model.versions, 1):
        then = notebook.at(version)
        assert then is not None
        assert (then.version, then.title, then.markdown) == (version, title, "".join(text))
        assert (then.deleted_at is not None, (then.tags, then.metadata)) == (deleted, labels)
    assert notebook.at(len(notebook.log)) == notebook.state
    assert notes.decode_state(notes.encode_state(notebook.state)) == notebook.state


@given(st.lists(st.lists(ops, max_size=4), max_size=8))
def test_a_reader_that_applies_the_patches_has_the_text(patches: list[list[PatchOp]]) -> None:
    notebook = begun(seen := "Hello")
    for patch in patches:
        try:
            event = notebook.send(ApplyPatch("n1", patch, notebook.note().version))
        except Reject:
            continue
        seen = apply_patch(seen, event.patch_ops)
        assert len(seen) == event.length
    assert seen == notebook.note().markdown


# ---------------------------------------------------------------------------------- the words


def test_the_vocabulary_is_the_seeds() -> None:
    notes.check()
    assert list(notes.commands) == [
        "create_note",
        "apply_patch",
        "set_title",
        "delete_note",
        "rollback_note",
        "set_tags",
        "put_metadata",
        "delete_metadata",
        "set_project",
    ]
    fields = {name: event.__struct_fields__ for name, event in notes.events.items()}
    assert fields == {
        "note_created": (
            "title",
            "markdown",
            "version",
            "note_kind",
            "access_scope",
            "created_by",
            "created_at",
            "project_id",
        ),
        "note_patched": ("patch_ops", "length", "version"),
        "note_title_updated": ("title", "version"),
        "note_deleted": ("version", "deleted_at"),
        "note_rollback": ("title", "markdown", "version", "rolled_back_to"),
        "note_tags_updated": ("tags", "version"),
        "note_metadata_updated": ("key", "value", "version"),
        "note_metadata_deleted": ("key", "version"),
        "note_project_updated": ("project_id", "version"),
    }
    repeats = {name: notes.decider(command).repeats for name, command in notes.commands.items()}
    assert [name for name in repeats if repeats[name] == "original"] == ["apply_patch"]
    assert notes.id_field == "note_id"


def test_a_life_as_it_stands_in_the_log() -> None:
    notebook = begun()
    ops = [PatchOp(retain=6), PatchOp(delete=5), PatchOp(insert="notes")]
    notebook.send(ApplyPatch("n1", ops, 1))
    notebook.send(SetTitle("n1", "Another", 2))
    notebook.send(DeleteNote("n1"))
    notebook.send(RollbackNote("n1", 2))
    assert notebook.log == [
        (
            "note_created",
            1,
            '{"title":"A note","markdown":"Hello world","version":1,"note_kind":"markdown",'
            '"access_scope":"workspace","created_by":"u1","created_at":"2026-02-13T00:00:00Z"}',
        ),
        (
            "note_patched",
            1,
            '{"patch_ops":[{"retain":6},{"delete":5},{"insert":"notes"}],"length":11,"version":2}',
        ),
        ("note_title_updated", 1, '{"title":"Another","version":3}'),
        ("note_deleted", 1, '{"version":4,"deleted_at":"2026-02-13T00:03:00Z"}'),
        (
            "note_rollback",
            1,
            '{"title":"A note","markdown":"Hello notes","version":5,"rolled_back_to":2}',
        ),
    ]
    assert notebook.state == Note(
        version=5,
        title="A note",
        markdown="Hello notes",
        note_kind="markdown",
        access_scope="workspace",
        created_by="u1",
        created_at=START,
    )


def test_a_command_is_read_from_the_wire() -> None:
    document = b'{"note_id":"n1","patch_ops":[{"retain":6},{"insert":"x"}],"base_version":1}'
    command = msgspec.json.decode(document, type=notes.commands["apply_patch"])
    assert command == ApplyPatch("n1", [PatchOp(retain=6), PatchOp(insert="x")], 1)
    created = msgspec.json.decode(
        b'{"note_id":null,"title":"A"}', type=notes.commands["create_note"]
    )
    assert created == CreateNote("A")
    for required in (b'{"note_id":"n1","patch_ops":[]}', b'{"note_id":"n1","title":"A"}'):
        for name in ("apply_patch", "set_title"):
            with pytest.raises(msgspec.ValidationError):
                msgspec.json.decode(required, type=notes.commands[name])


def test_the_workspace_stream_says_which_note_changed_and_not_how() -> None:
    def seen(event: NoteEvent) -> object:
        return msgspec.to_builtins(notes.viewed(*notes.encode(event), "n1", 3))

    expected = {"note_id": "n1", "version": 3, "event_seq": 3}
    patch = NotePatched([PatchOp(retain=1), PatchOp(insert='"version":9')], 12, 3)
    assert seen(patch) == expected
    assert seen(NoteCreated("A", "x", 3, "markdown", "workspace", None)) == expected
    assert seen(NoteRollback("A", "x", 3, 1)) == {**expected, "rolled_back_to": 1}


def test_notes_are_listed_by_title() -> None:
    index = notes.indexed(begun(title="A note").note())
    assert (index.title, index.keys) == ("A note", ("live",))


# --------------------------------------------------------------------------------- the rules


def test_the_embedding_program_creates_as_nobody() -> None:
    notebook = Notebook()
    notebook.send(CreateNote("A note"), user_id=None)
    assert notebook.note().created_by is None
    assert notebook.note().markdown == ""


def test_an_id_is_used_once_also_after_its_note_was_deleted() -> None:
    notebook = begun()
    assert refused(notebook, CreateNote("Other", note_id="n1")) == "NOTE_EXISTS"
    notebook.send(DeleteNote("n1"))
    assert refused(notebook, CreateNote("Other", note_id="n1")) == "NOTE_EXISTS"


@pytest.mark.parametrize("title", ["", " ", "\u2003", "x" * 301, "two\nlines", "a\0", "\x7f"])
def test_what_is_no_title_is_refused(title: str) -> None:
    assert refused(Notebook(), CreateNote(title, note_id="n1")) == "BAD_REQUEST"
    assert refused(begun(), SetTitle("n1", title, 1)) == "BAD_REQUEST"


def test_kinds_and_scopes_that_are_not_offered_are_refused() -> None:
    assert refused(Notebook(), CreateNote("A", "", "video", note_id="n1")) == "BAD_REQUEST"
    for scope in ("private", ""):
        command = CreateNote("A", access_scope=scope, note_id="n1")
        assert refused(Notebook(), command) == "BAD_REQUEST"
    for kind in ("markdown", "settings", "media_image", "media_video"):
        assert Notebook().send(CreateNote("A", "", kind, note_id="n1")).note_kind == kind


def test_x_occ_1_a_stale_base_changes_nothing() -> None:
    notebook = begun()
    notebook.send(SetTitle("n1", "B", 1))
    assert refused(notebook, ApplyPatch("n1", [], 1)) == "VERSION_CONFLICT"
    assert refused(notebook, SetTitle("n1", "C", 1)) == "VERSION_CONFLICT"
    assert refused(notebook, DeleteNote("n1", 1)) == "VERSION_CONFLICT"
    assert refused(notebook, RollbackNote("n1", 1, 1)) == "VERSION_CONFLICT"


def test_a_patch_that_does_nothing_is_a_write() -> None:
    notebook = begun()
    notebook.send(ApplyPatch("n1", [], 1))
    assert notebook.note().version == 2


def test_a_deleted_note_is_changed_by_nothing_but_a_rollback() -> None:
    notebook = begun()
    notebook.send(DeleteNote("n1", 1))
    assert notebook.note().deleted_at == START + timedelta(minutes=1)
    assert refused(notebook, ApplyPatch("n1", [], 2)) == "NOTE_NOT_FOUND"
    assert refused(notebook, SetTitle("n1", "B", 2)) == "NOTE_NOT_FOUND"
    assert notebook.send(DeleteNote("n1")) is None
    assert notebook.note().version == 2


def test_x_roll_1_a_rollback_undeletes() -> None:
    notebook = begun()
    notebook.send(DeleteNote("n1"))
    assert refused(notebook, RollbackNote("n1", 2)) == "INVALID_PATCH"
    notebook.send(RollbackNote("n1", 1))
    note = notebook.note()
    assert (note.version, note.markdown, note.deleted_at) == (3, "Hello world", None)
    notebook.send(ApplyPatch("n1", [PatchOp(delete=6)], 3))
    assert notebook.note().markdown == "world"


@pytest.mark.parametrize("target", [-1, 0, 2, SEQ_MAX, SEQ_MAX + 1, 10**30])
def test_x_roll_1_a_rollback_to_a_version_that_never_was_is_refused(target: int) -> None:
    assert refused(begun(), RollbackNote("n1", target)) == "NOTE_NOT_FOUND"


def test_only_versions_that_a_store_can_hold_are_asked_for() -> None:
    needs = notes.decider(RollbackNote).needs
    assert needs is not None
    targets = [0, 1, SEQ_MAX, SEQ_MAX + 1]
    assert [needs(RollbackNote("n1", n)) for n in targets] == [None, 1, SEQ_MAX, None]


@pytest.mark.parametrize("character", ["a", "é", "𝄋"])
def test_a_text_is_bounded_by_its_bytes(character: str) -> None:
    fits = Limits().note_bytes_max // len(character.encode())
    assert (
        refused(Notebook(), CreateNote("A", character * (fits + 1), note_id="n1"))
        == "PAYLOAD_TOO_LARGE"
    )
    notebook = begun(character * fits)
    one_more = [PatchOp(insert=character)]
    assert refused(notebook, ApplyPatch("n1", one_more, 1)) == "PAYLOAD_TOO_LARGE"
    notebook.send(ApplyPatch("n1", [PatchOp(delete=1), PatchOp(insert=character)], 1))
    assert len(notebook.note().markdown) == fits


def test_an_overrun_is_an_invalid_patch() -> None:
    for op in (PatchOp(retain=12), PatchOp(delete=12)):
        assert refused(begun("Hello world"), ApplyPatch("n1", [op], 1)) == "INVALID_PATCH"
