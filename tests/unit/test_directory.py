"""The directory: who receives mail here, who may log in, and what administration says when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from posthouse.accounts.credentials import BadPassword, Credentials
from posthouse.accounts.directory import AccountDirectory, BadName, account_name, domain_name
from posthouse.config.schema import AccountSettings
from posthouse.mail.address import Address
from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.directory import Directory
from posthouse.ports.store import Alias, Conflict, Missing
from tests.unit.memory_store import MemoryStore
from tests.unit.test_credentials import StillClock, SystemOctets

SETTINGS = AccountSettings(hash_memory=65_536, hash_passes=1)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def credentials() -> Iterator[Credentials]:
    made = Credentials(SETTINGS, StillClock(), SystemOctets())
    yield made
    made.close()


@pytest.fixture
def directory(store: MemoryStore, credentials: Credentials) -> AccountDirectory:
    return AccountDirectory(store.port, credentials, quota=1000)


@pytest.fixture
async def filled(directory: AccountDirectory) -> AccountDirectory:
    await directory.add_domain("X.mail.")
    await directory.add_domain("пример.рф")
    await directory.add_account("Test@x.mail", "secret")
    await directory.add_account('"odd one"@x.mail', "odd")
    await directory.add_account("Анна@пример.рф", "тайна")
    return directory


def test_it_is_the_port(directory: AccountDirectory) -> None:
    port: Directory = directory
    assert port is directory


async def test_local_domains_in_every_form(filled: AccountDirectory) -> None:
    for name in ("x.mail", "X.MAIL", "пример.рф", "ПРИМЕР.рф", "xn--e1afmkfd.xn--p1ai"):
        assert await filled.is_local(name), name
    for name in ("y.mail", "mail", "[127.0.0.1]", "", "..", "\u2028", "x.mail\x00", "[IPv6:::1"):
        assert not await filled.is_local(name), name


async def test_accounts_are_found_in_every_form(filled: AccountDirectory) -> None:
    for text in ("test@x.mail", "TEST@X.MAIL", '"test"@x.mail', '"odd one"@x.mail', "анна@xn--e1afmkfd.xn--p1ai"):
        assert await filled.find(Address.parse(text)) is not None, text
    for text in ("test2@x.mail", "test@y.mail", "test@[127.0.0.1]"):
        assert await filled.find(Address.parse(text)) is None, text
    assert await filled.find(Address("test", "\u2028")) is None


async def test_logins(filled: AccountDirectory) -> None:
    for login in ("test@x.mail", "Test@X.Mail", "test", "TEST"):
        opened = await filled.authenticate(login, "secret")
        assert opened is not None and opened.account.address == "test@x.mail" and not opened.app, login
    assert await filled.authenticate("анна@пример.рф", "тайна") is not None
    for login, password in [
        ("test", "Secret"),
        ("test@x.mail", ""),
        ("nobody@x.mail", "secret"),
        ("nobody", "secret"),
        ("@", "secret"),
        ("", "secret"),
        ("x" * 100_000, "secret"),
        ("test@x.mail\x00", "secret"),
        ("%", "secret"),
        ("\ud800", "secret"),
    ]:
        assert await filled.authenticate(login, password) is None, (login, password)


async def test_a_local_part_in_two_domains_names_nobody(filled: AccountDirectory) -> None:
    assert await filled.authenticate("test", "secret") is not None
    await filled.add_account("test@пример.рф", "secret")
    assert await filled.authenticate("test", "secret") is None
    assert await filled.authenticate("test@x.mail", "secret") is not None


async def test_every_failed_login_costs_one_hash(filled: AccountDirectory, credentials: Credentials) -> None:
    """Catalogue A4: would catch a name that is answered sooner than another."""
    before = credentials.hashed
    for login in ("test@x.mail", "nobody@x.mail", "nobody", "test@y.mail", "no address@", "x" * 1000):
        assert await filled.authenticate(login, "wrong") is None
    assert credentials.hashed == before + 6


async def test_a_changed_password_works_at_once(filled: AccountDirectory) -> None:
    assert await filled.authenticate("test", "secret") is not None
    await filled.set_password("test@x.mail", "new")
    assert await filled.authenticate("test", "secret") is None
    assert await filled.authenticate("test", "new") is not None


async def test_an_old_hash_is_renewed_at_a_login(filled: AccountDirectory, store: MemoryStore) -> None:
    stronger = Credentials(AccountSettings(hash_memory=131_072, hash_passes=1), StillClock(), SystemOctets())
    directory = AccountDirectory(store.port, stronger)
    assert await directory.authenticate("test", "wrong") is None
    assert store.account_table["test@x.mail"].password.startswith("$argon2id$v=19$m=64,")
    assert await directory.authenticate("test", "secret") is not None
    await directory.close()
    assert store.account_table["test@x.mail"].password.startswith("$argon2id$v=19$m=128,")
    assert await directory.authenticate("test", "secret") is not None
    stronger.close()


async def test_a_renewed_hash_never_undoes_a_change(
    filled: AccountDirectory, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is changed by somebody else while the old one is being hashed anew."""
    stronger = Credentials(AccountSettings(hash_memory=131_072, hash_passes=1), StillClock(), SystemOctets())
    directory = AccountDirectory(store.port, stronger)
    hash_password = stronger.hash

    async def slowly(self: Credentials, password: str) -> str:
        store.account_table["test@x.mail"].password = "changed"
        return await hash_password(password)

    monkeypatch.setattr(Credentials, "hash", slowly)
    assert await directory.authenticate("test", "secret") is not None
    await directory.close()
    assert store.account_table["test@x.mail"].password == "changed"
    stronger.close()


