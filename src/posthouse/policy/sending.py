"""What an account may send in an hour and a day, so that a stolen password does little harm.

Counts are kept in memory, taken from what was remembered when an account is seen first, and handed over (`fresh`) to
be written down now and then. Of recipients only short digests are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from posthouse.config.limits import SendingSettings
from posthouse.ports.bans import SentRow

HOUR: Final = 3600.0
DAY: Final = 86_400.0
DIGEST: Final = 8  # octets: one in a billion recipients is taken for another
MOST_KNOWN: Final = 4000  # recipients of an account that are known: 32 KB
MOST_ACCOUNTS: Final = 1000  # in memory: some 32 MB at most


@dataclass(slots=True, frozen=True)
class Excess:
    """A limit that is reached: of `count` "letters", "recipients" or "new recipients"; it ends in so many seconds."""

    what: str
    count: int
    period: str
    seconds: float


@dataclass(slots=True)
class Addressed:
    """To whom one letter goes so far, as it will be counted: recipients, and digests of those never written to."""

    recipients: int = 0
    strangers: set[bytes] = field(default_factory=set)


class Sending:
    """Counts what accounts send. `load` gives what is remembered of an account. Times are wall time."""

    __slots__ = ("_limits", "_load", "_rows", "fresh")

    def __init__(self, limits: SendingSettings, load: Callable[[str], SentRow | None]) -> None:
        self._limits = limits
        self._load = load
        self._rows: dict[str, SentRow] = {}
        self.fresh: set[str] = set()  # accounts whose counts are not yet written down

    def configure(self, limits: SendingSettings) -> None:
        """Goes by other numbers from now on."""
        self._limits = limits

    def row(self, account: str) -> SentRow:
        """The counts of an account as they were last, to be written down."""
        return self._rows[account]

    def refuse_letter(self, account: str, now: float) -> Excess | None:
        """Whether one letter more would be too many."""
        return self._letters(self._current(account, now), now)

    def refuse_recipients(
        self, account: str, recipients: Sequence[str], now: float, letter: Addressed | None = None
    ) -> Excess | None:
        """Whether a letter to all of these (`Address.key`) would be too much; to those of `letter` and these, which is
        added to it when they may stand. So a letter to a thousand costs a thousand looks and not half a million."""
        row, letter = self._current(account, now), letter or Addressed()
        count = letter.recipients + len(recipients)
        strangers = [one for one in self._strangers(row, recipients) if one not in letter.strangers]
        excess = self._recipients(row, count, now) or self._new(row, len(letter.strangers) + len(strangers), now)
        if excess is None:
            letter.recipients = count
            letter.strangers.update(strangers)
        return excess

    def count(self, account: str, recipients: Sequence[str], now: float) -> Excess | None:
        """Counts a letter, or says why it is one too many and then does not count it."""
        row = self._current(account, now)
        strangers = self._strangers(row, recipients)
        excess = (
            self._letters(row, now)
            or self._recipients(row, len(recipients), now)
            or self._new(row, len(strangers), now)
        )
        if excess is None:
            self._add(row, 1, len(recipients), len(strangers))
            row.written_to = (row.written_to + b"".join(strangers))[-MOST_KNOWN * DIGEST :]
            self.fresh.add(account)
        return excess

    def take_back(self, account: str, recipients: int, now: float) -> None:
        """A letter that was counted was not accepted after all. Whom it was for stays known: one more try with them
        costs nothing."""
        self._add(self._current(account, now), -1, -recipients, 0)
        self.fresh.add(account)

    def _add(self, row: SentRow, letters: int, recipients: int, new: int) -> None:
        row.letters_hour = max(0, row.letters_hour + letters)
        row.letters_day = max(0, row.letters_day + letters)
        row.recipients_hour = max(0, row.recipients_hour + recipients)
        row.recipients_day = max(0, row.recipients_day + recipients)
        row.new_day += new

    def _current(self, account: str, now: float) -> SentRow:
        row = self._rows.pop(account, None) or self._load(account) or SentRow(account)
        if len(self._rows) >= MOST_ACCOUNTS:
            self._make_room()
        self._rows[account] = row
        if not row.hour <= now < row.hour + HOUR:
            row.hour, row.letters_hour, row.recipients_hour = now, 0, 0
        if not row.day <= now < row.day + DAY:
            row.day, row.letters_day, row.recipients_day, row.new_day = now, 0, 0, 0
        return row

    def _make_room(self) -> None:
        """Forgets the one that sent longest ago, but never one that is not written down."""
        for name in list(self._rows):
            if len(self._rows) < MOST_ACCOUNTS:
                break
            if name not in self.fresh:
                del self._rows[name]

    def _letters(self, row: SentRow, now: float) -> Excess | None:
        limits = self._limits
        if 0 < limits.letters_hour <= row.letters_hour:
            return Excess("letters", limits.letters_hour, "hour", row.hour + HOUR - now)
        if 0 < limits.letters_day <= row.letters_day:
            return Excess("letters", limits.letters_day, "day", row.day + DAY - now)
        return None

    def _recipients(self, row: SentRow, more: int, now: float) -> Excess | None:
        limits = self._limits
        if 0 < limits.recipients_hour < row.recipients_hour + more:
            return Excess("recipients", limits.recipients_hour, "hour", row.hour + HOUR - now)
        if 0 < limits.recipients_day < row.recipients_day + more:
            return Excess("recipients", limits.recipients_day, "day", row.day + DAY - now)
        return None

    def _new(self, row: SentRow, strangers: int, now: float) -> Excess | None:
        most = self._limits.new_recipients_day
        if strangers and 0 < most < row.new_day + strangers:
            return Excess("new recipients", most, "day", row.day + DAY - now)
        return None

    def _strangers(self, row: SentRow, recipients: Sequence[str]) -> list[bytes]:
        """Digests of those to whom this account never wrote."""
        digests = {blake2b(name.encode("utf-8", "replace"), digest_size=DIGEST).digest() for name in recipients}
        return sorted(digest for digest in digests if not _holds(row.written_to, digest))


def _holds(digests: bytes, digest: bytes) -> bool:
    at = digests.find(digest)
    while at % DIGEST and at >= 0:  # what stands across two of them is none
        at = digests.find(digest, at + 1)
    return at >= 0
