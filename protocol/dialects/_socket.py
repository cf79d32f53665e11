"""A socket path of an app's own: its connections speak one dialect from the first byte.

On ``/ws`` a message's form chooses the dialect, and a client follows what it asks for.  On a path
like this the server may speak first, and have the connection follow streams from the start, by who
connects and what the URL says:

    Socket("/api/v1/ws", CALIBER, begin=begin)

    def begin(opening: Opening) -> Beginning:
        tenant = opening.query["tenant"]
        return Beginning(state=tenant, says=[connected(tenant)], follows=[Follow(tenant)])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dalsegno.protocol._errors import DalsegnoError, DomainError
from dalsegno.protocol._position import parse_cursor
from dalsegno.protocol.routes import OfCaller, as_it_is

from ._language import Beginning, Language

if TYPE_CHECKING:
    from collections.abc import Generator

    from dalsegno.protocol._close import Close
    from dalsegno.protocol._deciding import Principal
    from dalsegno.protocol._limits import Limits

    from ._dialect import Dialect
    from ._language import AnyRequest

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~-]+|\{[a-z][a-z0-9_]*\}))+", re.ASCII)
_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a connection began with."""

    principal: Principal
    """Who connects."""
    path: Mapping[str, str]
    """The path's parameters."""
    query: Mapping[str, str]
    """The query's, the first of each name."""
    workspace_id: str = ""
    """The workspace that it is about, where the socket says how that is named."""

    @property
    def cursor(self) -> str | None:
        """From where the query says that it begins; None: it does not.

        Raises:
            Reject: ``BAD_REQUEST``: that is no cursor.

        """
        said = self.query.get("cursor")
        if said is not None:
            parse_cursor(said)
        return said


def _begin(_opening: Opening) -> Beginning:
    return Beginning()


@dataclass(frozen=True, slots=True)
class Socket:
    """A path whose connections speak one dialect."""

    path: str
    """With its parameters in braces: ``/ws/projects/{project_id}``."""
    dialect: Dialect
    begin: Callable[[Opening], Beginning] = _begin
    """Returns how a connection begins; a pure function.  A `Reject` refuses the upgrade."""
    hears: Callable[[Any, str | bytes], tuple[Any, AnyRequest | None]] | None = None
    """Returns the next state and what a client's message asks, None if that is nothing; a pure
    function.  None: a message is one of the dialect's."""
    farewell: Callable[[Any, Close, str], bytes | None] | None = None
    """Returns what is sent last, before the close, whose code and reason it is given."""
    at: OfCaller | None = None
    """How the workspace is named that it is about; None: by path and query, or it is about none."""
    accepts_first: bool = False
    """Whether an upgrade that is refused for who asks is accepted and closed, with 4001, 4003 or
    4004: a page in a browser sees no status of a handshake (CF-1.2)."""
    project: str | None = None
    """The path's parameter that is a project, whose connections are few: `Limits` has how many of
    each, and what becomes of the others.  None: they are as many as other sockets may be."""
    shows_error: Callable[[DalsegnoError], DalsegnoError] = as_it_is
    """Returns an error that refuses the upgrade as this path's callers know it."""
    interprets: Callable[[Any, Any], tuple[Any, AnyRequest | None]] | None = None
    """Instead of `hears`, where messages are the dialect's and what one asks hangs on those before
    it: returns the next state and what a message asks; a pure function.  What it refuses changes
    nothing, nor does what is refused of what it returns."""

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the parameters of a path as it was sent; None where it is another one."""
        found = _pattern(self.path).fullmatch(path)
        return None if found is None else {k: unquote(v) for k, v in found.groupdict().items()}

    @property
    def shape(self) -> str:
        """The path with its parameters nameless: two sockets of one shape are one path."""
        return _PARAMETER.sub("{}", self.path)

    def check(self) -> None:
        """Raise `DomainError` for what is no path."""
        names = _PARAMETER.findall(self.path)
        if not _PATH.fullmatch(self.path) or len(set(names)) < len(names):
            raise DomainError(f"no path of a socket: {self.path!r}")


class Conversation(Language):
    """The language of one connection of a path, with its state."""

    def __init__(self, socket: Socket, opening: Opening) -> None:
        """Begin it.

        Raises:
            Reject: what `Socket.begin` refuses.

        """
        vars(self).update(vars(_language_of(socket.dialect)))  # its decoder is for all of them
        self._socket = socket
        self.beginning = socket.begin(opening)
        self._state = self._before = self.beginning.state

    def decode(self, received: str | bytes, limits: Limits) -> AnyRequest | None:
        """Return what a client's message asks, by the path's own function if it has one."""
        if self._socket.hears is None:
            return self._interpreted(super().decode(received, limits))
        self._state, asked = self._socket.hears(self._state, received)
        return asked

    def decoding(self, received: str, limits: Limits) -> Generator[None, None, AnyRequest | None]:
        """Do so for a long message."""
        if self._socket.hears is None:
            return self._interpreted((yield from super().decoding(received, limits)))
        return self.decode(received, limits)

    def _interpreted(self, asked: AnyRequest | None) -> AnyRequest | None:
        if self._socket.interprets is None or asked is None:
            return asked
        self._before = self._state
        self._state, meant = self._socket.interprets(self._state, asked)
        return meant

    def take_back(self) -> None:
        """Be in the state before the last message, which changes nothing."""
        if self._socket.interprets is not None:
            self._state = self._before

    def farewell(self, code: Close, reason: str) -> bytes | None:
        """Return what is sent before the close."""
        last = self._socket.farewell
        return None if last is None else last(self._state, code, reason)


@cache
def _language_of(dialect: Dialect) -> Language:
    return Language(dialect)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    plain = re.split(r"\{([a-z][a-z0-9_]*)\}", path)
    steps = (f"(?P<{each}>[^/]+)" if at % 2 else re.escape(each) for at, each in enumerate(plain))
    return re.compile("".join(steps))
