"""Reviews: proposals to change a project's files, commented on, validated, iterated on, merged.

Decided here, served by routes and a dialect that are values; see docs/reviews.md.  A project is a
workspace.  What it is made of is the public API of domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dalsegno.protocol import App, Domain, Reactor, Role
from dalsegno.protocol.runs import Worker

from ._comment_routes import comment_routes as comment_routes
from ._comments import proposal_comments as proposal_comments
from ._dialect import (
    REVIEWS as REVIEWS,
    job_socket as job_socket,
    review_socket as review_socket,
)
from ._iteration import iterator
from ._job_routes import job_routes as job_routes
from ._jobs import clear_away
from ._locks import HELD_S as HELD_S, project_locks as project_locks
from ._names import proposal_names as proposal_names
from ._proposals import proposals as proposals
from ._routes import proposal_routes as proposal_routes
from ._settings import ENVIRONMENT as ENVIRONMENT, TIMEOUT_S, settings_of
from ._validation import validator
from ._words import (
    COMMENT_STEPS as COMMENT_STEPS,
    PROPOSAL_STEPS as PROPOSAL_STEPS,
)

if TYPE_CHECKING:
    from dalsegno.protocol.dialects import Socket
    from dalsegno.protocol.providers import ProviderSettings
    from dalsegno.protocol.routes import Route

review_domains: tuple[Domain[Any, Any, Any], ...] = (
    proposals,
    proposal_names,
    proposal_comments,
    project_locks,
)
"""What reviews are about, and the bookkeeping between them."""

review_routes: tuple[Route, ...] = (*proposal_routes, *comment_routes, *job_routes)
review_sockets: tuple[Socket, ...] = (review_socket, job_socket)

review_roles: Mapping[str, Role] = {"reviewer": Role(), "author": Role()}
"""The roles beside those that there always are: owners and admins may everything, viewers look on.
"""


def review_workers(
    *,
    root: str | None = None,
    validate: Sequence[str] = (),
    models: Sequence[ProviderSettings] = (),
    timeout_s: float = TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> tuple[Worker | Reactor, ...]:
    """Return who validates and iterates, as the operator has it; see `reviews`.

    Raises:
        DomainError: the settings do not belong together.

    """
    settings = settings_of(
        root=root, validate=validate, models=models, timeout_s=timeout_s, env=env
    )
    workers: list[Worker | Reactor] = [clear_away]
    if settings.validate:
        workers.append(validator(settings))
    if settings.models:
        workers.append(iterator(settings))
    return tuple(workers)


def reviews(
    *,
    root: str | None = None,
    validate: Sequence[str] = (),
    models: Sequence[ProviderSettings] = (),
    timeout_s: float = TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> App:
    """Return the app: ``dalsegno serve --app reviews.py``, whose ``app = reviews(root=…)``.

    Args:
        root: the folder that has each project's files in a folder named after its workspace's id.
        validate: the command that validates a proposal, run in its project's folder without a
            shell; it passes by exiting with 0.  An argument ``{proposal}``, ``{proposal_id}`` or
            ``{folder}`` is the proposal's name, id or folder.  Empty: nothing is validated.
        models: which models iterate, each asked where those before it have failed.  Empty: none.
        timeout_s: how long a validation may take, in seconds, up to 300.
        env: the command's environment, all of it; None: `ENVIRONMENT` of the server's, which has
            none of its secrets.

    Raises:
        DomainError: the settings do not belong together.

    """
    workers = review_workers(
        root=root, validate=validate, models=models, timeout_s=timeout_s, env=env
    )
    return App(
        review_domains,
        routes=review_routes,
        dialects=review_sockets,
        roles=review_roles,
        workers=workers,
    )
