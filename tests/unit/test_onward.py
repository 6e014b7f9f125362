"""The way out of the reception, on a real store: who may send letters on, and what is one transaction with what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.accounts.credentials import Credentials
from posthouse.accounts.directory import AccountDirectory
from posthouse.config.schema import AccountSettings
from posthouse.mail.address import Address
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.reply import Fault, Rejected, Reply, Smtp, Unavailable
from posthouse.mta.bounce import Notices
from posthouse.mta.dispatch import Courier
from posthouse.mta.onward import Onward
from posthouse.mta.reception import Accepted, Client, Reception
from posthouse.observe.log import QuietLog
from posthouse.policy.access import ANYBODY, LOCAL, RELAY, Rights
from posthouse.ports.queue import Carried, Parcel, Result, Settled, Wanted
from posthouse.ports.store import Account, Alias, Store
from posthouse.queue.manager import QueueManager
from posthouse.queue.steady import SteadyClock
from posthouse.smtp.commands import Mail, Rcpt
from posthouse.store import open_store
from tests.contract.conftest import StillClock, read
from tests.smtp_stage import Seeded
from tests.unit.test_dispatch import Elsewhere


@dataclass(slots=True)
class Routes(Elsewhere):
    """`ours.example` is taken from everybody, `shut.example` leads nowhere."""

    def is_ours(self, address: Address) -> bool:
        """Two domains."""
        return address.domain in ("ours.example", "shut.example")

    def is_refused(self, address: Address) -> bool:
        """One of them."""
        return address.domain == "shut.example"


@dataclass(slots=True)
class Room:
    """A reception with a queue."""

    store: Store
    clock: StillClock
    reception: Reception
    manager: QueueManager
    account: Account
    carried: list[Parcel] = field(default_factory=list)

    async def send(
        self,
        *recipients: str | Rcpt,
        sender: str | None = "test@x.mail",
        rights: Rights = Rights("office", ANYBODY.words | {RELAY}),  # noqa: B008 (a value)
        size: int = 20,
    ) -> Accepted:
        """One letter."""
        client = Client("192.0.2.7", "smtp", "client.example", extended=True, rights=rights)
        transaction = self.reception.begin(Mail(Address.parse(sender) if sender else None, ret="HDRS"), client)
        for one in recipients:
            await self.reception.recipient(transaction, Rcpt(Address.parse(one)) if isinstance(one, str) else one)
        await self.reception.open(transaction).write(b"Subject: hello\r\n\r\n" + b"x" * size + b"\r\n")
        return await self.reception.accept(transaction)

    async def mailbox(self, inbox: int | None = None) -> list[bytes]:
        """The letters in a mailbox, the one of test@x.mail if none is named."""
        inbox = inbox or self.account.inbox
        maildrop = await self.store.maildrop(inbox)
        letters = await self.store.fetch(inbox, [row[0] for row in maildrop.rows])
        return [await read(letter) for letter in letters if letter is not None]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    """A reception whose next hosts take everything as soon as the test lets them."""
    clock = StillClock()
    store = open_store(tmp_path / "data", serve=True, clock=clock)
    await store.add_domain("x.mail")
    account = await store.add_account("test@x.mail", "hash")
    await store.add_account("full@x.mail", "hash", 1000)
    credentials = Credentials(AccountSettings(), clock, Seeded())
    directory = AccountDirectory(store, credentials)
    gate = asyncio.Event()
    parcels: list[Parcel] = []

    async def carry(parcel: Parcel, known: Result | None) -> Carried:
        parcels.append(parcel)
        await gate.wait()
        return Carried([Settled(item.id, None) for item in parcel.items], alive=True)

    manager = QueueManager(store.queue, carry, SteadyClock(clock), QuietLog(), poll=None)
    await manager.start()
    router = Routes()
    notices = Notices("mx.x.mail", Address.parse("postmaster@x.mail"), "en", clock, Seeded())
    onward = Onward(router, manager, Courier(notices, directory, router, clock), clock, host="mx.x.mail")
    reception = Reception(
        store, directory, clock, Seeded(), QuietLog(), host="mx.x.mail", limits=SmtpLimits(), onward=onward
    )
    yield Room(store, clock, reception, manager, account, parcels)
    gate.set()
    await manager.stop(5)
    credentials.close()
    await store.close()


def rights(*words: str) -> Rights:
    """What a network may do."""
    return Rights("a network", frozenset(words))


@pytest.mark.parametrize(
    ("recipient", "words", "reply"),
    [
        ("a@far.example", (LOCAL,), Smtp.NO_RELAY),
        ("a@[192.0.2.9]", (LOCAL,), Smtp.NO_RELAY),
        ("a@ours.example", (LOCAL,), None),
        ("a@ours.example", (), Smtp.AUTH_REQUIRED),
        ("a@shut.example", (LOCAL, RELAY), Smtp.NO_SUCH_USER),
        ("nobody@x.mail", (LOCAL, RELAY), Smtp.NO_SUCH_USER),
        ("a@far.example", (LOCAL, RELAY), None),
        ("a@far.example", (RELAY,), None),
    ],
)
async def test_whose_letters_go_on(room: Room, recipient: str, words: tuple[str, ...], reply: Reply | None) -> None:
    if reply is None:
        await room.send(recipient, rights=rights(*words))
        return
    with pytest.raises(Rejected) as refused:
        await room.send(recipient, rights=rights(*words))
    assert refused.value.reply == reply


async def test_one_letter_is_here_and_on_its_way(room: Room) -> None:
    accepted = await room.send("test@x.mail", "a@far.example", "b@far.example", "c@near.example")
    assert accepted.failures == [None] * 4
    (here,) = await room.mailbox()
    assert here.startswith(b"Return-Path: <test@x.mail>\r\nReceived: from client.example")
    async with asyncio.timeout(10):
        while len(room.carried) < 2:  # noqa: ASYNC110 (tasks of the loop)
            await asyncio.sleep(0)
    far = next(parcel for parcel in room.carried if parcel.destination == "far.example")
    assert [str(one.address) for one in far.envelope.recipients] == ["a@far.example", "b@far.example"]
    octets = await read(far.letter)
    assert octets.startswith(b"Received: from client.example")  # RFC 5321 §4.4: Return-Path only where it ends
    assert octets.endswith(b"\r\n\r\n" + b"x" * 20 + b"\r\n")
    items = await room.store.queue.items(Wanted())
    assert {(item.letter, item.busy) for item in items} == {(accepted.id, True)}


async def test_who_asked_to_hear_of_success_does_in_the_same_transaction(room: Room) -> None:
    rcpt = Rcpt(Address.parse("full@x.mail"), ("SUCCESS",), "rfc822;full@x.mail")
    await room.send(rcpt)
    (notice,) = await room.mailbox()
    assert b"\r\nAction: delivered\r\n" in notice
    assert b"\r\nOriginal-Recipient: rfc822;full@x.mail" in notice.replace(b"rfc822; ", b"rfc822;")
    assert notice.startswith(b"Return-Path: <>\r\n")


async def test_a_letter_too_big_for_one_mailbox_reaches_the_others_and_its_sender_knows(room: Room) -> None:
    accepted = await room.send("test@x.mail", "full@x.mail", size=2000)
    assert accepted.failures == [None, Smtp.TOO_BIG_FOR_MAILBOX]
    letter, notice = await room.mailbox()
    assert b"x" * 2000 in letter
    assert b"\r\nAction: failed\r\nStatus: 5.2.3\r\n" in notice
    assert b"full@x.mail" in notice


@pytest.mark.parametrize(("sender", "others"), [(None, ["test@x.mail"]), ("test@x.mail", [])])
async def test_where_no_notice_can_help_it_is_refused_as_a_whole(
    room: Room, sender: str | None, others: list[str]
) -> None:
    with pytest.raises(Rejected) as refused:
        await room.send(*others, "full@x.mail", sender=sender, size=2000)
    assert refused.value.reply == Smtp.TOO_BIG_FOR_MAILBOX
    assert await room.mailbox() == []


async def test_a_place_is_given_back_when_the_letter_could_not_be_stored(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a full disk would use up all places for good."""

    async def fail(*arguments: object, **named: object) -> None:
        raise Unavailable(Fault.FULL)

    with monkeypatch.context() as patch:
        patch.setattr(type(room.store.queue), "accept", fail)
        for _ in range(10):
            with pytest.raises(Unavailable):
                await room.send("a@far.example")
    assert room.manager.reserve("far.example")
    room.manager.cancel("far.example")


