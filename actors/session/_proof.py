"""What a client's token proves, wherever it was checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    Renewing: TypeAlias = Callable[[str], Awaitable["Proof"]]
    """Checks a token; raises a `DalsegnoError` for one that proves nothing, or not now."""


class Proof(NamedTuple):
    """Whom a token proves, and until when."""

    user_id: str
    session_id: bytes
    """Whose end closes the connection; empty where there is none."""
    expires_at: datetime | None
    """UTC; None: never."""

    def expires_in_ms(self, now: datetime) -> int | None:
        """Return how long it is good still, for a client whose clock may be wrong."""
        if self.expires_at is None:
            return None
        return max(int((self.expires_at - now).total_seconds() * 1000), 0)
