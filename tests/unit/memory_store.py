"""A store in memory with domains and accounts only, for tests that need no letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from posthouse.ports.store import Account, Alias, Conflict, Credential, Domain, Kept, Missing, Store


class MemoryStore:
    """The domains and accounts of `ports.Store`."""

    def __init__(self) -> None:
        self.domain_table: dict[str, Domain] = {}
        self.account_table: dict[str, Account] = {}
        self.alias_table: dict[str, Alias] = {}
        self.in_use: set[str] = set()
        self.credential_table: dict[int, list[Credential]] = {}
        self.number = 0

    async def add_domain(self, name: str) -> Domain:
        if name in self.domain_table:
            raise Conflict(name)
        self.domain_table[name] = Domain(len(self.domain_table) + 1, name)
        return self.domain_table[name]

    async def remove_domain(self, name: str) -> None:
        if name not in self.domain_table:
            raise Missing(name)
        if any(address.endswith(f"@{name}") for address in self.account_table):
            raise Conflict(name)
        del self.domain_table[name]

    async def domains(self) -> list[Domain]:
        return list(self.domain_table.values())

    async def find_domain(self, name: str) -> Domain | None:
        return self.domain_table.get(name)

    async def add_account(self, address: str, password: str, quota: int = 0, *, kept: Kept | None = None) -> Account:
        if address.rpartition("@")[2] not in self.domain_table:
            raise Missing(address)
        if address in self.account_table:
            raise Conflict(address)
        number = len(self.account_table) + 1
        self.account_table[address] = Account(number, address, password, number, quota)
        self._keep(address, kept)
        return self.account_table[address]

    async def set_password(
        self, address: str, password: str, *, expected: str | None = None, kept: Kept | None = None
    ) -> bool:
        if address not in self.account_table:
            raise Missing(address)
        if expected is not None and self.account_table[address].password != expected:
            return False
        self.account_table[address].password = password
        self._keep(address, kept)
        return True

    def _keep(self, address: str, kept: Kept | None) -> None:
        account = self.account_table[address].id
        others = [one for one in self.credential_table.get(account, []) if one.name]
        self.number += 1
        own = [] if kept is None else [Credential(self.number, "", scram=kept.scram, shared=kept.shared)]
        self.credential_table[account] = own + others

    async def credentials(self, account: int) -> list[Credential]:
        return list(self.credential_table.get(account, []))

    async def add_credential(self, address: str, credential: Credential) -> None:
        if address not in self.account_table:
            raise Missing(address)
        kept = self.credential_table[self.account_table[address].id]
        if any(one.name == credential.name for one in kept):
            raise Conflict(credential.name)
        self.number += 1
        kept.append(replace(credential, id=self.number))

    async def remove_credential(self, address: str, name: str) -> None:
        account = self.account_table[address].id
        kept = [one for one in self.credential_table[account] if one.name != name]
        if len(kept) == len(self.credential_table[account]):
            raise Missing(name)
        self.credential_table[account] = kept

    async def touch(self, used: Mapping[int, float]) -> None:
        for account, kept in self.credential_table.items():
            self.credential_table[account] = [replace(one, used=used.get(one.id, one.used)) for one in kept]

    def secret(self) -> bytes:
        return bytes(range(32))

    async def remove_account(self, address: str) -> int:
        if address not in self.account_table:
            raise Missing(address)
        if address in self.in_use:
            raise Conflict(address)
        del self.account_table[address]
        return 0

    async def accounts(self, domain: str | None = None) -> list[Account]:
        return [a for k, a in sorted(self.account_table.items()) if domain is None or k.endswith(f"@{domain}")]

    async def find_alias(self, address: str) -> Alias | None:
        return self.alias_table.get(address)

    async def find_account(self, address: str) -> Account | None:
        found = self.account_table.get(address)
        return None if found is None else replace(found)

    async def find_local_part(self, local: str) -> list[Account]:
        return [replace(a) for k, a in self.account_table.items() if k.rpartition("@")[0] == local][:2]

    @property
    def port(self) -> Store:
        """As the port that its callers know; the letters' methods are not here."""
        return cast(Store, self)
