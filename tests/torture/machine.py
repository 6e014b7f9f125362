"""What machines do to a server, one fault after the other, each under mixed load: `make torture` prints the table.

Each function brings one row of docs/explanation/reliability.md about and judges with `tests.torture.trial`.
`python -m tests.torture.machine --rounds 5 --only fsync,full --seed 7`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.system.letters import MIB
from tests.system.raw import collect, greeted, logged_in, stuffed
from tests.system.server import READER, SENDER, Server, prepare_data, wait_for
from tests.torture.trial import Score, Trial, content

CALLS = ("fsync", "fdatasync", "pwrite64", "write", "rename", "openat")


class LeftOut(Exception):
    """This machine cannot do it; the text says what it lacks."""


@contextlib.contextmanager
def traced(server: Server, inject: str, words: Path) -> Iterator[Callable[[], str]]:
    """strace on the running server with this injection; yields what it has said so far."""
    if shutil.which("strace") is None:
        raise LeftOut("strace is not installed")
    calls = inject.partition(":")[0]
    command = ["strace", "-f", "-p", str(server.process.pid), "-e", f"trace={calls}", "-e", f"inject={inject}"]
    with words.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_for(lambda: "attached" in words.read_text() or process.poll() is not None, words.read_text)
        if process.poll() is not None:
            raise LeftOut("this machine lets nobody trace a process")
        yield lambda: words.read_text(errors="replace")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(20)


def fail_call(folder: Path, chance: random.Random, call: str) -> Score:
    """X4: the n-th call and some after it fail with EIO, twice, at random places under load; then the server works on.

    The `write` of asyncio's loop goes to files only (uvloop writes to sockets and wakes itself up with it too)."""
    trial = Trial(folder / "data", environment={"POSTHOUSE_LOOP": "asyncio"} if call == "write" else None)
    injected = 0
    try:
        with trial.load():
            for number in range(2):
                first = chance.randint(1, 30)
                last = first + chance.choice((0, 0, 1, 5))
                words = folder / f"strace-{number}"
                with traced(trial.server, f"{call}:error=EIO:when={first}..{last}", words) as said:
                    with contextlib.suppress(AssertionError):  # a quiet call may not come so often
                        _wait_for_word("INJECTED", said)
                    time.sleep(chance.uniform(0, 0.5))  # the fault goes on for a while
                    injected += said().count("INJECTED")
            after = trial.taken_again()
        return trial.judge(f"X4 {call} fails", f"{injected} faults, taken again after {after:.1f} s")
    except BaseException:
        trial.abandon()
        raise


def _wait_for_word(word: str, said: Callable[[], str]) -> None:
    wait_for(lambda: word in said(), said, 8)


def _wait_for_refusals(trial: Trial, more: int) -> None:
    full = trial.books.refusals["452 4.3.1"] + more
    wait_for(
        lambda: trial.books.refusals["452 4.3.1"] >= full,
        lambda: f"nobody is told 452 4.3.1: {trial.books.refusals}",
        30,
    )


def _wait_for_deletion(trial: Trial) -> None:
    books = trial.books
    gone = len(books.deleted)
    wait_for(
        lambda: len(books.deleted) > gone or books.here <= books.perhaps,
        lambda: f"nothing can be deleted on a full disk: {trial.server.log[-1500:]}",
        30,
    )


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own (root)."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        raise LeftOut("this machine lets nobody mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path, chance: random.Random) -> Score:
    """X5: a disk of 64 MB with a size limit of 4 MB is filled to the last octet and emptied, twice."""
    with small_disk(folder / "disk", 64) as disk:
        data = prepare_data(disk / "data")
        (data / "posthouse.toml").write_text("[smtp]\nmessage = 4_194_304\n")
        trial = Trial(data)
        try:
            slowest = 0.0
            with trial.load():
                for _ in range(2):
                    ballast = disk / "ballast"
                    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                        while True:
                            file.write(bytes(65536))
                    _wait_for_refusals(trial, 20)
                    _wait_for_deletion(trial)
                    time.sleep(chance.uniform(0, 1))
                    ballast.unlink()
                    slowest = max(slowest, trial.taken_again())
            return trial.judge("X5 disk full", f"taken again after {slowest:.1f} s at most")
        except BaseException:
            trial.abandon()
            raise


