"""Who is present in one workspace: connections come and go, and the list of users follows.

A *seat* is a connection's place in the list.  Who leaves gives it up at once.  Who is lost, so that
nobody knows whether it comes back, keeps it for a while; the same client, in the same tab, takes it
over, and nobody is told of either.

What is asked for between two calls of `advance` becomes one change.  The list is bounded: of many
users it has the newest, and of very many none, so that what it costs does not grow with them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw

from ._errors import OverloadedError, Reject
from ._presence import PresenceChange, PresenceList, PresentConnection, PresentUser

if TYPE_CHECKING:
    from datetime import datetime

    from ._limits import Limits

NO_STATE = b"null"
"""The state of a connection that says none."""
_LATE_S = 1.0
"""How long the state of a connection that says too many waits for its next ones."""

_encode = msgspec.json.Encoder().encode


class Seat:
    """A connection's place in the list."""

    __slots__ = ("client_id", "id", "state", "tab", "user_id")

    def __init__(
        self, id_: str, user_id: str, client_id: str, tab: str | None, state: bytes
    ) -> None:
        self.id = id_
        self.user_id = user_id
        self.client_id = client_id
        self.tab = tab
        self.state = state

    def __repr__(self) -> str:
        return f"<Seat {self.id} of {self.user_id}>"


class _User:
    """A user who is present."""

    __slots__ = ("seats", "shown", "since", "size")

    def __init__(self, since: datetime) -> None:
        self.since = since
        self.seats: dict[str, Seat] = {}
        """By id, in the order in which they came; never empty."""
        self.shown: PresentUser | None = None
        """As it is shown; None: that has changed."""
        self.size = 0
        """Bytes of that, as JSON."""

    def show(self, user_id: str) -> PresentUser:
        if self.shown is None:
            self.shown = PresentUser(
                user_id=user_id,
                since=self.since,
                connections=tuple(
                    PresentConnection(
                        id=each.id,
                        client_id=each.client_id,
                        tab=UNSET if each.tab is None else each.tab,
                        state=Raw(each.state),
                    )
                    for each in self.seats.values()
                ),
            )
            self.size = len(_encode(self.shown))
        return self.shown


