"""The members of a workspace: one entity each, in the workspace's own log.

A workspace's first owner is recorded in ``$system`` when it is created, and the log of the
workspace is empty then.  So a member entity without events does not mean "nobody": for
`Context.owner_id` it means "owner".  The roster of owners starts from the same user, which is how
a decider that sees only two entities can make the last owner stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Never

import msgspec

from dalsegno.protocol import Audit, Context, Domain, Index, On, Reject, Touched

GlobalRole = Literal["owner", "admin", "editor", "viewer"]
"""The role of a user beyond any workspace (X-RBAC-1)."""

ANYBODY = frozenset({"owner", "admin", "editor", "viewer"})
"""Every role."""

ADMINS = frozenset({"owner", "admin"})
"""The roles that may change members and users."""

OWNERS_MAX = 100
"""Owners of one workspace: their list is one value."""

KEY_PREFIX = "key:"
"""What the ids of members begin with that are programs, by an API key of the workspace."""

ROSTER_ID = "main"
"""The id of the one roster that a log has."""


class Roster(msgspec.Struct, frozen=True):
    """The owners, of a workspace or, in ``$system``, of everything."""

    owners: tuple[str, ...]


class OwnersChanged(msgspec.Struct, frozen=True):
    """Somebody became an owner, or ceased to be one."""

    owners: tuple[str, ...]


rosters = Domain("roster", state=Roster, commands=Never, events=OwnersChanged)
"""One entity per log, changed together with the member that became or was an owner."""


@rosters.evolve
def _owners_changed(_roster: Roster | None, event: OwnersChanged) -> Roster:
    return Roster(event.owners)


def roster_of(_command: object) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    """Return the roster, for ``touches=``."""
    return [(rosters, ROSTER_ID)]


def owners_of(touched: Touched, context: Context) -> tuple[str, ...]:
    """Return the owners just before a command."""
    roster = touched.get(rosters, ROSTER_ID)
    if roster is not None:
        return roster.owners
    return () if context.owner_id is None else (context.owner_id,)


def owner_change(
    user_id: str, *, becomes_owner: bool, touched: Touched, context: Context
) -> list[On[OwnersChanged]]:
    """Return what a user's new role changes in the roster: nothing, or one event.

    Raises:
        Reject: ``ROLE_FORBIDDEN`` if an admin makes or unmakes an owner (X-RBAC-1,
            ownership transfer), ``MEMBERSHIP_CONFLICT`` if no owner would be left, or too many, or
            a key.

    """
    owners = owners_of(touched, context)
    if becomes_owner == (user_id in owners):
        return []
    if becomes_owner:
        _check_may_own(user_id)
    if context.principal.user_id is not None and context.role != "owner":
        raise Reject("ROLE_FORBIDDEN", "only an owner makes or unmakes owners", role=context.role)
    changed = {*owners, user_id} if becomes_owner else {*owners} - {user_id}
    if not changed:
        raise Reject("MEMBERSHIP_CONFLICT", "the last owner stays")
    if len(changed) > OWNERS_MAX:
        raise Reject("MEMBERSHIP_CONFLICT", f"more than {OWNERS_MAX} owners")
    return [On(rosters, ROSTER_ID, OwnersChanged(tuple(sorted(changed))))]


def _check_may_own(user_id: str) -> None:
    """Raise `Reject` ``MEMBERSHIP_CONFLICT`` for a key."""
    if user_id.startswith(KEY_PREFIX):
        raise Reject("MEMBERSHIP_CONFLICT", "a key owns no workspace: people do")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A membership."""

    role: str
    since: datetime
    """When it began, or was first recorded in this log."""


class PutMember(msgspec.Struct, frozen=True):
    """Give a user a role here, one that the app has; the same role again changes nothing."""

    user_id: str
    role: str


class RemoveMember(msgspec.Struct, frozen=True):
    """End a membership; ending none changes nothing."""

    user_id: str


class TransferOwnership(msgspec.Struct, frozen=True):
    """Make another member the owner in one's place, and oneself an admin."""

    user_id: str
    """Who becomes an owner."""
    from_id: str
    """Who ceases to be one: the sender."""


class MemberAdded(msgspec.Struct, frozen=True):
    """A user belongs to the workspace from now on."""

    role: str
    since: datetime


