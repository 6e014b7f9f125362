"""Reading mail in the embedded engine: the list of a maildrop, and messages with their octets."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

import msgspec

from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.store import Letter, Maildrop, Missing, Row
from posthouse.store.content import FileLetter, Files, LaterLetter, SmallLetter
from posthouse.store.model import INLINE
from posthouse.store.sqlite import jobs
from posthouse.store.sqlite.jobs import LAST_UID
from posthouse.store.sqlite.lookups import Maildrops
from posthouse.store.sqlite.registers import Registers

_SHORT_LIST: Final = 500  # messages up to which a maildrop is listed on the event loop's thread: half a millisecond
_SLICE: Final = 5000  # rows made at once: a millisecond of the interpreter lock

# The whole list comes as texts made inside SQLite, in one step: with a row a step each row would cost a turn of the
# interpreter lock, milliseconds when the event loop is busy.
_LIST: Final = """
    SELECT (SELECT messages FROM mailbox WHERE id = :mailbox), count(*),
        '[' || group_concat(id - (:mailbox << 32)) || ']',
        group_concat(unique_id), '[' || group_concat(size) || ']', group_concat(retrieved + 2 * eight_bit, ''),
        sum(size)
    FROM message WHERE id BETWEEN (:mailbox << 32) AND (:mailbox << 32) + 4294967295
        AND (SELECT messages FROM mailbox WHERE id = :mailbox) <= :most
"""
_FETCH: Final = """
    SELECT message.id, message.prefix, message.size, content.checksum, content.file, content.data
    FROM message LEFT JOIN content ON content.id = message.content WHERE message.id
"""
_FETCH_STEP: Final = 16
_FETCH_RUN: Final = _FETCH + "BETWEEN ? AND ?"
_FETCH_SOME: Final = f"{_FETCH}IN ({', '.join('?' * _FETCH_STEP)})"

_numbers: Final = msgspec.json.Decoder(list[int])
_encoder: Final = msgspec.json.Encoder()
_DIGITS: Final = bytes(max(0, code - 48) for code in range(256))


class Reading(Registers):
    """What a store reads for POP3. `SqliteStore` is made of it, and brings the parts named here."""

    _files: Files
    _maildrops: Maildrops

    async def maildrop(self, mailbox: int) -> Maildrop:
        """The messages of a mailbox now."""
        if (known := self._maildrops.get(mailbox, self._lookups.mark())) is not None:
            return known
        row = self._readers.inline(_LIST, {"mailbox": mailbox, "most": _SHORT_LIST})[0]
        if row[0] is not None and row[0] > _SHORT_LIST:
            return await self._in_thread(self._long_maildrop, mailbox)
        return self._maildrops.keep(_maildrop(mailbox, row))

    def _long_maildrop(self, mailbox: int) -> Maildrop:
        with self._readers.snapshot() as cursor:
            return _maildrop(mailbox, cursor.execute(_LIST, {"mailbox": mailbox, "most": LAST_UID}).fetchall()[0])

    async def fetch(self, mailbox: int, uids: Sequence[int]) -> list[Letter | None]:
        """The messages with these UIDs, None for each that is gone."""
        base = mailbox << 32
        found: dict[int, Letter] = {}
        room = INLINE
        at = 0
        while at < len(uids) and room > 0:
            some = uids[at : at + _FETCH_STEP]
            at += len(some)
            for row in self._rows(base, some):
                _, prefix, size, checksum, file, data = row
                # Sound and small, as nearly all are: no further call for it.
                if file is None and data is not None and crc32(data) == checksum and len(prefix) + len(data) == size:
                    found[row[0] - base] = SmallLetter(prefix, size, prefix + data)
                    room -= size
                else:
                    found[row[0] - base] = self._letter(*row)
        if at < len(uids):
            self._fetch_later(mailbox, uids[at:], found)
        return [found.get(uid) for uid in uids]

    def _rows(self, base: int, uids: Sequence[int]) -> list[Any]:
        first, last = uids[0], uids[-1]
        if first > 0 and last <= LAST_UID and last - first == len(uids) - 1 and list(uids) == [*range(first, last + 1)]:
            return self._readers.inline(_FETCH_RUN, (base + first, base + last))  # neighbours: half the price
        ids = [base + uid for uid in uids if 0 < uid <= LAST_UID]
        if not ids:
            return []
        return self._readers.inline(_FETCH_SOME, ids + [0] * (_FETCH_STEP - len(ids)))

    def _letter(
        self, message: int, prefix: bytes, size: int, checksum: int | None, file: str | None, data: bytes | None
    ) -> Letter:
        return self._open(f"message {message >> 32}/{message & LAST_UID}", prefix, size, checksum, file, data)

    def _open(
        self, name: str, prefix: bytes, size: int, checksum: int | None, file: str | None, data: bytes | None
    ) -> Letter:
        if file is not None and checksum is not None:
            return FileLetter(self._files, file, prefix, size, checksum)
        problem = ""
        if data is None:
            problem = "has no content"
        elif crc32(data) != checksum:
            problem = "does not match its checksum"
        elif len(prefix) + len(data) != size:
            problem = f"has {len(prefix) + len(data)} octets instead of {size}"
        if problem or data is None:
            return SmallLetter(prefix, size, None, f"{name} {problem}")
        return SmallLetter(prefix, size, prefix + data)

    def _fetch_later(self, mailbox: int, uids: Sequence[int], found: dict[int, Letter]) -> None:
        ids = _encoder.encode(jobs.ids_of(mailbox, uids)).decode()
        rows = self._readers.inline(
            "SELECT id, prefix, size FROM message WHERE id IN (SELECT value FROM json_each(?))", (ids,)
        )
        for message, prefix, size in rows:
            found[message & LAST_UID] = LaterLetter(prefix, size, functools.partial(self._open_later, message))

    def _open_later(self, message: int) -> Letter:
        rows = self._readers.inline(_FETCH_RUN, (message, message))
        if not rows:
            raise Unavailable(Fault.STORAGE, f"message {message >> 32}/{message & LAST_UID} was removed meanwhile")
        return self._letter(*rows[0])


def _maildrop(mailbox: int, row: Sequence[Any]) -> Maildrop:
    messages, count, uids, unique_ids, sizes, marks, octets = row
    if messages is None:
        raise Missing(f"mailbox {mailbox}")
    if messages > count:  # a partial list would make a client that synchronizes delete the rest on its side too
        raise Unavailable(
            Fault.DAMAGED,
            f"mailbox {mailbox} counts {messages} letters and only {count} can be read; "
            "posthouse doctor --store says more, and --repair saves what is left",
        )
    if not count:
        return Maildrop(mailbox, [], 0)
    # Iterating over octets gives the marks as numbers: '0' to '3' become 0 to 3.
    columns = zip(
        _numbers.decode(uids),
        unique_ids.split(","),
        _numbers.decode(sizes),
        marks.encode().translate(_DIGITS),
        strict=True,
    )
    rows: list[Row] = []
    while some := list(itertools.islice(columns, _SLICE)):  # each turn is short, the event loop runs in between
        rows += some
    return Maildrop(mailbox, rows, octets)
