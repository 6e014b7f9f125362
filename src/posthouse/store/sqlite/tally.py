"""How many commits there were, kept outside the database: a WAL that was cut or lost is noticed by it.

SQLite ends the reading of a WAL at the first page that does not fit, and says nothing: what came behind is gone as if
it had never been. The tally is a few octets in a file that is mapped into memory, written after each COMMIT that
reached the disk. It costs no system call and no sync, so after a power cut it may lag behind and never be ahead.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.net.files import adopt
from posthouse.ports.system import Clock

_FORM: Final = struct.Struct("<8sQd")  # a mark, the commits, when the WAL was last written back as a whole
_MARK: Final = b"PHtally1"
_SIZE: Final = _FORM.size + 4  # and their CRC-32
MOST_OF_COMMIT: Final = 1024
"""Numbers (UIDs, contents) that one lost commit may have given out; BATCH of the writer."""


@dataclass(slots=True, frozen=True)
class Lost:
    """What the database has forgotten."""

    commits: int  # at most
    since: float  # wall time: what was committed before it is there


class Tally:
    """The tally of one data directory, for its server."""

    __slots__ = ("_clock", "_file", "_mapped", "commits", "written")

    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises OSError."""
        self._clock = clock
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        try:
            adopt(path, path.parent)
            if os.fstat(self._file).st_size < _SIZE:
                os.write(self._file, bytes(_SIZE))
            self._mapped = mmap.mmap(self._file, _SIZE)
        except BaseException:
            os.close(self._file)
            raise
        self.commits, self.written = _parse(self._mapped[:_SIZE]) or (0, clock.now())

    def lost(self, commits: int) -> Lost | None:
        """What a database that counts so many commits has forgotten."""
        return Lost(self.commits - commits, self.written) if commits < self.commits else None

    def begin(self, commits: int) -> None:
        """The database counts so many commits, all of them written back."""
        self.commits, self.written = commits, self._clock.now()
        self._write()

    def resume(self, commits: int) -> None:
        """The database counts so many commits; what of them is in the WAL only is not known."""
        self.commits = commits
        self._write()

    def add(self) -> None:
        """One commit more is on the disk."""
        self.commits += 1
        self._write()

    def _write(self) -> None:
        octets = _FORM.pack(_MARK, self.commits, self.written)
        self._mapped[:_SIZE] = octets + struct.pack("<I", zlib.crc32(octets))

    def close(self) -> None:
        """Lets go of the file."""
        self._mapped.close()
        os.close(self._file)


def read_tally(path: Path) -> tuple[int, float] | None:
    """The commits that were counted, and since when some may be in the WAL only; None when the file is not there or
    says nothing. Raises OSError."""
    return _parse(path.read_bytes()) if path.exists() else None


def told_of(lost: Lost) -> str:
    """The loss in a sentence."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lost.since))
    return (
        f"Up to {lost.commits} commits since {since} are lost: letters and deletions since then may be missing. "
        "Compare with the newest backup."
    )


def _parse(octets: bytes) -> tuple[int, float] | None:
    if len(octets) < _SIZE:
        return None
    mark, commits, written = _FORM.unpack_from(octets)
    (checksum,) = struct.unpack_from("<I", octets, _FORM.size)
    return (commits, written) if mark == _MARK and checksum == zlib.crc32(octets[: _FORM.size]) else None


def skip_numbers(connection: sqlite3.Connection, lost: Lost) -> None:
    """Moves every number that the lost commits may have given out out of the way, so that none is given twice: UIDs,
    UIDVALIDITYs, contents, and the ids of mailboxes and accounts."""
    numbers = lost.commits * MOST_OF_COMMIT
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("UPDATE mailbox SET uidnext = max(uidnext, min(uidnext + ?, 4294967295))", (numbers,))
        cursor.execute(
            "UPDATE state SET commits = commits + :lost, content = content + :numbers,"
            " uidvalidity = max(uidvalidity, min(uidvalidity + :lost, 4294967295))",
            {"lost": lost.commits, "numbers": numbers},
        )
        cursor.execute("UPDATE sqlite_sequence SET seq = seq + ?", (lost.commits,))
        cursor.execute("COMMIT")
