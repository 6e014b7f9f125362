"""Content files that are kept from being lost while a backup is made."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Final

from posthouse.ports.system import Random
from posthouse.store.backup.corner import Corner
from posthouse.store.backup.others import READ
from posthouse.store.backup.rights import Identity, acting_as

_NO_LINKS: Final = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)


class Links:
    """A folder in the data directory where content files have a second name, so that they stay."""

    def __init__(self, data: Path, random: Random) -> None:
        self._contents = data / "content"
        self._corner = Corner(data, "backup", random)
        self.folder = self._corner.folder

    def add(self, name: str) -> None:
        """Keeps a content file; one that is gone is left out."""
        source, link = self._contents / name[:2] / name, self.folder / name
        try:
            os.link(source, link, follow_symlinks=False)
        except (FileNotFoundError, FileExistsError):
            return
        except OSError as problem:
            if problem.errno not in _NO_LINKS:
                raise
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source, link, follow_symlinks=False)

    def open(self, name: str) -> int:
        """Opens a file that was kept. Raises FileNotFoundError."""
        return os.open(self.folder / name, READ | getattr(os, "O_NOFOLLOW", 0))

    def close(self, owner: Identity) -> None:
        """Lets the files go."""
        with acting_as(owner):
            self._corner.close()
