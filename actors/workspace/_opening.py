"""How an incarnation begins: fence the last one, resolve what it left, publish the rest (I4)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import (
    CodeTooOldError,
    CorruptLogError,
    FencedError,
    Reject,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)

if TYPE_CHECKING:
    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.ports import Head

    from ._command import Command
    from ._local_node import LocalNode
    from ._mailbox import Mailbox

_log = logging.getLogger("dalsegno.workspace")


async def bring_up_to_date(
    node: LocalNode,
    head: Head,
    hub: Hub,
    mailbox: Mailbox[Command],
    unresolved: list[Command],
) -> None:
    """Bring a workspace's hub and its commands up to its log, which was just acquired.

    Args:
        node: this node.
        head: as `acquire` returned it.
        hub: gets what was committed and not yet published.
        mailbox: gets back what was surely not applied.
        unresolved: commands that may have been applied; empty afterwards.

    Raises:
        WorkspaceMovedError: another node owns it; the unresolved commands are answered.
        CodeTooOldError: a later program has owned it; the same.
        WorkspaceHaltedError: the log cannot be read, or was halted.
        UnavailableError: the store is away.

    """
    if head.app_version > node.app_version:
        # Whoever raised that has raised the epoch with it: what the log says is final as well.
        too_old = CodeTooOldError(head.app_version, node.app_version)
        await _resolve(node, mailbox, unresolved, hub.workspace_id, too_old)
        raise too_old
    if head.owner != node.node_id:
        # It was taken over, so nothing sent from here can be written any more: what the log
        # says of the unresolved commands is final (I4).
        moved = await moved_to(node, head.owner)
        await _resolve(node, mailbox, unresolved, hub.workspace_id, moved)
        raise moved
    if head.halted_reason is not None:
        await _try_again(node, head)
    # Events first: a sender that hears that its command took effect can read what it did.
    await _publish_rest(node, hub, head)
    await _resolve(node, mailbox, unresolved, hub.workspace_id)


async def acquire(node: LocalNode, workspace_id: str, *, create: bool) -> Head | None:
    """Own a workspace under a new epoch; see `Store.acquire`.

    Raises:
        FencedError: another process is this node.

    """
    head = await node.store.acquire(
        workspace_id,
        node.node_id,
        create=create,
        incarnation=node.process_id,
        app_version=node.app_version,
    )
    # One that a later program has released has no owner either, and is another matter.
    if head is not None and head.owner is None and head.app_version <= node.app_version:
        raise FencedError("another process is this node")
    return head


async def moved_to(node: LocalNode, owner: str | None) -> WorkspaceMovedError:
    """Return the error for those who ask here: which node owns the workspace, and its address."""
    other = None if owner is None else await node.store.find_node(owner)
    if other is None:
        return WorkspaceMovedError(owner)
    return WorkspaceMovedError(owner, address=other.address, retry_after_s=other.expires_in_s)


async def _try_again(node: LocalNode, head: Head) -> None:
    """Open a halted workspace once more if other code than that which halted it runs here."""
    if head.halted_code == node.code:
        raise WorkspaceHaltedError(str(head.halted_reason))
    await node.store.resume(
        head.workspace_id,
        head.epoch,
        actor=node.node_id,
        detail=f"tried again by {node.code}, after: {head.halted_reason}",
    )


async def _resolve(
    node: LocalNode,
    mailbox: Mailbox[Command],
    unresolved: list[Command],
    workspace_id: str,
    moved: WorkspaceMovedError | CodeTooOldError | None = None,
) -> None:
    """Answer what an earlier incarnation left open, now that it is fenced (I4).

    What was not applied is decided again, or is told where the workspace is now.
    """
    if not unresolved:
        return
    ids = [each.command_id for command in unresolved for each in command.group]
    after_seq = min(command.sent_after for command in unresolved)
    found = await node.store.find_commands(workspace_id, ids, after_seq=after_seq)
    versions = await node.store.read_versions(
        workspace_id, [each.stream_id for command in unresolved for each in command.group]
    )
    again = []
    for command in unresolved:
        answer = command.receipt_of(found, versions)
        if answer is not None:
            command.answer(answer)
        elif moved is not None:
            command.answer(moved)
        else:
            again.append(command)
    unresolved.clear()
    mailbox.give_back(again)


async def _publish_rest(node: LocalNode, hub: Hub, head: Head) -> None:
    """Publish what was committed and never published; nothing at the first opening."""
    await hub.wait_published()
    if hub.is_open and not await _continues(node, hub, head):
        # A failover lost the end of the log, or it was restored: what was published here is of
        # another history, and so is every cursor above the point where the two part.
        _log.error("%s: the log is not the one that was published here", hub.workspace_id)
        hub.end(Reject("CURSOR_DIVERGED", "the log was restored to another history"))
    if not hub.is_open:
        hub.open(head.head_seq, head.chain)
        return
    while hub.head < head.head_seq:
        bounds = PageBounds(
            from_seq=hub.head + 1,
            to_event_seq=head.head_seq,
            limit=node.limits.page_events,
            bytes_max=node.limits.page_bytes_max,
        )
        page = await node.store.read_events(hub.workspace_id, bounds)
        if not page or page[0].event_seq != hub.head + 1:
            raise CorruptLogError(f"{hub.workspace_id}: nothing after {hub.head}")
        await hub.publish(page, _answer_nobody)
    hub.confirm_head()


async def _continues(node: LocalNode, hub: Hub, head: Head) -> bool:
    """Return whether the log goes on from what was published here."""
    seq, chain = hub.head, hub.chain
    if head.head_seq <= seq:
        return (head.head_seq, head.chain) == (seq, chain)
    if seq == 0:
        return True
    one = PageBounds(from_seq=seq, to_event_seq=seq, limit=1, bytes_max=1)
    found = await node.store.read_events(hub.workspace_id, one)
    return bool(found) and found[0].chain == chain


def _answer_nobody() -> None:
    """Publish without answers: the senders are answered by `_resolve`."""
