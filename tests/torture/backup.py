"""The kill test of backups: they are made under load and killed at random instants, and so is what brings them back.

Every round starts the server on the same data directory, loads it with senders and readers, and makes a backup beside
it, which may be killed; then the server is killed too. Every backup that is listed must verify. One that was made is
restored, served, and compared with the books: every letter acknowledged before it began is there, whole and once, and
none that was deleted before. Then a restore is killed, which must leave a sound store in the place, and one of a
mailbox, which must be finished by the next without doubling anything.

`python -m tests.torture.backup --rounds 40 --seed 7`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.server import PASSWORD, Server, find_command, run_posthouse, start_server
from tests.torture.kill import SENDERS
from tests.torture.ledger import Ledger
from tests.torture.load import Lost, Odd, delete_letters, login, retrieve, send_letters, unique_ids, verify

ADDRESSES = [f"box{number}@x.mail" for number in range(1, 4)]
READERS = ADDRESSES[:2]
BEFORE = 0.3  # seconds of load before the backup begins, at most
LONGEST = 0.8  # seconds after which a backup or a restore is killed, at most


@dataclass(slots=True)
class Promise:
    """What a backup must hold and must not: letters by address."""

    there: dict[str, set[int]]
    gone: dict[str, set[int]]

    @classmethod
    def of(cls, ledger: Ledger) -> Promise:
        """What the books say now."""
        boxes = ledger.boxes.items()
        return cls({name: set(box.expected) for name, box in boxes}, {name: set(box.deleted) for name, box in boxes})

    def forgive(self, ledger: Ledger) -> None:
        """What was deleted while the backup was made may be there or not."""
        for name, box in ledger.boxes.items():
            self.there[name] -= box.deleted | box.uncertain


@dataclass(slots=True)
class Score:
    """What a run came to."""

    ledger: Ledger
    rounds: int = 0
    made: int = 0
    killed: int = 0
    restores_killed: int = 0
    compared: int = 0
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.complaints or self.ledger.tally.failures)


@dataclass(slots=True)
class Place:
    """Where a run takes place."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def backups(self) -> Path:
        return self.folder / "backups"

    @property
    def drill(self) -> Path:
        return self.folder / "drill"

    def serve(self, data: Path) -> Server:
        """A server, ready."""
        return start_server(data, "smtp", "pop3", logs=self.folder)

    def listed(self) -> list[str]:
        """The names of all backups, the oldest first."""
        return sorted(path.stem for path in (self.backups / "backups").glob("*.json"))


def run_rounds(folder: Path, rounds: int, seed: int) -> Score:
    """Makes and kills backups, and judges them."""
    place = Place(folder)
    run_posthouse(place.data, "domain", "add", "x.mail")
    run_posthouse(place.data, "account", "add", *ADDRESSES, "--password-stdin", stdin=PASSWORD + "\n")
    score = Score(Ledger(ADDRESSES))
    began = time.monotonic()
    for number in range(1, 4 * rounds + 1):
        if number > rounds and score.killed:
            break  # further rounds only where all kills came too late
        score.rounds = score.ledger.tally.rounds = number
        _round(place, score, random.Random(f"{seed}:{number}"), kill=number % 2 == 0 or number > rounds)
        if number % 10 == 0:
            print(format_line(score, time.monotonic() - began), flush=True)
        if score.failed:
            break
    score.seconds = time.monotonic() - began
    return score


def _round(place: Place, score: Score, chance: random.Random, *, kill: bool) -> None:
    before = place.listed()
    server = place.serve(place.data)
    try:
        promise = asyncio.run(_backup_under_load(place, server, score, chance, kill=kill))
    finally:
        server.kill()
    server.log_file.unlink()
    new = [name for name in place.listed() if name not in before]
    if promise is None and not new:
        return
    _must(score, "verify", run_posthouse(place.data, "backup", "verify", str(place.backups), code=None, timeout=120))
    if promise is not None and new:
        _restore_and_compare(place, score, promise, new[-1])
    if new and not score.failed:
        _kill_restores(place, score, new[-1], chance)


async def _backup_under_load(
    place: Place, server: Server, score: Score, chance: random.Random, *, kill: bool
) -> Promise | None:
    """Makes a backup beside the load; what it must hold, None when it was killed before its end."""
    ledger = score.ledger
    try:
        listings = {address: await verify(server.pop3, address, ledger, chance) for address in ADDRESSES}
        ledger.judge(listings)
    except (Lost, Odd) as error:
        ledger.odd(f"after a restart: {error or 'the line was lost'}")
        return None
    async with asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(send_letters(server.smtp, ledger, random.Random(chance.getrandbits(64))))
        for address in READERS:
            group.create_task(delete_letters(server.pop3, address, ledger, random.Random(chance.getrandbits(64))))
        await asyncio.sleep(BEFORE * chance.random())
        promise = Promise.of(ledger)
        done = await _command(place.data, ["create", str(place.backups)], LONGEST * chance.random() if kill else None)
        promise.forgive(ledger)
        server.kill()
    if done is None:
        score.killed += 1
        return None
    _must(score, "create", done)
    score.made += 1
    return promise


