"""The streams that one connection follows: which are behind, and which are in no cohort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from dalsegno.actors.delivery import Frontier, Hub
    from dalsegno.actors.ports import SocketSubscriber
    from dalsegno.protocol import Subscription


@dataclass(slots=True, eq=False)
class ActiveSubscription:
    """A stream that a connection follows."""

    subscription: Subscription
    hub: Hub
    frontier: Frontier
    head: int
    """The stream's last number when it began."""
    chain: int | None
    """The chain at the cursor it began after; None where that event is no longer kept."""


class Streams(dict[str, ActiveSubscription]):
    """By stream id; a connection may follow a thousand, so nothing here looks at all of them."""

    __slots__ = ("_apart", "behind")

    def __init__(self) -> None:
        super().__init__()
        self.behind: dict[str, None] = {}
        """Those to be caught up, the next first."""
        self._apart: dict[str, None] = {}
        """Those that are in no cohort, as far as is known."""

    def add(self, stream: ActiveSubscription) -> None:
        """Follow a stream, from its cursor on."""
        stream_id = stream.subscription.stream_id
        self[stream_id] = stream
        self._apart[stream_id] = self.behind[stream_id] = None

    def remove(self, stream: ActiveSubscription) -> None:
        """Follow a stream no longer."""
        stream_id = stream.subscription.stream_id
        del self[stream_id]
        stream.hub.unregister(stream.subscription)
        self.behind.pop(stream_id, None)
        self._apart.pop(stream_id, None)

    def next_behind(self) -> ActiveSubscription:
        """Take out the stream to catch up next; `put_last` puts it back if it is still behind."""
        stream_id = next(iter(self.behind))
        del self.behind[stream_id]
        return self[stream_id]

    def put_last(self, stream: ActiveSubscription) -> None:
        """Have a stream that is still followed, and behind, caught up after the others."""
        stream_id = stream.subscription.stream_id
        if self.get(stream_id) is stream and not stream.subscription.live:
            self.behind.pop(stream_id, None)
            self.behind[stream_id] = None

    # ------------------------------------------------------------------------------- cohorts

    def join_cohorts(self, subscriber: SocketSubscriber) -> None:
        """Have all served together with those of others, where that is possible."""
        for stream_id in list(self._apart):
            stream = self[stream_id]
            if stream.hub.join_cohort(stream.subscription, subscriber):
                del self._apart[stream_id]

    def leave_cohorts(self, workspace_id: str, stream_ids: Collection[str]) -> None:
        """Have those of these streams that are followed here served individually."""
        few, many = (stream_ids, self) if len(stream_ids) < len(self) else (list(self), stream_ids)
        for stream_id in few:
            stream = self.get(stream_id) if stream_id in many else None
            if stream is not None and stream.hub.workspace_id == workspace_id:
                stream.hub.leave_cohort(stream.subscription)

    def left_cohort(self, subscription: Subscription) -> None:
        """Note that a stream is served individually now."""
        if subscription.stream_id in self:
            self._apart[subscription.stream_id] = None
