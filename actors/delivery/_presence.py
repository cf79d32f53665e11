"""Who is present in a workspace, told to those who are.

Presence is in the memory of the workspace's owner and nowhere else: it is beside the hub, passes no
mailbox, and no statement of the database knows of it.  What changes within `presence_interval_s` is
told as one change, encoded once for all that see it the same way.  A reader that has the revision
before a change is given that; one that has just come, or has missed something, the whole list.

It gives way to everything else.  A reader is told something only while nothing else waits to be
written to it, and no commit is being published; what it is not told now is not kept for it, and it
is given the list later.  So nobody is closed for it, and no event waits behind it.

Whose access ends is present no longer, and told nothing more, from that step on (I8).  Who enters
is known here before its role is read, and so hears of an end that comes in between.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from dalsegno.protocol import (
    Frames,
    InternalError,
    Reject,
    Roster,
    membership_ended,
    not_found,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dalsegno.actors.ports import Subscriber, World
    from dalsegno.protocol import (
        DalsegnoError,
        Limits,
        PresenceChange,
        PresenceList,
        PresenceView,
        Seat,
        Subscription,
    )

_log = logging.getLogger("dalsegno.presence")

_AGAIN_S = 1.0
"""Who could not be told something is tried again after so long, if nothing changes before."""
_NEVER = -1
"""A revision that nobody is at."""


@dataclass(frozen=True, slots=True)
class PresenceStatistics:
    """Who is present on this node, at one moment."""

    workspaces: int
    """Workspaces in which somebody is."""
    connections: int
    """Those present there, in all."""


class PresentHub(Protocol):
    """A workspace's hub, as its presence knows it."""

    workspace_id: str
    opened_at: float
    is_unverified: bool
    presence: Presence | None

    def told_presence(self) -> Sequence[tuple[Subscription, Subscriber]]:
        """Return the readers of the workspace that are told who is present, unasked."""

    def check_used(self) -> None:
        """Report to whoever keeps the workspace that nothing uses it, if so."""

    async def wait_published(self) -> None:
        """Wait until no commit is being published; without a checkpoint if none is."""


class Listener(Protocol):
    """The writing half of a connection that is present somewhere."""

    def say_now(self, frames: Frames) -> bool:
        """Write something at once if nothing else waits; return whether; never raises."""


class Attendance:
    """A connection's presence in one workspace, and how far it was told of the others'."""

    __slots__ = ("asked", "listener", "on_end", "presence", "seat", "told", "view")

    def __init__(
        self,
        presence: Presence,
        listener: Listener,
        seat: Seat,
        view: PresenceView,
        on_end: Callable[[Attendance, DalsegnoError], None],
    ) -> None:
        self.presence = presence
        self.listener = listener
        self.seat = seat
        self.view = view
        self.on_end = on_end
        """Called where it ends for a reason that is not the connection's own; never raises."""
        self.asked: tuple[str | None] | None = None
        """The id of the message that asks for the list; None: nothing does."""
        self.told = _NEVER
        """The revision that it has."""

    def __repr__(self) -> str:
        return f"<Attendance of {self.seat!r} at {self.told}>"


