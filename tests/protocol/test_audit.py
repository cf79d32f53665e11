"""Filters, tables and messages of what is on record, as pure values."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import AUDIT_WORKSPACE, CHAIN_START, Event, Limits, Principal, Reject, Views
from dalsegno.protocol.audit import (
    AUDIT,
    CSV_HEAD,
    FILTER_FIELDS,
    AuditEvent,
    FollowAudit,
    RecordFilter,
    SetFilter,
    audit_event_of,
    audit_socket,
    csv_row,
    filter_of,
    json_row,
    trail,
)
from dalsegno.protocol.dialects import Language, Opening

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(**more: Any) -> AuditEvent:
    fields: dict[str, Any] = {
        "id": "w/1-0",
        "timestamp": AT,
        "user_id": "u",
        "action": "DONE",
        "resource_type": "note",
        "resource_id": "n",
        "new_value": '{"a":1}',
    }
    return AuditEvent(**(fields | more))


def event(seq: int, of: AuditEvent) -> Event:
    type_, type_version, payload = trail.encode(of)
    return Event(
        workspace_id=AUDIT_WORKSPACE,
        event_seq=seq,
        stream_id=trail.stream_id("main"),
        stream_seq=seq,
        event_id=f"00000000-0000-7000-8000-{seq:012x}",
        type=type_,
        type_version=type_version,
        payload=payload,
        actor_id=None,
        command_id="c",
        recorded_at=AT,
        chain=CHAIN_START + seq,
    )


# ----------------------------------------------------------------------------------------- filters

TEXTS = st.sampled_from(["u", "v", "%", "_", "*", "u%", "'", '"', "\\"])
RECORDS = st.builds(
    record,
    user_id=TEXTS | st.none(),
    action=TEXTS,
    resource_type=TEXTS,
    resource_id=TEXTS,
    timestamp=st.integers(0, 3).map(lambda s: AT + timedelta(seconds=s)),
)
ASKED = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("user_id", "action", "resource_type", "resource_id"), TEXTS),
        **dict.fromkeys(
            ("since", "until"), st.integers(0, 3).map(lambda s: f"2030-01-02T03:04:0{5 + s}Z")
        ),
    },
)


@given(RECORDS, ASKED)
def test_what_passes_is_all_that_was_asked_for(found: AuditEvent, asked: dict[str, str]) -> None:
    fits = {
        "since": lambda text: found.timestamp >= datetime.fromisoformat(text),
        "until": lambda text: found.timestamp < datetime.fromisoformat(text),
    }
    wanted = all(
        fits[name](text) if name in fits else getattr(found, name) == text
        for name, text in asked.items()
    )
    assert filter_of(asked).passes(found) is wanted
    live = SetFilter(**msgspec.structs.asdict(filter_of(asked))).passes
    assert (live is None or live(event(1, found))) is wanted


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "2030-01-01T00:00:00"}, "until"),
        ({"action": ""}, "action"),
        ({"user_id": "a\x00"}, "user_id"),
        ({"resource_id": "x" * 257}, "resource_id"),
        ({"resource_type": "\ud800"}, "resource_type"),
    ],
)
def test_what_no_record_can_be_is_refused(asked: dict[str, str], named: str) -> None:
    with pytest.raises(Reject) as refused:
        filter_of(asked)
    assert (refused.value.code, refused.value.status) in {
        ("BAD_REQUEST", 400),
        ("BAD_REQUEST", None),
    }
    assert named in refused.value.message


def test_times_of_any_zone_are_compared() -> None:
    for since in ("2030-01-02T05:04:05+02:00", "0001-01-01T00:00:00+23:59"):
        assert filter_of({"since": since}).passes(record())
    assert not filter_of({"until": "2030-01-02T03:04:05Z"}).passes(record())
    assert not filter_of({"since": "9999-12-31T23:59:59-23:59"}).passes(record())
    assert RecordFilter().of_events() is None
    assert set(FILTER_FIELDS) == {
        *("user_id", "action", "resource_type", "resource_id", "since", "until"),
    }


# ------------------------------------------------------------------------------------------ tables


def rows_of(*lines: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((CSV_HEAD + b"".join(lines)).decode(), newline="")))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=cmd|" /C calc"!A0']
)
def test_a_cell_is_no_formula(text: str) -> None:
    (row,) = rows_of(csv_row(7, record(resource_id=text, user_id=text, new_value=None)))
    assert (row["resource_id"], row["user_id"]) == (f"'{text}", f"'{text}")
    assert (row["seq"], row["new_value"], row["timestamp"]) == (
        "7",
        "",
        "2030-01-02T03:04:05.000000+00:00",
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.none() | st.text("é\"',"))
def test_whatever_text_is_one_row(text: str, value: str | None) -> None:
    kept = None if value is None else msgspec.json.encode(value).decode()
    (row,) = rows_of(csv_row(1, record(resource_id=text, old_value=kept)))
    assert row["resource_id"].removeprefix("'") in {text, text.removeprefix("'")}
    assert row["old_value"] == (kept or "")
    as_json = msgspec.json.decode(json_row(1, record(resource_id=text, old_value=kept)))
    assert (as_json["resource_id"], as_json["old_value"]) == (text, value)
    assert (as_json["seq"], as_json["new_value"]) == (1, {"a": 1})


# --------------------------------------------------------------------------------------- messages


def test_what_is_left_out_is_told_in_ranges() -> None:
    asked = FollowAudit(filter=RecordFilter(resource_id="n"))
    view = Views({}).of(AUDIT, is_workspace_stream=True, passes=asked.passes)
    others = [event(seq, record(resource_id="m")) for seq in (1, 2)]
    texts = view([*others, event(3, record()), event(4, record(resource_id="m"))])
    said = [msgspec.json.decode(text) for text in texts]
    assert [each["type"] for each in said] == ["hidden", "audit_event", "hidden"]
    assert [(each["from"], each["to"]) for each in said if "from" in each] == [(1, 2), (4, 4)]
    assert (said[1]["seq"], said[1]["new_value"], said[1]["old_value"]) == (3, {"a": 1}, None)
    later = msgspec.structs.replace(event(5, record()), type="of_a_later_release")
    (hidden,) = Views({}).of(AUDIT, is_workspace_stream=True)([later])
    assert msgspec.json.decode(hidden)["type"] == "hidden"
    assert audit_event_of(later) is None


def test_a_message_says_a_filter_and_nothing_else() -> None:
    language = Language(AUDIT)

    def decode(**message: object) -> object:
        return language.decode(msgspec.json.encode(message).decode(), Limits())

    asked = decode(type="filter", action="X", request_id="r")
    assert isinstance(asked, SetFilter)
    assert (asked.action, asked.request_id, asked.since) == ("X", "r", None)
    for wrong in (
        {"type": "filter", "acton": "X"},
        {"type": "follow_audit"},
        {"type": "subscribe", "stream_id": "workspace:w"},
        {"type": "command", "workspace_id": "w", "name": "x", "payload": {}},
    ):
        with pytest.raises(Reject):
            decode(**wrong)


def test_a_query_is_where_a_connection_begins() -> None:
    def begin(**query: str) -> FollowAudit:
        opening = Opening(principal=Principal("u"), path={}, query=query)
        (asked,) = audit_socket.begin(opening).follows
        assert isinstance(asked, FollowAudit)
        return asked

    assert begin(cursor="7-00c0ffee00c0ffee", tab="t").cursor == "7-00c0ffee00c0ffee"
    assert begin(action="X").filter == RecordFilter(action="X")
    assert begin().passes is None
    for wrong in ({"cursor": "x"}, {"since": "x"}, {"action": ""}):
        with pytest.raises(Reject):
            begin(**wrong)
