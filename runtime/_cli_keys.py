"""``dalsegno key``: the API keys of a workspace, by way of its server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ._cli_client import as_text, who_asks
from ._cli_options import CommandT, option, run_trio

if TYPE_CHECKING:
    from collections.abc import Callable

_DAY_S = 24 * 3600


def account_options(command: CommandT) -> CommandT:
    for add in (
        option("--password", help="Asked for where there is a terminal."),
        option("--email", help="Whose account: an owner's or an admin's of the workspace."),
        option("--url", default="http://127.0.0.1:8000", help="Where the server is."),
    ):
        command = add(command)
    return command


@click.group(short_help="Make, list, replace and end the API keys of a workspace.")
def key() -> None:
    """Make, list, replace and end the API keys of a workspace, with which programs come in."""


@key.command(short_help="Make a key, and print it once.")
@click.argument("workspace")
@click.option("--name", required=True, help="What it is for.")
@click.option("--role", default="editor", show_default=True, help="What it may do.")
@click.option("--days", type=click.IntRange(1, 3650), help="It expires then; by default never.")
@account_options
def make(workspace: str, name: str, role: str, days: int | None, **account: str | None) -> int:
    """Make a key of a WORKSPACE, and print it: nobody can read it later."""
    lifetime_s = None if days is None else days * _DAY_S
    body = {"name": name, "role": role, "expires_in_s": lifetime_s}
    return _ask(account, "POST", f"{workspace}/keys", body, show=lambda said: [said["key"]])


@key.command("list", short_help="List the keys of a workspace.")
@click.argument("workspace")
@account_options
def list_(workspace: str, **account: str | None) -> int:
    """List the keys of a WORKSPACE: id, role, when it was last used, name."""
    return _ask(account, "GET", f"{workspace}/keys?limit=1000", show=_rows)


@key.command(short_help="Replace a key, and print the new one.")
@click.argument("workspace")
@click.argument("key_id")
@click.option("--at-once", is_flag=True, help="The key of before is not valid any more.")
@account_options
def rotate(workspace: str, key_id: str, at_once: bool, **account: str | None) -> int:
    """Replace a key and print the new one; the one before is valid until the next `rotate`."""
    path, body = f"{workspace}/keys/{key_id}/rotate", {"keep_previous": not at_once}
    return _ask(account, "POST", path, body, show=lambda said: [said["key"]])


@key.command(short_help="End a key.")
@click.argument("workspace")
@click.argument("key_id")
@account_options
def end(workspace: str, key_id: str, **account: str | None) -> int:
    """End a key: what is connected with it is closed, and it is no member any more."""
    return _ask(account, "DELETE", f"{workspace}/keys/{key_id}", show=lambda _: [])


def _rows(said: dict[str, Any]) -> list[str]:
    return [
        "  ".join(
            (
                each["key_id"],
                each["role"] or "no member",
                f"used {each['last_used_at']}" if each["last_used_at"] else "never used",
                each["name"],
            )
        )
        for each in said["items"]
    ]


def _ask(
    account: dict[str, str | None],
    method: str,
    path: str,
    body: object = None,
    *,
    show: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Make a request as a user, and print what ``show`` returns of the answer."""
    from dalsegno.protocol import DalsegnoError

    from .client import ask

    who = who_asks(**account)
    try:
        said = run_trio(
            partial(ask, **who, method=method, path=f"/api/workspaces/{path}", body=body)
        )
    except DalsegnoError as error:
        click.echo(f"dalsegno: {as_text(error)}", err=True)
        return 1
    for line in show(said):
        click.echo(line)
    return 0
