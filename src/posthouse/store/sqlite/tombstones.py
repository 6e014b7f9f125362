"""Deleted messages: kept for a while, brought back or gone for good.

A deletion moves rows from `message` to `tombstone` in its one transaction; the contents stay where they are, still
counted in `content.refs`. Quotas do not count them. The writer ends them between its batches, the oldest first, a
bounded slice at a time: when their time is over, or when the disk has no room for new letters.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from posthouse.mail.charsets import harmless_line
from posthouse.mail.encoded import decode_field
from posthouse.mail.header import Header
from posthouse.ports.store import Buried, Conflict, Missing
from posthouse.ports.system import Clock
from posthouse.store.content import Files
from posthouse.store.datadir import DataDirectory
from posthouse.store.model import UniqueIds, decode_envelope
from posthouse.store.sqlite.jobs import LAST_UID, Batch, forget, ids_of
from posthouse.store.sqlite.pool import PAGE

LOOK: Final = 30.0  # seconds between two looks whether something is to end
BREATH: Final = 0.05  # seconds between two slices, so that letters come first
SLICE: Final = 256  # tombstones of one transaction: a few milliseconds
SLICE_OCTETS: Final = 2_097_152  # that they have at most, but for the last one: what is freed is written over
AGAIN: Final = 0.2  # seconds between two looks that refused letters ask for
AFTER_FAULT: Final = 1.0  # seconds after which a slice that failed is tried again
TOGETHER: Final = 500  # brought back in one transaction: a server beside us waits for it

HEAD: Final = 16_384  # octets of a content in which its subject is looked for

_LIST: Final = """
    SELECT tombstone.id & 4294967295, content.letter, tombstone.size, tombstone.received, tombstone.expunged,
        tombstone.recipient, content.envelope, content.file, substr(content.data, 1, :head)
    FROM tombstone JOIN content ON content.id = tombstone.content
    WHERE tombstone.id BETWEEN (:mailbox << 32) AND (:mailbox << 32) + 4294967295 AND expunged >= :since
    ORDER BY tombstone.id
