"""Bringing back everything: a new data directory is put together beside its place and takes it in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from posthouse.net.files import sync_directory, try_lock
from posthouse.ports.system import Clock
from posthouse.store.backup.assemble import assemble
from posthouse.store.backup.faults import ROOM, BackupError, Cause, Damaged, writing
from posthouse.store.backup.manifest import Manifest
from posthouse.store.backup.others import OUTSIDE
from posthouse.store.backup.repository import Progress, Repository, reading
from posthouse.store.backup.rights import Identity, acting_as, is_root, known_here, owner_of
from posthouse.store.sqlite.pool import prepare
from posthouse.store.sqlite.snapshot import Held, Numbers, begin_anew, last_numbers, unreadable

_EXCHANGE: Final = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE: Final = -100  # AT_FDCWD
_PREFIX: Final = ".posthouse-restoring-"


@dataclass(slots=True)
class Restored:
    """What was brought back."""

    manifest: Manifest
    data: Path
    kept: Path | None  # where the old directory is now
    held: Held = field(default_factory=lambda: Held(0, 0, 0))
    owner: str = ""  # whose it is, when root did it
    stranger: str = ""  # whose it was, when this system does not know that user
    configuration: Path | None = None  # which lay outside the data directory


def restore_all(
    data: Path,
    folder: Path,
    name: str = "",
    *,
    replace: bool = False,
    dry_run: bool = False,
    clock: Clock,
    progress: Progress = lambda done, total: None,
) -> Restored:
    """Makes a backup the data directory. One that is there is replaced only when that is said, and kept beside; until
    the last step nothing of it changes. Raises BackupError, StoreError, OSError: then it is as it was."""
    data = data.resolve()
    with reading(folder) as repository:
        manifest = repository.find(name)
        with _alone(data, replace=replace) as there:
            if dry_run:
                return Restored(
                    manifest, data, data if there else None, Held(manifest.letters, manifest.accounts, manifest.queued)
                )
            data.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _Restoring(repository, manifest, data, there, clock).restore(progress)
            except Damaged as problem:
                raise repository.damage(problem) from problem


class _Restoring:
    """One restore of everything. What is made beside the data directory is made with the rights of whoever owns that
    place, so that nobody can lead root elsewhere by a link in it; root's own place is root's."""

    def __init__(self, repository: Repository, manifest: Manifest, data: Path, there: bool, clock: Clock) -> None:
        self._repository = repository
        self._manifest = manifest
        self._data = data
        self._there = there
        self._clock = clock
        self._maker = owner_of(data.parent)
        self._heir = _heir(data if data.is_dir() else None, manifest)

    def restore(self, progress: Progress) -> Restored:
        """Does it. Raises what `restore_all` does, and Damaged."""
        data, maker, heir = self._data, self._maker, self._heir
        if is_root() and heir is not None and maker.uid not in (0, heir.uid):
            text = (
                f"{data.parent} belongs to {maker.user or maker.uid}, the mail to {heir.user or heir.uid}: nothing was "
            )
            raise BackupError(
                Cause.EXISTS, f"{text}restored. Name a place with --data whose owner is root or the same."
            )
        restored = Restored(self._manifest, data, None, owner=_name(heir or maker) if is_root() else "")
        if is_root() and heir is None:
            restored.stranger = self._manifest.owner.user
        last = _last(data, self._there)
        with writing(data.parent, ROOM), _new_beside(data, maker) as new:
            _require_room(data.parent, self._manifest)
            assemble(self._repository, self._manifest, new, durable=True, owner=maker, progress=progress)
            with acting_as(maker):
                for name in ("content", "staging"):  # also where there was no large letter
                    (new / name).mkdir(mode=0o700, exist_ok=True)
                sync_directory(new)
                restored.held = _prepare(new, last, self._clock)
            if heir is not None and heir.uid != maker.uid:
                _give(new, heir)
            with acting_as(maker):
                restored.kept = _put_in_place(new, data, self._there, self._clock)
        if (data / OUTSIDE).exists():
            restored.configuration = data / OUTSIDE
        return restored


@contextlib.contextmanager
def _alone(data: Path, *, replace: bool) -> Iterator[bool]:
    """Sees to it that no server works on the directory meanwhile; says whether there is mail in it."""
    if not data.exists() or (data.is_dir() and not any(data.iterdir())):
        yield False
        return
    if not data.is_dir() or not ((data / "posthouse.db").exists() or (data / "posthouse.toml").exists()):
        text = f"{data} holds something else than mail of Posthouse. Name a directory that is new or empty with --data."
        raise BackupError(Cause.EXISTS, text)
    if not replace:
        raise BackupError(
            Cause.EXISTS,
            f"There is mail in {data} already; it is unchanged. --replace puts the backup in its place and keeps the "
            "old directory beside it; --data names another place; --account brings single letters back into it.",
        )
    with acting_as(owner_of(data)):
        file = (data / "lock").open("ab")
    with file as lock:
        if not try_lock(lock):
            raise BackupError(
                Cause.BUSY,
                f"A server works on {data}. Nothing was changed. Stop it first, for example: systemctl stop posthouse",
            )
        yield True


def _require_room(place: Path, manifest: Manifest) -> None:
    free = shutil.disk_usage(place).free
    if free < manifest.size:
        raise BackupError(
            Cause.STORAGE,
            f"The backup needs {manifest.size} octets and the disk of {place} has {free}. Nothing was changed. Make "
            "room there, or name another place with --data.",
        )


@contextlib.contextmanager
def _new_beside(data: Path, maker: Identity) -> Iterator[Path]:
    """A folder of our own beside the data directory, locked for as long as we live. What others left there that were
    killed is removed."""
    with acting_as(maker):
        for left in data.parent.glob(f"{_PREFIX}*"):
            _remove_left(left)
        new = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=data.parent))
        lock = _locked(new)
    try:
        yield new
    finally:
        with acting_as(maker):
            shutil.rmtree(new, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """The lock on a folder; None when somebody else has it, or where folders cannot be locked."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _remove_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = _locked(folder)
        if lock is not None or sys.platform == "win32":
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _last(data: Path, there: bool) -> Numbers:
    """The numbers that the mail gave which is replaced."""
    if not there:
        return Numbers()
    with acting_as(owner_of(data)):
        return last_numbers(data / "posthouse.db")


