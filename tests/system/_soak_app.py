"""What the soak serves: notes, rules about them, exports of them, agents that coordinate, proposals
that are validated and iterated on, and the runs that all of them ask for.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence

import trio

from dalsegno.actors.domains.automation import (
    automation_domains,
    automation_routes,
    automation_workers,
)
from dalsegno.actors.domains.coordination import (
    caliber_socket,
    coordination_domains,
    coordination_routes,
    delegations,
)
from dalsegno.actors.domains.coordination._delegations import DelegationCreated
from dalsegno.actors.domains.jobs import export_worker
from dalsegno.actors.domains.notes import CreateNote, note_dialect, note_domains, note_routes
from dalsegno.actors.domains.reviews import (
    review_domains,
    review_roles,
    review_routes,
    review_sockets,
    review_workers,
)
from dalsegno.actors.effects import Reaction, Run
from dalsegno.protocol import App, Reject, RunFor
from dalsegno.protocol.providers import ProviderSettings
from dalsegno.protocol.runs import Retry, worker

_RETRY = Retry(attempts_max=50, first_s=0.05, max_s=0.5, on=frozenset({"PROVIDER_AWAY"}))


@worker("stepping", deadline_s=60, concurrency=8, retry=_RETRY)
async def stepping(run: Run) -> CreateNote:
    """Say something, and make a note, three times; at times fail in between."""
    for name in ("one", "two", "three"):
        await run.say(f"{run.attempt_id} {name} " * random.choice([1, 1, 50]), message_id=name)
        await run.send(CreateNote(title=f"{run.id} {name}"), step=name)
        await trio.sleep(random.choice([0.0, 0.05, 0.3]))
        if random.random() < 0.1:
            raise Reject("PROVIDER_AWAY")
    return CreateNote(title=f"{run.id} end")


@worker("hanging", deadline_s=1.5, concurrency=8, retry=_RETRY)
async def hanging(run: Run) -> None:
    """Say something, and never answer."""
    await run.say(f"{run.attempt_id} one ")
    await trio.sleep_forever()


@delegations.requests(DelegationCreated, name="review")
async def review(reaction: Reaction, _event: DelegationCreated) -> Sequence[RunFor]:
    """Ask for a run for each delegation, and look at it as it was then."""
    assert await reaction.state() is not None
    return [RunFor(worker="stepping")]


VALIDATING = "import sys, time; print('looking'); time.sleep(0.1); print(sys.argv[1])"

reviewing = review_workers(
    root=os.environ["SOAK_PROJECTS"],
    validate=[sys.executable, "-c", VALIDATING, "{proposal_id}"],
    models=[
        ProviderSettings(
            provider_kind="lmstudio",
            model="small",
            base_url=f"{os.environ['DALSEGNO_MODELS']}/v1/chat/completions",
            timeout_ms=20_000,
            retry_limit=0,
        )
    ],
)

app = App(
    [*note_domains, *coordination_domains, *automation_domains, *review_domains],
    routes=[*note_routes, *coordination_routes, *automation_routes, *review_routes],
    dialects=[note_dialect, caliber_socket, *review_sockets],
    roles=review_roles,
    workers=[stepping, hanging, review, *automation_workers, export_worker, *reviewing],
)
