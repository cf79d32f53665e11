"""What becomes of accounts, of who owns a workspace, and of workspaces as a whole."""

from __future__ import annotations

import pytest

from dalsegno.actors.domains.accounts import (
    CreateSpace,
    DeleteUser,
    DisableUser,
    EnableUser,
    RegisterUser,
    RetireSpace,
    SetUserRole,
    holdings,
    spaces,
    users,
)
from dalsegno.actors.domains.claims import check_email, check_name, claims, email_claim
from dalsegno.actors.domains.members import PutMember, TransferOwnership, members, rosters
from dalsegno.actors.domains.notes import notes
from dalsegno.actors.domains.standing import ChangeWorkspace, DeleteWorkspace, standings
from dalsegno.actors.ports import gate_refusal
from dalsegno.protocol import Reject

from .test_accounts import Log, creation, refused, registration, system


def gated(log: Log, asked: str | None) -> str | None:
    refusal = gate_refusal(standings, log.state(standings, "main"), asked)
    return None if refusal is None else refusal.code


# ------------------------------------------------------------------------------------- standing


def test_an_archived_workspace_is_read_and_looked_after_and_nothing_else() -> None:
    log = Log()
    assert [gated(log, each) for each in (None, notes.name)] == [None, None]
    assert log.send(ChangeWorkspace(state="archived"), "founder") == ["workspace_archived"]
    assert log.send(ChangeWorkspace(state="archived"), "founder") == []
    assert gated(log, None) is None
    assert gated(log, members.name) is None
    assert gated(log, standings.name) is None
    assert gated(log, notes.name) == "WORKSPACE_ARCHIVED"
    assert log.send(ChangeWorkspace(state="active"), "founder") == ["workspace_restored"]
    assert gated(log, notes.name) is None


def test_a_deleted_workspace_is_there_for_nobody() -> None:
    log = Log()
    assert log.send(DeleteWorkspace(), "founder") == ["workspace_deleted"]
    for asked in (None, notes.name, members.name, standings.name):
        assert gated(log, asked) == "WORKSPACE_NOT_FOUND"


def test_a_workspace_has_the_name_that_it_was_given_last() -> None:
    log = Log()
    events = log.send(ChangeWorkspace(name=" Engines ", state="archived"), "founder")
    assert events == ["workspace_renamed", "workspace_archived"]
    assert log.state(standings, "main").name == "Engines"
    assert log.send(ChangeWorkspace(name="Engines"), "founder") == []
    assert refused(log, ChangeWorkspace(name="a\u202eb"), "founder").code == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("role", "may"), [("owner", True), ("admin", True), ("editor", False), ("viewer", False)]
)
def test_x_rbac_1_owners_and_admins_look_after_a_workspace(role: str, may: bool) -> None:
    for command in (ChangeWorkspace(state="archived"), DeleteWorkspace()):
        log = Log()
        log.send(PutMember("u", role))
        if may:
            assert log.send(command, "u")
        else:
            assert refused(log, command, "u").code == "ROLE_FORBIDDEN"


# ------------------------------------------------------------------------------------- transfer


def test_an_owner_is_followed_by_a_member_and_stays_as_an_admin() -> None:
    log = Log()
    log.send(PutMember("u", "viewer"), "founder")
    events = log.send(TransferOwnership("u", "founder"), "founder")
    assert events == ["member_role_updated", "member_added", "owners_changed"]
    assert (log.role("u"), log.role("founder")) == ("owner", "admin")
    assert log.state(rosters, "main").owners == ("u",)
    assert log.send(TransferOwnership("founder", "u"), "u")[0] == "member_role_updated"
    assert (log.role("u"), log.role("founder")) == ("admin", "owner")


def test_who_may_not_be_or_make_the_next_owner() -> None:
    log = Log()
    for user_id in ("admin", "other"):
        log.send(PutMember(user_id, "admin"), "founder")
    for command, by, code in (
        (TransferOwnership("other", "admin"), "admin", "ROLE_FORBIDDEN"),
        (TransferOwnership("admin", "founder"), "admin", "ROLE_FORBIDDEN"),
        (TransferOwnership("stranger", "founder"), "founder", "MEMBERSHIP_CONFLICT"),
        (TransferOwnership("founder", "founder"), "founder", "MEMBERSHIP_CONFLICT"),
        (TransferOwnership("other", "admin"), None, "MEMBERSHIP_CONFLICT"),
    ):
        assert refused(log, command, by).code == code, command


# ---------------------------------------------------------------------------------- workspaces


