"""A project under review without a workspace: commands are decided, and their events folded.

Roles, versions, and what else a command reads and changes are as in a workspace; the clock stands
still until it is moved.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dalsegno.actors.domains.members import Member, members
from dalsegno.actors.domains.reviews import (
    project_locks,
    proposal_comments,
    proposal_names,
    proposals,
    review_roles,
    review_workers,
)
from dalsegno.actors.domains.reviews._comments import AddComment, Comment, SettleComment
from dalsegno.actors.domains.reviews._locks import LOCK_ID, LockUse, ProjectLock
from dalsegno.actors.domains.reviews._proposals import AdvanceProposal, CreateProposal, Proposal
from dalsegno.actors.domains.reviews._words import ITERATOR
from dalsegno.protocol import SYSTEM, Context, Domain, Principal, Reject, Touched, not_found
from dalsegno.protocol.providers import ProviderSettings
from dalsegno.protocol.runs import FinishRun, ReleaseRun, RunProblem, RunState, StartAttempt, runs

START = datetime(2026, 2, 13, tzinfo=UTC)

PEOPLE = {
    "owner": "owner",
    "admin": "admin",
    "reviewer": "reviewer",
    "author": "author",
    "other": "author",
    "viewer": "viewer",
    "editor": "editor",
    "stranger": None,
}
"""Who there is, and their roles: two are authors, and one is no member."""

WORKERS: Mapping[str, Any] = {
    each.name: each
    for each in review_workers(
        root="/nowhere",
        validate=["true"],
        models=[
            ProviderSettings(provider_kind="lmstudio", model="m", base_url="http://[::1]:1/v1")
        ],
    )
}

DOMAINS: tuple[Domain[Any, Any, Any], ...] = (
    proposals,
    proposal_names,
    proposal_comments,
    project_locks,
    runs,
    members,
)

PROPOSAL_STATUSES = ("DRAFT", "REVIEW", "READY", "MERGED")
COMMENT_STATUSES = ("OPEN", "ACCEPTED", "REJECTED", "DEFERRED", "RESOLVED")

WAY: dict[str, list[tuple[str, str]]] = {
    "DRAFT": [],
    "REVIEW": [("submit", "admin")],
    "READY": [("submit", "admin"), ("approve", "admin")],
    "MERGED": [("submit", "admin"), ("approve", "admin"), ("merge", "admin")],
}
"""The steps that lead to a status."""


@dataclass
class Desk:
    """A project, and the time."""

    workers: Mapping[str, Any] = field(default_factory=dict)
    now: datetime = START
    people: Mapping[str, str | None] = field(default_factory=lambda: PEOPLE)
    states: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, Any]] = field(default_factory=list)
    """Every event, with its stream."""
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        for person, role in self.people.items():
            if role is not None:
                self.states[members.stream_id(person)] = Member(role=role, since=START)

    # ------------------------------------------------------------------------------ deciding

    def send(self, command: msgspec.Struct, by: str | None = None) -> list[Any]:
        """Decide a command, as somebody or as the program, and return its events."""
        return self.send_all([(command, by)])

    def send_all(self, commands: Sequence[tuple[msgspec.Struct, str | None]]) -> list[Any]:
        """… several, all or none."""
        before = (dict(self.states), dict(self.versions), len(self.log))
        try:
            for command, by in commands:
                self._decide(command, by)
        except Reject:
            self.states, self.versions = before[0], before[1]
            del self.log[before[2] :]
            raise
        return [event for _, event in self.log[before[2] :]]

    def refused(self, command: msgspec.Struct, by: str | None = None) -> Reject:
        """Send a command that must be refused, and changes nothing."""
        before = (dict(self.states), dict(self.versions), list(self.log))
        with pytest.raises(Reject) as caught:
            self.send(command, by)
        assert (self.states, self.versions, self.log) == before
        return caught.value

    def _decide(self, command: msgspec.Struct, by: str | None) -> None:
        domain = next(each for each in DOMAINS if type(command) in each.commands.values())
        decider = domain.decider(type(command))
        role = "" if by is None else self.people[by]
        if by is not None and (role is None or role not in decider.allow):
            raise Reject("ROLE_FORBIDDEN", role=role)
        entity_id = getattr(command, domain.id_field) or self.new_id()
        stream_id = domain.stream_id(entity_id)
        state, version = self.states.get(stream_id), self.versions.get(stream_id, 0)
        if state is None and not decider.takes_none:
            raise not_found(stream_id)
        base_version = getattr(command, "base_version", None)
        if base_version is not None and base_version != version:
            raise Reject("VERSION_CONFLICT", current_version=version)
        named = [] if decider.touches is None else [*decider.touches(command)]
        if decider.follows is not None:
            beside = [self._touched(named)] if decider.follows_touched else []
            named += decider.follows(state, command, *beside)
        extras = {
            "context": Context(
                entity_id=entity_id,
                principal=SYSTEM if by is None else Principal(by),
                role=role or "",
                owner_id="owner",
                now=self.now,
                new_id=self.new_id,
                roles=review_roles,
                workers=self.workers,
            ),
            "touched": self._touched(named),
        }
        decided = decider.function(state, command, *(extras[name] for name in decider.extras))
        if decided is None:
            return
        for each in decided if isinstance(decided, (list, tuple)) else (decided,):
            if isinstance(each, msgspec.Struct):
                self._fold(domain, stream_id, each)
            else:
                self._fold(each.domain, each.stream_id, each.event)

    def _touched(self, named: Sequence[tuple[Domain[Any, Any, Any], str]]) -> Touched:
        streams = [domain.stream_id(entity_id) for domain, entity_id in named]
        return Touched({each: self.states.get(each) for each in streams})

    def _fold(self, domain: Domain[Any, Any, Any], stream_id: str, event: Any) -> None:
        written = domain.encode(event)
        read = domain.decode(*written)
        assert read is not None
        assert domain.encode(read) == written, "the log has all of it"
        self.states[stream_id] = domain.evolve_by(self.states.get(stream_id), read)
        self.versions[stream_id] = self.versions.get(stream_id, 0) + 1
        self.log.append((stream_id, event))

    def new_id(self) -> str:
        return f"id-{next(self.ids)}"

    # ---------------------------------------------------------------------------------- time

    def wait(self, seconds: float) -> list[Any]:
        """Let time pass, and whatever is due meanwhile happen at its moment."""
        until, before = self.now + timedelta(seconds=seconds), len(self.log)
        while True:
            asked = [
                (due.at, stream_id, due.command)
                for domain in DOMAINS
                for stream_id, state in self.states.items()
                if domain.has_timers and stream_id.startswith(f"{domain.name}:")
                if (due := domain.due_of(state, stream_id.partition(":")[2])) is not None
                if due.at <= until
            ]
            if not asked:
                break
            at, stream_id, command = min(asked, key=lambda each: each[:2])
            self.now = max(self.now, at)
            seen = len(self.log)
            self.send(command)
            assert len(self.log) > seen, f"the timer of {stream_id} moves nothing, at {at}"
        self.now = until
        return [event for _, event in self.log[before:]]

    # ----------------------------------------------------------------------------- looking on

    def proposal(self, proposal_id: str = "p") -> Proposal:
        state = self.states[proposals.stream_id(proposal_id)]
        assert isinstance(state, Proposal)
        return state

    def comment(self, comment_id: str = "c") -> Comment:
        state = self.states[proposal_comments.stream_id(comment_id)]
        assert isinstance(state, Comment)
        return state

    @property
    def lock(self) -> ProjectLock | None:
        state = self.states.get(project_locks.stream_id(LOCK_ID))
        assert state is None or isinstance(state, ProjectLock)
        return state

    @property
    def used(self) -> LockUse | None:
        return None if self.lock is None else self.lock.use

    def run(self, run_id: str) -> RunState:
        state = self.states[runs.stream_id(run_id)]
        assert isinstance(state, RunState)
        return state

    def job(self, proposal_id: str = "p") -> str:
        job = self.proposal(proposal_id).job
        assert job is not None
        return job.run_id

    # ---------------------------------------------------------------------------------- paths

    def propose(self, proposal_id: str = "p", *, status: str = "DRAFT", **more: Any) -> str:
        """Make a proposal of the author's, in a status."""
        more = {"name": f"Proposal {proposal_id}", **more}
        self.send(CreateProposal(proposal_id=proposal_id, **more), "author")
        for step, by in WAY[status]:
            command = msgspec.convert({"proposal_id": proposal_id, "step": step}, AdvanceProposal)
            self.send(command, by)
        return proposal_id

    def remark(
        self,
        comment_id: str = "c",
        proposal_id: str = "p",
        *,
        by: str = "reviewer",
        status: str = "OPEN",
    ) -> str:
        """Comment on a proposal."""
        added = AddComment(
            proposal_id=proposal_id,
            proposal_comment_id=comment_id,
            target_file="a.md",
            comment_text="Why?",
        )
        self.send(added, by)
        step = {"RESOLVED": "resolve", "ACCEPTED": "accept", "REJECTED": "reject"}.get(status)
        step = "defer" if status == "DEFERRED" else step
        if step is not None:
            self.send(settle(comment_id, step), "admin")
        return comment_id

    def start(self, run_id: str, attempt_id: str = "1", after: str | None = None) -> None:
        self.send(StartAttempt(run_id=run_id, attempt_id=attempt_id, after=after))

    def finish(self, run_id: str, *commands: msgspec.Struct, outcome: Any = "succeeded") -> None:
        """End a job that is under way, with what it records."""
        attempt_id = self.run(run_id).attempt_id
        assert attempt_id is not None
        end = FinishRun(run_id=run_id, attempt_id=attempt_id, outcome=outcome)
        self.send_all([*((each, None) for each in commands), (end, None)])

    def fail(self, run_id: str, code: str = "WRONG") -> None:
        attempt_id = self.run(run_id).attempt_id
        assert attempt_id is not None
        error = RunProblem(code=code, message="", retryable=False)
        self.send(ReleaseRun(run_id=run_id, attempt_id=attempt_id, error=error))


def settle(comment_id: str, step: str, **more: Any) -> SettleComment:
    """A step with a comment, with a reason where it has one."""
    reason = "so" if step in {"reject", "defer"} else None
    fields = {"proposal_comment_id": comment_id, "step": step, "reason": reason, **more}
    return msgspec.convert(fields, SettleComment)


assert ITERATOR in WORKERS
