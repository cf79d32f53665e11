"""Reviews under every fault: one job has the lock, each comes to something once, and the files are
what iterations have committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from dalsegno.actors.domains.reviews import _jobs, _locks, proposals
from dalsegno.actors.domains.reviews._proposals import ProposalIterated

from ._reviews import happened, simulated_reviews

SEEDS = 18
SOAK = 1_000


def sound(seeds: range) -> Counter[str]:
    """Run schedules, which have to be sound; what happened in them, by type."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        done = simulated_reviews(seed)
        assert done.is_sound, f"seed {seed}:\n{done}"
        seen += happened(done)
    return seen


def test_a_few_schedules_of_reviews() -> None:
    sound(range(4))


@pytest.mark.long
def test_schedules_of_reviews_reach_what_they_are_for() -> None:
    seen = sound(range(4, SEEDS))
    wanted = {
        *("run_started", "run_restarted", "run_output", "run_finished", "run_cancel_requested"),
        *("project_locked", "project_lock_used", "project_unlocked"),
        *("proposal_created", "proposal_advanced", "proposal_validated", "proposal_iterated"),
        *("proposal_job_ended", "comment_added", "comment_selected", "comment_settled"),
    }
    assert wanted <= seen.keys(), wanted - seen.keys()


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(20))
def test_many_schedules_of_reviews(batch: int) -> None:
    size = SOAK // 20
    sound(range(1_000 + batch * size, 1_000 + (batch + 1) * size))


# ---------------------------------------------------------------------------- what it would find


def _as_if_nobody_had_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_locks, "counts", lambda *_: None)


def _keeping_the_lock(patch: pytest.MonkeyPatch) -> None:
    """What a job has come to is committed, and the lock is given back by its timer."""
    patch.setattr(_jobs, "return_lock", lambda *_: [])


def _comments_stay_open(patch: pytest.MonkeyPatch) -> None:
    """A proposal takes no notice of what becomes of its comments."""
    unmoved = (lambda proposal, _event: proposal, False)
    patch.setitem(proposals._evolvers, ProposalIterated, unmoved)


@pytest.mark.long
@pytest.mark.parametrize(
    "break_it", [_as_if_nobody_had_the_lock, _keeping_the_lock, _comments_stay_open]
)
def test_broken_reviews_are_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert any(
        bug.startswith("w")
        for seed in range(60)
        for bug in simulated_reviews(seed, faults=["crash"]).bugs
    )
