"""The clients of a port that stay, sockets and event streams, counted together.

Those of a user are so many, and one more is refused.  Of projects they are few, and it is the
latest that counts: a tab that comes back takes the place of its own older connection, and one
connection too many that of the user's oldest, unless another owes a pong.  Counting and closing is
one step, so that a hundred that come at once are no more than may be (CF-6).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import CONNECTION_LIMIT, SUPERSEDED, Close, check_id

from ._admission import overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.actors import Connection, World
    from dalsegno.protocol import Limits

_REMEMBERED_S = 600.0
"""How long a browser may take to come back by itself, where nobody wants it."""
_TAB_CHARS_MAX = 64


def check_tab(tab: str | None) -> str | None:
    """Check and return what a client says of its tab; None: nothing.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    return None if tab is None else check_id(tab, chars_max=_TAB_CHARS_MAX, what="tab")


class Place:
    """A client's place among those that stay."""

    __slots__ = ("client_id", "connection", "evicted", "project_id", "tab", "url", "user_id")

    def __init__(
        self,
        user_id: str,
        *,
        project_id: str | None = None,
        client_id: str = "default",
        tab: str | None = None,
        url: str | None = None,
    ) -> None:
        """Make it.

        Args:
            user_id: whose it is.
            project_id: the project that it is of; None: of none.
            client_id: which of the user's clients.
            tab: which of that one's tabs; None: it does not say, and takes nobody's place.
            url: of an event stream, where its browser comes back to.

        """
        self.user_id = user_id
        self.project_id = project_id
        self.client_id = client_id
        self.tab = tab
        self.url = url
        self.connection: Connection | None = None
        """None before it is served."""
        self.evicted: str | None = None
        """Why another one has its place; None: none has."""

    def __repr__(self) -> str:
        return f"<Place of {self.user_id} in {self.project_id}>"

    def evict(self, why: str) -> None:
        """Close its connection, now or as soon as there is one."""
        self.evicted = why
        if self.connection is not None:
            self.connection.close(Close.SUPERSEDED, why)

    @property
    def owes_pong(self) -> bool:
        """Whether its client may be gone."""
        return self.connection is not None and self.connection.owes_pong


class Clients:
    """Those of one port; a runtime may have several."""

    def __init__(self, limits: Limits, world: World, places_max: int | None = None) -> None:
        """Make it, with so many places; None: ``connections_max``.

        There are fewer than sockets, so that those who stay never fill a server for the others.
        """
        self.is_ending = False
        """Whether no more are taken."""
        self._limits = limits
        self._random = world.random
        self._places_max = limits.connections_max if places_max is None else places_max
        self._all = 0
        """How many places are taken …"""
        self._taken: Counter[str] = Counter()
        """… and by whom."""
        self._connections: set[Connection] = set()
        self._own: dict[str, dict[Place, None]] = {}
        """The places in projects by user, in the order they were taken, without the evicted."""
        self._in_projects: Counter[str] = Counter()
        """How many they are, by project."""
        self._gone: OrderedDict[bytes, list[float]] = OrderedDict()
        """Event streams that were evicted, by `_key_of`, with Trio's times of that."""

    def __repr__(self) -> str:
        return f"<Clients of {len(self._taken)} users>"

    @property
    def is_full(self) -> bool:
        """Whether there is no place left, whoever asks."""
        return self._all >= self._places_max

    def take(self, place: Place) -> None:
        """Count a client, from before it is answered, and close those that have to make room.

        Raises:
            OverloadedError: there are, or the user or the project has, as many as may be.

        """
        if self.is_full:
            raise overloaded("too many connections", self._random)
        if place.project_id is None:
            bound = self._limits.sockets_per_user_max
            if 0 < bound <= self._taken[place.user_id]:
                raise overloaded("too many sockets of this user", self._random)
        else:
            self._make_room(place, place.project_id)
        self._taken[place.user_id] += 1
        self._all += 1

    def leave(self, place: Place) -> None:
        """Count a client no more: it has ended, or never began."""
        if place in self._own.get(place.user_id, ()):
            self._give_up(place)
        self._all -= 1
        self._taken[place.user_id] -= 1
        if not self._taken[place.user_id]:
            del self._taken[place.user_id]

    @contextmanager
    def serving(self, connection: Connection, place: Place) -> Iterator[None]:
        """Know a connection as one of this port's, at its place, for the length of a block."""
        self._connections.add(connection)
        place.connection = connection
        if place.evicted is not None:
            connection.close(Close.SUPERSEDED, place.evicted)
        try:
            yield
        finally:
            self._connections.discard(connection)

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections

    # ------------------------------------------------------------------------------- projects

    def _make_room(self, place: Place, project_id: str) -> None:
        """Evict who has to go for a new place in a project, and take that: first its own tab goes,
        then the user's oldest.

        Raises:
            OverloadedError: the project is full all the same; nobody was closed.

        """
        own = self._own.get(place.user_id, {})
        going = {
            each: SUPERSEDED
            for each in own
            if place.tab is not None and (each.client_id, each.tab) == (place.client_id, place.tab)
        }
        left = [each for each in own if each not in going]
        left.sort(key=lambda each: not each.owes_pong)  # and else in their order
        many = len(left) + 1 - self._limits.project_connections_per_user_max
        going |= dict.fromkeys(left[: max(many, 0)], CONNECTION_LIMIT)
        freed = sum(each.project_id == project_id for each in going)
        if self._in_projects[project_id] - freed >= self._limits.project_connections_max:
            raise overloaded("too many connections to this project", self._random)
        for each, why in going.items():
            self._give_up(each)
            if each.url is not None:
                self._remember(each.user_id, each.url)
            each.evict(why)
        self._own.setdefault(place.user_id, {})[place] = None
        self._in_projects[project_id] += 1

    def _give_up(self, place: Place) -> None:
        assert place.project_id is not None, "it is a place in one"
        own = self._own[place.user_id]
        del own[place]
        if not own:
            del self._own[place.user_id]
        self._in_projects[place.project_id] -= 1
        if not self._in_projects[place.project_id]:
            del self._in_projects[place.project_id]

    def _remember(self, user_id: str, url: str) -> None:
        key = _key_of(user_id, url)
        times = self._gone.pop(key, [])
        times.append(trio.current_time())
        self._gone[key] = times[-self._limits.project_connections_per_user_max :]
        while len(self._gone) > self._limits.evictions_kept_max:
            self._gone.popitem(last=False)

    def was_evicted(self, user_id: str, url: str) -> bool:
        """Return whether an event stream had to make room a while ago, and is not wanted back.

        That is said once of each: another one with the same URL is not to end for it.
        """
        key = _key_of(user_id, url)
        times = self._gone.get(key)
        if times is None:
            return False
        evicted_at = times.pop()
        if not times:
            del self._gone[key]
        return trio.current_time() - evicted_at < _REMEMBERED_S


def _key_of(user_id: str, url: str) -> bytes:
    """Return what a stream is remembered by: a URL may have kilobytes."""
    return blake2b(f"{user_id}\n{url}".encode(), digest_size=16).digest()
