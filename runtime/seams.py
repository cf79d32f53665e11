"""The real world: the one place that touches the process's clock, randomness, ids and user."""

from __future__ import annotations

import getpass
import os
import random
import secrets
from datetime import UTC, datetime

import uuid_utils

from dalsegno.actors import World


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid_utils.uuid7())


def _new_salt() -> bytes:
    return secrets.token_bytes(16)


WORLD = World(now=_now, random=random.random, new_id=_new_id, new_salt=_new_salt)
"""The machine's clock, Python's generator, UUIDv7, and the system's random bytes."""


def new_secret() -> str:
    """Return an unguessable token of 256 bits, safe in a URL."""
    return secrets.token_urlsafe(32)


def new_bytes(count: int) -> bytes:
    """Return so many unguessable bytes."""
    return secrets.token_bytes(count)


def user_name() -> str:
    """Return the system's name for the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in many a container
        return f"uid {os.getuid()}"