async def test_a_hash_that_cannot_be_renewed_is_no_failed_login(
    filled: AccountDirectory, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stronger = Credentials(AccountSettings(hash_memory=131_072, hash_passes=1), StillClock(), SystemOctets())

    async def full(*_: object, **__: object) -> bool:
        raise Unavailable(Fault.FULL)

    monkeypatch.setattr(store, "set_password", full)
    directory = AccountDirectory(store.port, stronger)
    assert await directory.authenticate("test", "secret") is not None
    await directory.close()
    stronger.close()


async def test_postmaster(filled: AccountDirectory, store: MemoryStore, credentials: Credentials) -> None:
    """RFC 5321 §4.5.1: postmaster receives mail in every domain, and without one."""
    bare = Address("PostMaster", "")
    there = Address.parse("POSTMASTER@пример.рф")
    assert await filled.find(bare) is None
    assert await filled.find(Address("somebody", "")) is None
    named = AccountDirectory(store.port, credentials, postmaster="test@x.mail")
    for address in (bare, there):
        account = await named.find(address)
        assert account is not None and account.address == "test@x.mail"
    assert await named.find(Address.parse("postmaster@y.mail")) is None
    await filled.add_account("postmaster@x.mail", "p")
    account = await named.find(bare)
    assert account is not None and account.address == "postmaster@x.mail"


async def test_postmaster_before_there_is_a_domain(directory: AccountDirectory) -> None:
    assert await directory.find(Address("postmaster", "")) is None


@pytest.mark.parametrize(
    "name",
    ["", ".", "a b", "-a.example", "a..b", "x" * 64 + ".org", "[127.0.0.1]", "192.0.2.1", "a@b", "x.1", "ex\x00.org"],
)
async def test_names_no_domain_can_have(directory: AccountDirectory, name: str) -> None:
    with pytest.raises(BadName, match="Write"):
        await directory.add_domain(name)


@pytest.mark.parametrize(
    "name", ["", "test", "@x.mail", "a b@x.mail", "a@b@x.mail", "x" * 65 + "@x.mail", "a@[127.0.0.1]", "a@1"]
)
async def test_names_no_account_can_have(filled: AccountDirectory, name: str) -> None:
    with pytest.raises(BadName, match="Write"):
        await filled.add_account(name, "p")


def test_names_have_one_form() -> None:
    assert domain_name(" Example.ORG. ") == "example.org"
    assert account_name(" Anna@Example.ORG ") == "anna@example.org"
    assert account_name('"anna"@example.org') == "anna@example.org"


async def test_what_exists_or_is_missing_is_said_with_what_to_do(filled: AccountDirectory, store: MemoryStore) -> None:
    with pytest.raises(Conflict, match=r"The domain пример.рф exists already"):
        await filled.add_domain("xn--e1afmkfd.xn--p1ai")
    with pytest.raises(Missing, match=r"posthouse domain add y.mail"):
        await filled.add_account("a@y.mail", "p")
    with pytest.raises(Conflict, match=r"posthouse account passwd test@x.mail"):
        await filled.add_account("test@x.mail", "p")
    with pytest.raises(Missing, match="posthouse account list"):
        await filled.set_password("nobody@x.mail", "p")
    with pytest.raises(Missing, match="posthouse account list"):
        await filled.remove_account("nobody@x.mail")
    with pytest.raises(Missing, match="posthouse domain add"):
        await filled.remove_domain("y.mail")
    with pytest.raises(Missing, match="posthouse domain add"):
        await filled.accounts("y.mail")
    with pytest.raises(Conflict, match="still has 2 accounts"):
        await filled.remove_domain("x.mail")
    store.in_use.add("test@x.mail")
    with pytest.raises(Conflict, match="reading the mail"):
        await filled.remove_account("test@x.mail")


async def test_adding_listing_and_removing(filled: AccountDirectory) -> None:
    assert [domain.name for domain in await filled.domains()] == ["x.mail", "xn--e1afmkfd.xn--p1ai"]
    assert [account.address for account in await filled.accounts("x.mail")] == ['"odd one"@x.mail', "test@x.mail"]
    assert len(await filled.accounts()) == 3
    assert (await filled.accounts("x.mail"))[1].quota == 1000
    assert (await filled.add_account("big@x.mail", "p", 0)).quota == 0
    assert await filled.remove_account("Test@x.mail") == 0
    assert await filled.authenticate("test", "secret") is None


async def test_many_accounts_at_once(filled: AccountDirectory) -> None:
    wanted = [(f"user{number}@x.mail", f"p{number}") for number in range(150)]
    wanted += [("test@x.mail", "p"), ("a@y.mail", "p"), ("user1@x.mail", "again")]
    results = await filled.add_accounts(wanted)
    assert [result.address for result in results] == [address for address, _ in wanted]
    assert all(result.account for result in results[:150])
    assert isinstance(results[150].problem, Conflict)
    assert isinstance(results[151].problem, Missing)
    assert isinstance(results[152].problem, Conflict)
    assert await filled.authenticate("user77", "p77") is not None


async def test_many_accounts_are_checked_before_the_first_is_added(filled: AccountDirectory) -> None:
    with pytest.raises(BadName):
        await filled.add_accounts([("a@x.mail", "p"), ("b c@x.mail", "p")])
    with pytest.raises(BadPassword):
        await filled.add_accounts([("a@x.mail", "p"), ("b@x.mail", "")])
    assert await filled.find(Address.parse("a@x.mail")) is None


async def test_an_alias_for_postmaster_goes_before_the_account_of_the_configuration(
    filled: AccountDirectory, store: MemoryStore, credentials: Credentials
) -> None:
    store.alias_table["postmaster@x.mail"] = Alias("postmaster@x.mail", ("anna@far.example",))
    named = AccountDirectory(store.port, credentials, postmaster="test@x.mail")
    there = Address.parse("PostMaster@X.mail")
    assert await named.find(there) is None
    assert [str(one) for one in await named.alias(there)] == ["anna@far.example"]
