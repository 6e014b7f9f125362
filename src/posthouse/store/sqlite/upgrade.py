"""The copy of the database that is kept before its form is changed, so that the older program can be gone back to."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

from posthouse.net.files import adopt, sync_directory, sync_file
from posthouse.store.datadir import free_octets
from posthouse.store.model import StoreError

FOLDER: Final = "before-upgrade"  # in the data directory
KEPT_FOR: Final = 30 * 86_400.0  # seconds: whoever goes back does so within days
SPARE: Final = 67_108_864  # octets that are free besides: the migration itself writes too


def keep_copy(connection: sqlite3.Connection, database: Path, version: int, now: float) -> None:
    """Keeps a copy of the database as it is, on the disk on return. Raises StoreError when there is no room for it.

    After an upgrade that was killed half-way none is made: the copy from its beginning has all that was ever served.
    """
    folder = database.parent / FOLDER
    if _is_there(connection, folder):
        return
    _require_room(connection, database)
    folder.mkdir(mode=0o700, exist_ok=True)
    adopt(folder, database.parent)
    draft, target = folder / ".new", folder / f"form-{version:04}.db"
    draft.unlink(missing_ok=True)  # of an upgrade that was killed
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").fetchall()  # one file that needs no other beside it
    with draft.open("r+b") as file:
        sync_file(file.fileno())
    os.utime(draft, (now, now))
    adopt(draft, folder)
    draft.replace(target)
    sync_directory(folder)
    sync_directory(folder.parent)


def remove_old_copies(database: Path, now: float) -> None:
    """Removes the copies whose time is over, and what a killed upgrade left."""
    folder = database.parent / FOLDER
    with contextlib.suppress(OSError):
        for copy in folder.iterdir():
            if copy.name.startswith(".") or copy.stat().st_mtime < now - KEPT_FOR:
                copy.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _is_there(connection: sqlite3.Connection, folder: Path) -> bool:
    """Whether a copy was made since the store was last changed."""
    state = connection.execute("SELECT commits, created FROM state").fetchall()
    return any(_state_of(copy) == state for copy in folder.glob("form-*.db"))


def _state_of(copy: Path) -> list[tuple[int, float]]:
    try:
        with contextlib.closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            return opened.execute("SELECT commits, created FROM state").fetchall()
    except sqlite3.Error:
        return []


def _require_room(connection: sqlite3.Connection, database: Path) -> None:
    pages, size = (connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("page_count", "page_size"))
    free = free_octets(database.parent)
    if free is not None and free < pages * size + SPARE:
        raise StoreError(
            f"The store in {database.parent} has an older form. Before it is changed a copy of its database is kept, "
            f"for which {(pages * size + SPARE - free) // 1_048_576 + 1} MiB are missing on the disk. Nothing was "
            "changed. Make room and start again."
        )
