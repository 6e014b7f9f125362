"""How many connections there may be, and how fast new ones may come: from one address and from one network.

Nothing here looks at a clock or waits; every step costs the same however many peers there are, and memory is bounded
however many addresses an attacker has.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from posthouse.config.limits import LimitSettings
from posthouse.policy.places import Place

K = TypeVar("K", bound=Hashable)

MOST: Final = 65_536
"""Addresses, and as many networks, whose rate is known: some 10 MB. Beyond them the one that came first is forgotten:
who has more addresses than this is slow enough on each."""

MINUTE: Final = 60.0


class Rate(Generic[K]):
    """At most `count` in `seconds` for each key, in a burst or evenly: the generic cell rate algorithm (ITU-T I.371),
    which keeps one number for each key."""

    __slots__ = ("_due", "_interval", "_most", "_room")

    def __init__(self, count: int, seconds: float = MINUTE, most: int = MOST) -> None:
        """`count` 0 is no limit."""
        self._most = most
        self._due: dict[K, float] = {}  # when all that came would have come evenly; in the order of the last coming
        self.configure(count, seconds)

    def configure(self, count: int, seconds: float = MINUTE) -> None:
        """Counts by other numbers from now on."""
        self._interval = seconds / count if count else 0.0
        self._room = seconds - self._interval + 1e-6  # what is rounded in hundreds of sums must not count

    def full(self, key: K, now: float) -> bool:
        """Whether one more would be too many."""
        return self._due.get(key, now) - now > self._room

    def add(self, key: K, now: float) -> None:
        """One more has come."""
        due = self._due
        begun = due.pop(key, now)
        if len(due) >= self._most:
            del due[next(iter(due))]
        due[key] = max(begun, now) + self._interval

    def __len__(self) -> int:
        return len(self._due)


class Connections:
    """The connections there are. `enter` and `leave` come in pairs, but for those that `enter` refused."""

    __slots__ = ("_address_rate", "_limits", "_network_rate", "addresses", "networks")

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self.addresses: dict[str, int] = {}  # as many entries as there are connections at most
        self.networks: dict[str, int] = {}
        self._address_rate = Rate[str](limits.address_rate)
        self._network_rate = Rate[str](limits.network_rate)

    def configure(self, limits: LimitSettings) -> None:
        """Takes other limits; those that are there stay."""
        self._limits = limits
        self._address_rate.configure(limits.address_rate)
        self._network_rate.configure(limits.network_rate)

    def enter(self, place: Place, now: float) -> str:
        """Counts a new connection and returns ""; or why it is one too many, and then does not count it."""
        if not place.exempt:
            if (reason := self._refuse(place, now)) != "":
                return reason
            self._address_rate.add(place.address, now)
            self._network_rate.add(place.network, now)
        self.addresses[place.address] = self.addresses.get(place.address, 0) + 1
        self.networks[place.network] = self.networks.get(place.network, 0) + 1
        return ""

    def _refuse(self, place: Place, now: float) -> str:
        limits = self._limits
        if 0 < limits.address_connections <= self.addresses.get(place.address, 0):
            return f"{limits.address_connections} connections from this address"
        if 0 < limits.network_connections <= self.networks.get(place.network, 0):
            return f"{limits.network_connections} connections from this network"
        if limits.address_rate and self._address_rate.full(place.address, now):
            return f"{limits.address_rate} new connections a minute from this address"
        if limits.network_rate and self._network_rate.full(place.network, now):
            return f"{limits.network_rate} new connections a minute from this network"
        return ""

    def leave(self, place: Place) -> None:
        """A connection that had entered is gone."""
        for counts, key in ((self.addresses, place.address), (self.networks, place.network)):
            left = counts[key] - 1
            if left:
                counts[key] = left
            else:
                del counts[key]

    @property
    def remembered(self) -> int:
        """Entries of all tables, for whoever looks after memory."""
        return len(self.addresses) + len(self.networks) + len(self._address_rate) + len(self._network_rate)
