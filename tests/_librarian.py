"""A model that proposes what its script says, and the notes dialect's words for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from dalsegno.actors.domains.automation.librarian import element, group
from tests._provider import Asked, Reply, Wire, says

Said: TypeAlias = dict[str, Any]

_REQUEST_ID = re.compile(r"<request_id>([^<]*)</request_id>")


def operation(operation_id: str, kind: str, **said: Any) -> Said:
    """An operation, as a model writes it."""
    return {
        "operation_id": operation_id,
        "kind": kind,
        "target_path": "notes/new" if "target_note_id" not in said else "",
        "reason": "it is better so",
        "confidence": "0.9",
        **said,
    }


def response(request_id: str, *operations: Said, status: str = "ok") -> str:
    """What a model answers."""
    written = [
        group("operation", [element(name, str(text)) for name, text in each.items() if text])
        for each in operations
    ]
    return group(
        "librarian_response",
        [
            element("request_id", request_id),
            element("status", status),
            element("summary", "as asked"),
            group("operations", written),
            group("warnings", []),
        ],
    )


def request_id_of(asked: Asked) -> str:
    """The id of the request that a model is asked."""
    text = "\n".join(message["content"] for message in asked.body["messages"])
    found = _REQUEST_ID.search(text.partition("<librarian_request>")[2])
    assert found is not None, text
    return found[1]


def answers(write: Callable[[str], str]) -> Reply:
    """Stream what is written for a request's id, in pieces."""

    async def reply(wire: Wire) -> None:
        text = write(request_id_of(wire.asked))
        pieces = [text[start : start + 50] for start in range(0, len(text), 50)]
        await says(*pieces)(wire)

    return reply


def proposes(*operations: Said, status: str = "ok") -> Reply:
    """Propose these operations."""
    return answers(lambda request_id: response(request_id, *operations, status=status))


def babbles(text: str = "Sure! Here is what I would do:") -> Reply:
    """Answer with what cannot be read."""
    return says(text)


def structuring(url: str, **more: Any) -> Said:
    """The action of a rule that asks a librarian at an address."""
    plan = {"goal": "tidy up", "strict_mode": False, "max_operations": 16, **more.pop("plan", {})}
    provider = {
        "provider_kind": "lmstudio",
        "model": "small",
        "base_url": url,
        "timeout_ms": 20_000,
        "retry_limit": 0,
        **more.pop("provider", {}),
    }
    return {
        "kind": "librarian_structure",
        "provider": provider,
        "protocol": "xml_attrless",
        "plan": plan,
        **more,
    }
