"""A tenant of coordination over HTTP, and one request of each kind that makes something."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import msgspec

API = "/api/v1"

Json = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: Json
    raw: bytes

    @property
    def body(self) -> Json:
        decoded: Json = msgspec.json.decode(self.raw)
        return decoded

    @property
    def code(self) -> str:
        """The error's code."""
        return str(self.body["code"])


class Tenant(ABC):
    """A tenant, as one of its members."""

    id: str

    @abstractmethod
    async def send(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> Answered: ...

    async def get(self, path: str, **headers: str) -> Json:
        answer = await self.send("GET", path, **headers)
        assert answer.status == 200, answer.raw
        return _without_request(answer.body)

    async def post(self, path: str, body: object = None, status: int = 201) -> Json:
        answer = await self.send("POST", path, body)
        assert answer.status == status, answer.raw
        return {} if status == 204 else _without_request(answer.body)

    async def patch(self, path: str, body: object) -> Json:
        answer = await self.send("PATCH", path, body)
        assert answer.status == 200, answer.raw
        return _without_request(answer.body)

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        answer = await self.send(method, path, body)
        assert answer.status >= 400, answer.raw
        return answer.status, answer.code

    # ------------------------------------------------------------------------- what is made

    async def agent(self, **more: Any) -> str:
        body = {**AGENT, **more}
        return str((await self.post("/agents", body))["agent_id"])

    async def trajectory(self, **more: Any) -> str:
        return str((await self.post("/trajectories", {"name": "T", **more}))["trajectory_id"])

    async def scope(self, trajectory_id: str, **more: Any) -> str:
        body = {"trajectory_id": trajectory_id, "name": "S", "token_budget": 100, **more}
        return str((await self.post("/scopes", body))["scope_id"])

    async def artifact(self, trajectory_id: str, scope_id: str, **more: Any) -> str:
        body = {**ARTIFACT, "trajectory_id": trajectory_id, "scope_id": scope_id, **more}
        return str((await self.post("/artifacts", body))["artifact_id"])

    async def note(self, **more: Any) -> str:
        return str((await self.post("/notes", {**NOTE, **more}))["note_id"])

    async def turn(self, scope_id: str, sequence: int = 0) -> str:
        body = {**TURN, "scope_id": scope_id, "sequence": sequence}
        return str((await self.post("/turns", body))["turn_id"])

    async def lock(self, holder: str, **more: Any) -> Json:
        return await self.post("/locks/acquire", {**LOCK, "holder_agent_id": holder, **more})

    async def message(self, sender: str, recipient: str, **more: Any) -> str:
        body = {**MESSAGE, "from_agent_id": sender, "to_agent_id": recipient, **more}
        return str((await self.post("/messages", body))["message_id"])

    async def place(self) -> tuple[str, str]:
        trajectory_id = await self.trajectory()
        return trajectory_id, await self.scope(trajectory_id)

    async def delegation(self, giver: str, taker: str, **more: Any) -> Json:
        trajectory_id, scope_id = await self.place()
        body = {
            "from_agent_id": giver,
            "to_agent_id": taker,
            "trajectory_id": trajectory_id,
            "scope_id": scope_id,
            "task_description": "D",
            **more,
        }
        return await self.post("/delegations", body)

    async def handoff(self, giver: str, taker: str, **more: Any) -> Json:
        trajectory_id, scope_id = await self.place()
        body = {
            "from_agent_id": giver,
            "to_agent_id": taker,
            "trajectory_id": trajectory_id,
            "scope_id": scope_id,
            "reason": "Specialization",
            "context_snapshot": {"at": 1},
            **more,
        }
        return await self.post("/handoffs", body)


def _without_request(body: Json) -> Json:
    return {name: value for name, value in body.items() if name != "request_id"}


AGENT: Json = {
    "agent_type": "coder",
    "capabilities": ["code"],
    "memory_access": {"read": ["all"], "write": []},
    "can_delegate_to": ["tester"],
}
ARTIFACT: Json = {
    "artifact_type": "Code",
    "name": "A",
    "content": "print()",
    "source_turn": 1,
    "extraction_method": "Explicit",
    "ttl": "Persistent",
}
NOTE: Json = {
    "note_type": "Fact",
    "title": "N",
    "content": "so it is",
    "source_trajectory_ids": [],
    "source_artifact_ids": [],
    "ttl": "Persistent",
}
TURN: Json = {"role": "User", "content": "Hello", "token_count": 2}
LOCK: Json = {
    "resource_type": "file",
    "resource_id": "main.py",
    "timeout_ms": 60_000,
    "mode": "Exclusive",
}
MESSAGE: Json = {"message_type": "CoordinationSignal", "payload": {"say": "hi"}}
