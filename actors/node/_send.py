"""Sending a command from within this program, and waiting for its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from dalsegno.actors.workspace import (
    checking,
    in_turns,
    make_collecting,
    make_command,
    make_group,
    make_relisting,
)
from dalsegno.protocol import DalsegnoError, Receipt, Reject

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from dalsegno.actors.workspace import Command, Receipts
    from dalsegno.protocol import Domain, Due, Principal

    from ._catalog import Catalog
    from ._directory import Directory


class _Answer:
    """Where an answer arrives, and the one task that waits for it."""

    __slots__ = ("_answer", "_waiting")

    def __init__(self) -> None:
        self._answer: Receipts | DalsegnoError | None = None
        self._waiting: trio.lowlevel.Task | None = None

    def give(self, answer: Receipts | DalsegnoError) -> None:
        self._answer = answer
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def wait(self) -> Receipts:
        if self._answer is None:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        else:
            await trio.lowlevel.checkpoint()
        answer, self._answer = self._answer, None
        assert answer is not None, "it has arrived"
        if not isinstance(answer, DalsegnoError):
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
    due: Due | None = None,
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
        due: what its entity asked for; then nothing happens unless it is asked for still.

    Raises:
        Reject: refused, with a code; nothing happened.
        UnavailableError: not applied: overloaded, the store is away, or shutting down.
        OutcomeUnknownError: may have been applied; a repeat with the same key finds out.
        WorkspaceHaltedError: the log needs a repair first.

    """
    answer = _Answer()
    sending = _Sending(directory, catalog, workspace_id, principal, key, correlation_id, causation)
    prepared, _ = await sending.make(command, answer)
    prepared.due = due
    await directory.activate(workspace_id).admit(prepared)
    receipt = await answer.wait()
    assert isinstance(receipt, Receipt), "of one command"
    return receipt


async def relist(
    directory: Directory, workspace_id: str, domain: Domain[Any, Any, Any], stream_ids: list[str]
) -> None:
    """List some entities anew, in their workspace's order; raises what `send` does."""
    answer = _Answer()
    new_id = directory.node.world.new_id
    command = make_relisting(workspace_id, domain, stream_ids, reply=answer, new_id=new_id)
    await directory.activate(workspace_id).admit(command)
    await answer.wait()


async def collect(directory: Directory, domain: Domain[Any, Any, Any], entity_id: str) -> None:
    """Have ``$audit`` take what is on record into its log, in its order; raises what `send` does.

    Whatever it raises, it may be asked again: what was taken is not taken a second time.
    """
    answer = _Answer()
    new_id = directory.node.world.new_id
    command = make_collecting(domain, entity_id, reply=answer, new_id=new_id)
    await directory.activate(command.workspace_id).admit(command)
    await answer.wait()


async def send_all(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    commands: Sequence[msgspec.Struct],
    *,
    principal: Principal,
    key: str | None = None,
    correlation_id: str | None = None,
    causation: str | None = None,
) -> tuple[Receipt, ...]:
    """Ask for several changes that take effect all or none, and wait until they are durable.

    They are decided in order, each on what those before it made, and nothing else comes in between.

    Args:
        directory: where the workspace is active, or will be.
        catalog: knows the commands' domains.
        workspace_id: the workspace of all of them.
        commands: commands of any domains.
        principal: who asks.
        key: an idempotency key for all of them together; see `send`.
        correlation_id: as in `send`.
        causation: as in `send`.

    Returns:
        A receipt for each.

    Raises:
        Reject: one of them was refused, ``details["command"]`` counts which, from 0; nothing
            happened.  ``BAD_REQUEST`` for more than `Limits.group_commands_max`, or for more than
            `Limits.group_bytes_max`.
        UnavailableError: as in `send`.
        OutcomeUnknownError: as in `send`.
        WorkspaceHaltedError: as in `send`.

    """
    asked = [(command, principal) for command in commands]
    return await send_group(
        directory,
        catalog,
        workspace_id,
        asked,
        key=key,
        correlation_id=correlation_id,
        causation=causation,
    )


async def send_group(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    asked: Sequence[tuple[msgspec.Struct, Principal]],
    *,
    key: str | None = None,
    correlation_id: str | None = None,
    causation: str | None = None,
    depth: int = 0,
) -> tuple[Receipt, ...]:
    """Ask for several changes as `send_all` does, each as somebody of its own.

    ``depth`` is that of the run that does; see `Context.depth`.
    """
    if not asked:
        return ()
    limits = directory.node.limits
    if len(asked) > limits.group_commands_max:
        raise Reject("BAD_REQUEST", f"at most {limits.group_commands_max} commands at once")
    answer, left = _Answer(), limits.group_bytes_max
    prepared = []
    for command, principal in asked:
        sending = _Sending(
            directory, catalog, workspace_id, principal, key, correlation_id, causation
        )
        one, size = await sending.make(command, answer)
        left -= size
        if left < 0:
            raise Reject("BAD_REQUEST", f"more than {limits.group_bytes_max} bytes at once")
        one.depth = depth
        prepared.append(one)
    await directory.activate(workspace_id).admit(make_group(prepared))
    receipts = await answer.wait()
    return receipts if isinstance(receipts, tuple) else (receipts,)


class _Sending(NamedTuple):
    """What the commands of one call have in common."""

    directory: Directory
    catalog: Catalog
    workspace_id: str
    principal: Principal
    key: str | None
    correlation_id: str | None
    causation: str | None

    async def make(self, command: msgspec.Struct, answer: _Answer) -> tuple[Command, int]:
        """Check a command and put it into its envelope; return its length as JSON with it."""
        name, domain = self.catalog.named(command)
        node = self.directory.node
        beside = (self.principal.user_id, self.key, self.correlation_id, self.causation)
        steps = checking(domain, name, command, *beside, limits=node.limits)
        checked, size = await in_turns(steps)
        prepared = make_command(
            self.workspace_id,
            domain,
            name,
            checked,
            principal=self.principal,
            reply=answer,
            roles=self.catalog.roles,
            limits=node.limits,
            new_id=node.world.new_id,
            checked_bytes=size,
            key=self.key,
            correlation_id=self.correlation_id,
            causation=self.causation,
        )
        return prepared, size
