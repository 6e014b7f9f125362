"""Bringing single letters back, or all that a mailbox lacks, into a store that may be served meanwhile.

First, with the rights that read the backup, its database and the large letters that are wanted are put into a corner
of the data directory; then, with the rights of the directory's owner alone, the letters go from there into the store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from posthouse.mail.reply import Unavailable
from posthouse.net.files import try_lock
from posthouse.ports.store import Draft, Former, Store
from posthouse.ports.system import Clock, Random
from posthouse.store.backup.assemble import Wanted, assemble
from posthouse.store.backup.corner import Corner
from posthouse.store.backup.faults import ROOM, BackupError, Cause, Damaged, writing
from posthouse.store.backup.manifest import CONTENT, DATABASE, Manifest
from posthouse.store.backup.objects import CHUNK
from posthouse.store.backup.repository import Progress, Repository, reading
from posthouse.store.backup.rights import acting_as, keeper_of, owner_of
from posthouse.store.sqlite.former import Archive, Candidate, FormerAccount, held
from posthouse.store.sqlite.pool import prepare
from posthouse.store.sqlite.snapshot import unreadable

__all__ = ["Candidate", "Drawn", "Returned", "Wish", "draw", "put_back"]

TOGETHER: Final = 64  # letters of one transaction at most
TOGETHER_OCTETS: Final = 8_388_608
MOST_TOLD: Final = 20


@dataclass(slots=True, frozen=True)
class Wish:
    """Which letters: all of an account, or those with this id, or the one that POP3 called by this number."""

    address: str  # canonical
    letter: str = ""
    message: int = 0

    @property
    def one(self) -> bool:
        """Whether a single letter is meant."""
        return bool(self.letter or self.message)

    def fits(self, candidate: Candidate) -> bool:
        """Whether this letter is meant."""
        if self.letter:
            return candidate.letter == self.letter
        return not self.message or candidate.number == self.message


@dataclass(slots=True)
class Drawn:
    """Letters that lie at hand to be brought back."""

    manifest: Manifest
    account: FormerAccount
    missing: list[Candidate]
    there: int  # that are meant and in the mailbox already
    archive: Archive = field(repr=False)
    folder: Path = field(repr=False)


@dataclass(slots=True)
class Returned:
    """What was brought back."""

    letters: int = 0
    made_account: bool = False
    damaged: list[str] = field(default_factory=list)  # ids of letters whose octets are not what they were


@contextlib.contextmanager
def draw(
    data: Path,
    folder: Path,
    name: str,
    wish: Wish,
    *,
    clock: Clock,
    random: Random,
    contents: bool = True,
    progress: Progress = lambda done, total: None,
) -> Iterator[Drawn]:
    """Puts what is wished for at hand; it is gone again at the end of the block. Without `contents` large letters are
    only named. Raises BackupError, StoreError."""
    data, owner = data.resolve(), owner_of(data)
    with contextlib.ExitStack() as stack:
        with acting_as(keeper_of(folder)), reading(folder) as repository:
            manifest = repository.find(name)
            with acting_as(owner):
                stack.enter_context(_alone(data))
                corner = Corner(data, "restore", random)
                stack.callback(corner.close)
            drawing = _Drawing(data, repository, manifest, corner.folder / "data", progress)
            with _explained(repository, data), writing(data, ROOM):
                drawing.database(clock)
                with acting_as(owner):
                    archive = Archive(drawing.folder / "posthouse.db")
                    stack.callback(archive.close)
                    drawn = drawing.find(archive, wish)
                if contents:
                    drawing.contents({one.file for one in drawn.missing if one.file is not None})
        yield drawn


class _Drawing:
    """The work of `draw`."""

    def __init__(
        self, data: Path, repository: Repository, manifest: Manifest, folder: Path, progress: Progress
    ) -> None:
        self.folder = folder
        self._data = data
        self._owner = owner_of(data)
        self._repository = repository
        self._manifest = manifest
        self._progress = progress

    def database(self, clock: Clock) -> None:
        """The database of the backup, in its newest form."""
        with acting_as(self._owner):
            self.folder.mkdir(mode=0o700)
        self._assemble(lambda entry: entry.kind == DATABASE)
        with acting_as(self._owner):
            prepare(self.folder / "posthouse.db", 10.0, clock.now(), serve=True)

    def find(self, archive: Archive, wish: Wish) -> Drawn:
        """What is wished for, and what of it is missing today."""
        account = archive.account(wish.address)
        if account is None:
            known = archive.addresses(MOST_TOLD)
            some = ", ".join(known) + (" and others" if len(known) == MOST_TOLD else "")
            text = f"The backup {self._manifest.name} has no account {wish.address}. It has {some or 'none at all'}."
            raise BackupError(Cause.ABSENT, text)
        candidates = archive.candidates(wish.address, held(self._data / "posthouse.db", wish.address))
        missing: list[Candidate] = []
        there = 0
        for candidate in candidates:
            if wish.fits(candidate):
                there += candidate.there
                if not candidate.there:
                    missing.append(candidate)
        if wish.one and not missing and not there:
            which = f"letter {wish.letter}" if wish.letter else f"message {wish.message}"
            text = f"The backup {self._manifest.name} has no {which} for {wish.address}. --dry-run lists what it has."
            raise BackupError(Cause.ABSENT, text)
        return Drawn(self._manifest, account, missing, there, archive, self.folder)

    def contents(self, names: set[str]) -> None:
        """The large letters of these names."""
        if names:
            self._assemble(lambda entry: entry.kind == CONTENT and entry.path in names)

    def _assemble(self, wanted: Wanted) -> None:
        needed = sum(entry.size for entry in self._repository.entries(self._manifest) if wanted(entry))
        if shutil.disk_usage(self._data).free < needed * 3 // 2:
            raise BackupError(
                Cause.STORAGE,
                f"The disk of {self._data} has no room for the {needed} octets that are needed. Nothing was changed.",
            )
        assemble(
            self._repository,
            self._manifest,
            self.folder,
            wanted=wanted,
            owner=self._owner,
            spare=True,
            progress=self._progress,
        )


@contextlib.contextmanager
def _explained(repository: Repository, data: Path) -> Iterator[None]:
    try:
        yield
    except Damaged as problem:
        raise repository.damage(problem) from problem
    except sqlite3.Error as problem:
        raise unreadable(data / "posthouse.db", problem) from problem


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """One restore at a time: two of them would bring the same letters back twice. The lock is on the directory itself,
    a server's is on a file in it."""
    if not (data / "posthouse.db").exists():
        text = f"There is no mail in {data}. Restore everything first (without --account), or name it with --data."
        raise BackupError(Cause.ABSENT, text)
    if sys.platform == "win32":  # a directory cannot be locked there
        yield
        return
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not try_lock(descriptor):
            text = f"Another restore brings letters back into {data}. Try again when it is over."
            raise BackupError(Cause.BUSY, text)
        yield
    finally:
        os.close(descriptor)


