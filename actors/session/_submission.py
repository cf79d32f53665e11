"""A command from the wire, on its way to its workspace's mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dalsegno.actors.workspace import make_command
from dalsegno.protocol import (
    RESERVED_WORKSPACES,
    DalsegnoError,
    Reject,
    check_id,
    check_workspace_id,
)

if TYPE_CHECKING:
    from dalsegno.actors.workspace import Command, Receipts
    from dalsegno.protocol import Domain, Principal, Receipt
    from dalsegno.protocol.dialects import CommandRequest

    from ._context import SessionContext
    from ._writer import Writer

    _Decoded = tuple[Domain[Any, Any, Any], Any, int]
    """A command's domain, itself, and its length in bytes."""


class Submitter(Protocol):
    """The connection that commands come from."""

    writer: Writer

    def answered(self) -> None:
        """Count one command less that waits for its answer."""


class Submission:
    """One command request: the command that it asks for, and how the answer looks.

    It is where the workspace's answer goes (`Reply`), so that a command needs no closure.
    """

    __slots__ = ("_asked", "_context", "_decoded", "_principal", "_submitter")

    _decoded: _Decoded

    def __init__(
        self,
        asked: CommandRequest,
        context: SessionContext,
        principal: Principal,
        submitter: Submitter,
    ) -> None:
        self._asked = asked
        self._submitter = submitter
        self._context = context
        self._principal = principal

    def make_nowait(self) -> Command | None:
        """Return the command; None where the store has to be asked for its workspace: see `make`.

        Raises:
            Reject: an unknown command, or a payload that is not what it has to be.

        """
        asked, catalog = self._asked, self._context.catalog
        domain = catalog.domain_of(asked.name)
        self._decoded = (domain, *asked.decode(domain, self._context.node.limits))
        named = asked.workspace_id
        if named is None or named in RESERVED_WORKSPACES or not catalog.is_active(named):
            return None
        return self._make(named)

    async def make(self) -> Command:
        """Find the workspace and return the command, after `make_nowait`.

        Raises:
            Reject: an unknown workspace or entity, or a principal that may not write there.
            UnavailableError: try again.

        """
        command = self._make(await self._home())
        # A stranger neither opens a workspace nor learns which node serves it.
        if not self._context.catalog.is_active(command.workspace_id):
            await self._context.catalog.check_sender(
                command.workspace_id, command.principal, command.scope, command.key
            )
        return command

    def _make(self, workspace_id: str) -> Command:
        asked, context = self._asked, self._context
        domain, command, size = self._decoded
        return make_command(
            workspace_id,
            domain,
            asked.name,
            command,
            principal=self._principal,
            reply=self,
            sender=self._submitter.writer,
            roles=context.catalog.roles,
            limits=context.node.limits,
            new_id=context.node.world.new_id,
            checked_bytes=size,
            key=asked.idempotency_key,
            correlation_id=asked.request_id,
        )

    async def _home(self) -> str:
        """Return the workspace where it is not named, or not active here."""
        named, stream_id = self._asked.workspace_id, self._asked.stream_id
        catalog = self._context.catalog
        if stream_id is not None:
            check_id(stream_id.partition(":")[2], chars_max=self._context.node.limits.id_chars_max)
            return await catalog.home_of(stream_id, named)
        if named in RESERVED_WORKSPACES:
            raise Reject("ROLE_FORBIDDEN", "this log is not written from outside")
        workspace_id = check_workspace_id(named or "")
        await catalog.check_exists(workspace_id)
        return workspace_id

    def show(self, answer: Receipt | DalsegnoError) -> bytes | None:
        """Show the answer in the dialect of the request."""
        dialect = self._asked.dialect
        if isinstance(answer, DalsegnoError):
            asked = self._asked
            self._context.note_refused(answer, self._principal, asked.name, asked.workspace_id)
            return dialect.rejected(self._asked, answer)
        return dialect.committed(self._asked, answer)

    def give(self, answer: Receipts | DalsegnoError) -> None:
        """Write the answer to the client; see `Reply`."""
        assert not isinstance(answer, tuple), "no group is asked for from here"
        writer = self._submitter.writer
        self._submitter.answered()
        try:
            writer.reply(self.show(answer))
        except Exception:  # noqa: BLE001 - details that are no JSON, say
            writer.fail()
