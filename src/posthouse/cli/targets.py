"""Where whole messages go: a Maildir, an mbox file, standard output.

A place takes one message after the other: `begin`, `write` as the octets come, `end`. What was ended is safe on the
disk once `sync` has returned; many messages share one. After a crash `recover` finds what the broken run had written
and nobody remembers, so that it is neither lost nor kept twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.fetching import PIECE, Fetched

SYNCS: Final = 8  # files that are synced at once: their waits fall together in the journal of the file system
FILE_MODE: Final = 0o600
NAME: Final = re.compile(r"(\d{1,15})\.([A-Za-z0-9]+)\.")  # of our files in a Maildir: time, token


class Target(ABC):
    """A place for whole messages. Every method may raise OSError."""

    name = ""
    """What it is remembered by: the same place has the same name, however it was written."""

    @abstractmethod
    def begin(self, token: str = "") -> None:
        """A message begins. A `token` of letters and digits is how `recover` knows it again."""

    @abstractmethod
    def write(self, octets: bytes) -> None:
        """The next piece of the message, as the server sent it."""

    @abstractmethod
    def end(self) -> str:
        """The message is whole. Returns where it is once `sync` has returned."""

    @abstractmethod
    def drop(self) -> None:
        """Takes back what was written of a message that did not come whole."""

    def sync(self) -> None:  # noqa: B027 - where there is no disk there is nothing to do
        """All messages that were ended are on the disk when this returns."""

    @property
    def length(self) -> int:
        """Octets of the file that all messages share; 0 where each has its own."""
        return 0

    def start(self, moment: int) -> None:  # noqa: B027 - not every place has a use for it
        """A run begins, at this second."""

    def recover(self, moment: int, length: int, mark: str) -> set[str]:
        """Puts right what a run left that began at this second, with the file this long, and did not end. Returns the
        tokens of messages that are safe here, of those that begin with `mark`."""
        return set()

    def add(self, fetched: Fetched) -> str:
        """Takes one message that came before; it is on the disk when this returns. Returns where it is."""
        self.begin()
        try:
            for piece in fetched.pieces():
                self.write(piece)
            place = self.end()
        except OSError:
            self.drop()
            raise
        self.sync()
        return place

    def close(self) -> None:  # noqa: B027 - most places have nothing to close
        """No more messages come; what was not synced is given up."""


def open_target(text: str) -> Target:
    """`maildir:DIR`, `mbox:FILE` or `-` for standard output. Raises Problem."""
    if text == "-":
        return Standard()
    kind, place = _read(text)
    try:
        return Maildir(place) if kind == "maildir" else Mbox(place)
    except OSError as error:
        raise Problem(Exit.CANNOT_CREATE, f"{place} cannot be written: {error.strerror}") from error


def name_of(text: str) -> str:
    """The name of a place that is not opened; "" for none. Raises Problem."""
    if text in ("", "-"):
        return text
    kind, place = _read(text)
    return f"{kind}:{place.resolve()}"


def _read(text: str) -> tuple[str, Path]:
    kind, colon, path = text.partition(":")
    if not colon or kind not in ("maildir", "mbox") or not path:
        raise Problem(Exit.USAGE, f"--to needs maildir:DIR, mbox:FILE or -, not {text!r}")
    return kind, Path(path).expanduser()


class Standard(Target):
    """Standard output: the octets as they came, of whole messages only. A terminal gets them harmless."""

    name = "-"

    def __init__(self) -> None:
        self._fetched = Fetched()

    def begin(self, token: str = "") -> None:
        """A message begins."""
        self._fetched = Fetched()

    def write(self, octets: bytes) -> None:
        """The next piece."""
        self._fetched.add(octets)

    def end(self) -> str:
        """Writes the message."""
        from posthouse.cli.output import write_octets

        with self._fetched as fetched:
            write_octets(fetched.pieces())
        return "standard output"

    def drop(self) -> None:
        """Nothing was written yet."""
        self._fetched.close()

    def close(self) -> None:
        """Nothing is left open."""
        self._fetched.close()


class _Lines:
    """CR LF becomes LF, in pieces cut anywhere. Windows keeps the CR."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def add(self, octets: bytes, *, last: bool = False) -> bytes:
        """The same octets with the line ends of this system."""
        if os.name != "posix":
            return octets
        octets = self._held + octets
        self._held = b""
        if octets.endswith(b"\r") and not last:
            octets, self._held = octets[:-1], b"\r"
        return octets.replace(b"\r\n", b"\n")


