"""What is said: events, messages, cursors, domains.  Pure values; no I/O, no clock, no Trio."""

from ._close import Close as Close
from ._domain import (
    SYSTEM as SYSTEM,
    WRITERS as WRITERS,
    Context as Context,
    Decider as Decider,
    Domain as Domain,
    DomainError as DomainError,
    Index as Index,
    On as On,
    Past as Past,
    Principal as Principal,
    Touched as Touched,
)
from ._door import (
    SYSTEM_WORKSPACE as SYSTEM_WORKSPACE,
    check_id as check_id,
    check_key as check_key,
    check_nesting as check_nesting,
    check_nul as check_nul,
    check_workspace_id as check_workspace_id,
    encode_checked as encode_checked,
    refusal as refusal,
)
from ._errors import (
    CorruptLogError as CorruptLogError,
    DalsegnoError as DalsegnoError,
    FencedError as FencedError,
    InternalError as InternalError,
    OutcomeUnknownError as OutcomeUnknownError,
    OverloadedError as OverloadedError,
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
)
from ._event import (
    CHAIN_START as CHAIN_START,
    SCHEMA_VERSION as SCHEMA_VERSION,
    Event as Event,
    chain as chain,
    chained as chained,
    instant as instant,
)
from ._frames import Frames as Frames, text_frame as text_frame
from ._limits import SEQ_MAX as SEQ_MAX, Limits as Limits
from ._messages import (
    Ack as Ack,
    AnyMessage as AnyMessage,
    ApplyPatch as ApplyPatch,
    ClientMessage as ClientMessage,
    CommandMessage as CommandMessage,
    Ping as Ping,
    Subscribe as Subscribe,
    SubscribeNote as SubscribeNote,
    SubscribeWorkspace as SubscribeWorkspace,
    Unsubscribe as Unsubscribe,
    UnsubscribeNote as UnsubscribeNote,
    UnsubscribeWorkspace as UnsubscribeWorkspace,
    decode_message as decode_message,
    decode_payload as decode_payload,
    request_id_of as request_id_of,
)
from ._patch import (
    PATCH_OPS_MAX as PATCH_OPS_MAX,
    PatchOp as PatchOp,
    PatchOps as PatchOps,
    apply_patch as apply_patch,
    patched_length as patched_length,
)
from ._position import Cursor as Cursor, chain_text as chain_text, parse_cursor as parse_cursor
from ._subscription import (
    Published as Published,
    Subscription as Subscription,
    View as View,
    number as number,
    workspace_stream as workspace_stream,
)
from ._views import (
    Views as Views,
    error_message as error_message,
    heartbeat as heartbeat,
    message as message,
)
