"""What ends access before its time: sessions, keys and accounts that somebody ended.

Here it is a barrier.  In the step in which a session ends, nothing more is written to its
connections; requests that wait are answered at once, and reads that are under way are answered with
a refusal, whatever they have found by then.  Who asked for it is answered after that.

The other nodes ask the database once a second: for sessions that were revoked a moment ago, and for
what `$system` says of accounts.  A node that cannot ask does not know who may stay.  Once its lease
would be over it holds every connection that somebody may have ended: no event is written to it, and
nothing is taken of it, until the database has been asked about all of them.

Membership is not here: a workspace's log decides that, in order, wherever it is read (I8).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from dalsegno.actors import PageBounds
from dalsegno.protocol import SYSTEM_WORKSPACE, Close, Reject, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dalsegno.actors import Service

    from ._account_store import AccountStore

_log = structlog.get_logger("dalsegno.access")

_AT_A_TIME = 500
_OVERLAP_S = 60.0
"""How far back is asked beyond the last time: a statement may have waited for a lock, and commits
after others that began later."""
_MARGIN = 0.1
"""Of a lease, as everywhere."""
_WHY = "the session ended"


class Asking:
    """A request, from before it is known who makes it until it is answered."""

    def __init__(self) -> None:
        self.user_id: str | None = None
        """None while it is not known."""
        self.session_hash = b""
        self._is_over = False
        self._ended: list[Callable[[str, bytes], bool]] = []
        """What ended while it was not known whether that concerns it."""
        self._scopes: set[trio.CancelScope] = set()

    def identified(self, user_id: str, session_hash: bytes) -> None:
        """Note who makes it.

        Raises:
            Reject: ``SESSION_REVOKED``: that ended while it was looked up.

        """
        self.user_id, self.session_hash = user_id, session_hash
        for concerns in self._ended:
            self.end(concerns)
        self._ended.clear()
        self.check()

    def end(self, concerns: Callable[[str, bytes], bool]) -> None:
        """Hear that somebody's access ended."""
        if self.user_id is None:
            self._ended.append(concerns)
        elif concerns(self.user_id, self.session_hash):
            self._is_over = True
            for scope in self._scopes:
                scope.cancel(reason=_WHY)

    def check(self) -> None:
        """Raise if its access has ended.

        Raises:
            Reject: ``SESSION_REVOKED``.

        """
        if self._is_over:
            raise Reject("SESSION_REVOKED", _WHY)

    @contextmanager
    def waiting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Have a scope cancelled once its access ends, for the length of a block.

        Raises:
            Reject: ``SESSION_REVOKED``: it has.

        """
        self.check()
        self._scopes.add(scope)
        try:
            yield
        finally:
            self._scopes.discard(scope)


class Revocation:
    """Ends what rests on sessions, keys and accounts that have ended."""

    def __init__(self, service: Service, accounts: AccountStore | None) -> None:
        self._service = service
        self._accounts = accounts
        self._limits = service.limits
        self._asking: set[Asking] = set()
        self._watching = trio.Lock()
        """A runtime may have several ports."""
        self._system_seq = 0
        """Up to which event of ``$system`` is known."""

    def __repr__(self) -> str:
        return f"<Revocation of {len(self._asking)} requests>"

    @property
    def everywhere_within_ms(self) -> int:
        """How long another node may take: where its database is away, until its lease is over."""
        return math.ceil(self._limits.lease_s * 1000)

    @contextmanager
    def asking(self) -> Iterator[Asking]:
        """Have a request hear of what ends, for the length of a block."""
        asking = Asking()
        self._asking.add(asking)
        try:
            yield asking
        finally:
            self._asking.discard(asking)

    # ------------------------------------------------------------------------------------- here

    async def end_session(self, session_hash: bytes) -> None:
        """End what rests on a session or a key; once this returns, nothing more is written."""
        self._service.connections.close_session(session_hash, Close.UNAUTHORIZED, _WHY)
        self._end(lambda _, its: its == session_hash)
        await trio.lowlevel.checkpoint()

    async def end_user(self, user_id: str, *, keep: bytes | None = None) -> None:
        """End what rests on a user's sessions, but for the one to ``keep``; as above."""
        self._service.connections.close_user(user_id, Close.UNAUTHORIZED, _WHY, keep=keep)
        self._end(lambda whose, its: whose == user_id and its != keep)
        await trio.lowlevel.checkpoint()

    def _end(self, concerns: Callable[[str, bytes], bool]) -> None:
        for asking in self._asking:
            asking.end(concerns)

    # -------------------------------------------------------------------------------- elsewhere

    async def watch(self) -> None:
        """Apply what other nodes, and programs, have ended, until cancelled; one at a time does."""
        async with self._watching:
            await self._watch()

    async def _watch(self) -> None:
        limits = self._limits
        known_at = trio.current_time()
        """When all that had ended was known here."""
        is_held = is_late = False
        await self._skip_system()
        while True:
            held_at = known_at + limits.lease_s * (1 - _MARGIN)
            with trio.move_on_at(math.inf if is_held else held_at) as scope:
                if not is_late:  # a process that slept has a database that answers
                    await self._pause(is_held=is_held)
                is_late = False
                began = trio.current_time()
                try:
                    await self._look(began - known_at, everything=is_held)
                except UnavailableError as error:
                    _log.info("revocations_not_read", error=str(error))
                    continue
                known_at = began
            if scope.cancelled_caught:
                _log.warning("connections_held", known_s=round(trio.current_time() - known_at, 1))
                is_held = is_late = True
                self._service.connections.hold()
            elif is_held:
                is_held = False
                self._service.connections.resume()

    async def _pause(self, *, is_held: bool) -> None:
        """Wait until the next look: a while, or no longer than the store is away."""
        with trio.move_on_after(self._limits.session_check_s):
            if is_held:
                await self._service.node.wait_store_returned()
            else:
                await trio.sleep_forever()

    async def _look(self, since_s: float, *, everything: bool) -> None:
        """Ask what has ended for so long, or about all that is here."""
        assert self._accounts is not None, "whose sessions else?"
        resting = self._sessions()
        if resting:
            revoked = await self._accounts.find_revoked(since_s + _OVERLAP_S)
            for each in resting.intersection(revoked):
                await self.end_session(each)
        if everything:
            hashes = sorted(self._sessions())
            for first in range(0, len(hashes), _AT_A_TIME):
                asked = hashes[first : first + _AT_A_TIME]
                for each in await self._accounts.find_ended(asked):
                    await self.end_session(each)
        await self._look_at_system()

    def _sessions(self) -> set[bytes]:
        """Return what connections and requests rest on; another issuer's token has no session."""
        found = {each.session_id for each in self._service.connections}
        found.update(each.session_hash for each in self._asking)
        return found - {b""}

    async def _skip_system(self) -> None:
        """Begin with what happens from now on; who connects is looked up then."""
        while True:
            try:
                head = await self._service.store.read_head(SYSTEM_WORKSPACE)
            except UnavailableError:
                await trio.sleep(self._limits.session_check_s)
            else:
                self._system_seq = 0 if head is None else head.head_seq
                return

    async def _look_at_system(self) -> None:
        """Read on in the log of accounts, and end those that are closed."""
        limits = self._limits
        while True:
            bounds = PageBounds(
                from_seq=self._system_seq + 1,
                limit=limits.page_events,
                bytes_max=limits.page_bytes_max,
            )
            events = await self._service.store.read_events(SYSTEM_WORKSPACE, bounds)
            for event in events:
                self._system_seq = event.event_seq
                user_id = self._service.roles.removed_by(event)
                if user_id is not None:
                    await self.end_user(user_id)
            if not events:
                return
