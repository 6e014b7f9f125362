"""The power goes while backups are made: one that was told to be made is there and whole, and so is every one listed.

The backups lie on a disk of their own whose power is cut at random instants, or just after one was said to be made.
Root's: `python -m tests.torture.backup_power --rounds 50 --seed 7`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from posthouse.ports.store import Delivery
from posthouse.store import open_store
from tests.system.server import find_command, run_posthouse
from tests.torture.disk import Disk, missing

ADDRESS = "box1@x.mail"
LONGEST = 1.0  # seconds after which the power goes, at most


async def _grow(data: Path, chance: random.Random) -> None:
    """Some more letters of both kinds, and some less."""
    store = open_store(data, serve=True)
    account = await store.find_account(ADDRESS)
    assert account is not None
    for size in [chance.randrange(20_000) for _ in range(40)] + [400_000] * 2:
        draft = store.draft()
        await draft.write(b"Subject: power\r\n\r\n" + chance.randbytes(size // 2).hex().encode())
        await store.deliver(draft, [Delivery(account.id, b"Received: x\r\n", ADDRESS)], letter=f"{chance.random()}")
    rows = (await store.maildrop(account.inbox)).rows
    await store.update(account.inbox, [row[0] for row in rows if chance.random() < 0.3], [])
    await store.close()


def run_rounds(folder: Path, rounds: int, seed: int) -> tuple[str, list[str]]:
    """What it came to, and what is wrong."""
    data, disk = folder / "data", Disk(folder / "disk.img", folder / "disk")
    backups = disk.folder / "backups"
    run_posthouse(data, "domain", "add", "x.mail")
    run_posthouse(data, "account", "add", ADDRESS, "--password-stdin", stdin="secret\n")
    made: set[str] = set()
    wrong: list[str] = []
    cuts = 0
    try:
        for number in range(1, rounds + 1):
            chance = random.Random(f"{seed}:{number}")
            asyncio.run(_grow(data, chance))
            told = _cut_while_made(data, backups, disk, chance)
            cuts += 1
            disk.unmount()
            disk.mount()
            made |= told
            listed = {path.stem for path in (backups / "backups").glob("*.json")} if backups.exists() else set()
            if lost := made - listed:
                wrong.append(f"round {number}: {sorted(lost)} were said to be made and are gone")
            if listed:
                done = run_posthouse(data, "backup", "verify", str(backups), code=None, timeout=120)
                if done.returncode:
                    wrong.append(f"round {number}: {done.stdout}{done.stderr}")
            if number % 10 == 0 and len(listed) > 5:
                run_posthouse(data, "backup", "prune", str(backups), "--keep", "3")
                made &= {path.stem for path in (backups / "backups").glob("*.json")}
            if wrong:
                break
    finally:
        disk.unmount()
    return f"{cuts} power cuts, {len(made)} backups kept: {len(wrong)} wrong", wrong


def _cut_while_made(data: Path, backups: Path, disk: Disk, chance: random.Random) -> set[str]:
    """Makes a backup and takes the power; the name of the backup when it was said to be made before."""
    command = [find_command(), "--data", str(data), "backup", "create", str(backups)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = ""
    if chance.random() < 0.3:  # at once behind the word that it was made
        line = process.stdout.readline()
    else:
        time.sleep(0.15 + (LONGEST - 0.15) * chance.random())
    before = process.poll() is not None
    disk.cut()
    if before and not line:
        line = process.stdout.readline()
    process.kill()
    process.wait(20)
    process.stdout.close()
    return {line.split()[3].rstrip(":")} if line.startswith("Made the backup ") else set()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if lack := missing():
        print(f"left out: {lack}")
        return 69
    mark = "POSTHOUSE_TORTURE_NAMESPACE"
    if mark not in os.environ:  # the mounts end with this command
        os.environ[mark] = "1"
        start = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.torture.backup_power"]
        os.execvp(start[0], [*start, *sys.argv[1:]])
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-torture-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    line, wrong = run_rounds(folder, options.rounds, seed)
    print("\n".join([line, *wrong]))
    if wrong:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
