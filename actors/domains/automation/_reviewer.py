"""Who applies what a review has accepted: one operation a commit, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import Reject, not_found
from dalsegno.protocol.runs import Done, Worker

from .librarian import (
    REVIEWER,
    REVIEWERS,
    ApplyOperation,
    FinishReview,
    LibrarianReview,
    librarian_reviews,
)

if TYPE_CHECKING:
    from dalsegno.protocol.runs import Work


class _Asked(msgspec.Struct, frozen=True):
    run_id: str
    """The run whose operations are applied."""


async def _apply(run: Work) -> Done:
    try:
        run_id = msgspec.convert(run.input, _Asked).run_id
    except msgspec.ValidationError as error:
        raise Reject("BAD_REQUEST", str(error), status=400) from error
    while True:
        review: LibrarianReview | None = await run.get(librarian_reviews, run_id)
        if review is None:
            raise not_found(librarian_reviews.stream_id(run_id))
        for operation_id in review.due():
            settled = ApplyOperation(run_id=run_id, operation_id=operation_id)
            step = f"operation-{review.items[operation_id].operation_index}"
            await run.send(settled, step=step)
        try:
            await run.send(FinishReview(run_id=run_id))
        except Reject as error:
            if error.code != "REVIEW_OPEN":
                raise
            continue  # somebody decided on more meanwhile
        return Done(result={"run_id": run_id})


review_worker = Worker(
    name=REVIEWER, function=_apply, kind="review", concurrency=1, allow=REVIEWERS
)
"""Applies what was accepted; a review asks for it (`ReviewRun`).

One at a time in a workspace, so that two reviews do not apply to one note in turns (KJ §1.5.8).
"""
