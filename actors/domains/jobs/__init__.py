"""Jobs: exports and backups, as runs that write a file."""

from ._backup import Began as Began, Ended as Ended, write_backup as write_backup
from ._backup_check import BackupCheck as BackupCheck
from ._backup_format import (
    BEGIN as BEGIN,
    END as END,
    BackupDamagedError as BackupDamagedError,
    Portion as Portion,
    PortionReader as PortionReader,
    PortionWriter as PortionWriter,
)
from ._markdown import (
    FORMAT as FORMAT,
    MANIFEST as MANIFEST,
    Exported as Exported,
    Out as Out,
    write_markdown as write_markdown,
)
from ._paths import path_of as path_of
from ._progress import Progress as Progress, Progressed as Progressed
from ._served import job_app as job_app, job_routes as job_routes, job_workers as job_workers
from ._worker import (
    BACKUP as BACKUP,
    BACKUP_SQL as BACKUP_SQL,
    BACKUP_SUFFIX as BACKUP_SUFFIX,
    EXPORT as EXPORT,
    EXPORT_MARKDOWN as EXPORT_MARKDOWN,
    EXPORT_SUFFIX as EXPORT_SUFFIX,
    backup_worker as backup_worker,
    export_worker as export_worker,
)
from ._zip import Zip as Zip
