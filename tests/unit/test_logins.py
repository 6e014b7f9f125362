"""Logins beside the plain password: verifiers, app passwords, recoverable passwords, and the hashes of others."""

from __future__ import annotations

import stat
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from posthouse.accounts import apps, foreign
from posthouse.accounts.credentials import Credentials
from posthouse.accounts.directory import AccountDirectory, BadName
from posthouse.accounts.foreign import BadHash
from posthouse.accounts.kept import ITERATIONS, Vault, read_verifier, salt_of, write_verifier
from posthouse.accounts.logins import Logins
from posthouse.config.schema import AccountSettings
from posthouse.ports.store import Conflict, Missing
from posthouse.sasl.digests import CramMd5Client, CramMd5Server
from posthouse.sasl.mechanisms import Failed, Proven, Wanted
from posthouse.sasl.scram import ScramClient, ScramServer, derive
from tests.unit.memory_store import MemoryStore
from tests.unit.test_credentials import StillClock, SystemOctets

SETTINGS = AccountSettings(hash_memory=65_536, hash_passes=1)


class House:
    """A directory on a store in memory. `recoverable` keeps passwords, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.clock = StillClock()
        self.credentials = Credentials(SETTINGS, self.clock, SystemOctets())
        self.directory = self.open()

    def open(self, *, scram: bool = True, recoverable: bool = False) -> AccountDirectory:
        vault = Vault(self.folder, SystemOctets()) if recoverable else None
        logins = Logins(self.store.port, self.credentials, self.clock, scram=scram, vault=vault)
        self.directory = AccountDirectory(self.store.port, self.credentials, logins=logins)
        return self.directory

    async def scram(self, login: str, password: str, protocol: str = "smtp") -> str | None:
        """Which password a SCRAM login opens: "own", an app password's name, or None."""
        found = await self.directory.candidates(login, protocol)
        client, server = ScramClient(login, password, "abc"), ScramServer("def")
        assert isinstance(server.step(client.step(b"")), Wanted)
        step = server.step(client.step(server.know(found.secrets)))
        if isinstance(step, bytes):
            step = server.step(client.step(step))
        if isinstance(step, Failed):
            return None
        assert isinstance(step, Proven) and client.finished
        await self.directory.note(found.scram[step.index])
        return found.scram[step.index].app or "own"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.directory.add_domain("x.mail")
    await made.directory.add_domain("y.mail")
    await made.directory.add_account("test@x.mail", "secret")
    yield made
    await made.directory.close()
    made.credentials.close()


# SCRAM


async def test_a_new_password_opens_by_scram(house: House) -> None:
    for login in ("test@x.mail", "TEST@X.mail", "test"):
        assert await house.scram(login, "secret") == "own", login
        assert await house.scram(login, "wrong") is None, login
    assert await house.scram("nobody", "secret") is None


async def test_a_changed_password_counts_at_once(house: House) -> None:
    await house.directory.set_password("test@x.mail", "new")
    assert await house.scram("test", "secret") is None
    assert await house.scram("test", "new") == "own"


async def test_names_cannot_be_told_apart_by_what_scram_tells(house: House) -> None:
    """RFC 5802 §9, catalogue A4: what is there and what is not get a salt made the same way, in every form of the
    name, and always the same one."""

    async def told(login: str) -> tuple[bytes, int]:
        secrets = (await house.directory.candidates(login, "smtp")).secrets
        return secrets.salt, secrets.iterations

    for name in ("test", "nobody"):
        forms = [
            name,
            name.upper(),
            f"{name}@x.mail",
            f"{name}@Y.MAIL",
            f"{name}@elsewhere.example",
            f'"{name}"@x.mail',
        ]
        salts = {await told(form) for form in forms}
        assert len(salts) == 1, name
        assert {len(salt) for salt, _ in salts} == {16}
        assert {count for _, count in salts} == {ITERATIONS}
    assert await told("test") != await told("nobody")
    for odd in ("", "@", "a@b@c", "\u2028@x.mail", "x" * 1000):
        assert await told(odd) == await told(odd)


async def test_a_verifier_is_made_behind_the_first_plain_login(house: House) -> None:
    """Accounts from before have none: SCRAM refuses them until the password passed once."""
    house.store.credential_table.clear()
    assert await house.scram("test", "secret") is None
    assert await house.directory.authenticate("test", "wrong") is None
    assert await house.directory.authenticate("test", "secret") is not None
    await house.directory.close()
    assert await house.scram("test", "secret") == "own"


