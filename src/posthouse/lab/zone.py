"""The names in the box: what DNS says, and when it says nothing.

Records are written as in a zone file (RFC 1035 §5.1). `Zone` is the resolver of every machine in the box: the ports
`Resolver` and `MailResolver`, without a name server between, and without a cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import Final

from posthouse.ports.dns import DnsFailed, MailHost, NoRecords, NoSuchDomain

MOST_ALIASES: Final = 8  # CNAME records followed, as resolvers bound them
PATIENCE: Final = 5.0  # seconds until a resolver gives up on servers that are silent; resolv.conf(5) timeout
REVERSE_PATIENCE: Final = 1.0
TTL: Final = 3600


class ZoneError(ValueError):
    """This is no zone file. The text says where and why."""


@dataclass(slots=True, frozen=True)
class NameOutage:
    """The servers of a name, and of all names below it, fail from `begin` until `end`; of all names with "". They
    answer that they fail, or are `silent`."""

    name: str = ""
    begin: float = 0.0
    end: float = inf
    silent: bool = False

    def concerns(self, name: str, now: float) -> bool:
        """Whether it holds now for a name."""
        below = not self.name or name == self.name or name.endswith(f".{self.name}")
        return below and self.begin <= now < self.end


class _Answer:
    """A name that is known already (`ports.dns.Reverse`), or one that no server tells."""

    __slots__ = ("_name", "_wait")

    def __init__(self, name: str | None, wait: float = 0.0) -> None:
        self._name = name
        self._wait = wait

    async def name(self) -> str | None:
        """The name of the address."""
        if self._wait:
            await asyncio.sleep(self._wait)
        return self._name


class Zone:
    """All records in the box. Built by `add` and `read`, then asked."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], list[str]] = {}
        self._names: set[str] = {""}
        self._outages: list[NameOutage] = []

    def add(self, name: str, kind: str, value: str) -> None:
        """One record: kind MX ("10 mx.example.org"), A, AAAA, PTR, TXT or CNAME. Names without a final dot."""
        name = _plain(name)
        values = self._records.setdefault((name, kind), [])
        if value not in values:
            values.append(value)
        while name not in self._names:  # the names above it exist, too (RFC 8020 §2)
            self._names.add(name)
            name = name.partition(".")[2]

    def add_host(self, name: str, addresses: Iterable[str]) -> None:
        """A, AAAA and PTR records of a machine."""
        for address in addresses:
            self.add(name, "AAAA" if ":" in address else "A", address)
            self.add(ip_address(address).reverse_pointer, "PTR", name)

    def knows(self, name: str, kind: str) -> bool:
        """Whether there is such a record."""
        return (_plain(name), kind) in self._records

    def read(self, text: str) -> None:
        """The records of a zone file; names that do not end with a dot are taken to be whole. Raises ZoneError."""
        import dns.exception
        import dns.rdatatype
        import dns.zonefile

        try:
            found = dns.zonefile.read_rrsets(text, default_ttl=TTL, origin=".", relativize=False, rdclass=None)
        except (dns.exception.DNSException, ValueError) as error:
            raise ZoneError(str(error) or type(error).__name__) from error
        for rrset in found:
            kind = dns.rdatatype.to_text(rrset.rdtype)
            if kind not in ("MX", "A", "AAAA", "PTR", "TXT", "CNAME"):
                raise ZoneError(f"{rrset.name} has a record of the kind {kind}, which nothing in the box asks for")
            for record in rrset:
                self.add(rrset.name.to_text(omit_final_dot=True), kind, record.to_text())

    def fail(self, outages: Iterable[NameOutage]) -> None:
        """The servers of these names fail at these times."""
        self._outages += outages

    # What the machines ask

    @property
    def mail(self) -> Zone:
        """The resolver for letters that leave: the same."""
        return self

    def reverse(self, address: str) -> _Answer:
        """The name of an address, when it leads back to it (RFC 1912 §2.1)."""
        pointer = ip_address(address).reverse_pointer
        if (outage := self._outage(pointer)) is not None:
            return _Answer(None, REVERSE_PATIENCE if outage.silent else 0.0)
        for text in self._records.get((pointer, "PTR"), ()):
            name = _plain(text)
            if address in self._records.get((name, "AAAA" if ":" in address else "A"), ()):
                return _Answer(name)
        return _Answer(None)

    async def mail_hosts(self, domain: str) -> Sequence[MailHost]:
        """The MX records of a domain. Raises NoSuchDomain, NoRecords, DnsFailed."""
        hosts = []
        for text in await self._ask(domain, ("MX",)):
            preference, _, host = text.partition(" ")
            hosts.append(MailHost(int(preference), _plain(host)))
        return hosts

    async def addresses(self, host: str) -> Sequence[str]:
        """The addresses of a host. Raises NoSuchDomain, NoRecords, DnsFailed."""
        return await self._ask(host, ("AAAA", "A"))

    async def texts(self, name: str) -> Sequence[str]:
        """The TXT records of a name, as a zone file has them. Raises NoSuchDomain, NoRecords, DnsFailed."""
        return await self._ask(name, ("TXT",))

    def close(self) -> None:
        """Nothing is under way."""

    async def _ask(self, name: str, kinds: Sequence[str]) -> list[str]:
        name = _plain(name)
        for _ in range(MOST_ALIASES):
            if (outage := self._outage(name)) is not None:
                if outage.silent:
                    await asyncio.sleep(PATIENCE)
                    raise DnsFailed("no name server answered")
                raise DnsFailed("the name servers answered that they fail (SERVFAIL)")
            if name not in self._names:
                raise NoSuchDomain(f"there is no name {name}")
            found = [value for kind in kinds for value in self._records.get((name, kind), ())]
            if found:
                return found
            alias = self._records.get((name, "CNAME"))
            if alias is None:
                raise NoRecords(f"{name} has no {' and no '.join(kinds)} record")
            name = _plain(alias[0])
        raise DnsFailed("the aliases (CNAME) of the name lead in a circle")

    def _outage(self, name: str) -> NameOutage | None:
        now = asyncio.get_running_loop().time()
        return next((outage for outage in self._outages if outage.concerns(name, now)), None)


def _plain(name: str) -> str:
    return name.lower().rstrip(".")
