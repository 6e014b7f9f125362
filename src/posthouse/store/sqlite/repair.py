"""Repairing a store: everything readable goes into a new database, which takes the place of the old one at once.

Nothing is mended in place. The old database is only read, and kept; the new one is made in `repairing/`, made whole,
checked, synced, and then renamed to `posthouse.db-repaired`. That name is the moment at which the store is repaired:
whoever opens the data directory next puts it into its place (`datadir.finish_repair`). Killed before, the old store is
there as it was; killed after, the new one. What is put aside is copied before and removed from its place after.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from posthouse.net.files import adopt, sync_directory, sync_file
from posthouse.ports.store import Damage, Repair
from posthouse.ports.system import Clock, Random
from posthouse.store.content import Files
from posthouse.store.datadir import NoDirectory, free_octets
from posthouse.store.model import TALLY, Options, StoreError, StoreTooNew, UniqueIds
from posthouse.store.repairing import REPAIRED, Repairing, finish_repair
from posthouse.store.sqlite.asides import Asides
from posthouse.store.sqlite.check import Examination
from posthouse.store.sqlite.lostfound import LostAndFound
from posthouse.store.sqlite.mending import Mending
from posthouse.store.sqlite.pages import Image
from posthouse.store.sqlite.pool import Readers, connect, create, newest_form, shape_of_form
from posthouse.store.sqlite.salvage import Found, Salvage, schema
from posthouse.store.sqlite.tally import Lost, read_tally, told_of

SPARE: Final = 67_108_864  # octets that must be free besides


def repair(data: Path, clock: Clock, random: Random, *, dry: bool) -> Repair:
    """Repairs the store in a data directory while nobody uses it; with `dry` it is only found out what would be done.

    To be run in a thread. Raises StoreError (StoreInUse while a server or a command is at work, StoreTooNew) with a
    text for people; then nothing was changed.
    """
    try:
        with Repairing(data) as folder:
            finish_repair(data)
            return _Run(data, folder, clock, random, dry=dry).run()
    except OSError as problem:
        raise StoreError(
            f"The store in {data} could not be repaired: {problem.strerror or problem}. It is as it was. "
            "See whether the disk is full or failing, and try again."
        ) from problem
    except sqlite3.Error as problem:
        raise StoreError(
            f"The store in {data} could not be repaired: {problem}. It is as it was. Keep a copy of the whole "
            "directory, and bring the store back from a backup."
        ) from problem


class _Run:
    """One repair of a directory that is locked."""

    def __init__(self, data: Path, folder: Path, clock: Clock, random: Random, *, dry: bool) -> None:
        self._data = data
        self._database = data / "posthouse.db"
        self._draft = folder / "new.db"
        self._clock = clock
        self._random = random
        self._dry = dry
        self._result = Repair(dry=dry)
        self._contents = data / "content"

    def run(self) -> Repair:
        """The repair."""
        self._require_room()
        asides = self._make()
        self._check()
        if not self._dry:
            self._put_in_place(asides)
        return self._result

    def _require_room(self) -> None:
        size = sum(path.stat().st_size for path in self._old() if path.exists())
        free = free_octets(self._data)
        if free is not None and free < size + SPARE:
            raise StoreError(
                f"To repair the store in {self._data} a new database is made beside the old one, which is kept. "
                f"{(size + SPARE - free) // 1_048_576 + 1} MiB are missing on the disk for it. Nothing was changed. "
                "Make room and try again."
            )

    def _old(self) -> list[Path]:
        return [self._database, self._database.with_name("posthouse.db-wal")]

    def _path_of(self, name: str) -> Path:
        return self._contents / name[:2] / name

    # The new database

    def _make(self) -> Asides:
        """Salvages and mends into the draft, which is whole and closed on return."""
        image = Image(self._database)
        form = self._form(image)
        told = self._result.told
        with contextlib.closing(create(self._draft, self._clock.now(), to=form)) as db:
            for table in ("state", "secret"):  # what a new database begins with
                db.execute(f"DELETE FROM {table}")  # noqa: S608 (two names of ours)
            asides = Asides(self._path_of, LostAndFound(self._data, dry=self._dry), told)
            db.execute("BEGIN")
            found = Salvage(image, db, self._path_of, asides.keep).run()
            self._tell_found(found, image)
            db.execute("COMMIT")
        with contextlib.closing(create(self._draft, self._clock.now())) as db:  # the newest form
            asides.use(db)
            db.execute("BEGIN")
            lost = self._lost(db)
            doubtful = bool(image.gaps or "mailbox" in found.bad or "mailbox" in found.refused)
            mending = Mending(db, asides, self._clock, UniqueIds(self._random), told)
            mending.run(found, lost, doubtful=doubtful)
            asides.files(list(self._content_files()))
            ((self._result.letters, self._result.accounts),) = db.execute(
                "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM account)"
            ).fetchall()
            # More than the tally: what was lost was told, and is not to be told again at the next start.
            db.execute("UPDATE state SET commits = commits + 1")
            db.execute("COMMIT")
            db.executescript("PRAGMA incremental_vacuum")
        return asides

    def _form(self, image: Image) -> int:
        """Which form the old database has: the one with its tables, else the one that its header names."""
        names = {name for name, _ in schema(image) if not name.startswith("sqlite_")}
        for form in range(newest_form(), 0, -1):
            if names == {name for _, name in shape_of_form(form)}:
                return form
        header = image.page(1)[:100]
        form = int.from_bytes(header[60:64], "big")
        if header[:16] != b"SQLite format 3\0" or not 0 < form < 10_000:
            return newest_form()
        if form > newest_form():
            raise StoreTooNew(
                f"{self._database} was written by a newer Posthouse (its form is {form}, this program knows "
                f"{newest_form()}). Nothing was changed. Repair it with the newer version."
            )
        return form

    def _lost(self, db: sqlite3.Connection) -> Lost | None:
        """What the old database had forgotten; without its own count nobody knows."""
        rows, counted = db.execute("SELECT commits FROM state").fetchall(), read_tally(self._data / TALLY)
        if counted is None:
            return None
        if not rows:
            db.execute("INSERT INTO state VALUES (1, ?, 0, 0, ?)", (counted[0], self._clock.now()))
            self._result.told.append(Damage("mended", "state", "The store's counters were lost and are made anew."))
            return Lost(0, counted[1])
        if rows[0][0] >= counted[0]:
            return None
        lost = Lost(counted[0] - rows[0][0], counted[1])
        self._result.told.append(Damage("lost", "posthouse.db", told_of(lost)))
        return lost

    def _tell_found(self, found: Found, image: Image) -> None:
        told = self._result.told
        if not image.count:
            told.append(Damage("lost", "posthouse.db", "Of the database nothing is left: no account, no letter."))
            return
        tables = {"sqlite_schema", *(name for kind, name in shape_of_form(newest_form()) if kind == "table")}
        for name, count in sorted(found.bad.items()):
            text = f"The index {name} was damaged and is made anew."
            if name in tables:
                text = (
                    f"Of the table {name} {count} pages are damaged: what could be read of them and behind was taken."
                )
            told.append(Damage("mended", f"posthouse.db, {name}", text))
        for name in found.missing:
            told.append(Damage("mended", f"posthouse.db, {name}", f"{name} was missing and is made anew."))
        for name, count in sorted(found.refused.items()):
            told.append(Damage("lost", f"posthouse.db, {name}", f"{count} rows of {name} could not be read."))
        for name, count in sorted(found.altered.items()):
            text = f"In {count} rows of {name} some octets are no text any more; marks stand in their place."
            told.append(Damage("lost", f"posthouse.db, {name}", text))
        if found.sizes:
            text = f"The sizes of {found.sizes} contents were wrong and are reckoned anew."
            told.append(Damage("mended", "posthouse.db, content", text))
        if image.gaps:
            text = f"{image.gaps} damaged pages of the write-ahead log were stepped over; what stands behind was taken."
            told.append(Damage("mended", "posthouse.db-wal", text))

    def _content_files(self) -> Iterator[tuple[str, list[str]]]:
        if self._contents.is_dir():
            for folder in sorted(self._contents.iterdir()):
                if folder.is_dir():
                    yield folder.name, [entry.name for entry in folder.iterdir()]

    def _check(self) -> None:
        """The new database must hold before it is used; what does not is a defect of ours."""
        readers = Readers(lambda: connect(self._draft))
        try:
            files = Files(NoDirectory(), self._random, Options())
            files.close()
            examination = Examination(readers, files, self._clock, full=True)
            for portion in examination.database():
                self._result.remains += portion
        finally:
            readers.close()
        if any(damage.what in ("structure", "schema", "unreadable") for damage in self._result.remains):
            raise StoreError(
                f"The new database for {self._data} did not pass its check: {self._result.remains[0].text} "
                "The store is as it was. See whether the disk is failing."
            )

    # Its place

    def _put_in_place(self, asides: Asides) -> None:
        self._keep_old()
        os.chmod(self._draft, 0o600)  # noqa: PTH101 (as the old one)
        adopt(self._draft, self._data)
        with self._draft.open("r+b") as file:
            sync_file(file.fileno())
        self._draft.replace(self._data / REPAIRED)
        sync_directory(self._data)
        finish_repair(self._data)
        for path in asides.unlink:
            with contextlib.suppress(OSError):  # then the next check finds it again
                path.unlink()

    def _keep_old(self) -> None:
        """The old database and its WAL under a name of their own, as they are."""
        stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(self._clock.now()))
        name = f"posthouse.db.damaged-{stamp}"
        for path, suffix in zip(self._old(), ("", "-wal"), strict=True):
            if path.exists() and (path.stat().st_size or not suffix):
                _link(path, self._data / (name + suffix))
                self._result.kept = name
        sync_directory(self._data)


def _link(path: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
        os.chmod(target, 0o600)  # noqa: PTH101 (the mode of the database)
        adopt(target, path.parent)
        with target.open("r+b") as file:
            sync_file(file.fileno())
