"""Contents on their way in and out: drafts, staged files, large content files, letters open for reading.

A large content is written in the process's own staging folder, synced, renamed to its place and the directory
synced, all before the COMMIT that names it; it is unlinked only after the COMMIT that forgets it. So a file without
a row may be left by a crash (an orphan, swept at the next start), never a row without its file.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from posthouse.mail.budget import FREE
from posthouse.mail.reply import Fault, Unavailable
from posthouse.net.files import sync_directory, sync_file
from posthouse.ports.store import Letter
from posthouse.ports.system import Random
from posthouse.store.datadir import DataDirectory, storage
from posthouse.store.model import CHUNK, HEAD, Options, end_line, header_of

_BINARY: Final = getattr(os, "O_BINARY", 0)
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)


class Files:
    """The content files of a data directory and the threads that write and read them."""

    def __init__(self, directory: DataDirectory, random: Random, options: Options) -> None:
        self.directory = directory
        self.small = max(options.small, HEAD)  # a draft keeps its head in memory
        self.budget = options.budget
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="posthouse-files")
        self._random = random

    def stage(self) -> StagedFile:
        """A new file in staging; nothing is on the disk before its first `append`."""
        return StagedFile(self, self._random.octets(16).hex())

    def path(self, name: str) -> Path:
        """Where the content file of this name lies: 256 folders by its first two digits."""
        return self.directory.contents / name[:2] / name

    def place(self, staged: Path, name: str) -> None:
        """Moves a finished file to its place and makes the name durable."""
        target = self.path(name)
        try:
            staged.rename(target)
        except FileNotFoundError:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self.directory.adopt(target.parent)
            sync_directory(self.directory.contents)
            staged.rename(target)
        sync_directory(target.parent)

    def discard(self, staged: StagedFile, writing: asyncio.Future[None] | None = None) -> None:
        """Forgets a staged file in the background; `writing` is over and nobody asks how it ended."""
        if writing is not None and not writing.cancelled():
            writing.exception()
        try:
            self.pool.submit(staged.discard)
        except RuntimeError:  # the store was closed before the session that wrote the draft
            staged.discard()

    def remove(self, names: Iterable[str]) -> None:
        """Unlinks content files in the background; what cannot be unlinked now is an orphan for the next start."""
        listed = list(names)
        if listed:
            self.pool.submit(self._remove, listed)

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):  # missing, or open on Windows
                self.path(name).unlink()

    def names(self) -> Iterable[tuple[str, list[str]]]:
        """The content files that are there, folder by folder."""
        if self.directory.in_memory:
            return
        for folder in sorted(self.directory.contents.iterdir()):
            if folder.is_dir():
                yield folder.name, [entry.name for entry in folder.iterdir()]

    def strays(self, named: Callable[[str], set[str]]) -> list[str]:
        """The files that no row names; `named` gives the names that begin with two digits."""
        return [name for folder, names in self.names() for name in sorted(set(names) - named(folder))]

    def close(self) -> None:
        """Waits for the threads."""
        self.pool.shutdown(wait=True)


class StagedFile:
    """A content that is being written to a file. Its methods run in the pool, one after the other."""

    __slots__ = ("_descriptor", "_files", "_path", "checksum", "name", "size")

    def __init__(self, files: Files, name: str) -> None:
        self._files = files
        self._path = files.directory.staging / name
        self._descriptor = -1
        self.name = name
        self.checksum = 0
        self.size = 0

    def append(self, octets: bytes | bytearray) -> None:
        """Writes octets at the end. Raises Unavailable."""
        with storage():
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
                self._files.directory.adopt(self._path)
            view = memoryview(octets)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self.checksum = zlib.crc32(octets, self.checksum)
        self.size += len(octets)

    def settle(self) -> None:
        """Makes the file durable and puts it in its place. Raises Unavailable; then the file is gone."""
        try:
            with storage():
                sync_file(self._descriptor)
                self._close()
                self._files.place(self._path, self.name)
        except Unavailable:
            self.discard()
            raise

    def eight_bit_header(self) -> bool:
        """Whether an octet over 127 stands in the header, however long it is."""
        with storage():
            offset, last = 0, b""
            while chunk := _pread(self._descriptor, CHUNK, offset):
                block = last + chunk
                header = header_of(block) if offset == 0 else _header_end(block)
                if header is not None:
                    return not header.isascii()
                if not block.isascii():
                    return True
                offset, last = offset + len(chunk), block[-3:]
        return False

    def read_first(self, limit: int) -> bytes:
        """The first octets of what was written so far."""
        with storage(), self._path.open("rb") as file:  # a descriptor of its own: appending goes on meanwhile
            return file.read(limit)

    def discard(self) -> None:
        """Closes and unlinks, wherever the file has come to."""
        self._close()
        for path in (self._path, self._files.path(self.name)):
            with contextlib.suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _header_end(block: bytes) -> bytes | None:
    end = block.find(b"\r\n\r\n")
    return None if end < 0 else block[: end + 4]


class LetterDraft:
    """Octets of a letter on their way in (`ports.store.Draft`): in memory while they are few, then in a file. When all
    drafts together hold too much, they are few sooner."""

    __slots__ = ("_buffer", "_files", "_first", "_flight", "_held", "_tail", "_used", "_writing", "size", "staged")

    def __init__(self, files: Files) -> None:
        self._files = files
        self._buffer = bytearray()
        self._first = b""  # what came before the file was begun
        self._flight = bytearray()  # what was handed to the file last, and may be on its way still
        self._tail = b""  # the last octets of it
        self._writing: asyncio.Future[None] | None = None
        self._used = False
        self._held = 0  # octets that are counted in the budget
        self.staged: StagedFile | None = None
        self.size = 0

    @property
    def head(self) -> bytes:
        """The first octets, at most 1024 of them."""
        return bytes((self._first or self._buffer)[:HEAD])

    @property
    def tail(self) -> bytes:
        """The last octets, at most two of them."""
        return (self._tail + self._buffer[-2:])[-2:]

    async def write(self, octets: bytes) -> None:
        """Adds octets. Raises Unavailable."""
        if self._used:
            raise ValueError("this draft was delivered or discarded")
        self._buffer += octets
        self.size += len(octets)
        if len(self._buffer) > FREE:
            await self._grow()

    async def _grow(self) -> None:
        files = self._files
        most = FREE if files.budget.short else files.small if self.staged is None else CHUNK
        if len(self._buffer) > most:
            await self._spill()
            if files.budget.short:
                await self.written()
                self._flight = bytearray()
        self._hold(len(self._first) + len(self._flight) + len(self._buffer))

    def _hold(self, octets: int) -> None:
        if not self._used:  # it may have been discarded while the file was waited for
            self._held = self._files.budget.change(self._held, octets)

    def _let_go(self) -> None:
        self._hold(0)
        self._used = True

    async def _spill(self) -> None:
        if self.staged is None:
            self._first = bytes(self._buffer)
            self.staged = self._files.stage()
        await self.written()
        self._flight, self._buffer = self._buffer, bytearray()
        self._tail = bytes(self._flight[-2:])
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._files.pool, self.staged.append, self._flight)

    async def written(self) -> None:
        """Waits until the file has what it was given. Raises Unavailable when that failed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def read_header(self, limit: int) -> bytes:
        """The first octets up to and with the empty line that ends the header, at most about `limit` of them."""
        octets = self._first or self._buffer
        header = header_of(octets)
        if header is None and self.staged is not None and len(octets) < limit:
            settled = self.size - len(self._buffer) - len(self._flight)
            octets = self.staged.read_first(min(limit, settled)) if settled else b""
            octets = (octets + self._flight + self._buffer)[:limit] if len(octets) < limit else octets
            header = header_of(octets)
        return bytes(octets[:limit]) if header is None else header[:limit]

    def take(self) -> bytearray:
        """Hands over what is still in memory, with the line end that the content lacks; the draft is used up."""
        if self._used:
            raise ValueError("this draft was delivered or discarded")
        self._let_go()
        self._buffer += end_line(self.tail)
        return self._buffer

    async def discard(self) -> None:
        """Forgets it all. Harmless when the draft was delivered or discarded already."""
        if self._used:
            return
        self._let_go()
        self._buffer = bytearray()
        staged = self.staged
        if staged is None:
            return
        if self._writing is not None and not self._writing.done():
            self._writing.add_done_callback(functools.partial(self._files.discard, staged))
        else:
            self._files.discard(staged)


