"""Dispatch: an attempt with a letter that waits, and what follows from it: the next time, the end, the notices.

The queue's manager calls `carry` for each parcel whose time has come. What that decides is written down by the manager
in one transaction, so a notice exists exactly when the state does that it tells about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.mail.reply import Unavailable
from posthouse.mail.schedule import Schedule
from posthouse.mail.trace import return_path
from posthouse.mta.bounce import Notices, Told
from posthouse.observe.log import Log
from posthouse.ports.directory import Directory
from posthouse.ports.queue import Carried, Item, Notice, Parcel, Queued, Result, Settled, Status
from posthouse.ports.store import Delivery, Letter
from posthouse.ports.system import Clock, Random

UPCOMING: Final = 6
"""Dates of further attempts that a notice of delay names."""

UNREADABLE: Final = 300.0
"""Seconds after which a letter is looked at again that could not be read for its notice."""

FRESH: Final = 3600.0
"""Seconds after which a letter is tried again that would be given up for its age with the first attempt since the
start: the clock may be wrong, or our own line just back."""

Deliver = Callable[[Parcel], Awaitable[list[Result]]]


class Destinations(Protocol):
    """What is asked of the router: where letters for an address go, and when they are tried."""

    def destination(self, address: Address) -> str:
        """The name of the destination."""
        ...

    def schedule(self, destination: str) -> Schedule | None:
        """The timetable that a destination has of its own."""
        ...

    def is_ours(self, address: Address) -> bool:
        """Whether anybody may send there, as if its mailbox were here."""
        ...

    def is_refused(self, address: Address) -> bool:
        """Whether that domain leads nowhere: who has no mailbox here is unknown."""
        ...


class Courier:
    """Puts notices on their way: into a mailbox here, or into the queue. One for a server."""

    __slots__ = ("_clock", "_directory", "_notices", "_router")

    def __init__(self, notices: Notices, directory: Directory, router: Destinations, clock: Clock) -> None:
        self._notices = notices
        self._directory = directory
        self._router = router
        self._clock = clock

    def wanted(self, action: str, envelope: Envelope, notify: tuple[str, ...]) -> bool:
        """Whether a sender is to be told."""
        return self._notices.wanted(action, envelope, notify)

    async def notice(
        self,
        envelope: Envelope,
        letter_id: str,
        arrived: float,
        told: Sequence[Told],
        letter: Letter,
        *,
        upcoming: Sequence[float] = (),
        until: float | None = None,
    ) -> Notice | None:
        """The notice for the sender, addressed; None when that is a mailbox of ours that is no more. Raises
        Unavailable when the letter cannot be read now."""
        composed = await self._notices.compose(envelope, letter_id, arrived, told, upcoming, letter, until)
        notice = Notice(composed.letter, composed.envelope, composed.content)
        sender = composed.recipient
        literal = sender.domain.startswith("[")
        account = None if literal else await self._directory.find(sender)
        if account is not None:
            notice.deliveries.append(Delivery(account.id, return_path(None).encode(), str(sender)))
            return notice
        if not sender.domain or (not literal and await self._directory.is_local(sender.domain)):
            return None
        now = self._clock.now()
        notice.queued.append(Queued(self._router.destination(sender), str(sender), b"", now, now))
        return notice


class Dispatcher:
    """Carries parcels and decides how they go on. One for a server; `schedule` is the timetable of those destinations
    that have none of their own; `since` tells when the queue was started: nothing fails for its age with its first
    attempt after that."""

    __slots__ = ("_clock", "_courier", "_deliver", "_log", "_random", "_router", "_schedule", "_since")

    def __init__(
        self,
        deliver: Deliver,
        courier: Courier,
        router: Destinations,
        schedule: Schedule,
        clock: Clock,
        random: Random,
        log: Log,
        *,
        since: Callable[[], float] = lambda: float("-inf"),
    ) -> None:
        self._since = since
        self._deliver = deliver
        self._courier = courier
        self._router = router
        self._schedule = schedule
        self._clock = clock
        self._random = random
        self._log = log

    async def carry(self, parcel: Parcel, known: Result | None) -> Carried:
        """An attempt with a parcel; with `known` none is made: that is what the destination just said to another."""
        destinations = self._destinations(parcel)
        moved = destinations != [parcel.destination] * len(destinations)
        if known is not None and not moved:
            results = [known] * len(parcel.items)
        else:
            results = await (self._deliver_apart(parcel, destinations) if moved else self._deliver(parcel))
        now = self._clock.now()
        schedule = self._router.schedule(parcel.destination) or self._schedule
        states = {result.state for result in results}
        waits = Status.DEFERRED in states or Status.UNCERTAIN in states
        jitter = self._random.octets(1)[0] / 255 if waits else 0.0  # asking the system costs as much as all the rest
        fates = [
            _Fate(item, result, schedule, now, jitter, destination)
            for item, result, destination in zip(parcel.items, results, destinations, strict=True)
        ]
        since = self._since()
        for fate in fates:
            fate.spare(since)
        notices: list[Notice] = []
        try:
            actions = {fate.action for fate in fates}
            for action in ("failed", "relayed", "delayed"):
                if action in actions:
                    notices += await self._notices(action, parcel, [fate for fate in fates if fate.action == action])
        except Unavailable as problem:
            self._log.error("notice_not_written", id=parcel.id, reason=str(problem))
            notices = []
            for fate in fates:
                fate.postpone(now + UNREADABLE)
        for fate in fates:
            self._tell(parcel, fate)
        settled = [fate.settled() for fate in fates]
        if moved:  # that says nothing about the destination they waited for
            return Carried(settled, notices)
        dead = next((result for result in results if result.dead), None)
        return Carried(settled, notices, dead, alive=dead is None)

    def _destinations(self, parcel: Parcel) -> list[str]:
        """Where each recipient goes by the routes of today: they may be others than when the letter was accepted."""
        try:
            return [self._router.destination(one.address) for one in parcel.envelope.recipients]
        except Unavailable:  # the table of routes was never read yet
            return [parcel.destination] * len(parcel.items)

    async def _deliver_apart(self, parcel: Parcel, destinations: Sequence[str]) -> list[Result]:
        """An attempt for each destination of a parcel whose routes were changed meanwhile."""
        results: dict[int, Result] = {}
        for destination in dict.fromkeys(destinations):
            places = [place for place, name in enumerate(destinations) if name == destination]
            envelope = replace(parcel.envelope, recipients=[parcel.envelope.recipients[place] for place in places])
            part = Parcel(destination, envelope, [parcel.items[place] for place in places], parcel.letter)
            results |= zip(places, await self._deliver(part), strict=True)
        return [results[place] for place in range(len(destinations))]

    async def _notices(self, action: str, parcel: Parcel, fates: Sequence[_Fate]) -> list[Notice]:
        """The notice to the sender about these recipients, if it is to be told of any."""
        wanted = [fate for fate in fates if self._courier.wanted(action, parcel.envelope, fate.item.notify)]
        if not wanted:
            return []
        first = wanted[0]
        upcoming: list[float] = []
        until = None
        if action == "delayed":
            upcoming = first.schedule.upcoming(first.item.accepted, first.due, UPCOMING)
            until = first.schedule.expires(first.item.accepted)
            for fate in wanted:
                fate.told = True
        notice = await self._courier.notice(
            parcel.envelope,
            parcel.id,
            first.item.accepted,
            [fate.as_told(action) for fate in wanted],
            parcel.letter,
            upcoming=upcoming,
            until=until,
        )
        if notice is None:
            self._log.warning("notice_for_nobody", id=parcel.id, sender=str(parcel.envelope.sender), action=action)
            return []
        self._log.info("notice", id=notice.letter, about=parcel.id, action=action, recipients=len(wanted))
        return [notice]

    def _tell(self, parcel: Parcel, fate: _Fate) -> None:
        """What an administrator will look for: a letter that was given up, and who was not told of it."""
        if fate.due is not None or fate.result.state is Status.RELAYED:
            return
        self._log.warning(
            "given_up",
            id=parcel.id,
            sender="" if parcel.envelope.sender is None else str(parcel.envelope.sender),
            recipient=fate.item.recipient,
            status=fate.result.status,
            reply=fate.result.reply,
            attempts=fate.item.attempts + 1,
            told=self._courier.wanted("failed", parcel.envelope, fate.item.notify),
        )


class _Fate:
    """What follows from a result for one recipient."""

    __slots__ = ("action", "destination", "due", "item", "now", "result", "schedule", "told")

    def __init__(
        self, item: Item, result: Result, schedule: Schedule, now: float, jitter: float, destination: str
    ) -> None:
        self.item = item
        self.result = result
        self.schedule = schedule
        self.now = now
        self.destination = destination
        self.told = item.told
        self.due: float | None = None
        self.action = ""
        if result.state is Status.RELAYED:
            self.action = "" if result.dsn else "relayed"  # a host that knows DSN tells the sender itself
        elif result.state is Status.FAILED:
            self.action = "failed"
        else:
            self._wait(jitter)

    def _wait(self, jitter: float) -> None:
        self.due = self.schedule.next(self.item.accepted, self.now, jitter)
        if self.due is None:
            self.action = "failed"  # with the status of the last attempt, a 4.x.x: that tells why (RFC 3464 §2.3.4)
        elif not self.item.told and self.now - self.item.accepted >= self.schedule.notice:
            self.action = "delayed"

    def spare(self, since: float) -> None:
        """Whose last attempt was made before `since` is not given up for its age with this one."""
        tried = float("-inf") if self.item.tried is None else self.item.tried
        if self.due is None and self.result.state in (Status.DEFERRED, Status.UNCERTAIN) and tried < since:
            self.due = self.now + FRESH
            self.action = ""

    def postpone(self, due: float) -> None:
        """Nothing ends and nobody is told before the letter can be read. What was taken is over all the same: it must
        not be sent twice for the sake of a notice."""
        if self.result.state is not Status.RELAYED:
            self.due = min(due, self.due or due)
            self.told = self.item.told
            self.action = ""

    def as_told(self, action: str) -> Told:
        """The same in the words of a notice."""
        result = self.result
        return Told(
            self.item.recipient,
            self.item.orcpt,
            action,
            result.status,
            result.reply,
            result.said,
            result.host,
            result.address,
            self.now,
            result.stage,
        )

    def settled(self) -> Settled:
        """The same for the queue."""
        result = self.result
        return Settled(
            self.item.id,
            self.due,
            self.told,
            result.dead,
            result.reply[:1000],
            result.status,
            result.host[:255],
            self.destination,
        )


__all__ = ["Courier", "Deliver", "Destinations", "Dispatcher"]
