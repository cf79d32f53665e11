"""Logging in over HTTP, the cookie that results, and the server that gets it."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import httpx
import msgspec
import trio

from dalsegno.protocol import (
    DalsegnoError,
    OverloadedError,
    Reject,
    StoreUnavailableError,
    WorkspaceMovedError,
)

from ._errors import NoTokenError, UnreachableError, UnsafeAddressError, error_of, seconds
from ._flight import SingleFlight

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from ._policy import ClientLimits

    GetToken: TypeAlias = Callable[[], Awaitable[str]]


_LOG_OUT_S = 2.0
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)
"""What fits into a header, beside the others, and is one word there."""


class _Envelope(msgspec.Struct):
    code: str
    message: str = ""
    details: dict[str, object] | None = None


class Account:
    """The account that a client uses at a server."""

    def __init__(
        self,
        url: str,
        *,
        email: str | None,
        password: str | None,
        cookie: str | None,
        api_key: str | None = None,
        get_token: GetToken | None = None,
        ssl_context: ssl.SSLContext | None,
        limits: ClientLimits,
    ) -> None:
        self.url = url
        """The server to connect to: the program's, or the owner of a workspace that it named."""
        self._home = url
        self.cookie = cookie
        """The ``Cookie`` header; None before the first login, and with a key or a token."""
        self._bearer = api_key
        self._email = email
        self._password = password
        self._get_token = get_token
        self._ssl_context = ssl_context
        self._limits = limits
        self.log_in = SingleFlight(self._log_in if get_token is None else self._renew_token)
        """Begins a session, or gets a token: once for all that need it at the same time."""

    def __repr__(self) -> str:
        if self._get_token is not None:
            how = "by token"
        else:
            how = "by API key" if self._bearer else self._email or "by cookie"
        return f"<Account {how} at {self.url}>"

    @property
    def header(self) -> tuple[bytes, bytes]:
        """What shows who this is."""
        if self._bearer is not None:
            return b"Authorization", f"Bearer {self._bearer}".encode()
        return b"Cookie", (self.cookie or "").encode()

    @property
    def is_by_token(self) -> bool:
        """Whether the program gives tokens, the next before the last one expires."""
        return self._get_token is not None

    @property
    def token(self) -> str:
        """The token that was given last; empty before the first."""
        return self._bearer or ""

    @property
    def can_log_in(self) -> bool:
        """Whether there is a way to show anew who this is."""
        has_password = self._email is not None and self._password is not None
        return has_password or self._get_token is not None

    @property
    def needs_login(self) -> bool:
        """Whether nothing shows yet who this is."""
        return self.cookie is None and self._bearer is None

    def forget(self, header: tuple[bytes, bytes]) -> None:
        """Forget what was shown and refused, unless it was renewed in the meantime."""
        if self.can_log_in and self.header == header:
            self.cookie = self._bearer = None

    @property
    def is_away(self) -> bool:
        """Whether this follows the address of a workspace's owner."""
        return self.url != self._home

    def follow(self, address: object) -> bool:
        """Connect to that address from now on; return False where there is none, or no new one.

        Servers on one database know each other's sessions.

        Raises:
            UnsafeAddressError: the address is without TLS, unlike the one that gave it.

        """
        url = self._elsewhere(address)
        self.url = url or self._home
        return url is not None

    def _elsewhere(self, address: object) -> str | None:
        """Return the address of a workspace's owner; None where there is none, or no new one."""
        url = checked_url(address) if isinstance(address, str) else None
        if url is None or url == self.url:
            return None
        if url.startswith("http:") and "https" in {_scheme(self.url), _scheme(self._home)}:
            raise UnsafeAddressError(
                f"the workspace's owner is at {url}, which is not https as {self.url} is; the "
                "session is not sent there"
            )
        return url

    def go_home(self) -> None:
        """Connect to the program's own address again."""
        self.url = self._home

    async def get(self, path: str, query: Mapping[str, str]) -> bytes:
        """Read a resource, where its workspace's owner is if only that can tell.

        An expired session begins anew, where there are credentials.

        Raises:
            Reject: refused, with the server's code.
            UnavailableError: not now.
            UnreachableError: the server does not answer; a `NoTokenError` where there is no token.
            UnsafeAddressError: the owner's address is without TLS, unlike this one.

        """
        try:
            return await self._get(self.url, path, query)
        except WorkspaceMovedError as moved:
            owner = self._elsewhere(moved.details.get("address"))
            if owner is None:
                raise
            return await self._get(owner, path, query)

    async def _get(self, url: str, path: str, query: Mapping[str, str]) -> bytes:
        for is_last in (not self.can_log_in, True):
            while self.needs_login:
                await self.log_in()
            name, value = header = self.header
            try:
                async with self._http() as http:
                    response = await http.get(f"{url}{path}", params=query, headers={name: value})
            except httpx.HTTPError as error:
                raise UnreachableError(f"{url} does not answer: {_reason(error)}") from error
            if response.status_code != HTTPStatus.UNAUTHORIZED or is_last:
                break
            self.forget(header)
        if response.status_code != HTTPStatus.OK:
            raise refused(
                response.status_code, response.content, response.headers.get("retry-after")
            )
        return response.content

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Read a resource as it comes, for the length of a block.

        A server that says nothing for three heartbeats is considered gone.

        Raises:
            Reject: refused, with the server's code.
            UnavailableError: not now.
            UnreachableError: the server does not answer, or stops amid it.

        """
        timeout = httpx.Timeout(self._limits.connect_timeout_s, read=self._limits.silence_s)
        for is_last in (not self.can_log_in, True):
            while self.needs_login:
                await self.log_in()
            name, value = shown = self.header
            given = {name: value, **{n.encode(): v.encode() for n, v in (headers or {}).items()}}
            url = f"{self.url}{path}"
            try:
                async with (
                    self._http() as http,
                    http.stream("GET", url, params=query, headers=given, timeout=timeout) as found,
                ):
                    if found.status_code == HTTPStatus.UNAUTHORIZED and not is_last:
                        self.forget(shown)
                        continue
                    if found.status_code != HTTPStatus.OK:
                        body = await found.aread()
                        raise refused(found.status_code, body, found.headers.get("retry-after"))
                    yield found
                    return
            except httpx.HTTPError as error:
                raise UnreachableError(f"{self.url} does not answer: {_reason(error)}") from error

    def _http(self) -> httpx.AsyncClient:
        if self._ssl_context is None:
            self._ssl_context = httpx.create_ssl_context()  # once: it reads every certificate
        # trust_env stays on, so that the proxies of the environment are used.
        return httpx.AsyncClient(verify=self._ssl_context, timeout=self._limits.connect_timeout_s)

    async def _renew_token(self) -> None:
        """Ask the program for a token.

        Raises:
            NoTokenError: it gave none in time, or what cannot be one.

        """
        assert self._get_token is not None, "chosen for it"
        given_s = self._limits.token_timeout_s
        token: object = None
        with trio.move_on_after(given_s) as waiting:
            try:
                token = await self._get_token()
            except Exception as error:
                raise NoTokenError(f"token= raised {type(error).__name__}") from error
        if waiting.cancelled_caught:
            raise NoTokenError(f"token= has given no token within {given_s:g} s")
        if not (isinstance(token, str) and _TOKEN.fullmatch(token)):
            raise NoTokenError("token= has to return 1 to 8,192 printable characters, no blank")
        self._bearer = token

    async def _log_in(self) -> None:
        """Begin a session.

        Raises:
            Reject: ``INVALID_CREDENTIALS``, or another code of the server's.
            UnavailableError: the server cannot log in anybody now.
            UnreachableError: the server does not answer.

        """
        body = {"email": self._email, "password": self._password}
        async with self._http() as http:
            try:
                response = await http.post(f"{self.url}/api/auth/login", json=body)
            except httpx.HTTPError as error:
                raise UnreachableError(f"{self.url} does not answer: {_reason(error)}") from error
        if response.status_code == HTTPStatus.NOT_FOUND and urlsplit(self.url).path:
            origin = self.url.removesuffix(urlsplit(self.url).path)
            raise Reject("BAD_URL", f"there is no server at {self.url}; it may be at {origin}")
        if response.status_code != HTTPStatus.OK:
            raise refused(
                response.status_code, response.content, response.headers.get("retry-after")
            )
        self.cookie = "; ".join(f"{name}={value}" for name, value in response.cookies.items())


async def ask(
    *, url: str, email: str, password: str, method: str, path: str, body: object = None
) -> Any:  # noqa: ANN401 - any JSON
    """Log in, make one request over HTTP, log out; return the answer's JSON, or None without any.

    Raises:
        Reject: ``BAD_URL``, or refused, with the server's code.
        UnavailableError: not now.
        UnreachableError: the server does not answer.

    """
    server = checked_url(url)
    if server is None:
        raise Reject("BAD_URL", f"{url!r} is not http://HOST:PORT or https://HOST")
    credentials = {"email": email, "password": password}
    try:
        async with httpx.AsyncClient(base_url=server) as http:
            session = _decoded(await http.post("/api/auth/login", json=credentials))
            http.headers["x-csrf-token"] = session["csrf_token"]
            try:
                said = _decoded(await http.request(method, path, json=body))
            finally:
                with trio.move_on_after(_LOG_OUT_S, shield=True):
                    await http.post("/api/auth/logout", json={})
    except httpx.HTTPError as error:
        raise UnreachableError(f"{server} does not answer: {_reason(error)}") from error
    return said


def _decoded(response: httpx.Response) -> Any:  # noqa: ANN401 - as above
    if response.is_error:
        raise refused(response.status_code, response.content, response.headers.get("retry-after"))
    return msgspec.json.decode(response.content) if response.content else None


def checked_url(text: str) -> str | None:
    """Return a server's address without a slash at its end; None if the text is none."""
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return None
    is_server = parts.scheme in {"http", "https"} and parts.hostname and port_is_valid
    if not is_server or parts.query or parts.fragment:
        return None
    return text.rstrip("/")


def _scheme(url: str) -> str:
    return urlsplit(url).scheme


def refused(status: int, body: bytes | None, retry_after: str | None) -> DalsegnoError:
    """Return the error of an HTTP refusal: the envelope's, or our own if there is none."""
    try:
        said = msgspec.json.decode(body or b"", type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _without_envelope(status, retry_after)
    return error_of(said.code, said.message, said.details)


def _without_envelope(status: int, retry_after: str | None) -> DalsegnoError:
    message = f"HTTP {status}, but not from a dalsegno server"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return OverloadedError(message, retry_after_s=seconds(retry_after))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StoreUnavailableError(message)
    return Reject("BAD_RESPONSE", message)


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
