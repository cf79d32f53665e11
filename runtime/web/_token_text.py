"""Our own tokens as text: ``dsa_<secret>_<expiry>_<mac>`` and ``dsr_<root>_<generation>_<mac>``.

The root, 256 random bits, is in every refresh token of one log-in, a secret that is made of it in
every access token, and a digest of that in the store.  The MACs are made with a key of the log-in,
which is in the store too.  So whoever reads the store makes no token, without a secret; whoever has
an access token makes no refresh token; and whoever has an old refresh token makes no later one.
The server makes the same one again from an older, and need not store it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from hmac import compare_digest, digest
from typing import NamedTuple

from dalsegno.protocol import Reject

_ACCESS = re.compile(r"dsa_([0-9a-f]{64})_([1-9][0-9]{0,13})_([0-9a-f]{64})", re.ASCII)
_REFRESH = re.compile(r"dsr_([0-9a-f]{64})_([1-9][0-9]{0,17})_([0-9a-f]{64})", re.ASCII)


class AccessText(NamedTuple):
    """What an access token says."""

    secret: bytes
    expires_ms: int
    """Milliseconds since 1970, UTC."""
    mac: bytes

    @property
    def id_hash(self) -> bytes:
        """The digest under which its log-in is stored."""
        return _id_hash(self.secret)

    def is_made_with(self, key: bytes) -> bool:
        """Return whether the expiry is the one that was given."""
        return compare_digest(self.mac, _mac(key, "access", self.expires_ms))


class RefreshText(NamedTuple):
    """What a refresh token says."""

    root: bytes
    generation: int
    mac: bytes

    @property
    def id_hash(self) -> bytes:
        """The digest under which its log-in is stored."""
        return id_hash_of(self.root)

    def is_made_with(self, key: bytes) -> bool:
        """Return whether a token of this generation was given."""
        return compare_digest(self.mac, _mac(key, "refresh", self.generation))


def is_own(text: str) -> bool:
    """Return whether a text is to be read as a token of ours, of either kind."""
    return text.startswith(("dsa_", "dsr_"))


def id_hash_of(root: bytes) -> bytes:
    """Return the digest under which a log-in is stored."""
    return _id_hash(_secret_of(root))


def access_text(root: bytes, key: bytes, expires_ms: int) -> str:
    """Return an access token."""
    mac = _mac(key, "access", expires_ms)
    return f"dsa_{_secret_of(root).hex()}_{expires_ms}_{mac.hex()}"


def refresh_text(root: bytes, key: bytes, generation: int) -> str:
    """Return the refresh token of a generation: always the same."""
    return f"dsr_{root.hex()}_{generation}_{_mac(key, 'refresh', generation).hex()}"


def read_access(text: str) -> AccessText:
    """Read an access token.

    Raises:
        Reject: ``TOKEN_INVALID`` for what was never one.

    """
    match = _ACCESS.fullmatch(text)
    if match is None:
        raise Reject("TOKEN_INVALID", "this is no access token")
    return AccessText(bytes.fromhex(match[1]), int(match[2]), bytes.fromhex(match[3]))


def read_refresh(text: str) -> RefreshText:
    """Read a refresh token.

    Raises:
        Reject: ``TOKEN_INVALID`` for what was never one.

    """
    match = _REFRESH.fullmatch(text)
    if match is None:
        raise Reject("TOKEN_INVALID", "this is no refresh token")
    return RefreshText(bytes.fromhex(match[1]), int(match[2]), bytes.fromhex(match[3]))


def _secret_of(root: bytes) -> bytes:
    return digest(root, b"access", "sha256")


def _id_hash(secret: bytes) -> bytes:
    # With a prefix, so that it is the digest of no cookie.
    return sha256(b"dalsegno tokens:" + secret).digest()


def _mac(key: bytes, kind: str, number: int) -> bytes:
    return digest(key, f"{kind}:{number}".encode(), "sha256")
