"""Records as lines: of a table, or of JSON."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol._event import instant

if TYPE_CHECKING:
    from ._trail import AuditEvent

_COLUMNS = (
    "seq", "id", "timestamp", "user_id", "action", "resource_type", "resource_id", "old_value",
    "new_value", "ip_address", "request_id", "workspace_id",
)  # fmt: skip

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection)."""

CSV_HEAD = (",".join(_COLUMNS) + "\r\n").encode()
"""The first line of a table (RFC 4180)."""


def csv_row(seq: int, record: AuditEvent) -> bytes:
    """Return a line of a table; a cell that would be a formula begins with an apostrophe."""
    line = io.StringIO()
    row = [_cell(seq, record, name) for name in _COLUMNS]
    csv.writer(line, quoting=csv.QUOTE_ALL).writerow(row)
    return line.getvalue().encode()


def json_row(seq: int, record: AuditEvent) -> bytes:
    """Return a JSON object, with the values as they are."""
    fields = {"seq": seq, **msgspec.structs.asdict(record)}
    for name in ("old_value", "new_value"):
        if fields[name] is not None:
            fields[name] = msgspec.Raw(fields[name].encode())
    return msgspec.json.encode(fields)


def _cell(seq: int, record: AuditEvent, name: str) -> str:
    if name == "seq":
        return str(seq)
    if name == "timestamp":
        return instant(record.timestamp)
    text: str = getattr(record, name) or ""
    return f"'{text}" if text.startswith(_FORMULAS) else text
