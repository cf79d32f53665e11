"""Names that may be used once: an e-mail address, a workspace's slug.

A claim has no commands of its own.  The command that creates the user or the workspace makes it
too, so that both happen or neither.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Never

import msgspec

from dalsegno.protocol import Domain, On, Reject, Touched

EMAIL_CHARS_MAX = 190
"""Characters in an address, which is part of an entity's id."""

NAME_CHARS_MAX = 200
"""Characters in the name of a user or a workspace."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, marks of direction, surrogates and separators of lines."""
_JOINERS = frozenset("\u200c\u200d")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)


class Claim(msgspec.Struct, frozen=True):
    """A name that is taken."""

    by: str
    """The user's or workspace's id."""


class Claimed(msgspec.Struct, frozen=True):
    """A name was taken."""

    by: str


class Released(msgspec.Struct, frozen=True):
    """A name is free again."""


claims = Domain("claim", state=Claim, commands=Never, events=Claimed | Released, reserved=True)
"""Names that are used once: ``claim:email:{address}``, ``claim:slug:{slug}``."""


@claims.evolve
def _claimed(_before: Claim | None, event: Claimed) -> Claim:
    return Claim(event.by)


@claims.evolve
def _released(_before: Claim | None, _event: Released) -> Claim | None:
    return None


def email_claim(email: str) -> str:
    """Return the id of the claim on an address, the same for every spelling of it."""
    return f"email:{unicodedata.normalize('NFC', email.strip()).casefold()}"


def slug_claim(slug: str) -> str:
    """Return the id of the claim on a slug."""
    return f"slug:{slug}"


def claim(claim_id: str, by: str, touched: Touched) -> On[Claimed | Released]:
    """Return the event that takes a name.

    Raises:
        Reject: ``STATE_CONFLICT`` if it is taken.

    """
    if touched.get(claims, claim_id) is not None:
        field = claim_id.partition(":")[0]
        raise Reject("STATE_CONFLICT", f"this {field} is taken", field=field)
    return On(claims, claim_id, Claimed(by))


def check_email(email: str) -> str:
    """Check and return an e-mail address, or raise `Reject`; only mail can show that it works."""
    email = email.strip()
    is_seen = not any(unicodedata.category(char) in _UNSEEN for char in email)
    if len(email) > EMAIL_CHARS_MAX or not is_seen or not _EMAIL.fullmatch(email):
        raise Reject("BAD_REQUEST", "not an e-mail address", field="email")
    return email


def check_name(name: str, *, what: str) -> str:
    """Check and return the name of a user or a workspace, which people are shown.

    A character that cannot be seen, or that turns the direction of what follows, could make one
    name look like another's.  The two that join letters are part of some scripts, and of emoji.

    Raises:
        Reject: ``BAD_REQUEST``, with ``what`` as its field.

    """
    name = unicodedata.normalize("NFC", name.strip())
    seen = [char for char in name if char not in _JOINERS]
    if (
        not seen
        or len(name) > NAME_CHARS_MAX
        or any(unicodedata.category(char) in _UNSEEN for char in seen)
    ):
        message = f"{what}: 1 to {NAME_CHARS_MAX} characters that can be seen"
        raise Reject("BAD_REQUEST", message, field=what)
    return name


def check_slug(slug: str) -> str:
    """Check and return a slug, or raise `Reject`."""
    if not _SLUG.fullmatch(slug):
        raise Reject("BAD_REQUEST", "a slug has 1 to 64 of a-z 0-9 and inner -", field="slug")
    return slug
