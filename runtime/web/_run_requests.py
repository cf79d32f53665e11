"""Requests for runs: how long each waits for the end of its run, and whose connection it is.

A request that waits is a connection like a socket: where its client hangs up, it is gone, and with
it a run whose worker says so.  Once it is answered it counts as there, for as long as its run is
open: a client that was told 202 comes back for the rest.  One that does not wait is no connection.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from quart import Response, request

from dalsegno.protocol import DalsegnoError, OutcomeUnknownError
from dalsegno.protocol.routes import preferred_wait_s
from dalsegno.protocol.runs import RunFinished, runs

from ._envelope import answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import msgspec

    from dalsegno.actors import ConnectionIds, World
    from dalsegno.protocol.runs import RunState
    from dalsegno.runtime import Workspace


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits for the end of its run."""

    wait_s: float
    is_preferred: bool = False
    """Whether ``Prefer`` says so, of which the answer says that it was heeded (RFC 7240 §3)."""

    @classmethod
    def of_request(cls, said_s: int | None, otherwise_s: float, max_s: float) -> Patience:
        """Return how long the current request waits.

        Args:
            said_s: what its parameter says, which counts before ``Prefer``.
            otherwise_s: where neither says anything.
            max_s: at most, where one of them does.

        """
        if said_s is not None:
            return cls(min(said_s, max_s))
        preferred_s = preferred_wait_s(", ".join(request.headers.getlist("prefer")))
        if preferred_s is None:
            return cls(otherwise_s)
        return cls(min(preferred_s, max_s), is_preferred=True)


class RunRequest:
    """One request for a run, from when it is read until it is answered."""

    def __init__(
        self, patience: Patience, ids: ConnectionIds, world: World, *, is_initiator: bool
    ) -> None:
        self.patience = patience
        self.connection_id = world.new_id() if patience.wait_s > 0 and is_initiator else None
        """None: it does not wait, or its loss is nothing to its run."""
        self._ids = ids
        self._goes_on = False
        """Whether it is answered, and its run goes on which would end with it."""

    def __repr__(self) -> str:
        return f"<RunRequest that waits {self.patience.wait_s:g} s>"

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Be the connection that asks, for the length of a block that ends with the answer."""
        id_ = self.connection_id
        if id_ is None:
            yield
            return
        self._ids.add(id_)
        try:
            yield
        except OutcomeUnknownError:
            self._goes_on = True  # an answer too: its client may ask again, by the same key
            raise
        finally:
            if self._goes_on:
                self._ids.leave(id_)
            else:
                self._ids.discard(id_)

    async def wait_ended(
        self,
        workspace: Workspace,
        run_id: str,
        *,
        after: int,
        waiting: AbstractContextManager[None],
    ) -> None:
        """Wait until a run has ended, or as long as the request waits.

        It is told of it by the workspace's hub, and asks the store for nothing meanwhile.  It waits
        no longer where the server shuts down, the workspace leaves this node, or the user may not
        read it; and not at all where too many wait.

        Raises:
            Reject: ``SESSION_REVOKED``: who asked may see nothing more.

        """
        try:
            with waiting:
                async with workspace.of(runs).subscribe(run_id, after=after) as events:
                    async for each in events:
                        if isinstance(each.event, RunFinished):
                            return
        except DalsegnoError as error:
            if error.code == "SESSION_REVOKED":
                raise
            return  # it was asked for, whatever keeps us from seeing its end

    def answer(
        self, workspace_id: str, run_id: str, run: RunState | None, body: msgspec.Struct
    ) -> Response:
        """Return the response: 200 where a run has ended or there is none, 202 where it goes on."""
        is_open = run is not None and run.is_open
        response = answer(body, 202 if is_open else 200)
        if run is not None and is_open:
            place = f"{quote(workspace_id, safe='')}/entities/{runs.name}/{quote(run_id, safe='')}"
            response.headers["location"] = f"/api/workspaces/{place}"
            self._goes_on = run.connection_id == self.connection_id
        if self.patience.is_preferred:
            applied = f"wait={self.patience.wait_s:g}" if self.patience.wait_s else "respond-async"
            response.headers["preference-applied"] = applied
        return response
