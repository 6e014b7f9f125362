"""The kill test of the reader: `posthouse read new --delete now` is killed again and again, and afterwards every letter
is here exactly once and the maildrop is empty.

Kills come at random instants, and one by one at every system call that matters (with strace). The server is a
Posthouse or a Dovecot, the place a Maildir or an mbox. `python -m tests.torture.collector --rounds 40 --seed 7`.
"""

from __future__ import annotations

import argparse
import contextlib
import mailbox
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.dovecot import USER, dovecot_with_mail, put_letters
from tests.system.raw import greeted, stuffed
from tests.system.server import PASSWORD, READER, find_command, prepare_data, serving

MARK = re.compile(rb"^X-Letter: (\d+)\r?$", re.MULTILINE)
CALLS = ("fsync", "rename", "write", "sendto", "ftruncate")
"""What a run does to files and to the line: the kill comes just before one of them."""

SETTLES = 310.0
"""Seconds in which a server lets the maildrop of a killed run go: a Dovecot that deletes on a busy disk takes long, and
believes the lock of a session that ended badly for five minutes."""
MOST = 5  # times as many rounds as asked for, where the kills come too late


@dataclass(slots=True)
class Ground:
    """A server with a maildrop to collect."""

    name: str
    port: int
    login: str
    put: Callable[[Sequence[bytes]], None]


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Ground]:
    """A Posthouse."""
    with serving(prepare_data(folder / "data"), "smtp", "pop3") as server:

        def put(letters: Sequence[bytes]) -> None:
            with greeted(server.smtp) as session:
                for letter in letters:
                    session.ask(b"MAIL FROM:<x@example.org>", b"250")
                    session.ask(b"RCPT TO:<" + READER.encode() + b">", b"250")
                    session.ask(b"DATA", b"354")
                    session.send(stuffed(letter))
                    assert session.reply().startswith(b"250")
                session.ask(b"QUIT", b"221")

        yield Ground("Posthouse", server.pop3.port, READER, put)


@contextlib.contextmanager
def dovecots(folder: Path) -> Iterator[Ground]:
    """A Dovecot that lets one session in at a time."""
    with dovecot_with_mail("plain", "pop3_lock_session = yes\n") as (port, maildir):
        yield Ground("Dovecot", port, USER, lambda letters: put_letters(maildir, letters))


