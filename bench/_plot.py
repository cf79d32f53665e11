"""The ratios in a picture: median and spread, the target, and the floor."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ._floors import Verdict

_ROW_INCHES = 0.26
_COLOURS = {"reached": "#2a7f3f", "falls short": "#c77800", "BELOW ITS FLOOR": "#b00020"}
_PLAIN = "#30507a"


def plot(verdicts: Sequence[Verdict], path: Path) -> None:
    """Draw ratios that were measured; do nothing where matplotlib is not installed."""
    if not verdicts or find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure  # it takes a second, and may be missing

    figure = Figure(figsize=(11, 1.2 + _ROW_INCHES * len(verdicts)), layout="constrained")
    axes = figure.add_subplot()
    for row, verdict in enumerate(verdicts):
        ratio = verdict.ratio
        assert ratio is not None
        low, middle, high = min(ratio.ratios), ratio.median, max(ratio.ratios)
        colour = _COLOURS.get(verdict.word, _PLAIN)
        axes.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.5)
        axes.plot([middle], [row], "o", color=colour, markersize=5)
        if not math.isnan(ratio.reach):
            axes.plot([ratio.reach], [row], "|", color="black", markersize=11)
        if verdict.floor is not None:
            axes.plot([verdict.floor.value], [row], "|", color=_COLOURS["BELOW ITS FLOOR"])
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.5)
    axes.set_yticks(range(len(verdicts)), [verdict.name for verdict in verdicts], fontsize=8)
    axes.invert_yaxis()
    axes.set_ylim(len(verdicts) - 0.5, -0.5)
    axes.set_xlabel(
        "ratio to the reference: median, lowest to highest; black: to reach; red: floor"
    )
    axes.grid(axis="x", linewidth=0.3)
    figure.savefig(path)
