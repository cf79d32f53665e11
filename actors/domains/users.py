"""Users: the accounts, in the log of ``$system``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from dalsegno.protocol import Audit, Context, Domain, Index, On, Reject, Touched

from .claims import Released, check_email, check_name, claim, claims, email_claim
from .members import ADMINS, ANYBODY, GlobalRole, OwnersChanged, owner_change, roster_of

Others = Sequence[tuple[Domain[Any, Any, Any], str]]


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    email: str
    display_name: str
    role: GlobalRole | None
    """Global, for users and backups; None while disabled, when nothing is allowed."""
    role_before: GlobalRole | None = None
    """The role that one who is disabled had, and will have again."""
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
    role: GlobalRole


class SetUserRole(msgspec.Struct, frozen=True):
    """Give an account another global role."""

    user_id: str
    role: GlobalRole


class DisableUser(msgspec.Struct, frozen=True):
    """Keep an account from being used; its e-mail address stays taken."""

    user_id: str


class EnableUser(msgspec.Struct, frozen=True):
    """Enable a disabled account."""

    user_id: str


class DeleteUser(msgspec.Struct, frozen=True):
    """Delete an account for good: an admin anybody's, everybody their own."""

    user_id: str
    email: str
    """The account's own, which is free from then on."""


class UserRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """An account was created."""

    email: str
    display_name: str
    role: GlobalRole
    created_at: datetime


class UserRoleUpdated(msgspec.Struct, frozen=True):
    """An account has another global role."""

    role: GlobalRole


class UserDisabled(msgspec.Struct, frozen=True):
    """An account cannot be used."""


class UserEnabled(msgspec.Struct, frozen=True):
    """An account can be used again."""

    role: GlobalRole


class UserDeleted(msgspec.Struct, frozen=True):
    """An account was deleted."""


users = Domain(
    "user",
    version=2,
    state=User,
    commands=RegisterUser | SetUserRole | DisableUser | EnableUser | DeleteUser,
    events=UserRegistered | UserRoleUpdated | UserDisabled | UserEnabled | UserDeleted,
    allow=ADMINS,
    reserved=True,
)
"""The accounts; ``user:{user_id}``."""


def _touched_by_user(command: RegisterUser | DeleteUser) -> Others:
    return [(claims, email_claim(command.email)), *roster_of(command)]


@users.decide(touches=_touched_by_user)
def _register_user(
    user: User | None, command: RegisterUser, context: Context, touched: Touched
) -> Sequence[UserRegistered | On[Any]]:
    if user is not None:
        raise Reject("STATE_CONFLICT", "this user exists", field="user_id")
    owners = owner_change(
        command.user_id, becomes_owner=command.role == "owner", touched=touched, context=context
    )
    event = registered(command.email, command.display_name, command.role, context)
    claimed = claim(email_claim(command.email), command.user_id, touched)
    return [event, claimed, *owners]


def registered(email: str, display_name: str, role: GlobalRole, context: Context) -> UserRegistered:
    """Return the event that creates an account, or raise `Reject`."""
    return UserRegistered(
        email=check_email(email),
        display_name=check_name(display_name, what="display_name"),
        role=role,
        created_at=context.now,
    )


@users.decide(touches=roster_of)
def _set_user_role(
    user: User, command: SetUserRole, context: Context, touched: Touched
) -> Sequence[UserRoleUpdated | On[OwnersChanged]]:
    if user.role is None:
        raise Reject("STATE_CONFLICT", "this account is disabled: enable it first")
    owners = owner_change(
        command.user_id, becomes_owner=command.role == "owner", touched=touched, context=context
    )
    return [] if user.role == command.role else [UserRoleUpdated(command.role), *owners]


@users.decide(touches=roster_of)
def _disable_user(
    user: User, command: DisableUser, context: Context, touched: Touched
) -> Sequence[UserDisabled | On[OwnersChanged]]:
    owners = owner_change(command.user_id, becomes_owner=False, touched=touched, context=context)
    return [] if user.role is None else [UserDisabled(), *owners]


@users.decide(touches=roster_of)
def _enable_user(
    user: User, command: EnableUser, context: Context, touched: Touched
) -> Sequence[UserEnabled | On[OwnersChanged]]:
    if user.role is not None or user.role_before is None:
        return []
    role = user.role_before
    owners = owner_change(
        command.user_id, becomes_owner=role == "owner", touched=touched, context=context
    )
    return [UserEnabled(role), *owners]


@users.decide(touches=_touched_by_user, allow=ANYBODY)
def _delete_user(
    user: User, command: DeleteUser, context: Context, touched: Touched
) -> Sequence[UserDeleted | On[Any]]:
    asks = context.principal.user_id
    if asks not in (None, command.user_id) and context.role not in ADMINS:
        raise Reject("ROLE_FORBIDDEN", "only for global owners and admins", role=context.role)
    claim_id = email_claim(user.email)
    if claim_id != email_claim(command.email):
        raise Reject("STATE_CONFLICT", "this account has another address", field="email")
    owners = owner_change(command.user_id, becomes_owner=False, touched=touched, context=context)
    return [UserDeleted(), On(claims, claim_id, Released()), *owners]


@users.evolve
def _user_registered(_user: User | None, event: UserRegistered) -> User:
    return User(
        email=event.email,
        display_name=event.display_name,
        role=event.role,
        created_at=event.created_at,
    )


@users.evolve
def _user_role_updated(user: User, event: UserRoleUpdated) -> User:
    return msgspec.structs.replace(user, role=event.role)


@users.evolve
def _user_disabled(user: User, _event: UserDisabled) -> User:
    return msgspec.structs.replace(user, role=None, role_before=user.role)


@users.evolve
def _user_enabled(user: User, event: UserEnabled) -> User:
    return msgspec.structs.replace(user, role=event.role, role_before=None)


@users.evolve
def _user_deleted(_user: User, _event: UserDeleted) -> User | None:
    return None


@users.role(ended_by=[UserDisabled, UserDeleted])
def _role(user: User) -> str | None:
    return user.role


@users.index
def _by_name(user: User) -> Index:
    return Index(title=user.display_name)


_ACTIONS = {
    UserRegistered: "USER_REGISTERED",
    UserRoleUpdated: "USER_ROLE_CHANGED",
    UserDisabled: "USER_DISABLED",
    UserEnabled: "USER_ENABLED",
    UserDeleted: "USER_DELETED",
}


@users.audit
def _on_record(
    event: UserRegistered | UserRoleUpdated | UserDisabled | UserEnabled | UserDeleted,
    before: User | None,
    after: User | None,
) -> Audit:
    # Neither name nor address: a record outlives the account.
    return Audit(
        action=_ACTIONS[type(event)],
        old_value=None if before is None else {"role": before.role},
        new_value=None if after is None else {"role": after.role},
    )