@dataclass(slots=True)
class Run:
    """All rounds on one ground and one place."""

    ground: Ground
    kind: str
    folder: Path
    sent: int = 0
    kills: int = 0
    whole: int = 0  # runs that ended by themselves
    complaints: list[str] = field(default_factory=list)
    tails: int = 0  # times that an mbox ended in the middle of a letter
    killed_before: Counter[str] = field(default_factory=Counter)

    @property
    def place(self) -> Path:
        """Where the letters go."""
        return self.folder / self.kind

    @property
    def command(self) -> list[str]:
        """The run that is killed."""
        url = f"pop3://{self.ground.login.replace('@', '%40')}@127.0.0.1:{self.ground.port}"
        where = ["--to", f"{self.kind}:{self.place}"]
        return [find_command(), "read", "new", "--url", url, *where, "--delete", "now", "--quiet"]

    def put(self, count: int, chance: random.Random) -> None:
        """New letters; some are large, so that batches end by their octets too."""
        letters = []
        for _ in range(count):
            self.sent += 1
            size = chance.choice((20, 200, 2_000, 60_000))
            body = (b"From here\r\n.\r\n" + b"x" * 60 + b"\r\n") * (size // 76 + 1)
            letters.append(b"From: a@x.mail\r\nX-Letter: %d\r\n\r\n%s" % (self.sent, body))
        self.ground.put(letters)

    def start(self, *before: str) -> subprocess.Popen[bytes]:
        """One run."""
        environment = os.environ | {"POSTHOUSE_PASSWORD": PASSWORD, "XDG_STATE_HOME": str(self.folder)}
        environment |= {"HOME": str(self.folder), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [*before, *self.command], env=environment, stdin=-3, stdout=-3, stderr=subprocess.PIPE, text=False
        )

    def finish(self) -> None:
        """A run that nobody kills. The server may still hold the maildrop of the last one."""
        end = time.monotonic() + SETTLES
        while True:
            process = self.start()
            _, said = process.communicate(timeout=120)
            if process.returncode != 75 or time.monotonic() > end:
                break
        if process.returncode not in (0, 1):
            self.complaints.append(f"a run ended with {process.returncode}: {said.decode(errors='replace')}")
        self.whole += 1

    def check(self, *, all_here: bool) -> None:
        """Each letter at most once, and at the end each once and whole."""
        found = Counter(self.letters(settled=all_here))
        doubled = sorted(number for number, count in found.items() if count > 1)
        if doubled:
            self.complaints.append(f"{self.ground.name}, {self.kind}: DOUBLED {doubled[:20]}")
        missing = sorted(set(range(1, self.sent + 1)) - set(found))
        if all_here and missing:
            self.complaints.append(f"{self.ground.name}, {self.kind}: LOST {missing[:20]}")

    def letters(self, *, settled: bool) -> Iterator[int]:
        """The number of each letter here; of a torn one a complaint. Until the next run has put it right, an mbox
        may end in the middle of a letter: a kill cuts even a single write."""
        texts = list(self.texts())
        for place, text in enumerate(texts, 1):
            match = MARK.search(text)
            if match is not None and text.endswith(b"x\n") and b"\nFrom here\n" in text.replace(b"\n>From", b"\nFrom"):
                yield int(match[1])
            elif not settled and self.kind == "mbox" and place == len(texts):
                self.tails += 1
            else:
                self.complaints.append(f"{self.ground.name}, {self.kind}: TORN {text[:200]!r}")

    def texts(self) -> Iterator[bytes]:
        """What lies in the place."""
        if self.kind == "maildir":
            for name in ("new", "cur"):
                yield from (file.read_bytes() for file in (self.place / name).glob("*"))
        elif self.place.exists():
            box = mailbox.mbox(self.place, create=False)
            try:
                yield from (box.get_bytes(key) for key in box.iterkeys())
            finally:
                box.close()

    def is_left(self) -> bool:
        """Whether the server still has letters."""
        url = self.command[self.command.index("--url") + 1]
        environment = os.environ | {"POSTHOUSE_PASSWORD": PASSWORD}
        command = [find_command(), "read", "latest", "--quiet", "--url", url]
        return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode != 1


def run_rounds(ground: Ground, kind: str, folder: Path, rounds: int, seed: int) -> Run:
    """Kills at random instants of a run whose usual length is measured first: a kill that comes too late is none. So
    many rounds, and more while a machine that is busy one moment and idle the next had fewer kills than that."""
    chance = random.Random(f"{seed}:{kind}")
    run = Run(ground, kind, folder)
    run.put(100, chance)
    begun = time.monotonic()
    run.finish()
    usual = time.monotonic() - begun
    done = 0
    while done < rounds or (run.kills < rounds and done < MOST * rounds):
        done += 1
        run.put(chance.randrange(80, 130), chance)
        for _ in range(6):
            process = run.start()
            try:
                process.communicate(timeout=usual * chance.uniform(0.25, 0.95))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                run.kills += 1
            else:
                usual *= 0.9  # it was faster than we thought
                if process.returncode in (0, 1):
                    break
        run.check(all_here=False)
    return _settle(run)


def run_points(ground: Ground, kind: str, folder: Path, points: Sequence[int], calls: Sequence[str] = CALLS) -> Run:
    """Kills just before the N-th of each kind of system call, N as given."""
    chance = random.Random(kind)
    run = Run(ground, kind, folder)
    for call in calls:
        for point in points:
            run.put(53 - point % 7, chance)
            if call == "ftruncate":  # only what puts a broken run right cuts a file, so one is broken first
                # When letters are in the file and not remembered: a new file costs one fsync more, of its folder.
                _kill_before(run, "fsync", 3 if run.place.exists() else 4)
                _kill_before(run, call, 1)
            else:
                _kill_before(run, call, point)
            run.check(all_here=False)
    return _settle(run)


def _kill_before(run: Run, call: str, point: int) -> None:
    trace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    process = run.start(*trace, "-e", f"inject={call}:signal=KILL:when={point}")
    process.communicate(timeout=120)
    if process.returncode not in (0, 1):
        run.kills += 1
        run.killed_before[call] += 1


def _settle(run: Run) -> Run:
    run.finish()
    run.check(all_here=True)
    if run.is_left():
        run.complaints.append(f"{run.ground.name}, {run.kind}: letters were left on the server")
    return run


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="for each server and place")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-collector-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    failed = False
    for server in (ours, dovecots):
        if server is dovecots and (os.geteuid() != 0 or shutil.which("dovecot") is None):
            print("left out: Dovecot, which is not installed or needs root")
            continue
        for kind in ("maildir", "mbox"):
            place = folder / f"{server.__name__}-{kind}"
            place.mkdir()
            with server(place) as ground:
                runs = [run_rounds(ground, kind, place, options.rounds, seed)]
            if shutil.which("strace"):
                place = folder / f"{server.__name__}-{kind}-points"
                place.mkdir()
                with server(place) as ground:
                    runs.append(run_points(ground, kind, place, range(1, 13)))
            for run in runs:
                print(f"{run.ground.name:10} {kind:8} {run.sent:6,} letters {run.kills:5} kills", flush=True)
                failed |= bool(run.complaints)
                for complaint in run.complaints[:10]:
                    print(complaint)
    if failed:
        print(f"FAILED with seed {seed}; the data stays in {folder}")
        return 1
    print("nothing lost, nothing doubled")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
