"""The manager of the queue, on a real store, with attempts that the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.mail.reply import Fault, Unavailable
from posthouse.observe.log import QuietLog
from posthouse.ports.queue import Carried, Notice, Parcel, Queued, Result, Settled, Status, Wanted
from posthouse.ports.store import Delivered, Store
from posthouse.queue.manager import LEASE, QueueManager
from posthouse.queue.site import DEAD, FIRST, Site
from posthouse.queue.steady import SteadyClock
from posthouse.store import open_store
from tests.contract.conftest import StillClock

DEAD_RESULT = Result(Status.DEFERRED, "nobody answers", "4.4.1", "connect", dead=True)


@dataclass(slots=True)
class Attempts:
    """Attempts that wait until the test ends them. `answer` says how."""

    clock: StillClock
    answer: Callable[[Parcel, Result | None], Carried] | None = None
    seen: list[tuple[str, Result | None]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    most: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def carry(self, parcel: Parcel, known: Result | None) -> Carried:
        """One attempt."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            self.seen.append((parcel.destination, known))
            async with self.changed:
                self.changed.notify_all()
            await self.gate.wait()
            return taken(parcel) if self.answer is None else self.answer(parcel, known)
        finally:
            self.running -= 1

    async def until(self, count: int) -> None:
        """Waits for so many attempts to have begun."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: len(self.seen) >= count)


def taken(parcel: Parcel) -> Carried:
    """The destination took it."""
    return Carried([Settled(item.id, None) for item in parcel.items], alive=True)


class Told(QuietLog):
    """The events that were logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, /, **fields: object) -> None:
        """Notes it."""
        self.events.append(event)

    warning = error = info

    def exception(self, event: str, /, **fields: object) -> None:
        """Notes it."""
        self.events.append(event)


@dataclass(slots=True)
class Bench:
    """A store, a clock, a manager."""

    store: Store
    clock: StillClock
    attempts: Attempts
    manager: QueueManager
    log: Told

    async def put(self, *recipients: str, after: float = 0.0, now: bool = False) -> list[Parcel]:
        """Accepts a letter for these recipients; their domains are the destinations."""
        draft = self.store.draft()
        await draft.write(b"Subject: x\r\n\r\ny\r\n")
        start = self.clock.now()
        queued = [Queued(one.rpartition("@")[2], one, b"", start, start + after, now=now) for one in recipients]
        taken = await self.store.queue.accept(
            draft, [], queued, letter="L", envelope=Envelope(Address.parse("a@x.mail")), until=start + LEASE
        )
        return taken.parcels

    async def empty(self) -> None:
        """Waits until nothing is in the queue."""
        async with asyncio.timeout(20):
            while await self.store.queue.count(Wanted()):  # noqa: ASYNC110 (another thread's work)
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A manager that looks at commands' changes every hundredth of a second."""
    clock, log = StillClock(), Told()
    store = open_store(tmp_path / "data", serve=True, clock=clock)
    attempts = Attempts(clock)
    manager = QueueManager(
        store.queue, attempts.carry, SteadyClock(clock), log, places=20, destination_places=8, poll=0.01
    )
    yield Bench(store, clock, attempts, manager, log)
    attempts.gate.set()
    await manager.stop(5)
    await store.close()


async def test_what_is_due_at_the_start_leaves(bench: Bench) -> None:
    await bench.put("a@far.example", "b@near.example")
    bench.attempts.gate.set()
    await bench.manager.start()
    await bench.empty()
    assert sorted(name for name, _ in bench.attempts.seen) == ["far.example", "near.example"]


async def test_what_a_crash_left_leased_leaves_again(bench: Bench) -> None:
    await bench.put("a@far.example", now=True)
    bench.attempts.gate.set()
    await bench.manager.start()
    await bench.empty()
    assert "queue_leases_freed" in bench.log.events


async def test_a_letter_leaves_in_the_place_that_was_kept_for_it(bench: Bench) -> None:
    bench.attempts.gate.set()
    await bench.manager.start()
    assert bench.manager.reserve("far.example")
    (parcel,) = await bench.put("a@far.example", now=True)
    bench.manager.begin(parcel)
    await bench.empty()
    assert bench.attempts.seen == [("far.example", None)]


async def test_a_destination_nobody_reached_yet_holds_few_places(bench: Bench) -> None:
    """Else fifty hosts that swallow packets would hold every place."""
    for _ in range(10):
        await bench.put("a@far.example")
    await bench.manager.start()
    await bench.attempts.until(FIRST)
    assert not bench.manager.reserve("far.example")
    await bench.put("b@near.example")
    bench.manager.wake("near.example", bench.clock.now())
    await bench.attempts.until(FIRST + 1)
    assert [name for name, _ in bench.attempts.seen] == ["far.example"] * FIRST + ["near.example"]
    bench.attempts.gate.set()
    await bench.empty()


async def test_the_last_places_are_for_other_destinations(bench: Bench) -> None:
    """20 places: destinations with letters under way fill 16 of them, the rest is for one letter each."""
    bench.attempts.gate.set()
    await bench.manager.start()
    for name in ("one.example", "two.example"):
        for _ in range(30):
            await bench.put(f"a@{name}")
        bench.manager.wake(name, bench.clock.now())
    await bench.empty()
    assert bench.attempts.most <= 16
    bench.attempts.gate.clear()
    before = len(bench.attempts.seen)
    for name in ("one.example", "two.example"):
        for _ in range(30):
            await bench.put(f"a@{name}")
        bench.manager.wake(name, bench.clock.now())
    await bench.attempts.until(before + 16)
    await bench.put("a@three.example")
    bench.manager.wake("three.example", bench.clock.now())
    await bench.attempts.until(before + 17)
    assert bench.attempts.seen[-1][0] == "three.example"
    bench.attempts.gate.set()
    await bench.empty()


