"""Collected messages on this machine: held while they are looked at, saved as files, mbox or Maildir."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, cast

from posthouse.cli.exits import Exit, Problem
from posthouse.mail.message import Message
from posthouse.mail.mime import Octets

IN_MEMORY: Final = 1_048_576  # octets of a message that are kept in memory; more goes to a temporary file
PIECE: Final = 262_144


class Fetched:
    """One message as it came, in constant memory."""

    def __init__(self, on_progress: Callable[[int], None] | None = None) -> None:
        self._file = cast(IO[bytes], tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115 - closed by __exit__
        self._on_progress = on_progress
        self.size = 0

    def __enter__(self) -> Fetched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, octets: bytes) -> None:
        """The next piece, from the server."""
        self._file.write(octets)
        self.size += len(octets)
        if self._on_progress is not None:
            self._on_progress(self.size)

    def message(self) -> Message:
        """The message, taken apart. It may be used until the end of the `with`."""
        self._file.seek(0)
        if self.size <= IN_MEMORY:
            return Message(self._file.read())
        return Message(cast(Octets, OnDisk(self._file, self.size)))

    def pieces(self) -> Iterator[bytes]:
        """The octets as they came."""
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            yield piece


class OnDisk:
    """A file as octets. A mapped file would do the same, but its pages count as our memory, and Python searches it
    octet by octet."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, int):
            return self._read(place, place + 1)[0]
        start, stop, _ = place.indices(self._size)
        return self._read(start, stop)

    def _read(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        return self._file.read(max(0, stop - start))

    def find(self, octets: bytes, start: int = 0, end: int | None = None) -> int:
        """As bytes.find."""
        stop = self._size if end is None else min(end, self._size)
        overlap = len(octets) - 1
        for place in range(start, stop, PIECE):
            found = self._read(place, min(place + PIECE + overlap, stop)).find(octets)
            if found >= 0:
                return place + found
        return -1


def save_attachments(message: Message, directory: Path) -> list[Path]:
    """Writes each attachment to a file of its own under a safe name; never over another file."""
    paths = []
    for part, name in zip(message.attachments, message.attachment_names(), strict=True):
        path, file = _create(directory, name)
        with file:
            for piece in message.content(part):
                file.write(piece)
        paths.append(path)
    return paths


def _create(directory: Path, name: str) -> tuple[Path, IO[bytes]]:
    """A new file of this name, or of one like it."""
    stem, dot, ending = name.rpartition(".")
    for count in range(1, 1000):
        numbered = name if count == 1 else (f"{stem} ({count}).{ending}" if dot else f"{name} ({count})")
        with contextlib.suppress(FileExistsError):
            path = directory / numbered
            return path, path.open("xb")
    raise FileExistsError(f"{directory / name} exists already, a thousand times")


# Where whole messages go


class Target(ABC):
    """A place for whole messages."""

    @abstractmethod
    def add(self, fetched: Fetched) -> str:
        """Takes one message; it is on the disk when this returns. Returns where it is."""

    def close(self) -> None:  # noqa: B027 - most places have nothing to close
        """No more messages come."""


def open_target(text: str) -> Target:
    """`maildir:DIR`, `mbox:FILE` or `-` for standard output. Raises Problem."""
    kind, colon, path = text.partition(":")
    if text == "-":
        return Standard()
    if not colon or kind not in ("maildir", "mbox") or not path:
        raise Problem(Exit.USAGE, f"--to needs maildir:DIR, mbox:FILE or -, not {text!r}")
    place = Path(path).expanduser()
    try:
        return Maildir(place) if kind == "maildir" else Mbox(place)
    except OSError as error:
        raise Problem(Exit.CANNOT_CREATE, f"{place} cannot be written: {error.strerror}") from error


class Standard(Target):
    """Standard output: the octets as they came."""

    def add(self, fetched: Fetched) -> str:
        """Writes one message."""
        import sys

        for piece in fetched.pieces():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return "standard output"


class Maildir(Target):
    """A Maildir: each message a file of its own, written under tmp and moved to new once it is on the disk."""

    def __init__(self, folder: Path) -> None:
        for name in ("tmp", "new", "cur"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._count = 0

    def add(self, fetched: Fetched) -> str:
        """Delivers one message."""
        self._count += 1
        host = re.sub(r"[/:\\]", "_", socket.gethostname()) or "localhost"
        name = f"{time.time():.6f}.P{os.getpid()}Q{self._count}R{secrets.token_hex(4)}.{host}"
        draft, final = self._folder / "tmp" / name, self._folder / "new" / name
        try:
            with draft.open("xb") as file:
                for piece in fetched.pieces():
                    file.write(piece.replace(b"\r\n", b"\n") if os.name == "posix" else piece)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(final)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(final.parent)
        return str(final)


class Mbox(Target):
    """An mbox file in the mboxrd form: a line that begins with any number of ">" and "From " gets one more ">", so that
    every message can be given back as it was (RFC 4155, and its reversible variant)."""

    def __init__(self, path: Path) -> None:
        existed = path.exists()
        self._path = path
        self._file = path.open("ab")
        try:
            _lock(self._file)
        except Problem:
            self._file.close()
            raise
        if not existed:
            path.chmod(0o600)
            _sync_folder(path.parent)

    def add(self, fetched: Fetched) -> str:
        """Adds one message at the end; a message that could not be written whole leaves nothing."""
        begin = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(f"From MAILER-DAEMON {time.asctime(time.gmtime())}\n".encode("ascii"))
            for piece in _mbox_lines(fetched.pieces()):
                self._file.write(piece)
            self._file.write(b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), begin)
            raise
        return str(self._path)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


_FROM: Final = re.compile(rb"^(>*From )", re.MULTILINE)
_FROM_BELOW: Final = re.compile(rb"(?<=\n)(>*From )")  # for a block that goes on with a line


def _mbox_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines with LF ends and "From " escaped, whole lines at a time; of very long lines, parts."""
    rest = b""
    at_start = True
    last = b"\n"
    for piece in pieces:
        rest += piece
        cut = rest.rfind(b"\n") + 1 or (len(rest) - 1 if len(rest) > PIECE else 0)
        if not cut:
            continue
        block, rest = rest[:cut].replace(b"\r\n", b"\n"), rest[cut:]
        yield (_FROM if at_start else _FROM_BELOW).sub(rb">\1", block)
        at_start, last = block.endswith(b"\n"), block[-1:]
    if rest:
        block = rest.replace(b"\r\n", b"\n")
        yield (_FROM if at_start else _FROM_BELOW).sub(rb">\1", block)
        last = block[-1:]
    if last != b"\n":
        yield b"\n"


def _lock(file: IO[bytes]) -> None:
    """Keeps other programs out of the file where the system can do that. Raises Problem when one is in it."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(Exit.TEMPORARY, f"Another program is writing to {file.name}. Repeat it later.") from None


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk only when its folder is."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
