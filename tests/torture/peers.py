"""Power cuts of other mail servers beside ours, in one run: `python -m tests.torture.peers --cuts 20` (root).

Every server gets a disk of its own (`tests.torture.disk`), the same letters in the same way, and loses the power under
load; whatever it had answered 250 until then must be in its mailbox when it has come back and has had the time to put
right what it wants to. The books are those of the kill test. The last row is the control: a server that syncs the
letter and not the directory. When that one loses nothing the run has proved nothing, and fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.generator import user
from bench.machine import free_port, start, wait_for_port
from bench.peers import POSTFIX_DAEMONS, Dovecot, MaildirServer, Postfix, PostfixDovecot, PostfixVirtual

from tests.system.raw import stuffed
from tests.system.server import Endpoint, Server, add_account, run_posthouse, start_server
from tests.torture.disk import Disk, enter_namespace, missing
from tests.torture.ledger import Ledger, Letter
from tests.torture.load import Lost, Odd, Stream, empty, verify

BOXES = 5
ADDRESSES = [user(number) for number in range(BOXES)]
SENDERS = 6
WARM = 20.0  # seconds until the first letter is taken, at most
EMPTY = 5  # looks in a row
SETTLE = 60.0  # seconds that a server has to carry on what it had accepted


class Subject(ABC):
    """A server whose power is cut."""

    name = ""
    lmtp = False

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.logs = logs

    @abstractmethod
    def start(self, *, first: bool) -> Endpoint:
        """Starts it, on an empty folder the first time; where it takes letters."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to all of it."""

    @abstractmethod
    async def found(self, ledger: Ledger, chance: random.Random) -> dict[str, list[str]]:
        """What lies in each mailbox once it is at rest: unique names, each letter `read` by the books."""

    @abstractmethod
    async def clear(self, ledger: Ledger) -> None:
        """Empties the mailboxes, for the next cut."""


class Ours(Subject):
    """Posthouse by SMTP."""

    name = "Posthouse"
    server: Server

    def start(self, *, first: bool) -> Endpoint:
        """The server."""
        data = self.folder / "data"
        if first:
            run_posthouse(data, "domain", "add", "x.mail")
            for address in ADDRESSES:
                add_account(data, address)
        self.server = start_server(data, "smtp", "pop3", logs=self.logs)
        return self.server.smtp

    def kill(self) -> None:
        """It is one process."""
        self.server.kill()

    async def found(self, ledger: Ledger, chance: random.Random) -> dict[str, list[str]]:
        """By POP3."""
        return {address: await verify(self.server.pop3, address, ledger, chance) for address in ADDRESSES}

    async def clear(self, ledger: Ledger) -> None:
        """By POP3."""
        for address in ADDRESSES:
            await empty(self.server.pop3, address, ledger)


class InMaildirs(Subject):
    """A server that keeps Maildirs, which are read without it."""

    maildirs: MaildirServer
    processes: list[subprocess.Popen[bytes]]

    def kill(self) -> None:
        """All processes of its sessions (setsid(2)), again and again while they start others."""
        sessions = {process.pid for process in self.processes}
        end = time.monotonic() + 10
        while (alive := _of_sessions(sessions)) and time.monotonic() < end:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.processes:
                process.poll()
            time.sleep(0.01)
        for process in self.processes:  # its other threads may outlive the first one for a moment
            process.wait(20)
        self.processes.clear()

    def rest(self) -> None:
        """Returns once everything accepted is in its mailbox, or after SETTLE seconds."""

    async def found(self, ledger: Ledger, chance: random.Random) -> dict[str, list[str]]:
        """The files in `new`."""
        self.rest()
        listings: dict[str, list[str]] = {}
        for number, address in enumerate(ADDRESSES):
            files = sorted(self._files(number))
            for file in files:
                ledger.read(address, file.name, file.read_bytes().replace(b"\n", b"\r\n"))
            listings[address] = [file.name for file in files]
        return listings

    async def clear(self, ledger: Ledger) -> None:
        """Removes the files, and has that on the disk."""
        for number, address in enumerate(ADDRESSES):
            box = ledger.boxes[address]
            box.marked(dict(box.known))
            for file in self._files(number):
                file.unlink()
            box.settled(deleted=True)
        os.sync()

    def _files(self, number: int) -> Iterable[Path]:
        return (self.maildirs.maildir(number) / "new").iterdir()