def queue_on_full_disk(folder: Path, chance: random.Random) -> Score:
    """X5: what waits in the queue leaves while the disk is full: the results have room."""
    with small_disk(folder / "disk", 64) as disk:
        data = prepare_data(disk / "data")
        (data / "posthouse.toml").write_text("[smtp]\nmessage = 4_194_304\n")
        trial = Trial(data)
        try:
            with trial.load():
                wait_for(lambda: len(trial.books.onward) >= 10, lambda: "no letters for the next host", 30)
                with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(65536))
                _wait_for_refusals(trial, 5)
            # Everything accepted leaves although nothing new is taken.
            wait_for(
                lambda: trial.books.onward <= trial.sink.taken.keys(),
                lambda: f"letters stay in the queue: {trial.server.log[-2000:]}",
                30,
            )
            (disk / "ballast").unlink()
            trial.taken_again()
            return trial.judge("X5 the queue on a full disk")
        except BaseException:
            trial.abandon()
            raise


def deleted_on_full_disk(folder: Path, chance: random.Random) -> Score:
    """X5: deleted letters that could still be brought back give way: nothing else makes room, and letters are taken."""
    with small_disk(folder / "disk", 64) as disk:
        data = prepare_data(disk / "data")
        (data / "posthouse.toml").write_text("[smtp]\nmessage = 4_194_304\n[store]\nreserve = 4_194_304\n")
        trial = Trial(data)
        try:
            lines = (1000, 1500) if chance.random() < 0.5 else (40_000, 50_000)  # in rows, in files
            with greeted(trial.server.smtp) as session:
                for _ in range(20_000_000 // (lines[1] * 70)):
                    session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
                    session.ask(b"RCPT TO:<%s>" % READER.encode(), b"250")
                    session.ask(b"DATA", b"354")
                    session.send(stuffed(content(trial.books.next(), chance.randint(*lines))))
                    assert session.reply().startswith(b"250")
            collect(trial.server.pop3, READER)
            with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(65536))
            after = trial.taken_again()
            return trial.judge("X5 deleted letters give way", f"taken again after {after:.1f} s")
        except BaseException:
            trial.abandon()
            raise


def no_descriptors(folder: Path, chance: random.Random) -> Score:
    """X6: under load the limit falls to a few descriptors more than are in use, and rises again."""
    trial = Trial(folder / "data")
    try:
        with trial.load():
            pid = trial.server.process.pid
            for _ in range(3):
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                used = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + chance.randint(0, 3), before[1]))
                time.sleep(chance.uniform(0.3, 1.2))  # the time without descriptors
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
                after = trial.taken_again()
        return trial.judge("X6 no descriptors", f"taken again after {after:.1f} s")
    except BaseException:
        trial.abandon()
        raise


def little_memory(folder: Path, chance: random.Random) -> Score:
    """X7: ten letters of 50 MB at once within 256 MB, by a memory cgroup, else by RLIMIT_AS plus what is mapped."""
    trial = Trial(folder / "data")
    group = Path("/sys/fs/cgroup/memory") / f"posthouse-{os.getpid()}-{chance.getrandbits(32)}"
    try:
        means = _confine(trial.server.process.pid, group)
        sessions = []
        for _ in range(10):
            session = greeted(trial.server.smtp)
            session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
            session.ask(b"RCPT TO:<%s>" % READER.encode(), b"250")
            session.ask(b"DATA", b"354")
            sessions.append(session)
        block = (b"m" * 70 + b"\r\n") * (MIB // 72)
        for session in sessions:
            number = trial.books.next()
            trial.books.here.add(number)
            session.send(b"X-Number: %d\r\nX-Sum: %d\r\n\r\n" % (number, _sum(block, 49)))
        for _ in range(49):
            for session in sessions:
                session.send(block)
        for session in sessions:
            session.send(b".\r\n")
        replies = [session.reply() for session in sessions]
        for session in sessions:
            session.close()
        if any(not reply.startswith(b"250") for reply in replies):
            trial.books.complaints.append(f"large letters were refused: {replies}")
        peak = trial.server.memory("VmHWM")
        return trial.judge("X7 ten 50-MB letters", f"{means}, peak {peak / 1e6:.0f} MB")
    except BaseException:
        trial.abandon()
        raise
    finally:
        if group.exists():
            with contextlib.suppress(OSError):
                group.rmdir()


def _sum(block: bytes, times: int) -> int:
    total = 0
    for _ in range(times):
        total = zlib.crc32(block, total)
    return total


def _confine(pid: int, group: Path) -> str:
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(256 * MIB))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        mapped = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (mapped + 176 * MIB, mapped + 176 * MIB))
        return "RLIMIT_AS"
    return "memory cgroup of 256 MiB"


