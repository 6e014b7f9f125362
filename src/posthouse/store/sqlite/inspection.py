"""What a server looks at by itself, in slices that delay nobody: the registers at every start, and after an unclean
stop the rows of all mailboxes and the index of the files; contents are the scrub's.

Each slice is a read transaction of milliseconds. What they leave to `doctor --store` are the pages that no row lies in
and the sums over the whole store.
"""

from __future__ import annotations

import functools
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Damage
from posthouse.store.sqlite.check import schema_damages
from posthouse.store.sqlite.pool import Readers, is_damage

SLICE: Final = 512  # rows of one transaction
LONG: Final = 0.02  # seconds after which it ends with the mailbox at hand
LARGE: Final = 200_000  # rows of a register that is not looked at as a whole while a server starts

LOOKED_UP: Final = ("domain", "account", "mailbox", "alias")
"""Registers that say whether somebody exists; in a damaged one what is not found may be there."""

_OTHERS: Final = ("state", "secret", "sender", "credential", "network", "route", "alias_target")
_LATER: Final = ("queue", "tombstone")


class Inspection:
    """One run over a database."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    def within(self, seconds: float, *, rows: bool) -> list[Damage]:
        """What is found in this time, which ends between two slices; `rows`: beyond the registers."""
        end = time.monotonic() + seconds
        found: list[Damage] = []
        for portion in itertools.chain(self.registers(), self.rows() if rows else ()):
            found += portion
            if time.monotonic() > end:
                break
        return found

    def registers(self) -> Iterator[list[Damage]]:
        """The schema and the small tables, each with its indexes."""
        yield self._look("schema", schema_damages)
        for table in (*LOOKED_UP, *_OTHERS):
            yield self._look(table, functools.partial(_table, table, LARGE))

    def rows(self) -> Iterator[list[Damage]]:
        """Every mailbox with its rows, the queue, and the index of the files in both directions."""
        for table in (*LOOKED_UP, *_LATER):
            yield self._look(table, functools.partial(_table, table, None))
        for work in (_mailboxes, _index_of_files, _files):
            last: object = 0 if work is not _index_of_files else ""
            while last is not None:
                step = _Step(last)
                found = self._look(work.__name__.strip("_").replace("_", " "), functools.partial(work, step))
                yield found
                last = step.following  # none when the slice could not be read

    def _look(self, what: str, work: Callable[[sqlite3.Cursor], list[Damage]]) -> list[Damage]:
        try:
            with self._readers.snapshot() as cursor:
                return work(cursor)
        except Unavailable as problem:
            return [Damage("unreadable", f"posthouse.db, {what}", f"This could not be read ({problem.detail}).")]


class _Step:
    """Where a slice begins and where the next one does, None at the end."""

    __slots__ = ("following", "last")

    def __init__(self, last: object) -> None:
        self.last = last
        self.following: object = None


def _table(table: str, most: int | None, cursor: sqlite3.Cursor) -> list[Damage]:
    """A table with its indexes, each row against each entry."""
    if most is not None and cursor.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] > most:  # noqa: S608
        return []
    lines = [line for (text,) in cursor.execute(f"PRAGMA integrity_check({table})") for line in text.splitlines()]
    return [Damage("structure", f"posthouse.db, {table}", line) for line in lines if line != "ok"]


def _mailboxes(step: _Step, cursor: sqlite3.Cursor) -> list[Damage]:
    """As many mailboxes as some milliseconds allow: their rows, to the last column, against what they count."""
    end = time.monotonic() + LONG
    found: list[Damage] = []
    for mailbox, messages, octets, address in cursor.execute(
        "SELECT id, messages, octets, (SELECT address FROM account WHERE id = mailbox.account) FROM mailbox"
        " WHERE id > ? ORDER BY id LIMIT ?",
        (step.last, SLICE),
    ).fetchall():
        step.following = mailbox
        whose = [address] if address else []
        try:
            ((count, size, _),) = cursor.execute(
                "SELECT count(*), ifnull(sum(size), 0), sum(length(prefix)) FROM message WHERE id BETWEEN ? AND ?",
                (mailbox << 32, (mailbox + 1 << 32) - 1),
            ).fetchall()
        except sqlite3.DatabaseError as problem:
            if not is_damage(problem):
                raise
            found.append(Damage("unreadable", f"mailbox {mailbox}", "Its letters cannot all be read.", whose))
            continue
        if (messages, octets) != (count, size):
            text = f"It counts {messages} letters and {octets} octets; {count} and {size} are there."
            found.append(Damage("counters", f"mailbox {mailbox}", text, whose))
        if time.monotonic() > end:
            break
    return found


def _index_of_files(step: _Step, cursor: sqlite3.Cursor) -> list[Damage]:
    """What the index says, against the table."""
    rows = cursor.execute(
        "SELECT file, id FROM content INDEXED BY content_file WHERE file > ? ORDER BY file LIMIT ?", (step.last, SLICE)
    ).fetchall()
    return _compare(step, rows, 0, "SELECT count(*) FROM content NOT INDEXED WHERE id = ? AND file = ?", cursor)


def _files(step: _Step, cursor: sqlite3.Cursor) -> list[Damage]:
    """What the table says, against the index."""
    rows = cursor.execute(
        "SELECT file, id FROM content NOT INDEXED WHERE id > ? AND file IS NOT NULL ORDER BY id LIMIT ?",
        (step.last, SLICE),
    ).fetchall()
    return _compare(
        step, rows, 1, "SELECT count(*) FROM content INDEXED BY content_file WHERE id = ? AND file = ?", cursor
    )


def _compare(step: _Step, rows: Sequence[tuple[str, int]], key: int, sql: str, cursor: sqlite3.Cursor) -> list[Damage]:
    if rows:
        step.following = rows[-1][key]
    wrong = [content for file, content in rows if cursor.execute(sql, (content, file)).fetchall() != [(1,)]]
    text = "The table and its index content_file do not agree."
    return [Damage("structure", f"posthouse.db, content {content}", text) for content in wrong]
