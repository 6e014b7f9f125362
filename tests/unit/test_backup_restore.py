"""What a backup brings back: everything, one mailbox, one letter; nothing twice, and no number twice."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.ports.queue import State, Wanted
from posthouse.store import open_store
from posthouse.store.backup.faults import BackupError, Cause
from posthouse.store.backup.manifest import CONTENT
from posthouse.store.backup.repository import reading
from tests.unit.backups import ANNA, BORIS, LARGE, Office, contents, small


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """A store with letters, open, and a backup of it."""
    office = await Office.open(tmp_path)
    await office.create()
    yield office
    await office.store.close()


def numbers(data: Path) -> tuple[list[int], int, int]:
    """UIDVALIDITYs, the greatest ever given, the last content."""
    with sqlite3.connect(data / "posthouse.db") as connection:
        valid = [row[0] for row in connection.execute("SELECT uidvalidity FROM mailbox ORDER BY id")]
        ((greatest, content),) = connection.execute("SELECT uidvalidity, content FROM state")
    connection.close()
    return valid, greatest, content


async def test_everything_comes_back_and_what_waits_is_held(office: Office) -> None:
    """Would catch letters that are sent twice after a restore."""
    drill = office.folder / "drill"
    restored = await office.restore(drill)
    assert (restored.held.letters, restored.held.accounts, restored.held.queued) == (6, 2, 1)
    store = open_store(drill, serve=True)
    try:
        assert await contents(store, ANNA) == await contents(office.store, ANNA)
        (item,) = await store.queue.items(Wanted())
        assert (item.recipient, item.state, item.busy) == ("far@example.com", State.HELD, False)
        assert [damage async for damage in store.check()] == []
        account = await store.find_account(ANNA)
        assert account is not None
        assert account.password == "hash"
        assert (await store.maildrop(account.inbox)).rows == (await office.store.maildrop(account.inbox)).rows
    finally:
        await store.close()


async def test_no_number_is_given_twice(office: Office) -> None:
    """Would catch a client that takes a new letter for one it saw before the restore (RFC 9051 §2.3.1.1)."""
    for number in range(3, 9):
        await office.deliver(small(number), f"A{number}", ANNA)
    await office.store.add_account("later@x.mail", "")
    before = numbers(office.data)
    await office.store.close()
    restored = await office.restore(office.data, replace=True)
    after = numbers(office.data)
    assert min(after[0]) > before[1]
    assert len(set(after[0])) == 2
    assert after[1] >= max(after[0])
    assert after[2] > before[2]
    assert restored.kept is not None
    assert numbers(restored.kept) == before
    office.store = open_store(office.data, serve=True)
    assert len(await contents(office.store, ANNA)) == 3
    made = await office.create()
    assert not made.unchanged, "a restored store is another one than the one that was saved"


async def test_mail_is_not_replaced_unasked_nor_under_a_server(office: Office) -> None:
    with pytest.raises(BackupError, match="--replace") as refused:
        await office.restore(office.data)
    assert refused.value.cause is Cause.EXISTS
    with pytest.raises(BackupError, match="Stop it first") as refused:
        await office.restore(office.data, replace=True)
    assert refused.value.cause is Cause.BUSY
    (office.folder / "other").mkdir()
    (office.folder / "other" / "file").touch()
    with pytest.raises(BackupError, match="something else"):
        await office.restore(office.folder / "other", replace=True)
    assert len(await contents(office.store, ANNA)) == 3


async def test_a_restore_that_fails_leaves_all_as_it_was(office: Office) -> None:
    await office.store.close()
    largest = max((office.backups / "objects").glob("*/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"x")
    before = sorted(office.folder.iterdir())
    with pytest.raises(BackupError, match="nothing was restored"):
        await office.restore(office.data, replace=True)
    assert sorted(office.folder.iterdir()) == before
    office.store = open_store(office.data, serve=True)
    assert len(await contents(office.store, ANNA)) == 3


# Mailboxes and letters


async def test_a_mailbox_gets_back_what_it_lacks_and_nothing_twice(office: Office) -> None:
    """Would catch letters doubled by a second restore, and a server beside which they are not seen at once."""
    before = await contents(office.store, ANNA)
    await office.empty(ANNA)
    await office.deliver(small(9), "A9", ANNA)
    assert (await contents(office.store, ANNA))[0].endswith(small(9))
    returned = await office.bring_back(ANNA)
    assert returned.letters == 3
    assert sorted((await contents(office.store, ANNA))[1:]) == sorted(before)
    assert (await office.bring_back(ANNA)).letters == 0
    assert len(await contents(office.store, BORIS)) == 3
    assert [damage async for damage in office.store.check()] == []


async def test_all_that_was_known_of_a_letter_comes_back_with_it(office: Office) -> None:
    columns = "message.size, eight_bit, received, recipient, notify, orcpt, prefix, letter, envelope, checksum"
    sql = f"SELECT {columns} FROM message JOIN content ON content.id = content ORDER BY message.size, letter"

    def rows() -> list[object]:
        with sqlite3.connect(office.data / "posthouse.db") as connection:
            found: list[object] = connection.execute(sql).fetchall()
        connection.close()
        return found

    before = rows()
    account = await office.store.find_account(ANNA)
    assert account is not None
    ids = {row[1] for row in (await office.store.maildrop(account.inbox)).rows}
    await office.empty(ANNA)
    await office.bring_back(ANNA)
    assert rows() == before
    assert ids.isdisjoint(row[1] for row in (await office.store.maildrop(account.inbox)).rows)


async def test_one_letter_comes_back_by_its_id_or_its_number(office: Office) -> None:
    await office.empty(ANNA)
    assert (await office.bring_back(ANNA, letter="A2")).letters == 1
    assert [one.partition(b"\r\n")[2] for one in await contents(office.store, ANNA)] == [small(2)]
    assert (await office.bring_back(ANNA, message=1)).letters == 1
    assert (await contents(office.store, ANNA))[-1].endswith(LARGE)
    assert (await office.bring_back(ANNA, message=1)).letters == 0
    for wish in ({"letter": "nope"}, {"message": 4}):
        with pytest.raises(BackupError, match="has no") as refused:
            await office.bring_back(ANNA, **wish)
        assert refused.value.cause is Cause.ABSENT
    with pytest.raises(BackupError, match=BORIS):
        await office.bring_back("nobody@x.mail")


async def test_an_account_that_is_gone_is_made_again(office: Office) -> None:
    await office.store.remove_account(BORIS)
    returned = await office.bring_back(BORIS)
    assert returned.made_account
    assert returned.letters == 3
    account = await office.store.find_account(BORIS)
    assert account is not None
    assert (account.password, account.quota) == ("hash", 1_000_000)
    await office.store.remove_account(BORIS)
    await office.store.remove_account(ANNA)
    await office.store.remove_domain("x.mail")
    with pytest.raises(BackupError, match="posthouse domain add"):
        await office.bring_back(BORIS)


async def test_a_large_letter_damaged_in_the_backup_does_not_keep_the_others_there(office: Office) -> None:
    with reading(office.backups) as repository:
        (name,) = [e.object for e in repository.entries(repository.find()) if e.kind == CONTENT]
        octets = repository.pool.path(name).read_bytes()
        repository.pool.path(name).write_bytes(octets[:-1] + b"!")
    await office.empty(ANNA)
    returned = await office.bring_back(ANNA)
    assert (returned.letters, returned.damaged) == (2, ["L"])
    assert [damage async for damage in office.store.check()] == []


async def test_a_letter_damaged_before_the_backup_is_named_and_the_others_come_back(office: Office) -> None:
    (file,) = (office.data / "content").glob("*/*")
    octets = file.read_bytes()
    file.write_bytes(octets[:-3] + b"!\r\n")
    await office.deliver(small(3), "A3", ANNA)
    with sqlite3.connect(office.data / "posthouse.db") as connection:
        connection.execute("UPDATE content SET checksum = checksum + 1 WHERE letter = 'A1'")
    connection.close()
    await office.create()
    await office.empty(ANNA)
    returned = await office.bring_back(ANNA)
    assert returned.damaged == ["A1"], "the large one is taken from the first backup, which is whole"
    assert returned.letters == 3