class Entry:
    """Somebody who is about to enter, and hears what ends access meanwhile."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.refused: DalsegnoError | None = None

    def check(self) -> None:
        """Raise what has ended it."""
        if self.refused is not None:
            raise self.refused.with_traceback(None)


class Presences:
    """The presence of every workspace of this node, each told by a task of its own while it has
    something to tell.
    """

    def __init__(self, *, world: World, limits: Limits, serves: Callable[[], bool]) -> None:
        """Make it.

        Args:
            world: wall time, and ids.
            limits: the bounds.
            serves: whether this node serves its workspaces, as far as can be known here.

        """
        self.world = world
        self.limits = limits
        self._serves = serves
        self._nursery: trio.Nursery | None = None
        self._telling: dict[Presence, None] = {}
        """Those that have something to tell, or will have."""
        self._attended: dict[Presence, None] = {}
        """Those in which somebody is."""

    def __repr__(self) -> str:
        return f"<Presences of {len(self._attended)} workspaces>"

    def statistics(self) -> PresenceStatistics:
        """Return how many are present, in how many workspaces."""
        return PresenceStatistics(
            workspaces=len(self._attended),
            connections=sum(each.attendances for each in self._attended),
        )

    def serves(self, hub: PresentHub) -> bool:
        """Return whether a workspace is served here, as far as can be known."""
        return self._serves() and not hub.is_unverified

    def of(self, hub: PresentHub) -> Presence:
        """Return the presence of a workspace, whose hub is open."""
        if hub.presence is None:
            hub.presence = Presence(hub, self)
        return hub.presence

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what changes to those who are present, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for each in self._telling:
                    nursery.start_soon(self._tell, each)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def note(self, presence: Presence) -> None:
        """Note whether somebody is present in a workspace."""
        if presence.attendances:
            self._attended[presence] = None
        else:
            self._attended.pop(presence, None)

    def begin(self, presence: Presence) -> None:
        """Have a workspace's presence told."""
        if presence not in self._telling:
            self._telling[presence] = None
            if self._nursery is not None:  # else `run` begins with it
                self._nursery.start_soon(self._tell, presence)

    async def _tell(self, presence: Presence) -> None:
        try:
            await presence.tell()
        except Exception:  # noqa: BLE001 - a fault here is that workspace's presence's alone (I10)
            _log.exception("%r failed", presence)
            presence.hub.presence = None
            presence.end(InternalError("see the log"))
        del self._telling[presence]


