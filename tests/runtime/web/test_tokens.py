"""Tokens of another issuer: what is believed of them, and what is not."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import NotReadyError, Reject
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web import TokenIssuer, TokenKeys
from dalsegno.runtime.web._token_keys import kept_s, keys_of

from ._client import Answer, Site, User
from .conftest import open_site

ISSUER, AUDIENCE = "https://id.example.org", "dalsegno"
SECRET = b"a secret of thirty-two bytes, or more"

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
SMALL = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)  # noqa: S505 - to be refused
OTHER = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, private: Any, **more: Any) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return {**made, **more}


JWKS = {
    "keys": [
        jwk("RS256", RSA, kid="rsa", use="sig", alg="RS256"),
        jwk("ES256", EC, kid="ec"),
        jwk("EdDSA", ED, kid="ed"),
    ]
}


async def fetched(document: object, path: Path) -> TokenKeys:
    await trio.Path(path).write_bytes(msgspec.json.encode(document))
    keys = TokenKeys(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.run)
        await keys.find("any")
        nursery.cancel_scope.cancel()
    return keys


@asynccontextmanager
async def site_with(tokens: TokenIssuer) -> AsyncIterator[tuple[Site, User]]:
    async with open_site(tokens=tokens) as site:
        yield site, await site.set_up()


@pytest.fixture
async def by_secret() -> AsyncIterator[tuple[Site, User]]:
    async with site_with(TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)) as site:
        yield site


def claims(site: Site, **more: Any) -> dict[str, Any]:
    now = site.clock.now
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "bob",
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(minutes=5)).timestamp()),
        **more,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(site: Site, **more: Any) -> str:
    return jwt.encode(claims(site, **more), SECRET, "HS256")


async def shown(site: Site, text: str, path: str = "/api/workspaces") -> Answer:
    return await site.send("GET", path, headers={"authorization": f"Bearer {text}"})


async def test_whom_a_token_names_is_a_member_like_everybody(
    by_secret: tuple[Site, User],
) -> None:
    site, owner = by_secret
    text, path = token(site), f"{owner.space}/events"
    assert (await shown(site, text, path)).code == "ROLE_FORBIDDEN"
    put = await owner.put(f"{owner.space}/members/jwt:bob", {"role": "editor"})
    assert put.status == 200
    assert (await shown(site, text, path)).status == 200
    body = {"workspace_id": owner.workspace_id, "title": "x"}
    bearer = {"authorization": f"Bearer {text}"}
    assert (await site.send("POST", "/api/notes", body, headers=bearer)).status == 201
    event = (await owner.get(f"{path}?after=1")).body["items"][-1]
    assert event["actor_id"] == "jwt:bob"
    for people_only in ("/api/auth/session", "/api/users", f"{owner.space}/keys"):
        assert (await shown(site, text, people_only)).code == "ROLE_FORBIDDEN"


async def test_a_token_names_no_account_and_no_key(by_secret: tuple[Site, User]) -> None:
    site, owner = by_secret
    for subject in (owner.id, "key:0123456789abcdef", "jwt:bob"):
        answer = await shown(site, token(site, sub=subject), f"{owner.space}/events")
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"exp": None}, "TOKEN_INVALID"),
        ({"exp": "soon"}, "TOKEN_INVALID"),
        ({"exp": True}, "TOKEN_INVALID"),
        ({"exp": 1e300}, "TOKEN_INVALID"),
        ({"exp": -1}, "TOKEN_EXPIRED"),
        ({"iss": None}, "TOKEN_INVALID"),
        ({"iss": "https://id.example.com"}, "TOKEN_INVALID"),
        ({"aud": None}, "TOKEN_INVALID"),
        ({"aud": "another"}, "TOKEN_INVALID"),
        ({"aud": ["another"]}, "TOKEN_INVALID"),
        ({"aud": []}, "TOKEN_INVALID"),
        ({"sub": None}, "TOKEN_INVALID"),
        ({"sub": 7}, "TOKEN_INVALID"),
        ({"sub": ""}, "TOKEN_INVALID"),
        ({"sub": "a\0b"}, "TOKEN_INVALID"),
        ({"sub": "x" * 200}, "TOKEN_INVALID"),
        ({"nbf": "x"}, "TOKEN_INVALID"),
        ({"pad": "x" * 9_000}, "TOKEN_INVALID"),
    ],
)
async def test_claims_that_prove_nothing_are_refused(
    by_secret: tuple[Site, User], more: dict[str, Any], code: str
) -> None:
    site, _ = by_secret
    try:
        text = token(site, **more)
    except TypeError:  # the library does not even write it
        header, _, signature = token(site).split(".")
        body = base64.urlsafe_b64encode(msgspec.json.encode(claims(site, **more))).decode()
        text = f"{header}.{body.rstrip('=')}.{signature}"
    answer = await shown(site, text)
    assert answer.code == code


async def test_several_audiences_may_be_named(by_secret: tuple[Site, User]) -> None:
    site, _ = by_secret
    assert (await shown(site, token(site, aud=["another", AUDIENCE]))).status == 200


@pytest.mark.parametrize(
    ("name", "from_now_s", "code"),
    [
        ("exp", -29, None),
        ("exp", -31, "TOKEN_EXPIRED"),
        ("nbf", 29, None),
        ("nbf", 31, "TOKEN_INVALID"),
        ("iat", 29, None),
        ("iat", 31, "TOKEN_INVALID"),
    ],
)
async def test_clocks_may_differ_by_half_a_minute(
    by_secret: tuple[Site, User], name: str, from_now_s: int, code: str | None
) -> None:
    site, _ = by_secret
    at = int((site.clock.now + timedelta(seconds=from_now_s)).timestamp())
    answer = await shown(site, token(site, **{name: at}))
    assert (None if answer.status == 200 else answer.code) == code


def unsigned(header: dict[str, Any], site: Site, signature: str = "") -> str:
    parts = (msgspec.json.encode(each) for each in (header, claims(site)))
    texts = [base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts]
    return ".".join([*texts, signature])


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "HS384"},
        {"alg": "RS256"},
        {"alg": ["HS256"]},
        {"alg": None},
        {},
        {"alg": "HS256", "typ": "rt+jwt"},
        {"alg": "HS256", "typ": 7},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {"alg": "HS256", "jku": "http://127.0.0.1:1/keys"},
        {"alg": "HS256", "jwk": JWKS["keys"][0]},
    ],
)
async def test_what_a_header_says_proves_nothing(
    by_secret: tuple[Site, User], header: dict[str, Any]
) -> None:
    site, _ = by_secret
    answer = await shown(site, unsigned(header, site, token(site).split(".")[2]))
    assert (answer.status, answer.code) == (401, "TOKEN_INVALID")
    answer = await shown(site, unsigned(header, site))
    assert (answer.status, answer.code) == (401, "TOKEN_INVALID")


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{0,80}(\.[A-Za-z0-9_-]{0,80}){0,4}"))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    issuer = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)

    async def identify() -> None:
        with pytest.raises(Reject) as raised:
            await issuer.identify(text, WORLD)
        assert raised.value.code == "TOKEN_INVALID"

    trio.run(identify)


# ------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("private", "algorithm", "kid"),
    [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")],
)
async def test_a_key_proves_tokens_of_its_own_algorithm_alone(
    tmp_path: Path, private: Any, algorithm: str, kid: str
) -> None:
    keys = await fetched(JWKS, tmp_path / "keys.json")
    async with site_with(TokenIssuer(issuer=ISSUER, audience=AUDIENCE, keys=keys)) as (site, _):
        made = claims(site)
        good = jwt.encode(made, private, algorithm, headers={"kid": kid, "typ": "at+jwt"})
        assert (await shown(site, good)).status == 200
        others = [each["kid"] for each in JWKS["keys"] if each["kid"] != kid]
        for wrong in (
            *(jwt.encode(made, private, algorithm, headers={"kid": each}) for each in others),
            jwt.encode(made, private, algorithm),  # of several, which?
            jwt.encode(made, private, algorithm, headers={"kid": "x" * 201}),
            jwt.encode(made, OTHER, "RS256", headers={"kid": kid}),
            good[:-8] + "AAAAAAAA",
        ):
            answer = await shown(site, wrong)
            assert (answer.status, answer.code) == (401, "TOKEN_INVALID")


async def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    """Mixed families: HS256 with the bytes of a public key, which everybody has."""
    keys = await fetched(JWKS, tmp_path / "keys.json")
    async with site_with(TokenIssuer(issuer=ISSUER, audience=AUDIENCE, keys=keys)) as (site, _):
        public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signer = jwt.get_algorithm_by_name("HS256")
        parts = unsigned({"alg": "HS256", "kid": "rsa"}, site).rstrip(".")
        signature = base64.urlsafe_b64encode(signer.sign(parts.encode(), public)).decode()
        answer = await shown(site, f"{parts}.{signature.rstrip('=')}")
        assert (answer.status, answer.code) == (401, "TOKEN_INVALID")


async def test_the_only_key_needs_no_name(tmp_path: Path) -> None:
    keys = await fetched({"keys": [jwk("ES256", EC)]}, tmp_path / "keys.json")
    async with site_with(TokenIssuer(issuer=ISSUER, audience=AUDIENCE, keys=keys)) as (site, _):
        assert (await shown(site, jwt.encode(claims(site), EC, "ES256"))).status == 200


def test_only_keys_that_can_be_used_are_taken() -> None:
    private = jwt.get_algorithm_by_name("ES256").to_jwk(EC, as_dict=True)
    octets = base64.urlsafe_b64encode(SECRET).decode()
    document = {
        "keys": [
            *JWKS["keys"],
            jwk("RS256", SMALL, kid="small"),
            jwk("RS256", RSA, kid="encrypts", use="enc"),
            jwk("RS256", RSA, kid="other", alg="RS512"),
            {**private, "kid": "private"},
            {"kty": "oct", "k": octets, "kid": "oct"},
            {"kty": "RSA", "n": "x", "e": "AQAB", "kid": "broken"},
            {"kty": "EC", "crv": "P-384", "kid": "p384"},
            {"kty": ["RSA"], "kid": "list"},
            {**jwk("ES256", EC), "kid": 7},
            "no key",
        ]
    }
    assert set(keys_of(msgspec.json.encode(document))) == {"rsa", "ec", "ed"}
    for wrong in (b"", b"[]", b"{}", b'{"keys": 1}', b"\xff", b"{" * 9_000):
        with pytest.raises(ValueError, match=r"."):
            keys_of(wrong)
    with pytest.raises(ValueError, match="at most 32"):
        keys_of(msgspec.json.encode({"keys": [{}] * 33}))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 300),
        ("max-age=600", 600),
        ("public, max-age=600, must-revalidate", 600),
        ("max-age=5", 60),
        ("max-age=99999999", 86_400),
        ("s-max-age=600", 300),
        ("max-age=x", 300),
        ("no-store", 300),
    ],
)
def test_keys_are_kept_for_as_long_as_the_issuer_says_within_reason(
    header: str, seconds: float
) -> None:
    assert kept_s(header) == seconds


class Issuer(TokenKeys):
    """One whose answers the test gives."""

    def __init__(self) -> None:
        super().__init__("https://id.example.org/keys")
        self.said: list[dict[str, Any]] | Exception | None = []
        self.asked = 0

    async def _read(self) -> tuple[bytes, float]:
        self.asked += 1
        await trio.sleep(0.1)
        if isinstance(self.said, Exception):
            raise self.said
        if self.said is None:
            await trio.sleep_forever()
        return msgspec.json.encode({"keys": self.said}), 300.0


@pytest.fixture
async def issuer(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> Issuer:
    issuer = Issuer()
    issuer.said = JWKS["keys"][:1]
    await nursery.start(issuer.run)
    await trio.sleep(1)
    return issuer


async def test_keys_are_fetched_ahead_of_their_time(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(3_000)
    assert issuer.asked in {12, 13}
    assert await issuer.find("rsa") is not None


async def test_a_key_that_is_new_is_found_at_once_and_many_ask_once(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(60)
    issuer.said = JWKS["keys"]
    found: list[object] = []

    async def find() -> None:
        found.append(await issuer.find("ec"))

    before = issuer.asked
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(find)
    assert len(found) == 100
    assert None not in found
    assert issuer.asked == before + 1


async def test_names_that_are_made_up_are_asked_for_twice_a_minute(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    before, began = issuer.asked, trio.current_time()
    while trio.current_time() - began < 120:
        assert await issuer.find("made up") is None
        await trio.sleep(0.5)
    assert issuer.asked - before <= 5


async def test_keys_are_good_for_a_day_while_the_issuer_is_away(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    for away in (OSError("refused"), ValueError("more than it may be"), None):
        issuer.said = away
        await trio.sleep(3_600)
        assert await issuer.find("rsa") is not None
        assert await issuer.find("ec") is None
    await trio.sleep(24 * 3_600)
    for name in ("rsa", "ec", None):
        with pytest.raises(NotReadyError):
            await issuer.find(name)
    issuer.said = JWKS["keys"]
    await trio.sleep(60)
    assert await issuer.find("rsa") is not None


async def test_an_issuer_that_takes_its_keys_back_is_obeyed(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    issuer.said = JWKS["keys"][1:]
    await trio.sleep(300)
    assert await issuer.find("rsa") is None
    assert await issuer.find("ec") is not None


async def test_only_where_tokens_are_believed_can_whom_they_name_join(
    site: Site, owner: User
) -> None:
    put = await owner.put(f"{owner.space}/members/jwt:bob", {"role": "editor"})
    assert (put.status, put.code) == (404, "USER_NOT_FOUND")
    await site.rt.workspace(owner.workspace_id).send(PutMember("jwt:bob", "editor"))
    answer = await shown(site, token(site))
    assert (answer.status, answer.code) == (401, "TOKEN_INVALID")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.sampled_from([*JWKS["keys"], {"kty": "RSA"}, {"kty": "OKP", "crv": "Ed25519"}]),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "alg", "use", "d", "key_ops"]),
        JSON,
    ),
)
def test_whatever_an_issuer_says_its_keys_are_no_other_key_is_lost(
    known: dict[str, Any], wrong: dict[str, Any]
) -> None:
    document = {"keys": [{**known, **wrong}, {**JWKS["keys"][1], "kid": "well"}]}
    assert "well" in keys_of(msgspec.json.encode(document))
