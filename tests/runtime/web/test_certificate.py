"""The files of a certificate: read, refused, and read again."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dalsegno.protocol import Reject
from dalsegno.runtime.web import Tls
from tests._certificates import NAME, Certified, certified
from tests._patience import until

SOON_S = 0.01


def under_a_passphrase(key: bytes) -> bytes:
    private = load_pem_private_key(key, None)
    return private.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def of_another_kind() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


GOOD, OTHER, PAST = certified(), certified(1), certified(2, days=-1)
NO_KEY = "holds no private key in PEM that needs no passphrase"
NO_CHAIN = "holds something else than whole certificates in PEM"
BAD: dict[str, tuple[bytes | None, bytes | None, str, str]] = {
    "no certificate": (None, GOOD.key, "tls_cert", "No such file or directory"),
    "no key": (GOOD.cert, None, "tls_key", "No such file or directory"),
    "empty": (b"", GOOD.key, "tls_cert", "holds no certificate in PEM"),
    "garbage": (bytes(range(256)), GOOD.key, "tls_cert", "holds no certificate in PEM"),
    "half": (GOOD.cert[:300], GOOD.key, "tls_cert", "holds no certificate in PEM"),
    "a key": (GOOD.key, GOOD.key, "tls_cert", "holds no certificate in PEM"),
    "half a chain": (GOOD.cert + OTHER.cert[:300], GOOD.key, "tls_cert", NO_CHAIN),
    "another's key": (GOOD.cert, OTHER.key, "tls_key", "is not the key of {cert}"),
    "a key of another kind": (GOOD.cert, of_another_kind(), "tls_key", "is not the key of {cert}"),
    "half a key": (GOOD.cert, GOOD.key[:60], "tls_key", NO_KEY),
    "a certificate for a key": (GOOD.cert, GOOD.cert, "tls_key", NO_KEY),
    "a passphrase": (GOOD.cert, under_a_passphrase(GOOD.key), "tls_key", NO_KEY),
    "too long": (GOOD.cert * 2_000, GOOD.key, "tls_cert", "has more than 1048576 bytes"),
}


def put(folder: Path, cert: bytes | None, key: bytes | None) -> tuple[Path, Path]:
    paths = folder / "board.pem", folder / "board.key"
    for path, data in zip(paths, (cert, key), strict=True):
        if data is None:
            path.unlink(missing_ok=True)
        else:
            written = path.with_suffix(".new")
            written.write_bytes(data)
            written.replace(path)
    return paths


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_used_are_refused_and_it_is_said_which(
    case: str, tmp_path: Path
) -> None:
    cert, key, setting, reason = BAD[case]
    paths = put(tmp_path, cert, key)
    with pytest.raises(Reject) as caught:
        Tls(*paths)
    assert (caught.value.code, caught.value.details) == ("BAD_REQUEST", {"setting": setting})
    at_fault = paths[setting == "tls_key"]
    assert caught.value.message == f"{at_fault}: {reason.format(cert=paths[0])}"


def test_both_may_be_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    path.write_bytes(GOOD.key + GOOD.cert)
    assert served(Tls(path, path)) == GOOD.der


def served(tls: Tls) -> bytes:
    """The certificate that a client gets now."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    client = trust.wrap_bio(to_client, to_server, server_hostname=NAME)
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return der


class Watched:
    """A certificate that is looked at, and what is said about it."""

    def __init__(self, tls: Tls, said: list[Any], folder: Path) -> None:
        self.tls = tls
        self.said = said
        self.folder = folder
        self.looks = 0

    def put(self, certificate: Certified) -> None:
        put(self.folder, certificate.cert, certificate.key)

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.said]

    async def look(self, times: int = 3) -> None:
        """Wait until the files were looked at so often."""
        seen = self.looks
        await until(lambda: self.looks >= seen + times)


@asynccontextmanager
async def watched(
    folder: Path, certificate: Certified = GOOD, *, every_s: float = SOON_S
) -> AsyncIterator[Watched]:
    with structlog.testing.capture_logs() as said:
        watching = Watched(Tls(*put(folder, certificate.cert, certificate.key)), said, folder)
        load = watching.tls._load_changed

        def counted() -> Any:
            watching.looks += 1
            return load()

        watching.tls._load_changed = counted  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watching.tls.run, lambda: datetime.now(UTC), every_s)
            yield watching
            nursery.cancel_scope.cancel()


