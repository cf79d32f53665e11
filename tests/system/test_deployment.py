"""The commands, the unit and the container file of docs/deployment.md, as far as they run here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from dalsegno.protocol import Limits
from dalsegno.runtime._cli import cli
from dalsegno.runtime._config import read_file
from tests._certificates import certified
from tests._http import PLAIN
from tests._patience import fail_after, patient, until
from tests.system._processes import Command, Processes, free_port
from tests.system._proxies import documented, program

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin"
DRAIN_S = 15
"""What docs/operations.md says that a stop may take."""


def shell(section: str) -> list[list[str]]:
    """The commands of a section's shell blocks."""
    text = "\n".join(documented(section, "sh")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines()]


def settings_of(arguments: list[str]) -> dict[str, object]:
    """What `dalsegno serve` makes of its arguments."""
    with cli.commands["serve"].make_context("serve", list(arguments)) as context:
        return dict(context.params)


async def answers(url: str, path: str = "/readyz") -> bool:
    try:
        async with httpx.AsyncClient(**PLAIN) as http:
            return (await http.get(url + path)).status_code == 200
    except httpx.TransportError:
        return False


async def wait_ready(url: str) -> None:
    with fail_after(30):
        while not await answers(url):
            await trio.sleep(0.05)


# ----------------------------------------------------------------------------- commands of serve


async def test_tls_by_itself_and_clients_that_are_told_whom_to_trust(
    processes: Processes, tmp_path: Path, migrated: str
) -> None:
    ((name, command, *arguments),) = shell("TLS by itself")
    assert (name, command) == ("dalsegno", "serve")
    port = free_port()
    cert, key = certified().write(tmp_path)
    live = "/etc/letsencrypt/live/board.example"
    replaced = {
        "0.0.0.0:8443": f"127.0.0.1:{port}",
        "https://board.example:8443": f"https://board.example:{port}",
        f"{live}/fullchain.pem": str(cert),
        f"{live}/privkey.pem": str(key),
    }
    assert {*replaced} < {*arguments}
    server = await processes.run(
        "serve", "--database", migrated, *(replaced.get(each, each) for each in arguments)
    )
    await until(lambda: f"serves on https://127.0.0.1:{port}" in server.out)
    asked = {"DALSEGNO_URL": f"https://localhost:{port}", "DALSEGNO_API_KEY": "dsk_none"}
    send = ("send", "acme", "create_note", "{}", "--attempts", "1")
    stranger = await processes.run(*send, environment=asked)
    told = await processes.run(*send, environment={**asked, "SSL_CERT_FILE": str(cert)})
    assert (await stranger.ended(), await told.ended()) == (1, 1)
    assert "certificate verify failed" in stranger.err
    assert "TOKEN_INVALID" in told.err
    assert await stopped(server, server.pid) == 0


async def stopped(process: Command, server: int) -> int:
    """End a server; return the status of the process that was started for it."""
    os.kill(server, signal.SIGTERM)
    return await process.ended(DRAIN_S)


def test_the_command_behind_a_proxy_is_one() -> None:
    ((name, command, *arguments),) = shell("Behind a proxy")
    assert (name, command) == ("dalsegno", "serve")
    settings = settings_of(arguments)
    assert settings["bind"] == "127.0.0.1:8000"
    assert settings["public_url"] == "https://board.example"
    assert settings["proxies"] == ("127.0.0.1",)


# ---------------------------------------------------------------------------------------- systemd


def unit(text: str) -> dict[str, str]:
    """The settings of a unit, whatever their sections."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    main, addition = documented("systemd", "systemd")
    there = "/opt/dalsegno/bin/dalsegno"
    assert main.count(there) == 1
    file = tmp_path / "board.service"
    file.write_text(main.replace(there, sys.executable))
    (tmp_path / "board.service.d").mkdir()
    (tmp_path / "board.service.d" / "reload.conf").write_text(addition)

    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [analyze, *arguments, str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(20),
        )

    verified = said("verify")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    # Tenths, of 10: above 2 is what the tool itself calls less than good.
    secure = said("security", "--offline=yes", "--threshold=20", "--no-pager")
    assert secure.returncode == 0, secure.stdout
    file.write_text(main.replace(there, sys.executable).replace("KillMode", "KilMode"))
    assert "KilMode" in said("verify").stderr, "a misspelt setting would have been told"


async def test_the_units_command_serves_with_its_settings_and_ends_in_its_time(
    processes: Processes, tmp_path: Path, migrated: str
) -> None:
    main, _ = documented("systemd", "systemd")
    settings = unit(main)
    assert int(settings["TimeoutStopSec"]) > DRAIN_S > 2 * Limits().drain_deadline_s
    assert int(settings["LimitNOFILE"]) > Limits().connections_max
    assert (settings["KillMode"], settings["StateDirectory"]) == ("mixed", "dalsegno")
    (toml,) = documented("systemd", "toml")
    assert tomllib.loads(toml)["data-dir"] == f"/var/lib/{settings['StateDirectory']}"
    port, file = free_port(), tmp_path / "dalsegno.toml"
    file.write_text(
        toml.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace(
            "/var/lib/dalsegno", str(tmp_path / "data")
        )
    )
    assert read_file(file).public_url == "https://board.example"
    _, *command = shlex.split(settings["ExecStart"])
    assert command[-2:] == ["--config", "/etc/dalsegno.toml"]
    server = await processes.run(
        *command[:-1], str(file), environment={"DALSEGNO_DATABASE": migrated}
    )
    await wait_ready(f"http://127.0.0.1:{port}")
    assert await stopped(server, server.pid) == 0
    assert msgspec.json.decode(server.err.splitlines()[-1])


# ------------------------------------------------------------------------------------ a container


def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file, each with what follows it."""
    (text,) = documented("A container", "dockerfile")
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def only(name: str) -> str:
    (rest,) = (rest for each, rest in instructions() if each == name)
    return rest


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))


