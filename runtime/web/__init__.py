"""HTTP, the WebSocket upgrade, and the port that serves both."""

from ._admission import create_admission, overloaded
from ._app import create_app
from ._asgi import AsgiApplication
from ._auth import SessionCookie
from ._callers import workspace_meant
from ._certificate import Tls, TlsStatistics
from ._client_address import Network, client_address
from ._clients import Clients, Place, check_tab
from ._credentials import Credentials, Gate
from ._door import Door, SocketTransport
from ._handshake import UpgradeRequest
from ._hosts import Hosts, hosts_of, is_loopback
from ._identity import Identity
from ._listener import SOCKET, Serving, serve as serve_port
from ._native import NativeTransport
from ._polls import Polls
from ._tickets import check_lasts, redeem_ticket
from ._token_keys import TokenKeys, is_address
from ._tokens import TokenIssuer

__all__ = [
    "SOCKET",
    "AsgiApplication",
    "Clients",
    "Credentials",
    "Door",
    "Gate",
    "Hosts",
    "Identity",
    "NativeTransport",
    "Network",
    "Place",
    "Polls",
    "Serving",
    "SessionCookie",
    "SocketTransport",
    "Tls",
    "TlsStatistics",
    "TokenIssuer",
    "TokenKeys",
    "UpgradeRequest",
    "check_lasts",
    "check_tab",
    "client_address",
    "create_admission",
    "create_app",
    "hosts_of",
    "is_address",
    "is_loopback",
    "overloaded",
    "redeem_ticket",
    "serve_port",
    "workspace_meant",
]
