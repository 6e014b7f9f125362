"""Delivery: the copies of a letter, and what became of them in words a peer understands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

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


@dataclass(slots=True)
class Targets:
    """The mailboxes a letter goes to. Recipients that lead to one mailbox get one copy together."""

    accounts: list[Account] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)  # every accepted RCPT, in order
    _asked: list[Recipient] = field(default_factory=list)  # for each account its first recipient
    _places: list[int] = field(default_factory=list)  # for each recipient the place of its account
    _known: dict[int, int] = field(default_factory=dict)  # the place of each account's id

    def add(self, recipient: Recipient, account: Account) -> None:
        """One more accepted recipient."""
        place = self._known.setdefault(account.id, len(self.accounts))
        if place == len(self.accounts):
            self.accounts.append(account)
            self._asked.append(recipient)
        self.recipients.append(recipient)
        self._places.append(place)

    def copies(self, prefix: bytes) -> list[Delivery]:
        """One delivery for each account, with what its first recipient asked for."""
        return [
            Delivery(account.id, prefix, str(asked.address), asked.notify, asked.orcpt)
            for account, asked in zip(self.accounts, self._asked, strict=True)
        ]

    def each(self, results: Sequence[Delivered]) -> list[Delivered]:
        """The results, one for each recipient."""
        return [results[place] for place in self._places]


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


def overfull(account: Account, size: int) -> Reply | None:
    """Why a message of this size cannot go into a mailbox, from what is known of it (RFC 1870 §6.1)."""
    if not account.quota:
        return None
    if size > account.quota:
        return Smtp.TOO_BIG_FOR_MAILBOX
    return Smtp.MAILBOX_FULL if account.used >= account.quota or account.used + size > account.quota else None


def failure_reply(result: Delivered) -> Reply | None:
    """The reply for one recipient's copy, None when it is on the disk."""
    return None if result.failure is None else _FAILURES.get(result.failure, Smtp.STORAGE)


async def deliver(
    store: Store, draft: Draft, targets: Targets, prefix: bytes, *, letter: str, envelope: Envelope
) -> list[Delivered]:
    """Puts the letter into all its mailboxes in one transaction; one result per recipient. Raises Unavailable."""
    results = await store.deliver(draft, targets.copies(prefix), letter=letter, envelope=envelope)
    return targets.each(results)
