"""Who receives mail here and who may log in: the domains and accounts of one store, and the services on them.

The servers ask it for each recipient and each login; the command line and the web pages add, list and remove
through the same methods. Names are brought into their one form here (`Address.key`), so that the store compares
plain texts.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from posthouse.accounts import apps, foreign
from posthouse.accounts.credentials import Credentials, check_new
from posthouse.accounts.logins import Logins
from posthouse.mail.address import Address, AddressError, domain_key, domain_text, parse_domain
from posthouse.mail.reply import Unavailable
from posthouse.observe.audit import Record, no_record
from posthouse.ports.directory import Candidates, Opened
from posthouse.ports.store import Account, Buried, Conflict, Credential, Domain, Kept, Missing, Store

POSTMASTER: Final = "postmaster"  # RFC 5321 §4.5.1: this name receives mail in every domain, in any case
APP_NAME: Final = 60  # characters of an app password's name
_NUMBER: Final = re.compile(r"\d+")


class BadName(ValueError):
    """A name that no domain or account can have. The text says why, and what to do."""


@dataclass(slots=True)
class Added:
    """What came of one account of many: the account, or why it could not be added."""

    address: str
    account: Account | None = None
    problem: Conflict | Missing | Unavailable | None = None


class AccountDirectory:
    """The directory of one store (`ports.Directory`), with the services of administration."""

    __slots__ = ("_credentials", "_logins", "_postmaster", "_quota", "_record", "_store")

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        *,
        quota: int = 0,
        postmaster: str = "",
        record: Record = no_record,
        logins: Logins | None = None,
    ) -> None:
        """`quota` is what a new account gets; `postmaster` is the key of the account that has the letters to
        postmaster where no account of that name exists, empty for none; `record` writes changes down. `logins`
        outlives a reload."""
        self._store = store
        self._credentials = credentials
        self._logins = logins or Logins(store, credentials, credentials.clock)
        self._quota = quota
        self._postmaster = postmaster
        self._record = record

    # What the servers ask

    async def is_local(self, domain: str) -> bool:
        """Whether we are responsible for this domain."""
        if domain.startswith("["):
            return False
        try:
            return await self._store.find_domain(domain_key(domain)) is not None
        except AddressError:
            return False

    async def find(self, address: Address) -> Account | None:
        """The account behind an address, or None.

        `postmaster` without a domain is that of the first local domain. Where a local domain has no account of
        that name, the account that the configuration names has its letters (RFC 5321 §4.5.1).
        """
        if not address.domain:
            return await self._first_postmaster(address)
        try:
            key = address.key
        except AddressError:
            return None
        found = await self._store.find_account(key)
        if found is None and self._postmaster and address.local.lower() == POSTMASTER and not await self.alias(address):
            return await self._store.find_account(self._postmaster) if await self.is_local(address.domain) else None
        return found

    async def alias(self, address: Address) -> list[Address]:
        """The addresses that an alias stands for; none when it is none."""
        try:
            found = await self._store.find_alias(address.key) if address.domain else None
        except AddressError:
            return []
        return [] if found is None else [Address.parse(target) for target in found.targets]

    async def _first_postmaster(self, address: Address) -> Account | None:
        if address.local.lower() != POSTMASTER:
            return None
        domains = await self._store.domains()
        return await self.find(Address(POSTMASTER, domains[0].name)) if domains else None

    async def authenticate(self, login: str, password: str, protocol: str = "") -> Opened | None:
        """What a login name and password open, or None, after the same time whatever is wrong. Raises
        Unavailable(BUSY) when too many verifications are waiting."""
        return await self._logins.authenticate(login, password, protocol)

    async def candidates(self, login: str, protocol: str = "") -> Candidates:
        """What may open a login name by a mechanism that does not send the password. Raises Unavailable."""
        return await self._logins.candidates(login, protocol)

    async def note(self, opened: Opened) -> None:
        """Notes that a login by candidates succeeded."""
        await self._logins.note(opened)

    async def close(self) -> None:
        """Waits for what is under way behind the logins."""
        await self._logins.close()

    # Administration

    async def add_domain(self, name: str) -> Domain:
        """Makes us responsible for a domain. Raises BadName, Conflict."""
        key = domain_name(name)
        try:
            added = await self._store.add_domain(key)
        except Conflict:
            raise Conflict(f"The domain {domain_text(key)} exists already.") from None
        self._record("domain_added", domain=key)
        return added

    async def remove_domain(self, name: str) -> str:
        """Removes a domain that has no accounts; returns its name. Raises BadName, Missing, Conflict."""
        key = domain_name(name)
        try:
            await self._store.remove_domain(key)
        except Missing:
            raise Missing(_no_domain(key)) from None
        except Conflict:
            name, accounts = domain_text(key), len(await self._store.accounts(key))
            if not accounts:
                text = (
                    f"The domain {name} still has aliases. Remove them first: posthouse alias list {name} shows them."
                )
                raise Conflict(text) from None
            text = f"The domain {name} still has {accounts} accounts. Remove them first: posthouse account "
            raise Conflict(f"{text}list {name} shows them.") from None
        self._record("domain_removed", domain=key)
        return key

    async def domains(self) -> list[Domain]:
        """All domains in the order in which they were added."""
        return await self._store.domains()

    async def add_account(self, address: str, password: str, quota: int | None = None) -> Account:
        """Adds an account. Raises BadName, BadPassword, Conflict, Missing, Unavailable."""
        [added] = await self.add_accounts([(address, password)], quota)
        if added.problem is not None:
            raise added.problem
        assert added.account is not None
        return added.account

    async def add_accounts(
        self, wanted: Sequence[tuple[str, str]], quota: int | None = None, *, hashed: bool = False
    ) -> list[Added]:
        """Adds many accounts, pairs of address and password, or with `hashed` of address and the hash that another
        server made; one that cannot be added does not stop the others.

        Every name and password is checked before the first account is added: raises BadName, BadPassword or BadHash
        then.
        """
        keys = [account_name(address) for address, _ in wanted]
        limit = self._quota if quota is None else quota
        makers = [self._maker(key, secret, hashed=hashed) for key, (_, secret) in zip(keys, wanted, strict=True)]
        results: list[Added] = []
        for start in range(0, len(wanted), self._credentials.together):
            part = slice(start, start + self._credentials.together)
            jobs = (self._add(key, make, limit) for key, make in zip(keys[part], makers[part], strict=True))
            results += await asyncio.gather(*jobs)
        return results

    def _maker(self, key: str, secret: str, *, hashed: bool) -> Callable[[], Awaitable[tuple[str, Kept | None]]]:
        """What makes the hash of an account, called only once it is certain that the account can be added."""
        if hashed:
            return functools.partial(_as_it_is, foreign.read(secret))
        check_new(secret)
        return functools.partial(self._logins.keep, key, secret)

    async def _add(self, key: str, make: Callable[[], Awaitable[tuple[str, Kept | None]]], quota: int) -> Added:
        try:
            # Asked first: a hash costs a thousand times as much as a look-up.
            if await self._store.find_account(key) is not None:
                return Added(key, problem=_exists(key))
            if await self._store.find_domain(key.rpartition("@")[2]) is None:
                return Added(key, problem=Missing(_no_domain(key.rpartition("@")[2])))
            password, kept = await make()
            account = await self._store.add_account(key, password, quota, kept=kept)
        except Conflict:
            if await self._store.find_alias(key) is not None:
                text = f"{key} is an alias. posthouse alias remove {key} makes room for an account."
                return Added(key, problem=Conflict(text))
            return Added(key, problem=_exists(key))
        except (Missing, Unavailable) as problem:
            return Added(key, problem=problem)
        self._record("account_added", account=key, quota=quota)
        return Added(key, account)

    async def set_password(self, address: str, password: str) -> str:
        """Gives an account another password, which counts from the next login on; returns its address. Raises BadName,
        BadPassword, Missing, Unavailable."""
        key = account_name(address)
        if await self._store.find_account(key) is None:
            raise Missing(_no_account(key))
        hashed, kept = await self._logins.keep(key, password)
        try:
            await self._store.set_password(key, hashed, kept=kept)
        except Missing:
            raise Missing(_no_account(key)) from None
        self._record("password_changed", account=key)
        return key

    async def grant_sender(self, login: str, sender: str) -> tuple[str, str]:
        """Lets an account name a sender beside itself: an address, or *@ and a domain for all of them. Returns both in
        their one form. Raises BadName, Missing, Conflict, Unavailable."""
        key, pattern = account_name(login), sender_pattern(sender)
        try:
            await self._store.grant_sender(key, pattern)
        except Missing:
            raise Missing(_no_account(key)) from None
        except Conflict:
            raise Conflict(f"{key} may send as {pattern} already.") from None
        self._record("sender_granted", account=key, sender=pattern)
        return key, pattern

    async def revoke_sender(self, login: str, sender: str) -> tuple[str, str]:
        """Takes that back. Raises BadName, Missing, Unavailable."""
        key, pattern = account_name(login), sender_pattern(sender)
        if await self._store.find_account(key) is None:
            raise Missing(_no_account(key))
        try:
            await self._store.revoke_sender(key, pattern)
        except Missing:
            raise Missing(f"{key} has no grant for {pattern}. posthouse account show {key} shows its grants.") from None
        self._record("sender_revoked", account=key, sender=pattern)
        return key, pattern

    async def account(self, address: str) -> Account:
        """One account. Raises BadName, Missing."""
        key = account_name(address)
        found = await self._store.find_account(key)
        if found is None:
            raise Missing(_no_account(key))
        return found

    async def set_hash(self, address: str, text: str) -> str:
        """Gives an account the hash that another server made; returns its address. Raises BadName, BadHash, Missing,
        Unavailable."""
        key, stored = account_name(address), foreign.read(text)
        try:
            await self._store.set_password(key, stored)
        except Missing:
            raise Missing(_no_account(key)) from None
        self._record("password_changed", account=key, by="hash")
        return key

    # App passwords

    async def add_app_password(self, address: str, name: str, protocols: Sequence[str] = ()) -> tuple[str, str]:
        """Makes an app password; returns the account's address and the password, which nobody is shown again. Raises
        BadName, Conflict, Missing, Unavailable."""
        account = await self._account(address)
        name = app_name(name)
        for protocol in protocols:
            if protocol not in apps.PROTOCOLS:
                raise BadName(f'"{protocol}" is no protocol. There are {", ".join(apps.PROTOCOLS)}.')
        taken = [one.name for one in await self._store.credentials(account.id) if one.name]
        if len(taken) >= apps.MOST:
            raise Conflict(f"{account.address} has {len(taken)} app passwords. Revoke one that is not used any more.")
        password = apps.make(self._credentials.random)
        wanted = ",".join(one for one in apps.PROTOCOLS if one in protocols)
        try:
            credential = await self._logins.app_credential(account, name, wanted, password)
            await self._store.add_credential(account.address, credential)
        except Conflict:
            raise Conflict(f'{account.address} has an app password "{name}" already. Choose another name.') from None
        except Missing:
            raise Missing(_no_account(account.address)) from None
        self._record("app_password_added", account=account.address, name=name, protocols=wanted or "all")
        return account.address, password

    async def app_passwords(self, address: str) -> tuple[str, list[Credential]]:
        """The app passwords of an account, the oldest first, and its address. Raises BadName, Missing."""
        account = await self._account(address)
        return account.address, [one for one in await self._store.credentials(account.id) if one.name]

    async def revoke_app_password(self, address: str, name: str) -> str:
        """Takes an app password back: the next login with it fails. Returns the account's address. Raises BadName,
        Missing."""
        account = await self._account(address)
        name = app_name(name)
        try:
            await self._store.remove_credential(account.address, name)
        except Missing:
            text = f'{account.address} has no app password "{name}".'
            raise Missing(f"{text} posthouse account app-password list {account.address} shows them.") from None
        self._record("app_password_revoked", account=account.address, name=name)
        return account.address

    async def _account(self, address: str) -> Account:
        key = account_name(address)
        account = await self._store.find_account(key)
        if account is None:
            raise Missing(_no_account(key))
        return account

    async def remove_account(self, address: str) -> int:
        """Removes an account with all its mail; returns how many letters that were. Raises BadName, Missing, and
        Conflict while a program reads its mail."""
        key = account_name(address)
        try:
            letters = await self._store.remove_account(key)
        except Missing:
            raise Missing(_no_account(key)) from None
        except Conflict:
            raise Conflict(f"A program is reading the mail of {key} now. Try again when it has finished.") from None
        self._record("account_removed", account=key, letters=letters)
        return letters

    async def deleted(self, address: str, since: float = 0.0) -> tuple[str, list[Buried]]:
        """The address of an account and its deleted letters that can be brought back, the oldest first. Raises BadName,
        Missing."""
        account = await self._account(address)
        return account.address, await self._store.buried(account.inbox, since)

    async def undelete(self, address: str, chosen: Sequence[Buried]) -> list[Buried]:
        """Brings deleted letters back to the end of the mailbox; returns those that are there again. Raises BadName,
        Missing, Unavailable, or Conflict when they do not fit into the quota: then none is back."""
        account = await self._account(address)
        lack = account.used + sum(one.size for one in chosen) - account.quota
        if account.quota and lack > 0:
            text = f"These {len(chosen)} letters do not fit into the mailbox of {account.address}: {lack} octets are"
            raise Conflict(
                f"{text} missing in its quota. Nothing was brought back. Choose fewer with --since or --letter."
            )
        back = await self._store.undelete(account.address, [one.uid for one in chosen])
        self._record("letters_undeleted", account=account.address, letters=len(back))
        return [one for one in chosen if one.uid in back]

    async def accounts(self, domain: str | None = None) -> list[Account]:
        """All accounts, or those of one domain, by address. Raises BadName, Missing."""
        if domain is None:
            return await self._store.accounts()
        key = domain_name(domain)
        if await self._store.find_domain(key) is None:
            raise Missing(_no_domain(key))
        return await self._store.accounts(key)


async def _as_it_is(stored: str) -> tuple[str, Kept | None]:
    """A hash that another server made: nothing else can be kept of a password that nobody knows."""
    return stored, None


def app_name(name: str) -> str:
    """The name of an app password, without blanks around it. Raises BadName."""
    name = " ".join(name.split())
    if not 0 < len(name) <= APP_NAME or not name.isprintable():
        raise BadName(f"The name of an app password has 1 to {APP_NAME} printable characters, such as phone.")
    return name


def domain_name(name: str) -> str:
    """The one form of a domain's name (lower case, A-labels). Raises BadName."""
    bare = name.strip().removesuffix(".")
    try:
        parse_domain(bare)
        key = domain_key(bare)
    except AddressError as error:
        raise BadName(f'"{name}" is not a domain ({error}). Write one such as example.org.') from None
    if key.startswith("[") or _NUMBER.fullmatch(key.rpartition(".")[2]):
        raise BadName(f'"{name}" is an address of the network, not a domain. Write a name such as example.org.')
    return key


def account_name(address: str) -> str:
    """The one form of an account's address. Raises BadName."""
    try:
        parsed = Address.parse(address.strip())
    except AddressError as error:
        raise BadName(f'"{address}" is not a mail address ({error}). Write one such as anna@example.org.') from None
    if not parsed.domain:
        raise BadName(f'"{address}" has no domain. Write one such as {address}@example.org.')
    domain_name(parsed.domain)
    return parsed.key


def sender_pattern(text: str) -> str:
    """The one form of a sender that an account may name: an address, or *@ and a domain. Raises BadName."""
    text = text.strip()
    return f"*@{domain_name(text[2:])}" if text.startswith("*@") else account_name(text)


def _exists(key: str) -> Conflict:
    return Conflict(f"The account {key} exists already. Its password is changed with: posthouse account passwd {key}")


def _no_domain(key: str) -> str:
    name = domain_text(key)
    return f"There is no domain {name} here. Add it with: posthouse domain add {name}"


def _no_account(key: str) -> str:
    return f"There is no account {key} here. posthouse account list shows those there are."
