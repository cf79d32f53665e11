"""Proposals and comments: each step in each status by each person, from the tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from dalsegno.actors.domains.reviews import COMMENT_STEPS, PROPOSAL_STEPS, reviews
from dalsegno.actors.domains.reviews._comments import (
    AddComment,
    CommentAdded,
    ReplyToComment,
    SelectComment,
)
from dalsegno.actors.domains.reviews._proposals import (
    AddReviewer,
    AdvanceProposal,
    CreateProposal,
    DeleteProposal,
    EditProposal,
    ProposalDeleted,
    RemoveReviewer,
)
from dalsegno.actors.domains.reviews._words import (
    COMMENTS_MAX,
    REPLIES_MAX,
    REVIEWERS_MAX,
    SELECTED_MAX,
    UNRESOLVED_MAX,
    CommentText,
    Name,
    Step,
)
from dalsegno.protocol import DomainError, Reject, http_status
from dalsegno.protocol.providers import ProviderSettings
from tests.actors.domains._desk import (
    COMMENT_STATUSES,
    PEOPLE,
    PROPOSAL_STATUSES,
    Desk,
    settle,
)

WHO = {
    "author": {"owner", "admin", "author"},
    "reviewer": {"owner", "admin", "reviewer"},
    "admin": {"owner", "admin"},
}
"""Who may: the proposal's author, a reviewer, an admin."""


def advance(step: str, proposal_id: str = "p", **more: Any) -> AdvanceProposal:
    return msgspec.convert({"proposal_id": proposal_id, "step": step, **more}, AdvanceProposal)


def answered(error: Reject) -> tuple[str, int]:
    return error.code, http_status(error)


def valid_steps(steps: dict[str, Step], status: str) -> list[str]:
    return sorted(name for name, step in steps.items() if status in step.sources)


# ------------------------------------------------------------------------------ steps of proposals


@pytest.mark.parametrize("status", PROPOSAL_STATUSES)
@pytest.mark.parametrize("step", PROPOSAL_STEPS)
def test_a_step_is_taken_by_who_may_from_where_it_begins(step: str, status: str) -> None:
    its = PROPOSAL_STEPS[step]
    for person in PEOPLE:
        desk = Desk()
        desk.propose(status=status)
        if person not in WHO[its.who]:
            assert answered(desk.refused(advance(step), person)) == ("ROLE_FORBIDDEN", 403)
        elif status not in its.sources:
            error = desk.refused(advance(step), person)
            assert answered(error) == ("INVALID_TRANSITION", 400)
            assert error.details["current"] == status
            assert error.details["valid"] == valid_steps(dict(PROPOSAL_STEPS), status)
        else:
            (event,) = desk.send(advance(step), person)
            assert (event.previous, event.status, event.by) == (status, its.target, person)
            assert desk.proposal().status == its.target
            approved_by = {"READY": person, "MERGED": "admin"}.get(its.target)
            assert desk.proposal().approved_by == approved_by


def test_every_status_is_reached_and_merged_is_the_end() -> None:
    assert {step.target for step in PROPOSAL_STEPS.values()} == {*PROPOSAL_STATUSES}
    assert valid_steps(dict(PROPOSAL_STEPS), "MERGED") == []


def test_nobody_takes_a_step_with_a_proposal_that_is_not_there() -> None:
    desk = Desk()
    for step in PROPOSAL_STEPS:
        assert answered(desk.refused(advance(step), "admin")) == ("PROPOSAL_NOT_FOUND", 404)


def test_with_comments_that_are_not_resolved_it_is_not_marked_ready() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    for status in COMMENT_STATUSES:
        desk.remark(f"c-{status}", status=status)
    error = desk.refused(advance("mark-ready"), "reviewer")
    assert answered(error) == ("COMMENTS_UNRESOLVED", 400)
    assert error.details["comment_ids"] == ["c-OPEN", "c-ACCEPTED"]
    for each in error.details["comment_ids"]:
        desk.send(settle(each, "resolve"), "author")
    desk.send(advance("mark-ready"), "reviewer")
    assert desk.proposal().status == "READY"


@pytest.mark.parametrize("status", PROPOSAL_STATUSES)
def test_what_was_approved_stays_as_it_is(status: str) -> None:
    desk = Desk()
    desk.propose(status=status)
    edit = EditProposal(proposal_id="p", description="else")
    if status in {"DRAFT", "REVIEW"}:
        desk.send(edit, "author")
        return
    error = desk.refused(edit, "author")
    assert answered(error) == ("INVALID_TRANSITION", 400)
    assert error.details["valid"] == valid_steps(dict(PROPOSAL_STEPS), status)


