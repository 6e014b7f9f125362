"""Stores of every earlier form are brought to the newest one, whole, whenever the program is killed on the way."""

from __future__ import annotations

import asyncio
import functools
import shutil
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from posthouse.store import StoreError, open_store
from posthouse.store.sqlite import pool, upgrade
from tests.contract.conftest import PREFIX, StillClock, read

SMALL = b"Subject: small\r\n\r\n" + b"x" * 1000 + b"\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"y" * 300_000 + b"\r\n"
NAME = "ab" + "0" * 30
NEWEST = len(pool._migrations())
OPEN = (
    "import asyncio, sys; from posthouse.store import open_store; "
    "asyncio.run(open_store(sys.argv[1], serve=True).close())"
)


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
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def _code_of(command: list[str]) -> int:
    run = functools.partial(subprocess.run, capture_output=True, check=False, timeout=60)
    return (await asyncio.to_thread(run, command)).returncode


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


@pytest.mark.parametrize("form", range(1, NEWEST))
async def test_every_earlier_form_is_brought_to_the_newest(tmp_path: Path, form: int) -> None:
    data = tmp_path / "data"
    make_store(data, form)
    await require_whole(data)
    copy = data / upgrade.FOLDER / f"form-{form:04}.db"
    assert form_of(copy) == form
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not copy.with_name(copy.name + "-wal").exists()


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_killed_at_any_step_an_upgrade_goes_on_where_it_was(tmp_path: Path) -> None:
    original, data = tmp_path / "original", tmp_path / "data"
    make_store(original, 1)
    calls = "pwrite64,fdatasync,fsync,rename,unlink,ftruncate"
    kills, step = 0, 1
    while True:
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(original, data)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:signal=SIGKILL:when={step}", sys.executable, "-c", OPEN, str(data)]
        if await _code_of(command) == 0:
            break
        kills += 1
        for copy in (data / upgrade.FOLDER).glob("form-*.db"):
            assert form_of(copy) == 1, "a copy that has its name is whole, and from before the upgrade"
        await require_whole(data)
        step += 3 if step < 30 else 7
    assert kills >= 10


async def test_a_copy_is_kept_for_a_month(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_store(data, NEWEST - 1)
    clock = StillClock(1060.0)
    for wall, there in ((1060.0, True), (1060.0 + 29 * 86_400, True), (1060.0 + 31 * 86_400, False)):
        clock.wall = wall
        await open_store(data, serve=True, clock=clock).close()
        assert (data / upgrade.FOLDER).exists() is there


async def test_going_back_is_putting_the_copy_in_the_place(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_store(data, 2)
    await require_whole(data)
    (data / upgrade.FOLDER / "form-0002.db").replace(data / "posthouse.db")
    assert form_of(data / "posthouse.db") == 2
    await require_whole(data)


def test_without_room_for_the_copy_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    make_store(data, 3)
    monkeypatch.setattr(upgrade, "free_octets", lambda path: 1_000_000)
    with pytest.raises(StoreError, match=r"MiB are missing on the disk\. Nothing was changed"):
        open_store(data, serve=True)
    assert form_of(data / "posthouse.db") == 3
