"""What the verbs of `posthouse backup` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import Invocation, explained
from posthouse.cli.mailstore import refusals

if TYPE_CHECKING:
    from posthouse.cli.helpers import Progress
    from posthouse.store.backup.repository import Repository


def place_of(invocation: Invocation) -> Path:
    """Where the mail lies. A configuration that is damaged or gone is no hindrance where `--data` says it."""
    return invocation.load()[1] if invocation.data is None else invocation.data


@contextmanager
def looking(folder: Path) -> Iterator[Repository]:
    """A backup directory that is only looked at."""
    from posthouse.store.backup.repository import reading
    from posthouse.store.backup.rights import acting_as, keeper_of

    with acting_as(keeper_of(folder)), reading(folder) as repository:
        yield repository


@contextmanager
def told() -> Iterator[None]:
    """Turns what can go wrong into a Problem with an exit code."""
    from posthouse.store.backup.faults import BackupError, Cause

    codes = {
        Cause.ABSENT: Exit.NO_INPUT,
        Cause.BUSY: Exit.TEMPORARY,
        Cause.EXISTS: Exit.CANNOT_CREATE,
        Cause.DAMAGED: Exit.IO,
        Cause.STORAGE: Exit.IO,
    }
    with explained(), refusals():
        try:
            yield
        except BackupError as error:
            raise Problem(codes[error.cause], str(error), stage=error.cause.value) from error


@contextmanager
def bar(what: str, silent: bool) -> Iterator[Progress]:
    """A bar on a terminal for what takes longer than a second."""
    from posthouse.cli.helpers import Progress

    progress = Progress(what, wanted=not silent)
    try:
        yield progress
    finally:
        progress.end()


def count_of(number: int, what: str) -> str:
    """`1 letter`, `2 letters`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
