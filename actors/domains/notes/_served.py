"""The domains of a server of notes."""

from __future__ import annotations

from typing import Any

from dalsegno.actors.domains.projects import project_names, projects
from dalsegno.actors.domains.saved_views import saved_views
from dalsegno.protocol import Domain

from ._domain import notes

note_domains: tuple[Domain[Any, Any, Any], ...] = (notes, projects, project_names, saved_views)
"""Notes, and what belongs to them: projects and saved views."""
