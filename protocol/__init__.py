"""Events, messages, cursors and domains as pure values: no I/O, no clock, no Trio."""

from ._access import GATE_ID as GATE_ID
from ._agenda import Agenda as Agenda
from ._app import App as App
from ._close import (
    CONNECTION_LIMIT as CONNECTION_LIMIT,
    SUPERSEDED as SUPERSEDED,
    Close as Close,
)
from ._deciding import (
    BUILT_IN_ROLES as BUILT_IN_ROLES,
    SYSTEM as SYSTEM,
    WRITERS as WRITERS,
    Context as Context,
    Past as Past,
    Principal as Principal,
    Role as Role,
)
from ._domain import Decider as Decider, Domain as Domain, On as On, Touched as Touched
from ._errors import (
    PATH_FORBIDDEN as PATH_FORBIDDEN,
    ArtifactElsewhereError as ArtifactElsewhereError,
    ArtifactError as ArtifactError,
    ArtifactGoneError as ArtifactGoneError,
    CodeTooOldError as CodeTooOldError,
    CorruptLogError as CorruptLogError,
    DalsegnoError as DalsegnoError,
    DomainError as DomainError,
    DrainingError as DrainingError,
    FencedError as FencedError,
    FolderError as FolderError,
    InternalError as InternalError,
    NotReadyError as NotReadyError,
    OutcomeUnknownError as OutcomeUnknownError,
    OverloadedError as OverloadedError,
    RateLimitedError as RateLimitedError,
    Reject as Reject,
    RuntimeClosedError as RuntimeClosedError,
    SchemaVersionError as SchemaVersionError,
    SequenceOverflowError as SequenceOverflowError,
    StaleCursorError as StaleCursorError,
    StoreUnavailableError as StoreUnavailableError,
    UnavailableError as UnavailableError,
    WorkspaceHaltedError as WorkspaceHaltedError,
    WorkspaceMovedError as WorkspaceMovedError,
    http_status as http_status,
    membership_ended as membership_ended,
    not_a_member as not_a_member,
    not_found as not_found,
    renamed as renamed,
)
from ._event import (
    CHAIN_START as CHAIN_START,
    SCHEMA_VERSION as SCHEMA_VERSION,
    Event as Event,
    chained as chained,
    instant as instant,
)
from ._frames import Frames as Frames
from ._hooks import (
    Authenticator as Authenticator,
    Authorize as Authorize,
    AuthRequest as AuthRequest,
    Caller as Caller,
)
from ._indexing import Audit as Audit, Due as Due, Index as Index
from ._limits import (
    MIB as MIB,
    SEQ_MAX as SEQ_MAX,
    UNBOUNDED_AT_ZERO as UNBOUNDED_AT_ZERO,
    Limits as Limits,
)
from ._listing import (
    BEGINNING as BEGINNING,
    Listed as Listed,
    Place as Place,
    Snapshot as Snapshot,
    place_of as place_of,
    token_of as token_of,
)
from ._machine import IllegalStepError as IllegalStepError, Machine as Machine
from ._patch import (
    PATCH_OPS_MAX as PATCH_OPS_MAX,
    PatchOp as PatchOp,
    PatchOps as PatchOps,
    apply_patch as apply_patch,
    inserted_bytes as inserted_bytes,
    patched_length as patched_length,
)
from ._position import Cursor as Cursor, chain_text as chain_text, parse_cursor as parse_cursor
from ._presence import (
    PresenceChange as PresenceChange,
    PresenceList as PresenceList,
    PresenceView as PresenceView,
    PresentConnection as PresentConnection,
    PresentUser as PresentUser,
)
from ._rate import (
    Buckets as Buckets,
    Rate as Rate,
    RateBudget as RateBudget,
    Spent as Spent,
)
from ._reacting import (
    Reactor as Reactor,
    RunFor as RunFor,
    Since as Since,
    run_id_for as run_id_for,
)
from ._receipt import (
    Receipt as Receipt,
    repeated_receipt as repeated_receipt,
    repeated_receipts as repeated_receipts,
    store_receipt as store_receipt,
    store_receipts as store_receipts,
)
from ._retry import Backoff as Backoff, FailureWindow as FailureWindow
from ._roster import NO_STATE as NO_STATE, Roster as Roster, Seat as Seat
from ._scanning import (
    SLICE_BYTES as SLICE_BYTES,
    check_nesting as check_nesting,
    check_nul as check_nul,
    finished as finished,
    scan as scan,
)
from ._schema import schema_of as schema_of
from ._spoken import (
    Channel as Channel,
    Frame as Frame,
    FrameView as FrameView,
    TailFrame as TailFrame,
)
from ._subscription import (
    Publication as Publication,
    Subscription as Subscription,
    View as View,
    encode as encode,
    seq_of as seq_of,
    workspace_stream as workspace_stream,
)
from ._unknown import KnownFields as KnownFields
from ._validation import (
    AUDIT_WORKSPACE as AUDIT_WORKSPACE,
    RESERVED_WORKSPACES as RESERVED_WORKSPACES,
    SYSTEM_WORKSPACE as SYSTEM_WORKSPACE,
    PayloadDecoder as PayloadDecoder,
    check_id as check_id,
    check_key as check_key,
    check_workspace_id as check_workspace_id,
    encode_checked as encode_checked,
    read_back as read_back,
    reason_of as reason_of,
    refusal as refusal,
)
from .dialects import (
    Ack as Ack,
    Authenticate as Authenticate,
    ClientMessage as ClientMessage,
    CommandMessage as CommandMessage,
    Ping as Ping,
    Subscribe as Subscribe,
    Unsubscribe as Unsubscribe,
    Views as Views,
    error_message as error_message,
)
