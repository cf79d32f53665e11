"""A command from the wire: the seed's ``apply_patch``, or any by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.actors._service import not_found
from dalsegno.actors.domains.notes import ApplyPatch as NotePatch, notes
from dalsegno.actors.workspace import make_command
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    ApplyPatch,
    DalsegnoError,
    PatchOps,
    Reject,
    check_id,
    check_workspace_id,
    decode_payload,
    error_message,
    message,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors._service import Service
    from dalsegno.actors.workspace import Command, Receipt
    from dalsegno.protocol import CommandMessage, Domain, Principal

    _Asked = tuple[str, Domain[Any, Any, Any], Any, int]
    """A command's name, its domain, itself, and its length in bytes."""


_encode = msgspec.json.Encoder().encode


class Committed(msgspec.Struct, tag="committed", kw_only=True, gc=False):
    """The answer to a generic command: a struct, since it is written as often as any message."""

    workspace_id: str
    event_seq: int
    entity: str
    version: int
    idempotency_key: str | None
    request_id: str | UnsetType


class PatchCommitted(msgspec.Struct, tag="patch_committed", kw_only=True, gc=False):
    """The answer to the seed's patch."""

    note_id: str
    version: int
    event_seq: int
    idempotency_key: str | None
    request_id: str | UnsetType


class Submission:
    """One such message: what it asks, and how its answer looks."""

    __slots__ = ("_asked", "_principal", "_said", "_service")

    _asked: _Asked

    def __init__(
        self, said: CommandMessage | ApplyPatch, service: Service, principal: Principal
    ) -> None:
        self._said = said
        self._service = service
        self._principal = principal

    def make_nowait(self, reply: Callable[[Receipt | DalsegnoError], None]) -> Command | None:
        """Make the command; None where the store has to be asked for its place: see `make`.

        Raises:
            Reject: an unknown command, or a payload that is not what it says.

        """
        said, directory = self._said, self._service.directory
        self._asked = self._patch(said) if isinstance(said, ApplyPatch) else self._any(said)
        place = said.workspace_id
        if place is None or place == SYSTEM_WORKSPACE or not directory.is_known(place):
            return None
        return self._make(place, reply)

    async def make(self, reply: Callable[[Receipt | DalsegnoError], None]) -> Command:
        """Find the place and make the command, behind `make_nowait`.

        Raises:
            Reject: an unknown workspace or note, or nobody who may write there.
            UnavailableError: try again.

        """
        place = await self._place()
        await self._check_member(place)
        return self._make(place, reply)

    def _make(self, place: str, reply: Callable[[Receipt | DalsegnoError], None]) -> Command:
        said, service = self._said, self._service
        name, domain, command, size = self._asked
        return make_command(
            place,
            domain,
            name,
            command,
            principal=self._principal,
            reply=reply,
            limits=service.limits,
            domains=service.domains,
            new_id=service.world.new_id,
            checked_bytes=size,
            key=said.idempotency_key,
            correlation_id=said.request_id,
        )

    async def _check_member(self, place: str) -> None:
        """See to it that a stranger neither opens a workspace nor hears where it lives."""
        service, who = self._service, self._principal
        if who.role is not None or service.directory.is_known(place):
            return
        if await service.role_of(place, str(who.user_id)) is None:
            raise Reject("ROLE_FORBIDDEN", "not a member of this workspace")

    def _any(self, said: CommandMessage) -> _Asked:
        domain, payload = self._service.domain_of(said.name), bytes(said.payload)
        command = decode_payload(payload, domain.commands[said.name], self._service.limits)
        return said.name, domain, command, len(payload)

    def _patch(self, said: ApplyPatch) -> _Asked:
        """Make the note domain's command of the seed's message."""
        domain, payload = self._service.domain_of("apply_patch"), bytes(said.patch_ops)
        if domain is not notes:
            raise Reject("UNKNOWN_COMMAND", "there are no notes here")
        operations = decode_payload(payload, PatchOps, self._service.limits)
        command = NotePatch(said.note_id, operations, said.base_version)
        return "apply_patch", domain, command, len(payload)

    async def _place(self) -> str:
        """Find the workspace where it is not named, or not known yet."""
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
        return _encode(
            Committed(
                workspace_id=answer.workspace_id,
                event_seq=answer.event_seq,
                entity=answer.stream_id,
                version=answer.version,
                idempotency_key=said.idempotency_key,
                request_id=UNSET if said.request_id is None else said.request_id,
            )
        )


def _show_patch(said: ApplyPatch, answer: Receipt | DalsegnoError) -> bytes:
    """REQUIREMENTS §1.2.3: a note's ``event_seq`` is its version."""
    if not isinstance(answer, DalsegnoError):
        return _encode(
            PatchCommitted(
                note_id=said.note_id,
                version=answer.version,
                event_seq=answer.version,
                idempotency_key=said.idempotency_key,
                request_id=UNSET if said.request_id is None else said.request_id,
            )
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
