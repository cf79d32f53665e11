"""The command line: its commands, and their exit statuses.

An error that the user can do something about is one line on stderr and status 1, or 2 where the
command line or a setting is wrong.  A traceback means a bug in this program.

A command imports what it needs when it runs: `tail` has no use for a web server.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ._cli_audit import audit
from ._cli_client import send, tail
from ._cli_database import DATA_DIR, DATABASE, app_version, migrate, repair
from ._cli_files import files
from ._cli_jobs import backup, export, restore
from ._cli_keys import key
from ._cli_options import APP, CONFIG, app_of, limits_of, option, run_trio, setting
from ._interrupts import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from dalsegno.protocol.providers import Providers

    from ._config import LogFormat, LogLevel
    from .store import DriverName
    from .web import Tls, TokenIssuer


def main() -> None:
    """Run the command that was typed, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return the process's exit status."""
    try:
        status = cli.main(arguments, prog_name="dalsegno", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - raised again unless it was to be expected
        return _fail(error)
    return status if isinstance(status, int) else 0


def _fail(error: Exception) -> int:
    """Print an error that was to be expected and return the status; raise any other."""
    from dalsegno.protocol import DalsegnoError, DomainError

    from ._config import ConfigError

    leaves = list(_leaves(error))
    expected = (DalsegnoError, DomainError, ConfigError, OSError)
    if not all(isinstance(leaf, expected) for leaf in leaves):
        raise error
    for leaf in leaves:
        click.echo(f"dalsegno: {_describe(leaf)}", err=True)
    return 2 if isinstance(error, ConfigError) else 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error.__cause__, BaseExceptionGroup):
        yield from _leaves(error.__cause__)
    else:
        yield error