"""


def buried(mailbox: int, since: float, files: Files, cursor: sqlite3.Cursor) -> Iterator[Buried]:
    """The tombstones of a mailbox since then that can come back, in the order of their UIDs."""
    parameters = {"mailbox": mailbox, "since": since, "head": HEAD}
    for uid, letter, size, received, expunged, recipient, envelope, file, head in cursor.execute(_LIST, parameters):
        sender = decode_envelope(envelope).sender
        octets = head if file is None else _head(files, file)
        subject = harmless_line(decode_field(Header(octets).get("Subject") or b""))
        name = "" if sender is None else str(sender)
        yield Buried(uid, letter, size, received, expunged, recipient, name, subject)


def _head(files: Files, name: str) -> bytes:
    try:
        with files.path(name).open("rb") as file:
            return file.read(HEAD)
    except OSError:  # the check names what is damaged
        return b""


def bring_back(
    address: str, uids: Sequence[int], unique_ids: UniqueIds, now: float, cursor: sqlite3.Cursor, batch: Batch
) -> dict[int, int]:
    """Makes these tombstones messages of the mailbox again, at its end; returns their new UIDs by the old. Those that
    ended meanwhile are left out. Raises Missing, Conflict when they do not fit into the quota."""
    found = cursor.execute(
        "SELECT mailbox.id, uidnext, highestmodseq, quota, (SELECT sum(octets) FROM mailbox WHERE account = account.id)"
        " FROM account JOIN mailbox ON mailbox.account = account.id AND mailbox.name = 'INBOX' WHERE address = ?",
        (address,),
    ).fetchall()
    if not found:
        raise Missing(f"there is no account {address}")
    mailbox, uid, modseq, quota, used = found[0]
    ids = msgspec.json.encode(ids_of(mailbox, uids)).decode()
    rows = cursor.execute(
        "SELECT id, size FROM tombstone WHERE id IN (SELECT value FROM json_each(?)) AND content IS NOT NULL"
        " ORDER BY id",
        (ids,),
    ).fetchall()
    octets = sum(size for _, size in rows)
    if quota and used + octets > quota:
        raise Conflict(f"{octets} octets do not fit into the quota: {used} of {quota} are used")
    if uid + len(rows) - 1 > LAST_UID:
        raise Conflict(f"the mailbox of {address} has no UIDs left")
    for number, (id, _) in enumerate(rows):
        # A UID is never given twice (RFC 9051 §2.3.1.1); with its old unique-id a POP3 client that once collected the
        # letter would not look at it again (RFC 1939 §7).
        cursor.execute(
            "INSERT INTO message (id, unique_id, content, size, flags, retrieved, eight_bit, modseq, received, saved,"
            " keywords, recipient, notify, orcpt, prefix) SELECT ?, ?, content, size, flags & ~8, 0, eight_bit, ?,"
            " received, ?, keywords, recipient, notify, orcpt, prefix FROM tombstone WHERE id = ?",
            ((mailbox << 32) + uid + number, unique_ids.next(), modseq + number + 1, now, id),
        )
    if rows:
        cursor.execute("DELETE FROM tombstone WHERE id IN (SELECT value FROM json_each(?))", (ids,))
        cursor.execute(
            "UPDATE mailbox SET uidnext = uidnext + :count, highestmodseq = highestmodseq + :count,"
            " messages = messages + :count, octets = octets + :octets WHERE id = :mailbox",
            {"count": len(rows), "octets": octets, "mailbox": mailbox},
        )
        batch.changed = True
        batch.pages += 4 * len(rows)
    return {id & LAST_UID: uid + number for number, (id, _) in enumerate(rows)}


class Graveyard:
    """Decides, on the writer's thread, when tombstones end. `keep` is how many seconds they stay.

    Time passes here only as it does on a clock that never jumps: a wall clock set forward while the server runs ends
    nothing early.
    """

    def __init__(self, directory: DataDirectory, clock: Clock, keep: float) -> None:
        self._directory = directory
        self._clock = clock
        self._keep = keep
        self._wall, self._began = clock.now(), clock.monotonic()
        self._next = self._began
        self._looked = float("-inf")

    def due(self) -> bool:
        """Whether it is time for a slice or a look."""
        return self._clock.monotonic() >= self._next

    def wait(self) -> float:
        """Seconds until then."""
        return max(0.0, self._next - self._clock.monotonic())

    def soon(self) -> None:
        """The disk is full: the next look comes at once, unless there was one just now (any thread)."""
        self._next = min(self._next, max(self._clock.monotonic(), self._looked + AGAIN))

    def end(self, cursor: sqlite3.Cursor, batch: Batch) -> None:
        """One slice of what is to end, in the transaction at hand; then says when the next may come."""
        self._looked = self._clock.monotonic()
        self._next = self._looked + AFTER_FAULT  # if this fails
        freed = self._forget("expunged <= ?", (self.until(),), SLICE_OCTETS, cursor, batch)
        if not freed and (lack := self._lack(cursor)) > 0:
            freed = self._forget("id > 0", (), min(lack, SLICE_OCTETS), cursor, batch)
        self._next = self._clock.monotonic() + (BREATH if freed else LOOK)

    def until(self) -> float:
        """What was deleted up to this moment is over."""
        elapsed = self._wall + self._clock.monotonic() - self._began
        return min(self._clock.now(), elapsed) - self._keep

    def _forget(
        self, which: str, parameters: tuple[object, ...], octets: int, cursor: sqlite3.Cursor, batch: Batch
    ) -> int:
        """Ends the oldest of these, until so many octets are reached; returns how many octets it were."""
        oldest = f"{which} ORDER BY expunged LIMIT ?"
        rows = cursor.execute(f"SELECT size FROM tombstone WHERE {oldest}", (*parameters, SLICE)).fetchall()  # noqa: S608 (fixed texts)
        count, sum_ = 0, 0
        while count < len(rows) and sum_ < octets:
            sum_ += rows[count][0]
            count += 1
        return forget(oldest, (*parameters, count), cursor, batch) if count else 0

    def _lack(self, cursor: sqlite3.Cursor) -> int:
        """Octets that are missing on the disk for the next letter, pages that the database can give back counted in."""
        lack = self._directory.lack()
        return lack - cursor.execute("PRAGMA freelist_count").fetchall()[0][0] * PAGE if lack > 0 else 0