def test_a_user_creates_so_many_workspaces_and_may_again_after_one_is_deleted() -> None:
    log = system()

    def create(number: int) -> CreateSpace:
        return CreateSpace(
            workspace_id=f"w{number}",
            slug=f"s{number}",
            name="W",
            owner_id="u1",
            held_max=3,
            held_before=99,  # the log counts by itself since setup
        )

    for number in (2, 3):
        log.send(create(number), "u1")
    error = refused(log, create(4), "u1")
    assert (error.code, error.details) == ("QUOTA_EXCEEDED", {"limit": 3})
    retirement = RetireSpace(workspace_id="w2", slug="s2", owner_id="u1")
    assert refused(log, retirement, "u1").code == "ROLE_FORBIDDEN", "the program's alone"
    assert log.send(retirement) == ["space_retired", "released", "holding_changed"]
    assert log.send(retirement) == []
    assert log.state(spaces, "w2").state == "deleted"
    log.send(create(4), "u1")
    assert log.state(holdings, "u1").count == 3
    log.send(creation("w9", "s2"), "u1")  # no bound was named, and the slug is free again


def test_a_log_from_before_it_counted_begins_with_what_is_there() -> None:
    log = system()
    del log.entities["holding:u1"]
    command = CreateSpace(
        workspace_id="w2", slug="s", name="W", owner_id="u1", held_max=5, held_before=5
    )
    assert refused(log, command, "u1").code == "QUOTA_EXCEEDED"


# ---------------------------------------------------------------------------------------- users


def test_a_disabled_user_is_enabled_in_the_same_role() -> None:
    log = system()
    log.send(registration(role="admin"), "u1")
    log.send(DisableUser("u2"), "u1")
    assert refused(log, SetUserRole("u2", "owner"), "u1").code == "STATE_CONFLICT"
    assert log.send(EnableUser("u2"), "u1") == ["user_enabled"]
    assert log.send(EnableUser("u2"), "u1") == []
    assert (log.role("u2"), log.state(users, "u2").status) == ("admin", "active")


def test_a_role_is_changed_and_only_owners_make_and_unmake_owners() -> None:
    log = system()
    log.send(registration("u2", "b@x", "admin"), "u1")
    log.send(registration("u3", "c@x", "viewer"), "u1")
    assert log.send(SetUserRole("u3", "editor"), "u2") == ["user_role_updated"]
    assert log.send(SetUserRole("u3", "editor"), "u2") == []
    for command in (SetUserRole("u3", "owner"), SetUserRole("u1", "viewer"), DisableUser("u1")):
        assert refused(log, command, "u2").code == "ROLE_FORBIDDEN"
    assert refused(log, SetUserRole("u2", "viewer"), "u3").code == "ROLE_FORBIDDEN"
    assert refused(log, SetUserRole("u9", "viewer"), "u1").code == "USER_NOT_FOUND"


def test_the_last_global_owner_stays() -> None:
    log = system()
    email = "ada@example.com"
    for command in (SetUserRole("u1", "admin"), DisableUser("u1"), DeleteUser("u1", email)):
        assert refused(log, command, "u1").code == "MEMBERSHIP_CONFLICT"
    log.send(registration(role="owner"), "u1")
    log.send(DeleteUser("u1", email), "u1")
    assert log.state(rosters, "main").owners == ("u2",)


def test_an_account_is_deleted_by_its_user_or_an_admin_and_its_address_is_free() -> None:
    log = system()
    for user_id in ("u2", "u3"):
        log.send(registration(user_id, f"{user_id}@x", "viewer"), "u1")
    assert refused(log, DeleteUser("u3", "u3@x"), "u2").code == "ROLE_FORBIDDEN"
    assert refused(log, DeleteUser("u3", "u2@x"), "u1").code == "STATE_CONFLICT"
    assert log.send(DeleteUser("u2", "U2@x"), "u2") == ["user_deleted", "released"]
    assert log.send(DeleteUser("u3", "u3@x"), "u1") == ["user_deleted", "released"]
    assert (log.role("u2"), log.state(claims, email_claim("u2@x"))) == (None, None)
    log.send(RegisterUser(user_id="u4", email="u2@x", display_name="B", role="viewer"), "u1")


# ---------------------------------------------------------------------------------------- texts

UNSEEN = [
    "\x00",
    "\x1b",
    "\x7f",
    "\x85",
    "\u200b",
    "\u200e",
    "\u202e",
    "\u2066",
    "\u2028",
    "\ufeff",
]


@pytest.mark.parametrize("char", UNSEEN, ids=lambda char: f"U+{ord(char):04X}")
def test_names_and_addresses_have_no_control_and_direction_characters(char: str) -> None:
    with pytest.raises(Reject, match="BAD_REQUEST"):
        check_name(f"Ada{char}Byron", what="display_name")
    with pytest.raises(Reject, match="BAD_REQUEST"):
        check_email(f"ada{char}@example.com")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (" Ada ", "Ada"),
        ("Jose\u0301", "Jos\u00e9"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("Zoë O'Neil-Łukasz 3rd", "Zoë O'Neil-Łukasz 3rd"),
        ("", None),
        ("  ", None),
        ("\u200d", None),
        ("x" * 201, None),
    ],
)
def test_which_names_are_kept(name: str, kept: str | None) -> None:
    if kept is not None:
        assert check_name(name, what="name") == kept
    else:
        with pytest.raises(Reject, match="BAD_REQUEST"):
            check_name(name, what="name")
