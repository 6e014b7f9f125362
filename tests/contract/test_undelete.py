"""What every engine owes to deleted letters (ports.store): they come back whole for a while, and then are gone."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Conflict
from posthouse.store import datadir
from tests.contract.conftest import PREFIX, House, StillClock, refused

LETTER = b"Subject: hello\r\n\r\nworld\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"y" * 400_000 + b"\r\n"
WEEK = 7 * 86_400.0


async def uids(house: House, inbox: int) -> list[int]:
    return [row[0] for row in (await house.store.maildrop(inbox)).rows]


async def test_a_deleted_letter_comes_back_with_a_new_uid_and_unique_id(house: House) -> None:
    account = await house.account()
    first, second = await house.deliver(LETTER, account.id, account.id)
    await house.deliver(LARGE, account.id)
    await house.store.update(account.inbox, [1, 3], [2])
    buried = await house.store.buried(account.inbox)
    assert [(one.uid, one.letter, one.size) for one in buried] == [
        (1, "L1", len(PREFIX + LETTER)),
        (3, "L1", len(PREFIX + LARGE)),
    ]
    assert await house.damages() == []
    assert await house.store.undelete(account.address, [1, 3]) == {1: 4, 3: 5}
    rows = (await house.store.maildrop(account.inbox)).rows
    assert [row[0] for row in rows] == [2, 4, 5]
    assert rows[1][1] not in (first.unique_id, second.unique_id)
    assert rows[1][3] & 1 == 0, "it counts as never retrieved"
    assert await house.octets(account.inbox, 4) == PREFIX + LETTER
    assert await house.octets(account.inbox, 5) == PREFIX + LARGE
    assert await house.store.buried(account.inbox) == []
    assert await house.store.undelete(account.address, [1, 3]) == {}, "never a second time"
    assert await house.damages() == []


async def test_only_what_was_deleted_since_is_shown(house: House) -> None:
    account = await house.account()
    await house.deliver(LETTER, account.id, account.id)
    await house.store.update(account.inbox, [1], [])
    house.clock.wall += 100
    await house.store.update(account.inbox, [2], [])
    assert [one.uid for one in await house.store.buried(account.inbox, house.clock.wall - 50)] == [2]


async def test_deleted_letters_do_not_count_in_the_quota_until_they_are_back(house: House) -> None:
    size = len(PREFIX + LETTER)
    account = await house.account(quota=2 * size)
    await house.deliver(LETTER, account.id, account.id)
    await house.store.update(account.inbox, [1, 2], [])
    (third,) = await house.deliver(LETTER, account.id)
    assert third.failure is None
    await refused(Conflict, lambda: house.store.undelete(account.address, [1, 2]))
    assert await uids(house, account.inbox) == [3]
    assert await house.store.undelete(account.address, [2]) == {2: 4}
    assert await house.damages() == []


async def test_after_their_time_they_are_gone_with_their_contents(house: House) -> None:
    account = await house.account()
    await house.deliver(LETTER, account.id)
    await house.deliver(LARGE, account.id)
    await house.store.update(account.inbox, [1, 2], [])
    house.clock.wall += WEEK - 60
    await house.deliver(LETTER, account.id)
    assert len(await house.store.buried(account.inbox)) == 2
    house.clock.wall += 120
    for _ in range(200):  # each letter gives the writer a turn
        await house.deliver(LETTER, account.id)
        if not await house.store.buried(account.inbox):
            break
        await asyncio.sleep(0.01)
    assert await house.store.buried(account.inbox) == []
    assert await house.store.undelete(account.address, [1, 2]) == {}
    assert await house.damages() == []
    if not house.in_memory:
        await house.opened.pop().close()
        assert list((house.path / "content").glob("*/*")) == []
        house.open()


class Jumping(StillClock):
    """A clock whose wall time is set."""

    steady = 0.0

    def monotonic(self) -> float:
        """Knows nothing of that."""
        return self.steady


async def test_a_clock_set_forward_ends_nothing_early(house: House) -> None:
    house.need_disk()
    house.clock = Jumping()
    await house.reopen()
    account = await house.account()
    await house.deliver(LETTER, account.id, account.id)
    await house.store.update(account.inbox, [1, 2], [])
    house.clock.wall += 400 * 86_400
    for steady in (100.0, WEEK - 100, WEEK + 200):
        house.clock.steady = steady  # the writer looks again
        for _ in range(50):
            await house.deliver(LETTER, account.id)
            if not (buried := await house.store.buried(account.inbox)):
                break
        assert len(buried) == (2 if steady < WEEK else 0), steady


@pytest.mark.parametrize("removed", [False, True], ids=["after their time", "with their account"])
async def test_no_octet_of_them_stays_in_the_database(house: House, removed: bool) -> None:
    """Of letters in one cell, in overflow pages and in files, among others that stay; looked at under a server that
    runs. Without overwriting, what was freed could be read in the database file and in its WAL."""
    house.need_disk()
    account, other = await house.account(), await house.account("other@x.mail")
    chance = random.Random(7)
    for number in range(240):
        body = b"SECRET%05d" % number if number % 3 else b"PUBLIC%05d" % number
        size = chance.choice((3, 30, 300, 3000, 15_000))
        prefix = PREFIX.replace(b"here", b"HIDDEN" if number % 3 else b"KNOWN")
        await house.deliver(LETTER + body * size, account.id if number % 3 else other.id, prefix=prefix)
    gone = (await uids(house, account.inbox))[:-1]
    await house.store.update(account.inbox, gone, [])
    assert traces(house) > 0
    if removed:
        await house.store.remove_account(account.address)
    else:
        await house.store.update(account.inbox, await uids(house, account.inbox), [])
        house.clock.wall += WEEK + 1
    for _ in range(400):
        house.clock.wall += 1
        await house.deliver(LETTER, other.id)
        await asyncio.sleep(0.02)
        if not await house.store.buried(account.inbox):
            break
    assert await house.store.buried(account.inbox) == []
    for _ in range(200):  # its chores
        if not traces(house):
            break
        await asyncio.sleep(0.02)
    assert traces(house) == 0
    assert await house.damages() == []


def traces(house: House) -> int:
    """How often the letters' octets stand in the files of the data directory."""
    count = 0
    for path in house.path.rglob("*"):
        if path.name == "reserve":  # large, and never written to
            continue
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a file may be removed just now
            octets = path.read_bytes()
            count += octets.count(b"SECRET") + octets.count(b"HIDDEN")
    return count


