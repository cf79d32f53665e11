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
    PARSER_VERSION as PARSER_VERSION,
    LibrarianResponse as LibrarianResponse,
    Operation as Operation,
    OperationKind as OperationKind,
    ParseError as ParseError,
    ProtocolError as ProtocolError,
    read_response as read_response,
)
from ._plan import PlanError as PlanError, StructuringPlan as StructuringPlan
from ._prompts import (
    PACK_VERSION as PACK_VERSION,
    PROTOCOL as PROTOCOL,
    STAGES as STAGES,
    Manifest as Manifest,
    Source as Source,
    instructions as instructions,
    manifest as manifest,
    prompt_hash as prompt_hash,
    repair_instructions as repair_instructions,
    repair_text as repair_text,
    request_text as request_text,
)
from ._reports import (
    LibrarianOperation as LibrarianOperation,
    LibrarianReport as LibrarianReport,
    ParseDiagnostic as ParseDiagnostic,
    ProposedOperation as ProposedOperation,
    RecordReport as RecordReport,
    key_of_run as key_of_run,
    librarian_operations as librarian_operations,
    librarian_reports as librarian_reports,
    operation_entity as operation_entity,
)
from ._review import (
    REVIEWER as REVIEWER,
    REVIEWERS as REVIEWERS,
    ApplyOperation as ApplyOperation,
    Decision as Decision,
    FinishReview as FinishReview,
    LibrarianReview as LibrarianReview,
    ReviewRun as ReviewRun,
    librarian_reviews as librarian_reviews,
)
