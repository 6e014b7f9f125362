"""Delivery: the copies of a letter, and what became of them in words a peer understands."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.reply import Reply, Smtp
from posthouse.ports.store import Account, Delivered, Delivery, Draft, Store

# field-name = 1*ftext, RFC 5322 §3.6.8; white space before the colon is of §4.5.
_HEADER_FIELD: Final = re.compile(rb"[!-9;-~]{1,1000}[ \t]*:")

HEAD: Final = 1024
"""Octets of a draft's beginning that are looked at."""

_FAILURES: Final = {
    "missing": Smtp.NO_SUCH_USER,
    "quota": Smtp.MAILBOX_FULL,
    "too big": Smtp.TOO_BIG_FOR_MAILBOX,
}


_QUEUED: Final = Delivered(0)
_ONWARD: Final = -1


@dataclass(slots=True)
class Targets:
    """The mailboxes a letter goes to. Recipients that lead to one mailbox get one copy together."""

    accounts: list[Account] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)  # every accepted RCPT, in order
    onward: list[tuple[Recipient, str]] = field(default_factory=list)  # who is elsewhere, and the destination
    expanded: list[Recipient] = field(default_factory=list)  # that stand for several
    refused: dict[int, str] = field(default_factory=dict)  # accounts that get no copy, and the failure of each
    _asked: list[Recipient] = field(default_factory=list)  # for each account its first recipient
    # For each recipient the places of its accounts (_ONWARD for one that is elsewhere), and what is told of them.
    _places: list[tuple[int, ...]] = field(default_factory=list)
    _told: list[Recipient] = field(default_factory=list)
    _known: dict[int, int] = field(default_factory=dict)  # the place of each account's id

    def add(self, recipient: Recipient, account: Account) -> None:
        """One more accepted recipient."""
        self._accept(recipient, recipient, (self._place(recipient, account),))

    def _accept(self, recipient: Recipient, told: Recipient, places: tuple[int, ...]) -> None:
        self.recipients.append(recipient)
        self._told.append(told)
        self._places.append(places)

    def _place(self, recipient: Recipient, account: Account) -> int:
        """The place of an account among those that get a copy."""
        place = self._known.setdefault(account.id, len(self.accounts))
        if place == len(self.accounts):
            self.accounts.append(account)
            self._asked.append(recipient)
        return place

    def add_onward(self, recipient: Recipient, destination: str) -> None:
        """One more accepted recipient whose mailbox is elsewhere."""
        self.onward.append((recipient, destination))
        self._accept(recipient, recipient, (_ONWARD,))

    def add_alias(self, recipient: Recipient, members: Sequence[tuple[Address, Account | str]]) -> None:
        """One more accepted recipient, who stands for others: accounts here, or addresses with their destinations."""
        asked = recipient.notify
        if len(members) > 1 and "SUCCESS" in asked:
            # The sender hears that it was expanded, and of its members only what goes wrong (RFC 3461 §5.2.7.3).
            self.expanded.append(recipient)
            asked = tuple(word for word in asked if word != "SUCCESS") or ("NEVER",)
        orcpt = recipient.orcpt or f"{'rfc822' if recipient.address.is_ascii else 'utf-8'};{recipient.address}"
        places = []
        for address, target in members:
            member = Recipient(address, asked, orcpt)
            if isinstance(target, Account):
                places.append(self._place(member, target))
            else:
                self.onward.append((member, target))
                places.append(_ONWARD)
        # Whoever writes to the alias need not learn for whom it stands (RFC 3461 §5.2.7.4).
        self._accept(recipient, Recipient(recipient.address, asked, orcpt), tuple(places))

    @property
    def destinations(self) -> list[str]:
        """Where the letter goes on to, each once."""
        return list(dict.fromkeys(destination for _, destination in self.onward))

    def here(self) -> list[tuple[Recipient, Account]]:
        """The recipients whose mailbox is here, with their accounts."""
        return [
            (told, self.accounts[place])
            for told, places in zip(self._told, self._places, strict=True)
            for place in places
            if place != _ONWARD
        ]

    def copies(self, prefix: bytes) -> list[Delivery]:
        """One delivery for each account that gets a copy, with what its first recipient asked for."""
        return [
            Delivery(account.id, prefix, str(asked.address), asked.notify, asked.orcpt)
            for account, asked in zip(self.accounts, self._asked, strict=True)
            if account.id not in self.refused
        ]

    def each(self, results: Sequence[Delivered]) -> list[Delivered]:
        """The results, one for each recipient; what goes on is safe in the queue."""
        if self.refused:
            rest = iter(results)
            results = [
                Delivered(account.id, failure=self.refused[account.id]) if account.id in self.refused else next(rest)
                for account in self.accounts
            ]
        return [_result(places, results) for places in self._places]


def _result(places: tuple[int, ...], results: Sequence[Delivered]) -> Delivered:
    """What one recipient comes to: an alias has failed only when all it stands for have."""
    if _ONWARD in places:
        return _QUEUED
    found = [results[place] for place in places]
    return next((result for result in found if result.failure is None), found[0])


def prefix_of(draft: Draft, fields: str) -> bytes:
    """What is put before the content: the fields, and the empty line that ends a header when the content has none.

    A content that begins with an empty line brings that line itself.
    """
    head = draft.head
    if begins_with_field(head) or head.startswith(b"\r\n"):
        return fields.encode()
    return fields.encode() + b"\r\n"


def begins_with_field(octets: bytes) -> bool:
    """Whether a content that begins so has a header."""
    return _HEADER_FIELD.match(octets[:HEAD]) is not None


def overfull(account: Account, size: int) -> str | None:
    """Why a message of this size cannot go into a mailbox, from what is known of it (RFC 1870 §6.1); a failure as in
    `ports.store.Delivered`."""
    if not account.quota:
        return None
    if size > account.quota:
        return "too big"
    return "quota" if account.used >= account.quota or account.used + size > account.quota else None


def failure_reply(failure: str | None) -> Reply | None:
    """The reply for one recipient's copy, None when it is on the disk."""
    return None if failure is None else _FAILURES.get(failure, Smtp.STORAGE)


async def deliver(
    store: Store, draft: Draft, targets: Targets, prefix: bytes, *, letter: str, envelope: Envelope
) -> list[Delivered]:
    """Puts the letter into all its mailboxes in one transaction; one result per recipient. Raises Unavailable."""
    results = await store.deliver(draft, targets.copies(prefix), letter=letter, envelope=envelope)
    return targets.each(results)


class Head:
    """The header of a letter that is just being accepted, for a notice about it (`ports.store.Letter`)."""

    __slots__ = ("octets", "prefix", "size")

    def __init__(self, octets: bytes, size: int) -> None:
        self.prefix = b""
        self.octets = octets
        self.size = size

    async def chunks(self) -> AsyncIterator[bytes]:
        """All there is."""
        yield self.octets
