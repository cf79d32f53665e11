"""A command on its way: what is asked, by whom, and where its answer goes.

A group of commands that take effect all or none is its first command with the others beside it: it
has one place in the order, one key, one answer.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    SYSTEM,
    DalsegnoError,
    Decider,
    Due,
    InternalError,
    Principal,
    Receipt,
    Reject,
    check_id,
    check_key,
    encode_checked,
    repeated_receipt,
    repeated_receipts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from dalsegno.actors.ports import Roles, Uncollected
    from dalsegno.protocol import Domain, Event, Limits

    from ._room import Room

    AnyDomain = Domain[Any, Any, Any]

Receipts: TypeAlias = Receipt | tuple[Receipt, ...]
"""Of a command, or one for each of a group."""

_BYTES = 2_048
"""A command without its payload: the envelope, its callbacks, its places in lists."""
_DECODED = 4
"""Bytes of memory for a byte of JSON: a text with one emoji in it, a list of small objects."""


_NOTHING = Decider(
    function=lambda *_: None,
    takes_none=True,
    extras=(),
    allow=frozenset(),
    touches=None,
    follows=None,
    needs=None,
    repeats="conflict",
)


class Sender(Protocol):
    """The other end of a connection."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written to it any more."""


class Reply(Protocol):
    """Where the answer to one command, or to one group, goes."""

    def give(self, answer: Receipts | DalsegnoError) -> None:
        """Take the answer: called once, by the workspace's task; must not raise or wait."""