def slow_disk(folder: Path, chance: random.Random) -> Score:
    """X8: every sync of the database takes two seconds; logins, reading and commands do not wait for it."""
    trial = Trial(folder / "data")
    try:
        trial.taken_again()
        slowest = 0.0
        with traced(trial.server, "fdatasync:delay_exit=2000000", folder / "strace"), trial.load(senders=2):
            end = time.monotonic() + 8
            while time.monotonic() < end:
                began = time.monotonic()
                with logged_in(trial.server.pop3, SENDER) as session:
                    session.pop(b"STAT")
                    session.pop(b"QUIT")
                slowest = max(slowest, time.monotonic() - began)
        if slowest > 1.5:
            trial.books.complaints.append(f"a login waited {slowest:.1f} s for the disk of others")
        return trial.judge("X8 slow disk", f"slowest login {slowest * 1000:.0f} ms while each sync takes 2 s")
    except BaseException:
        trial.abandon()
        raise


def terminate(folder: Path, chance: random.Random) -> Score:
    """X16: SIGTERM under load: it ends with exit code 0 within ten seconds, and nothing is lost."""
    trial = Trial(folder / "data")
    slowest = 0.0
    try:
        for _ in range(2):
            with trial.load():
                time.sleep(chance.uniform(0.3, 1.5))  # the load before the signal
                began = time.monotonic()
                trial.server.signal(signal.SIGTERM)
                code = trial.server.wait(20)
                slowest = max(slowest, time.monotonic() - began)
                trial._stop.set()
            if code or slowest > 10.5:
                trial.books.complaints.append(f"it ended with {code} after {slowest:.1f} s")
            trial.restart()
        return trial.judge("X16 SIGTERM under load", f"{slowest:.1f} s at most")
    except BaseException:
        trial.abandon()
        raise


_WRONG_CLOCK = """import time
_real = time.time
def _wrong():
    with open({path!r}) as file:
        return _real() + float(file.read())
time.time = _wrong
"""


