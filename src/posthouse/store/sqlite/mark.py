"""A mark that every process sees change: how a running server notices at once what a command beside it did.

The mark is a few random octets in a file, mapped into memory: looking at it costs no system call, which would give up
the interpreter lock (36 microseconds with a busy writer thread).
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Final

from posthouse.net.files import adopt

SIZE: Final = 8  # octets, chosen at random


class Mark:
    """The mark in one file, which is made when it is not there and belongs to the owner of its directory."""

    __slots__ = ("_file", "_mapped")

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        try:
            adopt(path, path.parent)
            if os.fstat(self._file).st_size < SIZE:
                os.write(self._file, bytes(SIZE))
            self._mapped = mmap.mmap(self._file, SIZE, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(self._file)
            raise

    def read(self) -> bytes:
        """What it is now."""
        return self._mapped[:SIZE]

    def change(self) -> None:
        """Makes it another one, for all processes. One that cannot be written stays as it is."""
        with contextlib.suppress(OSError):
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, os.urandom(SIZE))

    def close(self) -> None:
        """Lets go of the file."""
        self._mapped.close()
        os.close(self._file)
