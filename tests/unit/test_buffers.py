"""What all connections hold together: counted, given back, and bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from posthouse.mail.address import Address
from posthouse.mail.budget import FREE, Budget
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.reply import Rejected, Smtp
from posthouse.mta.reception import FREE_RECIPIENTS, Client, Reception
from posthouse.net.buffers import INPUT_HIGH, STALE, Buffers
from posthouse.net.encryption import Encryption
from posthouse.net.system import SystemRandom
from posthouse.net.wire import Wire
from posthouse.observe.log import QuietLog
from posthouse.ports.store import Delivery, Store
from posthouse.smtp.commands import Mail, Rcpt
from posthouse.store import Options, open_store
from tests.smtp_stage import MemoryMail, Seeded, StillClock
from tests.transcript_runner import MemoryTransport


class Unread(MemoryTransport):
    """A transport whose peer reads nothing, or so much that `left` octets wait."""

    left = 0

    def get_write_buffer_size(self) -> int:
        return self.left


def opened(buffers: Buffers) -> tuple[Wire, Unread]:
    wire, transport = Wire(buffers), Unread(("192.0.2.7", 4000))
    wire.connection_made(cast(asyncio.Transport, transport))
    return wire, transport


def come(wire: Wire, octets: int) -> None:
    """So many octets arrive, as far as the buffer reaches and the socket is read."""
    while octets > 0 and not wire._reading_paused:
        size = min(octets, len(wire.get_buffer(-1)))
        wire.buffer_updated(size)
        octets -= size


async def test_what_most_connections_hold_is_not_counted() -> None:
    buffers = Buffers()
    wire, _ = opened(buffers)
    come(wire, FREE)
    assert (buffers.budget.used, wire.unread) == (0, FREE)


@pytest.mark.parametrize("end", ["read", "closed", "lost", "aborted"])
async def test_what_is_held_is_counted_and_given_back(end: str) -> None:
    """Would catch octets that stay counted when their connection is gone: the server would become slow for ever."""
    buffers = Buffers()
    wire, transport = opened(buffers)
    come(wire, 300_000)
    transport.left = 50_000
    wire.pause_writing()
    assert buffers.budget.used == wire.unread + 50_000 > INPUT_HIGH
    if end == "read":
        wire.resume_writing()
        for _ in range(2):  # what was taken is the core's, until it asks for more
            wire._take()
    elif end == "closed":
        wire.close()
    else:
        wire.connection_lost(None)
        wire.close()
    assert buffers.budget.used == 0


async def test_what_tls_keeps_of_a_burst_is_counted_until_the_end() -> None:
    """The event loop and OpenSSL keep what a large read took; what leaves takes nothing of the kind."""
    buffers = Buffers()
    wire, transport = opened(buffers)
    wire.encryption = Encryption("TLSv1.3", "any")
    transport.left = 50_000
    wire.pause_writing()
    assert buffers.budget.used == 50_000
    wire.resume_writing()
    assert buffers.budget.used == 0
    come(wire, 20_000)
    for _ in range(2):
        wire._take()
    assert buffers.budget.used == 40_000
    wire.close()
    assert buffers.budget.used == 0


async def test_when_memory_is_short_everybody_is_read_in_small_pieces() -> None:
    told: list[int] = []
    buffers = Buffers(INPUT_HIGH, told.append)
    greedy, _ = opened(buffers)
    other, _ = opened(buffers)
    come(greedy, 300_000)
    assert (told, buffers.ample) == ([0], False)
    come(other, 300_000)
    assert other.unread <= 2 * FREE, "its own few octets, and no more"
    other._take()
    come(other, 300_000)
    assert 0 < other.unread <= 2 * FREE, "it goes on"
    greedy.close()
    other._take()
    come(other, 300_000)
    assert other.unread >= INPUT_HIGH, "and at full speed when there is memory again"


class Held:
    """A connection that holds so much."""

    def __init__(self, buffers: Buffers, octets: int, *, waiting: bool = True) -> None:
        self.buffers, self.octets, self.waiting, self.dropped = buffers, octets, waiting, False
        buffers.hold(self, octets, progress=False)

    def weigh(self) -> None:
        self.buffers.hold(self, self.octets, progress=False)

    def abort(self) -> None:
        self.dropped = True
        self.octets = 0
        self.weigh()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    return now


async def test_the_greediest_that_do_not_go_on_are_dropped(clock: list[float]) -> None:
    """And nobody else: not who is small, not who goes on, not who waits for us."""
    told: list[int] = []
    buffers = Buffers(1000, told.append)
    small, ours, slow, greedy = (
        Held(buffers, octets, waiting=waiting)
        for octets, waiting in ((100, True), (300, False), (250, True), (400, True))
    )
    clock[0] += STALE - 1
    buffers._look()
    assert not greedy.dropped, "everybody has some time"
    slow.octets = 180  # its peer reads, slowly
    clock[0] += 1
    buffers._look()
    assert (greedy.dropped, small.dropped, slow.dropped, ours.dropped) == (True, False, False, False)
    assert told == [0, 1]
    assert buffers.ample and buffers.budget.used == 580


async def test_twice_too_much_spares_nobody_who_stands_still(clock: list[float]) -> None:
    """The bound holds also against those who seem to go on."""
    buffers = Buffers(1000)
    crowd = [Held(buffers, 300, waiting=False) for _ in range(9)]
    clock[0] += 1
    fresh = Held(buffers, 300)
    clock[0] += 1
    buffers._look()
    assert [one.dropped for one in crowd] == [True] * 8 + [False], "the longest still first"
    assert not fresh.dropped


async def test_drafts_that_hold_too_much_go_to_the_disk_and_stay_whole(tmp_path: Path) -> None:
    """Would catch a letter that is damaged by being written early, and a count that is not given back."""
    budget = Budget(200_000)
    store = open_store(tmp_path, serve=True, clock=StillClock(), random=SystemRandom(), options=Options(budget=budget))
    await store.add_domain("x.mail")
    account = await store.add_account("test@x.mail", "", 0)
    letter = b"Subject: x\r\n\r\n" + b"".join(b"%07d\r\n" % number for number in range(11_000))
    drafts = [store.draft() for _ in range(20)]
    for start in range(0, len(letter), 5000):
        for draft in drafts:
            await draft.write(letter[start : start + 5000])
        assert budget.used < 200_000 + 20 * 3 * FREE
    assert budget.used > 0
    for draft in drafts[:19]:
        await store.deliver(draft, [Delivery(account.id, b"")], letter="L")
    await drafts[19].discard()
    assert budget.used == 0
    maildrop = await store.maildrop(account.id)
    letters = await store.fetch(maildrop.mailbox, [row[0] for row in maildrop.rows])
    assert len(letters) == 19
    for one in letters:
        assert one is not None
        assert b"".join([piece async for piece in one.chunks()]) == letter
    await store.close()


async def test_recipients_are_counted_and_put_off_when_they_are_too_many() -> None:
    """451 for now, beyond a few of each letter; and given back with the transaction."""
    mail, budget = MemoryMail(), Budget(3 * 1024)
    mail.add("test@x.mail")
    room = Reception(
        cast(Store, mail), mail, StillClock(), Seeded(), QuietLog(), host="x.mail", limits=SmtpLimits(), budget=budget
    )
    one, two = (room.begin(Mail(None), Client("192.0.2.7", "smtp")) for _ in range(2))
    rcpt = Rcpt(Address.parse("test@x.mail"))
    for _ in range(FREE_RECIPIENTS + 4):
        await room.recipient(one, rcpt)
    for _ in range(FREE_RECIPIENTS):
        await room.recipient(two, rcpt)
    for transaction in (one, two):
        with pytest.raises(Rejected) as refused:
            await room.recipient(transaction, rcpt)
        assert refused.value.reply == Smtp.BUSY
    await one.discard()
    assert budget.used == 0
    await room.recipient(two, rcpt)