class Numbers:
    """UIDs and the queue's numbers, as the database has them: new ones are greater than all before them."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._uids, self._items, self._content = self._look()

    def _look(self) -> tuple[set[int], set[int], int]:
        """The ids of all letters, deleted ones too, those of the queue, and the number of the last content, of which
        the queue makes its own."""
        with contextlib.closing(sqlite3.connect(self._trial.data / "posthouse.db", timeout=10)) as connection:
            uids = connection.execute("SELECT id FROM message UNION ALL SELECT id FROM tombstone").fetchall()
            items = connection.execute("SELECT id FROM queue").fetchall()
            ((content,),) = connection.execute("SELECT content FROM state").fetchall()
        return {id for (id,) in uids}, {id for (id,) in items}, content

    def require_growth(self, days: int) -> None:
        """Has letters taken for here and for elsewhere after a jump by so many days, and looks at their numbers."""
        books = self._trial.books
        here, onward = len(books.here), len(books.onward)
        while len(books.here) == here or len(books.onward) == onward:
            self._trial.taken_again()
        uids, items, content = self._look()
        fresh = uids - self._uids
        grown = bool(fresh) and min(fresh) > max(self._uids, default=0) and content > self._content
        if not grown or min(items - self._items, default=1 << 62) <= max(self._items, default=0):
            books.complaints.append(
                f"after a jump by {days} days: UIDs {sorted(fresh)[:3]}, items {sorted(items)[:3]}, content {content}"
            )
        self._uids, self._items, self._content = uids, items | self._items, content


def jump(folder: Path, chance: random.Random) -> Score:
    """X9: the wall clock of the running server jumps by +400 days and by -1 day, and it is started at such times.

    Python's own `time.time` is made wrong when the process starts: libfaketime also fakes the waits of
    `clock_nanosleep`, which then fail, whatever is said about the monotonic clock."""
    clock = folder / "clock"
    clock.write_text("0")
    (folder / "python").mkdir()
    (folder / "python" / "sitecustomize.py").write_text(_WRONG_CLOCK.format(path=str(clock)))
    environment = {"PYTHONPATH": str(folder / "python")}
    trial = Trial(folder / "data", environment=environment)
    try:
        numbers = Numbers(trial)
        with trial.load():
            for offset in (400, -1, 0):
                time.sleep(chance.uniform(0.3, 1.0))  # load before the jump
                replaced = folder / "clock.new"
                replaced.write_text(str(offset * 86400))
                replaced.replace(clock)
                numbers.require_growth(offset)
        for offset in (400, -1):
            trial.server.stop()
            clock.write_text(str(offset * 86400))
            trial.restart()
            numbers.require_growth(offset)
        return trial.judge("X9 the clock jumps")
    except BaseException:
        trial.abandon()
        raise


def kill_under_fault(folder: Path, chance: random.Random) -> Score:
    """X1 and X4: syncs fail and the server is killed meanwhile; what it promised before is there."""
    trial = Trial(folder / "data")
    trial.may_double = True  # those in flight to the next host
    try:
        with trial.load():
            time.sleep(chance.uniform(0.2, 1.0))  # load before the fault
            with traced(trial.server, f"fdatasync:error=EIO:when={chance.randint(1, 20)}+2", folder / "strace"):
                time.sleep(chance.uniform(0.1, 1.5))  # load within it
                trial.server.kill()
            trial._stop.set()
        trial.restart()
        trial.taken_again()
        return trial.judge("X1 killed while syncs fail")
    except BaseException:
        trial.abandon()
        raise


Row = Callable[[Path, random.Random], Score]


def _failing(call: str) -> Row:
    return lambda folder, chance: fail_call(folder, chance, call)


ROWS: dict[str, Row] = {
    **{call: _failing(call) for call in CALLS},
    "full": fill_disk,
    "full-queue": queue_on_full_disk,
    "full-deleted": deleted_on_full_disk,
    "descriptors": no_descriptors,
    "memory": little_memory,
    "slow": slow_disk,
    "term": terminate,
    "clock": jump,
    "kill": kill_under_fault,
}


def run(row: str, folder: Path, rounds: int, seed: int) -> Score:
    """One row so many times; it ends with the first failure."""
    total: Score | None = None
    for number in range(1, rounds + 1):
        place = folder / f"{row}-{number}"
        place.mkdir(parents=True)
        score = ROWS[row](place, random.Random(f"{seed}:{row}:{number}"))
        if total is None:
            total = score
        else:
            total.add(score)
        if score.failed:
            break
        shutil.rmtree(place, ignore_errors=True)
    assert total is not None, "at least one round"
    return total


def format_table(scores: list[Score]) -> str:
    """The table at the end."""
    head = f"{'fault':28}{'rounds':>7}{'acked':>8}{'deleted':>8}{'refused':>8}{'lost':>6}{'torn':>6}{'doubled':>8}  "
    lines = [head]
    lines += [
        f"{one.name:28}{one.rounds:>7}{one.acknowledged:>8,}{one.deletions:>8,}{one.refused:>8,}{one.lost:>6}"
        f"{one.torn:>6}{one.doubled:>8}  {'FAILED ' if one.failed else ''}{one.note}"
        for one in scores
    ]
    return "\n".join(lines)


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help=f"of {', '.join(ROWS)}, parted by commas")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-machine-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    scores: list[Score] = []
    for row in options.only.split(",") if options.only else ROWS:
        try:
            scores.append(run(row, folder, options.rounds, seed))
        except LeftOut as lack:
            print(f"{row}: left out: {lack}", flush=True)
            continue
        print(format_table(scores[-1:]).splitlines()[1], flush=True)
    print(format_table(scores))
    for score in scores:
        for complaint in score.complaints[:10]:
            print(f"{score.name}: {complaint}")
    if any(score.failed for score in scores):
        print(f"FAILED with seed {seed}; the data stays in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
