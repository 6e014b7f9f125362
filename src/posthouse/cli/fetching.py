"""Fetched messages on this machine: held while they are looked at, their attachments saved as files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, cast

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
        self.close()

    def close(self) -> None:
        """Lets go of the message."""
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
