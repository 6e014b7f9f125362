"""Reception: prefixes, ids, hops and what becomes of a letter that not everybody can have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.reply import Rejected, Smtp
from posthouse.mta.delivery import failure_reply, overfull, prefix_of
from posthouse.mta.reception import Client, Reception, Transaction
from posthouse.observe.log import QuietLog
from posthouse.ports.store import Account, Delivered, Delivery, Draft, Store
from posthouse.smtp.commands import Mail, Rcpt
from tests.smtp_stage import MemoryDraft, MemoryMail, Seeded, SmtpStage, StillClock
from tests.transcript_runner import Client as WireClient


def reception(mail: MemoryMail, clock: StillClock | None = None) -> Reception:
    return Reception(
        cast(Store, mail), mail, clock or StillClock(), Seeded(), QuietLog(), host="x.mail", limits=SmtpLimits()
    )


async def begun(mail: MemoryMail, *addresses: str, mode: str = "smtp") -> tuple[Reception, Transaction]:
    """A transaction whose recipients were accepted and whose content is there."""
    for address in addresses:
        mail.add(address, quota=100_000)
    room = reception(mail)
    transaction = room.begin(Mail(None), Client("192.0.2.7", mode, "client.example", extended=True))
    for address in addresses:
        await room.recipient(transaction, Rcpt(Address.parse(address)))
    await room.open(transaction).write(b"Subject: x\r\n\r\ntext\r\n")
    return room, transaction


@pytest.mark.parametrize(
    ("content", "blank"),
    [
        (b"Subject: x\r\n\r\ntext\r\n", False),
        (b"X-Odd!Name#: x\r\n", False),
        (b"Subject : old form\r\n", False),
        (b"\r\ntext\r\n", False),
        (b"", True),
        (b"text without a header\r\n", True),
        (b"text with a colon: here\r\n", True),
        (b" folded: x\r\n", True),
        (b": x\r\n", True),
        (b"From anna Mon Mar  2 06:15:04 2026\r\n", True),
        ("Тема: x\r\n".encode(), True),
        (b"x" * 2000 + b": x\r\n", True),
    ],
)
def test_the_prefix_ends_a_header_that_has_no_end(content: bytes, blank: bool) -> None:
    """Catches a text that would be taken for the header, and an empty line too many."""
    draft = MemoryDraft(MemoryMail(), bytearray(content))
    assert prefix_of(draft, "A: b\r\n") == b"A: b\r\n" + (b"\r\n" if blank else b"")


@pytest.mark.parametrize(
    ("quota", "used", "size", "reply"),
    [
        (0, 10**9, 10**9, None),
        (1000, 0, 1000, None),
        (1000, 1, 1000, Smtp.MAILBOX_FULL),
        (1000, 999, 0, None),
        (1000, 1000, 0, Smtp.MAILBOX_FULL),
        (1000, 5000, 0, Smtp.MAILBOX_FULL),
        (1000, 0, 1001, Smtp.TOO_BIG_FOR_MAILBOX),
    ],
)
def test_overfull(quota: int, used: int, size: int, reply: object) -> None:
    assert failure_reply(overfull(Account(1, "a@x.mail", "", 1, quota, used), size)) is reply


async def test_ids_sort_by_time_and_are_not_guessed() -> None:
    clock = StillClock()
    room = reception(MemoryMail(), clock)
    ids = []
    for _ in range(1000):
        ids.append(room._letter_id())
        clock.seconds += 0.001
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    still = [room._letter_id() for _ in range(1000)]
    assert len(set(still)) == 1000, "letters of one millisecond differ"
    assert {len(letter) for letter in ids + still} == {22}
    assert all(letter.isascii() and letter.isalnum() and letter.islower() for letter in ids)


async def test_a_copy_that_fails_at_the_last_moment() -> None:
    """Somebody's quota was used up meanwhile: the others have the letter, so the sender must not send it again."""

    class Full(MemoryMail):
        async def deliver(
            self, draft: Draft, deliveries: Sequence[Delivery], *, letter: str, envelope: Envelope | None = None
        ) -> list[Delivered]:
            return [Delivered(d.account, failure="quota" if d.account == 1 else None) for d in deliveries]

    room, transaction = await begun(Full(), "a@x.mail", "b@x.mail")
    accepted = await room.accept(transaction)
    assert accepted.failures == [Smtp.MAILBOX_FULL, None]
    room, transaction = await begun(Full(), "a@x.mail")
    with pytest.raises(Rejected) as error:
        await room.accept(transaction)
    assert error.value.reply is Smtp.MAILBOX_FULL


@pytest.mark.parametrize(
    ("failure", "status"), [("missing", "5.1.1"), ("quota", "5.2.2"), ("too big", "5.2.3"), ("something new", "4.3.0")]
)
async def test_every_failure_of_the_store_has_a_reply(failure: str, status: str) -> None:
    class Failing(MemoryMail):
        async def deliver(
            self, draft: Draft, deliveries: Sequence[Delivery], *, letter: str, envelope: Envelope | None = None
        ) -> list[Delivered]:
            return [Delivered(d.account, failure=failure) for d in deliveries]

    room, transaction = await begun(Failing(), "a@x.mail")
    with pytest.raises(Rejected) as error:
        await room.accept(transaction)
    assert error.value.reply.status == status


async def test_a_thousand_recipients() -> None:
    """Reliability V1: all of them get their copy, the next one is told to wait; catches work that grows as a square."""
    stage = SmtpStage()
    for number in range(1001):
        stage.mail.add(f"user{number}@x.mail")
    client = WireClient(stage.build({}).session, "192.0.2.7")
    client.send(b"HELO client.example\r\n")
    await client.line()
    await client.line()
    client.send(b"MAIL FROM:<>\r\n" + b"".join(b"RCPT TO:<user%d@x.mail>\r\n" % number for number in range(1001)))
    lines = [await client.line() for _ in range(1002)]
    assert [line[:3] for line in lines] == ["250"] * 1001 + ["452"]
    client.send(b"DATA\r\n")
    await client.line()
    client.send(b"Subject: x\r\n.\r\n")
    assert (await client.line()).startswith("250 2.0.0 Queued")
    await client.leave()
    assert [len(stage.mail.mailboxes[stage.mail.accounts[f"user{n}@x.mail"].id]) for n in (0, 999, 1000)] == [1, 1, 0]
