"""A server under mixed load while a fault is brought about, and the books that judge what came of it.

Senders put letters into a mailbox here and into the queue (for a next host that outlives every fault), a reader
deletes by POP3. Whatever was answered 250 must be there in the end, once; whatever was deleted with +OK must be gone.
Refusals are right at any time, as long as they are temporary.
"""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.raw import Raw, collect, logged_in, stuffed
from tests.system.server import READER, SENDER, Server, prepare_data, run_posthouse, start_server, wait_for

HOST = "sink.example"
RECOVERY = 60.0  # seconds within which letters must be taken again once the fault is over

_NUMBER = re.compile(rb"^X-Number: (\d+)\r\nX-Sum: (\d+)\r\n\r\n", re.MULTILINE)


def content(number: int, lines: int) -> bytes:
    """A letter that tells who it is and whether it is whole."""
    body = (b"%d " % number + b"line of a letter" * 4 + b"\r\n") * lines
    return b"Subject: trial\r\nX-Number: %d\r\nX-Sum: %d\r\n\r\n" % (number, zlib.crc32(body)) + body


def read(octets: bytes) -> tuple[int, bool]:
    """Which letter it is, and whether it is whole."""
    match = _NUMBER.search(octets)
    if match is None:
        return -1, False
    return int(match[1]), zlib.crc32(octets[match.end() :]) == int(match[2])


