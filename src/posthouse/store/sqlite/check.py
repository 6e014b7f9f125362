"""The consistency check of the embedded engine: it finds and names every kind of damage, and changes nothing.

It reads in short transactions, so it may run beside a server for as long as it needs; what a server may have changed
between two of them is looked at twice before it is called damage.
"""

from __future__ import annotations

import functools
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Damage
from posthouse.ports.system import Clock
from posthouse.store.content import Files
from posthouse.store.model import CHUNK
from posthouse.store.sqlite.pool import Readers, shape_of, shape_of_form
from posthouse.store.sqlite.tally import Lost, read_tally, told_of

_SLICE: Final = 64  # contents read in one transaction: at most some 8 MiB
_YOUNG: Final = 600.0  # seconds for which a file may still wait for the COMMIT that names it
_GRACE: Final = 0.3  # seconds after which a forgotten file must be gone
_MOST: Final = 1000  # rows of one kind of damage that are told apart

Check = Callable[[sqlite3.Cursor], list[Damage]]


@dataclass(slots=True)
class _Suspect:
    """A content that does not hold what it should."""

    content: int
    letter: str
    what: str
    text: str


@dataclass(slots=True)
class _Rule:
    """A statement that must give no rows; each row is (where, address or NULL, values for the text ...)."""

    what: str
    sql: str
    text: str


