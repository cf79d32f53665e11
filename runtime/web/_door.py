"""Lets WebSockets in and serves them, whether the listener or an ASGI server shook their hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import structlog
import trio

from dalsegno.actors import Transport, TransportClosedError
from dalsegno.protocol import (
    Close,
    DalsegnoError,
    InternalError,
    StoreUnavailableError,
)

from ._handshake import refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.protocol import Limits

    from ._admission import Admission
    from ._handshake import UpgradeRequest

log = structlog.get_logger("dalsegno.listener")


class SocketTransport(Transport, Protocol):
    """A WebSocket's transport: its client may have to say first who it is."""

    def lift_bound(self, limits: Limits) -> None:
        """Take what follows the first message: it is known now who the client is."""


TransportT = TypeVar("TransportT", bound=SocketTransport)
AcceptedT = TypeVar("AcceptedT")


class Door(Generic[TransportT, AcceptedT]):
    """The sockets that came one way, from their handshake to their end."""

    def __init__(
        self,
        accept: Callable[[UpgradeRequest], Awaitable[AcceptedT]],
        handle: Callable[[TransportT, AcceptedT], Awaitable[None]],
        release: Callable[[AcceptedT], None],
        *,
        admission: Admission,
        limits: Limits,
    ) -> None:
        """Make it.

        Args:
            accept: authenticates an upgrade.  A `DalsegnoError` refuses it with plain HTTP.
            handle: serves a connection that ``accept`` has admitted.
            release: is called once for whatever ``accept`` has admitted, when its connection has
                ended, also where it ended before ``handle`` was called.
            admission: how many there may be.
            limits: the bounds.

        """
        self.open = 0
        """How many are served."""
        self._entering = 0
        self._accept = accept
        self._handle = handle
        self._admission = admission
        self._limits = limits
        self.release = release

    def __repr__(self) -> str:
        return f"<Door {self.open} open, {self._entering} in their handshakes>"

    async def admit(self, request: UpgradeRequest) -> AcceptedT:
        """Let a client in; `serve` or `release` has to follow.

        Raises:
            HandshakeRefusedError: it may not come in, or not now.

        """
        self._entering += 1
        try:
            self._admission.check_websockets(self.open + self._entering)
            async with self._admission.handshake():
                with trio.fail_after(self._limits.command_deadline_s):
                    return await self._accept(request)
        except DalsegnoError as error:
            raise refused(error) from error
        except trio.TooSlowError as error:
            raise refused(StoreUnavailableError("authentication takes too long")) from error
        except Exception as error:
            log.exception("accept_raised", request_id=request.request_id)
            raise refused(InternalError("see the log")) from error
        finally:
            self._entering -= 1

    async def serve(self, transport: TransportT, accepted: AcceptedT) -> None:
        """Serve a client that was let in, and close its connection; exceptions go no further."""
        code, reason = Close.GOING_AWAY, "shutting down"  # if the handler is cancelled
        self.open += 1
        try:
            await self._handle(transport, accepted)
            code, reason = Close.NORMAL, ""
        except* TransportClosedError:
            pass
        except* Exception:
            log.exception("handler_raised")
            code, reason = Close.INTERNAL, "internal error"
        finally:
            self.open -= 1
            self.release(accepted)
            # It has a deadline.  Cancelled, it writes what it can without waiting.
            await transport.aclose(code, reason)
