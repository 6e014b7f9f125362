"""What is remembered about logins and senders across a restart, as the other floors see it.

Nothing here is mail: it is written without waiting for the disk, and the last second of it may be lost.
Times are seconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True, frozen=True)
class Ban:
    """Who is not let in: a place (an address or a network in the form of `ipaddress`), or one account from there.

    `account` is "" for all of them. `until` is None for good. `times` counts how often in a row it came to this.
    `by` is "failed logins", or "administrator".
    """

    place: str
    account: str
    since: float
    until: float | None
    reason: str
    by: str
    times: int = 1

    @property
    def key(self) -> tuple[str, str]:
        """There is one ban for each place and account."""
        return self.place, self.account


@dataclass(slots=True, frozen=True)
class Known:
    """Somebody logged in to an account from a network, last at `seen`."""

    account: str
    network: str
    seen: float


@dataclass(slots=True)
class SentRow:
    """What an account has sent: in the hour and the day that began then, and to whom ever (digests of 8 octets)."""

    account: str
    hour: float = 0.0
    day: float = 0.0
    letters_hour: int = 0
    letters_day: int = 0
    recipients_hour: int = 0
    recipients_day: int = 0
    new_day: int = 0
    written_to: bytes = b""


@dataclass(slots=True)
class Changes:
    """What is to be remembered from now on; `lifted` are keys of bans that are no more."""

    bans: list[Ban] = field(default_factory=list)
    lifted: list[tuple[str, str]] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    sent: list[SentRow] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.bans or self.lifted or self.known or self.sent)


class BanStore(Protocol):
    """Keeps bans beside the mail, never in its way. `merge` may run in a thread; all else on one thread."""

    def changed(self) -> bool:
        """Whether another process changed the bans since the last `bans` or `changed`; costs no system call."""
        ...

    def bans(self) -> Sequence[Ban]:
        """All bans, also those that have ended and still count."""
        ...

    def known(self) -> Sequence[Known]:
        """All known logins, the oldest first."""
        ...

    def sent(self, account: str) -> SentRow | None:
        """What an account has sent, as far as it is known."""
        ...

    def merge(self, changes: Changes, *, seen_before: float, ended_before: float) -> None:
        """Writes changes down in one transaction that waits for no disk, and forgets logins that were seen last and
        bans that ended before these times. Raises Unavailable."""
        ...

    def tidy(self, now: float) -> None:
        """Forgets accounts that have sent nothing for a long time. Raises Unavailable."""
        ...

    def announce(self) -> None:
        """Tells every process that the bans were changed just now."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...
