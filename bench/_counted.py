"""``dalsegno`` with counts of its event loop: ``python -m bench._counted serve …``.

On SIGUSR1 it writes a line of JSON to standard output: the `Counts` since the last such line.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from dalsegno.runtime._cli import main as run_cli

from ._counts import Counting

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def main() -> None:
    """Run the command line, and count in every event loop."""
    counts = Counting()

    def tell(_number: int, _frame: FrameType | None) -> None:
        # Not print(): the signal may have interrupted one.
        os.write(sys.stdout.fileno(), msgspec.json.encode(counts.take()) + b"\n")

    run: Callable[..., Any] = trio.run
    setattr(trio, "run", functools.partial(run, instruments=[counts]))  # noqa: B010 - it is typed
    gc.callbacks.append(counts.collect)
    signal.signal(signal.SIGUSR1, tell)
    run_cli()


if __name__ == "__main__":
    main()
