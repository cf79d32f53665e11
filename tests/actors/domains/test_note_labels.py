"""What is said about a note beside its text: tags, metadata, its project, and what lists it."""

from __future__ import annotations

from typing import Any

import pytest

from dalsegno.actors.domains.notes import (
    LINKS_MAX,
    LIVE,
    METADATA_BYTES_MAX,
    METADATA_KEYS_MAX,
    TAGS_MAX,
    ApplyPatch,
    CreateNote,
    DeleteMetadata,
    DeleteNote,
    NoteCreated,
    PutMetadata,
    RollbackNote,
    SetProject,
    SetTags,
    SetTitle,
    link_key,
    notes,
    project_key,
    tag_key,
)
from dalsegno.actors.domains.projects import Project
from dalsegno.protocol import PatchOp, Reject, http_status

from ._notebook import START, Notebook, begun, refused

PROJECT = Project(name="Engine", description="", created_at=START)


def keys(notebook: Notebook) -> tuple[str, ...]:
    return notes.indexed(notebook.state).keys


def refusal(notebook: Notebook, command: Any) -> tuple[str, int]:
    with pytest.raises(Reject) as caught:
        notebook.send(command)
    return caught.value.code, http_status(caught.value)


# ----------------------------------------------------------------------------------------- tags


def test_tags_are_replaced_each_once_in_their_order() -> None:
    notebook = begun()
    notebook.send(SetTags("n1", ["b", " a ", "b", "Cafe\u0301"]))
    assert notebook.note().tags == ("b", "a", "Caf\u00e9")
    notebook.send(SetTags("n1", ["z"], base_version=2))
    assert (notebook.note().tags, notebook.note().version) == (("z",), 3)
    assert notebook.log[-1] == ("note_tags_updated", 1, '{"tags":["z"],"version":3}')
    notebook.send(SetTags("n1", []))
    assert notebook.note().tags == ()


def test_the_same_tags_again_change_nothing() -> None:
    notebook = begun()
    notebook.send(SetTags("n1", ["a"]))
    assert notebook.send(SetTags("n1", ["a", " a"])) is None
    assert notebook.note().version == 2


@pytest.mark.parametrize(
    "tags", [[""], [" "], ["a\nb"], ["x" * 65], [str(n) for n in range(TAGS_MAX + 1)]]
)
def test_what_are_no_tags_is_refused(tags: list[str]) -> None:
    assert refused(begun(), SetTags("n1", tags)) == "BAD_REQUEST"


# ------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "x", [1, {"a": None}], {"a": {"b": []}}])
def test_metadata_is_any_json(value: object) -> None:
    notebook = begun()
    notebook.send(PutMetadata("n1", "due.date", value))
    assert notebook.note().metadata == {"due.date": value}
    assert notebook.send(PutMetadata("n1", "due.date", value)) is None, "it is so already"
    assert notebook.at(2) == notebook.state
    assert notes.decode_state(notes.encode_state(notebook.state)) == notebook.state
    notebook.send(DeleteMetadata("n1", "due.date", base_version=2))
    assert notebook.note().metadata == {}
    assert notebook.send(DeleteMetadata("n1", "due.date")) is None, "it is gone already"
    assert [name for name, _, _ in notebook.log[1:]] == [
        "note_metadata_updated",
        "note_metadata_deleted",
    ]


def test_a_value_that_python_takes_for_the_same_is_another() -> None:
    notebook = begun()
    notebook.send(PutMetadata("n1", "a", 1))
    notebook.send(PutMetadata("n1", "a", True))
    assert notebook.note().metadata["a"] is True


def test_a_state_that_was_folded_on_is_not_changed() -> None:
    notebook = begun()
    notebook.send(PutMetadata("n1", "a", 1))
    before = notebook.note()
    notebook.send(PutMetadata("n1", "b", 2))
    notebook.send(DeleteMetadata("n1", "a"))
    assert (before.metadata, notebook.note().metadata) == ({"a": 1}, {"b": 2})


@pytest.mark.parametrize("key", ["", "A", "a b", "-a", "é", "x" * 65, "a/b"])
def test_a_key_is_a_lower_case_slug(key: str) -> None:
    assert refused(begun(), PutMetadata("n1", key, 1)) == "BAD_REQUEST"
    assert refused(begun(), DeleteMetadata("n1", key)) == "BAD_REQUEST"


def test_the_systems_keys_are_not_for_clients() -> None:
    for command in (PutMetadata("n1", "system.a", 1), DeleteMetadata("n1", "system.a")):
        assert refusal(begun(), command) == ("RULE_INVALID", 422)
    begun().send(PutMetadata("n1", "systema", 1))


def test_metadata_is_bounded_in_keys_and_in_bytes() -> None:
    notebook = begun()
    fits = METADATA_BYTES_MAX - len('{"a":""}')
    notebook.send(PutMetadata("n1", "a", "x" * fits))
    assert refused(notebook, PutMetadata("n1", "b", None)) == "PAYLOAD_TOO_LARGE"
    notebook.send(PutMetadata("n1", "a", 0))
    for n in range(METADATA_KEYS_MAX - 1):
        notebook.send(PutMetadata("n1", f"k{n}", n))
    assert refused(notebook, PutMetadata("n1", "b", None)) == "PAYLOAD_TOO_LARGE"
    notebook.send(PutMetadata("n1", "a", 1))


# ------------------------------------------------------------------------------------- projects


