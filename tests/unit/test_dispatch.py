"""Dispatch: what follows from an attempt, and who is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.reply import Fault, Unavailable
from posthouse.mail.schedule import CLASSIC, DAY, HOUR, USUAL, Schedule
from posthouse.mta.bounce import Notices
from posthouse.mta.dispatch import UNREADABLE, Courier, Dispatcher
from posthouse.observe.log import QuietLog
from posthouse.ports.directory import Directory
from posthouse.ports.queue import Carried, Item, Notice, Parcel, Result, State, Status
from tests.smtp_stage import MemoryMail, Seeded, StillClock

SENT = Result(Status.RELAYED, "250 2.0.0 ok", "2.0.0", "end of data", "mx", "192.0.2.25", said=True)
NOT_NOW = Result(Status.DEFERRED, "450 4.2.1 not now", "4.2.1", "rcpt", "mx", "192.0.2.25", said=True)
NEVER = Result(Status.FAILED, "550 5.1.1 unknown", "5.1.1", "rcpt", "mx", "192.0.2.25", said=True)
DEAD = Result(Status.DEFERRED, "451 4.4.1 nobody answers", "4.4.1", "connect", dead=True)
UNSURE = Result(Status.UNCERTAIN, "451 4.4.2 lost", "4.4.2", "end of data", "mx", "192.0.2.25")
START = 1_000_000.0


@dataclass(slots=True)
class Text:
    """A letter."""

    octets: bytes | None = b"Subject: hello\r\nMessage-ID: <m@x.mail>\r\n\r\ntext\r\n"
    prefix: bytes = b""

    @property
    def size(self) -> int:
        """Its octets."""
        return len(self.octets or b"")

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it."""
        if self.octets is None:
            raise Unavailable(Fault.STORAGE)
        yield self.octets


@dataclass(slots=True)
class Elsewhere:
    """Every domain is its own destination."""

    own: Schedule | None = None
    moved: dict[str, str] = field(default_factory=dict)

    def destination(self, address: Address) -> str:
        """The domain, if the test did not move it."""
        return self.moved.get(str(address), address.domain)

    def schedule(self, destination: str) -> Schedule | None:
        """The same for all."""
        return self.own

    def is_ours(self, address: Address) -> bool:
        """Nobody else's mail is taken."""
        return False

    is_refused = is_ours


@dataclass(slots=True)
class Stage:
    """A dispatcher whose attempts end as the test says."""

    results: list[Result]
    schedule: Schedule = USUAL
    router: Elsewhere = field(default_factory=Elsewhere)
    clock: StillClock = field(default_factory=StillClock)
    mail: MemoryMail = field(default_factory=MemoryMail)
    since: float = float("-inf")
    attempts: int = 0
    seen: list[tuple[str, list[str]]] = field(default_factory=list)

    async def deliver(self, parcel: Parcel) -> list[Result]:
        """One attempt."""
        self.attempts += 1
        self.seen.append((parcel.destination, [str(one.address) for one in parcel.envelope.recipients]))
        return [self.results[item.id - 9] for item in parcel.items]

    async def carry(
        self,
        *notify: str,
        sender: str | None = "test@x.mail",
        age: float = 0.0,
        told: bool = False,
        known: Result | None = None,
        letter: Text | None = None,
    ) -> Carried:
        """Carries one letter for as many recipients as there are results."""
        self.mail.add("test@x.mail")
        start = self.clock.now() - age
        items = [
            Item(
                9 + n,
                "L1",
                sender or "",
                f"p{n}@far.example",
                "far.example",
                50,
                State.DUE,
                0,
                start,
                start,
                notify,
                f"rfc822;o{n}@far.example",
                told,
            )
            for n in range(len(self.results))
        ]
        envelope = Envelope(Address.parse(sender) if sender else None)
        envelope.recipients = [Recipient(Address.parse(item.recipient), notify, item.orcpt) for item in items]
        notices = Notices("mx.x.mail", Address.parse("postmaster@x.mail"), "en", self.clock, Seeded())
        courier = Courier(notices, cast(Directory, self.mail), self.router, self.clock)
        dispatcher = Dispatcher(
            self.deliver,
            courier,
            self.router,
            self.schedule,
            self.clock,
            Seeded(),
            QuietLog(),
            since=lambda: self.since,
        )
        return await dispatcher.carry(Parcel("far.example", envelope, items, letter or Text()), known)


def subject(notice: Notice) -> str:
    """What a notice is about."""
    line = next(line for line in notice.content.split(b"\r\n") if line.startswith(b"Subject: "))
    return line.removeprefix(b"Subject: ").decode()


async def test_what_was_taken_is_over_and_nobody_hears_of_it() -> None:
    carried = await Stage([SENT]).carry()
    assert [(one.item, one.due) for one in carried.settled] == [(9, None)]
    assert carried.notices == []
    assert carried.alive
    assert carried.dead is None


@pytest.mark.parametrize(("dsn", "count"), [(False, 1), (True, 0)])
async def test_who_asked_for_success_hears_of_it_from_us_or_from_the_next_host(dsn: bool, count: int) -> None:
    """RFC 3461 §5.2.2: relayed to a host without DSN is told here; else the host has promised to tell."""
    carried = await Stage([replace(SENT, dsn=dsn)]).carry("SUCCESS")
    assert len(carried.notices) == count
    assert all(b"Action: relayed" in notice.content for notice in carried.notices)


