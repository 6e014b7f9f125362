"""An hour of everything at once: does anything grow, is anything lost? `make soak` prints the table.

A real server takes letters by SMTP, submission (TLS and a login) and LMTP, hands them out and deletes them by POP3 (in
the clear and after STLS) and carries others on to a next host, which is away now and then. Meanwhile clients try wrong
passwords, talk nonsense, hang up in the middle and are killed; the settings change with SIGHUP; commands work beside
the server, among them one that brings deleted letters back. Whatever was promised stands in the books of
`tests.torture.trial`. Memory, descriptors, threads and the store's size are compared in two quiet moments, after the
warm-up and at the end, and must not rise under load either.

`python -m tests.torture.soak --minutes 60 --seed 7`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.system.raw import Raw, collect, greeted, stuffed
from tests.system.server import (
    PASSWORD,
    READER,
    SENDER,
    Server,
    add_account,
    prepare_data,
    run_posthouse,
    start_server,
    wait_for,
)
from tests.torture.gauges import Sample, format_gauges, growth, look, steepness, watched
from tests.torture.trial import HOST, Refused, Score, Sink, Trial, content, read

THIRD: Final = "test3@x.mail"  # its letters come by LMTP and submission, and are read after STLS
FOUND: Final = "test4@x.mail"  # deletes letters and brings them back
VICTIM: Final = "test5@x.mail"  # whose password is guessed at
BACKLOG: Final = 150  # letters in all maildrops together: then the senders wait for the readers
WARM_UP: Final = 0.25  # of the time
SETTINGS: Final = """[limits]
address_connections = 0
network_connections = 0
address_rate = 0
network_rate = 0
[sending]
letters_hour = 0
letters_day = 0
recipients_hour = 0
recipients_day = 0
new_recipients_day = 0
[smtp]
message = {message}
[store]
undelete = {undelete}
"""


class Soak(Trial):
    """The server with all its clients. `undelete` is for how many seconds deleted letters can come back."""

    def __init__(self, data: Path, chance: random.Random, undelete: float) -> None:
        self.chance = chance
        self.undelete = undelete
        self.done: Counter[str] = Counter()  # how often each kind of thing happened
        prepare_data(data)
        passwords = f"{PASSWORD}\n" * 3
        run_posthouse(data, "account", "add", THIRD, FOUND, VICTIM, "--password-stdin", stdin=passwords)
        self._write_settings(data, 50_000_000)
        super().__init__(data)
        self.mailboxes = [READER, THIRD]

    def _write_settings(self, data: Path, message: int) -> None:
        draft = data / "posthouse.toml.new"
        draft.write_text(SETTINGS.format(message=message, undelete=self.undelete))
        draft.replace(data / "posthouse.toml")

    def start(self, environment: dict[str, str] | None = None) -> Server:
        """The server with a listener for each protocol."""
        self.server = start_server(self.data, "smtp", "submission", "lmtp", "pop3", logs=self.data.parent)
        return self.server

    def _works(self, senders: int) -> list[Callable[[], None]]:
        steady = [self._send] * senders + [self._submit, self._speak_lmtp, self._delete, self._delete_secured]
        rare = [self._guess, self._talk_nonsense, self._hang_up, self._kill_client]
        return [*steady, *(self._again(work, 0.4) for work in rare), *self._slow_works()]

    def _slow_works(self) -> list[Callable[[], None]]:
        slow = ((self._lose_and_find, 3.0), (self._command, 5.0), (self._reload, 4.0), (self._lose_next_host, 9.0))
        return [self._again(work, rest) for work, rest in slow]

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whatever ends a work early is a failure of the soak."""
        try:
            super()._guarded(work)
        except Exception as error:  # noqa: BLE001 (the top of a thread)
            self.books.complaints.append(f"{type(error).__name__}: {error}"[:500])

    def _again(self, work: Callable[[], None], rest: float) -> Callable[[], None]:
        """A work at random intervals, of `rest` seconds on average."""

        def repeat() -> None:
            while not self._stop.is_set():
                with contextlib.suppress(OSError, Refused):
                    work()
                self.done[work.__name__.strip("_")] += 1
                self._stop.wait(self.chance.uniform(0, 2 * rest))

        return repeat

    # Letters in

    def _letter(self, session: Raw) -> None:
        self._wait_for_readers()
        super()._letter(session)
        self.done["by smtp"] += 1

    def _wait_for_readers(self) -> None:
        while len(self.books.here) - len(self.books.deleted) > BACKLOG and not self._stop.wait(0.05):
            pass

    def _submit(self) -> None:
        """Submission: STARTTLS, a login, some letters."""
        while not self._stop.is_set():
            try:
                with greeted(self.server.submission) as session:
                    session.ask(b"STARTTLS", b"220")
                    session.start_tls(self.server.authority)
                    session.ask(b"EHLO submitter.x.mail", b"250")
                    session.ask(b"AUTH PLAIN " + _plain(SENDER, PASSWORD), b"235")
                    for _ in range(self.chance.randint(1, 4)):
                        self._envelope(session, f"to{self.books.begun % 50}@{HOST}" if self._now_and_then() else THIRD)
                        self.done["by submission"] += 1
                    session.ask(b"QUIT", b"221")
            except Refused:
                self._stop.wait(0.05)
            except OSError:
                self.books.lines_lost += 1

    def _speak_lmtp(self) -> None:
        """LMTP: one reply for each recipient."""
        while not self._stop.is_set():
            try:
                with greeted(self.server.lmtp, b"LHLO mta.x.mail") as session:
                    for _ in range(self.chance.randint(1, 6)):
                        self._envelope(session, THIRD)
                        self.done["by lmtp"] += 1
                    session.ask(b"QUIT", b"221")
            except Refused:
                self._stop.wait(0.05)
            except OSError:
                self.books.lines_lost += 1

    def _now_and_then(self) -> bool:
        return self.chance.random() < 0.3

    def _envelope(self, session: Raw, recipient: str, number: int | None = None) -> int:
        """One letter for one recipient, in the books once it is promised (one with a number is not)."""
        if number is None:
            self._wait_for_readers()
        letter = self.books.next() if number is None else number
        self._ask(session, b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
        self._ask(session, b"RCPT TO:<%s>" % recipient.encode(), b"250")
        self._ask(session, b"DATA", b"354")
        session.send(stuffed(content(letter, self.chance.choice((1, 20, 20, 200, 2000)))))
        self._answer(session.reply(), b"250")
        if number is None:
            with self.books.guard:
                (self.books.onward if recipient.endswith(HOST) else self.books.here).add(letter)
        return letter

    # Letters out

    @contextlib.contextmanager
    def _secured(self, address: str) -> Iterator[Raw]:
        with Raw(self.server.pop3) as session:
            assert session.line().startswith(b"+OK")
            session.pop(b"STLS")
            session.start_tls(self.server.authority)
            session.pop(b"USER " + address.encode())
            session.pop(b"PASS " + PASSWORD.encode())
            yield session

    def _delete_secured(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), self._secured(THIRD) as session:
                self._read_and_delete(session)
                self.done["secured sessions"] += 1
            self._stop.wait(0.02)

    def _lose_and_find(self) -> None:
        """Letters are deleted and come back by `posthouse account undelete`, beside the server."""
        numbers = [self.books.next() for _ in range(3)]
        with greeted(self.server.lmtp, b"LHLO mta.x.mail") as session:
            for number in numbers:
                self._envelope(session, FOUND, number)
        before = datetime.now(UTC).isoformat()
        lost = sorted(read(octets)[0] for octets in collect(self.server.pop3, FOUND))
        run_posthouse(self.data, "account", "undelete", FOUND, "--since", before)
        found = sorted(read(octets) for octets in collect(self.server.pop3, FOUND))
        assert lost == numbers, f"{numbers} were promised, {lost} were there"
        assert found == [(number, True) for number in lost], f"{lost} were deleted, {found} came back"

    # Clients that behave badly

    def _guess(self) -> None:
        wrong = f"guess-{self.chance.randrange(1000)}"
        who = self.chance.choice((VICTIM, VICTIM, "nobody@x.mail"))
        if self.chance.random() < 0.5:
            with Raw(self.server.pop3) as session:
                session.line()
                session.pop(b"USER " + who.encode())
                session.pop(b"PASS " + wrong.encode(), b"-ERR")
            return
        with greeted(self.server.submission) as session:
            session.ask(b"STARTTLS", b"220")
            session.start_tls(self.server.authority)
            session.ask(b"EHLO guesser.x.mail", b"250")
            reply = session.ask(b"AUTH PLAIN " + _plain(who, wrong))
            assert reply[:3] in (b"535", b"454", b"421"), reply

    def _talk_nonsense(self) -> None:
        """What no client says; whatever the answer is, the connection ends."""
        chance = self.chance
        words = chance.choice(
            (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                chance.randbytes(chance.randint(1, 3000)) + b"\r\n",
                b"A" * 20_000 + b"\r\n",
                b"\x16\x03\x01\x02\x00" + chance.randbytes(200),
                b"EHLO x\r\nMAIL FROM:<" + b"(" * 500 + b"\r\n" + b"RCPT TO:<@@>\r\n" * 30,
                b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@x.mail>\r\nDATA\r\nbare\n.\nlines\r\n.\r\nQUIT\r\n",
                b"NOOP\r\n" * 300,
            )
        )
        name = chance.choice(("smtp", "submission", "lmtp", "pop3"))
        with Raw(self.server.listeners[name][0], timeout=20) as session:
            session.send(words)
            session.end_sending()
            session.rest()

    def _hang_up(self) -> None:
        """In the middle of a letter, half of the time with a reset."""
        with greeted(self.server.smtp) as session:
            session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
            session.ask(b"RCPT TO:<%s>" % READER.encode(), b"250")
            if self.chance.random() < 0.8:
                session.ask(b"DATA", b"354")
                letter = content(self.books.next(), 4000)
                session.send(letter[: self.chance.randrange(len(letter))])
            if self.chance.random() < 0.5:
                session._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _kill_client(self) -> None:
        """curl is killed while it sends a letter, or while it collects."""
        program = shutil.which("curl")
        assert program is not None, "curl is needed"
        command = [program, "-s", "--limit-rate", "50k"]
        if self.chance.random() < 0.5:
            command += ["--mail-from", SENDER, "--mail-rcpt", READER, "-T", "-", f"smtp://{self.server.smtp.url}"]
        else:
            command += ["-u", f"{SENDER}:{PASSWORD}", f"pop3://{self.server.pop3.url}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(content(self.books.next(), 300))
                process.stdin.flush()
            self._stop.wait(self.chance.uniform(0, 0.6))
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    # What happens around the server

    def _reload(self) -> None:
        self._write_settings(self.data, self.chance.choice((40_000_000, 50_000_000)))
        self.server.signal(signal.SIGHUP)

    def _lose_next_host(self) -> None:
        """Nobody accepts there for a while; sessions that are open go on."""
        self.sink.shutdown()
        self.sink.server_close()
        self._stop.wait(self.chance.uniform(0.2, 3))
        self.sink = Sink(self.sink)

    def _command(self) -> None:
        """Commands beside the server, among them those that change accounts."""
        run_posthouse(self.data, "queue", "retry", "--all", code=None)
        run_posthouse(self.data, "account", "list")
        guest = f"guest{self.chance.randrange(10_000)}@x.mail"
        add_account(self.data, guest)
        with greeted(self.server.lmtp, b"LHLO mta.x.mail") as session:
            self._envelope(session, guest, 0)
        run_posthouse(self.data, "account", "remove", guest, "--yes")

    # Quiet moments

    def settle(self, seconds: float) -> Sample:
        """Empties everything, waits until the store lies still, at most so long, and looks at what the server takes."""
        wait_for(self._emptied, lambda: "the maildrops do not run empty", 120)
        self.run_empty()
        end = time.monotonic() + seconds
        before = look(self.server)
        while time.monotonic() < end:
            time.sleep(1.0 if seconds > 10 else 0.3)  # it lies still when nothing changes for so long
            now = look(self.server)
            if _still(before) == _still(now) and (self.undelete > seconds or not self._tombstones()):
                break
            before = now
        return look(self.server)

    def _emptied(self) -> bool:
        count = 0
        for mailbox in self.mailboxes:
            with self._secured(mailbox) as session:
                count += self._read_and_delete(session)
        return count == 0

    def _tombstones(self) -> int:
        uri = f"{(self.data / 'posthouse.db').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return int(connection.execute("SELECT count(*) FROM tombstone").fetchall()[0][0])


def _plain(address: str, password: str) -> bytes:
    return base64.b64encode(f"\0{address}\0{password}".encode())


def _still(sample: Sample) -> tuple[int, ...]:
    return (sample.descriptors, sample.database, sample.wal, sample.contents)


def run(folder: Path, seconds: float, seed: int) -> tuple[Score, str, Counter[str]]:
    """A soak of this length; what it came to, the table, and what was done how often."""
    long = seconds >= 120
    soak = Soak(folder / "data", random.Random(seed), 60.0 if long else 604_800.0)
    try:
        with soak.load():
            time.sleep(seconds * WARM_UP)  # the warm-up
        first = soak.settle(150 if long else 3)
        with soak.load(), watched(soak.server, 2.0 if long else 0.2) as samples:
            time.sleep(seconds * (1 - WARM_UP))  # the time that is looked at
        last = soak.settle(150 if long else 3)
        if long:
            grown = growth(first, last) + steepness(samples, samples[-1].at - samples[0].at)
        else:  # nothing has ended, and memory is not warm yet
            grown = [text for text in growth(first, last) if text.startswith("files in staging")]
            if last.descriptors > first.descriptors + 30:  # idle connections to the next host are still open
                grown.append(f"descriptors: {first.descriptors} after the warm-up, {last.descriptors} at the end")
            if last.memory > 2 * first.memory:
                grown.append(f"memory: {first.memory} after the warm-up, {last.memory} at the end")
        score = soak.judge("soak", f"{seconds / 60:.1f} min")
    except BaseException:
        soak.abandon()
        raise
    score.complaints += grown
    return score, format_gauges(first, last, samples), soak.done


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-soak-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    score, table, done = run(folder, options.minutes * 60, seed)
    print(table)
    print(", ".join(f"{re.sub('_', ' ', name)} {count:,}" for name, count in sorted(done.items())))
    print(
        f"{score.note}: {score.acknowledged:,} letters acknowledged, {score.deletions:,} deleted, "
        f"{score.refused:,} refused for the moment; lost {score.lost}, torn {score.torn}, doubled {score.doubled}"
    )
    for complaint in score.complaints[:20]:
        print(f"- {complaint}")
    if score.failed:
        print(f"FAILED with seed {seed}; the data stays in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
