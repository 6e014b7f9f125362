"""A store is damaged in each way there is; the check must name each, and nothing false may be read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.store import Damage
from posthouse.store import StoreError, open_store
from tests.contract.conftest import House, StillClock, read

SMALL = b"Subject: small\r\n\r\n" + b"x" * 1000 + b"\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"y" * 600_000 + b"\r\n"
TOMBSTONE = (
    "INSERT INTO tombstone SELECT {}, 'x', {}, size, flags, retrieved, eight_bit, modseq, received, saved, keywords,"
    " recipient, notify, orcpt, prefix, 0 FROM message WHERE id = (1 << 32) + 1"
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Two accounts that share a small letter (UID 1) and a large one (UID 2)."""
    house = House(tmp_path / "data", StillClock(time.time() + 3600))
    house.open()
    accounts = [await house.account("one@x.mail"), await house.account("two@x.mail")]
    for content in (SMALL, LARGE):
        await house.deliver(content, *[account.id for account in accounts])
    yield house
    for store in house.opened:
        await store.close()


async def hurt(house: House, *statements: str) -> None:
    """Changes the database behind the store's back."""
    with sqlite3.connect(house.path / "posthouse.db") as connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def content_file(house: House) -> Path:
    """The one large content."""
    (file,) = (house.path / "content").glob("*/*")
    return file


async def damages(house: House, *, full: bool = True) -> list[Damage]:
    """All that the check finds."""
    return [damage async for damage in house.store.check(full=full)]


async def test_a_sound_store_is_called_sound(house: House) -> None:
    assert await damages(house) == []
    assert await damages(house, full=False) == []


@pytest.mark.parametrize(
    ("what", "statement"),
    [
        ("counters", "UPDATE mailbox SET messages = 7 WHERE id = 1"),
        ("counters", "UPDATE mailbox SET octets = octets + 1 WHERE id = 1"),
        ("uid", "UPDATE mailbox SET uidnext = 2 WHERE id = 1"),
        ("modseq", "UPDATE message SET modseq = 99 WHERE id = (1 << 32) + 1"),
        ("unique-id", "UPDATE message SET unique_id = (SELECT unique_id FROM message WHERE id = (1 << 32) + 1)"),
        ("size", "UPDATE content SET size = size + 1, data = CAST(data || 'x' AS BLOB) WHERE file IS NULL"),
        ("content size", "UPDATE content SET data = CAST(data || 'x' AS BLOB) WHERE file IS NULL"),
        ("content checksum", "UPDATE content SET data = CAST(replace(data, 'xx', 'zz') AS BLOB) WHERE file IS NULL"),
        ("content checksum", "UPDATE content SET checksum = checksum + 1 WHERE file IS NULL"),
        ("content checksum", "UPDATE content SET data = NULL WHERE file IS NULL"),
        ("file checksum", "UPDATE content SET checksum = checksum + 1 WHERE file IS NOT NULL"),
        ("references", "UPDATE content SET refs = 1"),
        ("references", "UPDATE content SET refs = 3"),
        ("missing content", "DELETE FROM content WHERE file IS NULL"),
        ("missing content", "UPDATE message SET content = 4711 WHERE id = (1 << 32) + 1"),
        ("stray message", "UPDATE message SET id = id + (77 << 32) WHERE id = (1 << 32) + 1"),
        ("stray message", "DELETE FROM mailbox WHERE id = 1"),
        ("tombstone", TOMBSTONE.format("id + 100", "content")),  # a UID that is not given yet
        ("tombstone", TOMBSTONE.format("id", "content")),  # the UID of a letter that is there
        ("tombstone", TOMBSTONE.format("id + (77 << 32)", "content")),
        ("tombstone", TOMBSTONE.format("id + 1", "4711")),  # a content that is not there
        ("no inbox", "UPDATE mailbox SET name = 'Other' WHERE id = 1"),
        ("address", "UPDATE account SET local = 'three' WHERE id = 1"),
        ("foreign key", "DELETE FROM domain"),
        ("foreign key", "DELETE FROM account WHERE id = 1"),
        ("state", "UPDATE state SET content = 1"),
        ("state", "UPDATE state SET uidvalidity = 1"),
        ("state", "DELETE FROM state"),
    ],
)
async def test_damage_in_the_database_is_named(house: House, what: str, statement: str) -> None:
    await hurt(house, statement)
    found = await damages(house)
    assert what in [damage.what for damage in found]
    for damage in found:
        assert damage.where
        assert damage.text.endswith(".")