_RULES: Final = (
    _Rule(
        "counters",
        """
        SELECT 'mailbox ' || mailbox.id, account.address, mailbox.messages, mailbox.octets, count(message.id),
            coalesce(sum(message.size), 0)
        FROM mailbox LEFT JOIN account ON account.id = mailbox.account
        LEFT JOIN message ON message.id BETWEEN (mailbox.id << 32) AND (mailbox.id << 32) + 4294967295
        GROUP BY mailbox.id
        HAVING mailbox.messages <> count(message.id) OR mailbox.octets <> coalesce(sum(message.size), 0)
        """,
        "The mailbox counts {} messages and {} octets but holds {} and {}: its quota is reckoned wrongly.",
    ),
    _Rule(
        "uid",
        """
        SELECT 'mailbox ' || mailbox.id, account.address, mailbox.uidnext, max(message.id) & 4294967295
        FROM mailbox LEFT JOIN account ON account.id = mailbox.account
        JOIN message ON message.id BETWEEN (mailbox.id << 32) AND (mailbox.id << 32) + 4294967295
        GROUP BY mailbox.id HAVING max(message.id) & 4294967295 >= mailbox.uidnext
        """,
        "The next UID would be {}, but UID {} was given already: new letters cannot be delivered.",
    ),
    _Rule(
        "modseq",
        """
        SELECT 'mailbox ' || mailbox.id, account.address, mailbox.highestmodseq, max(message.modseq)
        FROM mailbox LEFT JOIN account ON account.id = mailbox.account
        JOIN message ON message.id BETWEEN (mailbox.id << 32) AND (mailbox.id << 32) + 4294967295
        GROUP BY mailbox.id HAVING max(message.modseq) > mailbox.highestmodseq
        """,
        "The greatest modification sequence is said to be {}, but a message has {}: IMAP clients would miss changes.",
    ),
    _Rule(
        "unique-id",
        """
        SELECT 'message ' || (max(message.id) >> 32) || '/' || (max(message.id) & 4294967295), account.address,
            message.unique_id, count(*)
        FROM message LEFT JOIN mailbox ON mailbox.id = message.id >> 32
        LEFT JOIN account ON account.id = mailbox.account
        GROUP BY message.unique_id HAVING count(*) > 1
        """,
        "The unique-id {} belongs to {} messages: a POP3 client would collect only one of them.",
    ),
    _Rule(
        "size",
        """
        SELECT 'message ' || (message.id >> 32) || '/' || (message.id & 4294967295), account.address, message.size,
            length(message.prefix) + content.size
        FROM message JOIN content ON content.id = message.content
        LEFT JOIN mailbox ON mailbox.id = message.id >> 32 LEFT JOIN account ON account.id = mailbox.account
        WHERE message.size <> length(message.prefix) + content.size
        """,
        "The message is said to have {} octets but has {}: clients would be told a wrong size.",
    ),
    _Rule(
        "missing content",
        """
        SELECT 'message ' || (message.id >> 32) || '/' || (message.id & 4294967295), account.address, message.content
        FROM message LEFT JOIN content ON content.id = message.content
        LEFT JOIN mailbox ON mailbox.id = message.id >> 32 LEFT JOIN account ON account.id = mailbox.account
        WHERE content.id IS NULL
        """,
        "The message's content {} is gone: the message cannot be read. Restore it from a backup.",
    ),
    _Rule(
        "stray message",
        """
        SELECT 'message ' || (message.id >> 32) || '/' || (message.id & 4294967295), NULL, message.id >> 32
        FROM message LEFT JOIN mailbox ON mailbox.id = message.id >> 32 WHERE mailbox.id IS NULL
        """,
        "The message lies in mailbox {}, which does not exist: nobody can read it.",
    ),
    _Rule(
        "tombstone",
        """
        SELECT 'deleted message ' || (tombstone.id >> 32) || '/' || (tombstone.id & 4294967295), account.address,
            tombstone.id & 4294967295
        FROM tombstone LEFT JOIN mailbox ON mailbox.id = tombstone.id >> 32
        LEFT JOIN account ON account.id = mailbox.account LEFT JOIN message ON message.id = tombstone.id
        LEFT JOIN content ON content.id = tombstone.content
        WHERE mailbox.id IS NULL OR message.id IS NOT NULL OR tombstone.id & 4294967295 >= mailbox.uidnext
            OR (tombstone.content IS NOT NULL AND content.id IS NULL)
        """,
        "The deleted message with UID {} has no mailbox or no content, or its UID is another's: it cannot come back.",
    ),
    _Rule(
        "references",
        """
        SELECT 'content ' || content.id || ' (letter ' || content.letter || ')', NULL, content.refs,
            coalesce(used.times, 0)
        FROM content LEFT JOIN (
            SELECT content AS id, count(*) AS times FROM (
                SELECT content FROM message UNION ALL
                SELECT content FROM tombstone WHERE content IS NOT NULL UNION ALL SELECT content FROM queue)
            GROUP BY content) AS used ON used.id = content.id
        WHERE content.refs <> coalesce(used.times, 0) OR content.refs = 0
        """,
        "The content is said to be used {} times but is used {} times: it would be kept for ever or lost too early.",
    ),
    _Rule(
        "no inbox",
        """
        SELECT 'account ' || account.id, account.address, account.address FROM account
        LEFT JOIN mailbox ON mailbox.account = account.id AND mailbox.name = 'INBOX' WHERE mailbox.id IS NULL
        """,
        "The account {} has no INBOX: it can neither receive nor collect mail.",
    ),
    _Rule(
        "address",
        """
        SELECT 'account ' || account.id, account.address, account.address, account.local || '@' || domain.name
        FROM account JOIN domain ON domain.id = account.domain
        WHERE account.address <> account.local || '@' || domain.name
        """,
        "The account's address is {}, but its parts say {}: mail may go to somebody else.",
    ),
    _Rule(
        "state",
        """
        SELECT 'state', NULL, state.content, (SELECT max(id) FROM content), state.uidvalidity,
            (SELECT max(uidvalidity) FROM mailbox)
        FROM state WHERE state.content < (SELECT max(id) FROM content)
            OR state.uidvalidity < (SELECT max(uidvalidity) FROM mailbox)
        """,
        "The last content is said to be {} (there is {}), the last UIDVALIDITY {} (there is {}): numbers would recur.",
    ),
)