class MemberRoleUpdated(msgspec.Struct, frozen=True):
    """A member has another role."""

    role: str


class MemberRemoved(msgspec.Struct, frozen=True):
    """A membership has ended: nothing after this event reaches the user (I8)."""


members = Domain(
    "member",
    state=Member,
    commands=PutMember | RemoveMember | TransferOwnership,
    events=MemberAdded | MemberRoleUpdated | MemberRemoved,
    id_field="user_id",
    allow=ADMINS,
)
"""The memberships of a workspace; ``member:{user_id}``."""


@members.decide(touches=roster_of)
def _put_member(
    member: Member | None, command: PutMember, context: Context, touched: Touched
) -> Sequence[MemberAdded | MemberRoleUpdated | On[OwnersChanged]]:
    if command.role not in context.roles:
        raise Reject("BAD_REQUEST", "there is no such role here", role=command.role)
    owners = owner_change(
        command.user_id,
        becomes_owner=command.role == "owner",
        touched=touched,
        context=context,
    )
    if member is None:
        founder_stays = not owners and command.role == "owner"
        return [] if founder_stays else [MemberAdded(command.role, context.now), *owners]
    if member.role == command.role:
        return []
    return [MemberRoleUpdated(command.role), *owners]


@members.decide(touches=roster_of)
def _remove_member(
    member: Member | None, command: RemoveMember, context: Context, touched: Touched
) -> Sequence[MemberRemoved | On[OwnersChanged]]:
    owners = owner_change(command.user_id, becomes_owner=False, touched=touched, context=context)
    return [] if member is None and not owners else [MemberRemoved(), *owners]


def _touched_by_transfer(command: TransferOwnership) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return [(members, command.from_id), *roster_of(command)]


@members.decide(touches=_touched_by_transfer, allow={"owner"})
def _transfer_ownership(
    member: Member | None, command: TransferOwnership, context: Context, touched: Touched
) -> Sequence[MemberRoleUpdated | On[Any]]:
    owner_id, next_id = command.from_id, command.user_id
    owners = owners_of(touched, context)
    if context.principal.user_id not in (None, owner_id):
        raise Reject("ROLE_FORBIDDEN", "an owner transfers what is their own", role=context.role)
    if owner_id not in owners:
        raise Reject("MEMBERSHIP_CONFLICT", "only an owner can be followed by another")
    if next_id == owner_id or next_id in owners:
        raise Reject("MEMBERSHIP_CONFLICT", "this member is an owner already")
    _check_may_own(next_id)
    if member is None:
        raise Reject("MEMBERSHIP_CONFLICT", "only a member can become the owner")
    # A first owner who is in no event yet: see the module.
    known = touched.get(members, owner_id) is not None
    stays = MemberRoleUpdated("admin") if known else MemberAdded("admin", context.now)
    changed = tuple(sorted({*owners, next_id} - {owner_id}))
    return [
        MemberRoleUpdated("owner"),
        On(members, owner_id, stays),
        On(rosters, ROSTER_ID, OwnersChanged(changed)),
    ]


@members.evolve
def _member_added(_member: Member | None, event: MemberAdded) -> Member:
    return Member(role=event.role, since=event.since)


@members.evolve
def _member_role_updated(member: Member, event: MemberRoleUpdated) -> Member:
    return msgspec.structs.replace(member, role=event.role)


@members.evolve
def _member_removed(_member: Member | None, _event: MemberRemoved) -> Member | None:
    return None


@members.role(ended_by=[MemberRemoved], given_by=[MemberAdded, MemberRoleUpdated])
def _role(member: Member) -> str:
    return member.role


@members.index
def _by_role(member: Member) -> Index:
    return Index(keys=(member.role,))


@members.audit
def _on_record(
    event: MemberAdded | MemberRoleUpdated | MemberRemoved,
    before: Member | None,
    after: Member | None,
) -> Audit:
    actions = {MemberAdded: "MEMBER_ADDED", MemberRoleUpdated: "MEMBER_ROLE_CHANGED"}
    return Audit(
        action=actions.get(type(event), "MEMBER_REMOVED"),
        old_value=None if before is None else {"role": before.role},
        new_value=None if after is None else {"role": after.role},
    )