class SmallLetter:
    """A message whose octets are at hand, or known to be damaged (`ports.store.Letter`)."""

    __slots__ = ("_problem", "octets", "prefix", "size")

    def __init__(self, prefix: bytes, size: int, octets: bytes | None, problem: str = "") -> None:
        self.prefix = prefix
        self.size = size
        self.octets = octets
        self._problem = problem

    async def chunks(self) -> AsyncIterator[bytes]:
        """All octets at once. Raises Unavailable(DAMAGED)."""
        if self.octets is None:
            raise Unavailable(Fault.DAMAGED, self._problem)
        yield self.octets


class LaterLetter:
    """A message of a fetch that had brought enough already: it is looked up when it is read."""

    __slots__ = ("_load", "prefix", "size")

    def __init__(self, prefix: bytes, size: int, load: Callable[[], Letter]) -> None:
        self.prefix = prefix
        self.size = size
        self._load = load

    @property
    def octets(self) -> None:
        """Not at hand: use `chunks`."""
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Prefix and content. Raises Unavailable."""
        async for chunk in self._load().chunks():
            yield chunk


class FileLetter:
    """A message whose content lies in a file (`ports.store.Letter`)."""

    __slots__ = ("_checksum", "_files", "_name", "prefix", "size")

    def __init__(self, files: Files, name: str, prefix: bytes, size: int, checksum: int) -> None:
        self._files = files
        self._name = name
        self._checksum = checksum
        self.prefix = prefix
        self.size = size

    @property
    def octets(self) -> None:
        """Never at hand: use `chunks`."""
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Prefix and content. The last piece is given only when the checksum of all of them is right."""
        reader = _Reader(self._files, self._name, self.size - len(self.prefix))
        try:
            held, checksum = self.prefix, 0
            while chunk := await reader.read():
                if held:
                    yield held
                held, checksum = chunk, zlib.crc32(chunk, checksum)
            if checksum != self._checksum:
                raise Unavailable(Fault.DAMAGED, f"content file {self._name} does not match its checksum")
            yield held
        finally:
            reader.close()


