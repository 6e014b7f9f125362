"""A database in memory: one connection for all, and commits on the event loop's thread.

For labs, where many servers live in one process and nothing has to survive it. The same statements run as on the
disk; what differs is who carries them out, and when.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from posthouse.store.sqlite.jobs import Deposit, Job
from posthouse.store.sqlite.pool import Readers, Values, migrate, unavailable
from posthouse.store.sqlite.writer import Writer

PAGE: Final = 2048  # octets: least memory for a hundred letters of 2 KiB in each of a thousand stores (docs/adr/0125)


def open_in_memory(now: float, image: bytes | None = None) -> sqlite3.Connection:
    """A database of the newest form: an empty one, or what an `image` holds."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=64)
    connection.execute("PRAGMA temp_store=MEMORY")
    if image is None:
        connection.execute(f"PRAGMA page_size={PAGE}")
        migrate(connection, 0, now)
    else:
        connection.deserialize(image)
    return connection


class SharedReaders(Readers):
    """Readers that share the writer's connection: everything runs on one thread, a statement after the other."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(lambda: connection)
        self._shared = connection

    def renew(self) -> None:
        """The connection is the database: it stays."""

    def inline(self, sql: str, parameters: Values = ()) -> list[Any]:
        """Carries out a look-up. Raises Unavailable."""
        try:
            return self._shared.execute(sql, parameters).fetchall()
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Cursor]:
        """A cursor; nobody writes as long as its user does not await. Raises Unavailable."""
        try:
            yield self._shared.cursor()
        except sqlite3.Error as problem:
            raise unavailable(problem) from problem

    def close(self) -> None:
        """The writer closes the connection."""

    def cut(self) -> bytes:
        """What was committed; from now on every use of the database fails."""
        image = self._shared.serialize()
        self._shared.close()
        return image


class InlineWriter(Writer):
    """A writer without a thread: each job is committed when it is handed over, and answered at once."""

    def _begin(self) -> None:
        """There is no thread to start."""

    def submit(self, job: Job | Deposit) -> None:
        """Carries out an admitted job."""
        self._guarded([job])
        self.settle([job])
        if self._graveyard.due():
            self._tidy(self._end_tombstones)

    def _recover(self) -> None:
        """A fault has left nothing behind: the transaction was rolled back, and the connection is the database."""
        self._sick = False

    def wake(self) -> None:
        """Nothing waits for its turn here."""

    async def close(self) -> None:
        """Nothing is under way."""
        self._stopping = True
        self._close()
