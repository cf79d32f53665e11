"""Access: a principal's role, decided by the log alone (I8).

Which entities decide is declared by the domains.  The one named after a user holds the user's role:
in ordinary workspaces that of the domain with `Domain.role`, in ``$system`` that of the reserved
domain with it.  Until the log has an event on that entity, the workspace's first owner, whom a
domain with `Domain.founder` records in ``$system``, is its only member.

What may happen in a workspace at all, whoever asks, is decided by the one entity of the domain with
`Domain.gate`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    BUILT_IN_ROLES,
    GATE_ID,
    RESERVED_WORKSPACES,
    SYSTEM_WORKSPACE,
    DomainError,
    InternalError,
    Principal,
    Reject,
)
from dalsegno.protocol.audit import AUDIT_READERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dalsegno.protocol import Authorize, Decider, Domain, Event, Role

    AnyDomain = Domain[Any, Any, Any]

_log = logging.getLogger("dalsegno.access")

SYSTEM_ROLE = "system"
"""The role of the embedding program, which is allowed everything."""


class _Given(msgspec.Struct):
    role: str


_decode_given = msgspec.json.Decoder(_Given).decode


class Roles:
    """The declarations of a runtime's domains about access, and what each role may do."""

    def __init__(
        self,
        domains: Sequence[AnyDomain],
        roles: Mapping[str, Role] = BUILT_IN_ROLES,
        authorize: Authorize | None = None,
    ) -> None:
        """Collect the declarations.

        Args:
            domains: which declare who has which role.
            roles: what each role may do in a workspace.
            authorize: may say no besides; see `App`.

        Raises:
            DomainError: two domains declare the same.

        """
        declared = [domain for domain in domains if domain.role_of is not None]
        self._members = _only_one("roles", [each for each in declared if not each.reserved])
        self._users = _only_one("roles in $system", [each for each in declared if each.reserved])
        self.founders = _only_one("first owners", [d for d in domains if d.founder_of is not None])
        """The domain whose entity, named after a workspace, records its first owner."""
        self.table = roles
        self._authorize = authorize
        self._ended_by = {domain.name: domain.role_ended_by for domain in declared}
        self._given_by: dict[str, frozenset[str]] = {}
        if authorize is not None or not all(role.reads for role in roles.values()):
            self._given_by = {domain.name: domain.role_given_by for domain in declared}
        changing = (*self._ended_by.values(), *self._given_by.values())
        self.ending: frozenset[str] = frozenset().union(*changing)
        """The types of events that may end access; see `removed_by`."""
        gate = _only_one("gates", [d for d in domains if d.gate_of is not None])
        self._gates = {} if gate is None else {gate.stream_id(GATE_ID): gate}
        self.closing = frozenset() if gate is None else gate.gate_closed_by
        """The types of events that may close a workspace; see `closed_by`."""
        self.deciding = frozenset(
            domain.name for domain in (self._members, self._users, gate) if domain is not None
        )
        """The domains whose events decide who has access, and to what."""

    def __repr__(self) -> str:
        return f"<Roles by {self._members!r} and {self._users!r}>"

    def domain_in(self, workspace_id: str) -> AnyDomain | None:
        """Return the domain whose entities, named after users, hold their roles in a workspace.

        In ``$audit`` none does: who reads it is decided in ``$system``.
        """
        if workspace_id == AUDIT_WORKSPACE:
            return None
        return self._users if workspace_id == SYSTEM_WORKSPACE else self._members

    def gate_in(self, workspace_id: str) -> Mapping[str, AnyDomain]:
        """Return the entity that decides what may happen in a workspace, by its stream, if any."""
        return {} if workspace_id in RESERVED_WORKSPACES else self._gates

    def closed_by(self, event: Event) -> bool:
        """Return whether nobody may see anything of its workspace after an event."""
        return event.type in self.closing and event.stream_id in self._gates

    def removed_by(self, event: Event) -> str | None:
        """Return the user whose access an event ends; None if it ends nobody's."""
        name, _, user_id = event.stream_id.partition(":")
        ends = event.type in self._ended_by.get(name, ())
        if not ends and event.type in self._given_by.get(name, ()):
            role = _decode_given(event.payload).role
            try:
                ends = not self.reads(event.workspace_id, role, user_id)
            except InternalError:
                ends = True  # the commit is published to the others all the same
        return user_id if ends else None

    def reads(self, workspace_id: str, role: str, user_id: str) -> bool:
        """Return whether a user who has a role in a workspace may read it.

        Raises:
            InternalError: ``authorize`` raised.

        """
        if workspace_id in RESERVED_WORKSPACES:  # these are not an app's to say
            return workspace_id == SYSTEM_WORKSPACE or role in AUDIT_READERS
        known = self.table.get(role)
        if known is None or not known.reads:
            return False
        try:
            return self._is_authorized(workspace_id, role, user_id, None)
        except Reject:
            return False

    def sends(
        self, workspace_id: str, role: str, user_id: str, command: str, decider: Decider
    ) -> bool:
        """Return whether a user who has a role in a workspace may send a command there.

        Raises:
            Reject: of ``authorize``.
            InternalError: it raised something else.

        """
        if workspace_id == SYSTEM_WORKSPACE:
            return role in decider.allow
        known = self.table.get(role)
        if known is None:
            return False
        allowed = role in decider.allow if known.commands is None else command in known.commands
        return allowed and self._is_authorized(workspace_id, role, user_id, command)

    def _is_authorized(
        self, workspace_id: str, role: str, user_id: str, command: str | None
    ) -> bool:
        if self._authorize is None:
            return True
        try:
            return self._authorize(Principal(user_id, role), workspace_id, role, command) is True
        except Reject:
            raise
        except Exception as error:
            _log.exception("authorize raised")
            raise InternalError("see the log") from error


def gate_refusal(domain: AnyDomain, state: Any, asked: str | None) -> Reject | None:  # noqa: ANN401 - the domain's
    """Return why something may not happen in a workspace; None if it may.

    Args:
        domain: of the entity that decides.
        state: … and its state; None where there is no such entity yet.
        asked: the name of the domain that a command is for; None: to read.

    """
    assert domain.gate_of is not None, "declared"
    return None if state is None else domain.gate_of(state, asked)


def role_in(
    domain: AnyDomain,
    version: int,
    state: Any,  # noqa: ANN401 - a member's or a user's state
    user_id: str,
    founder_id: str | None,
) -> str | None:
    """Return a user's role from the entity that decides it; None if the user has none."""
    if version == 0:
        return "owner" if user_id == founder_id else None
    assert domain.role_of is not None, "declared"
    return None if state is None else domain.role_of(state)


def _only_one(what: str, domains: list[AnyDomain]) -> AnyDomain | None:
    if len(domains) > 1:
        raise DomainError(f"{domains[0].name} and {domains[1].name} both decide {what}")
    return domains[0] if domains else None
