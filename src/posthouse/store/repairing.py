"""A data directory that is repaired, was repaired, or has lost its database: what everybody who opens it must know."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import IO, Final

from posthouse.net.files import adopt, sync_directory, try_lock
from posthouse.store.model import TALLY, StoreError, StoreInUse

REPAIRED: Final = "posthouse.db-repaired"  # a new database that waits to take the place of the damaged one
REPAIRING: Final = "repairing"  # the folder of a repair that runs
REPAIR: Final = "posthouse doctor --store --repair"


class Repairing:
    """The directory while it is repaired: no server and no command works on it. Yields a folder to work in, which is
    removed at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path / REPAIRING
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Path:
        """Raises StoreInUse, OSError."""
        self._lock = _lock_idle(self._path)
        try:
            shutil.rmtree(self._folder, ignore_errors=True)  # of a repair that was killed
            self._folder.mkdir(mode=0o700)
            adopt(self._folder, self._path)
            if self._others():
                raise StoreInUse(f"A command works on {self._path}. Nothing was changed. Try again in a moment.")
        except BaseException:
            self.__exit__()
            raise
        return self._folder

    def _others(self) -> bool:
        for folder in (self._path / "staging").glob("*"):
            with contextlib.suppress(FileNotFoundError), (folder / "lock").open("ab") as file:
                if not try_lock(file):
                    return True
        return False

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def require_idle(path: Path) -> None:
    """Raises StoreInUse while a server works on a data directory, or a repair."""
    _lock_idle(path).close()


def _lock_idle(path: Path) -> IO[bytes]:
    """The lock of a data directory. Raises StoreInUse, OSError."""
    file = os.fdopen(os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab")
    adopt(path / "lock", path)
    if not try_lock(file):
        file.close()
        raise StoreInUse(
            f"A server works on {path}, or a repair. Nothing was changed. Stop the server first; senders keep what "
            "they cannot hand over meanwhile."
        )
    return file


def finish_repair(path: Path) -> None:
    """Puts a database that a repair has made into its place, for whoever has the lock. The WAL of the old one is gone,
    on the disk too, before the new one has the name: it would be taken for the new one's."""
    repaired, database = path / REPAIRED, path / "posthouse.db"
    if not repaired.exists():
        return
    for companion in ("posthouse.db-wal", "posthouse.db-shm"):
        (path / companion).unlink(missing_ok=True)
    sync_directory(path)
    repaired.replace(database)
    sync_directory(path)


def being_repaired(path: Path) -> StoreInUse:
    """What to tell people about it."""
    return StoreInUse(f"The store in {path} is being repaired. Wait until that has come to its end.")


def is_gone(path: Path) -> bool:
    """Whether a data directory has lost its database: there is none, or an empty file, and signs that there was one.
    SQLite would begin a new one and remove the WAL of the old."""
    database = path / "posthouse.db"
    if _size(database):
        return False
    there_was = had_mail(path) or _size(path / "posthouse.db-wal") > 0
    return there_was and not _size(database)  # looked at last: another process may just be making it


def gone(path: Path) -> StoreError:
    """What to tell people about it."""
    state = "empty" if (path / "posthouse.db").exists() else "missing"
    return StoreError(
        f"There was mail in {path}, but its database posthouse.db is {state}. Nothing was begun anew. Bring the "
        f"directory back from a backup, or let {REPAIR} save what is left."
    )


def had_mail(path: Path) -> bool:
    """Whether a server has worked on this directory."""
    return any((path / sign).exists() for sign in (TALLY, "reserve")) or any((path / "content").glob("*/*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