# ------------------------------------------------------------------------------- steps of comments


@pytest.mark.parametrize("status", COMMENT_STATUSES)
@pytest.mark.parametrize("step", COMMENT_STEPS)
def test_a_comment_is_settled_by_who_may_from_where_a_step_begins(step: str, status: str) -> None:
    its = COMMENT_STEPS[step]
    who = {**WHO, "commenter": {"owner", "admin", "reviewer"}}[its.who]
    for person in PEOPLE:
        desk = Desk()
        desk.propose(status="REVIEW")
        desk.remark(status=status)
        if person not in who:
            assert answered(desk.refused(settle("c", step), person)) == ("ROLE_FORBIDDEN", 403)
        elif status not in its.sources:
            error = desk.refused(settle("c", step), person)
            assert answered(error) == ("INVALID_TRANSITION", 400)
            assert error.details["current"] == status
            assert error.details["valid"] == valid_steps(dict(COMMENT_STEPS), status)
        else:
            event, _ = desk.send(settle("c", step), person)
            assert (event.status, event.by) == (its.target, person)
            assert event.reason == ("so" if its.has_reason else None)
            assert desk.comment().status == its.target
            is_open = its.target in {"OPEN", "ACCEPTED"}
            assert desk.proposal().unresolved == (("c",) if is_open else ())