def test_each_instruction_of_the_container_file_is_one_that_fits_the_others() -> None:
    named = [name for name, _ in instructions()]
    assert named[0] == "FROM"
    known = {"COPY", "RUN", "USER", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}
    assert {*named[1:]} == known
    (python,) = re.findall(r"^python:3\.(\d+)-slim$", only("FROM"))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert 11 <= int(python) <= 13
    assert declared["requires-python"] == ">=3.11"
    assert only("COPY") == "dist/*.whl /tmp/"  # what `make dist` builds
    assert only("STOPSIGNAL") == "SIGTERM"
    settings = environment()
    known = {str(each.envvar) for each in cli.commands["serve"].params if each.envvar}
    assert {*settings} <= known
    assert settings["DALSEGNO_BIND"] == f"0.0.0.0:{only('EXPOSE')}"
    assert settings["DALSEGNO_DATA_DIR"].startswith(only("VOLUME") + "/")
    made = next(rest for name, rest in instructions() if "useradd" in rest and name == "RUN")
    assert f"--uid {only('USER')} " in made
    assert f"--home-dir {only('VOLUME')} " in made
    command, *_ = msgspec.json.decode(only("CMD"))
    assert command in declared["scripts"]


def test_what_the_container_file_runs_exists() -> None:
    for name, rest in instructions():
        if name != "RUN":
            continue
        for command in rest.split(" && "):
            words = shlex.split(command)
            found = shutil.which(words[0], path=PATH)
            if found is None:
                pytest.skip(f"there is no {words[0]} on this machine")
            verb = ["install"] if words[0] == "pip" else []
            told = subprocess.run(
                [found, *verb, "--help"], capture_output=True, text=True, check=False
            ).stdout
            options = {word for word in words if word.startswith("--")}
            assert not {each for each in options if each not in told}, command


def test_the_containers_are_started_as_they_may_be_stopped() -> None:
    build, run = shell("A container")
    assert build == ["docker", "build", "--tag", "board", "."]
    assert int(run[run.index("--stop-timeout") + 1]) > DRAIN_S
    assert f"board:{only('VOLUME')}" in run
    assert run[run.index("--publish") + 1].endswith(f":{only('EXPOSE')}")
    given = [run[at + 1].partition("=")[0] for at, word in enumerate(run) if word == "--env"]
    variables = {str(each.envvar) for each in cli.commands["serve"].params if each.envvar}
    assert {*given} < variables


async def test_the_containers_command_serves_is_healthy_and_ends_with_its_database(
    processes: Processes, data_dir: Path
) -> None:
    """As the first process of a namespace of its own, with the embedded PostgreSQL."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a namespace of processes")
    through = (program("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc")
    if (await trio.run_process([*through, "true"], check=False, capture_stderr=True)).returncode:
        pytest.skip("root may make no namespace of processes here")
    port, (name, *command) = free_port(), msgspec.json.decode(only("CMD"))
    assert name == "dalsegno"
    given = environment() | {
        "DALSEGNO_BIND": f"0.0.0.0:{port}",
        "DALSEGNO_DATA_DIR": str(data_dir),
        "DALSEGNO_PUBLIC_URL": "https://board.example",
    }
    assert {*given} == {*environment(), "DALSEGNO_PUBLIC_URL"}
    outer = await processes.run(*command, environment=given, through=through)
    url = f"http://127.0.0.1:{port}"
    await wait_ready(url)

    options, _, check = only("HEALTHCHECK").partition(" CMD ")
    assert "--start-period=60s" in options
    python, *arguments = msgspec.json.decode(check)
    assert python == "python"

    async def health(at: int) -> int:
        words = [each.replace("127.0.0.1:8000", f"127.0.0.1:{at}") for each in arguments]
        ended = await trio.run_process(
            [sys.executable, *words], check=False, capture_stderr=True, stdin=b""
        )
        return ended.returncode

    assert await health(port) == 0
    (inner,) = children(outer.pid)
    assert await stopped(outer, inner) == 0
    assert await health(port) != 0
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    assert "Traceback" not in outer.err


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
