"""What DNS knows, as the other floors see it: the names of addresses, and the hosts that take a domain's mail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Reverse(Protocol):
    """A reverse look-up that may still be under way."""

    async def name(self) -> str | None:
        """The host name of the address (lower case, no final dot), or None. Never raises, waits at most 1 s
        counted from the start of the look-up; a name that does not lead back to the address is not one."""
        ...


class Resolver(Protocol):
    """Asks the hosts file and DNS."""

    def reverse(self, address: str) -> Reverse:
        """Starts looking for the name of an IP address. Loopback and private addresses are asked only from the
        hosts file or from a resolver that the administrator configured."""
        ...


class DnsProblem(Exception):
    """There is no answer that helps. The text says why, for people; it names no server of ours."""


class NoSuchDomain(DnsProblem):
    """The name does not exist (NXDOMAIN, RFC 8020)."""


class NoRecords(DnsProblem):
    """The name exists and has no record of the kind that was asked for (RFC 2308 §2.2)."""


class DnsFailed(DnsProblem):
    """Nobody knows at present: no name server answered, or none that can be believed. It may be better later."""


@dataclass(slots=True, frozen=True)
class MailHost:
    """One MX record. `host` is in lower case without a final dot; it is empty for the root, by which a domain says
    that it takes no mail at all (RFC 7505 §3)."""

    preference: int
    host: str


class MailResolver(Protocol):
    """Asks DNS where mail goes. Names are given in A-labels, without a final dot; aliases (CNAME) are followed, a
    few of them at most. A method returns or raises within a bounded time."""

    async def mail_hosts(self, domain: str) -> Sequence[MailHost]:
        """The MX records of a domain, at least one, in any order. Raises NoSuchDomain, NoRecords, DnsFailed."""
        ...

    async def addresses(self, host: str) -> Sequence[str]:
        """The IP addresses of a host, IPv6 and IPv4, at least one, each kind in the order in which they are to be
        tried (RFC 5321 §5.1). Raises NoSuchDomain, NoRecords, DnsFailed."""
        ...
