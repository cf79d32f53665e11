"""Wrong input and its error messages; settings and where they come from."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import structlog
import trio

from dalsegno.actors.domains.notes import CreateNote, SetTitle, notes
from dalsegno.protocol import Limits, StoreUnavailableError
from dalsegno.protocol.providers import DEFAULT_ORIGINS, DEFAULT_URLS
from dalsegno.runtime import Runtime, RuntimeFailedError
from dalsegno.runtime._cli import _fail, cli, run
from dalsegno.runtime._config import (
    ConfigError,
    check_public_url,
    parse_bind,
    parse_origins,
    read_file,
    read_limits,
)
from dalsegno.runtime._logs import configure_logs
from dalsegno.runtime._process import _describe_data
from dalsegno.runtime._server import ServeConfig
from dalsegno.runtime.store import connect
from dalsegno.runtime.web import SessionCookie
from tests._certificates import certified

LOGIN = ["--email", "a@example.org", "--password", "a password"]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "CONFIG BIND DATA_DIR DATABASE DRIVER NODE_ID ADVERTISE ACTOR URL EMAIL PASSWORD"
    for name in names.split():
        monkeypatch.delenv(f"DALSEGNO_{name}", raising=False)
    monkeypatch.setenv("DALSEGNO_LIMIT_DATABASE_WAIT_S", "0.1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--bind", "nowhere"], "'nowhere' is not HOST:PORT"),
        (["serve", "--bind", "::1"], "'::1' is not HOST:PORT"),
        (["serve", "--bind", "localhost:65536"], "'65536' is not a port"),
        (["serve", "--log-level", "loud"], "'loud' is not one of"),
        (["serve", "--driver", "pg8000"], "'pg8000' is not one of"),
        (["serve", "--no-such-option"], "No such option"),
        (["serve", "--config", "/nonexistent.toml"], "/nonexistent.toml: No such file"),
        (["serve", "--node-id", "two words"], "'two words' is not a node id"),
        (["serve", "--advertise", "example.com"], "is not http://HOST:PORT"),
        (["serve", "--advertise", "https://u:p@example.com"], "is not http://HOST:PORT"),
        (["dance"], "No such command 'dance'"),
        (["repair"], "Missing argument 'WORKSPACE'"),
        (["repair", "no/such"], "workspace"),
        (["repair", "w", "--actor", "\x00"], "actor"),
        (["send", "w", "fly", "[]", *LOGIN], "Invalid value for JSON"),
        (["tail", *LOGIN], "Missing argument 'STREAM'"),
        (["audit", "export", "--since", "yesterday", *LOGIN], "since"),
        (["audit", "follow", "--action", "", *LOGIN], "action"),
        (["audit", "list", "--until", "2030-01-01T00:00:00", *LOGIN], "until"),
        (["audit", "follow"], "--email or --api-key is needed"),
        (["tail", "workspace:w", "--email", "a@example.org"], "DALSEGNO_PASSWORD is needed"),
        (["tail", "workspace:w", "--password", "p"], "--email or --api-key is needed"),
    ],
)
def test_what_is_typed_wrong_is_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tail", "workspace:w", "--url", "http://127.0.0.1:1", *LOGIN], "does not answer"),
        (["send", "w", "c", "{}", "--url", "127.0.0.1:8000", *LOGIN], "is not http://HOST:PORT"),
        (["audit", "list", "--url", "http://127.0.0.1:1", *LOGIN], "does not answer"),
        (["migrate", "--database", "postgresql://127.0.0.1:1/x"], "Connection refused"),
        (["repair", "w", "--database", "postgresql://127.0.0.1:1/x"], "Connection refused"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dalsegno: ")
    assert message in line


def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["--version"], *([name, "-h"] for name in cli.commands)):
        assert run(arguments) == 0
    assert "Serve durable, resumable workspaces" in capsys.readouterr().out


def test_an_error_in_groups_is_told_by_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [StoreUnavailableError("it is\n\taway")])])
    assert _fail(group) == 1
    assert capsys.readouterr().err == "dalsegno: it is away\n"
    failed = RuntimeFailedError("a service failed")
    failed.__cause__ = group
    assert _fail(failed) == 1
    assert capsys.readouterr().err == "dalsegno: it is away\n"


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ExceptionGroup):
        _fail(ExceptionGroup("", [StoreUnavailableError(), ZeroDivisionError()]))


# ------------------------------------------------------------------------------------- settings


def test_a_file_sets_what_is_not_set_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dalsegno.toml"
    file.write_text(
        'bind = "[::1]:9000"\ndata_dir = "there"\norigins = ["https://a", "https://b"]\n'
        'driver = "asyncpg"\n'
        'proxies = ["10.0.0.5", "fd00::/8"]\npublic_url = "https://board.example"\n'
        "[limits]\npage_events = 7\ndrain_deadline_s = 1\n"
    )
    seen: list[ServeConfig] = []
    monkeypatch.setattr(trio, "run", lambda _, config: seen.append(config))
    monkeypatch.setattr("dalsegno.runtime._logs.configure_logs", lambda *_: None)
    monkeypatch.setenv("DALSEGNO_CONFIG", str(file))
    monkeypatch.setenv("DALSEGNO_DATA_DIR", "elsewhere")
    monkeypatch.setenv("DALSEGNO_LIMIT_PAGE_EVENTS", "8")
    assert run(["serve"]) == 0
    monkeypatch.setenv("DALSEGNO_DRIVER", "psycopg")
    assert run(["serve", "--bind", "localhost:0", "--data-dir", "typed"]) == 0
    first, second = seen
    assert (first.host, first.port, first.data_dir) == ("::1", 9000, Path("elsewhere"))
    assert first.origins == ("https://a", "https://b")
    assert (first.driver, second.driver) == ("asyncpg", "psycopg")
    assert first.public_url == "https://board.example"
    assert first.proxies == (ip_network("10.0.0.5/32"), ip_network("fd00::/8"))
    assert (first.limits.page_events, first.limits.drain_deadline_s) == (8, 1.0)
    assert (second.host, second.port, second.data_dir) == ("localhost", 0, Path("typed"))


@pytest.mark.parametrize(
    "text",
    [
        "binds = 'x'",
        "bind = 7",
        "bind = ",
        "driver = 'pg8000'",
        "[limits]\npage_events = 'many'",
    ],
)
def test_a_file_with_what_nobody_knows_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "dalsegno.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"dalsegno\.toml: "):
        read_file(file)


@pytest.mark.parametrize(
    ("table", "environment"),
    [
        ({"no_such_limit": 1}, {}),
        ({"page_events": 1.5}, {}),
        ({"page_events": 0}, {}),
        ({"ack_flush_s": -1}, {}),
        ({"page_events": float("inf")}, {}),
        ({"ack_flush_s": float("nan")}, {}),
        ({}, {"DALSEGNO_LIMIT_PAGE_EVENTS": "many"}),
        ({}, {"DALSEGNO_LIMIT_PAGES": "1"}),
    ],
)
def test_a_limit_that_is_none_is_refused(
    table: dict[str, float], environment: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="limit"):
        read_limits(table, environment)


def test_zero_lifts_the_bounds_by_user_and_address_and_no_other() -> None:
    by_user = ("sessions_per_user_max", "sockets_per_user_max", "workspaces_per_user_max")
    for name in (*by_user, "api_per_minute_max", "auth_per_minute_max"):
        limits = read_limits({}, {f"DALSEGNO_LIMIT_{name.upper()}": "0"})
        assert getattr(limits, name) == 0
        assert getattr(read_limits({name: 0}, {}), name) == 0
        with pytest.raises(ConfigError, match=name):
            read_limits({name: -1}, {})
    with pytest.raises(ConfigError, match="connections_max"):
        read_limits({"connections_max": 0}, {})


def test_limits_are_numbers_of_their_kind() -> None:
    limits = read_limits({"ack_flush_s": 1, "page_events": 5.0}, {"PATH": "/bin"})
    assert limits == Limits(ack_flush_s=1.0, page_events=5)
    assert isinstance(limits.page_events, int)
    assert isinstance(limits.ack_flush_s, float)


def test_an_address_is_a_host_and_a_port() -> None:
    assert parse_bind("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert parse_bind("[::]:0") == ("::", 0)
    for text in ("8000", ":8000", "host:", "host:-1", "host:٣"):
        with pytest.raises(ConfigError):
            parse_bind(text)


def test_several_items_are_between_commas_or_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ServeConfig] = []
    monkeypatch.setattr(trio, "run", lambda _, config: seen.append(config))
    monkeypatch.setattr("dalsegno.runtime._logs.configure_logs", lambda *_: None)
    monkeypatch.setenv("DALSEGNO_ORIGINS", "https://a.example, https://b.example http://[::1]:80")
    monkeypatch.setenv("DALSEGNO_PROXIES", "10.0.0.5,10.1.0.0/16\n::1")
    assert run(["serve"]) == 0
    assert run(["serve", "--origins", "https://c,https://d", "--origins", "app://e"]) == 0
    assert seen[0].origins == ("https://a.example", "https://b.example", "http://[::1]:80")
    assert seen[0].proxies == tuple(map(ip_network, ("10.0.0.5", "10.1.0.0/16", "::1")))
    assert seen[1].origins == ("https://c", "https://d", "app://e")


def test_a_certificate_and_its_key_go_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[ServeConfig] = []
    monkeypatch.setattr(trio, "run", lambda _, config: seen.append(config))
    monkeypatch.setattr("dalsegno.runtime._logs.configure_logs", lambda *_: None)
    cert, key = certified().write(tmp_path)
    assert run(["serve", "--tls-cert", str(cert)]) == 2
    assert run(["serve", "--tls-key", str(key)]) == 2
    said = "dalsegno: --tls-cert and --tls-key go together: a certificate and its key\n"
    assert capsys.readouterr().err == said * 2
    monkeypatch.setenv("DALSEGNO_TLS_KEY", str(tmp_path / "none"))
    assert run(["serve", "--tls-cert", str(cert)]) == 2
    said = f"dalsegno: DALSEGNO_TLS_KEY: {tmp_path}/none: No such file or directory\n"
    assert capsys.readouterr().err == said
    file = tmp_path / "dalsegno.toml"
    file.write_text(f'tls-cert = "{key}"\ntls_key = "{key}"\n')
    monkeypatch.delenv("DALSEGNO_TLS_KEY")
    assert run(["serve", "--config", str(file)]) == 2
    said = f"dalsegno: tls_cert in {file}: {key}: holds no certificate in PEM\n"
    assert capsys.readouterr().err == said
    assert run(["serve", "--config", str(file), "--tls-cert", str(cert)]) == 0
    assert run(["serve"]) == 0
    first, second = seen
    assert first.tls is not None
    assert second.tls is None
    assert first.cookie == SessionCookie(secure=True, is_prefixed=True)
    assert replace(first, public_url="http://board.example").cookie == SessionCookie()
    assert (first.is_private, first.hosts.has_tls) == (True, True)


async def test_the_models_that_are_asked_are_those_that_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A rule says which address is asked: no other one is, and the key is shown to its own."""
    seen: list[ServeConfig] = []
    monkeypatch.setattr(trio, "run", lambda _, config: seen.append(config))
    monkeypatch.setattr("dalsegno.runtime._logs.configure_logs", lambda *_: None)
    key = tmp_path / "key"
    key.write_text("sk-or-1")
    assert run(["serve", "--model-key-file", str(key)]) == 2, "others may read it"
    key.chmod(0o600)
    assert run(["serve", "--models", "example.com"]) == 2
    arguments = ("--models", "https://a.example,http://b", "--model-key-file", str(key))
    assert run(["serve", *arguments]) == 0
    opens = seen[0].providers
    assert isinstance(opens, partial)
    assert opens.keywords["origins"] == (*DEFAULT_ORIGINS, "https://a.example", "http://b")
    assert opens.keywords["key"].header == "Bearer sk-or-1"
    async with opens():
        pass
    assert {urlsplit(url)._replace(path="").geturl() for url in DEFAULT_URLS.values()} == {
        *DEFAULT_ORIGINS
    }


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("example.com", "https://example.com"),
        ("example.com:8443", "https://example.com:8443"),
        ("https://example.com/", "https://example.com"),
        ("http://example.com/app?x", "http://example.com"),
        ("https://me@example.com", "https://example.com"),
        ("//example.com", "such as"),
        ("*", "such as"),
        ("null", "https://null"),
        ("https://a:port", "https://a"),
    ],
)
def test_what_is_no_origin_is_refused_with_what_to_write(text: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_origins([text])
    assert meant in str(refused.value)


def test_a_file_may_have_hyphens_or_underscores(tmp_path: Path) -> None:
    file = tmp_path / "dalsegno.toml"
    file.write_text('data-dir = "a"\nlog_level = "debug"\n[limits]\npage-events = 7\n')
    settings = read_file(file)
    assert (settings.data_dir, settings.log_level) == ("a", "debug")
    assert read_limits(settings.limits, {}).page_events == 7


def test_where_the_data_are_is_told_without_the_password() -> None:
    dsn = "postgresql://me:secret@db.example.org:5433/app"
    assert _describe_data(ServeConfig(database=dsn)) == (
        "the PostgreSQL database app at db.example.org:5433"
    )


def test_a_node_is_what_it_is_called_or_what_its_folder_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[ServeConfig] = []
    monkeypatch.setattr(trio, "run", lambda _, config: seen.append(config))
    monkeypatch.setattr("dalsegno.runtime._logs.configure_logs", lambda *_: None)
    own = ["serve", "--database", "postgresql://x/y"]
    assert run([*own, "--node-id", "north", "--advertise", "https://n.example.com/"]) == 0
    assert run(own) == 0
    assert run(["serve", "--data-dir", str(tmp_path)]) == 0
    assert [config.node_id for config in seen] == ["north", None, None]
    assert [config.advertise for config in seen] == ["https://n.example.com", None, None]
    assert not [*tmp_path.iterdir()]
    monkeypatch.setenv("DALSEGNO_DATA_DIR", str(tmp_path))
    assert run(own) == 0
    assert run(own) == 0
    assert seen[-1].node_id == seen[-2].node_id == (tmp_path / "node-id").read_text().strip()


# ------------------------------------------------------------------------------- schema and logs


def test_migrate_brings_a_database_up_to_date(
    capsys: pytest.CaptureFixture[str], database: str
) -> None:
    assert run(["migrate", "--database", database]) == 0
    assert "applied " in capsys.readouterr().out
    assert run(["migrate", "--database", database]) == 0
    assert capsys.readouterr().out == "nothing to apply\n"

    async def count() -> int:
        connection = await connect(database)
        ((found,),) = await connection.fetch("select count(*) from dalsegno.event")
        await connection.aclose()
        return int(str(found))

    assert trio.run(count) == 0


async def _in_the_database(dsn: str, *statements: str) -> list[tuple[object, ...]]:
    connection = await connect(dsn)
    try:
        return [row for statement in statements for row in await connection.fetch(statement)]
    finally:
        await connection.aclose()


async def _write_and_halt(dsn: str) -> None:
    async with Runtime.open(dsn, domains=[notes]) as rt:
        workspace = rt.workspace("acme")
        await workspace.send(CreateNote(note_id="n", title="T", markdown="one"))
        await workspace.send(SetTitle(note_id="n", title="U", base_version=1))
        head = await rt.store.read_head("acme")
        assert head is not None
        assert await rt.store.halt("acme", head.epoch, "a test", code="x", actor="test")


def test_x_per_9_a_repair_opens_what_was_halted_and_says_who_asked(
    capsys: pytest.CaptureFixture[str], migrated: str
) -> None:
    trio.run(_write_and_halt, migrated)
    arguments = ["repair", "acme", "--database", migrated]
    assert run([*arguments, "--actor", "Ada in operation"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "acme: 2 events of 1 entities are sound",
        "it was halted (a test) and is open again",
    ]
    assert run(arguments) == 0
    assert capsys.readouterr().out.endswith("it was not halted\n")
    document = Path(__file__).parents[2] / "docs" / "operations.md"
    queries = re.findall(r"^```sql\n(.*?)^```$", document.read_text(), re.M | re.S)
    (query,) = (each for each in queries if "dalsegno.audit" in each)
    audit = trio.run(_in_the_database, migrated, query.rstrip().rstrip(";"))
    assert [row[1:3] for row in audit] == [("test", "halted"), ("Ada in operation", "resumed")]


def test_a_repair_of_a_damaged_log_says_what_is_wrong_and_opens_nothing(
    capsys: pytest.CaptureFixture[str], migrated: str
) -> None:
    trio.run(_write_and_halt, migrated)
    trio.run(
        _in_the_database,
        migrated,
        "update dalsegno.event set payload = '{}' where event_seq = 2 returning 1",
    )
    assert run(["repair", "acme", "--database", migrated]) == 1
    captured = capsys.readouterr()
    assert captured.err == "dalsegno: acme: event 2 does not fit the chain\n"
    assert not captured.out
    halted = "select halted_reason from dalsegno.workspace_head where workspace_id = 'acme'"
    assert trio.run(_in_the_database, migrated, halted) == [("a test",)]
    assert run(["repair", "nowhere", "--database", migrated]) == 1
    assert capsys.readouterr().err == "dalsegno: no such workspace\n"


@pytest.fixture
def _logs_restored() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("dalsegno").setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logs_restored")
def test_logs_of_either_kind_are_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    structlog.get_logger("dalsegno.a").info("done", count=1)
    structlog.get_logger("dalsegno.a").debug("too much")
    logging.getLogger("dalsegno.b").warning("slow: %d s", 3)
    logging.getLogger("somebody.else").info("chatter")
    lines = [msgspec.json.decode(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("dalsegno.a", "info", "done"),
        ("dalsegno.b", "warning", "slow: 3 s"),
    ]
    assert lines[0]["count"] == 1


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://board.example", "https://board.example"),
        ("https://board.example:8443/", "https://board.example:8443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("board.example", None),
        ("wss://board.example", None),
        ("https://board.example/path", None),
        ("https://user:secret@board.example", None),
        ("https://board.example:port", None),
        ("https://", None),
        ("https://[", None),
    ],
)
def test_a_public_url_is_an_origin(text: str, url: str | None) -> None:
    if url is not None:
        assert check_public_url(text) == url
    else:
        with pytest.raises(ConfigError, match="is not https://HOST"):
            check_public_url(text)
