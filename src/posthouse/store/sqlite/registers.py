"""The registers of the embedded engine: domains, accounts, aliases, named networks, routes; how they are changed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.store import Account, Alias, Credential, Domain, Kept, Network, Route
from posthouse.ports.system import Clock
from posthouse.store.sqlite import aliases, jobs, routes
from posthouse.store.sqlite.jobs import Batch, Job
from posthouse.store.sqlite.lookups import Lookups
from posthouse.store.sqlite.pool import Readers
from posthouse.store.sqlite.writer import Writer

T = TypeVar("T")

_ACCOUNT: Final = """
    SELECT account.id, account.address, account.password, inbox.id, account.quota,
        (SELECT sum(octets) FROM mailbox WHERE account = account.id),
        (SELECT sum(messages) FROM mailbox WHERE account = account.id), account.created,
        (SELECT group_concat(pattern, char(10)) FROM (SELECT pattern FROM sender WHERE sender.account = account.id
            UNION SELECT alias FROM alias_target WHERE target = account.address))
    FROM account JOIN mailbox AS inbox ON inbox.account = account.id AND inbox.name = 'INBOX'
"""
_DOMAIN: Final = """
    SELECT id, name, (SELECT count(*) FROM account WHERE domain = domain.id), created FROM domain
"""
_CREDENTIALS: Final = """
    SELECT id, name, protocols, digest, scram, shared, created, used FROM credential WHERE account = ? ORDER BY id
