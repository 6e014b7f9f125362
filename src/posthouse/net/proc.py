"""What the kernel tells of this machine's sockets, locks and processes (proc(5)); nothing where there is no /proc."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.net.sysfiles import parse_ip

PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # TCP_LISTEN
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")
_LOCK: Final = re.compile(r"\d+: FLOCK\s+\S+\s+\S+\s+(\d+)\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s")


@dataclass(slots=True, frozen=True)
class Bound:
    """A socket that waits for connections. `uid` is the user who made it."""

    address: str
    port: int
    uid: int
    inode: int

    def covers(self, address: str) -> bool:
        """Whether nobody else can listen at this address (`*`: all of them) and the same port."""
        own, other = parse_ip(self.address), parse_ip(address)
        return own is None or other is None or own == other or own.is_unspecified or other.is_unspecified


@dataclass(slots=True, frozen=True)
class Process:
    """A process and the name of its program."""

    pid: int
    name: str = ""


def bound_sockets(proc: Path = PROC) -> list[Bound] | None:
    """All TCP sockets that wait for connections; None where the system does not tell."""
    found: list[Bound] = []
    told = False
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines = (proc / "net" / name).read_text("ascii", "replace").splitlines()[1:]
            told = True
            found += _bound(lines)
    return found if told else None


def _bound(lines: Iterable[str]) -> Iterator[Bound]:
    for line in lines:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTENING:
            address, _, port = words[1].partition(":")
            yield Bound(_address(address), int(port, 16), int(words[7]), int(words[9]))


def _address(text: str) -> str:
    """An address as the kernel writes it: words of four octets, each in the order of the machine."""
    octets = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)


def holders(inodes: Iterable[int], proc: Path = PROC) -> dict[int, Process]:
    """The processes that hold these sockets, as far as we may look: root may look at all, others at their own."""
    wanted = set(inodes)
    found: dict[int, Process] = {}
    for folder in proc.iterdir() if wanted and proc.is_dir() else ():
        if not folder.name.isdigit() or len(found) == len(wanted):
            continue
        with contextlib.suppress(OSError):
            for entry in (folder / "fd").iterdir():
                match = _SOCKET.fullmatch(str(entry.readlink()))
                if match and (inode := int(match[1])) in wanted:
                    found[inode] = Process(int(folder.name), name_of(int(folder.name), proc))
    return found


def name_of(pid: int, proc: Path = PROC) -> str:
    """The name of a process's program, empty when it is not known."""
    with contextlib.suppress(OSError):
        return (proc / str(pid) / "comm").read_text("utf-8", "replace").strip()
    return ""


def lock_holder(path: Path, proc: Path = PROC) -> int | None:
    """The process that has locked a file with flock(2); None when nobody has, or the system does not tell. Takes no
    lock itself, which might stand in somebody's way for a moment."""
    try:
        status = path.stat()
        lines = (proc / "locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    place = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    for line in lines:
        match = _LOCK.match(line)
        if match and (int(match[2], 16), int(match[3], 16), int(match[4])) == place:
            return int(match[1])
    return None


def file_system_of(path: Path, proc: Path = PROC) -> str:
    """The kind of file system a path lies on, such as `ext4`; empty when it is not known."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        place = str(path.resolve())
        for line in (proc / "mounts").read_text("utf-8", "replace").splitlines():
            _, point, name, *_ = [*line.split(), "", "", ""]
            point = point.replace("\\040", " ")
            inside = point == "/" or place == point or place.startswith(f"{point}/")
            if inside and len(point) >= len(best):
                best, kind = point, name
    return kind
