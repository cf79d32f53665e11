"""A request, as the functions of a route see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from dalsegno.protocol._errors import DomainError, Reject
from dalsegno.protocol._limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol._deciding import Principal

    from ._reads import Memberships, Reads

ParamsT = TypeVar("ParamsT")
BodyT = TypeVar("BodyT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[ParamsT, BodyT]):
    """A request that was authenticated and whose parts fit their types."""

    params: ParamsT
    """What the path and the query say; None where the route has no such."""
    body: BodyT
    """None where the route takes none."""
    principal: Principal
    """Who asks."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those that the route names, by their names in lower case, where they were sent."""
    key: str | None = None
    """The idempotency key, the request's own or a new one."""
    if_match: int | None = None
    """The version that ``If-Match`` names (RFC 9110 §13.1.1)."""
    limits: Limits = field(default_factory=Limits)
    """The server's bounds."""
    reads: Reads | None = None
    memberships: Memberships | None = None

    @property
    def workspace(self) -> Reads:
        """The workspace that the request is about, as the caller may read it.

        Raises:
            DomainError: the route is about none.

        """
        if self.reads is None:
            raise DomainError("this route is about no workspace: say where it is named, at=")
        return self.reads

    @property
    def own(self) -> Memberships:
        """The workspaces of which the caller is a member, for a read that is about none.

        Raises:
            DomainError: the route is about one, or sends a command.

        """
        if self.memberships is None:
            raise DomainError("only a read without at= has the workspaces of its caller")
        return self.memberships

    @property
    def user_id(self) -> str:
        """Who asks: always a user, or a program under an id of its own."""
        assert self.principal.user_id is not None, "a route acts for a user"
        return self.principal.user_id

    @property
    def made_key(self) -> str:
        """The idempotency key of a route that makes one where none was sent."""
        assert self.key is not None, "makes_key"
        return self.key

    def based_on(self, said: int | None = None) -> int | None:
        """Return the version that a change is based on: what was said, else that of ``If-Match``.

        Raises:
            Reject: ``BAD_REQUEST`` where the two differ.

        """
        if said is not None and self.if_match is not None and said != self.if_match:
            raise Reject("BAD_REQUEST", "base_version and if-match differ", field="if-match")
        return said if said is not None else self.if_match

    def needs_base(self, said: int | None) -> int:
        """Return the version that a change has to be based on.

        Raises:
            Reject: ``BAD_REQUEST`` as above, or if none is said.

        """
        version = self.based_on(said)
        if version is None:
            message = "base_version is missing, and so is if-match"
            raise Reject("BAD_REQUEST", message, field="base_version")
        return version
