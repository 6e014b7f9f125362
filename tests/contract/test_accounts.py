"""What every engine owes to domains and accounts (ports.store)."""

from __future__ import annotations

import asyncio

import pytest

from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Alias, Conflict, Missing
from tests.contract.conftest import House, read, refused


async def test_domains_are_added_listed_and_removed(house: House) -> None:
    store = house.store
    first = await store.add_domain("x.mail")
    second = await store.add_domain("a.mail")
    assert [domain.name for domain in await store.domains()] == ["x.mail", "a.mail"]
    assert await store.find_domain("x.mail") == first
    assert await store.find_domain("y.mail") is None
    await refused(Conflict, lambda: store.add_domain("x.mail"))
    await store.add_account("test@x.mail", "hash")
    counted = await store.find_domain("x.mail")
    assert counted is not None
    assert counted.accounts == 1
    await refused(Conflict, lambda: store.remove_domain("x.mail"))
    await refused(Missing, lambda: store.remove_domain("y.mail"))
    await store.remove_domain("a.mail")
    assert second not in await store.domains()


async def test_accounts_are_added_found_and_listed(house: House) -> None:
    store = house.store
    test = await house.account("test@x.mail", quota=1000)
    other = await house.account("other@x.mail")
    same = await house.account("test@y.mail")
    assert await store.find_account("test@x.mail") == test
    assert (test.quota, test.used, test.messages, test.password) == (1000, 0, 0, "hash")
    assert len({test.inbox, other.inbox, same.inbox}) == 3
    assert await store.find_account("nobody@x.mail") is None
    assert await store.accounts() == [other, test, same]
    assert await store.accounts("x.mail") == [other, test]
    assert await store.find_local_part("test") == [test, same]
    assert await store.find_local_part("other") == [other]
    assert await store.find_local_part("nobody") == []
    await refused(Conflict, lambda: store.add_account("test@x.mail", "hash"))
    await refused(Missing, lambda: store.add_account("test@z.mail", "hash"))


async def test_an_at_sign_in_the_local_part_is_no_obstacle(house: House) -> None:
    account = await house.account("a@b@x.mail")
    assert await house.store.find_account("a@b@x.mail") == account
    assert await house.store.find_local_part("a@b") == [account]


async def test_a_password_is_replaced_when_it_is_the_expected_one(house: House) -> None:
    await house.account()
    assert await house.store.set_password("test@x.mail", "new")
    assert not await house.store.set_password("test@x.mail", "newer", expected="hash")
    assert await house.store.set_password("test@x.mail", "newest", expected="new")
    found = await house.store.find_account("test@x.mail")
    assert found is not None
    assert found.password == "newest"
    await refused(Missing, lambda: house.store.set_password("nobody@x.mail", "x"))


async def test_an_account_goes_with_its_mail(house: House) -> None:
    account, other = await house.account(), await house.account("other@x.mail")
    await house.deliver(b"shared\r\n", account.id, other.id)
    await house.deliver(b"large" * 100_000 + b"\r\n", account.id)
    assert house.store.lock(account.inbox)
    await refused(Conflict, lambda: house.store.remove_account("test@x.mail"))
    house.store.unlock(account.inbox)
    assert await house.store.remove_account("test@x.mail") == 2
    await refused(Missing, lambda: house.store.remove_account("test@x.mail"))
    await refused(Missing, lambda: house.store.maildrop(account.inbox))
    assert await house.octets(other.inbox, 1) is not None
    assert await house.damages() == []
    again = await house.account()
    assert again.inbox not in (account.inbox, other.inbox)
    assert (await house.store.maildrop(again.inbox)).rows == []


async def test_what_another_process_commits_is_seen_at_once(house: House) -> None:
    server = house.store
    await server.add_domain("x.mail")
    assert await server.find_account("test@x.mail") is None
    command = house.open(serve=False)
    account = await command.add_account("test@x.mail", "hash")
    assert await server.find_account("test@x.mail") == account
    await command.set_password("test@x.mail", "other")
    found = await server.find_account("test@x.mail")
    assert found is not None
    assert found.password == "other"
    await command.remove_account("test@x.mail")
    assert await server.find_account("test@x.mail") is None


async def test_everything_is_there_after_opening_again(house: House) -> None:
    account = await house.account()
    await house.deliver(b"small\r\n", account.id)
    await house.deliver(b"large" * 100_000 + b"\r\n", account.id)
    await house.reopen()
    assert await house.store.find_account("test@x.mail") is not None
    assert [row[0] for row in (await house.store.maildrop(account.inbox)).rows] == [1, 2]
    assert await house.octets(account.inbox, 2) is not None
    assert await house.damages() == []


async def test_what_an_account_with_a_quota_holds_is_always_current(house: House) -> None:
    account = await house.account(quota=1_000_000)
    for number in range(1, 4):
        assert await house.store.find_account("test@x.mail") is not None
        await house.deliver(b"x" * 100 + b"\r\n", account.id)
        found = await house.store.find_account("test@x.mail")
        assert found is not None
        assert found.messages == number
        assert found.used > number * 100


async def test_a_session_survives_the_removal_of_its_account(house: House) -> None:
    account = await house.account()
    await house.deliver(b"large" * 100_000 + b"\r\n", account.id)
    await house.deliver(b"small\r\n", account.id)
    large, small = await house.store.fetch(account.inbox, [1, 2])
    command = house.open(serve=False)
    await command.remove_account("test@x.mail")
    assert await house.opened[0].fetch(account.inbox, [1, 2]) == [None, None]
    assert small is not None
    assert await read(small)
    assert large is not None
    deadline = asyncio.get_running_loop().time() + 5
    while list((house.path / "content").glob("*/*")):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await read(large)
    await house.opened[0].update(account.inbox, [1], [2])
    (failed,) = await house.deliver(b"late\r\n", account.id)
    assert failed.failure == "missing"


async def test_aliases_stand_for_others(house: House) -> None:
    store = house.store
    account = await house.account()
    info = Alias("info@x.mail", ("test@x.mail", "anna@far.example"), "the office", 1.0)
    await store.put_alias(info)
    assert await store.find_alias("info@x.mail") == info
    assert await store.find_alias("else@x.mail") is None
    await refused(Conflict, lambda: store.put_alias(info))
    await refused(Conflict, lambda: store.put_alias(Alias("test@x.mail", ("a@b.example",))))
    await refused(Missing, lambda: store.put_alias(Alias("info@y.mail", ("a@b.example",))))
    await refused(Conflict, lambda: store.add_account("info@x.mail", "hash"))
    found = await store.find_account("test@x.mail")
    assert found is not None
    assert found.senders == ("info@x.mail",)  # whom an alias stands for may send as the alias
    short = Alias("info@x.mail", ("anna@far.example",), "", 2.0)
    await store.put_alias(short, replace=True)
    assert await store.aliases() == [short]
    assert await store.aliases("x.mail") == [short]
    found = await store.find_account("test@x.mail")
    assert found is not None
    assert found.senders == ()
    await store.remove_account(account.address)
    await refused(Conflict, lambda: store.remove_domain("x.mail"))
    await store.remove_alias("info@x.mail")
    await refused(Missing, lambda: store.remove_alias("info@x.mail"))
    await store.remove_domain("x.mail")
    assert await house.damages() == []