class Presence:
    """Who is present in one workspace; see the module."""

    def __init__(self, hub: PresentHub, presences: Presences) -> None:
        limits, world = presences.limits, presences.world
        self.hub = hub
        self._presences = presences
        self._limits = limits
        self._roster = Roster(
            hub.workspace_id,
            world.new_id(),
            at=world.now(),
            settles_at=hub.opened_at + limits.presence_linger_s,
            limits=limits,
        )
        self._attendances: dict[Seat, Attendance] = {}
        self._entering: dict[Entry, None] = {}
        self._followers: dict[Subscription, int] = {}
        """The revisions of those who are told because they follow the workspace."""
        self._told_at = -math.inf
        self._is_asked = False
        """Whether somebody waits to be told something …"""
        self._is_owed = False
        """… or could not be told it."""
        self._stirred = trio.Event()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Presence of {self._roster!r}, {self.attendances} attend>"

    @property
    def attendances(self) -> int:
        """How many connections are present that are there."""
        return len(self._attendances)

    @property
    def is_used(self) -> bool:
        """Whether the workspace is needed here for it."""
        return bool(self._attendances) or bool(self._entering)

    # --------------------------------------------------------------------------- who is here

    @contextmanager
    def entering(self, user_id: str) -> Iterator[Entry]:
        """Have somebody who is about to enter hear what ends access, for the length of a block."""
        entry = Entry(user_id)
        self._entering[entry] = None
        try:
            yield entry
        finally:
            del self._entering[entry]
            self.hub.check_used()

    def attend(
        self,
        listener: Listener,
        view: PresenceView,
        *,
        user_id: str,
        client_id: str,
        tab: str | None,
        state: bytes,
        on_end: Callable[[Attendance, DalsegnoError], None],
    ) -> Attendance:
        """Add a connection to those present, and have it sent the list.

        Args:
            listener: who is told.
            view: how it sees that.
            user_id: whose connection it is.
            client_id: which of the user's clients.
            tab: which of that one's tabs; None: it does not say.
            state: what it says of itself, as JSON.
            on_end: called where it ends for a reason that is not the connection's own.

        Raises:
            Reject: ``BAD_REQUEST``: the user has as many connections here as may be.
            OverloadedError: so has the workspace.

        """
        world = self._presences.world
        seat, old = self._roster.sit(
            user_id, client_id, tab, state, seat_id=world.new_id(), since=world.now()
        )
        replaced = None if old is None else self._attendances.pop(old, None)
        attendance = self._attendances[seat] = Attendance(self, listener, seat, view, on_end)
        self._note()
        self._tell_again()
        if replaced is not None:
            replaced.on_end(replaced, _superseded())
        return attendance

    def ask(self, attendance: Attendance, request_id: str | None) -> None:
        """Have a connection told the list, as an answer."""
        attendance.asked = (request_id,)
        self._tell_again()

    def say(self, attendance: Attendance, state: bytes, *, is_late: bool) -> None:
        """Set what a connection says of itself; late: of many the last, and not at once."""
        late_at = trio.current_time() if is_late else None
        self._roster.say(attendance.seat, state, late_at=late_at)
        self._stir()

    def leave(self, attendance: Attendance, *, is_lost: bool) -> None:
        """Remove a connection, which is sent nothing from this step on.

        One that was lost is shown to the others for ``presence_linger_s``.
        """
        if self._attendances.pop(attendance.seat, None) is None:
            return
        if is_lost:
            self._roster.lose(attendance.seat, trio.current_time())
        else:
            self._roster.leave(attendance.seat)
        self._note()
        self._stir()
        self.hub.check_used()

    def revoke(self, user_id: str | None) -> None:
        """End what a user has here, whose access has ended; None: the workspace has, for all."""
        error = not_found("workspace") if user_id is None else membership_ended()
        self._roster.remove(user_id)
        self._end([each for each in self._attendances if user_id in (None, each.user_id)], error)
        for entry in self._entering:
            if user_id in (None, entry.user_id):
                entry.refused = error
        self._stir()

    def end(self, error: DalsegnoError) -> None:
        """End it for everybody: the workspace is not served here any longer."""
        self._is_over = True
        self._end(list(self._attendances), error)
        for entry in self._entering:
            entry.refused = error
        self._stirred.set()

    def _end(self, seats: Sequence[Seat], error: DalsegnoError) -> None:
        ended = [self._attendances.pop(seat) for seat in seats]
        self._note()
        for each in ended:
            each.on_end(each, error)

    def _note(self) -> None:
        self._presences.note(self)

    # --------------------------------------------------------------------------------- telling

    def follow(self) -> None:
        """Have those told who have begun to follow the workspace."""
        self._tell_again()

    def _tell_again(self) -> None:
        """Send to those that lack something, even where nothing has changed."""
        self._is_asked = True
        self._stir()

    def _stir(self) -> None:
        self._stirred.set()
        if not self._is_over:
            self._presences.begin(self)

    async def tell(self) -> None:
        """Send everybody what is due to them, until nothing is."""
        while not self._is_over:
            due = self._due()
            if due == math.inf:
                return
            if self._has_news:
                await trio.sleep_until(due)
            else:
                self._stirred = trio.Event()
                with trio.move_on_at(due):
                    await self._stirred.wait()
            if self._due() <= trio.current_time():
                await self._tell_all()

    @property
    def _has_news(self) -> bool:
        return self._is_asked or self._roster.has_changed

    def _due(self) -> float:
        """Return when to tell something next; infinite: nothing is to be told."""
        due = self._told_at if self._has_news else self._roster.due
        if self._is_owed:
            due = min(due, self._told_at + _AGAIN_S)
        return max(due, self._told_at + self._limits.presence_interval_s)

    async def _tell_all(self) -> None:
        """Make one change of what has happened, and tell all of it, some at a time."""
        await self.hub.wait_published()
        self._is_asked = False
        change = self._roster.advance(trio.current_time(), self._presences.world.now())
        shown = _Shown(self._roster.listed, change)
        have_all = await self._tell_those(list(self._attendances.values()), shown)
        have_all = await self._tell_followers(shown) and have_all
        self._is_owed = not have_all
        self._told_at = trio.current_time()  # how long that took is time for others, too

    async def _may_tell(self, count: int) -> bool:
        """Yield to other tasks after some readers; return whether to go on."""
        if count and count % self._limits.offers_per_yield == 0:
            await trio.lowlevel.checkpoint()
            await self.hub.wait_published()
        return not self._is_over and self._presences.serves(self.hub)

    async def _tell_those(self, attendances: list[Attendance], shown: _Shown) -> bool:
        """Tell those that are present; return whether all have what they are due."""
        have_all = True
        for count, each in enumerate(attendances):
            if not await self._may_tell(count):
                return False
            if self._attendances.get(each.seat) is not each:
                continue  # it has left meanwhile
            have_all = self._tell(each, shown) and have_all
        return have_all

    def _tell(self, attendance: Attendance, shown: _Shown) -> bool:
        if attendance.asked is not None:
            frames = shown.answer(attendance)
        elif attendance.told == shown.rev:
            return True
        else:
            frames = shown.due(attendance.view, attendance.told)
        if frames is not None and not attendance.listener.say_now(frames):
            return False
        attendance.told, attendance.asked = shown.rev, None
        return True

    async def _tell_followers(self, shown: _Shown) -> bool:
        """Tell those that follow the workspace in a dialect that tells it unasked."""
        before, self._followers = self._followers, {}
        present = {id(each.listener) for each in self._attendances.values()}
        have_all = True
        for count, (subscription, subscriber) in enumerate(self.hub.told_presence()):
            if not await self._may_tell(count):
                return False
            if id(subscriber) not in present and subscription.last_visible is None:
                told = before.get(subscription, _NEVER)
                if self._tell_follower(subscription, subscriber, told, shown):
                    self._followers[subscription] = shown.rev
                else:
                    have_all = False
        return have_all

    def _tell_follower(
        self, subscription: Subscription, subscriber: Subscriber, told: int, shown: _Shown
    ) -> bool:
        view = subscription.presence_view
        if view is None or told == shown.rev:
            return True
        if not subscription.is_level:
            return False  # events first
        frames = shown.due(view, told)
        return frames is None or subscriber.say(subscription, frames)


