"""Proxies of other people's, started with the configurations that docs/deployment.md has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests._certificates import NAME, certified
from tests._patience import fail_after

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


def documented(section: str, language: str) -> list[str]:
    """The blocks of a language that a section of the document has."""
    text = DEPLOYMENT.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    assert blocks, (section, language)
    return blocks


def program(name: str) -> str:
    """Find a program; Debian's are not in every user's path."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return found


@dataclass
class Place:
    """Where a proxy is, and what it is in front of."""

    folder: Path
    port: int
    upstream: int

    @property
    def certificate(self) -> Path:
        """A file with what only this test trusts, and its key."""
        both = self.folder / "board.pem"
        both.write_bytes(certified().cert + certified().key)
        return both

    def filled_in(self, text: str, replaced: dict[str, str]) -> str:
        """A documented configuration with this place's ports and files, and times that are short.

        Nothing else of it is changed: 2 minutes are a second here.
        """
        mine = {"127.0.0.1:8000": f"127.0.0.1:{self.upstream}", **replaced}
        for before, after in mine.items():
            assert before in text, before
            text = text.replace(before, after)
        return re.sub(r"\b2m;?$", lambda found: found[0].replace("2m", "1s"), text, flags=re.M)


def nginx_conf(place: Place, sites: str) -> list[str]:
    """The command that runs nginx with some sites, and everything else in the test's folder."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {place.folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""  # the workers' files are in the test's folder
    conf = place.folder / "nginx.conf"
    conf.write_text(
        f"{user} daemon off; worker_processes 1; pid {place.folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{sites}}}\n"
    )
    return [program("nginx"), "-p", str(place.folder), "-e", "stderr", "-c", str(conf)]


def _nginx(place: Place, which: int) -> list[str]:
    mine = {
        "listen 443 ssl;": f"listen 127.0.0.1:{place.port} ssl;",
        "/etc/ssl/board.pem": str(place.certificate),
        "/etc/ssl/board.key": str(place.certificate),
        "client_max_body_size 2m;": "client_max_body_size 2M;",  # no time
    }
    return nginx_conf(place, place.filled_in(documented("nginx", "nginx")[which], mine))


def nginx(place: Place) -> list[str]:
    return _nginx(place, 0)


def nginx_without_keepalive(place: Place) -> list[str]:
    return _nginx(place, 1)


def caddy(place: Place) -> list[str]:
    (block,) = documented("Caddy", "caddy")
    pem = place.certificate
    site = place.filled_in(
        block, {f"{NAME} {{\n": f"https://{NAME}:{place.port} {{\n    tls {pem} {pem}\n"}
    )
    conf = place.folder / "Caddyfile"
    conf.write_text(
        "{\n    admin off\n    auto_https disable_redirects\n    default_bind 127.0.0.1\n"
        f"    storage file_system {place.folder}/storage\n}}\n{site}"
    )
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(conf)]


def haproxy(place: Place) -> list[str]:
    (block,) = documented("HAProxy", "haproxy")
    conf = place.folder / "haproxy.cfg"
    mine = {
        "bind :443 ": f"bind 127.0.0.1:{place.port} ",
        "/etc/ssl/board-with-key.pem": str(place.certificate),
    }
    conf.write_text("global\n    log stderr local0\n" + place.filled_in(block, mine))
    return [program("haproxy"), "-db", "-f", str(conf)]


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
