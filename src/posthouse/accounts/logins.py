"""Who may log in: names and passwords, app passwords, and what mechanisms compare with that send no password.

Whatever is wrong looks the same: a name that nobody has, a wrong password, an account without one, a mechanism for
which nothing is kept. Where the look-ups differ by microseconds, the servers answer failures at a fixed time.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Final

from posthouse.accounts import apps
from posthouse.accounts.credentials import Credentials, Verdict, check_new, prepare
from posthouse.accounts.kept import ITERATIONS, Vault, read_verifier, salt_of, write_verifier
from posthouse.mail.address import Address, AddressError
from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.directory import Candidates, Opened
from posthouse.ports.store import Account, Credential, Kept, Missing, Store
from posthouse.ports.system import Clock
from posthouse.sasl.mechanisms import Secrets
from posthouse.sasl.prepare import scram_password
from posthouse.sasl.scram import derive

LONGEST_LOGIN: Final = 320  # characters; a local part of 64, an @ and a domain of 255
RENEWALS: Final = 32  # that go on at once; a login that finds more is renewed at the next one


class Logins:
    """The logins of one store. `scram` keeps verifiers; `vault` keeps passwords themselves, None for not."""

    def __init__(
        self, store: Store, credentials: Credentials, clock: Clock, *, scram: bool = True, vault: Vault | None = None
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._clock = clock
        self._scram = scram
        self._vault = vault
        self._secret = b""
        self._used = apps.LastUsed(store.touch)
        self._renewals: set[asyncio.Task[None]] = set()

    @property
    def secret(self) -> bytes:
        """The store's own key, read once."""
        if not self._secret:
            self._secret = self._store.secret()
        return self._secret

    async def authenticate(self, login: str, password: str, protocol: str) -> Opened | None:
        """See `ports.Directory.authenticate`. What is kept of the password in an old form, or not at all, is renewed
        behind the login's back."""
        account = await self._named(login)
        if account is not None and (app := apps.read(password)) is not None:
            opened = await self._by_app(account, app, protocol)
            if opened is not None:
                return opened
        stored = "" if account is None else account.password
        name = login[:LONGEST_LOGIN] if account is None else account.address
        verdict = await self._credentials.verify(name, stored, password)
        if not verdict or account is None:
            return None
        if verdict is Verdict.VERIFIED:
            self._renew_later(account, password)
        return Opened(account)

    async def _by_app(self, account: Account, password: str, protocol: str) -> Opened | None:
        made = apps.digest(self.secret, account.id, password)
        for credential in await self._store.credentials(account.id):
            if hmac.compare_digest(credential.digest, made) and apps.allows(credential.protocols, protocol):
                self._used.note(credential.id, self._clock.now())
                return Opened(account, credential.name)
        return None

    async def candidates(self, login: str, protocol: str) -> Candidates:
        """See `ports.Directory.candidates`."""
        account = await self._named(login)
        salt = salt_of(self.secret, local_part(login) if account is None else account.address.rpartition("@")[0])
        found = Candidates(Secrets(salt, ITERATIONS), account)
        # An account that does not exist is looked up just as well, so that it takes the same time.
        kept = await self._store.credentials(0 if account is None else account.id)
        if account is None or not account.password:
            return found
        self._collect(found, account, [one for one in kept if apps.allows(one.protocols, protocol)])
        return found

    def _collect(self, found: Candidates, account: Account, kept: list[Credential]) -> None:
        secrets = found.secrets
        scram, shared = list(secrets.scram), list(secrets.shared)
        opened_scram, opened_shared = list(found.scram), list(found.shared)
        for one in kept:
            keys = read_verifier(one.scram, secrets.salt, secrets.iterations) if self._scram else None
            if keys is not None:
                scram.append(keys)
                opened_scram.append(Opened(account, one.name))
            password = self._vault.open(one.shared, account.address) if self._vault and one.shared else None
            if password is not None:
                shared.append(password)
                opened_shared.append(Opened(account, one.name))
        secrets.scram, secrets.shared = scram, shared
        found.scram, found.shared = opened_scram, opened_shared

    async def note(self, opened: Opened) -> None:
        """See `ports.Directory.note`."""
        for credential in await self._store.credentials(opened.account.id) if opened.app else ():
            if credential.name == opened.app:
                self._used.note(credential.id, self._clock.now())

    async def _named(self, login: str) -> Account | None:
        if len(login) > LONGEST_LOGIN:
            return None
        try:
            if "@" in login:
                return await self._store.find_account(Address.parse(login).key)
            found = await self._store.find_local_part(Address(login, "").key)
        except AddressError:
            return None
        return found[0] if len(found) == 1 else None

    # What is kept of a password

    async def keep(self, key: str, password: str) -> tuple[str, Kept]:
        """The hash of a new password and what else is kept of it, for the account of this address. Raises
        BadPassword, Unavailable."""
        check_new(password)
        return await self._credentials.hash(password), await self._kept(key, password, shared=True)

    async def _kept(self, key: str, password: str, *, shared: bool) -> Kept:
        salt = salt_of(self.secret, key.rpartition("@")[0])
        vault = self._vault if shared else None

        def work() -> Kept:
            scram = sealed = None
            if self._scram:
                scram = write_verifier(salt, ITERATIONS, derive(scram_password(password), salt, ITERATIONS))
            if vault is not None:
                sealed = vault.seal(prepare(password) or b"", key)
            return Kept(scram or "", sealed or b"")

        if not self._scram and vault is None:
            return Kept()
        try:
            return await self._credentials.in_thread(work)
        except OSError as error:
            raise Unavailable(Fault.STORAGE, f"the key of the passwords cannot be kept: {error}") from error

    async def app_credential(self, account: Account, name: str, protocols: str, password: str) -> Credential:
        """What is kept of a new app password."""
        kept = await self._kept(account.address, password, shared=True)
        made = apps.digest(self.secret, account.id, password)
        return Credential(0, name, protocols, made, kept.scram, kept.shared, self._clock.now())

    def _renew_later(self, account: Account, password: str) -> None:
        if len(self._renewals) < RENEWALS:
            task = asyncio.get_running_loop().create_task(self._renew(account, password))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew(self, account: Account, password: str) -> None:
        """Hashes the password anew, and derives what SCRAM needs, if one of them is not as it would be made now. That
        may fail without harm: the next login tries again."""
        try:
            own = next((one for one in await self._store.credentials(account.id) if not one.name), None)
            salt = salt_of(self.secret, account.address.rpartition("@")[0])
            lacks = self._scram and (own is None or read_verifier(own.scram, salt, ITERATIONS) is None)
            old = self._credentials.is_old(account.password)
            if not old and not lacks:
                return
            hashed = await self._credentials.hash(password) if old else account.password
            kept = await self._kept(account.address, password, shared=False)
            if own is not None:
                kept = Kept(kept.scram, own.shared)  # a password is sealed only when it is set
            await self._store.set_password(account.address, hashed, expected=account.password, kept=kept)
        except (Unavailable, Missing, ValueError):
            return

    async def settle(self) -> None:
        """Waits for the renewals that are under way."""
        while self._renewals:
            await asyncio.wait(self._renewals)

    async def close(self) -> None:
        """Waits for what is under way and writes down when app passwords were last used."""
        await self.settle()
        await self._used.close()


def local_part(login: str) -> str:
    """The local part of a login name that nobody has, in the form an account's would have."""
    try:
        key = Address.parse(login).key if "@" in login else Address(login, "").key
    except AddressError:
        key = login[:LONGEST_LOGIN].lower()
    return key.rpartition("@")[0] if "@" in key else key
