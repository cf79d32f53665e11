"""Answers that many routes have."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import msgspec

from dalsegno.protocol.runs import RunProblem

if TYPE_CHECKING:
    from dalsegno.protocol._receipt import Receipt
    from dalsegno.protocol.runs import RunState

    from ._asked import Asked


class ChangedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An entity's version after a change, and the number of its event in the workspace."""

    id: str
    version: int
    event_seq: int
    idempotency_key: str


def changed(asked: Asked[Any, Any], receipt: Receipt) -> ChangedBody:
    """Return the answer to a change whose route makes a key (``makes_key``)."""
    return ChangedBody(
        id=receipt.entity_id,
        version=receipt.version,
        event_seq=receipt.event_seq,
        idempotency_key=asked.made_key,
    )


class RunBody(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as it stood when a request for it was answered."""

    run_id: str
    worker: str
    kind: str
    labels: dict[str, str]
    status: str
    """``requested``, ``running`` or ``released`` while it is open; else how it ended."""
    attempt: int
    """The attempts that began."""
    deadline: datetime
    result: Any
    """What its worker returned, JSON."""
    error: RunProblem | None
    """Why it failed, or its last attempt did."""

    @classmethod
    def of(cls, run_id: str, run: RunState) -> Self:
        """Return the body of a run."""
        return cls(
            run_id=run_id,
            worker=run.worker,
            kind=run.kind,
            labels=run.labels,
            status=run.status,
            attempt=run.attempt,
            deadline=run.deadline,
            result=run.result,
            error=run.error,
        )
