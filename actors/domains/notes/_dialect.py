"""The notes dialect, as its seed defines it.

A note's stream and a workspace's have messages of their own.  In them ``event_seq`` is the number
in the named stream: on a note's stream, and in answers about a note, it is the note's version.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dalsegno.protocol import PatchOps, PayloadDecoder, Reject, not_found, workspace_stream
from dalsegno.protocol.dialects import (
    AttendRequest,
    CommandRequest,
    Dialect,
    Said,
    Seq,
    SubscribeRequest,
    Text,
    UnsubscribeRequest,
    asked_by,
    encode_said,
    quoted,
)

from ._automation_events import shown_run

if TYPE_CHECKING:
    from dalsegno.protocol import (
        DalsegnoError,
        Domain,
        Event,
        Limits,
        PresenceChange,
        PresenceList,
        PresentConnection,
        Receipt,
    )
    from dalsegno.protocol.dialects import Begun

_NOTE = "note"
"""The domain that this dialect serves."""
_AUTOMATION = "automation_"

_decode_operations = PayloadDecoder(PatchOps)


class Subscribed(Said, tag="subscribed", kw_only=True, gc=False):
    """The first answer of a subscription."""

    stream_id: str
    current_version: int
    replay_cursor: int


class PatchCommitted(Said, tag="patch_committed", kw_only=True, gc=False):
    """A patch was accepted."""

    note_id: str
    version: int
    event_seq: int
    idempotency_key: str | None
    repeated: bool | UnsetType = UNSET


class PatchRejected(Said, tag="patch_rejected", kw_only=True, gc=False):
    """A patch was based on another version."""

    note_id: str
    expected_version: int
    current_version: int
    reason: str
    idempotency_key: str | None


class NoteEvent(msgspec.Struct, tag="note_event", kw_only=True, gc=False):
    """An event of a note; one of another entity has its id under its own name."""

    stream_id: str
    note_id: str | UnsetType = UNSET
    event_seq: int
    version: int
    event_type: str
    event_id: str
    actor_id: str | None
    payload: Any


class WorkspaceEvent(msgspec.Struct, tag="workspace_event", kw_only=True, gc=False):
    """An event of a workspace."""

    workspace_id: str
    stream_id: str
    event_seq: int
    event_type: str
    event_id: str
    actor_id: str | None
    payload: Any


class AutomationEvent(msgspec.Struct, tag="automation_event", kw_only=True, gc=False):
    """An event of an automation, with its run on top."""

    workspace_id: str
    stream_id: str
    event_seq: int
    run_id: Any = UNSET
    status: Any = UNSET
    event_type: str
    event_id: str
    actor_id: str | None
    payload: Any


class PresenceEvent(msgspec.Struct, tag="presence_event", kw_only=True, gc=False):
    """Where somebody is in a workspace's notes, or that nobody knows any longer."""

    workspace_id: str
    note_id: str | None
    user_id: str
    state: str
    cursor: int | None
    server_ts: datetime


class NotePlace(msgspec.Struct, kw_only=True):
    """Where in the notes somebody is: the state of a connection that says it by a ping."""

    note_id: str | None = None
    cursor: int | None = None


_decode_place = msgspec.json.Decoder(NotePlace).decode


class _Run(msgspec.Struct):
    run_id: Any = None
    status: Any = None


