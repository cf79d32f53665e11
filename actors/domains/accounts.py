"""Users, and the workspaces that they created: the log of ``$system``.

That an e-mail address or a slug is used once, that a user has no more workspaces than allowed, and
that setup happens once, needs no constraint and no lock: each is an entity that the command
touches, and a log decides one command at a time.  Passwords and sessions are no events; they are
rows of the runtime's account store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Never

import msgspec

from dalsegno.protocol import Audit, Context, Domain, Index, On, Reject, Touched

from .claims import (
    Released,
    check_name,
    check_slug,
    claim,
    claims,
    email_claim,
    slug_claim,
)
from .members import ANYBODY, ROSTER_ID, members, owner_change, rosters
from .standing import standings
from .users import (
    DeleteUser as DeleteUser,
    DisableUser as DisableUser,
    EnableUser as EnableUser,
    Others,
    RegisterUser as RegisterUser,
    SetUserRole as SetUserRole,
    User as User,
    UserDeleted as UserDeleted,
    UserDisabled as UserDisabled,
    UserEnabled as UserEnabled,
    UserRegistered as UserRegistered,
    UserRoleUpdated as UserRoleUpdated,
    registered,
    users as users,
)

# ---------------------------------------------------------------------------------- workspaces


class Holding(msgspec.Struct, frozen=True):
    """How many workspaces there are that a user created."""

    count: int


class HoldingChanged(msgspec.Struct, frozen=True):
    """A user created a workspace, or one that the user created was deleted."""

    count: int


holdings = Domain("holding", state=Holding, commands=Never, events=HoldingChanged, reserved=True)
"""One entity per user, ``holding:{user_id}``."""


@holdings.evolve
def _holding_changed(_holding: Holding | None, event: HoldingChanged) -> Holding:
    return Holding(event.count)


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace as ``$system`` records it; how it stands is in its own log (`standing`)."""

    slug: str
    name: str
    """Its first name."""
    owner_id: str
    """Its first owner."""
    state: Literal["active", "deleted"] = "active"
    created_at: datetime


class CreateSpace(msgspec.Struct, frozen=True, kw_only=True):
    """Create a workspace; a user does so for themselves."""

    workspace_id: str
    slug: str
    name: str
    owner_id: str
    held_max: int = 0
    """How many workspaces of one creator there may be; 0: any number."""
    held_before: int = 0
    """How many there are of this one, where the log has not counted them yet."""


class RetireSpace(msgspec.Struct, frozen=True, kw_only=True):
    """Record that a workspace was deleted: its slug is free, and its creator may have another."""

    workspace_id: str
    slug: str
    owner_id: str


