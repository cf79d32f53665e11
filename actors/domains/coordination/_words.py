"""The words and bounds of coordination: the enumerations of its source, and how long texts may be.

The source names a field's values in PascalCase, and so do the log and the wire.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from dalsegno.protocol import Reject

StructT = TypeVar("StructT", bound=msgspec.Struct)

TrajectoryStatus: TypeAlias = Literal["Active", "Completed", "Failed", "Suspended"]
OutcomeStatus: TypeAlias = Literal["Success", "Partial", "Failure"]
AgentStatus: TypeAlias = Literal["Idle", "Active", "Blocked", "Failed", "Offline"]
DelegationStatus: TypeAlias = Literal[
    "Pending", "Accepted", "InProgress", "Completed", "Rejected", "Failed"
]
HandoffStatus: TypeAlias = Literal["Initiated", "Accepted", "Rejected", "Completed"]
HandoffReason: TypeAlias = Literal[
    "CapabilityMismatch",
    "LoadBalancing",
    "Specialization",
    "Escalation",
    "Timeout",
    "Failure",
    "Scheduled",
]
LockMode: TypeAlias = Literal["Exclusive", "Shared"]
MessageType: TypeAlias = Literal[
    "TaskDelegation",
    "TaskResult",
    "ContextRequest",
    "ContextShare",
    "CoordinationSignal",
    "Handoff",
    "Interrupt",
    "Heartbeat",
]
MessagePriority: TypeAlias = Literal["Low", "Normal", "High", "Critical"]
TurnRole: TypeAlias = Literal["User", "Assistant", "System", "Tool"]
NoteType: TypeAlias = Literal[
    "Convention",
    "Strategy",
    "Gotcha",
    "Fact",
    "Preference",
    "Relationship",
    "Procedure",
    "Meta",
    "Insight",
    "Correction",
    "Summary",
]
EdgeType: TypeAlias = Literal[
    "Supports",
    "Contradicts",
    "Supersedes",
    "DerivedFrom",
    "RelatesTo",
    "Temporal",
    "Causal",
    "SynthesizedFrom",
    "Grouped",
    "Compared",
]
EntityType: TypeAlias = Literal[
    "Trajectory",
    "Scope",
    "Artifact",
    "Note",
    "Turn",
    "Lock",
    "Message",
    "Agent",
    "Delegation",
    "Handoff",
    "Conflict",
    "Edge",
    "EvolutionSnapshot",
    "SummarizationPolicy",
]

Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
"""The id of an entity, in a field."""
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=500)]
"""A name or a title."""
Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]
"""A kind of something: an agent's type, a resource's, a capability."""
Prose: TypeAlias = Annotated[str, Meta(max_length=10_000)]
"""A description, a purpose, a reason."""
Content: TypeAlias = Annotated[str, Meta(max_length=1_000_000)]
"""What an artifact, a note or a turn says."""
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53 - 1, extra={"code": "INVALID_RANGE"})]
"""A number of tokens, of milliseconds that have passed, of turns."""
Instant: TypeAlias = Annotated[datetime, Meta(tz=True)]
"""A time with its zone."""
Document: TypeAlias = dict[str, Any]
"""JSON of a program's own: kept, shown, and never looked at.  No tenant is read from it."""
Ids: TypeAlias = Annotated[tuple[Id, ...], Meta(max_length=100)]
Labels: TypeAlias = Annotated[tuple[Label, ...], Meta(max_length=100)]


def changed(state: StructT, change: msgspec.Struct) -> StructT:
    """Return a state with the fields that a change gives.

    Raises:
        Reject: ``INVALID_INPUT`` if it gives none.

    """
    given = {
        name: value
        for name in state.__struct_fields__
        if (value := getattr(change, name, msgspec.UNSET)) is not msgspec.UNSET
    }
    if not given:
        raise Reject("INVALID_INPUT", "a change has at least one field", status=400)
    return msgspec.structs.replace(state, **given)


def fields_of(struct: msgspec.Struct, of: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields of a struct that another type has as well."""
    common = (name for name in struct.__struct_fields__ if name in of.__struct_fields__)
    return {name: getattr(struct, name) for name in common}
