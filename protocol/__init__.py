"""What is said: events, messages, cursors, domains.  Pure values; no I/O, no clock, no Trio."""

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
    http_status as http_status,
)
from ._event import (
    CHAIN_START as CHAIN_START,
    SCHEMA_VERSION as SCHEMA_VERSION,
    Event as Event,
    chain as chain,
    chained as chained,
    payload_bytes as payload_bytes,
)
from ._limits import SEQ_MAX as SEQ_MAX, Limits as Limits
from ._position import Cursor as Cursor, chain_text as chain_text, parse_cursor as parse_cursor