class Sink(socketserver.ThreadingTCPServer):
    """The next host: takes everything, and counts. Nothing of it is on the disk that fails."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # with fewer the system drops connections that the client believes to have

    def __init__(self, before: Sink | None = None) -> None:
        super().__init__(("127.0.0.1", 0 if before is None else before.port), _SinkSession)
        self.taken: Counter[int] = Counter() if before is None else before.taken
        self.torn: list[int] = [] if before is None else before.torn
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.server_address[1]
        return port


class _SinkSession(socketserver.StreamRequestHandler):
    server: Sink

    def handle(self) -> None:
        """One SMTP session."""
        with contextlib.suppress(OSError):
            self.wfile.write(b"220 sink.example\r\n")
            while line := self.rfile.readline(4096):
                verb = line[:4].upper()
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    if not self._content():
                        return
                elif verb == b"QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                self.wfile.write(b"250 ok\r\n")

    def _content(self) -> bool:
        octets = bytearray()
        while (line := self.rfile.readline(4096)) != b".\r\n":
            if not line:
                return False
            octets += line
        number, whole = read(bytes(octets))
        self.server.taken[number] += 1
        if not whole:
            self.server.torn.append(number)
        return True


@dataclass(slots=True)
class Books:
    """What was promised."""

    begun: int = 0
    here: set[int] = field(default_factory=set)  # answered 250, for the mailbox
    onward: set[int] = field(default_factory=set)  # answered 250, for the next host
    deleted: set[int] = field(default_factory=set)  # +OK to QUIT
    perhaps: set[int] = field(default_factory=set)  # marked for deletion, no +OK
    refusals: Counter[str] = field(default_factory=Counter)
    lines_lost: int = 0
    complaints: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> int:
        """A number that no letter had."""
        with self.guard:
            self.begun += 1
            return self.begun


@dataclass(slots=True)
class Score:
    """What a trial came to."""

    name: str
    rounds: int = 0
    acknowledged: int = 0
    deletions: int = 0
    refused: int = 0
    lost: int = 0
    torn: int = 0
    doubled: int = 0
    note: str = ""
    complaints: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.lost or self.torn or self.doubled or self.complaints)

    def add(self, other: Score) -> None:
        """The same fault once more."""
        self.rounds += other.rounds
        self.acknowledged += other.acknowledged
        self.deletions += other.deletions
        self.refused += other.refused
        self.lost += other.lost
        self.torn += other.torn
        self.doubled += other.doubled
        self.note = other.note or self.note
        self.complaints += other.complaints


class Refused(Exception):
    """A temporary refusal."""


class Trial:
    """One server, its sink and its books. `may_double` when it is killed: letters in flight may come twice."""

    def __init__(self, data: Path, *, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        self.data = data
        self.environment = environment
        self.books = Books()
        self.sink = Sink()
        self.may_double = False
        self.mailboxes = [READER]
        if not (data / "posthouse.db").exists():
            prepare_data(data)
        run_posthouse(data, "network", "add", "127.0.0.0/8", "--allow", "relay")
        run_posthouse(data, "route", "add", HOST, "--to", f"127.0.0.1:{self.sink.port}", "--tls", "none")
        self.server = self.start()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, environment: dict[str, str] | None = None) -> Server:
        """The server, ready; its log lies beside the data directory."""
        environment = self.environment if environment is None else environment
        self.server = start_server(self.data, "smtp", "pop3", environment=environment, logs=self.data.parent)
        return self.server

    # Load

    @contextlib.contextmanager
    def load(self, senders: int = 3) -> Iterator[None]:
        """Senders and a reader at work for the length of the block."""
        self._stop.clear()
        works = self._works(senders)
        self._threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(90)
                if thread.is_alive():
                    self.books.complaints.append("a client waits for an answer for more than 90 s")

    def _works(self, senders: int) -> list[Callable[[], None]]:
        """What goes on at once; each ends with `_stop`."""
        return [self._send] * senders + [self._delete]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except AssertionError as error:
            self.books.complaints.append(str(error)[:500])

    def _send(self) -> None:
        while not self._stop.is_set():
            try:
                with Raw(self.server.smtp, timeout=60) as session:
                    self._answer(session.reply(), b"220")
                    self._ask(session, b"EHLO trial.example", b"250")
                    while not self._stop.is_set():
                        self._letter(session)
            except Refused:
                time.sleep(0.05)  # as a sender does; not to wait for anything
            except OSError:
                self.books.lines_lost += 1
                time.sleep(0.05)

    def _letter(self, session: Raw) -> None:
        number = self.books.next()
        onward = number % 3 == 0
        recipient = f"n{number}@{HOST}" if onward else READER
        self._ask(session, b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
        self._ask(session, b"RCPT TO:<%s>" % recipient.encode(), b"250")
        self._ask(session, b"DATA", b"354")
        session.send(stuffed(content(number, 4000 if number % 10 == 7 else 20)))
        self._answer(session.reply(), b"250")
        with self.books.guard:
            (self.books.onward if onward else self.books.here).add(number)

    def _ask(self, session: Raw, command: bytes, code: bytes) -> None:
        session.send(command + b"\r\n")
        self._answer(session.reply(), code)

    def _answer(self, reply: bytes, code: bytes) -> None:
        if reply.startswith(code):
            return
        if not reply:
            raise OSError("the line was lost")
        with self.books.guard:
            self.books.refusals[reply[:9].decode(errors="replace")] += 1
        if reply[:1] != b"4":
            raise AssertionError(f"{reply!r} instead of {code!r}")
        raise Refused

    def _delete(self) -> None:
        while not self._stop.is_set():
            try:
                self._delete_some()
            except (OSError, AssertionError) as error:
                # `Raw.pop` asserts +OK: that is no fault when the refusal is temporary or the line was lost.
                mild = ("[SYS/TEMP]", "[IN-USE]", "b''", "ended within")
                if isinstance(error, AssertionError) and not any(text in str(error) for text in mild):
                    self.books.complaints.append(f"the reader: {error}"[:500])
                self.books.lines_lost += 1
            time.sleep(0.02)

    def _delete_some(self) -> None:
        with logged_in(self.server.pop3, READER) as session:
            self._read_and_delete(session)

    def _read_and_delete(self, session: Raw) -> int:
        """Deletes up to eight letters of a session, which it ends; returns how many were there."""
        count = int(session.pop(b"STAT").split()[1])
        marked: set[int] = set()
        for number in range(1, min(count, 8) + 1):
            session.pop(b"RETR %d" % number)
            found, whole = read(session.multiline())
            if not whole:
                self.books.complaints.append(f"letter {found} was handed out torn")
            session.pop(b"DELE %d" % number)
            marked.add(found)
        self.books.perhaps |= marked
        session.pop(b"QUIT")
        self.books.deleted |= marked
        return count

    # Judging

    def taken_again(self, seconds: float = RECOVERY) -> float:
        """Waits until a letter is taken again; how long that took. It is one letter of the books more."""
        began = time.monotonic()

        def taken() -> bool:
            try:
                with Raw(self.server.smtp, timeout=20) as session:
                    self._answer(session.reply(), b"220")
                    self._ask(session, b"EHLO trial.example", b"250")
                    self._letter(session)
            except (OSError, Refused):
                time.sleep(0.1)
                return False
            return True

        wait_for(taken, lambda: f"no letter is taken again: {self.server.log[-2000:]}", seconds)
        return time.monotonic() - began

    def judge(self, name: str, note: str = "") -> Score:
        """What lies where in the end. The server must run; it is stopped."""
        books = self.books
        self.run_empty()
        found: Counter[int] = Counter()
        torn = 0
        for mailbox in self.mailboxes:
            for octets in collect(self.server.pop3, mailbox, delete=False):
                number, whole = read(octets)
                found[number] += 1
                torn += not whole
        notices = collect(self.server.pop3, SENDER)
        self.server.stop()
        score = Score(name, 1, len(books.here) + len(books.onward), len(books.deleted), sum(books.refusals.values()))
        lost = (books.here - found.keys() - books.perhaps) | (books.onward - self.sink.taken.keys())
        doubled = [number for number, times in found.items() if times > 1]
        if not self.may_double:
            doubled += [number for number, times in self.sink.taken.items() if times > 1]
        score.lost, score.torn, score.doubled = len(lost), torn + len(self.sink.torn), len(doubled)
        score.complaints = list(books.complaints)
        if back := books.deleted & found.keys():
            score.complaints.append(f"{len(back)} letters are there again after their deletion")
        if notices:
            score.complaints.append(f"{len(notices)} notices, and nothing failed: {notices[0][-1500:]!r}")
        checked = run_posthouse(self.data, "doctor", "--store", code=None, timeout=120)
        if checked.returncode:
            score.complaints.append(f"doctor --store: {checked.stdout}{checked.stderr}")
        score.note = note
        self.sink.shutdown()
        self.sink.server_close()
        return score

    def run_empty(self) -> None:
        """Lets the queue carry on everything."""

        def empty() -> bool:
            if self.books.onward <= self.sink.taken.keys():
                return True
            run_posthouse(self.data, "queue", "retry", "--all", code=None)
            return False

        with contextlib.suppress(AssertionError):  # what did not come is counted as lost
            wait_for(empty, lambda: "the queue does not run empty", 60)

    def restart(self) -> None:
        """A server after one that is gone."""
        self.start()

    def abandon(self) -> None:
        """Ends what runs, after a failure."""
        self._stop.set()
        self.server.kill()
        self.sink.shutdown()
        self.sink.server_close()
