"""Everything at once: one table of all ratios, the same as JSON, and a picture."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ._harness import results
from ._layout import table
from ._machine import machine
from ._plot import plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._beside import Beside
    from ._floors import Verdict
    from ._harness import Options

_HEADS = ("ratio", "", "median", "low…high", "to reach", "floor", "")


def summary(verdicts: Sequence[Verdict]) -> str:
    """Lay out all ratios for reading, and say which are below their floors."""
    lines = [f"All ratios, {machine()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", ""]
    lines += table(_HEADS, [verdict.cells() for verdict in verdicts], left=2)
    if failing := [verdict.name for verdict in verdicts if verdict.fails]:
        lines += ["", f"Below their floors: {', '.join(failing)}"]
    return "\n".join(lines)


def save(verdicts: Sequence[Verdict], options: Options, beside: Beside | None) -> None:
    """Keep them as ``summary.json``, and as a picture if there is something to draw with."""
    folder = results(options)
    document: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "ratios": [verdict.as_json() for verdict in verdicts],
    }
    if beside is not None:
        rows = [row.as_json() for row in beside.rows]
        document["beside"] = {"python": beside.version, "ratios": rows}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n")
    plot([verdict for verdict in verdicts if verdict.ratio is not None], folder / "summary.svg")
