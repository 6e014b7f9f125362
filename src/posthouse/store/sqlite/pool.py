"""Connections to the database: how one is opened, and the readers' share of them."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from posthouse.mail.reply import Fault, Unavailable
from posthouse.store.model import StoreError, StoreTooNew
from posthouse.store.repairing import REPAIR, had_mail
from posthouse.store.sqlite.upgrade import FOLDER, keep_copy, remove_old_copies

APPLICATION_ID: Final = 0x50487365  # "PHse"
OLDEST_SQLITE: Final = (3, 38, 0)  # STRICT tables 3.37, UPDATE FROM 3.33, json_each built in 3.38

PAGE: Final = 4096  # docs/adr/0010
CHECKPOINT_OCTETS: Final = 16_777_216  # the WAL's size that is written back between two batches, docs/adr/0010

ADVICE: Final = f"Bring it back from a backup, or let {REPAIR} save what can be read."

Values = Sequence[object] | Mapping[str, object]
"""The parameters of a statement: by their place, or by the names that it has for them."""

Connect = Callable[[Path], sqlite3.Connection]

_NOT_DAMAGED: Final = frozenset(
    (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
    )
)
_CORRUPT: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))


def connect(
    path: Path, *, timeout: float = 10.0, write: bool = False, cache: int = 8_192, mode: str = "rw"
) -> sqlite3.Connection:
    """Opens an existing database; `cache` is its page cache in KiB. A reader cannot write; with the mode "ro" the last
    one to go does not write the WAL back either."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,  # each connection serves one thread at a time; `Readers` and `Writer` see to it
        cached_statements=256,
    )
    pragmas = ["synchronous=FULL", "wal_autocheckpoint=0", f"cache_size=-{cache}", "temp_store=MEMORY"]
    pragmas += ["trusted_schema=OFF", "cell_size_check=ON", f"journal_size_limit={2 * CHECKPOINT_OCTETS}"]
    pragmas += ["secure_delete=FAST"] if write else ["query_only=ON"]
    if sys.platform == "darwin":  # fsync alone does not reach the disk there
        pragmas += ["fullfsync=ON", "checkpoint_fullfsync=ON"]
    try:
        with legible():
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def legible() -> Iterator[None]:
    """Python cannot read what SQLite says about a schema whose octets are no text: that is damage like any other."""
    try:
        yield
    except UnicodeDecodeError as problem:
        damage = sqlite3.DatabaseError("the schema is damaged")
        damage.sqlite_errorcode, damage.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
        raise damage from problem


def create(path: Path, now: float, *, to: int | None = None) -> sqlite3.Connection:
    """Opens a draft of a database that nobody else sees, made when it is not there, and brings it to a form. It is not
    durable before the file is synced."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in (f"page_size={PAGE}", "auto_vacuum=INCREMENTAL", "journal_mode=MEMORY", "synchronous=OFF"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        migrate(connection, connection.execute("PRAGMA user_version").fetchone()[0], now, to=to)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path, timeout: float, now: float, *, serve: bool) -> None:
    """Creates the database or brings it to the newest form. Raises StoreError, StoreTooNew.

    Only the one serving process changes the form of a store: a command might do it under a server that runs.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(
            f"This Python has SQLite {sqlite3.sqlite_version}; Posthouse needs 3.38 or newer to keep mail safely. "
            "Install a newer Python."
        )
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as connection, legible():
            _prepare(connection, path, now, serve)
    except sqlite3.Error as problem:
        raise cannot_be_opened(path, problem) from problem


def cannot_be_opened(path: Path, problem: sqlite3.Error) -> StoreError:
    """What to tell people about it."""
    code = getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    advice = "See whether the disk is full, or the file not yours." if code in _NOT_DAMAGED else ADVICE
    return StoreError(
        f"The database {path} cannot be opened: {problem}. Mail in it is neither lost nor changed by this. {advice}"
    )


