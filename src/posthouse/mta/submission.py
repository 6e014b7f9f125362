"""Submission: the header of a letter whose sender logged in is checked, and completed (RFC 6409 §6.1, §8).

The header alone is kept back until it is whole; the rest of the letter passes as it comes, so that a letter of any
size takes constant memory, and what lies in the store has one size everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from posthouse.mail.budget import FREE, Budget
from posthouse.mail.header import FIELDS, Header
from posthouse.mail.reply import Rejected, Reply, Smtp
from posthouse.mail.trace import date_time
from posthouse.mta.delivery import begins_with_field
from posthouse.policy.senders import AUTHORS, addresses_in, claimed, is_own, owns_one
from posthouse.ports.store import Account, Draft
from posthouse.ports.system import Clock, Random

LONGEST: Final = 1_048_576
"""Octets of a header; a letter to a thousand recipients has some 60,000."""

INLINE: Final = 16_384
"""Octets of a header that are looked through on the event loop's thread: at most 4,000 fields, some 5 ms."""

INLINE_CLAIMS: Final = 1024
"""Octets of From, Resent-From and Sender in it: addresses in odd forms cost up to 300 us each."""

TOO_BIG: Final = Smtp.HEADER_TOO_BIG.fill(limit=LONGEST, fields=FIELDS)

_BLIND: Final = frozenset({"bcc", "resent-bcc"})  # RFC 5322 §3.6.3, §3.6.6
_SENDER: Final = frozenset({"sender"})
_NAMING: Final = AUTHORS | _SENDER

Current = Callable[[Account], Awaitable[Account]]
"""Gives an account as it is now, with the senders granted to it meanwhile."""


@dataclass(slots=True, frozen=True)
class Wishes:
    """What is to be done with a header. `sender` is the setting `submission.sender`; `complete` adds Date and
    Message-ID and removes Bcc."""

    sender: str
    complete: bool
    host: str


class HeaderGate:
    """Stands before a draft: lets the header through once it is whole and right, and all that follows at once."""

    __slots__ = (
        "_account",
        "_budget",
        "_buffer",
        "_clock",
        "_current",
        "_draft",
        "_failure",
        "_held",
        "_open",
        "_random",
        "_wishes",
    )

    def __init__(
        self,
        draft: Draft,
        account: Account,
        current: Current,
        wishes: Wishes,
        clock: Clock,
        random: Random,
        budget: Budget,
    ) -> None:
        self._draft = draft
        self._account = account
        self._current = current
        self._wishes = wishes
        self._clock = clock
        self._random = random
        self._budget = budget
        self._held = 0  # octets that are counted in it
        self._buffer = bytearray()
        self._open = False
        self._failure: Reply | None = None

    async def write(self, octets: bytes) -> None:
        """Takes octets of the letter. Raises Unavailable; what is wrong with the header is told by `end`."""
        if self._open:
            await self._draft.write(octets)
            return
        if self._failure is not None:
            return
        seen = max(0, len(self._buffer) - 3)
        self._buffer += octets
        end = 2 if self._buffer.startswith(b"\r\n") else self._buffer.find(b"\r\n\r\n", seen) + 4
        if end >= 4 or self._buffer.startswith(b"\r\n"):
            await self._let_through(end)
        elif len(self._buffer) > LONGEST:
            await self._let_through(len(self._buffer))
        elif len(self._buffer) > FREE:
            self._hold(len(self._buffer))

    def _hold(self, octets: int) -> None:
        """The header waits in memory: too much of that is a failure for now."""
        self._held = self._budget.change(self._held, octets)
        if octets and self._budget.short:
            self._failure = Smtp.BUSY
            self.discard()

    def discard(self) -> None:
        """Forgets what waits. Harmless when nothing does."""
        self._buffer = bytearray()
        if self._held:
            self._held = self._budget.change(self._held, 0)

    async def end(self) -> None:
        """The letter is whole. Raises Rejected when its header was not as it must be, and Unavailable."""
        if not self._open and self._failure is None:
            await self._let_through(len(self._buffer))
        if self._failure is not None:
            raise Rejected(self._failure)

    async def _let_through(self, end: int) -> None:
        octets = self._buffer
        self.discard()
        header = bytes(octets[:end])
        if begins_with_field(header) or header.startswith(b"\r\n"):
            if len(header) > LONGEST:
                self._failure = TOO_BIG
                return
            try:
                header = await self._examine(header)
            except Rejected as rejected:
                self._failure = rejected.reply
                return
        # What begins with no header is all body: it names nobody, and gets an empty line before it.
        self._open = True
        await self._draft.write(header + octets[end:])

    async def _examine(self, header: bytes) -> bytes:
        account = self._account
        mode = self._wishes.sender
        read = Header(header)
        light = len(header) <= INLINE and _claims(read) <= INLINE_CLAIMS
        if mode == "add-sender" or (mode == "refuse" and not (light and self._names_only(read))):
            account = await self._current(account)
        now, chance = self._clock.now(), self._random.octets(12).hex()
        if light:
            return rewritten(header, read, account, self._wishes, now, chance)
        return await asyncio.to_thread(rewritten, header, read, account, self._wishes, now, chance)

    def _names_only(self, read: Header) -> bool:
        """Whether a header names nobody but the account itself: then nothing that changes need be known."""
        _, addresses = claimed(read, AUTHORS)
        return bool(addresses) and all(is_own(self._account, address) for address in addresses)


def _claims(read: Header) -> int:
    """Octets of the fields that name authors and senders."""
    return sum(field.end - field.start for field in read if field.name.lower() in _NAMING)


def rewritten(header: bytes, read: Header, account: Account, wishes: Wishes, now: float, chance: str) -> bytes:
    """The header as it is kept, with the empty line that ends it; `read` is the same header. Raises Rejected."""
    fields = list(read)
    if len(fields) >= FIELDS:
        raise Rejected(TOO_BIG)
    gone, added = set[int](), []
    if wishes.sender != "off":
        added += _check(read, account, wishes, gone)
    if wishes.complete:
        gone.update(field.start for field in fields if field.name.lower() in _BLIND)
        names = {field.name.lower() for field in fields}
        if "date" not in names:  # RFC 6409 §8.2
            added.append(f"Date: {date_time(now)}\r\n")
        if "message-id" not in names:  # RFC 6409 §8.3
            added.append(f"Message-ID: <{int(now):x}.{chance}@{wishes.host}>\r\n")
    if not gone and not added:
        return header
    kept = [header[field.start : field.end] for field in fields if field.start not in gone]
    rest = header[fields[-1].end :] if fields else header
    return "".join(added).encode() + b"".join(kept) + rest


def _check(read: Header, account: Account, wishes: Wishes, gone: set[int]) -> list[str]:
    """What must be added so that the author is known, beside what goes. Raises Rejected. RFC 5322 §3.6.2, §3.6.6."""
    found, addresses = claimed(read, AUTHORS)
    own = not found or owns_one(account, addresses)
    if wishes.sender == "refuse":
        if not own:
            raise Rejected(Smtp.AUTHOR_NOT_YOURS)
        return []
    named, left = False, INLINE_CLAIMS  # what is longer is no Sender field (RFC 5322 §3.6.2: one mailbox)
    for field in read:
        if field.name.lower() in _SENDER:
            left -= field.end - field.start
            if not named and left >= 0 and owns_one(account, addresses_in(read.value(field))):
                named = True
            else:
                gone.add(field.start)
    return [] if own or named else [f"Sender: {account.address}\r\n"]
