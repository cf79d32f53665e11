"""The dialect of reviews on a project's sockets, and of what goes on about one proposal.

A client views proposals (``view``, ``leave``, or ``?proposal_id=``), may have one iterated on, and
cancels that; it is told what concerns it.  Who begins to view a proposal in the middle of a job is
shown what that has said so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Reject, not_found, workspace_stream
from dalsegno.protocol.dialects import (
    Beginning,
    ClientMessage,
    CommandRequest,
    Dialect,
    EventStreamDialect,
    Opening,
    ProjectDialect,
    Socket,
    SubscribeRequest,
    Text,
    ViewRequest,
    asked_by,
    encode_said,
)
from dalsegno.protocol.routes import FROM_NOW
from dalsegno.protocol.runs import runs

from ._job_commands import CancelJob, IterateProposal, ValidateProposal
from ._proposals import Proposal, proposals
from ._routing import VIEWED_MAX, Viewing, ViewingOne, proposal_of_run
from ._said import MESSAGES, JobAccepted, Viewed
from ._shown import messages_of, shown
from ._words import Prose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import DalsegnoError, Domain, Event, Limits, Receipt
    from dalsegno.protocol.dialects import AnyRequest, Passes, Shown


class _Typed(msgspec.Struct, frozen=True):
    type: str


_decode_type = msgspec.json.Decoder(_Typed).decode


class ReviewDialect(ProjectDialect):
    """What those are told who follow a project's reviews."""

    name = "reviews"
    says: Sequence[type[msgspec.Struct]] = (*ProjectDialect.says, *MESSAGES)

    def entity_event(self, event: Event) -> Shown:
        """Encode an event for its entity's stream: a job's, by its numbers there."""
        messages = messages_of(event)
        return () if messages is None else shown(event, messages, seq=event.stream_seq)

    def workspace_event(self, event: Event, payload: object) -> Shown:
        """Encode an event for the project; those of other domains as any project has them."""
        messages = messages_of(event)
        if messages is None:
            return super().workspace_event(event, payload)
        return shown(event, messages, seq=event.event_seq)

    def block_name(self, event: Event, shown: bytes) -> str:
        """Return the type of the message (CF-4.2); that of the event where it is shown as one."""
        type_ = _decode_type(shown).type
        return event.type if type_ == "event" else type_

    def recalled(self, event: Event, _payload: object) -> Shown:
        """Encode an event of before, which moves nobody's cursor."""
        return [encode_said(each) for each in messages_of(event) or ()]

    def viewed(self, asked: ViewRequest, seq: int) -> bytes:
        """Encode the answer to `View` and `Leave`: what is viewed, and from where on."""
        assert isinstance(asked, _Look), "its own"
        viewed = sorted(asked.viewing.proposals)
        return encode_said(Viewed(proposals=viewed, seq=seq, request_id=asked_by(asked.request_id)))

    def committed(self, asked: CommandRequest, receipt: Receipt) -> bytes:
        """Encode the answer to a command that was accepted."""
        return encode_said(
            JobAccepted(
                proposal_id=receipt.entity_id,
                seq=receipt.event_seq,
                request_id=asked_by(asked.request_id),
            )
        )

    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> bytes | None:
        """Encode the answer to a command that was refused, or failed."""
        return self.error(error, asked.request_id)


REVIEWS = ReviewDialect()
REVIEWS_EVENT_STREAM = EventStreamDialect(REVIEWS)


# ------------------------------------------------------------------------------- what clients say


class View(ClientMessage, tag="view", frozen=True, kw_only=True):
    """View a proposal, from the next event on; a job under way is shown from its beginning."""

    proposal_id: Text


class Leave(ClientMessage, tag="leave", frozen=True, kw_only=True):
    """View a proposal no longer."""

    proposal_id: Text


class _Look(ViewRequest, tag="look", frozen=True, kw_only=True):
    """See the project otherwise: what `View` and `Leave` come to."""

    dialect: ClassVar[Dialect] = REVIEWS

    viewing: Viewing
    begins: str | None = None
    """The proposal that is viewed from now on."""

    @property
    def stream_id(self) -> str:
        """The project's."""
        return workspace_stream(self.viewing.project_id)

    @property
    def passes(self) -> Passes:
        """What concerns them from then on."""
        return self.viewing.passes

    @property
    def looks_at(self) -> tuple[Domain[Any, Any, Any], str] | None:
        """The proposal, whose job is shown from its beginning."""
        return None if self.begins is None else (proposals, self.begins)

    def recalled(self, state: Proposal | None) -> str | None:
        """Return the stream of its job.

        Raises:
            Reject: ``PROPOSAL_NOT_FOUND``.

        """
        if state is None:
            raise not_found(proposals.stream_id(str(self.begins)))
        return None if state.job is None else runs.stream_id(state.job.run_id)


class _OfProposal(CommandRequest, frozen=True, kw_only=True):
    """A command about a proposal."""

    dialect: ClassVar[Dialect] = REVIEWS

    proposal_id: Text

    @property
    def stream_id(self) -> str:
        """The proposal's."""
        return proposals.stream_id(self.proposal_id)


