"""The pool of objects: octets that are named by their SHA-256, so that the same octets are kept once.

An object is written beside its place, synced and renamed, so one that has its name is whole, after a kill and a power
cut too: what a run left that was killed is used by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.net.files import sync_directory, sync_file
from posthouse.store.backup.faults import Damaged

CHUNK: Final = 262_144
"""Octets that are read or written at once, and the size of the database's pieces (docs/adr/0148)."""

ASIDE: Final = ".damaged"
"""Behind the name of an object that is not what its name says."""

NAME: Final = re.compile(r"[0-9a-f]{64}")
_BINARY: Final = getattr(os, "O_BINARY", 0)


@dataclass(slots=True, frozen=True)
class Stored:
    """An object: its name, its size, and whether it was written just now."""

    name: str
    size: int
    new: bool = False


class Pool:
    """The objects of one backup directory. `staging` is a folder of this process's own, None for who only reads."""

    def __init__(self, folder: Path, staging: Path | None = None) -> None:
        self.folder = folder
        self._staging = staging
        self._unsynced: set[Path] = set()

    def path(self, name: str) -> Path:
        """Where an object lies: 256 folders by its first two digits."""
        return self.folder / name[:2] / name

    def has(self, name: str, size: int) -> bool:
        """Whether the object is there with this size."""
        try:
            return self.path(name).stat().st_size == size
        except FileNotFoundError:
            return False

    def put(self, octets: bytes) -> Stored:
        """Keeps octets that are at hand."""
        name = hashlib.sha256(octets).hexdigest()
        if not self.has(name, len(octets)):
            return self._place(self._write([octets], 0), name, len(octets))
        self._unsynced.add(self.path(name).parent)
        return Stored(name, len(octets))

    def put_file(self, descriptor: int, most: int | None = None) -> Stored:
        """Keeps what a file holds from where it was read to, at most so many octets of it, in constant memory."""
        digest, size = hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            nonlocal size
            while octets := os.read(descriptor, CHUNK if most is None else min(CHUNK, most - size)):
                digest.update(octets)
                size += len(octets)
                yield octets

        draft = self._write(pieces(), descriptor)
        name = digest.hexdigest()
        if not self.has(name, size):
            return self._place(draft, name, size)
        draft.unlink()
        self._unsynced.add(self.path(name).parent)
        return Stored(name, size)

    def _write(self, pieces: Iterable[bytes], number: int) -> Path:
        assert self._staging is not None, "opened for writing"
        draft = self._staging / f"object-{number}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o600)
        try:
            for octets in pieces:
                view = memoryview(octets)
                while view:
                    view = view[os.write(descriptor, view) :]
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        return draft

    def _place(self, draft: Path, name: str, size: int) -> Stored:
        target = self.path(name)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700)
            self._unsynced.add(self.folder)
        draft.replace(target)
        self._unsynced.add(target.parent)
        return Stored(name, size, new=True)

    def settle(self) -> None:
        """Makes the names of all objects durable that were put so far."""
        for folder in sorted(self._unsynced):
            sync_directory(folder)
        self._unsynced.clear()

    def read(self, name: str, size: int) -> Iterator[bytes]:
        """An object in pieces. Raises Damaged, behind the last piece when its octets are wrong."""
        digest, count = hashlib.sha256(), 0
        try:
            with self.path(name).open("rb", buffering=0) as file:
                while octets := file.read(CHUNK):
                    digest.update(octets)
                    count += len(octets)
                    yield octets
        except FileNotFoundError:
            why = "was found damaged before" if self.path(name + ASIDE).exists() else "is missing"
            raise Damaged(name, why) from None
        except OSError as problem:
            raise Damaged(name, f"cannot be read ({problem.strerror})", gone=False) from problem
        if count != size:
            raise Damaged(name, f"has {count} octets instead of {size}")
        if digest.hexdigest() != name:
            raise Damaged(name, "does not match its checksum")

    def check(self, name: str, size: int) -> int:
        """Reads an object to its end; returns its octets. Raises Damaged."""
        return sum(len(octets) for octets in self.read(name, size))

    def set_aside(self, name: str) -> None:
        """Takes a damaged object out of the way, so that the next backup writes it anew where it still can. On a
        medium that cannot be written it stays."""
        with contextlib.suppress(OSError):
            self.path(name).rename(self.path(name + ASIDE))

    def names(self) -> Iterator[tuple[str, Path]]:
        """All objects, and those that were set aside, by the name they should have."""
        for folder in sorted(self.folder.iterdir()):
            if folder.is_dir():
                for path in folder.iterdir():
                    yield path.name.removesuffix(ASIDE), path
