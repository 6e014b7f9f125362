"""Where a peer is, in the sizes in which peers are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Final

from posthouse.policy.access import read_address

MOST: Final = 4096  # peers of which this is remembered; finding it out costs 10 us


@dataclass(slots=True, frozen=True)
class Place:
    """Where a peer is.

    `address` is its IP address. `house` is what one customer of a provider has at least, the unit of failed logins
    and of bans: an IPv4 address, or an IPv6 /64 (RFC 6177 §2), in which a single machine has as many addresses as it
    likes. `network` is the /24 or /64 around it. `exempt` places have the right `unlimited` (access.py), as this
    machine has: they have no limit of their own and are delayed, never banned.
    """

    address: str
    house: str
    network: str
    exempt: bool


LOCAL_SOCKET: Final = Place("", "", "", True)


class Places:
    """Finds the place of an address as the system tells it; "" is that of a local socket. `exempt` says of an address
    whether it has the right `unlimited` now."""

    __slots__ = ("_exempt", "_known")

    def __init__(self, exempt: Callable[[str], bool]) -> None:
        self._exempt = exempt
        self._known: dict[str, tuple[Place, Place]] = {}  # without and with the right

    def of(self, host: str) -> Place:
        """The place of a peer, and whether it is exempt now."""
        return self._find(host)[self._exempt(host)] if host else LOCAL_SOCKET

    def counted(self, host: str) -> Place:
        """Where a peer was counted when it came, whatever its rights are by now."""
        return self._find(host)[0] if host else LOCAL_SOCKET

    def _find(self, host: str) -> tuple[Place, Place]:
        if (known := self._known.get(host)) is None:
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            place = _place(host)
            known = self._known[host] = (place, replace(place, exempt=True))
        return known


def _place(host: str) -> Place:
    address = read_address(host)
    text = str(address)
    network = str(ip_network((address, 24 if address.version == 4 else 64), strict=False))
    return Place(text, text if address.version == 4 else network, network, exempt=False)