class NotesDialect(Dialect):
    """The dialect of notes and their workspace."""

    name = "notes"
    tells_presence = True
    says = (
        Subscribed,
        PatchCommitted,
        PatchRejected,
        NoteEvent,
        WorkspaceEvent,
        AutomationEvent,
        PresenceEvent,
    )

    def entity_event(self, event: Event) -> bytes:
        """Encode an event for its note's stream."""
        name, _, entity_id = event.stream_id.partition(":")
        return (
            f'{{"type":"note_event","stream_id":{quoted(event.stream_id)},'
            f'"{name}_id":{quoted(entity_id)},'
            f'"event_seq":{event.stream_seq},"version":{event.stream_seq},'
            f'"event_type":{quoted(event.type)},"event_id":"{event.event_id}",'
            f'"actor_id":{quoted(event.actor_id)},"payload":{event.payload}}}'
        ).encode()

    def workspace_event(self, event: Event, payload: object) -> bytes:
        """Encode an event for the workspace's stream; a run's has its id and status on top."""
        stream_id = workspace_stream(event.workspace_id)
        type_, payload = shown_run(event) or (event.type, payload)
        if type_.startswith(_AUTOMATION):
            run = _run_of(payload)
            return encode_said(
                AutomationEvent(
                    workspace_id=event.workspace_id,
                    stream_id=stream_id,
                    event_seq=event.event_seq,
                    run_id=run.run_id,
                    status=run.status,
                    event_type=type_,
                    event_id=event.event_id,
                    actor_id=event.actor_id,
                    payload=payload,
                )
            )
        return encode_said(
            WorkspaceEvent(
                workspace_id=event.workspace_id,
                stream_id=stream_id,
                event_seq=event.event_seq,
                event_type=event.type,
                event_id=event.event_id,
                actor_id=event.actor_id,
                payload=payload,
            )
        )

    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes:
        """Encode the first answer of a subscription."""
        return encode_said(
            Subscribed(
                stream_id=begun.stream_id,
                current_version=begun.head,
                replay_cursor=begun.cursor,
                request_id=asked_by(asked.request_id),
            )
        )

    def committed(self, asked: CommandRequest, receipt: Receipt) -> bytes:
        """Encode the answer to a patch that was accepted."""
        return encode_said(
            PatchCommitted(
                note_id=receipt.entity_id,
                version=receipt.version,
                event_seq=receipt.version,
                idempotency_key=asked.idempotency_key,
                repeated=receipt.repeated or UNSET,
                request_id=asked_by(asked.request_id),
            )
        )

    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> bytes | None:
        """Encode the answer to a patch that was refused; a version conflict has its own message."""
        stream_id = str(asked.stream_id)
        note_id = stream_id.partition(":")[2]
        if error.code == "VERSION_CONFLICT":
            return encode_said(
                PatchRejected(
                    note_id=note_id,
                    expected_version=error.details["expected_version"],
                    current_version=error.details["current_version"],
                    reason="version_conflict",
                    idempotency_key=asked.idempotency_key,
                    request_id=asked_by(asked.request_id),
                )
            )
        is_stranger = error.code == "ROLE_FORBIDDEN" and "role" not in error.details
        if is_stranger and not asked.workspace_id:
            # A stranger who guesses an id does not learn that such a note exists (C22).
            error = not_found(stream_id, stream_id=stream_id)
        context = {"note_id": note_id}
        if asked.idempotency_key is not None:
            context["idempotency_key"] = asked.idempotency_key
        return self.error(error, asked.request_id, **context)

    def presence(
        self, listed: PresenceList, request_id: str | None, connection_id: str | None
    ) -> list[bytes]:
        """Encode where each connection is."""
        return [
            _presence_event(listed, user.user_id, each)
            for user in listed.users
            for each in user.connections
        ]

    def presence_diff(self, change: PresenceChange) -> list[bytes]:
        """Encode where each connection is that has come or moved, and who has left."""
        texts = []
        for user in (*change.joined, *change.changed):
            before = change.before.get(user.user_id)
            known = () if before is None else before.connections
            texts += [
                _presence_event(change, user.user_id, each)
                for each in user.connections
                if each not in known
            ]
        return texts + [_presence_event(change, user_id, None) for user_id in change.left]


note_dialect = NotesDialect()


class SubscribeNote(SubscribeRequest, tag="subscribe_note", frozen=True, kw_only=True):
    """Follow a note."""

    dialect: ClassVar[Dialect] = note_dialect

    note_id: Text

    @property
    def stream_id(self) -> str:
        """The note's stream."""
        return f"{_NOTE}:{self.note_id}"


