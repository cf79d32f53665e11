"""Who is present, as a client puts it together from what it is told."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]


class Seen:
    """What one client knows of one workspace."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.rev = -1
        self.users: dict[str, Message] = {}
        self.total = 0
        self.settled = False
        self.connection_id: str | None = None
        self.lists = 0
        """How often it was told all of it …"""
        self.diffs = 0
        """… and how often what has changed."""

    def hear(self, message: Message) -> bool:
        """Take a list or a change; return False for a change that does not follow."""
        if message["type"] == "presence":
            self.lists += 1
            self.epoch, self.rev = message["epoch"], message["rev"]
            self.users = {user["user_id"]: user for user in message["users"]}
            self.connection_id = message.get("connection_id", self.connection_id)
        elif (message["epoch"], message["rev"]) != (self.epoch, self.rev + 1):
            return False
        else:
            self.diffs += 1
            self.rev = message["rev"]
            gone = {*message["left"]}
            assert gone <= self.users.keys()
            assert not {user["user_id"] for user in message["joined"]} & self.users.keys()
            assert {user["user_id"] for user in message["changed"]} <= self.users.keys()
            for user_id in gone:
                del self.users[user_id]
            for user in (*message["joined"], *message["changed"]):
                self.users[user["user_id"]] = user
        self.total, self.settled = message["total"], message["settled"]
        return True

    def states(self, user_id: str) -> list[Any]:
        """What a user's connections say of themselves."""
        return [each["state"] for each in self.users[user_id]["connections"]]
