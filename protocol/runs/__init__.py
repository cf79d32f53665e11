"""Runs: what is carried out for a workspace, outside its order, and ends exactly once."""

from dalsegno.protocol._worker import (
    ROLLUP_S as ROLLUP_S,
    OnDisconnect as OnDisconnect,
    Retry as Retry,
    Worker as Worker,
    worker as worker,
)

from ._archiving import (
    ArchivingWork as ArchivingWork,
    Dump as Dump,
    DumpPage as DumpPage,
    EntityAt as EntityAt,
    PageAt as PageAt,
    ReadsAt as ReadsAt,
)
from ._artifacts import (
    ARTIFACT as ARTIFACT,
    Artifact as Artifact,
    ArtifactWriter as ArtifactWriter,
    artifact_of as artifact_of,
)
from ._commands import (
    PARTS_MAX as PARTS_MAX,
    CancelRun as CancelRun,
    ExpireRun as ExpireRun,
    FinishRun as FinishRun,
    FinishStep as FinishStep,
    HoldAttempt as HoldAttempt,
    OutputPart as OutputPart,
    ReleaseRun as ReleaseRun,
    RequestRun as RequestRun,
    SaveRun as SaveRun,
    StartAttempt as StartAttempt,
    TriggerRun as TriggerRun,
    WriteOutput as WriteOutput,
)
from ._domain import (
    AUTOMATION as AUTOMATION,
    OUTPUT_BYTES_MAX as OUTPUT_BYTES_MAX,
    OUTPUT_EVENT_BYTES as OUTPUT_EVENT_BYTES,
    STEPS_MAX as STEPS_MAX,
    Cancelled as Cancelled,
    RunState as RunState,
    asked_for as asked_for,
    cancelled_by as cancelled_by,
    runs as runs,
    too_long as too_long,
)
from ._processes import (
    Ended as Ended,
    EndedBy as EndedBy,
    Line as Line,
    LineChannel as LineChannel,
    ProcessNotStartedError as ProcessNotStartedError,
    RunningProcess as RunningProcess,
)
from ._staging import (
    STAGED as STAGED,
    STAGED_BYTES_MAX as STAGED_BYTES_MAX,
    STAGED_FILE_BYTES_MAX as STAGED_FILE_BYTES_MAX,
    STAGED_FILES_MAX as STAGED_FILES_MAX,
    STAGING as STAGING,
    TRIED_BYTES_MAX as TRIED_BYTES_MAX,
    TRIED_FILES_MAX as TRIED_FILES_MAX,
    Staged as Staged,
    StagedFile as StagedFile,
    StageWriter as StageWriter,
    check_path as check_path,
    path_forbidden as path_forbidden,
    staged_in as staged_in,
    staged_of as staged_of,
)
from ._transcript import Transcript as Transcript
from ._vocabulary import (
    Outcome as Outcome,
    RunCancelRequested as RunCancelRequested,
    RunFinished as RunFinished,
    RunOutput as RunOutput,
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
from ._work import (
    AsProgram as AsProgram,
    Done as Done,
    ReactionTo as ReactionTo,
    Work as Work,
    WorkspaceReads as WorkspaceReads,
)