def test_a_note_belongs_to_a_project_that_there_is_or_to_none() -> None:
    notebook = Notebook(projects={"p": PROJECT})
    notebook.send(CreateNote("A", note_id="n1", access_scope="project", project_id="p"))
    assert (notebook.note().project_id, notebook.note().access_scope) == ("p", "workspace")
    assert notebook.send(SetProject("n1", "p")) is None
    notebook.send(SetProject("n1", None, base_version=1))
    assert notebook.note().project_id is None
    assert notebook.log[-1] == ("note_project_updated", 1, '{"project_id":null,"version":2}')
    assert refusal(notebook, SetProject("n1", "other")) == ("PROJECT_SCOPE_INVALID", 422)
    for create in (
        CreateNote("A", note_id="n2", project_id="other"),
        CreateNote("A", note_id="n2", access_scope="project"),
    ):
        assert refusal(Notebook(), create) == ("PROJECT_SCOPE_INVALID", 422)


def test_a_note_stays_where_a_deleted_project_was_until_it_is_moved() -> None:
    notebook = Notebook(projects={"p": PROJECT})
    notebook.send(CreateNote("A", note_id="n1", project_id="p"))
    del notebook.projects["p"]
    assert notebook.send(SetProject("n1", "p")) is None
    notebook.send(SetTitle("n1", "B", 1))
    assert notebook.note().project_id == "p"


# ------------------------------------------------------------------------------ what all share

LABELS = (
    SetTags("n1", ["a"], 1),
    PutMetadata("n1", "a", 1, 1),
    DeleteMetadata("n1", "a", 1),
    SetProject("n1", None, 1),
)


@pytest.mark.parametrize("command", LABELS, ids=lambda command: type(command).__name__)
def test_x_occ_3_every_change_obeys_its_base_version(command: Any) -> None:
    notebook = begun()
    notebook.send(SetTitle("n1", "B", 1))
    assert refused(notebook, command) == "VERSION_CONFLICT"


@pytest.mark.parametrize("command", LABELS, ids=lambda command: type(command).__name__)
def test_a_deleted_note_is_not_labelled(command: Any) -> None:
    notebook = begun()
    notebook.send(DeleteNote("n1"))
    assert refused(notebook, type(command)(*list(vars_of(command))[:-1])) == "NOTE_NOT_FOUND"


def vars_of(command: Any) -> Any:
    return (getattr(command, name) for name in command.__struct_fields__)


def test_a_rollback_is_about_the_text() -> None:
    notebook = begun()
    notebook.send(SetTags("n1", ["a"]))
    notebook.send(PutMetadata("n1", "k", 1))
    notebook.send(RollbackNote("n1", 1))
    note = notebook.note()
    assert (note.version, note.tags, note.metadata) == (4, ("a",), {"k": 1})


def test_a_note_of_before_is_read_as_one_without_labels() -> None:
    payload = (
        '{"title":"A","markdown":"[[B]]","version":1,"note_kind":"markdown",'
        '"access_scope":"workspace","created_by":null}'
    )
    event = notes.decode("note_created", 1, payload)
    assert event == NoteCreated("A", "[[B]]", 1, "markdown", "workspace", None)
    note = notes.evolve_by(None, event)
    assert note is not None
    assert (note.tags, note.metadata, note.project_id, note.created_at) == ((), {}, None, None)
    assert link_key("b") in notes.indexed(note).keys
    assert notes.version == 2, "a state that was stored before knows no links"


# -------------------------------------------------------------------------------------- listing


def test_a_note_is_listed_by_its_tags_its_project_and_what_it_links_to() -> None:
    notebook = Notebook(projects={"p": PROJECT})
    notebook.send(CreateNote("A", "to [[B]] and [[b]]", note_id="n1", project_id="p"))
    notebook.send(SetTags("n1", ["x", "y"]))
    labels = {tag_key("x"), tag_key("y"), project_key("p")}
    of_all = {tag_key(t, deleted_too=True) for t in "xy"} | {project_key("p", deleted_too=True)}
    assert set(keys(notebook)) == {LIVE, link_key("B")} | labels | of_all
    assert len(keys(notebook)) == 8, "each once"
    notebook.send(DeleteNote("n1"))
    assert set(keys(notebook)) == of_all
    notebook.send(RollbackNote("n1", 2))
    assert set(keys(notebook)) == {LIVE, link_key("B")} | labels | of_all


def test_a_link_is_found_by_its_title_in_any_case() -> None:
    for title, link in (
        ("Straße", "[[STRASSE]]"),
        ("Café", "[[ CAFE\u0301 ]]"),
        ("A b", "[[a B]]"),
    ):
        assert link_key(title) in keys(begun(link)), title
    for text in ("[[]]", "[[A\nb]]", "[A b]", "[[A b]", "[[[A] b]]", f"[[{'x' * 301}]]"):
        assert keys(begun(text)) == (LIVE,), text
    assert link_key("x" * 300) in keys(begun(f"[[{'x' * 300}]]"))


def test_a_patch_makes_and_breaks_links() -> None:
    notebook = begun("to [[Home]], again [[Home]]")
    notebook.send(ApplyPatch("n1", [PatchOp(retain=5), PatchOp(insert="x")], 1))
    assert keys(notebook) == (LIVE, link_key("xHome"), link_key("Home"))
    notebook.send(ApplyPatch("n1", [PatchOp(retain=20), PatchOp(delete=1)], 2))
    assert keys(notebook) == (LIVE, link_key("xHome"))
    notebook.send(ApplyPatch("n1", [PatchOp(delete=4)], 3))
    assert keys(notebook) == (LIVE,)


def test_links_are_bounded() -> None:
    text = "".join(f"[[{n}]]" for n in range(LINKS_MAX + 1))
    found = keys(begun(text))
    assert link_key(str(LINKS_MAX - 1)) in found
    assert link_key(str(LINKS_MAX)) not in found
    far = "[[" * 5000 + "[[A]]"
    assert keys(begun(far)) == (LIVE,), "a text of nothing but brackets costs no turn"
