"""A client without a server: what it says is recorded, and what it hears is made up."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from dalsegno.runtime.client import Client, ClientLimits, Events
from dalsegno.runtime.client._account import Account
from dalsegno.runtime.client._link import Link
from dalsegno.runtime.seams import WORLD


class Recorder:
    """Records what a client sends, in place of a connection."""

    was_useful = False
    is_elsewhere = False
    slot_s: float | None = None

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, message: str) -> None:
        self.said.append(msgspec.json.decode(message))

    def ack(self, stream_id: str, seq: int) -> None:
        self.said.append({"type": "ack", "stream_id": stream_id, "seq": seq})

    def settle_ack(self, stream_id: str) -> None:
        pass


def account_at(url: str) -> Account:
    return Account(
        url, email="e", password="p", cookie=None, ssl_context=None, limits=ClientLimits()
    )


def unconnected(
    url: str = "http://test", *, limits: ClientLimits | None = None
) -> tuple[Client, Recorder]:
    bounds = limits or ClientLimits()
    account = account_at(url)
    client = Client(account, client_id="c", limits=bounds, world=WORLD, ssl_context=None)
    recorder = Recorder()
    client._begin(cast("Link", recorder))
    return client, recorder


def following(client: Client, recorder: Recorder) -> Events:
    events = client.subscribe("workspace:w", cursor=0)
    events._place = events._stream.join()
    answer = {"type": "subscribed", "stream_id": "workspace:w", "head": 0, "cursor": 0}
    request_id = recorder.said[-1]["request_id"]
    hear(client, {**answer, "chain": "0" * 16, "request_id": request_id})
    return events


def hear(client: Client, message: dict[str, Any]) -> None:
    client._hear(msgspec.json.encode(message).decode())


def event(seq: int, **changed: Any) -> dict[str, Any]:
    return {
        "type": "event",
        "stream_id": "workspace:w",
        "seq": seq,
        "event_seq": seq,
        "entity": "note:n",
        "version": seq,
        "event_type": "something_of_tomorrow",
        "event_id": "e",
        "actor_id": None,
        "recorded_at": "2026-01-01T00:00:00Z",
        "chain": f"{seq:016x}",
        "payload": {},
        **changed,
    }
