"""What the store does when the disk, the room or another process fails it: nobody hears a false success."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.store import Delivery
from posthouse.store import StoreError, StoreInUse, StoreTooNew, open_store
from posthouse.store.sqlite import pool
from posthouse.store.sqlite.engine import SqliteStore
from posthouse.store.sqlite.writer import Writer
from tests.contract.conftest import PREFIX, House, StillClock

LARGE = b"y" * 600_000 + b"\r\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A store with one account."""
    house = House(tmp_path / "data", StillClock())
    house.open()
    await house.account()
    yield house
    for store in house.opened:
        await store.close()


class FaultyCursor:
    """A cursor that fails when it is to carry out a statement that begins like one of `failing`."""

    def __init__(self, real: sqlite3.Cursor, failing: dict[str, tuple[int, int]]) -> None:
        self._real = real
        self._failing = failing

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Carries out or fails."""
        for start, (code, times) in list(self._failing.items()):
            if sql.lstrip().startswith(start) and times:
                self._failing[start] = (code, times - 1)
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode = code
                raise error
        return self._real.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class FaultyConnection:
    """A connection whose cursors fail."""

    def __init__(self, real: sqlite3.Connection, failing: dict[str, tuple[int, int]]) -> None:
        self._real = real
        self._failing = failing

    def cursor(self) -> Any:
        """A failing cursor."""
        return FaultyCursor(self._real.cursor(), self._failing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def writer_of(house: House) -> Writer:
    """The store's writer."""
    assert isinstance(house.store, SqliteStore)
    return house.store._writer


def inject(house: House, failing: dict[str, tuple[int, int]]) -> None:
    """Has the writer's statements fail, also on the connections that it opens later."""
    writer = writer_of(house)
    opener = writer._open
    writer._open = lambda: FaultyConnection(opener(), failing)  # type: ignore[assignment,return-value] # a double
    writer._cursor = FaultyCursor(writer._cursor, failing)  # type: ignore[assignment] # a double


async def fault(house: House, content: bytes = b"x\r\n") -> Fault | None:
    """Which fault a delivery meets."""
    try:
        await house.deliver(content, 1)
    except Unavailable as problem:
        return problem.fault
    return None


async def uids(house: House) -> list[int]:
    """What lies in the maildrop."""
    return [row[0] for row in (await house.store.maildrop(1)).rows]


@pytest.mark.parametrize("content", [b"x\r\n", LARGE])
@pytest.mark.parametrize(
    "statement", ["COMMIT", "BEGIN", "INSERT INTO content", "INSERT INTO message", "UPDATE mailbox"]
)
async def test_a_failed_write_is_no_success_and_heals(house: House, statement: str, content: bytes) -> None:
    await house.deliver(b"before\r\n", 1)
    inject(house, {statement: (sqlite3.SQLITE_IOERR, 1)})
    assert await fault(house, content) is Fault.STORAGE
    assert await uids(house) == [1]
    assert await fault(house, content) is None
    assert await uids(house) == [1, 2]
    await house.reopen()
    assert await uids(house) == [1, 2]
    house.clock.wall = time.time() + 3600
    assert await house.damages() == []


async def test_no_success_before_a_checkpoint_succeeded(house: House) -> None:
    inject(house, {"COMMIT": (sqlite3.SQLITE_IOERR, 1), "PRAGMA wal_checkpoint(TRUNCATE)": (sqlite3.SQLITE_IOERR, 1)})
    assert [await fault(house) for _ in range(3)] == [Fault.STORAGE, Fault.STORAGE, None]
    assert await uids(house) == [1]


async def test_three_failures_in_a_row_make_the_store_read_only(house: House) -> None:
    await house.deliver(b"before\r\n", 1)
    inject(house, {"COMMIT": (sqlite3.SQLITE_IOERR, 3)})
    assert [await fault(house) for _ in range(5)] == [Fault.STORAGE] * 5
    assert writer_of(house).read_only
    assert await house.octets(1, 1) is not None
    with pytest.raises(Unavailable):
        await house.store.update(1, [1], [])
    await house.reopen()
    assert await fault(house) is None
    assert await uids(house) == [1, 2]


async def test_failures_with_successes_between_them_do_not_add_up(house: House) -> None:
    for _ in range(5):
        inject(house, {"COMMIT": (sqlite3.SQLITE_IOERR, 1)})
        assert await fault(house) is Fault.STORAGE
        assert await fault(house) is None
    assert not writer_of(house).read_only


