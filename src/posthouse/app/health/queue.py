"""The queue: how old it is, what it waits for, what nobody looks after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.mail.figures import span
from posthouse.ports.queue import Item, QueueStore, State, Wanted

OLD: Final = 86_400.0  # seconds after which a letter that still waits is worth a look
OVERDUE: Final = 900.0  # seconds after its time: the manager looks every other second
MANY: Final = 10  # letters for one destination that reached nobody
MOST_READ: Final = 5000
MOST_NAMED: Final = 3  # destinations
REPLY: Final = 200  # characters of a reply that are shown


class Queue:
    """The queue"""

    EMPTY = Kind("queue.empty", Level.OK, "Nothing waits in the queue.")
    MOVES = Kind("queue.moves", Level.OK, "{count} recipients wait in the queue, the oldest for {age}.")
    OLD = Kind(
        "queue.old",
        Level.WARNING,
        "The oldest letter in the queue has waited for {age}; it is for {recipient}.",
        "It is tried until its time is over, then its sender is told. The last answer: {reply}",
        "See what is wrong with {destination}: posthouse queue show {id}",
    )
    OVERDUE = Kind(
        "queue.overdue",
        Level.ERROR,
        "{count} recipients are due in the queue since {age} and more, and are not tried.",
        "The server runs and does not carry letters on.",
        "See its log for errors of the queue, then restart it.",
    )
    WAITING = Kind(
        "queue.waiting",
        Level.WARNING,
        "{count} recipients wait in the queue, and no server runs.",
        "They are carried on once it runs again; what is given up meanwhile is tried once more first.",
        "Start the server.",
    )
    UNREACHED = Kind(
        "queue.unreached",
        Level.WARNING,
        "{count} recipients wait for {destination}, which was not reached.",
        "The last answer: {reply}",
        "posthouse route test postmaster@{domain} shows the way; posthouse queue retry --destination {destination}",
    )
    DEFERRED = Kind(
        "queue.deferred",
        Level.NOTE,
        "{count} recipients wait for {destination}, which puts them off.",
        "The last answer: {reply}",
        "Usually it takes them later. If it is about your server (a block list, a missing name), do what it says.",
    )
    HELD = Kind(
        "queue.held",
        Level.NOTE,
        "{count} recipients are held.",
        "They wait for your word and are not tried.",
        "posthouse queue list --state held, then posthouse queue release or drop.",
    )


@dataclass(slots=True)
class Waits:
    """What the queue holds: the first items of those that wait for their time, all held ones counted."""

    items: Sequence[Item]
    due: int
    held: int


async def look(queue: QueueStore) -> Waits:
    """Reads it. Raises Unavailable."""
    due = Wanted(state=State.DUE)
    return Waits(await queue.items(due, MOST_READ), await queue.count(due), await queue.count(Wanted(state=State.HELD)))


def judge(waits: Waits, now: float, *, running: bool) -> Iterator[Finding]:
    """What is to be said of it."""
    found = [*_age(waits.items, now), *_destinations(waits.items)]
    late = [item for item in waits.items if item.due < now - OVERDUE and not item.busy]
    if waits.due and not running:
        found.append(Queue.WAITING(count=waits.due))
    elif late:
        found.append(Queue.OVERDUE(count=len(late), age=span(now - max(item.due for item in late))))
    if waits.held:
        found.append(Queue.HELD(count=waits.held))
    yield from found
    if not waits.due and not waits.held:
        yield Queue.EMPTY()
    elif not found:
        yield Queue.MOVES(count=waits.due, age=span(now - min(item.accepted for item in waits.items)))


def _age(items: Sequence[Item], now: float) -> Iterator[Finding]:
    oldest = min(items, key=lambda item: item.accepted, default=None)
    if oldest is not None and now - oldest.accepted > OLD:
        yield Queue.OLD(
            age=span(now - oldest.accepted),
            recipient=oldest.recipient,
            destination=oldest.destination,
            reply=_reply(oldest),
            id=oldest.id,
        )


def _destinations(items: Sequence[Item]) -> Iterator[Finding]:
    """Those that most letters wait for in vain."""
    for kind, dead in ((Queue.UNREACHED, True), (Queue.DEFERRED, False)):
        tried = [item for item in items if item.attempts and item.dead is dead]
        last = {item.destination: item for item in tried}
        for destination, count in Counter(item.destination for item in tried).most_common(MOST_NAMED):
            if count >= MANY:
                item = last[destination]
                domain = item.recipient.rpartition("@")[2]
                yield kind(count=count, destination=destination, reply=_reply(item), domain=domain)


def _reply(item: Item) -> str:
    return item.reply[:REPLY] or "none so far"
