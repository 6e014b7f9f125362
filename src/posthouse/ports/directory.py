"""Who receives mail here, and who may log in, as the other floors see it."""

from __future__ import annotations

from typing import Protocol

from posthouse.mail.address import Address
from posthouse.ports.store import Account


class Directory(Protocol):
    """The local domains and accounts. What another process adds is seen at once."""

    async def is_local(self, domain: str) -> bool:
        """Whether we are responsible for this domain (any case, U-labels or A-labels; never a literal)."""
        ...

    async def find(self, address: Address) -> Account | None:
        """The account behind an address of a local domain, or None. `postmaster` without a domain (RFC 5321
        §4.5.1) is looked up in the first local domain."""
        ...

    async def authenticate(self, login: str, password: str) -> Account | None:
        """The account that this login name and password open, or None: an unknown name and a wrong password
        look the same, in text and in time. `login` is a whole address, or the local part alone when exactly one
        local domain has it.

        Raises Unavailable(Fault.BUSY) when too many verifications are waiting.
        """
        ...