class Maildir(Target):
    """A Maildir: each message a file of its own, written under tmp and moved to new once it is on the disk.

    A file's name is `time.token.host`, and the token is made of the unique-id. So after a crash the messages that lie
    in new or cur already, and that no list names yet, are known by their names. Names are plain texts here: a `Path`
    for each message would cost as much as all the rest.
    """

    def __init__(self, folder: Path) -> None:
        for name in ("tmp", "new", "cur"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self.name = f"maildir:{folder.resolve()}"
        self._tmp, self._new, self._cur = (str(folder / name) for name in ("tmp", "new", "cur"))
        self._host = re.sub(r"[/:\\]", "_", socket.gethostname()) or "localhost"
        self._moment = 0
        self._name = ""
        self._file = -1
        self._held: list[bytes] = []
        self._size = 0
        self._lines = _Lines()
        self._ended: list[tuple[int, str]] = []
        self._pool: ThreadPoolExecutor | None = None

    def start(self, moment: int) -> None:
        """No file gets a time before that of its run."""
        self._moment = moment

    def begin(self, token: str = "") -> None:
        """A message begins."""
        self._name = f"{max(int(time.time()), self._moment)}.{token or 'R' + secrets.token_hex(12)}.{self._host}"
        self._lines = _Lines()
        self._held, self._size = [], 0

    def write(self, octets: bytes) -> None:
        """The next piece. Small messages are written at once when they end."""
        self._held.append(octets)
        self._size += len(octets)
        if self._size > PIECE:
            self._spill()

    def _spill(self, *, last: bool = False) -> None:
        if self._file < 0:
            path = f"{self._tmp}/{self._name}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), FILE_MODE)
        _write(self._file, self._lines.add(b"".join(self._held), last=last))
        self._held, self._size = [], 0

    def end(self) -> str:
        """The message is whole, and still under tmp."""
        self._spill(last=True)
        self._ended.append((self._file, self._name))
        self._file = -1
        return f"{self._new}/{self._name}"

    def drop(self) -> None:
        """Removes what was written of the message."""
        self._held = []
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            with contextlib.suppress(OSError):
                Path(self._tmp, self._name).unlink()

    def sync(self) -> None:
        """The messages first, then their new names."""
        if not self._ended:
            return
        files = [file for file, _ in self._ended]
        if len(files) == 1:
            os.fsync(files[0])
        else:
            self._pool = self._pool or ThreadPoolExecutor(SYNCS)
            list(self._pool.map(os.fsync, files))
        ended, self._ended = self._ended, []
        for file, _ in ended:
            os.close(file)  # Windows renames no open file
        for _, name in ended:
            os.rename(f"{self._tmp}/{name}", f"{self._new}/{name}")  # noqa: PTH104 (see above)
        sync_folder(self._new)

    def recover(self, moment: int, length: int, mark: str) -> set[str]:
        """Removes what is half written, and finds what is whole."""
        for name, _, token in _ours(self._tmp, mark):
            if token:
                with contextlib.suppress(OSError):
                    Path(self._tmp, name).unlink()
        found = {token for folder in (self._new, self._cur) for _, time, token in _ours(folder, mark) if time >= moment}
        if found:
            sync_folder(self._new)
            sync_folder(self._cur)
        return found

    def close(self) -> None:
        """Gives up what was not synced."""
        self.drop()
        while self._ended:
            file, name = self._ended.pop()
            os.close(file)
            with contextlib.suppress(OSError):
                Path(self._tmp, name).unlink()
        if self._pool is not None:
            self._pool.shutdown()


def _ours(folder: str, mark: str) -> Iterator[tuple[str, int, str]]:
    """The files whose token begins with the mark: name, time and token."""
    with os.scandir(folder) as entries:
        for entry in entries:
            match = NAME.match(entry.name)
            if match is not None and match[2].startswith(mark):
                yield entry.name, int(match[1]), match[2]


class Mbox(Target):
    """An mbox file in the mboxrd form: a line that begins with any number of ">" and "From " gets one more ">", so that
    every message can be given back as it was (RFC 4155, and its reversible variant).

    After a crash the file is cut back to the length that is remembered, if what follows was written by the broken run:
    its first line has the time of that run in it, and no message of another program stands behind.
    """

    def __init__(self, path: Path) -> None:
        existed = path.exists()
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), FILE_MODE)
        try:
            _lock(self._file, path)
            if not existed:
                sync_folder(str(path.parent))
        except BaseException:
            os.close(self._file)
            raise
        self.name = f"mbox:{path.resolve()}"
        self._from_line = _from_line(int(time.time()))
        self._begun = self._size = 0
        self._under_way = False
        self._escape = _Escape()
        self._held: list[bytes] = []

    @property
    def length(self) -> int:
        """Octets of the file."""
        return os.fstat(self._file).st_size

    def start(self, moment: int) -> None:
        """All messages of a run have its time in their first line."""
        self._from_line = _from_line(moment)

    def begin(self, token: str = "") -> None:
        """A message begins, behind an empty line."""
        self._begun = self.length
        self._under_way = True
        self._escape = _Escape()
        self._held = [self._gap(), self._from_line]
        self._size = 0

    def _gap(self) -> bytes:
        """What another program may have left out at the end of the file."""
        if self._begun == 0:
            return b""
        os.lseek(self._file, max(0, self._begun - 2), os.SEEK_SET)
        end = os.read(self._file, 2)
        return b"" if end.endswith(b"\n\n") else b"\n" if end.endswith(b"\n") else b"\n\n"

    def write(self, octets: bytes) -> None:
        """The next piece."""
        self._held.append(self._escape.add(octets))
        self._size += len(octets)
        if self._size > PIECE:
            self._spill()

    def _spill(self) -> None:
        held, self._held, self._size = self._held, [], 0
        _write(self._file, b"".join(held))

    def end(self) -> str:
        """The message is whole; an empty line stands behind it."""
        self._held.append(self._escape.end() + b"\n")
        self._spill()
        self._under_way = False
        return str(self._path)

    def drop(self) -> None:
        """Cuts the file back to where the message began."""
        self._held = []
        if self._under_way:
            self._under_way = False
            os.ftruncate(self._file, self._begun)

    def sync(self) -> None:
        """Waits for the disk."""
        os.fsync(self._file)

    def recover(self, moment: int, length: int, mark: str) -> set[str]:
        """Cuts off what the broken run has added."""
        ours = self._is_rest(_from_line(moment), length)
        if ours:
            os.ftruncate(self._file, length)
            os.fsync(self._file)
        elif ours is None:
            text = f"posthouse read: {self._path} was changed after a run broke off: its last messages may come twice."
            print(text, file=sys.stderr)
        return set()

    def _is_rest(self, first: bytes, length: int) -> bool | None:
        """Whether everything behind this place was written by a run whose messages begin with this line; None: not
        everything."""
        begun = False
        at_start = True
        for line in self._lines_from(length):
            if at_start and line != b"\n" and (not begun or line.startswith(b"From ")):
                torn = first.startswith(line) and not line.endswith(b"\n")
                if line != first and not torn:
                    return None if begun else False
                begun = True
            at_start = line.endswith(b"\n")
        return begun

    def _lines_from(self, place: int) -> Iterator[bytes]:
        """The lines from a place on, very long ones in parts. Not by a second opening of the file: closing that would
        end our lock (POSIX, fcntl)."""
        rest = b""
        os.lseek(self._file, place, os.SEEK_SET)
        while octets := os.read(self._file, PIECE):
            *lines, rest = (rest + octets).split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(rest) > PIECE:
                yield rest
                rest = b""
        if rest:
            yield rest

    def close(self) -> None:
        """Lets go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _from_line(moment: int) -> bytes:
    return f"From MAILER-DAEMON {time.asctime(time.gmtime(moment))}\n".encode("ascii")


_FROM: Final = re.compile(rb"^(>*From )", re.MULTILINE)
_FROM_BELOW: Final = re.compile(rb"(?<=\n)(>*From )")  # for a block that goes on with a line


class _Escape:
    """LF for CR LF and ">" before "From ", whole lines at a time; of very long lines, parts."""

    __slots__ = ("_at_start", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._at_start = True

    def add(self, octets: bytes) -> bytes:
        """What is certain of the lines so far."""
        rest = self._rest + octets
        cut = rest.rfind(b"\n") + 1 or (len(rest) - 1 if len(rest) > PIECE else 0)
        self._rest = rest[cut:]
        return self._give(rest[:cut]) if cut else b""

    def end(self) -> bytes:
        """The rest, ended by a line end whatever it was."""
        octets = self._give(self._rest) if self._rest else b""
        return octets if self._at_start else octets + b"\n"

    def _give(self, octets: bytes) -> bytes:
        block = octets.replace(b"\r\n", b"\n")
        block_at_start, self._at_start = self._at_start, block.endswith(b"\n")
        return (_FROM if block_at_start else _FROM_BELOW).sub(rb">\1", block)


def _write(file: int, octets: bytes) -> None:
    """All of it: a full disk may take a part first."""
    view = memoryview(octets)
    while view:
        view = view[os.write(file, view) :]


def _lock(file: int, path: Path) -> None:
    """Keeps other programs out of the file where the system can do that. Raises Problem when one is in it."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(Exit.TEMPORARY, f"Another program is writing to {path}. Repeat it later.") from None


def sync_folder(folder: str) -> None:
    """A new name is on the disk only when its folder is."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
