"""A store in memory with domains and accounts only, for tests that need no letters."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from posthouse.ports.store import Account, Conflict, Domain, Missing, Store


class MemoryStore:
    """The domains and accounts of `ports.Store`."""

    def __init__(self) -> None:
        self.domain_table: dict[str, Domain] = {}
        self.account_table: dict[str, Account] = {}
        self.in_use: set[str] = set()

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

    async def add_account(self, address: str, password: str, quota: int = 0) -> Account:
        if address.rpartition("@")[2] not in self.domain_table:
            raise Missing(address)
        if address in self.account_table:
            raise Conflict(address)
        number = len(self.account_table) + 1
        self.account_table[address] = Account(number, address, password, number, quota)
        return self.account_table[address]

    async def set_password(self, address: str, password: str, *, expected: str | None = None) -> bool:
        if address not in self.account_table:
            raise Missing(address)
        if expected is not None and self.account_table[address].password != expected:
            return False
        self.account_table[address].password = password
        return True

    async def remove_account(self, address: str) -> int:
        if address not in self.account_table:
            raise Missing(address)
        if address in self.in_use:
            raise Conflict(address)
        del self.account_table[address]
        return 0

    async def accounts(self, domain: str | None = None) -> list[Account]:
        return [a for k, a in sorted(self.account_table.items()) if domain is None or k.endswith(f"@{domain}")]

    async def find_account(self, address: str) -> Account | None:
        found = self.account_table.get(address)
        return None if found is None else replace(found)

    async def find_local_part(self, local: str) -> list[Account]:
        return [replace(a) for k, a in self.account_table.items() if k.rpartition("@")[0] == local][:2]

    @property
    def port(self) -> Store:
        """As the port that its callers know; the letters' methods are not here."""
        return cast(Store, self)