def _describe(error: BaseException) -> str:
    from dalsegno.protocol import DalsegnoError, UnavailableError

    if isinstance(error, UnavailableError):
        return " ".join(error.message.split())  # libpq breaks lines
    if isinstance(error, DalsegnoError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dalsegno")
def cli() -> None:
    """Serve durable, resumable workspaces for apps and agents, and look into them."""


cli.add_command(migrate)
cli.add_command(repair)
cli.add_command(app_version)
cli.add_command(key)
cli.add_command(audit)
cli.add_command(export)
cli.add_command(backup)
cli.add_command(restore)
cli.add_command(files)
cli.add_command(send)
cli.add_command(tail)


@cli.command(short_help="Serve until SIGTERM or Ctrl-C, then drain.")
@CONFIG
@APP
@option("--bind", default="127.0.0.1:8000", metavar="HOST:PORT", help="Where to listen.")
@DATA_DIR
@DATABASE
@option(
    "--driver",
    type=click.Choice(["psycopg", "asyncpg"]),
    default="psycopg",
    help="What speaks to the database; asyncpg comes with the extra of that name.",
)
@option("--node-id", metavar="ID", help="Which node this is, the same over restarts.")
@option(
    "--artifacts",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where exports and backups are written; by default in the data directory. With --database "
    "there is none unless it is named, or the data directory is.",
)
@option("--advertise", metavar="URL", help="Where this node is, for those sent here by others.")
@option("--tls-cert", metavar="FILE", help="Serve over TLS, with this certificate (PEM) …")
@option("--tls-key", metavar="FILE", help="… and its key; both are read again once they change.")
@option("--public-url", metavar="URL", help="Where browsers reach it, by way of a proxy.")
@option(
    "--origins",
    multiple=True,
    metavar="ORIGIN",
    help="Pages from there may connect too: https://HOST, several between commas or blanks.",
)
@option(
    "--proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Reverse proxies to be believed, several between commas or blanks.",
)
@option("--jwt-issuer", metavar="ISS", help="Whose tokens are believed, besides log-ins and keys.")
@option("--jwt-audience", metavar="AUD", help="For whom they have to be: this server's name there.")
@option("--jwt-keys", metavar="URL|FILE", help="The issuer's public keys (JWKS).")
@option("--jwt-secret-file", metavar="FILE", help="Instead of keys: a secret shared with it.")
@option(
    "--models",
    multiple=True,
    metavar="ORIGIN",
    help="Model providers to be asked, besides OpenRouter and LM Studio on this machine.",
)
@option("--model-key-file", metavar="FILE", help="OpenRouter's key, else in OPENROUTER_API_KEY.")
@option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def serve(
    context: click.Context,
    /,
    app: str | None,
    bind: str,
    data_dir: Path,
    database: str | None,
    driver: DriverName,
    node_id: str | None,
    artifacts: Path | None,
    advertise: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    public_url: str | None,
    origins: tuple[str, ...],
    proxies: tuple[str, ...],
    models: tuple[str, ...],
    model_key_file: str | None,
    log_level: LogLevel,
    log_format: LogFormat,
    **jwt: str | None,
) -> int:
    """Serve until SIGTERM or Ctrl-C, then drain; a second one ends the process at once."""
    from ._config import (
        check_advertised,
        check_public_url,
        parse_bind,
        parse_origins,
        parse_proxies,
    )

    with setting(context, "bind"):
        host, port = parse_bind(bind)
    with setting(context, "advertise"):
        address = None if advertise is None else check_advertised(advertise)
    with setting(context, "public_url"):
        public = None if public_url is None else check_public_url(public_url)
    with setting(context, "origins"):
        pages = parse_origins(origins)
    with setting(context, "proxies"):
        networks = parse_proxies(proxies)
    tls = _tls(context, tls_cert, tls_key)
    tokens = _tokens(jwt)
    providers = _providers(context, models, model_key_file)
    limits = limits_of(context)
    served = app_of(context, app)
    node = _node_id(context, node_id, data_dir, database)

    from ._logs import configure_logs
    from ._process import run_server
    from ._server import ServeConfig

    config = ServeConfig(
        host=host,
        port=port,
        data_dir=data_dir,
        database=database,
        driver=driver,
        node_id=node,
        artifacts=_artifacts(context, artifacts, data_dir),
        advertise=address,
        tls=tls,
        public_url=public,
        origins=pages,
        proxies=networks,
        tokens=tokens,
        app=served,
        limits=limits,
        providers=providers,
    )
    configure_logs(log_level, log_format)
    return run_trio(run_server, config)


def _artifacts(context: click.Context, artifacts: Path | None, data_dir: Path) -> Path | None:
    """Return where runs write files; None: as the runtime has it."""
    named = context.get_parameter_source("data_dir") is not ParameterSource.DEFAULT
    return data_dir / "artifacts" if artifacts is None and named else artifacts


def _tls(context: click.Context, cert: str | None, key: str | None) -> Tls | None:
    """Return the certificate that the server speaks TLS with; None: it does not."""
    if cert is None and key is None:
        return None
    from dalsegno.protocol import Reject

    from ._config import ConfigError
    from .web import Tls

    if cert is None or key is None:
        raise ConfigError("--tls-cert and --tls-key go together: a certificate and its key")
    try:
        return Tls(cert, key)
    except Reject as error:
        with setting(context, error.details["setting"]):
            raise ConfigError(error.message) from error


def _tokens(settings: dict[str, str | None]) -> TokenIssuer | None:
    if not any(settings.values()):
        return None
    from ._config_tokens import read_tokens

    return read_tokens(settings)


def _providers(
    context: click.Context, models: tuple[str, ...], key_file: str | None
) -> Callable[[], AbstractAsyncContextManager[Providers]]:
    """Return what opens the model providers that may be asked: those that are named, and no others.

    Whoever writes a rule says which address is asked, and may not reach into this network.
    """
    from functools import partial
    from pathlib import Path

    from ._config import parse_origins
    from .providers import DEFAULT_ORIGINS, key_from_environment, open_providers, read_key

    with setting(context, "models"):
        origins = parse_origins(models)
    if key_file is None:
        key = key_from_environment()
    else:
        with setting(context, "model_key_file"):
            key = read_key(Path(key_file))
    return partial(open_providers, key=key, origins=(*DEFAULT_ORIGINS, *origins))


def _node_id(
    context: click.Context, node_id: str | None, data_dir: Path, database: str | None
) -> str | None:
    """Return the node id, or None for the embedded PostgreSQL's or a new one."""
    from ._config import check_node_id
    from ._node import node_id_in

    if node_id is not None:
        with setting(context, "node_id"):
            return check_node_id(node_id)
    named = context.get_parameter_source("data_dir") is not ParameterSource.DEFAULT
    return node_id_in(data_dir) if database is not None and named else None
