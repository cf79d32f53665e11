"""The audit's log, filled: what is on record anywhere is taken into ``$audit`` by its owner.

A node looks for rows that are not in it yet: at once after a commit of its own that has put some on
record, and every second for those of others.  What it finds is only a hint.  The owner
reads the rows again in the log's own order, and the statement that appends the events marks them,
so each is in the log once, whoever dies; and there is no watermark that a late commit could be
below.

Who follows the log rests on a global role, which is an event of ``$system``.  On the node that
commits such an event, those who lost the role are given nothing more from that very step on; on
another one, before it takes in anything that was put on record later (I8).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.actors.node import collect
from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    PATH_FORBIDDEN,
    SYSTEM_WORKSPACE,
    DalsegnoError,
    NotReadyError,
    UnavailableError,
    http_status,
)
from dalsegno.protocol.audit import AUDIT_READERS, TRAIL_ID, not_a_reader, trail

from ._refusals import REFUSED, Refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.protocol import Event, Principal

_log = logging.getLogger("dalsegno.audit")

_PAUSE_S = 0.02
"""Between two looks, however much is committed."""
_CONFIRM_EVERY_S = 0.05
_FORBIDDEN = 403


class _Role(msgspec.Struct):
    role: str | None = None


_decode_role = msgspec.json.Decoder(_Role).decode


@dataclass(frozen=True, slots=True)
class AuditStatistics:
    """What is on its way to the audit's log, at one moment."""

    refusals_waiting: int
    """Refusals of this node that are not on record yet."""
    collections: int
    """How often this node had something taken in, since the start."""


class AuditTrail:
    """Fills ``$audit`` from one node; see the module."""

    def __init__(self, directory: Directory, catalog: Catalog) -> None:
        self._directory = directory
        self._catalog = catalog
        self._node = directory.node
        users = catalog.roles.domain_in(SYSTEM_WORKSPACE)
        self._users = None if users is None else users.name
        self._woken = trio.Event()
        self._collections = 0
        self.refusals: Refusals | None = None
        """Where refusals are put on record; None where nothing is collected."""
        if catalog.domains.get(trail.name) is trail:
            self.refusals = Refusals(directory.node, written=self.wake)

    def __repr__(self) -> str:
        return f"<AuditTrail {self.refusals!r}, {self._collections} collections>"

    def statistics(self) -> AuditStatistics:
        """Return how it stands."""
        waiting = 0 if self.refusals is None else len(self.refusals)
        return AuditStatistics(waiting, self._collections)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fill the log until cancelled."""
        assert self.refusals is not None, "else it is not run"
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.refusals.run)
            while True:
                with trio.move_on_after(self._node.limits.audit_poll_s):
                    await self._woken.wait()
                self._woken = trio.Event()
                if self._may_look:
                    await self._look()
                await trio.sleep(_PAUSE_S)

    @property
    def _may_look(self) -> bool:
        return self._node.is_open and self._node.lease.is_held

    async def _look(self) -> None:
        node = self._node
        try:
            while self._may_look and await node.store.may_collect(node.node_id):
                await collect(self._directory, trail, TRAIL_ID)
                self._collections += 1
        except UnavailableError as error:
            _log.info("what is on record is not collected yet: %s", error)
        except DalsegnoError as error:
            _log.warning("what is on record is not collected yet: %s", error)

    async def write(self) -> None:
        """Put on record what was refused, before this node leaves.

        Raises:
            UnavailableError: the store is away; it is lost.

        """
        if self.refusals is not None:
            while len(self.refusals):
                await self.refusals.write()

    def wake(self) -> None:
        """Look at once for what is on record."""
        self._woken.set()

    def note_refused(
        self, error: DalsegnoError, principal: Principal, what: str, workspace_id: str | None
    ) -> None:
        """Have it put on record that a client may not do something; other errors are none of it."""
        is_noted = error.code == PATH_FORBIDDEN or http_status(error) == _FORBIDDEN
        if self.refusals is not None and is_noted:
            self.refusals.note(
                REFUSED,
                resource_type="message",
                resource_id=what,
                code=error.code,
                user_id=principal.user_id,
                workspace_id=workspace_id,
                request_id=None,
                address=principal.address,
            )

    # ---------------------------------------------------------------------------- the watcher's

    def opened(self, workspace_id: str) -> None:
        """Note nothing: what is on record is looked for, whatever is open."""

    def published(self, workspace_id: str, events: Sequence[Event]) -> None:
        """Note that somebody may have lost the role by which the audit is followed here."""
        if self.refusals is not None and workspace_id == SYSTEM_WORKSPACE:
            self._dismiss(events)

    def ended(self, workspace_id: str) -> None:
        """Note nothing, likewise."""

    def _dismiss(self, events: Sequence[Event]) -> None:
        """End what those follow of the audit here who may no longer read it."""
        hub = self._directory.hub_of(AUDIT_WORKSPACE)
        if hub is None or not hub.is_used:
            return
        gone = []
        for event in events:
            name, _, user_id = event.stream_id.partition(":")
            if name == self._users and _role_after(event) not in AUDIT_READERS:
                gone.append(user_id)
        if gone:
            hub.dismiss(gone, not_a_reader())

    async def confirm(self, workspace_id: str, event_seq: int) -> None:
        """Wait until nobody is given the audit whom an event has deprived of it.

        Here that is so as soon as the event was published.  Another node takes in what is on record
        of it, before anything later, once it has closed what has to be closed.

        Raises:
            NotReadyError: it cannot be told in time; the event stands.

        """
        if self.refusals is None:
            return
        node = self._node
        with trio.move_on_after(node.limits.lease_s + node.limits.lease_beat_s):
            while not await self._is_confirmed(workspace_id, event_seq):  # noqa: ASYNC110 - rare
                await trio.sleep(_CONFIRM_EVERY_S)
            return
        raise NotReadyError("it is done, but a node has not confirmed it yet: ask again")

    async def _is_confirmed(self, workspace_id: str, event_seq: int) -> bool:
        node = self._node
        try:
            return await node.store.is_collected(workspace_id, event_seq, node.node_id)
        except UnavailableError:
            return False  # nor does another node get anything out of it now


def _role_after(event: Event) -> str | None:
    """Return the role that an event of a user's entity names; None: it names none."""
    try:
        return _decode_role(event.payload).role
    except msgspec.ValidationError:
        return None