class Examination:
    """One run of the check."""

    def __init__(self, readers: Readers, files: Files, clock: Clock, *, full: bool, tally: Path | None = None) -> None:
        """`tally` is the file that counts commits outside the database, where there is one."""
        self._tally = tally
        self._readers = readers
        self._files = files
        self._clock = clock
        self._full = full

    def damages(self) -> Iterator[list[Damage]]:
        """What is wrong, in portions; to be run in a thread."""
        yield self._commits()
        yield from self.database()
        yield from self.contents()
        yield from self._orphans()

    def database(self) -> Iterator[list[Damage]]:
        """What is wrong with the database itself."""
        yield self._read("structure", self._structure)
        yield self._read("schema", schema_damages)
        yield self._read("foreign key", self._foreign_keys)
        yield self._read("state", self._one_state)
        for rule in _RULES:
            yield self._read(rule.what, functools.partial(_broken, rule))

    def _commits(self) -> list[Damage]:
        """What the database has forgotten. The tally is read first: it is never ahead of what the database has then."""
        if self._tally is None:
            return []
        try:
            counted = read_tally(self._tally)
            with self._readers.snapshot() as cursor:
                rows = cursor.execute("SELECT commits FROM state").fetchall()
        except (OSError, Unavailable):  # other checks say so
            return []
        if counted is None or not rows or rows[0][0] >= counted[0]:
            return []
        return [Damage("commits lost", "posthouse.db", told_of(Lost(counted[0] - rows[0][0], counted[1])))]

    def _read(self, what: str, check: Check) -> list[Damage]:
        try:
            with self._readers.snapshot() as cursor:
                return check(cursor)
        except Unavailable as problem:
            text = f"This could not be examined ({problem.detail}). Restore the database from a backup."
            return [Damage("unreadable", f"posthouse.db, {what}", text)]

    def _structure(self, cursor: sqlite3.Cursor) -> list[Damage]:
        pragma = "PRAGMA integrity_check(100)" if self._full else "PRAGMA quick_check(100)"
        lines = [line for (text,) in cursor.execute(pragma).fetchall() for line in text.splitlines()]
        return [
            Damage("structure", "posthouse.db", f"The database is damaged: {line}. Restore it from a backup.")
            for line in lines
            if line != "ok"
        ]

    def _foreign_keys(self, cursor: sqlite3.Cursor) -> list[Damage]:
        rows = cursor.execute("PRAGMA foreign_key_check").fetchmany(_MOST)
        return [
            Damage("foreign key", f"{table} {row}", f"The row names a {parent} that does not exist.")
            for table, row, parent, _ in rows
            if (table, parent) != ("message", "content")  # "missing content" says it with names
        ]

    def _one_state(self, cursor: sqlite3.Cursor) -> list[Damage]:
        if cursor.execute("SELECT count(*) FROM state").fetchall() == [(1,)]:
            return []
        return [Damage("state", "state", "The row with the store's counters is missing: no letter can be delivered.")]

    # Contents

    def contents(self) -> Iterator[list[Damage]]:
        """What is wrong with contents, slice by slice."""
        last = 0
        while True:
            try:
                with self._readers.snapshot() as cursor:
                    rows = cursor.execute(
                        "SELECT id, letter, size, checksum, file, data FROM content WHERE id > ? ORDER BY id LIMIT ?",
                        (last, _SLICE),
                    ).fetchall()
            except Unavailable as problem:
                text = f"Contents after {last} could not be read ({problem.detail}). Restore them from a backup."
                yield [Damage("unreadable", "posthouse.db, content", text)]
                return
            if not rows:
                return
            last = rows[-1][0]
            found = [self._suspect(*row) for row in rows]
            yield self._named([suspect for suspect in found if suspect is not None])

    def _suspect(
        self, content: int, letter: str, size: int, checksum: int, file: str | None, data: bytes | None
    ) -> _Suspect | None:
        if file is not None:
            problem = _file_problem(self._files.path(file), size, checksum if self._full else None)
        elif data is None:
            problem = ("content checksum", "has neither octets nor a file")
        elif len(data) != size:
            problem = ("content size", f"has {len(data)} octets instead of {size}")
        elif self._full and zlib.crc32(data) != checksum:
            problem = ("content checksum", "does not match its checksum")
        else:
            problem = None
        return None if problem is None else _Suspect(content, letter, *problem)

    def _named(self, suspects: list[_Suspect]) -> list[Damage]:
        """Damage with the accounts concerned; contents that were deleted meanwhile are none."""
        if not suspects:
            return []
        ids = msgspec.json.encode([suspect.content for suspect in suspects]).decode()
        try:
            with self._readers.snapshot() as cursor:
                there = {
                    row[0]
                    for row in cursor.execute(
                        "SELECT id FROM content WHERE id IN (SELECT value FROM json_each(?))", (ids,)
                    ).fetchall()
                }
                owners = cursor.execute(
                    "SELECT DISTINCT copy.content, account.address FROM"
                    " (SELECT id, content FROM message UNION ALL SELECT id, content FROM tombstone) AS copy"
                    " JOIN mailbox ON mailbox.id = copy.id >> 32 JOIN account ON account.id = mailbox.account"
                    " WHERE copy.content IN (SELECT value FROM json_each(?)) ORDER BY account.address",
                    (ids,),
                ).fetchall()
        except Unavailable:  # then nobody can say whose; the damage itself is certain
            there, owners = {suspect.content for suspect in suspects}, []
        return [
            Damage(
                suspect.what,
                f"content {suspect.content} (letter {suspect.letter})",
                f"The letter {suspect.letter} {suspect.text}: it cannot be read. Restore it from a backup.",
                [address for content, address in owners if content == suspect.content],
            )
            for suspect in suspects
            if suspect.content in there
        ]

    # Files

    def _orphans(self) -> Iterator[list[Damage]]:
        strays: list[tuple[str, str]] = []
        for folder, names in self._files.names():
            old = [name for name in names if self._is_old(self._files.path(name))]
            yield self._read("orphan file", functools.partial(_note_orphans, folder, old, strays))
        if strays:
            time.sleep(_GRACE)  # in a thread of the pool: a file is unlinked just after the COMMIT that forgot it
            yield from self._still_strays(strays)
        yield [
            Damage(
                "orphan file",
                f"content/{folder}/{name}",
                "No letter names this file: it only takes room. A server that starts after a crash removes such files.",
            )
            for folder, name in strays
            if self._files.path(name).exists()
        ]

    def _still_strays(self, strays: list[tuple[str, str]]) -> Iterator[list[Damage]]:
        """Takes out the files that the COMMIT they waited for has named meanwhile."""
        before, strays[:] = list(strays), []
        for folder in sorted({folder for folder, _ in before}):
            names = [name for place, name in before if place == folder]
            yield self._read("orphan file", functools.partial(_note_orphans, folder, names, strays))

    def _is_old(self, path: Path) -> bool:
        """Whether a file is too old to be waiting for the COMMIT that names it."""
        try:
            return path.stat().st_mtime < self._clock.now() - _YOUNG
        except OSError:  # unlinked meanwhile
            return False


