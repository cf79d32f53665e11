"""Who makes a request: a person in a session, a program with a key, or whom a token names."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.accounts import User

if TYPE_CHECKING:
    from dalsegno.runtime import Workspace


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may be a member of workspaces."""

    user_id: str
    session_hash: bytes
    """The digest by which the connections are closed that began with the same credential; empty for
    another's token, which nobody ends before its time."""
    expires_at: datetime | None
    """When that ends; None: not by itself."""
    is_renewable: bool = True
    """Whether a socket may go on with another token of the same user; not with a session's."""
    address: str | None = None
    """Where the request came from."""
    connection_id: str | None = None
    """The connection of a request that waits for a run; None: it waits for none."""

    def acting(self, workspace: Workspace) -> Workspace:
        """Return a handle of a workspace that acts for the user."""
        return workspace.acting(
            user_id=self.user_id, address=self.address, connection_id=self.connection_id
        )


class Person(Identity, frozen=True, kw_only=True):
    """A user who has logged in, with a session in a cookie or with tokens of ours."""

    user: User
    csrf_token: str | None
    """What requests that change something repeat; None for who shows a token, and needs none."""
    expires_at: datetime
    is_renewable: bool = False
    renewed: bool = False
    """Whether the session was extended just now, so that the cookie has to be as well."""
