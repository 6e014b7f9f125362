"""Names of addresses, as the other floors see them."""

from __future__ import annotations

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