class Command(msgspec.Struct, eq=False, kw_only=True, gc=False):
    """One command in the mailbox, in a batch, or between two incarnations."""

    workspace_id: str
    domain: AnyDomain
    name: str
    command: Any
    stream_id: str
    principal: Principal
    command_id: str
    reply: Reply
    size: int
    """About how many bytes of memory it takes."""
    decider: Decider
    streams: dict[str, AnyDomain]
    """Every entity needed to decide it: its own, those it touches, the role's, the gate's."""
    role_stream: str | None = None
    """The entity that holds the principal's role; None where the log is not asked for it."""
    gate_stream: str | None = None
    """The entity that decides what may happen in the workspace; None where nothing does."""
    needs: int | None = None
    """The past version of its entity that it needs to see."""
    due: Due | None = None
    """What its entity asked for, where a timer sends it; it happens if that is asked for still."""
    is_relisting: bool = False
    """Whether it asks for nothing but that its entities are listed anew."""
    is_collecting: bool = False
    """Whether it asks for what is on record and not yet in its log, that of ``$audit`` …"""
    uncollected: Sequence[Uncollected] = ()
    """… which is this, as its workspace read it in the command's place in the order."""
    others: tuple[Command, ...] = ()
    """The rest of the group that it is the first of: decided after it, all or none."""
    key: str | None = None
    scope: str = ""
    payload_hash: bytes = b""
    correlation_id: str | None = None
    causation: str | None = None
    depth: int = 0
    """Of the run that sent it; see `Context.depth`."""
    sent_at: float = 0.0
    """Trio's clock, when it was admitted."""
    sent_after: int = 0
    """The head that its batch was sent to follow: its events, if there are any, are above it."""
    answered: bool = False
    sender: Sender | None = None
    """Who waits for the answer; None for a caller within the program."""
    room: Room | None = None
    """Where it has taken its size, once it was admitted; its answer gives it back."""

    @property
    def group(self) -> tuple[Command, ...]:
        """The commands that are decided with it, in order, itself the first."""
        return (self, *self.others)

    def answer(self, answer: Receipts | DalsegnoError) -> None:
        """Answer, unless a deadline has answered already."""
        if not self.answered:
            self.drop()
            self.reply.give(answer)

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for it, nor could ask again what became of it."""
        return self.key is None and self.sender is not None and self.sender.is_closed

    def drop(self) -> None:
        """Need no answer any more."""
        self.answered = True
        self.leave_room()

    def leave_room(self) -> None:
        """Give back what was taken for it."""
        if self.room is not None:
            self.room.give_back(self.size)
            self.room = None

    def receipt(self, event_seq: int, version: int) -> Receipt:
        """Return the answer of a command that was decided now."""
        return Receipt(
            workspace_id=self.workspace_id,
            event_seq=event_seq,
            stream_id=self.stream_id,
            version=version,
            command_id=self.command_id,
        )

    def repeat(self, answer: str, payload_hash: bytes) -> Receipts | DalsegnoError:
        """Return the answer of a command whose key was used: the original one, or a conflict."""
        if payload_hash not in (self.payload_hash, self._hash_of_before()):
            return Reject(
                "STATE_CONFLICT",
                "this idempotency key was used with another command or payload",
                key=self.key,
            )
        if self.others:
            return repeated_receipts(self.workspace_id, answer)
        return repeated_receipt(self.workspace_id, answer)

    def _hash_of_before(self) -> bytes:
        """Return what releases before the first recorded of it: fields with their defaults too."""
        return _hash_of([_digest(c.name, c.command, c.decider, whole=True) for c in self.group])

    def receipt_of(
        self, found: Mapping[str, Sequence[Event]], versions: Mapping[str, int]
    ) -> Receipts | None:
        """Return the answer by what the log has of it; None where it was not applied (I4).

        Args:
            found: the events that commands led to, by their ids.
            versions: the entities' versions now, for those that it did not change.

        """
        group = self.group
        first = next(
            (found[each.command_id][0] for each in group if found.get(each.command_id)), None
        )
        if first is None:
            return None
        head, receipts = first.event_seq - 1, list[Receipt]()
        for each in group:
            events = found.get(each.command_id, ())
            own = [event.stream_seq for event in events if event.stream_id == each.stream_id]
            version = max(own) if own else versions.get(each.stream_id, 0)
            head = events[-1].event_seq if events else head
            receipts.append(each.receipt(head, version))
        return tuple(receipts) if self.others else receipts[0]


def make_command(
    workspace_id: str,
    domain: AnyDomain,
    name: str,
    command: Any,  # noqa: ANN401 - one of the domain's commands
    *,
    principal: Principal,
    reply: Reply,
    sender: Sender | None = None,
    roles: Roles,
    limits: Limits,
    new_id: Callable[[], str],
    checked_bytes: int,
    key: str | None = None,
    correlation_id: str | None = None,
    causation: str | None = None,
) -> Command:
    """Put a command that was checked into its envelope.

    ``checked_bytes`` is its length as JSON; see `checking`.

    Raises:
        Reject: ``BAD_REQUEST`` for an id or a key that cannot be one.
        InternalError: the domain's ``touches=`` or ``needs=`` raised.

    """
    named = getattr(command, domain.id_field)
    entity_id = new_id() if named is None else str(named)
    check_id(entity_id, chars_max=limits.id_chars_max)
    if key is not None:
        check_key(key, chars_max=limits.key_chars_max)
    stream_id = domain.stream_id(entity_id)
    envelope = Command(
        workspace_id=workspace_id,
        domain=domain,
        name=name,
        command=command,
        stream_id=stream_id,
        principal=principal,
        command_id=new_id(),
        reply=reply,
        sender=sender,
        size=_BYTES + _DECODED * checked_bytes,
        decider=domain.decider(type(command)),
        streams={stream_id: domain},
        correlation_id=correlation_id,
        causation=causation,
    )
    if key is not None:
        envelope.key = key
        envelope.scope = scope_of(domain, name, command, principal)
        envelope.payload_hash = _digest(name, command, envelope.decider)
    for envelope.gate_stream, gate in roles.gate_in(workspace_id).items():
        envelope.streams[envelope.gate_stream] = gate
    if principal.role is None and principal.user_id is not None:
        _add_role_stream(envelope, principal.user_id, roles)
    if envelope.decider.touches is not None or envelope.decider.needs is not None:
        _add_declared(envelope, limits)
    return envelope


def make_relisting(
    workspace_id: str,
    domain: AnyDomain,
    stream_ids: Sequence[str],
    *,
    reply: Reply,
    new_id: Callable[[], str],
) -> Command:
    """Return what has a workspace list some entities anew, in its order, without an event."""
    return Command(
        workspace_id=workspace_id,
        domain=domain,
        name="relist",
        command=None,
        stream_id=stream_ids[0],
        principal=SYSTEM,
        command_id=new_id(),
        reply=reply,
        size=_BYTES * len(stream_ids),
        decider=_NOTHING,
        streams=dict.fromkeys(stream_ids, domain),
        is_relisting=True,
    )


def make_collecting(
    domain: AnyDomain, entity_id: str, *, reply: Reply, new_id: Callable[[], str]
) -> Command:
    """Return what has ``$audit`` take what is on record, and not in its log, into its log."""
    stream_id = domain.stream_id(entity_id)
    return Command(
        workspace_id=AUDIT_WORKSPACE,
        domain=domain,
        name="collect",
        command=None,
        stream_id=stream_id,
        principal=SYSTEM,
        command_id=new_id(),
        reply=reply,
        size=_BYTES,
        decider=_NOTHING,
        streams={stream_id: domain},
        is_collecting=True,
    )


def make_group(commands: Sequence[Command]) -> Command:
    """Put commands that were made for one workspace together: all of them take effect, or none.

    They were made with one key, which is the group's now, and with one reply: it gets a receipt for
    each.
    """
    first, *others = commands
    first.others = tuple(others)
    first.size = sum(each.size for each in commands)
    if first.key is not None:
        first.scope = f"{first.principal.user_id or ''}\x1f*"
        first.payload_hash = _hash_of([each.payload_hash for each in commands])
    return first


def checking(
    domain: AnyDomain,
    name: str,
    command: Any,  # noqa: ANN401 - as above
    *beside: object,
    limits: Limits,
) -> Generator[None, None, tuple[Any, int]]:
    """Return a program's command as the network would have brought it, and its bytes.

    It yields between the steps of a long one.  ``beside`` is what comes from outside the command,
    and stands in the log as well: user, key, correlation and causation.

    Raises:
        Reject: ``BAD_REQUEST``, or a field's own code, for what the log cannot hold.

    """
    encode_checked(beside, nesting_max=limits.nesting_max)
    if not all(text is None or isinstance(text, str) for text in beside):
        raise Reject("BAD_REQUEST", "user, key, correlation and causation are texts")
    return (yield from domain.checking_command(name, command, limits.nesting_max))


def scope_of(
    domain: AnyDomain,
    name: str,
    command: Any,  # noqa: ANN401 - as above
    principal: Principal,
) -> str:
    """Return the scope of a command's idempotency key.

    It is the principal with the target stream, or, where the runtime gives the entity its id, with
    the command's name.
    """
    named = getattr(command, domain.id_field)
    return f"{principal.user_id or ''}\x1f{name if named is None else domain.stream_id(str(named))}"


def _digest(name: str, command: msgspec.Struct, decider: Decider, *, whole: bool = False) -> bytes:
    """Return what tells the uses of one key apart, however their payloads were written.

    Of a command that may be rebased before it is repeated only the name counts (C1).  A field with
    its default does not count, so that a program may add one while its keys live; unless ``whole``.
    """
    document = b""
    if decider.repeats != "original":
        document = msgspec.json.encode(command if whole else _given(command))
    return blake2b(b"%b\0%b" % (name.encode(), document), digest_size=16).digest()


def _given(command: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a command that have not their defaults."""
    given = {}
    for name, default, make_default in _fields_of(type(command)):
        value = getattr(command, name)
        if value is default or value == default:
            continue
        if make_default is None or value != make_default():
            given[name] = value
    return given


