"""What may be asked of a run: by people, to request and to cancel it; the rest by who runs it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from dalsegno.protocol._spoken import Channel

from ._vocabulary import Labels, Name, Outcome, RunProblem, Trigger

Reason = Annotated[str, Meta(max_length=1_000)]


class RequestRun(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a run by a worker, with the rights of who asks."""

    run_id: str | None = None
    worker: Name
    input: Any = None
    labels: Labels = {}
    deadline_s: Annotated[float, Meta(gt=0, description="seconds from now")] | None = None
    """None: the worker's own, which it may not exceed."""


class TriggerRun(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a run because of an event, unless there is one for it."""

    run_id: str
    """Derived from the reactor and the event."""
    worker: Name
    trigger: Trigger
    cause: str | None
    """The run that made the event."""
    depth_max: int
    input: Any = None
    labels: Labels = {}
    deadline_s: Annotated[float, Meta(gt=0, description="seconds from now")] | None = None
    requested_by: str | None = None


class CancelRun(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel a run; one that has ended stays as it is."""

    run_id: str
    reason: Reason | None = None


class StartAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Begin an attempt, the first or the one after a known one."""

    run_id: str
    attempt_id: str
    after: str | None
    """The attempt that was the last one; None: there was none."""


class HoldAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Refuse what stands beside it in its group unless the attempt is the run's."""

    run_id: str
    attempt_id: str


class SaveRun(msgspec.Struct, frozen=True, kw_only=True):
    """Record how far an attempt got."""

    run_id: str
    attempt_id: str
    checkpoint: Any


class FinishStep(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the command before it in its group was a step's."""

    run_id: str
    attempt_id: str
    step_id: Name


MessageId = Annotated[str, Meta(min_length=1, max_length=200)]

PARTS_MAX = 128
"""Parts of what an attempt says that are written at once."""


class OutputPart(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of one message in one channel, without a break."""

    message_id: MessageId
    channel: Channel
    from_frame: Annotated[int, Meta(ge=1)]
    to_frame: Annotated[int, Meta(ge=1)]
    text: str
    opens: bool = False
    closes: bool = False


class WriteOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Record what an attempt has said; what is recorded already is passed over."""

    run_id: str
    attempt_id: str
    parts: Annotated[tuple[OutputPart, ...], Meta(max_length=PARTS_MAX)]


class ReleaseRun(msgspec.Struct, frozen=True, kw_only=True):
    """End an attempt whose run goes on: it failed and is tried again, or its node drains."""

    run_id: str
    attempt_id: str
    error: RunProblem | None = None
    """None: its node drains."""
    retry_at: datetime | None = None


class FinishRun(msgspec.Struct, frozen=True, kw_only=True):
    """End a run."""

    run_id: str
    attempt_id: str
    outcome: Outcome
    result: Any = None
    error: RunProblem | None = None


class ExpireRun(msgspec.Struct, frozen=True, kw_only=True):
    """End a run that is past its deadline."""

    run_id: str


AnyRunCommand: TypeAlias = (
    RequestRun
    | TriggerRun
    | CancelRun
    | StartAttempt
    | HoldAttempt
    | SaveRun
    | FinishStep
    | WriteOutput
    | ReleaseRun
    | FinishRun
    | ExpireRun
)
