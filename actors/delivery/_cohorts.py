"""The readers of one stream: many in step with one another, and the rest each apart.

Nearly all readers of a stream were given the same, see it the same way, and take what they get at
once.  What is due to them is the same bytes then: it is found once for all of them, and a commit
costs each of them a write and nothing else.  Who needs more than that is *apart*: at its beginning,
while it is behind or slow, where it may not see all, and where answers are to be written together
with the events.  It is offered each item by itself, and comes back once it has everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dalsegno.protocol import Frames, Published, Subscription, View

    from ._delivery import Follower, Writing

    Member = tuple[Subscription, Writing, Callable[[Sequence[Frames]], bool]]
    """A reader in step, and its transport's `send_nowait`, looked up once."""


class InStep:
    """Readers of one stream who see it the same way and were given the same."""

    __slots__ = ("has_lost", "members", "sent")

    def __init__(self, sent: int) -> None:
        self.sent = sent
        """The number that all of them have, or are about to be given."""
        self.members: dict[Subscription, Member] = {}
        self.has_lost = False
        """Whether somebody left since they moved on."""

    def still(self, members: list[Member]) -> list[Member]:
        """Leave out who has left since."""
        return [one for one in members if one[0] in self.members] if self.has_lost else members


class Readers:
    """The readers of one stream; see the module."""

    __slots__ = ("_in_step", "apart")

    def __init__(self) -> None:
        self.apart: dict[Subscription, Follower] = {}
        self._in_step: dict[View, InStep] = {}

    def __repr__(self) -> str:
        return f"<Readers: {len(self)}, {len(self.apart)} of them apart>"

    def __len__(self) -> int:
        return len(self.apart) + sum(len(step.members) for step in self._in_step.values())

    def __iter__(self) -> Iterator[tuple[Subscription, Follower]]:
        yield from self.apart.items()
        for step in self._in_step.values():
            for subscription, writing, _ in step.members.values():
                yield subscription, writing

    def add(self, subscription: Subscription, follower: Follower) -> None:
        """Add a reader, apart at first."""
        self.apart[subscription] = follower

    def remove(self, subscription: Subscription) -> None:
        """Take a reader out; nothing where it is out already."""
        self.part(subscription)
        self.apart.pop(subscription, None)

    def join(self, subscription: Subscription, writing: Writing) -> None:
        """Let a reader for whom nothing waits step in with the others, if it is where they are."""
        view, sent = subscription.view, subscription.sent
        sees_all = subscription.live and subscription.last_visible is None
        if view is None or not sees_all or subscription not in self.apart:
            return
        step = self._in_step.get(view) or InStep(sent)
        if step.sent == sent:
            del self.apart[subscription]
            step.members[subscription] = subscription, writing, writing.transport.send_nowait
            self._in_step[view] = step

    def part(self, subscription: Subscription) -> None:
        """Let a reader go on by itself, from where it is; nothing where it does already."""
        view = subscription.view
        step = None if view is None else self._in_step.get(view)
        if view is None or step is None or subscription not in step.members:
            return
        step.has_lost = True
        self.apart[subscription] = step.members.pop(subscription)[1]
        if not step.members:
            del self._in_step[view]

    def advance(self, item: Published) -> list[tuple[InStep, Frames]]:
        """Move everybody in step past an item; tell what is to be written to whom."""
        due = []
        for view, step in list(self._in_step.items()):
            try:
                frames = item.frames(view) if item.first == step.sent + 1 else None
            except Exception:  # noqa: BLE001 - it is raised again at each of them
                frames = None
            if frames is None:
                for subscription in list(step.members):
                    self.part(subscription)
            else:
                step.sent, step.has_lost = item.last, False
                due.append((step, frames))
        return due
