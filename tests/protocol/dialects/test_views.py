"""How events and answers look on the wire: both dialects."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.notes import note_dialect
from dalsegno.protocol import (
    SEQ_MAX,
    DalsegnoError,
    Domain,
    Event,
    InternalError,
    Reject,
    StaleCursorError,
    Views,
    error_message,
)
from dalsegno.protocol.dialects import GENERIC, Dialect, Ping

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class State(msgspec.Struct, frozen=True):
    pass


class Happened(msgspec.Struct, frozen=True):
    text: str


class Broke(msgspec.Struct, frozen=True):
    pass


things = Domain("thing", state=State, commands=Happened, events=Happened | Broke, id_field="text")


@things.view
def _seen(event: Happened | Broke, thing_id: str, version: int) -> object:
    if isinstance(event, Broke):
        raise ZeroDivisionError
    if event.text == "no json":
        return {object()}
    return {"thing_id": thing_id, "at": version} if event.text == "shown" else None


plain = Domain("plain", state=State, commands=Happened, events=Happened, id_field="text")
VIEWS = Views({"thing": things, "plain": plain})


def event(type_: str = "happened", payload: str = '{"text":"x"}', **fields: Any) -> Event:
    known: dict[str, Any] = {
        "workspace_id": "w",
        "event_seq": 7,
        "stream_id": "thing:a:b",
        "stream_seq": 3,
        "event_id": "e-7",
        "type": type_,
        "type_version": 1,
        "payload": payload,
        "actor_id": "ü",
        "command_id": "c",
        "recorded_at": NOW,
        "chain": 0xABC,
    }
    return Event(**(known | fields))


def shown(
    one: Event, stream_id: str = "workspace:w", *, dialect: Dialect = note_dialect
) -> dict[str, Any]:
    view = VIEWS.of(dialect, is_workspace_stream=stream_id == "workspace:w")
    seen: dict[str, Any] = msgspec.json.decode(view([one])[0])
    return seen


def test_the_seeds_view_of_an_entity() -> None:
    assert shown(event(), "thing:a:b") == {
        "type": "note_event",
        "stream_id": "thing:a:b",
        "thing_id": "a:b",
        "event_seq": 3,
        "version": 3,
        "event_type": "happened",
        "event_id": "e-7",
        "actor_id": "ü",
        "payload": {"text": "x"},
    }


def test_the_seeds_view_of_a_workspace() -> None:
    assert shown(event(payload='{"text":"shown"}')) == {
        "type": "workspace_event",
        "workspace_id": "w",
        "stream_id": "workspace:w",
        "event_seq": 7,
        "event_type": "happened",
        "event_id": "e-7",
        "actor_id": "ü",
        "payload": {"thing_id": "a:b", "at": 3},
    }


def test_the_generic_view_of_an_entity_and_of_a_workspace() -> None:
    one = event(payload='{"text":"shown"}', actor_id=None)
    expected = {
        "type": "event",
        "stream_id": "thing:a:b",
        "seq": 3,
        "event_seq": 7,
        "entity": "thing:a:b",
        "version": 3,
        "event_type": "happened",
        "event_id": "e-7",
        "actor_id": None,
        "recorded_at": "2030-01-02T03:04:05Z",
        "chain": "0000000000000abc",
        "payload": {"text": "shown"},
    }
    assert shown(one, "thing:a:b", dialect=GENERIC) == expected
    assert shown(one, dialect=GENERIC) == expected | {
        "stream_id": "workspace:w",
        "seq": 7,
        "payload": {"thing_id": "a:b", "at": 3},
    }


@pytest.mark.parametrize(
    "one",
    [
        event(),  # the domain shows it as it is
        event(stream_id="plain:p"),  # the domain has no view
        event("future_workspace_event"),  # X-REP-3
        event(stream_id="nobody:knows"),
    ],
)
def test_a_payload_goes_out_byte_for_byte(one: Event) -> None:
    one = msgspec.structs.replace(one, payload='{ "text" : "x",  "n":1.0e5 }')
    for stream_id in ("workspace:w", one.stream_id):
        for dialect in (note_dialect, GENERIC):
            view = VIEWS.of(dialect, is_workspace_stream=stream_id == "workspace:w")
            (text,) = view([one])
            assert text.endswith(b'"payload":{ "text" : "x",  "n":1.0e5 }}')


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
EVENTS = st.builds(
    Event,
    workspace_id=TEXTS,
    event_seq=st.integers(1, SEQ_MAX),
    stream_id=TEXTS.map("plain:{}".format),
    stream_seq=st.integers(1, SEQ_MAX),
    event_id=st.uuids().map(str),
    type=TEXTS.map("a_{}".format) | TEXTS.map("automation_{}".format),
    type_version=st.just(1),
    payload=st.dictionaries(st.sampled_from(["run_id", "status", "x"]), TEXTS | st.integers()).map(
        lambda fields: json.dumps(fields, indent=1)
    ),
    actor_id=st.none() | TEXTS,
    command_id=TEXTS,
    recorded_at=st.datetimes(timezones=st.just(UTC)),
    chain=st.integers(0, 2**64 - 1),
)


@given(EVENTS)
def test_an_event_is_its_fields_in_order_around_its_payload(one: Event) -> None:
    def json_of(**fields: object) -> bytes:
        return msgspec.json.encode(fields)[:-1] + b',"payload":' + one.payload.encode() + b"}"

    stream_id = f"workspace:{one.workspace_id}"
    what = {"event_type": one.type, "event_id": one.event_id, "actor_id": one.actor_id}
    run: dict[str, object] = {}
    if is_run := one.type.startswith("automation_"):
        run = {"run_id": None, "status": None} | msgspec.json.decode(one.payload)
        run.pop("x", None)
    assert VIEWS.of(note_dialect, is_workspace_stream=True)([one])[0] == json_of(
        type="automation_event" if is_run else "workspace_event",
        workspace_id=one.workspace_id,
        stream_id=stream_id,
        event_seq=one.event_seq,
        **run,
        **what,
    )
    for is_workspace_stream in (True, False):
        assert VIEWS.of(GENERIC, is_workspace_stream=is_workspace_stream)([one])[0] == json_of(
            type="event",
            stream_id=stream_id if is_workspace_stream else one.stream_id,
            seq=one.event_seq if is_workspace_stream else one.stream_seq,
            event_seq=one.event_seq,
            entity=one.stream_id,
            version=one.stream_seq,
            **what,
            recorded_at=one.recorded_at,
            chain=f"{one.chain:016x}",
        )


def test_a_run_is_shown_with_its_id_and_status_on_top() -> None:
    run = event(
        "automation_run_succeeded",
        '{"event_code":"LIBRARIAN_RUN_SUCCEEDED","run_id":"r1","status":"succeeded"}',
        stream_id="run:r1",
    )
    seen = shown(run)
    assert (seen["type"], seen["run_id"], seen["status"]) == (
        "automation_event",
        "r1",
        "succeeded",
    )
    assert (seen["event_seq"], seen["payload"]["event_code"]) == (7, "LIBRARIAN_RUN_SUCCEEDED")


def test_a_run_is_shown_as_its_domain_shows_it() -> None:
    run = event("automation_run_ended", "{}", stream_id="run:r1")
    assert shown(run)["status"] is None
    seen = note_dialect.workspace_event(run, {"run_id": "r1", "status": "shown"})
    assert msgspec.json.decode(seen)["status"] == "shown"


def test_a_run_whose_payload_is_no_object_is_shown_all_the_same() -> None:
    seen = shown(event("automation_run_odd", "[]", stream_id="run:r1"))
    assert (seen["type"], seen["payload"]) == ("automation_event", [])
    assert "run_id" not in seen


def test_a_view_that_raises_says_so() -> None:
    broken = event("broke", "{}")
    with pytest.raises(InternalError):
        shown(broken)
    assert shown(broken, "thing:a:b")["event_type"] == "broke"
    with pytest.raises(InternalError, match="happened cannot be shown in the notes dialect"):
        shown(event(payload='{"text":"no json"}'))


def test_a_payload_that_cannot_be_read_is_no_guess() -> None:
    with pytest.raises(DalsegnoError):
        shown(event(payload='{"text":7}'))
    with pytest.raises(DalsegnoError):
        shown(event(type_version=9))


def test_a_view_is_one_object_so_that_it_can_be_shared() -> None:
    views = [
        VIEWS.of(dialect, is_workspace_stream=is_workspace_stream)
        for dialect in (GENERIC, note_dialect, GENERIC, note_dialect)
        for is_workspace_stream in (True, False)
    ]
    assert views[:4] == views[4:]
    assert len(set(views)) == 4


# ----------------------------------------------------------------------------------------- answers


def decoded(text: bytes | None) -> dict[str, Any]:
    assert text is not None
    answer: dict[str, Any] = msgspec.json.decode(text)
    return answer


def test_an_error_is_the_envelope_with_its_details_flat_beside_it() -> None:
    error = StaleCursorError(
        "stale ack cursor", stream_id="s", attempted_seq=6, event_seq=6, current_cursor=7
    )
    details = {"stream_id": "s", "attempted_seq": 6, "event_seq": 6, "current_cursor": 7}
    assert decoded(error_message(error, "r")) == {
        "type": "error",
        "code": "STALE_CURSOR",
        "message": "stale ack cursor",
        "request_id": "r",
        "details": details,
        **details,
    }


def test_an_error_about_nothing_has_null_details() -> None:
    assert decoded(error_message(Reject("BAD_REQUEST", "no"), None)) == {
        "type": "error",
        "code": "BAD_REQUEST",
        "message": "no",
        "request_id": None,
        "details": None,
    }


def test_details_cannot_pretend_to_be_the_envelope() -> None:
    error = Reject("BAD", "no", type="event", code_="x", request_id="other")
    seen = decoded(error_message(error, "r", note_id="n"))
    assert (seen["type"], seen["request_id"], seen["note_id"]) == ("error", "r", "n")
    assert seen["details"]["type"] == "event"


def test_a_message_echoes_a_request_id_only_where_there_was_one() -> None:
    at = {"server_ts": "2030-01-02T03:04:05Z"}
    assert decoded(GENERIC.pong(Ping(), NOW)) == {"type": "pong", **at}
    assert decoded(GENERIC.pong(Ping(request_id="r"), NOW)) == {
        "type": "pong",
        **at,
        "request_id": "r",
    }
    assert decoded(GENERIC.heartbeat(NOW)) == {
        "type": "heartbeat",
        "server_ts": "2030-01-02T03:04:05Z",
    }
