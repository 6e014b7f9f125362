"""A folder of our own in the staging of a data directory, beside those of a server and of other commands."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import IO

from posthouse.net.files import try_lock
from posthouse.ports.system import Random


class Corner:
    """The folder, locked for as long as we live: a server that starts, or the next of our kind, clears it away when we
    are dead. To be made and closed with the rights of the data directory's owner."""

    def __init__(self, data: Path, kind: str, random: Random) -> None:
        staging = data / "staging"
        staging.mkdir(mode=0o700, exist_ok=True)
        for left in staging.glob(f"{kind}-*"):
            _clear(left)
        lock: IO[bytes] | None = None
        while lock is None:
            self.folder = staging / f"{kind}-{random.octets(8).hex()}"
            self.folder.mkdir(mode=0o700)
            lock = _locked(self.folder)  # else a server that starts swept it before that
        self._lock = lock

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _locked(folder: Path) -> IO[bytes] | None:
    """The lock of a folder, None when somebody else has it or the folder is gone."""
    with contextlib.suppress(FileNotFoundError):
        file = (folder / "lock").open("ab")
        if try_lock(file) and folder.exists():
            return file
        file.close()
    return None


def _clear(folder: Path) -> None:
    """Removes what one left that was killed."""
    lock = _locked(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
