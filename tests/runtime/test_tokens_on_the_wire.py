"""Tokens of another issuer on a server with a port, whose keys come over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import Limits, NotReadyError
from dalsegno.runtime._config import ConfigError
from dalsegno.runtime._config_tokens import read_tokens
from dalsegno.runtime.client import DisconnectedError, open_client
from dalsegno.runtime.web import TokenIssuer, TokenKeys
from tests._http import PLAIN
from tests._patience import fail_after
from tests.runtime._serving import serving

ISSUER, AUDIENCE = "https://id.example.org", "dalsegno"
KEY = ec.generate_private_key(ec.SECP256R1())
JWK = jwt.get_algorithm_by_name("ES256").to_jwk(KEY.public_key(), as_dict=True)
KEYS = msgspec.json.encode({"keys": [{**JWK, "kid": "k"}]})


UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def token(*, expires_in_s: float = 300) -> str:
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": time.time() + expires_in_s}
    return jwt.encode(made, KEY, "ES256", headers={"kid": "k"})


def answer(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """An HTTP server that gives these answers in turn, the last of them for ever; its address."""
    left = list(answers)

    async def answer_one(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            with suppress(trio.BrokenResourceError):  # it has seen enough
                await stream.send_all(left.pop(0) if len(left) > 1 else left[0])

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer_one, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/keys"
        nursery.cancel_scope.cancel()


async def follow(url: str, text: str, seen: list[int]) -> None:
    async with (
        open_client(url, api_key=text) as client,
        client.subscribe("workspace:w", cursor=0) as events,
    ):
        while True:
            seen.append((await anext(events)).event_seq)


async def test_a_token_opens_a_socket_until_it_expires(migrated: str) -> None:
    """CF-1.1, CF-1.2 for `/ws`; P4.3."""
    async with answering(answer(KEYS)) as address:
        tokens = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, keys=TokenKeys(address))
        async with serving(migrated, tokens=tokens, limits=Limits(renewal_grace_s=0.1)) as site:
            await site.runtime.workspace("w").send(PutMember("jwt:bob", "viewer"))
            with fail_after(20):
                # Half a minute of leeway is for who comes in, not for who stays.
                soon = token(expires_in_s=1)
                seen: list[int] = []
                with pytest.raises(DisconnectedError) as closed:
                    await follow(site.url, soon, seen)
                assert seen == [1]
                assert closed.value.close_code == 4001
                async with httpx.AsyncClient(**PLAIN) as http:
                    for wrong in (token(expires_in_s=-60), token()[:-4] + "AAAA", "x.y.z"):
                        shows = {"authorization": f"Bearer {wrong}", **UPGRADE}
                        refused = await http.get(f"{site.url}/ws", headers=shows)
                        assert refused.status_code == 401
                        assert refused.json()["code"] in {"TOKEN_EXPIRED", "TOKEN_INVALID"}


@pytest.mark.parametrize(
    "first",
    [
        answer(b"{}"),
        answer(b"no json"),
        answer(b"", "302 Found", "location: http://127.0.0.1:1/"),
        answer(KEYS, "500 Internal Server Error"),
        answer(b"[" * 300 * 1024),
        b"no http\r\n\r\n",
    ],
    ids=["no keys", "no json", "redirect", "error", "huge", "no http"],
)
async def test_what_is_no_set_of_keys_proves_nothing(first: bytes) -> None:
    async with answering(first) as address, trio.open_nursery() as nursery:
        keys = TokenKeys(address)
        nursery.start_soon(keys.run)
        with fail_after(10), pytest.raises(NotReadyError):
            await keys.find("k")
        nursery.cancel_scope.cancel()


async def test_the_keys_are_those_that_the_issuer_says() -> None:
    said = answer(KEYS, "200 OK", "cache-control: max-age=600")
    async with answering(said) as address, trio.open_nursery() as nursery:
        keys = TokenKeys(address)
        nursery.start_soon(keys.run)
        with fail_after(10):
            found = await keys.find("k")
        assert found is not None
        assert found.algorithm == "ES256"
        nursery.cancel_scope.cancel()


def settings(**given: str) -> dict[str, str | None]:
    names = ("jwt_issuer", "jwt_audience", "jwt_keys", "jwt_secret_file")
    return {name: given.get(name) for name in names}


def test_settings_that_go_together_are_an_issuer(tmp_path: Path) -> None:
    assert read_tokens(settings()) is None
    secret, keys = tmp_path / "secret", tmp_path / "keys.json"
    secret.write_text("x" * 32 + "\n")
    keys.write_bytes(KEYS)
    both = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    by_secret = read_tokens(settings(**both, jwt_secret_file=str(secret)))
    assert by_secret is not None
    assert by_secret.secret == b"x" * 32
    for source in (str(keys), "https://id.example.org/keys", "http://127.0.0.1:1/keys"):
        by_keys = read_tokens(settings(**both, jwt_keys=source))
        assert by_keys is not None
        assert by_keys.keys is not None
        assert by_keys.keys.source == source


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"jwt_issuer": ISSUER}, "--jwt-issuer and --jwt-audience are needed"),
        ({"jwt_keys": "https://x/"}, "--jwt-issuer and --jwt-audience are needed"),
        ({"jwt_issuer": ISSUER, "jwt_audience": "x"}, "--jwt-keys or --jwt-secret-file"),
        ({"jwt_keys": "https://x/", "jwt_secret_file": "x"}, "one of them"),
        ({"jwt_secret_file": "nowhere"}, "--jwt-secret-file: nowhere: No such file"),
        ({"jwt_secret_file": "short"}, "a secret has at least 32 bytes"),
        ({"jwt_keys": "nowhere"}, "--jwt-keys: there is no file nowhere"),
        ({"jwt_keys": "http://id.example.org/keys"}, "without https anybody"),
        ({"jwt_keys": "https:///keys"}, "is not https://HOST/PATH"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("x" * 31)
    has_both = "jwt_issuer" not in given and said[:10] != "--jwt-issu"
    both = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE} if has_both else {}
    with pytest.raises(ConfigError) as raised:
        read_tokens(settings(**both, **given))
    assert said in str(raised.value)
