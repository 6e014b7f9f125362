"""What every engine owes to the queue (ports.queue.QueueStore)."""

from __future__ import annotations

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.ports.queue import Claim, Notice, Parcel, Queued, Settled, State, Taken, Wanted
from posthouse.ports.store import Delivery
from tests.contract.conftest import House, read

PREFIX = b"Received: from here\r\n"
SENDER = Address.parse("test@x.mail")


def waiting(recipient: str, house: House, *, now: bool = False, after: float = 0.0) -> Queued:
    """A recipient elsewhere; its domain is the destination."""
    destination = recipient.rpartition("@")[2]
    start = house.clock.now()
    return Queued(destination, recipient, PREFIX, start, start + after, ("FAILURE",), "rfc822;o@x.mail", now)


async def accept(
    house: House,
    *queued: Queued,
    content: bytes = b"Subject: hi\r\n\r\nText\r\n",
    accounts: tuple[int, ...] = (),
    notices: tuple[Notice, ...] = (),
    letter: str = "L1",
    envelope: Envelope | None = None,
) -> Taken:
    """Accepts one letter."""
    draft = house.store.draft()
    await draft.write(content)
    envelope = envelope or Envelope(SENDER, ret="HDRS", envid="e1")
    deliveries = [Delivery(account, PREFIX, "test@x.mail") for account in accounts]
    until = house.clock.now() + 600
    return await house.store.queue.accept(
        draft, deliveries, queued, letter=letter, envelope=envelope, notices=notices, until=until
    )


async def claim(house: House, destination: str, limit: int = 100) -> Claim:
    """Takes what is due."""
    now = house.clock.now()
    return await house.store.queue.claim(destination, now, now + 600, limit)


def names(parcel: Parcel) -> list[str]:
    """The recipients of a parcel."""
    return [str(recipient.address) for recipient in parcel.envelope.recipients]


async def test_one_letter_lies_in_a_mailbox_and_waits_for_others(house: House) -> None:
    account = await house.account()
    taken = await accept(house, waiting("a@far.example", house), accounts=(account.id,))
    assert [one.failure for one in taken.delivered] == [None]
    assert taken.parcels == []
    (item,) = await house.store.queue.items(Wanted())
    assert (item.letter, item.sender, item.recipient, item.destination, item.state) == (
        "L1",
        "test@x.mail",
        "a@far.example",
        "far.example",
        State.DUE,
    )
    assert item.attempts == 0
    assert item.notify == ("FAILURE",)
    assert item.orcpt == "rfc822;o@x.mail"
    assert not item.busy
    assert await house.damages() == []


async def test_what_is_carried_on_at_once_is_leased_with_the_acceptance(house: House) -> None:
    taken = await accept(
        house,
        waiting("a@far.example", house, now=True),
        waiting("b@far.example", house, now=True),
        waiting("c@near.example", house),
    )
    (parcel,) = taken.parcels
    assert names(parcel) == ["a@far.example", "b@far.example"]
    assert parcel.id == "L1"
    assert parcel.envelope.sender == SENDER
    assert parcel.envelope.envid == "e1"
    assert await read(parcel.letter) == PREFIX + b"Subject: hi\r\n\r\nText\r\n"
    assert [item.busy for item in await house.store.queue.items(Wanted())] == [True, True, False]
    assert (await claim(house, "far.example")).parcels == []
    stored = [item.id for item in await house.store.queue.items(Wanted(destination="far.example"))]
    assert [item.id for item in parcel.items] == stored


async def test_a_claim_takes_what_is_due_once(house: House) -> None:
    await accept(house, waiting("a@far.example", house), waiting("b@far.example", house))
    await accept(house, waiting("c@far.example", house, after=60), letter="L2")
    await accept(house, waiting("d@else.example", house), letter="L3")
    first = await claim(house, "far.example")
    assert [names(parcel) for parcel in first.parcels] == [["a@far.example", "b@far.example"]]
    assert await read(first.parcels[0].letter) == PREFIX + b"Subject: hi\r\n\r\nText\r\n"
    assert first.due == house.clock.now() + 60
    assert (await claim(house, "far.example")).parcels == []
    house.clock.wall += 60
    second = await claim(house, "far.example")
    assert [names(parcel) for parcel in second.parcels] == [["c@far.example"]]


async def test_the_longest_due_comes_first_and_the_limit_holds(house: House) -> None:
    for number in range(5):
        await accept(house, waiting(f"p{number}@far.example", house, after=5 - number), letter=f"L{number}")
    house.clock.wall += 10
    taken = await claim(house, "far.example", limit=2)
    assert sorted(name for parcel in taken.parcels for name in names(parcel)) == ["p3@far.example", "p4@far.example"]


async def test_all_recipients_of_a_letter_are_claimed_together(house: House) -> None:
    """However small the limit: they leave in one transaction."""
    await accept(house, *(waiting(f"p{number}@far.example", house) for number in range(50)))
    await accept(house, waiting("late@far.example", house, after=1), letter="L2")
    house.clock.wall += 10
    taken = await claim(house, "far.example", limit=1)
    assert [len(parcel.items) for parcel in taken.parcels] == [50]
    assert [len(parcel.items) for parcel in (await claim(house, "far.example", limit=1)).parcels] == [1]


