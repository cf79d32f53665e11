"""Who hears what on a project's sockets: a table (CF-5, X-PRJ-4)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dalsegno.actors.domains.reviews import (
    project_locks,
    proposal_comments,
    proposal_names,
    proposals,
)
from dalsegno.actors.domains.reviews._comments import CommentReplied, CommentSelected, Reply
from dalsegno.actors.domains.reviews._locks import ProjectLocked, ProjectUnlocked
from dalsegno.actors.domains.reviews._names import ProposalNameReleased
from dalsegno.actors.domains.reviews._proposals import ProposalAdvanced, ProposalDeleted
from dalsegno.actors.domains.reviews._routing import Viewing, ViewingOne, proposal_of_run
from dalsegno.protocol import Domain, Event
from dalsegno.protocol.runs import RunFinished, RunOutput, RunStarted, runs
from tests.tasks_domain import TaskAdded, tasks

NOW = datetime(2026, 2, 13, tzinfo=UTC)


def event(domain: Domain[Any, Any, Any], entity_id: str, happened: Any) -> Event:
    kind, version, payload = domain.encode(happened)
    return Event(
        workspace_id="w",
        event_seq=1,
        stream_id=domain.stream_id(entity_id),
        stream_seq=1,
        event_id="e",
        type=kind,
        type_version=version,
        payload=payload,
        actor_id=None,
        command_id="c",
        recorded_at=NOW,
    )


def of_run(kind: str, proposal_id: str | None) -> list[Event]:
    labels = {} if proposal_id is None else {"proposal_id": proposal_id}
    given: dict[str, Any] = {"kind": kind, "labels": labels, "attempt": 1}
    return [
        event(runs, "r", RunStarted(attempt_id="a", **given)),
        event(
            runs,
            "r",
            RunOutput(
                message_id="m",
                channel="stdout",
                from_frame=1,
                to_frame=1,
                text="x",
                opens=True,
                closes=True,
                **given,
            ),
        ),
        event(runs, "r", RunFinished(outcome="succeeded", **given)),
    ]


MOVED = ProposalAdvanced(step="submit", status="REVIEW", previous="DRAFT", by="a", at=NOW)
REPLY = CommentReplied(
    proposal_id="p",
    reply=Reply(reply_id="r", author_id="ann", text="x", at=NOW),
    notify=("ann", "rob"),
)
SELECTED = CommentSelected(proposal_id="q", selected=True, notify=("ann",))

ALL = {"ann", "ann p", "ann q", "rob", "vic p", "nobody p"}
VIEWERS = {"ann p", "vic p", "nobody p"}
LOCKED = ProjectLocked(locked_by="a", locked_at=NOW, expires_at=NOW)
FREED = ProjectUnlocked(locked_by="a", by=None, reason="expired")

TABLE: dict[str, tuple[list[Event], set[str], set[str]]] = {
    "a proposal": (
        [event(proposals, "p", MOVED), event(proposals, "p", ProposalDeleted())],
        VIEWERS,
        VIEWERS,
    ),
    "its validation": (of_run("validation", "p"), VIEWERS, VIEWERS),
    "its iteration": (of_run("iteration", "p"), VIEWERS, VIEWERS),
    "another's job": (of_run("validation", "q"), {"ann q"}, {"ann q"}),
    "a comment on it": (
        [event(proposal_comments, "c", REPLY)],
        {"ann", "ann p", "ann q", "rob"},
        {"ann p"},
    ),
    "a comment on another": (
        [event(proposal_comments, "c", SELECTED)],
        {"ann", "ann p", "ann q"},
        {"ann q"},
    ),
    "the lock": (
        [event(project_locks, "main", LOCKED), event(project_locks, "main", FREED)],
        ALL,
        ALL,
    ),
    "a name": ([event(proposal_names, "n", ProposalNameReleased())], set(), set()),
    "what clears a job away": (of_run("bookkeeping", None), set(), set()),
    "a run of others": (of_run("agent", "p"), ALL, set()),
    "a run without a label": (of_run("validation", None), ALL, set()),
    "another domain": ([event(tasks, "t", TaskAdded(title="x"))], ALL, set()),
}
"""What happens; who hears of it on a socket, and who on an event stream."""

LISTENERS: dict[str, tuple[str | None, frozenset[str]]] = {
    "ann": ("ann", frozenset()),
    "ann p": ("ann", frozenset({"p"})),
    "ann q": ("ann", frozenset({"q"})),
    "rob": ("rob", frozenset()),
    "vic p": ("vic", frozenset({"p"})),
    "nobody p": (None, frozenset({"p"})),
}
"""Who listens, and what they view; one of them is no user."""


@pytest.mark.parametrize("what", TABLE)
@pytest.mark.parametrize("kind", [Viewing, ViewingOne])
def test_x_prj_4_each_hears_what_concerns_them(kind: type[Viewing], what: str) -> None:
    events, on_socket, on_stream = TABLE[what]
    expected = on_stream if kind is ViewingOne else on_socket
    for each in events:
        hearing = {
            name
            for name, (user_id, viewed) in LISTENERS.items()
            if kind(user_id, "w", viewed).passes(each)
        }
        assert hearing == expected, each.type


def test_a_run_is_a_proposals_by_its_kind_and_its_label() -> None:
    for kind, proposal_id, expected in (
        ("validation", "p", "p"),
        ("iteration", "p", "p"),
        ("agent", "p", None),
        ("validation", None, None),
    ):
        for each in of_run(kind, proposal_id):
            assert proposal_of_run(each.payload) == expected