class _Reader:
    """Reads a content file from its beginning: at once what the system has in memory, the rest in the pool."""

    __slots__ = ("_descriptor", "_files", "_name", "_offset", "_reading", "_size")

    def __init__(self, files: Files, name: str, size: int) -> None:
        self._files = files
        self._name = name
        self._size = size
        self._offset = 0
        self._reading: asyncio.Future[bytes] | None = None
        try:
            self._descriptor = os.open(files.path(name), os.O_RDONLY | _BINARY)
        except FileNotFoundError as problem:
            raise Unavailable(Fault.DAMAGED, f"content file {name} is missing") from problem
        except OSError as problem:
            raise Unavailable(Fault.STORAGE, str(problem)) from problem
        found = os.fstat(self._descriptor).st_size
        if found != size:
            os.close(self._descriptor)
            raise Unavailable(Fault.DAMAGED, f"content file {name} has {found} octets instead of {size}")

    async def read(self) -> bytes:
        """The next piece, empty at the end. Raises Unavailable."""
        wanted = min(CHUNK, self._size - self._offset)
        if not wanted:
            return b""
        chunk = self._read_now(wanted)
        if chunk is None:
            loop = asyncio.get_running_loop()
            with storage():
                self._reading = loop.run_in_executor(self._files.pool, _pread, self._descriptor, wanted, self._offset)
                chunk = await asyncio.shield(self._reading)
        if not chunk:
            raise Unavailable(Fault.DAMAGED, f"content file {self._name} ended early")
        self._offset += len(chunk)
        return chunk

    def _read_now(self, wanted: int) -> bytes | None:
        """What is in the page cache, None when the disk would have to be waited for."""
        if _NOWAIT is None:
            return None
        buffer = bytearray(wanted)
        try:
            count = os.preadv(self._descriptor, [buffer], self._offset, _NOWAIT)
        except OSError:  # not in memory, or a file system that cannot say: the pool finds out
            return None
        return bytes(memoryview(buffer)[:count]) if count else None

    def close(self) -> None:
        """Closes the file, when a thread still reads in it after that."""
        reading, descriptor = self._reading, self._descriptor
        if reading is not None and not reading.done():
            reading.add_done_callback(functools.partial(_close_after, descriptor))
        else:
            os.close(descriptor)


def _close_after(descriptor: int, reading: asyncio.Future[bytes]) -> None:
    reading.exception()  # whatever it was, nobody waits for it any more
    os.close(descriptor)


def _pread(descriptor: int, count: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows; the calls of one file come one after the other
    return os.read(descriptor, count)