def _prepare(connection: sqlite3.Connection, path: Path, now: float, serve: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        if had_mail(path.parent):
            raise StoreError(f"The database {path} is empty, and there was mail in it. {ADVICE}")
        connection.execute(f"PRAGMA page_size={PAGE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    else:
        require_ours(connection, path, serve=serve)
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA synchronous=FULL")
    if serve:
        remove_old_copies(path, now)
    if 0 < version < newest_form():
        keep_copy(connection, path, version, now)
    migrate(connection, version, now)


def require_ours(connection: sqlite3.Connection, path: Path, *, serve: bool) -> None:
    """Looks whether a database is one that this program may use. Raises StoreError, StoreTooNew, sqlite3.Error."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(
            f"{path} is a database, but not one of Posthouse's. Choose another data directory with --data; "
            f"if there was mail in this one, its first page is damaged, and {REPAIR} saves what is left."
        )
    migrations = _migrations()
    if version > len(migrations):
        raise StoreTooNew(
            f"{path} was written by a newer Posthouse (its form is {version}, this program knows {len(migrations)}). "
            "Nothing was changed. Install the newer version again, or go back to the copy of the database that was "
            f"kept in {path.parent / FOLDER}, without the mail that came since."
        )
    if 0 < version < len(migrations) and not serve:
        raise StoreError(
            f"{path} was written by an older Posthouse. A command does not change its form: an older server may "
            "be at work on it. Restart the server with the new version: it brings the store to its new form."
        )


def migrate(connection: sqlite3.Connection, version: int, now: float, *, to: int | None = None) -> None:
    """Brings a database of this form to another, the newest one; 0 is an empty one."""
    for number, script in enumerate(_migrations()[version:to], version + 1):
        _migrate(connection, number, script, now)


def shape_of(cursor: sqlite3.Cursor | sqlite3.Connection) -> dict[tuple[str, str], str]:
    """The tables and indexes of a database, and how each was made. Raises sqlite3.Error."""
    rows = cursor.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    return {(kind, name): sql for kind, name, sql in rows.fetchall()}


@functools.cache
def shape_of_form(version: int) -> dict[tuple[str, str], str]:
    """The same of a database of this form as it should be."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, 0, 0.0, to=version)
        return shape_of(connection)


def newest_form() -> int:
    """The number of the form that this program writes."""
    return len(_migrations())


@functools.cache
def _migrations() -> list[str]:
    folder = resources.files("posthouse.store.sqlite") / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", entry.name))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1)), "migrations are numbered without gaps"
    return [(folder / name).read_text("utf-8") for name in names]


def _migrate(connection: sqlite3.Connection, number: int, script: str, now: float) -> None:
    """One migration in one transaction: killed in the middle, it has not begun."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] < number:  # another process may have been faster
            for statement in _statements(script):
                connection.execute(statement)
            if number == 1:
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute("INSERT INTO state VALUES (1, 0, 0, 0, ?)", (now,))
            if number == 3:
                connection.execute("INSERT INTO secret VALUES ('login', ?)", (os.urandom(32),))
            connection.execute(f"PRAGMA user_version={number}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a migration; each ends with a line."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if ";" in line and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def unavailable(problem: sqlite3.Error) -> Unavailable:
    """What a failed database call means for whoever asked."""
    code = getattr(problem, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    fault = Fault.STORAGE
    if primary == sqlite3.SQLITE_FULL:
        fault = Fault.FULL
    elif primary in _CORRUPT:
        fault = Fault.DAMAGED
    return Unavailable(fault, f"{getattr(problem, 'sqlite_errorname', type(problem).__name__)}: {problem}")


def is_damage(problem: Exception) -> bool:
    """Whether SQLite met a page that is not what it should be."""
    code = getattr(problem, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _CORRUPT


class Readers:
    """Connections for reading: one for the event loop's thread, some for the pool. None keeps a transaction open."""

    def __init__(self, open_one: Callable[[], sqlite3.Connection]) -> None:
        self._open = open_one
        self._guard = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._generation = 0
        self._inline: sqlite3.Cursor | None = None
        self._inline_generation = 0

    def renew(self) -> None:
        """Has every connection closed before its next use, after a fault (any thread)."""
        with self._guard:
            self._generation += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def inline(self, sql: str, parameters: Values = ()) -> list[Any]:
        """Carries out a point look-up on the event loop's thread. Raises Unavailable."""
        try:
            if self._inline is None or self._inline_generation != self._generation:
                self.close_inline()
                self._inline_generation = self._generation
                self._inline = self._open().cursor()
            # fetchall and never fetchone: a statement that was not read to its end holds a read transaction
            return self._inline.execute(sql, parameters).fetchall()
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Cursor]:
        """A connection in a read transaction that ends with the block (pool threads). Raises Unavailable."""
        try:
            with self._guard:
                connection = self._idle.pop() if self._idle else None
                generation = self._generation
            connection = connection or self._open()
            try:
                connection.execute("BEGIN")
                yield connection.cursor()
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                with self._guard:
                    if keep := generation == self._generation and len(self._idle) < 4:
                        self._idle.append(connection)
                if not keep:
                    connection.close()
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    def close_inline(self) -> None:
        """Closes the event loop's connection (on that thread)."""
        if self._inline is not None:
            connection, self._inline = self._inline.connection, None
            connection.close()

    def close(self) -> None:
        """Closes all connections that are not in use."""
        self.close_inline()
        self.renew()
