"""A command on its way: what is asked, by whom, and where its answer goes."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.ports import role_stream
from dalsegno.protocol import (
    DalsegnoError,
    InternalError,
    Principal,
    Reject,
    check_id,
    check_key,
    encode_checked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dalsegno.protocol import Decider, Domain, Limits

Domains = dict[str, "Domain[Any, Any, Any]"]
"""By name."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command that took effect, or would have had none."""

    workspace_id: str
    event_seq: int
    """Of the command's last event; where it led to none, the head that it saw."""
    stream_id: str
    """The command's entity."""
    version: int
    """The entity's version after the command."""
    command_id: str
    repeated: bool = False
    """True where an idempotency key brought the original answer."""

    @property
    def entity_id(self) -> str:
        """The entity's id, without its domain."""
        return self.stream_id.partition(":")[2]


class StoredAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a command result keeps of a receipt."""

    event_seq: int
    stream_id: str
    version: int
    command_id: str


_decode_answer = msgspec.json.Decoder(StoredAnswer).decode


class Command(msgspec.Struct, eq=False, kw_only=True):
    """One command in the mailbox, in a batch, or between two incarnations."""

    workspace_id: str
    domain: Domain[Any, Any, Any]
    name: str
    command: Any
    stream_id: str
    principal: Principal
    command_id: str
    reply: Callable[[Receipt | DalsegnoError], None]
    """Called once, by the workspace's task; must not raise and must not wait."""
    size: int
    decider: Decider
    streams: dict[str, Domain[Any, Any, Any]]
    """Every entity that deciding it looks at: its own, those it touches, the principal's role."""
    role_stream: str | None = None
    """The one that tells the principal's role; None where the role is asserted."""
    needs: int | None = None
    """The past version of its entity that it needs to see."""
    key: str | None = None
    scope: str = ""
    payload_hash: bytes = b""
    correlation_id: str | None = None
    causation: str | None = None
    sent_at: float = 0.0
    """Trio's clock, when it was admitted."""
    sent_after: int = 0
    """The head that its batch was sent to follow: its events, if there are any, are above it."""
    answered: bool = False

    def answer(self, answer: Receipt | DalsegnoError) -> None:
        """Give the answer, unless a deadline gave one already."""
        if not self.answered:
            self.answered = True
            self.reply(answer)

    def receipt(self, event_seq: int, version: int) -> Receipt:
        """Make the answer of a command that was decided now."""
        return Receipt(
            workspace_id=self.workspace_id,
            event_seq=event_seq,
            stream_id=self.stream_id,
            version=version,
            command_id=self.command_id,
        )

    def repeat(self, answer: str, payload_hash: bytes) -> Receipt | DalsegnoError:
        """Make the answer of a command whose key was used (C1)."""
        if payload_hash != self.payload_hash and self.domain.repeats == "conflict":
            return Reject(
                "STATE_CONFLICT", "this idempotency key was used with another payload", key=self.key
            )
        stored = _decode_answer(answer)
        return Receipt(
            workspace_id=self.workspace_id,
            event_seq=stored.event_seq,
            stream_id=stored.stream_id,
            version=stored.version,
            command_id=stored.command_id,
            repeated=True,
        )


def stored_answer(receipt: Receipt) -> str:
    """Write what a command result keeps."""
    return msgspec.json.encode(
        StoredAnswer(receipt.event_seq, receipt.stream_id, receipt.version, receipt.command_id)
    ).decode()


def make_command(
    workspace_id: str,
    domain: Domain[Any, Any, Any],
    name: str,
    command: Any,  # noqa: ANN401 - one of the domain's commands
    *,
    principal: Principal,
    reply: Callable[[Receipt | DalsegnoError], None],
    limits: Limits,
    domains: Domains,
    new_id: Callable[[], str],
    checked_bytes: int | None = None,
    key: str | None = None,
    correlation_id: str | None = None,
    causation: str | None = None,
) -> Command:
    """Check a command at the door and put it into its envelope.

    The scope of an idempotency key is the principal with the target stream, or, where the runtime
    gives the entity its id, with the command's name (DESIGN §4, command result).

    ``checked_bytes`` is the command's length where it came in a message that was checked already.

    Raises:
        Reject: ``BAD_REQUEST`` for what the log cannot hold.
        InternalError: the domain's ``touches=`` or ``needs=`` raised.

    """
    if checked_bytes is None:
        checked_bytes = len(encode_checked(command, nesting_max=limits.nesting_max))
        # What comes from around the command stands in the log as well.
        around = (principal.user_id, correlation_id, causation)
        encode_checked(around, nesting_max=limits.nesting_max)
    named = getattr(command, domain.id_field)
    entity_id = new_id() if named is None else str(named)
    stream_id = domain.stream_id(check_id(entity_id, chars_max=limits.id_chars_max))
    scope, payload_hash = "", b""
    if key is not None:
        check_key(key, chars_max=limits.key_chars_max)
        scope = f"{principal.user_id or ''}\x1f{name if named is None else stream_id}"
        payload_hash = _digest(command)
    decider = domain.decider(type(command))
    streams = {stream_id: domain}
    role = None
    if principal.role is None and principal.user_id is not None:
        role = role_stream(workspace_id, principal.user_id)
        streams[role] = domains[role.partition(":")[0]]
    needs = None
    if decider.touches is not None or decider.needs is not None:
        others, needs = _declared(decider, command)
        for touched, touched_id in others:
            check_id(touched_id, chars_max=limits.id_chars_max)
            streams[touched.stream_id(touched_id)] = touched
    return Command(
        workspace_id=workspace_id,
        domain=domain,
        name=name,
        command=command,
        stream_id=stream_id,
        principal=principal,
        command_id=new_id(),
        reply=reply,
        size=checked_bytes,
        decider=decider,
        streams=streams,
        role_stream=role,
        needs=needs,
        key=key,
        scope=scope,
        payload_hash=payload_hash,
        correlation_id=correlation_id,
        causation=causation,
    )


def _digest(command: msgspec.Struct) -> bytes:
    """Tell two payloads apart, however they were written."""
    return blake2b(msgspec.json.encode(command), digest_size=16).digest()


def _declared(
    decider: Decider,
    command: Any,  # noqa: ANN401 - one of the domain's commands
) -> tuple[Sequence[tuple[Domain[Any, Any, Any], str]], int | None]:
    """Ask the domain what else a command needs."""
    try:
        others = () if decider.touches is None else tuple(decider.touches(command))
        return others, None if decider.needs is None else decider.needs(command)
    except DalsegnoError:
        raise
    except Exception as error:
        raise InternalError("touches= or needs= raised") from error
