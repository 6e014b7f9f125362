"""Making a backup beside a running server.

The order is what makes it whole. Content files that the pool does not have are linked into a folder of our own while
letters come and go; then, for a few milliseconds in which nobody can commit, those that came meanwhile are linked and
the look at the database begins. A file that the database names at that moment cannot be lost to us any more, whatever
is deleted while we copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from posthouse.ports.system import Clock, Random
from posthouse.store.backup.faults import BackupError, Cause, Damaged, full, writing
from posthouse.store.backup.links import Links
from posthouse.store.backup.manifest import (
    CONTENT,
    DATABASE,
    FILE,
    FORM,
    Entry,
    Manifest,
    Owner,
    encode_entry,
)
from posthouse.store.backup.objects import CHUNK, Stored
from posthouse.store.backup.others import BANS, OUTSIDE, READ, UNFIT, copy_bans, walk
from posthouse.store.backup.repository import Progress, Repository, changing
from posthouse.store.backup.rights import acting_as, keeper_of, owner_of
from posthouse.store.sqlite.snapshot import Facts, Live, files_of, unreadable

MOST_TOLD: Final = 1000
PART: Final = 4_194_304  # octets of a file that is no letter in one object
REST: Final = 0.1  # seconds behind a written object at most


@dataclass(slots=True)
class Made:
    """A backup that was made."""

    manifest: Manifest
    unchanged: bool = False  # the database was as in the last one
    seconds: float = 0.0
    unread: list[str] = field(default_factory=list)  # other files that could not be read


def create(
    data: Path,
    folder: Path,
    *,
    clock: Clock,
    random: Random,
    version: str,
    configuration: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Made:
    """Makes a backup of a data directory in a backup directory, which is begun when it is not there. A `configuration`
    that lies elsewhere is taken along. Raises BackupError, StoreError, OSError: then there is no new backup, and the
    old ones are unchanged."""
    data, folder = data.resolve(), folder.resolve()
    outside = configuration is not None and data not in configuration.resolve().parents
    if folder == data or data in folder.parents:
        text = f"{folder} lies in the data directory {data}: what destroys one destroys both. Name another place."
        raise BackupError(Cause.EXISTS, text)
    began = clock.monotonic()
    with acting_as(keeper_of(folder)), writing(folder), changing(folder, make=True) as repository:
        with contextlib.ExitStack() as held, _explained(data):
            made = _Making(data, repository, held, clock, random, progress).make(
                version, configuration if outside else None
            )
        made.seconds = clock.monotonic() - began
        return made


@contextlib.contextmanager
def _explained(data: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as problem:
        if getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            text = "The database is written to without a pause. There is no new backup; try again later."
            raise BackupError(Cause.BUSY, text) from problem
        raise unreadable(data / "posthouse.db", problem) from problem


class _Making:
    """One backup in the making."""

    def __init__(
        self,
        data: Path,
        repository: Repository,
        held: contextlib.ExitStack,
        clock: Clock,
        random: Random,
        progress: Progress,
    ) -> None:
        assert repository.staging is not None, "opened for changing"
        self._data = data
        self._owner = owner_of(data)
        self._repository = repository
        self._pool = repository.pool
        self._staging = repository.staging
        self._clock = clock
        self._progress = progress
        with acting_as(self._owner):
            self._live = Live(data / "posthouse.db")
            held.callback(self._close)
            self._links = Links(data, random)
            held.callback(self._links.close, self._owner)
        self._listing = (self._staging / "listing").open("wb")
        held.callback(self._listing.close)
        self._objects = self._size = self._new = 0
        self._missing: list[str] = []
        self._unread: list[str] = []

    def _close(self) -> None:
        with acting_as(self._owner):
            self._live.close()

    def make(self, version: str, configuration: Path | None) -> Made:
        """Makes it. Raises what `create` does."""
        begun = self._clock.now()
        last = self._usable(self._repository.newest())
        self._live.look()
        facts = self._live.facts()
        unchanged = last is not None and last.fingerprint == facts.fingerprint
        if unchanged and last is not None:
            self._live.forget()
            for entry in self._repository.entries(last):
                if entry.kind != FILE:
                    self._note(entry)
            self._missing = last.missing
        else:
            facts = self._copy(facts.content, last)
        self._others()
        if configuration is not None:
            self._other(configuration, OUTSIDE, 0o600)
        self._listing.flush()
        listing = self._keep_listing(self._staging / "listing")
        number = max((one.number for one in self._repository.manifests()[0]), default=0) + 1
        manifest = Manifest(
            FORM,
            self._repository.name(begun),
            number,
            begun,
            self._clock.now(),
            version,
            facts.schema,
            facts.fingerprint,
            listing.name,
            listing.size,
            self._objects,
            self._size,
            self._new,
            facts.letters,
            facts.accounts,
            facts.queued,
            Owner(self._owner.user, self._owner.group, self._owner.uid, self._owner.gid),
            self._missing[:MOST_TOLD],
        )
        self._repository.save(manifest)
        return Made(manifest, unchanged, unread=self._unread)

    def _usable(self, last: Manifest | None) -> Manifest | None:
        """The last backup, if all it consists of is still in the pool; else everything is looked at anew."""
        if last is None or last.form != FORM:
            return None
        try:
            whole = all(self._pool.has(entry.object, entry.size) for entry in self._repository.entries(last))
        except Damaged as problem:
            if problem.gone:
                self._pool.set_aside(problem.name)
            return None
        return last if whole else None

    # The database and large letters

    def _copy(self, content: int, last: Manifest | None) -> Facts:
        """Copies the database and the contents that the pool lacks; returns what is in the copy."""
        self._link_new(last)
        self._live.forget()
        with self._live.still():
            self._link(self._live.files_since(content))
        facts = self._live.facts()
        copy = self._staging / "posthouse.db"
        if shutil.disk_usage(self._staging).free < facts.octets:
            raise full(self._repository.folder)
        try:
            self._live.copy(copy, lambda done, total: self._progress(done // 2, total))
        except sqlite3.OperationalError as problem:
            if getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise full(self._repository.folder) from problem
            raise
        self._live.forget()
        with copy.open("rb", buffering=0) as file:
            while octets := file.read(CHUNK):
                began = self._clock.monotonic()
                stored = self._pool.put(octets)
                self._keep(DATABASE, stored)
                if stored.new:
                    self._rest(began)
                self._progress((facts.octets + file.tell()) // 2, facts.octets)
        for name, known in self._with_known(files_of(copy), last):
            self._content(name, known)
        copy.unlink()
        return facts

    def _link_new(self, last: Manifest | None) -> None:
        """Links the files of all contents that the last backup does not have."""
        names: list[str] = []
        for name, known in self._with_known(self._live.files(), last):
            if known is None:
                names.append(name)
            if len(names) >= MOST_TOLD:
                self._link(names)
                names = []
        self._link(names)

    def _link(self, names: list[str]) -> None:
        with acting_as(self._owner):
            for name in names:
                self._links.add(name)

    def _with_known(self, names: Iterator[str], last: Manifest | None) -> Iterator[tuple[str, Entry | None]]:
        """Each name with what the last backup says of it; both are in order."""
        entries = iter(()) if last is None else self._repository.entries(last)
        known = None
        for name in names:
            while known is None or known.kind != CONTENT or known.path < name:
                known = next(entries, None)
                if known is None:
                    entries = iter(())
                    break
            yield name, known if known is not None and known.path == name else None

    def _content(self, name: str, known: Entry | None) -> None:
        """Keeps one content: a file never changes under its name, so what is known need not be read."""
        if known is not None:
            self._note(known)
            return
        try:
            with acting_as(self._owner):
                descriptor = self._links.open(name)
        except FileNotFoundError:  # it was lost before: nobody could unlink what we look at
            self._missing.append(name)
            return
        try:
            self._keep(CONTENT, self._put(descriptor), name)
        finally:
            os.close(descriptor)

    def _put(self, descriptor: int, most: int | None = None) -> Stored:
        began = self._clock.monotonic()
        stored = self._pool.put_file(descriptor, most)
        if stored.new:
            self._rest(began)
        return stored

    # Everything else

    def _others(self) -> None:
        """Keeps all other files: the configuration, certificates, keys, the audit log, bans."""
        with acting_as(self._owner):
            found = list(walk(self._data))
            descriptor = copy_bans(self._data, self._links.folder)
        if descriptor is not None:
            self._parts(descriptor, BANS, 0o600)
        for path, mode in found:
            if mode == UNFIT:
                self._unread.append(path)
                continue
            self._other(self._data / path, path, mode)

    def _other(self, source: Path, path: str, mode: int) -> None:
        """Keeps one of these; who owns the mail must be able to read it."""
        try:
            with acting_as(self._owner):
                descriptor = os.open(source, READ)
        except FileNotFoundError:
            return  # removed meanwhile
        except OSError:
            self._unread.append(path)
            return
        self._parts(descriptor, path, mode)

    def _parts(self, descriptor: int, path: str, mode: int) -> None:
        """A file in parts: of a log that only grows, the last one is new."""
        try:
            while True:
                stored = self._put(descriptor, PART)
                self._keep(FILE, stored, path, mode)
                if stored.size < PART:
                    return
        finally:
            os.close(descriptor)

    def _keep_listing(self, path: Path) -> Stored:
        descriptor = os.open(path, READ)
        try:
            stored = self._put(descriptor)
        finally:
            os.close(descriptor)
        self._count(stored)
        return stored

    def _rest(self, began: float) -> None:
        """After an object that was written, as long a rest as it took: letters are synced to the same disk."""
        time.sleep(min(self._clock.monotonic() - began, REST))

    def _keep(self, kind: str, stored: Stored, path: str = "", mode: int = 0o600) -> None:
        self._listing.write(encode_entry(Entry(kind, stored.name, stored.size, path, mode)))
        self._count(stored)

    def _note(self, entry: Entry) -> None:
        """Names an object of the last backup."""
        self._listing.write(encode_entry(entry))
        self._count(Stored(entry.object, entry.size))

    def _count(self, stored: Stored) -> None:
        self._objects += 1
        self._size += stored.size
        self._new += stored.size if stored.new else 0
