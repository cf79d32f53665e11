"""A command from the wire: the seed's ``apply_patch``, or any by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    ApplyPatch,
    DalsegnoError,
    Reject,
    check_id,
    check_workspace_id,
    decode_payload,
    error_message,
    message,
)

from ._command import make_command
from ._service import not_found

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.protocol import CommandMessage

    from ._command import Command, Receipt
    from ._service import Service


class Submission:
    """One such message: what it asks, and how its answer looks."""

    def __init__(self, said: CommandMessage | ApplyPatch, service: Service) -> None:
        self._said = said
        self._service = service

    async def make(
        self,
        *,
        user_id: str,
        role: str | None,
        reply: Callable[[Receipt | DalsegnoError], None],
    ) -> Command:
        """Make the command.

        Raises:
            Reject: an unknown command, workspace or note, or a payload that is not what it says.

        """
        said = self._said
        name, payload = (
            ("apply_patch", _patch_payload(said))
            if isinstance(said, ApplyPatch)
            else (said.name, bytes(said.payload))
        )
        domain = self._service.domain_of(name)
        command = decode_payload(payload, domain.commands[name], self._service.limits)
        return make_command(
            await self._workspace_id(),
            domain,
            name,
            command,
            principal=self._service.principal(user_id, role),
            reply=reply,
            limits=self._service.limits,
            domains=self._service.domains,
            new_id=self._service.world.new_id,
            key=said.idempotency_key,
            correlation_id=said.request_id,
        )

    async def _workspace_id(self) -> str:
        said = self._said
        if isinstance(said, ApplyPatch):
            check_id(said.note_id, chars_max=self._service.limits.id_chars_max)
            return await self._service.place(f"note:{said.note_id}", said.workspace_id)
        if said.workspace_id == SYSTEM_WORKSPACE:
            raise Reject("ROLE_FORBIDDEN", "this log is not written from outside")
        check_workspace_id(said.workspace_id)
        await self._service.check_exists(said.workspace_id)
        return said.workspace_id

    def show(self, answer: Receipt | DalsegnoError) -> bytes:
        """Show the answer in the dialect of the question."""
        said = self._said
        if isinstance(said, ApplyPatch):
            return _show_patch(said, answer)
        if isinstance(answer, DalsegnoError):
            return message(
                "rejected",
                said.request_id,
                workspace_id=said.workspace_id,
                code=answer.code,
                message=answer.message,
                details=answer.details or None,
                idempotency_key=said.idempotency_key,
            )
        return message(
            "committed",
            said.request_id,
            workspace_id=answer.workspace_id,
            event_seq=answer.event_seq,
            entity=answer.stream_id,
            version=answer.version,
            idempotency_key=said.idempotency_key,
        )


def _patch_payload(said: ApplyPatch) -> bytes:
    return b'{"note_id":%s,"base_version":%d,"patch_ops":%s}' % (
        msgspec.json.encode(said.note_id),
        said.base_version,
        bytes(said.patch_ops),
    )


def _show_patch(said: ApplyPatch, answer: Receipt | DalsegnoError) -> bytes:
    """REQUIREMENTS §1.2.3: a note's ``event_seq`` is its version."""
    if not isinstance(answer, DalsegnoError):
        return message(
            "patch_committed",
            said.request_id,
            note_id=said.note_id,
            version=answer.version,
            event_seq=answer.version,
            idempotency_key=said.idempotency_key,
        )
    if answer.code == "VERSION_CONFLICT":
        return message(
            "patch_rejected",
            said.request_id,
            note_id=said.note_id,
            expected_version=answer.details["expected_version"],
            current_version=answer.details["current_version"],
            reason="version_conflict",
            idempotency_key=said.idempotency_key,
        )
    if answer.code == "ROLE_FORBIDDEN" and "role" not in answer.details and not said.workspace_id:
        # A stranger who guesses an id does not learn that there is such a note (C22).
        answer = not_found(f"note:{said.note_id}")
    return error_message(answer, said.request_id, note_id=said.note_id)
