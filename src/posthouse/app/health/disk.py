"""The disk: room, inodes, kind of file system, and who may read what of the data directory."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.mail.figures import about

FEW_INODES: Final = 1000  # large letters get a file each
LOW: Final = 0.05  # of the disk
LOW_OCTETS: Final = 2 * 1024**3  # a large disk with so much left is not low
LARGE_WAL: Final = 256 * 1024**2  # sixteen times what the writer lets it grow to before it writes back
MOST_FILES: Final = 20_000
MOST_NAMED: Final = 5

NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "vboxsf", "fuse.sshfs", "fuse.glusterfs"}
MEMORY: Final = {"tmpfs", "ramfs"}
LAYERS: Final = {"overlay", "overlayfs", "aufs"}


class Disk:
    """The disk and its files"""

    ROOM = Kind("disk.room", Level.OK, "{data}: {free} are free, on {system}.")
    NONE = Kind(
        "disk.none",
        Level.NOTE,
        "There is no mail in {data} yet.",
        "What lies in the store was not looked at.",
        "posthouse quickstart DOMAIN sets up a server, posthouse domain add NAME the store alone; --data names another "
        "directory.",
    )
    CLOSED = Kind(
        "disk.closed",
        Level.ERROR,
        "You may not look into {data}: {why}.",
        "Nothing that lies there could be looked at.",
        "Run it as the user who owns the directory, or as root.",
    )
    FULL = Kind(
        "disk.full",
        Level.ERROR,
        "Only {free} are free in {data}, less than 1.5 times the largest letter ({limit}).",
        "New letters are put off (452 4.3.1). Reading and deleting go on.",
        "Make room. Letters are taken again by themselves.",
    )
    LOW = Kind(
        "disk.low",
        Level.WARNING,
        "Only {free} are free in {data}.",
        "Below {limit} new letters are put off.",
        "Make room, or move the data directory to a larger disk.",
    )
    NO_RESERVE = Kind(
        "disk.no-reserve",
        Level.WARNING,
        "The reserve of {size} is not there.",
        "On a full disk nothing can be deleted then. The server puts it aside once there is room for it.",
        "Make room. If there is plenty, restart the server.",
    )
    INODES = Kind(
        "disk.inodes",
        Level.WARNING,
        "Only {free} more files can be made in {data}.",
        "Large letters need one each; without, they are put off although there is room.",
        "Remove files on this disk, or make its file system anew with more inodes.",
    )
    IN_MEMORY = Kind(
        "disk.in-memory",
        Level.WARNING,
        "{data} lies in memory ({system}).",
        "All mail is gone when the machine is restarted.",
        "Move the data directory to a disk.",
    )
    NETWORK = Kind(
        "disk.network",
        Level.NOTE,
        "{data} lies on a file system of the network or of a host ({system}).",
        "Locks and syncs may not be what they promise there: after a crash mail may be missing or damaged.",
        "Move the data directory to a disk of this machine.",
    )
    LAYERED = Kind(
        "disk.layered",
        Level.NOTE,
        "{data} lies in the writable layer of a container ({system}).",
        "All mail is gone when the container is removed.",
        "Give the container a volume for the data directory.",
    )
    QUOTAS = Kind(
        "disk.quotas",
        Level.NOTE,
        "The quotas of all accounts come to {promised}, and the disk has room for {room}.",
        "If all of them use what they may, the disk is full.",
        "Plan a larger disk, or give new accounts less (accounts.quota).",
    )
    OPEN = Kind(
        "disk.open",
        Level.ERROR,
        "Everybody on this machine may look into {data}: mode {mode}.",
        "Letters and password hashes lie there. The server does not start.",
        "chmod 700 {data}",
    )
    FILE_OPEN = Kind(
        "disk.file-open",
        Level.ERROR,
        "{file} may be read or written by others: mode {mode}.",
        "It holds letters, password hashes or keys.",
        "chmod 600 {file}",
    )
    OWNER = Kind(
        "disk.owner",
        Level.ERROR,
        "{data} belongs to {owner}, and server.user is {user}.",
        "The server does not start.",
        "chown -R {user} {data}",
    )
    FOREIGN = Kind(
        "disk.foreign",
        Level.ERROR,
        "Files in {data} do not belong to its owner {owner}: {files}.",
        "The server cannot write or remove them; letters may be refused or stay for ever.",
        "chown -R {owner} {data}",
    )
    WAL = Kind(
        "disk.wal",
        Level.WARNING,
        "The log of the database has grown to {size}.",
        "Something reads for very long and keeps it from being written back; starts after a crash take longer.",
        "Look for a program that holds {file} open, such as a backup that hangs, and end it.",
    )


@dataclass(slots=True)
class Room:
    """What statvfs says: octets free and in all, and inodes (None where the file system has no fixed number)."""

    free: int
    total: int
    inodes: int | None
    all_inodes: int = 0


def room_of(path: Path) -> Room:
    """The room for whoever asks. Raises OSError."""
    if sys.platform == "win32":
        import shutil

        usage = shutil.disk_usage(path)
        return Room(usage.free, usage.total, None)
    status = os.statvfs(path)
    inodes = status.f_favail if status.f_files else None
    return Room(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, inodes, status.f_files)


def judge_room(data: Path, room: Room, limit: int, reserve: int, system: str) -> Iterator[Finding]:
    """Room and inodes. `limit` is the size of the largest letter."""
    least = limit * 3 // 2
    words = {"data": data, "free": about(room.free)}
    if room.free < least:
        yield Disk.FULL(**words, limit=about(limit))
    elif room.free < least + 2 * reserve or (room.free < LOW * room.total and room.free < LOW_OCTETS):
        yield Disk.LOW(**words, limit=about(least))
    else:
        yield Disk.ROOM(**words, system=system or "an unknown file system")
    if room.inodes is not None and room.inodes < max(FEW_INODES, LOW / 5 * room.all_inodes):
        yield Disk.INODES(data=data, free=room.inodes)


def judge_system(data: Path, system: str) -> Iterator[Finding]:
    """The kind of file system."""
    kinds = ((MEMORY, Disk.IN_MEMORY), (NETWORK, Disk.NETWORK), (LAYERS, Disk.LAYERED))
    for systems, kind in kinds:
        if system in systems:
            yield kind(data=data, system=system)


def judge_quotas(quotas: Sequence[tuple[int, int]], room: Room) -> Iterator[Finding]:
    """Quotas (0: none) and what is used, of all accounts."""
    promised = sum(quota for quota, _ in quotas)
    possible = room.free + sum(used for _, used in quotas)
    if promised > possible:
        yield Disk.QUOTAS(promised=about(promised), room=about(possible))


def judge_reserve(data: Path, size: int, *, running: bool) -> Iterator[Finding]:
    """Whether what is kept aside for a full disk is there. A server that never ran has none yet."""
    if size and running and not (data / "reserve").exists():
        yield Disk.NO_RESERVE(size=about(size))


def judge_wal(data: Path) -> Iterator[Finding]:
    """How long the log of the database is."""
    file = data / "posthouse.db-wal"
    if file.exists() and (size := file.stat().st_size) > LARGE_WAL:
        yield Disk.WAL(size=about(size), file=file)


def judge_rights(data: Path, user: str) -> Iterator[Finding]:
    """Who may read and write the data directory, its files and keys. Raises OSError."""
    if sys.platform == "win32":
        return
    status = data.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o007:
        yield Disk.OPEN(data=data, mode=f"{mode:04o}")
    owner = _name(status.st_uid)
    if user and owner != user:
        yield Disk.OWNER(data=data, owner=owner, user=user)
    foreign = []
    for file in _files(data):
        one = file.lstat()
        if one.st_uid != status.st_uid and file.name != "posthouse.toml":
            foreign.append(str(file.relative_to(data)))
        if stat.S_ISREG(one.st_mode) and one.st_mode & 0o007 and _is_secret(file):
            yield Disk.FILE_OPEN(file=file, mode=f"{stat.S_IMODE(one.st_mode):04o}")
    if foreign:
        more = f" and {len(foreign) - MOST_NAMED} more" if len(foreign) > MOST_NAMED else ""
        yield Disk.FOREIGN(data=data, owner=owner, files=", ".join(foreign[:MOST_NAMED]) + more)


def _is_secret(file: Path) -> bool:
    return file.name != "posthouse.toml" and file.suffix not in (".crt", ".log")


def _files(folder: Path) -> Iterator[Path]:
    """What lies below a directory, itself left out, at most so many; a server beside us may take some away."""
    count = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if os.path.lexists(path):
                yield path
            count += 1
            if count >= MOST_FILES:
                return


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
