"""HTTP, the WebSocket upgrade, and the port that serves both."""

from ._app import create_app
from ._auth import Identity, authenticate
from ._client_address import Network
from ._handshake import UpgradeRequest
from ._listener import Serving, serve as serve_port
from ._native import NativeTransport

__all__ = [
    "Identity",
    "NativeTransport",
    "Network",
    "Serving",
    "UpgradeRequest",
    "authenticate",
    "create_app",
    "serve_port",
]