async def test_one_bad_letter_fails_alone(house: House) -> None:
    """A letter that the database does not take must not spoil those that share its transaction."""

    async def deliver(recipient: str) -> str:
        draft = house.store.draft()
        await draft.write(LARGE if recipient == "large" else b"x\r\n")
        try:
            await house.store.deliver(draft, [Delivery(1, PREFIX, recipient)], letter="L")
        except Unavailable as problem:
            return problem.fault.value
        return "delivered"

    results = await asyncio.gather(*[deliver(name) for name in ("a", "\ud800", "b", "c", "large", "\udfff")])
    assert results == ["delivered", "storage", "delivered", "delivered", "delivered", "storage"]
    assert len(await uids(house)) == 4
    house.clock.wall = time.time() + 3600
    assert await house.damages() == []


async def test_a_full_database_is_said_to_be_full_and_deletes_still_work(house: House) -> None:
    house.options.reserve = 1_000_000
    (house.path / "reserve").unlink()
    await house.reopen()
    assert (house.path / "reserve").stat().st_size == 1_000_000
    await house.deliver(b"x" * 50_000 + b"\r\n", 1)
    inject(house, {"INSERT INTO content": (sqlite3.SQLITE_FULL, 3), "DELETE FROM message": (sqlite3.SQLITE_FULL, 1)})
    assert [await fault(house) for _ in range(3)] == [Fault.FULL] * 3
    assert not writer_of(house).read_only
    await house.store.update(1, [1], [])
    assert not (house.path / "reserve").exists()
    assert await uids(house) == []
    assert await fault(house) is None


async def test_a_spent_reserve_is_there_again_before_the_next_letter_is_answered(house: House) -> None:
    """Under load there is no idle moment to make it in: without it a disk that fills again lets nothing be deleted."""
    house.options.reserve = 1_000_000
    reserve = house.path / "reserve"
    reserve.unlink()
    await house.reopen()
    assert isinstance(house.store, SqliteStore)
    assert house.store._directory.release_reserve()
    assert not reserve.exists()
    await house.deliver(b"x\r\n", 1)
    assert reserve.stat().st_size == 1_000_000
    assert not house.store._directory.owes_reserve


async def test_a_database_that_may_not_grow_is_full(house: House) -> None:
    await house.deliver(b"x\r\n", 1)
    writer_of(house)._cursor.execute("PRAGMA max_page_count = 50").fetchall()
    assert await fault(house, b"x" * 120_000 + b"\r\n") is Fault.FULL
    for _ in range(100):
        if await fault(house, b"x" * 10_000 + b"\r\n") is not None:
            break
    await house.store.update(1, await uids(house), [])
    assert await fault(house) is None


@pytest.mark.parametrize(("code", "wanted"), [(errno.EIO, Fault.STORAGE), (errno.ENOSPC, Fault.FULL)])
@pytest.mark.parametrize("call", ["fsync", "write", "open"])
async def test_a_content_file_that_fails_is_no_success_and_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, call: str, code: int, wanted: Fault
) -> None:
    real = getattr(os, call)

    def fail(*arguments: Any, **options: Any) -> Any:
        if call == "open" and "staging" not in str(arguments[0]):
            return real(*arguments, **options)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        assert await fault(house, LARGE) is wanted
    assert await fault(house, LARGE) is None
    assert await uids(house) == [1]
    await house.reopen()
    assert len(list((house.path / "content").glob("*/*"))) == 1
    assert len(list((house.path / "staging").glob("*/*"))) == 1  # the lock of the open store


async def test_too_little_room_is_said_before_a_letter_is_taken(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.store.datadir.free_octets", lambda path: 60_000_000)
    with pytest.raises(Unavailable) as problem:
        house.store.draft()
    assert problem.value.fault is Fault.FULL


async def test_too_many_waiting_letters_are_refused_not_kept(house: House) -> None:
    house.options.jobs = 5
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fault(house)) for _ in range(20)]
    results = [task.result() for task in tasks]
    assert results.count(Fault.BUSY) == 15
    assert results.count(None) == 5
    assert await fault(house) is None


