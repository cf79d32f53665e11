"""Sending a command from within this program, and waiting for its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.actors.workspace import checking, in_turns, make_command
from dalsegno.protocol import DalsegnoError, Receipt

if TYPE_CHECKING:
    import msgspec

    from dalsegno.protocol import Principal

    from ._catalog import Catalog
    from ._directory import Directory


class _Answer:
    """Where an answer arrives, and the one task that waits for it."""

    __slots__ = ("_answer", "_waiting")

    def __init__(self) -> None:
        self._answer: Receipt | DalsegnoError | None = None
        self._waiting: trio.lowlevel.Task | None = None

    def give(self, answer: Receipt | DalsegnoError) -> None:
        self._answer = answer
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def wait(self) -> Receipt:
        if self._answer is None:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        else:
            await trio.lowlevel.checkpoint()
        answer, self._answer = self._answer, None
        assert answer is not None, "it has arrived"
        if isinstance(answer, Receipt):
            return answer
        try:
            raise answer
        finally:
            del answer  # its traceback has this frame: a cycle for each refused command

    def _leave(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


async def send(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    command: msgspec.Struct,
    *,
    principal: Principal,
    key: str | None = None,
    correlation_id: str | None = None,
    causation: str | None = None,
) -> Receipt:
    """Ask for a change and wait until it is durable.

    Cancelled, the command may have committed, or may yet: send it again with the same ``key``.

    Args:
        directory: where the workspace is active, or will be.
        catalog: knows the command's domain.
        workspace_id: the workspace.
        command: one of a domain's commands.
        principal: who asks.
        key: an idempotency key, 1 to 256 characters; a repeat gets the original receipt.
        correlation_id: what this belongs to, recorded with the events.
        causation: the event or command that led to this one, recorded with the events.

    Raises:
        Reject: refused, with a code; nothing happened.
        UnavailableError: not applied: overloaded, the store is away, or shutting down.
        OutcomeUnknownError: may have been applied; a repeat with the same key finds out.
        WorkspaceHaltedError: the log needs a repair first.

    """
    name, domain = catalog.named(command)
    answer, node = _Answer(), directory.node
    beside = (principal.user_id, key, correlation_id, causation)
    checked, size = await in_turns(checking(domain, name, command, *beside, limits=node.limits))
    prepared = make_command(
        workspace_id,
        domain,
        name,
        checked,
        principal=principal,
        reply=answer,
        roles=catalog.roles,
        limits=node.limits,
        new_id=node.world.new_id,
        checked_bytes=size,
        key=key,
        correlation_id=correlation_id,
        causation=causation,
    )
    await directory.activate(workspace_id).admit(prepared)
    return await answer.wait()
