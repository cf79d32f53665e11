"""The librarian's words: what it is asked, what it answers, and what of that may be applied."""

from ._guard import (
    NO_OPERATIONS as NO_OPERATIONS,
    Guarded as Guarded,
    GuardReason as GuardReason,
    GuardReport as GuardReport,
    guard as guard,
)
from ._markup import (
    Element as Element,
    MarkupError as MarkupError,
    element as element,
    escaped as escaped,
    group as group,
    read as read,
    unescaped as unescaped,
)
from ._operations import (
    PARSE_FAILED as PARSE_FAILED,
    PARSER_VERSION as PARSER_VERSION,
    PROTOCOL_INVALID as PROTOCOL_INVALID,
    LibrarianResponse as LibrarianResponse,
    Operation as Operation,
    OperationKind as OperationKind,
    ParseError as ParseError,
    read_response as read_response,
)
from ._plan import StructuringPlan as StructuringPlan
from ._prompts import (
    PACK_VERSION as PACK_VERSION,
    PROTOCOL as PROTOCOL,
    STAGES as STAGES,
    Manifest as Manifest,
    Source as Source,
    instructions as instructions,
    manifest as manifest,
    prompt_hash as prompt_hash,
    repair_text as repair_text,
    request_text as request_text,
)
