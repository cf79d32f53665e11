"""Look-ups: entities and roles as they are committed, workspaces, commands by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from cachetools import LRUCache

from dalsegno.actors.ports import gate_refusal, role_in
from dalsegno.actors.workspace import Turn, entity_from, load_entity, scope_of
from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    GATE_ID,
    RESERVED_WORKSPACES,
    SYSTEM,
    SYSTEM_WORKSPACE,
    DomainError,
    Reject,
    check_key,
    check_workspace_id,
    not_a_member,
    not_found,
)
from dalsegno.protocol.audit import AUDIT_READERS, not_a_reader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import msgspec

    from dalsegno.actors.ports import Roles, Store
    from dalsegno.actors.workspace import Entity, Incarnation
    from dalsegno.protocol import Domain, Limits, Principal

    from ._lease import Lease
    from ._workspace_supervisor import WorkspaceSupervisor

    AnyDomain: TypeAlias = Domain[Any, Any, Any]


class Catalog:
    """Looks up what is committed: in memory where this node may rely on it, else in the store."""

    def __init__(
        self,
        store: Store,
        domains: Sequence[AnyDomain],
        *,
        active: Mapping[str, WorkspaceSupervisor],
        lease: Lease,
        roles: Roles,
        limits: Limits,
    ) -> None:
        self.domains = {domain.name: domain for domain in domains}
        self.roles = roles
        self.commands: dict[type, tuple[str, AnyDomain]] = {
            type_: (name, domain) for domain in domains for name, type_ in domain.commands.items()
        }
        """Every command's struct, with its name and its domain."""
        # What is written to $system is for the program to decide, whatever a workspace's roles say.
        self._named = {
            name: domain for domain in domains if not domain.reserved for name in domain.offered
        }
        self._store = store
        self._active = active
        self._lease = lease
        self._turn_s, self._key_chars_max = limits.turn_s, limits.key_chars_max
        self._founders: LRUCache[str, str] = LRUCache(limits.places_cached_max)
        """First owners, by workspace."""
        self._homes: LRUCache[str, str] = LRUCache(limits.places_cached_max)
        """The workspaces of entities, by stream."""

    def forget_places(self) -> None:
        """Forget what never changes in one history: the store may have been restored to another."""
        self._founders.clear()
        self._homes.clear()

    def __repr__(self) -> str:
        return f"<Catalog of {', '.join(self.domains)}>"

    # ------------------------------------------------------------------------------- entities

    async def look(
        self,
        workspace_id: str,
        domain: AnyDomain,
        entity_id: str,
        principal: Principal = SYSTEM,
    ) -> Entity | None:
        """Return an entity as it is committed; None where it never existed.

        What decides on the principal's access is read with it, of the same moment (I8).

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for a principal who may not read the workspace.
            DomainError: this runtime does not serve the domain.

        """
        self.check_served(domain)
        stream_id = domain.stream_id(entity_id)
        deciding = self._deciding(workspace_id, principal)
        if deciding is None:
            entity = (await self._look_at(workspace_id, {stream_id: domain}))[stream_id]
        else:
            roles, user_id = deciding
            wanted = {**self._judging(workspace_id, roles, user_id), stream_id: domain}
            found = await self._look_at(workspace_id, wanted)
            if await self._role_in(workspace_id, roles, user_id, found) is None:
                raise self._refusal(workspace_id, found) or not_a_member()
            entity = found[stream_id]
        return entity if entity.version else None

    def check_served(self, domain: AnyDomain) -> None:
        """Raise unless a domain is served here: another one of its name would fold otherwise.

        Raises:
            DomainError: it is not.

        """
        if self.domains.get(domain.name) is not domain:
            raise DomainError(f"{domain!r} is not among the domains that were opened")

    async def _look_at(
        self, workspace_id: str, wanted: Mapping[str, AnyDomain]
    ) -> Mapping[str, Entity]:
        """Return entities as they are committed, all of one moment: from memory or the store."""
        incarnation = self._incarnation_of(workspace_id)
        if incarnation is not None:
            known = {stream_id: incarnation.committed(stream_id) for stream_id in wanted}
            found = {stream_id: entity for stream_id, entity in known.items() if entity is not None}
            if len(found) == len(wanted):
                return found
        return await self._load(workspace_id, wanted)

    def _incarnation_of(self, workspace_id: str) -> Incarnation | None:
        """Return what knows a workspace's committed state; None where that may be out of date.

        Once the lease may be over, another node may know better than this one's memory.
        """
        active = self._active.get(workspace_id)
        return active.incarnation if active is not None and self._lease.is_held else None

    async def _load(
        self, workspace_id: str, wanted: Mapping[str, AnyDomain]
    ) -> Mapping[str, Entity]:
        active, incarnation = self._active.get(workspace_id), self._incarnation_of(workspace_id)
        head = 0 if active is None else active.hub.head
        versions = {stream_id: domain.version for stream_id, domain in wanted.items()}
        stored = await self._store.load_entities(workspace_id, versions, versions)
        turn = Turn(self._turn_s)
        found = {s: await entity_from(domain, stored.get(s), turn) for s, domain in wanted.items()}
        # Where nothing was committed meanwhile the next look-up need not ask the store.
        if active is not None and incarnation is not None and active.hub.head == head:
            for stream_id, entity in found.items():
                incarnation.remember(stream_id, entity)
        return found

    async def look_many(
        self, wanted: Iterable[tuple[str, AnyDomain, str]]
    ) -> dict[tuple[str, str], Entity]:
        """Return entities of several workspaces as they are committed, by workspace and stream.

        One read of the store, never of memory, so that they are of one moment; those that never
        existed are left out.

        Args:
            wanted: workspaces, domains and entities' ids.

        """
        domains = {(w, domain.stream_id(id_)): domain for w, domain, id_ in wanted}
        stored = await self._store.load_many(
            {key: domain.version for key, domain in domains.items()}
        )
        turn = Turn(self._turn_s)
        return {key: await load_entity(domains[key], each, turn) for key, each in stored.items()}

    async def home_of(self, stream_id: str, workspace_id: str | None) -> str:
        """Return the workspace of an entity that may be named by its id alone.

        An entity stays where it was made, so what was found once is remembered.  One in a reserved
        workspace is not found: those logs are not read from outside.

        Raises:
            Reject: ``…_NOT_FOUND`` where there is none; ``BAD_REQUEST`` where the id alone does
                not decide.

        """
        if workspace_id is not None:
            if workspace_id in RESERVED_WORKSPACES or not self.is_active(workspace_id):
                check_workspace_id(workspace_id)
                await self.check_exists(workspace_id)
            return workspace_id
        home = self._homes.get(stream_id)
        if home is not None:
            return home
        found = await self._store.locate(stream_id, limit=2 + len(RESERVED_WORKSPACES))
        homes = [each for each in found if each not in RESERVED_WORKSPACES]
        if len(homes) > 1:
            raise Reject("BAD_REQUEST", "several workspaces have this id: name the workspace")
        if not homes:
            raise not_found(stream_id, stream_id=stream_id)
        self._homes[stream_id] = homes[0]
        return homes[0]

    # ---------------------------------------------------------------------------------- roles

    async def role_of(self, workspace_id: str, user_id: str) -> str | None:
        """Return a user's role as it is committed; None for a user who may not read."""
        if workspace_id == AUDIT_WORKSPACE:
            role = await self.role_of(SYSTEM_WORKSPACE, user_id)
            return role if role in AUDIT_READERS else None
        domain = self.roles.domain_in(workspace_id)
        if domain is None:
            return None
        found = await self._look_at(workspace_id, self._judging(workspace_id, domain, user_id))
        return await self._role_in(workspace_id, domain, user_id, found)

    async def audit_readers(self, user_ids: Collection[str]) -> list[str]:
        """Return those of some users who may read ``$audit`` now, by the store.

        Raises:
            UnavailableError: it cannot be told.

        """
        domain = self.roles.domain_in(SYSTEM_WORKSPACE)
        if domain is None:
            return []
        found = await self.look_many((SYSTEM_WORKSPACE, domain, each) for each in user_ids)
        roles = ((each, self.role_among(found, SYSTEM_WORKSPACE, each)) for each in user_ids)
        return [user_id for user_id, role in roles if role in AUDIT_READERS]

    def _judging(self, workspace_id: str, roles: AnyDomain, user_id: str) -> dict[str, AnyDomain]:
        """Return the entities of a workspace that decide what a user may read there."""
        return {roles.stream_id(user_id): roles, **self.roles.gate_in(workspace_id)}

    def _refusal(self, workspace_id: str, found: Mapping[str, Entity]) -> Reject | None:
        """Return why nobody may read a workspace, from its entities; None if members may."""
        for stream_id, gate in self.roles.gate_in(workspace_id).items():
            return gate_refusal(gate, found[stream_id].state, None)
        return None

    async def _role_in(
        self, workspace_id: str, domain: AnyDomain, user_id: str, found: Mapping[str, Entity]
    ) -> str | None:
        if self._refusal(workspace_id, found) is not None:
            return None
        role = await self._member_role_in(workspace_id, domain, user_id, found)
        reads = role is not None and self.roles.reads(workspace_id, role, user_id)
        return role if reads else None

    async def _member_role_in(
        self, workspace_id: str, domain: AnyDomain, user_id: str, found: Mapping[str, Entity]
    ) -> str | None:
        """Return a user's role, whether or not it reads."""
        entity = found[domain.stream_id(user_id)]
        founder_id = None if entity.version else await self.founder_of(workspace_id)
        return role_in(domain, entity.version, entity.state, user_id, founder_id)

    def _deciding(self, workspace_id: str, principal: Principal) -> tuple[AnyDomain, str] | None:
        """Return the domain that decides on a principal, and the user; None where nothing does.

        Raises:
            Reject: ``ROLE_FORBIDDEN``: there are no roles, so no user has one.

        """
        user_id = principal.user_id
        if user_id is None or self.is_asserted(workspace_id, principal):
            return None
        domain = self.roles.domain_in(workspace_id)
        if domain is None:
            raise not_a_member()
        return domain, user_id

    def is_asserted(self, workspace_id: str, principal: Principal) -> bool:
        """Return whether the host has said that a principal reads, so that the log is not asked.

        Raises:
            Reject: ``ROLE_FORBIDDEN``: it has said a role that does not.

        """
        role, user_id = principal.role, principal.user_id
        if role is not None and not self.roles.reads(workspace_id, role, str(user_id)):
            raise Reject("ROLE_FORBIDDEN", "this role does not read", role=role)
        return role is not None

    def what_decides(self, workspace_id: str, user_id: str) -> list[tuple[str, AnyDomain, str]]:
        """Return the entities that a user's role depends on, to be read with `look_many`."""
        member, founders = self.roles.domain_in(workspace_id), self.roles.founders
        wanted = [] if member is None else [(workspace_id, member, user_id)]
        if founders is not None and workspace_id not in RESERVED_WORKSPACES:
            wanted.append((SYSTEM_WORKSPACE, founders, workspace_id))
        wanted += [(workspace_id, gate, GATE_ID) for gate in self._gates(workspace_id)]
        return wanted

    def _gates(self, workspace_id: str) -> Iterable[AnyDomain]:
        return self.roles.gate_in(workspace_id).values()

    def role_among(
        self, found: Mapping[tuple[str, str], Entity], workspace_id: str, user_id: str
    ) -> str | None:
        """Return a reader's role from what was read of `what_decides`, as of that moment."""
        domain, founders = self.roles.domain_in(workspace_id), self.roles.founders
        if domain is None:
            return None
        for gate in self._gates(workspace_id):
            standing = found.get((workspace_id, gate.stream_id(GATE_ID)))
            if standing is not None and gate_refusal(gate, standing.state, None) is not None:
                return None
        founder_id = None
        if founders is not None and founders.founder_of is not None:
            space = found.get((SYSTEM_WORKSPACE, founders.stream_id(workspace_id)))
            if space is not None and space.state is not None:
                founder_id = founders.founder_of(space.state)
        member = found.get((workspace_id, domain.stream_id(user_id)))
        version, state = (0, None) if member is None else (member.version, member.state)
        role = role_in(domain, version, state, user_id, founder_id)
        reads = role is not None and self.roles.reads(workspace_id, role, user_id)
        return role if reads else None

    async def check_member(self, workspace_id: str, principal: Principal, **details: str) -> None:
        """Raise unless a principal may read a workspace.

        The program may, and so may a user whose role, which the host asserted, reads.

        Raises:
            Reject: ``ROLE_FORBIDDEN``, with ``details``.

        """
        user_id = principal.user_id
        if user_id is None or self.is_asserted(workspace_id, principal):
            return
        if await self.role_of(workspace_id, user_id) is None:
            if workspace_id == AUDIT_WORKSPACE:
                raise not_a_reader()
            raise await self._closed(workspace_id) or not_a_member(**details)

    async def check_sender(
        self, workspace_id: str, principal: Principal, scope: str, key: str | None
    ) -> None:
        """Raise unless a command's sender is a member, or its key has been answered before (I5).

        Raises:
            Reject: ``ROLE_FORBIDDEN``.

        """
        user_id = principal.user_id
        if user_id is None or principal.role is not None:
            return
        domain = self.roles.domain_in(workspace_id)
        if domain is not None:
            found = await self._look_at(workspace_id, self._judging(workspace_id, domain, user_id))
            refusal = self._refusal(workspace_id, found)
            role = await self._member_role_in(workspace_id, domain, user_id, found)
            if refusal is None and role is not None:
                return
        if key is None or not await self._is_answered(workspace_id, scope, key):
            raise await self._closed(workspace_id) or not_a_member()

    async def check_may_send(
        self, workspace_id: str, command: msgspec.Struct, principal: Principal, key: str | None
    ) -> None:
        """Raise for a command from outside that its workspace need not look at; see `check_sender`.

        Whether one that is active here exists is its own to decide, as it is for a socket: what it
        answered before it was deleted it answers still.

        Raises:
            Reject: ``UNKNOWN_COMMAND``, ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``;
                ``BAD_REQUEST`` for what cannot be a key.

        """
        name, domain = self.named(command)
        if not self.is_active(workspace_id):
            await self.check_exists(workspace_id)
        if key is not None:
            check_key(key, chars_max=self._key_chars_max)
        scope = scope_of(domain, name, command, principal)
        await self.check_sender(workspace_id, principal, scope, key)

    async def has_answered(
        self, workspace_id: str, command: msgspec.Struct, principal: Principal, key: str
    ) -> bool:
        """Return whether a key that a command would be sent with is answered already.

        Raises:
            Reject: ``UNKNOWN_COMMAND``; ``BAD_REQUEST`` for what cannot be a key.

        """
        name, domain = self.named(command)
        check_key(key, chars_max=self._key_chars_max)
        scope = scope_of(domain, name, command, principal)
        return await self._is_answered(workspace_id, scope, key)

    async def _is_answered(self, workspace_id: str, scope: str, key: str) -> bool:
        return bool(await self._store.find_results(workspace_id, [(scope, key)]))

    async def check_behind(self, workspace_id: str, principal: Principal) -> None:
        """Raise unless a principal may read a workspace still, after the store was read for it.

        Judged by the store: what was read there may be newer than what is in memory here.

        Raises:
            Reject: ``ROLE_FORBIDDEN``.

        """
        deciding = self._deciding(workspace_id, principal)
        if deciding is not None:
            roles, user_id = deciding
            found = await self._load(workspace_id, self._judging(workspace_id, roles, user_id))
            if await self._role_in(workspace_id, roles, user_id, found) is None:
                raise self._refusal(workspace_id, found) or not_a_member()

    async def founder_of(self, workspace_id: str) -> str | None:
        """Return a workspace's first owner, whom ``$system`` records for good; None if nobody."""
        domain = self.roles.founders
        if workspace_id in RESERVED_WORKSPACES or domain is None or domain.founder_of is None:
            return None
        founder_id = self._founders.get(workspace_id)
        if founder_id is None:
            space = await self.look(SYSTEM_WORKSPACE, domain, workspace_id)
            if space is None or space.state is None:
                return None
            founder_id = self._founders[workspace_id] = domain.founder_of(space.state)
        return founder_id

    # ------------------------------------------------------------------------------ workspaces

    def is_active(self, workspace_id: str) -> bool:
        """Return whether a workspace is active here and has events; if not, ask `exists`."""
        active = self._active.get(workspace_id)
        return active is not None and active.hub.head > 0

    async def exists(self, workspace_id: str) -> bool:
        """Return whether a workspace was created, or ever written to, and is open to be read."""
        return await self._was_made(workspace_id) and await self._closed(workspace_id) is None

    async def _was_made(self, workspace_id: str) -> bool:
        if self.is_active(workspace_id):
            return True
        if await self.founder_of(workspace_id) is not None:
            return True
        return await self._store.read_head(workspace_id) is not None

    async def _closed(self, workspace_id: str) -> Reject | None:
        """Return why nobody may read a workspace; None if its members may."""
        gate = self.roles.gate_in(workspace_id)
        if not gate:
            return None
        return self._refusal(workspace_id, await self._look_at(workspace_id, gate))

    async def check_exists(self, workspace_id: str) -> None:
        """Raise unless the workspace exists.

        Raises:
            Reject: ``WORKSPACE_NOT_FOUND``: over the network nobody makes one by naming it.

        """
        if not await self.exists(workspace_id):
            raise not_found("workspace")

    # -------------------------------------------------------------------------------- commands

    def named(self, command: msgspec.Struct) -> tuple[str, AnyDomain]:
        """Return the name and the domain of a program's command.

        Raises:
            Reject: ``UNKNOWN_COMMAND``.

        """
        try:
            return self.commands[type(command)]
        except KeyError:
            what = type(command).__name__
            raise Reject("UNKNOWN_COMMAND", f"no domain here knows {what}") from None

    def domain_of(self, command: str) -> AnyDomain:
        """Return the domain of a command that the network may name.

        Raises:
            Reject: ``UNKNOWN_COMMAND``.

        """
        domain = self._named.get(command)
        if domain is None:
            raise Reject("UNKNOWN_COMMAND", f"no command {command[:64]!r}")
        return domain
