"""Files that must survive a crash: written beside their place, synced, renamed, and the name synced too."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def try_lock(file: IO[bytes] | int, *, shared: bool = False) -> bool:
    """Locks an open file (or its descriptor) for this process alone, until it is closed or the process dies; False when
    another has it. A shared lock keeps out only those that are not (on Windows every other one)."""
    number = file if isinstance(file, int) else file.fileno()
    try:
        if sys.platform == "win32":
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(number, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        if sys.platform == "win32":
            return False
        raise
    return True


def owner_of(path: Path) -> tuple[int, int]:
    """User and group that own a path."""
    status = path.stat()
    return status.st_uid, status.st_gid


def sync_file(descriptor: int) -> None:
    """Makes a file's octets durable."""
    if sys.platform == "darwin":  # fsync alone leaves them in the drive's cache there
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    if sys.platform == "win32":  # NTFS journals names; a directory cannot be opened for syncing there
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def adopt(path: Path, like: Path) -> None:
    """Gives what root made the owner of `like`; does nothing when we are not root."""
    if sys.platform != "win32" and os.geteuid() == 0:
        os.chown(path, *owner_of(like))


def write_whole(path: Path, octets: bytes, mode: int) -> None:
    """Puts a file in its place at once: whoever reads it finds the old one or the new one, after a crash too. It has
    this mode from its first moment and the owner of its directory. Raises OSError; then nothing has changed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()  # of a process with our number that was killed
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            adopt(draft, path.parent)
            sync_file(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
