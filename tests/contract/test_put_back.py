"""What every engine owes to letters that are put back into a mailbox."""

from __future__ import annotations

import dataclasses

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.ports.store import Draft, Former, Missing
from tests.contract.conftest import PREFIX, House, refused

FORMER = Former("L9", Envelope(Address.parse("a@b.example")), "test@x.mail", PREFIX, 1e9, 1, ("$Junk",), ("NEVER",))


async def draft_of(house: House, content: bytes) -> Draft:
    """A draft with this content."""
    draft = house.store.draft()
    await draft.write(content)
    return draft


@pytest.mark.parametrize("size", [0, 1000, 400_000])
async def test_a_letter_put_back_is_whole_and_new(house: House, size: int) -> None:
    """Would catch a unique-id or a UID given twice (RFC 1939 §7)."""
    account = await house.account(quota=10)
    content = b"Subject: x\r\n\r\n" + b"y" * size + b"\r\n"
    former = dataclasses.replace(FORMER)
    pairs = [(await draft_of(house, content), former), (await draft_of(house, content), former)]
    assert await house.store.put_back(account.inbox, pairs) == [1, 2]
    rows = (await house.store.maildrop(account.inbox)).rows
    assert [row[0] for row in rows] == [1, 2]
    assert rows[0][1] != rows[1][1]
    assert await house.octets(account.inbox, 1) == PREFIX + content
    assert await house.damages() == []
    await house.store.update(account.inbox, [1, 2], [])
    assert await house.damages() == []


async def test_a_draft_that_was_used_spoils_nothing(house: House) -> None:
    """Would catch files of a batch that are left behind when one of it fails."""
    account = await house.account()
    used = await draft_of(house, b"x")
    await used.discard()
    pairs = [(await draft_of(house, b"y" * 400_000), FORMER), (used, FORMER), (await draft_of(house, b"z"), FORMER)]
    await refused(ValueError, lambda: house.store.put_back(account.inbox, pairs))
    assert (await house.store.maildrop(account.inbox)).rows == []
    if not house.in_memory:
        await house.reopen()
        assert not list((house.path / "content").glob("*/*"))
        assert [path.name for path in (house.path / "staging").glob("*/*")] == ["lock"]


async def test_a_mailbox_that_is_gone_takes_nothing_back(house: House) -> None:
    account = await house.account()
    await house.store.remove_account(account.address)
    pairs = [(await draft_of(house, b"y" * 400_000), FORMER)]
    await refused(Missing, lambda: house.store.put_back(account.inbox, pairs))
    assert await house.damages() == []
