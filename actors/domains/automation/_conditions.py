"""Conditions of rules: which of the events of its trigger a rule is for.

``{}`` is every one.  ``{"jmespath": "…"}`` is an expression over the event, and the note as it was
right after the event, never as it is when somebody looks::

    {"event": {"type", "payload", "actor_id", "stream_seq"},
     "note": {"title", "tags", "metadata", "length", "deleted"}}

A note is one entity, tags and metadata included, so its state at the event is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ._bounded import InvalidExpressionError, evaluate, is_true, parse
from ._refusals import invalid

if TYPE_CHECKING:
    from dalsegno.actors.domains.notes import Note
    from dalsegno.protocol import Event

EXPRESSION_BYTES_MAX = 1024
"""Of an expression, as UTF-8."""

_KEY = "jmespath"


def check_condition(condition: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Check and return a condition.

    Raises:
        Reject: ``RULE_INVALID``.

    """
    if not isinstance(condition, dict):
        raise invalid("condition_json", "it is an object")
    if unknown := sorted(condition.keys() - {_KEY}):
        raise invalid("condition_json", f"no such key: {unknown[0][:64]}")
    if _KEY not in condition:
        return {}
    text = condition[_KEY]
    if not isinstance(text, str):
        raise invalid("condition_json", f"{_KEY} is a text")
    if len(text.encode()) > EXPRESSION_BYTES_MAX:
        raise invalid("condition_json", f"an expression has at most {EXPRESSION_BYTES_MAX} bytes")
    try:
        parse(text)
    except InvalidExpressionError as error:
        raise invalid("condition_json", f"no expression: {error}") from error
    return {_KEY: text}


def document_of(record: Event, event: msgspec.Struct, note: Note) -> dict[str, Any]:
    """Return what conditions are evaluated over: JSON, as Python has it."""
    said = {
        "event": {
            "type": record.type,
            "payload": event,
            "actor_id": record.actor_id,
            "stream_seq": record.stream_seq,
        },
        "note": {
            "title": note.title,
            "tags": note.tags,
            "metadata": note.metadata,
            "length": len(note.markdown),
            "deleted": note.deleted_at is not None,
        },
    }
    # By way of JSON: a condition sees lists and texts, whatever a domain keeps.
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(said))
    return document


def is_always(condition: dict[str, Any]) -> bool:
    """Return whether a condition holds whatever it is evaluated over."""
    return _KEY not in condition


def holds(condition: dict[str, Any], document: dict[str, Any]) -> bool:
    """Return whether a condition that was checked is true of a document.

    Raises:
        EvaluationError: it is neither true nor false.

    """
    return is_always(condition) or is_true(evaluate(parse(condition[_KEY]), document))
