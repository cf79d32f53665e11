"""The keys of an issuer of tokens (JWKS, RFC 7517): from a file, or by HTTPS.

Those of a URL are fetched in the background, ahead of the time for which the answer may be kept, so
that no request waits for the issuer; while it is away those of before stay good for a day.  A token
that names an unknown key has them fetched once more, at most twice a minute: a key is new then, or
somebody makes names up.

Only keys of asymmetric algorithms are taken, each for one algorithm: with a public key nobody can
make a token, whatever its header says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import jwt
import msgspec
import structlog
import trio

from dalsegno.protocol import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = structlog.get_logger("dalsegno.tokens")

_KEYS_MAX, _BYTES_MAX = 32, 256 * 1024
_TOO_LONG = f"more than {_BYTES_MAX} bytes"
_ANSWER_S = 5.0
_KEPT_LEAST_S, _KEPT_S, _KEPT_MOST_S = 60.0, 300.0, 24 * 3600.0
_AHEAD = 0.8
"""Of the time for which keys are kept, after which they are fetched anew."""
_GOOD_S = 24 * 3600.0
"""For how long keys are relied on while the issuer is away."""
_AGAIN_S = 30.0
"""How often keys are fetched for the sake of an unknown name, or after a failure."""
_RSA_BITS_MIN = 2_048
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})(?:$|[\s,])")
_FAILURES = (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError)
_ALGORITHMS = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
"""By kind and curve."""


class TokenKey(NamedTuple):
    """A key, and the one algorithm that it is for."""

    algorithm: str
    key: Any
    """As PyJWT takes it."""


class TokenKeys:
    """The keys of one issuer, by name."""

    def __init__(self, source: str) -> None:
        """Make it; ``source`` is a file, or an address that begins with ``https://``."""
        self.source = source
        self._keys: dict[str, TokenKey] = {}
        self._fetched_at = -_GOOD_S
        self._tried_at = -_GOOD_S
        self._wanted = trio.Event()
        self._tried = trio.Event()

    def __repr__(self) -> str:
        return f"<TokenKeys of {self.source}, {len(self._keys)} of them>"

    async def find(self, name: str | None) -> TokenKey | None:
        """Return the key of a name, or the only one where a token names none; None: there is none.

        Raises:
            NotReadyError: no key was fetched, for a day or ever.

        """
        found = self._find(name)
        if found is None and trio.current_time() - self._tried_at >= _AGAIN_S:
            tried = self._tried
            self._wanted.set()
            with trio.move_on_after(_ANSWER_S):
                await tried.wait()
            found = self._find(name)
        if found is None and trio.current_time() - self._fetched_at >= _GOOD_S:
            raise NotReadyError("the keys of the tokens' issuer are not known", retry_after_s=5.0)
        return found

    def _find(self, name: str | None) -> TokenKey | None:
        if trio.current_time() - self._fetched_at >= _GOOD_S:
            return None
        if name is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(name)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them fresh until cancelled."""
        task_status.started()
        while True:
            kept_s = await self._fetch()
            self._wanted = trio.Event()
            tried, self._tried = self._tried, trio.Event()
            tried.set()
            with trio.move_on_after(kept_s):
                await self._wanted.wait()

    async def _fetch(self) -> float:
        """Fetch them; return after how many seconds to do so again."""
        self._tried_at = trio.current_time()
        try:
            with trio.fail_after(_ANSWER_S):
                document, kept_s = await self._read()
            keys = keys_of(document)
        except _FAILURES as error:
            _log.warning("keys_not_fetched", source=self.source, reason=_reason(error))
            return _AGAIN_S
        if not keys:
            _log.warning("keys_not_fetched", source=self.source, reason="none that can be used")
            return _AGAIN_S
        self._keys, self._fetched_at = keys, trio.current_time()
        return kept_s * _AHEAD

    async def _read(self) -> tuple[bytes, float]:
        """Read the document; return it, and for how long it may be kept.

        Raises:
            OSError: the file cannot be read.
            HTTPError: the issuer does not answer, or not with its keys.
            ValueError: it is too long.

        """
        if not is_address(self.source):
            document = await trio.Path(self.source).read_bytes()
            if len(document) > _BYTES_MAX:
                raise ValueError(_TOO_LONG)
            return document, _KEPT_LEAST_S
        # A redirect could lead anywhere, also to where nothing proves who answers.
        async with (
            httpx.AsyncClient(follow_redirects=False, timeout=_ANSWER_S) as http,
            http.stream("GET", self.source, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise httpx.HTTPError(f"HTTP {response.status_code}")
            pieces, left = [], _BYTES_MAX
            async for piece in response.aiter_bytes():
                # To the end: httpx's iterators do not close one another, and the time is bounded.
                left -= len(piece)
                if left >= 0:
                    pieces.append(piece)
            if left < 0:
                raise ValueError(_TOO_LONG)
            return b"".join(pieces), kept_s(response.headers.get("cache-control", ""))


def is_address(source: str) -> bool:
    """Return whether a source is a URL, and not a file."""
    return source.startswith(("https://", "http://"))


def kept_s(cache_control: str) -> float:
    """Return for how long an answer may be kept (RFC 9111 §5.2.2.1), within reason."""
    age = _MAX_AGE.search(cache_control.lower())
    return min(max(float(age[1]) if age else _KEPT_S, _KEPT_LEAST_S), _KEPT_MOST_S)


def keys_of(document: bytes) -> dict[str, TokenKey]:
    """Return the keys of a document that can be used, by name; the first of a name counts.

    Raises:
        ValueError: it is no set of keys.

    """
    try:
        said = msgspec.json.decode(document, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    listed = said.get("keys")
    if not isinstance(listed, list) or len(listed) > _KEYS_MAX:
        raise ValueError(f"keys is a list of at most {_KEYS_MAX}")
    found: dict[str, TokenKey] = {}
    for name, key in _usable(listed):
        found.setdefault(name, key)
    return found


def _usable(listed: Iterable[object]) -> Iterable[tuple[str, TokenKey]]:
    for each in listed:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig" or "d" in each:
            continue  # for something else, or a private key that was given away
        kind, curve = each.get("kty"), each.get("crv")
        if not isinstance(kind, str) or not isinstance(curve, str | None):
            continue
        algorithm = _ALGORITHMS.get((kind, curve))
        name = each.get("kid", "")
        if algorithm is None or each.get("alg", algorithm) != algorithm:
            continue
        if not isinstance(name, str):
            continue
        try:
            key = jwt.PyJWK(each, algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if algorithm == "RS256" and key.key_size < _RSA_BITS_MIN:
            continue
        yield name, TokenKey(algorithm, key)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
