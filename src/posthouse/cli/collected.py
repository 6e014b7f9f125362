"""Which messages of a maildrop were collected before, by their unique-ids, and since when.

The state is a file of lines that only grows, one for each account and place:

    + 1764080000 id     a message that was collected at this second (Unix time)
    = 1764080000 52311  those above count; the run began at this second, the mbox file is so many octets long
    .                   the run ended well

Lines `+` count once a line `=` stands behind them, and each batch is on the disk before the next step is taken. A file
that does not end in `.` tells of a run that broke off, and what it had written is put right by `Target.recover`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.targets import sync_folder

HEADER_ID: Final = "header "  # begins what stands for a unique-id where the server has none
STALE: Final = 1_000  # forgotten messages that are worth writing the file anew for
LONGEST: Final = 1_000_000_000  # octets of a state that are read; more is none of ours


@dataclass(slots=True, frozen=True)
class Mark:
    """Where the last run stood: when it began, and how long the mbox file was."""

    moment: int
    length: int


class Collected:
    """The unique-ids of one account that were collected to one place."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        self._known: dict[str, int] = {}
        self.interrupted: Mark | None = None
        """The last run, when it did not end."""
        octets = _read(file)
        self._safe, self._size = self._take(octets), len(octets)

    def _take(self, octets: bytes) -> int:
        """Reads the lines; returns how many octets of them count."""
        batch: dict[str, int] = {}
        place = safe = 0
        for line in octets.split(b"\n")[:-1]:
            place += len(line) + 1
            kind, _, rest = line.decode("utf-8", "surrogateescape").partition(" ")
            first, _, second = rest.partition(" ")
            if kind == "+" and first.isdecimal():
                batch[second] = int(first)
            elif kind == "=" and first.isdecimal() and second.isdecimal():
                self._known |= batch
                batch = {}
                self.interrupted = Mark(int(first), int(second))
                safe = place
            elif kind == "." and not batch:
                self.interrupted = None
                safe = place
        return safe

    @classmethod
    def open(cls, login: str, server: str, target: str) -> Collected:
        """The state of one account on one server and one place that messages are collected to: what was only shown is
        not safe in a folder. Raises Problem when it cannot be kept, or another run has it."""
        path = _path(login, server, target)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = _open(path)
        except OSError as error:
            text = f"What was collected cannot be remembered: {path}: {error.strerror}"
            raise Problem(Exit.CANNOT_CREATE, text, stage="state") from error
        try:
            _lock(file, path)
            sync_folder(str(path.parent))
            state = cls(path, file)
            if state._safe < state._size:  # a batch that was cut off by a crash was not committed
                os.ftruncate(file, state._safe)
        except BaseException:
            os.close(file)
            raise
        return state

    @classmethod
    def peek(cls, login: str, server: str, target: str) -> Collected:
        """The same to be looked at only: nothing is made, locked or put right. Raises Problem."""
        path = _path(login, server, target)
        try:
            return cls(path, os.open(path if path.exists() else os.devnull, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
        except OSError as error:
            text = f"What was collected cannot be read: {path}: {error.strerror}"
            raise Problem(Exit.NO_INPUT, text, stage="state") from error

    def __enter__(self) -> Collected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def __contains__(self, identity: str) -> bool:
        return identity in self._known

    def __len__(self) -> int:
        return len(self._known)

    @property
    def by_header(self) -> bool:
        """Whether they are hashes of headers, as of a server without unique-ids: the two are never mixed."""
        return next(iter(self._known), "").startswith(HEADER_ID)

    def since(self, identity: str) -> int:
        """When a message was collected, in Unix time."""
        return self._known[identity]

    def begin(self, moment: int, length: int) -> None:
        """A run begins to write messages to their place; on the disk when this returns."""
        self._append(f"= {moment} {length}\n")
        os.fsync(self._file)

    def add(self, identities: Iterable[str], *, now: int, moment: int, length: int) -> None:
        """Remembers a batch of messages that are safe here; on the disk when this returns."""
        batch = dict.fromkeys(identities, now)
        lines = "".join(f"+ {now} {identity}\n" for identity in batch)
        self._append(f"{lines}= {moment} {length}\n")
        os.fsync(self._file)
        self._known |= batch

    def end(self) -> None:
        """The run ended well. Not synced: what is lost with it is only that nothing needs to be put right."""
        self._append(".\n")
        self.interrupted = None

    def _append(self, text: str) -> None:
        octets = memoryview(text.encode("utf-8", "surrogateescape"))
        while octets:
            octets = octets[os.write(self._file, octets) :]

    def keep_only(self, present: set[str]) -> None:
        """Forgets messages that the server has no more, once they are the greater part. To be called between runs."""
        assert self.interrupted is None, "what a broken run left is put right first"
        stale = self._known.keys() - present
        if len(stale) <= max(STALE, len(present)):
            return
        self._known = {identity: date for identity, date in self._known.items() if identity in present}
        draft = self._path.with_suffix(".new")
        with draft.open("wb") as file:
            for identity, date in self._known.items():
                file.write(f"+ {date} {identity}\n".encode("utf-8", "surrogateescape"))
            file.write(b"= 0 0\n.\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        sync_folder(str(self._path.parent))
        # The lock stays with the old file: who waits for it looks whether it still has its name.
        os.close(self._file)
        self._file = _open(self._path)
        _lock(self._file, self._path)


def _path(login: str, server: str, target: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    readable = re.sub(r"[^A-Za-z0-9@._-]", "_", f"{login}@{server}")[:80]
    digest = hashlib.sha256(f"{login}\0{server}\0{target}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return Path(base) / "posthouse" / "collected" / f"{readable}-{digest}"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)


def _read(file: int) -> bytes:
    pieces = []
    size = 0
    os.lseek(file, 0, os.SEEK_SET)
    while size < LONGEST and (piece := os.read(file, 1_048_576)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _lock(file: int, path: Path) -> None:
    text = "Another posthouse is collecting from this mailbox. Repeat it later."
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(Exit.TEMPORARY, text, stage="state") from None
        if not os.path.samestat(os.fstat(file), path.stat()):  # it was replaced before we had it
            raise Problem(Exit.TEMPORARY, text, stage="state")
