"""The kill test: the server is killed at random instants under load, and nothing that was promised may be missing.

Every round starts the server on the same data directory, compares all maildrops with the books, loads it with
senders and readers, and kills it with SIGKILL. `python -m tests.torture.kill --rounds 200 --seed 7`.

With `--power` (as root) the data lies on a disk of its own whose power is cut: what was not synced is lost too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.system.server import Server, add_account, run_posthouse, spawn_server, start_server
from tests.torture.disk import Disk, enter_namespace, missing
from tests.torture.ledger import Ledger
from tests.torture.load import Lost, Odd, delete_letters, empty, send_letters, verify

SENDERS = 6
ADDRESSES = [f"box{number}@x.mail" for number in range(1, 6)]
READERS = ADDRESSES[:3]
LONGEST = 1.2
"""Seconds of load before the kill, at most; half of all kills come within the first third."""


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    ledger: Ledger
    damage: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.ledger.tally.failures or self.damage)


@dataclass(slots=True)
class Ground:
    """Where a run takes place: the data directory, the folder of the logs, and the disk when it has one."""

    folder: Path
    disk: Disk | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return (self.disk.folder if self.disk else self.folder) / "data"

    def start(self) -> Server:
        """The server, ready."""
        return start_server(self.data, "smtp", "pop3", logs=self.folder)

    def spawn(self) -> Server:
        """The server, about to start."""
        return spawn_server(self.data, "smtp", "pop3", logs=self.folder)

    async def crash(self, server: Server, ledger: Ledger, chance: random.Random) -> None:
        """SIGKILL; when there is a disk, its power goes a moment before."""
        if self.disk:
            ledger.cut = True
            self.disk.cut()
            await asyncio.sleep(chance.uniform(0, 0.1))
        server.kill()

    def restore(self, ledger: Ledger) -> None:
        """The power comes back."""
        if self.disk and ledger.cut:
            self.disk.unmount()
            self.disk.mount()
        ledger.cut = False


def run_rounds(folder: Path, rounds: int, seed: int, *, power: bool = False) -> Outcome:
    """Kills the server `rounds` times and judges what is left. The last start ends gracefully."""
    ground = Ground(folder, Disk(folder / "disk.img", folder / "disk") if power else None)
    try:
        return _run_rounds(ground, rounds, seed)
    finally:
        if ground.disk:
            ground.disk.unmount()


def _run_rounds(ground: Ground, rounds: int, seed: int) -> Outcome:
    run_posthouse(ground.data, "domain", "add", "x.mail")
    for address in ADDRESSES:
        add_account(ground.data, address)
    ledger = Ledger(ADDRESSES)
    began = time.monotonic()
    for number in range(1, rounds + 1):
        chance = random.Random(f"{seed}:{number}")
        ledger.tally.rounds = number
        if chance.random() < 0.15:
            _kill_while_starting(ground, ledger, chance)
        server = ground.start()
        try:
            asyncio.run(_round(ground, server, ledger, chance))
        finally:
            server.kill()
        alarm = "store_commits_lost" in server.log
        if "Traceback" in server.log:
            ledger.odd(f"a traceback in {server.log_file}")
        else:
            server.log_file.unlink()
        ground.restore(ledger)
        if alarm:
            ledger.odd(f"round {number}: commits are said to be lost, and nothing damaged the WAL")
        if number % 20 == 0:
            print(format_line(ledger, time.monotonic() - began), flush=True)
        if ledger.tally.failures:
            break
    server = ground.start()
    try:
        asyncio.run(_compare(server, ledger, random.Random(seed)))
    finally:
        server.stop()
    damage = _examine(ground.data)
    return Outcome(ledger, damage, time.monotonic() - began)


def _kill_while_starting(ground: Ground, ledger: Ledger, chance: random.Random) -> None:
    """A crash may follow a crash: here the server dies while it puts the last one right."""
    server = ground.spawn()
    time.sleep(chance.uniform(0.05, 0.8))
    server.kill()
    server.log_file.unlink()
    ledger.tally.early += 1


async def _round(ground: Ground, server: Server, ledger: Ledger, chance: random.Random) -> None:
    await _compare(server, ledger, chance)
    if ledger.tally.failures:
        return
    async with asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(send_letters(server.smtp, ledger, random.Random(chance.getrandbits(64))))
        for address in READERS:
            group.create_task(delete_letters(server.pop3, address, ledger, random.Random(chance.getrandbits(64))))
        await asyncio.sleep(LONGEST * chance.random() ** 2)
        await ground.crash(server, ledger, chance)


async def _compare(server: Server, ledger: Ledger, chance: random.Random) -> None:
    """Judges all maildrops; then some are emptied, whose deletions the next round judges."""
    try:
        listings = {address: await verify(server.pop3, address, ledger, chance) for address in ADDRESSES}
        ledger.judge(listings)
        if ledger.tally.failures:
            return
        for address in ADDRESSES:
            if chance.random() < 0.3:
                await empty(server.pop3, address, ledger)
    except (Lost, Odd) as error:
        ledger.odd(f"after a restart: {error or 'the line was lost'}")


def _examine(data: Path) -> str:
    """What `doctor --store` says when it is not content."""
    done = run_posthouse(data, "doctor", "--store", code=None, timeout=300)
    return "" if done.returncode == 0 else f"doctor --store ended with {done.returncode}: {done.stdout}{done.stderr}"


def format_line(ledger: Ledger, seconds: float) -> str:
    """One line for whoever waits."""
    tally = ledger.tally
    return (
        f"{tally.rounds:4} rounds, {tally.acknowledged:7,} acknowledged, {tally.deletions:7,} deleted: "
        f"{tally.lost} lost, {tally.torn} torn, {tally.doubled} doubled  ({seconds:.0f} s)"
    )


def format_table(outcome: Outcome) -> str:
    """The table at the end."""
    tally = outcome.ledger.tally
    rows = [
        ("rounds (kills under load)", tally.rounds),
        ("kills while starting", tally.early),
        ("letters begun", tally.sent),
        ("  acknowledged with 250", tally.acknowledged),
        ("    of these over 256 KiB", tally.large),
        ("  sent whole, no answer", tally.unanswered),
        ("    of these found whole", tally.kept),
        ("  not sent whole", tally.unsent),
        ("refused after the power was cut", tally.refused),
        ("deletions acknowledged", tally.deletions),
        ("letters compared octet by octet", tally.checked),
        ("LOST", tally.lost),
        ("TORN", tally.torn),
        ("DOUBLED", tally.doubled),
        ("there though not sent whole", tally.ghosts),
        ("there again after deletion", tally.returned),
        ("deletions carried out in part", tally.half_updates),
        ("unique-ids used twice", tally.repeated_ids),
        ("odd replies", tally.odd_replies),
    ]
    lines = [f"{name:34}{value:>12,}" for name, value in rows]
    lines.append(f"{'doctor --store':34}{'damage' if outcome.damage else 'sound':>12}")
    lines.append(f"{'seconds':34}{outcome.seconds:>12,.0f}")
    return "\n".join(lines)


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="the same seed makes the same plan of kills")
    parser.add_argument("--folder", type=Path, default=None, help="where the data lies (default: a temporary folder)")
    parser.add_argument("--power", action="store_true", help="cut the power of the disk as well (root)")
    options = parser.parse_args()
    if options.power:
        if lack := missing():
            print(f"left out: {lack}")
            return 69
        enter_namespace("tests.torture.kill")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="posthouse-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, data in {folder}", flush=True)
    outcome = run_rounds(folder, options.rounds, seed, power=options.power)
    print(format_table(outcome))
    for complaint in outcome.ledger.complaints[:30]:
        print(complaint)
    if outcome.damage:
        print(outcome.damage)
    if outcome.failed:
        print(f"FAILED with seed {seed}; the data stays in {folder}")
        return 1
    if options.folder is None:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
