"""The commands of one workspace that no incarnation has in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.actors.workspace import Mailbox
from dalsegno.protocol import OutcomeUnknownError, OverloadedError, StoreUnavailableError

if TYPE_CHECKING:
    from dalsegno.actors.workspace import Command, Room
    from dalsegno.protocol import DalsegnoError, Limits


class Backlog:
    """What waits to be taken, and what an incarnation left without knowing its outcome."""

    def __init__(self, limits: Limits, room: Room) -> None:
        self.mailbox: Mailbox[Command] = Mailbox(
            count_max=limits.mailbox_commands_max, bytes_max=limits.mailbox_bytes_max
        )
        self.unresolved: list[Command] = []
        """Commands that may have been applied, in order."""
        self._limits = limits
        self._room = room
        self._closed: DalsegnoError | None = None

    def __repr__(self) -> str:
        return f"<Backlog {self.mailbox!r}, {len(self.unresolved)} unresolved>"

    def __bool__(self) -> bool:
        return bool(self.mailbox) or bool(self.unresolved)

    def put_nowait(self, command: Command) -> bool:
        """Put a command into the mailbox; return False where there is no space, here or at all."""
        if not self._room.take_nowait(command.size):
            return False
        command.room = self._room
        try:
            self.mailbox.send_nowait(command)
        except trio.WouldBlock:
            command.leave_room()
            return False
        return True

    async def put(self, command: Command) -> None:
        """Put a command into the mailbox once there is space; cancelled, it is not there.

        Raises:
            DalsegnoError: it was closed while the command waited for room.

        """
        await self._room.take(command.size)
        if self._closed is not None:
            self._room.give_back(command.size)
            raise self._closed.with_traceback(None)
        command.room = self._room
        try:
            await self.mailbox.send(command)
        except BaseException:
            command.leave_room()
            raise

    def close(self, error: DalsegnoError) -> None:
        """Take no more, and answer everything.

        What waits gets the error, and so does what waits for room and comes later; of the rest the
        outcome is unknown.
        """
        self._closed = self._closed or error
        _answer(self.mailbox.drain(), error)
        _answer(self.unresolved, OutcomeUnknownError(error.message))

    def expire(self, now: float) -> None:
        """Answer what waited too long even though the workspace runs."""
        before = now - self._limits.command_deadline_s
        old = self.mailbox.drain(lambda command: command.sent_at > before)
        _answer(old, OverloadedError("the workspace had no time for it"))

    def expire_unopened(self, now: float) -> None:
        """Answer what waited too long for the workspace to open."""
        limits = self._limits
        old = self.mailbox.drain(lambda c: c.sent_at > now - limits.mailbox_deadline_s)
        _answer(old, StoreUnavailableError("the workspace's store is away"))
        for command in self.unresolved:
            if command.sent_at <= now - limits.command_deadline_s:
                command.answer(OutcomeUnknownError("the commit had no answer yet"))
        # In place: an incarnation that opens has this very list, and looks the rest up.
        self.unresolved[:] = [command for command in self.unresolved if not command.answered]


def _answer(commands: list[Command], error: DalsegnoError) -> None:
    """Answer the commands and forget them."""
    for command in commands:
        command.answer(error)
    commands.clear()