def _of_sessions(sessions: set[int]) -> list[int]:
    """The living processes of these sessions, their leaders first."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "stat").read_bytes()
            state, _, _, session = words[words.rindex(b")") + 2 :].split()[:4]
            if int(session) in sessions and state != b"Z":
                found.append(int(entry.name))
    return sorted(found, key=lambda pid: pid not in sessions)


class WithPostfix(InMaildirs):
    """Postfix, which answers 250 when the letter lies in its queue."""

    kind: type[Postfix]

    def start(self, *, first: bool) -> Endpoint:
        """As the bench starts it; later its daemons alone."""
        if first:
            self.postfix = self.maildirs = self.kind(self.folder)
            self.postfix.start(BOXES)
            os.sync()
        else:
            self._again()
        self.processes = self.postfix.processes
        return Endpoint("127.0.0.1", self.postfix.smtp_port)

    def _again(self) -> None:
        postfix = self.postfix
        if isinstance(postfix, PostfixDovecot):
            run_dovecot(postfix.dovecot, postfix.processes, self.logs)
        configuration = str(postfix.folder / "postfix")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MAIL_CONFIG": configuration}
        command = [str(POSTFIX_DAEMONS / "master"), "-c", configuration, "-d"]
        postfix.processes.append(start(command, self.logs / "postfix.log", env=environment))
        wait_for_port(postfix.smtp_port, postfix.processes[-1])

    def rest(self) -> None:
        """Until its queues are empty, seen so often in a row that a letter which is moved from one to another in that
        moment (at its start the queue manager moves all of them) is not overlooked; what was put off is tried at
        once."""
        spool = self.folder / "spool"
        end = time.monotonic() + SETTLE
        empty = 0
        while empty < EMPTY and time.monotonic() < end:
            held = [queue for queue in ("maildrop", "incoming", "active", "deferred") if _holds(spool / queue)]
            empty = 0 if held else empty + 1
            if held == ["deferred"]:
                subprocess.run(["postqueue", "-c", str(self.folder / "postfix"), "-f"], check=False)
            time.sleep(0.1)


def _holds(queue: Path) -> bool:
    """Whether a letter lies there; a file without the mark of a whole one is what a crash left of another."""
    for path in queue.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IXUSR:
                return True
    return False


# It takes no letter for one that was just written here, to which it would add fields.
_AS_IT_IS = "local_header_rewrite_clients =\n"


class _Virtual(PostfixVirtual):
    def _main_cf(self) -> str:
        return super()._main_cf() + _AS_IT_IS


class _Pair(PostfixDovecot):
    def _main_cf(self) -> str:
        return super()._main_cf() + _AS_IT_IS


class PostfixAlone(WithPostfix):
    """Postfix with its own delivery agent."""

    name = "Postfix, virtual into Maildirs"
    kind = _Virtual


class PostfixWithDovecot(WithPostfix):
    """The usual pair."""

    name = "Postfix, Dovecot LMTP"
    kind = _Pair


class DovecotAlone(InMaildirs):
    """Dovecot's LMTP, spoken to at once."""

    name = "Dovecot LMTP"
    lmtp = True

    def start(self, *, first: bool) -> Endpoint:
        """With its LMTP on a port."""
        if first:
            self.maildirs = _Maildirs(self.folder)
            self.maildirs.make_maildirs(BOXES, 0, 0, None)
            self.port = free_port()
            (self.folder / "dovecot").mkdir()
            self.dovecot = Dovecot(self.folder / "dovecot", shared=False, scheme="PLAIN")
            self.dovecot.write(self.folder / "mail", BOXES)
            listener = f"  inet_listener lmtp {{\n    address = 127.0.0.1\n    port = {self.port}\n  }}\n"
            with (self.dovecot.folder / "dovecot.conf").open("a") as file:
                file.write(f"service lmtp {{\n{listener}}}\n")
            os.sync()
        self.processes = []
        run_dovecot(self.dovecot, self.processes, self.logs)
        wait_for_port(self.port, self.processes[-1])
        return Endpoint("127.0.0.1", self.port)


