"""What follows a commit: timers, and runs."""

from ._attempt import Done as Done
from ._run import Run as Run
from ._runs import Runs as Runs, RunStatistics as RunStatistics
from ._timers import Timers as Timers, TimerStatistics as TimerStatistics
