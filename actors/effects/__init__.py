"""What follows a commit: timers, reactors, runs, and the audit's log."""

from dalsegno.protocol.runs import Done as Done

from ._archiving import ArtifactSweep as ArtifactSweep, dump_of as dump_of
from ._audit import AuditStatistics as AuditStatistics, AuditTrail as AuditTrail
from ._reactions import Reaction as Reaction
from ._reactors import Reactors as Reactors, ReactorStatistics as ReactorStatistics
from ._refusals import DROPPED as DROPPED, REFUSED as REFUSED, Refusals as Refusals
from ._run import Run as Run
from ._runs import Runs as Runs, RunStatistics as RunStatistics
from ._settling import StageSweep as StageSweep
from ._timers import Timers as Timers, TimerStatistics as TimerStatistics