class Control(InMaildirs):
    """The careless one."""

    name = "the control: mailbox.Maildir"

    def start(self, *, first: bool) -> Endpoint:
        """A process of its own."""
        if first:
            self.maildirs = _Maildirs(self.folder)
            self.maildirs.make_maildirs(BOXES, 0, 0, None)
            self.port = free_port()
            os.sync()
        command = [sys.executable, "-m", "tests.torture.careless", str(self.folder / "mail"), str(self.port)]
        self.processes = [start(command, self.logs / "careless.log")]
        wait_for_port(self.port, self.processes[-1])
        return Endpoint("127.0.0.1", self.port)


class _Maildirs(MaildirServer):
    """Maildirs without the bench's server."""

    def start(self, mailboxes: int, *, letters: int = 0, size: int = 4096, filled: int | None = None) -> None:
        """Nothing."""


def run_dovecot(dovecot: Dovecot, processes: list[subprocess.Popen[bytes]], logs: Path) -> None:
    """Starts a Dovecot whose configuration is written."""
    command = ["/usr/sbin/dovecot", "-F", "-c", str(dovecot.folder / "dovecot.conf")]
    processes.append(start(command, logs / "dovecot.log"))
    wait_for_port(dovecot.port, processes[-1])


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    "posthouse": Ours,
    "postfix": PostfixAlone,
    "pair": PostfixWithDovecot,
    "dovecot": DovecotAlone,
    "control": Control,
}


async def send(endpoint: Endpoint, ledger: Ledger, chance: random.Random, first: asyncio.Event, *, lmtp: bool) -> None:
    """Sends letters by DATA, each to one mailbox, until the server is gone; `first` is set when one was taken."""
    with contextlib.suppress(Lost):
        while True:
            try:
                async with await Stream.open(endpoint) as stream:
                    await stream.expect(b"220")
                    await stream.send(b"LHLO torture.x.mail\r\n" if lmtp else b"EHLO torture.x.mail\r\n")
                    await stream.expect(b"250")
                    for _ in range(chance.randint(1, 8)):
                        await _send(stream, ledger.new(chance), ledger, chance)
                        first.set()
            except Odd as error:
                ledger.odd(f"a sender was told {error}")
                await asyncio.sleep(0.02)  # as a sender does


async def _send(stream: Stream, letter: Letter, ledger: Ledger, chance: random.Random) -> None:
    letter.recipients = letter.recipients[:1]  # LMTP answers for each
    wire = stuffed(letter.content())
    for command in (b"MAIL FROM:<sender@example.org>", b"RCPT TO:<%s>" % letter.recipients[0].encode()):
        await stream.send(command + b"\r\n")
        await stream.expect(b"250")
    await stream.send(b"DATA\r\n")
    await stream.expect(b"354")
    held = chance.choice((1, 3, 5, 2000))
    await stream.send(wire[:-held])
    ledger.sent(letter)
    await stream.send(wire[-held:])
    await stream.expect(b"250")
    ledger.acknowledge(letter)


@dataclass(slots=True)
class Row:
    """What a server's cuts came to."""

    name: str
    ledger: Ledger
    seconds: float

    @property
    def torn(self) -> int:
        """Letters that are there and not whole; what is left of one may tell nobody whose it is."""
        return self.ledger.tally.torn + self.ledger.tally.ghosts

    @property
    def sound(self) -> bool:
        """Whether it kept its promise."""
        return not (self.ledger.tally.lost or self.torn)


def cut_power(subject: Subject, disk: Disk, cuts: int, seed: int) -> Row:
    """So many power cuts of one server."""
    ledger = Ledger(ADDRESSES)
    began = time.monotonic()
    endpoint = subject.start(first=True)
    for number in range(1, cuts + 1):
        chance = random.Random(f"{seed}:{number}")
        ledger.tally.rounds = number
        try:
            asyncio.run(_load(subject, endpoint, disk, ledger, chance))
        finally:
            subject.kill()
        disk.unmount()
        disk.mount()
        ledger.cut = False
        endpoint = subject.start(first=False)
        asyncio.run(_judge(subject, ledger, chance))
    subject.kill()
    return Row(subject.name, ledger, time.monotonic() - began)


