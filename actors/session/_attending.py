"""Where one connection is present, and what it says of itself there.

A connection is present where it has asked for that, under its user, its client and its tab.  It
leaves when it says so, and when it ends: at once if its client or this server ended it for good,
and else after a while in which it may come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio
from msgspec import UNSET, Raw, UnsetType

from dalsegno.protocol import (
    NO_STATE,
    RESERVED_WORKSPACES,
    Close,
    RateBudget,
    Reject,
    check_workspace_id,
    reason_of,
)

if TYPE_CHECKING:
    from dalsegno.actors.delivery import Attendance, Entry, Presence
    from dalsegno.protocol import DalsegnoError, Principal
    from dalsegno.protocol.dialects import (
        AttendRequest,
        Dialect,
        LeaveRequest,
        StateRequest,
    )

    from ._context import SessionContext
    from ._writer import Writer

_CLIENT_LEFT = frozenset({1000, 1001, 1005})
"""How a client closes that knows it does: RFC 6455 §7.4.1, the last one without a code."""
_FOR_GOOD = frozenset({Close.UNAUTHORIZED, Close.FORBIDDEN, Close.NOT_FOUND})
"""How this server ends a connection whose client is not to come back."""


def is_lost(code: Close, *, left_with: int | None) -> bool:
    """Return whether the client of a connection that ends may come back at once.

    Args:
        code: how this server ends it.
        left_with: the code with which it was found closed; None: it was not.

    """
    return code not in _FOR_GOOD if left_with is None else left_with not in _CLIENT_LEFT


class Attending:
    """The workspaces in which one connection is present."""

    __slots__ = ("_budget", "_client_id", "_context", "_present", "_principal", "_tab", "_writer")

    def __init__(
        self,
        writer: Writer,
        context: SessionContext,
        principal: Principal,
        *,
        client_id: str,
        tab: str | None,
    ) -> None:
        """Make it.

        Args:
            writer: the connection's.
            context: what sessions share.
            principal: whose connection it is.
            client_id: which of the user's clients.
            tab: which of that one's tabs; None: it does not say.

        """
        self._writer = writer
        self._context = context
        self._principal = principal
        self._client_id = client_id
        self._tab = tab
        self._present: dict[str, tuple[Attendance, Dialect]] = {}
        """By workspace, with the dialect in which it is told."""
        self._budget = RateBudget(context.node.limits.presence_updates_per_s)

    def __repr__(self) -> str:
        return f"<Attending of {self._principal.user_id} in {', '.join(self._present)}>"

    async def begin(self, asked: AttendRequest) -> None:
        """Be present where it was not, or say something else there; be told the list.

        Raises:
            Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``BAD_REQUEST``.
            WorkspaceMovedError: another node owns the workspace.
            WorkspaceHaltedError: the log needs a repair first.
            UnavailableError: try again.

        """
        state = self._checked(asked.state)
        present = self._present.get(asked.workspace_id)
        if present is None:
            attendance = await self._enter(asked, state)
            if attendance is None:
                return
        else:
            attendance = present[0]
            self._say(attendance, state)
        if asked.repeats_list:
            attendance.view = asked.dialect
            self._present[asked.workspace_id] = attendance, asked.dialect
            attendance.presence.ask(attendance, asked.request_id)

    def say(self, asked: StateRequest) -> None:
        """Say something else where it is present.

        Raises:
            Reject: ``NOT_SUBSCRIBED``; ``BAD_REQUEST`` for what is no state.

        """
        state = self._checked(asked.state)
        self._say(self._attendance(asked.workspace_id), state)

    def leave(self, asked: LeaveRequest) -> None:
        """Be present no longer.

        Raises:
            Reject: ``NOT_SUBSCRIBED``.

        """
        attendance = self._attendance(asked.workspace_id)
        del self._present[asked.workspace_id]
        attendance.presence.leave(attendance, is_lost=False)
        self._writer.reply(asked.dialect.presence_left(asked))

    def end(self, *, is_lost: bool) -> None:
        """Be present nowhere, from this step on."""
        present, self._present = self._present, {}
        for attendance, _ in present.values():
            attendance.presence.leave(attendance, is_lost=is_lost)

    # ------------------------------------------------------------------------------ entering

    async def _enter(self, asked: AttendRequest, state: bytes) -> Attendance | None:
        """Be present in one more workspace; None where the connection ended meanwhile.

        In the order of a subscription: it is known there before its role is read, so that what
        ends that in between is heard of.
        """
        context, workspace_id = self._context, asked.workspace_id
        many = context.node.limits.presence_workspaces_max
        if len(self._present) >= many:
            raise Reject("BAD_REQUEST", f"a connection is present in at most {many} workspaces")
        if workspace_id in RESERVED_WORKSPACES:
            raise Reject("ROLE_FORBIDDEN", "nobody is present there", workspace_id=workspace_id)
        check_workspace_id(workspace_id)
        async with context.node.delivery.looking_up():
            await context.catalog.check_exists(workspace_id)
            # A stranger neither opens a workspace nor learns which node has it.
            if not context.catalog.is_active(workspace_id):
                await self._check_member(workspace_id)
        with context.directory.using(workspace_id) as active:
            await active.wait_open()
            presence = context.presences.of(active.hub)
            with presence.entering(str(self._principal.user_id)) as entry:
                async with context.node.delivery.looking_up():
                    await self._check_member(workspace_id)
                return self._attend(presence, entry, asked.dialect, state)

    async def _check_member(self, workspace_id: str) -> None:
        await self._context.catalog.check_member(workspace_id, self._principal)

    def _attend(
        self, presence: Presence, entry: Entry, dialect: Dialect, state: bytes
    ) -> Attendance | None:
        entry.check()
        if self._writer.is_closed:
            return None
        attendance = presence.attend(
            self._writer,
            dialect,
            user_id=entry.user_id,
            client_id=self._client_id,
            tab=self._tab,
            state=state,
            on_end=self._ended,
        )
        self._present[presence.hub.workspace_id] = attendance, dialect
        return attendance

    def _ended(self, attendance: Attendance, error: DalsegnoError) -> None:
        """Tell the client that it is not present any longer, and why."""
        workspace_id = attendance.presence.hub.workspace_id
        present = self._present.get(workspace_id)
        if present is not None and present[0] is attendance:
            del self._present[workspace_id]
            self._writer.reply(present[1].presence_ended(workspace_id, error))

    # --------------------------------------------------------------------------------- states

    def _attendance(self, workspace_id: str) -> Attendance:
        present = self._present.get(workspace_id)
        if present is None:
            message = "this connection is not present there"
            raise Reject("NOT_SUBSCRIBED", message, workspace_id=workspace_id)
        return present[0]

    def _say(self, attendance: Attendance, state: bytes) -> None:
        is_late = not self._budget.spend(trio.current_time())
        attendance.presence.say(attendance, state, is_late=is_late)

    def _checked(self, state: Raw | UnsetType) -> bytes:
        """Return a state as it is told to others.

        Raises:
            Reject: ``BAD_REQUEST``: it is too long, or not what every client can read.

        """
        if state is UNSET:
            return NO_STATE
        text = bytes(state)
        bytes_max = self._context.node.limits.presence_state_bytes_max
        if len(text) > bytes_max:
            message = "the state is too long"
            raise Reject("BAD_REQUEST", message, field="state", bytes_max=bytes_max)
        try:
            msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            message = "the state cannot be read"
            raise Reject("BAD_REQUEST", message, field="state", reason=reason_of(error)) from None
        return text
