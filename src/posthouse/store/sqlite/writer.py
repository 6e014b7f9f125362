"""The writer thread: the only one that changes the database, many changes to a COMMIT.

Whatever arrived while the last COMMIT was syncing goes into the next transaction: no timer, and the busier it is the
more letters share a sync. A caller hears of success only after COMMIT returned with `synchronous=FULL`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Final

from posthouse.mail.reply import Fault, Unavailable
from posthouse.observe.log import Log
from posthouse.ports.store import Conflict, Missing
from posthouse.store.content import Files
from posthouse.store.model import Options, UniqueIds
from posthouse.store.sqlite.deposits import deposit
from posthouse.store.sqlite.jobs import Batch, Deposit, Job
from posthouse.store.sqlite.pool import CHECKPOINT_OCTETS, PAGE, Readers, is_damage, unavailable
from posthouse.store.sqlite.tally import Tally
from posthouse.store.sqlite.tombstones import Graveyard

BATCH: Final = 1024  # jobs of one transaction at most
IDLE: Final = 0.5  # seconds without work after which the writer tidies up
BREATH: Final = 0.01  # seconds between two slices of tidying
SLICE: Final = 256  # pages given back in one transaction: a few milliseconds
SLACK: Final = 256  # free pages that are kept for the next letters, 1 MiB
FAILURES: Final = 3  # in a row, then the store is read-only
PROBE: Final = 5.0  # seconds after which a store that is read-only tries whether the disk works again

# What a job alone is to blame for; every other error of SQLite is the disk's or the database's.
_OWN_FAULTS: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    ValueError,
    TypeError,
    OverflowError,
)
_REFUSALS: Final = (Conflict, Missing, Unavailable)

Jobs = Sequence[Job | Deposit]


class _Wake:
    """Stands among the jobs and is none."""


_WAKE: Final = _Wake()


class Writer:
    """Takes jobs from the event loop, carries them out in batches, and answers once they are on the disk."""

    def __init__(
        self,
        open_one: Callable[[], sqlite3.Connection],
        readers: Readers,
        files: Files,
        unique_ids: UniqueIds,
        options: Options,
        log: Log | None,
        graveyard: Graveyard,
        *,
        changed: Callable[[Sequence[int]], None] = lambda mailboxes: None,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally
        self._open = open_one
        self._changed = changed  # hears on the event loop's thread of changed mailboxes, before the callers do
        self._readers = readers
        self._files = files
        self._unique_ids = unique_ids
        self._options = options
        self._log = log
        self._graveyard = graveyard
        self._jobs: queue.SimpleQueue[Job | Deposit | _Wake | None] = queue.SimpleQueue()
        self._woken = False  # one wake is on its way
        self._waiting = 0  # jobs and their octets, counted on the event loop's thread only
        self._octets = 0
        self._failures = 0
        self._sick = False  # a checkpoint must succeed before the next success
        self._pages = 0  # written since the last checkpoint
        self._chores = files.directory.serve  # tidying is the server's; a command beside it would hold it up
        self._pause = IDLE
        self._doubtful: list[str] = []  # content files of batches whose COMMIT failed
        self._stopping = False
        self._drained: asyncio.Event | None = None
        self.read_only = False
        self._connection = open_one()
        self._cursor = self._connection.cursor()
        self._unsynced = False  # the connection's COMMITs do not sync: only while a lazy batch is written
        self._thorough = False  # the connection overwrites all that it frees
        self._traces = False  # the WAL may have what was overwritten in the database file
        self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="posthouse-writer", daemon=True)
        self._thread.start()

    # On the event loop's thread

    def admit(self, weight: int) -> None:
        """Counts a job in that will be `submit`ted. Raises Unavailable when there are too many or none may come."""
        if self.read_only or self._stopping:
            detail = "the store is read-only after repeated faults" if self.read_only else "the store is closed"
            raise Unavailable(Fault.STORAGE if self.read_only else Fault.STOPPING, detail)
        if self._waiting >= self._options.jobs or self._octets + weight > self._options.waiting_octets:
            raise Unavailable(Fault.BUSY, f"{self._waiting} jobs are waiting for the disk")
        self._waiting += 1
        self._octets += weight

    def submit(self, job: Job | Deposit) -> None:
        """Hands over an admitted job (any thread)."""
        self._jobs.put(job)

    def wake(self) -> None:
        """Has the chores done now, though it was idle for less than they wait for."""
        if not self._woken:
            self._woken = True
            self._jobs.put(_WAKE)

    def settle(self, jobs: Jobs) -> None:
        """Counts jobs out and tells their callers."""
        for job in jobs:
            self._waiting -= 1
            self._octets -= job.weight
            if job.mailboxes:
                self._changed(job.mailboxes)
            if job.done.done():  # the caller was cancelled and no longer listens
                continue
            if job.error is not None:
                job.done.set_exception(job.error)
            else:
                job.done.set_result(job.result)
        if not self._waiting and self._drained is not None:
            self._drained.set()

    async def close(self) -> None:
        """Waits for all admitted jobs and ends the thread."""
        self._stopping = True
        if self._waiting:  # a large letter may still be on its way to its place
            self._drained = asyncio.Event()
            await self._drained.wait()
        self._jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    # On the writer's thread

    def _run(self) -> None:
        while (jobs := self._take()) is not None:
            if jobs:
                if self._files.directory.owes_reserve:
                    # Not left to an idle moment: the disk may be full again before there is one.
                    self._files.directory.keep_reserve()
                self._guarded(jobs)
                self._answer(jobs)
                if self._pages * PAGE > CHECKPOINT_OCTETS:
                    self._tidy(self._checkpoint)
            elif self.read_only:
                self._tidy(self._probe)
            elif self._chores and not self._graveyard.due():
                self._tidy(self._chore)
            if self._files.directory.serve and not self.read_only and self._graveyard.due():
                self._tidy(self._end_tombstones)
        if not self._sick and self._files.directory.serve:
            self._tidy(self._last_checkpoint)
        elif not self._sick:
            self._tidy(self._cover_traces)
        self._close()

    def _take(self) -> Jobs | None:
        """Everything that waits; an empty list after a while without anything, None at the end."""
        pause = PROBE if self.read_only else self._pause if self._chores else None
        if self._files.directory.serve and not self.read_only:
            wait = self._graveyard.wait()
            pause = wait if pause is None else min(pause, wait)
        try:
            first = self._jobs.get(timeout=pause)
        except queue.Empty:
            return []
        if first is None:
            return None
        jobs: list[Job | Deposit] = []
        if isinstance(first, _Wake):
            self._woken = False
        else:
            jobs.append(first)
        for _ in range(min(self._jobs.qsize(), BATCH - 1)):
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
                break
            if isinstance(job, _Wake):
                self._woken = False
            else:
                jobs.append(job)
        return jobs

    def _answer(self, jobs: Jobs) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Job | Deposit]] = {}
        for job in jobs:
            by_loop.setdefault(job.done.get_loop(), []).append(job)
        for loop, share in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that loop was closed: nobody waits for the answer
                loop.call_soon_threadsafe(self.settle, share)

    def _guarded(self, jobs: Jobs) -> None:
        try:
            self._commit(jobs)
        except Exception as problem:  # noqa: BLE001 (the top of this thread: a defect fails a batch, not the server)
            if self._log:
                self._log.exception("store_defect")
            self._fail(jobs, Unavailable(Fault.STORAGE, repr(problem)))
            self._sick = True

    def _commit(self, jobs: Jobs) -> None:
        """One transaction for all jobs; sets the result or error of each."""
        batch = Batch()
        if self.read_only:
            self._fail(jobs, Unavailable(Fault.STORAGE, "the store is read-only after repeated faults"))
            return
        try:
            self._recover()
            self._choose_sync(lazy=all(isinstance(job, Job) and job.lazy for job in jobs))
            self._choose_wiping(thorough=any(isinstance(job, Job) and job.thorough for job in jobs))
            self._cursor.execute("BEGIN IMMEDIATE")
            self._deposit([job for job in jobs if isinstance(job, Deposit)], batch)
            for job in jobs:
                if isinstance(job, Job):
                    self._alone(job, functools.partial(self._work, job), batch)
            if batch.changed:
                self._count(batch.content)
            self._cursor.execute("COMMIT" if batch.changed else "ROLLBACK")
        except sqlite3.Error as problem:
            if not (is_damage(problem) and self._commit_undamaged(jobs)):
                self._fault(jobs, problem)
            return
        self._failures = 0
        self._pause = IDLE
        self._reached_the_disk(batch)

    def _count(self, content: int = 0) -> None:
        self._cursor.execute("UPDATE state SET commits = commits + 1, content = max(content, ?)", (content,))

    def _reached_the_disk(self, batch: Batch) -> None:
        """What follows when a transaction succeeded."""
        if batch.changed and self._tally is not None and not self._unsynced:
            self._tally.add()
        self._chores |= batch.changed and self._files.directory.serve
        self._traces |= batch.freed and self._thorough
        self._pages += batch.pages + 4
        self._files.remove(batch.files)

    def _choose_sync(self, *, lazy: bool) -> None:
        """Before each transaction: in WAL mode NORMAL leaves the sync of its COMMIT out, and the next one syncs both.
        Looked at every time, so that no fault on the way leaves a letter without its sync."""
        if lazy != self._unsynced:
            self._cursor.execute(f"PRAGMA synchronous={'NORMAL' if lazy else 'FULL'}")
            self._unsynced = lazy

    def _choose_wiping(self, *, thorough: bool) -> None:
        """Before each transaction: a thorough one overwrites every page that it frees, which costs a write each; others
        only what they write anyway."""
        if thorough != self._thorough:
            self._cursor.execute(f"PRAGMA secure_delete={'ON' if thorough else 'FAST'}").fetchall()
            self._thorough = thorough

    def _deposit(self, deposits: list[Deposit], batch: Batch) -> None:
        """All letters together, as the first work of the transaction; when one of them is bad, the transaction begins
        anew with a SAVEPOINT for each, so that only that one fails."""
        if not deposits:
            return
        trial = Batch(batch.content)
        try:
            deposit(deposits, self._unique_ids, self._cursor, trial)
        except (*_OWN_FAULTS, *_REFUSALS):
            self._cursor.execute("ROLLBACK")
            self._cursor.execute("BEGIN IMMEDIATE")
            for item in deposits:
                self._alone(item, functools.partial(deposit, [item], self._unique_ids, self._cursor), batch)
            return
        _merge(batch, trial)

    def _alone(self, job: Job | Deposit, work: Callable[[Batch], None], batch: Batch) -> None:
        """One job in a SAVEPOINT of its own."""
        trial = Batch(batch.content)
        self._cursor.execute("SAVEPOINT job")
        try:
            work(trial)
        except (*_OWN_FAULTS, *_REFUSALS) as problem:
            self._cursor.execute("ROLLBACK TO job")
            job.error = problem if isinstance(problem, _REFUSALS) else Unavailable(Fault.STORAGE, repr(problem))
            if isinstance(job, Deposit) and job.file is not None:
                batch.files.append(job.file)
        else:
            _merge(batch, trial)
        self._cursor.execute("RELEASE job")

    def _work(self, job: Job, batch: Batch) -> None:
        job.result = job.work(self._cursor, batch)

    # Faults

    def _commit_undamaged(self, jobs: Jobs) -> bool:
        """Carries out those jobs that touch no damaged page; False when no job alone is to blame.

        Which they are shows a trial of each: SQLite does not go on within a transaction that met such a page, not even
        behind a ROLLBACK TO.
        """
        self._rollback()
        rest: list[Job | Deposit] = []
        for job in jobs:
            job.error = None
            problem = self._try_alone(job)
            if problem is None:
                rest.append(job)
                continue
            self._fail([job], unavailable(problem))
            if self._log:
                self._log.error("store_damaged", detail=str(problem), advice="run posthouse doctor --store")
        if len(rest) == len(jobs):
            return False
        if rest:
            self._commit(rest)
        return True

    def _try_alone(self, job: Job | Deposit) -> sqlite3.Error | None:
        """The damage that a job meets, if any. Nothing of it stays."""
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            if isinstance(job, Deposit):
                deposit([job], self._unique_ids, self._cursor, Batch())
            else:
                self._work(job, Batch())
        except sqlite3.Error as problem:
            return problem if is_damage(problem) else None
        except (*_OWN_FAULTS, *_REFUSALS):
            return None
        finally:
            self._rollback()
        return None

    def _fail(self, jobs: Jobs, problem: Unavailable) -> None:
        for job in jobs:
            job.result = None
            job.error = problem
            if isinstance(job, Deposit) and job.file is not None:
                self._doubtful.append(job.file)

    def _fault(self, jobs: Jobs, problem: sqlite3.Error) -> None:
        """A batch failed: nobody hears a success, and nothing is trusted before a checkpoint succeeded."""
        code = (getattr(problem, "sqlite_errorcode", None) or 0) & 0xFF
        self._rollback()
        failure = unavailable(problem)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            failure = Unavailable(Fault.BUSY, failure.detail)
        elif code == sqlite3.SQLITE_FULL:
            freeing = [job for job in jobs if isinstance(job, Job) and job.frees]
            if freeing and (self._files.directory.release_reserve() or self._shrink()):
                self._warn("store_reserve_spent", failure)
                self._fail([job for job in jobs if job not in freeing], failure)
                self._commit(freeing)
                return
        else:
            self._sick = True
            self._failures += 1
            if self._failures >= FAILURES:
                self.read_only = True
        self._warn("store_read_only" if self.read_only else "store_write_failed", failure)
        self._fail(jobs, failure)

    def _shrink(self) -> bool:
        """Gives the WAL's room back to a full disk; False when there was none to give. What it holds goes to pages
        that the database file has already, as far as only deletions come."""
        try:
            _, frames, written = self._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        except sqlite3.Error:
            return False
        self._pages = 0
        return bool(frames > 0 and frames == written)

    def _warn(self, event: str, failure: Unavailable) -> None:
        if self._log:
            self._log.error(event, detail=failure.detail, failures=self._failures)

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _recover(self) -> None:
        """After a fault: new connections, and everything committed so far written back to the database file.

        The new connection is opened before the old one is closed: while one is open the failed transaction is not in
        the index of the WAL; were the WAL read again from its file, what nobody was promised might come back.
        """
        if not self._sick:
            return
        old, self._connection = self._connection, self._open()
        self._cursor = self._connection.cursor()
        self._unsynced = self._thorough = False
        with contextlib.suppress(sqlite3.Error):
            old.close()
        self._readers.renew()
        busy, frames, written = self._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        if busy or frames != written:
            raise sqlite3.OperationalError("the checkpoint after a fault did not come to its end")
        self._pages = 0
        self._sick = False
        if self._log:
            self._log.warning("store_recovered", failures=self._failures)

    def _probe(self) -> None:
        """A store that is read-only takes letters again once a checkpoint and a transaction that changes nothing but a
        counter have reached the disk."""
        self._recover()
        self._cursor.execute("BEGIN IMMEDIATE")
        self._cursor.execute("UPDATE state SET commits = commits + 1")
        self._cursor.execute("COMMIT")
        self.read_only = False
        self._failures = 0
        self._chores = self._files.directory.serve
        if self._log:
            self._log.warning("store_writable_again")

    # Between the batches

    def _tidy(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except sqlite3.Error as problem:
            self._rollback()
            # What gives room back needs some itself.
            full = (getattr(problem, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
            if full and (self._shrink() or self._files.directory.release_reserve()):
                return
            self._fault([], problem)
            self._chores = False

    def _checkpoint(self) -> None:
        """Writes back to the database file what the WAL holds."""
        self._recover()
        _, frames, written = self._cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
        # When a reader of another process holds it up, the next try comes after a quarter as much again.
        self._pages = 0 if frames == written else CHECKPOINT_OCTETS // PAGE * 3 // 4
        if frames == written:
            self._written_back()

    def _written_back(self) -> None:
        """The database file has everything: what a lost WAL can cost begins anew."""
        if self._tally is not None:
            for (commits,) in self._cursor.execute("SELECT commits FROM state").fetchall():
                self._tally.begin(commits)

    def _chore(self) -> None:
        """One slice of giving space back, while nobody waits."""
        self._recover()
        free = self._cursor.execute("PRAGMA freelist_count").fetchall()[0][0]
        if free > SLACK:
            # The pragma frees one page with each step and gives no rows: `execute` would make one step only.
            self._cursor.executescript(f"PRAGMA incremental_vacuum({min(SLICE, free - SLACK)})")
            self._pages += SLICE
            self._pause = BREATH
            if self._pages * PAGE > CHECKPOINT_OCTETS:
                self._checkpoint()
        if free - SLICE <= SLACK:
            self._checkpoint()
            self._cover_traces()
            self._forget_doubtful()
            self._files.directory.keep_reserve()
            self._cursor.execute("PRAGMA shrink_memory")
            self._chores = False

    def _cover_traces(self) -> None:
        """Takes from the WAL what was overwritten in the database file."""
        if self._traces:
            busy, _, _ = self._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
            self._traces = bool(busy)

    def _end_tombstones(self) -> None:
        """One slice of deleted letters whose time is over, or that a full disk has no room for."""
        self._recover()
        if self._files.directory.lack():
            self._shrink()
        self._choose_sync(lazy=False)
        self._choose_wiping(thorough=True)
        batch = Batch()
        self._cursor.execute("BEGIN IMMEDIATE")
        self._graveyard.end(self._cursor, batch)
        if batch.changed:
            self._count()
        self._cursor.execute("COMMIT" if batch.changed else "ROLLBACK")
        if batch.changed:
            self._reached_the_disk(batch)

    def _forget_doubtful(self) -> None:
        """Unlinks the files of failed batches, once it is certain that no row names them."""
        doubtful, self._doubtful = self._doubtful, []
        for name in doubtful:
            if not self._cursor.execute("SELECT 1 FROM content WHERE file = ?", (name,)).fetchall():
                self._files.remove([name])

    def _last_checkpoint(self) -> None:
        self._forget_doubtful()
        busy, frames, written = self._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        if not busy and frames == written:
            self._written_back()

    def _close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _merge(batch: Batch, trial: Batch) -> None:
    batch.content = trial.content
    batch.files += trial.files
    batch.changed |= trial.changed
    batch.freed |= trial.freed
    batch.pages += trial.pages