def _superseded() -> Reject:
    return Reject("STATE_CONFLICT", "another connection of this tab is present in its place")


class _Shown:
    """A change and the list, encoded once for all that see them the same way."""

    def __init__(self, listed: PresenceList, change: PresenceChange | None) -> None:
        self.rev = listed.rev
        self._listed = listed
        self._change = change
        self._changes: dict[PresenceView, Frames | None] = {}
        self._lists: dict[PresenceView, Frames | None] = {}

    def due(self, view: PresenceView, told: int) -> Frames | None:
        """Return what a reader gets that has a revision; None: that is nothing in its view."""
        change = self._change
        if change is not None and told == change.rev - 1:
            if view not in self._changes:
                self._changes[view] = _encoded(lambda: view.presence_diff(change))
            return self._changes[view]
        if view not in self._lists:
            self._lists[view] = _encoded(lambda: view.presence(self._listed, None, None))
        return self._lists[view]

    def answer(self, attendance: Attendance) -> Frames | None:
        """Return the list as an answer."""
        assert attendance.asked is not None, "it asks"
        (request_id,), seat, view = attendance.asked, attendance.seat, attendance.view
        return _encoded(lambda: view.presence(self._listed, request_id, seat.id))


def _encoded(encode: Callable[[], bytes | Sequence[bytes]]) -> Frames | None:
    """Return what is said in a dialect; None where it has no word for it, or fails (I10)."""
    try:
        shown = encode()
    except Exception:  # noqa: BLE001 - a dialect's fault must not end it for the others
        _log.exception("who is present cannot be shown")
        return None
    texts = [shown] if isinstance(shown, bytes) else list(shown)
    return Frames(texts) if texts else None
