"""The data directory: who owns it, which process serves it, and what was left lying in it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from posthouse.mail.reply import Fault, Unavailable
from posthouse.net.files import owner_of, sync_directory, try_lock
from posthouse.ports.system import Clock, Random
from posthouse.store.model import Options, StoreError, StoreInUse
from posthouse.store.repairing import REPAIRED, REPAIRING, being_repaired, finish_repair, gone, is_gone

OTHERS: Final = 0o007  # what a mode allows those who are neither owner nor group
FREE_KNOWN_FOR: Final = 0.2  # seconds that the free room is believed


class DataDirectory:
    """One data directory in the hands of this process.

    `posthouse.db` is the database, `content/` holds large contents, `staging/` one folder for each process that is
    writing some, `lock` is locked by the one server, `reserve` is given up when the disk is full.
    """

    in_memory = False

    def __init__(self, path: Path, clock: Clock, random: Random, options: Options, *, serve: bool) -> None:
        self.path = path
        self.contents = path / "content"
        self.database = path / "posthouse.db"
        self.serve = serve
        self._clock = clock
        self._options = options
        self._free: int | None = None
        self._free_until = float("-inf")
        self._owed = 0  # octets of a reserve that was spent
        self._reserve = path / "reserve"
        self._locks: list[IO[bytes]] = []
        try:
            self._make()
            if serve:
                self._lock_for_serving()
            self._require_no_repair()
            self._make_database()
            self.orphans_possible = serve and self._sweep_staging()
            self.staging = self._make_staging(random)
            self._require_no_repair()  # a repair that begins now sees our folder in staging
        except OSError as problem:
            self.close()
            raise StoreError(
                f"The data directory {path} cannot be used: {problem.strerror or problem}. "
                "Choose another one with --data, or make this one belong to the user who runs Posthouse."
            ) from problem
        except StoreError:
            self.close()
            raise

    def _make(self) -> None:
        if not self.path.is_dir():
            self.path.mkdir(mode=0o700, parents=True)
            sync_directory(self.path.parent)
        self._require_privacy()
        self.owner = owner_of(self.path)
        for folder in (self.contents, self.path / "staging"):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
                self.adopt(folder)
                sync_directory(self.path)

    def _make_database(self) -> None:
        """Begins a store where there is none. SQLite gives the files it makes beside it the same mode and owner."""
        if is_gone(self.path):
            raise gone(self.path)
        if not self.database.exists():
            self._create(self.database).close()
            sync_directory(self.path)

    def _require_no_repair(self) -> None:
        """Puts a repair that was finished into effect, and keeps away from one that goes on."""
        if not ((self.path / REPAIRED).exists() or (self.path / REPAIRING).exists()):
            return
        if self.serve:  # then nobody repairs
            finish_repair(self.path)
            shutil.rmtree(self.path / REPAIRING, ignore_errors=True)  # of one that was killed
            return
        with self._create(self.path / "lock") as file:
            if try_lock(file):
                finish_repair(self.path)
            elif (self.path / REPAIRED).exists() or (self.path / REPAIRING).exists():
                raise being_repaired(self.path)

    def _require_privacy(self) -> None:
        """Nobody else on this machine may look into the directory. One that holds no mail yet is made private."""
        if sys.platform == "win32" or not self.path.stat().st_mode & OTHERS:
            return
        if {entry.name for entry in self.path.iterdir()} <= {"posthouse.toml"}:
            self.path.chmod(0o700)
            return
        raise StoreError(
            f"Everybody on this machine may look into the data directory {self.path}, where letters and password "
            f"hashes lie. Nothing was opened. Make it private: chmod 700 {self.path}"
        )

    def _create(self, path: Path) -> IO[bytes]:
        """Opens a file for appending, made when it is not there: private, and the directory owner's."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab")
        self.adopt(path)
        return file

    def _lock_for_serving(self) -> None:
        file = self._open_lock(self.path / "lock")
        if file is None and (self.path / REPAIRING).exists():
            raise being_repaired(self.path)
        if file is None:
            raise StoreInUse(
                f"Another Posthouse server works on the data directory {self.path}. Two servers on one directory would "
                "hand out the same letters twice, so this one does not start. Stop the other one first, or choose "
                "another directory with --data."
            )
        self._locks.append(file)

    def _open_lock(self, path: Path) -> IO[bytes] | None:
        file = self._create(path)
        if not try_lock(file):
            file.close()
            return None
        return file

    def _make_staging(self, random: Random) -> Path:
        """A folder of this process's own, with a lock that says that we live."""
        while True:
            folder = self.path / "staging" / f"{os.getpid()}-{random.octets(8).hex()}"
            folder.mkdir(mode=0o700)
            self.adopt(folder)
            with contextlib.suppress(FileNotFoundError):
                lock = self._open_lock(folder / "lock")
                if lock is not None and folder.exists():
                    self._locks.append(lock)
                    return folder
            # a server that is starting swept the folder before it was locked

    def _sweep_staging(self) -> bool:
        """Removes what dead processes left in staging; True when there was one and no other process lives."""
        found, alone = False, True
        for folder in (self.path / "staging").iterdir():
            lock = self._open_lock(folder / "lock") if folder.is_dir() else None
            if lock is None and folder.is_dir():
                alone = False
                continue
            if lock is not None:
                lock.close()
            found = True
            shutil.rmtree(folder, ignore_errors=True)
        return found and alone

    def adopt(self, path: Path) -> None:
        """Gives a file that this process made to the owner of the data directory (when we are root)."""
        if self._foreign:
            os.chown(path, *self.owner)

    @property
    def _foreign(self) -> bool:
        owner = getattr(self, "owner", None)
        return owner is not None and hasattr(os, "geteuid") and os.geteuid() == 0 and owner[0] != 0

    def require_room(self, octets: int) -> None:
        """Raises Unavailable(FULL) when less than 1.5 times the message limit is free, or `octets` do not fit."""
        now = self._clock.monotonic()
        if now >= self._free_until:  # asking costs 30 us, as much as all else the loop does for a small letter
            self._free, self._free_until = free_octets(self.path), now + FREE_KNOWN_FOR
        if self._free is not None and self._free - self._owed < max(self._options.message_limit, octets) * 3 // 2:
            raise Unavailable(Fault.FULL, f"{self._free} octets free in {self.path}")

    def lack(self) -> int:
        """Octets that are missing on the disk for the next letter and for the reserve to be put aside (again), 0 when
        there is room."""
        free = free_octets(self.path)
        # As `keep_reserve` reckons; what is owed is half of that.
        aside = 0 if self._reserve.exists() else 2 * self._options.reserve
        return 0 if free is None else max(0, self._options.message_limit * 3 // 2 + aside - free)

    def keep_reserve(self) -> None:
        """Puts the reserve aside when it is not there and there is room for it."""
        size = self._options.reserve
        free = free_octets(self.path)
        if not (self.serve and size) or self._reserve.exists() or free is None:
            return
        if free < 2 * size + self._options.message_limit * 3 // 2:  # letters have room before the reserve has
            return
        try:
            with self._create(self._reserve) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError:  # somebody else was faster: a reserve without its octets is none
            with contextlib.suppress(OSError):
                self._reserve.unlink()
        else:
            self._owed = 0

    @property
    def owes_reserve(self) -> bool:
        """Whether the reserve was given away and is not there again."""
        return self._owed > 0

    def release_reserve(self) -> bool:
        """Gives the reserve back to the file system; False when there was none. Until it is there again its room is
        no room for new letters: it is for what deletes and carries on."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        self._owed = self._options.reserve
        return True

    def close(self) -> None:
        """Lets go of the directory. A staging folder in which something was left stays: it tells of an unclean end."""
        staging = getattr(self, "staging", None)
        if staging is not None and staging.is_dir() and [entry.name for entry in staging.iterdir()] == ["lock"]:
            with contextlib.suppress(OSError):
                (staging / "lock").unlink()
                staging.rmdir()
        while self._locks:
            self._locks.pop().close()


class NoDirectory(DataDirectory):
    """What a store in memory has in the place of a data directory: nothing, with room for everything."""

    in_memory = True

    def __init__(self, image: bytes | None = None) -> None:
        """`image` is what a store begins with, None for an empty one."""
        self.serve = self.orphans_possible = False
        self.image = image

    def require_room(self, octets: int) -> None:
        """There is room."""

    def keep_reserve(self) -> None:
        """Nothing is kept aside."""

    def lack(self) -> int:
        """Nothing is missing."""
        return 0

    def release_reserve(self) -> bool:
        """There is none."""
        return False

    def close(self) -> None:
        """Nothing is open."""


def become_owner(path: Path) -> None:
    """Takes on the identity of the data directory's owner for good, so that no file of root's appears in it.

    For commands that root runs beside a server, before the store is opened. Does nothing when we are not root, when
    root owns the directory or when there is none yet.
    """
    if sys.platform == "win32" or os.geteuid() != 0 or not path.is_dir():
        return
    uid, gid = owner_of(path)
    if uid == 0:
        return
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o077)


def free_octets(path: Path) -> int | None:
    """Octets that this process may still write, None where the system does not say cheaply."""
    if sys.platform == "win32":
        return shutil.disk_usage(path).free
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def fault_of(problem: OSError) -> Unavailable:
    """What a failed system call means for the letter at hand."""
    full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return Unavailable(Fault.FULL if full else Fault.STORAGE, str(problem))


@contextlib.contextmanager
def storage() -> Iterator[None]:
    """Turns a failed system call into Unavailable."""
    try:
        yield
    except OSError as problem:
        raise fault_of(problem) from problem
