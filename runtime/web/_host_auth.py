"""A host's own authenticator: who it says that a request is.

Whom it names is ``host:`` and its id here, so that a host cannot name an account, a key or whom a
token names; they are members like everybody, and have no account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from dalsegno.protocol import (
    AuthRequest,
    Caller,
    InternalError,
    NotReadyError,
    Reject,
    check_id,
)

from ._identity import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol import Authenticator
    from dalsegno.runtime import Runtime

HOST_PREFIX = "host:"
"""What the ids begin with of those whom a host names."""

_ID_CHARS_MAX = 200

log = structlog.get_logger("dalsegno.host")


def is_of_host(identity: Identity) -> bool:
    """Return whether the host has named somebody."""
    return identity.user_id.startswith(HOST_PREFIX)


async def identify_by_host(
    authenticate: Authenticator,
    rt: Runtime,
    *,
    headers: Mapping[str, str],
    peer: str,
    token: str | None,
) -> Identity | None:
    """Return whom the host's authenticator recognises; None for nobody of its own.

    Raises:
        Reject: the authenticator's own; ``TOKEN_EXPIRED`` where its answer is no longer good.
        NotReadyError: it takes too long.
        InternalError: it raised something else, or what it returned is no answer.

    """
    asked = AuthRequest(headers=headers, peer=peer, token=token)
    try:
        with trio.fail_after(rt.limits.answer_deadline_s):
            caller = await authenticate(asked)
    except Reject:
        raise
    except trio.TooSlowError:
        raise NotReadyError("authentication takes too long") from None
    except Exception as error:
        log.exception("authenticate_raised")
        raise InternalError("see the log") from error
    return None if caller is None else _identity_of(caller, rt)


def _identity_of(caller: Caller, rt: Runtime) -> Identity:
    """Return an identity; what is wrong with the answer is the host's fault, and no client's."""
    if wrong := _wrong_with(caller):
        log.error("authenticate_returned_no_caller", reason=wrong)
        raise InternalError("see the log")
    if caller.expires_at is not None and caller.expires_at <= rt.world.now():
        raise Reject("TOKEN_EXPIRED", "what was shown has expired")
    user_id = f"{HOST_PREFIX}{caller.user_id}"
    return Identity(user_id=user_id, session_hash=b"", expires_at=caller.expires_at)


def _wrong_with(caller: object) -> str | None:
    if not isinstance(caller, Caller) or not isinstance(caller.user_id, str):
        return "it returns a Caller, whose user_id is a text, or None"
    if caller.expires_at is not None and caller.expires_at.tzinfo is None:
        return "expires_at has no zone"
    try:
        check_id(caller.user_id, chars_max=_ID_CHARS_MAX - len(HOST_PREFIX), what="user_id")
    except Reject as refusal:
        return refusal.message
    return None
