"""Users, workspaces and members, decided and folded as for a log, without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.actors import Roles
from dalsegno.actors.domains.accounts import (
    CreateSpace,
    DisableUser,
    RegisterUser,
    SetUp,
    account_domains,
    setups,
    spaces,
    system_domains,
    users,
)
from dalsegno.actors.domains.claims import EMAIL_CHARS_MAX, claims, email_claim
from dalsegno.actors.domains.members import (
    OWNERS_MAX,
    GlobalRole,
    PutMember,
    RemoveMember,
    members,
    rosters,
)
from dalsegno.actors.ports import role_in
from dalsegno.protocol import SYSTEM_WORKSPACE, Context, Domain, On, Principal, Reject, Touched

START = datetime(2026, 2, 13, tzinfo=UTC)
ACCESS = Roles(account_domains)


class Log:
    """One log: entities by stream, and the names of what happened."""

    def __init__(self, workspace_id: str = "acme", owner_id: str | None = "founder") -> None:
        self.workspace_id = workspace_id
        self.owner_id = owner_id
        self.entities: dict[str, tuple[int, Any]] = {}
        self.happened: list[tuple[str, str]] = []

    def state(self, domain: Domain[Any, Any, Any], entity_id: str) -> Any:
        return self.entities.get(domain.stream_id(entity_id), (0, None))[1]

    def role(self, user_id: str) -> str | None:
        domain = ACCESS.domain_in(self.workspace_id)
        assert domain is not None
        version, state = self.entities.get(domain.stream_id(user_id), (0, None))
        return role_in(domain, version, state, user_id, self.owner_id)

    def send(self, command: msgspec.Struct, by: str | None = None) -> list[str]:
        """Decide and fold a command; the names of its events."""
        domain = next(d for d in account_domains if type(command) in d.commands.values())
        decider = domain.decider(type(command))
        role = "system" if by is None else self.role(by)
        if role != "system" and role not in decider.allow:
            raise Reject("ROLE_FORBIDDEN")
        entity_id = getattr(command, domain.id_field)
        state = self.state(domain, entity_id)
        if state is None and not decider.takes_none:
            raise Reject(f"{domain.name.upper()}_NOT_FOUND")
        touches = [] if decider.touches is None else decider.touches(command)
        extras = {
            "context": Context(
                entity_id="e",
                principal=Principal(by),
                role=str(role),
                owner_id=self.owner_id,
                now=START + timedelta(minutes=len(self.happened)),
                new_id=lambda: "id",
            ),
            "touched": Touched({d.stream_id(i): self.state(d, i) for d, i in touches}),
        }
        decided = decider.function(state, command, *(extras[name] for name in decider.extras))
        named = {domain.stream_id(entity_id), *(d.stream_id(i) for d, i in touches)}
        for one in decided:
            if isinstance(one, On):
                assert one.stream_id in named
                self._fold(one.domain, one.stream_id, one.event)
            else:
                self._fold(domain, domain.stream_id(entity_id), one)
        return [name for name, _ in self.happened[len(self.happened) - len(decided) :]]

    def _fold(self, domain: Domain[Any, Any, Any], stream_id: str, event: msgspec.Struct) -> None:
        type_, type_version, payload = domain.encode(event)
        version, state = self.entities.get(stream_id, (0, None))
        state = domain.evolve_by(state, domain.decode(type_, type_version, payload))
        state = domain.decode_state(domain.encode_state(state))
        self.entities[stream_id] = (version + 1, state)
        self.happened.append((type_, stream_id))


def refused(log: Log, command: msgspec.Struct, by: str | None = None) -> Reject:
    before = dict(log.entities)
    with pytest.raises(Reject) as caught:
        log.send(command, by)
    assert log.entities == before
    return caught.value


def test_every_domain_is_complete() -> None:
    for domain in account_domains:
        domain.check()
    assert {domain.name for domain in system_domains} == {
        *("user", "space", "holding", "claim", "setup")
    }


# ----------------------------------------------------------------------------------- $system


SETUP = SetUp(
    user_id="u1",
    email="Ada@Example.com",
    display_name="Ada",
    workspace_id="w1",
    slug="main",
    name="Main",
)


def system() -> Log:
    log = Log(SYSTEM_WORKSPACE, None)
    log.send(SETUP)
    return log


def registration(
    user_id: str = "u2", email: str = "bob@example.com", role: GlobalRole = "editor"
) -> RegisterUser:
    return RegisterUser(user_id=user_id, email=email, display_name="Bob", role=role)


def creation(workspace_id: str = "w2", slug: str = "two", owner_id: str = "u1") -> CreateSpace:
    return CreateSpace(workspace_id=workspace_id, slug=slug, name="Two", owner_id=owner_id)


def test_setup_makes_a_global_owner_and_a_workspace_at_once() -> None:
    log = system()
    assert {stream for _, stream in log.happened} == {
        "setup:main",
        "user:u1",
        "space:w1",
        "claim:email:ada@example.com",
        "claim:slug:main",
        "roster:main",
        "holding:u1",
    }
    assert log.role("u1") == "owner"
    assert log.state(spaces, "w1").owner_id == "u1"
    assert log.state(setups, "main").workspace_id == "w1"


def test_setup_happens_once() -> None:
    log = system()
    other = SetUp(
        user_id="u9", email="e@x", display_name="E", workspace_id="w9", slug="s", name="S"
    )
    assert refused(log, other).code == "SETUP_LOCKED"


def test_setup_is_the_programs_alone() -> None:
    log = system()
    assert refused(log, SETUP, "u1").code == "ROLE_FORBIDDEN"


def test_an_address_is_used_once_however_it_is_written() -> None:
    log = system()
    error = refused(log, registration(email=" ADA@example.COM "))
    assert (error.code, error.details) == ("STATE_CONFLICT", {"field": "email"})
    decomposed, composed = "jose\u0301@example.com", "jos\u00e9@example.com"
    log.send(registration("u2", decomposed))
    assert refused(log, registration("u3", composed)).code == "STATE_CONFLICT"


@pytest.mark.parametrize(
    "email", ["", "ada", "@example.com", "ada@", "a b@example.com", "a@b@c", "x" * 200 + "@y"]
)
def test_what_is_no_address_is_refused(email: str) -> None:
    assert refused(system(), registration(email=email)).code == "BAD_REQUEST"


def test_the_longest_address_fits_its_claim() -> None:
    email = "x" * (EMAIL_CHARS_MAX - 2) + "@y"
    log = system()
    log.send(registration(email=email))
    assert len(email_claim(email)) <= 200
    assert log.state(claims, email_claim(email)).by == "u2"


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
def test_what_is_no_name_is_refused(name: str) -> None:
    command = RegisterUser(user_id="u2", email="b@x", display_name=name, role="editor")
    assert refused(system(), command).code == "BAD_REQUEST"


def test_a_user_is_registered_once() -> None:
    log = system()
    log.send(registration())
    assert refused(log, registration(email="other@example.com")).code == "STATE_CONFLICT"


@pytest.mark.parametrize("role", ["editor", "viewer"])
def test_x_rbac_1_only_global_owners_and_admins_register_users(role: GlobalRole) -> None:
    log = system()
    log.send(registration(role=role), "u1")
    assert refused(log, registration("u3", "c@x"), "u2").code == "ROLE_FORBIDDEN"


def test_an_admin_makes_no_owner() -> None:
    log = system()
    log.send(registration(role="admin"), "u1")
    assert refused(log, registration("u3", "c@x", "owner"), "u2").code == "ROLE_FORBIDDEN"
    log.send(registration("u3", "c@x", "admin"), "u2")
    log.send(registration("u4", "d@x", "owner"), "u1")
    assert log.state(rosters, "main").owners == ("u1", "u4")


def test_a_disabled_user_has_no_role_and_keeps_the_address() -> None:
    log = system()
    log.send(registration(role="admin"))
    assert log.state(users, "u2").status == "active"
    assert log.send(DisableUser("u2"), "u1") == ["user_disabled"]
    assert log.send(DisableUser("u2"), "u1") == []
    assert log.role("u2") is None
    assert log.state(users, "u2").status == "disabled"
    assert refused(log, registration("u3"), "u1").code == "STATE_CONFLICT"
    assert refused(log, registration("u3", "c@x"), "u2").code == "ROLE_FORBIDDEN"


def test_the_last_global_owner_cannot_be_disabled() -> None:
    log = system()
    assert refused(log, DisableUser("u1")).code == "MEMBERSHIP_CONFLICT"
    log.send(registration(role="owner"))
    log.send(DisableUser("u1"), "u2")
    assert refused(log, DisableUser("u2"), "u2").code == "MEMBERSHIP_CONFLICT"


def test_nobody_disables_who_is_not_there() -> None:
    assert refused(system(), DisableUser("nobody")).code == "USER_NOT_FOUND"


@pytest.mark.parametrize("role", ["owner", "admin", "editor", "viewer"])
def test_every_active_user_creates_workspaces_for_themselves(role: GlobalRole) -> None:
    log = system()
    log.send(registration(role=role))
    assert refused(log, creation(owner_id="u1"), "u2").code == "ROLE_FORBIDDEN"
    created = ["space_created", "claimed", "holding_changed"]
    assert log.send(creation(owner_id="u2"), "u2") == created
    assert log.state(spaces, "w2").state == "active"


def test_a_disabled_user_creates_no_workspace() -> None:
    log = system()
    log.send(registration())
    log.send(DisableUser("u2"))
    assert refused(log, creation(owner_id="u2"), "u2").code == "ROLE_FORBIDDEN"


def test_a_slug_is_used_once() -> None:
    log = system()
    error = refused(log, creation(slug="main"))
    assert (error.code, error.details) == ("STATE_CONFLICT", {"field": "slug"})
    assert refused(log, creation("w1", "other")).code == "STATE_CONFLICT"


@pytest.mark.parametrize("slug", ["", "-a", "a-", "A", "a b", "a" * 65, "ä", "a\n"])
def test_what_is_no_slug_is_refused(slug: str) -> None:
    assert refused(system(), creation(slug=slug)).code == "BAD_REQUEST"


@pytest.mark.parametrize("slug", ["a", "0", "a-b", "a" * 64])
def test_a_slug_is_taken(slug: str) -> None:
    log = system()
    log.send(creation(slug=slug))
    assert log.state(claims, f"slug:{slug}").by == "w2"


def test_workspaces_are_listed_by_who_created_them() -> None:
    log = system()
    assert spaces.indexed(log.state(spaces, "w1")).keys == ("owner:u1",)
    assert users.indexed(log.state(users, "u1")).title == "Ada"


# ----------------------------------------------------------------------------------- members


def test_the_founder_is_an_owner_before_the_log_says_so() -> None:
    log = Log()
    assert log.role("founder") == "owner"
    assert log.send(PutMember("founder", "owner"), "founder") == []
    assert log.send(PutMember("bob", "viewer"), "founder") == ["member_added"]
    assert members.indexed(log.state(members, "bob")).keys == ("viewer",)


def test_a_membership_is_put_once_changed_and_removed() -> None:
    log = Log()
    log.send(PutMember("bob", "viewer"), "founder")
    since = log.state(members, "bob").since
    assert log.send(PutMember("bob", "viewer"), "founder") == []
    assert log.send(PutMember("bob", "editor"), "founder") == ["member_role_updated"]
    assert log.state(members, "bob").since == since
    assert log.send(RemoveMember("bob"), "founder") == ["member_removed"]
    assert log.role("bob") is None
    assert log.send(RemoveMember("bob"), "founder") == []
    assert log.send(PutMember("bob", "admin"), "founder") == ["member_added"]
    assert log.role("bob") == "admin"


@pytest.mark.parametrize("command", [PutMember("founder", "admin"), RemoveMember("founder")])
def test_the_last_owner_stays(command: PutMember | RemoveMember) -> None:
    log = Log()
    assert refused(log, command, "founder").code == "MEMBERSHIP_CONFLICT"
    assert refused(log, command).code == "MEMBERSHIP_CONFLICT"
    log.send(PutMember("bob", "owner"), "founder")
    log.send(command, "bob")
    assert log.role("founder") != "owner"
    assert refused(log, PutMember("bob", "viewer"), "bob").code == "MEMBERSHIP_CONFLICT"


def test_a_founder_who_left_is_nobody_and_may_come_back() -> None:
    log = Log()
    log.send(PutMember("bob", "owner"), "founder")
    assert log.send(RemoveMember("founder"), "founder") == ["member_removed", "owners_changed"]
    assert log.role("founder") is None
    assert refused(log, PutMember("founder", "owner"), "founder").code == "ROLE_FORBIDDEN"
    assert log.send(PutMember("founder", "owner"), "bob") == ["member_added", "owners_changed"]


def test_an_admin_neither_makes_nor_unmakes_owners() -> None:
    log = Log()
    log.send(PutMember("amy", "admin"), "founder")
    log.send(PutMember("bob", "owner"), "founder")
    for command in (
        PutMember("amy", "owner"),
        PutMember("bob", "viewer"),
        RemoveMember("bob"),
        RemoveMember("founder"),
    ):
        assert refused(log, command, "amy").code == "ROLE_FORBIDDEN"
    log.send(PutMember("eve", "editor"), "amy")
    log.send(RemoveMember("eve"), "amy")


@pytest.mark.parametrize("role", ["editor", "viewer"])
def test_x_rbac_1_editors_and_viewers_change_no_members(role: GlobalRole) -> None:
    log = Log()
    log.send(PutMember("eve", role), "founder")
    assert refused(log, PutMember("eve", "admin"), "eve").code == "ROLE_FORBIDDEN"
    assert refused(log, RemoveMember("eve"), "eve").code == "ROLE_FORBIDDEN"
    assert refused(log, PutMember("eve", "admin"), "stranger").code == "ROLE_FORBIDDEN"


def test_a_workspace_of_the_program_may_have_no_owner() -> None:
    log = Log(owner_id=None)
    log.send(PutMember("bob", "admin"))
    assert refused(log, PutMember("bob", "owner"), "bob").code == "ROLE_FORBIDDEN"
    log.send(RemoveMember("bob"))
    log.send(PutMember("bob", "owner"))
    assert refused(log, RemoveMember("bob")).code == "MEMBERSHIP_CONFLICT"


def test_owners_are_bounded() -> None:
    log = Log(owner_id=None)
    for number in range(OWNERS_MAX):
        log.send(PutMember(f"u{number}", "owner"))
    assert refused(log, PutMember("one-more", "owner")).code == "MEMBERSHIP_CONFLICT"


NAMES = ("founder", "amy", "bob")
ROLES: tuple[GlobalRole, ...] = ("owner", "admin", "editor", "viewer")

steps = st.tuples(
    st.sampled_from([*NAMES, None]),
    st.one_of(
        st.builds(PutMember, st.sampled_from(NAMES), st.sampled_from(ROLES)),
        st.builds(RemoveMember, st.sampled_from(NAMES)),
    ),
)


@given(st.lists(steps, max_size=30))
def test_however_members_change_an_owner_stays_and_roles_are_what_was_allowed(
    taken: list[tuple[str | None, PutMember | RemoveMember]],
) -> None:
    log = Log()
    roles: dict[str, str] = {"founder": "owner"}
    for by, command in taken:
        wanted = command.role if isinstance(command, PutMember) else None
        before = roles.get(command.user_id)
        changes_owners = (before == "owner") != (wanted == "owner")
        mine = "system" if by is None else roles.get(by)
        allowed = mine in {"system", "owner"} or (mine == "admin" and not changes_owners)
        owners = [name for name, role in roles.items() if role == "owner"]
        if allowed and changes_owners and owners == [command.user_id]:
            allowed = False
        if not allowed:
            refused(log, command, by)
            continue
        happened = log.send(command, by)
        assert (happened == []) == (wanted == before)
        if wanted is None:
            roles.pop(command.user_id, None)
        else:
            roles[command.user_id] = wanted
    assert {name: log.role(name) for name in NAMES} == {name: roles.get(name) for name in NAMES}
    assert "owner" in roles.values()
    if (roster := log.state(rosters, "main")) is not None:
        assert set(roster.owners) == {name for name, role in roles.items() if role == "owner"}
