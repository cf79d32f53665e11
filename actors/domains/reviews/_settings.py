"""What the operator says of reviews: where files are, what validates them, who iterates on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import DomainError

if TYPE_CHECKING:
    from dalsegno.protocol.providers import ProviderSettings

TIMEOUT_S = 60.0
"""How long a validation may take (CF §4.2)."""
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""What a command is given of the server's environment, unless the operator says otherwise: it may
run what a model has written, and the rest of it has keys and passwords."""


class ReviewSettings(msgspec.Struct, frozen=True, kw_only=True):
    """See `reviews`."""

    root: str | None
    validate: tuple[str, ...]
    """Empty: nothing validates."""
    models: tuple[ProviderSettings, ...]
    """Those to ask, one after the other until one answers; empty: nothing iterates."""
    timeout_s: float
    env: Mapping[str, str] | None

    def argv(self, proposal_id: str, name: str, folder: str) -> list[str]:
        """Return the command that validates a proposal, to which a folder looks like no option."""
        shown = f"./{folder}" if folder.startswith("-") else folder or "."
        said = {"{proposal_id}": proposal_id, "{proposal}": name, "{folder}": shown}
        return [said.get(each, each) for each in self.validate]


def settings_of(
    *,
    root: str | None,
    validate: Sequence[str],
    models: Sequence[ProviderSettings],
    timeout_s: float,
    env: Mapping[str, str] | None,
) -> ReviewSettings:
    """Check and return the settings.

    Raises:
        DomainError: they do not belong together.

    """
    if isinstance(validate, str):
        raise DomainError("reviews: validate= is a list of arguments; no shell is asked")
    if root is None and (validate or models):
        raise DomainError("reviews: files are validated and iterated on below root=")
    if not 0 < timeout_s <= TIMEOUT_S * 5:
        raise DomainError(f"reviews: timeout_s is up to {TIMEOUT_S * 5:g} s")
    return ReviewSettings(
        root=root,
        validate=tuple(validate),
        models=tuple(models),
        timeout_s=timeout_s,
        env=env,
    )
