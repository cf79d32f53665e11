"""Behind nginx and Caddy with TLS, as docs/operations.md has them: cookies, sockets, setup."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionRejected, wrap_client_stream

from tests._patience import fail_after, patient
from tests.system._processes import EMAIL, PASSWORD, Processes, Server, free_port

NAME = "board.example"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
COOKIE = "__Host-dalsegno_session"
WHO = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}


def documented(language: str) -> str:
    """The configuration that we tell people to use."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", OPERATIONS.read_text(), re.M | re.S)
    return str(block)


@dataclass
class Place:
    """Where a proxy is, and what it is to be given."""

    folder: Path
    port: int
    upstream: int

    @property
    def certificate(self) -> Path:
        return self.folder / "board.pem"

    @property
    def key(self) -> Path:
        return self.folder / "board.key"

    def filled_in(self, language: str, replaced: dict[str, str]) -> str:
        """The documented configuration, with this place's ports and files."""
        text = documented(language)
        for before, after in {"127.0.0.1:8000": f"127.0.0.1:{self.upstream}", **replaced}.items():
            assert before in text, before
            text = text.replace(before, after)
        return text

    def certify(self) -> None:
        """Make a certificate that only this test trusts."""
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
        command += ["-addext", f"subjectAltName=DNS:{NAME}"]
        command += ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)


def nginx(place: Place) -> list[str]:
    site = place.filled_in(
        "nginx",
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{place.port} ssl;",
            "/etc/ssl/board.pem": str(place.certificate),
            "/etc/ssl/board.key": str(place.key),
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {place.folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""  # the workers' files are in the test's folder
    conf = place.folder / "nginx.conf"
    conf.write_text(
        f"{user} daemon off; worker_processes 1; pid {place.folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{site}}}\n"
    )
    return [_program("nginx"), "-p", str(place.folder), "-e", "stderr", "-c", str(conf)]


def caddy(place: Place) -> list[str]:
    head = f"https://{NAME}:{place.port} {{\n    tls {place.certificate} {place.key}\n"
    site = place.filled_in("caddy", {f"{NAME} {{\n": head})
    conf = place.folder / "Caddyfile"
    conf.write_text(
        "{\n    admin off\n    auto_https disable_redirects\n    default_bind 127.0.0.1\n"
        f"    storage file_system {place.folder}/storage\n}}\n{site}"
    )
    return [_program("caddy"), "run", "--adapter", "caddyfile", "--config", str(conf)]


def _program(name: str) -> str:
    """Find a program; Debian's are not in every user's path."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None or shutil.which("openssl") is None:
        pytest.skip(f"there is no {name}, or no openssl, on this machine")
    return found


@asynccontextmanager
async def running(command: list[str], place: Place) -> AsyncIterator[None]:
    """Run a proxy, from when it accepts connections."""
    log = place.folder / "proxy.log"
    with log.open("wb") as out:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={"HOME": str(place.folder), "PATH": "/usr/bin:/bin"},
        )
    try:
        with fail_after(20):
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", place.port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.02)
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@dataclass
class Browser:
    """A client that knows the site by its public name alone."""

    place: Place
    trust: ssl.SSLContext
    http: httpx.AsyncClient

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.place.port}"

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.ask("POST", path, json=body, headers=headers)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        given = {"host": f"{NAME}:{self.place.port}", "origin": self.origin}
        headers = {**given, **more.pop("headers", {})}
        extensions = {"sni_hostname": NAME}
        return await self.http.request(method, path, headers=headers, extensions=extensions, **more)

    async def socket(self, session: str, origin: str) -> str:
        """Open a socket, and say something on it; the type of what is answered."""
        stream = trio.SSLStream(
            await trio.open_tcp_stream("127.0.0.1", self.place.port),
            self.trust,
            server_hostname=NAME,
            https_compatible=True,
        )
        sent = [(b"cookie", f"{COOKIE}={session}".encode()), (b"origin", origin.encode())]
        async with stream, trio.open_nursery() as nursery:
            ws = await wrap_client_stream(
                nursery, stream, f"{NAME}:{self.place.port}", "/ws", extra_headers=sent
            )
            await ws.send_message('{"type":"ping"}')
            answer = msgspec.json.decode(await ws.get_message())
            await ws.aclose()
        return str(answer["type"])


@asynccontextmanager
async def browsing(place: Place) -> AsyncIterator[Browser]:
    trust = ssl.create_default_context(cafile=str(place.certificate))
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{place.port}",
        verify=trust,
        timeout=patient(20),
        trust_env=False,
    ) as http:
        yield Browser(place, trust, http)


def judged(answer: httpx.Response) -> str:
    """The session's id in a cookie that is what it should be."""
    (header,) = answer.headers.get_list("set-cookie")
    cookie = SimpleCookie(header)
    assert [*cookie] == [COOKIE]
    morsel = cookie[COOKIE]
    assert morsel["secure"] is True
    assert morsel["httponly"] is True
    assert (morsel["samesite"], morsel["path"], morsel["domain"]) == ("Lax", "/", "")
    assert int(morsel["max-age"]) > 0
    return morsel.value


@pytest.mark.processes
@pytest.mark.parametrize("proxy", [nginx, caddy])
async def test_behind_a_proxy_with_tls(
    proxy: Any, processes: Processes, tmp_path: Path, migrated: str
) -> None:
    place = Place(tmp_path, free_port(), free_port())
    _program(proxy.__name__)
    place.certify()
    server = Server(processes, tmp_path / "data", place.upstream, database=migrated)
    public = f"https://{NAME}:{place.port}"
    process = await server.start("--public-url", public, "--proxies", "127.0.0.1")
    async with running(proxy(place), place), browsing(place) as browser:
        assert browser.origin == public
        refused = await browser.post("/api/setup/register", WHO)
        assert (refused.status_code, refused.json()["code"]) == (403, "SETUP_TOKEN_INVALID")
        with fail_after(20):
            while (said := re.search(r"x-setup-token: (\S+)", process.out)) is None:
                await trio.sleep(0.02)
        made = await browser.post("/api/setup/register", WHO, **{"x-setup-token": said[1]})
        assert made.status_code == 201, made.text
        judged(made)
        login = await browser.post("/api/auth/login", {"email": EMAIL, "password": PASSWORD})
        assert login.status_code == 200, login.text
        session = judged(login)
        browser.http.cookies.clear()
        cookie = {"cookie": f"{COOKIE}={session}"}
        assert (await browser.ask("GET", "/api/auth/session", headers=cookie)).status_code == 200
        assert await browser.socket(session, public) == "pong"
        with pytest.raises((ConnectionRejected, BaseExceptionGroup)) as caught:
            await browser.socket(session, "https://evil.example")
        assert status_of(caught.value) == 403
        evil = await browser.post("/api/auth/login", {}, origin="https://evil.example")
        assert (evil.status_code, evil.json()["code"]) == (403, "ORIGIN_FORBIDDEN")
        note = {"workspace_id": made.json()["workspace_id"], "title": "T", "markdown": "x" * 10**6}
        csrf = {"x-csrf-token": login.json()["csrf_token"], **cookie}
        assert (await browser.post("/api/notes", note, **csrf)).status_code == 201
    assert await server.stop() == 0


def status_of(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, ConnectionRejected)
    return int(error.status_code)
