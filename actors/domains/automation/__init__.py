"""Automation: rules that do something when something happens to a workspace's notes."""

from ._actions import (
    LIBRARIAN_STRUCTURE as LIBRARIAN_STRUCTURE,
    NOOP as NOOP,
    TAG_NOTE as TAG_NOTE,
)
from ._bounded import (
    DEPTH_MAX as DEPTH_MAX,
    VISITS_MAX as VISITS_MAX,
    EvaluationError as EvaluationError,
)
from ._conditions import (
    EXPRESSION_BYTES_MAX as EXPRESSION_BYTES_MAX,
    check_condition as check_condition,
    document_of as document_of,
    holds as holds,
)
from ._domain import (
    RULE_BYTES_MAX as RULE_BYTES_MAX,
    CreateRule as CreateRule,
    DeleteRule as DeleteRule,
    LaunchRule as LaunchRule,
    Rule as Rule,
    RuleCreated as RuleCreated,
    RuleDeleted as RuleDeleted,
    RuleUpdated as RuleUpdated,
    UpdateRule as UpdateRule,
    automation_rules as automation_rules,
)
from ._librarian import SOURCES_BYTES_MAX as SOURCES_BYTES_MAX, SOURCES_MAX as SOURCES_MAX
from ._reactor import TRIGGERS as TRIGGERS, automation_reactor as automation_reactor
from ._reviewer import review_worker as review_worker
from ._runs import run_id_of as run_id_of
from ._served import (
    automation_app as automation_app,
    automation_domains as automation_domains,
    automation_routes as automation_routes,
    automation_workers as automation_workers,
)
from ._triggers import (
    RULES_PER_TRIGGER_MAX as RULES_PER_TRIGGER_MAX,
    of_note as of_note,
    on_key as on_key,
)
from ._worker import automation_worker as automation_worker
