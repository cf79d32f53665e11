"""What a runtime serves, as one value: its domains, and what each role may do in a workspace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ._deciding import BUILT_IN_ROLES
from ._errors import DomainError
from ._reacting import Reactor
from .audit import audit_socket
from .dialects import GENERIC, Dialect, Language, Socket
from .routes import check_routes
from .runs import runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._deciding import Role
    from ._domain import Domain
    from ._hooks import Authenticator, Authorize
    from .routes import Route
    from .runs import Worker

_ROLE = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


class App:
    """What a runtime serves."""

    def __init__(
        self,
        domains: Sequence[Domain[Any, Any, Any]] = (),
        *,
        routes: Sequence[Route] = (),
        dialects: Sequence[Dialect | Socket] = (),
        roles: Mapping[str, Role] | None = None,
        version: int = 0,
        authenticate: Authenticator | None = None,
        authorize: Authorize | None = None,
        workers: Sequence[Worker | Reactor] = (),
    ) -> None:
        """Declare it.

        Args:
            domains: the domains of its workspaces, besides accounts and memberships.
            routes: what is served over HTTP, besides what every domain has.
            dialects: what clients may say on ``/ws``, besides the generic dialect, and paths whose
                connections speak a dialect of their own.
            roles: what each role may do, beside those that there always are, or instead of what
                these may.  A member whose role is in neither may do nothing.
            version: of the program, from 0.  Raise it where a program of before must not own what
                this one has: a workspace that this one has opened refuses it, ``CODE_TOO_OLD``.
            authenticate: says whom a request or a socket shows, before the server looks for a
                session, a key or a token of which it knows itself; see `Authenticator`.
            authorize: says no, by False or a `Reject`, to what a user's role allows, and yes to
                nothing else; see `Authorize`.  It is asked in order, at every command and every
                read, so it has to be quick and pure.  Of a read the `Reject` is not told: who may
                not read is answered as a stranger is.  The program itself is not asked about.
            workers: who carries out runs, and what events ask for some (`Domain.react`); with them
                its workspaces have runs (`runs`), too.

        Raises:
            DomainError: two domains share a name or a command, two routes or sockets a path, two
                dialects a message; or what a role is called or may do does not exist.

        """
        if version < 0:
            raise DomainError("an app's version counts from 0")
        if len({each.name for each in workers}) < len(workers):
            raise DomainError("two workers have one name")
        self.reactors = tuple(each for each in workers if isinstance(each, Reactor))
        carried = (each.worker if isinstance(each, Reactor) else each for each in workers)
        self.workers = {each.name: each for each in carried if each is not None}
        self.domains = (*domains, *([runs] if workers and runs not in domains else []))
        self.routes = tuple(routes)
        self.dialects = tuple(each for each in dialects if isinstance(each, Dialect))
        own = (each for each in dialects if isinstance(each, Socket))
        self.sockets = (audit_socket, *(each for each in own if each is not audit_socket))
        self.version = version
        self.authenticate = authenticate
        self.authorize = authorize
        self.roles = {**BUILT_IN_ROLES, **(roles or {})}
        if wrong := [role for role in self.roles if not _ROLE.fullmatch(role) or role == "system"]:
            raise DomainError(f"no name for a role: {wrong[0]!r}; lower case, at most 32")
        if not self.roles["owner"].reads:
            raise DomainError("an owner reads: nobody else could mend what they did")

    def __repr__(self) -> str:
        return f"<App of {', '.join(domain.name for domain in self.domains)}>"

    def socket_at(self, path: str) -> tuple[Socket, Mapping[str, str]] | None:
        """Return the socket of a path as it was sent, and its parameters; None: there is none."""
        for socket in self.sockets:
            if (named := socket.match(path)) is not None:
                return socket, named
        return None

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
        for worker in self.workers.values():
            worker.check()
        for reactor in self.reactors:
            reactor.check()
            if reactor.domain not in names:
                raise DomainError(f"{reactor.name} follows {reactor.domain!r}, which is not here")
        check_routes(self.routes, tuple(names.values()))
        Language(GENERIC, *self.dialects)
        paths = {"/ws"}
        for socket in self.sockets:
            socket.check()
            if socket.shape in paths:
                raise DomainError(f"two sockets have one path: {socket.path}")
            paths.add(socket.shape)
        offered = {each for domain in names.values() for each in domain.offered}
        for name, role in self.roles.items():
            if unknown := sorted((role.commands or frozenset()) - offered):
                raise DomainError(f"role {name!r} may send {unknown[0]!r}, which no domain offers")
