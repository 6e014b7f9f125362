"""The clock of the machine is set while letters wait: nothing fails for its age, comes early or waits longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.mail.schedule import DAY, HOUR, USUAL
from posthouse.mta.dispatch import FRESH
from posthouse.observe.log import QuietLog
from posthouse.ports.queue import Carried, Item, Parcel, Queued, Result, Settled, Status, Wanted
from posthouse.ports.store import Store
from posthouse.queue.manager import CROWD, LEASE, QueueManager
from posthouse.queue.steady import JUMP, SteadyClock
from posthouse.store import open_store
from tests.contract.conftest import StillClock
from tests.unit.test_dispatch import Stage


class JumpingClock(StillClock):
    """Wall time that can be set, beside time that only passes."""

    ahead = 0.0

    def now(self) -> float:
        """Wall time, wrong by `ahead`."""
        return self.wall + self.ahead


@dataclass(slots=True)
class Office:
    """A store, its manager and what the manager tried, with a destination that never takes anything."""

    store: Store
    clock: JumpingClock
    steady: SteadyClock
    manager: QueueManager
    seen: list[Item] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def put(self, recipient: str, after: float, age: float = 0.0) -> None:
        """A letter that waits."""
        draft = self.store.draft()
        await draft.write(b"Subject: x\r\n\r\ny\r\n")
        now = self.steady.now()
        queued = [Queued(recipient.rpartition("@")[2], recipient, b"", now - age, now + after)]
        await self.store.queue.accept(
            draft, [], queued, letter="L", envelope=Envelope(Address.parse("a@x.mail")), until=now + LEASE
        )

    async def item(self) -> Item:
        """The one that waits."""
        (item,) = await self.store.queue.items(Wanted())
        return item

    async def until(self, condition: object) -> None:
        """Waits for the manager to have done something."""
        assert callable(condition)
        async with asyncio.timeout(20):
            while not await condition():  # noqa: ASYNC110 (another thread's work)
                await asyncio.sleep(0.01)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """It looks at the clock every hundredth of a second."""
    clock = JumpingClock()
    steady = SteadyClock(clock)
    store = open_store(tmp_path / "data", serve=True, clock=clock)

    async def carry(parcel: Parcel, known: Result | None) -> Carried:
        made.seen += parcel.items
        await made.gate.wait()
        due = USUAL.next(parcel.items[0].accepted, steady.now())
        return Carried([Settled(item.id, due) for item in parcel.items])

    made = Office(store, clock, steady, QueueManager(store.queue, carry, steady, QuietLog(), poll=0.01))
    yield made
    made.gate.set()
    await made.manager.stop(5)
    await store.close()


@pytest.mark.parametrize("jump", [400 * DAY, -1 * DAY])
async def test_ages_and_waits_survive_a_jump(office: Office, jump: float) -> None:
    """Would catch letters given up because the clock was set ahead, and letters that wait a day for it was set back."""
    await office.put("a@far.example", after=900, age=HOUR)
    await office.manager.start()
    office.clock.ahead = jump

    async def moved() -> bool:
        return abs((await office.item()).accepted - (office.clock.now() - HOUR)) < 1

    await office.until(moved)
    item = await office.item()
    assert abs(item.due - office.clock.now() - 900) < 1
    assert office.seen == []
    office.clock.wall += 901
    office.gate.set()

    async def tried() -> bool:
        return (await office.item()).attempts == 1

    await office.until(tried)
    assert office.clock.now() < (await office.item()).due < office.clock.now() + HOUR


async def test_what_is_under_way_during_a_jump_is_not_given_up(office: Office) -> None:
    """The attempt began before the jump and ends after it: its letter must not be 400 days old by then."""
    await office.put("a@far.example", after=0)
    await office.manager.start()

    async def begun() -> bool:
        return bool(office.seen)

    await office.until(begun)
    office.clock.ahead = 400 * DAY

    async def moved() -> bool:
        return (await office.item()).accepted > office.clock.now() - HOUR

    await office.until(moved)
    office.gate.set()

    async def settled() -> bool:
        return (await office.item()).attempts == 1

    await office.until(settled)
    item = await office.item()
    assert office.clock.now() - 1 < item.due < office.clock.now() + HOUR


async def test_a_start_with_a_clock_that_was_set_back(office: Office) -> None:
    """What was accepted tomorrow is tried now, and once."""
    await office.put("a@far.example", after=900)
    office.clock.wall -= DAY
    office.gate.set()
    await office.manager.start()

    async def tried() -> bool:
        return (await office.item()).attempts == 1

    await office.until(tried)
    item = await office.item()
    assert item.accepted <= office.clock.now() < item.due < office.clock.now() + HOUR


async def test_a_crowd_that_is_due_at_the_start_is_spread(office: Office) -> None:
    """Would catch all destinations being tried in the same instant after a long sleep."""
    for number in range(CROWD + 30):
        await office.put(f"a@h{number}.example", after=0)
    office.clock.wall += 10
    await office.manager.start()

    async def begun() -> bool:
        return len(office.seen) >= CROWD

    await office.until(begun)
    assert len(office.seen) == CROWD
    office.clock.wall += 0.3
    office.gate.set()

    async def further() -> bool:
        return len(office.seen) > CROWD

    await office.until(further)
    office.clock.wall += 2  # no second attempt falls into it

    async def everybody() -> bool:
        return len(office.seen) == CROWD + 30

    await office.until(everybody)


def test_small_steps_pass_through_and_large_ones_wait() -> None:
    clock = JumpingClock()
    steady = SteadyClock(clock)
    clock.ahead = JUMP - 1
    assert (steady.now(), steady.jumped()) == (clock.now(), 0.0)
    clock.ahead = 3 * JUMP
    assert steady.now() == clock.wall + JUMP - 1
    assert steady.jumped() == 2 * JUMP + 1
    steady.follow()
    assert (steady.now(), steady.jumped()) == (clock.now(), 0.0)


async def test_the_first_attempt_after_a_start_gives_nothing_up() -> None:
    """The clock may be wrong, or our own line just back: an old letter has a second attempt an hour later."""
    stage = Stage([Result(Status.DEFERRED, "451 4.2.1 not now", "4.2.1", "mail")])
    assert [one.due for one in (await stage.carry(age=400 * DAY)).settled] == [None]
    stage.since = stage.clock.now() - 5
    carried = await stage.carry(age=400 * DAY)
    assert [one.due for one in carried.settled] == [stage.clock.now() + FRESH]
    assert carried.notices == []
