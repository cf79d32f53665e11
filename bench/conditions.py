"""What does a rule's condition cost beside plain JMESPath, and at its bound?

A condition is evaluated once for each event of its trigger and each rule, in the turn of a node's
one thread.  A typical one, over a note with two tags, is compared with `jmespath.search`, which
reads an expression once and keeps it; so is its evaluation alone, without being read.  One that
looks at nearly as much as a condition may is compared with it too; and one that would double a list
twenty times, and comes to its bound, with that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jmespath
import trio

from dalsegno.actors.domains.automation._bounded import EvaluationError, evaluate, parse
from dalsegno.actors.domains.automation._conditions import check_condition, holds

from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._harness import Options

HEADLINE = "typical"

_TYPICAL = "note.length > `10` && !contains(note.tags, 'long')"
_FULL = "note.metadata.words[?contains(@, 'b')]"
"""9,000 visits of the 10,000 that there may be, most of them calls of a function."""
_DOUBLED = "note.tags" + " | [@,@][]" * 20
_WORDS = 1_500

_DOCUMENT: dict[str, Any] = {
    "event": {
        "type": "note_patched",
        "payload": {"patch_ops": [{"retain": 5}, {"insert": "x"}], "length": 11, "version": 3},
        "actor_id": "ada",
        "stream_seq": 3,
    },
    "note": {
        "title": "A note",
        "tags": ["draft", "music"],
        "metadata": {"words": ["abc"] * _WORDS},
        "length": 11,
        "deleted": False,
    },
}


def _timed(seconds: float, one: Callable[[], object]) -> Sample:
    latencies: list[float] = []
    began = now = time.perf_counter()
    while now < began + seconds:
        one()
        last, now = now, time.perf_counter()
        latencies.append(now - last)
    return Sample(count=len(latencies), wall_s=now - began, latencies_s=latencies)


def _past() -> None:
    try:
        holds({"jmespath": _DOUBLED}, _DOCUMENT)
    except EvaluationError:
        return
    raise AssertionError("it has a value")


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("conditions", options)
    typical, full = check_condition({"jmespath": _TYPICAL}), check_condition({"jmespath": _FULL})
    check_condition({"jmespath": _DOUBLED})
    tree = parse(_TYPICAL)
    assert holds(typical, _DOCUMENT)
    assert holds(full, _DOCUMENT)
    every: list[tuple[str, Callable[[], object]]] = [
        ("a typical condition", lambda: holds(typical, _DOCUMENT)),
        ("  its evaluation alone", lambda: evaluate(tree, _DOCUMENT)),
        ("  jmespath.search", lambda: jmespath.search(_TYPICAL, _DOCUMENT)),
        ("one of nine tenths of the bound", lambda: holds(full, _DOCUMENT)),
        ("  jmespath.search", lambda: jmespath.search(_FULL, _DOCUMENT)),
        ("one past the bound", _past),
    ]
    series = [report.add(name, "evaluation") for name, _ in every]
    short, alone, plain, long, plain_long, past = series

    def compare(says: str, subject: Any, reference: Any, ratio_id: str, at_most: float) -> None:  # noqa: ANN401 - series
        report.compare(says, subject, reference, ratio_id=ratio_id, of=p50, at_most=at_most)

    compare("p50 of a typical one / plain", short, plain, "typical", 4.0)
    compare("p50 of its evaluation / plain", alone, plain, "evaluation", 2.5)
    compare("p50 of nine tenths of the bound / plain", long, plain_long, "full", 4.0)
    compare("p50 of one past the bound / of nine tenths", past, long, "past", 1.2)
    with pinned(SUBJECT_CORE):
        for counts in rounds(options):
            for each, (_, one) in zip(series, every, strict=True):
                sample = _timed(options.seconds, one)
                if counts:
                    each.samples.append(sample)
                await trio.lowlevel.checkpoint()
    return report
