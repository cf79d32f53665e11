"""What follows a commit: timers."""

from ._timers import Timers as Timers, TimerStatistics as TimerStatistics
