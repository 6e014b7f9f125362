"""Delivering: all letters of a batch in a handful of statements.

Every statement step gives up the interpreter lock and must win it back from the event loop's thread, which costs
more than the step itself. So the letters of a batch are written together: one look-up of all mailboxes concerned,
INSERTs of up to 32 rows each, one update of the counters.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.store import Delivered
from posthouse.store.model import UniqueIds
from posthouse.store.sqlite.jobs import LAST_UID, Batch, Deposit, pages_of

_ROWS: Final = 32  # rows of one INSERT at most; each number of rows is prepared once

_CONTENT: Final = "INSERT INTO content (id, letter, envelope, size, checksum, refs, file, data) VALUES "
_CONTENT_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"

_MESSAGE: Final = (
    "INSERT INTO message (id, unique_id, content, size, eight_bit, modseq, received, saved, recipient, notify, orcpt,"
    " prefix, flags, retrieved, keywords) VALUES "
)
_MESSAGE_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '')"

_QUEUE: Final = (
    "INSERT INTO queue (id, content, letter, destination, sender, recipient, notify, orcpt, size, accepted, due,"
    " leased, prefix, state, attempts, tried, told, dead, reply, status, host) VALUES "
)
_QUEUE_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'due', 0, NULL, 0, 0, '', '', '')"

QUEUE_SHIFT: Final = 20
"""Bits of a queue row's id behind the content's: a letter has at most so many recipients that wait."""

# CROSS JOIN fixes the order: from the accounts asked for to their rows, never through a whole table.
_INBOXES: Final = """
    SELECT (SELECT content FROM state), json_group_array(json_array(
        account.id, mailbox.id, mailbox.uidnext, mailbox.highestmodseq, account.quota,
        CASE WHEN account.quota THEN (SELECT sum(octets) FROM mailbox WHERE account = asked.value) ELSE 0 END))
    FROM json_each(?) AS asked CROSS JOIN account ON account.id = asked.value
    CROSS JOIN mailbox ON mailbox.account = account.id AND mailbox.name = 'INBOX'
"""
_COUNTERS: Final = """
    UPDATE mailbox SET uidnext = uidnext + new.messages, highestmodseq = highestmodseq + new.messages,
        messages = mailbox.messages + new.messages, octets = mailbox.octets + new.octets
    FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS messages,
          json_extract(value, '$[2]') AS octets FROM json_each(?)) AS new
    WHERE mailbox.id = new.id
"""

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(list[tuple[int, int, int, int, int, int]])


class _Inbox:
    """What a batch must know of one account's INBOX, and what it adds to it."""

    __slots__ = ("added", "mailbox", "modseq", "octets", "quota", "uid", "used")

    def __init__(self, mailbox: int, uid: int, modseq: int, quota: int, used: int) -> None:
        self.mailbox = mailbox
        self.uid = uid
        self.modseq = modseq
        self.quota = quota
        self.used = used
        self.added = 0
        self.octets = 0


def deposit(deposits: Sequence[Deposit], unique_ids: UniqueIds, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Writes these letters in the transaction at hand and sets the result of each."""
    letters, deposits = deposits, [one for item in deposits for one in (item, *item.also)]
    accounts = {delivery.account for item in deposits for delivery in item.deliveries}
    kept, found = cursor.execute(_INBOXES, (_encoder.encode(sorted(accounts)).decode(),)).fetchall()[0]
    inboxes = {row[0]: _Inbox(*row[1:]) for row in _decoder.decode(found)}
    contents: list[Any] = []
    messages: list[Any] = []
    first = last = max(kept, batch.content)
    queue: list[Any] = []
    for item in deposits:
        refs = _messages_of(item, last + 1, inboxes, unique_ids, messages)
        if item.queued:
            refs += _queue_rows(item, last + 1, queue)
        if refs:
            last += 1
            item.content = last
            contents += (last, item.letter, item.envelope, item.size, item.checksum, refs, item.file, item.octets)
            batch.pages += pages_of(0 if item.octets is None else item.size) + refs
        elif item.file is not None:
            batch.files.append(item.file)
    if last == first:
        return
    _insert(_CONTENT, _CONTENT_ROW, contents, cursor)
    _insert(_MESSAGE, _MESSAGE_ROW, messages, cursor)
    _insert(_QUEUE, _QUEUE_ROW, queue, cursor)
    counters = [(inbox.mailbox, inbox.added, inbox.octets) for inbox in inboxes.values() if inbox.added]
    if counters:
        cursor.execute(_COUNTERS, (_encoder.encode(counters).decode(),))
    batch.content = last
    batch.changed = True
    for item in letters:
        if item.also:
            item.mailboxes = [mailbox for one in (item, *item.also) for mailbox in one.mailboxes]


def _messages_of(
    item: Deposit, content: int, inboxes: dict[int, _Inbox], unique_ids: UniqueIds, messages: list[Any]
) -> int:
    """Adds the message rows of one letter and sets its result; returns how many there are."""
    results: list[Delivered] = []
    mailboxes: list[int] = []
    refs = 0
    for delivery in item.deliveries:
        inbox = inboxes.get(delivery.account)
        size = item.size + len(delivery.prefix)
        failure = _failure(inbox, size)
        if failure is not None or inbox is None:
            results.append(Delivered(delivery.account, failure=failure))
            continue
        uid, unique_id = inbox.uid, unique_ids.next()
        inbox.uid += 1
        inbox.modseq += 1
        inbox.added += 1
        inbox.octets += size
        inbox.used += size
        refs += 1
        mailboxes.append(inbox.mailbox)
        messages += (
            (inbox.mailbox << 32) + uid,
            unique_id,
            content,
            size,
            int(item.eight_bit or not delivery.prefix.isascii()),
            inbox.modseq,
            item.received,
            item.received,
            delivery.recipient,
            ",".join(delivery.notify),
            delivery.orcpt,
            delivery.prefix,
        )
        results.append(Delivered(delivery.account, uid, unique_id))
    item.result = results
    item.mailboxes = mailboxes
    return refs


def _queue_rows(item: Deposit, content: int, queue: list[Any]) -> int:
    """Adds the queue rows of one letter; returns how many there are."""
    for number, queued in enumerate(item.queued):
        queue += (
            (content << QUEUE_SHIFT) + number,
            content,
            item.letter,
            queued.destination,
            item.sender,
            queued.recipient,
            ",".join(queued.notify),
            queued.orcpt,
            item.size + len(queued.prefix),
            queued.accepted,
            item.until if queued.now else queued.due,
            item.until if queued.now else None,
            queued.prefix,
        )
    return len(item.queued)


def _failure(inbox: _Inbox | None, size: int) -> str | None:
    """Why a copy of this size has no place in an INBOX, or None."""
    if inbox is None:
        return "missing"
    if inbox.uid > LAST_UID:
        raise Unavailable(Fault.STORAGE, f"mailbox {inbox.mailbox} has given out its last UID")
    if not inbox.quota or inbox.used + size <= inbox.quota:
        return None
    return "quota" if size <= inbox.quota else "too big"


def _insert(head: str, row: str, values: list[Any], cursor: sqlite3.Cursor) -> None:
    """INSERTs rows given as one flat list of values, many rows with each statement."""
    columns = row.count("?")
    for at in range(0, len(values), _ROWS * columns):
        some = values[at : at + _ROWS * columns]
        cursor.execute(_statement(head, row, len(some) // columns), some)


@lru_cache(maxsize=3 * _ROWS)
def _statement(head: str, row: str, rows: int) -> str:
    return head + ", ".join([row] * rows)
