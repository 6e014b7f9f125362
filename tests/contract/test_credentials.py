"""What every engine owes to what is kept beside the hash of a password (ports.store)."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from posthouse.ports.store import Conflict, Credential, Kept, Missing
from tests.contract.conftest import House, refused

PHONE = Credential(0, "phone", "pop3,imap", b"digest", "verifier", b"sealed", 1_700_000_000.0)


async def test_what_is_kept_comes_and_goes_with_the_password(house: House) -> None:
    await house.store.add_domain("x.mail")
    account = await house.store.add_account("test@x.mail", "hash", kept=Kept("scram", b"sealed"))
    [own] = await house.store.credentials(account.id)
    assert (own.name, own.scram, own.shared) == ("", "scram", b"sealed")
    assert not await house.store.set_password("test@x.mail", "new", expected="other", kept=Kept("late"))
    assert [one.scram for one in await house.store.credentials(account.id)] == ["scram"], "all or nothing"
    assert await house.store.set_password("test@x.mail", "new", expected="hash", kept=Kept("newer"))
    assert [one.scram for one in await house.store.credentials(account.id)] == ["newer"]
    await house.store.set_password("test@x.mail", "newest")
    assert await house.store.credentials(account.id) == [], "what belongs to the old password is gone"
    assert await house.store.credentials(99) == []


async def test_app_passwords_are_added_and_removed(house: House) -> None:
    account, other = await house.account(), await house.account("other@x.mail")
    await house.store.add_credential("test@x.mail", PHONE)
    [phone] = await house.store.credentials(account.id)
    assert phone == Credential(phone.id, "phone", "pop3,imap", b"digest", "verifier", b"sealed", 1_700_000_000.0, 0.0)
    await refused(Conflict, lambda: house.store.add_credential("test@x.mail", PHONE))
    await refused(Missing, lambda: house.store.add_credential("nobody@x.mail", PHONE))
    await house.store.add_credential("other@x.mail", PHONE)
    await house.store.set_password("test@x.mail", "new", kept=Kept("scram"))
    assert sorted(one.name for one in await house.store.credentials(account.id)) == ["", "phone"]
    await house.store.remove_credential("test@x.mail", "phone")
    await refused(Missing, lambda: house.store.remove_credential("test@x.mail", "phone"))
    await refused(Missing, lambda: house.store.remove_credential("nobody@x.mail", "phone"))
    assert [one.name for one in await house.store.credentials(other.id)] == ["phone"]


async def test_an_account_takes_its_credentials_along(house: House) -> None:
    account = await house.account()
    await house.store.add_credential("test@x.mail", PHONE)
    await house.store.remove_account("test@x.mail")
    assert await house.store.credentials(account.id) == []
    again = await house.account()
    assert await house.store.credentials(again.id) == []
    assert await house.damages() == []


async def test_what_another_process_revokes_is_gone_at_once(house: House) -> None:
    account = await house.account()
    await house.store.add_credential("test@x.mail", PHONE)
    server = house.store
    assert len(await server.credentials(account.id)) == 1
    beside = house.open(serve=False)
    await beside.remove_credential("test@x.mail", "phone")
    assert await server.credentials(account.id) == []


async def test_the_last_use_is_noted_and_never_goes_back(house: House) -> None:
    account = await house.account()
    await house.store.add_credential("test@x.mail", PHONE)
    [phone] = await house.store.credentials(account.id)
    await house.store.touch({phone.id: 20.0, 999: 1.0})
    await house.store.touch({phone.id: 10.0})
    await house.reopen()
    assert [one.used for one in await house.store.credentials(account.id)] == [20.0]


async def test_a_letter_after_a_note_is_synced(house: House) -> None:
    """A note is written without a sync; catches a writer that then leaves it out for letters too."""
    account = await house.account()
    await house.store.touch({1: 10.0})
    writer = house.store._writer  # type: ignore[attr-defined] # the engine's own
    assert writer._connection.execute("PRAGMA synchronous").fetchall() == [(1,)]
    await house.deliver(b"x\r\n", account.id)
    assert writer._connection.execute("PRAGMA synchronous").fetchall() == [(2,)], "FULL"


async def test_the_secret_is_the_stores_own_for_ever(house: House) -> None:
    secret = house.store.secret()
    assert len(secret) == 32 and len(set(secret)) > 8
    await house.reopen()
    assert house.store.secret() == secret


async def test_an_older_store_is_brought_to_the_new_form(house: House) -> None:
    """The accounts stay, and a secret is made."""
    house.need_disk()
    account = await house.account()
    await house.opened.pop().close()
    with closing(sqlite3.connect(house.path / "posthouse.db")) as connection:
        connection.executescript(
            "DROP TABLE credential; DROP TABLE secret; DROP TABLE route; "
            "DROP TABLE alias_target; DROP TABLE alias; PRAGMA user_version = 2"
        )
    store = house.open()
    assert await store.find_account("test@x.mail") == account
    assert await store.credentials(account.id) == [] and len(store.secret()) == 32
    assert await house.damages() == []
