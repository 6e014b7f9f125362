"""Where a peer is, in the sizes in which peers are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

MOST: Final = 4096  # peers of which this is remembered; finding it out costs 10 us


@dataclass(slots=True, frozen=True)
class Place:
    """Where a peer is.

    `address` is its IP address. `house` is what one customer of a provider has at least, the unit of failed logins
    and of bans: an IPv4 address, or an IPv6 /64 (RFC 6177 §2), in which a single machine has as many addresses as it
    likes. `network` is the /24 or /64 around it. `exempt` places are this machine and the networks that the
    administrator named: they have no limit of their own and are delayed, never banned.
    """

    address: str
    house: str
    network: str
    exempt: bool


class Places:
    """Finds the place of an address. `exempt` are networks; a local socket is always exempt."""

    __slots__ = ("_exempt", "_known")

    def __init__(self, exempt: Sequence[str]) -> None:
        self._exempt = tuple(ip_network(text) for text in exempt)
        self._known: dict[str, Place] = {}

    def of(self, host: str) -> Place:
        """The place of a peer's address as the system tells it; "" is that of a local socket."""
        place = self._known.get(host)
        if place is None:
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            place = self._known[host] = self._find(host)
        return place

    def _find(self, host: str) -> Place:
        if not host:
            return Place("", "", "", True)
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        exempt = any(address in network for network in self._exempt)
        text = str(address)
        network = str(ip_network((address, 24 if address.version == 4 else 64), strict=False))
        return Place(text, text if address.version == 4 else network, network, exempt)
