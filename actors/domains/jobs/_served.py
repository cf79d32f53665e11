"""A server of notes that exports and backs up what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors.domains.automation import (
    automation_domains,
    automation_routes,
    automation_workers,
)
from dalsegno.actors.domains.notes import note_dialect, note_domains, note_routes
from dalsegno.protocol import App
from dalsegno.protocol.dialects import project_socket

from ._routes import job_routes as job_routes
from ._worker import backup_worker, export_worker

if TYPE_CHECKING:
    from dalsegno.protocol.runs import Worker

job_workers: tuple[Worker, ...] = (export_worker, backup_worker)
"""Who carries jobs out."""

job_app = App(
    (*note_domains, *automation_domains),
    routes=(*note_routes, *automation_routes, *job_routes),
    dialects=[note_dialect, project_socket],
    workers=(*automation_workers, *job_workers),
)
"""Notes, automation and jobs: what a server serves that was given nothing else."""
