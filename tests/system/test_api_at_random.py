"""The whole HTTP surface under a fuzzer that knows its document: nothing breaks, nothing surprises.

Schemathesis has an environment of its own (`make soak` makes it), since it wants other versions of
what the tests use.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests._http import PLAIN
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server

ROOT = Path(__file__).parents[2]
FUZZER = ROOT / ".venv-schemathesis" / "bin" / "st"
SERVING = ROOT / "docs" / "serving.md"

SESSIONS = """
from dalsegno.actors.domains.sessions import session_domains, session_routes
from dalsegno.runtime import App

app = App([*session_domains], routes=session_routes)
"""

ENDS_IT = (
    r"^/api/workspaces/[^/]+$|/members/|/repair$|^/api/v1/(workspaces|streams|runs|projects)/[^/]+/events$"
    r"|/commands/(delete_workspace|change_workspace|remove_member|put_member|transfer_ownership)$"
)
"""The paths by which the fuzzer would take from itself what it works with, and those whose answers
have no end.
"""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
)


@pytest.mark.soak
@pytest.mark.parametrize("app", ["notes", "kanban", "coordination", "sessions"])
async def test_no_request_breaks_it_and_no_answer_is_undocumented(
    app: str, processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    if not FUZZER.exists():
        pytest.skip("no Schemathesis here: make soak installs it")
    options: tuple[str, ...] = ()
    if app == "kanban":
        program = SERVING.read_text().partition("```python\n")[2].partition("```")[0]
        (tmp_path / "kanban.py").write_text(program)
        options = ("--app", str(tmp_path / "kanban.py"))
    elif app == "coordination":
        options = ("--app", "dalsegno.actors.domains.coordination:coordination_app")
    elif app == "sessions":
        (tmp_path / "sessions.py").write_text(SESSIONS)
        options = ("--app", str(tmp_path / "sessions.py"))
    server = Server(processes, tmp_path, database=cluster.dsn, node_id="a", environment=QUICK)
    await server.start(*options)
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        http.headers["cookie"] = owner.cookie
        session = (await http.get("/api/auth/session")).json()
        http.headers["x-csrf-token"] = session["csrf_token"]
        space = f"/api/workspaces/{owner.workspace}"
        made = await http.post(f"{space}/keys", json={"name": "fuzzer", "role": "admin"})
        assert made.status_code == 201, made.text
        key = made.json()["key"]
        (tmp_path / "openapi.json").write_bytes((await http.get("/api/openapi.json")).content)
    # What is asked is asked of a workspace that is there, and stays.
    (tmp_path / "schemathesis.toml").write_text(
        f'[parameters]\nworkspace_id = "{owner.workspace}"\nboard = "{owner.workspace}"\n'
        f'tenant_id = "{owner.workspace}"\nx-tenant-id = "{owner.workspace}"\n'
        "min_seq = 0\nwait = 0\n"  # what waits for what does not come is 503 at last
        f'[auth.openapi.bearer]\nbearer = "{key}"\n'
        # … and a text that is too long is 413 where the whole command is.
        "[checks.negative_data_rejection]\n"
        'expected-statuses = [400, 401, 403, 404, 406, 413, 415, 422, 428, "5xx"]\n'
    )
    command = [
        *(str(FUZZER), "--config-file", str(tmp_path / "schemathesis.toml"), "run"),
        *("openapi.json", "--url", server.url, "--no-color"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "50"),
        *("--checks", ",".join(CHECKS), "--suppress-health-check", "all"),
        *("--exclude-path-regex", ENDS_IT),
    ]
    run = partial(subprocess.run, capture_output=True, text=True, check=False, cwd=tmp_path)
    ended = await trio.to_thread.run_sync(run, command)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2_000:]
    assert await server.stop() == 0
