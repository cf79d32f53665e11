"""The readers of one stream: most of them in cohorts, the rest individual.

Nearly all readers of a stream were given the same, see it the same way, and take what they get at
once.  What is due to them is the same bytes then: it is encoded once for the whole *cohort*, and a
commit costs each member one write and nothing else.  A reader that needs more than that is
*individual*: at its beginning, while it is behind or slow, where it may not see all, and where
answers are to be written together with the events.  It is offered each item by itself, and joins
a cohort again once it has everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dalsegno.actors.ports import SocketSubscriber, Subscriber
    from dalsegno.protocol import Frames, Publication, Subscription, View

    Member = tuple[Subscription, SocketSubscriber, Callable[[Sequence[Frames]], bool]]
    """A reader in a cohort, and its transport's `send_nowait`, looked up once."""


class Cohort:
    """Readers of one stream that see it the same way and were given the same."""

    __slots__ = ("has_lost", "members", "sent")

    def __init__(self, sent: int) -> None:
        self.sent = sent
        """The number that all of them have, or are about to be given."""
        self.members: dict[Subscription, Member] = {}
        self.has_lost = False
        """Whether a member left since the cohort last moved on."""

    def __repr__(self) -> str:
        return f"<Cohort of {len(self.members)} at {self.sent}>"

    def remaining(self, members: list[Member]) -> list[Member]:
        """Return those of ``members`` that have not left since the cohort moved on."""
        return [one for one in members if one[0] in self.members] if self.has_lost else members


class Readers:
    """The readers of one stream; see the module."""

    __slots__ = ("_cohorts", "individual")

    def __init__(self) -> None:
        self.individual: dict[Subscription, Subscriber] = {}
        self._cohorts: dict[View, Cohort] = {}

    def __repr__(self) -> str:
        return f"<Readers: {len(self)}, {len(self.individual)} of them individual>"

    def __len__(self) -> int:
        return len(self.individual) + sum(len(each.members) for each in self._cohorts.values())

    def __iter__(self) -> Iterator[tuple[Subscription, Subscriber]]:
        yield from self.individual.items()
        for cohort in self._cohorts.values():
            for subscription, subscriber, _ in cohort.members.values():
                yield subscription, subscriber

    def hearing(self) -> list[tuple[Subscription, Subscriber]]:
        """Return those that are shown what runs say."""
        return self._those(lambda subscription: subscription.frame_view is not None)

    def told_presence(self) -> list[tuple[Subscription, Subscriber]]:
        """Return those that are told who is present."""
        return self._those(lambda subscription: subscription.presence_view is not None)

    def _those(
        self, is_one: Callable[[Subscription], bool]
    ) -> list[tuple[Subscription, Subscriber]]:
        """Return those of some dialects: in a cohort, which has one, all of them or none."""
        those = [one for one in self.individual.items() if is_one(one[0])]
        for cohort in self._cohorts.values():
            if is_one(next(iter(cohort.members))):
                those += [member[:2] for member in cohort.members.values()]
        return those

    def add(self, subscription: Subscription, subscriber: Subscriber) -> None:
        """Add a reader, individual at first."""
        self.individual[subscription] = subscriber

    def remove(self, subscription: Subscription) -> None:
        """Remove a reader, if it is among them."""
        self.leave(subscription)
        self.individual.pop(subscription, None)

    def join(self, subscription: Subscription, subscriber: SocketSubscriber) -> bool:
        """Move a reader for which nothing waits into the cohort of its view, if it is level.

        Returns whether it is in a cohort now.
        """
        view, sent = subscription.view, subscription.sent
        if subscription not in self.individual:
            return True
        if view is None or not subscription.live or subscription.last_visible is not None:
            return False
        cohort = self._cohorts.get(view) or Cohort(sent)
        if cohort.sent != sent:
            return False
        del self.individual[subscription]
        send = subscriber.transport.send_nowait
        cohort.members[subscription] = subscription, subscriber, send
        self._cohorts[view] = cohort
        return True

    def leave(self, subscription: Subscription) -> None:
        """Make a reader individual, from where it is; no effect if it is individual already."""
        view = subscription.view
        cohort = None if view is None else self._cohorts.get(view)
        if view is None or cohort is None or subscription not in cohort.members:
            return
        cohort.has_lost = True
        _, subscriber, _ = cohort.members.pop(subscription)
        self.individual[subscription] = subscriber
        subscriber.left_cohort(subscription)
        if not cohort.members:
            del self._cohorts[view]

    def advance(self, item: Publication) -> list[tuple[Cohort, Frames]]:
        """Move every cohort past an item; return what is to be written to each."""
        due = []
        for view, cohort in list(self._cohorts.items()):
            try:
                frames = item.frames(view) if item.first == cohort.sent + 1 else None
            except Exception:  # noqa: BLE001 - it is raised again at each individual member
                frames = None
            if frames is None:
                for subscription in list(cohort.members):
                    self.leave(subscription)
            else:
                cohort.sent, cohort.has_lost = item.last, False
                due.append((cohort, frames))
        return due
