"""What a mail domain says of itself in the DNS: where its mail goes, who sends for it, where its people log in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

PRIORITY: Final = 10  # of the one mail server; a number that leaves room before and behind it

# RFC 8314 §5.1 prefers the ports that begin with TLS, so they stand first.
_SERVICES: Final[Mapping[str, tuple[str, int]]] = {
    "submissions": ("_submissions._tcp", 0),
    "submission": ("_submission._tcp", 10),
    "pop3s": ("_pop3s._tcp", 0),
    "pop3": ("_pop3._tcp", 10),
}
_NOT_OFFERED: Final = ("_imaps._tcp", "_imap._tcp")


@dataclass(slots=True, frozen=True)
class Record:
    """One resource record: the name without its last dot, the type, the data as a zone file has it, and why."""

    name: str
    type: str
    data: str
    why: str

    def __str__(self) -> str:
        """The line of a zone file (RFC 1035 §5.1)."""
        return f"{self.name}. 3600 IN {self.type} {self.data}"


def records_of(
    domain: str, host: str, addresses: Sequence[IPv4Address | IPv6Address], ports: Mapping[str, int]
) -> list[Record]:
    """The records of a domain (A-labels) whose one mail server is `host`, reached from everywhere at `addresses`.

    `ports` tells where each protocol listens. What is not offered is said too, so that programs need not try
    (RFC 2782: the target "."). No record promises what is not there: DKIM has none as long as nothing is signed.
    """
    records = [Record(domain, "MX", f"{PRIORITY} {host}.", "mail for the domain goes to this host (RFC 5321 §5)")]
    records += [
        Record(host, "A" if address.version == 4 else "AAAA", str(address), "where the host is")
        for address in addresses
    ]
    records += [
        Record(domain, "TXT", '"v=spf1 mx -all"', "only this host sends for the domain (RFC 7208 §5.4)"),
        Record(host, "TXT", '"v=spf1 a -all"', "the host itself says HELO only from its own address (RFC 7208 §2.3)"),
        Record(
            f"_dmarc.{domain}",
            "TXT",
            f'"v=DMARC1; p=none; rua=mailto:postmaster@{domain}"',
            "reports of forged mail; p=reject once all of yours passes (RFC 7489 §6.3)",
        ),
    ]
    return records + _services(domain, host, ports)


def _services(domain: str, host: str, ports: Mapping[str, int]) -> list[Record]:
    found = [
        Record(
            f"{label}.{domain}",
            "SRV",
            f"{priority} 1 {ports[protocol]} {host}.",
            "mail programs set themselves up (RFC 6186)",
        )
        for protocol, (label, priority) in _SERVICES.items()
        if protocol in ports
    ]
    absent = [label for protocol, (label, _) in _SERVICES.items() if protocol not in ports]
    return found + [
        Record(f"{label}.{domain}", "SRV", "0 0 0 .", "not offered here") for label in (*absent, *_NOT_OFFERED)
    ]
