"""What a runtime serves, as one value: its domains, and what each role may do in a workspace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ._deciding import BUILT_IN_ROLES
from ._errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._deciding import Role
    from ._domain import Domain

_ROLE = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


class App:
    """What a runtime serves."""

    def __init__(
        self,
        domains: Sequence[Domain[Any, Any, Any]] = (),
        *,
        roles: Mapping[str, Role] | None = None,
        version: int = 0,
    ) -> None:
        """Declare it.

        Args:
            domains: the domains of its workspaces, besides accounts and memberships.
            roles: what each role may do, beside those that there always are, or instead of what
                these may.  A member whose role is in neither may do nothing.
            version: of the program, from 0.  Raise it where a program of before must not own what
                this one has: a workspace that this one has opened refuses it, ``CODE_TOO_OLD``.

        Raises:
            DomainError: two domains share a name or a command, or what a role is called or may do
                does not exist.

        """
        if version < 0:
            raise DomainError("an app's version counts from 0")
        self.domains = tuple(domains)
        self.version = version
        self.roles = {**BUILT_IN_ROLES, **(roles or {})}
        if wrong := [role for role in self.roles if not _ROLE.fullmatch(role) or role == "system"]:
            raise DomainError(f"no name for a role: {wrong[0]!r}; lower case, at most 32")
        if not self.roles["owner"].reads:
            raise DomainError("an owner reads: nobody else could mend what they did")

    def __repr__(self) -> str:
        return f"<App of {', '.join(domain.name for domain in self.domains)}>"

    def check(self, built_in: Iterable[Domain[Any, Any, Any]] = ()) -> None:
        """Raise `DomainError` unless it is complete, with the domains that are always there."""
        names: dict[str, Domain[Any, Any, Any]] = {}
        commands: dict[str, Domain[Any, Any, Any]] = {}
        for domain in (*built_in, *self.domains):
            domain.check()
            if names.setdefault(domain.name, domain) is not domain:
                raise DomainError(f"two domains are named {domain.name!r}")
            for command in domain.commands:
                if commands.setdefault(command, domain) is not domain:
                    raise DomainError(
                        f"{domain.name} and {commands[command].name} share {command!r}"
                    )
        for name, role in self.roles.items():
            if unknown := sorted((role.commands or frozenset()) - commands.keys()):
                raise DomainError(f"role {name!r} may send {unknown[0]!r}, which no domain has")
