"""The embedded engine: `ports.store.Store` on SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar
from zlib import crc32

import msgspec

from posthouse.mail.envelope import Envelope
from posthouse.mail.reply import Unavailable
from posthouse.observe.log import Log
from posthouse.ports.queue import Queued
from posthouse.ports.store import (
    Buried,
    Conflict,
    Damage,
    Delivered,
    Delivery,
    Draft,
    Former,
    Missing,
)
from posthouse.ports.system import Clock, Random
from posthouse.store.content import Files, LetterDraft
from posthouse.store.datadir import DataDirectory, NoDirectory
from posthouse.store.model import (
    QUEUE_CHANGES,
    TALLY,
    Options,
    StoreError,
    UniqueIds,
    encode_envelope,
    header_of,
)
from posthouse.store.sqlite import check, jobs, returning
from posthouse.store.sqlite.inspection import LOOKED_UP, Inspection
from posthouse.store.sqlite.jobs import Deposit
from posthouse.store.sqlite.lookups import Lookups, Maildrops
from posthouse.store.sqlite.lostfound import LostAndFound, name_of
from posthouse.store.sqlite.memory import InlineWriter, SharedReaders, open_in_memory
from posthouse.store.sqlite.pool import Readers, connect, prepare
from posthouse.store.sqlite.queue import Parts, SqliteQueue
from posthouse.store.sqlite.reading import Reading
from posthouse.store.sqlite.rescue import rescue
from posthouse.store.sqlite.scrub import MOST_TOLD, Scrub, tell
from posthouse.store.sqlite.tally import Lost, Tally, skip_numbers
from posthouse.store.sqlite.tombstones import TOGETHER, Graveyard, bring_back, buried
from posthouse.store.sqlite.writer import Writer

T = TypeVar("T")

QUICK_CHECK: Final = 5.0  # seconds at most, after an unclean stop


class SqliteStore(Reading):
    """A store in one data directory. Made by `posthouse.store.open_store`."""

    def __init__(
        self,
        directory: DataDirectory,
        clock: Clock,
        random: Random,
        options: Options,
        log: Log | None,
    ) -> None:
        super().__init__()
        self._directory = directory
        self._clock = clock
        self._options = options
        self._locked: set[int] = set()
        self._lookups = Lookups(directory, clock)
        self._maildrops = Maildrops(clock)
        if isinstance(directory, NoDirectory):
            connection = open_in_memory(clock.now(), directory.image)
            self._readers: Readers = SharedReaders(connection)
            open_writer: Callable[[], sqlite3.Connection] = functools.partial(_given, connection)
        else:
            self._rescue(log)
            prepare(directory.database, options.busy_timeout, clock.now(), serve=directory.serve)
            # Writers never hold up readers; only the recovery of the WAL after a crash does, for milliseconds.
            self._readers = Readers(functools.partial(connect, directory.database, timeout=0.25))
            open_writer = functools.partial(
                connect, directory.database, timeout=options.busy_timeout, write=True, cache=16_384
            )
        self._files = Files(directory, random, options)
        self._scrub: Scrub | None = None
        self._lost: Lost | None = None
        self._tally = self._count_commits(log) if directory.serve and not directory.in_memory else None
        if directory.serve and not directory.in_memory:
            self._look_over(log)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="posthouse-readers")
        unique_ids = UniqueIds(random)
        self._unique_ids = unique_ids
        self._graveyard = Graveyard(directory, clock, options.undelete)
        self._writer = (InlineWriter if directory.in_memory else Writer)(
            open_writer,
            self._readers,
            self._files,
            unique_ids,
            options,
            log,
            self._graveyard,
            changed=self._maildrops.forget,
            tally=self._tally,
        )
        directory.keep_reserve()
        self.queue = SqliteQueue(
            Parts(
                self._readers,
                self._files,
                unique_ids,
                clock,
                self._change,
                self._submit,
                self._open,
                self._in_thread,
                self._maildrops.forget,
            ),
            None if directory.in_memory else directory.path / QUEUE_CHANGES,
        )

    def _rescue(self, log: Log | None) -> None:
        """What the opening would cost."""
        contents = self._directory.contents
        try:
            rescued = rescue(self._directory.path, lambda name: contents / name[:2] / name)
        except (OSError, sqlite3.Error):  # what is wrong is told when the database is opened
            return
        if log is not None:
            for one in rescued[:MOST_TOLD]:
                whom = ", ".join(one.recipients[:20])
                log.error("store_letter_put_aside", letter=one.letter, recipients=whom, place=one.place)

    def _look_over(self, log: Log | None) -> None:
        """What the one server looks at when it starts: the registers always, and after an unclean stop the rows too,
        for at most some seconds; then a thread goes on. The rest is served, whatever is found."""
        inspection = Inspection(self._readers)
        found = inspection.within(QUICK_CHECK, rows=self._directory.orphans_possible)
        self._doubtful = frozenset(
            table for table in LOOKED_UP for damage in found if damage.where == f"posthouse.db, {table}"
        )
        if log is not None:
            for damage in found[:MOST_TOLD]:
                tell(log, damage)
        if self._directory.orphans_possible:
            count = 0 if found else self._sweep()
            if log is not None:
                log.info("store_after_unclean_stop", orphans=count, damages=len(found))
                examination = check.Examination(self._readers, self._files, self._clock, full=True)
                self._scrub = Scrub(inspection, examination, log)

    def _sweep(self) -> int:
        """Removes the content files that a crash left without a row, when the table itself, beside its index, does not
        name them either. When commits were lost they may be letters: then they are put aside. Returns how many."""

        def named(folder: str) -> set[str]:
            rows = self._readers.inline("SELECT file FROM content WHERE file >= ? AND file < ?", (folder, folder + "~"))
            return {name for (name,) in rows}

        try:
            strays = self._files.strays(named)
            if strays:
                sql = "SELECT file FROM content NOT INDEXED WHERE file IN (SELECT value FROM json_each(?))"
                with self._readers.snapshot() as cursor:
                    kept = cursor.execute(sql, (msgspec.json.encode(strays).decode(),)).fetchall()
                strays = sorted(set(strays) - {name for (name,) in kept})
            for name in strays:
                if self._lost is not None:
                    place = LostAndFound(self._directory.path)
                    shown = name_of("file", name)
                    place.keep(shown, self._files.path(name))
                    place.tell(shown, {"file": name, "reason": "its commit was lost"}, octets=True)
                self._files.path(name).unlink()
        except (Unavailable, OSError):  # they wait for the next start
            return 0
        return len(strays)

    def _count_commits(self, log: Log | None) -> Tally | None:
        """Notices commits that the database has forgotten; their numbers are not given out again."""
        try:
            tally = Tally(self._directory.path / TALLY, self._clock)
        except OSError:  # without it, mail goes on
            return None
        try:
            ((commits,),) = self._readers.inline("SELECT commits FROM state")
            if (lost := tally.lost(commits)) is not None:
                with contextlib.closing(connect(self._directory.database, write=True)) as connection:
                    skip_numbers(connection, lost)
        except (Unavailable, sqlite3.Error, ValueError) as problem:  # the rest is served, and the tally kept as it is
            tally.close()
            if log is not None:
                log.error("store_damaged", detail=str(problem), advice="run posthouse doctor --store")
            return None
        self._lost = lost
        if lost is not None:
            if log is not None:
                log.error(
                    "store_commits_lost",
                    up_to=lost.commits,
                    since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lost.since)),
                    advice="letters and deletions since then may be missing: compare with the newest backup",
                )
            commits += lost.commits
        tally.resume(commits)
        return tally

    # Letters

    def draft(self, expected: int | None = None) -> LetterDraft:
        """A new empty draft. Raises Unavailable(FULL) when the disk has too little room."""
        try:
            self._directory.require_room(expected or 0)
        except Unavailable:
            self._graveyard.soon()
            self._writer.wake()
            raise
        return LetterDraft(self._files)

    async def deliver(
        self, draft: Draft, deliveries: Sequence[Delivery], *, letter: str, envelope: Envelope | None = None
    ) -> list[Delivered]:
        """Makes the draft's content a letter in the INBOX of each account; returns once it is on the disk."""
        assert isinstance(draft, LetterDraft), "a draft of this store"
        await draft.written()
        item = self._submit(draft, deliveries, letter, envelope)
        delivered: list[Delivered] = await item.done
        return delivered

    def _submit(
        self,
        draft: LetterDraft,
        deliveries: Sequence[Delivery],
        letter: str,
        envelope: Envelope | None,
        queued: Sequence[Queued] = (),
        until: float = 0.0,
        also: Sequence[Deposit] = (),
    ) -> Deposit:
        """Hands a letter that is whole to the writer, which sets its `done`. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        weight = 512 * (len(deliveries) + len(queued)) + (draft.size if draft.staged is None else 0)
        weight += sum(item.size for item in also)
        self._writer.admit(weight)
        rest = draft.take()
        item = Deposit(
            loop.create_future(), letter, encode_envelope(envelope), deliveries, self._clock.now(), 0, 0, False
        )
        item.weight = weight
        if queued:
            item.queued, item.until = queued, until
            item.sender = "" if envelope is None or envelope.sender is None else str(envelope.sender)
        if also:
            item.also = also
        if draft.staged is None:
            item.octets, item.size, item.checksum = rest, len(rest), crc32(rest)
            item.eight_bit = not rest.isascii() and not (header_of(rest) or rest).isascii()
            self._writer.submit(item)
        else:
            # The thread hands the letter on itself: nothing is left undone when the caller is cancelled meanwhile.
            self._files.pool.submit(self._settle, draft, rest, item)
        return item

    def _settle(self, draft: LetterDraft, rest: bytearray, item: Deposit) -> None:
        """Puts a large content in its place and hands the letter to the writer (in a thread of the pool)."""
        staged = draft.staged
        assert staged is not None, "only large contents come here"
        try:
            staged.append(rest)
            item.size, item.checksum, item.file = staged.size, staged.checksum, staged.name
            item.eight_bit = staged.eight_bit_header()
            staged.settle()
        except Unavailable as problem:
            staged.discard()
            item.error = problem
            item.done.get_loop().call_soon_threadsafe(self._writer.settle, [item])
        else:
            self._writer.submit(item)

    def lock(self, mailbox: int) -> bool:
        """Takes the maildrop lock of a mailbox; False when another session has it."""
        if mailbox in self._locked:
            return False
        self._locked.add(mailbox)
        return True

    def unlock(self, mailbox: int) -> None:
        """Gives the maildrop lock back."""
        self._locked.discard(mailbox)

    async def update(self, mailbox: int, deleted: Iterable[int], retrieved: Iterable[int]) -> None:
        """Removes messages and marks others as retrieved, in one transaction."""
        gone = list(deleted)
        seen = list(set(retrieved).difference(gone))
        if gone or seen:
            now = self._clock.now() if self._options.undelete else None
            await self._change(
                functools.partial(jobs.update, mailbox, gone, seen, now),
                frees=bool(gone),
                thorough=bool(gone),
                mailboxes=(mailbox,),
            )

    async def buried(self, mailbox: int, since: float = 0.0) -> list[Buried]:
        """The deleted messages of a mailbox that can be brought back, in the order of their UIDs."""
        return await self._in_thread(self._buried, mailbox, since)

    def _buried(self, mailbox: int, since: float) -> list[Buried]:
        with self._readers.snapshot() as cursor:
            return list(buried(mailbox, since, self._files, cursor))

    async def undelete(self, address: str, uids: Sequence[int]) -> dict[int, int]:
        """Brings deleted messages back. Raises Missing, Conflict."""
        account = await self.find_account(address)
        if account is None:
            raise Missing(f"there is no account {address}")
        back: dict[int, int] = {}
        try:
            for at in range(0, len(uids), TOGETHER):
                work = functools.partial(
                    bring_back, address, uids[at : at + TOGETHER], self._unique_ids, self._clock.now()
                )
                back |= await self._change(work, mailboxes=(account.inbox,))
        finally:
            self._lookups.changed()
        return back

    # Accounts and their mail

    async def put_back(self, mailbox: int, letters: Sequence[tuple[Draft, Former]]) -> list[int]:
        """Makes letters messages of a mailbox again, at its end. Raises Missing, Unavailable."""
        contents = await returning.settle([draft for draft, _ in letters], self._files)
        copies = [former for _, former in letters]
        unique_ids = [self._unique_ids.next() for _ in letters]
        work = functools.partial(returning.insert, mailbox, contents, copies, unique_ids, self._clock.now())
        try:
            weight = sum(len(content.octets or b"") for content in contents)
            return await self._change(work, mailboxes=(mailbox,), weight=weight)
        except Missing:
            returning.forget(contents, self._files)
            raise
        finally:
            self._lookups.changed()

    async def remove_account(self, address: str) -> int:
        """Removes the account and its mail. Raises Missing, Conflict."""
        account = await self.find_account(address)
        if account is None:
            raise Missing(f"there is no account {address}")
        if not self.lock(account.inbox):
            raise Conflict(f"the maildrop of {address} is in use")
        try:
            return await self._administer(functools.partial(jobs.remove_account, address), final=True)
        finally:
            self.unlock(account.inbox)

    # The store itself

    async def check(self, *, full: bool = True) -> AsyncIterator[Damage]:
        """Looks for every kind of damage and yields each with a name."""
        tally = None if self._directory.in_memory else self._directory.path / TALLY
        portions = check.Examination(self._readers, self._files, self._clock, full=full, tally=tally).damages()
        while (portion := await self._in_thread(next, portions, None)) is not None:
            for damage in portion:
                yield damage

    async def glance(self, seconds: float) -> str:
        """What a look at the registers and rows finds within this time, empty when nothing."""
        look = functools.partial(Inspection(self._readers).within, seconds, rows=True)
        found = await self._in_thread(look)
        return f"{found[0].where}: {found[0].text.rstrip('.')}" if found else ""

    def cut(self) -> bytes:
        """Takes the power from a store in memory: what was committed stays, and this object is of no more use."""
        assert isinstance(self._readers, SharedReaders), "a store in memory"
        return self._readers.cut()

    async def close(self) -> None:
        """Waits for what was begun, writes back and lets go of everything."""
        if self._scrub is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._scrub.close)
        await self._writer.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._files.close)
        await loop.run_in_executor(None, self._pool.shutdown)
        self._readers.close()
        self._lookups.close()
        self.queue.close()
        if self._tally is not None:
            self._tally.close()
        self._directory.close()


def _given(connection: sqlite3.Connection) -> sqlite3.Connection:
    return connection


__all__ = ["SqliteStore", "StoreError"]