async def _load(subject: Subject, endpoint: Endpoint, disk: Disk, ledger: Ledger, chance: random.Random) -> None:
    first = asyncio.Event()
    seeds = [chance.getrandbits(64) for _ in range(SENDERS)]
    tasks = [
        asyncio.create_task(send(endpoint, ledger, random.Random(seed), first, lmtp=subject.lmtp)) for seed in seeds
    ]
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(first.wait(), WARM)  # some start their processes with the first letters
    await asyncio.sleep(chance.uniform(0.1, 1.5))  # the load before the cut
    ledger.cut = True
    disk.cut()
    await asyncio.sleep(chance.uniform(0, 0.1))
    subject.kill()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _judge(subject: Subject, ledger: Ledger, chance: random.Random) -> None:
    told = len(ledger.complaints)
    ledger.judge(await subject.found(ledger, chance))
    for number, text in enumerate(ledger.complaints[told:], told):
        if (match := _LOST.search(text)) is not None:
            ledger.complaints[number] += f"; {_trace(subject.folder, match[1].encode())}"
    await subject.clear(ledger)


_LOST = re.compile(r"lost: letter (\d+) ")


def _trace(folder: Path, number: bytes) -> str:
    """Where the octets of a lost letter still lie, for whoever wants to know why."""
    mark = b"\nX-Torture: " + number + b"\n"
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and mark in path.read_bytes()[:4096].replace(b"\r", b""):
                return f"it lies in {path.relative_to(folder)}"
    return "it is nowhere"


HEADS = ("server", "cuts", "acknowledged", "lost", "torn", "doubled", "unanswered", "of these there", "seconds")


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    tally = row.ledger.tally
    numbers = (tally.rounds, tally.acknowledged, tally.lost, row.torn, tally.doubled + tally.returned)
    return (row.name, *(f"{n:,}" for n in (*numbers, tally.unanswered, tally.kept)), f"{row.seconds:.0f}")


def run(names: Iterable[str], folder: Path, cuts: int, seed: int) -> list[Row]:
    """The servers one after the other, each on a new disk."""
    rows = []
    for name in names:
        logs = folder / f"{name}-logs"
        logs.mkdir()
        disk = Disk(folder / f"{name}.img", folder / name)
        subject = SUBJECTS[name](disk.folder / "server", logs)
        subject.folder.mkdir(mode=0o755)
        try:
            rows.append(cut_power(subject, disk, cuts, seed))
        finally:
            with contextlib.suppress(Exception):
                subject.kill()
            disk.unmount()
        print("  ".join(cells(rows[-1])), flush=True)
    return rows


def verdict(rows: list[Row]) -> str:
    """What is wrong with the outcome; empty when ours kept its promise and the control broke it."""
    by_name = {row.name: row for row in rows}
    ours, control = by_name.get(Ours.name), by_name.get(Control.name)
    if ours is not None and (ours.ledger.tally.failures or not ours.sound):
        return "Posthouse broke its promise"
    if control is not None and not control.ledger.tally.lost:
        return "the control lost nothing: these cuts prove nothing"
    return ""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default=",".join(SUBJECTS), help="some of them, parted by commas")
    parser.add_argument("--folder", type=Path, default=None, help="where the disks lie (default: a temporary folder)")
    options = parser.parse_args()
    if lack := missing():
        print(f"left out: {lack}")
        return 69
    enter_namespace("tests.torture.peers")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="posthouse-peers-"))
    folder.chmod(0o755)  # the servers' own users pass through it
    print(f"seed {seed}, in {folder}", flush=True)
    rows = run(options.only.split(","), folder, options.cuts, seed)
    print("\n| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for row in rows:
        print("| " + " | ".join(cells(row)) + " |")
    for row in rows:
        for complaint in sorted(row.ledger.complaints, key=lambda text: _LOST.search(text) is None)[:5]:
            print(f"{row.name}: {complaint[:300]}")
    if wrong := verdict(rows):
        print(f"FAILED with seed {seed}: {wrong}; everything stays in {folder}")
        return 1
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