async def test_a_lock_of_another_process_is_waited_for_and_then_busy(house: House) -> None:
    house.options.busy_timeout = 0.1
    await house.reopen()
    other = sqlite3.connect(house.path / "posthouse.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await fault(house) is Fault.BUSY
    other.execute("ROLLBACK")
    other.close()
    assert await fault(house) is None


async def test_a_second_server_is_refused_and_a_command_is_not(house: House) -> None:
    with pytest.raises(StoreInUse, match="Stop the other one first"):
        open_store(house.path, serve=True)
    command = open_store(house.path, serve=False)
    assert await command.find_account("test@x.mail") is not None
    await command.close()
    await house.opened.pop().close()
    house.open()


async def test_a_newer_store_is_refused_unchanged(house: House) -> None:
    await house.opened.pop().close()
    with sqlite3.connect(house.path / "posthouse.db") as connection:
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreTooNew, match="newer"):
        open_store(house.path, serve=True)
    with sqlite3.connect(house.path / "posthouse.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchall() == [(99,)]
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    house.open()


async def test_only_a_server_brings_a_store_to_a_newer_form(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.deliver(b"x\r\n", 1)
    await house.opened.pop().close()
    known = pool._migrations()
    monkeypatch.setattr(
        pool, "_migrations", lambda: [*known, "CREATE TABLE later (x INTEGER) STRICT;\nSELECT nonsense;"]
    )
    with pytest.raises(StoreError, match="Restart the server"):
        open_store(house.path, serve=False)
    with pytest.raises(StoreError, match="nonsense"):  # a migration that fails has not begun
        open_store(house.path, serve=True)
    monkeypatch.setattr(pool, "_migrations", lambda: [*known, "-- a word\nCREATE TABLE later (x INTEGER) STRICT;"])
    house.open()
    assert await uids(house) == [1]
    await house.opened.pop().close()
    monkeypatch.setattr(pool, "_migrations", lambda: known)
    with pytest.raises(StoreTooNew):
        open_store(house.path, serve=True)


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="--data"):
        open_store(tmp_path / "file", serve=True)


async def test_what_a_crash_left_is_swept_by_the_next_server(house: House) -> None:
    await house.deliver(LARGE, 1)
    (kept,) = (house.path / "content").glob("*/*")
    await house.opened.pop().close()
    dead = house.path / "staging" / "4711-dead"
    dead.mkdir()
    (dead / "half").write_bytes(b"half a letter")
    orphan = kept.parent / (kept.parent.name + "0" * 30)
    orphan.write_bytes(b"never committed")
    house.open()
    assert not dead.exists()
    assert not orphan.exists()
    assert kept.exists()
    assert (await house.octets(1, 1) or b"").endswith(LARGE)


class Told:
    """A log that keeps the names of its events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda event, **fields: self.events.append(event)


async def test_damage_is_told_at_the_start_after_a_crash(house: House) -> None:
    for _ in range(20):
        await house.deliver(b"x" * 100_000 + b"\r\n", 1)
    await house.opened.pop().close()
    path = house.path / "posthouse.db"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 8192 * 4096)
        file.write(b"\xa5" * 4096)
    for crashed in (False, True):
        if crashed:
            (house.path / "staging" / "4711-dead").mkdir()
        log = Told()
        store = open_store(house.path, serve=True, log=log)
        async with asyncio.timeout(20):
            while crashed and "store_scrubbed" not in log.events:  # noqa: ASYNC110 (another thread's work)
                await asyncio.sleep(0.01)
        assert ("store_damaged" in log.events) is crashed
        await store.close()


async def test_the_data_directory_is_private(house: House) -> None:
    assert stat.S_IMODE(house.path.stat().st_mode) == 0o700
    await house.deliver(LARGE, 1)
    for path in house.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_files_belong_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    """Root may run a command beside a server that does not run as root; anybody else owns what they make."""
    (tmp_path / "data").mkdir()
    owner = (1234, 2345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(tmp_path / "data", *owner)
    house = House(tmp_path / "data", StillClock())
    house.open()
    await house.account()
    await house.deliver(LARGE, 1)
    for path in house.path.rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == owner, path
    await house.store.close()


async def test_reading_leaves_no_transaction_open(house: House) -> None:
    for number in range(300):
        await house.deliver(b"%d\r\n" % number, *[1] * 2)
    await house.store.maildrop(1)
    await house.store.fetch(1, range(1, 40))
    await house.store.accounts()
    await house.store.find_account("test@x.mail")
    other = sqlite3.connect(house.path / "posthouse.db", timeout=0)
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0] == 0
    other.close()


async def test_space_comes_back_after_deletes(house: House) -> None:
    for _ in range(40):
        await house.deliver(b"x" * 100_000 + b"\r\n", 1)
    house.options.undelete = 0.0
    await house.reopen()
    full = (house.path / "posthouse.db").stat().st_size
    await house.store.update(1, range(1, 41), [])
    deadline = asyncio.get_running_loop().time() + 20
    while (house.path / "posthouse.db").stat().st_size > full // 2:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    assert await house.damages() == []


async def test_many_letters_share_a_commit(house: House) -> None:
    def commits() -> int:
        connection = sqlite3.connect(house.path / "posthouse.db")
        (count,) = connection.execute("SELECT commits FROM state").fetchone()
        connection.close()
        return int(count)

    before = commits()
    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(house.deliver(b"x\r\n", 1))
    assert commits() - before < 50
    assert len(await uids(house)) == 200
