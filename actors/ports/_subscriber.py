"""The port between a workspace's hub and its subscribers: connections, and a host's loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from dalsegno.protocol import DalsegnoError, Frames, Publication, Subscription

    from ._transport import Transport


class Subscriber(Protocol):
    """The holder of subscriptions: a connection, or a loop in the host's program."""

    user_id: str | None
    """The user who sees what is delivered; None for the host itself."""

    def offer(self, subscription: Subscription, item: Publication) -> None:
        """Take what is due of an item; never waits, never raises."""

    def say(self, subscription: Subscription, frames: Frames) -> bool:
        """Write what a run says, if that is possible at once; return whether it was written.

        It waits nowhere: what is not written now never is.  Never raises.
        """

    def revoked(self, subscription: Subscription) -> None:
        """End the subscription, everything visible having been offered, unless it is behind."""

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """End the subscription with the reason; never waits, never raises."""


class SocketSubscriber(Subscriber, Protocol):
    """A subscriber that writes to a transport; in a cohort the hub writes for all of them."""

    transport: Transport

    def flush_nowait(self) -> None:
        """Write what is due, as far as possible without waiting; never raises."""

    def leave_cohorts(self, workspace_id: str, stream_ids: Collection[str]) -> None:
        """Have those of its streams in a workspace served individually; never raises."""

    def left_cohort(self, subscription: Subscription) -> None:
        """Note that a subscription is served individually now; never raises."""

    def write_on(self) -> None:
        """Start to write the rest, which the transport did not take at once; never raises."""

    def on_write_error(self, error: Exception) -> None:
        """Handle the error of a write, within its ``except`` block; never raises."""
