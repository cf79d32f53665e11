"""The process that runs schedules against one copy of the packages: see `_run.tried`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dalsegno import actors, protocol
from dalsegno.actors.testing import SeededChoices
from tests.simulation._schedules import run


class _HangsError(BaseException):
    """A schedule takes longer than any does."""


def _raise(*_: object) -> None:
    raise _HangsError


def _unsound(seed: int) -> str | None:
    """Return what one schedule shows; None where it is sound."""
    # Processor time: a machine that is busy with something else must not look like a bug.
    signal.setitimer(signal.ITIMER_PROF, float(os.environ["DALSEGNO_TEST_SCHEDULE_S"]))
    try:
        done = run(SeededChoices(seed), seed)
    except _HangsError:
        return "it hangs"
    except BaseException as error:  # noqa: BLE001 - a schedule of the product as it is raises none
        return f"it raises {error!r}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None if done.is_sound else str(done)


def main(folder: str, schedules: int) -> None:
    """Print ``killed``, the seed and what it showed, or ``survived``."""
    for package in (actors, protocol):
        assert Path(str(package.__file__)).is_relative_to(folder), "the copy is what runs"
    signal.signal(signal.SIGPROF, _raise)
    for seed in range(schedules):
        shown = _unsound(seed)
        if shown is not None:
            print("killed", seed, shown.partition("\n")[0][:200], flush=True)
            os._exit(0)  # what hangs may not end
    print("survived")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