async def _command(data: Path, words: list[str], kill_after: float | None) -> subprocess.CompletedProcess[str] | None:
    """Runs `posthouse backup`; None when it was killed before its end."""
    command = [find_command(), "--data", str(data), "backup", *words]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    ended = asyncio.create_task(process.communicate())
    if kill_after is not None:
        await asyncio.wait([ended], timeout=kill_after)
        if not ended.done():
            process.kill()
    output, _ = await ended
    if process.returncode == -9:
        return None
    assert process.returncode is not None
    return subprocess.CompletedProcess(command, process.returncode, output.decode(errors="replace"), "")


def _must(score: Score, what: str, done: subprocess.CompletedProcess[str], code: int = 0) -> None:
    if done.returncode != code:
        score.complaints.append(
            f"round {score.rounds}: {what} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )


def _restore_and_compare(place: Place, score: Score, promise: Promise, name: str) -> None:
    shutil.rmtree(place.drill, ignore_errors=True)
    _must(score, "restore", run_posthouse(place.drill, "backup", "restore", str(place.backups), name, code=None))
    if score.failed:
        return
    server = place.serve(place.drill)
    try:
        for address in ADDRESSES:
            found = asyncio.run(_numbers(server, address, score))
            _compare(score, address, found, promise)
    finally:
        server.stop()
    server.log_file.unlink()


async def _numbers(server: Server, address: str, score: Score) -> Counter[int]:
    """Which letters lie in a restored maildrop; each is compared octet by octet with what it was."""
    stream = await login(server.pop3, address)
    assert stream is not None, "nobody else is there"
    books = Ledger(ADDRESSES)  # of its own: what is judged here is the copy
    books._letters = score.ledger._letters
    async with stream:
        ids = await unique_ids(stream)
        letters = await retrieve(stream, list(range(1, len(ids) + 1)))
        found = Counter(books.read(address, id, text) or 0 for id, text in zip(ids, letters, strict=True))
    score.compared += len(ids)
    score.complaints += books.complaints
    return found


def _compare(score: Score, address: str, found: Counter[int], promise: Promise) -> None:
    lost = promise.there[address] - found.keys()
    back = promise.gone[address] & found.keys()
    doubled = [number for number, count in found.items() if count > 1]
    for what, numbers in (("lost", lost), ("there after their deletion", back), ("doubled", doubled)):
        if numbers:
            score.complaints.append(f"round {score.rounds}: in the backup of {address} {what}: {sorted(numbers)[:20]}")


def _kill_restores(place: Place, score: Score, name: str, chance: random.Random) -> None:
    """Kills a restore of everything, then one of a mailbox; the store in the place stays sound and gets whole."""
    backups = str(place.backups)
    if not place.drill.exists():
        _must(score, "restore", run_posthouse(place.drill, "backup", "restore", backups, name, code=None))
    words = ["restore", backups, name, "--replace"]
    score.restores_killed += asyncio.run(_command(place.drill, words, LONGEST * chance.random())) is None
    _must(score, "doctor after a killed restore", run_posthouse(place.drill, "doctor", "--store", code=None))
    for kept in place.folder.glob("drill.*"):
        shutil.rmtree(kept)
    address = ADDRESSES[2]
    run_posthouse(place.drill, "account", "remove", address, "--yes")
    words = ["restore", backups, name, "--account", address]
    score.restores_killed += asyncio.run(_command(place.drill, words, LONGEST * chance.random())) is None
    finished = run_posthouse(place.drill, "backup", *words, "--json", code=None)
    _must(score, "restore of a mailbox", finished)
    again = run_posthouse(place.drill, "backup", *words, "--json", code=None)
    there, told = json.loads(again.stdout), json.loads(finished.stdout)
    if there.get("letters") or there.get("there") != told.get("letters", 0) + told.get("there", 0):
        score.complaints.append(f"round {score.rounds}: a mailbox is not whole: {finished.stdout}{again.stdout}")
    _must(score, "doctor after that", run_posthouse(place.drill, "doctor", "--store", code=None))


def format_line(score: Score, seconds: float) -> str:
    """One line for whoever waits."""
    return (
        f"{score.rounds:4} rounds, {score.ledger.tally.acknowledged:6,} acknowledged, {score.made} backups made, "
        f"{score.killed} killed, {score.restores_killed} restores killed, {score.compared:,} letters compared: "
        f"{len(score.complaints) + score.ledger.tally.failures} wrong  ({seconds:.0f} s)"
    )


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=None, help="the same seed makes the same plan of kills")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-torture-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    score = run_rounds(folder, options.rounds, seed)
    print(format_line(score, score.seconds))
    for complaint in [*score.complaints, *score.ledger.complaints][:30]:
        print(complaint)
    if score.failed:
        print(f"FAILED with seed {seed}; the data stays in {folder}")
        return 1
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
