"""A backup directory: who may look into it, who works on it, which backups it holds, which of them go.

posthouse-backups   says what the directory is
lock                shared by those that read, alone for whoever makes or removes backups
backups/NAME.json   one manifest each, written last: a backup without it does not exist
objects/ab/ab...    the pool
staging/            what is being written; cleared by the next one that writes
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from posthouse.net.files import sync_directory, try_lock, write_whole
from posthouse.store.backup.faults import BackupError, Cause, Damaged, damaged, writing
from posthouse.store.backup.manifest import FORM, LARGEST, Entry, Manifest, decode, decode_entry, encode
from posthouse.store.backup.objects import Pool

MARKER: Final = "posthouse-backups"
_TEXT: Final = f"Backups of Posthouse, form {FORM}. They hold letters, password hashes and keys: keep them private.\n"
_TEXT_FORM: Final = re.compile(r"Backups of Posthouse, form (\d+)\.")
_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d+)?")
AT_ONCE: Final = 1_000_000  # names of objects in memory at most: some 100 MB
OTHERS: Final = 0o007

Progress = Callable[[int, int], None]


class Repository:
    """An open backup directory. Opened by `reading` or `changing`."""

    def __init__(self, folder: Path, lock: IO[bytes] | None, staging: Path | None) -> None:
        self.folder = folder
        self.staging = staging
        self.pool = Pool(folder / "objects", staging)
        self._lock = lock

    def __enter__(self) -> Repository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.staging is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    # Backups

    def manifests(self) -> tuple[list[Manifest], list[str]]:
        """The backups, the oldest first, and the names of those whose manifest is damaged."""
        sound: list[Manifest] = []
        broken: list[str] = []
        for path in sorted((self.folder / "backups").glob("*.json")):
            with path.open("rb") as file:
                manifest = decode(file.read(LARGEST))
            if manifest is None or manifest.name != path.stem:
                broken.append(path.stem)
            else:
                sound.append(manifest)
        return sorted(sound, key=lambda manifest: manifest.number), broken

    def newest(self) -> Manifest | None:
        """The backup made last."""
        sound, _ = self.manifests()
        return sound[-1] if sound else None

    def find(self, name: str = "") -> Manifest:
        """The backup of this name, without one the newest. Raises BackupError."""
        sound, broken = self.manifests()
        for manifest in reversed(sound):
            if name in ("", manifest.name):
                if manifest.form != FORM:
                    raise _too_new(self.folder)
                return manifest
        if name in broken:
            text = f"The manifest of the backup {name} is damaged: this backup cannot be used. Choose another one."
            raise BackupError(Cause.DAMAGED, text)
        there = f"There are: {', '.join(one.name for one in sound[-20:])}" if sound else "It holds none yet"
        raise BackupError(Cause.ABSENT, f"There is no backup {name} in {self.folder}. {there}.".replace("  ", " "))

    def name(self, now: float) -> str:
        """A name for a backup that is begun now."""
        from datetime import UTC, datetime

        stem = name = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H%M%SZ")
        number = 1
        while (self.folder / "backups" / f"{name}.json").exists():
            number += 1
            name = f"{stem}-{number}"
        assert _NAME.fullmatch(name)
        return name

    def save(self, manifest: Manifest) -> None:
        """Makes the backup exist: its objects and then its manifest are durable."""
        self.pool.settle()
        with writing(self.folder):
            write_whole(self.folder / "backups" / f"{manifest.name}.json", encode(manifest), 0o600)

    def entries(self, manifest: Manifest) -> Iterator[Entry]:
        """All objects of a backup: pieces of the database, contents by their names, other files. Raises Damaged."""
        self.pool.check(manifest.listing, manifest.listing_size)  # before the first line of it is believed
        with self.pool.path(manifest.listing).open("rb") as file:
            for line in file:
                entry = decode_entry(line)
                if entry is None:
                    raise Damaged(manifest.listing, "holds a line that no Posthouse wrote")
                yield entry

    # What belongs to whom

    def concerned(self, name: str) -> list[str]:
        """The backups that need an object."""
        sound, _ = self.manifests()
        return [manifest.name for manifest in sound if self._needs(manifest, name)]

    def _needs(self, manifest: Manifest, name: str) -> bool:
        if manifest.listing == name:
            return True
        try:
            return any(entry.object == name for entry in self.entries(manifest))
        except Damaged:
            return False

    def damage(self, problem: Damaged) -> BackupError:
        """A damaged object as an error that names the backups concerned."""
        return damaged(problem, self.concerned(problem.name))

    def shares(self, manifests: Sequence[Manifest]) -> Iterator[dict[str, int]]:
        """All objects of these backups with their sizes, each once, in as many shares as memory asks for."""
        passes = 1 + sum(manifest.objects for manifest in manifests) // AT_ONCE
        for turn in range(passes):
            found: dict[str, int] = {}
            for manifest in manifests:
                if turn == 0:
                    found[manifest.listing] = manifest.listing_size
                for entry in self.entries(manifest):
                    if int(entry.object[:4], 16) % passes == turn:
                        found[entry.object] = entry.size
            yield found

    # Removing

    def prune(self, doomed: Sequence[Manifest]) -> tuple[int, int]:
        """Removes backups, and then all objects that none of the others needs; returns how many objects and octets
        went. Raises BackupError when it is not certain what the others need; then nothing was removed."""
        gone = {manifest.name for manifest in doomed}
        sound, broken = self.manifests()
        kept = [manifest for manifest in sound if manifest.name not in gone]
        if broken or any(manifest.form != FORM for manifest in kept):
            text = (
                f"The manifest of {', '.join(broken) or 'a backup'} cannot be read, so nobody can say what it needs. "
                f"Nothing was removed. Remove the file {self.folder / 'backups' / (broken[0] if broken else '')}.json "
                "first, if that backup is not wanted any more."
            )
            raise BackupError(Cause.DAMAGED, text)
        try:
            for manifest in kept:
                for _ in self.entries(manifest):
                    pass
            for manifest in doomed:
                (self.folder / "backups" / f"{manifest.name}.json").unlink()
            sync_directory(self.folder / "backups")
            return self._sweep(kept)
        except Damaged as problem:
            raise BackupError(Cause.DAMAGED, f"{self.damage(problem)} Nothing was removed.") from problem

    def _sweep(self, kept: Sequence[Manifest]) -> tuple[int, int]:
        """Unlinks the objects that these backups do not need."""
        count = octets = 0
        passes = 1 + sum(manifest.objects for manifest in kept) // AT_ONCE
        for turn, needed in enumerate(self.shares(kept)):
            listings = {manifest.listing for manifest in kept}
            for name, path in self.pool.names():
                if int(name[:4], 16) % passes == turn and name not in needed and name not in listings:
                    octets += path.stat().st_size
                    path.unlink()
                    count += 1
        return count, octets

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder for what is assembled, gone at the end: here, or where temporary files go when this
        medium cannot be written."""
        place: Path | None = self.folder / "staging"
        assert place is not None
        if not (place.is_dir() and os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)):
            place = None
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=place, ignore_cleanup_errors=True) as name:
            yield Path(name)