def _prepare(new: Path, last: Numbers, clock: Clock) -> Held:
    """The database in its newest form, fit to be served."""
    try:
        prepare(new / "posthouse.db", 10.0, clock.now(), serve=True)
        return begin_anew(new / "posthouse.db", last, clock.now())
    except sqlite3.Error as problem:
        raise unreadable(new / "posthouse.db", problem) from problem


def _heir(before: Path | None, manifest: Manifest) -> Identity | None:
    """Whose the new directory is to be: the old one's owner, else the user of the name it belonged to."""
    if not is_root():
        return None
    if before is not None:
        return owner_of(before)
    return known_here(Identity(manifest.owner.uid, manifest.owner.gid, manifest.owner.user, manifest.owner.group))


def _name(owner: Identity) -> str:
    return owner.user or str(owner.uid)


def _give(new: Path, owner: Identity) -> None:
    """Gives all of what root made away, the directory itself last: until then nobody else can reach into it."""
    if sys.platform == "win32":
        return
    for folder, folders, files in os.walk(new):
        for name in (*folders, *files):
            os.lchown(os.path.join(folder, name), owner.uid, owner.gid)  # noqa: PTH118 (a walk of many)
    os.lchown(new, owner.uid, owner.gid)


def _put_in_place(new: Path, data: Path, there: bool, clock: Clock) -> Path | None:
    """The new directory takes the place; returns where the old one is."""
    ready = new
    try:
        if not there:
            new.rename(data)
            sync_directory(data.parent)
            return None
        stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y-%m-%dT%H%M%SZ")
        # From here on it has a name that nothing clears away: after the next step the old directory has it.
        ready = new.rename(data.with_name(f"{data.name}.restored-{stamp}"))
        kept = data.with_name(f"{data.name}.before-restore-{stamp}")
        if _exchange(ready, data):
            ready.rename(kept)
        else:
            data.rename(kept)
            ready.rename(data)
        sync_directory(data.parent)
        return kept
    except OSError as problem:
        raise BackupError(
            Cause.STORAGE,
            f"{data} cannot be put in place: {problem.strerror}. The old one is unchanged"
            + (f", and the restored one lies in {ready}" if ready != new else "")
            + ". Is it a place where a disk is mounted? Then name a directory below it with --data.",
        ) from problem


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two directories in one step, where the system can: a kill leaves one or the other in the place."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    return bool(library.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
