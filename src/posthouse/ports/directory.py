"""Who receives mail here, and who may log in, as the other floors see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from posthouse.mail.address import Address
from posthouse.ports.store import Account
from posthouse.sasl.mechanisms import Secrets


@dataclass(slots=True)
class Opened:
    """A login that was right: the account, and the name of the app password that opened it, empty for its own."""

    account: Account
    app: str = ""


@dataclass(slots=True)
class Candidates:
    """What may open a login name: what mechanisms compare with, and at the same places of both lists what is open
    then. For a name that does not exist the lists are empty and the rest looks like that of any other."""

    secrets: Secrets
    account: Account | None = None  # for the log; nobody outside hears of it
    scram: Sequence[Opened] = field(default=())
    shared: Sequence[Opened] = field(default=())


class Directory(Protocol):
    """The local domains and accounts. What another process adds is seen at once."""

    async def is_local(self, domain: str) -> bool:
        """Whether we are responsible for this domain (any case, U-labels or A-labels; never a literal)."""
        ...

    async def find(self, address: Address) -> Account | None:
        """The account behind an address of a local domain, or None. `postmaster` without a domain (RFC 5321
        §4.5.1) is looked up in the first local domain."""
        ...

    async def alias(self, address: Address) -> Sequence[Address]:
        """The addresses that an address of a local domain stands for; none when it is no alias."""
        ...

    async def authenticate(self, login: str, password: str, protocol: str = "") -> Opened | None:
        """What this login name and password open for a protocol ("smtp", "pop3", "imap"), or None: an unknown name
        and a wrong password look the same, in text and in time. `login` is a whole address, or the local part alone
        when exactly one local domain has it.

        Raises Unavailable(Fault.BUSY) when too many verifications are waiting.
        """
        ...

    async def candidates(self, login: str, protocol: str = "") -> Candidates:
        """What may open a login name by a mechanism that does not send the password. Raises Unavailable."""
        ...

    async def note(self, opened: Opened) -> None:
        """Notes that a login by candidates succeeded."""
        ...