class Validate(_OfProposal, tag="validate", frozen=True, kw_only=True):
    """Have a proposal validated."""

    @property
    def name(self) -> str:
        """The command's name."""
        return "validate_proposal"

    def decode(self, _domain: Domain[Any, Any, Any], _limits: Limits) -> tuple[Any, int]:
        """Return the command."""
        return ValidateProposal(proposal_id=self.proposal_id), len(self.proposal_id)


class Iterate(_OfProposal, tag="iterate", frozen=True, kw_only=True):
    """Have a proposal iterated on; it ends with this connection, its initiator."""

    instructions: Prose = ""

    @property
    def name(self) -> str:
        """The command's name."""
        return "iterate_proposal"

    def decode(self, _domain: Domain[Any, Any, Any], _limits: Limits) -> tuple[Any, int]:
        """Return the command."""
        said = self.instructions
        command = IterateProposal(proposal_id=self.proposal_id, instructions=said)
        return command, len(self.proposal_id) + len(said.encode())


class Cancel(_OfProposal, tag="cancel", frozen=True, kw_only=True):
    """Cancel a proposal's job."""

    job_id: Text | None = None

    @property
    def name(self) -> str:
        """The command's name."""
        return "cancel_job"

    def decode(self, _domain: Domain[Any, Any, Any], _limits: Limits) -> tuple[Any, int]:
        """Return the command."""
        return CancelJob(proposal_id=self.proposal_id, job_id=self.job_id), len(self.proposal_id)


ReviewDialect.messages = (*ProjectDialect.messages, View, Leave, Validate, Iterate, Cancel)


# --------------------------------------------------------------------------------------- sockets


class FollowReviews(SubscribeRequest, tag="follow_reviews", frozen=True, kw_only=True):
    """Follow a project, from where its client left off."""

    dialect: ClassVar[Dialect] = REVIEWS

    viewing: Viewing

    @property
    def stream_id(self) -> str:
        """The project's."""
        return workspace_stream(self.viewing.project_id)

    @property
    def passes(self) -> Passes:
        """What concerns them."""
        return self.viewing.passes


class FollowProposal(FollowReviews, tag="follow_proposal", frozen=True, kw_only=True):
    """Follow what goes on about one proposal, by server-sent events."""

    dialect: ClassVar[Dialect] = REVIEWS_EVENT_STREAM


class FollowProposalFromNow(FollowProposal, tag="follow_proposal_from_now", frozen=True):
    """… from now on."""

    from_now: ClassVar[bool] = True


class FollowJob(SubscribeRequest, tag="follow_job", frozen=True, kw_only=True):
    """Follow one job, from its beginning."""

    dialect: ClassVar[Dialect] = REVIEWS

    job_id: Text
    proposal_id: Text

    @property
    def stream_id(self) -> str:
        """The run's."""
        return runs.stream_id(self.job_id)

    @property
    def passes(self) -> Passes:
        """All of them, if it is a job of this proposal."""
        return lambda event: proposal_of_run(event.payload) == self.proposal_id


def following(
    user_id: str, project_id: str, proposal_id: str, cursor: str | None
) -> FollowProposal:
    """Return what an event stream of a proposal follows, from a cursor as it was said."""
    viewing = ViewingOne(user_id, project_id, frozenset({proposal_id}))
    if cursor == FROM_NOW:
        return FollowProposalFromNow(viewing=viewing)
    return FollowProposal(viewing=viewing, cursor=cursor)


def _begin(opening: Opening) -> Beginning:
    viewed = opening.query.get("proposal_id")
    viewing = Viewing(
        opening.principal.user_id,
        opening.path["project_id"],
        frozenset() if viewed is None else frozenset({viewed}),
    )
    return Beginning(state=viewing, follows=[FollowReviews(viewing=viewing, cursor=opening.cursor)])


def _interpret(viewing: Viewing, asked: Any) -> tuple[Viewing, AnyRequest | None]:  # noqa: ANN401 - a request, or `View`
    match asked:
        case View():
            seen = viewing.proposals | {asked.proposal_id}
            if len(seen) > VIEWED_MAX:
                raise Reject("BAD_REQUEST", f"a connection views at most {VIEWED_MAX} proposals")
            after = replace(viewing, proposals=seen)
            begins = None if asked.proposal_id in viewing.proposals else asked.proposal_id
            return after, _Look(viewing=after, begins=begins, request_id=asked.request_id)
        case Leave():
            after = replace(viewing, proposals=viewing.proposals - {asked.proposal_id})
            return after, _Look(viewing=after, request_id=asked.request_id)
        case _OfProposal():
            return viewing, replace(asked, workspace_id=viewing.project_id)
    known: AnyRequest = asked
    return viewing, known


def _begin_job(opening: Opening) -> Beginning:
    path = opening.path
    follow = FollowJob(
        job_id=path["job_id"], proposal_id=path["proposal_id"], cursor=opening.cursor or 0
    )
    return Beginning(follows=[follow])


review_socket = Socket(
    "/ws/projects/{project_id}",
    REVIEWS,
    begin=_begin,
    accepts_first=True,
    project="project_id",
    interprets=_interpret,
)
"""The sockets of projects, as reviews have them."""

job_socket = Socket(
    "/ws/proposals/{proposal_id}/validate/{job_id}", REVIEWS, begin=_begin_job, accepts_first=True
)
"""The sockets of one job: what it has said, and says, to its end (CF §4.2)."""