async def test_a_new_certificate_is_found_without_being_told(tmp_path: Path) -> None:
    async with watched(tmp_path) as watching:
        await watching.look()
        assert served(watching.tls) == GOOD.der
        watching.put(OTHER)
        await until(lambda: watching.tls.statistics().reloads == 1)
        assert served(watching.tls) == OTHER.der
        await watching.look()
        assert watching.events().count("tls_reloaded") == 1
        statistics = watching.tls.statistics()
        assert not statistics.is_stale
        assert abs(statistics.ends_at - datetime.now(UTC) - timedelta(days=2)) < timedelta(hours=1)
        assert (
            repr(watching.tls) == f"<Tls {tmp_path}/board.pem, until {statistics.ends_at:%Y-%m-%d}>"
        )


async def test_a_link_that_is_turned_is_a_change_whatever_the_times_say(tmp_path: Path) -> None:
    """As certbot, and a mounted secret, do it: no file is newer than it was."""
    folders = {}
    for name, certificate in {"one": GOOD, "two": OTHER}.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for path in certificate.write(folders[name]):
            os.utime(path, (1_000_000, 1_000_000))
    live = tmp_path / "live"
    live.symlink_to(folders["one"])
    tls = Tls(live / "board.pem", live / "board.key")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.run, lambda: datetime.now(UTC), SOON_S)
        turned = tmp_path / "turned"
        turned.symlink_to(folders["two"])
        turned.replace(live)
        await until(lambda: tls.statistics().reloads == 1)
        assert served(tls) == OTHER.der
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("case", BAD)
async def test_files_that_cannot_be_used_leave_the_old_ones_served_until_they_can(
    case: str, tmp_path: Path
) -> None:
    async with watched(tmp_path) as watching:
        cert, key, _, _ = BAD[case]
        put(tmp_path, cert, key)
        await until(lambda: watching.tls.statistics().is_stale)
        await watching.look()
        assert served(watching.tls) == GOOD.der
        assert watching.tls.statistics().reloads == 0
        assert "stale" in repr(watching.tls)
        said = [entry for entry in watching.said if entry["event"] == "tls_reload_failed"]
        # Once, and not at each look; but the two files do not change in one step.
        assert 1 <= len(said) <= 2
        assert said[-1]["log_level"] == "error"
        assert str(tmp_path) in said[-1]["reason"]
        watching.put(OTHER)
        await until(lambda: not watching.tls.statistics().is_stale)
        assert served(watching.tls) == OTHER.der


async def test_who_asks_is_answered_at_once_also_that_nothing_has_changed(tmp_path: Path) -> None:
    async with watched(tmp_path, every_s=3600) as watching:

        async def ask(*events: str) -> None:
            watching.said.clear()
            watching.tls.reload()
            await until(lambda: watching.events() == list(events))

        await ask("tls_unchanged")
        put(tmp_path, OTHER.cert, GOOD.key)
        await ask("tls_reload_failed")
        await ask("tls_reload_failed")
        put(tmp_path, GOOD.cert, GOOD.key)
        await ask("tls_unchanged")
        watching.put(OTHER)
        await ask("tls_reloaded")
        assert watching.looks == 5


async def test_one_that_has_expired_takes_the_place_of_none_that_has_not(tmp_path: Path) -> None:
    async with watched(tmp_path) as watching:
        watching.put(PAST)
        await until(lambda: watching.tls.statistics().is_stale)
        assert served(watching.tls) == GOOD.der
        assert "has expired" in watching.said[-1]["reason"]


async def test_one_that_had_expired_at_the_start_is_served_and_said(tmp_path: Path) -> None:
    """A clock may be wrong, and clients decide; what comes next is taken, whatever it is."""
    async with watched(tmp_path, PAST) as watching:
        await until(lambda: "tls_certificate_expired" in watching.events())
        assert served(watching.tls) == PAST.der
        watching.put(certified(3, days=-1))
        await until(lambda: watching.tls.statistics().reloads == 1)


async def test_a_system_without_threads_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_: Callable[..., object]) -> None:
        raise RuntimeError("can't start new thread")

    async with watched(tmp_path) as watching:
        monkeypatch.setattr(trio.to_thread, "run_sync", refused)
        await until(lambda: watching.tls.statistics().is_stale)
        monkeypatch.undo()
        await until(lambda: not watching.tls.statistics().is_stale)
