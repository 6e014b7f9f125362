"""The consistency check of a data directory from outside: beside a server or not, and without a change to anything."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from posthouse.ports.store import Damage
from posthouse.ports.system import Clock, Random
from posthouse.store.content import Files
from posthouse.store.datadir import NoDirectory
from posthouse.store.model import TALLY, Options
from posthouse.store.repairing import gone, is_gone
from posthouse.store.sqlite.check import Examination
from posthouse.store.sqlite.pool import Readers, cannot_be_opened, connect, require_ours


class _Contents(NoDirectory):
    """The content files alone."""

    in_memory = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.contents = path / "content"


def examine(data: Path, clock: Clock, random: Random, *, full: bool) -> Iterator[list[Damage]]:
    """What is wrong, in portions. To be run in a thread. Raises StoreError when the database cannot be opened.

    A WAL that a crash left is read and stays as it is: what is damaged in it is a repair's to look at.
    """
    database = data / "posthouse.db"
    if is_gone(data):
        raise gone(data)
    open_one = functools.partial(connect, database, mode="ro")
    try:
        with contextlib.closing(open_one()) as connection:
            require_ours(connection, database, serve=False)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except sqlite3.Error as problem:
        raise cannot_be_opened(database, problem) from problem
    readers = Readers(open_one)
    files = Files(_Contents(data), random, Options())
    try:
        yield from Examination(readers, files, clock, full=full, tally=data / TALLY).damages()
    finally:
        files.close()
        readers.close()
