"""Who receives mail here and who may log in: the domains and accounts of one store, and the services on them.

The servers ask it for each recipient and each login; the command line and the web pages add, list and remove
through the same methods. Names are brought into their one form here (`Address.key`), so that the store compares
plain texts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from posthouse.accounts.credentials import Credentials, check_new
from posthouse.mail.address import Address, AddressError, domain_key, domain_text, parse_domain
from posthouse.mail.reply import Unavailable
from posthouse.observe.audit import Record, no_record
from posthouse.ports.store import Account, Conflict, Domain, Missing, Store

POSTMASTER: Final = "postmaster"  # RFC 5321 §4.5.1: this name receives mail in every domain, in any case
LONGEST_LOGIN: Final = 320  # characters; a local part of 64, an @ and a domain of 255
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

    __slots__ = ("_credentials", "_postmaster", "_quota", "_record", "_store")

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        *,
        quota: int = 0,
        postmaster: str = "",
        record: Record = no_record,
    ) -> None:
        """`quota` is what a new account gets; `postmaster` is the key of the account that has the letters to
        postmaster where no account of that name exists, empty for none; `record` writes changes down."""
        self._store = store
        self._credentials = credentials
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
        if found is None and self._postmaster and address.local.lower() == POSTMASTER:
            return await self._store.find_account(self._postmaster) if await self.is_local(address.domain) else None
        return found

    async def _first_postmaster(self, address: Address) -> Account | None:
        if address.local.lower() != POSTMASTER:
            return None
        domains = await self._store.domains()
        return await self.find(Address(POSTMASTER, domains[0].name)) if domains else None

    async def authenticate(self, login: str, password: str) -> Account | None:
        """The account that a login name and a password open, or None, after the same time whatever is wrong.

        Raises Unavailable(BUSY) when too many verifications are waiting. A hash that was made with older
        parameters is renewed on this occasion.
        """
        account = await self._named(login)
        stored = "" if account is None else account.password
        name = login[:LONGEST_LOGIN] if account is None else account.address
        if not await self._credentials.verify(name, stored, password) or account is None:
            return None
        if self._credentials.is_old(stored):
            await self._renew(account, password)
        return account

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

    async def _renew(self, account: Account, password: str) -> None:
        """Hashes the password anew. That may fail without harm: the next login tries again."""
        try:
            renewed = await self._credentials.hash(password)
            await self._store.set_password(account.address, renewed, expected=account.password)
        except (Unavailable, Missing, ValueError):
            return

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
            accounts = len(await self._store.accounts(key))
            text = f"The domain {domain_text(key)} still has {accounts} accounts. Remove them first: posthouse account "
            raise Conflict(f"{text}list {domain_text(key)} shows them.") from None
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

    async def add_accounts(self, wanted: Sequence[tuple[str, str]], quota: int | None = None) -> list[Added]:
        """Adds many accounts, pairs of address and password; one that cannot be added does not stop the others.

        Every name and password is checked before the first account is added: raises BadName or BadPassword then.
        """
        keys = [account_name(address) for address, _ in wanted]
        for _, password in wanted:
            check_new(password)
        limit = self._quota if quota is None else quota
        results: list[Added] = []
        for start in range(0, len(wanted), self._credentials.together):
            stop = start + self._credentials.together
            part = zip(keys[start:stop], wanted[start:stop], strict=True)
            results += await asyncio.gather(*(self._add(key, password, limit) for key, (_, password) in part))
        return results

    async def _add(self, key: str, password: str, quota: int) -> Added:
        try:
            # Asked first: a hash costs a thousand times as much as a look-up.
            if await self._store.find_account(key) is not None:
                return Added(key, problem=_exists(key))
            if await self._store.find_domain(key.rpartition("@")[2]) is None:
                return Added(key, problem=Missing(_no_domain(key.rpartition("@")[2])))
            account = await self._store.add_account(key, await self._credentials.hash(password), quota)
        except Conflict:
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
        try:
            await self._store.set_password(key, await self._credentials.hash(password))
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

    async def accounts(self, domain: str | None = None) -> list[Account]:
        """All accounts, or those of one domain, by address. Raises BadName, Missing."""
        if domain is None:
            return await self._store.accounts()
        key = domain_name(domain)
        if await self._store.find_domain(key) is None:
            raise Missing(_no_domain(key))
        return await self._store.accounts(key)


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