class SpaceCreated(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace was created."""

    slug: str
    name: str
    owner_id: str
    created_at: datetime


class SpaceRetired(msgspec.Struct, frozen=True):
    """A workspace was deleted."""


spaces = Domain(
    "space",
    state=Space,
    commands=CreateSpace | RetireSpace,
    events=SpaceCreated | SpaceRetired,
    id_field="workspace_id",
    allow=ANYBODY,
    reserved=True,
)
"""The workspaces; ``space:{workspace_id}``."""


def _touched_by_space(command: CreateSpace | RetireSpace) -> Others:
    return [(claims, slug_claim(command.slug)), (holdings, command.owner_id)]


@spaces.decide(touches=_touched_by_space)
def _create_space(
    space: Space | None, command: CreateSpace, context: Context, touched: Touched
) -> Sequence[SpaceCreated | On[Any]]:
    if space is not None:
        raise Reject("STATE_CONFLICT", "this workspace exists", field="workspace_id")
    if context.principal.user_id not in (None, command.owner_id):
        raise Reject("ROLE_FORBIDDEN", "a user creates workspaces for themselves")
    held = _held(command.owner_id, touched, otherwise=command.held_before)
    if 0 < command.held_max <= held:
        message = f"a user creates at most {command.held_max} workspaces"
        raise Reject("QUOTA_EXCEEDED", message, limit=command.held_max)
    created = _space_created(command.slug, command.name, command.owner_id, context)
    claimed = claim(slug_claim(command.slug), command.workspace_id, touched)
    return [created, claimed, On(holdings, command.owner_id, HoldingChanged(held + 1))]


def _held(owner_id: str, touched: Touched, *, otherwise: int) -> int:
    holding = touched.get(holdings, owner_id)
    return otherwise if holding is None else holding.count


@spaces.decide(touches=_touched_by_space, allow=())
def _retire_space(
    space: Space, command: RetireSpace, touched: Touched
) -> Sequence[SpaceRetired | On[Any]]:
    if (space.slug, space.owner_id) != (command.slug, command.owner_id):
        raise Reject("STATE_CONFLICT", "this workspace is another one", field="workspace_id")
    if space.state == "deleted":
        return []
    held = max(_held(space.owner_id, touched, otherwise=0) - 1, 0)
    released = On(claims, slug_claim(space.slug), Released())
    return [SpaceRetired(), released, On(holdings, space.owner_id, HoldingChanged(held))]


def _space_created(slug: str, name: str, owner_id: str, context: Context) -> SpaceCreated:
    return SpaceCreated(
        slug=check_slug(slug),
        name=check_name(name, what="name"),
        owner_id=owner_id,
        created_at=context.now,
    )


@spaces.evolve
def _created(_space: Space | None, event: SpaceCreated) -> Space:
    return Space(
        slug=event.slug, name=event.name, owner_id=event.owner_id, created_at=event.created_at
    )


@spaces.evolve
def _retired(space: Space, _event: SpaceRetired) -> Space:
    return msgspec.structs.replace(space, state="deleted")


@spaces.founder
def _founder(space: Space) -> str:
    return space.owner_id


@spaces.index
def _by_owner(space: Space) -> Index:
    keys = (owner_key(space.owner_id),) if space.state == "active" else ()
    return Index(keys=keys, title=space.name)


def owner_key(user_id: str) -> str:
    """Return the key under which the workspaces that a user created are listed."""
    return f"owner:{user_id}"


@spaces.audit
def _space_on_record(
    event: SpaceCreated | SpaceRetired, _before: Space | None, after: Space | None
) -> Audit:
    action = "WORKSPACE_CREATED" if isinstance(event, SpaceCreated) else "WORKSPACE_RETIRED"
    owner = None if after is None else {"owner_id": after.owner_id}
    return Audit(action=action, resource_type="workspace", new_value=owner)


# --------------------------------------------------------------------------------------- setup


class Setup(msgspec.Struct, frozen=True):
    """The record of the first account and workspace."""

    user_id: str
    workspace_id: str


class SetUp(msgspec.Struct, frozen=True, kw_only=True):
    """Create the first account, a global owner, and its workspace: once, by the program itself."""

    setup_id: Literal["main"] = "main"
    user_id: str
    email: str
    display_name: str
    workspace_id: str
    slug: str
    name: str


class SetupCompleted(msgspec.Struct, frozen=True):
    """The first account and workspace were created."""

    user_id: str
    workspace_id: str


setups = Domain(
    "setup", state=Setup, commands=SetUp, events=SetupCompleted, allow=(), reserved=True
)
"""One entity, ``setup:main``, whose existence locks setup."""


def _touched_by_setup(command: SetUp) -> Others:
    return [
        (users, command.user_id),
        (spaces, command.workspace_id),
        (claims, email_claim(command.email)),
        (claims, slug_claim(command.slug)),
        (rosters, ROSTER_ID),
        (holdings, command.user_id),
    ]


@setups.decide(touches=_touched_by_setup)
def _set_up(
    setup: Setup | None, command: SetUp, context: Context, touched: Touched
) -> Sequence[SetupCompleted | On[Any]]:
    if setup is not None:
        raise Reject("SETUP_LOCKED", "setup has happened")
    user_id, workspace_id = command.user_id, command.workspace_id
    user = registered(command.email, command.display_name, "owner", context)
    created = _space_created(command.slug, command.name, user_id, context)
    return [
        SetupCompleted(user_id, workspace_id),
        On(users, user_id, user),
        On(spaces, workspace_id, created),
        claim(email_claim(command.email), user_id, touched),
        claim(slug_claim(command.slug), workspace_id, touched),
        On(holdings, user_id, HoldingChanged(1)),
        *owner_change(user_id, becomes_owner=True, touched=touched, context=context),
    ]


@setups.evolve
def _setup_completed(_setup: Setup | None, event: SetupCompleted) -> Setup:
    return Setup(event.user_id, event.workspace_id)


@setups.audit
def _setup_on_record(_event: SetupCompleted, _before: Setup | None, after: Setup | None) -> Audit:
    return Audit(action="SETUP_COMPLETED", new_value=after)


system_domains: tuple[Domain[Any, Any, Any], ...] = (
    users,
    spaces,
    holdings,
    claims,
    setups,
)
"""The domains of ``$system`` alone; the network cannot name their commands."""

account_domains: tuple[Domain[Any, Any, Any], ...] = (
    *system_domains,
    rosters,
    members,
    standings,
)
"""All of this module, `members` and `standing`."""
