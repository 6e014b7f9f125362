"""Putting a data directory together from the objects of a backup, each of them read and compared with its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from posthouse.net.files import sync_directory, sync_file
from posthouse.store.backup.faults import Damaged
from posthouse.store.backup.manifest import CONTENT, DATABASE, FILE, Entry, Manifest
from posthouse.store.backup.repository import Progress, Repository
from posthouse.store.backup.rights import OURSELVES, Identity, acting_as

Wanted = Callable[[Entry], bool]

_WRITE: Final = os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_NEW: Final = _WRITE | os.O_CREAT | os.O_EXCL


def everything(entry: Entry) -> bool:
    """All of a backup."""
    return True


def assemble(
    repository: Repository,
    manifest: Manifest,
    target: Path,
    *,
    wanted: Wanted = everything,
    link: bool = False,
    durable: bool = False,
    owner: Identity = OURSELVES,
    spare: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Writes what is `wanted` of a backup into a folder that is there and empty but for what was wanted before. `link`
    gives large letters a second name instead of a copy where that can be: for who only reads them. What is made
    belongs to `owner`, whose the folder is. With `spare` a large letter that is damaged is left out, the others come.
    Raises Damaged, OSError."""
    work = _Assembling(repository, target, link=link, durable=durable, owner=owner)
    done = 0
    with contextlib.closing(work):
        for entry in repository.entries(manifest):
            if wanted(entry):
                try:
                    work.take(entry)
                except Damaged:
                    if not spare or entry.kind != CONTENT:
                        raise
                    work.leave_out(entry)
            done += entry.size
            progress(done, manifest.size)
    if durable:
        work.settle()


class _Assembling:
    """One data directory in the making."""

    def __init__(self, repository: Repository, target: Path, *, link: bool, durable: bool, owner: Identity) -> None:
        self._pool = repository.pool
        self._target = target
        self._link = link
        self._durable = durable
        self._owner = owner
        self._folders = {target}
        self._last = target
        self._database: IO[bytes] | None = None

    def close(self) -> None:
        """The last piece of the database has come."""
        if self._database is not None:
            if self._durable:
                sync_file(self._database.fileno())
            self._database.close()

    def _open(self, target: Path, mode: int, flags: int = _NEW) -> IO[bytes]:
        with acting_as(self._owner):
            return os.fdopen(os.open(target, flags, mode), "wb", buffering=0)

    def take(self, entry: Entry) -> None:
        """Writes one object to its place."""
        if entry.kind == DATABASE:
            if self._database is None:
                self._database = self._open(self._target / "posthouse.db", 0o600)
            self._pour(entry, self._database)
            return
        path = Path("content", entry.path[:2], entry.path) if entry.kind == CONTENT else Path(entry.path)
        self._make(path.parent)
        target = self._target / path
        if self._link and entry.kind == CONTENT and self._linked(entry, target):
            return
        mode = entry.mode & 0o777 | 0o600 if entry.kind == FILE else 0o600
        more = entry.kind == FILE and target == self._last  # a file comes in parts, one behind the other
        self._last = target
        with self._open(target, mode, _WRITE | os.O_APPEND if more else _NEW) as file:
            self._pour(entry, file)
            if self._durable:
                sync_file(file.fileno())

    def leave_out(self, entry: Entry) -> None:
        """Removes what of a damaged content was written."""
        with acting_as(self._owner):
            (self._target / "content" / entry.path[:2] / entry.path).unlink(missing_ok=True)

    def _linked(self, entry: Entry, target: Path) -> bool:
        self._pool.check(entry.object, entry.size)
        try:
            os.link(self._pool.path(entry.object), target)
        except OSError:  # another disk, or one without links
            return False
        return True

    def _pour(self, entry: Entry, file: IO[bytes]) -> None:
        for octets in self._pool.read(entry.object, entry.size):
            view = memoryview(octets)
            while view:
                view = view[file.write(view) :]

    def _make(self, folder: Path) -> None:
        for part in (*reversed(folder.parents), folder):
            path = self._target / part
            if path not in self._folders:
                with acting_as(self._owner):
                    path.mkdir(mode=0o700, exist_ok=True)
                self._folders.add(path)

    def settle(self) -> None:
        """Makes all names durable."""
        for folder in self._folders:
            sync_directory(folder)
