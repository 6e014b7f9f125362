"""The kill test of the outbox: `send`, `outbox run` and the server are killed at random instants, and every letter
that was promised is delivered exactly once, or is written down as uncertain.

    python -m tests.torture.outbox --rounds 200 --seed 7

Rules. `send` that ended with 0 has made a promise; one that was killed has not, and its letter may be there or not,
but never twice. A letter that is uncertain was delivered once or not at all. Nobody asks for one to be sent again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from posthouse.clients.outbox import Outbox
from posthouse.clients.waiting import Recipient, Route, State, Waiting
from tests.system.raw import collect
from tests.system.scripted import environment
from tests.system.server import Server, find_command, prepare_data, start_server

READERS = ("test2@x.mail", "test@x.mail")
BATCH = 12  # letters that wait when a runner is started
_MARK = re.compile(rb"^X-Mark: (\w+)\r$", re.MULTILINE)


@dataclass(slots=True)
class Ledger:
    """What was promised, what came, and what was killed."""

    promised: set[str] = field(default_factory=set)
    possible: set[str] = field(default_factory=set)  # handed over by somebody who was killed
    kills: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)  # states that kills left
    complaints: list[str] = field(default_factory=list)


class Ground:
    """A server with a port that stays the same, and the outbox of one person."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.data = prepare_data(folder / "data")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.box = Outbox(self.home / "posthouse" / "outbox")
        self.ledger = Ledger()
        self.server: Server = self._start()
        self._count = 0
        self._span = 0.6

    def _start(self) -> Server:
        return start_server(self.data, f"smtp=127.0.0.1:{self.port}", "pop3", logs=self.folder)

    def mark(self) -> str:
        """A name for one letter."""
        self._count += 1
        return f"m{self._count}"

    def command(self, *arguments: str) -> list[str]:
        """One command of ours."""
        return [find_command(), *arguments]

    def run(self, *arguments: str, kill_after: float | None = None) -> int | None:
        """Runs a command; None when it was killed."""
        process = subprocess.Popen(
            self.command(*arguments),
            env=environment(home=self.home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return process.wait(60 if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
            return None

    # Steps of a round

    def fill(self) -> None:
        """Letters that were queued and confirmed."""
        for _ in range(BATCH):
            mark = self.mark()
            now = time.time()
            recipients = [Recipient(address) for address in READERS[: self.chance.choice((1, 2))]]
            waiting = Waiting("", "me@x.mail", recipients, f"<{mark}@x>", mark, 0, self.route, now, now)
            content = b"X-Mark: " + mark.encode() + b"\r\n\r\n" + b"text\r\n" * self.chance.choice((1, 20_000))
            with self.box.add(waiting, [content]):
                self.ledger.promised |= {f"{mark} {recipient.address}" for recipient in recipients}

    @property
    def route(self) -> Route:
        """Where letters go."""
        return Route(f"smtp://127.0.0.1:{self.port}")

    def send_and_kill(self) -> None:
        """A person's `send`, killed or not, with a queue or without."""
        mark, address = self.mark(), self.chance.choice(READERS)
        how = self.chance.choice(([], ["--queue"], ["--hold", "1s"] if self.chance.random() < 0.2 else []))
        arguments = ["send", address, "-f", "me@x.mail", "-m", "text", "-H", f"X-Mark: {mark}", *how]
        code = self.run(*arguments, "--url", self.route.url, kill_after=self.chance.uniform(0.1, 0.4))
        letter = f"{mark} {address}"
        if code is None:
            self.ledger.kills["send"] += 1
            self.ledger.possible.add(letter)
        elif code in (0, 75):  # 75: uncertain, which the outbox must know
            self.ledger.promised.add(letter)
        else:
            self.ledger.complaints.append(f"send ended with {code}")

    def run_and_kill(self) -> None:
        """`outbox run`, killed somewhere in its letters."""
        killed = self.run("outbox", "run", kill_after=self._span * self.chance.uniform(0.2, 1.0)) is None
        self._span *= 1.1 if killed else 0.85  # so that about half of them are killed on any machine
        if killed:
            self.ledger.kills["outbox run"] += 1
            for name in self.box.ids():
                state = json.loads((self.box.path / name / "state.json").read_text())
                if state["phase"]:
                    self.ledger.found[state["phase"]] += 1

    def kill_server(self) -> None:
        """The server dies while a runner works, and comes back."""
        runner = subprocess.Popen(
            self.command("outbox", "run"),
            env=environment(home=self.home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(self.chance.uniform(0.15, 0.5))
        self.server.kill()
        runner.wait(60)
        self.ledger.kills["server"] += 1
        self.server = self._start()

    def hasten(self) -> None:
        """What is to be tried again is due now."""
        for waiting in self.box.list(time.time())[0]:
            if waiting.open:
                with self.box.take(waiting.id, time.time()) as taken:
                    taken.waiting.due = time.time()
                    taken.save()

    def finish(self) -> None:
        """Everything that can leave leaves."""
        for _ in range(5):
            self.hasten()
            self.run("outbox", "run")

    def judge(self) -> None:
        """Compares the mailboxes with the books."""
        came: Counter[str] = Counter()
        for address in READERS:
            for message in collect(self.server.pop3, address):
                found = _MARK.search(message)
                came[f"{found[1].decode() if found else '?'} {address}"] += 1
        uncertain: set[str] = set()
        for waiting in self.box.list(time.time())[0]:
            for recipient in waiting.recipients:
                if recipient.status == "uncertain":
                    uncertain.add(f"{self._mark_of(waiting)} {recipient.address}")
            if waiting.state not in (State.SENT, State.UNCERTAIN):
                self.ledger.complaints.append(f"{waiting.id} is still {waiting.state}: {waiting.attempts[-1:]}")
        for letter, count in came.items():
            if count > 1:
                self.ledger.complaints.append(f"{letter} came {count} times")
            if letter not in self.ledger.promised | self.ledger.possible:
                self.ledger.complaints.append(f"nobody sent {letter}")
        lost = self.ledger.promised - set(came) - uncertain
        self.ledger.complaints += [f"{letter} is lost" for letter in sorted(lost)]
        self.ledger.found["uncertain, delivered"] = len(uncertain & set(came))
        self.ledger.found["uncertain, not delivered"] = len(uncertain - set(came))
        self.ledger.found["delivered"] = sum(came.values())

    def _mark_of(self, waiting: Waiting) -> str:
        octets = (self.box.path / waiting.id / waiting.file).read_bytes()
        found = _MARK.search(octets)
        assert found
        return found[1].decode()


def run_rounds(folder: Path, rounds: int, seed: int) -> Ledger:
    """So many rounds on one outbox, and the judgement at their end."""
    ground = Ground(folder, seed)
    try:
        for _ in range(rounds):
            ground.fill()
            for _ in range(3):
                ground.run_and_kill()
            ground.hasten()
            ground.send_and_kill()
            if ground.chance.random() < 0.3:
                ground.kill_server()
        ground.finish()
        ground.judge()
    finally:
        ground.server.kill()
    return ground.ledger


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="posthouse-outbox-"))
    print(f"seed {options.seed}, data in {folder}", flush=True)
    begun = time.monotonic()
    ledger = run_rounds(folder, options.rounds, options.seed)
    print(f"promised {len(ledger.promised)}, killed {dict(ledger.kills)}, found {dict(ledger.found)}")
    print(f"{time.monotonic() - begun:.0f} s; complaints: {len(ledger.complaints)}")
    print("\n".join(ledger.complaints[:30]))
    return 1 if ledger.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
