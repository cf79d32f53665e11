"""Tables for reading: columns as wide as they need to be, and no empty column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lay out rows under their heads.

    Args:
        heads: what the columns are called.
        rows: their cells; a column whose cells are all empty is left out.
        left: how many columns are aligned to the left; the others are to the right.

    """
    columns = [
        (place < left, [head, *cells])
        for place, (head, cells) in enumerate(
            zip(heads, zip(*rows, strict=True) if rows else [()] * len(heads), strict=True)
        )
        if any(cells)
    ]
    widths = [max(map(len, cells)) for _, cells in columns]
    lines = []
    for row in range(len(rows) + 1):
        cells = [
            cells[row].ljust(width) if is_left else cells[row].rjust(width)
            for width, (is_left, cells) in zip(widths, columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def number(value: float, digits: int) -> str:
    """Format a number; empty if there is none."""
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def percent(value: float) -> str:
    """Format a share; empty if there is none."""
    return "" if math.isnan(value) else f"{value:.0%}"


def span(values: Sequence[float], digits: int) -> str:
    """Write the lowest and the highest of some numbers."""
    return f"{number(min(values), digits)}…{number(max(values), digits)}"


def bound(value: float, *, at_most: bool) -> str:
    """Format the target; empty if there is none."""
    return "" if math.isnan(value) else f"{'≤' if at_most else '≥'} {value:g}"


def or_none(value: float) -> float | None:
    """Return JSON's null for NaN."""
    return None if math.isnan(value) else value
