"""A task in the background of an ``async with``, which looks after something meanwhile."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_log = logging.getLogger("dalsegno.runtime")

_INTERRUPTS = (KeyboardInterrupt, SystemExit)


@asynccontextmanager
async def in_background(
    task: Callable[..., Awaitable[object]],
    *,
    starts: bool = False,
    translate: Callable[[ExceptionGroup[Exception]], Exception] | None = None,
) -> AsyncIterator[None]:
    """Run ``task`` for the length of a block, which cancels it at its end.

    The block's own exception leaves as it is, in no group, whatever it is.  So does a Ctrl-C that
    happened to arrive in the task.  If the task failed too, an `Exception` of the block gives way
    to that failure and is its context; others have the failure as theirs, and it is logged.

    Args:
        task: what to run.
        starts: whether ``task`` takes a ``task_status``; the block then begins once it has started.
        translate: what to raise where ``task`` failed, instead of the group.

    Raises:
        ExceptionGroup: ``task`` failed; the block is cancelled.

    """
    raised: BaseException | None = None
    failed: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                if starts:
                    await nursery.start(task)
                else:
                    nursery.start_soon(task)
            except _INTERRUPTS as error:
                raised = error
            else:
                try:
                    yield
                except (trio.Cancelled, GeneratorExit):
                    raise
                except BaseException as error:  # noqa: BLE001 - raised again, outside of the nursery
                    raised, cancelled = _without_cancelled(error)
                    if cancelled is not None:
                        raise cancelled from None
            nursery.cancel_scope.cancel(reason="the block is over")
    except trio.Cancelled:
        if raised is None:
            raise
    except BaseExceptionGroup as group:
        failed = _failure(group if raised is None else _without_cancelled(group)[0], translate)
    if raised is not None or failed is not None:
        raise _first_of(raised, failed)


def _without_cancelled(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Split the cancellations off, which have to reach the scopes that they belong to."""
    if not isinstance(error, BaseExceptionGroup):
        return error, None
    cancelled, rest = error.split(trio.Cancelled)
    return (error, None) if cancelled is None else (rest, cancelled)


def _failure(
    group: BaseException | None,
    translate: Callable[[ExceptionGroup[Exception]], Exception] | None,
) -> BaseException | None:
    """Return what to raise for what left the nursery."""
    if not isinstance(group, BaseExceptionGroup):
        return group
    interrupts, rest = group.split(_INTERRUPTS)
    if interrupts is not None:
        return _first_of(_leaf(interrupts), rest and _without_cancelled(rest)[0])
    if isinstance(group, ExceptionGroup) and translate is not None:
        return translate(group)
    return group


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _first_of(raised: BaseException | None, failed: BaseException | None) -> BaseException:
    """Return what leaves, with the other one as its context."""
    if raised is None or failed is None:
        error = raised or failed
        assert error is not None
        return error
    first, second = (failed, raised) if isinstance(raised, Exception) else (raised, failed)
    if first is raised:
        _log.error("failed while the program was ending", exc_info=failed)
    first.__context__ = second
    first.add_note(f"and beside it: {second!r}")
    return first
