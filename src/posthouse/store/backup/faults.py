"""What can go wrong with a backup, in words for people."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from posthouse.store.model import StoreError

PRUNE: Final = "Make room: posthouse backup prune removes old backups."
ROOM: Final = "Make room there and try again."


class Cause(Enum):
    """What kind of trouble it is, for whoever must choose an exit code."""

    ABSENT = "absent"  # there is no such directory, backup, account or letter
    BUSY = "busy"  # another command or a server is at work: later
    EXISTS = "exists"  # something is there that would be overwritten
    DAMAGED = "damaged"
    STORAGE = "storage"  # the disk is full or cannot be written


class BackupError(StoreError):
    """A backup cannot be made or used. The text says what happened, what it means and what to do."""

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Damaged(Exception):
    """An object of the pool is not what its name says. `gone` when its octets are wrong and not only unreadable."""

    def __init__(self, name: str, why: str, *, gone: bool = True) -> None:
        super().__init__(f"the object {name[:16]} {why}")
        self.name = name
        self.why = why
        self.gone = gone


def damaged(problem: Damaged, backups: Sequence[str]) -> BackupError:
    """The same as an error; `backups` are those that need the object."""
    whose = f"The backups {', '.join(backups)} need it" if len(backups) != 1 else f"The backup {backups[0]} needs it"
    return BackupError(
        Cause.DAMAGED,
        f"The object {problem.name} {problem.why}. {whose}: nothing was restored. Try an older backup, or a copy of "
        "this directory; posthouse backup verify names all that is damaged.",
    )


@contextlib.contextmanager
def writing(folder: Path, advice: str = PRUNE) -> Iterator[None]:
    """Turns a full disk into an error with advice."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(folder, advice) from problem


def full(folder: Path, advice: str = PRUNE) -> BackupError:
    """The disk under this folder is full."""
    return BackupError(
        Cause.STORAGE,
        f"The disk of {folder} is full. What was there before is unchanged; the next run clears away what this one "
        f"left. {advice}",
    )