async def test_a_verifier_with_another_count_is_made_anew(house: House) -> None:
    account = house.store.account_table["test@x.mail"]
    [own] = house.store.credential_table[account.id]
    old = own.scram.replace(f"${ITERATIONS}:", "$4096:")
    house.store.credential_table[account.id] = [replace(own, scram=old)]
    assert await house.scram("test", "secret") is None
    await house.directory.authenticate("test", "secret")
    await house.directory.close()
    assert await house.scram("test", "secret") == "own"


async def test_a_remembered_login_looks_nothing_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hot path: catches a look-up of credentials at each login."""
    assert await house.directory.authenticate("test", "secret", "pop3") is not None
    await house.directory.close()

    async def never(account: int) -> list[object]:
        raise AssertionError("looked up")

    monkeypatch.setattr(house.store, "credentials", never)
    assert await house.directory.authenticate("test", "secret", "pop3") is not None
    await house.directory.close()


async def test_without_scram_nothing_is_kept(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.open(scram=False)
    await house.directory.add_domain("x.mail")
    await house.directory.add_account("test@x.mail", "secret")
    [own] = house.store.credential_table[1]
    assert (own.scram, own.shared) == ("", b"")
    assert await house.scram("test", "secret") is None
    house.credentials.close()


def test_a_verifier_is_read_as_it_was_written() -> None:
    salt = salt_of(b"key", "test")
    keys = derive(b"secret", salt, 4096)
    text = write_verifier(salt, 4096, keys)
    assert text.startswith(f"SCRAM-SHA-256$4096:{b64encode(salt).decode()}$")
    assert read_verifier(text, salt, 4096) == keys
    assert read_verifier(text, salt, 4097) is None
    assert read_verifier(text, salt_of(b"key", "other"), 4096) is None
    assert read_verifier("", salt, 4096) is None
    assert read_verifier(text + "!", salt, 4096) is None


# App passwords


async def test_an_app_password_opens_its_protocols_only(house: House) -> None:
    address, password = await house.directory.add_app_password("test@x.mail", "phone", ["pop3", "imap"])
    assert address == "test@x.mail"
    opened = await house.directory.authenticate("test", password, "pop3")
    assert opened is not None and opened.app == "phone" and opened.account.address == "test@x.mail"
    assert await house.directory.authenticate("test", password, "smtp") is None
    assert await house.scram("test", password, "imap") == "phone"
    assert await house.scram("test", password, "smtp") is None
    _, every = await house.directory.add_app_password("test@x.mail", "all")
    for protocol in ("smtp", "pop3", "imap"):
        assert await house.directory.authenticate("test", every, protocol) is not None
    assert await house.directory.authenticate("test", "secret", "smtp") is not None, "the own one still works"


async def test_an_app_password_is_its_accounts_alone(house: House) -> None:
    await house.directory.add_account("other@x.mail", "secret")
    _, password = await house.directory.add_app_password("test@x.mail", "phone")
    assert await house.directory.authenticate("other", password, "smtp") is None


async def test_a_revoked_app_password_is_refused_at_once(house: House) -> None:
    _, password = await house.directory.add_app_password("test@x.mail", "phone")
    assert await house.directory.authenticate("test", password, "smtp") is not None
    assert await house.directory.revoke_app_password("test@x.mail", " phone ") == "test@x.mail"
    assert await house.directory.authenticate("test", password, "smtp") is None
    assert await house.scram("test", password) is None
    with pytest.raises(Missing, match="no app password"):
        await house.directory.revoke_app_password("test@x.mail", "phone")


async def test_a_new_password_leaves_the_app_passwords_alone(house: House) -> None:
    _, password = await house.directory.add_app_password("test@x.mail", "phone")
    await house.directory.set_password("test@x.mail", "new")
    assert await house.directory.authenticate("test", password, "smtp") is not None
    assert await house.scram("test", password) == "phone"


async def test_what_an_app_password_cannot_be(house: House) -> None:
    await house.directory.add_app_password("test@x.mail", "phone")
    with pytest.raises(Conflict, match="already"):
        await house.directory.add_app_password("test@x.mail", "phone")
    for name in ("", " ", "x" * 61, "a\0b"):
        with pytest.raises(BadName):
            await house.directory.add_app_password("test@x.mail", name)
    with pytest.raises(BadName, match="no protocol"):
        await house.directory.add_app_password("test@x.mail", "tablet", ["ftp"])
    with pytest.raises(Missing):
        await house.directory.add_app_password("nobody@x.mail", "phone")
    for number in range(apps.MOST - 1):
        await house.directory.add_app_password("test@x.mail", f"n{number}")
    with pytest.raises(Conflict, match="Revoke"):
        await house.directory.add_app_password("test@x.mail", "one more")


async def test_the_last_use_is_noted_without_waiting(house: House) -> None:
    _, password = await house.directory.add_app_password("test@x.mail", "phone")
    house.clock.time += 1000
    await house.directory.authenticate("test", password, "smtp")
    [phone] = (await house.directory.app_passwords("test@x.mail"))[1]
    assert phone.used == 0, "no login waits for the note"
    await house.directory.close()
    [phone] = (await house.directory.app_passwords("test@x.mail"))[1]
    assert phone.used == house.clock.now()


def test_how_an_app_password_looks() -> None:
    made = {apps.make(SystemOctets()) for _ in range(100)}
    assert len(made) == 100
    for password in made:
        assert apps.read(password) == password
        assert apps.read(password.replace("-", "")) == password
        assert apps.read(password.replace("-", " ").upper()) == password
        assert len(password) == 29 and len(password.replace("-", "")) == 25
    for other in ("", "secret", "abcde-abcde-abcde-abcde-abcd", "a" * 26, "a" * 10_000, "тайна-тайна", "abcdl" * 5):
        assert apps.read(other) is None
    assert len(set(apps.ALPHABET)) == 32, "five bits a character"


# Recoverable passwords


async def test_cram_md5_opens_what_was_set_while_passwords_are_kept(house: House) -> None:
    house.open(recoverable=True)
    assert (await house.directory.candidates("test", "smtp")).secrets.shared == [], "set before"
    await house.directory.set_password("test@x.mail", "тайна")
    _, app = await house.directory.add_app_password("test@x.mail", "old printer")
    for password, name in (("тайна", ""), (app, "old printer")):
        found = await house.directory.candidates("test", "smtp")
        server = CramMd5Server("<1@x.mail>")
        word = server.step(None)
        assert isinstance(word, bytes)
        assert server.step(CramMd5Client("test", password).step(word)) == Wanted("test", "")
        step = server.know(found.secrets)
        assert isinstance(step, Proven) and found.shared[step.index].app == name


async def test_recoverable_passwords_are_sealed(house: House) -> None:
    house.open(recoverable=True)
    await house.directory.set_password("test@x.mail", "a-secret-that-shows")
    [own] = house.store.credential_table[1]
    assert own.shared and b"secret" not in own.shared
    key = house.folder / "passwords.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    assert [file.name for file in house.folder.iterdir()] == ["passwords.key"], "no draft of the key is left"
    again = Vault(house.folder, SystemOctets())
    assert again.open(own.shared, "test@x.mail") == b"a-secret-that-shows"
    assert again.open(own.shared, "other@x.mail") is None, "bound to its account"
    assert again.open(own.shared[:-1] + bytes([own.shared[-1] ^ 1]), "test@x.mail") is None
    assert again.open(b"", "test@x.mail") is None
    key.unlink()
    assert Vault(house.folder, SystemOctets()).open(own.shared, "test@x.mail") is None


async def test_a_renewed_hash_keeps_what_is_sealed(house: House) -> None:
    house.open(recoverable=True)
    await house.directory.set_password("test@x.mail", "secret")
    [own] = house.store.credential_table[1]
    house.store.credential_table[1] = [replace(own, scram="")]
    await house.directory.authenticate("test", "secret")
    await house.directory.close()
    [renewed] = house.store.credential_table[1]
    assert renewed.scram and renewed.shared == own.shared


# The hashes of others


def made_by_others(password: bytes) -> dict[str, str]:
    """Hashes as other servers make them, by independent code."""
    import hashlib

    import bcrypt
    from passlib.hash import md5_crypt, sha256_crypt, sha512_crypt

    def base64(octets: bytes) -> str:
        return b64encode(octets).decode()

    sha256, sha512 = hashlib.sha256(password), hashlib.sha512(password)
    md5, sha1 = hashlib.md5(password), hashlib.sha1(password)
    salted = hashlib.sha256(password + b"salt").digest() + b"salt"
    bcrypted = bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()
    return {
        "bcrypt": bcrypted,
        "bcrypt as PHP writes it": bcrypted.replace("$2b$", "$2y$"),
        "{BLF-CRYPT}": "{BLF-CRYPT}" + bcrypted,
        "{CRYPT}": "{CRYPT}" + sha512_crypt.using(rounds=1000).hash(password),
        "SHA256-crypt": sha256_crypt.using(rounds=1000).hash(password),
        "{SHA512-CRYPT}": "{SHA512-CRYPT}" + sha512_crypt.using(rounds=5000).hash(password),
        "MD5-crypt": md5_crypt.hash(password),
        "hMailServer": "a1b2c3" + hashlib.sha256(b"a1b2c3" + password).hexdigest(),
        "MD5": md5.hexdigest().upper(),
        "{PLAIN-MD5}": "{PLAIN-MD5}" + md5.hexdigest(),
        "{LDAP-MD5}": "{LDAP-MD5}" + base64(md5.digest()),
        "{SMD5}": "{SMD5}" + base64(hashlib.md5(password + b"12345678").digest() + b"12345678"),
        "{SHA}": "{sha}" + base64(sha1.digest()),
        "{SSHA}": "{SSHA}" + base64(hashlib.sha1(password + b"12345678").digest() + b"12345678"),
        "SHA-256": sha256.hexdigest(),
        "{SHA256}": "{SHA256}" + base64(sha256.digest()),
        "{SHA256.HEX}": "{SHA256.HEX}" + sha256.hexdigest(),
        "{SSHA256}": "{SSHA256}" + base64(salted),
        "{SSHA256.hex}": "{SSHA256.hex}" + salted.hex(),
        "{SHA512}": "{SHA512}" + base64(sha512.digest()),
        "{SSHA512}": "{SSHA512}" + base64(hashlib.sha512(password + b"salt").digest() + b"salt"),
    }


@pytest.mark.parametrize("name", made_by_others(b"secret"))
async def test_a_foreign_hash_verifies_once_and_becomes_ours(house: House, name: str) -> None:
    await house.directory.set_hash("test@x.mail", made_by_others("тайна 1".encode())[name])
    assert await house.directory.authenticate("test", "тайна 2") is None
    stored = house.store.account_table["test@x.mail"].password
    assert foreign.known(stored) and not stored.startswith("$")
    assert await house.directory.authenticate("test", "тайна 1") is not None
    await house.directory.close()
    assert house.store.account_table["test@x.mail"].password.startswith("$argon2id$")
    assert await house.directory.authenticate("test", "тайна 1") is not None
    assert await house.scram("test", "тайна 1") == "own"


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        # What the program of OpenSSL makes of the salt and the password that the specification of SHA-crypt has.
        ("$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!"),
        (
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
            "Hello world!",
        ),
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),  # of the specification of bcrypt
        ("$1$3azHgidD$SrJPt7B.9rekpmwJwtON31", "password"),
    ],
)
def test_published_vectors(stored: str, password: str) -> None:
    kept = foreign.read(stored)
    assert foreign.matches(kept, password.encode())
    assert not foreign.matches(kept, b"other")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no hash"),
        ("secret", "no hash that is known"),
        ("{PLAIN}secret", "--password-stdin"),
        ("{CLEARTEXT}secret", "--password-stdin"),
        ("{OTR}abc", "not known"),
        ("{SHA256}abc", "neither base64"),
        ("{SHA256}YWJj", "wrong length"),
        ("{SSHA256}" + b64encode(bytes(32)).decode(), "wrong length"),
        ("{PLAIN-MD5}xyz", "neither base64"),
        ("$2b$31$C7E3z8Hc4kDnXlRlDhmNr.3JxWW0jMmTfJLDkGfHAzNVW7.oBAjnO", "cost 31"),
        ("$6$rounds=999999999$salt$" + "a" * 86, "rounds"),
        ("$6$salt$" + "a" * 43, "no hash that is known"),
        ("$argon2id$v=19$m=9999999,t=2,p=1$c2FsdHNhbHQ$" + "a" * 43, "costs more"),
        ("$argon2id$damaged", "damaged"),
        ("{SHA512}" + "A" * 600, "no hash"),
        ("{SHA256}тайна", "no hash"),
    ],
)
def test_hashes_that_are_not_taken(text: str, why: str) -> None:
    with pytest.raises(BadHash, match=why.replace("{", r"\{")):
        foreign.read(text)


async def test_accounts_come_with_their_hashes(house: House) -> None:
    hashes = made_by_others(b"secret")
    wanted = [("a@x.mail", hashes["bcrypt"]), ("b@x.mail", hashes["hMailServer"])]
    added = await house.directory.add_accounts(wanted, hashed=True)
    assert [one.problem for one in added] == [None, None]
    for name in ("a", "b"):
        assert await house.directory.authenticate(name, "secret") is not None
        assert await house.directory.authenticate(name, "wrong") is None
    with pytest.raises(BadHash):
        await house.directory.add_accounts([("c@x.mail", hashes["bcrypt"]), ("d@x.mail", "secret")], hashed=True)
    assert "c@x.mail" not in house.store.account_table
