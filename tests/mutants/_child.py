"""The process that runs schedules against one copy of the packages: see `_run`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dalsegno import actors, protocol
from dalsegno.actors.testing import SeededChoices
from tests.simulation._run_schedules import simulated_runs
from tests.simulation._schedules import run


class _HangsError(BaseException):
    """A schedule takes longer than any does."""


def _raise(*_: object) -> None:
    raise _HangsError


def _unsound(schedules: str, seed: int) -> str | None:
    """Return what one schedule shows; None where it is sound."""
    # Processor time: a machine that is busy with something else must not look like a bug.
    signal.setitimer(signal.ITIMER_PROF, float(os.environ["DALSEGNO_TEST_SCHEDULE_S"]))
    try:
        done = simulated_runs(seed) if schedules == "runs" else run(SeededChoices(seed), seed)
    except _HangsError:
        return "it hangs"
    except BaseException as error:  # noqa: BLE001 - a schedule of the product as it is raises none
        return f"it raises {error!r}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None if done.is_sound else str(done)


def main(folder: str, schedules: str, seeds: range) -> None:
    """Print ``unsound``, the first such seed and what it showed, or ``sound``."""
    for package in (actors, protocol):
        assert Path(str(package.__file__)).is_relative_to(folder), "the copy is what runs"
    signal.signal(signal.SIGPROF, _raise)
    for seed in seeds:
        shown = _unsound(schedules, seed)
        if shown is not None:
            print("unsound", seed, shown.partition("\n")[0][:200], flush=True)
            os._exit(0)  # what hangs may not end
    print("sound")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], range(int(sys.argv[3]), int(sys.argv[4])))
