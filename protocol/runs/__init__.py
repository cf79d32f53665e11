"""Runs: what is carried out for a workspace, outside its order, and ends exactly once."""

from dalsegno.protocol._worker import (
    OnDisconnect as OnDisconnect,
    Retry as Retry,
    Worker as Worker,
    worker as worker,
)

from ._commands import (
    CancelRun as CancelRun,
    ExpireRun as ExpireRun,
    FinishRun as FinishRun,
    FinishStep as FinishStep,
    HoldAttempt as HoldAttempt,
    ReleaseRun as ReleaseRun,
    RequestRun as RequestRun,
    SaveRun as SaveRun,
    StartAttempt as StartAttempt,
    TriggerRun as TriggerRun,
)
from ._domain import (
    STEPS_MAX as STEPS_MAX,
    Cancelled as Cancelled,
    RunState as RunState,
    runs as runs,
)
from ._vocabulary import (
    Outcome as Outcome,
    RunCancelRequested as RunCancelRequested,
    RunFinished as RunFinished,
    RunProblem as RunProblem,
    RunReleased as RunReleased,
    RunRequested as RunRequested,
    RunRestarted as RunRestarted,
    RunSaved as RunSaved,
    RunStarted as RunStarted,
    StepFinished as StepFinished,
    StepReceipt as StepReceipt,
    Trigger as Trigger,
)
