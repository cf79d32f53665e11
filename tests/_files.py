"""What is in a folder in which somebody works: what goes meanwhile is passed over."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """The files below a folder, in the order of their paths; none where there is no folder."""
    found = [Path(at, name) for at, _, names in os.walk(folder) for name in names]
    return sorted(each for each in found if each.is_file())


def staged_below(root: Path) -> list[Path]:
    """The files that wait beside the folders of workspaces; locks are none of them."""
    staging = root / ".staging"
    return [each for each in files_below(staging) if ".locks" not in each.parts]