# Into the store


async def put_back(store: Store, drawn: Drawn, progress: Progress = lambda done, total: None) -> Returned:
    """Puts what was drawn into its mailbox, some letters to a transaction, and makes the account anew when it is gone.
    Raises BackupError, Unavailable; those of earlier transactions are back then."""
    returned = Returned()
    if not drawn.missing:
        return returned
    address = drawn.account.address
    account = await store.find_account(address)
    if account is None:
        domain = address.rpartition("@")[2]
        if await store.find_domain(domain) is None:
            text = f"There is no domain {domain} here any more. Add it first: posthouse domain add {domain}"
            raise BackupError(Cause.ABSENT, text)
        account = await store.add_account(address, drawn.account.password, drawn.account.quota)
        returned.made_account = True
    total, done = sum(one.size for one in drawn.missing), 0
    for some in _portions(drawn.missing):
        letters = await _read_all(store, drawn, some, returned)
        if letters:
            returned.letters += len(await store.put_back(account.inbox, letters))
        done += sum(one.size for one in some)
        progress(done, total)
    return returned


def _portions(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    some: list[Candidate] = []
    octets = 0
    for candidate in candidates:
        if some and (len(some) >= TOGETHER or octets + candidate.size > TOGETHER_OCTETS):
            yield some
            some, octets = [], 0
        some.append(candidate)
        octets += candidate.size
    if some:
        yield some


async def _read_all(
    store: Store, drawn: Drawn, candidates: Sequence[Candidate], returned: Returned
) -> list[tuple[Draft, Former]]:
    """These letters in drafts, but for those that are damaged. Raises Unavailable: then there is no draft left."""
    letters: list[tuple[Draft, Former]] = []
    try:
        for one in candidates:
            if (letter := await _read(store, drawn, one, returned)) is not None:
                letters.append(letter)
    except BaseException:
        for draft, _ in letters:
            await draft.discard()
        raise
    return letters


async def _read(store: Store, drawn: Drawn, candidate: Candidate, returned: Returned) -> tuple[Draft, Former] | None:
    """A letter in a draft of the store; None when it is damaged."""
    former, file, data, checksum = drawn.archive.read(candidate.message)
    draft = store.draft(candidate.size)
    running = 0
    try:
        for piece in _pieces(drawn.folder, file, data):
            running = zlib.crc32(piece, running)
            await draft.write(piece)
    except (FileNotFoundError, Unavailable) as problem:
        await draft.discard()
        if isinstance(problem, Unavailable):
            raise
        running = -1
    if running == checksum:
        return draft, former
    await draft.discard()
    returned.damaged.append(former.letter)
    return None


def _pieces(folder: Path, file: str | None, data: bytes | None) -> Iterator[bytes]:
    if file is None:
        yield data or b""
        return
    with (folder / "content" / file[:2] / file).open("rb", buffering=0) as opened:
        while piece := opened.read(CHUNK):
            yield piece
