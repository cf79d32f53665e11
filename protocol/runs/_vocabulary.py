"""What happens to a run, as events: from ``run_requested`` to ``run_finished``, the only end.

Each of them has the run's kind and its labels, so that a view of it is a function of one event.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from dalsegno.protocol._spoken import Channel
from dalsegno.protocol._worker import OnDisconnect

Outcome: TypeAlias = Literal["succeeded", "failed", "cancelled", "interrupted"]
"""How a run ended; interrupted: it waits for a human, whose answer starts the next one."""
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_.-]*$")]
Label = Annotated[str, Meta(max_length=256)]
Labels = Annotated[dict[Name, Label], Meta(max_length=16)]


class RunProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run, or an attempt of it, failed."""

    code: str
    message: str = ""
    retryable: bool = False


class StepReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the command of a step, which is given to every attempt that asks again."""

    stream_id: str
    event_seq: int
    version: int
    command_id: str


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """The event that a run was asked for because of."""

    stream_id: str
    event_seq: int
    version: int
    """Of its entity, right after it."""
    event_id: str


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What every event of a run has."""

    kind: str
    labels: dict[str, str]


class RunRequested(RunEvent, frozen=True, kw_only=True):
    """A run was asked for, and waits for its turn."""

    worker: str
    """Who carries it out: a reactor's or a worker's name."""
    input: Any = None
    requested_by: str | None = None
    """The user whose rights it has; None: the program itself."""
    deadline: datetime
    attempts_max: int
    on_disconnect: OnDisconnect
    trigger: Trigger | None = None
    """None: somebody asked for it."""
    depth: int = 0
    """How many events, each made by the run for the one before, led to it."""
    connection_id: str | None = None
    """The connection with which it ends; None: with none."""
    at: datetime | None = None
    """When; None for what happened before this was recorded, here and below."""


class RunStarted(RunEvent, frozen=True, kw_only=True):
    """Its first attempt began; or it ended before one did, with the next event."""

    attempt: int
    attempt_id: str
    """What the attempt shows with all that it sends."""
    at: datetime | None = None


class RunRestarted(RunEvent, frozen=True, kw_only=True):
    """Another attempt began, and what the one before said is void."""

    attempt: int
    attempt_id: str
    reason: Literal["retry", "interrupted", "released"]


class RunReleased(RunEvent, frozen=True, kw_only=True):
    """An attempt ended before the run did, which waits for the next one."""

    attempt: int
    reason: Literal["failed", "drained"]
    error: RunProblem | None = None
    retry_at: datetime | None = None
    """Not before."""


class RunSaved(RunEvent, frozen=True, kw_only=True):
    """An attempt recorded how far it got, for the next one."""

    attempt: int
    checkpoint: Any


class StepFinished(RunEvent, frozen=True, kw_only=True):
    """A named step took effect, in this very commit; it does so once in the run's life."""

    attempt: int
    step_id: str
    receipt: StepReceipt


class RunOutput(RunEvent, frozen=True, kw_only=True):
    """A rollup: what an attempt said of one message in one channel, since the rollup before."""

    attempt: int
    message_id: str
    channel: Channel
    from_frame: int
    """The number of its first frame in the attempt …"""
    to_frame: int
    """… and of its last."""
    text: str
    opens: bool
    """Whether the message begins here in its channel, or goes on after another one."""
    closes: bool
    """Whether it is known to end here; with the attempt, or with another message in its channel,
    it does so anyway."""


class RunCancelRequested(RunEvent, frozen=True, kw_only=True):
    """Somebody cancelled it: nothing of it takes effect from here on."""

    by: str | None
    reason: str | None = None


class RunFinished(RunEvent, frozen=True, kw_only=True):
    """The end, after which nothing of it happens."""

    outcome: Outcome
    attempt: int
    result: Any = None
    error: RunProblem | None = None
    at: datetime | None = None


AnyRunEvent: TypeAlias = (
    RunRequested
    | RunStarted
    | RunRestarted
    | RunReleased
    | RunSaved
    | StepFinished
    | RunOutput
    | RunCancelRequested
    | RunFinished
)