async def alias(room: Room, address: str, *targets: str) -> None:
    """An address that stands for others."""
    await room.store.put_alias(Alias(address, targets))


async def test_a_letter_to_an_alias_goes_to_all_it_stands_for_once(room: Room) -> None:
    await alias(room, "all@x.mail", "test@x.mail", "some@x.mail", "a@far.example")
    await alias(room, "some@x.mail", "test@x.mail", "all@x.mail", "full@x.mail", "b@far.example", "gone@x.mail")
    accepted = await room.send("all@x.mail", "test@x.mail")
    assert accepted.failures == [None, None]
    assert len(await room.mailbox()) == 1
    items = await room.store.queue.items(Wanted())
    assert [(item.recipient, item.orcpt) for item in items] == [
        ("a@far.example", "rfc822;all@x.mail"),
        ("b@far.example", "rfc822;all@x.mail"),
    ]


async def test_anybody_may_write_to_an_alias_whose_members_are_elsewhere(room: Room) -> None:
    """The administrator said so; it opens no relay for other addresses."""
    await alias(room, "out@x.mail", "a@far.example")
    accepted = await room.send("out@x.mail", sender=None, rights=rights(LOCAL))
    assert accepted.failures == [None]
    with pytest.raises(Rejected) as refused:
        await room.send("out@x.mail", rights=rights())
    assert refused.value.reply == Smtp.AUTH_REQUIRED


