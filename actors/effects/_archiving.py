"""What a run that writes an archive is given: reads of one moment, rows, and files of its node."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.node import AsOf, StoreDump, look
from dalsegno.protocol import (
    SYSTEM,
    SYSTEM_WORKSPACE,
    ArtifactError,
    DalsegnoError,
    DomainError,
    Reject,
    not_a_member,
)
from dalsegno.protocol.runs import Artifact, artifact_of, runs

from ._names import NAME_CHARS_MAX, ids_in, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.actors.node import Catalog, Directory, ServingNode
    from dalsegno.actors.ports import ArtifactFile
    from dalsegno.protocol import Principal
    from dalsegno.protocol.runs import RunState

_log = logging.getLogger("dalsegno.runs")

_BEHIND_S = 5.0
"""How long a file that nobody wants may take to be deleted, before it is left to the sweep."""


def artifact_name(workspace_id: str, run_id: str, attempt_id: str, suffix: str) -> str:
    """Return the name of a file: whose it is, of which run, and which attempt's alone.

    Raises:
        ArtifactError: the run's id is too long to stand in a file's name.

    """
    name = name_of(workspace_id, run_id, attempt_id) + suffix
    if len(name) > NAME_CHARS_MAX:
        raise ArtifactError("the id of a run that writes a file is shorter than this one")
    return name


class Writing:
    """A file of an attempt, while it is written."""

    def __init__(self, file: ArtifactFile, node: ServingNode, name: str) -> None:
        self._file = file
        self._node = node
        self._name = name
        self.is_finished = False

    def __repr__(self) -> str:
        return f"<Writing {self._name}>"

    async def write(self, data: bytes) -> None:
        """Write more; see `ArtifactWriter.write`."""
        await self._file.write(data)

    async def finish(self) -> Artifact:
        """Make it durable; see `ArtifactWriter.finish`."""
        size, digest = await self._file.finish()
        self.is_finished = True
        node = self._node
        return Artifact(
            name=self._name,
            node_id=node.node_id,
            bytes=size,
            sha256=digest,
            expires_at=node.world.now() + timedelta(seconds=node.limits.artifact_ttl_s),
        )


class AttemptArtifacts:
    """The files of one attempt."""

    def __init__(self, node: ServingNode, workspace_id: str, run_id: str, attempt_id: str) -> None:
        self._node = node
        self._ids = workspace_id, run_id, attempt_id
        self._finished: list[str] = []

    def __repr__(self) -> str:
        return f"<AttemptArtifacts, {len(self._finished)} finished>"

    @asynccontextmanager
    async def write(self, suffix: str) -> AsyncIterator[Writing]:
        """Write a file for the length of a block; see `ArchivingWork.artifact`.

        Raises:
            ArtifactError: it cannot be begun: there is no folder for it here, say.

        """
        artifacts = self._node.artifacts
        if artifacts is None:
            raise ArtifactError("this node has no folder for artifacts")
        name = artifact_name(*self._ids, suffix)
        async with artifacts.write(name) as file:
            writing = Writing(file, self._node, name)
            try:
                yield writing
            finally:
                if writing.is_finished:
                    self._finished.append(name)

    async def discard(self) -> None:
        """Delete what is finished: the attempt ends without it."""
        artifacts, names = self._node.artifacts, self._finished
        self._finished = []
        if artifacts is None or not names:
            return
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + _BEHIND_S
            for name in names:
                try:
                    await artifacts.delete(name)
                except ArtifactError as error:
                    _log.warning("%s is left to the sweep: %s", name, error)


class ReadingAt(AsOf):
    """A workspace as it was at its events, with somebody's rights, which are judged each time."""

    def __init__(
        self, directory: Directory, catalog: Catalog, workspace_id: str, principal: Principal
    ) -> None:
        node = directory.node
        super().__init__(node.store, workspace_id, node.limits)
        self._catalog = catalog
        self._principal = principal

    async def judge(self) -> None:
        """Raise unless the principal may read the workspace now.

        Raises:
            Reject: ``ROLE_FORBIDDEN``.

        """
        await self._catalog.check_member(self.workspace_id, self._principal)


def dump_of(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    principal: Principal,
    allow: frozenset[str],
) -> StoreDump:
    """Return the rows of a workspace; of all of them, for a run of ``$system``.

    Who asked for the run is judged at each page: rows have what no other read shows.

    Raises:
        DomainError: this store has no rows.

    """
    node = directory.node

    async def judge() -> None:
        if principal.user_id is None:
            return
        role = await catalog.role_of(workspace_id, principal.user_id)
        if role is None:
            raise not_a_member()
        if role not in allow:
            raise Reject("ROLE_FORBIDDEN", "not allowed any longer", role=role)

    return StoreDump(
        node.store,
        node.dumps,
        catalog.domains,
        node.limits,
        only=None if workspace_id == SYSTEM_WORKSPACE else workspace_id,
        judge=judge,
    )


class ArtifactSweep:
    """Deletes the files that are too old, or that no run names; see `Sweep`."""

    def __init__(self, directory: Directory, catalog: Catalog) -> None:
        self._directory = directory
        self._catalog = catalog

    def __repr__(self) -> str:
        return "<ArtifactSweep>"

    async def __call__(self, *, limit: int) -> int:
        """Delete at most ``limit`` files and return how many."""
        artifacts = self._directory.node.artifacts
        if artifacts is None:
            return 0
        try:
            return await artifacts.sweep(self._is_wanted, limit=limit)
        except ArtifactError as error:
            _log.warning("artifacts were not swept: %s", error)
            return 0

    async def _is_wanted(self, name: str) -> bool:
        """Return whether a run names a file, or may yet."""
        ids = ids_in(name)
        if ids is None:
            return False
        try:
            entity = await look(
                self._directory, self._catalog, ids[0], runs, ids[1], principal=SYSTEM
            )
        except DomainError:
            return True  # this program has no runs; the one that made it may be started again
        except DalsegnoError as error:
            _log.info("%s is kept: %s", name, error)
            return True
        run: RunState | None = None if entity is None else entity.state
        if run is None:
            return False
        artifact = artifact_of(run)
        return run.is_open or (artifact is not None and artifact.name == name)