async def test_letters_for_a_dead_destination_are_told_so_without_an_attempt(bench: Bench) -> None:
    def answer(parcel: Parcel, known: Result | None) -> Carried:
        later = bench.clock.now() + 300
        settled = [Settled(item.id, later, dead=True, reply="nobody answers") for item in parcel.items]
        return Carried(settled, dead=known or DEAD_RESULT)

    bench.attempts.answer = answer
    bench.attempts.gate.set()
    for _ in range(10):
        await bench.put("a@far.example")
    await bench.manager.start()
    await bench.attempts.until(10)
    tried = [known for _, known in bench.attempts.seen if known is None]
    assert len(tried) <= FIRST
    # It is back: what had reached nobody leaves at once, long before its time.
    async with asyncio.timeout(20):
        while (await bench.store.queue.waiting())[0].dead < 10:  # noqa: ASYNC110 (another thread's work)
            await asyncio.sleep(0.01)
    bench.attempts.answer = None
    assert bench.manager.reserve("far.example")
    (parcel,) = await bench.put("new@far.example", now=True)
    bench.manager.begin(parcel)
    await bench.empty()
    assert "destination_back" in bench.log.events


async def test_a_command_beside_the_server_is_seen(bench: Bench) -> None:
    await bench.put("a@far.example", after=9999)
    bench.attempts.gate.set()
    await bench.manager.start()
    assert await bench.store.queue.hasten(Wanted()) == 1
    await bench.empty()


async def test_a_dead_destination_is_tried_when_somebody_says_so(bench: Bench) -> None:
    """Would catch `posthouse queue retry` that is answered from memory, so that a mended host stays dead."""

    def dead(parcel: Parcel, known: Result | None) -> Carried:
        later = bench.clock.now() + 3600
        return Carried([Settled(item.id, later, dead=True) for item in parcel.items], dead=DEAD_RESULT)

    bench.attempts.answer = dead
    bench.attempts.gate.set()
    await bench.put("a@far.example")
    await bench.manager.start()
    await bench.attempts.until(1)
    async with asyncio.timeout(20):
        while await bench.store.queue.hasten(Wanted()) == 0:  # noqa: ASYNC110 (the first result is being written)
            await asyncio.sleep(0.01)
    await bench.attempts.until(2)
    assert bench.attempts.seen[1] == ("far.example", None)


async def test_what_cannot_be_written_is_kept_and_written_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter that was taken must not leave again because the disk was full for a while."""
    monkeypatch.setattr("posthouse.queue.manager.AGAIN", 0.01)
    real, failures = bench.store.queue.settle, [0]

    async def settle(settled: list[Settled], notices: list[Notice]) -> list[list[Delivered]]:
        failures[0] += 1
        if failures[0] < 4:
            raise Unavailable(Fault.FULL)
        return await real(settled, notices)

    monkeypatch.setattr(type(bench.store.queue), "settle", lambda self, settled, notices=(): settle(settled, notices))
    await bench.put("a@far.example")
    bench.attempts.gate.set()
    await bench.manager.start()
    await bench.empty()
    assert len(bench.attempts.seen) == 1
    assert failures[0] == 4


async def test_what_is_under_way_at_the_end_is_finished_or_due_again(bench: Bench) -> None:
    await bench.put("a@far.example")
    await bench.manager.start()
    await bench.attempts.until(1)
    await bench.manager.stop(0.01)
    assert "attempts_cut_off" in bench.log.events
    (item,) = await bench.store.queue.items(Wanted())
    assert item.busy
    assert item.attempts == 0
    assert not bench.manager.reserve("else.example")


async def test_a_defect_costs_one_attempt(bench: Bench) -> None:
    def answer(parcel: Parcel, known: Result | None) -> Carried:
        if parcel.destination == "far.example":
            raise RuntimeError("a defect")
        return taken(parcel)

    bench.attempts.answer = answer
    bench.attempts.gate.set()
    await bench.put("a@far.example")
    await bench.put("b@near.example")
    await bench.manager.start()
    async with asyncio.timeout(20):
        while await bench.store.queue.count(Wanted()) > 1:  # noqa: ASYNC110 (another thread's work)
            await asyncio.sleep(0.01)
    await bench.attempts.until(2)
    assert "attempt_defect" in bench.log.events


def test_a_dead_site_is_left_alone_longer_each_time() -> None:
    site = Site("far.example")
    assert site.died(DEAD_RESULT, 100.0)
    assert not site.died(DEAD_RESULT, 100.0 + DEAD / 2)  # a letter that was under way: no news
    assert site.verdict(100.0 + DEAD - 1) is DEAD_RESULT
    assert site.verdict(100.0 + DEAD) is None
    assert site.died(DEAD_RESULT, 200.0)
    assert site.verdict(200.0 + 2 * DEAD - 1) is DEAD_RESULT
    assert site.lived(8)
    assert site.verdict(200.0) is None
    assert not site.lived(8)
    assert site.room == FIRST + 2
