"""A page of a program's own, with the documented scripts, and what serves it."""

from __future__ import annotations

import re
from pathlib import Path

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

PATH = "/page/"
"""Where the page is; the scripts are beside it."""
SETUP_TOKEN = "the first account is mine"
"""What the program wants for the setup, for it cannot tell who may connect."""

_PAGE = Path(__file__).with_name("_page.html")
_PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript"}


def page_files() -> dict[str, str]:
    """Return the page, and the scripts that docs/protocol.md has for pages, by their names."""
    scripts = re.findall(r"^```js\n// (\w+\.js)\n(.*?)^```$", _PROTOCOL.read_text(), re.M | re.S)
    return {"index.html": _PAGE.read_text(), **dict(scripts)}


def with_page(app: ASGIFramework) -> ASGIFramework:
    """Serve the page beside an application."""
    files = page_files()

    async def both(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PATH):
            await app(scope, receive, send)
            return
        name = scope["path"].removeprefix(PATH) or "index.html"
        status = 200 if name in files else 404
        headers = [(b"content-type", _TYPES.get(Path(name).suffix, "text/plain").encode())]
        body = files.get(name, "").encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return both
