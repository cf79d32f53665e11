"""What a host may decide by functions of its own: who somebody is, and what they may not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TypeAlias

import msgspec

from ._deciding import Principal


class AuthRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a request, or a socket's first message, shows of who makes it."""

    headers: Mapping[str, str]
    """By lower-case name, repeated ones joined.  Beside a message, those of the upgrade that may
    show somebody are left out: the message counts."""
    peer: str
    """The client's address, as far as the server's proxies are believed."""
    token: str | None
    """That of ``Authorization: Bearer``, of a subprotocol, or of an ``authenticate`` message."""

    def __repr__(self) -> str:
        return f"<AuthRequest of {self.peer}>"  # no log has the rest


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a host has recognised."""

    user_id: str
    """In the host's own words: here it is ``host:`` and this, at most 200 characters together."""
    expires_at: datetime | None = None
    """Until when that is to be relied on, with a zone; None: as long as a socket lasts."""


Authenticator: TypeAlias = Callable[[AuthRequest], Awaitable[Caller | None]]
"""Returns whom a request shows; None: somebody of whom the server knows by itself, or nobody.  A
`Reject` refuses the request."""
Authorize: TypeAlias = Callable[[Principal, str, str, str | None], bool]
"""Takes who acts, the workspace, their role in it, and a command's name, None to read."""