async def test_an_alias_that_leads_nowhere_is_nobody(room: Room) -> None:
    await alias(room, "round@x.mail", "about@x.mail", "gone@x.mail")
    await alias(room, "about@x.mail", "round@x.mail")
    with pytest.raises(Rejected) as refused:
        await room.send("round@x.mail")
    assert refused.value.reply == Smtp.NO_SUCH_USER


async def test_who_asked_hears_that_an_alias_was_expanded_and_not_for_whom_it_stands(room: Room) -> None:
    """RFC 3461 §5.2.7.3: expanded, and of the members only what goes wrong."""
    await alias(room, "two@x.mail", "full@x.mail", "a@far.example")
    await room.send(Rcpt(Address.parse("two@x.mail"), ("SUCCESS", "FAILURE"), None))
    (notice,) = await room.mailbox()
    assert b"\r\nAction: expanded\r\n" in notice
    assert b"two@x.mail" in notice
    assert b"full@x.mail" not in notice
    (item,) = await room.store.queue.items(Wanted())
    assert item.notify == ("FAILURE",)


async def test_an_alias_for_one_passes_everything_on(room: Room) -> None:
    await alias(room, "one@x.mail", "a@far.example")
    await room.send(Rcpt(Address.parse("one@x.mail"), ("SUCCESS",), "rfc822;first@x.mail"))
    (item,) = await room.store.queue.items(Wanted())
    assert (item.notify, item.orcpt) == (("SUCCESS",), "rfc822;first@x.mail")
    assert await room.mailbox() == []


async def test_a_member_whose_mailbox_is_full_is_told_under_the_name_of_the_alias(room: Room) -> None:
    await alias(room, "two@x.mail", "full@x.mail", "test@x.mail")
    accepted = await room.send("two@x.mail", size=2000)
    assert accepted.failures == [None]
    _, notice = await room.mailbox()
    assert b"Final-Recipient: rfc822; two@x.mail\r\nAction: failed" in notice.replace(b"rfc822;two", b"rfc822; two")
    assert b"full@x.mail" not in notice
