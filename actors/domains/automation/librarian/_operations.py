"""What a librarian proposes: operations of six kinds, read from a model's answer."""

from __future__ import annotations

import math
import re
from typing import Literal, TypeAlias, get_args

import msgspec

from dalsegno.protocol import Reject

from ._markup import Element, MarkupError, read

OperationKind: TypeAlias = Literal[
    "create_note", "rewrite_note", "retitle_note", "relink_note", "retag_note", "defer"
]
"""The six kinds (KJ §1.5.5); there is no seventh."""
ResponseStatus: TypeAlias = Literal["ok", "needs_clarification", "rejected"]

PARSER_VERSION = "1"
ROOT = "librarian_response"

_KINDS = frozenset(get_args(OperationKind))
_STATUSES = frozenset(get_args(ResponseStatus))
_PARTS = ("request_id", "status", "summary", "operations", "warnings")
_TEXTS = ("request_id", "status", "summary")
_OPERATION_PARTS = ("operation_id", "kind", "reason", "confidence")
_OPTIONAL_PARTS = ("target_note_id", "target_path", "title", "body_markdown")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?", re.ASCII
)
"""As long as a double is written, 0.0037714107005901234 say, and no longer."""
_ERRORS_MAX = 100
"""Diagnostics of one answer that are kept: a repair prompt has all of them."""
_TOLD = 3
"""… and those that its message has."""
OPERATIONS_MAX = 200
"""Operations of an answer; one that has more is read no further.  A plan allows 128."""
OPERATION_ID_CHARS_MAX = 64
"""Of what a model calls an operation: printable characters."""
_SHOWN_CHARS = 64
"""Of what a model wrote, in a diagnostic."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One change that is proposed."""

    operation_id: str
    kind: OperationKind
    target_note_id: str | None = None
    target_path: str | None = None
    title: str = ""
    body_markdown: str = ""
    reason: str
    confidence: float
    """0 to 1."""


class LibrarianResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A model's answer."""

    request_id: str
    status: ResponseStatus
    summary: str
    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


class ParseError(Reject):
    """A model's answer that cannot be read, and why: what a repair prompt tells the model."""

    code = "LIBRARIAN_PARSE_FAILED"

    def __init__(self, errors: list[str]) -> None:
        super().__init__(type(self).code, "; ".join(errors[:_TOLD]))
        self.errors = errors[:_ERRORS_MAX]


class ProtocolError(ParseError):
    """One whose tags are wrong, or wrongly nested."""

    code = "LIBRARIAN_PROTOCOL_INVALID"


def read_response(
    text: str, *, strict: bool = False, request_id: str | None = None
) -> LibrarianResponse:
    """Return a model's answer.

    Args:
        text: what the model wrote, all of it.
        strict: whether an element that nobody knows is an error, and not passed over.
        request_id: of the request that it has to answer; None: of any.

    Raises:
        ParseError: it is not written as it has to be, with every diagnostic of it.

    """
    try:
        root = read(text)
    except MarkupError as error:
        raise ProtocolError(["MALFORMED_NESTING_OR_TAG"]) from error
    if root.name != ROOT:
        raise ParseError(["MISSING_ROOT_LIBRARIAN_RESPONSE"])
    reading = _Reading(strict=strict, request_id=request_id)
    response = reading.response(root)
    if reading.errors or response is None:
        raise ParseError(reading.errors)
    return response


