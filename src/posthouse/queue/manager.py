"""The manager of the queue: takes what is due, has it carried on, and writes down what became of it.

It keeps in memory one small record a destination, and the letters that are under way: what waits lies in the store.
A destination has few letters under way until it took one, so a dead host holds few places and delays no other. The
results of all letters that ended while the last ones were being written are settled together, in one transaction.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from posthouse.mail.reply import Unavailable
from posthouse.observe.log import Log
from posthouse.ports.queue import Carried, Claim, Notice, Parcel, QueueStore, Result, Settled, Wanted
from posthouse.queue.site import Site
from posthouse.queue.steady import SteadyClock

LEASE: Final = 600.0  # seconds; renewed every third of it
CLAIM: Final = 100  # letters taken at once
CLAIMS: Final = 32  # destinations that are asked for at once
BACKLOG: Final = 2000  # results that wait to be written; beyond it nothing new is begun
AGAIN: Final = 1.0  # seconds after which a write that failed is tried again; twice as long each time
AGAIN_LONGEST: Final = 30.0
SHARE: Final = 0.8  # of all places that a destination with letters under way may fill: the rest is for the others
CROWD: Final = 20  # destinations that may begin together after a start; further ones follow
FOLLOWING: Final = 0.02  # seconds between two of those, and at most
LAST_FOLLOWS: Final = 60.0
MOST_SITES: Final = 100_000  # destinations in memory; those with nothing to do are forgotten first

Carry = Callable[[Parcel, Result | None], Awaitable[Carried]]


class QueueManager:
    """One for a server. `carry` makes an attempt with a parcel, or passes on what it is told about the destination; it
    raises nothing but CancelledError. `poll` is the number of seconds after which the manager looks whether a command
    changed the queue or the wall clock jumped; None: never, for a house whose clock is simulated."""

    def __init__(
        self,
        store: QueueStore,
        carry: Carry,
        clock: SteadyClock,
        log: Log,
        *,
        places: int = 300,
        destination_places: int = 20,
        poll: float | None = 2.0,
    ) -> None:
        self._store = store
        self._carry = carry
        self._clock = clock
        self._log = log
        self._places = places
        self._most = destination_places
        self._poll = poll
        self._sites: dict[str, Site] = {}
        self._times: list[tuple[float, str]] = []  # when destinations have something to do; a heap, may be out of date
        self._hungry: dict[str, None] = {}  # destinations that wait for a place, in turn
        self._taken: set[int] = set()  # items that are leased by us
        self._running: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.Task[None]] = set()
        self._places_used = 0
        self._parcels: dict[int, Parcel] = {}  # under way
        self._results: list[tuple[Parcel, Carried]] = []
        self._settling: asyncio.Task[None] | None = None
        self._failures = 0
        self._claims = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._renewal: asyncio.TimerHandle | None = None
        self._mark = b""
        self._stopping = True
        # The last start, in the queue's time: what was tried before it has a fresh attempt due.
        self.since = clock.now()

    def configure(self, places: int, destination_places: int) -> None:
        """Takes new bounds; what is under way goes on."""
        self._places, self._most = places, destination_places

    async def start(self) -> None:
        """Frees the leases that a crash left, and begins. Raises Unavailable; then nothing has begun."""
        freed = await self._store.free_leases()
        if freed:
            self._log.info("queue_leases_freed", items=freed)
        now = self._clock.now()
        if set_back := await self._store.mend_times(now):
            self._log.warning("queue_times_mended", items=set_back, reason="they lay in the future of the clock")
        self.since = now
        self._stopping = False
        self._mark = self._store.mark()
        try:
            await self._look(spread=True)
        except Unavailable:
            self._stopping = True
            raise

    async def stop(self, seconds: float) -> None:
        """Begins nothing more, waits so long for what is under way, breaks off the rest and settles what is known.
        What was broken off is due again at the next start."""
        self._stopping = True
        for timer in (self._timer, self._renewal):
            if timer is not None:
                timer.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        late = list(self._running)
        for task in late:
            task.cancel()
        if late:
            self._log.warning("attempts_cut_off", count=len(late))
            await asyncio.wait(late)
        if (settling := self._settling) is not None:
            await asyncio.wait([settling], timeout=seconds)
            settling.cancel()
        for helper in list(self._helpers):
            helper.cancel()

    # What the reception says

    def reserve(self, destination: str) -> bool:
        """Whether a letter that is being accepted can leave for this destination at once. If so a place is kept, until
        `begin` or `cancel`."""
        site = self._site(destination)
        # What waits for this destination already comes first.
        waits = site.ready or site.claiming or (site.due is not None and site.due <= self._clock.now())
        if self._stopping or waits or not self._has_room(site):
            return False
        site.reserved += 1
        self._places_used += 1
        return True

    def cancel(self, destination: str) -> None:
        """The letter was not accepted."""
        site = self._site(destination)
        site.reserved -= 1
        self._places_used -= 1
        self._next(site)

    def begin(self, parcel: Parcel) -> None:
        """The letter is on the disk, leased to us: it leaves in the place that was kept for it."""
        site = self._site(parcel.destination)
        site.reserved -= 1
        self._places_used -= 1
        self._take([parcel])
        if self._stopping:
            return  # the lease ends at the next start
        self._start(site, parcel)

    def wake(self, destination: str, due: float) -> None:
        """Something was put into the queue, not leased."""
        self._plan(self._site(destination), due)

    # Time

    async def _look(self, *, spread: bool = False) -> None:
        """Learns anew what waits. What somebody made due is really tried, however dead its destination is known to be:
        whoever says so may have mended it. With `spread` the destinations of a crowd that is due begin one after the
        other."""
        waiting = await self._store.waiting()
        now, crowd = self._clock.now(), 0
        for one in waiting:
            site = self._site(one.destination)
            site.stalled = site.stalled or one.dead > 0
            due = one.due
            if due <= now:
                site.forgive()
                if spread:
                    crowd += 1
                    due = now + min(max(crowd - CROWD, 0) * FOLLOWING, LAST_FOLLOWS)
            self._plan(site, due)
        self._arm()

    def _jump(self, seconds: float) -> None:
        """The wall clock was set: all times of the queue move with it, on the disk and in memory, so that nothing
        grows older, comes early or waits longer by it."""
        self._log.warning("clock_jumped", seconds=round(seconds), items="their times are moved")
        self._clock.follow()
        for parcel in (*self._parcels.values(), *(one for site in self._sites.values() for one in site.ready)):
            for item in parcel.items:
                item.accepted += seconds
                item.due += seconds
        for _, carried in self._results:
            for settled in carried.settled:
                if settled.due is not None:
                    settled.due += seconds
        self.since += seconds
        self._times.clear()
        for site in self._sites.values():
            site.due = None
        self._help(self._move_times(seconds))

    async def _move_times(self, seconds: float) -> None:
        """Moves the stored times; a disk that fails delays it, and nothing is begun by the old times meanwhile."""
        wait = AGAIN
        while True:
            try:
                await self._store.move_times(seconds)
                await self._look(spread=True)
            except Unavailable as problem:
                self._log.error("queue_times_not_moved", reason=str(problem), again=wait)
                await asyncio.sleep(wait)
                wait = min(2 * wait, AGAIN_LONGEST)
            else:
                return

    def _plan(self, site: Site, due: float | None) -> None:
        """There is something to take at this time."""
        if due is None or (site.due is not None and site.due <= due):
            return
        site.due = due
        heapq.heappush(self._times, (due, site.name))
        self._arm()

    def _arm(self) -> None:
        """Sets the timer to the first thing that is to be done."""
        if self._stopping:
            return
        loop = asyncio.get_running_loop()
        wait = self._poll
        while self._times:
            due, name = self._times[0]
            site = self._sites.get(name)
            if site is None or site.due != due:
                heapq.heappop(self._times)  # out of date
                continue
            until = max(due - self._clock.now(), 0.0)
            wait = until if wait is None else min(wait, until)
            break
        if wait is None:
            return
        at = loop.time() + wait
        if self._timer is not None:
            if self._timer_at <= at and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._stopping:
            return
        if jumped := self._clock.jumped():
            self._jump(jumped)
        now = self._clock.now()
        while self._times and self._times[0][0] <= now:
            due, name = heapq.heappop(self._times)
            site = self._sites.get(name)
            if site is not None and site.due == due:
                self._feed(site)
        if self._poll is not None and (mark := self._store.mark()) != self._mark:
            self._mark = mark
            self._help(self._guarded_look())
        self._arm()

    async def _guarded_look(self) -> None:
        with suppress(Unavailable):  # the next tick but one
            await self._look()

    # Places

    def _site(self, name: str) -> Site:
        site = self._sites.get(name)
        if site is None:
            if len(self._sites) >= MOST_SITES:
                self._forget_idle()
            site = self._sites[name] = Site(name)
        return site

    def _forget_idle(self) -> None:
        for name in [name for name, site in self._sites.items() if site.idle]:
            del self._sites[name]

    def _has_room(self, site: Site) -> bool:
        busy = site.running + site.reserved
        if busy >= site.room or len(self._results) > BACKLOG or self._failures:
            return False
        return self._places_used < (self._places * SHARE if busy else self._places)

    def _feed(self, site: Site) -> None:
        """Starts what this destination has room for, and takes more when there is nothing left to start."""
        while site.ready and self._has_room(site):
            self._start(site, site.ready.popleft())
        if site.ready:
            self._hungry[site.name] = None
            return
        if site.claiming or site.due is None or site.due > self._clock.now() or self._stopping:
            return
        if self._claims >= CLAIMS or not self._has_room(site):
            self._hungry[site.name] = None
            return
        site.claiming = True
        self._claims += 1
        self._help(self._claim(site))

    def _next(self, site: Site) -> None:
        """A place is free: whose turn is it?"""
        self._hungry.pop(site.name, None)
        self._feed(site)
        for name in list(self._hungry)[:8]:
            if self._places_used >= self._places:
                return
            del self._hungry[name]
            self._feed(self._site(name))

    async def _claim(self, site: Site) -> None:
        now = self._clock.now()
        # A dead destination's letters are only told so: that needs no place for long.
        dead = site.verdict(asyncio.get_running_loop().time()) is not None
        try:
            claim = await self._store.claim(site.name, now, now + LEASE, CLAIM if dead else min(2 * site.room, CLAIM))
        except Unavailable as problem:
            self._log.error("queue_not_read", destination=site.name, reason=str(problem))
            claim = Claim([], self._clock.now() + AGAIN_LONGEST)
        finally:
            self._claims -= 1
            site.claiming, site.due = False, None
        # After a jump of the wall clock a lease of ours may seem to be over: what is under way is not begun again.
        parcels = [parcel for parcel in claim.parcels if not any(item.id in self._taken for item in parcel.items)]
        self._take(parcels)
        site.ready.extend(parcels)
        self._plan(site, claim.due)
        self._next(site)
        self._arm()

    # Under way

    def _take(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._taken.update(item.id for item in parcel.items)
        if self._taken and self._renewal is None and not self._stopping:
            self._renewal = asyncio.get_running_loop().call_later(LEASE / 3, self._renew)

    def _renew(self) -> None:
        self._renewal = None
        if self._taken and not self._stopping:
            self._help(self._renew_all(list(self._taken)))
            self._renewal = asyncio.get_running_loop().call_later(LEASE / 3, self._renew)

    async def _renew_all(self, items: list[int]) -> None:
        try:
            await self._store.renew(items, self._clock.now() + LEASE)
        except Unavailable as problem:
            self._log.error("leases_not_renewed", items=len(items), reason=str(problem))

    def _start(self, site: Site, parcel: Parcel) -> None:
        site.running += 1
        self._places_used += 1
        self._parcels[id(parcel)] = parcel
        task = asyncio.get_running_loop().create_task(self._run(site, parcel))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, site: Site, parcel: Parcel) -> None:
        try:
            carried = await self._carry(parcel, site.verdict(asyncio.get_running_loop().time()))
        except Exception:  # noqa: BLE001 (the top of an attempt: a defect costs this one, and its lease ends by itself)
            self._log.exception("attempt_defect", letter=parcel.id, destination=parcel.destination)
            self._taken.difference_update(item.id for item in parcel.items)
            return
        finally:
            del self._parcels[id(parcel)]
            site.running -= 1
            self._places_used -= 1
        if carried.dead is not None:
            site.died(carried.dead, asyncio.get_running_loop().time())
        elif carried.alive and site.lived(self._most):
            self._help(self._wake_stalled(site))
        self._results.append((parcel, carried))
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle_all())
        if not self._stopping:
            self._next(site)

    async def _wake_stalled(self, site: Site) -> None:
        """The destination is back: whatever waits for it is due now."""
        try:
            count = await self._store.hasten(Wanted(destination=site.name, dead=True))
        except Unavailable:
            site.stalled = True
            return
        self._mark = self._store.mark()
        self._log.info("destination_back", destination=site.name, items=count)
        if count:
            self._plan(site, self._clock.now())
            self._feed(site)

    async def _settle_all(self) -> None:
        """Writes down results until there are none; what cannot be written is kept and tried again."""
        while self._results:
            results, self._results = self._results, []
            settled: list[Settled] = []
            notices: list[Notice] = []
            for _, carried in results:
                settled += carried.settled
                notices += carried.notices
            try:
                await self._store.settle(settled, notices)
            except Unavailable as problem:
                self._results = results + self._results
                wait = min(AGAIN * 2 ** min(self._failures, 10), AGAIN_LONGEST)
                self._failures += 1
                self._log.error("results_not_written", letters=len(results), reason=str(problem), again=wait)
                if self._stopping:
                    break
                await asyncio.sleep(wait)
                continue
            self._failures = 0
            self._settled(results)
        self._settling = None
        if not self._stopping:
            for name in list(self._hungry)[: self._places]:
                del self._hungry[name]
                self._feed(self._site(name))

    def _settled(self, results: Sequence[tuple[Parcel, Carried]]) -> None:
        for parcel, carried in results:
            self._taken.difference_update(item.id for item in parcel.items)
            for one in carried.settled:
                self._plan(self._site(one.destination or parcel.destination), one.due)
            for notice in carried.notices:
                for queued in notice.queued:
                    self._plan(self._site(queued.destination), queued.due)

    def _help(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)


__all__ = ["Carry", "QueueManager"]