async def test_a_lease_ends_by_itself_and_can_be_renewed(house: House) -> None:
    await accept(house, waiting("a@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    house.clock.wall += 500
    await house.store.queue.renew([item.id for item in parcel.items], house.clock.now() + 600)
    house.clock.wall += 500
    assert (await claim(house, "far.example")).parcels == []
    house.clock.wall += 101
    assert len((await claim(house, "far.example")).parcels) == 1


async def test_leases_are_freed_at_the_start(house: House) -> None:
    await accept(house, waiting("a@far.example", house, now=True))
    await house.reopen()
    assert await house.store.queue.free_leases() == 1
    (parcel,) = (await claim(house, "far.example")).parcels
    assert names(parcel) == ["a@far.example"]
    assert parcel.envelope.ret == "HDRS"


async def test_what_was_settled_is_gone_with_its_content_or_waits_on(house: House) -> None:
    await accept(house, waiting("a@far.example", house), waiting("b@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    first, second = parcel.items
    later = house.clock.now() + 300
    await house.store.queue.settle(
        [Settled(first.id, None), Settled(second.id, later, told=True, reply="450 no", status="4.2.1", host="mx")]
    )
    (item,) = await house.store.queue.items(Wanted())
    assert (item.recipient, item.due, item.attempts, item.told, item.busy) == ("b@far.example", later, 1, True, False)
    assert (item.reply, item.status, item.host, item.tried) == ("450 no", "4.2.1", "mx", house.clock.now())
    (summary,) = await house.store.queue.waiting()
    assert (summary.destination, summary.items, summary.due, summary.dead) == ("far.example", 1, later, 0)
    house.clock.wall = later
    (again,) = (await claim(house, "far.example")).parcels
    await house.store.queue.settle([Settled(again.items[0].id, None)])
    assert await house.store.queue.items(Wanted()) == []
    assert await house.damages() == []


async def test_a_notice_comes_with_what_it_tells_about(house: House) -> None:
    account = await house.account()
    await accept(house, waiting("a@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    content = b"Subject: Failed delivery\r\n\r\nSorry"
    notice = Notice("N1", Envelope(None), content, [Delivery(account.id, b"Return-Path: <>\r\n", "test@x.mail")])
    remote = Notice("N2", Envelope(None), content, [], [waiting("b@near.example", house)])
    results = await house.store.queue.settle([Settled(parcel.items[0].id, None)], [notice, remote])
    assert [[one.failure for one in result] for result in results] == [[None], []]
    maildrop = await house.store.maildrop(account.inbox)
    assert await house.octets(account.inbox, maildrop.rows[0][0]) == b"Return-Path: <>\r\n" + content + b"\r\n"
    (item,) = await house.store.queue.items(Wanted())
    assert (item.letter, item.sender, item.recipient) == ("N2", "", "b@near.example")
    assert await house.damages() == []


async def test_a_notice_for_a_mailbox_that_is_gone_stops_nothing(house: House) -> None:
    await accept(house, waiting("a@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    notice = Notice("N1", Envelope(None), b"x\r\n", [Delivery(4711, b"")])
    results = await house.store.queue.settle([Settled(parcel.items[0].id, None)], [notice])
    assert [one.failure for one in results[0]] == ["missing"]
    assert await house.store.queue.items(Wanted()) == []


async def test_notices_can_come_with_the_acceptance(house: House) -> None:
    account = await house.account()
    notice = Notice("N1", Envelope(None), b"told\r\n", [Delivery(account.id, b"")])
    await accept(house, accounts=(account.id,), notices=(notice,))
    maildrop = await house.store.maildrop(account.inbox)
    assert [row[0] for row in maildrop.rows] == [1, 2]
    assert await house.octets(account.inbox, 2) == b"told\r\n"
    assert await house.damages() == []


async def test_a_large_letter_waits_in_its_file(house: House) -> None:
    content = b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n" * 200_000
    taken = await accept(house, waiting("a@far.example", house, now=True), content=content)
    assert await read(taken.parcels[0].letter) == PREFIX + content
    await house.reopen()
    await house.store.queue.free_leases()
    (parcel,) = (await claim(house, "far.example")).parcels
    assert await read(parcel.letter) == PREFIX + content
    await house.store.queue.settle([Settled(parcel.items[0].id, None)])
    assert await house.damages() == []


async def test_many_large_rows_are_claimed_together(house: House) -> None:
    """More octets than are read on the event loop's thread."""
    content = b"y" * 100_000 + b"\r\n"
    for number in range(15):
        await accept(house, waiting(f"p{number}@far.example", house), content=content, letter=f"L{number}")
    parcels = (await claim(house, "far.example")).parcels
    assert len(parcels) == 15
    for parcel in parcels:
        assert await read(parcel.letter) == PREFIX + content


async def test_people_hold_release_hasten_and_drop(house: House) -> None:
    queue = house.store.queue
    await accept(house, waiting("a@far.example", house, after=100), waiting("B@Near.example", house, after=100))
    before = queue.mark()
    assert await queue.hold(Wanted(domain="near.example")) == 1
    assert queue.mark() != before
    assert [item.state for item in await queue.items(Wanted())] == [State.DUE, State.HELD]
    assert [one.destination for one in await queue.waiting()] == ["far.example"]
    assert await queue.hasten(Wanted(sender="TEST@x.mail")) == 1
    assert [names(parcel) for parcel in (await claim(house, "far.example")).parcels] == [["a@far.example"]]
    assert (await claim(house, "Near.example")).parcels == []
    assert await queue.release(Wanted(recipient="b@near.example")) == 1
    assert len((await claim(house, "Near.example")).parcels) == 1
    assert await queue.count(Wanted(letter="L1")) == 2
    assert await queue.drop(Wanted(ids=tuple(item.id for item in await queue.items(Wanted())))) == 2
    assert await queue.items(Wanted()) == []
    assert await house.damages() == []


async def test_what_is_held_under_way_stays_held_after_its_attempt(house: House) -> None:
    queue = house.store.queue
    await accept(house, waiting("a@far.example", house, now=True))
    (item,) = await queue.items(Wanted())
    assert await queue.hold(Wanted()) == 1
    await queue.settle([Settled(item.id, house.clock.now() + 60, reply="450 no")])
    (item,) = await queue.items(Wanted(state=State.HELD))
    assert item.attempts == 1
    house.clock.wall += 100
    assert (await claim(house, "far.example")).parcels == []


async def test_an_item_can_be_looked_at(house: House) -> None:
    await accept(house, waiting("a@far.example", house))
    (item,) = await house.store.queue.items(Wanted())
    parcel = await house.store.queue.peek(item.id)
    assert parcel is not None
    assert await read(parcel.letter) == PREFIX + b"Subject: hi\r\n\r\nText\r\n"
    assert await house.store.queue.peek(item.id + 1) is None


async def test_another_process_changes_the_queue(house: House) -> None:
    """A command beside a server: the server's mark shows it."""
    await accept(house, waiting("a@far.example", house, after=100))
    before = house.store.queue.mark()
    beside = house.open(serve=False)
    assert await beside.queue.hasten(Wanted()) == 1
    house.opened.pop()
    await beside.close()
    assert house.store.queue.mark() != before
    assert len((await claim(house, "far.example")).parcels) == 1


async def test_dead_items_are_told_apart(house: House) -> None:
    queue = house.store.queue
    await accept(house, waiting("a@far.example", house), waiting("b@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    later = house.clock.now() + 600
    first, second = (item.id for item in parcel.items)
    await queue.settle([Settled(first, later, dead=True), Settled(second, later)])
    assert (await queue.waiting())[0].dead == 1
    assert await queue.hasten(Wanted(destination="far.example", dead=True)) == 1
    (again,) = (await claim(house, "far.example")).parcels
    assert names(again) == ["a@far.example"]


async def test_an_item_can_wait_for_another_destination(house: House) -> None:
    """Its route was changed meanwhile."""
    queue = house.store.queue
    await accept(house, waiting("a@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    await queue.settle([Settled(parcel.items[0].id, house.clock.now(), destination="*")])
    assert [(one.destination, one.items) for one in await queue.waiting()] == [("*", 1)]
    assert len((await claim(house, "*")).parcels) == 1


async def test_all_times_move_together(house: House) -> None:
    """The wall clock of a running server was set."""
    queue = house.store.queue
    now = house.clock.now()
    await accept(house, waiting("a@far.example", house))
    (parcel,) = (await claim(house, "far.example")).parcels
    await queue.settle([Settled(parcel.items[0].id, now + 600)])
    assert await queue.move_times(-86400) == 1
    (item,) = await queue.items(Wanted())
    assert (item.accepted, item.due, item.tried) == (now - 86400, now - 85800, now - 86400)


async def test_what_lies_in_the_future_is_brought_back(house: House) -> None:
    """The clock was set back while no server ran."""
    queue = house.store.queue
    now = house.clock.now()
    await accept(house, waiting("a@far.example", house))
    assert await queue.mend_times(now) == 0
    assert await queue.mend_times(now - 86400) == 1
    (item,) = await queue.items(Wanted())
    assert (item.accepted, item.due) == (now - 86400, now - 86400)


async def test_its_numbers_grow_whatever_the_clock_does(house: House) -> None:
    """Would catch a number that is given twice: a result would settle somebody else's letter."""
    numbers = []
    for days in (400, -401, 1):
        house.clock.wall += days * 86_400
        await accept(house, waiting("a@far.example", house))
        (item,) = await house.store.queue.items(Wanted())
        numbers.append(item.id)
        assert await house.store.queue.drop(Wanted(ids=(item.id,))) == 1
    assert numbers == sorted(set(numbers))
