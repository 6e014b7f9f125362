"""The database at one moment: copied while a server writes to it, and made fit for a new life after a restore."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.store.model import StoreError
from posthouse.store.sqlite.pool import APPLICATION_ID, PAGE, connect

STEP: Final = 1024  # pages copied at once, 4 MiB
LATER: Final = 1_000_000  # numbers passed over where it is not known which were given out since
PATIENCE: Final = 10.0  # seconds that a server's transaction is waited for
LONG: Final = 60.0  # seconds that a gap between two of them is looked for
OFTEN: Final = 0.001  # seconds between two looks

_STATE: Final = "SELECT commits, content, uidvalidity, created FROM state"
_BOXES: Final = "SELECT total(messages), total(octets), total(uidnext), total(highestmodseq), count(*) FROM mailbox"
_LAST: Final = "SELECT letter FROM content ORDER BY id DESC LIMIT 1"
_FILES: Final = "SELECT file FROM content WHERE file IS NOT NULL ORDER BY file"
_NEW_FILES: Final = "SELECT file FROM content WHERE id > ? AND file IS NOT NULL"


@dataclass(slots=True, frozen=True)
class Facts:
    """What a database holds. Two with one fingerprint hold the same."""

    schema: int
    content: int  # the last content id
    letters: int
    accounts: int
    queued: int
    octets: int  # of its file
    fingerprint: str


@dataclass(slots=True, frozen=True)
class Numbers:
    """What a store gave last; nothing where nobody knows."""

    commits: int = 0
    uidvalidity: int = 0
    content: int = 0


@dataclass(slots=True, frozen=True)
class Held:
    """What a restore did to a database."""

    letters: int
    accounts: int
    queued: int  # that are held now


class Live:
    """The database of a data directory that others may be writing to. Opening it changes nothing."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError."""
        if not path.exists():
            raise StoreError(f"There is no mail in {path.parent}: no posthouse.db lies there.")
        try:
            self._reader = connect(path, timeout=PATIENCE)
            self._gate = connect(path, timeout=0, write=True)
            # Asked at once: what SQLite opens with the first look is opened with the rights we have now.
            for connection in (self._gate, self._reader):
                known = connection.execute("PRAGMA application_id").fetchall() == [(APPLICATION_ID,)]
                if not known or connection.execute("PRAGMA journal_mode").fetchall() != [("wal",)]:
                    raise StoreError(f"{path} is no database of Posthouse's, or one that no server has opened yet.")
                connection.execute(_STATE).fetchall()
        except sqlite3.Error as problem:
            raise unreadable(path, problem) from problem

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Begins to look at the database as it is now; within the block nobody can commit. Raises sqlite3.Error."""
        self._hold()
        try:
            self.look()
            yield
        finally:
            self._gate.execute("ROLLBACK")

    def _hold(self) -> None:
        """A busy server begins its next transaction at once: SQLite itself, which looks ten times a second, might never
        find the gap between them."""
        end = time.monotonic() + LONG
        while True:
            try:
                self._gate.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as problem:
                if (problem.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(OFTEN)
            else:
                return

    def look(self) -> None:
        """Begins to look at the database as it is now."""
        self._reader.execute("BEGIN")
        self._reader.execute(_STATE).fetchall()  # the transaction begins with the first statement that reads

    def forget(self) -> None:
        """Ends the look; without it the server's WAL could not be written back as a whole."""
        if self._reader.in_transaction:
            self._reader.execute("ROLLBACK")

    def facts(self) -> Facts:
        """What it holds."""
        return facts(self._reader)

    def files(self) -> Iterator[str]:
        """The content files that are named, in order."""
        for (name,) in self._reader.execute(_FILES):
            yield name

    def files_since(self, content: int) -> list[str]:
        """Those of contents that came later."""
        return [name for (name,) in self._reader.execute(_NEW_FILES, (content,))]

    def copy(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """Copies what is looked at, in steps, while others write on."""

        def told(_: int, remaining: int, total: int) -> None:
            progress((total - remaining) * PAGE, total * PAGE)

        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous=OFF")
            self._reader.backup(copy, pages=STEP, progress=told)

    def close(self) -> None:
        """Lets go of the database."""
        self._reader.close()
        self._gate.close()


def facts(connection: sqlite3.Connection) -> Facts:
    """What a database holds."""
    ((schema,),) = connection.execute("PRAGMA user_version").fetchall()
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    state = connection.execute(_STATE).fetchall()
    boxes = connection.execute(_BOXES).fetchall()
    last = connection.execute(_LAST).fetchall()
    ((accounts,),) = connection.execute("SELECT count(*) FROM account").fetchall()
    ((queued,),) = connection.execute("SELECT count(*) FROM queue").fetchall()
    content = state[0][1] if state else 0
    fingerprint = hashlib.sha256(repr((schema, state, boxes, last, accounts, queued)).encode()).hexdigest()
    return Facts(schema, content, int(boxes[0][0]), accounts, queued, pages * PAGE, fingerprint)


def files_of(path: Path) -> Iterator[str]:
    """The content files that a copied database names, in order."""
    with contextlib.closing(connect(path)) as connection:
        for (name,) in connection.execute(_FILES):
            yield name


def copy_small(path: Path, target: Path) -> bool:
    """Copies a small database beside the mail; False when it cannot be read."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            copy.execute("PRAGMA synchronous=OFF")
            source.backup(copy)
    except sqlite3.Error:
        target.unlink(missing_ok=True)
        return False
    return True


def begin_anew(path: Path, last: Numbers, now: float) -> Held:
    """Makes a restored database fit to be served in the place of another one, which gave `last`.

    Every mailbox gets a new UIDVALIDITY (RFC 9051 §2.3.1.1), greater than any that was given, so that no client takes
    a letter for another one that had its UID after the backup; ids that may have been given out since are passed over.
    What waits in the queue is held: it may have left since.
    """
    with contextlib.closing(connect(path, write=True)) as connection:
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        ((valid, boxes),) = cursor.execute(
            "SELECT max(uidvalidity, ?, ?), (SELECT count(*) FROM mailbox) FROM state", (last.uidvalidity, int(now))
        ).fetchall()
        valid = min(valid, 4_294_967_295 - boxes)
        cursor.execute(
            "UPDATE mailbox SET uidvalidity = ? + (SELECT count(*) FROM mailbox AS other WHERE other.id <= mailbox.id)",
            (valid,),
        )
        cursor.execute(
            "UPDATE state SET commits = max(commits, ?) + 1, content = max(content, ?) + ?, uidvalidity = ?",
            (last.commits, last.content, LATER, valid + boxes),
        )
        cursor.execute("UPDATE sqlite_sequence SET seq = seq + 1000")
        cursor.execute("UPDATE queue SET state = 'held', leased = NULL")
        queued = cursor.rowcount
        cursor.execute("COMMIT")
        known = facts(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return Held(known.letters, known.accounts, queued)


def last_numbers(before: Path) -> Numbers:
    """What a database gave last, as far as that can be read."""
    if not before.exists():
        return Numbers()
    try:
        with contextlib.closing(connect(before, timeout=1)) as connection:
            ((commits, content, valid, _),) = connection.execute(_STATE).fetchall()
            return Numbers(commits, valid, content)
    except (sqlite3.Error, ValueError):
        return Numbers()


def unreadable(path: Path, problem: sqlite3.Error) -> StoreError:
    """What a failed call means for whoever wanted a backup."""
    return StoreError(
        f"The database {path} cannot be read: {problem}. Older backups are unchanged. posthouse doctor --store tells "
        "what is damaged."
    )
