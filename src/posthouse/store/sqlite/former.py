"""What lies in a copied database for one account, and what of it a mailbox of today lacks."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from posthouse.mail.encoded import decode_field
from posthouse.mail.header import Header
from posthouse.ports.store import Former
from posthouse.store.model import decode_envelope
from posthouse.store.sqlite.pool import connect

HEAD: Final = 16_384  # octets in which a Subject is looked for

_ACCOUNT: Final = "SELECT id, password, quota FROM account WHERE address = ?"
# In the order in which POP3 numbers them; only the INBOX has such numbers.
_MESSAGES: Final = """
    SELECT message.id, message.size, message.received, message.recipient, message.prefix, content.letter,
        content.envelope, content.file
    FROM mailbox CROSS JOIN message ON message.id BETWEEN (mailbox.id << 32) AND (mailbox.id << 32) + 4294967295
    CROSS JOIN content ON content.id = message.content
    WHERE mailbox.account = (SELECT id FROM account WHERE address = ?) ORDER BY mailbox.name <> 'INBOX', message.id
"""
_ONE: Final = """
    SELECT content.letter, content.envelope, message.recipient, message.prefix, message.received, message.flags,
        message.keywords, message.notify, message.orcpt, content.file, content.data, content.checksum
    FROM message JOIN content ON content.id = message.content WHERE message.id = ?
"""
_SUBJECT: Final = """
    SELECT substr(content.data, 1, ?) FROM message JOIN content ON content.id = message.content WHERE message.id = ?
"""


@dataclass(slots=True)
class Candidate:
    """A letter of the account. `number` is what POP3 called it; `there` when the mailbox of today has it."""

    number: int
    message: int
    letter: str
    size: int
    received: float
    sender: str
    recipient: str
    file: str | None
    there: bool


@dataclass(slots=True, frozen=True)
class FormerAccount:
    """The account as it was."""

    address: str
    password: str
    quota: int


class Archive:
    """A copied database. Its look-ups belong to one thread."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)

    def account(self, address: str) -> FormerAccount | None:
        """The account of this address."""
        rows = self._connection.execute(_ACCOUNT, (address,)).fetchall()
        return FormerAccount(address, rows[0][1], rows[0][2]) if rows else None

    def addresses(self, limit: int) -> list[str]:
        """The first accounts."""
        sql = "SELECT address FROM account ORDER BY address LIMIT ?"
        return [address for (address,) in self._connection.execute(sql, (limit,)).fetchall()]

    def candidates(self, address: str, held: Counter[bytes]) -> Iterator[Candidate]:
        """All letters of an account; `held` counts what its mailboxes have today, and is used up."""
        rows = self._connection.execute(_MESSAGES, (address,))
        for number, (message, size, received, recipient, prefix, letter, envelope, file) in enumerate(rows, 1):
            mark = _mark(letter, recipient, prefix, received)
            there = held[mark] > 0
            held[mark] -= there
            sender = decode_envelope(envelope).sender
            yield Candidate(
                number, message, letter, size, received, "" if sender is None else str(sender), recipient, file, there
            )

    def subject(self, message: int) -> str:
        """The Subject of a small letter, empty where there is none."""
        rows = self._connection.execute(_SUBJECT, (HEAD, message)).fetchall()
        value = Header(bytes(rows[0][0])).get("Subject") if rows and rows[0][0] else None
        return "" if value is None else decode_field(value)

    def read(self, message: int) -> tuple[Former, str | None, bytes | None, int]:
        """A letter with its content: the file it lies in, or its octets; and their checksum."""
        row: Sequence[Any] = self._connection.execute(_ONE, (message,)).fetchall()[0]
        letter, envelope, recipient, prefix, received, flags, keywords, notify, orcpt, file, data, checksum = row
        former = Former(
            letter,
            decode_envelope(envelope),
            recipient,
            prefix,
            received,
            flags,
            tuple(keywords.split()),
            tuple(notify.split(",")) if notify else (),
            orcpt,
        )
        return former, file, data, checksum

    def close(self) -> None:
        """Lets go of it."""
        self._connection.close()


def held(path: Path, address: str) -> Counter[bytes]:
    """What the mailboxes of an account have, so that the same copies can be told among others."""
    with contextlib.closing(connect(path)) as connection:
        rows = connection.execute(_MESSAGES, (address,))
        return Counter(_mark(letter, recipient, prefix, at) for _, _, at, recipient, prefix, letter, _, _ in rows)


def _mark(letter: str, recipient: str, prefix: bytes, received: float) -> bytes:
    return hashlib.blake2b(repr((letter, recipient, prefix, received)).encode(), digest_size=16).digest()
