"""The lock of a project and its jobs: as a table of cases, and as a model of what may happen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dalsegno.actors.domains.reviews import HELD_S, project_locks
from dalsegno.actors.domains.reviews._comments import SelectComment
from dalsegno.actors.domains.reviews._job_commands import (
    CancelJob,
    EndJob,
    IterateProposal,
    RecordIteration,
    RecordValidation,
    ValidateProposal,
)
from dalsegno.actors.domains.reviews._jobs import DEADLINE_S
from dalsegno.actors.domains.reviews._locks import (
    LockProject,
    ProjectLocked,
    ProjectLockReturned,
    ProjectLockUsed,
    ProjectUnlocked,
    UnlockProject,
)
from dalsegno.actors.domains.reviews._proposals import (
    DeleteProposal,
    EditProposal,
    ProposalIterated,
    ProposalJobEnded,
    ProposalValidated,
)
from dalsegno.actors.domains.reviews._words import SELECTED_MAX
from dalsegno.protocol import Limits, Reject, http_status
from dalsegno.protocol.runs import RunFinished
from tests.actors.domains._desk import PEOPLE, START, WORKERS, Desk, settle
from tests.actors.domains.test_reviews import advance

VALIDATE, ITERATE = ValidateProposal(proposal_id="p"), IterateProposal(proposal_id="p")


def desk(status: str = "DRAFT") -> Desk:
    made = Desk(workers=WORKERS)
    made.propose(status=status)
    made.propose("q")
    return made


def passed(run_id: str, proposal_id: str = "p") -> RecordValidation:
    return RecordValidation(proposal_id=proposal_id, run_id=run_id, status="passed", summary={})


def iterated(run_id: str, *comment_ids: str, proposal_id: str = "p") -> RecordIteration:
    return RecordIteration(
        proposal_id=proposal_id,
        run_id=run_id,
        files=("a.md",),
        comment_ids=comment_ids,
        validation={},
    )


def ended(run_id: str, proposal_id: str = "p", code: str = "WRONG") -> EndJob:
    return EndJob(proposal_id=proposal_id, run_id=run_id, code=code)


def begun(
    it: Desk, by: str = "author", *, proposal_id: str = "p", is_iteration: bool = False
) -> str:
    """A job that is under way; its run."""
    kind = IterateProposal if is_iteration else ValidateProposal
    it.send(kind(proposal_id=proposal_id), by)
    it.start(it.job(proposal_id))
    return it.job(proposal_id)


# ----------------------------------------------------------------------------------------- people


def test_who_locks_a_project_holds_it_against_everybody_else() -> None:
    it = desk()
    it.send(LockProject(), "author")
    it.wait(60)
    for other in ("reviewer", "other", "admin"):
        error = it.refused(LockProject(), other)
        assert (error.code, http_status(error)) == ("PROJECT_LOCKED", 409)
        assert error.details["locked_by"] == "author"
        assert error.details["locked_at"] == START
        error = it.refused(UnlockProject(), other)
        assert (error.code, http_status(error)) == ("LOCK_OF_ANOTHER", 403)
    assert isinstance(it.send(UnlockProject(), "author")[0], ProjectUnlocked)
    it.send(LockProject(), "reviewer")


@pytest.mark.parametrize("person", PEOPLE)
def test_admins_alone_unlock_by_force(person: str) -> None:
    it = desk()
    it.send(LockProject(), "author")
    if person in {"owner", "admin"}:
        (event,) = it.send(UnlockProject(force=True), person)
        assert event == ProjectUnlocked(locked_by="author", by=person, reason="forced")
    else:
        error = it.refused(UnlockProject(force=True), person)
        assert (error.code, http_status(error)) == ("ROLE_FORBIDDEN", 403)


@pytest.mark.parametrize("person", PEOPLE)
def test_who_takes_part_locks(person: str) -> None:
    it = desk()
    if person in {"viewer", "editor", "stranger"}:
        assert it.refused(LockProject(), person).code == "ROLE_FORBIDDEN"
    else:
        it.send(LockProject(), person)


def test_what_nobody_holds_is_not_unlocked() -> None:
    error = desk().refused(UnlockProject(), "admin")
    assert (error.code, http_status(error)) == ("LOCK_NOT_HELD", 409)


def test_x_cal_3_a_lock_expires_after_half_an_hour_and_not_before() -> None:
    it = desk()
    it.send(LockProject(), "author")
    assert it.wait(HELD_S - 0.000_001) == []
    assert it.refused(LockProject(), "other").code == "PROJECT_LOCKED"
    (event,) = it.wait(0.000_001)
    assert event == ProjectUnlocked(locked_by="author", by=None, reason="expired")
    assert it.lock is None
    assert it.wait(HELD_S * 3) == []
    it.send(LockProject(), "other")


def test_who_locks_again_holds_it_for_longer() -> None:
    it = desk()
    it.send(LockProject(), "author")
    it.wait(HELD_S / 2)
    it.send(LockProject(), "author")
    assert it.wait(HELD_S - 1) == []
    assert it.lock is not None
    assert it.lock.locked_at == START
    assert [type(each) for each in it.wait(1)] == [ProjectUnlocked]


def test_who_comes_before_the_timer_says_that_a_lock_has_expired() -> None:
    it = desk()
    it.send(LockProject(), "author")
    it.now += timedelta(seconds=HELD_S)
    gone, locked = it.send(LockProject(), "other")
    assert gone == ProjectUnlocked(locked_by="author", by=None, reason="expired")
    assert (locked.locked_by, locked.locked_at) == ("other", it.now)


# ------------------------------------------------------------------------------------------- jobs

ENDS = {
    "success": [RunFinished, ProposalValidated],
    "failure": [RunFinished, ProposalJobEnded],
    "cancel": [RunFinished, ProposalJobEnded],
    "deadline": [RunFinished, ProposalJobEnded],
}


def end(it: Desk, how: str) -> None:
    """Have the job of a proposal end somehow, and what has to be done then be done."""
    run_id = it.job()
    match how:
        case "success":
            it.finish(run_id, passed(run_id))
            return
        case "failure":
            it.fail(run_id)
        case "cancel":
            it.send(CancelJob(proposal_id="p"), "author")
            it.finish(run_id, outcome="cancelled")
        case "deadline":
            left = it.run(run_id).deadline - it.now
            it.wait(left.total_seconds())
    assert not it.run(run_id).is_open
    it.send(ended(run_id))


@pytest.mark.parametrize("how", ENDS)
def test_a_validation_takes_the_lock_and_gives_it_back(how: str) -> None:
    it = desk()
    begun(it)
    assert it.lock is not None
    assert (it.lock.locked_by, it.lock.expires_at) == ("author", None)
    before = len(it.log)
    end(it, how)
    assert it.lock is None
    assert it.proposal().job is None
    happened = [event for _, event in it.log[before:]]
    kinds = [type(each) for each in happened if type(each) in ENDS[how]]
    assert sorted(map(str, kinds)) == sorted(map(str, ENDS[how]))
    (gone,) = [each for each in happened if isinstance(each, ProjectUnlocked)]
    assert gone == ProjectUnlocked(locked_by="author", by=None, reason="job_ended")
    verdict = it.proposal().verdict
    assert verdict is not None
    assert verdict.status == ("passed" if how == "success" else "error")


@pytest.mark.parametrize("how", ENDS)
def test_what_the_requester_held_before_stays_theirs(how: str) -> None:
    it = desk()
    it.send(LockProject(), "author")
    begun(it)
    assert it.lock is not None
    assert it.lock.use is not None
    end(it, how)
    after = it.lock
    assert after is not None
    assert (after.locked_by, after.locked_at) == ("author", START)
    assert after.use is None
    assert it.lock.expires_at == START + timedelta(seconds=HELD_S)
    assert it.refused(LockProject(), "other").code == "PROJECT_LOCKED"
    left_s = (START + timedelta(seconds=HELD_S) - it.now).total_seconds()
    assert [type(each) for each in it.wait(left_s)] == [ProjectUnlocked]


@pytest.mark.parametrize("how", ENDS)
def test_a_lock_that_expires_within_a_job_lapses_with_its_end(how: str) -> None:
    it = desk()
    it.send(LockProject(), "author")
    it.wait(HELD_S - 10)
    begun(it)
    assert it.wait(20) == []
    assert it.lock is not None
    assert it.refused(LockProject(), "other").code == "PROJECT_LOCKED"
    before = len(it.log)
    end(it, how)
    assert it.lock is None
    gone = [event for _, event in it.log[before:] if isinstance(event, ProjectUnlocked)]
    assert gone == [ProjectUnlocked(locked_by="author", by=None, reason="expired")]


def test_a_job_that_nobody_clears_away_holds_the_lock_no_longer() -> None:
    for by_timer in (False, True):
        it = desk()
        run_id = begun(it)
        it.fail(run_id)
        assert it.lock is not None
        if by_timer:
            it.wait(DEADLINE_S["validation"] + 4)
            assert it.lock is not None
            (event,) = it.wait(1)
            assert event == ProjectUnlocked(locked_by="author", by=None, reason="job_ended")
            assert it.lock is None
        else:
            it.send(LockProject(), "other")
            assert it.lock.locked_by == "other"
        held = it.lock
        it.send(ended(run_id))
        assert it.lock == held
        assert it.proposal().job is None


@pytest.mark.parametrize("asked", [VALIDATE, ITERATE], ids=["validation", "iteration"])
@pytest.mark.parametrize("proposal_id", ["p", "q"])
@pytest.mark.parametrize("by", ["author", "admin"])
@pytest.mark.parametrize("is_iteration", [False, True], ids=["validating", "iterating"])
def test_while_a_job_is_under_way_there_is_no_other_in_the_project(
    is_iteration: bool,
    by: str,
    proposal_id: str,
    asked: ValidateProposal | IterateProposal,
) -> None:
    it = desk()
    run_id = begun(it, is_iteration=is_iteration)
    error = it.refused(type(asked)(proposal_id=proposal_id), by)
    assert (error.code, http_status(error)) == ("JOB_RUNNING", 409)
    assert error.details["job_id"] == run_id
    assert error.details["kind"] == ("iteration" if is_iteration else "validation")
    assert error.details["locked_by"] == "author"
    assert error.details["locked_at"] == START
    assert it.refused(UnlockProject(), "author").code == "JOB_RUNNING"


def test_what_another_has_locked_is_neither_validated_nor_iterated_on() -> None:
    it = desk()
    it.send(LockProject(), "other")
    for command in (VALIDATE, ITERATE):
        error = it.refused(command, "author")
        assert (error.code, http_status(error)) == ("PROJECT_LOCKED", 409)
        assert error.details["locked_by"] == "other"


@pytest.mark.parametrize("person", PEOPLE)
def test_who_takes_part_validates_and_the_author_iterates(person: str) -> None:
    for command, may in (
        (VALIDATE, {"owner", "admin", "author", "other", "reviewer"}),
        (ITERATE, {"owner", "admin", "author"}),
    ):
        it = desk()
        if person in may:
            it.send(command, person)
        else:
            assert it.refused(command, person).code == "ROLE_FORBIDDEN"


@pytest.mark.parametrize("person", PEOPLE)
def test_a_job_is_cancelled_by_who_asked_for_it_by_the_author_and_admins(person: str) -> None:
    it = desk()
    begun(it, "reviewer")
    command = CancelJob(proposal_id="p")
    if person in {"owner", "admin", "author", "reviewer"}:
        it.send(command, person)
        assert it.run(it.job()).cancelled is not None
        assert it.send(command, person) == []
    else:
        assert it.refused(command, person).code == "ROLE_FORBIDDEN"


def test_only_the_job_that_is_meant_and_under_way_is_cancelled() -> None:
    it = desk()
    assert it.refused(CancelJob(proposal_id="p"), "author").code == "JOB_NOT_RUNNING"
    run_id = begun(it)
    other = CancelJob(proposal_id="p", job_id="another")
    assert it.refused(other, "author").code == "JOB_NOT_RUNNING"
    it.fail(run_id)
    error = it.refused(CancelJob(proposal_id="p"), "author")
    assert (error.code, http_status(error)) == ("JOB_NOT_RUNNING", 409)


def test_where_nobody_validates_or_iterates_that_is_said() -> None:
    it = Desk()
    it.propose()
    for command in (VALIDATE, ITERATE):
        assert it.refused(command, "author").code == "NOT_CONFIGURED"
    assert it.lock is None


@pytest.mark.parametrize("status", ["DRAFT", "REVIEW", "READY", "MERGED"])
def test_what_is_ready_or_merged_is_not_iterated_on(status: str) -> None:
    it = Desk()
    it.propose(status=status)
    it.workers = WORKERS
    if status in {"DRAFT", "REVIEW"}:
        it.send(ITERATE, "author")
    else:
        error = it.refused(ITERATE, "author")
        assert (error.code, http_status(error)) == ("INVALID_TRANSITION", 400)
        assert error.details["valid"] == ["DRAFT", "REVIEW"]
    if status == "MERGED":
        assert it.refused(VALIDATE, "author").code == "INVALID_TRANSITION"


# ------------------------------------------------------------------------------------- by force


def test_an_iteration_whose_lock_was_taken_away_changes_nothing() -> None:
    it = Desk()
    it.propose(status="REVIEW")
    it.remark()
    it.send(SelectComment(proposal_comment_id="c"), "author")
    it.workers = WORKERS
    run_id = begun(it, is_iteration=True)
    it.send(UnlockProject(force=True), "admin")
    for is_locked in (False, True):
        if is_locked:
            it.send(LockProject(), "other")
        with pytest.raises(Reject) as caught:
            it.finish(run_id, iterated(run_id, "c"))
        assert caught.value.code == "LOCK_LOST"
        assert it.comment().status == "OPEN"
        assert it.proposal().selected == ("c",)
    it.fail(run_id, "LOCK_LOST")
    assert it.run(run_id).status == "cancelled"
    it.send(ended(run_id))
    assert it.lock is not None
    assert it.lock.locked_by == "other"
    assert it.proposal().job is None


def test_a_validation_whose_lock_was_taken_away_is_cancelled() -> None:
    it = desk()
    run_id = begun(it)
    it.send(UnlockProject(force=True), "admin")
    it.send(LockProject(), "other")
    with pytest.raises(Reject, match="RUN_CANCELLED"):
        it.finish(run_id, passed(run_id))
    it.finish(run_id, outcome="cancelled")
    it.send(ended(run_id))
    assert it.lock is not None
    assert it.lock.locked_by == "other"
    verdict = it.proposal().verdict
    assert verdict is not None
    assert verdict.status == "error"


def test_a_validation_that_another_one_has_followed_says_nothing() -> None:
    it = desk()
    first = begun(it)
    it.send(UnlockProject(force=True), "admin")
    second = begun(it)
    it.finish(first, outcome="cancelled")
    it.send(ended(first))
    assert (it.job(), it.proposal().verdict) == (second, None)
    assert it.used is not None
    it.finish(second, passed(second))
    assert it.proposal().verdict is not None
    assert it.lock is None


# ------------------------------------------------------------------------------ in the middle of it


def test_an_edited_proposal_has_no_verdict_of_a_validation_before() -> None:
    for how in ENDS:
        it = desk()
        begun(it)
        it.send(EditProposal(proposal_id="p", description="else"), "author")
        end(it, how)
        assert (it.proposal().verdict, it.proposal().job, it.lock) == (None, None, None)
        assert it.refused(advance("submit"), "author").code == "VALIDATION_NEEDED"


def test_a_deleted_proposal_leaves_the_lock_to_its_validation() -> None:
    for how in ("success", "failure"):
        it = desk()
        run_id = begun(it)
        it.send(DeleteProposal(proposal_id="p"), "author")
        assert it.lock is not None
        if how == "success":
            it.finish(run_id, passed(run_id))
        else:
            it.fail(run_id)
            it.send(ended(run_id))
        assert it.lock is None


def test_while_it_is_iterated_on_a_proposal_stays_as_it_is() -> None:
    it = desk()
    run_id = begun(it, is_iteration=True)
    for command in (
        EditProposal(proposal_id="p", description="else"),
        DeleteProposal(proposal_id="p"),
        advance("submit"),
    ):
        error = it.refused(command, "author")
        assert (error.code, http_status(error)) == ("JOB_RUNNING", 409)
    it.finish(run_id, iterated(run_id))
    it.send(EditProposal(proposal_id="p", description="else"), "author")


def test_only_what_has_passed_as_it_is_now_is_submitted() -> None:
    it = desk()
    assert it.refused(advance("submit"), "author").code == "VALIDATION_NEEDED"
    run_id = begun(it)
    it.fail(run_id, "VALIDATION_TIMEOUT")
    it.send(ended(run_id, code="VALIDATION_TIMEOUT"))
    error = it.refused(advance("submit"), "author")
    assert (error.code, http_status(error)) == ("VALIDATION_FAILED", 400)
    assert error.details["summary"] == {"code": "VALIDATION_TIMEOUT"}
    run_id = begun(it)
    it.finish(run_id, passed(run_id))
    it.send(EditProposal(proposal_id="p", description="else"), "author")
    assert it.refused(advance("submit"), "author").code == "VALIDATION_NEEDED"
    run_id = begun(it)
    it.finish(run_id, passed(run_id))
    it.send(advance("submit"), "author")


# ----------------------------------------------------------------------------- what it resolves


def test_an_iteration_resolves_what_it_was_given_and_leaves_what_came_since() -> None:
    it = Desk()
    it.propose(status="REVIEW")
    for each in ("given", "deferred", "deselected", "since", "else"):
        it.remark(each)
    for each in ("given", "deferred", "deselected"):
        it.send(SelectComment(proposal_comment_id=each), "author")
    it.workers = WORKERS
    run_id = begun(it, is_iteration=True)
    assert it.run(run_id).input["comment_ids"] == ["given", "deferred", "deselected"]
    it.send(settle("deferred", "defer"), "author")
    it.send(SelectComment(proposal_comment_id="deselected", selected=False), "author")
    it.send(SelectComment(proposal_comment_id="since"), "author")
    it.finish(run_id, iterated(run_id, "given", "deferred", "deselected"))
    statuses = {each: it.comment(each).status for each in ("given", "deferred", "since", "else")}
    assert statuses == {
        "given": "RESOLVED",
        "deferred": "DEFERRED",
        "since": "OPEN",
        "else": "OPEN",
    }
    (event,) = [event for _, event in it.log if isinstance(event, ProposalIterated)]
    assert event.resolved == ("given", "deselected")
    assert it.proposal().unresolved == ("since", "else")
    assert it.proposal().selected == ("since",)
    check_selection(it)


def test_an_iteration_resolves_as_much_as_may_be_selected_with_one_command() -> None:
    it = Desk()
    it.propose(status="REVIEW")
    ids = [it.remark(f"c{number}") for number in range(SELECTED_MAX)]
    for each in ids:
        it.send(SelectComment(proposal_comment_id=each), "author")
    it.workers = WORKERS
    run_id = begun(it, is_iteration=True)
    before = len(it.log)
    it.finish(run_id, iterated(run_id, *ids))
    happened = len(it.log) - before
    assert SELECTED_MAX < happened < Limits().command_events_max / 2, "what it said is beside them"
    assert (it.proposal().selected, it.proposal().unresolved) == ((), ())


def check_selection(it: Desk) -> None:
    """What a proposal knows of its comments is what they say themselves."""
    for proposal_id in ("p", "q"):
        if it.states.get(f"proposal:{proposal_id}") is None:
            continue
        own = {
            stream_id.partition(":")[2]: state
            for stream_id, state in it.states.items()
            if stream_id.startswith("proposal_comment:") and state.proposal_id == proposal_id
        }
        selected = {each for each, state in own.items() if state.is_selected}
        unresolved = {each for each, state in own.items() if state.status in {"OPEN", "ACCEPTED"}}
        assert {*it.proposal(proposal_id).selected} == selected
        assert {*it.proposal(proposal_id).unresolved} == unresolved


# ---------------------------------------------------------------------------------------- a model

MEMBERS = st.sampled_from(["owner", "admin", "author", "other", "reviewer"])
PROPOSALS = st.sampled_from(["p", "q"])


FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass
class Hold:
    """Somebody's own hold, or a job's."""

    who: str
    since: datetime
    until: datetime = FOREVER
    run_id: str | None = None


class Locks(RuleBasedStateMachine):
    """Whoever holds the lock: a person for half an hour, or a job for as long as it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.it = Desk()
        for proposal_id in ("p", "q"):
            self.it.propose(proposal_id, status="REVIEW")
            self.it.remark(f"c{proposal_id}", proposal_id)
        self.it.workers = WORKERS
        self.own: Hold | None = None
        self.job: Hold | None = None
        self.to_clear: list[tuple[str, str]] = []
        self.begun: dict[str, str] = {}
        """Runs that are open, with their proposals."""
        self.lost: set[str] = set()

    def held(self) -> Hold | None:
        if self.job is not None:
            assert self.job.run_id is not None
            if self.it.run(self.job.run_id).is_open:
                return self.job
        return self.own if self.own is not None and self.own.until > self.it.now else None

    def answer(self, command: msgspec.Struct, by: str) -> str | None:
        """Send a command; the code of its refusal."""
        held = self.held()
        try:
            self.it.send(command, by)
        except Reject as refused:
            error = refused
        else:
            return None
        if error.code in {"PROJECT_LOCKED", "JOB_RUNNING"} and "locked_by" in error.details:
            assert held is not None
            told = error.details["locked_by"], error.details["locked_at"]
            assert told == (held.who, held.since)
        return error.code

    @rule(who=MEMBERS)
    def lock(self, who: str) -> None:
        held = self.held()
        answer = self.answer(LockProject(), who)
        if held is not None and held.who != who:
            assert answer == "PROJECT_LOCKED"
            return
        assert answer is None
        since = self.it.now if held is None else held.since
        self.own = Hold(who, since, self.it.now + timedelta(seconds=HELD_S))
        if held is None or held.run_id is None:
            self.job = None

    @rule(who=MEMBERS, force=st.booleans())
    def unlock(self, who: str, force: bool) -> None:
        held = self.held()
        answer = self.answer(UnlockProject(force=force), who)
        if held is None:
            assert answer == "LOCK_NOT_HELD"
            return
        if force and who not in {"owner", "admin"}:
            assert answer == "ROLE_FORBIDDEN"
        elif not force and held.who != who:
            assert answer == "LOCK_OF_ANOTHER"
        elif not force and held.run_id is not None:
            assert answer == "JOB_RUNNING"
        else:
            assert answer is None
            if held.run_id is not None:
                self.lost.add(held.run_id)
            self.own = self.job = None

    @rule(who=MEMBERS, proposal_id=PROPOSALS, iterates=st.booleans())
    def begin(self, who: str, proposal_id: str, iterates: bool) -> None:
        held = self.held()
        kind = IterateProposal if iterates else ValidateProposal
        answer = self.answer(kind(proposal_id=proposal_id), who)
        if iterates and who in {"reviewer", "other"}:
            assert answer == "ROLE_FORBIDDEN"
        elif held is not None and held.run_id is not None:
            assert answer == "JOB_RUNNING"
        elif held is not None and held.who != who:
            assert answer == "PROJECT_LOCKED"
        else:
            assert answer is None
            if held is None:
                self.own = None
            run_id = self.it.job(proposal_id)
            self.job = Hold(who, self.it.now if held is None else held.since, run_id=run_id)
            self.begun[run_id] = proposal_id
            self.it.start(run_id)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "cancel"]))
    def end(self, data: st.DataObject, how: str) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.begun)))
        proposal_id = self.begun.pop(run_id)
        run = self.it.run(run_id)
        if not run.is_open:  # its deadline has ended it
            self.to_clear.append((run_id, proposal_id))
            return
        if how == "cancel":
            self.it.finish(run_id, outcome="cancelled")
        elif how == "failure":
            self.it.fail(run_id)
        elif run_id in self.lost:
            records = {
                "validation": passed(run_id, proposal_id),
                "iteration": iterated(run_id, proposal_id=proposal_id),
            }
            with pytest.raises(Reject) as caught:
                self.it.finish(run_id, records[run.kind])
            assert caught.value.code in {"LOCK_LOST", "RUN_CANCELLED"}
            self.it.finish(run_id, outcome="cancelled")
        elif run.kind == "validation":
            self.it.finish(run_id, passed(run_id, proposal_id))
            self.gave_back(run_id)
            return
        else:
            comment_ids = run.input["comment_ids"]
            record = iterated(run_id, *comment_ids, proposal_id=proposal_id)
            self.it.finish(run_id, record)
            assert all(self.it.comment(each).status != "OPEN" for each in comment_ids)
            self.gave_back(run_id)
            return
        self.to_clear.append((run_id, proposal_id))

    def gave_back(self, run_id: str) -> None:
        if self.job is not None and self.job.run_id == run_id:
            self.job = None

    @precondition(lambda self: self.to_clear)
    @rule()
    def clear_away(self) -> None:
        run_id, proposal_id = self.to_clear.pop(0)
        self.it.send(ended(run_id, proposal_id))
        self.gave_back(run_id)

    @rule(proposal_id=PROPOSALS, selected=st.booleans())
    def select(self, proposal_id: str, selected: bool) -> None:
        command = SelectComment(proposal_comment_id=f"c{proposal_id}", selected=selected)
        assert self.answer(command, "author") in {None, "COMMENT_NOT_OPEN"}

    @rule(proposal_id=PROPOSALS)
    def reopen(self, proposal_id: str) -> None:
        assert self.answer(settle(f"c{proposal_id}", "reopen"), "reviewer") in {
            None,
            "INVALID_TRANSITION",
        }

    @rule(
        seconds=st.sampled_from([0.001, 10.0, 299.999, 300.0, 305.0, 600.0, HELD_S - 0.001, HELD_S])
    )
    def wait(self, seconds: float) -> None:
        self.it.wait(seconds)

    @invariant()
    def the_lock_is_held_by_who_the_model_says(self) -> None:
        held, lock = self.held(), self.it.lock
        if held is not None:
            assert lock is not None
            assert (lock.locked_by, lock.locked_at) == (held.who, held.since)
            assert held.run_id is None or (lock.use and lock.use.run_id == held.run_id)
        elif lock is not None:
            assert lock.use is not None, "its timer has fired at the moment it was over"

    @invariant()
    def what_is_told_of_the_lock_is_as_it_is(self) -> None:
        told: tuple[str | None, datetime, datetime | None] | None = None
        stream_id = project_locks.stream_id("main")
        for stream, event in self.it.log:
            if stream != stream_id:
                continue
            match event:
                case ProjectLocked():
                    told = (event.locked_by, event.locked_at, event.expires_at)
                case ProjectLockUsed():
                    told = (event.locked_by, event.locked_at, None)
                case ProjectLockReturned():
                    assert told is not None
                    told = (event.locked_by, event.locked_at, event.expires_at)
                case ProjectUnlocked():
                    assert told is not None, "it is told once"
                    assert told[0] == event.locked_by
                    told = None
        lock = self.it.lock
        if lock is None:
            assert told is None
        elif lock.use is None:
            assert told == (lock.locked_by, lock.locked_at, lock.expires_at)
        else:
            assert told is not None
            assert told[:2] == (lock.locked_by, lock.locked_at)

    @invariant()
    def proposals_and_comments_agree(self) -> None:
        check_selection(self.it)


TestLocks = Locks.TestCase
