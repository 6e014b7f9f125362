"""What DNS says of a domain's mail services: the servers for mail programs (SRV) and for mail that comes in (MX).

For clients, which ask a few questions once; a server's questions go through `net/dns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from posthouse.config.values import is_host_name

MOST: Final = 16  # records of one name that are looked at


class NoAnswer(Exception):
    """The name servers gave no answer; the text says why, for people."""


@dataclass(slots=True, frozen=True)
class Host:
    """A server that DNS names. `port` is 0 where the record has none."""

    name: str
    port: int = 0


class ServiceResolver:
    """Asks the name servers of the system, or those that are given as (address, port)."""

    def __init__(self, servers: Sequence[tuple[str, int]] = ()) -> None:
        """Raises NoAnswer where the system names no name server."""
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.exception.DNSException as error:
            raise NoAnswer("this system names no name server") from error
        if servers:
            self._resolver.nameservers = [host for host, _ in servers]
            self._resolver.nameserver_ports = dict(servers)

    async def services(self, service: str, domain: str, seconds: float) -> list[Host] | None:
        """The servers of a service such as `submissions` (RFC 6186 §3), the best first; none where nobody says
        anything, None where the domain says that it has no such service (RFC 2782: target "."). Raises NoAnswer."""
        found = await self._ask(f"_{service}._tcp.{domain}", dns.rdatatype.SRV, seconds)
        rows = [(row.priority, -row.weight, _name(row.target), row.port) for row in found]
        if rows and all(name == "" for _, _, name, _ in rows):
            return None
        # The weights share load between many; whoever sets up one account takes the strongest.
        return [Host(name, port) for _, _, name, port in sorted(rows) if is_host_name(name) and port]

    async def exchangers(self, domain: str, seconds: float) -> list[Host] | None:
        """The hosts that take mail for a domain, the best first; None where it takes none (RFC 7505 §3). Raises
        NoAnswer."""
        found = await self._ask(domain, dns.rdatatype.MX, seconds)
        rows = sorted((row.preference, _name(row.exchange)) for row in found)
        if rows and all(name == "" for _, name in rows):
            return None
        return [Host(name) for _, name in rows if is_host_name(name)]

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, seconds: float) -> list[Any]:
        try:
            answer = await self._resolver.resolve(name, kind, lifetime=seconds, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.name.NameTooLong, dns.name.LabelTooLong, dns.name.EmptyLabel):
            return []
        except dns.exception.Timeout as error:
            raise NoAnswer("the name servers do not answer") from error
        except dns.exception.DNSException as error:
            raise NoAnswer("the name servers cannot say") from error
        except OSError as error:
            raise NoAnswer(f"the name servers cannot be asked: {error.strerror or error}") from error
        return list(answer)[:MOST]


def _name(name: dns.name.Name) -> str:
    """A name without its final dot; "" for the root."""
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