def reading(folder: Path) -> Repository:
    """Opens a backup directory for looking and restoring; others may do the same. Raises BackupError."""
    _require(folder)
    try:
        lock: IO[bytes] | None = (folder / "lock").open("rb")
    except (FileNotFoundError, PermissionError):  # a copy without it, or not ours: nobody makes backups there
        lock = None
    if lock is not None and not try_lock(lock, shared=True):
        lock.close()
        raise _busy(folder)
    return Repository(folder, lock, None)


def changing(folder: Path, *, make: bool = False) -> Repository:
    """Opens a backup directory for making or removing backups, alone. What one left that was killed is cleared
    away. `make` begins one where there is none. Raises BackupError."""
    if make and not (folder / MARKER).exists():
        _found(folder)
    _require(folder)
    lock = os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "rb")
    if not try_lock(lock):
        lock.close()
        raise _busy(folder)
    staging = folder / "staging"
    try:
        for left in staging.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        for path in (folder / "backups").glob(".*.new"):
            path.unlink(missing_ok=True)
        mine = Path(tempfile.mkdtemp(prefix="writing-", dir=staging))
    except BaseException:
        lock.close()
        raise
    return Repository(folder, lock, mine)


def _found(folder: Path) -> None:
    """Begins a backup directory: a new one, or one that holds nothing."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700)  # not its parents: they may be a disk that is not mounted
        sync_directory(folder.parent)
    there = {entry.name for entry in folder.iterdir()} - {"lost+found", "lock"}
    if not there <= {"objects", "backups", "staging"}:
        text = f"{folder} holds something else than backups. Nothing was written. Name a directory that is empty."
        raise BackupError(Cause.EXISTS, text)
    if sys.platform != "win32" and folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    for name in ("objects", "backups", "staging"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    write_whole(folder / MARKER, _TEXT.encode(), 0o600)


def _require(folder: Path) -> None:
    """Raises BackupError when this is no backup directory that we can work with."""
    try:
        text = (folder / MARKER).read_text("utf-8", "replace")[:200]
    except (FileNotFoundError, NotADirectoryError):
        there = "It is not a backup directory" if folder.is_dir() else "There is no such directory"
        raise BackupError(
            Cause.ABSENT, f"{folder}: {there}. posthouse backup create DIR makes one, with the first backup in it."
        ) from None
    match = _TEXT_FORM.match(text)
    if match is None or int(match[1]) != FORM:
        raise _too_new(folder)
    if sys.platform != "win32" and folder.stat().st_mode & OTHERS:
        raise BackupError(
            Cause.EXISTS,
            f"Everybody on this machine may look into {folder}, where letters and keys lie. Nothing was read or "
            f"written. Make it private: chmod 700 {folder} (a disk without rights: mount it with umask=077)",
        )


def _too_new(folder: Path) -> BackupError:
    text = f"{folder} was written by another version of Posthouse, which this one cannot read. Install a newer one."
    return BackupError(Cause.ABSENT, text)


def _busy(folder: Path) -> BackupError:
    text = (
        f"Another command works on {folder}: a backup is being made, verified or restored. Try again when it is over."
    )
    return BackupError(Cause.BUSY, text)