async def test_a_damaged_letter_that_was_deleted_is_named_with_whose_it_was(house: House) -> None:
    await house.store.update(1, [2], [])
    await house.store.update(2, [2], [])
    assert await damages(house) == []
    content_file(house).unlink()
    (damage,) = await damages(house)
    assert (damage.what, damage.whose) == ("missing file", ["one@x.mail", "two@x.mail"])


async def test_a_missing_file_is_named_with_whose_it_was(house: House) -> None:
    content_file(house).unlink()
    for full in (True, False):
        (damage,) = await damages(house, full=full)
        assert damage.what == "missing file"
        assert damage.whose == ["one@x.mail", "two@x.mail"]
        assert "L1" in damage.where


async def test_a_cut_file_is_named(house: House) -> None:
    with content_file(house).open("r+b") as file:
        file.truncate(1000)
    for full in (True, False):
        assert [damage.what for damage in await damages(house, full=full)] == ["file size"]


async def test_an_altered_file_is_named_and_never_read_as_whole(house: House) -> None:
    with content_file(house).open("r+b") as file:
        file.seek(300_000)
        file.write(b"!")
    assert [damage.what for damage in await damages(house)] == ["file checksum"]
    (letter,) = await house.store.fetch(1, [2])
    assert letter is not None
    got = b""
    with pytest.raises(Unavailable) as problem:
        async for chunk in letter.chunks():
            got += chunk
    assert problem.value.fault is Fault.DAMAGED
    assert len(got) < letter.size


@pytest.mark.parametrize("missing", [True, False])
async def test_a_missing_or_cut_file_is_never_read_in_part(house: House, missing: bool) -> None:
    file = content_file(house)
    file.unlink()
    if not missing:
        file.write_bytes(LARGE[:1000])
    (letter,) = await house.store.fetch(1, [2])
    assert letter is not None
    with pytest.raises(Unavailable) as problem:
        async for chunk in letter.chunks():
            assert not chunk
    assert problem.value.fault is Fault.DAMAGED


async def test_an_orphan_is_reported_when_it_is_old(house: House) -> None:
    orphan = content_file(house).parent / (content_file(house).parent.name + "0" * 30)
    orphan.touch()
    (damage,) = await damages(house)
    assert (damage.what, damage.where) == ("orphan file", f"content/{orphan.parent.name}/{orphan.name}")
    house.clock.wall = time.time()
    assert await damages(house) == []


async def test_one_damaged_letter_does_not_hide_the_others(house: House) -> None:
    await house.deliver(b"third\r\n", 1)
    await hurt(house, "UPDATE content SET checksum = checksum + 1 WHERE id = 1")
    bad, large, good = await house.store.fetch(1, [1, 2, 3])
    assert bad is not None
    assert bad.octets is None
    with pytest.raises(Unavailable) as problem:
        await read(bad)
    assert problem.value.fault is Fault.DAMAGED
    assert large is not None
    assert good is not None
    assert good.octets is not None
    assert good.octets.endswith(b"third\r\n")


async def test_damaged_pages_are_named_and_no_crash(house: House) -> None:
    await house.deliver(b"z" * 100_000 + b"\r\n", 1)
    path = house.path / "posthouse.db"
    await house.opened.pop().close()
    pages = path.stat().st_size // 4096
    for page in (2, 5, pages // 2, pages - 1):
        original = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
        try:
            house.open()
        except StoreError as problem:
            assert str(path) in str(problem)
        else:
            assert await damages(house)
            await house.opened.pop().close()
        path.write_bytes(original)
        for companion in ("posthouse.db-wal", "posthouse.db-shm"):
            (house.path / companion).unlink(missing_ok=True)
    house.open()
    assert await damages(house) == []


async def test_what_is_no_database_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "posthouse.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(tmp_path, serve=True)
    (tmp_path / "posthouse.db").unlink()
    sqlite3.connect(tmp_path / "posthouse.db").execute("CREATE TABLE foreign_thing (x)").connection.close()
    with pytest.raises(StoreError, match="not one of Posthouse"):
        open_store(tmp_path, serve=True)


async def test_a_check_beside_a_busy_server_finds_nothing(house: House) -> None:
    async def busy() -> None:
        for _ in range(30):
            await house.deliver(LARGE, 1)
            await house.deliver(SMALL, 1, 2)
            rows = (await house.store.maildrop(1)).rows
            await house.store.update(1, [row[0] for row in rows[:3]], [])

    server = asyncio.ensure_future(busy())
    beside = open_store(house.path, serve=False, clock=house.clock)
    while not server.done():
        assert [damage async for damage in beside.check()] == []
    await server
    await beside.close()