@cache
def _fields_of(
    command: type[msgspec.Struct],
) -> tuple[tuple[str, Any, Callable[[], Any] | None], ...]:
    """Return the fields of a command's struct with their defaults, or what makes those."""
    return tuple(
        (
            each.name,
            each.default,
            None if each.default_factory is msgspec.NODEFAULT else each.default_factory,
        )
        for each in msgspec.structs.fields(command)
    )


def _hash_of(digests: Sequence[bytes]) -> bytes:
    """Return the hash of a command, or of a group by those of its commands."""
    if len(digests) == 1:
        return digests[0]
    return blake2b(b"".join(digests), digest_size=16).digest()


def _add_role_stream(envelope: Command, user_id: str, roles: Roles) -> None:
    deciding = roles.domain_in(envelope.workspace_id)
    if deciding is not None:
        envelope.role_stream = deciding.stream_id(user_id)
        envelope.streams[envelope.role_stream] = deciding


def _add_declared(envelope: Command, limits: Limits) -> None:
    """Add what the domain declares that deciding this command needs."""
    decider, command = envelope.decider, envelope.command
    try:
        if decider.touches is not None:
            envelope.streams |= named_streams(decider.touches(command), limits)
        envelope.needs = None if decider.needs is None else decider.needs(command)
    except DalsegnoError:
        raise
    except Exception as error:
        raise InternalError("touches= or needs= raised") from error


def named_streams(named: Sequence[tuple[AnyDomain, str]], limits: Limits) -> dict[str, AnyDomain]:
    """Return the streams of the entities that ``touches=`` or ``follows=`` named.

    Raises:
        Reject: ``BAD_REQUEST`` for an id that cannot be one, or for too many of them.

    """
    if len(named) > limits.command_entities_max:
        raise Reject(
            "BAD_REQUEST", f"a command concerns at most {limits.command_entities_max} entities"
        )
    streams = {}
    for domain, entity_id in named:
        check_id(entity_id, chars_max=limits.id_chars_max)
        streams[domain.stream_id(entity_id)] = domain
    return streams