"""


class Registers:
    """What a store keeps beside letters. `SqliteStore` is made of it, and brings the parts named here."""

    _clock: Clock
    _lookups: Lookups
    _pool: ThreadPoolExecutor
    _readers: Readers
    _writer: Writer

    def __init__(self) -> None:
        self._doubtful: frozenset[str] = frozenset()  # tables in which what is not found may be there
        self._named: tuple[list[Any], tuple[Network, ...]] = ([], ())
        self._routed: tuple[list[Any], tuple[Route, ...]] = ([], ())

    # Domains and accounts

    async def add_domain(self, name: str) -> Domain:
        """Adds a domain. Raises Conflict."""
        return await self._administer(functools.partial(jobs.add_domain, name, self._clock.now()))

    async def remove_domain(self, name: str) -> None:
        """Removes a domain. Raises Missing, Conflict."""
        await self._administer(functools.partial(jobs.remove_domain, name))

    async def domains(self) -> list[Domain]:
        """All domains in the order they were added."""
        return [Domain(*row) for row in await self._in_thread(self._listing, _DOMAIN + "ORDER BY id")]

    async def find_domain(self, name: str) -> Domain | None:
        """A point look-up by the canonical name."""
        return self._lookups.domain(name, self._domain)

    def _domain(self, name: str) -> Domain | None:
        rows = self._readers.inline(_DOMAIN + "WHERE name = ?", (name,))
        self._require_certainty(rows, "domain")
        return Domain(*rows[0]) if rows else None

    async def add_account(self, address: str, password: str, quota: int = 0, *, kept: Kept | None = None) -> Account:
        """Adds an account with an empty INBOX. Raises Conflict, Missing."""
        now = self._clock.now()
        return await self._administer(functools.partial(jobs.add_account, address, password, quota, now, kept))

    async def set_password(
        self, address: str, password: str, *, expected: str | None = None, kept: Kept | None = None
    ) -> bool:
        """Replaces the hash, if it still is the expected one. Raises Missing."""
        now = self._clock.now()
        return await self._administer(functools.partial(jobs.set_password, address, password, expected, kept, now))

    async def credentials(self, account: int) -> list[Credential]:
        """What this account can log in with beside its hash."""
        return self._lookups.credentials(account, self._find_credentials)

    def _find_credentials(self, account: int) -> list[Credential]:
        return [Credential(*row) for row in self._readers.inline(_CREDENTIALS, (account,))]

    async def add_credential(self, address: str, credential: Credential) -> None:
        """Adds an app password. Raises Missing, Conflict."""
        await self._administer(functools.partial(jobs.add_credential, address, credential))

    async def remove_credential(self, address: str, name: str) -> None:
        """Removes an app password. Raises Missing."""
        await self._administer(functools.partial(jobs.remove_credential, address, name))

    async def touch(self, used: Mapping[int, float]) -> None:
        """Notes when credentials were last used, without a sync."""
        await self._change(functools.partial(jobs.touch, dict(used)), lazy=True)

    def secret(self) -> bytes:
        """32 random octets that are this store's own for ever."""
        return bytes(self._readers.inline("SELECT octets FROM secret WHERE name = 'login'")[0][0])

    async def accounts(self, domain: str | None = None) -> list[Account]:
        """All accounts (of one domain), by address."""
        which = "" if domain is None else "WHERE account.domain = (SELECT id FROM domain WHERE name = ?)"
        parameters = () if domain is None else (domain,)
        rows = await self._in_thread(self._listing, f"{_ACCOUNT} {which} ORDER BY account.address", parameters)
        return [_account(row) for row in rows]

    async def find_account(self, address: str) -> Account | None:
        """A point look-up by `Address.key`."""
        return self._lookups.account(address, self._account)

    def _account(self, address: str) -> Account | None:
        rows = self._readers.inline(_ACCOUNT + "WHERE account.address = ?", (address,))
        self._require_certainty(rows, "account", "mailbox")
        return _account(rows[0]) if rows else None

    def _require_certainty(self, rows: list[Any], *tables: str) -> None:
        """What was not found in a damaged register may be there: nobody is refused for good because of it."""
        if not rows and self._doubtful and not self._doubtful.isdisjoint(tables):
            raise Unavailable(Fault.DAMAGED, f"not found, and the table {tables[0]} is damaged")

    async def find_local_part(self, local: str) -> list[Account]:
        """At most two accounts with this local part in any domain."""
        return [_account(row) for row in self._readers.inline(_ACCOUNT + "WHERE account.local = ? LIMIT 2", (local,))]

    async def grant_sender(self, address: str, pattern: str) -> None:
        """Lets an account name one more sender. Raises Missing, Conflict."""
        await self._administer(functools.partial(jobs.grant_sender, address, pattern, self._clock.now()))

    async def revoke_sender(self, address: str, pattern: str) -> None:
        """Takes that back. Raises Missing."""
        await self._administer(functools.partial(jobs.revoke_sender, address, pattern))

    # Aliases

    async def find_alias(self, address: str) -> Alias | None:
        """A point look-up by `Address.key`."""
        return self._lookups.alias(address, self._alias)

    def _alias(self, address: str) -> Alias | None:
        rows = self._readers.inline(aliases.ONE, (address,))
        self._require_certainty(rows, "alias")
        return aliases.read(rows[0]) if rows else None

    async def put_alias(self, alias: Alias, *, replace: bool = False) -> None:
        """Adds an alias. Raises Missing, Conflict."""
        await self._administer(functools.partial(aliases.put, alias, replace))

    async def remove_alias(self, address: str) -> None:
        """Removes an alias. Raises Missing."""
        await self._administer(functools.partial(aliases.remove, address))

    async def aliases(self, domain: str | None = None) -> list[Alias]:
        """All aliases (of one domain), by address."""
        sql, parameters = (aliases.ALL, ()) if domain is None else (aliases.OF_DOMAIN, (domain,))
        return [aliases.read(row) for row in await self._in_thread(self._listing, sql, parameters)]

    # Networks

    def networks(self) -> tuple[Network, ...]:
        """The named networks, from memory."""
        return self._lookups.networks(self._networks)

    def _networks(self) -> tuple[Network, ...]:
        rows = self._readers.inline("SELECT network, rights, until, note, created FROM network ORDER BY network")
        if rows != self._named[0]:  # comparing rows takes a fifth of making the values
            self._named = rows, tuple(Network(network, tuple(rights.split()), *rest) for network, rights, *rest in rows)
        return self._named[1]

    async def put_network(self, network: Network, *, replace: bool = False) -> None:
        """Names a network. Raises Conflict."""
        await self._administer(functools.partial(jobs.put_network, network, replace))

    async def remove_network(self, network: str) -> None:
        """Takes the name away. Raises Missing."""
        await self._administer(functools.partial(jobs.remove_network, network))

    # Routes

    def routes(self) -> tuple[Route, ...]:
        """The route table, from memory."""
        return self._lookups.routes(self._routes)

    def _routes(self) -> tuple[Route, ...]:
        rows = self._readers.inline(routes.ALL)
        if rows != self._routed[0]:
            self._routed = rows, tuple(routes.read(row) for row in rows)
        return self._routed[1]

    async def put_route(self, route: Route, *, replace: bool = False) -> None:
        """Adds a route. Raises Conflict."""
        await self._administer(functools.partial(routes.put, route, replace))

    async def remove_route(self, pattern: str) -> None:
        """Removes a route. Raises Missing."""
        await self._administer(functools.partial(routes.remove, pattern))

    # How all of a store is changed and listed

    async def _administer(self, work: Callable[[Any, Batch], T], *, final: bool = False) -> T:
        """A change of domains or accounts, which all processes see at once. A `final` one leaves nothing behind."""
        try:
            return await self._change(work, frees=final, thorough=final)
        finally:
            self._lookups.changed()

    async def _change(
        self,
        work: Callable[[Any, Batch], T],
        *,
        frees: bool = False,
        mailboxes: Sequence[int] = (),
        lazy: bool = False,
        thorough: bool = False,
        weight: int = 0,
    ) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.admit(weight)
        self._writer.submit(Job(future, work, weight, frees, mailboxes, lazy=lazy, thorough=thorough))
        return await future

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def _listing(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        with self._readers.snapshot() as cursor:
            return cursor.execute(sql, parameters).fetchall()


def _account(row: Sequence[Any]) -> Account:
    *columns, senders = row
    account = Account(*columns)
    if senders:
        account.senders = tuple(senders.split("\n"))
    return account