class _Reading:
    """Reads one answer, and collects what is wrong with it."""

    def __init__(self, *, strict: bool, request_id: str | None) -> None:
        self.errors: list[str] = []
        self._strict = strict
        self._request_id = request_id
        self._ids: set[str] = set()

    def response(self, root: Element) -> LibrarianResponse | None:
        found = {name: self._one(root, name, name) for name in _PARTS}
        self._check_known(root, _PARTS, "")
        for name in _TEXTS:
            part = found[name]
            if part is not None and not part.text:
                self.errors.append(f"EMPTY_TAG:{name}")
            self._check_known(part, (), f"{name}.")
        asked, said = self._request_id, found["request_id"]
        if asked is not None and said is not None and said.text not in ("", asked):
            self.errors.append(f"INVALID_REQUEST_ID:{said.text[:_SHOWN_CHARS]}")
        status = found["status"]
        if status is not None and status.text and status.text not in _STATUSES:
            self.errors.append(f"INVALID_STATUS:{status.text[:_SHOWN_CHARS]}")
        operations, warnings = found["operations"], found["warnings"]
        listed = [] if operations is None else operations.all("operation")
        if len(listed) > OPERATIONS_MAX:
            self.errors.append(f"TOO_MANY_OPERATIONS:{len(listed)}")
            return None
        read = [self._operation(each, number) for number, each in enumerate(listed)]
        self._check_known(operations, ("operation",), "operations.")
        self._check_known(warnings, ("warning",), "warnings.")
        warned = [] if warnings is None else warnings.all("warning")
        for each in warned:
            self._check_known(each, (), "warnings.warning.")
        if self.errors:
            return None
        texts = {name: "" if (part := found[name]) is None else part.text for name in _TEXTS}
        return msgspec.convert(
            {
                **texts,
                "operations": tuple(read),
                "warnings": tuple(each.text for each in warned),
            },
            LibrarianResponse,
        )

    def _operation(self, element: Element, number: int) -> Operation | None:
        errors, where = len(self.errors), f"operation[{number}]"
        parts = {
            name: self._one(element, name, f"{where}.{name}", is_needed=name in _OPERATION_PARTS)
            for name in (*_OPERATION_PARTS, *_OPTIONAL_PARTS)
        }
        self._check_known(element, (*_OPERATION_PARTS, *_OPTIONAL_PARTS), f"{where}.")
        texts = {name: "" if part is None else part.text for name, part in parts.items()}
        for name, part in parts.items():
            self._check_known(part, (), f"{where}.{name}.")
        for name in _OPERATION_PARTS:
            if parts[name] is not None and not texts[name]:
                self.errors.append(f"EMPTY_TAG:{where}.{name}")
        self._check_id(texts["operation_id"], where)
        kind = texts["kind"]
        if kind and kind not in _KINDS:
            self.errors.append(f"{where}:INVALID_KIND:{kind[:_SHOWN_CHARS]}")
        if not texts["target_note_id"] and not texts["target_path"]:
            self.errors.append(f"{where}:MISSING_TARGET")
        confidence = self._confidence(texts["confidence"], where)
        if len(self.errors) > errors:
            return None
        return msgspec.convert(
            {
                **texts,
                "confidence": confidence,
                "target_note_id": texts["target_note_id"] or None,
                "target_path": texts["target_path"] or None,
            },
            Operation,
        )

    def _check_id(self, operation_id: str, where: str) -> None:
        """Append an error if the id cannot be used by people, or stands twice in the answer."""
        if len(operation_id) > OPERATION_ID_CHARS_MAX or not operation_id.isprintable():
            self.errors.append(f"{where}:INVALID_ID")
        elif operation_id and operation_id in self._ids:
            self.errors.append(f"{where}:DUPLICATE_ID:{operation_id}")
        self._ids.add(operation_id)

    def _confidence(self, text: str, where: str) -> float:
        if not text:
            return 0.0  # which is said already
        if _NUMBER.fullmatch(text) is None or math.isinf(confidence := float(text)):
            self.errors.append(f"{where}:INVALID_CONFIDENCE_FORMAT")
            return 0.0
        if not 0 <= confidence <= 1:
            self.errors.append(f"{where}:INVALID_CONFIDENCE_RANGE:{text[:_SHOWN_CHARS]}")
        return confidence

    def _one(
        self, element: Element, name: str, said: str, *, is_needed: bool = True
    ) -> Element | None:
        """Return the one element of a name; say so where there is none, or more."""
        found = element.all(name)
        if not found and is_needed:
            self.errors.append(f"MISSING_TAG:{said}")
        if len(found) > 1:
            self.errors.append(f"MULTIPLE_TAGS:{said}")
        return found[0] if len(found) == 1 else None

    def _check_known(self, element: Element | None, names: tuple[str, ...], where: str) -> None:
        """Where it is strict, say which elements in one are none of these; a text has none."""
        if self._strict and element is not None:
            there = dict.fromkeys(each.name for each in element.elements)
            unknown = [name[:_SHOWN_CHARS] for name in there if name not in names]
            self.errors += [f"UNKNOWN_TAG:{where}{name}" for name in unknown]
