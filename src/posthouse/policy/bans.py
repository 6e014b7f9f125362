"""The bans that are in force, and those that ended not long ago. Times are of one clock that never jumps."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Final

from posthouse.policy.places import Place
from posthouse.ports.bans import Ban

MOST: Final = 50_000  # bans, some 20 MB; beyond them the one that was made first is dropped
ADMINISTRATOR: Final = "administrator"
FAILED_LOGINS: Final = "failed logins"


class Bans:
    """Finds the ban of a place, in a time that depends on how many sizes of networks are banned and not on how many
    bans there are. `memory` is how long after its end a ban still counts when the next is measured."""

    __slots__ = ("_all", "_ends", "_sizes", "memory")

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._all: dict[tuple[str, str], Ban] = {}
        self._ends: list[tuple[float, tuple[str, str]]] = []
        self._sizes: dict[tuple[int, int], int] = {}  # (version, prefix length) of the networks -> how many bans

    def __iter__(self) -> Iterator[Ban]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def replace(self, bans: Iterable[Ban]) -> None:
        """Takes these bans instead of all there are."""
        self._all, self._ends, self._sizes = {}, [], {}
        for ban in bans:
            self.add(ban)

    def add(self, ban: Ban) -> None:
        """Adds a ban, or changes the one with its key."""
        self.remove(ban.key)
        if len(self._all) >= MOST:
            self.remove(next(iter(self._all)))
        self._all[ban.key] = ban
        size = _size(ban.place)
        self._sizes[size] = self._sizes.get(size, 0) + 1
        if ban.until is not None:
            heapq.heappush(self._ends, (ban.until, ban.key))

    def remove(self, key: tuple[str, str]) -> Ban | None:
        """Forgets a ban; returns it when there was one."""
        ban = self._all.pop(key, None)
        if ban is not None:
            size = _size(ban.place)
            self._sizes[size] -= 1
            if not self._sizes[size]:
                del self._sizes[size]
        return ban

    def get(self, place: str, account: str) -> Ban | None:
        """The ban with exactly this key, also one that has ended."""
        return self._all.get((place, account))

    def find(self, place: Place, account: str, now: float) -> Ban | None:
        """A ban in force of this account from this place; of all accounts when `account` is ""."""
        if not self._all or not place.address:
            return None
        for name in self._names(place):
            ban = self._all.get((name, account))
            if ban is not None and (ban.until is None or ban.until > now):
                return ban
        return None

    def _names(self, place: Place) -> Iterator[str]:
        """The names under which a place may be banned, the likely ones first."""
        yield place.house
        version = 6 if ":" in place.address else 4
        if (version, 32 if version == 4 else 64) not in self._sizes or len(self._sizes) > 1:
            address = ip_address(place.address)
            for sized, length in list(self._sizes):
                if sized == version:
                    yield place_name(f"{address}/{length}")

    def ended(self, now: float) -> list[Ban]:
        """Bans that ended since the last call; those that ended long ago are forgotten on this occasion."""
        found = []
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            ban = self._all.get(key)
            if ban is None or ban.until is None or ban.until > now:
                continue  # it was changed meanwhile
            if ban.until + self.memory > now:
                heapq.heappush(self._ends, (ban.until + self.memory, key))
                found.append(ban)
            else:
                self.remove(key)
        return found


def place_name(text: str) -> str:
    """The one form of an address or network: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/64`. An IPv6 address alone
    stands for its /64. Raises ValueError."""
    network = ip_network(text.strip(), strict=False)
    if network.version == 6 and (mapped := network.network_address.ipv4_mapped) is not None:
        network = ip_network((mapped, max(0, network.prefixlen - 96)), strict=False)
    if network.version == 6 and network.prefixlen > 64:
        network = network.supernet(new_prefix=64)
    if network.version == 4 and network.prefixlen == 32:
        return str(network.network_address)
    return str(network)


def _size(place: str) -> tuple[int, int]:
    network = ip_network(place)
    return network.version, network.prefixlen


def moved(ban: Ban, seconds: float) -> Ban:
    """The same ban on a clock that is ahead by so much."""
    return replace(ban, since=ban.since + seconds, until=None if ban.until is None else ban.until + seconds)
