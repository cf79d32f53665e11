"""Envelopes and worlds for tests of sessions' events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from dalsegno.actors import World
from dalsegno.runtime.files import EventEnvelope, RuntimeSource, SessionSource
from dalsegno.runtime.seams import WORLD

S = "0190f5fe-7b1e-7000-8000-000000000001"
BEGAN = datetime(2026, 2, 13, 12, tzinfo=UTC)


def a_world() -> World:
    """Ids and times in a row."""
    ids, ticks = count(1), count()
    return replace(
        WORLD,
        now=lambda: BEGAN + timedelta(milliseconds=next(ticks)),
        new_id=lambda: f"event-{next(ids)}",
    )


def envelope(number: int, payload: Any = None, **more: Any) -> EventEnvelope:
    fields: dict[str, Any] = {
        "event_id": f"e{number}",
        "source": SessionSource(S),
        "timestamp_ms": 1_700_000_000_000 + number,
        "payload": {"n": number} if payload is None else payload,
        **more,
    }
    return EventEnvelope(**fields)


FROM_RUNTIME = envelope(7, seq=42, source=RuntimeSource("rt-7"), mob_id="mob-abc")


def log_of(root: Path, session_id: str = S) -> Path:
    return root / f"{session_id}.jsonl"


def owner_of(root: Path, session_id: str = S) -> Path:
    return root / ".sequence" / f"{session_id}.seq"


def head_of(root: Path, session_id: str = S) -> Path:
    return root / ".sequence" / f"{session_id}.head"


def compacted_of(root: Path, session_id: str = S) -> Path:
    return root / ".sequence" / f"{session_id}.compacted"