async def test_switched_off_a_deletion_is_final(house: House) -> None:
    house.options = replace(house.options, undelete=0.0)
    if house.in_memory:
        await house.opened.pop().close()
        house.open()
    else:
        await house.reopen()
    account = await house.account()
    await house.deliver(LARGE, account.id)
    await house.store.update(account.inbox, [1], [])
    assert await house.store.buried(account.inbox) == []
    assert await house.store.undelete(account.address, [1]) == {}
    assert await house.damages() == []


async def test_a_removed_account_leaves_nothing_to_bring_back(house: House) -> None:
    account = await house.account()
    await house.deliver(LETTER, account.id, account.id)
    await house.store.update(account.inbox, [1], [])
    await house.store.remove_account(account.address)
    assert await house.store.buried(account.inbox) == []
    assert await house.damages() == []


async def test_a_letter_brought_back_by_a_command_is_seen_at_once(house: House) -> None:
    house.need_disk()
    account = await house.account()
    await house.deliver(LETTER, account.id)
    await house.store.update(account.inbox, [1], [])
    assert await uids(house, account.inbox) == []
    server, command = house.store, house.open(serve=False)
    await command.undelete(account.address, [1])
    assert [row[0] for row in (await server.maildrop(account.inbox)).rows] == [2]


async def test_when_the_disk_is_full_the_oldest_go_first(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only as many as are needed: one of two."""
    house.need_disk()
    account = await house.account()
    for _ in range(3):
        await house.deliver(LARGE, account.id)
    for uid in (2, 1):  # the one deleted first goes first
        await house.store.update(account.inbox, [uid], [])
        house.clock.wall += 10
    needed = house.options.message_limit * 3 // 2

    def free(path: Path) -> int:
        return needed - 1000 + len(LARGE) * (3 - len(list((house.path / "content").glob("*/*"))))

    monkeypatch.setattr(datadir, "free_octets", free)
    house.clock.wall += 1
    with pytest.raises(Unavailable):
        await house.deliver(LETTER, account.id)  # which asks for room
    for _ in range(500):
        house.clock.wall += 1
        with contextlib.suppress(Unavailable):
            await house.deliver(LETTER, account.id)
            break
        await asyncio.sleep(0.01)
    assert [one.uid for one in await house.store.buried(account.inbox)] == [1]
    assert await uids(house, account.inbox) == [3, 4]
    assert await house.damages() == []
