"""An upgrade is killed before every system call that changes the disk, and must go on at the next start (X14).

`python -m tests.torture.upgrade` kills at every step and says in which forms the store was left; the short form runs
with the tests (tests/unit/test_store_upgrade.py).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from posthouse.store import open_store
from posthouse.store.sqlite import pool, upgrade
from tests.contract.conftest import PREFIX, StillClock, read

SMALL: Final = b"Subject: small\r\n\r\n" + b"x" * 1000 + b"\r\n"
LARGE: Final = b"Subject: large\r\n\r\n" + b"y" * 300_000 + b"\r\n"
NAME: Final = "ab" + "0" * 30
NEWEST: Final = len(pool._migrations())
CALLS: Final = "pwrite64,fdatasync,fsync,rename,unlink,ftruncate"
OPEN: Final = """
import sys
from posthouse.store.sqlite.pool import prepare
prepare(__import__("pathlib").Path(sys.argv[1]) / "posthouse.db", 10.0, 1050.0, serve=True)
"""


def make_store(data: Path, form: int) -> None:
    """A store as the program of this form left it: one account with a small letter, a large one and a deleted one."""
    (data / "content" / NAME[:2]).mkdir(parents=True)
    (data / "content" / NAME[:2] / NAME).write_bytes(LARGE)
    data.chmod(0o700)
    with closing(sqlite3.connect(data / "posthouse.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={pool.PAGE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        for number, script in enumerate(pool._migrations()[:form], 1):
            pool._migrate(connection, number, script, 1000.0)
        connection.execute("INSERT INTO domain VALUES (1, 'x.mail', 1000.0)")
        connection.execute("INSERT INTO account VALUES (1, 1, 'test', 'test@x.mail', 'hash', 0, 1000.0)")
        octets = len(PREFIX) * 2 + len(SMALL) + len(LARGE)
        connection.execute("INSERT INTO mailbox VALUES (1, 1, 'INBOX', 1000, 4, 5, 2, ?)", (octets,))
        content = "INSERT INTO content VALUES (?, 'L1', '{}', ?, ?, ?, ?, ?)"
        connection.execute(content, (1, len(SMALL), zlib.crc32(SMALL), 2, None, SMALL))
        connection.execute(content, (2, len(LARGE), zlib.crc32(LARGE), 1, NAME, None))
        rest = "0, 0, 0, 2, 1000.0, 1000.0, '', 'test@x.mail', '', NULL, ?"
        for uid, content_id, letter in ((1, 1, SMALL), (2, 2, LARGE)):
            row = ((1 << 32) + uid, f"{uid:016}", content_id, len(PREFIX + letter), PREFIX)
            connection.execute(f"INSERT INTO message VALUES (?, ?, ?, ?, {rest})", row)
        row = ((1 << 32) + 3, "3" * 16, 1, len(PREFIX + SMALL), PREFIX)
        connection.execute(f"INSERT INTO tombstone VALUES (?, ?, ?, ?, {rest}, 1000.0)", row)
        connection.execute("UPDATE state SET commits = 7, content = 2, uidvalidity = 1000")


def form_of(database: Path) -> int:
    """The form that a database has now."""
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def require_whole(data: Path) -> None:
    """The store of `make_store` opens in the newest form, sound and with all its letters."""
    store = open_store(data, serve=True, clock=StillClock(1060.0))
    try:
        account = await store.find_account("test@x.mail")
        assert account is not None
        letters = [await read(letter) for letter in await store.fetch(account.inbox, [1, 2]) if letter]
        assert letters == [PREFIX + SMALL, PREFIX + LARGE]
        assert len(await store.buried(account.inbox)) == 1
        assert len(store.secret()) == 32
        assert [damage async for damage in store.check()] == []
    finally:
        await store.close()
    assert form_of(data / "posthouse.db") == NEWEST


@dataclass(slots=True)
class Kills:
    """What a run came to."""

    forms: Counter[int] = field(default_factory=Counter)  # in which the store was left
    half_copies: int = 0  # copies that were left half-written
    copies: int = 0  # whole ones

    @property
    def count(self) -> int:
        """How often it was killed."""
        return sum(self.forms.values())


def steps(folder: Path) -> list[tuple[str, int]]:
    """The system calls of an upgrade from the first form that is not disturbed: which one, the how manieth of its
    kind."""
    data, words = folder / "undisturbed", folder / "calls"
    make_store(data, 1)
    _run(["strace", "-f", "-qq", "-o", str(words), "-e", f"trace={CALLS}"], data)
    seen: Counter[str] = Counter()
    found = []
    for name in re.findall(r"^\d+ +(\w+)\(", words.read_text(), re.MULTILINE):
        seen[name] += 1
        found.append((name, seen[name]))
    return found


def _run(strace: list[str], data: Path) -> int:
    command = [*strace, sys.executable, "-c", OPEN, str(data)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def kill_at(folder: Path, chosen: list[tuple[str, int]]) -> Kills:
    """Upgrades the same store again and again, killed before one of these calls each time. AssertionError when
    something is lost."""
    original, data, look = folder / "original", folder / "data", folder / "look"
    make_store(original, 1)
    kills = Kills()
    for name, number in chosen:
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(original, data)
        inject = f"inject={name}:signal=SIGKILL:when={number}"
        killed = _run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", inject], data)
        assert killed, f"it was not killed at {name} {number}"
        shutil.copytree(data, look)  # opening it would write its WAL back
        kills.forms[form_of(look / "posthouse.db")] += 1
        shutil.rmtree(look)
        kills.half_copies += (data / upgrade.FOLDER / ".new").exists()
        for copy in (data / upgrade.FOLDER).glob("form-*.db"):
            assert form_of(copy) == 1, "a copy that has its name is whole, and from before the upgrade"
            kills.copies += 1
        asyncio.run(require_whole(data))
        assert [copy.name for copy in (data / upgrade.FOLDER).iterdir()] == ["form-0001.db"], f"{name} {number}"
    return kills


def main() -> None:
    """The long form."""
    folder = Path(tempfile.mkdtemp(prefix="posthouse-upgrade-"))
    kills = kill_at(folder, steps(folder))
    forms = ", ".join(f"{count} in form {form}" for form, count in sorted(kills.forms.items()))
    print(f"upgrade killed {kills.count} times, nothing lost: left {forms};")
    print(f"the copy half-written {kills.half_copies} times, whole {kills.copies} times")
    assert set(kills.forms) == set(range(1, NEWEST + 1)), "every form in between is one in which it was killed"
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
