"""Rules, librarians, reviews and exports under every fault: one run a trigger, no operation twice,
and files that have what the notes were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dalsegno.actors.domains.automation.librarian import (
    LibrarianReport,
    _review,
    librarian_reports,
)
from dalsegno.actors.domains.automation.librarian._effects import Aim, Effect, effect_of
from dalsegno.actors.domains.automation.librarian._reports import OperationCounted
from dalsegno.actors.domains.automation.librarian._review import ReviewBegan
from dalsegno.actors.domains.notes import Note
from dalsegno.actors.node import AsOf
from dalsegno.protocol import SEQ_MAX, Domain

from ._automation import happened, simulated_automation

SEEDS = 24
SOAK = 1_000


def sound(seeds: range) -> Counter[str]:
    """Run schedules, which have to be sound; what happened in them, by type."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        done = simulated_automation(seed)
        assert done.is_sound, f"seed {seed}:\n{done}"
        seen += happened(done)
    return seen


def test_a_few_schedules_of_automation() -> None:
    sound(range(4))


@pytest.mark.long
def test_schedules_of_automation_reach_what_they_are_for() -> None:
    seen = sound(range(4, SEEDS))
    wanted = {
        *("run_started", "run_restarted", "run_released", "run_output", "run_finished"),
        *("report_recorded", "operation_proposed", "operation_applied", "operation_rejected"),
        *("operation_deferred", "operations_decided", "automation_run_reviewed"),
        *("note_tags_updated", "note_title_updated", "rule_created"),
    }
    assert wanted <= seen.keys(), wanted - seen.keys()


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(20))
def test_many_schedules_of_automation(batch: int) -> None:
    size = SOAK // 20
    sound(range(1_000 + batch * size, 1_000 + (batch + 1) * size))


# ---------------------------------------------------------------------------- what it would find


def _whatever_the_version(patch: pytest.MonkeyPatch) -> None:
    """An operation is applied over what somebody has changed meanwhile."""
    original = Aim.target

    def target(self: Aim) -> tuple[str, Note]:
        version = None if self.note is None else self.note.version
        return original(msgspec.structs.replace(self, base_version=version))

    patch.setattr(Aim, "target", target)


def _whatever_the_guard_says(patch: pytest.MonkeyPatch) -> None:
    """What the guard has rejected is applied where people accept it."""
    original = _review._began

    def began(report: LibrarianReport) -> ReviewBegan:
        made = original(report)
        items = {
            name: msgspec.structs.replace(item, is_settled=False)
            for name, item in made.items.items()
        }
        return msgspec.structs.replace(made, items=items)

    patch.setattr(_review, "_began", began)


def _miscounted(patch: pytest.MonkeyPatch) -> None:
    """A report takes no notice of what became of its operations."""
    unmoved = (lambda report, _event: report, False)
    patch.setitem(librarian_reports._evolvers, OperationCounted, unmoved)


def _note_apart(patch: pytest.MonkeyPatch) -> None:
    """An operation counts as applied, and nothing happens to its note."""

    def without_event(aim: Aim) -> Effect:
        return msgspec.structs.replace(effect_of(aim), event=None)

    patch.setattr(f"{_review.__name__}.effect_of", without_event)


def _exports_of_the_present(patch: pytest.MonkeyPatch) -> None:
    """An export has the notes as they are when they are read, each at another moment."""
    original = AsOf._versions

    async def versions(
        self: AsOf, domain: Domain[Any, Any, Any], _event_seq: int, after: str, limit: int
    ) -> list[tuple[str, int]]:
        return await original(self, domain, SEQ_MAX, after, limit)

    patch.setattr(AsOf, "_versions", versions)


@pytest.mark.long
@pytest.mark.parametrize(
    "break_it",
    [
        _exports_of_the_present,
        _whatever_the_version,
        _whatever_the_guard_says,
        _miscounted,
        _note_apart,
    ],
)
def test_broken_automation_is_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert any(bug.startswith("w") for seed in range(40) for bug in simulated_automation(seed).bugs)
