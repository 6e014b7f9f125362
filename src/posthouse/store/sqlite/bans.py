"""Bans, known logins and what accounts have sent: a small database of its own beside the mail (docs/adr/0070).

It is written without waiting for the disk, so a power cut may cost its last seconds and a damaged one is simply begun
anew: no mail hangs on it. Whoever changes bans changes a mark too, which every process looks at for each connection
(mark.py).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from posthouse.net.files import adopt
from posthouse.ports.bans import Ban, Changes, Known, SentRow
from posthouse.store.model import StoreError
from posthouse.store.sqlite.mark import Mark
from posthouse.store.sqlite.pool import unavailable

NAME: Final = "bans.db"
MARKER: Final = "bans.changes"
FORM: Final = 1
TIMEOUT: Final = 5.0  # seconds to wait for another process that is writing
SENT_KEPT: Final = 90 * 86_400.0  # seconds that it is known to whom an account wrote, after its last letter

_SCHEMA: Final = """
CREATE TABLE ban (
    place TEXT NOT NULL, account TEXT NOT NULL, since REAL NOT NULL, until REAL, reason TEXT NOT NULL,
    made_by TEXT NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (place, account)
) STRICT, WITHOUT ROWID;
CREATE TABLE known (
    account TEXT NOT NULL, network TEXT NOT NULL, seen REAL NOT NULL, PRIMARY KEY (account, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX known_seen ON known (seen);
CREATE TABLE sent (
    account TEXT PRIMARY KEY, hour REAL NOT NULL, day REAL NOT NULL, letters_hour INTEGER NOT NULL,
    letters_day INTEGER NOT NULL, recipients_hour INTEGER NOT NULL, recipients_day INTEGER NOT NULL,
    new_day INTEGER NOT NULL, written_to BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""
_SENT: Final = "account, hour, day, letters_hour, letters_day, recipients_hour, recipients_day, new_day, written_to"


class BanFile:
    """The database of bans of one data directory (`ports.BanStore`)."""

    __slots__ = ("_connection", "_guard", "_mark", "_path", "_reader", "_seen", "renewed")

    def __init__(self, directory: Path) -> None:
        """Opens it, made when it is not there. Raises StoreError when that cannot be."""
        self._path = directory / NAME
        self._guard = threading.Lock()  # `merge` runs in a thread, with the one connection that writes
        self._seen = b""
        self.renewed = ""  # why the old one could not be read, when it could not
        try:
            self._connection = self._open(directory)
            self._reader = sqlite3.connect(self._path, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
            self._mark = Mark(directory / MARKER)
        except (OSError, sqlite3.Error) as problem:
            raise StoreError(
                f"The list of bans {self._path} cannot be used: {problem}. Make it belong to the user who runs "
                "Posthouse, or remove it: it is begun anew then, and no mail hangs on it."
            ) from problem

    def _open(self, directory: Path) -> sqlite3.Connection:
        _create(self._path, directory)
        try:
            return self._prepared()
        except sqlite3.DatabaseError as problem:
            if isinstance(problem, sqlite3.OperationalError):
                raise
            self.renewed = str(problem)
        for name in (NAME, f"{NAME}-wal", f"{NAME}-shm"):
            (directory / name).unlink(missing_ok=True)
        _create(self._path, directory)
        return self._prepared()

    def _prepared(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            # NORMAL in WAL mode: no COMMIT waits for the disk, and a power cut still leaves a sound file.
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "trusted_schema=OFF", "secure_delete=FAST"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute("BEGIN IMMEDIATE")
            form = connection.execute("PRAGMA user_version").fetchone()[0]
            if form not in (0, FORM):
                raise sqlite3.DatabaseError(f"its form is {form}, this program knows {FORM}")
            if form == 0:
                for statement in _SCHEMA.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={FORM}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def changed(self) -> bool:
        """Whether another process changed the bans; costs no system call."""
        return self._mark.read() != self._seen

    def bans(self) -> Sequence[Ban]:
        """All bans, also those that have ended and still count. Raises Unavailable."""
        self._seen = self._mark.read()  # before the look, so that a change after it is noticed
        rows = self._rows("SELECT place, account, since, until, reason, made_by, times FROM ban")
        return [Ban(*row) for row in rows]

    def known(self) -> Sequence[Known]:
        """All known logins, the oldest first. Raises Unavailable."""
        return [Known(*row) for row in self._rows("SELECT account, network, seen FROM known ORDER BY seen")]

    def sent(self, account: str) -> SentRow | None:
        """What an account has sent. Raises Unavailable."""
        rows = self._rows(f"SELECT {_SENT} FROM sent WHERE account = ?", account)  # noqa: S608 - names of columns
        return SentRow(*rows[0]) if rows else None

    def _rows(self, sql: str, *parameters: str) -> list[Any]:
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    def merge(self, changes: Changes, *, seen_before: float, ended_before: float) -> None:
        """Writes changes down in one transaction. Raises Unavailable."""
        try:
            with self._guard:
                self._merge(self._connection, changes, seen_before, ended_before)
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    def _merge(self, connection: sqlite3.Connection, changes: Changes, seen_before: float, ended_before: float) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany("DELETE FROM ban WHERE place = ? AND account = ?", changes.lifted)
            bans = [(b.place, b.account, b.since, b.until, b.reason, b.by, b.times) for b in changes.bans]
            connection.executemany("REPLACE INTO ban VALUES (?, ?, ?, ?, ?, ?, ?)", bans)
            known = [(k.account, k.network, k.seen) for k in changes.known]
            connection.executemany("REPLACE INTO known VALUES (?, ?, ?)", known)
            connection.execute("DELETE FROM known WHERE seen < ?", (seen_before,))
            connection.execute("DELETE FROM ban WHERE until < ?", (ended_before,))
            sent = [tuple(getattr(row, name) for name in _SENT.split(", ")) for row in changes.sent]
            connection.executemany("REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", sent)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def tidy(self, now: float) -> None:
        """Forgets accounts that have sent nothing for a long time (once at a start). Raises Unavailable."""
        try:
            with self._guard:
                self._connection.execute("DELETE FROM sent WHERE day < ?", (now - SENT_KEPT,))
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    def announce(self) -> None:
        """Tells every process that the bans were changed just now."""
        self._mark.change()

    def close(self) -> None:
        """Lets go of everything."""
        self._reader.close()
        with self._guard:
            self._connection.close()
        self._mark.close()


def _create(path: Path, directory: Path) -> None:
    """Makes a file when it is not there: private, and the directory owner's, also when root makes it."""
    if path.exists():
        return
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    adopt(path, directory)
