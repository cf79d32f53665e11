"""Access that ends amid a load, here and on another node: nothing is written behind its bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from dalsegno.actors.session import Connections
from dalsegno.protocol import StoreUnavailableError
from dalsegno.runtime._revocation import Revocation
from dalsegno.runtime.store import MemoryAccounts
from tests.simulation._revocation import KINDS, run

BATCH = 40
SOAK = 1_000


def run_sound(seeds: Sequence[int]) -> Counter[str]:
    happened = Counter[str]()
    for seed in seeds:
        done = run(seed)
        assert not done.violations, f"seed {seed}: {done.violations}"
        happened += done.happened
    return happened


@pytest.mark.long
def test_nothing_is_written_to_whose_access_has_ended() -> None:
    happened = run_sound(range(BATCH))
    for kind in KINDS:
        assert any(name.startswith(kind) for name in happened), f"none of {kind}"
    assert min(happened[name] for name in ("ended", "away", "nothing", "slowly")) > 2


@pytest.mark.soak
def test_soak() -> None:
    run_sound(range(SOAK))


# Deliberately wrong, to see that these schedules would show it


async def _nothing_here(self: Revocation, session_hash: bytes) -> None:
    del self, session_hash


async def _no_accounts(self: Revocation) -> None:
    del self


async def _forgetful(self: MemoryAccounts, within_s: float) -> list[bytes]:
    del self, within_s
    return []


def _holds_nobody(self: Connections[object]) -> None:  # type: ignore[type-var]
    del self


async def _asks_about_nobody(self: MemoryAccounts, id_hashes: Sequence[bytes]) -> list[bytes]:
    del self, id_hashes
    raise StoreUnavailableError("away")


@pytest.mark.long
@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Revocation, "end_session", _nothing_here),
        (Revocation, "_look_at_system", _no_accounts),
        (MemoryAccounts, "find_revoked", _forgetful),
        (Connections, "hold", _holds_nobody),
    ],
    ids=["not here", "not in the log of accounts", "not elsewhere", "not held"],
)
def test_what_is_broken_is_found(
    owner: type, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert any(run(seed).violations for seed in range(60))


@pytest.mark.long
def test_who_cannot_be_asked_about_stays_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """… and is left behind, which shows that they were held."""
    monkeypatch.setattr(MemoryAccounts, "find_ended", _asks_about_nobody)
    found = [each for seed in range(20) for each in run(seed).violations]
    assert found
    assert all("behind" in each for each in found)
