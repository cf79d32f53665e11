"""A server of notes that does things by itself: notes, and the rules about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.actors.domains.notes import note_dialect, note_domains, note_routes
from dalsegno.protocol import App, Domain, Reactor
from dalsegno.protocol.runs import Worker

from ._domain import automation_rules
from ._reactor import automation_reactor
from ._review_routes import review_routes
from ._reviewer import review_worker
from ._rule_routes import rule_routes
from ._run_routes import run_routes
from ._triggers import triggers
from ._worker import automation_worker
from .librarian import librarian_operations, librarian_reports, librarian_reviews

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

automation_domains: tuple[Domain[Any, Any, Any], ...] = (
    automation_rules,
    triggers,
    librarian_reports,
    librarian_operations,
    librarian_reviews,
)
"""Rules, and what a librarian proposes; beside notes, which they are about."""

automation_routes: tuple[Route, ...] = (*rule_routes, *run_routes, *review_routes)
"""What is served of rules and their runs over HTTP, besides what every domain has."""

automation_workers: tuple[Worker | Reactor, ...] = (
    automation_reactor,
    automation_worker,
    review_worker,
)
"""What asks for their runs, and who carries these out."""

automation_app = App(
    (*note_domains, *automation_domains),
    routes=(*note_routes, *automation_routes),
    dialects=[note_dialect],
    workers=automation_workers,
)
"""Notes and automation: what a server serves that was given nothing else."""
