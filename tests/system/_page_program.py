"""A program of somebody's own: a page, and beside it what we serve, on our listener.

It takes those arguments of ``dalsegno serve`` that tests give.
"""

from __future__ import annotations

import argparse
import os
import signal

import trio

from dalsegno.actors.domains.jobs import job_app
from dalsegno.runtime import Runtime
from dalsegno.runtime._config import read_limits
from dalsegno.runtime.serving import asgi, serve_asgi
from tests.system._page import SETUP_TOKEN, with_page


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    for name in ("--bind", "--database", "--node-id"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    limits = read_limits({}, os.environ)
    async with (
        Runtime.open(given.database, app=job_app, node_id=given.node_id, limits=limits) as rt,
        asgi(rt, public_url=f"http://{given.bind}", setup_token=SETUP_TOKEN) as board,
    ):

        async def until() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as arrived:
                await anext(arrived)
            await board.drain()

        await serve_asgi(with_page(board), given.bind, limits=rt.limits, until=until)


trio.run(main)