class Roster:
    """Those who are present in one workspace.

    Times are seconds of any clock that does not step back.
    """

    def __init__(
        self, workspace_id: str, epoch: str, *, at: datetime, settles_at: float, limits: Limits
    ) -> None:
        """Make it, with nobody in it.

        Args:
            workspace_id: the workspace.
            epoch: in which revisions count; another one each time.
            at: wall time, UTC.
            settles_at: when everybody who was present elsewhere has had the time to come.
            limits: the bounds.

        """
        self.listed = PresenceList(
            workspace_id=workspace_id, epoch=epoch, rev=0, at=at, settled=False, users=(), total=0
        )
        """What is told, as of the last `advance`."""
        self.has_changed = False
        """Whether something happened since, which may change that."""
        self._settles_at = settles_at
        self._limits = limits
        self._users: dict[str, _User] = {}
        """In the order in which they came."""
        self._seats = 0
        self._shown: dict[str, PresentUser] = {}
        """The users of `listed`."""
        self._lost: dict[Seat, float] = {}
        """When those that were lost give up their seats, the first first."""
        self._late: dict[Seat, tuple[float, bytes]] = {}
        """States that wait, and until when, likewise."""

    def __repr__(self) -> str:
        return f"<Roster of {self.listed.workspace_id}, {self._seats} seats, {self.total} users>"

    @property
    def total(self) -> int:
        """How many users are present."""
        return len(self._users)

    @property
    def seats(self) -> int:
        """How many connections are, those that were lost a moment ago included."""
        return self._seats

    @property
    def due(self) -> float:
        """When something happens by the clock next; infinite: nothing does."""
        lost = next(iter(self._lost.values()), math.inf)
        late, _ = next(iter(self._late.values()), (math.inf, b""))
        return min(lost, late, math.inf if self.listed.settled else self._settles_at)

    # --------------------------------------------------------------------------------- seats

    def sit(
        self,
        user_id: str,
        client_id: str,
        tab: str | None,
        state: bytes,
        *,
        seat_id: str,
        since: datetime,
    ) -> tuple[Seat, Seat | None]:
        """Give a connection a seat: that of its own tab, of its client that was lost, or a new one.

        Args:
            user_id: whose it is.
            client_id: which of the user's clients.
            tab: which of that one's tabs; None: it does not say, and takes over only what is lost.
            state: what it says of itself, as JSON.
            seat_id: the new seat's.
            since: wall time, UTC.

        Returns:
            The seat, and the one that was taken over, which counts no longer; None: it is new.

        Raises:
            Reject: ``BAD_REQUEST``: the user has as many as may be.
            OverloadedError: so has the workspace.

        """
        user = self._users.get(user_id)
        old = None if user is None else self._own(user, client_id, tab)
        if old is not None:
            self._forget(old)
        else:
            user = self._make_room(user_id)
        if user is None:
            user = self._users[user_id] = _User(since)
        seat = Seat(seat_id if old is None else old.id, user_id, client_id, tab, state)
        user.seats[seat.id] = seat  # in the place of the old one
        if old is None:
            self._seats += 1
        if old is None or old.state != state:
            self._touch(user)
        return seat, old

    def say(self, seat: Seat, state: bytes, *, late_at: float | None = None) -> None:
        """Set what a connection says of itself, if it has its seat still.

        Args:
            seat: its.
            state: as JSON.
            late_at: the time, where it says too many: the last of them counts, a second later.

        """
        if not self._has(seat):
            return
        if late_at is None:
            self._late.pop(seat, None)
            self._set(seat, state)
        else:
            due, _ = self._late.get(seat, (late_at + _LATE_S, b""))
            self._late[seat] = due, state

    def leave(self, seat: Seat) -> None:
        """Give up a seat, if it is one still."""
        if not self._has(seat):
            return
        self._forget(seat)
        user = self._users[seat.user_id]
        del user.seats[seat.id]
        self._seats -= 1
        self._touch(user)
        if not user.seats:
            del self._users[seat.user_id]

    def lose(self, seat: Seat, now: float) -> None:
        """Keep a seat for a while, if it is one still: its connection was lost."""
        if self._has(seat) and seat not in self._lost:
            self._lost[seat] = now + self._limits.presence_linger_s

    def remove(self, user_id: str | None) -> None:
        """Give up all seats of a user, or, for None, of everybody."""
        for each in [user_id] if user_id is not None else list(self._users):
            user = self._users.get(each)
            for seat in list(user.seats.values()) if user is not None else ():
                self.leave(seat)

    def _own(self, user: _User, client_id: str, tab: str | None) -> Seat | None:
        """Return the seat that a client takes over; a lost one, unless it says which tab it is."""
        for seat in user.seats.values():
            is_same = (seat.client_id, seat.tab) == (client_id, tab)
            if is_same and (tab is not None or seat in self._lost):
                return seat
        return None

    def _make_room(self, user_id: str) -> _User | None:
        """Have room for one more seat of a user, where the lost ones have to give way."""
        limits, user = self._limits, self._users.get(user_id)
        if user is not None and len(user.seats) >= limits.presence_connections_per_user_max:
            lost = next((seat for seat in user.seats.values() if seat in self._lost), None)
            if lost is None:
                many = limits.presence_connections_per_user_max
                raise Reject("BAD_REQUEST", f"a user is present by at most {many} connections")
            self.leave(lost)
        elif self._seats >= limits.presence_connections_max:
            if not self._lost:
                raise OverloadedError("too many connections are present in this workspace")
            self.leave(next(iter(self._lost)))
        return self._users.get(user_id)

    def _has(self, seat: Seat) -> bool:
        user = self._users.get(seat.user_id)
        return user is not None and user.seats.get(seat.id) is seat

    def _forget(self, seat: Seat) -> None:
        self._lost.pop(seat, None)
        self._late.pop(seat, None)

    def _set(self, seat: Seat, state: bytes) -> None:
        if seat.state != state:
            seat.state = state
            self._touch(self._users[seat.user_id])

    def _touch(self, user: _User) -> None:
        user.shown = None
        self.has_changed = True

    # ------------------------------------------------------------------------------ the list

    def advance(self, now: float, at: datetime) -> PresenceChange | None:
        """Make one change of all that happened since the last; None: nothing that is shown.

        Args:
            now: the time, by the clock of the others.
            at: wall time, UTC.

        """
        self._expire(now)
        old = self.listed
        settled = old.settled or now >= self._settles_at
        if not self.has_changed and settled == old.settled:
            return None
        self.has_changed = False
        shown, before = self._newest(), self._shown
        joined = [each for id_, each in shown.items() if id_ not in before]
        changed = [each for id_, each in shown.items() if id_ in before and each != before[id_]]
        left = [id_ for id_ in before if id_ not in shown]
        if not (joined or changed or left) and (settled, self.total) == (old.settled, old.total):
            return None
        self._shown = shown
        self.listed = PresenceList(
            workspace_id=old.workspace_id,
            epoch=old.epoch,
            rev=old.rev + 1,
            at=at,
            settled=settled,
            users=tuple(shown.values()),
            total=self.total,
        )
        return PresenceChange(
            workspace_id=old.workspace_id,
            epoch=old.epoch,
            rev=old.rev + 1,
            at=at,
            settled=settled,
            joined=joined,
            changed=changed,
            left=left,
            total=self.total,
            before={id_: before[id_] for id_ in (*(each.user_id for each in changed), *left)},
        )

    def _expire(self, now: float) -> None:
        """Do what is due by the clock."""
        for seat, due in list(self._lost.items()):
            if due > now:
                break
            self.leave(seat)
        for seat, (due, state) in list(self._late.items()):
            if due > now:
                break
            del self._late[seat]
            self._set(seat, state)

    def _newest(self) -> dict[str, PresentUser]:
        """Return the users that are shown, in the order in which they came."""
        limits = self._limits
        if self.total > limits.presence_listed_max:
            return {}
        newest: list[PresentUser] = []
        left = limits.presence_bytes_max
        for user_id, user in reversed(self._users.items()):
            shown = user.show(user_id)
            left -= user.size
            if len(newest) == limits.presence_shown_max or (left < 0 and newest):
                break
            newest.append(shown)
        return {each.user_id: each for each in reversed(newest)}
