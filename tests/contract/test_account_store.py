"""What every account store guarantees."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.actors.testing.contract.store._writing import START
from dalsegno.runtime._account_store import KeyRow, TicketRow

if TYPE_CHECKING:
    from datetime import datetime

    from dalsegno.runtime._account_store import AccountStore
    from tests.contract.conftest import Harness

# Later than any clock of the suite, the database's included.
UNTIL = START.replace(year=2100)
DAY_S = 24 * 3600
LATER = UNTIL + timedelta(hours=1)


async def test_a_session_is_found_as_it_was_put(accounts: AccountStore) -> None:
    assert await accounts.find_session(b"\x00\xff") is None
    await accounts.put_session(b"\x00\xff", "u", "token", UNTIL)
    row = await accounts.find_session(b"\x00\xff")
    assert row is not None
    assert (row.id_hash, row.user_id, row.csrf_token) == (b"\x00\xff", "u", "token")
    assert (row.expires_at, row.revoked_at) == (UNTIL, None)
    assert row.created_at == row.last_seen_at


async def test_putting_a_session_again_changes_nothing(accounts: AccountStore) -> None:
    await accounts.put_session(b"1", "u", "token", UNTIL)
    before = await accounts.find_session(b"1")
    await accounts.put_session(b"1", "u", "other", LATER)
    assert await accounts.find_session(b"1") == before


async def test_use_moves_a_session_on_but_not_back(accounts: AccountStore) -> None:
    await accounts.put_session(b"1", "u", "token", UNTIL)
    await accounts.touch_session(b"1", UNTIL, LATER)
    await accounts.touch_session(b"1", UNTIL - timedelta(hours=1), LATER)
    await accounts.touch_session(b"absent", UNTIL, LATER)
    row = await accounts.find_session(b"1")
    assert row is not None
    assert (row.last_seen_at, row.expires_at) == (UNTIL, LATER)
    assert await accounts.find_session(b"absent") is None


async def test_a_revoked_session_stays_revoked(accounts: AccountStore) -> None:
    await accounts.put_session(b"1", "u", "token", UNTIL)
    await accounts.revoke_session(b"1")
    revoked = await accounts.find_session(b"1")
    assert revoked is not None
    assert revoked.revoked_at is not None
    await accounts.touch_session(b"1", LATER, LATER)
    await accounts.revoke_session(b"1")
    await accounts.put_session(b"1", "u", "token", LATER)
    assert await accounts.find_session(b"1") == revoked
    await accounts.revoke_session(b"absent")


async def test_what_was_revoked_of_late_is_found(accounts: AccountStore) -> None:
    for id_hash, user_id in ((b"1", "u"), (b"2", "u"), (b"3", "v"), (b"4", "w")):
        await accounts.put_session(id_hash, user_id, "token", UNTIL)
    await accounts.put_key(a_key("k"), keys_max=10)
    assert await accounts.find_revoked(60) == []
    await accounts.revoke_session(b"1")
    await accounts.revoke_sessions_of("v")
    await accounts.revoke_key("k")
    assert {*await accounts.find_revoked(60)} == {b"1", b"3", b"k"}
    assert await accounts.find_revoked(0) == []


async def test_all_sessions_of_a_user_are_revoked_and_nobody_elses(
    accounts: AccountStore,
) -> None:
    for id_hash, user_id in ((b"1", "u"), (b"2", "u"), (b"3", "v")):
        await accounts.put_session(id_hash, user_id, "token", UNTIL)
    await accounts.revoke_sessions_of("u")
    rows = [await accounts.find_session(id_hash) for id_hash in (b"1", b"2", b"3")]
    assert [row is not None and row.revoked_at is not None for row in rows] == [True, True, False]


async def test_a_session_of_tokens_is_found_as_it_was_put(accounts: AccountStore) -> None:
    await accounts.put_session(b"1", "u", "", UNTIL, refresh_key=b"\x00key")
    await accounts.put_session(b"2", "u", "token", UNTIL)
    row, plain = await accounts.find_session(b"1"), await accounts.find_session(b"2")
    assert row is not None
    assert plain is not None
    assert (row.refresh_key, row.generation, row.rotated_at) == (b"\x00key", 1, None)
    assert plain.refresh_key is None


async def test_a_refresh_token_moves_on_once_from_each_generation(accounts: AccountStore) -> None:
    await accounts.put_session(b"1", "u", "", UNTIL, refresh_key=b"key")
    moved: list[bool] = []

    async def rotate() -> None:
        moved.append(await accounts.rotate_session(b"1", 1, UNTIL, LATER))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(rotate)
    assert sorted(moved) == [False] * 4 + [True]
    row = await accounts.find_session(b"1")
    assert row is not None
    assert (row.generation, row.rotated_at, row.expires_at) == (2, UNTIL, LATER)
    assert row.last_seen_at == UNTIL
    assert not await accounts.rotate_session(b"1", 3, UNTIL, LATER)
    assert not await accounts.rotate_session(b"absent", 1, UNTIL, LATER)
    assert await accounts.rotate_session(b"1", 2, LATER, LATER)
    await accounts.revoke_session(b"1")
    assert not await accounts.rotate_session(b"1", 3, LATER, LATER)


async def test_one_session_may_be_kept_when_all_others_are_revoked(accounts: AccountStore) -> None:
    for id_hash in (b"1", b"2", b"3"):
        await accounts.put_session(id_hash, "u", "token", UNTIL)
    await accounts.revoke_sessions_of("u", keep=b"2")
    rows = [await accounts.find_session(id_hash) for id_hash in (b"1", b"2", b"3")]
    assert [row is not None and row.revoked_at is not None for row in rows] == [True, False, True]


async def test_a_users_oldest_valid_sessions_are_evicted(accounts: AccountStore) -> None:
    for id_hash, user_id in ((b"1", "u"), (b"2", "u"), (b"3", "v"), (b"4", "u"), (b"5", "u")):
        await accounts.put_session(id_hash, user_id, "token", UNTIL)
    await accounts.put_session(b"expired", "u", "token", START.replace(year=2000))
    await accounts.revoke_session(b"4")
    assert await accounts.evict_sessions("u", keep=3) == []
    assert await accounts.evict_sessions("u", keep=2) == [b"1"]
    assert sorted(await accounts.evict_sessions("u", keep=0)) == [b"2", b"5"]
    assert await accounts.evict_sessions("nobody", keep=0) == []
    row = await accounts.find_session(b"3")
    assert row is not None
    assert row.revoked_at is None


async def test_sessions_that_were_ended_are_found_among_many(accounts: AccountStore) -> None:
    for id_hash in (b"1", b"2", b"\x00\xff"):
        await accounts.put_session(id_hash, "u", "token", UNTIL)
    await accounts.revoke_session(b"\x00\xff")
    found = await accounts.find_ended([b"1", b"2", b"\x00\xff", b"absent"])
    assert sorted(found) == [b"\x00\xff", b"absent"]
    assert await accounts.find_ended([]) == []


async def test_sessions_that_expired_long_ago_are_swept_the_oldest_first(
    harness: Harness,
) -> None:
    accounts = harness.accounts
    await accounts.put_session(b"fresh", "v", "token", UNTIL)
    probe = await accounts.find_session(b"fresh")
    assert probe is not None
    for n in (3, 1, 2):
        until = probe.created_at + timedelta(hours=n)
        await accounts.put_session(b"old%d" % n, f"u{n}", "token", until)
    await harness.age(6 * DAY_S)
    assert await accounts.sweep_sessions(limit=9) == 0
    assert await accounts.find_session(b"old1"), "its owner may still hear that it expired"
    await harness.age(2 * DAY_S)
    assert await accounts.sweep_sessions(limit=2) == 2
    assert await accounts.find_session(b"old3"), "the limit was two"
    assert [await accounts.find_session(b"old%d" % n) for n in (1, 2)] == [None, None]
    assert [await accounts.sweep_sessions(limit=2) for _ in range(2)] == [1, 0]
    assert await accounts.find_session(b"fresh")


async def test_a_credential_is_replaced_and_forgotten(accounts: AccountStore) -> None:
    assert await accounts.find_credential("u") is None
    await accounts.put_credential("u", "$argon2id$1")
    await accounts.put_credential("v", "$argon2id$other")
    await accounts.put_credential("u", "$argon2id$2")
    assert await accounts.find_credential("u") == "$argon2id$2"
    await accounts.delete_credential("u")
    await accounts.delete_credential("u")
    assert await accounts.find_credential("u") is None
    assert await accounts.find_credential("v") == "$argon2id$other"


# -------------------------------------------------------------------------------------- keys


def a_key(key_id: str, workspace_id: str = "w", *, expires_at: datetime | None = None) -> KeyRow:
    return KeyRow(
        key_id=key_id,
        workspace_id=workspace_id,
        name=f"the key {key_id}",
        created_by="ada",
        created_at=START,
        expires_at=expires_at,
        last_used_at=None,
        revoked_at=None,
        digest=b"1" * 32,
        previous=None,
        connection=key_id.encode(),
    )


async def test_a_key_is_found_as_it_was_put(accounts: AccountStore) -> None:
    assert await accounts.find_key("a") is None
    for key in (a_key("a", expires_at=UNTIL), a_key("b")):
        assert await accounts.put_key(key, keys_max=9)
        row = await accounts.find_key(key.key_id)
        assert row is not None
        assert row == msgspec.structs.replace(key, created_at=row.created_at)
    before = await accounts.find_key("a")
    assert await accounts.put_key(a_key("a", "other"), keys_max=9)
    assert await accounts.find_key("a") == before


async def test_the_keys_of_a_workspace_are_bounded_and_listed(accounts: AccountStore) -> None:
    for key_id in ("b", "a", "c"):
        assert await accounts.put_key(a_key(key_id), keys_max=3)
    assert not await accounts.put_key(a_key("d"), keys_max=3)
    assert await accounts.put_key(a_key("a"), keys_max=3), "it is there already"
    assert await accounts.put_key(a_key("e", "other"), keys_max=3)
    await accounts.revoke_key("b")
    assert [k.key_id for k in await accounts.list_keys("w", after="", limit=9)] == ["a", "c"]
    assert [k.key_id for k in await accounts.list_keys("w", after="a", limit=9)] == ["c"]
    assert [k.key_id for k in await accounts.list_keys("w", after="", limit=1)] == ["a"]
    assert await accounts.put_key(a_key("d"), keys_max=3)


async def test_a_key_has_two_secrets_while_it_is_replaced(accounts: AccountStore) -> None:
    await accounts.put_key(a_key("a"), keys_max=9)

    async def digests() -> tuple[bytes, bytes | None]:
        row = await accounts.find_key("a")
        assert row is not None
        return row.digest, row.previous

    assert await accounts.rotate_key("a", b"2" * 32, keep=True)
    assert await digests() == (b"2" * 32, b"1" * 32)
    assert await accounts.rotate_key("a", b"3" * 32, keep=True)
    assert await digests() == (b"3" * 32, b"2" * 32)
    await accounts.drop_previous_key("a")
    assert await digests() == (b"3" * 32, None)
    assert await accounts.rotate_key("a", b"4" * 32, keep=False)
    assert await digests() == (b"4" * 32, None)
    assert not await accounts.rotate_key("absent", b"5" * 32, keep=True)
    await accounts.drop_previous_key("absent")


async def test_a_revoked_key_stays_revoked_and_its_sockets_end(accounts: AccountStore) -> None:
    for key_id in ("a", "b"):
        await accounts.put_key(a_key(key_id), keys_max=9)
    assert await accounts.find_ended([b"a", b"b", b"absent"]) == [b"absent"]
    await accounts.revoke_key("a")
    revoked = await accounts.find_key("a")
    assert revoked is not None
    assert revoked.revoked_at is not None
    await accounts.revoke_key("a")
    assert await accounts.find_key("a") == revoked
    assert not await accounts.rotate_key("a", b"2" * 32, keep=False)
    assert await accounts.find_ended([b"a", b"b"]) == [b"a"]
    await accounts.revoke_key("absent")


async def test_the_use_of_a_key_is_recorded(accounts: AccountStore) -> None:
    await accounts.put_key(a_key("a"), keys_max=9)
    for at in (LATER, UNTIL):
        await accounts.touch_key("a", at)
    row = await accounts.find_key("a")
    assert row is not None
    assert row.last_used_at == LATER
    await accounts.touch_key("absent", LATER)


def a_ticket(name: str, user_id: str = "u", *, until: datetime = UNTIL) -> TicketRow:
    return TicketRow(
        digest=b"\x00" + name.encode(),
        path="/ws",
        user_id=user_id,
        session_hash=b"",
        session_expires_at=None,
        is_renewable=True,
        expires_at=until,
    )


async def test_a_ticket_is_taken_once_by_one_of_all_who_ask(accounts: AccountStore) -> None:
    other = msgspec.structs.replace(
        a_ticket("b"), session_hash=b"\xff1", session_expires_at=LATER, is_renewable=False
    )
    for row in (a_ticket("a"), other):
        assert await accounts.put_ticket(row, tickets_max=9)
        found: list[TicketRow | None] = []

        async def take(digest: bytes = row.digest, found: list[TicketRow | None] = found) -> None:
            found.append(await accounts.take_ticket(digest))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(take)
        assert [each for each in found if each is not None] == [row]
        assert await accounts.take_ticket(row.digest) is None


async def test_a_users_tickets_that_wait_are_bounded(accounts: AccountStore) -> None:
    passed = START.replace(year=2000)
    assert await accounts.put_ticket(a_ticket("old", until=passed), tickets_max=2)
    for name in "ab":
        assert await accounts.put_ticket(a_ticket(name), tickets_max=2)
    assert await accounts.put_ticket(a_ticket("b"), tickets_max=2), "a repeat is the same one"
    assert not await accounts.put_ticket(a_ticket("c"), tickets_max=2)
    assert await accounts.put_ticket(a_ticket("c", "v"), tickets_max=2)
    assert await accounts.take_ticket(a_ticket("a").digest)
    assert await accounts.put_ticket(a_ticket("d"), tickets_max=2)


async def test_tickets_that_expired_long_ago_are_swept(accounts: AccountStore) -> None:
    passed = START.replace(year=2000)
    for number in range(3):
        await accounts.put_ticket(a_ticket(f"old{number}", until=passed), tickets_max=9)
    await accounts.put_ticket(a_ticket("fresh"), tickets_max=9)
    assert await accounts.sweep_tickets(limit=2) == 2
    assert await accounts.sweep_tickets(limit=9) == 1
    assert await accounts.sweep_tickets(limit=9) == 0
    assert await accounts.take_ticket(a_ticket("fresh").digest) is not None
