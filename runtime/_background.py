"""A task in the background of an ``async with``, which looks after something meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def in_background(
    task: Callable[..., Awaitable[object]],
    *,
    starts: bool = False,
    translate: Callable[[ExceptionGroup[Exception]], Exception] | None = None,
) -> AsyncIterator[None]:
    """Run ``task`` for the length of a block, which cancels it at its end.

    The block's own exception leaves as it is, in no group.

    Args:
        task: what to run.
        starts: whether ``task`` takes a ``task_status``; the block then begins once it has started.
        translate: what to raise where ``task`` failed, instead of the group.

    Raises:
        ExceptionGroup: ``task`` failed; the block is cancelled.

    """
    raised: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            if starts:
                await nursery.start(task)
            else:
                nursery.start_soon(task)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again, outside of the nursery
                raised = error
            nursery.cancel_scope.cancel(reason="the block is over")
    except ExceptionGroup as group:
        raised = group if translate is None else translate(group)
    if raised is not None:
        raise raised
