"""What every engine owes to letters (ports.store): delivering, listing, reading, deleting."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.ports.store import Delivery, Missing
from tests.contract.conftest import PREFIX, House, read, refused

LETTER = b"Subject: hello\r\n\r\nworld\r\n"
SIZES = [0, 1, 2, 1000, 131_069, 131_071, 131_072, 131_073, 262_144, 400_001, 3_000_000]


async def test_a_letter_comes_out_as_it_went_in(house: House) -> None:
    account = await house.account()
    (delivered,) = await house.deliver(LETTER, account.id)
    assert delivered.failure is None
    assert delivered.uid == 1
    maildrop = await house.store.maildrop(account.inbox)
    assert maildrop.rows == [(1, delivered.unique_id, len(PREFIX + LETTER), 0)]
    assert maildrop.octets == len(PREFIX + LETTER)
    assert await house.octets(account.inbox, 1) == PREFIX + LETTER


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_comes_out_whole(house: House, size: int) -> None:
    account = await house.account()
    content = (b"0123456789abcdef" * (size // 16 + 1))[: max(0, size - 2)] + b"\r\n"[: min(size, 2)]
    if size == 1:
        content = b"x"
    await house.deliver(content, account.id)
    kept = content + b"\r\n" if size == 1 else content
    (row,) = (await house.store.maildrop(account.inbox)).rows
    assert row[2] == len(PREFIX + kept)
    (letter,) = await house.store.fetch(account.inbox, [1])
    assert letter is not None
    assert letter.size == len(PREFIX + kept)
    assert letter.prefix == PREFIX
    assert await read(letter) == PREFIX + kept
    if letter.octets is not None:
        assert letter.octets == PREFIX + kept


@pytest.mark.parametrize("content", [b"no end", b"half\r", b"half\n", b"x" * 300_000, b"x" * 299_999 + b"\r"])
async def test_a_content_without_a_final_line_end_gets_one(house: House, content: bytes) -> None:
    account = await house.account()
    await house.deliver(content, account.id)
    assert await house.octets(account.inbox, 1) == PREFIX + content + b"\r\n"


async def test_a_draft_shows_its_ends_and_its_header(house: House) -> None:
    for size in (100, 200_000, 700_000):
        draft = house.store.draft()
        header = b"A: " + b"b" * size + b"\r\n\r\n"
        for octets in (header[:10], header[10:], b"body", b"\r", b"\n"):
            await draft.write(octets)
        assert draft.size == len(header) + 6
        assert draft.head == (header + b"body\r\n")[:1024]
        assert draft.tail == b"\r\n"
        assert draft.read_header(2_000_000) == header
        assert draft.read_header(50) == header[:50]
        await draft.discard()
        await draft.discard()


async def test_many_recipients_have_one_content_and_prefixes_of_their_own(house: House) -> None:
    accounts = [await house.account(f"a{number}@x.mail") for number in range(70)]
    draft = house.store.draft()
    await draft.write(LETTER)
    deliveries = [Delivery(one.id, b"To: %d\r\n" % one.id, one.address, ("SUCCESS",), "rfc822;q") for one in accounts]
    envelope = Envelope(Address("s", "y.mail"), ret="HDRS", envid="e", smtputf8=True)
    results = await house.store.deliver(draft, deliveries, letter="L", envelope=envelope)
    assert [result.account for result in results] == [account.id for account in accounts]
    assert len({result.unique_id for result in results}) == 70
    for account in accounts:
        assert await house.octets(account.inbox, 1) == b"To: %d\r\n" % account.id + LETTER
    assert await house.damages() == []


async def test_the_same_account_twice_has_two_copies(house: House) -> None:
    account = await house.account()
    first, second = await house.deliver(LETTER, account.id, account.id)
    assert (first.uid, second.uid) == (1, 2)
    assert first.unique_id != second.unique_id
    await house.store.update(account.inbox, [1], [])
    assert await house.octets(account.inbox, 2) == PREFIX + LETTER
    await house.store.update(account.inbox, [2], [])
    assert await house.damages() == []


async def test_letters_that_arrive_together_are_all_there_once(house: House) -> None:
    account = await house.account()
    contents = [b"letter %d\r\n" % number * (1 if number % 10 else 20_000) for number in range(200)]
    async with asyncio.TaskGroup() as group:
        for content in contents:
            group.create_task(house.deliver(content, account.id))
    rows = (await house.store.maildrop(account.inbox)).rows
    assert [row[0] for row in rows] == list(range(1, 201))
    assert len({row[1] for row in rows}) == 200
    found = [await house.octets(account.inbox, row[0]) for row in rows]
    assert sorted(octets or b"" for octets in found) == sorted(PREFIX + content for content in contents)
    assert await house.damages() == []


async def test_an_account_that_is_gone_fails_alone(house: House) -> None:
    account = await house.account()
    missing, delivered = await house.deliver(LETTER, 999, account.id)
    assert missing.failure == "missing"
    assert delivered.failure is None
    (only,) = await house.deliver(b"x" * 500_000 + b"\r\n", 999)
    assert only.failure == "missing"
    assert await house.damages() == []


async def test_quota_is_checked_where_the_letter_is_written(house: House) -> None:
    size = len(PREFIX + LETTER)
    account = await house.account(quota=2 * size)
    results = await house.deliver(LETTER, account.id, account.id, account.id)
    assert [result.failure for result in results] == [None, None, "quota"]
    (large,) = await house.deliver(b"x" * (2 * size) + b"\r\n", account.id)
    assert large.failure == "too big"
    found = await house.store.find_account("test@x.mail")
    assert found is not None
    assert (found.used, found.messages) == (2 * size, 2)
    await house.store.update(account.inbox, [1], [])
    (again,) = await house.deliver(LETTER, account.id)
    assert again.failure is None
    assert again.uid == 3
    assert await house.damages() == []


async def test_what_is_retrieved_and_deleted_is_remembered(house: House) -> None:
    account = await house.account()
    for _ in range(4):
        await house.deliver(LETTER, account.id)
    await house.store.update(account.inbox, [2, 77], [1, 2, 88])
    await house.store.update(account.inbox, [], [])
    maildrop = await house.store.maildrop(account.inbox)
    assert [(row[0], row[3]) for row in maildrop.rows] == [(1, 1), (3, 0), (4, 0)]
    assert maildrop.octets == 3 * len(PREFIX + LETTER)
    assert await house.store.fetch(account.inbox, [2, 0, -1, 5, 2**40]) == [None] * 5
    store = await house.reopen()
    assert (await store.maildrop(account.inbox)).rows == maildrop.rows
    assert await house.damages() == []


async def test_uids_and_unique_ids_never_recur(house: House) -> None:
    account = await house.account()
    seen: set[str] = set()
    for expected in range(1, 6):
        (delivered,) = await house.deliver(LETTER, account.id)
        assert delivered.uid == expected
        assert delivered.unique_id not in seen
        seen.add(delivered.unique_id)
        await house.store.update(account.inbox, [delivered.uid], [])
        if expected == 3:
            house.clock.wall -= 86_400
            await house.reopen()


@pytest.mark.parametrize("days", [400, -1])
async def test_uids_and_unique_ids_grow_whatever_the_clock_does(house: House, days: int) -> None:
    """Would catch a UID made of the time: after a jump back a client would be shown old numbers for new letters."""
    account = await house.account()
    await house.deliver(b"x\r\n", account.id)
    house.clock.wall += days * 86_400
    await house.deliver(b"x\r\n", account.id)
    if not house.in_memory:
        await house.reopen()  # and a start at such a time
    house.clock.wall -= days * 86_400
    await house.deliver(b"x\r\n", account.id)
    rows = (await house.store.maildrop(account.inbox)).rows
    assert [row[0] for row in rows] == [1, 2, 3]
    assert len({row[1] for row in rows}) == 3
    assert (await house.account("later@x.mail")).inbox > account.inbox
    assert await house.damages() == []


async def test_rows_tell_of_octets_over_127_in_the_header(house: House) -> None:
    account = await house.account()
    long_header = b"A: " + b"b" * 400_000 + b"\r\n"
    cases = [
        (b"", LETTER, 0),
        (b"", b"Subject: \xd0\xbf\r\n\r\nx\r\n", 2),
        (b"", b"Subject: x\r\n\r\n\xd0\xbf\r\n", 0),
        (b"X: \xd0\xbf\r\n", LETTER, 2),
        (b"", b"\r\n\xff\r\n", 0),
        (b"", long_header + b"\r\n" + b"\xff" * 9 + b"\r\n", 0),
        (b"", long_header + b"B: \xff\r\n\r\nx\r\n", 2),
        (b"", long_header + b"B: \xff\r\n", 2),
    ]
    for prefix, content, _ in cases:
        await house.deliver(content, account.id, prefix=prefix)
    rows = (await house.store.maildrop(account.inbox)).rows
    assert [row[3] for row in rows] == [mark for _, _, mark in cases]


async def test_a_long_maildrop_is_listed_whole(house: House) -> None:
    account = await house.account()
    for _ in range(12):
        await house.deliver(LETTER, *[account.id] * 1000)
    await house.store.update(account.inbox, range(100, 200), range(5000, 5010))
    maildrop = await house.store.maildrop(account.inbox)
    assert [row[0] for row in maildrop.rows] == [*range(1, 100), *range(200, 12_001)]
    assert [row[0] for row in maildrop.rows if row[3]] == list(range(5000, 5010))
    assert len({row[1] for row in maildrop.rows}) == 11_900
    assert maildrop.octets == 11_900 * len(PREFIX + LETTER)


async def test_many_small_letters_come_with_one_fetch(house: House) -> None:
    account = await house.account()
    for number in range(40):
        await house.deliver(b"%d\r\n" % number, account.id)
    letters = await house.store.fetch(account.inbox, [*range(40, 0, -1), 41])
    assert [letter and letter.octets for letter in letters] == [
        *(PREFIX + b"%d\r\n" % number for number in range(39, -1, -1)),
        None,
    ]


async def test_a_fetch_of_much_brings_some_and_opens_the_rest(house: House) -> None:
    account = await house.account()
    contents = [bytes([65 + number]) * 100_000 + b"\r\n" for number in range(40)]
    for content in contents:
        await house.deliver(content, account.id)
    letters = await house.store.fetch(account.inbox, range(1, 41))
    at_hand = sum(len(letter.octets) for letter in letters if letter is not None and letter.octets is not None)
    assert 0 < at_hand < 3_000_000
    assert [await read(letter) for letter in letters if letter is not None] == [PREFIX + one for one in contents]


async def test_a_reader_may_break_off(house: House) -> None:
    account = await house.account()
    await house.deliver(b"x" * 2_000_000 + b"\r\n", account.id)
    (letter,) = await house.store.fetch(account.inbox, [1])
    assert letter is not None
    async for chunk in letter.chunks():
        assert chunk
        break
    await house.store.update(account.inbox, [1], [])
    assert await house.octets(account.inbox, 1) is None


async def test_a_maildrop_lock_is_exclusive(house: House) -> None:
    account = await house.account()
    assert house.store.lock(account.inbox)
    assert not house.store.lock(account.inbox)
    assert house.store.lock(account.inbox + 1)
    house.store.unlock(account.inbox)
    assert house.store.lock(account.inbox)


async def test_an_unknown_mailbox_is_missing(house: House) -> None:
    await refused(Missing, lambda: house.store.maildrop(4711))
    await house.store.update(4711, [1], [2])  # the account was removed during a session: all is gone as asked


async def test_a_cancelled_delivery_is_whole_or_not_there(house: House) -> None:
    account = await house.account()
    for size in (10, 1_000_000):
        task = asyncio.ensure_future(house.deliver(b"x" * size + b"\r\n", account.id))
        for _ in range(size % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await house.reopen()
    for row in (await house.store.maildrop(account.inbox)).rows:
        octets = await house.octets(account.inbox, row[0])
        assert octets is not None
        assert len(octets) == row[2]
    assert await house.damages() == []


async def test_a_large_letter_passes_in_constant_memory(house: House) -> None:
    house.need_disk()
    account = await house.account()
    piece, pieces = bytes(range(32, 96)) * 1024, 640  # 40 MiB
    tracemalloc.start()
    try:
        draft = house.store.draft()
        for _ in range(pieces):
            await draft.write(piece)
        await house.store.deliver(draft, [Delivery(account.id, PREFIX)], letter="L")
        (letter,) = await house.store.fetch(account.inbox, [1])
        assert letter is not None
        size = 0
        async for chunk in letter.chunks():
            size += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == letter.size == len(PREFIX) + pieces * len(piece) + 2
    assert peak < 4_000_000
