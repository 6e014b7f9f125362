"""What a server with a damaged store does: it serves the rest, names the damage, refuses nobody for good."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.mail.reply import Fault, Unavailable
from posthouse.store import open_store
from posthouse.store.sqlite.inspection import Inspection
from posthouse.store.sqlite.pool import PAGE, Readers, connect
from tests.contract.conftest import House, StillClock, refused
from tests.unit.test_store_damage import Lines

LARGE = b"Subject: large\r\n\r\n" + b"y" * 600_000 + b"\r\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Two accounts with letters; closed."""
    house = House(tmp_path / "data", StillClock(time.time()))
    house.open()
    accounts = [await house.account("one@x.mail"), await house.account("two@x.mail")]
    await house.deliver(LARGE, accounts[0].id)
    for _ in range(200):
        await house.deliver(b"Subject: small\r\n\r\nx\r\n", *[one.id for one in accounts])
    await house.opened.pop().close()
    yield house
    for store in house.opened:
        await store.close()


def hurt(house: House, *statements: str) -> dict[str, int]:
    """Changes the database behind the store's back; the roots of its trees."""
    with sqlite3.connect(house.path / "posthouse.db") as db:
        for statement in statements:
            db.execute(statement)
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_schema").fetchall())
    db.close()
    return roots


def overwrite(house: House, page: int, octets: bytes, at: int = 0) -> None:
    """Puts other octets into a page."""
    with (house.path / "posthouse.db").open("r+b") as file:
        file.seek((page - 1) * PAGE + at)
        file.write(octets)


def leaf_of(house: House, key: int) -> int:
    """The page in which a message lies."""
    from posthouse.store.sqlite.pages import Image, Tree

    image = Image(house.path / "posthouse.db")
    (page,) = [cell.page for cell in image.rows(Tree(hurt(house)["message"])) if cell.key == key]
    return page


async def unavailable(house: House, mailbox: int) -> None:
    """Asserts that a mailbox says that it is damaged."""
    with pytest.raises(Unavailable) as problem:
        await house.store.maildrop(mailbox)
    assert problem.value.fault is Fault.DAMAGED


async def test_the_rest_is_served(house: House) -> None:
    """Letters of one go on while those of two cannot be read, and delivering to two fails alone."""
    overwrite(house, leaf_of(house, (2 << 32) + 200), os.urandom(PAGE))
    (house.path / "staging" / "4711-dead").mkdir()
    log = Lines()
    house.opened.append(open_store(house.path, serve=True, clock=house.clock, log=log))
    told = [(line["what"], line["where"], line["whose"]) for line in log.of("store_damaged")]
    assert told == [("unreadable", "mailbox 2", "two@x.mail")]
    await unavailable(house, 2)
    before = len((await house.store.maildrop(1)).rows)
    results = await asyncio.gather(
        *[house.deliver(b"to one\r\n", 1) for _ in range(10)],
        *[house.deliver(b"to two\r\n", 2) for _ in range(10)],
        return_exceptions=True,
    )
    assert [isinstance(result, Unavailable) for result in results] == [False] * 10 + [True] * 10
    assert len((await house.store.maildrop(1)).rows) == before + 10
    (given,) = await house.deliver(b"still not read-only\r\n", 1)
    assert given.failure is None


async def test_a_mailbox_with_rows_that_are_not_found_is_not_shown_as_empty(house: House) -> None:
    """A page that says that it has no rows is no error to SQLite. Would catch a client that deletes on its side."""
    page = leaf_of(house, (2 << 32) + 200)
    overwrite(house, page, b"\0\0", 3)
    house.open()
    await unavailable(house, 2)


async def test_nobody_is_unknown_in_a_damaged_register(house: House) -> None:
    """The index says that there is no such account. Would catch a 550 to letters for somebody who is here."""
    root = hurt(house)["sqlite_autoindex_account_1"]
    octets = (house.path / "posthouse.db").read_bytes()[(root - 1) * PAGE : root * PAGE]
    overwrite(house, root, octets.replace(b"two@x.mail", b"twoX@x.mai"))
    log = Lines()
    house.opened.append(open_store(house.path, serve=True, log=log))
    assert [line["where"] for line in log.of("store_damaged")][:1] == ["posthouse.db, account"]
    await refused(Unavailable, lambda: house.store.find_account("two@x.mail"))
    assert await house.store.find_account("one@x.mail") is not None
    assert await house.store.find_domain("far.example") is None


async def test_a_missing_index_is_named_at_the_start(house: House) -> None:
    hurt(house, "DROP INDEX account_local")
    log = Lines()
    house.opened.append(open_store(house.path, serve=True, log=log))
    assert [line["where"] for line in log.of("store_damaged")] == ["posthouse.db, index account_local"]


async def test_a_file_that_only_the_table_names_is_not_swept(house: House) -> None:
    """Would catch a letter that is deleted because its index is damaged."""
    root = hurt(house)["content_file"]
    (file,) = (house.path / "content").glob("*/*")
    octets = (house.path / "posthouse.db").read_bytes()[(root - 1) * PAGE : root * PAGE]
    overwrite(house, root, octets.replace(file.name.encode(), b"f" * 32))
    (house.path / "staging" / "4711-dead").mkdir()
    log = Lines()
    house.opened.append(open_store(house.path, serve=True, log=log))
    assert file.exists()
    assert log.of("store_damaged")


async def test_what_lost_commits_left_is_put_aside(house: House) -> None:
    """A letter whose commit is lost was answered 250: its octets are kept for people."""
    (file,) = (house.path / "content").glob("*/*")
    hurt(
        house,
        "DELETE FROM message WHERE content = 1",
        "DELETE FROM content WHERE id = 1",
        "UPDATE mailbox SET messages = 200, octets = (SELECT sum(size) FROM message WHERE id >> 32 = 1) WHERE id = 1",
        "UPDATE state SET commits = commits - 1",
    )
    (house.path / "staging" / "4711-dead").mkdir()
    log = Lines()
    house.opened.append(open_store(house.path, serve=True, log=log))
    assert log.of("store_commits_lost")[0]["up_to"] == 1
    assert not log.of("store_damaged")
    assert not file.exists()
    (eml,) = (house.path / "lost+found").glob("*.eml")
    assert eml.read_bytes() == LARGE


async def test_the_look_at_the_start_ends_in_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between two slices; each is a read transaction of its own."""
    monkeypatch.setattr("posthouse.store.sqlite.engine.QUICK_CHECK", 0.0)
    (house.path / "staging" / "4711-dead").mkdir()
    log = Lines()
    house.opened.append(open_store(house.path, serve=True, log=log))
    assert log.of("store_after_unclean_stop")


def test_the_rows_of_a_sound_store_are_sound(house: House) -> None:
    readers = Readers(lambda: connect(house.path / "posthouse.db"))
    inspection = Inspection(readers)
    portions = [*inspection.registers(), *inspection.rows()]
    assert len(portions) > 15
    assert not any(portions)
    readers.close()