async def test_a_failure_ends_it_with_a_notice_in_the_senders_mailbox() -> None:
    stage = Stage([NEVER, SENT, NEVER])
    carried = await stage.carry()
    assert [one.due for one in carried.settled] == [None, None, None]
    (notice,) = carried.notices
    assert subject(notice) == "Failed delivery"
    assert notice.content.count(b"\r\nAction: failed\r\n") == 2
    assert b"Original-Recipient: rfc822;o2@far.example" in notice.content.replace(b"rfc822; ", b"rfc822;")
    assert notice.envelope.sender is None
    (delivery,) = notice.deliveries
    assert delivery.account == stage.mail.accounts["test@x.mail"].id
    assert delivery.prefix == b"Return-Path: <>\r\n"
    assert notice.queued == []


async def test_a_sender_elsewhere_gets_the_notice_by_the_queue() -> None:
    stage = Stage([NEVER])
    carried = await stage.carry(sender="anna@else.example")
    (notice,) = carried.notices
    assert notice.deliveries == []
    (queued,) = notice.queued
    assert (queued.destination, queued.recipient, queued.due) == (
        "else.example",
        "anna@else.example",
        stage.clock.now(),
    )


@pytest.mark.parametrize(
    ("sender", "notify"),
    [(None, ()), ("gone@x.mail", ()), ("test@x.mail", ("NEVER",)), ("test@x.mail", ("SUCCESS", "DELAY"))],
)
async def test_nobody_is_told_who_cannot_or_does_not_want_to_be(sender: str | None, notify: tuple[str, ...]) -> None:
    """A null reverse-path above all (RFC 5321 §4.5.5): two servers would tell each other for ever."""
    carried = await Stage([NEVER]).carry(*notify, sender=sender)
    assert carried.notices == []
    assert carried.settled[0].due is None


async def test_a_delay_is_told_once_and_only_after_a_while() -> None:
    early = await Stage([NOT_NOW]).carry(age=HOUR)
    assert early.notices == []
    assert early.settled[0].due is not None
    assert not early.settled[0].told
    assert (early.settled[0].reply, early.settled[0].host) == ("450 4.2.1 not now", "mx")
    late = await Stage([NOT_NOW]).carry(age=4 * HOUR)
    assert [subject(notice) for notice in late.notices] == ["Failed delivery (will be retried)"]
    assert late.settled[0].told
    again = await Stage([NOT_NOW]).carry(age=7 * HOUR, told=True)
    assert again.notices == []
    assert again.settled[0].told
    assert (await Stage([NOT_NOW]).carry("FAILURE", age=5 * HOUR)).notices == []


async def test_classic_tells_of_a_delay_at_once_and_names_the_dates() -> None:
    stage = Stage([NOT_NOW], schedule=CLASSIC)
    carried = await stage.carry()
    (notice,) = carried.notices
    assert subject(notice) == "Failed delivery (will be retried)"
    assert b"Will-Retry-Until:" in notice.content
    due = carried.settled[0].due
    assert due is not None
    assert HOUR <= due - stage.clock.now() <= 1.1 * HOUR


async def test_a_route_has_a_timetable_of_its_own() -> None:
    stage = Stage([NOT_NOW], router=Elsewhere(CLASSIC))
    due = (await stage.carry()).settled[0].due
    assert due is not None
    assert due - stage.clock.now() >= HOUR


async def test_after_its_lifetime_a_letter_is_given_up_with_the_last_answer() -> None:
    carried = await Stage([NOT_NOW]).carry(age=4 * DAY + 1, told=True)
    assert carried.settled[0].due is None
    (notice,) = carried.notices
    assert b"\r\nAction: failed\r\nStatus: 4.2.1\r\n" in notice.content


async def test_a_dead_destination_is_reported_and_not_tried_again_for_others() -> None:
    stage = Stage([DEAD])
    carried = await stage.carry()
    assert carried.dead is DEAD
    assert not carried.alive
    assert carried.settled[0].dead
    told = await stage.carry(known=DEAD)
    assert stage.attempts == 1
    assert told.settled[0].due is not None
    assert told.dead is DEAD


async def test_what_may_have_been_taken_is_tried_again() -> None:
    """RFC 1047: better twice than never."""
    carried = await Stage([UNSURE]).carry()
    assert carried.settled[0].due is not None
    assert carried.alive


async def test_a_letter_that_cannot_be_read_for_its_notice_ends_later_but_is_never_sent_twice() -> None:
    stage = Stage([NEVER, SENT])
    carried = await stage.carry("SUCCESS", "FAILURE", letter=Text(None))
    assert [one.due for one in carried.settled] == [stage.clock.now() + UNREADABLE, None]
    assert carried.notices == []


async def test_routes_that_were_changed_meanwhile_hold() -> None:
    """Letters that wait for a smarthost leave by the new one, or by MX, once the route is another."""
    stage = Stage([NOT_NOW, SENT, NOT_NOW], router=Elsewhere(moved={"p1@far.example": "new", "p2@far.example": "*"}))
    carried = await stage.carry(known=DEAD)
    assert stage.seen == [
        ("far.example", ["p0@far.example"]),
        ("new", ["p1@far.example"]),
        ("*", ["p2@far.example"]),
    ]
    assert [(one.destination, one.due is None) for one in carried.settled] == [
        ("far.example", False),
        ("new", True),
        ("*", False),
    ]
    assert carried.dead is None
    assert not carried.alive
