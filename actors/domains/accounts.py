"""Users, and the workspaces that they created: the log of ``$system``.

That an e-mail address or a slug is used once, and that setup happens once, needs no constraint and
no lock: each is an entity that the command touches, and a log decides one command at a time.
Passwords and sessions are no events; they are rows of the runtime's account store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from dalsegno.protocol import Context, Domain, Index, On, Reject, Touched, check_id

from .claims import Claimed, check_email, check_slug, claim, claims, email_claim, slug_claim
from .members import (
    ADMINS,
    ANYBODY,
    ROSTER_ID,
    OwnersChanged,
    Role,
    members,
    owner_change,
    roster_of,
    rosters,
)

Others = Sequence[tuple[Domain[Any, Any, Any], str]]

NAME_CHARS_MAX = 200
"""Characters in the name of a user or a workspace."""


# --------------------------------------------------------------------------------------- users


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    email: str
    display_name: str
    role: Role | None
    """Global, for users and backups; None once disabled, when nothing is allowed."""
    created_at: datetime

    @property
    def status(self) -> Literal["active", "disabled"]:
        """Whether the account can be used."""
        return "disabled" if self.role is None else "active"


class RegisterUser(msgspec.Struct, frozen=True, kw_only=True):
    """Create an account."""

    user_id: str
    email: str
    display_name: str
    role: Role


class DisableUser(msgspec.Struct, frozen=True):
    """Close an account; its e-mail address stays taken."""

    user_id: str


class UserRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """An account was created."""

    email: str
    display_name: str
    role: Role
    created_at: datetime


class UserDisabled(msgspec.Struct, frozen=True):
    """An account was closed."""


users = Domain(
    "user",
    state=User,
    commands=RegisterUser | DisableUser,
    events=UserRegistered | UserDisabled,
    allow=ADMINS,
    reserved=True,
)
"""The accounts; ``user:{user_id}``."""


def _touched_by_user(command: RegisterUser) -> Others:
    return [(claims, email_claim(command.email)), *roster_of(command)]


@users.decide(touches=_touched_by_user)
def _register_user(
    user: User | None, command: RegisterUser, context: Context, touched: Touched
) -> Sequence[UserRegistered | On[Claimed] | On[OwnersChanged]]:
    if user is not None:
        raise Reject("STATE_CONFLICT", "this user exists", field="user_id")
    owners = owner_change(
        command.user_id, becomes_owner=command.role == "owner", touched=touched, context=context
    )
    registered = _registered(command.email, command.display_name, command.role, context)
    claimed = claim(email_claim(command.email), command.user_id, touched)
    return [registered, claimed, *owners]


def _registered(email: str, display_name: str, role: Role, context: Context) -> UserRegistered:
    return UserRegistered(
        email=check_email(email),
        display_name=check_id(display_name, chars_max=NAME_CHARS_MAX, what="display_name"),
        role=role,
        created_at=context.now,
    )


@users.decide(touches=roster_of)
def _disable_user(
    user: User, command: DisableUser, context: Context, touched: Touched
) -> Sequence[UserDisabled | On[OwnersChanged]]:
    owners = owner_change(command.user_id, becomes_owner=False, touched=touched, context=context)
    return [] if user.role is None else [UserDisabled(), *owners]


@users.evolve
def _user_registered(_user: User | None, event: UserRegistered) -> User:
    return User(
        email=event.email,
        display_name=event.display_name,
        role=event.role,
        created_at=event.created_at,
    )


@users.evolve
def _user_disabled(user: User, _event: UserDisabled) -> User:
    return msgspec.structs.replace(user, role=None)


@users.role()
def _role(user: User) -> str | None:
    return user.role


@users.index
def _by_name(user: User) -> Index:
    return Index(title=user.display_name)


# ---------------------------------------------------------------------------------- workspaces


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace as ``$system`` records it."""

    slug: str
    name: str
    owner_id: str
    """Its first owner."""
    state: Literal["active", "archived", "deleted"] = "active"
    created_at: datetime


class CreateSpace(msgspec.Struct, frozen=True, kw_only=True):
    """Create a workspace; a user does so for themselves."""

    workspace_id: str
    slug: str
    name: str
    owner_id: str


class SpaceCreated(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace was created."""

    slug: str
    name: str
    owner_id: str
    created_at: datetime


spaces = Domain(
    "space",
    state=Space,
    commands=CreateSpace,
    events=SpaceCreated,
    id_field="workspace_id",
    allow=ANYBODY,
    reserved=True,
)
"""The workspaces; ``space:{workspace_id}``."""


def _touched_by_space(command: CreateSpace) -> Others:
    return [(claims, slug_claim(command.slug))]


@spaces.decide(touches=_touched_by_space)
def _create_space(
    space: Space | None, command: CreateSpace, context: Context, touched: Touched
) -> Sequence[SpaceCreated | On[Claimed]]:
    if space is not None:
        raise Reject("STATE_CONFLICT", "this workspace exists", field="workspace_id")
    if context.principal.user_id not in (None, command.owner_id):
        raise Reject("ROLE_FORBIDDEN", "a user creates workspaces for themselves")
    created = _space_created(command.slug, command.name, command.owner_id, context)
    return [created, claim(slug_claim(command.slug), command.workspace_id, touched)]


def _space_created(slug: str, name: str, owner_id: str, context: Context) -> SpaceCreated:
    return SpaceCreated(
        slug=check_slug(slug),
        name=check_id(name, chars_max=NAME_CHARS_MAX, what="name"),
        owner_id=owner_id,
        created_at=context.now,
    )


@spaces.evolve
def _created(_space: Space | None, event: SpaceCreated) -> Space:
    return Space(
        slug=event.slug, name=event.name, owner_id=event.owner_id, created_at=event.created_at
    )


@spaces.founder
def _founder(space: Space) -> str:
    return space.owner_id


@spaces.index
def _by_owner(space: Space) -> Index:
    return Index(keys=(owner_key(space.owner_id),), title=space.name)


def owner_key(user_id: str) -> str:
    """Return the key under which the workspaces that a user created are listed."""
    return f"owner:{user_id}"


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
    ]


@setups.decide(touches=_touched_by_setup)
def _set_up(
    setup: Setup | None, command: SetUp, context: Context, touched: Touched
) -> Sequence[SetupCompleted | On[Any]]:
    if setup is not None:
        raise Reject("SETUP_LOCKED", "setup has happened")
    user_id, workspace_id = command.user_id, command.workspace_id
    registered = _registered(command.email, command.display_name, "owner", context)
    created = _space_created(command.slug, command.name, user_id, context)
    return [
        SetupCompleted(user_id, workspace_id),
        On(users, user_id, registered),
        On(spaces, workspace_id, created),
        claim(email_claim(command.email), user_id, touched),
        claim(slug_claim(command.slug), workspace_id, touched),
        *owner_change(user_id, becomes_owner=True, touched=touched, context=context),
    ]


@setups.evolve
def _setup_completed(_setup: Setup | None, event: SetupCompleted) -> Setup:
    return Setup(event.user_id, event.workspace_id)


system_domains: tuple[Domain[Any, Any, Any], ...] = (users, spaces, claims, setups)
"""The domains of ``$system`` alone; the network cannot name their commands."""

account_domains: tuple[Domain[Any, Any, Any], ...] = (*system_domains, rosters, members)
"""All of this module and `members`."""
