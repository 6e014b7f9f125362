"""Naming networks and what they may do: the service behind `posthouse network`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from posthouse.observe.audit import Record, no_record
from posthouse.policy.access import (
    EVERYBODY,
    LOOPBACK,
    Access,
    Rights,
    in_order,
    read_address,
    read_network,
    read_rights,
)
from posthouse.ports.store import Conflict, Missing, Network, Store
from posthouse.ports.system import Clock

MOST: Final = 1000  # named networks
NOTE: Final = 200  # characters


class BadNetwork(ValueError):
    """Not a network, or not a right. The text says why, and what to write."""


class NetworkService:
    """The named networks of one store."""

    __slots__ = ("_clock", "_record", "_store")

    def __init__(self, store: Store, clock: Clock, record: Record = no_record) -> None:
        self._store = store
        self._clock = clock
        self._record = record

    async def add(
        self,
        network: str,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        until: float | None = None,
        note: str = "",
        replace: bool = False,
    ) -> Network:
        """Names a network. It may do what its peers may without a name, and what `allow` adds, without what `deny`
        takes away. Raises BadNetwork, and Conflict when it is named already and not to be replaced."""
        try:
            found = read_network(network)
            allowed, denied = read_rights(allow), read_rights(deny)
        except ValueError as error:
            raise BadNetwork(str(error)) from None
        if both := allowed & denied:
            raise BadNetwork(f"{', '.join(in_order(both))} cannot be allowed and denied at once.")
        if len(note) > NOTE or not note.isprintable():
            raise BadNetwork(f"A note is one line of at most {NOTE} characters.")
        if until is not None and until <= self._clock.now():
            raise BadNetwork("That time has passed already.")
        held = {row.network for row in self._store.networks()}
        if str(found) not in held and len(held) >= MOST:
            raise Conflict(f"{MOST} networks have names already, and more there cannot be. Remove some first.")
        base = LOOPBACK if found.is_loopback else EVERYBODY
        row = Network(str(found), in_order((base | allowed) - denied), until, note, self._clock.now())
        try:
            await self._store.put_network(row, replace=replace)
        except Conflict:
            raise Conflict(f"{found} is named already. --replace gives it new rights.") from None
        self._record("network_added", network=row.network, rights=" ".join(row.rights), until=until, note=note)
        return row

    async def remove(self, network: str) -> str:
        """Takes a network's name away; returns it in its one form. Raises BadNetwork, Missing."""
        try:
            found = str(read_network(network))
        except ValueError as error:
            raise BadNetwork(str(error)) from None
        try:
            await self._store.remove_network(found)
        except Missing:
            raise Missing(f"{found} is not named here. posthouse network list shows those that are.") from None
        self._record("network_removed", network=found)
        return found

    def list(self) -> tuple[Network, ...]:
        """All named networks, expired ones too."""
        return self._store.networks()

    def expired(self, row: Network) -> bool:
        """Whether a network's time is over, so that it counts no more."""
        return row.until is not None and row.until <= self._clock.now()

    def test(self, address: str) -> tuple[str, Rights]:
        """The address in its one form and what a peer there may do. Raises BadNetwork."""
        try:
            host = str(read_address(address.strip()[:100]))
        except ValueError:
            raise BadNetwork(f'"{address[:60]}" is not an IP address. Write one such as 192.0.2.7.') from None
        return host, Access(self._store, self._clock).rights(host)
