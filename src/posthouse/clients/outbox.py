"""The outbox: a person's letters that could not be handed over yet, each in a folder of its own.

    outbox/k3f9a2x7/letter.eml   the message, CRLF, as it leaves; after an edit under another name
                    state.json   envelope, state, attempts; replaced as a whole
                    001.txt      the transcript of the first attempt, secrets masked
                    lock         locked by whoever works on the letter

Invariants: a folder with a name of its own is whole and on the disk. Whoever changes a letter holds its lock, which
the system frees when a process dies, so no letter is ever in two hands. Before the final dot of an attempt leaves,
the recipients that it decides about are written down as uncertain: a crash at any later point sends nothing twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from posthouse.clients.waiting import Damaged, State, Waiting, read, write
from posthouse.net.files import sync_directory, sync_file, try_lock, write_whole

STATE: Final = "state.json"
LOCK: Final = "lock"
STATE_SIZE: Final = 67_108_864  # octets of a state file that are read
KEEP_SENT: Final = 7 * 86_400.0  # seconds that a sent letter's record is kept; its message goes at once
UNFINISHED: Final = 3600.0  # seconds after which a folder without a name of its own is looked at as left behind
PIECE: Final = 262_144
_ID: Final = re.compile(r"[0-9a-z]{8}")
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: nothing that looks like something else


class Missing(Exception):
    """There is no such letter."""


class Busy(Exception):
    """Another process works on the letter."""


class Taken:
    """A letter in this process's hands, until it is let go. Changes of `waiting` are durable once `save` returned."""

    def __init__(self, folder: Path, lock: IO[bytes], waiting: Waiting) -> None:
        self.folder = folder
        self.waiting = waiting
        self._lock = lock

    def __enter__(self) -> Taken:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Others may take it."""
        self._lock.close()

    def save(self) -> None:
        """Writes down how it stands; on the disk when this returns. Raises OSError; then the old state stands."""
        write_whole(self.folder / STATE, write(self.waiting), 0o600)

    @property
    def message(self) -> Path:
        """The file of the message."""
        return self.folder / self.waiting.file

    def content(self) -> Iterator[bytes]:
        """The message in pieces."""
        with self.message.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def add_transcript(self, text: str) -> str:
        """Keeps the transcript of an attempt; returns its name."""
        names = [path.stem for path in self.folder.glob("[0-9]*.txt")]
        name = f"{max((int(stem) for stem in names if stem.isdigit()), default=0) + 1:03}.txt"
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return name

    def replace(self, pieces: Iterable[bytes]) -> None:
        """Puts another message in the place of this one, together with what else changed in `waiting`: after a crash
        there is the old letter or the new one. Raises OSError."""
        before = self.waiting.file, self.waiting.size
        self.waiting.file = f"letter-{secrets.token_hex(4)}.eml"
        try:
            self.waiting.size = _write(self.message, pieces)
            self.save()
        except OSError:
            self.message.unlink(missing_ok=True)
            self.waiting.file, self.waiting.size = before
            raise
        for other in self.folder.glob("letter*.eml"):
            if other != self.message:
                other.unlink()

    def drop(self) -> None:
        """Takes the letter out of the outbox."""
        _drop(self.folder)


class Outbox:
    """One person's outbox."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, waiting: Waiting, content: Iterable[bytes]) -> Taken:
        """Puts a letter in; it is on the disk, and in our hands, when this returns. Its id and size are filled in.
        Raises OSError; then nothing is left of it."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path / f".new-{secrets.token_hex(8)}"
        draft.mkdir(mode=0o700)
        lock = _open_lock(draft / LOCK)
        try:
            assert try_lock(lock)
            taken = Taken(draft, lock, waiting)
            waiting.size = _write(taken.message, content)
            self._name(taken)
        except BaseException:
            lock.close()
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return taken

    def _name(self, taken: Taken) -> None:
        """Gives a whole draft its name, by which it becomes a letter of the outbox."""
        while True:
            taken.waiting.id = "".join(secrets.choice(_LETTERS) for _ in range(8))
            final = self.path / taken.waiting.id
            taken.save()
            try:
                taken.folder.rename(final)
            except OSError:
                if not final.exists():
                    raise
                continue
            taken.folder = final
            sync_directory(self.path)
            return

    def ids(self) -> list[str]:
        """All letters, in no order."""
        try:
            return [entry.name for entry in os.scandir(self.path) if _ID.fullmatch(entry.name)]
        except FileNotFoundError:
            return []

    def find(self, text: str) -> str:
        """The id that the text begins. Raises Missing, whose text says why none is meant."""
        found = [name for name in self.ids() if name.startswith(text.lower())] if text else []
        if len(found) == 1:
            return found[0]
        if found:
            raise Missing(f"{text} is the beginning of {len(found)} letters: {', '.join(sorted(found)[:10])}")
        raise Missing(f"there is no letter {text} in the outbox")

    def look(self, name: str, now: float) -> Waiting:
        """A letter as it stands, without taking it; what a dead process left is put right first. Raises Missing or
        Damaged."""
        waiting = self._read(name)
        if waiting.phase:
            with contextlib.suppress(Busy), self.take(name, now) as taken:
                return taken.waiting
        return waiting

    def list(self, now: float) -> tuple[list[Waiting], dict[str, str]]:
        """All letters in the order they came, and what is wrong with those that cannot be read."""
        letters: list[Waiting] = []
        damaged: dict[str, str] = {}
        for name in self.ids():
            try:
                letters.append(self.look(name, now))
            except Missing:
                continue  # it left meanwhile
            except Damaged as error:
                damaged[name] = str(error)
        return sorted(letters, key=lambda waiting: (waiting.accepted, waiting.id)), damaged

    def take(self, name: str, now: float) -> Taken:
        """Takes a letter into our hands. Raises Missing, Busy or Damaged."""
        try:
            lock = _open_lock(self.path / name / LOCK)
        except FileNotFoundError:
            raise Missing(f"there is no letter {name} in the outbox") from None
        try:
            if not try_lock(lock):
                raise Busy(f"the letter {name} is being sent or edited now")
            # Only now: between opening and locking it may have been changed, or have gone with its folder.
            taken = Taken(self.path / name, lock, self._read(name))
            if taken.waiting.recover(now):
                taken.save()
        except BaseException:
            lock.close()
            raise
        return taken

    def drop_damaged(self, name: str) -> None:
        """Takes a letter out that cannot be read. Raises Busy."""
        lock = _open_lock(self.path / name / LOCK)
        with lock:
            if not try_lock(lock):
                raise Busy(f"the letter {name} is being sent or edited now")
            _drop(self.path / name)

    def _read(self, name: str) -> Waiting:
        try:
            with (self.path / name / STATE).open("rb") as file:
                return read(file.read(STATE_SIZE))
        except FileNotFoundError:
            if (self.path / name).is_dir():
                raise Damaged("its state is not there") from None
            raise Missing(f"there is no letter {name} in the outbox") from None

    def sweep(self, now: float) -> None:
        """Removes what crashes left, the messages of letters that were sent, and their records after a week."""
        for path in [*self.path.glob(".new-*"), *self.path.glob(".gone-*")]:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < now - UNFINISHED:
                    _remove(path)
        for waiting in self.list(now)[0]:
            if waiting.state is not State.SENT or waiting.finished is None:
                continue
            with contextlib.suppress(Busy, Missing, Damaged, OSError), self.take(waiting.id, now) as taken:
                if now - waiting.finished > KEEP_SENT:
                    taken.drop()
                else:
                    taken.message.unlink(missing_ok=True)


def _drop(folder: Path) -> None:
    """The letter is gone with its name; what is left of it is swept when we die here."""
    gone = folder.with_name(f".gone-{folder.name}-{secrets.token_hex(4)}")
    folder.rename(gone)
    sync_directory(gone.parent)
    shutil.rmtree(gone, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a folder that never became a letter, or was one, unless somebody is writing it still."""
    with _open_lock(path / LOCK) as lock:
        if try_lock(lock):
            shutil.rmtree(path, ignore_errors=True)


def _open_lock(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def _write(path: Path, pieces: Iterable[bytes]) -> int:
    """Writes a file and makes it durable; returns its size."""
    size = 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
            size += len(piece)
        file.flush()
        sync_file(file.fileno())
    return size
