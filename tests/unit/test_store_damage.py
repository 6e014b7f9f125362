"""A damaged store is served as far as it goes, says what it lost, and gives no number out twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Any

from posthouse.observe.log import QuietLog
from posthouse.ports.store import Delivery
from posthouse.store import open_store
from tests.contract.conftest import House, StillClock

LARGE = b"Subject: large\r\n\r\n" + b"y" * 600_000 + b"\r\n"


class Lines(QuietLog):
    """What was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, /, **fields: object) -> None:
        """Notes it."""
        self.lines.append((event, fields))

    warning = error = info

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines about this."""
        return [fields for name, fields in self.lines if name == event]


async def crashed(tmp_path: Path, letters: int = 30) -> Path:
    """A copy of a data directory as a crash leaves it: with a WAL and a folder in staging."""
    house = House(tmp_path / "data", StillClock(time.time()))
    house.open()
    account = await house.account()
    await house.deliver(LARGE, account.id)
    for _ in range(letters):
        await house.deliver(b"Subject: small\r\n\r\nx\r\n", account.id)
    left = Path(shutil.copytree(tmp_path / "data", tmp_path / "left", copy_function=shutil.copyfile))
    os.chmod(left, 0o700)  # noqa: PTH101 (copyfile took no modes along)
    await house.store.close()
    return left


async def test_a_wal_that_was_cut_is_reported_and_no_uid_comes_again(tmp_path: Path) -> None:
    """Would catch a store that forgets letters silently, or gives their UIDs to others."""
    left = await crashed(tmp_path)
    wal = left / "posthouse.db-wal"
    os.truncate(wal, wal.stat().st_size * 2 // 3)
    log = Lines()
    store = open_store(left, serve=True, log=log)
    try:
        rows = (await store.maildrop(1)).rows
        assert 0 < len(rows) < 31
        (lost,) = log.of("store_commits_lost")
        assert lost["up_to"] >= 31 - len(rows)
        assert lost["since"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        draft = store.draft()
        await draft.write(b"Subject: new\r\n\r\nx\r\n")
        (delivered,) = await store.deliver(draft, [Delivery(1, b"")], letter="L")
        assert delivered.uid > 31
    finally:
        await store.close()
    log = Lines()
    await open_store(left, serve=True, log=log).close()
    assert log.of("store_commits_lost") == []


async def test_nothing_is_reported_lost_after_a_crash_alone(tmp_path: Path) -> None:
    """A false alarm would make the true one worthless."""
    left = await crashed(tmp_path)
    log = Lines()
    store = open_store(left, serve=True, log=log)
    assert len((await store.maildrop(1)).rows) == 31
    await store.close()
    assert log.of("store_commits_lost") == []


async def test_the_scrub_names_what_a_crash_damaged(tmp_path: Path) -> None:
    """A content file that was altered is named with whose it is, while mail goes on."""
    left = await crashed(tmp_path)
    (file,) = (left / "content").glob("*/*")
    with file.open("r+b") as octets:
        octets.seek(300_000)
        octets.write(b"!")
    log = Lines()
    store = open_store(left, serve=True, log=log)
    try:
        async with asyncio.timeout(20):
            while not log.of("store_scrubbed"):  # noqa: ASYNC110 (another thread's work)
                await asyncio.sleep(0.01)
        (damage,) = log.of("store_damaged")
        assert (damage["what"], damage["whose"]) == ("file checksum", "test@x.mail")
        assert log.of("store_scrubbed")[0]["damages"] == 1
    finally:
        await store.close()
