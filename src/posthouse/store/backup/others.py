"""What lies in a data directory beside the letters: all of it belongs into a backup but what is named here."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from posthouse.store.backup.faults import BackupError, Cause
from posthouse.store.backup.manifest import is_inside
from posthouse.store.sqlite.snapshot import copy_small

MOST_FILES: Final = 100_000  # in one folder
UNFIT: Final = -1
DEEP: Final = 8  # folders in folders
BANS: Final = "bans.db"
OUTSIDE: Final = "outside/posthouse.toml"
"""Where a configuration that lay elsewhere comes to lie."""

READ: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_FLEETING: Final = frozenset({"lock", "reserve", "commits", "content", "staging", "outside", "before-upgrade"})
_OF_DATABASES: Final = ("posthouse.db", "bans.db")
_DRAFT: Final = re.compile(r"\..*\.\d+\.new")  # net/files.py: write_whole


def copy_bans(data: Path, folder: Path) -> int | None:
    """The list of bans, copied by SQLite and open; None when there is none that can be read: no mail hangs on it."""
    copy = folder / BANS
    if not (data / BANS).exists() or not copy_small(data / BANS, copy):
        return None
    return os.open(copy, READ)


def walk(data: Path, inside: str = "", deep: int = 0) -> Iterator[tuple[str, int]]:
    """The other files of a data directory, by their paths in it, with their modes, or UNFIT: what has no place in a
    backup because of its name or its depth."""
    count = 0
    for entry in sorted(os.scandir(data / inside), key=lambda entry: entry.name):
        path = f"{inside}/{entry.name}" if inside else entry.name
        if not inside and (entry.name in _FLEETING or entry.name.startswith(_OF_DATABASES)):
            continue
        if entry.name.endswith(".changes") or _DRAFT.fullmatch(entry.name):
            continue
        if not is_inside(path):
            yield ascii(path), UNFIT
            continue
        if entry.is_dir(follow_symlinks=False):
            if deep < DEEP:
                yield from walk(data, path, deep + 1)
            else:
                yield path, UNFIT
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:  # removed meanwhile, or a link that leads nowhere
            continue
        except OSError:  # a link to what the owner may not see
            yield path, 0o600
        else:
            if stat.S_ISREG(status.st_mode):
                count += 1
                if count > MOST_FILES:
                    text = f"{data / inside} holds over {MOST_FILES} files that are no letters. Move them elsewhere."
                    raise BackupError(Cause.EXISTS, text)
                yield path, stat.S_IMODE(status.st_mode) & 0o777