def schema_damages(cursor: sqlite3.Cursor) -> list[Damage]:
    """What the database lacks of its form, or has beside it."""
    form, version = shape_of(cursor), cursor.execute("PRAGMA user_version").fetchall()[0][0]
    wanted = shape_of_form(version)
    return [
        Damage("schema", f"posthouse.db, {kind} {name}", _SHAPES[have, want].format(kind=kind, name=name))
        for kind, name in sorted(form.keys() | wanted.keys())
        for have, want in [((kind, name) in form, (kind, name) in wanted)]
        if form.get((kind, name)) != wanted.get((kind, name))
    ]


_SHAPES: Final = {
    (False, True): "The {kind} {name} is missing: what needs it is slow, refused or not checked any more.",
    (True, False): "The {kind} {name} is none of Posthouse's: somebody else has changed the database.",
    (True, True): "The {kind} {name} is not made as it should be: somebody else has changed the database.",
}


def _broken(rule: _Rule, cursor: sqlite3.Cursor) -> list[Damage]:
    rows = cursor.execute(rule.sql).fetchmany(_MOST)
    return [
        Damage(rule.what, where, rule.text.format(*values), [] if address is None else [address])
        for where, address, *values in rows
    ]


def _file_problem(path: Path, size: int, checksum: int | None) -> tuple[str, str] | None:
    """What is wrong with a content file; `checksum` None looks at its size only."""
    try:
        found = path.stat().st_size
        if found != size:
            return "file size", f"has a file of {found} octets instead of {size}"
        if checksum is None:
            return None
        running = 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                running = zlib.crc32(chunk, running)
    except FileNotFoundError:
        return "missing file", f"has lost its file {path.parent.name}/{path.name}"
    except OSError as problem:
        return "unreadable file", f"has a file that cannot be read ({problem.strerror})"
    return None if running == checksum else ("file checksum", "has a file that does not match its checksum")


def _note_orphans(
    folder: str, names: Sequence[str], strays: list[tuple[str, str]], cursor: sqlite3.Cursor
) -> list[Damage]:
    rows = cursor.execute("SELECT file FROM content WHERE file >= ? AND file < ?", (folder, folder + "~")).fetchall()
    named = {name for (name,) in rows}
    strays += [(folder, name) for name in sorted(names) if name not in named]
    return []