class UnsubscribeNote(UnsubscribeRequest, tag="unsubscribe_note", frozen=True, kw_only=True):
    """Stop following a note."""

    dialect: ClassVar[Dialect] = note_dialect

    note_id: Text

    @property
    def stream_id(self) -> str:
        """The note's stream."""
        return f"{_NOTE}:{self.note_id}"


class SubscribeWorkspace(SubscribeRequest, tag="subscribe_workspace", frozen=True, kw_only=True):
    """Follow a workspace."""

    dialect: ClassVar[Dialect] = note_dialect

    workspace_id: Text

    @property
    def stream_id(self) -> str:
        """The workspace's stream."""
        return workspace_stream(self.workspace_id)


class UnsubscribeWorkspace(
    UnsubscribeRequest, tag="unsubscribe_workspace", frozen=True, kw_only=True
):
    """Stop following a workspace."""

    dialect: ClassVar[Dialect] = note_dialect

    workspace_id: Text

    @property
    def stream_id(self) -> str:
        """The workspace's stream."""
        return workspace_stream(self.workspace_id)


class ApplyPatchMessage(CommandRequest, tag="apply_patch", frozen=True, kw_only=True):
    """Change a note's text; the note domain's ``apply_patch`` command in the seed's shape."""

    dialect: ClassVar[Dialect] = note_dialect

    note_id: Text
    base_version: Seq
    patch_ops: Raw

    @property
    def name(self) -> str:
        """The command's name."""
        return "apply_patch"

    @property
    def stream_id(self) -> str:
        """The note's stream."""
        return f"{_NOTE}:{self.note_id}"

    def decode(self, domain: Domain[Any, Any, Any], limits: Limits) -> tuple[Any, int]:
        """Return the note domain's command for the seed's message, and its length in bytes."""
        if domain.name != _NOTE:
            raise Reject("UNKNOWN_COMMAND", "there are no notes here")
        document = bytes(self.patch_ops)
        command = domain.commands[self.name](
            note_id=self.note_id,
            patch_ops=_decode_operations(document, limits),
            base_version=self.base_version,
        )
        return command, len(document)


class PresencePing(AttendRequest, tag="presence_ping", frozen=True, kw_only=True):
    """Be present in a workspace, and say where in its notes one is."""

    dialect: ClassVar[Dialect] = note_dialect

    repeats_list: ClassVar[bool] = False

    workspace_id: Text
    note_id: Text | None = None
    cursor: Seq | None = None

    @property
    def state(self) -> Raw:
        """The place."""
        return Raw(encode_said(NotePlace(note_id=self.note_id, cursor=self.cursor)))


NotesDialect.messages = (
    SubscribeNote,
    UnsubscribeNote,
    SubscribeWorkspace,
    UnsubscribeWorkspace,
    ApplyPatchMessage,
    PresencePing,
)


def _presence_event(
    told: PresenceList | PresenceChange, user_id: str, connection: PresentConnection | None
) -> bytes:
    """Encode where somebody is; without a connection: nowhere."""
    place = NotePlace() if connection is None else _place_of(connection)
    return encode_said(
        PresenceEvent(
            workspace_id=told.workspace_id,
            note_id=place.note_id,
            user_id=user_id,
            state="left" if connection is None else "active",
            cursor=place.cursor,
            server_ts=told.at,
        )
    )


def _place_of(connection: PresentConnection) -> NotePlace:
    """Return where a connection says that it is; another kind of state says nothing of that."""
    try:
        return _decode_place(connection.state)
    except msgspec.MsgspecError:
        return NotePlace()


def _run_of(payload: object) -> _Run:
    """Return the run that an automation's event is about."""
    try:
        return msgspec.json.decode(encode_said(payload), type=_Run)
    except msgspec.MsgspecError:
        return _Run(UNSET, UNSET)
