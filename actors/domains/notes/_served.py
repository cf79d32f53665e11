"""A server of notes: its domains, its routes, and what its sockets speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.actors.domains.projects import project_names, projects
from dalsegno.actors.domains.saved_views import saved_views
from dalsegno.protocol import App, Domain

from ._dialect import note_dialect
from ._domain import notes
from ._label_routes import label_routes
from ._list_routes import list_routes
from ._project_routes import project_routes
from ._routes import routes
from ._view_routes import view_routes

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

note_domains: tuple[Domain[Any, Any, Any], ...] = (notes, projects, project_names, saved_views)
"""Notes, and what belongs to them: projects and saved views."""

note_routes: tuple[Route, ...] = (
    *routes,
    *label_routes,
    *list_routes,
    *project_routes,
    *view_routes,
)
"""What is served of them over HTTP, besides what every domain has."""

note_app = App(note_domains, routes=note_routes, dialects=[note_dialect])
"""All of it: what a server serves that was given nothing else."""