@pytest.mark.parametrize("step", [name for name, step in COMMENT_STEPS.items() if step.has_reason])
def test_who_rejects_or_defers_says_why(step: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    error = desk.refused(settle("c", step, reason=None), "author")
    assert (answered(error), error.details["field"]) == (("BAD_REQUEST", 400), "reason")


@pytest.mark.parametrize("step", ["resolve", "reject", "defer"])
def test_what_is_settled_is_selected_no_longer(step: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    desk.send(SelectComment(proposal_comment_id="c"), "author")
    assert (desk.comment().is_selected, desk.proposal().selected) == (True, ("c",))
    desk.send(settle("c", step), "author")
    assert (desk.comment().is_selected, desk.proposal().selected) == (False, ())
    desk.send(settle("c", "reopen"), "reviewer")
    assert (desk.comment().is_selected, desk.proposal().selected) == (False, ())


@pytest.mark.parametrize("step", ["accept", "reopen"])
def test_what_is_still_to_be_done_stays_selected(step: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark(status="ACCEPTED" if step == "reopen" else "OPEN")
    desk.send(SelectComment(proposal_comment_id="c"), "author")
    desk.send(settle("c", step), "admin")
    assert (desk.comment().is_selected, desk.proposal().selected) == (True, ("c",))


# ------------------------------------------------------------------------------------ who else may


@pytest.mark.parametrize("person", PEOPLE)
def test_authors_and_admins_make_proposals(person: str) -> None:
    desk, command = Desk(), CreateProposal(proposal_id="p", name="One")
    if person in {"owner", "admin", "author", "other"}:
        desk.send(command, person)
        assert (desk.proposal().author_id, desk.proposal().status) == (person, "DRAFT")
    else:
        assert answered(desk.refused(command, person)) == ("ROLE_FORBIDDEN", 403)


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize(
    "command",
    [
        EditProposal(proposal_id="p", description="else"),
        DeleteProposal(proposal_id="p"),
        AddReviewer(proposal_id="p", user_id="reviewer"),
        RemoveReviewer(proposal_id="p", user_id="admin"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_proposal_is_its_authors_and_the_admins(command: msgspec.Struct, person: str) -> None:
    desk = Desk()
    desk.propose()
    desk.send(AddReviewer(proposal_id="p", user_id="admin"), "author")
    if person in WHO["author"]:
        assert desk.send(command, person)
    else:
        assert answered(desk.refused(command, person)) == ("ROLE_FORBIDDEN", 403)


@pytest.mark.parametrize("person", PEOPLE)
def test_who_takes_part_comments_and_replies(person: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    added = AddComment(proposal_id="p", target_file="a.md", comment_text="And?")
    reply = ReplyToComment(proposal_comment_id="c", reply_text="Because.")
    for command in (added, reply):
        if person in {"viewer", "editor", "stranger"}:
            assert answered(desk.refused(command, person)) == ("ROLE_FORBIDDEN", 403)
        else:
            assert desk.send(command, person)


@pytest.mark.parametrize("person", PEOPLE)
def test_the_author_selects(person: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    command = SelectComment(proposal_comment_id="c")
    if person in WHO["author"]:
        assert desk.send(command, person)
        assert desk.send(command, person) == []
    else:
        assert answered(desk.refused(command, person)) == ("ROLE_FORBIDDEN", 403)


@pytest.mark.parametrize("role", [*PEOPLE, "nobody"])
def test_reviewers_are_members_with_a_fitting_role(role: str) -> None:
    desk = Desk()
    desk.propose()
    command = AddReviewer(proposal_id="p", user_id=role)
    if role in WHO["reviewer"]:
        desk.send(command, "author")
        assert desk.proposal().reviewers == (role,)
        assert desk.send(command, "author") == []
        desk.send(RemoveReviewer(proposal_id="p", user_id=role), "author")
        assert desk.proposal().reviewers == ()
    else:
        error = desk.refused(command, "author")
        assert answered(error) == ("REVIEWER_UNFIT", 400)
        assert error.details["role"] == PEOPLE.get(role)
    gone = desk.refused(RemoveReviewer(proposal_id="p", user_id=role), "author")
    assert answered(gone) == ("REVIEWER_NOT_FOUND", 404)


# ---------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    "command",
    [
        lambda base: EditProposal(proposal_id="p", description="else", base_version=base),
        lambda base: advance("request-changes", base_version=base),
        lambda base: settle("c", "resolve", base_version=base),
        lambda base: SelectComment(proposal_comment_id="c", base_version=base),
        lambda base: DeleteProposal(proposal_id="draft", base_version=base),
    ],
)
def test_what_is_based_on_another_version_is_refused_with_the_current_one(command: Any) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.propose("draft")
    desk.remark()
    ids = command(0)
    stream = {"p": "proposal:p", "draft": "proposal:draft"}.get(
        getattr(ids, "proposal_id", ""), "proposal_comment:c"
    )
    current = desk.versions[stream]
    for base in (current - 1, current + 1, 0):
        error = desk.refused(command(base), "admin")
        assert answered(error) == ("VERSION_CONFLICT", 409)
        assert error.details["current_version"] == current
    desk.send(command(current), "admin")
    assert desk.versions[stream] == current + 1


# ------------------------------------------------------------------------------------------- names


def test_a_name_is_one_proposals_however_it_is_written() -> None:
    desk = Desk()
    desk.propose("p", name="Login")
    desk.propose("q", name="Logout")
    taken = CreateProposal(proposal_id="r", name="LOGIN")
    error = desk.refused(taken, "other")
    assert (answered(error), error.details["proposal_id"]) == (("NAME_TAKEN", 409), "p")
    renamed = EditProposal(proposal_id="q", name="login")
    assert answered(desk.refused(renamed, "author")) == ("NAME_TAKEN", 409)


def test_a_proposal_is_renamed_to_its_own_name_written_otherwise() -> None:
    desk = Desk()
    desk.propose(name="Login")
    (event,) = desk.send(EditProposal(proposal_id="p", name="LOGIN"), "author")
    assert (event.name, desk.proposal().name) == ("LOGIN", "LOGIN")
    error = desk.refused(CreateProposal(proposal_id="q", name="login"), "author")
    assert error.code == "NAME_TAKEN"
    assert desk.send(EditProposal(proposal_id="p", name="LOGIN"), "author") == []


def test_a_name_is_free_again_after_a_renaming_and_a_deletion() -> None:
    desk = Desk()
    desk.propose("p", name="Login")
    desk.send(EditProposal(proposal_id="p", name="Other"), "author")
    desk.propose("q", name="login")
    desk.send(DeleteProposal(proposal_id="q"), "author")
    desk.send(EditProposal(proposal_id="p", name="LOGIN"), "author")
    desk.propose("r", name="other")
    assert [desk.proposal(each).name for each in "pr"] == ["LOGIN", "other"]


@pytest.mark.parametrize(
    "name",
    ["", "-rf", " a", ".a", "a/b", "a\nb", "Login\n", "\n", "a\0", "é", "a" * 101, "a\tb", "a\r"],
)
def test_what_is_no_name_of_a_proposal(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, Name)


@pytest.mark.parametrize("name", ["a", "7", "Login flow 2.0", "a_b-c", "a" * 100])
def test_what_is_a_name_of_a_proposal(name: str) -> None:
    assert msgspec.convert(name, Name) == name


# ---------------------------------------------------------------------------------------- deletion


@pytest.mark.parametrize("status", PROPOSAL_STATUSES)
def test_only_a_draft_is_deleted(status: str) -> None:
    desk = Desk()
    desk.propose(status=status)
    command = DeleteProposal(proposal_id="p")
    if status == "DRAFT":
        assert isinstance(desk.send(command, "author")[0], ProposalDeleted)
        assert answered(desk.refused(command, "author")) == ("PROPOSAL_NOT_FOUND", 404)
    else:
        error = desk.refused(command, "author")
        assert answered(error) == ("INVALID_TRANSITION", 400)
        assert error.details["valid"] == valid_steps(dict(PROPOSAL_STEPS), status)


def test_nothing_is_done_with_the_comments_of_a_deleted_proposal() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    desk.send(advance("request-changes"), "reviewer")
    desk.send(DeleteProposal(proposal_id="p"), "author")
    for command in (
        *(settle("c", step) for step in COMMENT_STEPS),
        SelectComment(proposal_comment_id="c"),
        ReplyToComment(proposal_comment_id="c", reply_text="Oh."),
        AddComment(proposal_id="p", target_file="a.md", comment_text="Oh."),
    ):
        assert answered(desk.refused(command, "admin")) == ("PROPOSAL_NOT_FOUND", 404)


def test_what_is_merged_stays_as_it_is() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    for step in ("approve", "merge"):
        desk.send(advance(step), "admin")
    for command in (
        EditProposal(proposal_id="p", description="else"),
        AddReviewer(proposal_id="p", user_id="reviewer"),
        RemoveReviewer(proposal_id="p", user_id="reviewer"),
        settle("c", "resolve"),
        SelectComment(proposal_comment_id="c"),
        ReplyToComment(proposal_comment_id="c", reply_text="Oh."),
    ):
        error = desk.refused(command, "admin")
        assert answered(error) == ("INVALID_TRANSITION", 400)
        assert error.details["valid"] == []


# ---------------------------------------------------------------------------------------- comments


@pytest.mark.parametrize("status", PROPOSAL_STATUSES)
def test_comments_are_made_in_review(status: str) -> None:
    desk = Desk()
    desk.propose(status=status)
    command = AddComment(proposal_id="p", target_file="a.md", comment_text="Why?")
    if status == "REVIEW":
        desk.send(command, "reviewer")
        assert desk.proposal().comments == 1
    else:
        error = desk.refused(command, "reviewer")
        assert answered(error) == ("PROPOSAL_NOT_IN_REVIEW", 400)
        assert error.details["current"] == status


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0", ".staging/x"])
def test_a_comment_is_about_a_file_of_the_project(path: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    command = AddComment(proposal_id="p", target_file=path, comment_text="Why?")
    assert answered(desk.refused(command, "reviewer")) == ("PATH_FORBIDDEN", 400)
    moved = EditProposal(proposal_id="p", folder=path)
    if path:
        assert answered(desk.refused(moved, "author")) == ("PATH_FORBIDDEN", 400)


def test_cf_5_2_a_comment_concerns_the_author_and_the_reviewers_of_that_moment() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    told = []
    for reviewers in ([], ["reviewer"], ["reviewer", "admin"], ["admin"]):
        for each in {*desk.proposal().reviewers} - {*reviewers}:
            desk.send(RemoveReviewer(proposal_id="p", user_id=each), "author")
        for each in reviewers:
            desk.send(AddReviewer(proposal_id="p", user_id=each), "author")
        event = desk.send(AddComment(proposal_id="p", target_file="a", comment_text="b"), "other")[
            0
        ]
        assert isinstance(event, CommentAdded)
        told.append(event.notify)
    assert told == [
        ("author",),
        ("author", "reviewer"),
        ("admin", "author", "reviewer"),
        ("admin", "author"),
    ]
    desk.remark()
    for command in (
        SelectComment(proposal_comment_id="c"),
        ReplyToComment(proposal_comment_id="c", reply_text="So."),
        settle("c", "resolve"),
    ):
        assert desk.send(command, "author")[0].notify == ("admin", "author")


def test_a_proposal_has_so_many_unresolved_comments() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    for number in range(UNRESOLVED_MAX):
        desk.remark(f"c{number}")
    one_more = AddComment(proposal_id="p", target_file="a.md", comment_text="Why?")
    assert answered(desk.refused(one_more, "reviewer")) == ("QUOTA_EXCEEDED", 409)
    desk.send(settle("c0", "accept"), "author")
    desk.send(settle("c0", "resolve"), "author")
    desk.send(one_more, "reviewer")
    assert answered(desk.refused(settle("c0", "reopen"), "reviewer")) == ("QUOTA_EXCEEDED", 409)
    desk.send(settle("c1", "defer"), "author")
    desk.send(settle("c0", "reopen"), "reviewer")
    assert len(desk.proposal().unresolved) == UNRESOLVED_MAX


def test_a_proposal_has_so_many_comments_in_all() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    for number in range(COMMENTS_MAX):
        desk.remark(f"c{number}", status="RESOLVED")
    one_more = AddComment(proposal_id="p", target_file="a.md", comment_text="Why?")
    assert answered(desk.refused(one_more, "reviewer")) == ("QUOTA_EXCEEDED", 409)


def test_so_many_comments_are_selected() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    for number in range(SELECTED_MAX + 1):
        desk.remark(f"c{number}")
        command = SelectComment(proposal_comment_id=f"c{number}")
        if number < SELECTED_MAX:
            desk.send(command, "author")
        else:
            assert answered(desk.refused(command, "author")) == ("QUOTA_EXCEEDED", 409)
    desk.send(SelectComment(proposal_comment_id="c0", selected=False), "author")
    desk.send(command, "author")


@pytest.mark.parametrize("status", COMMENT_STATUSES)
def test_only_what_is_not_resolved_is_selected(status: str) -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark(status=status)
    command = SelectComment(proposal_comment_id="c")
    if status in {"OPEN", "ACCEPTED"}:
        desk.send(command, "author")
        assert desk.proposal().selected == ("c",)
    else:
        assert answered(desk.refused(command, "author")) == ("COMMENT_NOT_OPEN", 400)


def test_a_comment_has_so_many_replies() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    command = ReplyToComment(proposal_comment_id="c", reply_text="Because.")
    for _ in range(REPLIES_MAX):
        desk.send(command, "author")
    assert answered(desk.refused(command, "author")) == ("QUOTA_EXCEEDED", 409)
    assert len({each.reply_id for each in desk.comment().replies}) == REPLIES_MAX
    for length in (0, 10_001):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert("x" * length, CommentText)


def test_a_proposal_has_so_many_reviewers() -> None:
    desk = Desk(people={**PEOPLE, **{f"r{number}": "reviewer" for number in range(99)}})
    desk.propose()
    for number in range(REVIEWERS_MAX):
        desk.send(AddReviewer(proposal_id="p", user_id=f"r{number}"), "author")
    one_more = AddReviewer(proposal_id="p", user_id=f"r{REVIEWERS_MAX}")
    assert answered(desk.refused(one_more, "author")) == ("QUOTA_EXCEEDED", 409)


def test_an_id_is_one_proposals_and_one_comments() -> None:
    desk = Desk()
    desk.propose(status="REVIEW")
    desk.remark()
    again = CreateProposal(proposal_id="p", name="Another")
    assert answered(desk.refused(again, "author")) == ("ID_TAKEN", 409)
    comment = AddComment(
        proposal_id="p", proposal_comment_id="c", target_file="a.md", comment_text="Why?"
    )
    assert answered(desk.refused(comment, "reviewer")) == ("ID_TAKEN", 409)


def test_the_statuses_of_the_tables_are_those_that_there_are() -> None:
    for steps, statuses in ((PROPOSAL_STEPS, PROPOSAL_STATUSES), (COMMENT_STEPS, COMMENT_STATUSES)):
        named = {step.target for step in steps.values()} | {
            source for step in steps.values() for source in step.sources
        }
        assert named == {*statuses}
        for status, (name, step) in product(statuses, steps.items()):
            assert status not in step.sources or step.target != status, name


# ---------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "given",
    [
        {"validate": ["true"]},
        {"models": [ProviderSettings(provider_kind="lmstudio", model="m")]},
        {"root": "/r", "validate": "make check"},
        {"root": "/r", "validate": ["true"], "timeout_s": 0},
        {"root": "/r", "validate": ["true"], "timeout_s": 301},
    ],
)
def test_settings_that_do_not_belong_together_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(DomainError, match=r"^reviews: "):
        reviews(**given)


def test_without_settings_there_is_nobody_who_validates_or_iterates() -> None:
    assert [*reviews().workers] == ["review_job_ended"]
